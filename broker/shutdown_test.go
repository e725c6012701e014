package broker_test

import (
	"context"
	"errors"
	"fmt"
	"net"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/opticworks/devicecloud/broker"
)

func TestShutdown(t *testing.T) {
	t.Run("tells sessions why, closes silent sockets and waits for the clean-up", func(t *testing.T) {
		h := start(t)
		v4, v5, tls := h.client(t, 4).open("a"), h.client(t, 5).open("b"), h.secure(t, 5).open("c")
		silent := h.client(t, 4)
		half := h.client(t, 4)
		half.say(connect(4, "x")[:9])
		until(t, "all are in", func() bool { return h.Open() == 5 })
		h.stop(t)
		for c, want := range map[*client]string{v4: "", v5: "e0028b00", tls: "e0028b00", silent: "", half: ""} {
			if got := c.rest(); got != want {
				t.Errorf("got %s, want %s", got, want)
			}
		}
		if n := h.guard.closed.Load(); n != 5 {
			t.Errorf("%d clean-ups", n)
		}
		if h.Ready() {
			t.Error("still ready")
		}
		h.stop(t) // again
	})
	t.Run("lets nobody in meanwhile", func(t *testing.T) {
		release := make(chan struct{})
		h := start(t, func(s *setup) { s.guard.onClosed = func(*broker.Conn, error) { <-release } })
		h.client(t, 4).open("a")
		ended := make(chan struct{})
		go func() { h.stop(t); close(ended) }()
		until(t, "it drains", func() bool { return !h.Ready() })
		until(t, "nobody listens", func() bool {
			nc, err := net.Dial("tcp", h.PlainAddr().String())
			if err == nil {
				_ = nc.Close()
			}
			return err != nil
		})
		close(release)
		<-ended
	})
	t.Run("paces the end of a fleet", func(t *testing.T) {
		for _, c := range []struct {
			rate        float64
			within      time.Duration
			least, most time.Duration
		}{
			{20, time.Minute, 300 * time.Millisecond, 3 * time.Second},
			{1, 400 * time.Millisecond, 200 * time.Millisecond, 3 * time.Second},
			{-1, time.Minute, 0, time.Second},
		} {
			h := start(t, func(s *setup) { s.Limits.DrainRate, s.Limits.DrainTime = c.rate, c.within })
			for i := range 12 {
				h.client(t, 5).open(fmt.Sprint("device", i))
			}
			begun := time.Now()
			h.stop(t)
			if took := time.Since(begun); took < c.least || took > c.most {
				t.Errorf("rate %v within %v took %v", c.rate, c.within, took)
			}
		}
	})
	t.Run("cuts connections when its context ends, and reports what is stuck", func(t *testing.T) {
		release := make(chan struct{})
		h := start(t, func(s *setup) { s.guard.onClosed = func(*broker.Conn, error) { <-release } })
		h.client(t, 4).open("a")
		ctx, cancel := context.WithTimeout(context.Background(), 10*time.Millisecond)
		defer cancel()
		if err := h.Shutdown(ctx); !errors.Is(err, broker.ErrStuck) || !errors.Is(err, context.DeadlineExceeded) {
			t.Error(err)
		}
		close(release)
	})
	t.Run("in a storm leaves nothing behind", func(t *testing.T) {
		for range 3 {
			h := start(t, func(s *setup) { s.guard.lockIDs = true })
			var stop atomic.Bool
			var all sync.WaitGroup
			var sessions atomic.Int64
			for i := range 16 {
				all.Go(func() {
					for n := 0; !stop.Load(); n++ {
						nc, err := net.Dial("tcp", h.PlainAddr().String())
						if err != nil {
							return
						}
						c := &client{Conn: nc, t: t, ver: byte(4 + n%2)}
						_ = nc.SetDeadline(time.Now().Add(patience))
						_, _ = nc.Write(append(connect(c.ver, fmt.Sprint("device", i%5)), c.subscribe("a/#", 1, 1)...))
						_, _ = nc.Write(c.publish("a/b", "x", 1, 1))
						_, _ = nc.Read(make([]byte, 64))
						sessions.Add(1)
						_ = nc.Close()
					}
				})
			}
			until(t, "the storm blows", func() bool { return sessions.Load() > 100 })
			h.stop(t)
			stop.Store(true)
			all.Wait()
		}
	})
}

// Connections of one id at once and one after the other: one survives, hears what is published, and nothing is left of
// the others.
func TestTakeovers(t *testing.T) {
	const ids, rounds = 12, 8
	h := start(t, func(s *setup) { s.guard.lockIDs = true })
	var all sync.WaitGroup
	survivors := make([]chan *client, ids)
	for i := range ids {
		survivors[i] = make(chan *client, 4*rounds)
		all.Go(func() {
			id := fmt.Sprint("device", i)
			for round := range rounds {
				var together sync.WaitGroup
				for k := range 2 + (i+round)%3 {
					together.Go(func() {
						var c *client
						ver := byte(4 + k%2)
						if (i+round+k)%4 == 0 {
							c = h.secure(t, ver)
						} else {
							c = h.client(t, ver)
						}
						c.say(connect(ver, id), c.subscribe("to/"+id, 1, 1))
						if (round+k)%3 == 0 {
							_ = c.Close()
							return
						}
						survivors[i] <- c
					})
				}
				together.Wait()
			}
			close(survivors[i])
		})
	}
	all.Wait()
	// what a client of each id hears until the end
	var heard [ids]atomic.Int64
	var listening sync.WaitGroup
	for i := range ids {
		for c := range survivors[i] {
			listening.Go(func() {
				for {
					first, _, err := c.next()
					if err != nil {
						return
					}
					if first>>4 == 3 {
						heard[i].Add(1)
					}
				}
			})
		}
	}
	settled := func() bool { return h.Open() == h.Server().Clients.Len()-1 }
	until(t, "one connection is left of each id", settled)
	live := 0
	for i := range ids {
		id := fmt.Sprint("device", i)
		if _, ok := h.Server().Clients.Get(id); !ok {
			continue
		}
		live++
		until(t, id+" is subscribed", func() bool {
			_, ok := h.Server().Clients.Get(id)
			return !ok || len(h.Server().Topics.Subscribers("to/"+id).Subscriptions) == 1
		})
		if err := h.Server().Publish("to/"+id, []byte("x"), false, 0); err != nil {
			t.Fatal(err)
		}
		until(t, id+" hears", func() bool { return heard[i].Load() > 0 })
	}
	t.Logf("%d of %d ids live", live, ids)
	h.stop(t)
	listening.Wait()
	for _, err := range h.guard.ends {
		if errors.Is(err, broker.ErrPanic) {
			t.Error(err)
		}
	}
}
