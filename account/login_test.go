package account_test

import (
	"context"
	"errors"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/opticworks/devicecloud/account"
	"github.com/opticworks/devicecloud/registry"
)

func TestLogin(t *testing.T) {
	ctx := context.Background()
	t.Run("a first login makes the user and says so in the audit trail", func(t *testing.T) {
		w := newWorld(t, nil)
		tokens, u := w.login(t, " Someone@Example.com ")
		if u.Email != "someone@example.com" || !u.EmailVerified || u.ID == "" {
			t.Errorf("the user is %+v", u)
		}
		if tokens.TTL != 15*time.Minute {
			t.Errorf("a dev token lives %v", tokens.TTL)
		}
		a, until, err := w.ActorByToken(ctx, tokens.Access.Reveal())
		if err != nil {
			t.Fatal(err)
		}
		if a.Kind != registry.ActorUser || a.ID != u.ID || a.SessionID == "" || !until.Equal(w.clock.Now().Add(15*time.Minute)) {
			t.Errorf("the token is of %+v until %v", a, until)
		}
		if diff := cmp.Diff([]string{"device:read", "device:control", "device:configure"}, a.Scopes); diff != "" {
			t.Error(diff)
		}
		if n := w.events(t)["user_registered"]; n != 1 {
			t.Errorf("%d rows of user_registered", n)
		}
	})
	t.Run("a later login is the same user in another session", func(t *testing.T) {
		w := newWorld(t, nil)
		first, u1 := w.login(t, "a@example.com")
		second, u2 := w.login(t, "A@example.com")
		if u1.ID != u2.ID {
			t.Errorf("two users %s and %s", u1.ID, u2.ID)
		}
		a1, _, _ := w.ActorByToken(ctx, first.Access.Reveal())
		a2, _, _ := w.ActorByToken(ctx, second.Access.Reveal())
		if a1.SessionID == a2.SessionID {
			t.Error("both logins share a session")
		}
		if n := w.events(t)["user_registered"]; n != 1 {
			t.Errorf("%d rows of user_registered", n)
		}
	})
	t.Run("refusals come in the order of the contract", func(t *testing.T) {
		w := newWorld(t, nil)
		for _, c := range []struct {
			name string
			req  account.LoginRequest
			want error
		}{
			{"nothing at all", account.LoginRequest{}, account.ErrMissingFields},
			{"no provider", account.LoginRequest{IDToken: "a@example.com"}, account.ErrMissingFields},
			{"no token, before the unknown provider", account.LoginRequest{Provider: "nobody"}, account.ErrMissingFields},
			{"an unknown provider", account.LoginRequest{Provider: "nobody", IDToken: "x"}, account.ErrInvalidProvider},
			{"a provider that is not configured", account.LoginRequest{Provider: "google", IDToken: "x"}, account.ErrInvalidProvider},
			{"a code where a token is needed", account.LoginRequest{Provider: "dev", Code: "x"}, account.ErrMissingFields},
			{"no e-mail address", account.LoginRequest{Provider: "dev", IDToken: "nobody"}, account.ErrInvalidToken},
			{"two e-mail addresses", account.LoginRequest{Provider: "dev", IDToken: "a@example.com, b@example.com"}, account.ErrInvalidToken},
			{"an endless address", account.LoginRequest{Provider: "dev", IDToken: strings.Repeat("a", 300) + "@example.com"}, account.ErrInvalidToken},
		} {
			t.Run(c.name, func(t *testing.T) {
				if _, _, err := w.Login(ctx, c.req, from); !errors.Is(err, c.want) {
					t.Errorf("got %v, want %v", err, c.want)
				}
			})
		}
	})
	t.Run("without development mode there is no dev provider", func(t *testing.T) {
		w := newWorld(t, func(o *account.Options) { o.Dev = false })
		if _, _, err := w.Login(ctx, account.LoginRequest{Provider: "dev", IDToken: "a@example.com"}, from); !errors.Is(err, account.ErrInvalidProvider) {
			t.Error(err)
		}
	})
	t.Run("a disabled user stays out", func(t *testing.T) {
		w := newWorld(t, nil)
		err := w.db.Accounts().InTx(ctx, func(tx account.Tx) error {
			if err := tx.InsertUser(ctx, account.User{ID: "u1", Email: "a@example.com", EmailVerified: true, DisabledAt: w.clock.Now(), CreatedAt: w.clock.Now()}); err != nil {
				return err
			}
			return tx.InsertIdentity(ctx, "dev", "a@example.com", "u1", w.clock.Now())
		})
		if err != nil {
			t.Fatal(err)
		}
		if _, _, err := w.Login(ctx, account.LoginRequest{Provider: "dev", IDToken: "a@example.com"}, from); !errors.Is(err, account.ErrAccountDisabled) {
			t.Error(err)
		}
	})
	t.Run("an e-mail that another identity has verified is not taken over", func(t *testing.T) {
		w := newWorld(t, nil)
		err := w.db.Accounts().InTx(ctx, func(tx account.Tx) error {
			return tx.InsertUser(ctx, account.User{ID: "u1", Email: "a@example.com", EmailVerified: true, CreatedAt: w.clock.Now()})
		})
		if err != nil {
			t.Fatal(err)
		}
		if _, _, err := w.Login(ctx, account.LoginRequest{Provider: "dev", IDToken: "a@example.com"}, from); !errors.Is(err, account.ErrLinkRequired) {
			t.Error(err)
		}
	})
	t.Run("first logins at once make one user", func(t *testing.T) {
		w := newWorld(t, nil)
		ids := make([]string, 8)
		var wg sync.WaitGroup
		for i := range ids {
			wg.Go(func() {
				_, u, err := w.Login(ctx, account.LoginRequest{Provider: "dev", IDToken: "a@example.com"}, from)
				if err != nil {
					t.Error(err)
				}
				ids[i] = u.ID
			})
		}
		wg.Wait()
		for _, id := range ids {
			if id != ids[0] {
				t.Errorf("users %v", ids)
			}
		}
	})
}

// buy enrols a device, lets it provision, and records that it was sold.
func (w *world) buy(t *testing.T, mac, email string) (deviceID string) {
	t.Helper()
	ctx := context.Background()
	const secret = "0123456789abcdef0123456789abcdef"
	d, err := w.reg.Enroll(ctx, registry.System(), registry.EnrollRequest{
		MACAddress: mac, DeviceSecretHash: "be9f18e5db5d8d3fdb6ee0bd84c0d1ffe46ec1d4b5bae1f6f6c3a8f4dc04a0bd",
	})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := w.reg.AddCredential(ctx, registry.Actor{Kind: registry.ActorAdmin}, d.ID, registry.CredentialRequest{Kind: "secret", SecretHash: sha256Hex(secret)}); err != nil {
		t.Fatal(err)
	}
	id, err := w.reg.Authenticate(ctx, registry.Login{DeviceID: d.ID, Password: []byte(secret), HasPassword: true})
	if err != nil {
		t.Fatal(err)
	}
	s, err := w.reg.Connect(ctx, id, registry.ConnectInfo{Remote: "203.0.113.9:1", Protocol: 4})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := w.reg.Provision(ctx, s, []byte(`{"device_id":"`+d.ID+`","mac_address":"`+mac+`","firmware_version":"1.0.0"}`)); err != nil {
		t.Fatal(err)
	}
	order := registry.OrderRequest{OrderID: "o-" + mac, UserEmail: email, DeviceMAC: mac, ShippedAt: "2026-01-10"}
	if _, _, err := w.reg.CreateOrder(ctx, registry.System(), order); err != nil {
		t.Fatal(err)
	}
	return d.ID
}

// brokenOrders fails after the user was written.
type brokenOrders struct{ account.Devices }

func (brokenOrders) LinkOrders(context.Context, registry.Tx, string, string) (int, func(), error) {
	return 0, nil, registry.ErrUnavailable
}

func TestFirstLoginLinksPurchases(t *testing.T) {
	ctx := context.Background()
	t.Run("what the e-mail bought before is the new user's", func(t *testing.T) {
		w := newWorld(t, nil)
		mine := w.buy(t, "02:00:00:00:00:01", "Buyer@example.com")
		other := w.buy(t, "02:00:00:00:00:02", "other@example.com")
		tokens, _ := w.login(t, "buyer@example.com")
		a, _, err := w.ActorByToken(ctx, tokens.Access.Reveal())
		if err != nil {
			t.Fatal(err)
		}
		d, err := w.reg.Device(ctx, a, mine)
		if err != nil || d.Role != registry.RoleOwner {
			t.Errorf("the device is %q, %v", d.Role, err)
		}
		if _, err := w.reg.Device(ctx, a, other); !errors.Is(err, registry.ErrDeviceNotFound) {
			t.Errorf("somebody else's device: %v", err)
		}
	})
	t.Run("when linking fails there is no user either", func(t *testing.T) {
		w := newWorld(t, nil)
		key, _, err := account.NewSigningKey()
		if err != nil {
			t.Fatal(err)
		}
		broken, err := account.New(w.db.Accounts(), brokenOrders{}, account.Options{SigningKey: key, Now: w.clock.Now, Dev: true, Hash: cheap()})
		if err != nil {
			t.Fatal(err)
		}
		if _, _, err := broken.Login(ctx, account.LoginRequest{Provider: "dev", IDToken: "a@example.com"}, from); !errors.Is(err, registry.ErrUnavailable) {
			t.Fatal(err)
		}
		err = w.db.Accounts().View(ctx, func(tx account.Tx) error {
			_, err := tx.UserByIdentity(ctx, "dev", "a@example.com")
			return err
		})
		if !errors.Is(err, account.ErrUserNotFound) {
			t.Errorf("after the failure: %v", err)
		}
	})
}

func TestMe(t *testing.T) {
	ctx := context.Background()
	w := newWorld(t, nil)
	admin := w.admin(t)
	_, u := w.login(t, "a@example.com")
	t.Run("a person", func(t *testing.T) {
		p, err := w.Me(ctx, registry.Actor{Kind: registry.ActorUser, ID: u.ID})
		if err != nil || p.Email != "a@example.com" || p.ID != u.ID {
			t.Errorf("%+v, %v", p, err)
		}
	})
	t.Run("staff", func(t *testing.T) {
		p, err := w.Me(ctx, registry.Actor{Kind: registry.ActorAdmin, ID: admin.ID})
		if err != nil || p.Email != adminEmail {
			t.Errorf("%+v, %v", p, err)
		}
	})
	t.Run("somebody who is gone has no valid token", func(t *testing.T) {
		for _, k := range []registry.ActorKind{registry.ActorUser, registry.ActorAdmin, registry.ActorDevice} {
			if _, err := w.Me(ctx, registry.Actor{Kind: k, ID: "gone"}); !errors.Is(err, account.ErrInvalidToken) {
				t.Errorf("%s: %v", k, err)
			}
		}
	})
}
