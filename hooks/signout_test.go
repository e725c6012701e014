package hooks_test

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"testing"
	"time"

	"github.com/opticworks/devicecloud/firmware-sim/mqttwire"
	"github.com/opticworks/devicecloud/registry"
)

// actor is whose a person's token is.
func (c *cloud) actor(p person) registry.Actor {
	c.t.Helper()
	a, _, err := c.people.ActorByToken(context.Background(), p.token)
	if err != nil {
		c.t.Fatal(err)
	}
	return a
}

// A sign-out ends the MQTT sessions that stand on it within a second, and no other.
func TestSignOutEndsSessions(t *testing.T) {
	ctx := context.Background()
	for _, version := range versions {
		for name, signOut := range map[string]func(c *cloud, p person) error{
			"sign-out":        func(c *cloud, p person) error { return c.people.SignOut(ctx, c.actor(p), "") },
			"end of sessions": func(c *cloud, p person) error { _, err := c.people.EndSessions(ctx, c.actor(p), false); return err },
			"disabling":       func(c *cloud, p person) error { return c.people.DisableUser(ctx, registry.System(), p.id) },
			"help by staff": func(c *cloud, p person) error {
				_, err := c.people.SignOutUser(ctx, registry.System(), p.id)
				return err
			},
			"erasure": func(c *cloud, p person) error { return c.people.Erase(ctx, c.actor(p), p.id) },
		} {
			t.Run(fmt.Sprintf("%s, MQTT %s", name, version), func(t *testing.T) {
				c := newCloud(t)
				d := c.enroll()
				u, other := c.login("ann", d), c.login("bob", d)
				app, witness := c.app(u, "u:", "phone", version), c.app(other, "u:", "phone", version)
				subscribe(t, app, 1, d.topic("state"))
				subscribe(t, witness, 1, d.topic("state"))
				began := time.Now()
				if err := signOut(c, u); err != nil {
					t.Fatal(err)
				}
				code := ended(t, app)
				if took := time.Since(began); took > time.Second {
					t.Errorf("the session ended after %v", took)
				}
				if version == mqttwire.V5 && code != 0x87 {
					t.Errorf("DISCONNECT 0x%02x", code)
				}
				publish(t, c.connect(d, version), d.topic("state"), goodState)
				for p := next(t, witness); decode(t, p.Payload).Uptime == nil; p = next(t, witness) {
				}
				var no *mqttwire.RefusedError
				if _, err := c.dial().Connect(u.hello("u:", "phone", version)); !errors.As(err, &no) {
					t.Errorf("the token connects again: %v", err)
				}
			})
		}
	}
	t.Run("of staff too", func(t *testing.T) {
		c := newCloud(t)
		boss := c.staff()
		app := c.app(boss, "a:", "console", mqttwire.V5)
		if err := c.people.SignOut(ctx, c.actor(boss), ""); err != nil {
			t.Fatal(err)
		}
		if code := ended(t, app); code != 0x87 {
			t.Errorf("DISCONNECT 0x%02x", code)
		}
	})
	t.Run("another sign-in of the same person stays", func(t *testing.T) {
		c := newCloud(t)
		first, second := c.login("ann"), c.login("ann")
		phone, tablet := c.app(first, "u:", "phone", mqttwire.V5), c.app(second, "u:", "tablet", mqttwire.V5)
		if err := c.people.SignOut(ctx, c.actor(first), ""); err != nil {
			t.Fatal(err)
		}
		ended(t, phone)
		if err := tablet.Ping(); err != nil {
			t.Error(err)
		}
	})
}

// What is kept for a person who is away goes with the sign-in that it stands on.
func TestSignOutForgetsWhatIsKept(t *testing.T) {
	ctx := context.Background()
	keep := mqttwire.Number(mqttwire.PropSessionExpiry, 3600)
	away := func(t *testing.T, c *cloud, p person) {
		t.Helper()
		app := c.app(p, "u:", "phone", mqttwire.V5, keep)
		subscribe(t, app, 1, "opticworks/+/state")
		if err := app.Close(); err != nil {
			t.Fatal(err)
		}
		eventually(t, "away", func() bool { return c.counter("mqtt_sessions", "reader") == 0 })
	}
	back := func(t *testing.T, c *cloud, p person) (*mqttwire.Client, bool) {
		t.Helper()
		hello := p.hello("u:", "phone", mqttwire.V5)
		hello.Resume = true
		app := c.dial()
		ack, err := app.Connect(hello, keep)
		if err != nil {
			t.Fatal(err)
		}
		return app, ack.SessionPresent
	}
	kept := func(c *cloud, p person) bool {
		_, ok := c.broker.Server().Clients.Get("u:" + p.id + ":phone")
		return ok
	}
	t.Run("messages that wait are not delivered to the next sign-in", func(t *testing.T) {
		c := newCloud(t)
		d := c.enroll()
		first, second := c.login("ann", d), c.login("ann")
		away(t, c, first)
		publish(t, c.connect(d, mqttwire.V5), d.topic("state"), goodState)
		if err := c.people.SignOut(ctx, c.actor(first), ""); err != nil {
			t.Fatal(err)
		}
		eventually(t, "forgotten", func() bool { return !kept(c, first) })
		app, present := back(t, c, second)
		if present {
			t.Error("the session was kept")
		}
		silent(t, app)
	})
	t.Run("a session that the next sign-in has taken over stays its own", func(t *testing.T) {
		c := newCloud(t)
		first, second := c.login("ann"), c.login("ann")
		away(t, c, first)
		app, present := back(t, c, second)
		if !present {
			t.Error("the session was not kept")
		}
		if err := c.people.SignOut(ctx, c.actor(first), ""); err != nil {
			t.Fatal(err)
		}
		if err := app.Ping(); err != nil {
			t.Error(err)
		}
		if err := app.Close(); err != nil {
			t.Fatal(err)
		}
		eventually(t, "away", func() bool { return c.counter("mqtt_sessions", "reader") == 0 })
		if !kept(c, first) {
			t.Error("the second sign-in's session was forgotten")
		}
	})
	t.Run("a connection that ends by a sign-out is not kept", func(t *testing.T) {
		c := newCloud(t)
		u := c.login("ann")
		app := c.app(u, "u:", "phone", mqttwire.V5, keep)
		if err := c.people.SignOut(ctx, c.actor(u), ""); err != nil {
			t.Fatal(err)
		}
		ended(t, app)
		eventually(t, "forgotten", func() bool { return !kept(c, u) })
	})
	t.Run("however sign-outs, closings and connections meet", func(t *testing.T) {
		c := newCloud(t)
		for range 40 {
			u := c.login("ann")
			a := c.actor(u)
			var wg sync.WaitGroup
			app := c.app(u, "u:", "phone", mqttwire.V5, keep)
			wg.Go(func() { _ = app.Close() })
			wg.Go(func() {
				hello := u.hello("u:", "phone", mqttwire.V5)
				hello.Resume = true
				_, _ = c.dial().Connect(hello, keep) // it may be refused
			})
			wg.Go(func() {
				if err := c.people.SignOut(ctx, a, ""); err != nil {
					t.Error(err)
				}
			})
			wg.Wait()
			eventually(t, "nothing is left of it", func() bool { return !kept(c, u) && c.counter("mqtt_sessions", "reader") == 0 })
		}
	})
}
