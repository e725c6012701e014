package registry_test

import (
	"strings"
	"testing"
	"time"

	"github.com/opticworks/devicecloud/registry"
)

func TestPresenceIsAnnouncedToWhoeverWatches(t *testing.T) {
	h := open(t, registry.Options{})
	d := h.enroll(1)
	first := h.connect(d)
	if err := h.ReportState(first, []byte(state)); err != nil {
		t.Fatal(err)
	}
	announced := func(step string, n int, want ...string) {
		t.Helper()
		h.courier.mu.Lock()
		defer h.courier.mu.Unlock()
		list := h.courier.announced[d.id]
		if len(list) != n {
			t.Fatalf("%s: announced %q", step, list)
		}
		for _, w := range want {
			if !strings.Contains(list[n-1], w) {
				t.Errorf("%s: announced %s", step, list[n-1])
			}
		}
	}
	end := func(s *registry.Session) {
		t.Helper()
		if changed, err := h.Disconnect(ctx, s, registry.NetworkError, time.Now()); !changed || err != nil {
			t.Fatal(changed, err)
		}
	}
	announced("somebody watches", 1, `"online":true`, `"epoch":1`)
	h.courier.unwatched.Store(4) // asked before and after each commit
	end(first)
	second := h.connect(d)
	announced("nobody watches", 1)
	h.courier.unwatched.Store(1)
	end(second)
	announced("somebody began to watch during the commit", 2, `"online":false`, `"epoch":2`, `"wifi_rssi":-50`, `"firmware_version":"1.2.0"`)
	h.courier.unwatched.Store(1)
	third := h.connect(d)
	announced("the same for a connection", 3, `"online":true`, `"epoch":3`, `"wifi_rssi":-50`, `"firmware_version":"1.2.0"`)
	end(third)
	h.connect(d)
	announced("somebody watches again", 5, `"online":true`, `"epoch":4`, `"wifi_rssi":-50`, `"firmware_version":"1.2.0"`)
}
