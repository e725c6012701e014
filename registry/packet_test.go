package registry_test

import (
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"testing"

	"github.com/opticworks/devicecloud/registry"
)

// declares provisions with the largest packet that the firmware takes; 0 says nothing.
func (b *barracks) declares(s *registry.Session, firmware string, size int) {
	b.t.Helper()
	more := ""
	if size > 0 {
		more = fmt.Sprintf(`,"max_packet_size":%d`, size)
	}
	if res := b.provisionRaw(s, fmt.Sprintf(`{"device_id":%q,"mac_address":%q,"firmware_version":%q%s}`, b.dev.id, b.dev.mac, firmware, more)); res["status"] != "registered" {
		b.t.Fatalf("it answers %v", res)
	}
}

func TestADeviceWithALargerBufferGetsLargerCommands(t *testing.T) {
	b := newBarracks(t, registry.Options{})
	requests := 0
	// takes sends params of so many bytes.
	takes := func(size int) bool {
		t.Helper()
		requests++
		params := `{"x":"` + strings.Repeat("x", size-len(`{"x":""}`)) + `"}`
		_, _, err := b.SendCommand(ctx, b.owner, b.dev.id, registry.CommandRequest{
			RequestID: fmt.Sprint("r", requests), Type: "sing", Params: json.RawMessage(params),
		})
		if err != nil && !errors.Is(err, registry.ErrCommandTooLarge) {
			t.Fatal(err)
		}
		return err == nil
	}
	limit := func(what string, size int) {
		t.Helper()
		if !takes(size) || takes(size+1) {
			t.Errorf("%s: the limit is not %d bytes", what, size)
		}
	}
	limit("a device that has said nothing", 512)
	s := b.connect(b.dev)
	b.declares(s, "1.0", 4096)
	limit("one that has said 4096", 4096-512)
	b.declares(s, "1.0", 1<<20)
	limit("one that has said a megabyte", 16384-512)
	b.declares(s, "1.1", 0)
	limit("other firmware, which does not say", 512)
	b.declares(s, "1.2", 4096)

	id, err := b.login(b.dev, b.dev.secret)
	if err != nil {
		t.Fatal(err)
	}
	if s, err = b.Connect(ctx, id, registry.ConnectInfo{Protocol: 5, MaxPacket: 2048}); err != nil {
		t.Fatal(err)
	}
	b.CommandsReady(s)
	b.idle()
	limit("over a connection that takes 2048", 2048-512)
	b.CommandsGone(s)
	limit("without that connection", 4096-512)
}

func TestAConfigurationFitsTheDevice(t *testing.T) {
	b := newBarracks(t, registry.Options{})
	s := b.connect(b.dev)
	var zones []string
	for n := range 16 {
		zones = append(zones, fmt.Sprintf(`{"id":"z%d","name":"zone %d","type":"include","vertices":[[0,0],[1000,0],[1000,1000],[0,1000]],"sensitivity":50}`, n, n))
	}
	all, err := registry.ParseZones([]byte("[" + strings.Join(zones, ",") + "]"))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := b.SetDeviceConfig(ctx, b.owner, b.dev.id, 0, all); !errors.Is(err, registry.ErrConfigTooLarge) {
		t.Errorf("a device that has said nothing: %v", err)
	}
	b.declares(s, "1.0", 4096)
	if _, err := b.SetDeviceConfig(ctx, b.owner, b.dev.id, 0, all); err != nil {
		t.Errorf("one with a larger buffer: %v", err)
	}
}
