package fleet

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/opticworks/devicecloud/firmware-sim/mqttwire"
)

const (
	burstLeast   = 2
	burstMost    = 4
	onlyOneLimit = 5 * time.Second // until the server must have ended all but one
)

// contest is the takeover scenario's common state.
type contest struct {
	f     *Fleet
	left  atomic.Int64 // takeovers still to make
	made  atomic.Int64
	twins atomic.Int64 // bursts after which two connections of an id stayed live
	deaf  atomic.Int64 // survivors that did not answer
	lost  atomic.Int64 // bursts that left nobody though some were accepted: the last one was closed for no newer one
}

// takeover lets each id connect again and again with two to four connections at once, in both versions, while the
// connection before leaves in some way or stays. After each burst at most one may be live, and it must not be deaf. In
// the end half of the ids leave, and the registry must know who stayed.
func takeover(ctx context.Context, f *Fleet) (Verdict, error) {
	if f.Duration > 0 {
		var end context.CancelFunc
		ctx, end = context.WithTimeout(ctx, f.Duration)
		defer end()
	}
	c := &contest{f: f}
	c.left.Store(int64(f.Takeovers))
	survivors := make([]*contender, len(f.devices))
	defer func() {
		for _, s := range survivors {
			if s != nil {
				s.leave(farewellFIN)
			}
		}
	}()
	c.play(ctx, survivors)
	f.note("takeovers: %d on %d ids", c.made.Load(), len(f.devices))
	for i, s := range survivors {
		if s != nil && i%2 == 0 {
			s.leave(farewell(f.devices[i].rng.IntN(int(farewells))))
		}
	}
	verdict := f.presenceVerdict(ctx, func(i int) bool { return survivors[i] != nil && survivors[i].alive() })
	return c.judge(verdict), nil
}

// play runs all ids against each other and the display beside them.
func (c *contest) play(ctx context.Context, survivors []*contender) {
	show, stopShow := context.WithCancel(ctx)
	var shown sync.WaitGroup
	shown.Go(func() {
		c.f.Display.Watch(show, func() string {
			return fmt.Sprintf("takeovers %d/%d  %s", c.made.Load(), c.f.Takeovers, c.f.counters())
		})
	})
	var ids sync.WaitGroup
	for i, d := range c.f.devices {
		ids.Go(func() { survivors[i] = c.fight(ctx, d) })
	}
	ids.Wait()
	stopShow()
	shown.Wait()
}

// judge adds to the presence verdict what else must not happen.
func (c *contest) judge(v Verdict) Verdict {
	for _, fault := range []struct {
		name  string
		count int64
	}{
		{"bursts with two live connections", c.twins.Load()},
		{"deaf survivors", c.deaf.Load()},
		{"bursts without a survivor", c.lost.Load()},
	} {
		if fault.count > 0 {
			v.OK = false
			v.Line += fmt.Sprintf(", %s: %d", fault.name, fault.count)
		}
	}
	if c.made.Load() == 0 {
		v.OK = false
		v.Line = strings.Join([]string{v.Line, "no takeover was accepted"}, ", ")
	}
	return v
}

// fight makes bursts for one id until the common count is used up, and returns who is live at the end, or nil.
func (c *contest) fight(ctx context.Context, d *Device) *contender {
	var reigning *contender
	for mark := uint32(1); c.left.Load() > 0 && ctx.Err() == nil; mark++ {
		burst := c.muster(ctx, d)
		if len(burst) == 0 {
			// The server is full or gone; the pause of a device that cannot connect.
			if !pause(ctx, d.backoff()) {
				break
			}
			continue
		}
		accepted, certain := c.charge(d, burst, reigning)
		c.left.Add(int64(-len(accepted)))
		c.made.Add(int64(len(accepted)))
		if len(accepted) > 0 {
			d.attempt = 0
			if d.sessions.Add(uint32(len(accepted))) == uint32(len(accepted)) {
				d.stats.Connected.Add(1)
			}
			d.stats.Reconnects.Add(int64(len(accepted)))
		}
		all := accepted
		if reigning != nil {
			all = append(all, reigning)
		}
		reigning = c.survivor(all)
		if reigning == nil {
			if len(accepted) > 0 && certain {
				c.lost.Add(1)
			}
			continue
		}
		if err := reigning.prove(mark); err != nil {
			c.deaf.Add(1)
			d.stats.Fail("deaf survivor", err)
			reigning.leave(farewellRST)
			reigning = nil
		}
	}
	return reigning
}

// muster dials the connections of a burst.
func (c *contest) muster(ctx context.Context, d *Device) []*contender {
	versions := []mqttwire.Version{mqttwire.V311, mqttwire.V5}
	var burst []*contender
	for range burstLeast + d.rng.IntN(burstMost-burstLeast+1) {
		rival, err := dialContender(ctx, d, versions[d.rng.IntN(2)])
		if err != nil {
			if ctx.Err() == nil {
				d.stats.Fail(failureKind(err), err)
			}
			continue
		}
		burst = append(burst, rival)
	}
	return burst
}

// charge sends all CONNECTs at once, in a quarter of the cases while the reigning connection leaves, and returns the
// contenders that were accepted, also those that lost their place since. certain is false when one gave up without an
// answer: it may have been accepted, and so may have ended the others, all the same.
func (c *contest) charge(d *Device, burst []*contender, reigning *contender) (accepted []*contender, certain bool) {
	abdicates, how := reigning != nil && d.rng.IntN(4) == 0, farewell(d.rng.IntN(int(farewells)))
	results := make([]error, len(burst))
	start := make(chan struct{})
	var group sync.WaitGroup
	for i, rival := range burst {
		group.Go(func() {
			<-start
			results[i] = rival.connect()
		})
	}
	if abdicates {
		group.Go(func() {
			<-start
			reigning.leave(how)
		})
	}
	close(start)
	group.Wait()
	certain = true
	for i, err := range results {
		switch {
		case err == nil:
			accepted = append(accepted, burst[i])
		case errors.Is(err, errGone):
			// Taken over before its CONNACK was written: that is one of the allowed ends.
		default:
			certain = certain && !errors.Is(err, errNoAnswer)
			d.stats.Fail(failureKind(err), err)
		}
	}
	return accepted, certain
}

// survivor waits until at most one is live and returns it, or nil. More than one after the limit is a fault; the
// surplus is closed, so that the next burst starts clean.
func (c *contest) survivor(all []*contender) *contender {
	alive := func() []*contender {
		var left []*contender
		for _, rival := range all {
			if rival.alive() {
				left = append(left, rival)
			}
		}
		return left
	}
	limit, cancel := context.WithTimeout(context.Background(), onlyOneLimit)
	defer cancel()
	waitFor(limit, func() bool { return len(alive()) <= 1 })
	left := alive()
	if len(left) == 0 {
		return nil
	}
	if len(left) > 1 {
		c.twins.Add(1)
		for _, surplus := range left[1:] {
			surplus.leave(farewellRST)
		}
	}
	return left[0]
}
