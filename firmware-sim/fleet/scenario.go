package fleet

import (
	"context"
	"fmt"
	"time"
)

// watchPoll is how often a scenario looks at its devices.
const watchPoll = 20 * time.Millisecond

// steady lets the devices live until the duration or the context ends, and asks the registry whether it sees them all.
func steady(ctx context.Context, f *Fleet) (Verdict, error) {
	begin := time.Now()
	f.start()
	if f.Duration > 0 {
		var cancel context.CancelFunc
		ctx, cancel = context.WithDeadline(ctx, begin.Add(f.Duration))
		defer cancel()
	}
	// Somebody who watches wants to know at once that it works, not only at the end.
	if f.awaitUp(ctx) && f.API != nil && ctx.Err() == nil {
		f.Display.Say("%s", f.allOnline(ctx).Line)
	}
	f.Display.Watch(ctx, f.counters)
	final, cancel := f.verdictContext(ctx)
	defer cancel()
	return f.allOnline(final), nil
}

// allOnline is the verdict of steady.
func (f *Fleet) allOnline(ctx context.Context) Verdict {
	if f.API == nil {
		n := f.live()
		return Verdict{OK: n == f.Devices, Line: fmt.Sprintf("connected: %d/%d (no --api to compare with)", n, f.Devices)}
	}
	c := f.comparePresence(ctx, func(int) bool { return true })
	if c.err != nil {
		return Verdict{Line: fmt.Sprintf("online in registry: unknown, it cannot be read: %v", c.err)}
	}
	return Verdict{OK: c.wrong == 0, Line: fmt.Sprintf("online in registry: %d/%d", c.online, f.Devices)}
}

// awaitUp shows the fleet's first connects and provisionings, and reports whether all devices came within BackTime.
func (f *Fleet) awaitUp(ctx context.Context) bool {
	ctx, cancel := context.WithTimeout(ctx, f.BackTime+time.Duration(float64(f.Devices)/f.ConnectRate*float64(time.Second)))
	defer cancel()
	stage := func(name string, count func() int) bool {
		set, finish := f.Display.Bar(name, f.Devices)
		defer finish()
		return waitFor(ctx, func() bool {
			n := count()
			set(n)
			return n == f.Devices
		})
	}
	up := stage("connect", func() int { return int(f.stats.Connected.Load()) }) &&
		stage("provision", func() int { return int(f.stats.Provisioned.Load()) }) &&
		waitFor(ctx, func() bool { return f.live() == f.Devices })
	f.Display.Say("connected %d, provisioned %d, reporting %d of %d devices",
		f.stats.Connected.Load(), f.stats.Provisioned.Load(), f.live(), f.Devices)
	return up
}

// awaitBack waits until every device has a newer session than before and a state acknowledged in it.
func (f *Fleet) awaitBack(ctx context.Context, before []uint32) bool {
	ctx, cancel := context.WithTimeout(ctx, f.BackTime)
	defer cancel()
	set, finish := f.Display.Bar("reconnect", f.Devices)
	defer finish()
	return waitFor(ctx, func() bool {
		back := 0
		for i, d := range f.devices {
			if d.Live() && d.Sessions() > before[i] {
				back++
			}
		}
		set(back)
		return back == f.Devices
	})
}

// sessions returns how many connections each device has had.
func (f *Fleet) sessions() []uint32 {
	counts := make([]uint32, len(f.devices))
	for i, d := range f.devices {
		counts[i] = d.Sessions()
	}
	return counts
}

func waitFor(ctx context.Context, reached func() bool) bool {
	for !reached() {
		if !pause(ctx, watchPoll) {
			return reached()
		}
	}
	return true
}

// during runs the display's counters beside do.
func (f *Fleet) during(ctx context.Context, d time.Duration) {
	if d > 0 {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, d)
		defer cancel()
	}
	f.Display.Watch(ctx, f.counters)
}
