package media_test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/opticworks/devicecloud/media"
	"github.com/opticworks/devicecloud/registry"
)

func golden(t *testing.T, name string) []byte {
	t.Helper()
	b, err := os.ReadFile(filepath.Join("..", "testdata", "wire", name+".json"))
	if err != nil {
		t.Fatal(err)
	}
	return bytes.TrimSuffix(b, []byte("\n"))
}

// TestGoldenPayloads holds what devices send and get to the letter.
func TestGoldenPayloads(t *testing.T) {
	r, err := media.ParseVendRequest(golden(t, "kvs-credentials.request"))
	if err != nil || r != (media.VendRequest{RequestID: "9f1c2d3e4b5a", Purpose: media.PurposeWebRTC}) {
		t.Errorf("%+v, %v", r, err)
	}
	if id, err := media.ParseConfigRequest(golden(t, "kvs-config.request")); err != nil || id != r.RequestID {
		t.Errorf("%q, %v", id, err)
	}
	lent := media.Lent{
		RequestID: r.RequestID, Region: "us-east-1", Video: media.Video{StreamName: "cam-a81eaf01", ChannelName: "cam-a81eaf01"},
		Loan: media.Loan{ChannelARN: "arn:aws:kinesisvideo:us-east-1:123456789012:channel/cam-a81eaf01/1768471200000", Keys: media.Keys{
			AccessKeyID: "ASIAEXAMPLE", SecretAccessKey: "SECRETEXAMPLE", SessionToken: "TOKENEXAMPLE", Expires: time.Date(2026, 1, 15, 11, 0, 0, 0, time.UTC),
		}},
	}
	if got, err := lent.Wire(); err != nil || !bytes.Equal(got, golden(t, "kvs-credentials-response")) {
		t.Errorf("%s, %v", got, err)
	}
	late := *media.ErrTooOften
	late.RetryAfter = 59500 * time.Millisecond
	if got, internal := media.Refusal(r.RequestID, &late); internal || !bytes.Equal(got, golden(t, "kvs-credentials-response.refused")) {
		t.Errorf("%s", got)
	}
}

// TestRefusals is what each error becomes for a device, in at most 256 bytes.
func TestRefusals(t *testing.T) {
	id := strings.Repeat("r", 64)
	for _, c := range []struct {
		err      error
		code     string
		internal bool
	}{
		{registry.ErrFeatureDisabled, "feature_disabled", false},
		{registry.ErrEntitlementRequired, "entitlement_required", false},
		{media.ErrNotProvisioned, "not_provisioned", false},
		{registry.ErrDeviceNotFound, "not_provisioned", false},
		{media.ErrTooOften, "rate_limited", false},
		{media.ErrBusy, "rate_limited", false},
		{media.ErrTooLarge, "payload_too_large", false},
		{errors.Join(media.ErrTooLarge, nil), "payload_too_large", false},
		{media.ErrDenied, "upstream_unavailable", true},
		{media.ErrUnavailable, "upstream_unavailable", true},
		{registry.ErrUnavailable, "upstream_unavailable", true},
		{errors.New("broken"), "upstream_unavailable", true},
	} {
		payload, internal := media.Refusal(id, c.err)
		var got struct{ Status, Error string }
		if err := json.Unmarshal(payload, &got); err != nil || got.Status != "error" || got.Error != c.code || internal != c.internal || len(payload) > 256 {
			t.Errorf("%v: %s, for the log %v", c.err, payload, internal)
		}
	}
}

func TestSecretsRedactThemselves(t *testing.T) {
	const canary = "canary-of-a-secret"
	k := media.Keys{AccessKeyID: canary, SecretAccessKey: canary, SessionToken: canary}
	v := media.Viewer{URL: canary, ICE: []media.ICEServer{{Username: canary, Credential: canary}}, Keys: k}
	player, lent := media.Player{URL: canary}, media.Lent{Loan: media.Loan{Keys: k}}
	var log bytes.Buffer
	logger := slog.New(slog.NewJSONHandler(&log, nil))
	for _, x := range []any{k, v, player, lent, media.Identified{Token: canary}} {
		logger.Info("x", "x", x)
		text, err := json.Marshal(x)
		if err != nil {
			t.Fatal(err)
		}
		log.Write(text)
		for _, verb := range []string{"%v", "%+v", "%#v", "%s", "%q", "%x"} {
			fmt.Fprintf(&log, verb, x)
		}
	}
	if strings.Contains(log.String(), canary) || strings.Contains(log.String(), fmt.Sprintf("%x", canary)) {
		t.Errorf("a secret shows: %s", log.String())
	}
}

func TestSessionNames(t *testing.T) {
	for want, h := range map[string]media.Holder{
		"u-4d15cedb-d-a81eaf01": {UserID: "01a20234-6e85-7aaf-98b6-af4a4d15cedb", DeviceID: "a81eaf01853585964842a74570b534f7"},
		"d-a81eaf01":            {DeviceID: "a81eaf01853585964842a74570b534f7"},
		"u-x-d-y":               {UserID: "x/*", DeviceID: "y"},
	} {
		if got := h.SessionName(); got != want {
			t.Errorf("%+v is %s, want %s", h, got, want)
		}
	}
}

// nobody is a store that must not be asked.
type nobody struct{ t *testing.T }

func (n nobody) View(context.Context, func(media.Tx) error) error {
	n.t.Error("the database was asked")
	return registry.ErrUnavailable
}

func (n nobody) InTx(context.Context, func(media.Tx) error) error {
	return n.View(context.Background(), nil)
}

// TestStaffNeverWatch asks as everybody who is no person: the answer needs no look.
func TestStaffNeverWatch(t *testing.T) {
	s := media.New(nobody{t}, nil, media.Options{})
	for _, kind := range []registry.ActorKind{registry.ActorAdmin, registry.ActorSupport, registry.ActorDevice, registry.ActorSystem} {
		a := registry.Actor{Kind: kind, ID: "x", Scopes: []string{registry.ScopeDeviceRead, registry.ScopeConfigWrite}}
		if err := s.Mine(t.Context(), a, "d"); !errors.Is(err, registry.ErrDeviceNotFound) {
			t.Errorf("%s: %v", kind, err)
		}
	}
	if _, err := s.SetVideo(t.Context(), registry.Actor{Kind: registry.ActorSupport, Scopes: []string{registry.ScopeConfigWrite}}, "d", media.VideoNames{}); !errors.Is(err, registry.ErrInsufficientRole) {
		t.Errorf("support names a stream: %v", err)
	}
	if _, err := s.SetVideo(t.Context(), registry.Actor{Kind: registry.ActorAdmin}, "d", media.VideoNames{}); !errors.Is(err, registry.ErrInsufficientScope) {
		t.Errorf("without config:write: %v", err)
	}
}

func FuzzParseVendRequest(f *testing.F) {
	for _, s := range []string{`{"request_id":"r1","purpose":"stream"}`, `{"request_id":"","purpose":"webrtc"}`, `[]`, `{"request_id":1}`, "{\"request_id\":\"\\u0000\",\"purpose\":\"stream\"}"} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, payload []byte) {
		r, err := media.ParseVendRequest(payload)
		if err != nil {
			if registry.KindOf(err) != registry.Invalid {
				t.Errorf("%v", err)
			}
			return
		}
		if r.RequestID == "" || len(r.RequestID) > 64 || strings.ContainsFunc(r.RequestID, func(c rune) bool { return c < ' ' || c > '~' }) {
			t.Errorf("%q is taken", r.RequestID)
		}
		if refusal, _ := media.Refusal(r.RequestID, media.ErrUnavailable); len(refusal) > 256 || !json.Valid(refusal) {
			t.Errorf("%s", refusal)
		}
		if again, err := media.ParseVendRequest(payload); err != nil || again != r {
			t.Error("read twice, it is another")
		}
	})
}

func FuzzParseConfigRequest(f *testing.F) {
	for _, s := range []string{`{"request_id":"r1"}`, `{}`, `null`, `{"request_id":["x"]}`} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, payload []byte) {
		if id, err := media.ParseConfigRequest(payload); err == nil && (id == "" || len(id) > 64) {
			t.Errorf("%q is taken", id)
		}
	})
}
