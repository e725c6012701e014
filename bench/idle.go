package main

import (
	"context"
	"fmt"
	"time"
)

// idle measures what the server uses when nobody is connected and nobody asks, although it knows many devices, each of
// which has connected before.
func (b *bench) idle(ctx context.Context) (err error) {
	s, err := b.newStart(ctx, "ours", b.size.Known, true)
	if err != nil {
		return err
	}
	p, err := spawn(ctx, "ours", s)
	if err != nil {
		return err
	}
	defer func() { err = stopAll(err, p) }()
	before, err := settledCPU(ctx, p)
	if err != nil {
		return err
	}
	length := time.Duration(b.size.IdleSeconds) * time.Second
	b.progress("idle: watching for %s", length)
	begun := time.Now()
	if err := pause(ctx, length); err != nil {
		return err
	}
	after, err := cpu(p)
	if err != nil {
		return err
	}
	missed := b.report.add(row{
		Benchmark: "idle", What: fmt.Sprintf("devicecloud, %d known devices, none connected", b.size.Known), Unit: "% of a core",
		Value: (after - before).Seconds() / time.Since(begun).Seconds() * 100, Target: 3, Note: fmt.Sprintf("over %s", length),
	})
	file, wanted := b.profileFile("idle", missed)
	if !wanted {
		return nil
	}
	if _, err := p.ask(request{Do: "profile", File: file}); err != nil {
		return err
	}
	if err := pause(ctx, length); err != nil {
		return err
	}
	if _, err := p.ask(request{Do: "profile end"}); err != nil {
		return err
	}
	return b.explain(ctx, "idle: where the time goes", file)
}
