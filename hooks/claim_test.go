package hooks_test

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"testing"
	"time"

	"github.com/opticworks/devicecloud/firmware-sim/mqttwire"
	"github.com/opticworks/devicecloud/registry"
)

// What a real device publishes to be claimed binds it, and is answered as it expects.
func TestClaims(t *testing.T) {
	for _, version := range versions {
		c := newCloud(t)
		d := thing{mac: "AA:BB:CC:DD:EE:FF", secret: "device-secret-example"}
		sum := sha256.Sum256([]byte(d.secret))
		e, err := c.reg.Enroll(context.Background(), admin, registry.EnrollRequest{MACAddress: d.mac, DeviceSecretHash: hex.EncodeToString(sum[:])})
		if err != nil {
			t.Fatal(err)
		}
		d.id = e.ID
		owner := registry.Actor{Kind: registry.ActorUser, ID: c.login("owner").id, Scopes: []string{registry.ScopeDeviceRead, registry.ScopeDeviceConfigure}}
		cl := c.connect(d, version)
		subscribe(t, cl, 1, d.topic("claim/response"))
		subscribe(t, cl, 2, d.topic("claim/challenge"))
		answered := func(topic, request, response string) {
			t.Helper()
			publish(t, cl, d.topic(topic), request)
			if p := next(t, cl); p.Topic != d.topic("claim/response") || string(p.Payload) != response {
				t.Errorf("%s is answered %s on %s", request, p.Payload, p.Topic)
			}
		}
		for _, topic := range []string{"claim", "claim/confirm"} {
			answered(topic, "junk", `{"status":"rejected","error":"code_invalid"}`)
			answered(topic, string(golden(t, map[string]string{"claim": "claim", "claim/confirm": "claim-confirm"}[topic])), `{"status":"rejected","error":"code_invalid"}`)
		}
		// The golden messages, once what they name is there.
		for _, p := range []registry.Pairing{{ID: "clm_code", Via: "pairing_code"}, {ID: "clm_01HZX8", Via: "button", DeviceNo: e.No}} {
			secret := "7K3M9QXR"
			if p.Via == "button" {
				secret = "0f1e2d3c4b5a69788796a5b4c3d2e1f0"
			}
			hash := sha256.Sum256([]byte(secret))
			p.UserID, p.Hash, p.CreatedAt, p.ExpiresAt = owner.ID, hash[:], time.Now(), time.Now().Add(time.Minute)
			err := c.db.Registry().InTx(context.Background(), func(tx registry.Tx) error {
				_, err := tx.InsertPairing(context.Background(), p, 5)
				return err
			})
			if err != nil {
				t.Fatal(err)
			}
		}
		claimed := string(golden(t, "claim-response.claimed"))
		answered("claim", string(golden(t, "claim")), claimed)
		answered("claim", string(golden(t, "claim")), claimed) // a resend
		if err := c.reg.RemoveDevice(context.Background(), owner, d.id); err != nil {
			t.Fatal(err)
		}
		answered("claim", string(golden(t, "claim")), `{"status":"rejected","error":"code_invalid"}`)

		t.Run("a device is asked for its button", func(t *testing.T) {
			p, err := c.reg.ChallengeDevice(context.Background(), owner, d.id)
			if err != nil {
				t.Fatal(err)
			}
			got := next(t, cl)
			var m struct {
				ClaimID   string    `json:"claim_id"`
				Challenge string    `json:"challenge"`
				ExpiresAt time.Time `json:"expires_at"`
			}
			d := json.NewDecoder(bytes.NewReader(got.Payload))
			d.DisallowUnknownFields()
			if err := d.Decode(&m); err != nil || m.ClaimID != p.ID || len(m.Challenge) != 32 || m.ExpiresAt.IsZero() {
				t.Errorf("%s: %v", got.Payload, err)
			}
		})
		_ = cl.Write(&mqttwire.Packet{Type: mqttwire.DISCONNECT})
	}
}
