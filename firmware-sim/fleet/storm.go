package fleet

import (
	"context"
	"fmt"
	"time"
)

// stormPause lets the devices report between two waves, so that a wave meets a working fleet.
const stormPause = time.Second

// storm drops all connections at once, again and again, as a restart of the cloud or of a router does, and compares
// the registry after each wave.
func storm(ctx context.Context, f *Fleet) (Verdict, error) {
	f.start()
	if !f.awaitUp(ctx) {
		return Verdict{Line: fmt.Sprintf("wrong presence flags: unknown, only %d/%d devices came up", f.live(), f.Devices)}, nil
	}
	verdict := Verdict{Line: "wrong presence flags: unknown, interrupted before the first wave"}
	for wave := 1; wave <= f.Waves && pause(ctx, stormPause); wave++ {
		before := f.sessions()
		start := time.Now()
		for i, d := range f.devices {
			d.Cut(i%2 == 0)
		}
		if !f.awaitBack(ctx, before) {
			return Verdict{Line: fmt.Sprintf("wrong presence flags: unknown, only %d/%d devices came back in wave %d", f.live(), f.Devices, wave)}, nil
		}
		f.note("wave %d: all %d back after %.2f s", wave, f.Devices, time.Since(start).Seconds())
		verdict = f.presenceVerdict(ctx, func(i int) bool { return f.devices[i].Live() })
		if !verdict.OK {
			break
		}
	}
	return verdict, nil
}

// flakyDefault is how long the flaky scenario breaks connections.
const flakyDefault = 30 * time.Second

// flaky breaks connections at random places for a while, then lets the fleet recover and compares.
func flaky(ctx context.Context, f *Fleet) (Verdict, error) {
	f.start()
	setDefault(&f.Duration, flakyDefault)
	trouble, end := context.WithTimeout(ctx, f.Duration)
	defer end()
	f.group.Go(func() {
		for pause(trouble, f.faults.interval()) {
			if index, reset := f.faults.pick(len(f.devices)); f.devices[index].Cut(reset) {
				f.faults.cuts.Add(1)
			}
		}
	})
	f.Display.Watch(trouble, f.counters)
	f.faults.armed.Store(false)
	f.note("connections cut: %d", f.faults.cuts.Load())
	back, stopWaiting := context.WithTimeout(context.WithoutCancel(ctx), f.BackTime)
	defer stopWaiting()
	if !waitFor(back, func() bool { return f.live() == f.Devices }) {
		return Verdict{Line: fmt.Sprintf("wrong presence flags: unknown, only %d/%d devices came back", f.live(), f.Devices)}, nil
	}
	return f.presenceVerdict(ctx, func(i int) bool { return f.devices[i].Live() }), nil
}
