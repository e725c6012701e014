package hooks_test

import (
	"context"
	"encoding/json"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/opticworks/devicecloud/firmware-sim/mqttwire"
	"github.com/opticworks/devicecloud/registry"
	"github.com/opticworks/devicecloud/rollout"
	"github.com/opticworks/devicecloud/topic"
)

// laterUpdates is the domain of firmware, which is made after the hooks' options.
type laterUpdates struct{ *rollout.Service }

func TestUpdates(t *testing.T) {
	updates := &laterUpdates{}
	c := newCloud(t, func(s *setup) { s.hooks.Updates = updates })
	updates.Service = rollout.New(c.db.Rollouts(), c.reg, c.courier, rollout.Options{Root: root, Tick: 10 * time.Millisecond})
	ctx, stop := context.WithCancel(context.Background())
	done := make(chan struct{})
	go func() { defer close(done); updates.Run(ctx) }()
	defer func() { stop(); <-done }()
	operator := registry.Actor{Kind: registry.ActorAdmin, ID: "root", Scopes: []string{registry.ScopeDeviceRead, registry.ScopeConfigWrite}}
	d := c.enroll()
	release, err := updates.CreateRelease(ctx, operator, rollout.Release{Version: "1.3.0", URL: "https://updates.example.com/1.bin", SHA256: strings.Repeat("ab", 32)})
	if err != nil {
		t.Fatal(err)
	}
	ro, err := updates.CreateRollout(ctx, operator, rollout.Draft{ReleaseID: release.ID, Settings: rollout.DefaultSettings()})
	if err != nil {
		t.Fatal(err)
	}
	cl := c.connect(d, mqttwire.V311)
	silent(t, cl) // it has not subscribed
	if c.courier.Takes(d.id, topic.OTATrigger) {
		t.Error("a device that has not subscribed takes triggers")
	}
	subscribe(t, cl, 1, d.topic("ota/trigger"))
	p := next(t, cl)
	var got struct {
		Version   string
		RolloutID string `json:"rollout_id"`
	}
	if err := json.Unmarshal(p.Payload, &got); err != nil || p.Topic != d.topic("ota/trigger") || p.QoS != 1 || p.Retain || got.Version != "1.3.0" || got.RolloutID != ro.ID {
		t.Fatalf("%s %s: %v", p.Topic, p.Payload, err)
	}
	state := func() string {
		t.Helper()
		p, err := updates.DeviceProgress(ctx, operator, d.id)
		if err != nil || p == nil {
			t.Fatalf("%v %v", p, err)
		}
		return strings.TrimSpace(p.State + " " + p.Reason)
	}
	say := func(status string) {
		t.Helper()
		publish(t, cl, d.topic("ota/status"), fmt.Sprintf(`{"status":%q,"version":"1.3.0","progress":50,"rollout_id":%q}`, status, ro.ID))
	}
	say("downloading")
	if got := state(); got != "downloading" { // acknowledged is committed
		t.Errorf("after the PUBACK it is %q", got)
	}
	publish(t, cl, d.topic("ota/status"), `{"status":"eating","version":"1.3.0"}`)
	say("success")
	if got := state(); got != "confirming" {
		t.Errorf("after the PUBACK it is %q", got)
	}
	publish(t, cl, d.topic("state"), `{"online":true,"firmware_version":"1.3.0","uptime_sec":1,"wifi_rssi":-50}`)
	for deadline := time.Now().Add(10 * time.Second); state() != "succeeded"; time.Sleep(time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("it is %q", state())
		}
	}
	silent(t, cl)
}
