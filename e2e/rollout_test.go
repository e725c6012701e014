package e2e_test

import (
	"context"
	"fmt"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/opticworks/devicecloud/firmware-sim/fleet"
)

// simulate runs 200 simulated devices with a firmware until the test ends.
func (c *Cloud) simulate(seed uint16, firmware string, failures float64) (stop func()) {
	c.t.Helper()
	api := fleet.NewAPI(c.API(), adminEmail, adminPassword, nil)
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() {
		_, err := fleet.Run(ctx, fleet.Options{
			Behaviour: fleet.Behaviour{
				Firmware: firmware, Interval: 20 * time.Second, BackoffBase: 100 * time.Millisecond, BackoffCap: 400 * time.Millisecond,
				OTAStep: 50 * time.Millisecond, BootTime: 100 * time.Millisecond, UpdateFailures: failures,
			},
			URL: "mqtt://" + c.MQTT(), Devices: 200, Seed: seed, API: api, Settle: time.Millisecond, ConnectRate: 400,
		})
		done <- err
	}()
	return func() {
		cancel()
		if err := <-done; err != nil {
			c.t.Error(err)
		}
		api.Close()
	}
}

// rolloutView is a rollout as an administrator sees it.
type rolloutView struct {
	ID        string `json:"rollout_id"`
	Status    string
	Succeeded int
	Failed    int
	Total     int
	Devices   map[string]int
}

// told is how many devices were told so far.
func (r rolloutView) told() int { return r.Total - r.Devices["pending"] - r.Devices["waiting"] }

func (c *Cloud) rollout(id, token string) (r rolloutView) {
	c.t.Helper()
	c.Get("/admin/rollouts/"+id, token, &r)
	return r
}

func (c *Cloud) awaitRollout(id, token, what string, ok func(rolloutView) bool) (r rolloutView) {
	c.t.Helper()
	Await(c.t, 90*time.Second, func() bool {
		r = c.rollout(id, token)
		return ok(r)
	}, func() string { return fmt.Sprintf("%s; it is %+v", what, r) })
	return r
}

// beginRollout brings a new release to the devices that run a version, within a rate.
func (c *Cloud) beginRollout(token, version, from string, rate int) (id string) {
	c.t.Helper()
	var release struct {
		ID string `json:"release_id"`
	}
	c.Post("/admin/releases", token, object{"version": version, "url": "https://updates.example.com/" + version + ".bin", "sha256": strings.Repeat("ab", 32)}, &release)
	var r rolloutView
	c.Post("/admin/rollouts", token, object{
		"release_id": release.ID, "rate_per_minute": rate, "halt_percent": 5, "halt_after": 20, "cohort": object{"versions": []string{from}},
	}, &r)
	return r.ID
}

// The seeds are fixed: of the first fleet's 200 devices 20 fail their first update, of
// the second's 2.
func TestARolloutHaltsAtManyFailuresAndFinishesAtFew(t *testing.T) {
	t.Parallel()
	c := Start(t, Options{Env: map[string]string{"LOG_LEVEL": "warn"}})
	admin := c.AdminToken()
	defer c.simulate(tenPercent, "1.2.0", 0.10)()
	defer c.simulate(onePercent, "2.2.0", 0.01)()
	online := func(n int) {
		t.Helper()
		Await(t, 60*time.Second, func() bool {
			var list struct{ Total int }
			c.Get("/admin/devices?status=online&limit=1", admin, &list)
			return list.Total == n
		}, func() string { return "the fleets do not come online" })
	}
	online(400)

	bad := c.beginRollout(admin, "1.3.0", "1.2.0", 1200)
	good := c.beginRollout(admin, "2.3.0", "2.2.0", 1200)
	// The good one is paused in the middle, and the program restarts.
	c.awaitRollout(good, admin, "a part of the devices is told", func(r rolloutView) bool { return r.told() >= 30 })
	c.Post("/admin/rollouts/"+good+"/pause", admin, nil, nil)
	halted := c.awaitRollout(bad, admin, "it halts", func(r rolloutView) bool { return r.Status == "halted" })
	if halted.Failed < 5 || halted.Devices["pending"] == 0 {
		t.Errorf("it halted as %+v", halted)
	}
	settled := func(r rolloutView) bool { return r.told() == r.Succeeded+r.Failed }
	paused := c.awaitRollout(good, admin, "updates under way go on while it is paused", settled)
	c.Restart()
	admin = c.AdminToken()
	online(400)
	if r := c.awaitRollout(good, admin, "it is paused after a restart", settled); r.Status != "paused" || r.told() != paused.told() || r.told() == 200 {
		t.Errorf("before the restart %+v, after it %+v", paused, r)
	}
	c.Post("/admin/rollouts/"+good+"/resume", admin, nil, nil)
	done := c.awaitRollout(good, admin, "it finishes", func(r rolloutView) bool { return r.Status == "finished" })
	if done.Succeeded != 198 || done.Failed != 2 || done.Total != 200 {
		t.Errorf("it finished as %+v", done)
	}
	if r := c.rollout(bad, admin); r.Status != "halted" || r.Devices["pending"] != halted.Devices["pending"] {
		t.Errorf("it halted as %+v, and is %+v", halted, r)
	}
	var list struct {
		Total int
	}
	c.Get("/admin/devices?version=2.3.0&limit=1", admin, &list)
	if list.Total != 198 {
		t.Errorf("%d devices report the version", list.Total)
	}
	// Every result is in the trail of its device.
	var failed struct {
		Devices []struct {
			ID     string `json:"device_id"`
			Reason string
		}
	}
	c.Get("/admin/rollouts/"+good+"/devices?state=failed", admin, &failed)
	if len(failed.Devices) != 2 || failed.Devices[0].Reason != "hash_mismatch" {
		t.Fatalf("%+v", failed)
	}
	if got := c.trail(Device{ID: failed.Devices[0].ID}, admin); count(got, "ota_failed") != 1 {
		t.Errorf("its trail is %v", got)
	}
}

const (
	tenPercent = 19
	onePercent = 6
)

// A person sees how far the update of their device is, and that it was a lie.
func TestAPersonSeesTheUpdateOfTheirDevice(t *testing.T) {
	t.Parallel()
	c := Start(t, Options{})
	admin := c.AdminToken()
	person := c.UserToken("owner@example.com")
	identity := fleet.NewIdentity(99, 0, "opticworks-rs1")
	api := fleet.NewAPI(c.API(), adminEmail, adminPassword, nil)
	defer api.Close()
	ctx, off := context.WithCancel(context.Background())
	defer off()
	done := make(chan error, 1)
	go func() {
		_, err := fleet.Run(ctx, fleet.Options{
			Behaviour: fleet.Behaviour{Interval: time.Second, BackoffBase: 50 * time.Millisecond, OTAStep: 100 * time.Millisecond, BootTime: 100 * time.Millisecond, UpdateLies: 1},
			URL:       "mqtt://" + c.MQTT(), Devices: 1, Seed: 99, API: api, Owner: person.Email, Settle: time.Millisecond,
		})
		done <- err
	}()
	defer func() {
		off()
		if err := <-done; err != nil {
			t.Error(err)
		}
	}()
	id := identity.DeviceID
	Await(t, 30*time.Second, func() bool { return c.Do(http.MethodGet, "/api/devices/"+id, person.Token, nil, nil) == http.StatusOK }, func() string { return "the device does not become its buyer's" })
	live := c.stream(t, person.Token, "", "")
	ro := c.beginRollout(admin, "1.3.0", "1.2.0", 60)
	var states []string
	for len(states) == 0 || states[len(states)-1] != "failed version_mismatch" {
		e := live.next()
		if e.Kind != "ota.progress" {
			continue
		}
		if e.deviceID() != id || e.Data["rollout_id"] != ro || e.Data["version"] != "1.3.0" || e.Data["at"] == nil {
			t.Errorf("%+v", e)
		}
		reason, _ := e.Data["reason"].(string)
		if state := strings.TrimSpace(fmt.Sprint(e.Data["state"], " ", reason)); len(states) == 0 || states[len(states)-1] != state {
			states = append(states, state)
		}
	}
	if got := strings.Join(states, ", "); got != "sent, accepted, downloading, verifying, confirming, failed version_mismatch" {
		t.Errorf("the person heard %s", got)
	}
	var view struct {
		OTA map[string]any
	}
	c.Get("/api/devices/"+id, person.Token, &view)
	if view.OTA["state"] != "failed" || view.OTA["reason"] != "version_mismatch" || view.OTA["version"] != "1.3.0" {
		t.Errorf("the person sees %v", view.OTA)
	}
	r := c.awaitRollout(ro, admin, "it is over", func(r rolloutView) bool { return r.Status == "finished" })
	if r.Failed != 1 || r.Succeeded != 0 {
		t.Errorf("%+v", r)
	}
}
