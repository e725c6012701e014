package httpapi_test

import (
	"bytes"
	"context"
	"errors"
	"mime/multipart"
	"strings"
	"testing"

	"github.com/opticworks/devicecloud/media"
	"github.com/opticworks/devicecloud/registry"
)

// model is a model that says what the test wants, and counts how often it is asked.
type model struct {
	calls  int
	answer string
	err    error
}

func (m *model) See(context.Context, media.Picture) ([]byte, error) {
	m.calls++
	return []byte(m.answer), m.err
}

const jpeg = "\xff\xd8\xff\xe0 a picture"

// uploaded is a body with a part, and its media type.
func uploaded(t testing.TB, name, content string) (body, mediaType string) {
	t.Helper()
	var b bytes.Buffer
	w := multipart.NewWriter(&b)
	part, err := w.CreateFormFile(name, "frame.jpg")
	if err == nil {
		_, err = part.Write([]byte(content))
	}
	if err = errors.Join(err, w.Close()); err != nil {
		t.Fatal(err)
	}
	return b.String(), w.FormDataContentType()
}

// entitle grants a device a service.
func (w *world) entitle(t testing.TB, id, capability string) {
	t.Helper()
	w.do(t, call{method: "POST", path: "/admin/devices/" + id + "/entitlements", as: "admin", body: `{"capability":"` + capability + `"}`}).want(t, 201, "")
}

// Every answer to a classification, held against the contract. [contracts B]
func TestClassifyAnswers(t *testing.T) {
	w, id := newHouse(t)
	const good = `{"label":"person","confidence":0.87,"summary":"A person at the door."}`
	n := 0
	// event is a new event's path, by what its sender calls it.
	event := func() string {
		n++
		name := "evt-" + strings.Repeat("x", n)
		w.deliver(t, "/api/internal/aws/iot-event", `{"event_id":"`+name+`","device_id":"`+id+`","type":"motion","occurred_at":"2026-01-15T09:59:58Z"}`).want(t, 202, "")
		return "/api/devices/" + id + "/events/" + name + "/classify"
	}
	post := func(path, as, part, content string) reply {
		body, mediaType := uploaded(t, part, content)
		return w.do(t, call{method: "POST", path: path, as: as, body: body, header: map[string]string{"Content-Type": mediaType}})
	}
	first := event()
	post(first, "stranger", "image", jpeg).want(t, 404, "device_not_found")
	post(first, "support", "image", jpeg).want(t, 404, "device_not_found")
	post(first, "viewer", "image", jpeg).want(t, 403, "insufficient_role")
	post(first, "owner", "image", jpeg).want(t, 403, "entitlement_required")
	w.entitle(t, id, "ai_summary")
	w.model.answer = good
	w.do(t, call{method: "POST", path: first, as: "owner"}).want(t, 409, "video_not_provisioned")
	post("/api/devices/"+id+"/events/none/classify", "owner", "image", jpeg).want(t, 404, "event_not_found")
	post("/api/devices/"+id+"/events/"+strings.Repeat("9", 300)+"/classify", "owner", "image", jpeg).want(t, 404, "event_not_found")
	post(first, "owner", "picture", jpeg).want(t, 400, "invalid_request")
	post(first, "owner", "image", "<svg/>").want(t, 415, "unsupported_image")
	post(first, "owner", "image", "").want(t, 415, "unsupported_image")
	post(first, "owner", "image", jpeg+strings.Repeat("x", 1<<20)).want(t, 413, "image_too_large")
	post(first, "owner", "image", jpeg+strings.Repeat("x", 3<<20)).want(t, 413, "image_too_large")
	w.do(t, call{method: "POST", path: first, as: "owner", body: "no form", header: map[string]string{"Content-Type": "multipart/form-data; boundary=x"}}).want(t, 400, "invalid_request")
	w.do(t, call{method: "POST", path: first, as: "owner", body: "no form", header: map[string]string{"Content-Type": "multipart/form-data"}}).want(t, 400, "invalid_request")
	if w.model.calls != 0 {
		t.Fatalf("the model was asked %d times", w.model.calls)
	}
	got := post(first, "owner", "image", jpeg).want(t, 200, "")
	if got.at("label") != "person" || got.at("confidence") != 0.87 || got.at("summary") != "A person at the door." || got.at("model_id") != "model-1" || got.at("classified_at") != "2026-01-15T10:00:00Z" {
		t.Errorf("%s", got.raw)
	}
	again := post(first, "shared", "image", jpeg).want(t, 200, "")
	byNumber := post("/api/devices/"+id+"/events/"+got.at("event_id").(string)+"/classify", "owner", "image", jpeg).want(t, 200, "")
	if w.model.calls != 1 || again.raw != got.raw || byNumber.raw != got.raw {
		t.Errorf("%d calls; %s and %s", w.model.calls, again.raw, byNumber.raw)
	}
	for err, want := range map[error]struct {
		status int
		code   string
	}{
		media.ErrModelBusy: {429, "RATE_LIMITED"}, media.ErrModelTimeout: {504, "model_timeout"}, media.ErrModelBadOutput: {502, "model_bad_output"},
		media.ErrUnavailable: {503, "upstream_unavailable"}, media.ErrDenied: {502, "upstream_denied"}, media.ErrUnsupportedImage: {415, "unsupported_image"},
		registry.ErrFeatureDisabled: {501, "feature_disabled"},
	} {
		w.model.err = err
		checkRefusal(t, post(event(), "owner", "image", jpeg).want(t, want.status, want.code))
	}
	w.model.err = nil
	// What is known is among the events, for who may know.
	for as, want := range map[string]bool{"owner": true, "shared": true, "viewer": false, "admin": false} {
		list := w.do(t, call{method: "GET", path: "/api/devices/" + id + "/events", as: as}).want(t, 200, "")
		if last := list.at("events", list.len("events")-1, "classification", "label"); (last == "person") != want {
			t.Errorf("%s sees %v", as, last)
		}
	}
	if raw := w.do(t, call{method: "GET", path: "/admin/devices/" + id + "/audit", as: "admin"}).raw; !strings.Contains(raw, "event_classified") || strings.Contains(raw, "at the door") || strings.Contains(raw, "a picture") {
		t.Errorf("the audit says %s", raw)
	}
}
