package hooks_test

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/opticworks/devicecloud/firmware-sim/mqttwire"
	"github.com/opticworks/devicecloud/registry"
	"github.com/opticworks/devicecloud/topic"
)

// Every form of filter that people and staff use.
func TestPeopleSubscribe(t *testing.T) {
	c := newCloud(t)
	mine, others := c.enroll(), c.enroll()
	u, boss := c.login("ann", mine), c.staff()
	type form struct {
		filter        string
		person, staff bool
	}
	forms := []form{
		{"opticworks/+/state", true, true},
		{"opticworks/+/#", true, true},
		{"opticworks/+/config/+", true, true},
		{mine.topic("#"), true, true},
		{mine.topic("+"), true, true},
		{mine.topic("+/status"), true, true},
		{mine.topic("kvs/#"), false, false},
		{mine.topic("command/+"), true, true},
		{"#", false, true},
		{"+/#", false, true},
		{"opticworks/#", false, true},
		{"+/+/state", false, true},
		{"opticworks/+", false, true},
		{others.topic("#"), false, true},
		{others.topic("+"), false, true},
		{"$SYS/#", false, true},
		{"$SYS/broker/version", false, true},
		{"$sys/#", false, false},
		{"$SYSTEM/#", false, false},
		{"$CONTROL/#", false, false},
		{"$share/g/" + mine.topic("state"), false, true},
		{"$SHARE/g/opticworks/+/state", false, true},
		{"$share/g/$share/h/#", false, false},
		{"$share/g/$CONTROL/#", false, false},
		{"opticworks/+/kvs/#", false, false},
		{"opticworks/+/kvs/credentials/response", false, false},
		{"other/+/state", false, true},
	}
	for _, k := range topic.Kinds() {
		name, theirs := spell(mine.id, k), spell(others.id, k)
		forms = append(forms, form{name, k.People(), k.People()}, form{theirs, false, k.People()})
		for _, d := range disguises(name, mine.id, others.id) {
			if d == theirs || strings.HasPrefix(strings.ToLower(d), "$share/") {
				continue
			}
			forms = append(forms, form{d, false, strings.HasPrefix(d, "$SYS/")})
		}
	}
	t.Logf("%d forms", 4*len(forms))
	for _, version := range versions {
		for prefix, p := range map[string]person{"u:": u, "a:": boss} {
			t.Run(fmt.Sprintf("MQTT %s as %s", version, prefix), func(t *testing.T) {
				app := c.app(p, prefix, "x", version)
				for i, f := range forms {
					if i%100 == 99 { // a session has a bound on filters
						app = c.app(p, prefix, "x", version)
					}
					_, err := app.Subscribe(mqttwire.Filter{Topic: f.filter})
					want := f.person
					if prefix == "a:" {
						want = f.staff
					}
					if (err == nil) != want {
						t.Errorf("%q: %v, want allowed = %v", f.filter, err, want)
					}
					var no *mqttwire.RefusedError
					if err != nil && (!errors.As(err, &no) || version == mqttwire.V5 && no.Code != 0x87 || version == mqttwire.V311 && no.Code != 0x80) {
						t.Errorf("%q: %v", f.filter, err)
					}
				}
			})
		}
	}
}

// A filter over all devices delivers those that a person may read, and of those
// only what is for people.
func TestDeliveryIsCheckedByTopic(t *testing.T) {
	c := newCloud(t)
	mine, others := c.enroll(), c.enroll()
	u := c.login("ann", mine)
	app := c.app(u, "u:", "phone", mqttwire.V5)
	subscribe(t, app, 1, "opticworks/+/#", mine.topic("#"))
	a, b := c.connect(mine, mqttwire.V311), c.connect(others, mqttwire.V311)
	for _, k := range byDirection(topic.FromDevice) {
		publish(t, b, spell(others.id, k), payloadOf(others, k))
		publish(t, a, spell(mine.id, k), payloadOf(mine, k))
	}
	got := map[topic.Kind]bool{}
	for {
		p, err := app.Next(300 * time.Millisecond)
		if err != nil {
			break
		}
		name, ok := root.Parse(p.Topic)
		if !ok || name.DeviceID != mine.id || !name.Kind.People() {
			t.Errorf("got %s", p.Topic)
		}
		got[name.Kind] = true
	}
	for _, k := range topic.Kinds() {
		if k.People() && !got[k] {
			t.Errorf("%s was not delivered", k)
		}
	}
}

// What a person loses they lose at once, and what they get they get.
func TestAccessChanges(t *testing.T) {
	c := newCloud(t)
	d := c.enroll()
	u := c.login("ann")
	app := c.app(u, "u:", "phone", mqttwire.V5)
	subscribe(t, app, 1, "opticworks/+/config/status")
	device := c.connect(d, mqttwire.V311)
	status := func(i int) string { return fmt.Sprintf(`{"version":%d,"status":"applied"}`, i) }
	publish(t, device, d.topic("config/status"), status(1))
	silent(t, app)
	c.give(u.id, d, registry.RoleViewer)
	n := 1
	eventually(t, "it is delivered", func() bool {
		n++
		publish(t, device, d.topic("config/status"), status(n))
		_, err := app.Next(20 * time.Millisecond)
		return err == nil
	})
	asOwner := registry.Actor{Kind: registry.ActorUser, ID: u.id, Scopes: []string{registry.ScopeDeviceConfigure}}
	start := time.Now()
	if err := c.reg.RemoveDevice(context.Background(), asOwner, d.id); err != nil {
		t.Fatal(err)
	}
	eventually(t, "it is not delivered any more", func() bool {
		n++
		publish(t, device, d.topic("config/status"), status(n))
		for {
			p, err := app.Next(20 * time.Millisecond)
			if err != nil {
				return true
			}
			if string(p.Payload) == status(n) {
				return false
			}
		}
	})
	if took := time.Since(start); took > time.Second {
		t.Errorf("it took %v", took)
	}
	if _, err := app.Subscribe(mqttwire.Filter{Topic: d.topic("state")}); err == nil {
		t.Error("it may still be subscribed to")
	}
}

// stuck is the real store, whose reads hang while a test wants it so.
type stuck struct {
	registry.Store
	hang *atomic.Bool
	free chan struct{}
}

func (s stuck) View(ctx context.Context, f func(registry.Tx) error) error {
	if s.hang.Load() {
		select {
		case <-s.free:
		case <-ctx.Done():
			return registry.ErrUnavailable.With(ctx.Err())
		}
	}
	return s.Store.View(ctx, f)
}

// When it cannot be read what a person may read, nothing is delivered, within a
// second; and everything again when it can.
func TestAccessThatCannotBeRead(t *testing.T) {
	var hang atomic.Bool
	free := make(chan struct{})
	c := newCloud(t, func(s *setup) {
		s.store = func(real registry.Store) registry.Store { return stuck{real, &hang, free} }
	})
	d := c.enroll()
	u := c.login("ann", d)
	app := c.app(u, "u:", "phone", mqttwire.V5)
	subscribe(t, app, 1, d.topic("config/status"))
	device := c.connect(d, mqttwire.V311)
	n := 0
	delivered := func() bool {
		n++
		payload := fmt.Sprintf(`{"version":%d,"status":"applied"}`, n)
		publish(t, device, d.topic("config/status"), payload)
		for {
			p, err := app.Next(50 * time.Millisecond)
			if err != nil || string(p.Payload) == payload {
				return err == nil
			}
		}
	}
	if !delivered() {
		t.Fatal("nothing is delivered at first")
	}
	hang.Store(true)
	start := time.Now()
	c.courier.AccessChanged(u.id)
	eventually(t, "nothing is delivered", func() bool { return !delivered() })
	if took := time.Since(start); took > time.Second {
		t.Errorf("it took %v", took)
	}
	hang.Store(false)
	close(free)
	eventually(t, "it is delivered again", delivered)
}

func TestTokensEnd(t *testing.T) {
	c := newCloud(t, func(s *setup) { s.account.AccessTTL = 2 * time.Second })
	u := c.login("ann")
	app := c.app(u, "u:", "phone", mqttwire.V5)
	if code := ended(t, app); code != 0xa0 {
		t.Errorf("%#x", byte(code))
	}
	if _, err := c.dial().Connect(u.hello("u:", "phone", mqttwire.V5)); err == nil {
		t.Error("an old token came in")
	}
}

// One person cannot fill the server with sessions that wait; the one that waits
// longest makes room.
func TestSessionsOfAPersonAreBounded(t *testing.T) {
	c := newCloud(t)
	u := c.login("ann")
	keep := mqttwire.Number(mqttwire.PropSessionExpiry, 3600)
	known := func(name string) bool { _, ok := c.broker.Server().Clients.Get("u:" + u.id + ":" + name); return ok }
	for i := range 30 {
		app := c.app(u, "u:", fmt.Sprint("away", i), mqttwire.V5, keep)
		if err := app.Close(); err != nil {
			t.Fatal(err)
		}
		eventually(t, "away", func() bool { return c.counter("mqtt_sessions", "reader") == 0 })
	}
	if known("away0") || !known("away29") {
		t.Error("the wrong sessions were forgotten")
	}
	for i := range 20 {
		c.app(u, "u:", fmt.Sprint("live", i), mqttwire.V5)
	}
	ack, err := c.dial().Connect(u.hello("u:", "one-more", mqttwire.V5))
	if err == nil || ack.ReasonCode != 0x97 {
		t.Errorf("%v", err)
	}
	c.app(u, "u:", "live3", mqttwire.V311) // a takeover is not one more
}

// Staff may share a subscription among several clients.
func TestSharedSubscriptions(t *testing.T) {
	c := newCloud(t)
	d := c.enroll()
	boss := c.staff()
	var apps []*mqttwire.Client
	for i := range 2 {
		apps = append(apps, c.app(boss, "a:", fmt.Sprint(i), mqttwire.V5))
		subscribe(t, apps[i], 1, "$share/g/opticworks/+/config/status")
		silent(t, apps[i]) // nothing retained [MQTT-4.8.2]
	}
	device := c.connect(d, mqttwire.V311)
	for i := range 10 {
		publish(t, device, d.topic("config/status"), fmt.Sprintf(`{"version":%d,"status":"applied"}`, i))
	}
	got := map[string]int{}
	for _, app := range apps {
		for {
			p, err := app.Next(100 * time.Millisecond)
			if err != nil {
				break
			}
			got[string(p.Payload)]++
		}
	}
	for payload, n := range got {
		if n != 1 {
			t.Errorf("%s came %d times", payload, n)
		}
	}
	if len(got) != 10 {
		t.Errorf("%d of 10 messages came", len(got))
	}
}

// A session that is away is kept as long as it asked for, by our own clock, and
// leaves nothing behind.
func TestKeptSessionsEnd(t *testing.T) {
	c := newCloud(t)
	d := c.enroll()
	u := c.login("ann", d)
	id := "u:" + u.id + ":phone"
	server := c.broker.Server()
	gone := func() bool {
		_, known := server.Clients.Get(id)
		return !known && len(server.Topics.Subscribers(d.topic("state")).Subscriptions) == 0
	}
	app := c.app(u, "u:", "phone", mqttwire.V5, mqttwire.Number(mqttwire.PropSessionExpiry, 1))
	subscribe(t, app, 1, d.topic("state"))
	if err := app.Close(); err != nil {
		t.Fatal(err)
	}
	eventually(t, "it is away", func() bool { cl, ok := server.Clients.Get(id); return ok && cl.Closed() })
	eventually(t, "it is forgotten", gone)

	app = c.app(u, "u:", "phone", mqttwire.V5, mqttwire.Number(mqttwire.PropSessionExpiry, 3600))
	subscribe(t, app, 1, d.topic("state"))
	err := app.Write(&mqttwire.Packet{Type: mqttwire.DISCONNECT, Properties: mqttwire.Properties{mqttwire.Number(mqttwire.PropSessionExpiry, 0)}})
	if err != nil {
		t.Fatal(err)
	}
	eventually(t, "it is forgotten when it says so", gone)

	app = c.app(u, "u:", "phone", mqttwire.V5)
	err = app.Write(&mqttwire.Packet{Type: mqttwire.DISCONNECT, Properties: mqttwire.Properties{mqttwire.Number(mqttwire.PropSessionExpiry, 10)}})
	if err != nil {
		t.Fatal(err)
	}
	if code := ended(t, app); code != 0x82 { // [MQTT-3.14.2-2]
		t.Errorf("%#x", byte(code))
	}

	old := c.app(u, "u:", "old", mqttwire.V311)
	_ = old.Close()
	hello := u.hello("u:", "old", mqttwire.V311)
	hello.Resume = true
	for i, want := range []bool{false, true, true} {
		cl := c.dial()
		ack, err := cl.Connect(hello)
		if err != nil || ack.SessionPresent != want {
			t.Errorf("connection %d: session present %v, %v", i, ack.SessionPresent, err)
		}
		if err := cl.Close(); err != nil {
			t.Fatal(err)
		}
	}
}

func TestRevocationActsAtOnce(t *testing.T) {
	c := newCloud(t)
	for _, version := range versions {
		for _, tc := range []struct {
			name   string
			revoke func(d thing) error
			code   mqttwire.ReasonCode
			gone   bool
		}{
			{"disable", func(d thing) error { return c.reg.DisableDevice(context.Background(), admin, d.id) }, 0x87, true},
			{"delete", func(d thing) error { return c.reg.DeleteDevice(context.Background(), admin, d.id) }, 0x87, true},
			{"rotate", func(d thing) error {
				_, err := c.reg.AddCredential(context.Background(), admin, d.id, registry.CredentialRequest{Kind: "secret", SecretHash: strings.Repeat("ab", 32)})
				return err
			}, 0x87, true},
			{"disconnect", func(d thing) error {
				_, err := c.reg.DisconnectDevice(context.Background(), admin, d.id)
				return err
			}, 0x98, false},
		} {
			t.Run(tc.name+" MQTT "+version.String(), func(t *testing.T) {
				d := c.enroll()
				cl := c.connect(d, version)
				start := time.Now()
				if err := tc.revoke(d); err != nil {
					t.Fatal(err)
				}
				code := ended(t, cl)
				if took := time.Since(start); took > time.Second {
					t.Errorf("it took %v", took)
				}
				if version == mqttwire.V5 && code != tc.code {
					t.Errorf("DISCONNECT %#x", byte(code))
				}
				if _, err := c.dial().Connect(d.hello(version)); (err != nil) != tc.gone {
					t.Error(err)
				}
			})
		}
	}
	t.Run("a credential that retires ends its session then", func(t *testing.T) {
		d := c.enroll()
		cl := c.connect(d, mqttwire.V5)
		_, err := c.reg.AddCredential(context.Background(), admin, d.id, registry.CredentialRequest{
			Kind: "secret", SecretHash: strings.Repeat("ab", 32), RetireOldAfter: time.Second,
		})
		if err != nil {
			t.Fatal(err)
		}
		late := c.connect(d, mqttwire.V5) // with the old one still
		if code := ended(t, cl); code != 0x8e {
			t.Errorf("%#x", byte(code))
		}
		if code := ended(t, late); code != 0x87 {
			t.Errorf("%#x", byte(code))
		}
		if r := c.offline(d); r != registry.CredentialRevoked {
			t.Errorf("reason %v", r)
		}
	})
	t.Run("a device that is just coming in is caught too", func(t *testing.T) {
		for range 30 {
			d := c.enroll()
			come := make(chan *mqttwire.Client)
			go func() {
				cl := c.dial()
				_, _ = cl.Connect(d.hello(mqttwire.V5))
				come <- cl
			}()
			if err := c.reg.DisableDevice(context.Background(), admin, d.id); err != nil {
				t.Fatal(err)
			}
			ended(t, <-come)
			eventually(t, "not online", func() bool { return c.row(d).Presence.Status == registry.Offline })
			for _, s := range c.courier.Sessions() {
				if s.DeviceID == d.id {
					t.Error("it has a session")
				}
			}
		}
	})
}
