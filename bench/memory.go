package main

import (
	"context"
	"fmt"
)

// footprint is the memory of a server at one moment.
type footprint struct {
	memory        // as it is
	live   memory // after a collection, with everything free given back
	heap   int64  // of live objects and stacks
}

// memory measures what an idle TLS device costs: fresh, and after waves in which all connections break and all devices
// return at once.
func (b *bench) memory(ctx context.Context) error {
	fleets := map[string][]footprint{}
	retries := map[string]int{}
	kinds := []string{"bare", "ours"}
	for _, kind := range kinds {
		stages, tried, err := b.measureMemory(ctx, kind)
		if err != nil {
			return fmt.Errorf("%s: %w", kind, err)
		}
		fleets[kind], retries[kind] = stages, tried
	}
	for _, kind := range kinds {
		b.reportMemory(kind, fleets, retries[kind])
	}
	return nil
}

// The stages at which a server's memory is looked at; each wave adds one.
const (
	empty     = iota
	connected // TLS and CONNECT
	fresh     // a first SUBSCRIBE and a first state message too: what a device is in the field
)

func (b *bench) reportMemory(kind string, fleets map[string][]footprint, retries int) {
	name, target, growth := "bare mochi", 0.0, 0.0
	if kind == "ours" {
		name, target, growth = "devicecloud", 45, 15
	}
	// perDevice is what a stage has more than the empty server, in KB.
	perDevice := func(kind string, stage int, what func(footprint) int64) float64 {
		return float64(what(fleets[kind][stage])-what(fleets[kind][empty])) / float64(b.size.IdleDevices) / 1000
	}
	// What the empty server holds before its first collection is left over from its start.
	rss := func(f footprint) int64 { return f.RSS }
	for _, stages := range fleets {
		stages[empty].RSS = stages[empty].live.RSS
	}
	liveRSS := func(f footprint) int64 { return f.live.RSS }
	detail := func(what string, stage int, of func(footprint) int64) {
		line := row{Benchmark: "memory", What: what, Unit: "KB", Value: perDevice(kind, stage, of)}
		if theirs := perDevice("bare", stage, of); kind == "ours" && theirs > 0 {
			line.Against, line.Ratio = "bare", line.Value/theirs
		}
		b.report.add(line)
	}
	last := len(fleets[kind]) - 1
	b.report.add(row{Benchmark: "memory", What: name + ", no device", Unit: "MB", Value: float64(fleets[kind][empty].live.RSS) / 1e6})
	detail(name+", connected TLS device", connected, liveRSS)
	for _, stage := range []int{fresh, last} {
		when := "fresh"
		if stage == last {
			when = fmt.Sprintf("after %d waves", b.size.Waves)
		}
		b.report.add(row{
			Benchmark: "memory", What: name + ", idle TLS device, " + when, Unit: "KB", Target: target,
			Value: perDevice(kind, stage, liveRSS), Note: fmt.Sprintf("RSS after a collection, %d devices with 7 subscriptions", b.size.IdleDevices),
		})
		detail("  RSS before the collection", stage, rss)
		detail("  of it objects and stacks", stage, func(f footprint) int64 { return f.heap })
	}
	b.report.add(row{
		Benchmark: "memory", What: fmt.Sprintf("%s, growth over %d waves", name, b.size.Waves), Unit: "%", Target: growth,
		Value: (perDevice(kind, last, liveRSS)/perDevice(kind, fresh, liveRSS) - 1) * 100,
		Note:  fmt.Sprintf("%d connections tried again", retries),
	})
}

// measureMemory is the server at each stage.
func (b *bench) measureMemory(ctx context.Context, kind string) (stages []footprint, retries int, err error) {
	servers, addr, err := b.startServer(ctx, kind, b.size.IdleDevices)
	if err != nil {
		return nil, 0, err
	}
	defer func() { err = stopAll(err, servers...) }()
	load, err := b.startLoad(ctx, addr.TLS, true)
	if err != nil {
		return nil, 0, err
	}
	defer func() { err = stopAll(err, load) }()
	report := request{Do: "publish", Count: b.size.IdleDevices}
	steps := [][]request{nil, {{Do: "connect", Count: b.size.IdleDevices}}, {{Do: "subscribe"}, report}}
	for range b.size.Waves {
		steps = append(steps, []request{{Do: "storm"}, report})
	}
	for stage, requests := range steps {
		for _, r := range requests {
			answer, err := load.ask(r)
			if err != nil {
				return nil, 0, err
			}
			retries += answer.Retries
		}
		if err := pause(ctx, b.size.Settle); err != nil {
			return nil, 0, err
		}
		f, err := footprintOf(servers[0])
		if err != nil {
			return nil, 0, err
		}
		b.progress("memory %s, stage %d: RSS %.1f MB, after a collection %.1f MB", kind, stage, float64(f.RSS)/1e6, float64(f.live.RSS)/1e6)
		stages = append(stages, f)
	}
	return stages, retries, nil
}

func footprintOf(p *process) (f footprint, err error) {
	if f.memory, err = memoryOf(p); err != nil {
		return f, err
	}
	answer, err := p.ask(request{Do: "gc"})
	if err != nil {
		return f, err
	}
	f.heap = answer.Heap + answer.Stack
	f.live, err = memoryOf(p)
	return f, err
}
