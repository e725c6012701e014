package e2e_test

import (
	"crypto/sha256"
	"encoding/hex"
	"net/http"
	"net/url"
	"strings"
	"testing"
	"time"

	"github.com/opticworks/devicecloud/firmware-sim/mqttwire"
)

// service is a service account with an API key.
type service struct{ id, secret, keyID, key string }

func (c *Cloud) serviceAccount(admin, name string, scopes ...string) (s service) {
	c.t.Helper()
	var account struct {
		ID     string `json:"client_id"`
		Secret string `json:"client_secret"`
	}
	c.Post("/admin/service-accounts", admin, map[string]any{"name": name, "scopes": scopes}, &account)
	var key struct {
		ID   string `json:"key_id"`
		Text string `json:"api_key"`
	}
	c.Post("/admin/service-accounts/"+account.ID+"/keys", admin, map[string]string{"name": "line 1"}, &key)
	return service{account.ID, account.Secret, key.ID, key.Text}
}

// A factory enrols a device by an API key, watches it come up over MQTT by the same
// key, and is out, on both ways, the moment the key is revoked.
func TestFactoryJourney(t *testing.T) {
	t.Parallel()
	for _, v := range bothVersions {
		t.Run("MQTT "+v.String(), func(t *testing.T) {
			c := Start(t, Options{})
			admin := c.AdminToken()
			factory := c.serviceAccount(admin, "factory", "device:enroll", "device:read")
			other := c.serviceAccount(admin, "shop", "order:write")

			d := c.EnrollAs(factory.key)
			ear := c.open(t, serviceHello(User{ID: factory.id, Token: factory.key}, "line", v))
			if _, err := ear.Subscribe(mqttwire.Filter{Topic: d.Topic("state"), QoS: 1}); err != nil {
				t.Fatal(err)
			}
			if err := report(c.open(t, deviceHello(d, v)), d, 7); err != nil {
				t.Fatal(err)
			}
			for {
				p, err := ear.Next(stretch * 5 * time.Second)
				if err != nil {
					t.Fatalf("the factory does not see its device: %v", err)
				}
				if p.Topic == d.Topic("state") && strings.Contains(string(p.Payload), `"uptime_sec":7`) {
					break
				}
			}
			var view DeviceView
			c.Get("/api/devices/"+d.ID, factory.key, &view)
			if !view.Online {
				t.Errorf("the factory sees %+v", view)
			}
			for path, want := range map[string]int{"/admin/devices": 403, "/admin/audit": 403, "/admin/users": 403, "/admin/staff": 403} {
				if got := c.Do(http.MethodGet, path, factory.key, nil, nil); got != want {
					t.Errorf("GET %s answers the factory %d", path, got)
				}
			}
			hash := sha256.Sum256([]byte("x"))
			if got := c.Do(http.MethodPost, "/admin/enroll", other.key, map[string]string{"mac_address": NewDevice().MAC, "device_secret_hash": hex.EncodeToString(hash[:])}, nil); got != 403 {
				t.Errorf("the shop enrols: %d", got)
			}

			began := time.Now()
			if got := c.Do(http.MethodDelete, "/admin/service-accounts/"+factory.id+"/keys/"+factory.keyID, admin, nil, nil); got != 200 {
				t.Fatalf("the revocation answers %d", got)
			}
			if got := c.Do(http.MethodGet, "/api/devices/"+d.ID, factory.key, nil, nil); got != http.StatusUnauthorized {
				t.Errorf("the revoked key gets %d", got)
			}
			if code, closed := closedWithin(ear, time.Second); !closed || v == mqttwire.V5 && code != mqttwire.NotAuthorized {
				t.Errorf("closed %t after %v with %v, want %v within a second", closed, time.Since(began), code, mqttwire.NotAuthorized)
			}
			if _, _, err := c.try(serviceHello(User{ID: factory.id, Token: factory.key}, "line", v)); err == nil {
				t.Error("the revoked key connects")
			}
			if got := c.Do(http.MethodGet, "/api/me", other.key, nil, nil); got != 200 {
				t.Errorf("somebody else's key gets %d", got)
			}

			c.Restart()
			if got := c.Do(http.MethodGet, "/api/me", factory.key, nil, nil); got != http.StatusUnauthorized {
				t.Errorf("after a restart the revoked key gets %d", got)
			}
			for _, secret := range []string{factory.key[20:], factory.secret, other.key[20:], other.secret} {
				if strings.Contains(c.Log(), secret) {
					t.Error("a secret is in the log")
				}
			}
		})
	}
}

// clientToken asks for a token by client credentials.
func (c *Cloud) clientToken(id, secret string) (status int, token string) {
	c.t.Helper()
	form := url.Values{"grant_type": {"client_credentials"}, "client_id": {id}, "client_secret": {secret}}
	var answer struct {
		Token string `json:"access_token"`
	}
	status = c.postForm("/oauth/token", form, &answer)
	return status, answer.Token
}

func TestClientCredentials(t *testing.T) {
	t.Parallel()
	c := Start(t, Options{})
	admin := c.AdminToken()
	s := c.serviceAccount(admin, "backend", "device:read")
	status, token := c.clientToken(s.id, s.secret)
	if status != http.StatusOK {
		t.Fatalf("the token endpoint answers %d", status)
	}
	c.Get("/api/me", token, nil)
	ear := c.open(t, serviceHello(User{ID: s.id, Token: token}, "line", mqttwire.V5))
	var fresh struct {
		Secret string `json:"client_secret"`
	}
	c.Post("/admin/service-accounts/"+s.id+"/secret", admin, nil, &fresh)
	if got := c.Do(http.MethodGet, "/api/me", token, nil, nil); got != http.StatusUnauthorized {
		t.Errorf("the token of the old secret gets %d", got)
	}
	if _, closed := closedWithin(ear, time.Second); !closed {
		t.Error("its session goes on")
	}
	if status, _ := c.clientToken(s.id, s.secret); status != http.StatusUnauthorized {
		t.Errorf("the old secret gets %d", status)
	}
	if status, _ = c.clientToken(s.id, fresh.Secret); status != http.StatusOK {
		t.Errorf("the new secret gets %d", status)
	}
	c.Get("/api/me", s.key, nil) // the key has nothing to do with it
}
