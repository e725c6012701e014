package account_test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/url"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/opticworks/devicecloud/account"
	"github.com/opticworks/devicecloud/registry"
)

// password is the login of the first administrator, with a code.
func password(code string) account.AdminLogin {
	return account.AdminLogin{Email: adminEmail, Password: adminPassword, TOTP: code}
}

// as is a signed-in member of staff.
func as(m account.Admin) registry.Actor {
	a := from
	a.Kind, a.ID = registry.ActorKind(m.Role), m.ID
	return a
}

// code is what an authenticator shows now, or some steps away from now.
func (w *world) code(secret account.TOTPSecret, steps int64) string {
	return secret.Code(w.clock.Now().Unix()/30 + steps)
}

// authenticator sets up the second proof of a member. The code that it uses up is that
// of the time step before.
func (w *world) authenticator(t testing.TB, m account.Admin) account.TOTPSecret {
	t.Helper()
	secret, _, err := w.StartTOTP(context.Background(), as(m))
	if err != nil {
		t.Fatal(err)
	}
	if err := w.ConfirmTOTP(context.Background(), as(m), w.code(secret, -1)); err != nil {
		t.Fatal(err)
	}
	return secret
}

// The test vectors of RFC 6238, appendix B, of SHA-1, cut to six digits.
func TestTOTPFollowsTheStandard(t *testing.T) {
	secret := account.TOTPSecretOf([]byte("12345678901234567890"))
	for at, want := range map[int64]string{
		59: "287082", 1111111109: "081804", 1111111111: "050471", 1234567890: "005924", 2000000000: "279037", 20000000000: "353130",
	} {
		if got := secret.Code(at / 30); got != want {
			t.Errorf("at %d: %s, want %s", at, got, want)
		}
	}
	u, err := url.Parse(secret.URL("devicecloud", "root@example.com"))
	if err != nil || u.Scheme != "otpauth" || u.Host != "totp" || u.Path != "/devicecloud:root@example.com" ||
		u.Query().Get("secret") != "GEZDGNBVGY3TQOJQGEZDGNBVGY3TQOJQ" || u.Query().Get("issuer") != "devicecloud" {
		t.Errorf("%v, %v", u, err)
	}
}

func TestTOTPLogin(t *testing.T) {
	ctx := context.Background()
	t.Run("a secret counts once it is confirmed", func(t *testing.T) {
		w := newWorld(t, nil)
		m := w.admin(t)
		secret, otpauth, err := w.StartTOTP(ctx, as(m))
		if err != nil || !strings.Contains(otpauth, secret.Reveal()) {
			t.Fatal(err)
		}
		if _, _, err := w.AdminLogin(ctx, password(""), from); err != nil {
			t.Errorf("before the confirmation: %v", err)
		}
		if err := w.ConfirmTOTP(ctx, as(m), w.code(secret, 0)); err != nil {
			t.Fatal(err)
		}
		if _, _, err := w.AdminLogin(ctx, password(""), from); !errors.Is(err, account.ErrTOTPRequired) {
			t.Errorf("without a code: %v", err)
		}
		if _, _, err := w.AdminLogin(ctx, password(w.code(secret, 1)), from); err != nil {
			t.Errorf("with a code: %v", err)
		}
		if _, _, err := w.StartTOTP(ctx, as(m)); !errors.Is(err, account.ErrTOTPEnabled) {
			t.Errorf("a second set-up: %v", err)
		}
		if err := w.ConfirmTOTP(ctx, as(m), w.code(secret, 1)); !errors.Is(err, account.ErrTOTPEnabled) {
			t.Errorf("a second confirmation: %v", err)
		}
	})
	t.Run("a wrong password is told alike with and without a code", func(t *testing.T) {
		w := newWorld(t, nil)
		secret := w.authenticator(t, w.admin(t))
		for _, code := range []string{"", w.code(secret, 0), "000000"} {
			l := password(code)
			l.Password = "wrong"
			if _, _, err := w.AdminLogin(ctx, l, from); !errors.Is(err, account.ErrInvalidCredentials) {
				t.Errorf("code %q: %v", code, err)
			}
		}
	})
	t.Run("codes of one step before and after are good, others are not", func(t *testing.T) {
		for steps, want := range map[int64]error{-2: account.ErrInvalidCredentials, -1: account.ErrInvalidCredentials, 0: nil, 1: nil, 2: account.ErrInvalidCredentials} {
			w := newWorld(t, nil)
			secret := w.authenticator(t, w.admin(t)) // uses -1
			if _, _, err := w.AdminLogin(ctx, password(w.code(secret, steps)), from); !errors.Is(err, want) {
				t.Errorf("%d steps away: %v, want %v", steps, err, want)
			}
		}
		w := newWorld(t, nil)
		secret := w.authenticator(t, w.admin(t))
		w.clock.Add(time.Minute)
		if _, _, err := w.AdminLogin(ctx, password(w.code(secret, -1)), from); err != nil {
			t.Errorf("one step before: %v", err)
		}
	})
	t.Run("what is no code is refused", func(t *testing.T) {
		for _, code := range []string{"1", "12345", "1234567", "abcdef", " 123456", "１２３４５６", strings.Repeat("1", 5000), "\x00"} {
			w := newWorld(t, nil)
			w.authenticator(t, w.admin(t))
			if _, _, err := w.AdminLogin(ctx, password(code), from); !errors.Is(err, account.ErrInvalidCredentials) {
				t.Errorf("%.20q: %v", code, err)
			}
		}
	})
	t.Run("of twenty who show one code at once, one gets in", func(t *testing.T) {
		w := newWorld(t, func(o *account.Options) { o.MaxHashes = 4 })
		secret := w.authenticator(t, w.admin(t))
		code := w.code(secret, 0)
		var mu sync.Mutex
		in := 0
		var wg sync.WaitGroup
		for i := range 20 {
			wg.Go(func() {
				_, _, err := w.AdminLogin(ctx, password(code), at(fmt.Sprintf("203.0.113.%d", i)))
				mu.Lock()
				defer mu.Unlock()
				if err == nil {
					in++
				} else if !errors.Is(err, account.ErrInvalidCredentials) {
					t.Error(err)
				}
			})
		}
		wg.Wait()
		if in != 1 {
			t.Errorf("%d got in", in)
		}
	})
	t.Run("five wrong codes lock the account, and asking for none forgives nothing", func(t *testing.T) {
		w := newWorld(t, nil)
		secret := w.authenticator(t, w.admin(t))
		for range 5 {
			if _, _, err := w.AdminLogin(ctx, password("000000"), from); !errors.Is(err, account.ErrInvalidCredentials) {
				t.Fatal(err)
			}
			if _, _, err := w.AdminLogin(ctx, password(""), from); !errors.Is(err, account.ErrTOTPRequired) && !errors.Is(err, account.ErrRateLimited) {
				t.Fatal(err)
			}
		}
		if _, _, err := w.AdminLogin(ctx, password(w.code(secret, 0)), from); !errors.Is(err, account.ErrRateLimited) {
			t.Errorf("after five wrong codes: %v", err)
		}
	})
	t.Run("giving it up takes a code, and wrong ones lock that", func(t *testing.T) {
		w := newWorld(t, nil)
		m := w.admin(t)
		secret := w.authenticator(t, m)
		if err := w.DisableTOTP(ctx, as(m), w.code(secret, -1)); !errors.Is(err, account.ErrInvalidTOTP) {
			t.Errorf("a used code: %v", err)
		}
		for range 4 {
			if err := w.DisableTOTP(ctx, as(m), "000000"); !errors.Is(err, account.ErrInvalidTOTP) {
				t.Fatal(err)
			}
		}
		if err := w.DisableTOTP(ctx, as(m), w.code(secret, 0)); !errors.Is(err, account.ErrRateLimited) {
			t.Errorf("after five wrong codes: %v", err)
		}
		w.clock.Add(time.Hour)
		if err := w.DisableTOTP(ctx, as(m), w.code(secret, 0)); err != nil {
			t.Fatal(err)
		}
		if _, _, err := w.AdminLogin(ctx, password(""), from); err != nil {
			t.Error(err)
		}
		if err := w.DisableTOTP(ctx, as(m), w.code(secret, 1)); !errors.Is(err, account.ErrTOTPDisabled) {
			t.Errorf("a second time: %v", err)
		}
	})
	t.Run("an administrator helps who has lost it", func(t *testing.T) {
		w := newWorld(t, nil)
		m := w.admin(t)
		w.authenticator(t, m)
		if err := w.ResetTOTP(ctx, registry.System(), m.ID); err != nil {
			t.Fatal(err)
		}
		if _, _, err := w.AdminLogin(ctx, password(""), from); err != nil {
			t.Error(err)
		}
		if n := w.events(t)["totp_disabled"]; n != 1 {
			t.Errorf("%d rows in the trail", n)
		}
	})
	t.Run("people have none", func(t *testing.T) {
		w := newWorld(t, nil)
		_, u := w.login(t, "ann@example.com")
		if _, _, err := w.StartTOTP(ctx, registry.Actor{Kind: registry.ActorUser, ID: u.ID}); !errors.Is(err, registry.ErrInsufficientRole) {
			t.Error(err)
		}
	})
}

func TestTOTPSecretIsSealed(t *testing.T) {
	ctx := context.Background()
	sealer, err := registry.NewSealer(bytes.Repeat([]byte{1, 2}, 16))
	if err != nil {
		t.Fatal(err)
	}
	w := newWorld(t, func(o *account.Options) { o.Sealer = sealer })
	m := w.admin(t)
	secret := w.authenticator(t, m)
	var stored account.Admin
	if err := w.db.Accounts().View(ctx, func(tx account.Tx) (err error) {
		stored, err = tx.Admin(ctx, m.ID)
		return err
	}); err != nil {
		t.Fatal(err)
	}
	if len(stored.TOTPSecret) == 20 {
		t.Error("the shared secret is stored bare")
	}
	if _, _, err := w.AdminLogin(ctx, password(w.code(secret, 0)), from); err != nil {
		t.Error(err)
	}
	for _, shown := range []any{secret, stored.TOTPSecret, stored} {
		text, err := json.Marshal(shown)
		if err != nil {
			t.Fatal(err)
		}
		for _, s := range []string{string(text), fmt.Sprint(shown), fmt.Sprintf("%+v %#v %x %q", shown, shown, shown, shown)} {
			if strings.Contains(s, secret.Reveal()) || strings.Contains(s, fmt.Sprintf("%x", []byte(stored.TOTPSecret))[:20]) {
				t.Errorf("a secret shows in %.200s", s)
			}
		}
	}
}
