package account_test

import (
	"context"
	"encoding/base64"
	"errors"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/opticworks/devicecloud/account"
	"github.com/opticworks/devicecloud/registry"
)

const install = "3f1f6e0a-install"

// signIn logs a person in from the installation.
func (w *world) signIn(t testing.TB, email string) account.Tokens {
	t.Helper()
	tokens, _, err := w.Login(context.Background(), account.LoginRequest{
		Provider: "dev", IDToken: email, Device: account.Device{InstallID: install, Platform: "ios", Name: "Phone"},
	}, from)
	if err != nil {
		t.Fatal(err)
	}
	return tokens
}

// use shows a refresh token.
func (w *world) use(token account.RefreshToken, installID string) (account.Tokens, error) {
	tokens, _, err := w.Refresh(context.Background(), token.Reveal(), installID, from)
	return tokens, err
}

// good reports whether an access token is taken.
func (w *world) good(t account.AccessToken) bool {
	_, _, err := w.ActorByToken(context.Background(), t.Reveal())
	return err == nil
}

func (w *world) actor(t testing.TB, token account.AccessToken) registry.Actor {
	t.Helper()
	a, _, err := w.ActorByToken(context.Background(), token.Reveal())
	if err != nil {
		t.Fatal(err)
	}
	return a
}

const day = 24 * time.Hour

func TestRefresh(t *testing.T) {
	ctx := context.Background()
	t.Run("the next pair is of the same session, and the old access token stays good", func(t *testing.T) {
		w := newWorld(t, nil)
		first := w.signIn(t, "a@example.com")
		if first.TTL != 15*time.Minute || first.RefreshTTL != 30*day {
			t.Errorf("the lives are %v and %v", first.TTL, first.RefreshTTL)
		}
		w.clock.Add(time.Minute)
		second, p, err := w.Refresh(ctx, first.Refresh.Reveal(), "", from)
		if err != nil {
			t.Fatal(err)
		}
		before, after := w.actor(t, first.Access), w.actor(t, second.Access)
		if diff := cmp.Diff(before, after); diff != "" {
			t.Error(diff)
		}
		if p.ID != after.ID || p.Email != "a@example.com" || second.Refresh == first.Refresh || second.RefreshTTL != 30*day || second.TTL != 15*time.Minute {
			t.Errorf("got %+v of %+v", second, p)
		}
		if auth := payload(t, second.Access)["auth_time"]; auth != float64(w.clock.Now().Add(-time.Minute).Unix()) {
			t.Errorf("auth_time is %v", auth)
		}
	})
	t.Run("a session slides for 30 days and ends after 90", func(t *testing.T) {
		w := newWorld(t, nil)
		tokens := w.signIn(t, "a@example.com")
		for _, want := range []time.Duration{30 * day, 30 * day, 30*day - 87*day + 60*day} { // after 29, 58 and 87 days
			w.clock.Add(29 * day)
			var err error
			if tokens, err = w.use(tokens.Refresh, ""); err != nil {
				t.Fatal(err)
			}
			if tokens.RefreshTTL != want {
				t.Errorf("the refresh token lives %v, want %v", tokens.RefreshTTL, want)
			}
		}
		w.clock.Add(3 * day)
		if _, err := w.use(tokens.Refresh, ""); !errors.Is(err, account.ErrInvalidToken) {
			t.Errorf("after 90 days: %v", err)
		}
	})
	t.Run("30 days of silence end a session, and no more", func(t *testing.T) {
		w := newWorld(t, nil)
		tokens := w.signIn(t, "a@example.com")
		w.clock.Add(30*day - time.Second)
		tokens, err := w.use(tokens.Refresh, "")
		if err != nil {
			t.Fatal(err)
		}
		w.clock.Add(30 * day)
		if _, err := w.use(tokens.Refresh, ""); !errors.Is(err, account.ErrInvalidToken) {
			t.Error(err)
		}
		if n := w.events(t)["refresh_reuse_detected"]; n != 0 {
			t.Errorf("%d alarms for an old token", n)
		}
	})
	t.Run("the same installation may repeat itself for 10 seconds", func(t *testing.T) {
		w := newWorld(t, nil)
		first := w.signIn(t, "a@example.com")
		second, err := w.use(first.Refresh, install)
		if err != nil {
			t.Fatal(err)
		}
		for _, wait := range []time.Duration{0, 5 * time.Second, 5 * time.Second} {
			w.clock.Add(wait)
			if _, err := w.use(first.Refresh, install); !errors.Is(err, account.ErrRefreshInProgress) {
				t.Errorf("got %v", err)
			}
		}
		third, err := w.use(second.Refresh, install)
		if err != nil || !w.good(third.Access) || !w.good(second.Access) {
			t.Errorf("the session did not go on: %v", err)
		}
	})
	for name, c := range map[string]struct {
		installID string
		wait      time.Duration
	}{
		"later than 10 seconds":         {install, 10*time.Second + time.Microsecond},
		"by another installation":       {"another", 0},
		"by an installation of no name": {"", 0},
	} {
		t.Run("a second use "+name+" ends the session", func(t *testing.T) {
			w := newWorld(t, nil)
			bystander := w.signIn(t, "a@example.com")
			first := w.signIn(t, "a@example.com")
			second, err := w.use(first.Refresh, install)
			if err != nil {
				t.Fatal(err)
			}
			w.clock.Add(c.wait)
			if _, err := w.use(first.Refresh, c.installID); !errors.Is(err, account.ErrInvalidToken) {
				t.Errorf("the second use: %v", err)
			}
			if _, err := w.use(second.Refresh, install); !errors.Is(err, account.ErrInvalidToken) {
				t.Errorf("the successor: %v", err)
			}
			if w.good(first.Access) || w.good(second.Access) {
				t.Error("an access token of the session is still good")
			}
			if !w.good(bystander.Access) {
				t.Error("another session of the same person ended too")
			}
			if n := w.events(t)["refresh_reuse_detected"]; n != 1 {
				t.Errorf("%d rows of refresh_reuse_detected", n)
			}
		})
	}
	t.Run("an installation that never gave a name is nobody's", func(t *testing.T) {
		w := newWorld(t, nil)
		first, _ := w.login(t, "a@example.com")
		if _, err := w.use(first.Refresh, ""); err != nil {
			t.Fatal(err)
		}
		if _, err := w.use(first.Refresh, ""); !errors.Is(err, account.ErrInvalidToken) {
			t.Error(err)
		}
	})
	t.Run("what is no token of ours is refused alike", func(t *testing.T) {
		w := newWorld(t, nil)
		good := w.signIn(t, "a@example.com")
		text := good.Refresh.Reveal()
		unknown := base64.RawURLEncoding.EncodeToString(make([]byte, 32))
		for name, token := range map[string]string{
			"unknown": unknown, "an access token": good.Access.Reveal(), "cut": text[:42], "longer": text + "A", "with padding": text + "=",
			"with a line break": text[:20] + "\n" + text[20:42], "endless": strings.Repeat("A", 1<<20), "not base64": strings.Repeat("*", 43), "NUL": strings.Repeat("\x00", 43),
		} {
			if _, _, err := w.Refresh(ctx, token, install, from); !errors.Is(err, account.ErrInvalidToken) {
				t.Errorf("%s: %v", name, err)
			}
		}
		if _, _, err := w.Refresh(ctx, "", install, from); !errors.Is(err, account.ErrMissingFields) {
			t.Errorf("none: %v", err)
		}
		if _, err := w.use(good.Refresh, install); err != nil {
			t.Errorf("the good one after them: %v", err)
		}
	})
	t.Run("a refresh token opens nothing itself", func(t *testing.T) {
		w := newWorld(t, nil)
		if _, _, err := w.ActorByToken(ctx, w.signIn(t, "a@example.com").Refresh.Reveal()); !errors.Is(err, account.ErrInvalidToken) {
			t.Error(err)
		}
	})
}

func TestRefreshOfStaff(t *testing.T) {
	ctx := context.Background()
	login := func(t *testing.T, w *world) account.Tokens {
		t.Helper()
		tokens, _, err := w.AdminLogin(ctx, account.AdminLogin{Email: adminEmail, Password: adminPassword}, from)
		if err != nil {
			t.Fatal(err)
		}
		return tokens
	}
	t.Run("a session of staff ends after 8 hours, refreshed or not", func(t *testing.T) {
		w := newWorld(t, nil)
		w.admin(t)
		tokens := login(t, w)
		if tokens.RefreshTTL != 8*time.Hour {
			t.Errorf("a refresh token of staff lives %v", tokens.RefreshTTL)
		}
		w.clock.Add(7 * time.Hour)
		tokens, p, err := w.Refresh(ctx, tokens.Refresh.Reveal(), "", from)
		if err != nil || p.Kind != registry.ActorAdmin || tokens.RefreshTTL != time.Hour {
			t.Fatalf("%+v, %v, %v", p, tokens.RefreshTTL, err)
		}
		if a := w.actor(t, tokens.Access); a.Kind != registry.ActorAdmin || !a.Has(registry.ScopeConfigWrite) {
			t.Errorf("the token is of %+v", a)
		}
		w.clock.Add(time.Hour - time.Minute)
		if tokens, err = w.use(tokens.Refresh, ""); err != nil || tokens.TTL != time.Minute || tokens.RefreshTTL != time.Minute {
			t.Errorf("a minute before the end the tokens live %v and %v, %v", tokens.TTL, tokens.RefreshTTL, err)
		}
		w.clock.Add(time.Minute)
		if _, err := w.use(tokens.Refresh, ""); !errors.Is(err, account.ErrInvalidToken) || w.good(tokens.Access) {
			t.Errorf("after the end: %v", err)
		}
	})
	t.Run("a refresh asks anew who it is", func(t *testing.T) {
		w := newWorld(t, nil)
		boss := w.admin(t)
		tokens := login(t, w)
		w.sql(t, `UPDATE admins SET role = 'support' WHERE admin_id = ?`, boss.ID)
		next, p, err := w.Refresh(ctx, tokens.Refresh.Reveal(), "", from)
		if err != nil || p.Kind != registry.ActorSupport {
			t.Fatal(p, err)
		}
		if a := w.actor(t, next.Access); a.Kind != registry.ActorSupport || a.Has(registry.ScopeConfigWrite) {
			t.Errorf("the token is of %+v", a)
		}
		w.sql(t, `UPDATE admins SET disabled_at = 1 WHERE admin_id = ?`, boss.ID)
		if _, err := w.use(next.Refresh, ""); !errors.Is(err, account.ErrAccountDisabled) {
			t.Errorf("a disabled member: %v", err)
		}
		w.sql(t, `DELETE FROM admins WHERE admin_id = ?`, boss.ID)
		if _, err := w.use(next.Refresh, ""); !errors.Is(err, account.ErrInvalidToken) {
			t.Errorf("a member who is gone: %v", err)
		}
	})
}

// Of all who show one token at once, one gets the next pair.
func TestOneWinnerOfARefresh(t *testing.T) {
	for name, c := range map[string]struct {
		installID string
		others    error
		goesOn    bool
	}{
		"of one installation the others are told to wait": {install, account.ErrRefreshInProgress, true},
		"of many installations none keeps the session":    {"", account.ErrInvalidToken, false},
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t, nil)
			first := w.signIn(t, "a@example.com")
			results := make([]error, 100)
			pairs := make([]account.Tokens, len(results))
			var wg sync.WaitGroup
			for i := range results {
				wg.Go(func() { pairs[i], results[i] = w.use(first.Refresh, c.installID) })
			}
			wg.Wait()
			winner := -1
			for i, err := range results {
				switch {
				case err == nil && winner >= 0:
					t.Fatal("two winners")
				case err == nil:
					winner = i
				case !errors.Is(err, c.others):
					t.Errorf("a loser gets %v", err)
				}
			}
			if winner < 0 {
				t.Fatal("no winner")
			}
			_, err := w.use(pairs[winner].Refresh, c.installID)
			if goesOn := err == nil && w.good(pairs[winner].Access); goesOn != c.goesOn {
				t.Errorf("the session goes on: %v, %v", goesOn, err)
			}
		})
	}
}

func FuzzParseRefreshToken(f *testing.F) {
	f.Add(strings.Repeat("A", 43))
	f.Add(strings.Repeat("_", 43))
	f.Add("")
	f.Fuzz(func(t *testing.T, text string) {
		token, ok := account.ParseRefreshToken(text)
		if !ok {
			return
		}
		b, err := base64.RawURLEncoding.DecodeString(text)
		if err != nil || len(b) != 32 || token.Reveal() != text || base64.RawURLEncoding.EncodeToString(b) != text {
			t.Errorf("%q was taken", text)
		}
	})
}
