package main

import (
	"context"
	"errors"
	"fmt"
)

// connect measures the server's CPU time of a full TLS 1.3 handshake (ECDSA P-256, no resumption), a CONNECT and a
// DISCONNECT, the clean-up included. The servers take turns.
func (b *bench) connect(ctx context.Context) (err error) {
	var bare, ours *contestant
	defer func() {
		for _, c := range []*contestant{bare, ours} {
			if c != nil {
				err = stopAll(err, append(c.servers, c.load)...)
			}
		}
	}()
	if bare, err = b.enterConnect(ctx, "bare"); err != nil {
		return fmt.Errorf("bare: %w", err)
	}
	if ours, err = b.enterConnect(ctx, "ours"); err != nil {
		return fmt.Errorf("ours: %w", err)
	}
	samples := map[*contestant][]float64{}
	for round := range b.size.Turns {
		for _, c := range []*contestant{bare, ours} {
			ms, err := c.connects(ctx, b.size.Connects)
			if err != nil {
				return fmt.Errorf("%s: %w", c.kind, err)
			}
			b.progress("connect, turn %d: %s %.3f ms CPU", round+1, c.kind, ms)
			samples[c] = append(samples[c], ms)
		}
	}
	b.report.add(row{Benchmark: "connect", What: "bare mochi, TLS connect and disconnect", Unit: "ms CPU", Samples: samples[bare]})
	missed := b.report.add(row{
		Benchmark: "connect", What: "devicecloud, the same with authentication and presence", Unit: "ms CPU", Samples: samples[ours],
		Against: "bare", Ratio: median(ratios(samples[ours], samples[bare])), Target: 1.25,
	})
	file, wanted := b.profileFile("connect", missed)
	if !wanted {
		return nil
	}
	if err := b.profileConnects(ctx, bare, besideFile(file)); err != nil {
		return err
	}
	if err := b.profileConnects(ctx, ours, file); err != nil {
		return err
	}
	return b.explain(ctx, "connects: where the time goes", file)
}

func (b *bench) enterConnect(ctx context.Context, kind string) (*contestant, error) {
	servers, addr, err := b.startServer(ctx, kind, b.size.Connects)
	if err != nil {
		return nil, err
	}
	c := &contestant{kind: kind, servers: servers}
	if c.load, err = b.startLoad(ctx, addr.TLS, true); err != nil {
		return c, err
	}
	_, err = c.connects(ctx, b.size.Connects) // the first connection of a device writes more than the ones after it
	return c, err
}

// connects lets devices connect and disconnect, and returns the CPU milliseconds of one.
func (c *contestant) connects(ctx context.Context, count int) (float64, error) {
	before, err := settledCPU(ctx, c.servers...)
	if err != nil {
		return 0, err
	}
	if _, err := c.load.ask(request{Do: "handshakes", Count: count}); err != nil {
		return 0, err
	}
	after, err := settledCPU(ctx, c.servers...)
	return (after - before).Seconds() * 1000 / float64(count), err
}

// profileConnects writes a CPU profile of a few turns.
func (b *bench) profileConnects(ctx context.Context, c *contestant, file string) error {
	if _, err := c.servers[0].ask(request{Do: "profile", File: file}); err != nil {
		return err
	}
	var err error
	for range min(5, b.size.Turns) {
		if err == nil {
			_, err = c.connects(ctx, b.size.Connects)
		}
	}
	_, ended := c.servers[0].ask(request{Do: "profile end"})
	return errors.Join(err, ended)
}
