package fleet_test

import (
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/opticworks/devicecloud/firmware-sim/fleet"
)

func TestMannersOfCommands(t *testing.T) {
	in := func(m fleet.Manner, do func(t *testing.T, b *bench, p *peer)) func(*testing.T) {
		return func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				b := newBench(t, fleet.Behaviour{Interval: time.Hour, KeepAlive: 10 * time.Hour, Commands: m})
				defer b.stop()
				do(t, b, b.up())
			})
		}
	}
	answer := func(t *testing.T, p *peer) response {
		t.Helper()
		return decode[response](t, p.message("command/response"))
	}
	t.Run("slow says what it does and takes its time", in(fleet.Slow, func(t *testing.T, _ *bench, p *peer) {
		begin := time.Now()
		if got := ask(t, p, "identify", "c1", ""); got.Status != "accepted" {
			t.Errorf("got %+v", got)
		}
		if got := ask(t, p, "identify", "c1", ""); got.Status != "accepted" {
			t.Errorf("the repeated one: %+v", got)
		}
		for _, want := range []string{"in_progress", "succeeded"} {
			if got := answer(t, p); got.Status != want {
				t.Errorf("got %+v, want %s", got, want)
			}
		}
		if took := time.Since(begin); took != 2*time.Second {
			t.Errorf("it took %v", took)
		}
	}))
	t.Run("failing fails, and again when it is asked again", in(fleet.Failing, func(t *testing.T, _ *bench, p *peer) {
		for range 2 {
			if got := ask(t, p, "identify", "c1", ""); got != (response{"c1", "failed", "DEVICE_FAULT"}) {
				t.Errorf("got %+v", got)
			}
		}
	}))
	t.Run("twice answers twice", in(fleet.Twice, func(t *testing.T, _ *bench, p *peer) {
		ask(t, p, "identify", "c1", "")
		if got := answer(t, p); got.Status != "succeeded" {
			t.Errorf("got %+v", got)
		}
	}))
	t.Run("silent says nothing", in(fleet.Silent, func(t *testing.T, _ *bench, p *peer) {
		p.order("command/identify", `{"command_id":"c1","type":"identify"}`)
		p.order("diag/request", `{"request_id":"r1"}`)
		for {
			packet := p.next()
			if packet == nil {
				t.Fatal("the connection ended")
			}
			if strings.HasSuffix(packet.Topic, "/command/response") {
				t.Errorf("it said %s", packet.Payload)
			}
			if strings.HasSuffix(packet.Topic, "/diag/response") {
				return
			}
		}
	}))
	t.Run("restarting answers when it is asked again after the restart", in(fleet.Restarting, func(t *testing.T, b *bench, p *peer) {
		if got := ask(t, p, "identify", "c1", ""); got.Status != "accepted" {
			t.Errorf("got %+v", got)
		}
		p = <-b.dials
		p.accept()
		if got := ask(t, p, "identify", "c1", ""); got.Status != "succeeded" {
			t.Errorf("got %+v", got)
		}
	}))
}
