package registry

import (
	"context"
	"errors"
	"sync"
	"time"
)

const (
	// commandPace is the least time between two commands to one device.
	commandPace = 200 * time.Millisecond
	// commandRetry is when a device's queue is looked at again after the database
	// could not be.
	commandRetry = time.Second
	// restartGrace is how long a device that has come back may take to say, by its
	// uptime, that it has just restarted, before what restarts it is sent again.
	restartGrace = 3 * time.Second
	// dueInterval is how often timers that have run out are looked for.
	dueInterval = time.Second
	dueBatch    = 100
)

// CommandDelivery is a command as [Courier.DeliverCommand] hands it to a session.
type CommandDelivery struct {
	CommandID string
	Type      string
	Payload   []byte
	Expiry    time.Duration // from now; MQTT 5 clients are told
}

// dispatcher hands commands to the devices that are connected here, each device by a
// lane of its own, and tells those who wait what became of theirs. A lane has a
// goroutine only while it has something to send. The truth is in the database: losing
// a lane loses nothing.
type dispatcher struct {
	r    *Registry
	done chan struct{} // closed when the registry closes
	calm chan struct{} // closed when nobody is to wait any more
	once sync.Once     // of calm
	work sync.WaitGroup

	mu      sync.Mutex
	closed  bool
	lanes   map[string]*lane // by device id
	waiters map[string]map[chan Command]struct{}

	diagnoses map[string]chan Diagnosis // who waits, by device id and request id
}

// lane is the way of commands to one device. It is under dispatcher.mu.
type lane struct {
	session *Session // that subscribed to commands; nil: it has gone
	busy    bool     // a goroutine or a request is sending
	again   bool     // something came meanwhile
	last    time.Time
	timer   *time.Timer // looks again at what was not acknowledged
}

func newDispatcher(r *Registry) *dispatcher {
	return &dispatcher{
		r: r, done: make(chan struct{}), calm: make(chan struct{}), lanes: map[string]*lane{}, waiters: map[string]map[chan Command]struct{}{},
		diagnoses: map[string]chan Diagnosis{},
	}
}

// close ends the lanes and waits for what they began.
func (d *dispatcher) close() {
	d.stopWaiting()
	d.mu.Lock()
	if !d.closed {
		d.closed = true
		close(d.done)
		for _, l := range d.lanes {
			l.stopTimer()
		}
	}
	d.mu.Unlock()
	d.work.Wait()
}

// stopWaiting ends the waits of AwaitCommand.
func (d *dispatcher) stopWaiting() { d.once.Do(func() { close(d.calm) }) }

// background runs f unless the registry is closed; close waits for it.
func (d *dispatcher) background(f func()) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if !d.closed {
		d.work.Go(f)
	}
}

func (l *lane) stopTimer() {
	if l.timer != nil {
		l.timer.Stop()
	}
}

// CommandsReady says that a device has subscribed to commands and has had the SUBACK:
// what waits for it is sent now. It does not block.
func (r *Registry) CommandsReady(s *Session) {
	d := r.dispatch
	d.mu.Lock()
	l := d.lanes[s.DeviceID]
	if l == nil {
		l = &lane{}
		d.lanes[s.DeviceID] = l
	}
	if l.session == nil || l.session.Epoch <= s.Epoch {
		l.session = s
	}
	d.mu.Unlock()
	d.wake(s.DeviceID)
}

// CommandsGone says that a device's connection is over. It does not block.
func (r *Registry) CommandsGone(s *Session) { r.dispatch.gone(s) }

func (d *dispatcher) gone(s *Session) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if l := d.lanes[s.DeviceID]; l != nil && l.session == s {
		l.session = nil
		l.stopTimer()
		if !l.busy {
			delete(d.lanes, s.DeviceID)
		}
	}
}

// reserve takes a device's lane for one command. s is the session that takes commands,
// nil when there is none; reserved says that the lane is the caller's until release.
func (d *dispatcher) reserve(deviceID string) (s *Session, reserved bool) {
	d.mu.Lock()
	defer d.mu.Unlock()
	l := d.lanes[deviceID]
	if l == nil || l.session == nil {
		return nil, false
	}
	if l.busy || time.Since(l.last) < commandPace || d.closed {
		return l.session, false
	}
	l.busy = true
	return l.session, true
}

// release gives a reserved lane back.
func (d *dispatcher) release(deviceID string, reserved bool) {
	if !reserved {
		return
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	l := d.lanes[deviceID]
	l.busy = false
	switch {
	case l.session == nil:
		delete(d.lanes, deviceID)
	case l.again:
		d.start(deviceID, l)
	}
}

// wake has a device's lane look for something to send.
func (d *dispatcher) wake(deviceID string) {
	d.mu.Lock()
	defer d.mu.Unlock()
	switch l := d.lanes[deviceID]; {
	case l == nil || l.session == nil:
	case l.busy:
		l.again = true
	default:
		d.start(deviceID, l)
	}
}

// start gives a lane its goroutine; mu is held.
func (d *dispatcher) start(deviceID string, l *lane) {
	if d.closed {
		return
	}
	l.busy = true
	d.work.Go(func() { d.run(deviceID, l) })
}

// run sends what there is, one command after another.
func (d *dispatcher) run(deviceID string, l *lane) {
	for {
		d.mu.Lock()
		s, rest := l.session, commandPace-time.Since(l.last)
		l.again = false
		d.mu.Unlock()
		var next time.Time
		idle := true
		if s != nil && d.pause(rest) {
			sent, later, err := d.step(s)
			idle, next = !sent, later
			if err != nil && !errors.Is(err, ErrStale) {
				d.r.log.Warn("commands could not be sent; it will be tried again", "device_id", deviceID, "error", err)
				idle = !d.pause(commandRetry)
			}
		}
		d.mu.Lock()
		if (!idle || l.again) && l.session != nil && !d.closed {
			d.mu.Unlock()
			continue
		}
		l.busy = false
		if l.session == nil {
			delete(d.lanes, deviceID)
		} else if l.stopTimer(); !next.IsZero() && !d.closed {
			l.timer = time.AfterFunc(max(next.Sub(d.r.opts.Now()), time.Millisecond), func() { d.wake(deviceID) })
		}
		d.mu.Unlock()
		return
	}
}

// pause waits for t; false when the registry closes first.
func (d *dispatcher) pause(t time.Duration) bool {
	if t <= 0 {
		return true
	}
	timer := time.NewTimer(t)
	defer timer.Stop()
	select {
	case <-timer.C:
		return true
	case <-d.done:
		return false
	}
}

// step sends a device the first of its commands that is due. later is when to look
// again at those that are not, zero: when something comes.
func (d *dispatcher) step(s *Session) (sent bool, later time.Time, err error) {
	r, ctx, now := d.r, context.Background(), d.r.now()
	var open []Command
	err = r.store.View(ctx, func(tx Tx) (err error) {
		open, err = tx.OpenCommands(ctx, s.DeviceNo)
		return err
	})
	if err != nil {
		return false, later, err
	}
	due := false
	for _, c := range open {
		at := c.sendAt(s)
		switch {
		case at.IsZero():
		case !at.After(now):
			due = true
		case later.IsZero() || at.Before(later):
			later = at
		}
		if c.restartedBy(s) && !s.restarted.Swap(true) {
			d.background(func() { r.settleRestart(s) })
		}
	}
	if !due {
		return false, later, nil
	}
	var c Command
	var ended []Command
	err = r.change(ctx, func(tx Tx) (err error) {
		c, ended, err = r.nextCommand(ctx, tx, s, now)
		return err
	}, func() (all []*Change) {
		for _, e := range ended {
			all = append(all, commandChange(e, now))
		}
		if c.No != 0 {
			all = append(all, commandChange(c, now))
		}
		return all
	})
	if err != nil {
		return false, later, err
	}
	d.finished(ended...)
	if c.No == 0 {
		return len(ended) > 0, later, nil // what has ended may have been in the way
	}
	if _, err = d.handOver(ctx, s, c); err != nil && !errors.Is(err, ErrOffline) {
		return true, later, err
	}
	return true, later, nil
}

// restartedBy reports whether a command restarts the device, and the connection is one
// from after it was sent.
func (c Command) restartedBy(s *Session) bool {
	return c.Type == "reboot" && c.Status != CommandQueued && c.SentAt.Before(s.ConnectedAt)
}

// sendAt is when an open command is to be sent to a session, zero: not. Sent again is
// what the device has not acknowledged, and what it has acknowledged over a connection
// that was lost before it answered; a device recognises the command id. What restarts a
// device is not sent again once it is acknowledged. [contracts G.2]
func (c Command) sendAt(s *Session) time.Time {
	kind := typeOf(c.Type)
	switch {
	case c.Status == CommandQueued:
		return c.IssuedAt
	case c.Epoch == s.Epoch && c.Status == CommandSent && c.Attempt < maxLiveAttempts:
		return c.SentAt.Add(acknowledgeWithin)
	case c.Epoch >= s.Epoch || kind.restarts && c.Status != CommandSent:
		return time.Time{}
	case kind.restarts:
		return s.ConnectedAt.Add(restartGrace)
	}
	return c.SentAt
}

// nextCommand marks the first command that is due as sent over the session, after
// asking again whether its issuer may send it. ended are those that will never be sent.
func (r *Registry) nextCommand(ctx context.Context, tx Tx, s *Session, now time.Time) (next Command, ended []Command, err error) {
	dev, err := tx.Device(ctx, s.DeviceID)
	if err != nil {
		return next, nil, err
	}
	if dev.Presence.Epoch != s.Epoch {
		return next, nil, ErrStale
	}
	open, err := tx.OpenCommands(ctx, s.DeviceNo)
	if err != nil {
		return next, nil, err
	}
	for _, c := range open {
		if at := c.sendAt(s); at.IsZero() || at.After(now) {
			continue
		}
		to, code := CommandExpired, codeExpired
		if now.Before(c.ExpiresAt) {
			may, err := r.mayStill(ctx, tx, c)
			if err != nil {
				return next, nil, err
			}
			if may {
				from := c.Status
				c.hand(s.Epoch, now)
				changed, err := tx.AdvanceCommand(ctx, c, from)
				if err == nil && changed {
					next = c
				}
				return next, ended, err
			}
			to, code = CommandCancelled, codeAccessLost
		}
		if c.Status != CommandQueued {
			continue // the device may have it: its timer decides
		}
		if err := r.endCommand(ctx, tx, System(), &c, to, code, now); err != nil {
			return next, nil, err
		}
		ended = append(ended, c)
	}
	return next, ended, nil
}

// mayStill asks again, at delivery, whether a command's issuer may send it.
func (r *Registry) mayStill(ctx context.Context, tx Tx, c Command) (bool, error) {
	if c.Issuer == System().String() {
		return true, nil
	}
	a, ok := parseActor(c.Issuer)
	if !ok {
		return false, nil
	}
	enabled, err := tx.ActorEnabled(ctx, a.Kind, a.ID)
	if err != nil || !enabled {
		return false, err
	}
	capability := CanControl
	if typeOf(c.Type).dangerous {
		capability = CanEndanger
	}
	a.Scopes = []string{capabilities[capability].scope} // the token had it
	_, err = r.access(ctx, tx, a, c.DeviceID, capability)
	if errors.Is(err, ErrDeviceNotFound) || errors.Is(err, ErrInsufficientRole) {
		return false, nil
	}
	return err == nil, err
}

// handOver writes a command that is marked as sent to the session, and takes the mark
// back when that fails. It returns the command as it is then; ErrOffline for one that
// may not wait.
func (d *dispatcher) handOver(ctx context.Context, s *Session, c Command) (Command, error) {
	r := d.r
	payload, err := c.Payload()
	if err == nil {
		err = r.courier.DeliverCommand(c.DeviceID, s.Epoch, CommandDelivery{c.ID, c.Type, payload, c.ExpiresAt.Sub(r.opts.Now())})
	}
	d.mu.Lock()
	if l := d.lanes[c.DeviceID]; l != nil {
		l.last = time.Now()
		if err == nil {
			d.watch(c, l)
		}
	}
	d.mu.Unlock()
	if err == nil {
		return c, nil
	}
	offline := errors.Is(err, ErrOffline)
	if offline {
		d.gone(s)
	}
	now := r.now()
	undone := c
	werr := r.change(ctx, func(tx Tx) error {
		undone = c
		switch {
		case KindOf(err) == TooLarge:
			return r.endCommand(ctx, tx, System(), &undone, CommandFailed, codeTooLarge, now)
		case !offline && KindOf(err) != RateLimited:
			return r.endCommand(ctx, tx, System(), &undone, CommandFailed, "not_subscribed", now)
		case offline && !c.Queueable && c.Attempt == 1:
			return r.endCommand(ctx, tx, System(), &undone, CommandCancelled, codeOffline, now)
		case c.Attempt > 1 || c.Status != CommandSent:
			return nil // an earlier one may have arrived: the next connection or the timer decides
		}
		undone.Status, undone.Attempt, undone.Epoch, undone.SentAt, undone.DueAt = CommandQueued, 0, 0, time.Time{}, c.ExpiresAt
		_, err := tx.AdvanceCommand(ctx, undone, CommandSent)
		return err
	}, func() []*Change { return []*Change{commandChange(undone, now)} })
	if werr != nil {
		return c, nil // it stays sent, and is sent again when the device subscribes anew
	}
	if undone.Status.Final() {
		d.finished(undone)
		if offline {
			return undone, ErrOffline.With(err)
		}
	}
	return undone, nil
}

// watch looks again when a command was not acknowledged in time; mu is held.
func (d *dispatcher) watch(c Command, l *lane) {
	if c.Status != CommandSent || d.closed || l.session == nil {
		return
	}
	l.stopTimer()
	l.timer = time.AfterFunc(acknowledgeWithin, func() { d.wake(c.DeviceID) })
}

// finished tells those who wait for commands that have ended.
func (d *dispatcher) finished(all ...Command) {
	d.mu.Lock()
	defer d.mu.Unlock()
	for _, c := range all {
		for ch := range d.waiters[c.ID] {
			select {
			case ch <- c:
			default: // it has been told
			}
		}
	}
}

// AwaitCommand waits until a command has ended, at most for limit, and returns it as it
// is then. It asks the database once before and at most once after. Errors:
// ErrCommandNotFound when it was removed meanwhile, ErrUnavailable.
func (r *Registry) AwaitCommand(ctx context.Context, c Command, limit time.Duration) (Command, error) {
	if c.Status.Final() || limit <= 0 {
		return c, nil
	}
	d, ch := r.dispatch, make(chan Command, 1)
	d.mu.Lock()
	if d.waiters[c.ID] == nil {
		d.waiters[c.ID] = map[chan Command]struct{}{}
	}
	d.waiters[c.ID][ch] = struct{}{}
	d.mu.Unlock()
	defer func() {
		d.mu.Lock()
		defer d.mu.Unlock()
		if delete(d.waiters[c.ID], ch); len(d.waiters[c.ID]) == 0 {
			delete(d.waiters, c.ID)
		}
	}()
	read := func() error {
		return r.store.View(ctx, func(tx Tx) (err error) {
			c, err = tx.Command(ctx, c.DeviceNo, c.ID)
			return err
		})
	}
	if err := read(); err != nil || c.Status.Final() {
		return c, err
	}
	timer := time.NewTimer(limit)
	defer timer.Stop()
	select {
	case c := <-ch:
		return c, nil
	case <-timer.C:
	case <-ctx.Done():
	case <-d.calm:
	}
	return c, read()
}

// sweepCommands ends the commands whose timer has run out.
func (r *Registry) sweepCommands(ctx context.Context) error {
	now := r.now()
	for ctx.Err() == nil {
		var due []Command
		err := r.store.View(ctx, func(tx Tx) (err error) {
			due, err = tx.DueCommands(ctx, now, dueBatch)
			return err
		})
		if err != nil || len(due) == 0 {
			return err
		}
		var ended []Command
		err = r.change(ctx, func(tx Tx) error {
			ended = nil
			for _, c := range due {
				to, code := CommandTimedOut, codeNoAnswer
				switch c.Status {
				case CommandQueued:
					to, code = CommandExpired, codeExpired
				case CommandSent:
					code = codeNoReceipt
				}
				switch err := r.endCommand(ctx, tx, System(), &c, to, code, now); {
				case err == nil:
					ended = append(ended, c)
				case !errors.Is(err, ErrAlreadySent): // it has moved on
					return err
				}
			}
			return nil
		}, func() (all []*Change) {
			for _, c := range ended {
				all = append(all, commandChange(c, now))
			}
			return all
		})
		if err != nil {
			return err
		}
		r.dispatch.finished(ended...)
		if len(due) < dueBatch {
			return nil
		}
	}
	return nil
}
