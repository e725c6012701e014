package registry

import (
	"context"
	"errors"
	"slices"
	"strconv"
	"strings"
)

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
	no       int64 // in the order of coming

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
		if (c.Kind == ChangeClaimed || c.Kind == ChangeShared) && slices.Contains(c.users, l.actor.ID) {
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
	case c.forAdministrators():
		return l.actor.Kind == ActorAdmin
	case c.Kind == ChangeSelfEnrolled:
		return (l.actor.Kind == ActorAdmin || l.actor.Kind == ActorSupport) && l.wants(c.DeviceID)
	case l.actor.Kind == ActorUser && slices.Contains(c.users, l.actor.ID):
		return l.wants(c.DeviceID)
	case c.private, c.Kind == ChangeClaimed && l.actor.Kind == ActorUser: // it is the new owner's alone
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
			rows, err := tx.OwnedDevices(ctx, l.actor.ID, l.registry.now(), after, page)
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
