package rollout_test

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/opticworks/devicecloud/account"
	"github.com/opticworks/devicecloud/registry"
	"github.com/opticworks/devicecloud/rollout"
	"github.com/opticworks/devicecloud/topic"
	"github.com/opticworks/devicecloud/webhook"
)

func TestAnUpdateSucceedsByTheVersionThatTheDeviceReports(t *testing.T) {
	eachEngine(t, func(t *testing.T, n *node) {
		d := n.fleet(1)[0]
		ro := n.begin(n.release("1.3.0", func(r *rollout.Release) { r.MinRSSI = ptr[int64](-70) }))
		if got := d.last(); got.Version != "1.3.0" || got.URL != "https://updates.example.com/1.3.0.bin?sig=canary-signature" || got.RolloutID != ro.ID || *got.MinRSSI != -70 {
			t.Errorf("the trigger is %+v", got)
		}
		n.want(ro, d, "sent")
		for _, s := range []struct {
			status   string
			progress int
			want     string
		}{{"pending", 0, "accepted"}, {"downloading", 40, "downloading"}, {"verifying", 100, "verifying"}, {"success", 100, "confirming"}} {
			d.say(s.status, s.progress, "")
			n.want(ro, d, s.want)
			p, err := n.DeviceProgress(ctx, admin, d.id)
			equal(t, "what people see", fmt.Sprint(p.State, p.Progress, p.Attempt, err), fmt.Sprint(s.want, s.progress, 1, nil))
		}
		n.later(time.Second)
		n.want(ro, d, "confirming") // it still reports the old version
		d.restart("1.3.0")
		n.step()
		n.want(ro, d, "succeeded")
		r := n.wantStatus(ro, rollout.Finished)
		equal(t, "results", []int{r.Succeeded, r.Failed}, []int{1, 0})
		equal(t, "audit", n.events(d.id, "ota"), []string{"ota_success"})
		equal(t, "told", d.told(), 1)
	})
}

func TestTheEndOfAnUpdateIsToldOutside(t *testing.T) {
	eachEngine(t, func(t *testing.T, n *node) {
		all := n.fleet(2)
		var no int64
		err := n.db.Webhooks().InTx(ctx, func(tx webhook.Tx) (err error) {
			no, err = tx.InsertEndpoint(ctx, webhook.Endpoint{
				ID: "whe_1", URL: "https://hooks.example.com/x", Events: []string{registry.EventOTACompleted}, Secret: []byte("s"), CreatedBy: "admin:adm_1", CreatedAt: n.clock.now(), UpdatedAt: n.clock.now(),
			}, 10)
			return err
		})
		if err != nil {
			t.Fatal(err)
		}
		ro := n.begin(n.release("1.3.0"))
		all[0].updates()
		n.step()
		all[1].say("failed", 50, "hash_mismatch")
		var bodies []string
		err = n.db.Webhooks().View(ctx, func(tx webhook.Tx) error {
			list, err := tx.Deliveries(ctx, no, "", 0, 10)
			for _, d := range list {
				bodies = append(bodies, d.DeviceID+" "+d.Body)
			}
			return err
		})
		if err != nil || len(bodies) != 2 {
			t.Fatalf("%v %v", bodies, err)
		}
		for i, want := range []string{all[1].id + " ", all[0].id + " "} {
			if !strings.HasPrefix(bodies[i], want) || !strings.Contains(bodies[i], `"type":"ota.completed"`) || !strings.Contains(bodies[i], ro.ID) {
				t.Errorf("%s", bodies[i])
			}
		}
		if !strings.Contains(bodies[0], `"status":"failed"`) || !strings.Contains(bodies[0], "hash_mismatch") || !strings.Contains(bodies[1], `"status":"succeeded"`) {
			t.Errorf("%s", bodies)
		}
	})
}

func TestTheTriggerIsInTestdata(t *testing.T) {
	text, err := os.ReadFile("../testdata/wire/ota-trigger.json")
	if err != nil {
		t.Fatal(err)
	}
	var golden map[string]any
	if err := json.Unmarshal(text, &golden); err != nil {
		t.Fatal(err)
	}
	at, err := time.Parse(time.RFC3339, golden["issued_at"].(string))
	if err != nil {
		t.Fatal(err)
	}
	r := rollout.Release{
		Version: golden["version"].(string), URL: golden["url"].(string), SHA256: golden["sha256"].(string), MinRSSI: ptr(int64(golden["min_rssi"].(float64))),
	}
	sent, err := r.Trigger(golden["rollout_id"].(string), at)
	if err != nil || string(sent) != strings.TrimSpace(string(text)) {
		t.Errorf("%s %v", sent, err)
	}
}

func ptr[T any](v T) *T { return &v }

func TestALieIsAFailure(t *testing.T) {
	eachEngine(t, func(t *testing.T, n *node) {
		d := n.fleet(1)[0]
		ro := n.begin(n.release("1.3.0"))
		d.say("downloading", 50, "").say("success", 100, "")
		d.restart("1.2.0")
		n.step()
		n.want(ro, d, "failed version_mismatch")
		equal(t, "audit", n.events(d.id, "ota"), []string{"ota_failed"})
		// What is over stays over.
		d.say("success", 100, "")
		d.restart("1.3.0")
		n.step()
		r, by := n.look(ro)
		equal(t, "results", []any{r.Succeeded, r.Failed, by[rollout.Failed]}, []any{0, 1, 1})
	})
}

func TestADeviceThatOnlyLosesItsConnectionHasNotLied(t *testing.T) {
	eachEngine(t, func(t *testing.T, n *node) {
		d := n.fleet(1)[0]
		ro := n.begin(n.release("1.3.0"))
		d.say("success", 100, "").down()
		n.clock.add(10 * time.Second)
		d.up() // it has not restarted yet
		n.step()
		n.want(ro, d, "confirming")
		d.restart("1.3.0")
		n.step()
		n.want(ro, d, "succeeded")
	})
}

func TestWhoIsNotThereIsToldWhenItComes(t *testing.T) {
	eachEngine(t, func(t *testing.T, n *node) {
		all := n.fleet(3)
		all[1].down()
		ro := n.begin(n.release("1.3.0"))
		n.want(ro, all[1], "pending")
		equal(t, "told", []int{all[0].told(), all[1].told(), all[2].told()}, []int{1, 0, 1})
		n.later(time.Hour / 4)
		equal(t, "told", all[1].told(), 0)
		all[1].up()
		n.step()
		equal(t, "told when it came", all[1].told(), 1)
		n.want(ro, all[1], "sent")
		all[1].updates()
		n.step()
		n.want(ro, all[1], "succeeded")
	})
}

func TestWhoComesBackWithoutHavingHeardIsToldAgain(t *testing.T) {
	eachEngine(t, func(t *testing.T, n *node) {
		d := n.fleet(1)[0]
		ro := n.begin(n.release("1.3.0"))
		d.down() // the trigger was on its way
		n.later(time.Second)
		d.up()
		n.step()
		equal(t, "told", d.told(), 2)
		n.later(time.Second)
		equal(t, "told while connected", d.told(), 2)
		d.say("downloading", 10, "").down()
		n.clock.add(10 * time.Second)
		d.up() // it downloads on
		n.step()
		equal(t, "told while it downloads", d.told(), 2)
		d.restart("1.2.0") // the power was cut: it has forgotten
		n.step()
		equal(t, "told after a restart", d.told(), 3)
		n.want(ro, d, "sent")
		for range 10 { // a device that flaps is not told for ever
			d.down()
			n.clock.add(time.Second)
			d.up()
			n.step()
		}
		equal(t, "told a device that flaps", d.told(), 5)
		n.want(ro, d, "failed interrupted")
	})
}

func TestTimeouts(t *testing.T) {
	t.Run("a device that vanishes in the middle has failed", func(t *testing.T) {
		eachEngine(t, func(t *testing.T, n *node) {
			d := n.fleet(1)[0]
			ro := n.begin(n.release("1.3.0"))
			d.say("downloading", 50, "").down()
			n.later(29 * time.Minute)
			n.want(ro, d, "downloading")
			n.later(2 * time.Minute)
			n.want(ro, d, "failed timeout")
			n.wantStatus(ro, rollout.Finished)
		})
	})
	t.Run("one that never heard waits until it comes back", func(t *testing.T) {
		eachEngine(t, func(t *testing.T, n *node) {
			d := n.fleet(1)[0]
			ro := n.begin(n.release("1.3.0"))
			d.down()
			n.later(31 * time.Minute)
			n.want(ro, d, "pending device_offline")
			d.up()
			n.step()
			n.want(ro, d, "sent")
			d.updates()
			n.step()
			n.want(ro, d, "succeeded")
		})
	})
	t.Run("one that is connected and says nothing has failed", func(t *testing.T) {
		eachEngine(t, func(t *testing.T, n *node) {
			d := n.fleet(1)[0]
			ro := n.begin(n.release("1.3.0"))
			n.later(31 * time.Minute)
			n.want(ro, d, "failed no_answer")
		})
	})
	t.Run("one that says that it succeeded and reports nothing has failed", func(t *testing.T) {
		eachEngine(t, func(t *testing.T, n *node) {
			d := n.fleet(1)[0]
			ro := n.begin(n.release("1.3.0"))
			n.clock.add(29 * time.Minute)
			d.say("success", 100, "").down()
			n.later(2 * time.Minute)
			n.want(ro, d, "confirming") // it gets time for its restart
			n.later(4 * time.Minute)
			n.want(ro, d, "failed not_confirmed")
		})
	})
}

func TestWhoGetsNoUpdate(t *testing.T) {
	eachEngine(t, func(t *testing.T, n *node) {
		plain, current, other, right, disabled, released := n.enrol(1, ""), n.enrol(2, "rs1-a"), n.enrol(3, "rs1-b"), n.enrol(4, "rs1-a"), n.enrol(5, "rs1-a"), n.enrol(6, "rs1-a")
		current.version = "1.3.0"
		for _, d := range []*device{plain, current, other, right, disabled, released} {
			d.up()
		}
		disabled.down()
		if err := n.reg.DisableDevice(ctx, admin, disabled.id); err != nil {
			t.Fatal(err)
		}
		n.own(released, "u1")
		if _, err := n.reg.ReleaseDevice(ctx, admin, released.id); err != nil {
			t.Fatal(err)
		}
		ro := n.begin(n.release("1.3.0", func(r *rollout.Release) { r.Hardware = []string{"rs1-a", "rs1-a"} }))
		n.want(ro, plain, "skipped hardware_mismatch")
		n.want(ro, current, "skipped up_to_date")
		n.want(ro, other, "skipped hardware_mismatch")
		n.want(ro, disabled, "skipped device_disabled")
		n.want(ro, released, "skipped device_released")
		n.want(ro, right, "sent")
		equal(t, "told", []int{plain.told(), current.told(), other.told(), disabled.told(), released.told(), right.told()}, []int{0, 0, 0, 0, 0, 1})
		// A device that is disabled in the middle is no failure of the firmware.
		right.say("downloading", 10, "").down()
		if err := n.reg.DisableDevice(ctx, admin, right.id); err != nil {
			t.Fatal(err)
		}
		n.step()
		n.want(ro, right, "skipped device_disabled")
		r := n.wantStatus(ro, rollout.Finished)
		equal(t, "results", r.Succeeded+r.Failed, 0)
	})
}

func (n *node) own(d *device, user string) {
	n.t.Helper()
	err := n.db.Accounts().InTx(ctx, func(tx account.Tx) error {
		if err := tx.InsertUser(ctx, account.User{ID: user, Email: user + "@example.com", EmailVerified: true, CreatedAt: time.Now()}); err != nil {
			return err
		}
		row, err := tx.Device(ctx, d.id)
		if err != nil {
			return err
		}
		if err := tx.SetEverOwned(ctx, row.No); err != nil {
			return err
		}
		_, err = tx.InsertOwnership(ctx, registry.Ownership{DeviceNo: row.No, UserID: user, Role: registry.RoleOwner, At: time.Now()})
		return err
	})
	if err != nil {
		n.t.Fatal(err)
	}
}

func TestWhoTookTheVersionMeanwhileIsNotTold(t *testing.T) {
	eachEngine(t, func(t *testing.T, n *node) {
		d := n.fleet(1)[0].down()
		ro := n.begin(n.release("1.3.0"))
		n.want(ro, d, "pending")
		d.version = "1.3.0"
		d.up()
		n.step()
		n.want(ro, d, "skipped up_to_date")
		equal(t, "told", d.told(), 0)
		n.wantStatus(ro, rollout.Finished)
	})
}

func TestAWeakSignalWaitsAndIsNoFailure(t *testing.T) {
	eachEngine(t, func(t *testing.T, n *node) {
		d := n.enrol(1, "")
		d.rssi = -80
		d.up()
		ro := n.begin(n.release("1.3.0", func(r *rollout.Release) { r.MinRSSI = ptr[int64](-70) }))
		n.want(ro, d, "waiting rssi_too_low")
		equal(t, "told", d.told(), 0)
		d.rssi = -60
		d.state()
		n.later(time.Second)
		n.want(ro, d, "sent")
		d.say("failed", 0, "rssi_too_low") // the device measures by itself
		n.want(ro, d, "waiting rssi_too_low")
		n.later(time.Minute)
		equal(t, "told within five minutes", d.told(), 1)
		n.later(5 * time.Minute)
		equal(t, "told after five minutes", d.told(), 2)
		equal(t, "audit", n.events(d.id, "ota"), nil)
		d.updates()
		n.step()
		n.want(ro, d, "succeeded")
	})
}

func TestAttempts(t *testing.T) {
	eachEngine(t, func(t *testing.T, n *node) {
		d := n.fleet(1)[0]
		ro := n.begin(n.release("1.3.0"), func(d *rollout.Draft) { d.MaxAttempts = 2 })
		d.say("failed", 50, "hash_mismatch")
		n.want(ro, d, "waiting hash_mismatch")
		n.later(9 * time.Minute)
		equal(t, "told at once", d.told(), 1)
		n.later(2 * time.Minute)
		equal(t, "told again", d.told(), 2)
		d.say("failed", 50, "hash_mismatch\u0000\x1b[31m"+strings.Repeat("x", 200))
		if got := n.of(ro, d); !strings.HasPrefix(got, "failed hash_mismatch[31mxxx") || len(got) != len("failed ")+64 {
			t.Errorf("the device is %q", got)
		}
		n.later(time.Hour)
		equal(t, "told after the last", d.told(), 2)
		r := n.wantStatus(ro, rollout.Finished)
		equal(t, "results", []int{r.Succeeded, r.Failed}, []int{0, 1})
		equal(t, "audit", n.events(d.id, "ota"), []string{"ota_failed", "ota_failed"})
	})
}

func TestTheRateHolds(t *testing.T) {
	eachEngine(t, func(t *testing.T, n *node) {
		all := n.fleet(30)
		told := func() (sum int) {
			for _, d := range all {
				sum += d.told()
			}
			return sum
		}
		n.begin(n.release("1.3.0"), func(d *rollout.Draft) { d.RatePerMinute = 60 })
		equal(t, "at once", told(), 2)
		n.step()
		equal(t, "without time", told(), 2)
		for range 10 {
			n.later(500 * time.Millisecond)
		}
		equal(t, "in 5 seconds", told(), 7)
		n.later(time.Hour)
		equal(t, "after a long pause", told(), 9)
	})
}

func TestTwoProgramsShareARate(t *testing.T) {
	for engine, url := range map[string]func(t *testing.T) string{
		"sqlite":   func(t *testing.T) string { return "sqlite:" + filepath.Join(t.TempDir(), "d.db") },
		"postgres": func(t *testing.T) string { return postgres.URL(t) },
	} {
		t.Run(engine, func(t *testing.T) {
			t.Parallel()
			where, c := url(t), &clock{t: time.Now().Truncate(time.Second)}
			one, two := open(t, where, "node-1", c), open(t, where, "node-2", c)
			var all []*device
			for i := range 40 {
				d := one.enrol(i+1, "")
				if i%2 == 1 {
					d.n = two
				}
				all = append(all, d.up())
			}
			one.begin(one.release("1.3.0"), func(d *rollout.Draft) { d.RatePerMinute = 60 })
			for range 10 {
				c.add(time.Second)
				var both sync.WaitGroup
				for _, n := range []*node{one, two} {
					both.Go(func() {
						if err := n.Step(ctx); err != nil {
							t.Error(err)
						}
					})
				}
				both.Wait()
			}
			sum := 0
			for _, d := range all {
				if d.told() > 1 {
					t.Errorf("a device was told %d times", d.told())
				}
				sum += d.told()
			}
			if sum > 12 || sum < 6 {
				t.Errorf("%d devices were told in 10 seconds at 60 a minute", sum)
			}
		})
	}
}

func TestAShareGrowsByThoseWhoWereNotInIt(t *testing.T) {
	eachEngine(t, func(t *testing.T, n *node) {
		all := n.fleet(60)
		ro := n.begin(n.release("1.3.0"), func(d *rollout.Draft) { d.Percent = 20 })
		var in []*device
		for _, d := range all {
			if d.told() > 0 {
				in = append(in, d)
			}
			if (d.told() > 0) != ro.Chosen(d.id) {
				t.Errorf("told %d, chosen %v", d.told(), ro.Chosen(d.id))
			}
		}
		if len(in) < 3 || len(in) > 25 {
			t.Errorf("%d of 60 are 20 %%", len(in))
		}
		for _, d := range in {
			d.updates()
		}
		n.step()
		n.wantStatus(ro, rollout.Finished)
		_, err := n.SetSettings(ctx, admin, ro.ID, func(s *rollout.Settings) { s.Percent = 10 })
		is(t, "a smaller share", err, rollout.ErrPercentShrinks)
		_, err = n.SetSettings(ctx, admin, ro.ID, func(s *rollout.Settings) { s.RatePerMinute = 10 })
		is(t, "another rate of what is over", err, rollout.ErrRolloutOver)
		if _, err := n.SetSettings(ctx, admin, ro.ID, func(s *rollout.Settings) { s.Percent = 100 }); err != nil {
			t.Fatal(err)
		}
		n.step()
		n.wantStatus(ro, rollout.Running)
		for _, d := range all {
			equal(t, "told", d.told(), 1)
		}
	})
}

func TestCohortsAndLists(t *testing.T) {
	eachEngine(t, func(t *testing.T, n *node) {
		a, b, c := n.enrol(1, "rs1-a"), n.enrol(2, "rs1-b"), n.enrol(3, "rs1-a")
		c.version = "1.1.0"
		for _, d := range []*device{a, b, c} {
			d.up()
		}
		ro := n.begin(n.release("1.3.0"), func(d *rollout.Draft) {
			d.Cohort = rollout.Cohort{Versions: []string{"1.2.0", "1.2.1"}, Hardware: []string{"rs1-a"}}
		})
		equal(t, "told of the cohort", []int{a.told(), b.told(), c.told()}, []int{1, 0, 0})
		equal(t, "who is no part of it", n.of(ro, b), "")
		listed := n.begin(n.release("1.4.0"), func(d *rollout.Draft) { d.Devices = []string{c.id, b.id, c.id} })
		equal(t, "told of the list", []int{a.told(), b.told(), c.told()}, []int{1, 1, 1})
		n.want(listed, b, "sent")
		for _, d := range []*device{b, c} {
			d.updates()
		}
		n.step()
		n.wantStatus(listed, rollout.Finished)
	})
}

func TestAnUpdateIsTheOnlyOneOfItsDevice(t *testing.T) {
	eachEngine(t, func(t *testing.T, n *node) {
		busy, free := n.enrol(1, "").up(), n.enrol(2, "")
		old := n.begin(n.release("1.3.0"))
		n.want(old, free, "pending") // it is not connected
		newer := n.begin(n.release("1.4.0"))
		free.up()
		n.step()
		n.want(old, free, "skipped superseded")
		equal(t, "what it is told", free.last().Version, "1.4.0")
		n.want(old, busy, "sent")
		n.want(newer, busy, "pending")
		equal(t, "told in the middle", busy.told(), 1)
		busy.updates()
		n.step() // its result
		n.step()
		n.want(old, busy, "succeeded")
		n.want(newer, busy, "sent")
		equal(t, "told afterwards", busy.last().Version, "1.4.0")
		// A larger share of the older one does not take the device back.
		late := n.enrol(3, "").up()
		n.step()
		n.want(newer, late, "sent")
		n.wantStatus(old, rollout.Finished)
	})
}

func TestTheFailureThresholdHaltsInTheTransactionOfTheResult(t *testing.T) {
	eachEngine(t, func(t *testing.T, n *node) {
		all := n.fleet(12)
		ro := n.begin(n.release("1.3.0"), func(d *rollout.Draft) { d.HaltPercent, d.HaltAfter, d.RatePerMinute = 50, 4, 60*5 })
		told := func() (list []*device) {
			for _, d := range all {
				if d.told() > 0 {
					list = append(list, d)
				}
			}
			return list
		}
		first := told()
		equal(t, "told", len(first), 10)
		first[0].say("failed", 0, "x")
		first[1].say("failed", 0, "x")
		first[2].say("failed", 0, "x")
		n.wantStatus(ro, rollout.Running) // three results are too few
		var both sync.WaitGroup
		for _, d := range first[3:6] {
			both.Go(func() { d.say("failed", 0, "x") })
		}
		both.Wait()
		r := n.wantStatus(ro, rollout.Halted)
		equal(t, "results", r.Failed, 6)
		equal(t, "audit", n.events("", "rollout_halted"), []string{"rollout_halted"})
		if !strings.Contains(n.log.String(), "a rollout was halted") {
			t.Error("the log does not say so")
		}
		n.later(time.Minute)
		equal(t, "told while it is halted", len(told()), 10)
		// A person decides to go on: the sum begins anew.
		if _, err := n.Resume(ctx, admin, ro.ID); err != nil {
			t.Fatal(err)
		}
		n.later(time.Second)
		equal(t, "told after that", len(told()), 12)
		first[6].say("failed", 0, "x")
		n.wantStatus(ro, rollout.Running)
		for _, d := range []*device{first[7], first[8], first[9]} {
			d.say("success", 100, "")
			d.restart("1.3.0")
		}
		n.step()
		n.wantStatus(ro, rollout.Running)
		for _, d := range all[10:] {
			d.say("failed", 0, "x")
		}
		n.wantStatus(ro, rollout.Halted) // three of six
	})
}

func TestTheFirstResultsOfAGoodReleaseAreItsFailures(t *testing.T) {
	eachEngine(t, func(t *testing.T, n *node) {
		all := n.fleet(40)
		ro := n.begin(n.release("1.3.0"))
		all[7].say("failed", 50, "x") // long before anybody can have succeeded
		for _, d := range all[10:] {
			d.say("success", 100, "")
		}
		for _, d := range all[10:] {
			d.down()
		}
		n.clock.add(2 * time.Second)
		for _, d := range all[10:] {
			d.version, d.booted = "1.3.0", n.clock.now()
			d.up()
			n.step()
		}
		n.wantStatus(ro, rollout.Running) // one of forty, though it was one of the first twenty results
	})
}

func TestPauseCancelAndResume(t *testing.T) {
	eachEngine(t, func(t *testing.T, n *node) {
		all := n.fleet(4)
		ro := n.begin(n.release("1.3.0"), func(d *rollout.Draft) { d.Paused = true })
		n.wantStatus(ro, rollout.Paused)
		equal(t, "told before it begins", all[0].told(), 0)
		steer := func(what string, f func() (rollout.Rollout, error), want rollout.Status) {
			t.Helper()
			got, err := f()
			if err != nil || got.Status != want {
				t.Errorf("%s: %s %v", what, got.Status, err)
			}
			n.step()
		}
		pause := func() (rollout.Rollout, error) { return n.Pause(ctx, admin, ro.ID) }
		resume := func() (rollout.Rollout, error) { return n.Resume(ctx, admin, ro.ID) }
		cancel := func() (rollout.Rollout, error) { return n.Cancel(ctx, admin, ro.ID) }
		if _, err := n.SetSettings(ctx, admin, ro.ID, func(s *rollout.Settings) { s.RatePerMinute = 30 }); err != nil {
			t.Fatal(err)
		}
		steer("resume", resume, rollout.Running)
		steer("resume again", resume, rollout.Running)
		n.clock.add(2 * time.Second)
		steer("pause", pause, rollout.Paused)
		steer("pause again", pause, rollout.Paused)
		n.later(time.Minute)
		equal(t, "told while it is paused", []int{all[0].told(), all[1].told()}, []int{1, 0})
		all[0].updates() // goes on all the same
		n.step()
		n.want(ro, all[0], "succeeded")
		steer("resume", resume, rollout.Running)
		n.want(ro, all[1], "sent")
		steer("cancel", cancel, rollout.Cancelled)
		steer("cancel again", cancel, rollout.Cancelled)
		n.want(ro, all[2], "cancelled")
		n.later(time.Minute)
		equal(t, "told after the end", all[2].told(), 0)
		all[1].updates()
		n.step()
		n.want(ro, all[1], "succeeded")
		for what, f := range map[string]func() (rollout.Rollout, error){"pause": pause, "resume": resume} {
			_, err := f()
			is(t, what+" of a cancelled one", err, rollout.ErrRolloutOver)
		}
		equal(t, "audit", n.events("", "rollout"), []string{"rollout_created", "rollout_changed", "rollout_resumed", "rollout_paused", "rollout_resumed", "rollout_cancelled"})
	})
}

func TestARestartLosesNothing(t *testing.T) {
	eachEngine(t, func(t *testing.T, n *node) {
		all := n.fleet(3)
		ro := n.begin(n.release("1.3.0"), func(d *rollout.Draft) { d.RatePerMinute = 30 })
		equal(t, "told", []int{all[0].told(), all[1].told()}, []int{1, 0})
		all[0].say("success", 100, "")
		again := &node{t: t, db: n.db, reg: n.reg, courier: n.courier, clock: n.clock, log: n.log}
		again.Service = rollout.New(n.db.Rollouts(), n.reg, n.courier, rollout.Options{NodeID: "node-1", Now: n.clock.now, NextID: registry.NewIDSource(time.Now)})
		for _, d := range all {
			d.n = again
		}
		all[0].restart("1.3.0")
		again.step()
		again.want(ro, all[0], "succeeded")
		again.later(4 * time.Second)
		again.later(4 * time.Second)
		equal(t, "told", []int{all[0].told(), all[1].told(), all[2].told()}, []int{1, 1, 1})
	})
}

func TestAMissedDeliveryIsTriedAgain(t *testing.T) {
	eachEngine(t, func(t *testing.T, n *node) {
		d := n.fleet(1)[0]
		n.courier.fail = registry.E(registry.RateLimited, "device_busy", "")
		ro := n.begin(n.release("1.3.0"))
		n.want(ro, d, "pending")
		n.courier.fail = nil
		n.later(6 * time.Second)
		n.want(ro, d, "sent")
		list, err := n.Updates(ctx, admin, ro.ID, rollout.Sent, 0, 10)
		if err != nil || len(list) != 1 || list[0].Attempt != 1 {
			t.Errorf("%+v %v", list, err)
		}
	})
	eachEngine(t, func(t *testing.T, n *node) {
		d := n.fleet(1)[0]
		n.courier.fail = registry.E(registry.TooLarge, "payload_too_large", "")
		ro := n.begin(n.release("1.3.0"))
		n.want(ro, d, "failed too_large")
	})
}

func TestReports(t *testing.T) {
	eachEngine(t, func(t *testing.T, n *node) {
		d := n.fleet(1)[0]
		ro := n.begin(n.release("1.3.0"))
		before := d.session
		for name, payload := range map[string]string{
			"of another version":        `{"status":"failed","version":"9","rollout_id":"` + ro.ID + `"}`,
			"of another rollout":        `{"status":"failed","version":"1.3.0","rollout_id":"ro_another"}`,
			"with an odd rollout id":    `{"status":"downloading","version":"1.3.0","rollout_id":5,"progress":7}`,
			"without a rollout":         `{"status":"downloading","version":"1.3.0","progress":7}`,
			"with a progress that null": `{"status":"downloading","version":"1.3.0","progress":null,"error":["x"]}`,
		} {
			if err := n.Report(d.session, []byte(payload)); err != nil {
				t.Errorf("%s: %v", name, err)
			}
			if got := n.of(ro, d); strings.HasPrefix(got, "failed") {
				t.Errorf("%s: %s", name, got)
			}
		}
		n.want(ro, d, "downloading")
		for _, payload := range []string{``, `[]`, `{"status":"failed"}`, `{"version":"1.3.0","status":"done"}`, `{"version":5,"status":"failed"}`, `{"version":"1.3.0","status":"downloading","progress":101}`} {
			if err := n.Report(d.session, []byte(payload)); registry.KindOf(err) != registry.Invalid {
				t.Errorf("%s: %v", payload, err)
			}
		}
		d.up()
		err := n.Report(before, []byte(`{"status":"failed","version":"1.3.0"}`))
		is(t, "of an older connection", err, registry.ErrStale)
		n.want(ro, d, "downloading")
		if err := n.ReportLater(d.session, []byte(`{"status":"failed","version":"1.3.0","error":"flash"}`)); err != nil {
			t.Fatal(err)
		}
		if err := n.Report(d.session, []byte(`{"status":"downloading","version":"1.3.0"}`)); err != nil { // behind it
			t.Fatal(err)
		}
		n.want(ro, d, "failed flash")
		payload, ok, err := n.reg.Retained(ctx, d.id, topic.OTAStatus)
		equal(t, "what is kept", fmt.Sprint(string(payload), ok, err), `{"status":"downloading","version":"1.3.0"}true <nil>`)
	})
}

func TestRefusals(t *testing.T) {
	n := open(t, "sqlite:"+filepath.Join(t.TempDir(), "d.db"), "node-1", &clock{t: time.Now()})
	good := rollout.Release{Version: "1.3.0", URL: "https://updates.example.com/1.bin", SHA256: strings.Repeat("ab", 32)}
	for name, change := range map[string]func(*rollout.Release){
		"no version":               func(r *rollout.Release) { r.Version = "" },
		"a long version":           func(r *rollout.Release) { r.Version = strings.Repeat("x", 33) },
		"a version with a newline": func(r *rollout.Release) { r.Version = "1\n" },
		"a broken version":         func(r *rollout.Release) { r.Version = "\xff" },
		"http":                     func(r *rollout.Release) { r.URL = "http://updates.example.com/1.bin" },
		"no host":                  func(r *rollout.Release) { r.URL = "https:///1.bin" },
		"a password":               func(r *rollout.Release) { r.URL = "https://u:p@updates.example.com/1.bin" },
		"a fragment":               func(r *rollout.Release) { r.URL = "https://updates.example.com/1.bin#x" },
		"no hash":                  func(r *rollout.Release) { r.SHA256 = "" },
		"a hash in capitals":       func(r *rollout.Release) { r.SHA256 = strings.Repeat("AB", 32) },
		"a signal that cannot be":  func(r *rollout.Release) { r.MinRSSI = ptr[int64](1) },
		"hardware with a space":    func(r *rollout.Release) { r.Hardware = []string{"a b"} },
		"endless notes":            func(r *rollout.Release) { r.Notes = strings.Repeat("x", 1001) },
		"a URL that does not fit":  func(r *rollout.Release) { r.URL = "https://updates.example.com/" + strings.Repeat("x", 900) },
	} {
		r := good
		change(&r)
		_, err := n.CreateRelease(ctx, admin, r)
		if k := registry.KindOf(err); k != registry.Invalid && k != registry.TooLarge || err == nil {
			t.Errorf("%s: %v", name, err)
		}
	}
	release, err := n.CreateRelease(ctx, admin, good)
	if err != nil {
		t.Fatal(err)
	}
	_, err = n.CreateRelease(ctx, admin, good)
	is(t, "the same again", err, rollout.ErrReleaseExists)
	draft := func(change func(*rollout.Draft)) error {
		d := rollout.Draft{ReleaseID: release.ID, Settings: rollout.DefaultSettings()}
		change(&d)
		_, err := n.CreateRollout(ctx, admin, d)
		return err
	}
	for name, change := range map[string]func(*rollout.Draft){
		"no percent":        func(d *rollout.Draft) { d.Percent = 0 },
		"too many percent":  func(d *rollout.Draft) { d.Percent = 101 },
		"no rate":           func(d *rollout.Draft) { d.RatePerMinute = 0 },
		"a huge rate":       func(d *rollout.Draft) { d.RatePerMinute = 60001 },
		"no attempt":        func(d *rollout.Draft) { d.MaxAttempts = 0 },
		"a short time":      func(d *rollout.Draft) { d.Timeout = 59 * time.Second },
		"a negative halt":   func(d *rollout.Draft) { d.HaltPercent = -1 },
		"a halt after none": func(d *rollout.Draft) { d.HaltAfter = 0 },
		"an unknown device": func(d *rollout.Draft) { d.Devices = []string{strings.Repeat("0", 32)} },
		"too many devices": func(d *rollout.Draft) {
			for i := range 1001 {
				d.Devices = append(d.Devices, fmt.Sprint(i))
			}
		},
		"a list of a share": func(d *rollout.Draft) { d.Devices, d.Percent = []string{"x"}, 50 },
		"an odd version":    func(d *rollout.Draft) { d.Cohort.Versions = []string{""} },
		"odd hardware":      func(d *rollout.Draft) { d.Cohort.Hardware = []string{"a/b"} },
	} {
		if err := draft(change); registry.KindOf(err) != registry.Invalid {
			t.Errorf("%s: %v", name, err)
		}
	}
	is(t, "an unknown release", draft(func(d *rollout.Draft) { d.ReleaseID = "rel_x" }), rollout.ErrReleaseNotFound)
	is(t, "a good one", draft(func(*rollout.Draft) {}), nil)
	_, err = n.WithdrawRelease(ctx, admin, release.ID)
	is(t, "withdraw what is being rolled out", err, rollout.ErrReleaseInUse)
	n.step()
	n.step()
	for range 2 {
		if r, err := n.WithdrawRelease(ctx, admin, release.ID); err != nil || r.WithdrawnAt.IsZero() {
			t.Errorf("withdraw: %v", err)
		}
	}
	is(t, "of what is withdrawn", draft(func(*rollout.Draft) {}), rollout.ErrReleaseWithdrawn)
	for name, a := range map[string]registry.Actor{
		"support":              {Kind: registry.ActorSupport, ID: "s", Scopes: admin.Scopes},
		"a person":             {Kind: registry.ActorUser, ID: "u", Scopes: admin.Scopes},
		"a service account":    {Kind: registry.ActorService, ID: "s", Scopes: admin.Scopes},
		"without config:write": {Kind: registry.ActorAdmin, ID: "a", Scopes: []string{registry.ScopeDeviceRead}},
	} {
		want := error(registry.ErrInsufficientRole)
		if a.Kind == registry.ActorAdmin {
			want = registry.ErrInsufficientScope
		}
		_, e1 := n.CreateRelease(ctx, a, good)
		_, e2 := n.Release(ctx, a, release.ID)
		_, e3 := n.Releases(ctx, a, 0, 1)
		_, e4 := n.WithdrawRelease(ctx, a, release.ID)
		_, e5 := n.CreateRollout(ctx, a, rollout.Draft{})
		_, _, e6 := n.Rollout(ctx, a, "ro_x")
		_, e7 := n.Rollouts(ctx, a, "", 0, 1)
		_, e8 := n.Updates(ctx, a, "ro_x", "", 0, 1)
		_, e9 := n.SetSettings(ctx, a, "ro_x", func(*rollout.Settings) {})
		_, e10 := n.Pause(ctx, a, "ro_x")
		_, e11 := n.Resume(ctx, a, "ro_x")
		_, e12 := n.Cancel(ctx, a, "ro_x")
		for i, err := range []error{e1, e2, e3, e4, e5, e6, e7, e8, e9, e10, e11, e12} {
			if !errors.Is(err, want) {
				t.Errorf("%s, %d: %v", name, i+1, err)
			}
		}
	}
}

func FuzzDecodeStatus(f *testing.F) {
	f.Add([]byte(`{"status":"downloading","version":"1.3.0","progress":40,"rollout_id":"ro_01HZX8Q6R2K3","timestamp":"2026-01-15T10:00:00Z"}`))
	f.Add([]byte(`{"status":"failed","version":"1.3.0","progress":1e99,"error":"\u0000","rollout_id":[]}`))
	f.Add([]byte(`{"status":"failed","version":"1.3.0","progress":-5,"error":{"a":1}}`))
	f.Fuzz(func(t *testing.T, payload []byte) {
		r, ok := rollout.DecodeStatus(payload)
		if !ok {
			return
		}
		if r.Version == "" || r.Progress < 0 || r.Progress > 100 || len([]rune(r.Error)) > 64 || len([]rune(r.RolloutID)) > 64 || strings.ContainsAny(r.Error+r.RolloutID, "\x00\n\x1b") {
			t.Errorf("%q is %+v", payload, r)
		}
	})
}
