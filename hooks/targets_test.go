package hooks_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"testing"
	"time"

	"github.com/opticworks/devicecloud/firmware-sim/mqttwire"
	"github.com/opticworks/devicecloud/hooks"
	"github.com/opticworks/devicecloud/registry"
)

// told reads what a device is told about its live positions.
func told(t *testing.T, device *mqttwire.Client, d thing, on bool) {
	t.Helper()
	p := next(t, device)
	var got struct {
		ID     string `json:"command_id"`
		Type   string
		Params struct{ On bool }
		Issued string `json:"issued_at"`
		Expiry string `json:"expires_at"`
	}
	var sent, want map[string]any
	if err := errors.Join(json.Unmarshal(p.Payload, &sent), json.Unmarshal(golden(t, "command.targets"), &want)); err != nil || len(sent) != len(want) {
		t.Fatalf("got %s, unlike testdata/wire", p.Payload)
	}
	for key := range want {
		if _, ok := sent[key]; !ok {
			t.Errorf("%s is missing in %s", key, p.Payload)
		}
	}
	if err := json.Unmarshal(p.Payload, &got); err != nil || p.Topic != d.topic("command/targets") || p.QoS != 1 || p.Retain {
		t.Fatalf("got %s %s", p.Topic, p.Payload)
	}
	if got.Params.On != on || got.Type != "targets" || len(got.ID) != 26 || got.Issued == "" || got.Expiry == "" {
		t.Fatalf("it is told %s, want on=%v", p.Payload, on)
	}
	if _, err := device.Publish(mqttwire.Message{Topic: d.topic("command/response"), QoS: 1, Payload: fmt.Appendf(nil, `{"command_id":%q,"status":"succeeded"}`, got.ID)}); err != nil {
		t.Fatal(err)
	}
}

func TestADeviceSendsLivePositionsWhileSomebodyLooks(t *testing.T) {
	c := newCloud(t)
	hooks.ShortenLinger(c.courier, 200*time.Millisecond)
	d := c.enroll()
	ann, bob := c.login("ann", d), c.login("bob", d)
	live := d.topic("targets/stream")
	position := func(cl *mqttwire.Client, n int) {
		t.Helper()
		if _, err := cl.Publish(mqttwire.Message{Topic: live, Payload: fmt.Appendf(nil, `{"targets":[{"id":%d}]}`, n)}); err != nil {
			t.Fatal(err)
		}
	}
	first, second := c.app(ann, "u:", "phone", mqttwire.V311), c.app(bob, "u:", "tablet", mqttwire.V5)
	subscribe(t, first, 0, live) // before the device is there

	device := c.connect(d, mqttwire.V311)
	silent(t, device) // it has not subscribed
	subscribe(t, device, 1, d.topic("command/+"))
	told(t, device, d, true)
	position(device, 1)
	if p := next(t, first); p.QoS != 0 || p.Topic != live {
		t.Errorf("the app gets %v", p)
	}
	subscribe(t, second, 0, "opticworks/+/targets/stream")
	if _, err := first.Unsubscribe(live); err != nil {
		t.Fatal(err)
	}
	silent(t, device) // one of two has left
	position(device, 2)
	next(t, second)

	t.Run("a device that reconnects hears it again", func(t *testing.T) {
		device = c.connect(d, mqttwire.V5)
		subscribe(t, device, 1, d.topic("command/targets"))
		told(t, device, d, true)
	})
	t.Run("who loses the device, looks no more", func(t *testing.T) {
		c.takeAway(bob.id, d)
		told(t, device, d, false)
		position(device, 3)
		silent(t, second)
	})
	t.Run("the end of a connection is the end of its look, also of one that is kept", func(t *testing.T) {
		kept := c.app(ann, "u:", "kept", mqttwire.V5, mqttwire.Number(mqttwire.PropSessionExpiry, 600))
		subscribe(t, kept, 1, live)
		told(t, device, d, true)
		_ = kept.Close()
		told(t, device, d, false)
		hello := ann.hello("u:", "kept", mqttwire.V5)
		hello.Resume = true
		back := c.dial()
		if _, err := back.Connect(hello, mqttwire.Number(mqttwire.PropSessionExpiry, 600)); err != nil {
			t.Fatal(err)
		}
		told(t, device, d, true) // it has its subscriptions still
		_ = back.Close()
		told(t, device, d, false)
	})
	t.Run("it is in nobody's list of commands", func(t *testing.T) {
		actor := registry.Actor{Kind: registry.ActorAdmin, ID: c.staff().id, Scopes: []string{registry.ScopeDeviceRead, registry.ScopeDeviceControl}}
		if list, err := c.reg.Commands(context.Background(), actor, d.id, 0, 10); err != nil || len(list) != 0 {
			t.Errorf("%v, %v", list, err)
		}
	})
}

// TestOfTooManyPositionsTheNewestIsHandedOn sends ten at once where two a second may pass.
func TestOfTooManyPositionsTheNewestIsHandedOn(t *testing.T) {
	c := newCloud(t, func(s *setup) { s.hooks.Limits.TargetsPerDevice = hooks.Rate{Events: 2, Burst: 1} })
	d := c.enroll()
	app := c.app(c.login("ann", d), "u:", "map", mqttwire.V5)
	subscribe(t, app, 0, d.topic("targets/stream"))
	device := c.connect(d, mqttwire.V311)
	for n := range 10 {
		if _, err := device.Publish(mqttwire.Message{Topic: d.topic("targets/stream"), Payload: fmt.Appendf(nil, `{"n":%d}`, n)}); err != nil {
			t.Fatal(err)
		}
	}
	for _, want := range []string{`{"n":0}`, `{"n":9}`} {
		if p := next(t, app); string(p.Payload) != want || p.QoS != 0 {
			t.Errorf("got %s at QoS %d, want %s", p.Payload, p.QoS, want)
		}
	}
	silent(t, app)
	if err := device.Ping(); err != nil {
		t.Errorf("it was closed: %v", err)
	}
}

// takeAway ends a person's share of a device.
func (c *cloud) takeAway(userID string, d thing) {
	c.t.Helper()
	err := c.db.Registry().InTx(context.Background(), func(tx registry.Tx) error {
		row, err := tx.Device(context.Background(), d.id)
		if err == nil {
			_, err = tx.DeleteShare(context.Background(), row.No, userID)
		}
		return err
	})
	if err != nil {
		c.t.Fatal(err)
	}
	c.courier.AccessChanged(userID)
}
