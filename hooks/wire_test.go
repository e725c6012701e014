package hooks_test

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/opticworks/devicecloud/firmware-sim/mqttwire"
	"github.com/opticworks/devicecloud/registry"
	"github.com/opticworks/devicecloud/topic"
)

func golden(t *testing.T, name string) []byte {
	t.Helper()
	b, err := os.ReadFile(filepath.Join("..", "testdata", "wire", name+".json"))
	if err != nil {
		t.Fatal(err)
	}
	return bytes.TrimSuffix(b, []byte("\n"))
}

// What a real device sends is accepted, and what it is answered has the form that
// it expects. The simulator is held against the same files.
func TestGoldenPayloads(t *testing.T) {
	c := newCloud(t)
	d := thing{mac: "AA:BB:CC:DD:EE:FF", secret: "device-secret-example"}
	sum := sha256.Sum256([]byte(d.secret))
	e, err := c.reg.Enroll(context.Background(), admin, registry.EnrollRequest{MACAddress: d.mac, DeviceSecretHash: hex.EncodeToString(sum[:])})
	if err != nil {
		t.Fatal(err)
	}
	d.id = e.ID
	hello := d.hello(mqttwire.V5)
	hello.Will = &mqttwire.Will{Topic: d.topic("state"), Payload: golden(t, "will"), QoS: 1, Retain: true}
	cl := c.dial()
	if _, err := cl.Connect(hello); err != nil {
		t.Fatal(err)
	}
	for name, k := range map[string]topic.Kind{
		"state": topic.State, "state.minimal": topic.State, "telemetry": topic.Telemetry, "config-status": topic.ConfigStatus,
		"config-status.rejected": topic.ConfigStatus, "ota-status": topic.OTAStatus, "ota-status.success": topic.OTAStatus,
		"ota-status.failed": topic.OTAStatus, "diag-response": topic.DiagResponse, "command-response": topic.CommandResponse,
		"command-response.rejected": topic.CommandResponse, "claim": topic.Claim, "claim-confirm": topic.ClaimConfirm,
	} {
		if _, err := cl.Publish(mqttwire.Message{Topic: spell(d.id, k), Payload: golden(t, name), QoS: 1}); err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
	if _, err := cl.Publish(mqttwire.Message{Topic: d.topic("targets/stream"), Payload: golden(t, "targets-stream")}); err != nil {
		t.Error(err)
	}
	subscribe(t, cl, 1, d.topic("provision/response"))
	form := func(payload []byte) (keys []string, m map[string]any) {
		if err := json.Unmarshal(payload, &m); err != nil {
			t.Fatal(err)
		}
		return slices.Sorted(maps.Keys(m)), m
	}
	for _, tc := range []struct{ request, response string }{
		{string(golden(t, "provision.request")), "provision-response.unowned"},
		{strings.Replace(string(golden(t, "provision.request")), d.mac, "AA:BB:CC:DD:EE:00", 1), "provision-response.rejected"},
	} {
		publish(t, cl, d.topic("provision"), tc.request)
		got, values := form(next(t, cl).Payload)
		want, expected := form(golden(t, tc.response))
		if !slices.Equal(got, want) {
			t.Errorf("%s: fields %v, want %v", tc.response, got, want)
		}
		for _, key := range []string{"status", "device_id", "owner", "error"} {
			if values[key] != expected[key] {
				t.Errorf("%s: %s is %v, want %v", tc.response, key, values[key], expected[key])
			}
		}
	}
}
