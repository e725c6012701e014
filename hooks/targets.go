package hooks

import (
	"errors"
	"sync"
	"time"

	"github.com/mochi-mqtt/server/v2/packets"

	"github.com/opticworks/devicecloud/registry"
	"github.com/opticworks/devicecloud/topic"
)

// Live positions cost a device's battery and everybody's traffic, so a device sends them
// only while somebody looks. A SUBSCRIBE that can match a device's targets/stream is a
// look at it; the first makes the server send command/targets {"on":true}, the end of the
// last {"on":false}. [contracts, MQTT topic table]

const (
	// watchLife is how long a SUBSCRIBE looks. Only another SUBSCRIBE renews it: an MQTT
	// library sends PINGREQ by itself for as long as the app lives, and a connection
	// without any would end after two minutes anyway, so neither says that a person is
	// still looking.
	watchLife = 5 * time.Minute
	// watchRenew is the least time between two "on" over one connection of a device, when
	// a look is renewed.
	watchRenew = time.Minute
	// watchLinger is the least time from "on" to "off": somebody who looks again and again
	// must not keep a device busy with that.
	watchLinger = 3 * time.Second
	// watchRetry is when a device is told again that had no room for the message.
	watchRetry = time.Second
	// strayLimit is how long positions may come that nobody looks at until the device is
	// told "off" again: it may have lost it, or this process may have been restarted.
	strayLimit = 5 * time.Second
)

// targets knows who looks at the live positions of which device.
type targets struct {
	root   topic.Root
	now    func() time.Time
	device func(deviceID string) *session          // the live session of a device, or nil
	send   func(device *session, on bool) error    // does not block
	failed func(device *session, on bool, e error) // logs
	linger time.Duration

	mu      sync.Mutex
	watched map[string]*watchedDevice // by device id; also those that have not heard "off" yet
}

// watchedDevice is a device that somebody looks at. It is under targets.mu.
type watchedDevice struct {
	readers map[*session]struct{}
	told    *session // the connection of the device that was told "on"; nil: none
	at      time.Time
	retry   *time.Timer
}

// looks is what a reader looks at. It is under targets.mu.
type looks struct {
	until   map[string]time.Time // by filter: when the look ends
	devices map[string]bool
	lapse   *time.Timer
}

// subscribed begins or renews the looks of a SUBSCRIBE.
func (t *targets) subscribed(s *session, filters []string) {
	t.mu.Lock()
	defer t.mu.Unlock()
	l, until, any := &s.reader.looks, t.now().Add(watchLife), false
	for _, f := range filters {
		if !t.canMatch(f) {
			continue
		}
		if l.until == nil {
			l.until = map[string]time.Time{}
		}
		l.until[f] = until
		any = true
	}
	if any {
		t.update(s, until)
	}
}

// inherit goes on with what is left of the looks of the session that s has taken over
// with its subscriptions.
func (t *targets) inherit(s, before *session, has func(filter string) bool) {
	t.mu.Lock()
	defer t.mu.Unlock()
	for f, until := range before.reader.looks.until {
		if has(f) {
			if s.reader.looks.until == nil {
				s.reader.looks.until = map[string]time.Time{}
			}
			s.reader.looks.until[f] = until
		}
	}
	t.update(s, time.Time{})
}

// unsubscribed ends the looks of filters that the reader has not any more.
func (t *targets) unsubscribed(s *session, has func(filter string) bool) {
	t.mu.Lock()
	defer t.mu.Unlock()
	for f := range s.reader.looks.until {
		if !has(f) {
			delete(s.reader.looks.until, f)
		}
	}
	t.update(s, time.Time{})
}

// changed looks again at what a reader looks at: its access has changed, a look has
// ended, or its connection has.
func (t *targets) changed(s *session) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.update(s, time.Time{})
}

// canMatch reports whether a filter can match live positions at all.
func (t *targets) canMatch(filter string) bool {
	f, ok := t.root.ParseFilter(filter)
	if !ok {
		return false
	}
	for _, k := range f.Kinds {
		if k == topic.TargetsStream {
			return true
		}
	}
	return false
}

// devices calls f for each device that a filter of a reader looks at: a person's wildcard
// at those that the person may read. Staff and service accounts look at a device by its id
// alone; else one "#" would turn a whole fleet on.
func (t *targets) devices(r *reader, filter string, f func(deviceID string)) {
	parsed, ok := t.root.ParseFilter(filter)
	switch {
	case !ok:
	case parsed.DeviceID != "":
		if r.reads(parsed.DeviceID) {
			f(parsed.DeviceID)
		}
	case r.person != nil && r.actor.Has(registry.ScopeDeviceRead):
		if ids := r.person.readable.Load(); ids != nil {
			for id := range *ids {
				f(id)
			}
		}
	}
}

// update brings the devices up to date with what a reader looks at now; mu is held.
// renewed is the end of the looks that it has just asked for.
func (t *targets) update(s *session, renewed time.Time) {
	l, now := &s.reader.looks, t.now()
	wanted := map[string]bool{} // true: asked for just now
	var next time.Time
	// Who ends takes itself out later: cleanUp marks it first.
	if s.accepted.Load() && !s.cleaned.Load() && !s.superseded.Load() {
		for filter, until := range l.until {
			if !until.After(now) {
				delete(l.until, filter)
				continue
			}
			if next.IsZero() || until.Before(next) {
				next = until
			}
			t.devices(s.reader, filter, func(id string) { wanted[id] = wanted[id] || until.Equal(renewed) })
		}
	}
	for id := range l.devices {
		if _, still := wanted[id]; !still {
			w := t.watched[id]
			delete(w.readers, s)
			t.settle(id, w, false)
		}
	}
	for id, asked := range wanted {
		w := t.watched[id]
		if w == nil {
			w = &watchedDevice{readers: map[*session]struct{}{}}
			t.watched[id] = w
		}
		w.readers[s] = struct{}{}
		t.settle(id, w, asked)
	}
	l.devices = wanted
	if l.lapse != nil {
		l.lapse.Stop()
		l.lapse = nil
	}
	if !next.IsZero() {
		l.lapse = time.AfterFunc(next.Sub(now), func() { t.changed(s) })
	}
}

// ready says that a device can hear commands.
func (t *targets) ready(device *session) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if w := t.watched[device.id]; w != nil {
		t.settle(device.id, w, false)
	}
}

// settle tells a device what it should know and does not; mu is held. What no connection
// of the device was told need not be taken back: a device begins with "off".
func (t *targets) settle(id string, w *watchedDevice, asked bool) {
	on, s := len(w.readers) > 0, t.device(id)
	later := func(d time.Duration) {
		if w.retry != nil {
			w.retry.Stop()
		}
		w.retry = time.AfterFunc(d, func() { t.again(id, w) })
	}
	stop := func() {
		if w.retry != nil {
			w.retry.Stop()
		}
		delete(t.watched, id)
	}
	lingers := t.linger - t.now().Sub(w.at)
	switch {
	case !on && (s == nil || w.told != s):
		stop()
		return
	case !on && lingers > 0:
		later(lingers)
		return
	case s == nil, on && w.told == s && (!asked || t.now().Sub(w.at) < watchRenew):
		return
	}
	err := t.send(s, on)
	switch {
	case err == nil && on:
		w.told, w.at = s, t.now()
	case err == nil:
		stop()
	case registry.KindOf(err) == registry.RateLimited: // it acknowledges slowly
		later(watchRetry)
	default: // it hears when it subscribes, or not at all
		if !errors.Is(err, registry.ErrOffline) {
			t.failed(s, on, err)
		}
		if w.told = nil; !on {
			stop()
		}
	}
}

// again is settle after a pause.
func (t *targets) again(id string, w *watchedDevice) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.watched[id] == w {
		t.settle(id, w, false)
	}
}

// streamed notes that a device has sent a position, on the goroutine of its connection,
// and tells a device that nobody looks at that it should not.
func (t *targets) streamed(device *session) {
	t.mu.Lock()
	w := t.watched[device.id]
	looked := w != nil && len(w.readers) > 0
	t.mu.Unlock()
	d, now := device.device, t.now()
	switch {
	case looked:
		d.strayed = time.Time{}
	case d.strayed.IsZero():
		d.strayed = now
	case now.Sub(d.strayed) >= strayLimit:
		d.strayed = now
		if err := t.send(device, false); err != nil && !errors.Is(err, registry.ErrOffline) {
			t.failed(device, false, err)
		}
	}
}

// liveDevice is the established session of a device; nil without one.
func (c *Courier) liveDevice(deviceID string) *session {
	c.mu.RLock()
	defer c.mu.RUnlock()
	s := c.live[deviceID]
	if s == nil || s.device == nil || s.device.session == nil || !s.live.Load() || s.ending.Load() != nil {
		return nil
	}
	return s
}

// newTargets makes the table of who looks at what.
func (c *Courier) newTargets() *targets {
	return &targets{
		root: c.root, now: func() time.Time { return c.now() }, device: c.liveDevice, watched: map[string]*watchedDevice{},
		linger: watchLinger,
		send: func(s *session, on bool) error {
			d, err := c.targetsCommand(on)
			if err != nil {
				return err
			}
			return c.writeCommand(s, d, "")
		},
		failed: func(s *session, on bool, err error) {
			c.log.Debug("a device was not told about live positions", "device_id", s.id, "on", on, "error", err)
		},
	}
}

// accessMoved looks again at what a person's sessions look at.
func (c *Courier) accessMoved(p *person) {
	p.mu.Lock()
	sessions := make([]*session, 0, len(p.sessions))
	for s := range p.sessions {
		sessions = append(sessions, s)
	}
	p.mu.Unlock()
	for _, s := range sessions {
		c.targets.changed(s)
	}
}

// latest is the newest position of a device that was above the rate, until there is room
// for it: of live positions only the newest is worth anything.
type latest struct {
	mu      sync.Mutex
	payload []byte // nil: none waits
	timer   *time.Timer
}

// latestLater has a position handed on after wait, in place of an older one that waits;
// first says that none did.
func (c *Courier) latestLater(s *session, payload []byte, wait time.Duration) (first bool) {
	l := &s.device.latest
	l.mu.Lock()
	defer l.mu.Unlock()
	first = l.payload == nil
	l.payload = append([]byte{}, payload...)
	if first {
		l.timer = time.AfterFunc(wait, func() { c.handOn(s) })
	}
	return first
}

// overtaken forgets a position that waits: a newer one has passed it.
func (l *latest) overtaken() {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.payload != nil {
		l.timer.Stop()
		l.payload = nil
	}
}

// handOn gives subscribers the position that waits.
func (c *Courier) handOn(s *session) {
	defer func() {
		if r := recover(); r != nil {
			c.panicked("handOn", r)
		}
	}()
	l := &s.device.latest
	l.mu.Lock() // held, so that none passes it meanwhile
	defer l.mu.Unlock()
	payload := l.payload
	l.payload = nil
	if payload == nil || s.superseded.Load() || s.cleaned.Load() || !c.Watched() {
		return
	}
	err := c.server.InjectPacket(c.speaker, packets.Packet{
		FixedHeader: packets.FixedHeader{Type: packets.Publish}, TopicName: c.root.Build(s.id, topic.TargetsStream), Payload: payload,
	})
	if err != nil {
		c.log.Debug("a position was not handed on", "device_id", s.id, "error", err)
	}
}
