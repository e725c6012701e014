package fleet_test

import (
	"bytes"
	"encoding/json"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/opticworks/devicecloud/firmware-sim/fleet"
	"github.com/opticworks/devicecloud/firmware-sim/mqttwire"
)

// golden reads a payload of testdata/wire.
func golden(t *testing.T, name string) []byte {
	t.Helper()
	raw, err := os.ReadFile(filepath.Join("..", "..", "testdata", "wire", name+".json"))
	if err != nil {
		t.Fatal(err)
	}
	return bytes.TrimRight(raw, "\n")
}

// changing are the fields whose value is the device's own at the moment; of them only the kind of value is compared.
var changing = map[string]bool{
	"timestamp": true, "last_seen": true, "wifi_rssi": true, "uptime_sec": true, "free_heap": true,
	"temperature_c": true, "targets": true, "free": true, "min_free": true, "rssi": true, "nonce": true, "proof": true, "reset_id": true,
}

// shape replaces values that change by the name of their kind.
func shape(t *testing.T, payload []byte) any {
	t.Helper()
	var value any
	if err := json.Unmarshal(payload, &value); err != nil {
		t.Fatalf("%v in %s", err, payload)
	}
	var walk func(key string, v any) any
	walk = func(key string, v any) any {
		switch v := v.(type) {
		case map[string]any:
			for k := range v {
				v[k] = walk(k, v[k])
			}
			return v
		case string:
			if _, err := time.Parse(time.RFC3339, v); err == nil {
				return "a time"
			}
			if changing[key] {
				return "a text"
			}
		case float64:
			if changing[key] {
				return "a number"
			}
		}
		return v
	}
	return walk("", value)
}

func same(t *testing.T, name string, got *mqttwire.Packet) {
	t.Helper()
	if diff := cmp.Diff(shape(t, golden(t, name)), shape(t, got.Payload)); diff != "" {
		t.Errorf("%s: what the device sends is not what testdata/wire says (-file +sent):\n%s", name, diff)
	}
}

func TestWhatADeviceSendsIsInTestdata(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBench(t, fleet.Behaviour{PressButton: true, ClaimCode: "7K3M9QXR", Interval: time.Hour, TelemetryInterval: time.Hour, KeepAlive: 10 * time.Hour})
		defer b.stop()
		p := <-b.dials
		connect, _ := p.accept()
		will := connect.Connect.Will
		if string(will.Payload) != string(golden(t, "will")) || !will.Retain || will.QoS != 1 {
			t.Errorf("will %+v", will)
		}
		same(t, "provision.request", p.register())
		claim := p.message("claim")
		same(t, "claim", claim)

		p.order("config/update", string(golden(t, "config-update")))
		status := p.message("config/status")
		same(t, "config-status", status)
		if !status.Retain || status.QoS != 1 {
			t.Errorf("config/status QoS %d retain %t", status.QoS, status.Retain)
		}
		state := p.message("state")
		same(t, "state", state)
		if !state.Retain || state.QoS != 1 {
			t.Errorf("state QoS %d retain %t", state.QoS, state.Retain)
		}

		p.order("diag/request", string(golden(t, "diag-request")))
		same(t, "diag-response", p.message("diag/response"))

		// The bubble's clock starts in the year 2000, long before the command expires.
		p.order("command/identify", string(golden(t, "command")))
		same(t, "command-response", p.message("command/response"))

		p.order("claim/challenge", string(golden(t, "claim-challenge")))
		if got := p.message("claim/confirm"); string(got.Payload) != string(golden(t, "claim-confirm")) {
			t.Errorf("claim/confirm is %s", got.Payload)
		}
		p.order("claim/response", string(golden(t, "claim-response.claimed")))
		p.order("claim/response", string(golden(t, "claim-response.rejected")))
		synctest.Wait()
		if counts, _ := b.stats.Errors(); counts["claim rejected: code_expired"] != 1 || len(counts) != 1 {
			t.Errorf("errors %v", counts)
		}

		telemetry := p.message("telemetry")
		if telemetry.QoS != 0 || telemetry.Retain {
			t.Errorf("telemetry QoS %d retain %t", telemetry.QoS, telemetry.Retain)
		}
		sent, want := shape(t, telemetry.Payload).(map[string]any), shape(t, golden(t, "telemetry")).(map[string]any)
		delete(want, "logs") // optional, and this firmware is quiet
		if diff := cmp.Diff(want, sent); diff != "" {
			t.Errorf("telemetry (-file +sent):\n%s", diff)
		}

		p.order("command/targets", string(golden(t, "command.targets")))
		type positions struct {
			Timestamp time.Time
			Targets   []map[string]int
		}
		var file positions
		if err := json.Unmarshal(golden(t, "targets-stream"), &file); err != nil {
			t.Fatal(err)
		}
		stream := p.message("targets/stream")
		live := decode[positions](t, stream)
		if diff := cmp.Diff(slices.Sorted(maps.Keys(file.Targets[0])), slices.Sorted(maps.Keys(live.Targets[0]))); diff != "" || live.Timestamp.IsZero() || stream.QoS != 0 {
			t.Errorf("targets/stream is %s at QoS %d", stream.Payload, stream.QoS)
		}
	})
}

func TestAResetIsInTestdata(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBench(t, fleet.Behaviour{Reset: true, PacketSize: 4096, Interval: time.Hour})
		defer b.stop()
		p := <-b.dials
		p.accept()
		first := p.message("provision") // which is lost
		same(t, "provision.reset", first)
		again := p.register() // ten seconds later
		same(t, "provision.reset", again)
		type report struct {
			ResetID string `json:"reset_id"`
		}
		if x, y := decode[report](t, first), decode[report](t, again); x != y {
			t.Errorf("one reset is called %v and %v", x, y)
		}
	})
}

func TestAnUpdateIsInTestdata(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBench(t, fleet.Behaviour{Interval: time.Hour})
		defer b.stop()
		p := b.up()
		p.order("ota/trigger", string(golden(t, "ota-trigger")))
		var states []string
		for range 5 {
			packet := p.message("ota/status")
			status := decode[struct {
				Status   string
				Progress int
			}](t, packet)
			states = append(states, status.Status)
			if status.Status == "success" {
				same(t, "ota-status.success", packet)
			}
		}
		if diff := cmp.Diff([]string{"pending", "downloading", "downloading", "verifying", "success"}, states); diff != "" {
			t.Error(diff)
		}
		p = <-b.dials
		p.accept()
		state := decode[struct {
			FirmwareVersion string `json:"firmware_version"`
			UptimeSec       int    `json:"uptime_sec"`
		}](t, p.message("state"))
		if state.FirmwareVersion != "1.3.0" || state.UptimeSec > 1 {
			t.Errorf("after the update: %+v", state)
		}
		p.order("ota/trigger", `{"version":"9","url":"https://updates.example.com/9","min_rssi":-10,"rollout_id":"ro_01HZX8Q6R2K3"}`)
		failed := p.message("ota/status")
		if got := shape(t, failed.Payload).(map[string]any); got["status"] != "failed" || got["error"] != "rssi_too_low" {
			t.Errorf("too weak: %s", failed.Payload)
		}
	})
}
