package httpapi_test

import (
	"context"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/opticworks/devicecloud/rollout"
)

func TestReleasesAndRollouts(t *testing.T) {
	w, id := newHouse(t)
	sha := strings.Repeat("ab", 32)
	do := func(method, path, body string, status int, code string) map[string]any {
		t.Helper()
		return w.do(t, call{method: method, path: path, as: "admin", body: body}).want(t, status, code).body
	}
	release := do("POST", "/admin/releases", `{"version":"1.3.0","hardware":["rs1-b","rs1-a"],"url":"https://updates.example.com/1.bin?signature=canary","sha256":"`+sha+`","min_rssi":-70,"notes":"Radar"}`, 201, "")
	releaseID := release["release_id"].(string)
	want := map[string]any{
		"release_id": releaseID, "version": "1.3.0", "hardware": []any{"rs1-a", "rs1-b"}, "url": "https://updates.example.com/1.bin?[redacted]", "sha256": sha,
		"min_rssi": -70.0, "notes": "Radar", "withdrawn_at": nil, "created_by": release["created_by"], "created_at": "2026-01-15T10:00:00Z",
	}
	if diff := cmp.Diff(want, release); diff != "" {
		t.Error(diff)
	}
	if diff := cmp.Diff(want, do("GET", "/admin/releases/"+releaseID, "", 200, "")); diff != "" {
		t.Error(diff)
	}
	do("POST", "/admin/releases", `{"version":"1.3.0","hardware":["rs1-a","rs1-b"],"url":"https://updates.example.com/1.bin","sha256":"`+sha+`"}`, 409, "release_exists")
	do("POST", "/admin/releases", `{"version":"1.4.0","url":"https://updates.example.com/`+strings.Repeat("x", 900)+`","sha256":"`+sha+`"}`, 413, "release_too_large")
	plain := do("POST", "/admin/releases", `{"version":"1.4.0","url":"https://updates.example.com/2.bin","sha256":"`+sha+`"}`, 201, "")["release_id"].(string)

	page := do("GET", "/admin/releases?limit=1", "", 200, "")
	if list := page["releases"].([]any); len(list) != 1 || list[0].(map[string]any)["release_id"] != plain {
		t.Errorf("%v", page)
	}
	page = do("GET", "/admin/releases?limit=1&cursor="+page["next_cursor"].(string), "", 200, "")
	if list := page["releases"].([]any); len(list) != 1 || list[0].(map[string]any)["release_id"] != releaseID || page["next_cursor"] != "" {
		t.Errorf("%v", page)
	}

	do("POST", "/admin/rollouts", `{"release_id":"`+plain+`","devices":["`+strings.Repeat("0", 32)+`"]}`, 400, "invalid_request")
	made := do("POST", "/admin/rollouts", `{"release_id":"`+plain+`","percent":100,"cohort":{"versions":[],"hardware":null},"halt_percent":10,"paused":true}`, 201, "")
	ro := "/admin/rollouts/" + made["rollout_id"].(string)
	if diff := cmp.Diff(map[string]any{
		"rollout_id": made["rollout_id"], "release_id": plain, "version": "1.4.0", "status": "paused", "percent": 100.0, "cohort": map[string]any{"versions": []any{}, "hardware": []any{}},
		"listed": false, "rate_per_minute": 100.0, "max_attempts": 1.0, "timeout_sec": 1800.0, "halt_percent": 10.0, "halt_after": 20.0, "succeeded": 0.0, "failed": 0.0,
		"created_by": made["created_by"], "created_at": "2026-01-15T10:00:00Z", "updated_at": "2026-01-15T10:00:00Z", "finished_at": nil,
	}, made); diff != "" {
		t.Error(diff)
	}
	do("DELETE", "/admin/releases/"+plain, "", 409, "release_in_use")
	do("PATCH", ro, `{"percent":101}`, 400, "invalid_request")
	do("PATCH", ro, `{"percent":50}`, 409, "percent_shrinks")
	if got := do("PATCH", ro, `{"rate_per_minute":600,"max_attempts":2,"timeout_sec":60,"halt_after":5}`, 200, ""); got["rate_per_minute"] != 600.0 || got["timeout_sec"] != 60.0 {
		t.Errorf("%v", got)
	}
	if got := do("POST", ro+"/resume", "", 200, ""); got["status"] != "running" {
		t.Errorf("%v", got)
	}
	ctx, stop := context.WithCancel(t.Context())
	stopped := make(chan struct{})
	go func() { defer close(stopped); w.rollouts.Run(ctx) }()
	for deadline := time.Now().Add(10 * time.Second); do("GET", ro, "", 200, "")["total"] != 1.0; {
		if time.Now().After(deadline) {
			t.Fatal("the walk does not come to the device")
		}
		time.Sleep(time.Millisecond)
	}
	stop()
	<-stopped
	if got := do("GET", ro, "", 200, ""); got["devices"].(map[string]any)["pending"] != 1.0 || len(got["reasons"].([]any)) != 0 {
		t.Errorf("%v", got)
	}
	devices := do("GET", ro+"/devices?state=pending", "", 200, "")["devices"].([]any)
	if diff := cmp.Diff([]any{map[string]any{
		"device_id": id, "online": false, "firmware_version": nil, "from_version": nil, "state": "pending", "reason": nil, "progress": 0.0, "attempt": 0.0,
		"not_before": nil, "triggered_at": nil, "finished_at": nil, "updated_at": "2026-01-15T10:00:00Z",
	}}, devices); diff != "" {
		t.Error(diff)
	}
	if got := do("GET", ro+"/devices?state=failed", "", 200, "")["devices"].([]any); len(got) != 0 {
		t.Errorf("%v", got)
	}
	ota := map[string]any{"rollout_id": made["rollout_id"], "version": "1.4.0", "state": "pending", "reason": nil, "progress": 0.0, "attempt": 0.0, "updated_at": "2026-01-15T10:00:00Z"}
	for _, path := range []string{"/api/devices/", "/admin/devices/"} {
		if diff := cmp.Diff(any(ota), do("GET", path+id, "", 200, "")["ota"]); diff != "" {
			t.Error(diff)
		}
	}
	if diff := cmp.Diff(any(ota), w.do(t, call{method: "GET", path: "/api/devices/" + id, as: "viewer"}).want(t, 200, "").body["ota"]); diff != "" {
		t.Error(diff)
	}
	do("POST", ro+"/cancel", "", 200, "")
	do("POST", ro+"/pause", "", 409, "rollout_over")
	if got := do("GET", "/api/devices/"+id, "", 200, "")["ota"]; got != nil {
		t.Errorf("of a cancelled rollout the device's people see %v", got)
	}
	do("DELETE", "/admin/releases/"+plain, "", 200, "")
	do("POST", "/admin/rollouts", `{"release_id":"`+plain+`"}`, 409, "release_withdrawn")
	if list := do("GET", "/admin/rollouts?status=cancelled", "", 200, "")["rollouts"].([]any); len(list) != 1 {
		t.Errorf("%v", list)
	}
	do("GET", "/admin/rollouts?status=odd", "", 400, "invalid_request")
	do("GET", ro+"/devices?state=odd", "", 400, "invalid_request")
	do("GET", "/admin/rollouts?cursor=odd", "", 400, "invalid_request")
	if !rollout.State("waiting").Valid() || rollout.Status("odd").Valid() {
		t.Error("the names of states are wrong")
	}
	if strings.Contains(w.logs.String(), "canary") {
		t.Error("the signature of a release's URL is in the log")
	}
	for _, e := range do("GET", "/admin/audit", "", 200, "")["events"].([]any) {
		if strings.Contains(strings.ToLower(fmt.Sprint(e)), "signature=canary") {
			t.Errorf("the signature of a release's URL is in the audit trail: %v", e)
		}
	}
}
