package httpapi_test

import (
	"fmt"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/opticworks/devicecloud/media"
)

// ingestKey is what the world's sender of events signs with.
var ingestKey = media.IngestKey{ID: "k1", Secret: []byte("lake-copper-41-moss-9Kq2vB7m")}

// deliver sends a signed body, and holds the answer against the contract.
func (w *world) deliver(t testing.TB, path, body string) reply {
	t.Helper()
	ts := fmt.Sprint(w.clock.Now().Unix())
	return w.do(t, call{method: "POST", path: path, body: body, header: map[string]string{
		"X-Ingest-Key-Id": "k1", "X-Ingest-Timestamp": ts, "X-Ingest-Signature": "v1=" + ingestKey.Sign(ts, "POST", path, []byte(body)),
	}})
}

func TestIngestAnswers(t *testing.T) {
	w, id := newHouse(t)
	const path = "/api/internal/aws/iot-event"
	event := func(eventID string) string {
		return `{"event_id":"` + eventID + `","device_id":"` + id + `","type":"motion","occurred_at":"2026-01-15T09:59:58Z","data":{"score":0.87}}`
	}
	for _, c := range []struct {
		name, body string
		status     int
		code       string
	}{
		{"an event", event("e1"), 202, ""},
		{"again", event("e1"), 200, ""},
		{"another of its id", strings.Replace(event("e1"), "0.87", "0.5", 1), 409, "event_id_conflict"},
		{"of an unknown device", strings.Replace(event("e2"), id, strings.Repeat("0", 32), 1), 404, "device_not_found"},
		{"no JSON", `{`, 400, "invalid_payload"},
		{"no event", `{}`, 400, "invalid_payload"},
		{"a batch", `{"events":[` + event("e3") + `,` + event("e1") + `,5,` + strings.Replace(event("e4"), id, strings.Repeat("0", 32), 1) + `]}`, 202, ""},
		{"a batch without anything new", `{"events":[` + event("e3") + `,7]}`, 200, ""},
		{"an empty batch", `{"events":[]}`, 400, "invalid_payload"},
		{"a huge body", event("e5") + strings.Repeat(" ", 64<<10), 413, "body_too_large"},
	} {
		t.Run(c.name, func(t *testing.T) {
			got := w.deliver(t, path, c.body)
			got.want(t, c.status, c.code)
			checkRefusal(t, got)
		})
	}
	ts := fmt.Sprint(w.clock.Now().Unix())
	w.do(t, call{method: "POST", path: path, body: event("e6"), header: map[string]string{"X-Ingest-Key-Id": "k1", "X-Ingest-Timestamp": ts, "X-Ingest-Signature": "v1=00"}}).want(t, 401, "invalid_signature")
	w.do(t, call{method: "POST", path: path, body: event("e6")}).want(t, 401, "invalid_signature")
	// The path is signed, whatever answers there.
	w.do(t, call{method: "POST", path: "/api/ingest/iot-events", body: event("e6"), header: map[string]string{
		"X-Ingest-Key-Id": "k1", "X-Ingest-Timestamp": ts, "X-Ingest-Signature": "v1=" + ingestKey.Sign(ts, "POST", path, []byte(event("e6"))),
	}}).want(t, 401, "invalid_signature")
	w.clock.Add(301 * time.Second)
	w.do(t, call{method: "POST", path: path, body: event("e6"), header: map[string]string{
		"X-Ingest-Key-Id": "k1", "X-Ingest-Timestamp": ts, "X-Ingest-Signature": "v1=" + ingestKey.Sign(ts, "POST", path, []byte(event("e6"))),
	}}).want(t, 401, "stale_timestamp")
	w.ingestWait = 1500 * time.Millisecond
	if got := w.deliver(t, path, event("e6")).want(t, 429, "RATE_LIMITED"); got.header.Get("Retry-After") != "2" {
		t.Errorf("Retry-After is %q", got.header.Get("Retry-After"))
	}
	if got := w.do(t, call{method: "GET", path: path}); got.status != http.StatusMethodNotAllowed {
		t.Errorf("GET answers %d", got.status)
	}
	if n := w.do(t, call{method: "GET", path: "/api/devices/" + id + "/events", as: "owner"}).len("events"); n != 2 {
		t.Errorf("%d events", n)
	}
	if strings.Contains(w.logs.String(), string(ingestKey.Secret)) {
		t.Error("the key is in the log")
	}
}
