package registry_test

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/opticworks/devicecloud/registry"
)

// resets provisions with the report of a factory reset, and more members.
func (h *house) resets(s *registry.Session, d device, more string) map[string]any {
	h.t.Helper()
	return h.provisionRaw(s, fmt.Sprintf(`{"device_id":%q,"mac_address":%q,"firmware_version":"1.2.0","reset":true%s}`, d.id, d.mac, more))
}

// bought is a device that a person has bought and set up, and a clock.
func bought(t *testing.T, opts registry.Options) (*house, device, *registry.Session, *clock) {
	t.Helper()
	clock := newClock()
	opts.Now = clock.now
	h := open(t, opts)
	for _, name := range []string{"owner", "guest", "other"} {
		h.user(name, name+"@example.com")
	}
	d := h.enroll(1)
	if _, _, err := h.CreateOrder(ctx, admin, registry.OrderRequest{OrderID: "o1", UserEmail: "owner@example.com", DeviceMAC: d.mac, ShippedAt: "2026-01-10"}); err != nil {
		t.Fatal(err)
	}
	s := h.connect(d)
	clock.add(time.Second)
	if res := h.provision(s, d); res["owner"] != "owner" {
		t.Fatalf("set up: %v", res)
	}
	clock.add(time.Second)
	return h, d, s, clock
}

func TestAFactoryResetThatADeviceReports(t *testing.T) {
	t.Run("is recorded, and frees nobody, by default", func(t *testing.T) {
		h, d, _, _ := bought(t, registry.Options{})
		s := h.connect(d)
		for range 2 {
			if res := h.resets(s, d, ""); res["status"] != "registered" || res["owner"] != "owner" {
				t.Errorf("it answers %v", res)
			}
		}
		got := strings.Join(h.audit(d.id), " ")
		if strings.Count(got, "reset_reported") != 1 || strings.Contains(got, "released") {
			t.Errorf("audit %s", got)
		}
		events, err := h.Events(ctx, person("owner"), d.id, "device.factory_reset", 0, 10)
		if err != nil || len(events) != 1 {
			t.Errorf("the owner sees %v, %v", events, err)
		}
	})
	releasing := registry.Options{ResetReleases: true}
	t.Run("frees the device like a release, when that is wanted", func(t *testing.T) {
		h, d, _, clock := bought(t, releasing)
		h.offer(d, "guest@example.com", registry.RoleViewer)
		h.accept("guest")
		h.offer(d, "other@example.com", registry.RoleViewer)
		if _, err := h.RenameDevice(ctx, person("owner"), d.id, "Hall"); err != nil {
			t.Fatal(err)
		}
		l := h.listen(t, person("owner"), registry.ListenOptions{})
		wantWords(t, hear(t, l), "snapshot", "+"+d.id)
		if _, _, err := h.SendCommand(ctx, person("owner"), d.id, registry.CommandRequest{RequestID: "r1", Type: "identify"}); err != nil {
			t.Fatal(err)
		}
		wantWords(t, hear(t, l), "command.updated "+d.id)
		s := h.connect(d)
		wantWords(t, hear(t, l), "device.status "+d.id)
		clock.add(time.Second)
		for range 2 {
			if res := h.resets(s, d, ""); res["status"] != "registered" || res["owner"] != nil {
				t.Errorf("it answers %v", res)
			}
		}
		wantWords(t, hear(t, l), "command.updated "+d.id, "device.released "+d.id)
		for _, name := range []string{"owner", "guest"} {
			if r := h.roleOf(d, name); r != "" {
				t.Errorf("%s is %q", name, r)
			}
			if !slices.Contains(h.courier.changed, name) {
				t.Errorf("the sessions of %s were not told", name)
			}
		}
		if i := h.invitations("other"); len(i) != 0 {
			t.Errorf("still invited: %v", i)
		}
		list, err := h.Audit(ctx, admin, registry.AuditFilter{DeviceID: d.id, Limit: 100})
		if err != nil {
			t.Fatal(err)
		}
		why := map[string]any{}
		for _, e := range list {
			if e.Event == "released" {
				why["released"] = e.Data["reason"]
			}
			if e.Event == "reset_reported" {
				why["reported"] = e.Data["released"]
			}
		}
		equal(t, "the audit says", why, map[string]any{"released": "factory_reset", "reported": true})
		if res := h.provision(h.connect(d), d); res["owner"] != nil {
			t.Errorf("it was linked again: %v", res)
		}
	})
	t.Run("frees no later owner by the same report", func(t *testing.T) {
		for name, more := range map[string]string{"of a name": `,"reset_id":"r1","uptime":%d`, "without one": `,"timestamp":"2026-01-22T10:00:00Z"`} {
			t.Run(name, func(t *testing.T) {
				h, d, _, clock := bought(t, releasing)
				say := func(s *registry.Session, n int) map[string]any {
					if strings.Contains(more, "%d") {
						return h.resets(s, d, fmt.Sprintf(more, n))
					}
					return h.resets(s, d, more)
				}
				if res := say(h.connect(d), 1); res["owner"] != nil {
					t.Fatalf("it answers %v", res)
				}
				clock.add(time.Second)
				h.give(d, "other")
				clock.add(time.Second)
				if res := say(h.connect(d), 2); res["owner"] != "other" {
					t.Errorf("it answers %v", res)
				}
				if r := h.roleOf(d, "other"); r != registry.RoleOwner {
					t.Errorf("the later owner is %q", r)
				}
			})
		}
	})
	t.Run("frees nobody who became the owner over this connection", func(t *testing.T) {
		h, d, s, _ := bought(t, releasing)
		if res := h.resets(s, d, `,"reset_id":"worded anew"`); res["owner"] != "owner" {
			t.Errorf("it answers %v", res)
		}
	})
	t.Run("is refused of another device, and of a connection that was taken over", func(t *testing.T) {
		h, d, old, _ := bought(t, releasing)
		thief := h.enroll(2)
		if res := h.provisionRaw(h.connect(thief), fmt.Sprintf(`{"device_id":%q,"mac_address":%q,"firmware_version":"1","reset":true}`, thief.id, d.mac)); res["error"] != "mac_mismatch" {
			t.Errorf("it answers %v", res)
		}
		h.connect(d)
		if _, err := h.Provision(ctx, old, fmt.Appendf(nil, `{"device_id":%q,"mac_address":%q,"firmware_version":"2","reset":true}`, d.id, d.mac)); err == nil {
			t.Error("a connection that was taken over may report a reset")
		}
		if r := h.roleOf(d, "owner"); r != registry.RoleOwner {
			t.Errorf("the owner is %q", r)
		}
	})
	t.Run("of a device that nobody owns is recorded alone", func(t *testing.T) {
		h := open(t, releasing)
		d := h.enroll(1)
		if res := h.resets(h.connect(d), d, ""); res["status"] != "registered" {
			t.Errorf("it answers %v", res)
		}
		if got := strings.Join(h.audit(d.id), " "); !strings.Contains(got, "reset_reported") || strings.Contains(got, "released") {
			t.Errorf("audit %s", got)
		}
	})
}

// TestTwoReportsOfOneResetInARace sends one report many times at once.
func TestTwoReportsOfOneResetInARace(t *testing.T) {
	h, d, _, _ := bought(t, registry.Options{ResetReleases: true})
	s := h.connect(d)
	done := make(chan error, 8)
	for range cap(done) {
		go func() {
			_, err := h.Provision(ctx, s, fmt.Appendf(nil, `{"device_id":%q,"mac_address":%q,"firmware_version":"1.2.0","reset":true}`, d.id, d.mac))
			done <- err
		}()
	}
	for range cap(done) {
		if err := <-done; err != nil {
			t.Error(err)
		}
	}
	if got := strings.Join(h.audit(d.id), " "); strings.Count(got, "reset_reported") != 1 || strings.Count(got, "released") != 1 {
		t.Errorf("audit %s", got)
	}
}
