package fleet_test

import (
	"bytes"
	"context"
	"fmt"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/opticworks/devicecloud/firmware-sim/fleet"
)

func serveAPI(t *testing.T, handle http.HandlerFunc) *fleet.API {
	t.Helper()
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/admin/auth/login" {
			reply(w, map[string]string{"access_token": "token"})
			return
		}
		handle(w, r)
	}))
	api := fleet.NewAPI(server.URL+"/", "a@example.com", "p", nil)
	t.Cleanup(func() {
		api.Close()
		server.Close()
	})
	return api
}

func TestAPI(t *testing.T) {
	t.Run("obeys Retry-After", func(t *testing.T) {
		requests := 0
		api := serveAPI(t, func(w http.ResponseWriter, _ *http.Request) {
			if requests++; requests == 1 {
				w.Header().Set("Retry-After", "0")
				w.WriteHeader(http.StatusTooManyRequests)
				return
			}
			reply(w, map[string]any{"devices": []any{map[string]any{"device_id": "a", "online": true}}})
		})
		devices, err := api.Devices(t.Context())
		if err != nil || !devices["a"].Online || requests != 2 {
			t.Errorf("%v, %v after %d requests", devices, err, requests)
		}
	})
	t.Run("waiting ends with the context", func(t *testing.T) {
		asked := make(chan bool, 1)
		api := serveAPI(t, func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Retry-After", "30")
			w.WriteHeader(http.StatusTooManyRequests)
			asked <- true
		})
		ctx, cancel := context.WithCancel(t.Context())
		go func() {
			<-asked
			cancel()
		}()
		if _, err := api.Devices(ctx); err == nil {
			t.Error("no error")
		}
	})
	t.Run("reading is tried again when the cloud does not answer or is unavailable", func(t *testing.T) {
		var requests atomic.Int64
		api := serveAPI(t, func(w http.ResponseWriter, _ *http.Request) {
			switch requests.Add(1) {
			case 1:
				panic(http.ErrAbortHandler)
			case 2:
				w.WriteHeader(http.StatusServiceUnavailable)
			default:
				reply(w, map[string]any{"devices": []any{map[string]any{"device_id": "a", "online": true}}})
			}
		})
		devices, err := api.Devices(t.Context())
		if err != nil || !devices["a"].Online || requests.Load() != 3 {
			t.Errorf("%v, %v after %d requests", devices, err, requests.Load())
		}
	})
	t.Run("but not for ever, and a change is never repeated", func(t *testing.T) {
		var requests atomic.Int64
		api := serveAPI(t, func(http.ResponseWriter, *http.Request) {
			requests.Add(1)
			panic(http.ErrAbortHandler)
		})
		if _, err := api.Enrol(t.Context(), identities(1), func(int) {}); err == nil || requests.Load() != 1 {
			t.Errorf("%v after %d imports", err, requests.Load())
		}
		if _, err := api.Devices(t.Context()); err == nil || requests.Load() > 1+10 { // the transport may repeat a GET once by itself
			t.Errorf("%v after %d requests", err, requests.Load())
		}
	})
	t.Run("a list that does not advance is an error", func(t *testing.T) {
		api := serveAPI(t, func(w http.ResponseWriter, _ *http.Request) {
			reply(w, map[string]any{"devices": []any{map[string]any{"device_id": "a"}}, "next_cursor": "same"})
		})
		if _, err := api.Devices(t.Context()); err == nil || !strings.Contains(err.Error(), "does not advance") {
			t.Errorf("got %v", err)
		}
	})
	t.Run("an error names the server's code", func(t *testing.T) {
		api := serveAPI(t, func(w http.ResponseWriter, _ *http.Request) {
			w.WriteHeader(http.StatusForbidden)
			reply(w, map[string]string{"error": "insufficient_role", "message": "not you"})
		})
		_, err := api.Devices(t.Context())
		if err == nil || !strings.Contains(err.Error(), "HTTP 403 insufficient_role not you") {
			t.Errorf("got %v", err)
		}
	})
	t.Run("a fleet is enrolled in chunks", func(t *testing.T) {
		requests := 0
		api := serveAPI(t, func(w http.ResponseWriter, r *http.Request) {
			requests++
			var body bytes.Buffer
			if _, err := body.ReadFrom(r.Body); err != nil {
				t.Error(err)
			}
			lines := strings.Count(body.String(), "\n") - 1
			if requests == 2 {
				reply(w, map[string]any{"created": lines - 2, "failed": 1, "lines": []any{
					map[string]any{"line": 2, "status": "already_enrolled"},
					map[string]any{"line": 3, "status": "error", "error": "invalid_mac", "message": "no"},
				}})
				return
			}
			reply(w, map[string]any{"created": lines})
		})
		var done []int
		result, err := api.Enrol(t.Context(), identities(5_100), func(n int) { done = append(done, n) })
		want := fleet.ImportResult{Created: 5_098, Already: 1, Failed: 1, Sample: "line 3: invalid_mac no"}
		if err != nil || result != want || fmt.Sprint(done) != "[5000 5100]" {
			t.Errorf("%+v, %v, %v", result, done, err)
		}
	})
}

func TestDisplay(t *testing.T) {
	t.Run("on a terminal a bar and a line that is rewritten", func(t *testing.T) {
		var out bytes.Buffer
		d := fleet.NewDisplay(&out, true)
		set, finish := d.Bar("enrol", 10)
		set(4)
		set(10)
		finish()
		ctx, cancel := context.WithTimeout(t.Context(), 600*time.Millisecond)
		defer cancel()
		d.Watch(ctx, func() string { return "online 3/4" })
		d.Say("done")
		for _, want := range []string{"enrol", "10/10", "\r\033[Konline 3/4", "online 3/4\ndone\n"} {
			if !strings.Contains(out.String(), want) {
				t.Errorf("%q is missing in %q", want, out.String())
			}
		}
	})
	t.Run("elsewhere only whole lines", func(t *testing.T) {
		var out bytes.Buffer
		d := fleet.NewDisplay(&out, false)
		set, finish := d.Bar("enrol", 10)
		set(10)
		finish()
		d.Say("enrolled %d", 10)
		if out.String() != "enrolled 10\n" {
			t.Errorf("got %q", out.String())
		}
	})
}
