package registry

import (
	"context"
	"errors"
	"slices"
	"strconv"
	"strings"
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
	ChangeReleased     ChangeKind = "device.released"
	ChangeUpdated      ChangeKind = "device.updated"
	ChangeSelfEnrolled ChangeKind = "device.self_enrolled" // heard by staff alone
	ChangeCommand      ChangeKind = "command.updated"
)

// Change is one committed change of a device. It is shared between listeners and
// never changes itself; which fields are filled follows from Kind.
type Change struct {
	Seq      int64 // counts within the feed's life
	Kind     ChangeKind
	DeviceID string
	At       time.Time

	State      *State    // device.state: the report; what it does not name stays as it was
	Presence   *Presence // device.status
	Firmware   string    // device.provisioned
	ClaimedVia string    // device.claimed
	Name       string    // device.updated
	Command    *Command  // command.updated

	users   []string // people who hear it although they cannot read the device any more, or yet
	private bool     // nobody but users hears it
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
	// maxListeners is how many listeners one actor may have.
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
// listener it is one atomic load for each commit. Nothing is awaited under mu.
type feed struct {
	nextID  func() int64
	linger  time.Duration
	dropped *atomic.Int64
	active  atomic.Bool // somebody listens, or did a moment ago

	mu        sync.Mutex
	closed    bool
	life      int64     // names the ring: a place in another one means nothing here
	seq       int64     // of the newest change
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
		if c.Kind == ChangeSelfEnrolled {
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
		refused := *ErrTooManyListeners
		refused.RetryAfter = 30 * time.Second
		return &refused
	}
	if f.resting != nil {
		f.resting.Stop()
	}
	if !f.active.Load() {
		f.life, f.seq, f.ring = f.nextID(), 0, make([]*Change, feedRing)
		f.active.Store(true)
	}
	l.life = f.life // stays the feed's as long as there is a listener
	f.listeners[l] = struct{}{}
	put(f.actors, name, l)
	return nil
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

// ListenOptions says what a listener wants to hear.
type ListenOptions struct {
	Devices []string // device ids; none: all that a person may read
	After   string   // the cursor of an earlier listener; "" or one that is not known: begin with a snapshot
	// Ended is called when the listener is over for a reason of the feed's: it was too
	// slow, or the program shuts down. It must not block nor call the listener.
	Ended func()
}

// Listener hears committed changes of the devices that its actor may read. Take is
// for one goroutine; Close may be called by any.
type Listener struct {
	registry *Registry
	feed     *feed
	actor    Actor
	wanted   map[string]struct{} // nil: all
	ended    func()
	ready    chan struct{} // capacity 1
	life     int64

	// under feed.mu
	readable map[string]struct{}
	queue    []*Change
	backlog  int      // of queue, what had been missed before the listener came
	stale    bool     // readable must be read again first
	fresh    bool     // a snapshot comes first
	gained   []string // devices that were claimed while the listener was away
	err      error
}

// Update is what a listener hears at once: first Devices, then Changes.
type Update struct {
	Snapshot bool          // Devices are all that may be read, and nothing else counts any more
	Devices  []OwnedDevice // as they are; without Snapshot those that may be read from now on
	Changes  []*Change
}

// Listen opens a listener. People hear the devices that they may read, now and as
// that changes, or those of them that they name. Staff and service accounts name
// their devices; without any, staff hear of devices that enrol themselves. A change
// is heard after its commit, in the order of the commits.
//
// Errors: ErrInsufficientScope without device:read, ErrDeviceNotFound for a named
// device that the actor may not read, Invalid, ErrTooManyListeners, ErrFeedClosed,
// ErrUnavailable.
func (r *Registry) Listen(ctx context.Context, a Actor, o ListenOptions) (*Listener, error) {
	switch {
	case !a.Has(ScopeDeviceRead):
		return nil, ErrInsufficientScope
	case len(o.Devices) > maxFollowed:
		return nil, E(Invalid, ErrInvalidRequest.Code, "At most "+strconv.Itoa(maxFollowed)+" devices can be named.")
	case len(o.Devices) == 0 && a.Kind != ActorUser && a.Kind != ActorAdmin && a.Kind != ActorSupport:
		return nil, E(Invalid, ErrInvalidRequest.Code, "Name the devices to listen to.")
	}
	l := &Listener{registry: r, feed: r.feed, actor: a, ended: o.Ended, ready: make(chan struct{}, 1)}
	if err := l.feed.enter(l); err != nil {
		return nil, err
	}
	for _, id := range o.Devices {
		if _, twice := l.wanted[id]; twice {
			continue
		}
		if _, err := r.Device(ctx, a, id); err != nil {
			l.Close()
			return nil, err
		}
		if l.wanted == nil {
			l.wanted = map[string]struct{}{}
		}
		l.wanted[id] = struct{}{}
	}
	readable, err := l.load(ctx)
	if err != nil {
		l.Close()
		return nil, err
	}
	l.begin(readable, o.After)
	return l, nil
}

// begin makes the listener hear, and gives it what it has missed.
func (l *Listener) begin(readable map[string]struct{}, after string) {
	f := l.feed
	f.mu.Lock()
	defer f.mu.Unlock()
	if l.err != nil {
		return
	}
	// What came in since enter counts in the ring too.
	l.queue = nil
	l.read(readable)
	l.fresh = true
	signal(l.ready)
	life, seq, ok := parseCursor(after)
	if !ok || life != f.life || seq > f.seq || seq < f.seq-feedRing {
		return
	}
	l.fresh = false
	for n := seq + 1; n <= f.seq; n++ {
		c := f.ring[n%feedRing]
		if !l.hears(c) {
			continue
		}
		if c.Kind == ChangeClaimed && slices.Contains(c.users, l.actor.ID) {
			// What the device did before it was this person's is not for them.
			l.queue = slices.DeleteFunc(l.queue, func(before *Change) bool { return before.DeviceID == c.DeviceID })
			l.gained = append(l.gained, c.DeviceID)
		}
		l.queue = append(l.queue, c)
	}
	l.backlog = len(l.queue)
}

// load reads the devices that the listener may read.
func (l *Listener) load(ctx context.Context) (map[string]struct{}, error) {
	if l.actor.Kind != ActorUser {
		return l.wanted, nil // judged when they were named
	}
	ids, err := l.registry.ReadableIDs(ctx, l.actor)
	if err != nil {
		return nil, err
	}
	readable := make(map[string]struct{}, len(ids))
	for _, id := range ids {
		if l.wants(id) {
			readable[id] = struct{}{}
		}
	}
	return readable, nil
}

// read replaces what the listener may read, and returns what is new in it;
// feed.mu is held.
func (l *Listener) read(readable map[string]struct{}) (gained []string) {
	for id := range l.readable {
		if _, still := readable[id]; !still {
			take(l.feed.readers, id, l)
		}
	}
	for id := range readable {
		if _, before := l.readable[id]; !before {
			put(l.feed.readers, id, l)
			gained = append(gained, id)
		}
	}
	l.readable = readable
	return gained
}

func (l *Listener) wants(deviceID string) bool {
	_, named := l.wanted[deviceID]
	return named || l.wanted == nil
}

// hears reports whether a change is for this listener; feed.mu is held.
func (l *Listener) hears(c *Change) bool {
	switch {
	case c.Kind == ChangeSelfEnrolled:
		return (l.actor.Kind == ActorAdmin || l.actor.Kind == ActorSupport) && l.wants(c.DeviceID)
	case l.actor.Kind == ActorUser && slices.Contains(c.users, l.actor.ID):
		return l.wants(c.DeviceID)
	case c.private:
		return false
	}
	_, readable := l.readable[c.DeviceID]
	return readable
}

// push queues a change; feed.mu is held. It never waits: a listener with too much
// in its queue is over.
func (l *Listener) push(c *Change) {
	n := len(l.queue)
	if l.err != nil || n > 0 && l.queue[n-1] == c || !l.hears(c) {
		return
	}
	if n >= feedQueue+l.backlog {
		l.feed.dropped.Add(int64(n) + 1)
		l.end(ErrListenerSlow)
		return
	}
	l.queue = append(l.queue, c)
	signal(l.ready)
}

// end is how the feed ends a listener; feed.mu is held.
func (l *Listener) end(err error) {
	if l.err != nil {
		return
	}
	l.err, l.queue = err, nil
	l.feed.leave(l)
	signal(l.ready)
	if l.ended != nil {
		l.ended()
	}
}

// Close ends the listener. It may be called again.
func (l *Listener) Close() {
	l.feed.mu.Lock()
	defer l.feed.mu.Unlock()
	if l.err == nil {
		l.err, l.queue = errListenerClosed, nil
		l.feed.leave(l)
	}
}

var errListenerClosed = errors.New("the listener is closed")

// Ready receives a value when Take may have something.
func (l *Listener) Ready() <-chan struct{} { return l.ready }

// Take returns what the listener has not heard yet; it waits for the database, when
// the actor's access has changed, but not for changes. An error ends the listener:
// ErrListenerSlow, ErrFeedClosed, or what reading the database failed with.
func (l *Listener) Take(ctx context.Context) (Update, error) {
	f := l.feed
	f.mu.Lock()
	defer f.mu.Unlock()
	gained := l.gained
	l.gained = nil
	for l.stale && l.err == nil {
		l.stale = false
		f.mu.Unlock()
		readable, err := l.load(ctx)
		f.mu.Lock()
		if err != nil {
			return Update{}, err
		}
		if l.err == nil {
			gained = append(gained, l.read(readable)...)
			l.queue = slices.DeleteFunc(l.queue, func(c *Change) bool { return !l.hears(c) })
		}
	}
	if l.err != nil {
		return Update{}, l.err
	}
	u := Update{Snapshot: l.fresh}
	if u.Snapshot || len(gained) > 0 {
		l.fresh = false
		f.mu.Unlock()
		devices, err := l.devices(ctx, gained, u.Snapshot)
		f.mu.Lock()
		if err != nil {
			return Update{}, err
		}
		u.Devices = devices
	}
	if l.stale { // access changed while the devices were read: nothing of it may be told
		l.fresh = l.fresh || u.Snapshot
		for _, id := range gained {
			delete(l.readable, id)
			take(f.readers, id, l)
		}
		return Update{}, l.err
	}
	n := min(len(l.queue), feedTake)
	u.Changes, l.queue = l.queue[:n:n], l.queue[n:]
	l.backlog = max(0, l.backlog-n)
	if len(l.queue) > 0 {
		signal(l.ready)
	} else {
		l.queue = nil // gives back the memory of a long one
	}
	return u, l.err
}

// devices reads the devices that a listener is told of as they are.
func (l *Listener) devices(ctx context.Context, gained []string, all bool) (list []OwnedDevice, err error) {
	const page = 200
	err = l.registry.store.View(ctx, func(tx Tx) error {
		list = nil
		if l.actor.Kind != ActorUser {
			for id := range l.wanted {
				d, err := tx.Device(ctx, id)
				if errors.Is(err, ErrDeviceNotFound) {
					continue // deleted meanwhile
				}
				if err != nil {
					return err
				}
				list = append(list, OwnedDevice{Device: d, Role: RoleStaff})
			}
			return nil
		}
		for after := int64(0); ; {
			rows, err := tx.OwnedDevices(ctx, l.actor.ID, after, page)
			if err != nil {
				return err
			}
			for _, d := range rows {
				if l.wants(d.ID) && (all || slices.Contains(gained, d.ID)) {
					list = append(list, d)
				}
			}
			if len(rows) < page {
				return nil
			}
			after = rows[page-1].No
		}
	})
	return list, err
}

// Cursor is the place behind everything that was taken, for ListenOptions.After; ""
// while there is something left to take.
func (l *Listener) Cursor() string {
	l.feed.mu.Lock()
	defer l.feed.mu.Unlock()
	if len(l.queue) > 0 || l.stale || l.fresh || l.err != nil {
		return ""
	}
	return cursor(l.life, l.feed.seq)
}

// CursorOf is the place behind a change that this listener has taken.
func (l *Listener) CursorOf(c *Change) string { return cursor(l.life, c.Seq) }

func cursor(life, seq int64) string {
	return strconv.FormatInt(life, 10) + "-" + strconv.FormatInt(seq, 10)
}

// parseCursor reads what Cursor writes.
func parseCursor(s string) (life, seq int64, ok bool) {
	first, second, found := strings.Cut(s, "-")
	if !found || len(s) > 40 {
		return 0, 0, false
	}
	life, err := strconv.ParseInt(first, 10, 64)
	if err != nil || life <= 0 {
		return 0, 0, false
	}
	seq, err = strconv.ParseInt(second, 10, 64)
	if err != nil || seq < 0 {
		return 0, 0, false
	}
	return life, seq, true
}
