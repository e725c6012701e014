package broker_test

import (
	"context"
	"errors"
	"testing"

	mqtt "github.com/mochi-mqtt/server/v2"
	"github.com/opticworks/devicecloud/broker"
)

func TestStart(t *testing.T) {
	fresh := func(t *testing.T, hooks ...mqtt.Hook) *broker.Broker {
		t.Helper()
		b, err := broker.New(broker.Options{PlainAddr: "127.0.0.1:0"})
		if err != nil {
			t.Fatal(err)
		}
		if err := b.Use(hooks...); err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() {
			if err := b.Shutdown(context.Background()); err != nil {
				t.Error(err)
			}
		})
		return b
	}
	t.Run("refuses to serve without a guard hook", func(t *testing.T) {
		if err := fresh(t).Start(); !errors.Is(err, broker.ErrGuard) {
			t.Error(err)
		}
	})
	t.Run("refuses to serve with two guard hooks", func(t *testing.T) {
		if err := fresh(t, &guard{}, &guard{}).Start(); !errors.Is(err, broker.ErrGuard) {
			t.Error(err)
		}
	})
	t.Run("refuses a second start and late hooks", func(t *testing.T) {
		b := fresh(t, &guard{})
		if b.Ready() {
			t.Error("ready before Start")
		}
		if err := b.Start(); err != nil {
			t.Fatal(err)
		}
		if !b.Ready() {
			t.Error("not ready after Start")
		}
		if err := b.Start(); !errors.Is(err, broker.ErrStarted) {
			t.Error(err)
		}
		if err := b.Use(&guard{}); !errors.Is(err, broker.ErrStarted) {
			t.Error(err)
		}
		if b.TLSAddr() != nil || b.PlainAddr() == nil {
			t.Error(b.TLSAddr(), b.PlainAddr())
		}
	})
	t.Run("fails on an address in use and leaves nothing behind", func(t *testing.T) {
		h := start(t)
		b, err := broker.New(broker.Options{PlainAddr: h.PlainAddr().String()})
		if err != nil {
			t.Fatal(err)
		}
		if err := b.Use(&guard{}); err != nil {
			t.Fatal(err)
		}
		if err := b.Start(); err == nil || b.Ready() {
			t.Error("started on an address in use")
		}
		if err := b.Shutdown(context.Background()); err != nil {
			t.Error(err)
		}
	})
	t.Run("needs a TLS configuration for a TLS address", func(t *testing.T) {
		if _, err := broker.New(broker.Options{TLSAddr: ":0"}); err == nil {
			t.Error("no error")
		}
	})
}

func TestSession(t *testing.T) {
	h := start(t)
	for _, ver := range []byte{4, 5} {
		for name, c := range map[string]*client{"tls": h.secure(t, ver), "plain": h.client(t, ver)} {
			t.Run("subscribes, publishes and leaves over "+name, func(t *testing.T) {
				c.open("one")
				c.say(c.subscribe("a/b", 1, 7))
				c.want(9)
				c.say(c.publish("a/b", "hello", 1, 9))
				c.want(4)
				c.want(3)
				c.say(raw(0x40, 2, 0, 1))
				c.alive()
				before := h.guard.closed.Load()
				c.say(raw(0xe0, 0))
				if got := c.rest(); got != "" {
					t.Errorf("after DISCONNECT: %s", got)
				}
				until(t, "the clean-up ran", func() bool { return h.guard.closed.Load() > before })
				if _, kind := broker.CloseReason(h.guard.lastEnd()); kind != broker.ClientDisconnect {
					t.Error(kind)
				}
			})
		}
	}
}
