package account_test

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/opticworks/devicecloud/account"
	"github.com/opticworks/devicecloud/registry"
)

func sha256Hex(s string) string {
	sum := sha256.Sum256([]byte(s))
	return hex.EncodeToString(sum[:])
}

// at is a request from an address.
func at(ip string) registry.Actor {
	a := from
	a.IP = ip
	return a
}

func TestAdminLogin(t *testing.T) {
	ctx := context.Background()
	t.Run("an administrator gets a token of staff", func(t *testing.T) {
		w := newWorld(t, nil)
		admin := w.admin(t)
		tokens, a, err := w.AdminLogin(ctx, account.AdminLogin{Email: " ROOT@example.com ", Password: adminPassword}, from)
		if err != nil || a.ID != admin.ID {
			t.Fatal(a, err)
		}
		if tokens.TTL != 15*time.Minute {
			t.Errorf("an administrator's token lives %v", tokens.TTL)
		}
		actor, _, err := w.ActorByToken(ctx, tokens.Access.Reveal())
		if err != nil || actor.Kind != registry.ActorAdmin || !actor.Has(registry.ScopeConfigWrite) {
			t.Errorf("%+v, %v", actor, err)
		}
		want := map[string]int{"staff_created": 1, "login_succeeded": 1}
		if diff := cmp.Diff(want, w.events(t)); diff != "" {
			t.Error(diff)
		}
	})
	t.Run("support staff may only read", func(t *testing.T) {
		w := newWorld(t, nil)
		if _, err := w.CreateAdmin(ctx, "help@example.com", adminPassword, account.AdminRoleSupport); err != nil {
			t.Fatal(err)
		}
		tokens, _, err := w.AdminLogin(ctx, account.AdminLogin{Email: "help@example.com", Password: adminPassword}, from)
		if err != nil {
			t.Fatal(err)
		}
		actor, _, err := w.ActorByToken(ctx, tokens.Access.Reveal())
		if err != nil || actor.Kind != registry.ActorSupport || !slices.Equal(actor.Scopes, []string{registry.ScopeDeviceRead}) {
			t.Errorf("%+v, %v", actor, err)
		}
	})
	t.Run("unknown, wrong and disabled are told alike", func(t *testing.T) {
		w := newWorld(t, nil)
		w.admin(t)
		disabled, err := w.CreateAdmin(ctx, "gone@example.com", adminPassword, account.AdminRoleAdmin)
		if err != nil {
			t.Fatal(err)
		}
		disabled.ID, disabled.Email, disabled.DisabledAt = "disabled", "disabled@example.com", w.clock.Now()
		if err := w.db.Accounts().InTx(ctx, func(tx account.Tx) error { return tx.InsertAdmin(ctx, disabled) }); err != nil {
			t.Fatal(err)
		}
		for _, c := range [][2]string{
			{adminEmail, "wrong"},
			{"nobody@example.com", adminPassword},
			{"disabled@example.com", adminPassword},
			{"no address at all", adminPassword},
			{adminEmail, strings.Repeat("x", 5000)},
			{"\x00", "\x00"},
		} {
			_, _, err := w.AdminLogin(ctx, account.AdminLogin{Email: c[0], Password: c[1]}, from)
			if !errors.Is(err, account.ErrInvalidCredentials) {
				t.Errorf("%.40q: %v", c[0], err)
			}
			w.clock.Add(time.Hour) // out of any lock
		}
	})
	t.Run("an empty field is missing", func(t *testing.T) {
		w := newWorld(t, nil)
		for _, c := range [][2]string{{"", adminPassword}, {adminEmail, ""}, {"", ""}} {
			if _, _, err := w.AdminLogin(ctx, account.AdminLogin{Email: c[0], Password: c[1]}, from); !errors.Is(err, account.ErrMissingFields) {
				t.Error(err)
			}
		}
	})
	t.Run("a hash of other parameters is renewed at the next login", func(t *testing.T) {
		w := newWorld(t, nil)
		admin := w.admin(t)
		dearer := cheap()
		dearer.Passes++
		key, _, err := account.NewSigningKey()
		if err != nil {
			t.Fatal(err)
		}
		s, err := account.New(w.db.Accounts(), w.reg, account.Options{SigningKey: key, Now: w.clock.Now, Hash: dearer})
		if err != nil {
			t.Fatal(err)
		}
		for range 2 { // the second login is against the new hash
			if _, _, err := s.AdminLogin(ctx, account.AdminLogin{Email: adminEmail, Password: adminPassword}, from); err != nil {
				t.Fatal(err)
			}
		}
		var stored account.Admin
		err = w.db.Accounts().View(ctx, func(tx account.Tx) (err error) {
			stored, err = tx.Admin(ctx, admin.ID)
			return err
		})
		if err != nil || !strings.HasPrefix(string(stored.PasswordHash), "$argon2id$v=19$m=64,t=2,p=1$") {
			t.Errorf("the stored hash has other parameters, %v", err)
		}
	})
}

func TestLockOut(t *testing.T) {
	ctx := context.Background()
	fail := func(t *testing.T, w *world, email, ip string, n int) {
		t.Helper()
		for range n {
			if _, _, err := w.AdminLogin(ctx, account.AdminLogin{Email: email, Password: "wrong"}, at(ip)); !errors.Is(err, account.ErrInvalidCredentials) {
				t.Fatal(err)
			}
		}
	}
	locked := func(t *testing.T, w *world, email, password, ip string, wait time.Duration) {
		t.Helper()
		_, _, err := w.AdminLogin(ctx, account.AdminLogin{Email: email, Password: password}, at(ip))
		var e *registry.Error
		if !errors.As(err, &e) || e.Code != "RATE_LIMITED" || e.RetryAfter != wait {
			t.Fatalf("got %v, want RATE_LIMITED for %v", err, wait)
		}
	}
	t.Run("five failures lock the account for the address, for 15 minutes, then longer", func(t *testing.T) {
		w := newWorld(t, nil)
		w.admin(t)
		fail(t, w, adminEmail, "203.0.113.1", 5)
		locked(t, w, adminEmail, adminPassword, "203.0.113.1", 15*time.Minute)
		if diff := cmp.Diff(map[string]int{"staff_created": 1, "login_failed": 5, "account_locked": 1}, w.events(t)); diff != "" {
			t.Error(diff)
		}
		w.clock.Add(15 * time.Minute)
		fail(t, w, adminEmail, "203.0.113.1", 5)
		locked(t, w, adminEmail, adminPassword, "203.0.113.1", 30*time.Minute)
		w.clock.Add(30 * time.Minute)
		if _, _, err := w.AdminLogin(ctx, account.AdminLogin{Email: adminEmail, Password: adminPassword}, at("203.0.113.1")); err != nil {
			t.Error(err)
		}
	})
	t.Run("a stranger does not lock the administrator out elsewhere", func(t *testing.T) {
		w := newWorld(t, nil)
		w.admin(t)
		fail(t, w, adminEmail, "203.0.113.1", 5)
		if _, _, err := w.AdminLogin(ctx, account.AdminLogin{Email: adminEmail, Password: adminPassword}, at("203.0.113.2")); err != nil {
			t.Error(err)
		}
	})
	t.Run("an account that does not exist is locked alike", func(t *testing.T) {
		w := newWorld(t, nil)
		fail(t, w, "nobody@example.com", "203.0.113.1", 5)
		locked(t, w, "nobody@example.com", adminPassword, "203.0.113.1", 15*time.Minute)
	})
	t.Run("an address that tries many accounts is locked for all", func(t *testing.T) {
		w := newWorld(t, nil)
		w.admin(t)
		for i := range 25 {
			fail(t, w, fmt.Sprintf("a%d@example.com", i), "2001:db8::"+fmt.Sprint(i), 1) // one /64
		}
		locked(t, w, adminEmail, adminPassword, "2001:db8::ffff", 15*time.Minute)
		if _, _, err := w.AdminLogin(ctx, account.AdminLogin{Email: adminEmail, Password: adminPassword}, at("2001:db8:0:1::1")); err != nil {
			t.Error(err)
		}
	})
	t.Run("a success forgives the failures before it", func(t *testing.T) {
		w := newWorld(t, nil)
		w.admin(t)
		for range 3 {
			fail(t, w, adminEmail, "203.0.113.1", 4)
			if _, _, err := w.AdminLogin(ctx, account.AdminLogin{Email: adminEmail, Password: adminPassword}, at("203.0.113.1")); err != nil {
				t.Fatal(err)
			}
		}
	})
	t.Run("fifty wrong tries at once are five looks at the password", func(t *testing.T) {
		w := newWorld(t, func(o *account.Options) { o.MaxHashes = 8 })
		w.admin(t)
		var mu sync.Mutex
		var wrong, limited int
		var wg sync.WaitGroup
		for range 50 {
			wg.Go(func() {
				_, _, err := w.AdminLogin(ctx, account.AdminLogin{Email: adminEmail, Password: "wrong"}, from)
				mu.Lock()
				defer mu.Unlock()
				switch {
				case errors.Is(err, account.ErrInvalidCredentials):
					wrong++
				case errors.Is(err, account.ErrRateLimited):
					limited++
				default:
					t.Error(err)
				}
			})
		}
		wg.Wait()
		if wrong != 5 || limited != 45 {
			t.Errorf("%d looks, %d locked", wrong, limited)
		}
	})
	t.Run("twenty right passwords at once all get in", func(t *testing.T) {
		w := newWorld(t, func(o *account.Options) { o.MaxHashes = 4 })
		w.admin(t)
		var wg sync.WaitGroup
		for range 20 {
			wg.Go(func() {
				if _, _, err := w.AdminLogin(ctx, account.AdminLogin{Email: adminEmail, Password: adminPassword}, from); err != nil {
					t.Error(err)
				}
			})
		}
		wg.Wait()
	})
}

// Whether an account exists must not show in the time that a refusal takes.
func TestAdminLoginTiming(t *testing.T) {
	ctx := context.Background()
	w := newWorld(t, func(o *account.Options) { o.Hash = account.HashParams{MemoryKiB: 4096, Passes: 2, Lanes: 1} })
	w.admin(t)
	const tries = 21
	var took [2][]time.Duration
	for i := range tries {
		for j, email := range []string{adminEmail, "nobody@example.com"} {
			start := time.Now()
			if _, _, err := w.AdminLogin(ctx, account.AdminLogin{Email: email, Password: "wrong"}, at(fmt.Sprintf("203.0.%d.%d", i, j))); !errors.Is(err, account.ErrInvalidCredentials) {
				t.Fatal(err)
			}
			took[j] = append(took[j], time.Since(start))
		}
	}
	var median [2]time.Duration
	for j := range took {
		slices.Sort(took[j])
		median[j] = took[j][tries/2]
	}
	// A missing hash would be a factor of ten; a busy machine is not.
	if ratio := float64(median[0]) / float64(median[1]); ratio < 0.5 || ratio > 2 {
		t.Errorf("a known address takes %v, an unknown one %v", median[0], median[1])
	}
}

func TestEnsureAdmin(t *testing.T) {
	ctx := context.Background()
	t.Run("it makes the first administrator and no second one", func(t *testing.T) {
		w := newWorld(t, nil)
		for i, want := range []bool{true, false} {
			created, err := w.EnsureAdmin(ctx, fmt.Sprintf("a%d@example.com", i), adminPassword)
			if err != nil || created != want {
				t.Errorf("created %v, %v", created, err)
			}
		}
	})
	t.Run("two at once make one", func(t *testing.T) {
		w := newWorld(t, nil)
		var wg sync.WaitGroup
		var mu sync.Mutex
		made := 0
		for range 4 {
			wg.Go(func() {
				created, err := w.EnsureAdmin(ctx, adminEmail, adminPassword)
				if err != nil {
					t.Error(err)
				}
				mu.Lock()
				defer mu.Unlock()
				if created {
					made++
				}
			})
		}
		wg.Wait()
		if made != 1 {
			t.Errorf("%d were made", made)
		}
	})
}

func TestCreateAdmin(t *testing.T) {
	ctx := context.Background()
	w := newWorld(t, nil)
	w.admin(t)
	for _, c := range []struct {
		name, email, password string
		role                  account.AdminRole
		want                  error
	}{
		{"a taken address", "Root@Example.com", adminPassword, account.AdminRoleAdmin, account.ErrEmailTaken},
		{"no address", "root", adminPassword, account.AdminRoleAdmin, account.ErrInvalidEmail},
		{"a short password", "b@example.com", "12345678901", account.AdminRoleAdmin, account.ErrWeakPassword},
		{"an endless password", "b@example.com", strings.Repeat("x", 257), account.AdminRoleAdmin, account.ErrWeakPassword},
		{"a password that is tried first", "b@example.com", "Password1234", account.AdminRoleAdmin, account.ErrWeakPassword},
		{"a password of a sample", "b@example.com", "change-me-password", account.AdminRoleAdmin, account.ErrWeakPassword},
		{"a password that repeats itself", "b@example.com", "abcabcabcabcabc", account.AdminRoleAdmin, account.ErrWeakPassword},
		{"a password that counts", "b@example.com", "abcdefghijklmnop", account.AdminRoleAdmin, account.ErrWeakPassword},
		{"a password that is no text", "b@example.com", strings.Repeat("\xff", 20), account.AdminRoleAdmin, account.ErrWeakPassword},
		{"an unknown role", "b@example.com", adminPassword, "owner", account.ErrInvalidRole},
	} {
		t.Run(c.name, func(t *testing.T) {
			if _, err := w.CreateAdmin(ctx, c.email, c.password, c.role); !errors.Is(err, c.want) {
				t.Errorf("got %v, want %v", err, c.want)
			}
		})
	}
}
