package webhook_test

import (
	"context"
	"encoding/base64"
	"errors"
	"fmt"
	"net/http"
	"strconv"
	"strings"
	"testing"
	"time"

	standardwebhooks "github.com/standard-webhooks/standard-webhooks/libraries/go"

	"github.com/opticworks/devicecloud/registry"
	"github.com/opticworks/devicecloud/webhook"
)

// The vectors of the contract. [contracts H]
func TestGoldenSignatures(t *testing.T) {
	key, err := base64.StdEncoding.DecodeString("MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw")
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		id   string
		at   int64
		body string
		want string
	}{
		{"msg_p5jXN8AQM9LWM0D4loKWxJek", 1614265330, `{"test": 2432232314}`, "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE="},
		{"msg_01HZX8Q6R2K3", 1768471200, `{"type":"device.provisioned","timestamp":"2026-01-15T10:00:00Z","data":{"device_id":"a1b2c3d4e5f600112233445566778899","owner_user_id":"user_abc123"}}`, "v1,KM8a7bITe7ocmXHsZzG83fm13eg+EFp5LfG9o4sDd3s="},
	} {
		got, err := webhook.SignText(c.id, c.body, [][]byte{key}, time.Unix(c.at, 0))
		if err != nil || got != c.want {
			t.Errorf("%s: %s, %v", c.id, got, err)
		}
	}
}

// The envelope is the one of the golden vector, byte for byte.
func TestTheBodyIsThatOfTheContract(t *testing.T) {
	e := registry.OutboxEvent{
		Type: "device.provisioned", DeviceID: "a1b2c3d4e5f600112233445566778899", At: time.Date(2026, 1, 15, 10, 0, 0, 0, time.UTC),
		Data: map[string]any{"owner_user_id": "user_abc123"},
	}
	body, err := e.Body()
	if want := `{"type":"device.provisioned","timestamp":"2026-01-15T10:00:00Z","data":{"device_id":"a1b2c3d4e5f600112233445566778899","owner_user_id":"user_abc123"}}`; err != nil || body != want {
		t.Errorf("%s, %v", body, err)
	}
	e.Data = map[string]any{"status": "succeeded", "result": strings.Repeat("x", 30000)}
	body, err = e.Body()
	if want := `"data":{"device_id":"a1b2c3d4e5f600112233445566778899","status":"succeeded","truncated":true}}`; err != nil || !strings.HasSuffix(body, want) {
		t.Errorf("%.300s, %v", body, err)
	}
	e.Data = map[string]any{}
	for i := range 1000 {
		e.Data[fmt.Sprint(i)] = strings.Repeat("y", 100)
	}
	if body, err = e.Body(); err != nil || len(body) >= 20000 {
		t.Errorf("%d bytes, %v", len(body), err)
	}
}

// verify verifies a message as a receiver does, but at its own time.
func verify(t *testing.T, secret string, m webhook.Message) error {
	t.Helper()
	wh, err := standardwebhooks.NewWebhook(secret)
	if err != nil {
		t.Fatal(err)
	}
	h := http.Header{}
	h.Set("webhook-id", m.ID)
	h.Set("webhook-timestamp", strconv.FormatInt(m.Timestamp.Unix(), 10))
	h.Set("webhook-signature", m.Signatures)
	return wh.VerifyIgnoringTimestamp([]byte(m.Body), h)
}

func TestRotationSignsByBothSecretsForADay(t *testing.T) {
	inBubble(t, 30*time.Second, func(h *house) {
		e, first := h.register(here, registry.EventOnline)
		send := func() webhook.Message {
			t.Helper()
			h.emit(registry.EventOnline, "d1", nil)
			h.wait(time.Minute)
			all := h.attempts(here)
			return all[len(all)-1].Message
		}
		both := func(what string, m webhook.Message, want map[string]bool) {
			t.Helper()
			for secret, ok := range want {
				if err := verify(t, secret, m); (err == nil) != ok {
					t.Errorf("%s: %v, want %v", what, err, ok)
				}
			}
			if bad := (webhook.Message{ID: m.ID, Timestamp: m.Timestamp, Body: m.Body + " ", Signatures: m.Signatures}); verify(t, first.Reveal(), bad) == nil {
				t.Errorf("%s: another body verifies", what)
			}
		}
		_, second, err := h.Rotate(context.Background(), admin, e.ID)
		if err != nil {
			t.Fatal(err)
		}
		m := send()
		both("just rotated", m, map[string]bool{first.Reveal(): true, second.Reveal(): true})
		if n := len(strings.Fields(m.Signatures)); n != 2 || verify(t, second.Reveal(), webhook.Message{ID: m.ID, Timestamp: m.Timestamp, Body: m.Body, Signatures: strings.Fields(m.Signatures)[0]}) != nil {
			t.Errorf("%d signatures, or the new one is not the first", n)
		}
		h.wait(23*time.Hour + 50*time.Minute)
		both("a day later, nearly", send(), map[string]bool{first.Reveal(): true, second.Reveal(): true})
		h.wait(time.Hour)
		both("a day later", send(), map[string]bool{first.Reveal(): false, second.Reveal(): true})
		_, third, err := h.Rotate(context.Background(), admin, e.ID)
		if err != nil {
			t.Fatal(err)
		}
		_, fourth, err := h.Rotate(context.Background(), admin, e.ID)
		if err != nil {
			t.Fatal(err)
		}
		both("rotated twice", send(), map[string]bool{first.Reveal(): false, second.Reveal(): false, third.Reveal(): true, fourth.Reveal(): true})
	})
}

func TestSecretsHideThemselves(t *testing.T) {
	inBubble(t, time.Second, func(h *house) {
		e, secret := h.register(here, registry.EventOnline)
		text := secret.Reveal()
		key, err := base64.StdEncoding.DecodeString(strings.TrimPrefix(text, "whsec_"))
		if err != nil || len(key) != 32 || !strings.HasPrefix(text, "whsec_") {
			t.Fatalf("%d bytes, %v", len(key), err)
		}
		for _, shown := range []string{fmt.Sprint(secret), fmt.Sprintf("%+v %#v %x %d", secret, secret, secret, secret), fmt.Sprintf("%x", e.Secret)} {
			if strings.Contains(shown, text[6:20]) || strings.Contains(shown, fmt.Sprintf("%x", key)) {
				t.Error("the secret shows itself, or is stored bare")
			}
		}
		other, another := h.register(there, registry.EventOnline)
		if another.Reveal() == text || other.ID == e.ID {
			t.Error("two endpoints share a secret")
		}
	})
}

// TestTheAuditTrailHasNoSecretOfAURL: who may read the trail may not manage webhooks.
func TestTheAuditTrailHasNoSecretOfAURL(t *testing.T) {
	inBubble(t, time.Second, func(h *house) {
		e, _ := h.register(here+"in?token=canary", registry.EventOnline)
		enabled := false
		if _, err := h.Update(context.Background(), admin, e.ID, webhook.Change{Enabled: &enabled}); err != nil {
			t.Fatal(err)
		}
		if err := h.Delete(context.Background(), admin, e.ID); err != nil {
			t.Fatal(err)
		}
		var trail []registry.AuditEvent
		err := h.db.Registry().View(context.Background(), func(tx registry.Tx) (err error) {
			trail, err = tx.Audit(context.Background(), registry.AuditFilter{Limit: 10})
			return err
		})
		if err != nil || len(trail) != 3 {
			t.Fatalf("%d rows, %v", len(trail), err)
		}
		for _, row := range trail {
			if got := row.Data["url"]; got != here+"in?[redacted]" {
				t.Errorf("%s says %v", row.Event, got)
			}
		}
	})
}

func TestIDs(t *testing.T) {
	for _, n := range []int64{1, 42, 1 << 40, 1<<63 - 1} {
		id := webhook.Delivery{EventID: n}.ID()
		if got, ok := webhook.ParseID(id); !ok || got != n {
			t.Errorf("%d is %s and then %d", n, id, got)
		}
	}
	for _, id := range []string{"", "msg_", "msg_0000000000000", "msg_000000000000", "msg_00000000000001", "msg_0A8K3Q9V5ZJ4U", "MSG_0A8K3Q9V5ZJ40", "msg_ZZZZZZZZZZZZZ", "msg_0a8k3q9v5zj40"} {
		if n, ok := webhook.ParseID(id); ok {
			t.Errorf("%q is %d", id, n)
		}
	}
}

func FuzzParseID(f *testing.F) {
	f.Add("msg_0A8K3Q9V5ZJ40")
	f.Fuzz(func(t *testing.T, id string) {
		if n, ok := webhook.ParseID(id); ok && (webhook.Delivery{EventID: n}).ID() != id {
			t.Errorf("%q is %d, which is another id", id, n)
		}
	})
}

func TestWhoMayManageWebhooks(t *testing.T) {
	inBubble(t, time.Second, func(h *house) {
		e, _ := h.register(here, registry.EventOnline)
		ctx, u := context.Background(), there
		for _, a := range []struct {
			actor registry.Actor
			want  error
		}{
			{registry.Actor{}, registry.ErrInsufficientRole},
			{registry.Actor{Kind: registry.ActorUser, ID: "u", Scopes: admin.Scopes}, registry.ErrInsufficientRole},
			{registry.Actor{Kind: registry.ActorSupport, ID: "s", Scopes: admin.Scopes}, registry.ErrInsufficientRole},
			{registry.Actor{Kind: registry.ActorService, ID: "s", Scopes: admin.Scopes}, registry.ErrInsufficientRole},
			{registry.Actor{Kind: registry.ActorAdmin, ID: "a"}, registry.ErrInsufficientScope},
		} {
			for name, call := range map[string]func() error{
				"create":     func() error { _, _, err := h.Create(ctx, a.actor, webhook.Change{URL: &u}); return err },
				"list":       func() error { _, err := h.List(ctx, a.actor, "", 1); return err },
				"read":       func() error { _, err := h.Endpoint(ctx, a.actor, e.ID); return err },
				"update":     func() error { _, err := h.Update(ctx, a.actor, e.ID, webhook.Change{}); return err },
				"rotate":     func() error { _, _, err := h.Rotate(ctx, a.actor, e.ID); return err },
				"delete":     func() error { return h.Delete(ctx, a.actor, e.ID) },
				"test":       func() error { _, err := h.Test(ctx, a.actor, e.ID); return err },
				"deliveries": func() error { _, err := h.Deliveries(ctx, a.actor, e.ID, "", 0, 1); return err },
				"replay":     func() error { _, err := h.Replay(ctx, a.actor, e.ID, "x"); return err },
			} {
				if err := call(); !errors.Is(err, a.want) {
					t.Errorf("%s by %q: %v", name, a.actor, err)
				}
			}
		}
		for name, call := range map[string]func() error{
			"read":   func() error { _, err := h.Endpoint(ctx, admin, "x"); return err },
			"update": func() error { _, err := h.Update(ctx, admin, "x", webhook.Change{}); return err },
			"rotate": func() error { _, _, err := h.Rotate(ctx, admin, "x"); return err },
			"delete": func() error { return h.Delete(ctx, admin, "x") },
			"test":   func() error { _, err := h.Test(ctx, admin, "x"); return err },
			"replay": func() error { _, err := h.Replay(ctx, admin, "x", "msg_0A8K3Q9V5ZJ40"); return err },
		} {
			if err := call(); !errors.Is(err, webhook.ErrNotFound) {
				t.Errorf("%s of an absent one: %v", name, err)
			}
		}
		if _, err := h.Replay(ctx, admin, e.ID, "msg_0A8K3Q9V5ZJ40"); !errors.Is(err, webhook.ErrDeliveryNotFound) {
			t.Errorf("replay of an absent one: %v", err)
		}
	})
}
