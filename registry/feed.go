package registry

import (
	"sync"
	"sync/atomic"
	"time"
)

// ChangeKind names what a live listener hears. [contracts, HTTP route table]
type ChangeKind string

// The kinds of changes.
const (
	ChangeState        ChangeKind = "device.state"
	ChangeStatus       ChangeKind = "device.status"
	ChangeProvisioned  ChangeKind = "device.provisioned"
	ChangeClaimed      ChangeKind = "device.claimed"
	ChangeShared       ChangeKind = "device.shared"
	ChangeReleased     ChangeKind = "device.released"
	ChangeUpdated      ChangeKind = "device.updated"
	ChangeSelfEnrolled ChangeKind = "device.self_enrolled" // heard by staff alone
	ChangeCommand      ChangeKind = "command.updated"
	ChangeConfig       ChangeKind = "config.updated"
	ChangeSIM          ChangeKind = "sim.alert"
	ChangeEvent        ChangeKind = "device.event" // one that the outside has sent
	ChangeOTA          ChangeKind = "ota.progress"

	ChangeWebhookDisabled ChangeKind = "webhook.disabled" // heard by administrators alone
	ChangePurchaseFailed  ChangeKind = "purchase.failed"  // heard by administrators alone
)

// Change is one committed change of a device. It is shared between listeners and
// never changes itself; which fields are filled follows from Kind.
type Change struct {
	Seq      int64 // counts within the feed's life
	Kind     ChangeKind
	DeviceID string
	At       time.Time

	State      *State         // device.state: the report; what it does not name stays as it was
	Presence   *Presence      // device.status
	Firmware   string         // device.provisioned
	ClaimedVia string         // device.claimed
	Name       string         // device.updated
	Share      *Ownership     // device.shared: UserID, Role and times
	Command    *Command       // command.updated
	Config     *ConfigState   // config.updated
	SIM        *SIMAlert      // sim.alert
	Event      *Event         // device.event
	OTA        *OTAProgress   // ota.progress
	Webhook    *WebhookAlert  // webhook.disabled, which is about no device
	Purchase   *PurchaseAlert // purchase.failed

	users   []string // people who hear it although they cannot read the device any more, or yet
	private bool     // nobody but users hears it
}

// SIMAlert is what people hear of the SIM card in a device: there is little left of its
// plan, or it was stopped.
type SIMAlert struct {
	Alert  string // data_low, percent_low, days_low, stopped, other
	Left   string // what is left, as the carrier says: MB, per cent or days; "" when it does not
	ICCID  string // masked
	Status string // of the card
}

// OTAProgress is how far a device is with an update of its firmware.
type OTAProgress struct {
	RolloutID string
	Version   string // of the new firmware
	State     string // of package rollout
	Reason    string // why it waits, was skipped or has failed
	Progress  int    // percent, as the device says
	Attempt   int    // counted from 1; 0: it has not been told to yet
	UpdatedAt time.Time
}

// WebhookAlert is about a webhook that is called no more.
type WebhookAlert struct {
	ID     string
	Reason string
}

// forAdministrators reports whether administrators alone hear a change.
func (c *Change) forAdministrators() bool {
	return c.Kind == ChangeWebhookDisabled || c.Kind == ChangePurchaseFailed
}

// PurchaseAlert is about a purchase that was paid and that the carrier refused.
type PurchaseAlert struct {
	ID     string
	Reason string
}

// forStaff reports whether a change goes to whoever listens among the staff.
func (c *Change) forStaff() bool {
	return c.Kind == ChangeSelfEnrolled || c.forAdministrators()
}

const (
	// feedRing is how many changes are kept for those who come back.
	feedRing = 4096
	// feedQueue is how many changes may wait for one listener before it is cut off: all
	// of one's devices at once, a few times over.
	feedQueue = 256
	// feedTake is the most that a listener takes at once.
	feedTake = 64
	// feedLinger is how long changes are kept after the last listener has gone, so that
	// it finds them when it comes back.
	feedLinger = time.Minute
	// maxListeners is how many listeners one actor may have. One more ends the oldest of
	// its own session.
	maxListeners = 10
	// maxFollowed is how many devices a listener may name.
	maxFollowed = 50
)

// The ends and refusals of a listener.
var (
	ErrTooManyListeners = E(RateLimited, "RATE_LIMITED", "Too many event streams are open.")
	ErrListenerSlow     = E(RateLimited, "listener_slow", "The listener reads too slowly.")
	ErrFeedClosed       = E(Unavailable, "not_ready", "The program is shutting down.")
)

// feed hands committed changes to live listeners in this process. Without a
// listener it is one atomic load for each commit. Nothing is awaited under mu, and
// nothing locked but what [ListenOptions].Ended does, which must not block.
type feed struct {
	nextID  func() int64
	linger  time.Duration
	dropped *atomic.Int64
	active  atomic.Bool // somebody listens, or did a moment ago

	mu        sync.Mutex
	closed    bool
	life      int64     // names the ring: a place in another one means nothing here
	seq       int64     // of the newest change
	entered   int64     // listeners so far
	ring      []*Change // change n is at n % feedRing
	resting   *time.Timer
	listeners map[*Listener]struct{}
	readers   map[string]map[*Listener]struct{} // by device id
	actors    map[string]map[*Listener]struct{} // by Actor.String
}

func newFeed(nextID func() int64, dropped *atomic.Int64) *feed {
	return &feed{
		nextID: nextID, linger: feedLinger, dropped: dropped, listeners: map[*Listener]struct{}{},
		readers: map[string]map[*Listener]struct{}{}, actors: map[string]map[*Listener]struct{}{},
	}
}

// committed publishes what a batch has changed, in the order in which it was
// written. The group commit's writer calls it, so that batches come in order too.
func (f *feed) committed(b *Batch) {
	if !f.active.Load() {
		return
	}
	var all []*Change
	for _, w := range b.States {
		if !w.Stale {
			all = append(all, &Change{Kind: ChangeState, DeviceID: w.DeviceID, At: w.At, State: &w.State})
		}
	}
	for _, w := range b.Work {
		if w.Err == nil && w.Changes != nil {
			all = append(all, w.Changes()...)
		}
	}
	for _, d := range b.Disconnects {
		if d.Changed {
			// Not of the row, which is complete only when somebody watches over MQTT.
			all = append(all, statusChange(d.DeviceID, d.At, Presence{Status: Offline, Reason: d.Reason, ChangedAt: d.At, LastSeen: d.LastSeen}))
		}
	}
	for _, c := range b.Claims {
		if !c.Refused {
			all = append(all, statusChange(c.DeviceID, c.At, Presence{Status: Online, Reason: Connected, ChangedAt: c.At, LastSeen: c.At}))
		}
	}
	f.publish(all)
}

func statusChange(deviceID string, at time.Time, p Presence) *Change {
	return &Change{Kind: ChangeStatus, DeviceID: deviceID, At: at, Presence: &p}
}

func (f *feed) publish(all []*Change) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if !f.active.Load() {
		return
	}
	for _, c := range all {
		f.seq++
		c.Seq = f.seq
		f.ring[c.Seq%feedRing] = c
		for l := range f.readers[c.DeviceID] {
			l.push(c)
		}
		for _, id := range c.users {
			for l := range f.actors[Actor{Kind: ActorUser, ID: id}.String()] {
				l.push(c)
			}
		}
		if c.forStaff() {
			for l := range f.listeners {
				l.push(c)
			}
		}
	}
}

// enter counts a listener in. From then on changes are kept.
func (f *feed) enter(l *Listener) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	name := l.actor.String()
	switch {
	case f.closed:
		return ErrFeedClosed
	case len(f.actors[name]) >= maxListeners:
		old := f.oldest(name, l.actor.SessionID)
		if old == nil {
			refused := *ErrTooManyListeners
			refused.RetryAfter = 30 * time.Second
			return &refused
		}
		old.end(ErrTooManyListeners)
	}
	if f.resting != nil {
		f.resting.Stop()
	}
	if !f.active.Load() {
		f.life, f.seq, f.ring = f.nextID(), 0, make([]*Change, feedRing)
		f.active.Store(true)
	}
	f.entered++
	l.no = f.entered
	l.life = f.life // stays the feed's as long as there is a listener
	f.listeners[l] = struct{}{}
	put(f.actors, name, l)
	return nil
}

// oldest is an actor's oldest listener of one session; nil without one. The client of
// that session has mostly lost it: on the move, a connection dies long before the
// network says so. mu is held.
func (f *feed) oldest(name, sessionID string) (old *Listener) {
	for l := range f.actors[name] {
		if sessionID != "" && l.actor.SessionID == sessionID && (old == nil || l.no < old.no) {
			old = l
		}
	}
	return old
}

// leave takes a listener out; mu is held.
func (f *feed) leave(l *Listener) {
	if _, in := f.listeners[l]; !in {
		return
	}
	delete(f.listeners, l)
	take(f.actors, l.actor.String(), l)
	for id := range l.readable {
		take(f.readers, id, l)
	}
	if len(f.listeners) == 0 && !f.closed {
		f.resting = time.AfterFunc(f.linger, f.rest)
	}
}

// rest forgets everything when nobody has come back.
func (f *feed) rest() {
	f.mu.Lock()
	defer f.mu.Unlock()
	if len(f.listeners) == 0 {
		f.active.Store(false)
		f.ring = nil
	}
}

// Tell lets live listeners hear of a change that another domain has committed. Nobody
// waits for it.
func (r *Registry) Tell(c *Change) {
	if r.feed.active.Load() {
		r.feed.publish([]*Change{c})
	}
}

// accessChanged makes a person's listeners ask again what they may read, before
// they hear anything more.
func (f *feed) accessChanged(userID string) {
	if !f.active.Load() {
		return
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	for l := range f.actors[Actor{Kind: ActorUser, ID: userID}.String()] {
		l.stale = true
		signal(l.ready)
	}
}

func (f *feed) close() {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.closed = true
	for l := range f.listeners {
		l.end(ErrFeedClosed)
	}
	if f.resting != nil {
		f.resting.Stop()
	}
	f.active.Store(false)
	f.ring = nil
}

func put(m map[string]map[*Listener]struct{}, key string, l *Listener) {
	if m[key] == nil {
		m[key] = map[*Listener]struct{}{}
	}
	m[key][l] = struct{}{}
}

func take(m map[string]map[*Listener]struct{}, key string, l *Listener) {
	if delete(m[key], l); len(m[key]) == 0 {
		delete(m, key)
	}
}

// AccessChanged tells a person's live sessions and listeners that the person has
// got or lost a device. Whoever changes ownership in a transaction of their own
// calls it after the commit.
func (r *Registry) AccessChanged(userID string) {
	r.feed.accessChanged(userID)
	r.courier.AccessChanged(userID)
}
