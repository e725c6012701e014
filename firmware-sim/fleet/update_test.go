package fleet_test

import (
	"fmt"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/opticworks/devicecloud/firmware-sim/fleet"
)

// progress reads what the device says of an update until it succeeds or fails.
func (p *peer) progress() (said []string) {
	p.t.Helper()
	for {
		s := decode[struct {
			Status   string
			Progress int
			Error    string
		}](p.t, p.message("ota/status"))
		said = append(said, fmt.Sprint(s.Status, " ", s.Progress, " ", s.Error))
		if s.Status == "success" || s.Status == "failed" {
			return said
		}
	}
}

const trigger = `{"version":"9","url":"https://updates.example.com/9","sha256":"x","rollout_id":"ro_1"}`

func TestAnUpdateThatFailsDoesSoHalfWayAndWithoutARestart(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBench(t, fleet.Behaviour{Interval: time.Hour, UpdateFailures: 1})
		defer b.stop()
		p := b.up()
		for range 2 { // it may be told again
			p.order("ota/trigger", trigger)
			if diff := cmp.Diff([]string{"pending 0 ", "downloading 0 ", "downloading 50 ", "failed 50 hash_mismatch"}, p.progress()); diff != "" {
				t.Error(diff)
			}
		}
		time.Sleep(time.Minute)
		if b.device.Sessions() != 1 {
			t.Error("it restarted")
		}
	})
}

func TestAnUpdateThatIsALieRestartsIntoTheOldVersion(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBench(t, fleet.Behaviour{Interval: time.Hour, UpdateLies: 1})
		defer b.stop()
		p := b.up()
		p.order("ota/trigger", trigger)
		if said := p.progress(); said[len(said)-1] != "success 100 " {
			t.Errorf("it says %q", said)
		}
		p = <-b.dials
		p.accept()
		if s := decode[struct {
			FirmwareVersion string `json:"firmware_version"`
		}](t, p.message("state")); s.FirmwareVersion != "1.2.0" {
			t.Errorf("it reports %q", s.FirmwareVersion)
		}
	})
}

func TestAnUpdateGoesOnOverALostConnectionAndIsNotBegunTwice(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBench(t, fleet.Behaviour{Interval: time.Hour, OTAStep: time.Minute, BackoffBase: time.Second, BackoffCap: time.Second})
		defer b.stop()
		p := b.up()
		p.order("ota/trigger", trigger)
		p.message("ota/status")
		p.order("ota/trigger", trigger) // again: it is doing that already
		p.message("ota/status")
		b.device.Cut(false)
		p = <-b.dials
		p.accept()
		if diff := cmp.Diff([]string{"downloading 50 ", "verifying 100 ", "success 100 "}, p.progress()); diff != "" {
			t.Error(diff)
		}
	})
}
