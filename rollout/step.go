package rollout

import (
	"context"
	"errors"
	"slices"
	"time"

	"github.com/opticworks/devicecloud/registry"
	"github.com/opticworks/devicecloud/topic"
)

const (
	// planChunk is how many devices of the fleet are looked at in one transaction.
	planChunk = 500
	// planTurn is how many chunks are walked at one look.
	planTurn = 20
	// waitPage is how many devices that wait are looked at for each rollout at one look:
	// in a large fleet that is offline, the look goes on there at the next.
	waitPage = 2000
	// settleBatch is how many live updates are settled in one transaction.
	settleBatch = 200
	// cancelBatch is how many devices are cancelled in one transaction.
	cancelBatch = 2000
	// maxSends is how often a trigger is handed over in one attempt: a device that loses
	// its connection again and again is not told for ever.
	maxSends = 5
	// maxCame is how many devices that have just come are looked at out of turn.
	maxCame = 1000
	// lull is how long a look that was asked for waits for others.
	lull = 20 * time.Millisecond
	// missRetry is when a device is looked at again that could not be handed its trigger.
	missRetry = 5 * time.Second
	// paceWindow is how much of a rate that was not used may be made up for.
	paceWindow = 2 * time.Second
	// maxSkew is how far the clocks of two programs may differ while they share a rate. A
	// rate that is used up for longer was so by a clock that has been put back since.
	maxSkew = time.Minute
)

// walk is where the looks at waiting devices are; of one goroutine.
type walk struct {
	behind map[int64]int64 // device_no by rollout_no
}

// Run moves rollouts until ctx ends. A failure is logged and tried again.
func (s *Service) Run(ctx context.Context) {
	tick := time.NewTicker(s.opts.Tick)
	defer tick.Stop()
	for {
		if err := s.step(ctx); err != nil && ctx.Err() == nil {
			s.log.Warn("rollouts could not be moved; it will be tried again", "error", err)
		}
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		case <-s.wake:
			if !pause(ctx, lull) { // many devices may come at once
				return
			}
		}
	}
}

// pause waits; false when ctx ends first.
func pause(ctx context.Context, d time.Duration) bool {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-ctx.Done():
		return false
	case <-timer.C:
		return true
	}
}

// Ready says that a device has subscribed to triggers and has had the SUBACK: what waits
// for it is looked at, at once and within its rollout's rate. It does not block.
func (s *Service) Ready(session *registry.Session) {
	if !s.busy.Load() {
		return
	}
	s.mu.Lock()
	if len(s.came) < maxCame {
		s.came = append(s.came, session.DeviceNo) // else the walk finds it
	}
	s.mu.Unlock()
	s.hurry()
}

// arrivals are the devices that have come since they were asked for last.
func (s *Service) arrivals() []int64 {
	s.mu.Lock()
	defer s.mu.Unlock()
	came := s.came
	s.came = nil
	return came
}

// step is one look.
func (s *Service) step(ctx context.Context) error {
	err := s.settle(ctx)
	if err == nil {
		err = s.remind(ctx)
	}
	if err == nil {
		err = s.cancelRest(ctx)
	}
	if err != nil {
		return err
	}
	var running []Rollout
	err = s.view(ctx, func(tx Tx) (err error) {
		running, err = tx.Rollouts(ctx, Running, 0, 0)
		return err
	})
	if err != nil {
		return err
	}
	came := s.arrivals()
	s.busy.Store(len(running) > 0)
	for no := range s.walk.behind {
		if !slices.ContainsFunc(running, func(r Rollout) bool { return r.No == no }) {
			delete(s.walk.behind, no)
		}
	}
	for _, r := range running { // the newest first: an older one that it supersedes tells nobody in between
		planned, perr := s.plan(ctx, &r)
		if perr == nil {
			perr = s.tell(ctx, r, came)
		}
		if perr == nil && planned {
			perr = s.finish(ctx, r)
		}
		err = errors.Join(err, perr)
	}
	return err
}

// settle ends the live updates with something to settle.
func (s *Service) settle(ctx context.Context) error {
	for ctx.Err() == nil {
		now := s.now()
		var due []Update
		err := s.view(ctx, func(tx Tx) (err error) {
			due, err = tx.Due(ctx, now, settleBatch)
			return err
		})
		if err != nil || len(due) == 0 {
			return err
		}
		var did *moves
		err = s.change(ctx, func(tx Tx, m *moves) error {
			did = m
			for _, d := range due {
				u, ok, err := tx.Update(ctx, d.Rollout.No, d.DeviceNo)
				if err == nil && ok && u.State.Live() {
					err = s.judge(ctx, tx, m, u, now)
				}
				if err != nil {
					return err
				}
			}
			return nil
		})
		if err != nil {
			return err
		}
		s.logHalts(did)
		if len(due) < settleBatch || len(did.updates) == 0 {
			return nil
		}
	}
	return nil
}

// judge settles a live update.
func (s *Service) judge(ctx context.Context, tx Tx, m *moves, u Update, now time.Time) error {
	late := !u.DueAt.After(now)
	online := u.Presence.Status == registry.Online
	switch {
	case u.Firmware == u.Rollout.Release.Version:
		return s.succeed(ctx, tx, m, u, now)
	case u.Disabled:
		return s.skip(ctx, tx, m, u, reasonDisabled, now)
	case u.State == Confirming && u.restartedSince(u.SaidAt):
		return s.fail(ctx, tx, m, u, reasonMismatch, now)
	case !late:
		return nil
	case u.Released:
		return s.skip(ctx, tx, m, u, reasonReleased, now)
	case u.State == Confirming:
		return s.fail(ctx, tx, m, u, reasonUnconfirmed, now)
	case u.State == Sent && online:
		return s.fail(ctx, tx, m, u, reasonNoAnswer, now)
	case u.State == Sent && u.Rollout.Status == Cancelled:
		before := u
		u.State, u.Reason, u.FinishedAt, u.DueAt = StateCancel, "", now, time.Time{}
		_, err := s.advance(ctx, tx, m, u, before, now)
		return err
	case u.State == Sent && u.Sends < maxSends:
		// Nobody knows whether it ever heard: it is told again when it comes back.
		before := u
		u.State, u.Reason, u.Attempt, u.DueAt = Pending, reasonOffline, u.Attempt-1, time.Time{}
		_, err := s.advance(ctx, tx, m, u, before, now)
		return err
	}
	return s.fail(ctx, tx, m, u, reasonTimeout, now)
}

// remind tells devices again that have come back without having heard what they were
// told, or having forgotten it by a restart.
func (s *Service) remind(ctx context.Context) error {
	var lost []Update
	err := s.view(ctx, func(tx Tx) (err error) {
		lost, err = tx.Lost(ctx, s.opts.NodeID, waitPage)
		return err
	})
	if err != nil {
		return err
	}
	lost = slices.DeleteFunc(lost, func(u Update) bool { return !s.courier.Takes(u.DeviceID, topic.OTATrigger) })
	for some := range slices.Chunk(lost, settleBatch) {
		now := s.now()
		err := s.send(ctx, func(tx Tx, m *moves) (told []Update, err error) {
			for _, l := range some {
				u, ok, err := tx.Update(ctx, l.Rollout.No, l.DeviceNo)
				if err != nil {
					return nil, err
				}
				if !ok || u.State != l.State || u.Presence.Epoch != l.Presence.Epoch || u.Rollout.Status != Running {
					continue
				}
				if u.Sends >= maxSends {
					if err := s.fail(ctx, tx, m, u, reasonInterrupted, now); err != nil {
						return nil, err
					}
					continue
				}
				before := u
				u.State, u.Epoch, u.Sends, u.Progress = Sent, u.Presence.Epoch, u.Sends+1, 0
				changed, err := s.advance(ctx, tx, m, u, before, now)
				if err != nil {
					return nil, err
				}
				if changed {
					told = append(told, u)
				}
			}
			return told, nil
		})
		if err != nil {
			return err
		}
	}
	return nil
}

// cancelRest cancels the devices that Cancel has left.
func (s *Service) cancelRest(ctx context.Context) error {
	var list []int64
	err := s.view(ctx, func(tx Tx) (err error) {
		list, err = tx.Cancelling(ctx)
		return err
	})
	for _, no := range list {
		for n := s.cancels; n == s.cancels && err == nil; {
			err = s.change(ctx, func(tx Tx, _ *moves) (err error) {
				n, err = tx.CancelUpdates(ctx, no, s.now(), s.cancels)
				return err
			})
		}
	}
	return err
}

// plan walks on through the fleet and writes who is in a rollout. planned says that the
// walk is at the end.
func (s *Service) plan(ctx context.Context, r *Rollout) (planned bool, err error) {
	for turn := 0; turn < planTurn && !r.Listed; turn++ {
		now := s.now()
		var fleet []Target
		err := s.view(ctx, func(tx Tx) (err error) {
			fleet, err = tx.Fleet(ctx, r.No, r.PlannedAfter, planChunk)
			return err
		})
		if err != nil {
			return false, err
		}
		if len(fleet) == 0 {
			return true, nil
		}
		last := fleet[len(fleet)-1].DeviceNo
		err = s.change(ctx, func(tx Tx, _ *moves) error {
			moved, err := tx.MovePlan(ctx, *r, last)
			if err != nil || !moved { // another program was faster, or the rollout was changed
				return err
			}
			for _, t := range fleet {
				if !t.in(r.Cohort) || !r.chosen(t.DeviceID) {
					continue
				}
				if err := s.enter(ctx, tx, *r, t, now); err != nil {
					return err
				}
			}
			return tx.Supersede(ctx, r.No, fleet[0].DeviceNo, last, now)
		})
		if err != nil {
			return false, err
		}
		r.PlannedAfter = last
	}
	return r.Listed, nil
}

// tell tells devices whose turn it is, as many as the rate allows: first those that have
// just come, then on through those that wait.
func (s *Service) tell(ctx context.Context, r Rollout, came []int64) error {
	now := s.now()
	interval := time.Minute / time.Duration(r.RatePerMinute)
	begin := r.PacedUntil
	if earliest := now.Add(-max(interval, paceWindow)); begin.Before(earliest) {
		begin = earliest
	} else if begin.After(now.Add(maxSkew)) {
		begin = now.Add(-interval) // one, from which the rate counts anew
	}
	room := max(0, int(now.Sub(begin)/interval))
	var page, arrived []Update
	behind := s.walk.behind[r.No]
	err := s.view(ctx, func(tx Tx) (err error) {
		arrived = nil
		for _, no := range came {
			if u, ok, err := tx.Update(ctx, r.No, no); err != nil {
				return err
			} else if ok && (u.State == Pending || u.State == Waiting) {
				arrived = append(arrived, u)
			}
		}
		page, err = tx.Waiting(ctx, r.No, behind, waitPage)
		return err
	})
	if err != nil {
		return err
	}
	var settled, turn []Update // what is to be written without being told, and what is
	look := func(u Update) (fits bool) {
		switch {
		case u.unfit(r.Release) != "":
			settled = append(settled, u)
		case u.NotBefore.After(now), u.Presence.Status != registry.Online, u.Busy, !s.courier.Takes(u.DeviceID, topic.OTATrigger):
		case u.tooWeak():
			if u.State != Waiting || u.Reason != reasonWeak {
				settled = append(settled, u)
			}
		case len(turn) >= room:
			return false
		default:
			turn = append(turn, u)
		}
		return true
	}
	for _, u := range arrived {
		look(u)
	}
	full := true
	for _, u := range page {
		if full = look(u); !full {
			break // the next look goes on here
		}
		behind = u.DeviceNo
	}
	if full && len(page) < waitPage {
		behind = 0 // from the beginning
	}
	s.walk.behind[r.No] = behind
	if len(settled)+len(turn) == 0 {
		return nil
	}
	return s.send(ctx, func(tx Tx, m *moves) (told []Update, err error) {
		if len(turn) > 0 {
			// One program at a time: whoever comes second finds the rate used up.
			paced, err := tx.TakePace(ctx, r.No, r.PacedUntil, begin.Add(interval*time.Duration(len(turn))).Truncate(time.Microsecond))
			if err != nil || !paced {
				return nil, err
			}
		}
		for _, l := range append(settled[:len(settled):len(settled)], turn...) {
			u, ok, err := tx.Update(ctx, r.No, l.DeviceNo)
			if err != nil {
				return nil, err
			}
			if !ok || u.State != Pending && u.State != Waiting {
				continue
			}
			sent, err := s.tellOne(ctx, tx, m, u, now)
			if err != nil {
				return nil, err
			}
			if sent.State == Sent {
				told = append(told, sent)
			}
		}
		return told, nil
	})
}

// tooWeak reports whether the device's signal is weaker than the release asks for.
func (u Update) tooWeak() bool {
	least := u.Rollout.Release.MinRSSI
	return least != nil && u.RSSI != nil && *u.RSSI < *least
}

// tellOne decides about one device that waits, as it is now.
func (s *Service) tellOne(ctx context.Context, tx Tx, m *moves, u Update, now time.Time) (Update, error) {
	before := u
	switch why := u.unfit(u.Rollout.Release); {
	case why != "":
		return u, s.skip(ctx, tx, m, u, why, now)
	case u.Presence.Status != registry.Online || u.Busy:
		return u, nil
	case u.tooWeak():
		u.State, u.Reason = Waiting, reasonWeak
	default:
		u.State, u.Reason, u.Attempt, u.Sends, u.Epoch = Sent, "", u.Attempt+1, u.Sends+1, u.Presence.Epoch
		u.FromVersion, u.Progress, u.NotBefore, u.SaidAt = u.Firmware, 0, time.Time{}, time.Time{}
		u.TriggeredAt, u.DueAt = now, now.Add(u.Rollout.Timeout)
	}
	changed, err := s.advance(ctx, tx, m, u, before, now)
	if err == nil && !changed {
		u = before
	}
	return u, err
}

// send commits that devices are told, and then tells them. A device that turns out not
// to be there goes back to where it was.
func (s *Service) send(ctx context.Context, mark func(Tx, *moves) ([]Update, error)) error {
	var told []Update
	var halted *moves
	err := s.change(ctx, func(tx Tx, m *moves) (err error) {
		halted = m
		told, err = mark(tx, m)
		return err
	})
	if err != nil {
		return err
	}
	s.logHalts(halted)
	var missed []Update
	tooLarge := map[int64]bool{}
	for _, u := range told {
		payload, err := u.Rollout.Release.payload(u.Rollout.ID, u.TriggeredAt)
		if err == nil {
			err = s.courier.Deliver(u.DeviceID, topic.OTATrigger, payload)
		}
		if err != nil {
			s.log.Debug("a device was not told of an update; it will be", "device_id", u.DeviceID, "rollout_id", u.Rollout.ID, "error", err)
			missed = append(missed, u)
			tooLarge[u.DeviceNo] = registry.KindOf(err) == registry.TooLarge
		}
	}
	if len(missed) == 0 {
		return nil
	}
	now := s.now()
	return s.change(ctx, func(tx Tx, m *moves) error {
		for _, u := range missed {
			if tooLarge[u.DeviceNo] {
				if err := s.fail(ctx, tx, m, u, reasonTooLarge, now); err != nil {
					return err
				}
				continue
			}
			before := u
			if u.Sends--; u.Sends > 0 {
				u.Epoch = 0 // any connection is a newer one
			} else {
				u.State, u.Attempt, u.DueAt, u.NotBefore = Pending, u.Attempt-1, time.Time{}, now.Add(missRetry)
			}
			if _, err := s.advance(ctx, tx, m, u, before, now); err != nil {
				return err
			}
		}
		return nil
	})
}

// finish finishes a rollout whose devices are all at their end.
func (s *Service) finish(ctx context.Context, r Rollout) error {
	now := s.now()
	over := false
	err := s.view(ctx, func(tx Tx) error {
		open, err := tx.Unfinished(ctx, r.No)
		over = !open
		return err
	})
	if err != nil || !over {
		return err
	}
	return s.change(ctx, func(tx Tx, _ *moves) error {
		changed, err := tx.FinishRollout(ctx, r, now)
		if err != nil || !changed {
			return err
		}
		return s.audit(ctx, tx, registry.System(), "", "rollout_finished", map[string]any{"rollout_id": r.ID, "version": r.Release.Version})
	})
}
