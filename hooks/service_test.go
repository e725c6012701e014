package hooks_test

import (
	"context"
	"testing"
	"time"

	"github.com/opticworks/devicecloud/account"
	"github.com/opticworks/devicecloud/firmware-sim/mqttwire"
	"github.com/opticworks/devicecloud/registry"
)

// service makes a service account with an API key, which is the token of the person
// that it returns.
func (c *cloud) service(name string, scopes ...string) (p person, key account.ServiceCredential, clientSecret string) {
	c.t.Helper()
	ctx := context.Background()
	a, secret, err := c.people.CreateServiceAccount(ctx, registry.System(), name, scopes)
	if err != nil {
		c.t.Fatal(err)
	}
	key, text, err := c.people.CreateAPIKey(ctx, registry.System(), a.ID, account.NewKey{Name: "mqtt"})
	if err != nil {
		c.t.Fatal(err)
	}
	return person{a.ID, text.Reveal()}, key, secret.Reveal()
}

func TestServiceAccountsReadWhatTheirScopesSay(t *testing.T) {
	for _, version := range versions {
		t.Run("MQTT "+version.String(), func(t *testing.T) {
			c := newCloud(t)
			d := c.enroll()
			dev := c.connect(d, version)
			reader, _, _ := c.service("reader", registry.ScopeDeviceRead)
			writer, _, _ := c.service("writer", registry.ScopeDeviceEnroll, registry.ScopeOrderWrite)
			app := c.app(reader, "s:", "x", version)
			for filter, want := range map[string]bool{
				"opticworks/+/state": true, d.topic("#"): true, "#": true, d.topic("state"): true,
				"$SYS/#": false, d.topic("kvs/#"): false, d.topic("provision/response"): false,
			} {
				if _, err := app.Subscribe(mqttwire.Filter{Topic: filter}); (err == nil) != want {
					t.Errorf("the reader's %q: %v", filter, err)
				}
			}
			publish(t, dev, d.topic("state"), goodState)
			for p := next(t, app); p.Topic != d.topic("state") || decode(t, p.Payload).Uptime == nil; p = next(t, app) {
			}
			blind := c.app(writer, "s:", "x", version)
			for _, filter := range []string{"opticworks/+/state", d.topic("state"), "#"} {
				if _, err := blind.Subscribe(mqttwire.Filter{Topic: filter}); err == nil {
					t.Errorf("%q is given to an account without device:read", filter)
				}
			}
		})
	}
}

func TestServiceAccountsConnectAsThemselves(t *testing.T) {
	c := newCloud(t)
	one, _, secret := c.service("one", registry.ScopeDeviceRead)
	two, _, _ := c.service("two", registry.ScopeDeviceRead)
	for name, h := range map[string]mqttwire.Connect{
		"with another's key":       {ClientID: "s:" + one.id + ":x", Username: "s:" + one.id, Password: []byte(two.token)},
		"with the client secret":   {ClientID: "s:" + one.id + ":x", Username: "s:" + one.id, Password: []byte(secret)},
		"as a person":              {ClientID: "u:" + one.id + ":x", Username: "u:" + one.id, Password: []byte(one.token)},
		"as staff":                 {ClientID: "a:" + one.id + ":x", Username: "a:" + one.id, Password: []byte(one.token)},
		"with half a key":          {ClientID: "s:" + one.id + ":x", Username: "s:" + one.id, Password: []byte(one.token[:30])},
		"under another client id":  {ClientID: "s:" + two.id + ":x", Username: "s:" + one.id, Password: []byte(one.token)},
		"under no name after that": {ClientID: "s:" + one.id, Username: "s:" + one.id, Password: []byte(one.token)},
	} {
		h.Version, h.KeepAlive = mqttwire.V5, 60
		if _, err := c.dial().Connect(h); err == nil {
			t.Errorf("%s it gets in", name)
		}
	}
	c.app(one, "s:", "x", mqttwire.V5)
}

func TestServiceSessionsEndWithTheirCredential(t *testing.T) {
	ctx := context.Background()
	for name, end := range map[string]func(c *cloud, id, keyID string) error{
		"the key is revoked": func(c *cloud, id, keyID string) error {
			return c.people.RevokeAPIKey(ctx, registry.System(), id, keyID)
		},
		"the account is disabled": func(c *cloud, id, _ string) error { return c.people.DisableServiceAccount(ctx, registry.System(), id) },
		"the account is deleted":  func(c *cloud, id, _ string) error { return c.people.DeleteServiceAccount(ctx, registry.System(), id) },
	} {
		t.Run(name, func(t *testing.T) {
			c := newCloud(t)
			p, key, _ := c.service("one", registry.ScopeDeviceRead)
			other, _, _ := c.service("two", registry.ScopeDeviceRead)
			app, bystander := c.app(p, "s:", "x", mqttwire.V5), c.app(other, "s:", "x", mqttwire.V5)
			if err := end(c, p.id, key.ID); err != nil {
				t.Fatal(err)
			}
			began := time.Now()
			code := ended(t, app)
			if took := time.Since(began); took > time.Second || code != mqttwire.NotAuthorized {
				t.Errorf("it ends after %v with 0x%02x", took, code)
			}
			if _, err := c.dial().Connect(p.hello("s:", "x", mqttwire.V5)); err == nil {
				t.Error("it comes back")
			}
			if err := bystander.Ping(); err != nil {
				t.Errorf("somebody else's session: %v", err)
			}
		})
	}
	t.Run("the client secret is replaced", func(t *testing.T) {
		c := newCloud(t)
		p, _, secret := c.service("one", registry.ScopeDeviceRead)
		tokens, _, err := c.people.ClientCredentials(ctx, p.id, secret, nil, registry.Actor{IP: "127.0.0.1"})
		if err != nil {
			t.Fatal(err)
		}
		byKey := c.app(p, "s:", "key", mqttwire.V5)
		byToken := c.app(person{p.id, tokens.Access.Reveal()}, "s:", "token", mqttwire.V5)
		if _, err := c.people.RotateClientSecret(ctx, registry.System(), p.id); err != nil {
			t.Fatal(err)
		}
		ended(t, byToken)
		if err := byKey.Ping(); err != nil {
			t.Errorf("the session of the key: %v", err)
		}
	})
}
