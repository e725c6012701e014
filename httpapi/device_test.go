package httpapi_test

import (
	"context"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/opticworks/devicecloud/registry"
	"github.com/opticworks/devicecloud/topic"
)

// A signed URL that is copied out of an answer works, so `&` is `&`.
func TestAnswersReadAsTheyWereWritten(t *testing.T) {
	w, id := newHouse(t)
	const name = `"name":"<b>A & B</b>"`
	w.do(t, call{method: "PATCH", path: "/api/devices/" + id, as: "owner", body: "{" + name + "}"}).want(t, 200, "")
	got := w.do(t, call{method: "GET", path: "/api/devices/" + id, as: "owner"}).want(t, 200, "")
	if !strings.Contains(string(got.raw), name) {
		t.Errorf("%s", got.raw)
	}
}

func TestDeviceOfAPerson(t *testing.T) {
	ctx := context.Background()
	w, id := newHouse(t)
	t.Run("before it ever connected, what is not known is null", func(t *testing.T) {
		got := w.do(t, call{method: "GET", path: "/api/devices/" + id, as: "owner"}).want(t, 200, "")
		want := map[string]any{
			"device_id": id, "name": nil, "online": false, "status": "offline", "status_reason": nil, "status_changed_at": nil,
			"firmware_version": nil, "last_seen": nil, "role": "owner", "config_version": nil, "wifi_rssi": nil, "radar_connected": nil,
			"uptime_sec": nil, "zone_count": nil, "protocol_version": nil, "reported_at": nil, "telemetry": nil, "config_status": nil, "ota_status": nil, "connectivity": nil, "entitlements": []any{}, "ota": nil,
		}
		if diff := cmp.Diff(want, got.body); diff != "" {
			t.Error(diff)
		}
	})

	s := w.connect(t, id)
	w.clock.Add(time.Second)
	if err := w.reg.ReportState(s, []byte(`{"online":false,"firmware_version":"1.2.0","uptime_sec":86400,"wifi_rssi":-55,"config_version":3,"radar_connected":true,"zone_count":4}`)); err != nil {
		t.Fatal(err)
	}
	for k, payload := range map[topic.Kind]string{
		topic.Telemetry:    `{"device_id":"` + id + `","metrics":{"temp_c":41.5},"future":[1]}`,
		topic.ConfigStatus: `{"version":3,"status":"applied","zone_count":4}`,
		topic.OTAStatus:    `{"version":"1.3.0","status":"downloading","progress":40}`,
	} {
		if err := w.reg.KeepReport(s, k, []byte(payload)); err != nil {
			t.Fatal(err)
		}
	}
	t.Run("the broker's word on presence wins over the device's", func(t *testing.T) {
		got := w.do(t, call{method: "GET", path: "/api/v1/devices/" + id, as: "viewer"}).want(t, 200, "")
		want := map[string]any{
			"device_id": id, "name": nil, "online": true, "status": "online", "status_reason": "connected", "status_changed_at": "2026-01-15T10:00:00Z",
			"firmware_version": "1.2.0", "last_seen": "2026-01-15T10:00:01Z", "role": "viewer", "config_version": 3.0, "wifi_rssi": -55.0, "radar_connected": true,
			"uptime_sec": 86400.0, "zone_count": 4.0, "protocol_version": nil, "reported_at": "2026-01-15T10:00:01Z",
			"telemetry":     map[string]any{"received_at": "2026-01-15T10:00:01Z", "payload": map[string]any{"device_id": id, "metrics": map[string]any{"temp_c": 41.5}, "future": []any{1.0}}},
			"config_status": map[string]any{"received_at": "2026-01-15T10:00:01Z", "payload": map[string]any{"version": 3.0, "status": "applied", "zone_count": 4.0}},
			"ota_status":    map[string]any{"received_at": "2026-01-15T10:00:01Z", "payload": map[string]any{"version": "1.3.0", "status": "downloading", "progress": 40.0}},
			"connectivity":  nil, "entitlements": []any{}, "ota": nil,
		}
		if diff := cmp.Diff(want, got.body); diff != "" {
			t.Error(diff)
		}
	})
	t.Run("the list has what a list needs", func(t *testing.T) {
		got := w.do(t, call{method: "GET", path: "/api/devices", as: "owner"}).want(t, 200, "")
		want := map[string]any{"next_cursor": "", "devices": []any{map[string]any{
			"device_id": id, "name": nil, "online": true, "status": "online", "status_reason": "connected", "status_changed_at": "2026-01-15T10:00:00Z",
			"firmware_version": "1.2.0", "last_seen": "2026-01-15T10:00:01Z", "role": "owner",
		}}}
		if diff := cmp.Diff(want, got.body); diff != "" {
			t.Error(diff)
		}
	})
	t.Run("a new name shows", func(t *testing.T) {
		got := w.do(t, call{method: "PATCH", path: "/api/devices/" + id, as: "shared", body: `{"name":"  Küche 🏠 "}`}).want(t, 200, "")
		want := map[string]any{"device_id": id, "name": "Küche 🏠", "updated_at": "2026-01-15T10:00:01Z"}
		if diff := cmp.Diff(want, got.body); diff != "" {
			t.Error(diff)
		}
		if name := w.do(t, call{method: "GET", path: "/api/devices/" + id, as: "owner"}).at("name"); name != "Küche 🏠" {
			t.Errorf("the name is %v", name)
		}
	})
	t.Run("history tells its people when, and not from where", func(t *testing.T) {
		if _, err := w.reg.Disconnect(ctx, s, registry.KeepaliveTimeout, w.clock.Now()); err != nil {
			t.Fatal(err)
		}
		w.connect(t, id)
		got := w.do(t, call{method: "GET", path: "/api/devices/" + id + "/connections", as: "viewer"}).want(t, 200, "")
		if got.len("connections") != 2 || got.at("connections", 0, "disconnected_at") != nil || got.at("connections", 1, "reason") != "keepalive_timeout" {
			t.Errorf("got %s", got.raw)
		}
		if strings.Contains(got.raw, "203.0.113.9") || strings.Contains(got.raw, "node-1") {
			t.Errorf("a viewer sees %s", got.raw)
		}
		got = w.do(t, call{method: "GET", path: "/admin/devices/" + id + "/connections", as: "support"}).want(t, 200, "")
		if got.at("connections", 1, "remote") != "203.0.113.9:4321" || got.at("connections", 1, "node_id") != "node-1" || got.at("connections", 0, "epoch") != 2.0 {
			t.Errorf("support sees %s", got.raw)
		}
		first := w.do(t, call{method: "GET", path: "/api/devices/" + id + "/connections?limit=1", as: "owner"}).want(t, 200, "")
		second := w.do(t, call{method: "GET", path: "/api/devices/" + id + "/connections?limit=1&cursor=" + first.at("next_cursor").(string), as: "owner"}).want(t, 200, "")
		if first.len("connections") != 1 || second.at("connections", 0, "reason") != "keepalive_timeout" || second.at("next_cursor") != "" {
			t.Errorf("pages %s and %s", first.raw, second.raw)
		}
	})
	t.Run("events can be read by type", func(t *testing.T) {
		all := w.do(t, call{method: "GET", path: "/api/devices/" + id + "/events", as: "viewer"}).want(t, 200, "")
		if all.len("events") != 3 {
			t.Fatalf("got %s", all.raw)
		}
		typ := all.at("events", 0, "type").(string)
		one := w.do(t, call{method: "GET", path: "/api/devices/" + id + "/events?type=" + typ, as: "viewer"}).want(t, 200, "")
		if one.len("events") != 1 || one.at("events", 0, "type") != typ {
			t.Errorf("got %s", one.raw)
		}
		if none := w.do(t, call{method: "GET", path: "/api/devices/" + id + "/events?type=nothing", as: "viewer"}).want(t, 200, ""); none.raw != `{"events":[],"next_cursor":""}` {
			t.Errorf("got %s", none.raw)
		}
	})
	t.Run("who leaves a share loses the device, and nobody else does", func(t *testing.T) {
		w.do(t, call{method: "DELETE", path: "/api/devices/" + id, as: "viewer"}).want(t, 200, "")
		w.do(t, call{method: "GET", path: "/api/devices/" + id, as: "viewer"}).want(t, 404, "device_not_found")
		w.do(t, call{method: "GET", path: "/api/devices/" + id, as: "shared"}).want(t, 200, "")
	})
	t.Run("when the owner gives it up, it is nobody's", func(t *testing.T) {
		got := w.do(t, call{method: "DELETE", path: "/api/devices/" + id, as: "owner"}).want(t, 200, "")
		if diff := cmp.Diff(map[string]any{"deleted": true, "device_id": id}, got.body); diff != "" {
			t.Error(diff)
		}
		w.do(t, call{method: "DELETE", path: "/api/devices/" + id, as: "owner"}).want(t, 404, "device_not_found")
		w.do(t, call{method: "GET", path: "/api/devices/" + id, as: "shared"}).want(t, 404, "device_not_found")
	})
}

func TestPages(t *testing.T) {
	w := newWorld(t, nil)
	w.staff(t)
	user := w.login(t, "owner", "owner@example.com")
	var all []string
	for i := range 7 {
		id := w.enroll(t, fmt.Sprintf("02:00:00:00:01:%02x", i))
		w.give(t, id, user, registry.RoleOwner)
		all = append(all, id)
	}
	walk := func(t *testing.T, path, as, key string, limit int) (ids []string, pages int) {
		t.Helper()
		cursor := ""
		for {
			got := w.do(t, call{method: "GET", path: fmt.Sprintf("%s?limit=%d&cursor=%s", path, limit, cursor), as: as}).want(t, 200, "")
			for i := range got.len(key) {
				ids = append(ids, got.at(key, i, "device_id").(string))
			}
			pages++
			if cursor = got.at("next_cursor").(string); cursor == "" {
				return ids, pages
			}
		}
	}
	for _, list := range []struct{ path, as string }{{"/api/devices", "owner"}, {"/admin/devices", "support"}} {
		for limit, pages := range map[int]int{1: 7, 3: 3, 7: 1, 200: 1} {
			t.Run(fmt.Sprintf("%s by %d gives each device once", list.path, limit), func(t *testing.T) {
				ids, n := walk(t, list.path, list.as, "devices", limit)
				if !slices.Equal(ids, all) || n != pages {
					t.Errorf("%d pages of %v", n, ids)
				}
			})
		}
	}
	t.Run("numbered pages of staff", func(t *testing.T) {
		got := w.do(t, call{method: "GET", path: "/admin/devices?limit=3&page=3", as: "admin"}).want(t, 200, "")
		if got.at("total") != 7.0 || got.at("page") != 3.0 || got.len("devices") != 1 || got.at("devices", 0, "device_id") != all[6] {
			t.Errorf("got %s", got.raw)
		}
		beyond := w.do(t, call{method: "GET", path: "/admin/devices?page=10000", as: "admin"}).want(t, 200, "")
		if beyond.len("devices") != 0 || beyond.at("total") != 7.0 {
			t.Errorf("got %s", beyond.raw)
		}
	})
	t.Run("a cursor has no page number", func(t *testing.T) {
		first := w.do(t, call{method: "GET", path: "/admin/devices?limit=3", as: "admin"}).want(t, 200, "")
		second := w.do(t, call{method: "GET", path: "/admin/devices?limit=3&cursor=" + first.at("next_cursor").(string), as: "admin"}).want(t, 200, "")
		if _, has := second.body["page"]; has || second.at("total") != 7.0 {
			t.Errorf("got %s", second.raw)
		}
		w.do(t, call{method: "GET", path: "/admin/devices?page=2&cursor=" + first.at("next_cursor").(string), as: "admin"}).want(t, 400, "invalid_request")
		w.do(t, call{method: "GET", path: "/api/devices?cursor=" + first.at("next_cursor").(string), as: "owner"}).want(t, 400, "invalid_request")
	})
	for _, q := range []string{
		"limit=0", "limit=201", "limit=-1", "limit=x", "limit=1e2", "limit=99999999999999999999", "cursor=x", "cursor=AAAAAAAAAAAA", "page=0", "page=x", "page=10001",
		"status=on", "q=%00", "q=%ff", "version=" + strings.Repeat("x", 300), "a=%zz", "a;b",
	} {
		t.Run("refuses ?"+q[:min(len(q), 30)], func(t *testing.T) {
			w.do(t, call{method: "GET", path: "/admin/devices?" + q, as: "admin"}).want(t, 400, "invalid_request")
		})
	}
	for _, q := range []string{"q=' OR 1=1--", "q=%25", "q=_", "owner=' OR '1'='1", "version=1' --"} {
		t.Run("finds nothing by ?"+q, func(t *testing.T) {
			got := w.do(t, call{method: "GET", path: "/admin/devices?" + strings.ReplaceAll(q, " ", "+"), as: "admin"}).want(t, 200, "")
			if got.at("total") != 0.0 {
				t.Errorf("got %s", got.raw)
			}
		})
	}
}

func TestDeviceOfStaff(t *testing.T) {
	ctx := context.Background()
	w, id := newHouse(t)
	s := w.connect(t, id)
	if _, err := w.reg.Provision(ctx, s, []byte(`{"device_id":"`+id+`","mac_address":"02:00:00:00:00:01","firmware_version":"1.2.0"}`)); err != nil {
		t.Fatal(err)
	}
	t.Run("one device is flat: the people's fields and more", func(t *testing.T) {
		got := w.do(t, call{method: "GET", path: "/admin/devices/" + id, as: "support"}).want(t, 200, "")
		for key, want := range map[string]any{
			"mac_address": "02:00:00:00:00:01", "node_id": "node-1", "epoch": 1.0, "online": true, "self_enrolled": false, "disabled": false, "disabled_at": nil,
			"provisioned_at": "2026-01-15T10:00:00Z", "created_at": "2026-01-15T10:00:00Z", "firmware_version": "1.2.0",
		} {
			if got.body[key] != want {
				t.Errorf("%s is %v, want %v", key, got.body[key], want)
			}
		}
		if got.at("owner", "email") != "owner@example.com" || got.at("owner", "claimed_via") != "purchase" || got.len("shares") != 2 {
			t.Errorf("got %s", got.raw)
		}
		if got.len("credentials") != 1 || got.at("credentials", 0, "kind") != "secret" || strings.Contains(got.raw, sha256Hex(deviceSecret)) {
			t.Errorf("got %s", got.raw)
		}
	})
	t.Run("the list can be narrowed", func(t *testing.T) {
		w.enroll(t, "02:00:00:00:00:02")
		for q, want := range map[string]float64{
			"": 2, "status=online": 1, "status=offline": 1, "status=unknown": 0, "version=1.2.0": 1, "version=9": 0,
			"owner=owner@example.com": 1, "owner=viewer@example.com": 0, "q=02:00:00:00:00:02": 1, "q=" + id[4:12]: 1, "q=OWNER@": 1, "q=nothing": 0,
		} {
			if got := w.do(t, call{method: "GET", path: "/admin/devices?" + q, as: "support"}).want(t, 200, ""); got.at("total") != want {
				t.Errorf("%q finds %v, want %v", q, got.at("total"), want)
			}
		}
	})
	t.Run("a disabled device is locked out until it is enabled", func(t *testing.T) {
		login := registry.Login{DeviceID: id, Password: []byte(deviceSecret), HasPassword: true}
		for range 2 {
			got := w.do(t, call{method: "POST", path: "/admin/devices/" + id + "/disable", as: "support"}).want(t, 200, "")
			if got.at("disabled") != true {
				t.Errorf("got %s", got.raw)
			}
		}
		if _, err := w.reg.Authenticate(ctx, login); registry.KindOf(err) != registry.Unauthenticated {
			t.Errorf("disabled: %v", err)
		}
		if !slices.Contains(w.courier.disconnected, id) {
			t.Error("its session lives on")
		}
		w.do(t, call{method: "POST", path: "/admin/devices/" + id + "/enable", as: "support"}).want(t, 200, "")
		if _, err := w.reg.Authenticate(ctx, login); err != nil {
			t.Errorf("enabled: %v", err)
		}
	})
	t.Run("a disconnect says whether there was a session", func(t *testing.T) {
		w.connect(t, id)
		for _, want := range []bool{true, false} {
			got := w.do(t, call{method: "POST", path: "/admin/devices/" + id + "/disconnect", as: "admin"}).want(t, 200, "")
			if got.at("disconnected") != want {
				t.Errorf("got %s", got.raw)
			}
		}
	})
	t.Run("a new credential replaces the old one after its time", func(t *testing.T) {
		got := w.do(t, call{method: "POST", path: "/admin/devices/" + id + "/credentials", as: "admin", body: `{"kind":"secret","secret_hash":"` + sha256Hex("another") + `","retire_old_after_sec":60}`})
		got.want(t, 201, "")
		if got.at("kind") != "secret" || got.at("expires_at") != nil {
			t.Errorf("got %s", got.raw)
		}
		both := func() (old, fresh error) {
			_, old = w.reg.Authenticate(ctx, registry.Login{DeviceID: id, Password: []byte(deviceSecret), HasPassword: true})
			_, fresh = w.reg.Authenticate(ctx, registry.Login{DeviceID: id, Password: []byte("another"), HasPassword: true})
			return old, fresh
		}
		if old, fresh := both(); old != nil || fresh != nil {
			t.Errorf("at once: %v, %v", old, fresh)
		}
		w.clock.Add(61 * time.Second)
		if old, fresh := both(); old == nil || fresh != nil {
			t.Errorf("later: %v, %v", old, fresh)
		}
	})
	t.Run("every change is in the device's trail, newest first, with who and from where", func(t *testing.T) {
		w.do(t, call{method: "PATCH", path: "/api/devices/" + id, as: "owner", body: `{"name":"Hall"}`, header: map[string]string{
			"X-Request-Id": "my-request", "User-Agent": "app/1.0 \x01\xff", "X-Client-Type": "miniapp",
		}}).want(t, 200, "")
		got := w.do(t, call{method: "GET", path: "/admin/devices/" + id + "/audit", as: "support"}).want(t, 200, "")
		var events []string
		for i := range got.len("events") {
			events = append(events, got.at("events", i, "event").(string))
		}
		want := []string{"renamed", "credential_added", "disconnected", "disconnected", "enabled", "disabled", "device_read"}
		if diff := cmp.Diff(want, events[:min(len(want), len(events))]); diff != "" {
			t.Error(diff)
		}
		for key, want := range map[string]any{"request_id": "my-request", "ip": "198.51.100.1", "user_agent": "app/1.0 ", "client_type": "miniapp", "domain": "registry", "device_id": id} {
			if got.at("events", 0, key) != want {
				t.Errorf("%s is %q, want %q", key, got.at("events", 0, key), want)
			}
		}
		if by := got.at("events", 0, "by").(string); !strings.HasPrefix(by, "user:") {
			t.Errorf("by %s", by)
		}
	})
	t.Run("the whole trail can be narrowed", func(t *testing.T) {
		got := w.do(t, call{method: "GET", path: "/admin/audit?event=staff_created&limit=1", as: "admin"}).want(t, 200, "")
		if got.len("events") != 1 || got.at("events", 0, "domain") != "account" || got.at("next_cursor") == "" {
			t.Errorf("got %s", got.raw)
		}
		got = w.do(t, call{method: "GET", path: "/admin/audit?event=staff_created&cursor=" + got.at("next_cursor").(string), as: "admin"}).want(t, 200, "")
		if got.len("events") != 1 || got.at("next_cursor") != "" {
			t.Errorf("got %s", got.raw)
		}
	})
	t.Run("the statistics count", func(t *testing.T) {
		got := w.do(t, call{method: "GET", path: "/admin/stats", as: "admin"}).want(t, 200, "")
		if got.at("total_devices") != 2.0 || got.len("version_distribution") != 2 || got.len("daily_active") != 1 {
			t.Errorf("got %s", got.raw)
		}
	})
	t.Run("a deleted device is gone, its trail is not, and its MAC is free", func(t *testing.T) {
		w.do(t, call{method: "DELETE", path: "/admin/devices/" + id, as: "admin"}).want(t, 200, "")
		w.do(t, call{method: "GET", path: "/admin/devices/" + id, as: "admin"}).want(t, 404, "device_not_found")
		w.do(t, call{method: "GET", path: "/api/devices/" + id, as: "owner"}).want(t, 404, "device_not_found")
		got := w.do(t, call{method: "GET", path: "/admin/devices/" + id + "/audit?limit=1", as: "support"}).want(t, 200, "")
		if got.at("events", 0, "event") != "deleted" {
			t.Errorf("got %s", got.raw)
		}
		w.enroll(t, "02:00:00:00:00:01")
	})
}

func TestFactory(t *testing.T) {
	w := newWorld(t, nil)
	w.staff(t)
	hash := sha256Hex(deviceSecret)
	csv := map[string]string{"Content-Type": "text/csv; charset=utf-8"}
	t.Run("enrolment derives the id, once", func(t *testing.T) {
		body := `{"mac_address":"aa-bb-cc-dd-ee-ff","device_secret_hash":"` + hash + `","claim_secret_hash":"` + hash + `"}`
		got := w.do(t, call{method: "POST", path: "/admin/enroll", as: "admin", body: body}).want(t, http.StatusCreated, "")
		want := map[string]any{"device_id": "a81eaf01853585964842a74570b534f7", "enrolled_at": "2026-01-15T10:00:00Z"}
		if diff := cmp.Diff(want, got.body); diff != "" {
			t.Error(diff)
		}
		w.do(t, call{method: "POST", path: "/admin/enroll", as: "admin", body: body}).want(t, http.StatusConflict, "already_enrolled")
	})
	t.Run("what is missing is named so", func(t *testing.T) {
		for _, body := range []string{`{}`, `{"mac_address":"02:00:00:00:00:01"}`, `{"device_secret_hash":"` + hash + `"}`, `{"mac_address":null,"device_secret_hash":null}`} {
			w.do(t, call{method: "POST", path: "/admin/enroll", as: "admin", body: body}).want(t, 400, "missing_fields")
		}
		w.do(t, call{method: "POST", path: "/admin/orders", as: "admin", body: `{"order_id":"o"}`}).want(t, 400, "missing_fields")
	})
	t.Run("an import reports each line and can be repeated", func(t *testing.T) {
		text := "mac_address,device_secret_hash\nAA:BB:CC:DD:EE:FF," + hash + "\n02:00:00:00:00:01," + hash + "\n"
		for i, status := range []string{"created", "already_enrolled"} {
			got := w.do(t, call{method: "POST", path: "/admin/devices/import", as: "admin", body: text, header: csv}).want(t, 200, "")
			if got.at("applied") != true || got.at("created") != float64(1-i) || got.at("existing") != float64(1+i) || got.at("failed") != 0.0 || got.at("lines", 1, "status") != status {
				t.Errorf("got %s", got.raw)
			}
			if got.at("lines", 0, "status") != "already_enrolled" || got.at("lines", 0, "device_id") != "a81eaf01853585964842a74570b534f7" || got.at("lines", 0, "line") != 2.0 {
				t.Errorf("got %s", got.raw)
			}
		}
	})
	t.Run("a bad line undoes an import, unless partial", func(t *testing.T) {
		text := "mac_address,device_secret_hash\n02:00:00:00:00:02," + hash + "\nnonsense," + hash + "\n"
		got := w.do(t, call{method: "POST", path: "/admin/devices/import", as: "admin", body: text, header: csv})
		got.want(t, http.StatusUnprocessableEntity, "")
		if got.at("applied") != false || got.at("created") != 0.0 || got.at("failed") != 1.0 || got.at("lines", 1, "error") != "invalid_mac_address" {
			t.Errorf("got %s", got.raw)
		}
		got = w.do(t, call{method: "POST", path: "/admin/devices/import?partial=true", as: "admin", body: text, header: csv}).want(t, 200, "")
		if got.at("applied") != true || got.at("created") != 1.0 || got.at("failed") != 1.0 {
			t.Errorf("got %s", got.raw)
		}
		w.do(t, call{method: "POST", path: "/admin/devices/import?partial=maybe", as: "admin", body: text, header: csv}).want(t, 400, "invalid_request")
	})
	t.Run("a table without its columns is refused", func(t *testing.T) {
		w.do(t, call{method: "POST", path: "/admin/devices/import", as: "admin", body: "a,b\n1,2\n", header: csv}).want(t, 400, "invalid_csv")
		w.do(t, call{method: "POST", path: "/admin/devices/import", as: "admin", body: strings.Repeat("a", 11<<20), header: csv}).want(t, 413, "body_too_large")
		w.do(t, call{method: "POST", path: "/admin/devices/import", as: "admin", body: `{"a":1}`}).want(t, 415, "unsupported_media_type")
	})
	t.Run("an order line is recorded once", func(t *testing.T) {
		body := `{"order_id":"o1","user_email":" Buyer@Example.com","device_mac":"020000000001","shipped_at":"2026-01-10T08:00:00Z"}`
		got := w.do(t, call{method: "POST", path: "/admin/orders", as: "admin", body: body}).want(t, http.StatusCreated, "")
		want := map[string]any{"order_id": "o1", "user_email": "buyer@example.com", "device_mac": "02:00:00:00:00:01", "created": true}
		if diff := cmp.Diff(want, got.body); diff != "" {
			t.Error(diff)
		}
		again := w.do(t, call{method: "POST", path: "/admin/orders", as: "admin", body: body}).want(t, http.StatusOK, "")
		if again.at("created") != false {
			t.Errorf("got %s", again.raw)
		}
		w.do(t, call{method: "POST", path: "/admin/orders", as: "admin", body: strings.Replace(body, "Buyer", "other", 1)}).want(t, http.StatusConflict, "order_exists")
	})
	t.Run("orders are imported alike", func(t *testing.T) {
		text := "order_id,user_email,device_mac,shipped_at\no1,buyer@example.com,02:00:00:00:00:01,2026-01-10\no2,buyer@example.com,02:00:00:00:00:02,\n"
		got := w.do(t, call{method: "POST", path: "/admin/orders/import", as: "admin", body: text, header: csv}).want(t, 200, "")
		if got.at("lines", 0, "status") != "exists" || got.at("lines", 1, "status") != "created" || got.at("lines", 1, "order_id") != "o2" {
			t.Errorf("got %s", got.raw)
		}
	})
}
