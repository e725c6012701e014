package httpapi_test

import (
	"context"
	"fmt"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/opticworks/devicecloud/httpapi"
	"github.com/opticworks/devicecloud/registry"
)

// commandTo sends a command over the API.
func (w *world) commandTo(t testing.TB, as, deviceID, body string) reply {
	t.Helper()
	return w.do(t, call{method: "POST", path: "/api/devices/" + deviceID + "/commands", as: as, body: body})
}

func TestCommandsOverHTTP(t *testing.T) {
	w, id := newHouse(t)
	first := w.commandTo(t, "owner", id, `{"requestId":"r1","type":"identify","params":{"seconds":3,"password":"canary"}}`).want(t, http.StatusAccepted, "")
	commandID := first.at("commandId").(string)
	path := "/api/devices/" + id + "/commands/" + commandID
	t.Run("one that waits says so", func(t *testing.T) {
		if first.at("status") != "queued" || first.at("requestId") != "r1" || first.at("duplicate") != nil {
			t.Errorf("%s", first.raw)
		}
	})
	t.Run("the same request is the same command", func(t *testing.T) {
		again := w.commandTo(t, "owner", id, `{"type":"identify","requestId":"r1","params":{ "seconds":3, "password":"canary" },"wait":0,"ttlSec":60}`).want(t, http.StatusAccepted, "")
		if again.at("commandId") != commandID || again.at("duplicate") != true {
			t.Errorf("%s", again.raw)
		}
		w.commandTo(t, "owner", id, `{"requestId":"r1","type":"identify"}`).want(t, http.StatusConflict, "request_id_conflict")
		others := w.commandTo(t, "shared", id, `{"requestId":"r1","type":"identify"}`).want(t, http.StatusAccepted, "")
		if others.at("commandId") == commandID {
			t.Error("it is another issuer's")
		}
	})
	t.Run("it can be read, listed and cancelled", func(t *testing.T) {
		got := w.do(t, call{method: "GET", path: path, as: "shared"}).want(t, 200, "")
		if got.at("deviceId") != id || got.at("params", "password") != "[redacted]" || got.at("params", "seconds") != 3.0 || got.at("issuedBy") == nil {
			t.Errorf("%s", got.raw)
		}
		page := w.do(t, call{method: "GET", path: "/api/devices/" + id + "/commands?limit=1", as: "owner"}).want(t, 200, "")
		rest := w.do(t, call{method: "GET", path: "/api/devices/" + id + "/commands?cursor=" + page.at("next_cursor").(string), as: "owner"}).want(t, 200, "")
		if page.len("commands") != 1 || rest.len("commands") != 1 || rest.at("commands", 0, "commandId") != commandID {
			t.Errorf("%s %s", page.raw, rest.raw)
		}
		for range 2 {
			if got := w.do(t, call{method: "DELETE", path: path, as: "owner"}).want(t, 200, ""); got.at("status") != "cancelled" {
				t.Errorf("%s", got.raw)
			}
		}
		w.do(t, call{method: "GET", path: path + "x", as: "owner"}).want(t, 404, "command_not_found")
		w.do(t, call{method: "DELETE", path: "/api/devices/" + id + "/commands/%00", as: "owner"}).want(t, 404, "command_not_found")
	})
	t.Run("a final one that is asked for again is 200", func(t *testing.T) {
		got := w.commandTo(t, "owner", id, `{"requestId":"r1","type":"identify","params":{"seconds":3,"password":"canary"}}`).want(t, http.StatusOK, "")
		if got.at("status") != "cancelled" || got.at("duplicate") != true {
			t.Errorf("%s", got.raw)
		}
	})
	t.Run("now or never needs the device", func(t *testing.T) {
		w.commandTo(t, "owner", id, `{"requestId":"r2","type":"identify","ttlSec":0}`).want(t, http.StatusConflict, "device_offline")
		w.commandTo(t, "owner", id, `{"requestId":"r3","type":"factory-reset"}`).want(t, http.StatusConflict, "device_offline")
	})
	t.Run("what cannot be undone is the owner's, signed in just now", func(t *testing.T) {
		w.commandTo(t, "shared", id, `{"requestId":"r4","type":"factory-reset"}`).want(t, http.StatusForbidden, "insufficient_role")
		w.clock.Add(6 * time.Minute)
		w.commandTo(t, "owner", id, `{"requestId":"r4","type":"factory-reset"}`).want(t, http.StatusForbidden, "reauthentication_required")
	})
	t.Run("params have a limit", func(t *testing.T) {
		w.commandTo(t, "owner", id, `{"requestId":"r5","type":"sing","params":{"x":"`+strings.Repeat("x", 520)+`"}}`).want(t, http.StatusRequestEntityTooLarge, "payload_too_large")
		w.commandTo(t, "owner", id, `{"requestId":"r5","type":"sing","params":{"x":"`+strings.Repeat("x", 500)+`"}}`).want(t, http.StatusAccepted, "")
	})
	t.Run("a full queue refuses the newest", func(t *testing.T) {
		for i := range 18 {
			w.commandTo(t, "owner", id, fmt.Sprintf(`{"requestId":"q%d","type":"identify"}`, i)).want(t, http.StatusAccepted, "")
		}
		got := w.commandTo(t, "owner", id, `{"requestId":"q18","type":"identify"}`)
		got.want(t, http.StatusTooManyRequests, "queue_full")
		if got.header.Get("Retry-After") == "" {
			t.Error("without Retry-After")
		}
	})
	t.Run("the trail holds every field", func(t *testing.T) {
		trail := w.do(t, call{method: "GET", path: "/admin/devices/" + id + "/audit?limit=200", as: "admin"}).want(t, 200, "")
		if strings.Contains(trail.raw, "canary") {
			t.Error("a secret is in the audit trail")
		}
		want := map[string][]string{ // [seed 004 7]
			"command_issued":   {"commandId", "requestId", "issuedBy", "deviceId", "type", "params", "status", "node_id"},
			"command_finished": {"commandId", "requestId", "issuedBy", "deviceId", "type", "status", "code", "duration_ms", "node_id"},
			"command_denied":   {"error", "issuedBy"},
		}
		for i := range trail.len("events") {
			event := trail.at("events", i, "event").(string)
			for _, field := range want[event] {
				if trail.at("events", i, "data", field) == nil {
					t.Errorf("%s has no %s: %v", event, field, trail.at("events", i))
				}
			}
			if event == "command_issued" && (trail.at("events", i, "ip") == nil || trail.at("events", i, "client_type") == nil) {
				t.Errorf("%v", trail.at("events", i))
			}
			delete(want, event)
		}
		if len(want) > 0 {
			t.Errorf("not audited: %v", want)
		}
	})
}

func TestCommandLimitsOverHTTP(t *testing.T) {
	w, id := newHouse(t)
	limited := registry.New(w.db.Registry(), w.courier, registry.Options{
		Now: w.clock.Now, Linger: time.Millisecond, Commands: registry.CommandLimits{PerDevice: registry.Rate{Interval: 6 * time.Second, Burst: 2}},
	})
	t.Cleanup(limited.Close)
	w.Handler = httpapi.New(httpapi.Deps{Registry: limited, Accounts: w.accounts}, httpapi.Options{Now: w.clock.Now})
	for i := range 2 {
		w.commandTo(t, "owner", id, fmt.Sprintf(`{"requestId":"%d","type":"identify"}`, i)).want(t, http.StatusAccepted, "")
	}
	w.commandTo(t, "owner", id, `{"requestId":"1","type":"identify"}`).want(t, http.StatusAccepted, "") // costs nothing
	got := w.commandTo(t, "owner", id, `{"requestId":"2","type":"identify"}`)
	got.want(t, http.StatusTooManyRequests, "RATE_LIMITED")
	if got.at("scope") != "device" || got.at("retry_after_sec") != 6.0 || got.header.Get("Retry-After") != "6" {
		t.Errorf("%s", got.raw)
	}
}

func TestCommandsWhileDraining(t *testing.T) {
	draining := fmt.Errorf("draining")
	w := newWorld(t, func(d *httpapi.Deps, _ *httpapi.Options) { d.Ready = func() error { return draining } })
	w.staff(t)
	id := w.enroll(t, "02:00:00:00:00:01")
	w.commandTo(t, "admin", id, `{"requestId":"1","type":"identify"}`).want(t, http.StatusServiceUnavailable, "broker_unavailable")
}

func TestWaitForACommand(t *testing.T) {
	w, id := newHouse(t)
	s := w.connect(t, id)
	answers := make(chan reply, 1)
	go func() {
		answers <- w.do(t, call{method: "POST", path: "/api/devices/" + id + "/commands", as: "owner", body: `{"requestId":"w","type":"identify","wait":20}`})
	}()
	ctx := context.Background()
	owner := registry.Actor{Kind: registry.ActorAdmin, Scopes: []string{registry.ScopeDeviceControl}}
	for {
		list, err := w.reg.Commands(ctx, owner, id, 0, 1)
		if err != nil {
			t.Fatal(err)
		}
		if len(list) == 1 {
			if _, err := w.reg.AnswerCommand(ctx, s, fmt.Appendf(nil, `{"command_id":%q,"status":"succeeded","result":{"a":1}}`, list[0].ID)); err != nil {
				t.Fatal(err)
			}
			break
		}
	}
	got := (<-answers).want(t, http.StatusOK, "")
	if got.at("status") != "succeeded" || got.at("result", "a") != 1.0 {
		t.Errorf("%s", got.raw)
	}
}
