package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"github.com/opticworks/devicecloud/broker"
)

// contestant is a server of the message benchmark with a fleet that is connected to it.
type contestant struct {
	kind    string
	servers []*process // the broker; of mosquitto also the subscriber
	load    *process
	person  *watcher // of the watched one
	sent    int      // messages so far
	turns   []turn
}

// turn is one measurement of a contestant.
type turn struct {
	per100k  float64 // CPU seconds of 100,000 messages, at this rate
	perSec   float64 // messages a second
	p50, p99 float64 // milliseconds from PUBLISH to PUBACK
}

var contestantNames = map[string]string{
	"bare": "bare mochi", "ours": "devicecloud", "watched": "devicecloud, a person watching a device", "naive": "one UPDATE per message", "mosquitto": "mosquitto and a batching subscriber",
}

// messages measures the CPU time of the server's processes for 100,000 durable QoS 1 state messages. All servers and
// fleets of a size are there at once and take turns of less than a second or so, so that what else happens on the
// machine meets all of them alike.
func (b *bench) messages(ctx context.Context) error {
	kinds := b.servers
	if kinds == nil {
		kinds = []string{"bare", "ours", "watched", "naive"}
		if _, ok := mosquittoPath(); ok {
			kinds = append(kinds, "mosquitto")
		}
	}
	for _, devices := range b.size.Devices {
		if err := b.contest(ctx, kinds, devices); err != nil {
			return fmt.Errorf("%d devices: %w", devices, err)
		}
	}
	return nil
}

func (b *bench) contest(ctx context.Context, kinds []string, devices int) (err error) {
	var all []*contestant
	defer func() {
		for _, c := range all {
			err = errors.Join(err, c.person.close())
			err = stopAll(err, append(c.servers, c.load)...)
		}
	}()
	for _, kind := range kinds {
		c, err := b.enter(ctx, kind, devices)
		if c != nil {
			all = append(all, c)
		}
		if err != nil {
			return fmt.Errorf("%s: %w", kind, err)
		}
	}
	for round := range b.size.Turns {
		for _, c := range all {
			count := b.size.Messages
			if c.kind == "naive" {
				count = b.size.NaiveMessages
			}
			t, err := c.turn(count)
			if err != nil {
				return fmt.Errorf("%s: %w", c.kind, err)
			}
			c.turns = append(c.turns, t)
			b.progress("messages, %d devices, turn %d: %s %.2f s CPU per 100,000, %.0f/s", devices, round+1, c.kind, t.per100k, t.perSec)
		}
	}
	return b.reportMessages(ctx, all, devices)
}

// enter starts a contestant. What it returns has to be stopped even after an error.
func (b *bench) enter(ctx context.Context, kind string, devices int) (*contestant, error) {
	servers, addr, err := b.startServer(ctx, kind, devices)
	if err != nil {
		return nil, err
	}
	c := &contestant{kind: kind, servers: servers}
	if kind == "watched" {
		if c.person, err = watch(ctx, addr); err != nil {
			return c, err
		}
	}
	if c.load, err = b.startLoad(ctx, addr.Plain, false); err != nil {
		return c, err
	}
	if _, err := c.load.ask(request{Do: "connect", Count: devices}); err != nil {
		return c, err
	}
	// Once around, so that what only a first message does is done.
	if _, err := c.turn(devices); err != nil {
		return c, err
	}
	_, err = settledCPU(ctx, servers...)
	return c, err
}

// turn lets the fleet send `count` messages, every device the same number, and measures until the last PUBACK, or
// until mosquitto's subscriber has written the last row.
func (c *contestant) turn(count int) (t turn, err error) {
	before, err := cpu(c.servers...)
	if err != nil {
		return t, err
	}
	sent, err := c.load.ask(request{Do: "publish", Count: count})
	c.sent += count
	if err == nil && c.kind == "mosquitto" {
		_, err = c.servers[1].ask(request{Do: "await", Count: c.sent})
	}
	if err != nil {
		return t, err
	}
	after, err := cpu(c.servers...)
	return turn{
		per100k: (after - before).Seconds() * 100_000 / float64(count), perSec: float64(count) / sent.Seconds,
		p50: sent.P50, p99: sent.P99,
	}, err
}

// column is one field of every turn.
func (c *contestant) column(field func(turn) float64) (list []float64) {
	for _, t := range c.turns {
		list = append(list, field(t))
	}
	return list
}

func (b *bench) reportMessages(ctx context.Context, all []*contestant, devices int) error {
	per100k := func(t turn) float64 { return t.per100k }
	var bare, ours *contestant
	for _, c := range all {
		switch c.kind {
		case "bare":
			bare = c
		case "ours":
			ours = c
		}
	}
	missed := false
	for _, c := range all {
		line := row{
			Benchmark: "messages", What: fmt.Sprintf("%s, %d devices", contestantNames[c.kind], devices), Unit: "s CPU/100k",
			Samples: c.column(per100k),
			Note: fmt.Sprintf("%.0f/s, PUBACK p50 %.0f p99 %.0f ms", median(c.column(func(t turn) float64 { return t.perSec })),
				median(c.column(func(t turn) float64 { return t.p50 })), median(c.column(func(t turn) float64 { return t.p99 }))),
		}
		if bare != nil && c != bare {
			line.Against, line.Ratio = "bare", median(ratios(line.Samples, bare.column(per100k)))
			if c == ours {
				line.Target, line.Stretch = 1.5, 1.35
			}
		}
		missed = b.report.add(line) || missed
	}
	file, wanted := b.profileFile(fmt.Sprintf("messages-%d", devices), missed)
	if !wanted || ours == nil {
		return nil
	}
	if bare != nil {
		if err := b.profileTurn(bare, besideFile(file)); err != nil {
			return err
		}
	}
	if err := b.profileTurn(ours, file); err != nil {
		return err
	}
	return b.explain(ctx, fmt.Sprintf("messages of %d devices: where the time goes", devices), file)
}

// profileTurn writes a CPU profile of ten turns.
func (b *bench) profileTurn(c *contestant, file string) error {
	if _, err := c.servers[0].ask(request{Do: "profile", File: file}); err != nil {
		return err
	}
	_, err := c.turn(10 * b.size.Messages)
	_, ended := c.servers[0].ask(request{Do: "profile end"})
	return errors.Join(err, ended)
}

// startServer starts a server with a fresh database in which the devices are enrolled. The first process is the
// server; mosquitto's subscriber is the second.
func (b *bench) startServer(ctx context.Context, kind string, devices int) ([]*process, reply, error) {
	s, err := b.newStart(ctx, kind, devices, kind == "watched")
	if err != nil {
		return nil, reply{}, err
	}
	if kind == "watched" {
		kind, s.Admin = "ours", true
	}
	if kind != "mosquitto" {
		p, err := spawn(ctx, kind, s)
		if err != nil {
			return nil, reply{}, err
		}
		return []*process{p}, p.hello, nil
	}
	p, err := newMosquitto(ctx, s.Dir)
	if err != nil {
		return nil, reply{}, err
	}
	s.Addr = p.hello.Plain
	writer, err := spawn(ctx, "subscriber", s)
	if err != nil {
		return nil, reply{}, stopAll(err, p)
	}
	return []*process{p, writer}, p.hello, nil
}

// startLoad starts the load generator against a server.
func (b *bench) startLoad(ctx context.Context, addr string, secure bool) (*process, error) {
	_, _, ca, err := broker.DevCA(b.caDir())
	if err != nil {
		return nil, err
	}
	return spawn(ctx, "load", start{Addr: addr, TLS: secure, CA: ca})
}

func (b *bench) caDir() string { return filepath.Join(b.dir, "ca") }

// newStart is what a server needs: certificate, and a database if it uses one of ours.
func (b *bench) newStart(ctx context.Context, kind string, devices int, past bool) (s start, err error) {
	s.Devices = devices
	if s.Cert, s.Key, _, err = broker.DevCA(b.caDir()); err != nil {
		return s, err
	}
	switch kind {
	case "ours", "watched", "mosquitto":
		s.Database, err = b.newStore(ctx, devices, past)
		s.Dir = filepath.Dir(s.Database)
	default:
		s.Dir, err = os.MkdirTemp(b.dir, "server-")
	}
	return s, err
}
