package account_test

import (
	"context"
	"errors"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	"github.com/opticworks/devicecloud/account"
	"github.com/opticworks/devicecloud/registry"
)

// oracle is a provider that reads its answer from the token: "subject[+alias...]",
// "subject|e-mail" for a verified e-mail, "subject?e-mail" for one that is not, and
// behind a "#" anything that makes it another token.
type oracle struct{}

func (oracle) Verify(_ context.Context, req account.LoginRequest) (account.Identity, error) {
	text, _, _ := strings.Cut(req.IDToken+req.Code, "#")
	if text == "down" {
		return account.Identity{}, account.ErrProviderUnavailable
	}
	var who account.Identity
	if s, email, ok := strings.Cut(text, "|"); ok {
		text, who.Email, who.EmailVerified = s, email, true
	} else if s, email, ok := strings.Cut(text, "?"); ok {
		text, who.Email = s, email
	}
	who.Subjects, who.Expires = strings.Split(text, "+"), time.Date(2026, 1, 15, 11, 0, 0, 0, time.UTC)
	return who, nil
}

func withProviders(o *account.Options) {
	o.Providers = map[string]account.Provider{"google": oracle{}, "wechat": oracle{}}
}

// by logs in by a provider.
func (w *world) by(provider, token string) (account.Tokens, account.User, error) {
	return w.Login(context.Background(), account.LoginRequest{Provider: provider, IDToken: token}, from)
}

func (w *world) link(a registry.Actor, provider, token string) (bool, error) {
	return w.LinkIdentity(context.Background(), a, account.LoginRequest{Provider: provider, IDToken: token})
}

func (w *world) providers(t testing.TB, a registry.Actor) (names []string) {
	t.Helper()
	p, err := w.Me(context.Background(), a)
	if err != nil {
		t.Fatal(err)
	}
	for _, i := range p.Identities {
		names = append(names, i.Provider)
	}
	return names
}

// Who a login is, by what was there before. [contracts C.1]
func TestWhoALoginIs(t *testing.T) {
	for _, c := range []struct {
		name            string
		before          []string // logins, "provider token"
		provider, token string
		want            error
		same            int // index of the earlier login whose person it is; -1: a new one
	}{
		{"an identity that is known, whatever e-mail it names now", []string{"google 1|a@example.com"}, "google", "1?other@example.com", nil, 0},
		{"the same subject at another provider is somebody else", []string{"google 1"}, "wechat", "1", nil, -1},
		{"a new identity with a free e-mail", nil, "google", "1|a@example.com", nil, -1},
		{"a new identity without an e-mail", []string{"google 2"}, "google", "1", nil, -1},
		{"a new identity whose e-mail is not verified", nil, "google", "1?a@example.com", account.ErrEmailNotVerified, 0},
		{"an e-mail that is not verified is not looked up", []string{"dev a@example.com"}, "google", "1?a@example.com", account.ErrEmailNotVerified, 0},
		{"a new identity with somebody's e-mail", []string{"dev a@example.com"}, "google", "1|A@Example.com", account.ErrLinkRequired, 0},
		{"an identity by another of its names", []string{"wechat unionid:1+openid:1"}, "wechat", "openid:1", nil, 0},
		{"an identity that gets a better name", []string{"wechat openid:1"}, "wechat", "unionid:1+openid:1", nil, 0},
		{"two names of two people are the first one's", []string{"wechat unionid:1", "wechat openid:2"}, "wechat", "unionid:1+openid:2", nil, 0},
		{"an e-mail that is none", nil, "google", "1|nonsense", account.ErrInvalidToken, 0},
		{"nobody", nil, "google", "|a@example.com", account.ErrInvalidToken, 0},
		{"a subject that a database would change", nil, "google", "1\x00", account.ErrInvalidToken, 0},
		{"a subject that is broken", nil, "google", "1\xff", account.ErrInvalidToken, 0},
		{"a subject without end", nil, "google", strings.Repeat("1", 256), account.ErrInvalidToken, 0},
		{"another name that is none", nil, "google", "1+", account.ErrInvalidToken, 0},
		{"a provider that does not answer", nil, "google", "down", account.ErrProviderUnavailable, 0},
	} {
		t.Run(c.name, func(t *testing.T) {
			w := newWorld(t, withProviders)
			var known []string
			for _, b := range c.before {
				provider, token, _ := strings.Cut(b, " ")
				_, u, err := w.by(provider, token)
				if err != nil {
					t.Fatal(err)
				}
				known = append(known, u.ID)
			}
			tokens, u, err := w.by(c.provider, c.token)
			if !errors.Is(err, c.want) {
				t.Fatalf("got %v, want %v", err, c.want)
			}
			switch {
			case c.want != nil:
				if tokens.Access.Reveal() != "" || tokens.Refresh.Reveal() != "" {
					t.Error("a refusal gave tokens")
				}
			case c.same >= 0 && u.ID != known[c.same]:
				t.Errorf("it is %s, want %s", u.ID, known[c.same])
			case c.same < 0:
				for _, id := range known {
					if u.ID == id {
						t.Error("it is nobody new")
					}
				}
			}
		})
	}
}

func TestProvidersTokenWorksOnce(t *testing.T) {
	t.Run("of many at once one gets in", func(t *testing.T) {
		w := newWorld(t, withProviders)
		results := make([]error, 50)
		var wg sync.WaitGroup
		for i := range results {
			wg.Go(func() { _, _, results[i] = w.by("google", "1|a@example.com") })
		}
		wg.Wait()
		won := 0
		for _, err := range results {
			if err == nil {
				won++
			} else if !errors.Is(err, account.ErrInvalidToken) {
				t.Errorf("a loser gets %v", err)
			}
		}
		if won != 1 {
			t.Errorf("%d got in", won)
		}
		if n := w.events(t)["login_failed"]; n != len(results)-1 {
			t.Errorf("%d rows of login_failed", n)
		}
	})
	t.Run("also for linking, and after a login", func(t *testing.T) {
		w := newWorld(t, withProviders)
		tokens, _, err := w.by("google", "1")
		if err != nil {
			t.Fatal(err)
		}
		if _, err := w.link(w.actor(t, tokens.Access), "google", "1"); !errors.Is(err, account.ErrInvalidToken) {
			t.Error(err)
		}
	})
	t.Run("a refused login does not use it up", func(t *testing.T) {
		w := newWorld(t, withProviders)
		if _, _, err := w.by("dev", "a@example.com"); err != nil {
			t.Fatal(err)
		}
		if _, _, err := w.by("google", "1|a@example.com"); !errors.Is(err, account.ErrLinkRequired) {
			t.Fatal(err)
		}
		tokens, _, err := w.by("dev", "a@example.com")
		if err != nil {
			t.Fatal(err)
		}
		if created, err := w.link(w.actor(t, tokens.Access), "google", "1|a@example.com"); err != nil || !created {
			t.Errorf("linking with the token that asked for it: %v, %v", created, err)
		}
	})
	t.Run("the same text at another provider is another token", func(t *testing.T) {
		w := newWorld(t, withProviders)
		for _, provider := range []string{"google", "wechat"} {
			if _, _, err := w.by(provider, "1"); err != nil {
				t.Error(err)
			}
		}
	})
}

func TestLinkIdentity(t *testing.T) {
	t.Run("another way in is the same person", func(t *testing.T) {
		w := newWorld(t, withProviders)
		tokens, u := w.login(t, "a@example.com")
		a := w.actor(t, tokens.Access)
		if created, err := w.link(a, "google", "1|a@example.com"); err != nil || !created {
			t.Fatal(created, err)
		}
		w.clock.Add(time.Second)
		if created, err := w.link(a, "google", "1|a@example.com#2"); err != nil || created {
			t.Errorf("again: %v, %v", created, err)
		}
		if _, got, err := w.by("google", "1#3"); err != nil || got.ID != u.ID {
			t.Errorf("the login is %+v, %v", got, err)
		}
		if diff := cmp.Diff([]string{"dev", "google"}, w.providers(t, a), cmpopts.SortSlices(strings.Compare)); diff != "" {
			t.Error(diff)
		}
		if n := w.events(t)["identity_linked"]; n != 1 {
			t.Errorf("%d rows of identity_linked", n)
		}
	})
	t.Run("somebody else's way in stays theirs, by any of its names", func(t *testing.T) {
		w := newWorld(t, withProviders)
		_, other, err := w.by("wechat", "unionid:1+openid:1")
		if err != nil {
			t.Fatal(err)
		}
		tokens, _ := w.login(t, "a@example.com")
		for _, token := range []string{"unionid:1", "openid:1", "unionid:9+openid:1"} {
			if _, err := w.link(w.actor(t, tokens.Access), "wechat", token); !errors.Is(err, account.ErrIdentityTaken) {
				t.Errorf("%s: %v", token, err)
			}
		}
		if _, u, err := w.by("wechat", "unionid:1#2"); err != nil || u.ID != other.ID {
			t.Errorf("%+v, %v", u, err)
		}
	})
	t.Run("brings an e-mail and what was bought under it to who has none", func(t *testing.T) {
		w := newWorld(t, withProviders)
		id := w.buy(t, "02:00:00:00:00:01", "a@example.com")
		tokens, _, err := w.by("wechat", "openid:1")
		if err != nil {
			t.Fatal(err)
		}
		a := w.actor(t, tokens.Access)
		l, err := w.reg.Listen(context.Background(), a, registry.ListenOptions{})
		if err != nil {
			t.Fatal(err)
		}
		defer l.Close()
		if u, err := l.Take(context.Background()); err != nil || len(u.Devices) != 0 {
			t.Fatal(u, err)
		}
		if _, err := w.link(a, "google", "1|a@example.com"); err != nil {
			t.Fatal(err)
		}
		if u, err := l.Take(context.Background()); err != nil || len(u.Devices) != 1 || u.Devices[0].ID != id {
			t.Errorf("a stream that was open hears %+v, %v", u, err)
		}
		if d, err := w.reg.Device(context.Background(), a, id); err != nil || d.Role != registry.RoleOwner {
			t.Errorf("%q, %v", d.Role, err)
		}
		if _, _, err := w.by("dev", "a@example.com"); !errors.Is(err, account.ErrLinkRequired) {
			t.Errorf("the e-mail is not theirs: %v", err)
		}
	})
	for name, token := range map[string]string{"an e-mail of another person": "1|b@example.com", "an e-mail that is not verified": "1?c@example.com"} {
		t.Run(name+" is not brought", func(t *testing.T) {
			w := newWorld(t, withProviders)
			w.login(t, "b@example.com")
			tokens, _, err := w.by("wechat", "openid:1")
			if err != nil {
				t.Fatal(err)
			}
			a := w.actor(t, tokens.Access)
			if created, err := w.link(a, "google", token); err != nil || !created {
				t.Fatal(created, err)
			}
			if p, err := w.Me(context.Background(), a); err != nil || p.Email != "" {
				t.Errorf("the e-mail is %q, %v", p.Email, err)
			}
		})
	}
	t.Run("is for people alone", func(t *testing.T) {
		w := newWorld(t, withProviders)
		a := registry.Actor{Kind: registry.ActorAdmin, ID: w.admin(t).ID}
		if _, err := w.link(a, "google", "1"); !errors.Is(err, registry.ErrInsufficientRole) {
			t.Error(err)
		}
		if err := w.UnlinkIdentity(context.Background(), a, "google"); !errors.Is(err, registry.ErrInsufficientRole) {
			t.Error(err)
		}
	})
}

func TestUnlinkIdentity(t *testing.T) {
	ctx := context.Background()
	w := newWorld(t, withProviders)
	tokens, u := w.login(t, "a@example.com")
	a := w.actor(t, tokens.Access)
	if err := w.UnlinkIdentity(ctx, a, "dev"); !errors.Is(err, account.ErrLastIdentity) {
		t.Errorf("the only one: %v", err)
	}
	if _, err := w.link(a, "wechat", "unionid:1+openid:1"); err != nil {
		t.Fatal(err)
	}
	for _, provider := range []string{"google", "", "WECHAT"} {
		if err := w.UnlinkIdentity(ctx, a, provider); !errors.Is(err, account.ErrIdentityNotFound) {
			t.Errorf("%q: %v", provider, err)
		}
	}
	if err := w.UnlinkIdentity(ctx, a, "wechat"); err != nil {
		t.Fatal(err)
	}
	if err := w.UnlinkIdentity(ctx, a, "wechat"); !errors.Is(err, account.ErrIdentityNotFound) {
		t.Errorf("again: %v", err)
	}
	if _, other, err := w.by("wechat", "openid:1#2"); err != nil || other.ID == u.ID {
		t.Errorf("the old way in is %+v, %v", other, err)
	}
	if !w.good(tokens.Access) {
		t.Error("the session ended")
	}
	if n := w.events(t)["identity_unlinked"]; n != 1 {
		t.Errorf("%d rows of identity_unlinked", n)
	}
	t.Run("of two taken away at once one stays", func(t *testing.T) {
		if _, err := w.link(a, "google", "7"); err != nil {
			t.Fatal(err)
		}
		var wg sync.WaitGroup
		results := make([]error, 2)
		for i, provider := range []string{"dev", "google"} {
			wg.Go(func() { results[i] = w.UnlinkIdentity(ctx, a, provider) })
		}
		wg.Wait()
		if n := len(w.providers(t, a)); n != 1 {
			t.Errorf("%d ways in are left: %v", n, results)
		}
	})
}
