package sqlstore_test

import (
	"bytes"
	"context"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/opticworks/devicecloud/account"
)

func TestMagicLinks(t *testing.T) {
	eachEngine(t, func(t *testing.T, s *store) {
		hash := func(n byte) []byte { return bytes.Repeat([]byte{n}, 32) }
		link := func(n byte, email string) account.MagicLink {
			return account.MagicLink{
				TokenHash: hash(n), Email: email, InstallID: "phone", CodeChallenge: "challenge", CreatedAt: t0, ExpiresAt: t0.Add(10 * time.Minute),
			}
		}
		insert := func(l account.MagicLink) {
			t.Helper()
			s.write(func(ctx context.Context, tx account.Tx) error { return tx.InsertMagicLink(ctx, l) })
		}
		use := func(n byte, install, challenge string, at time.Time) (email string, ok bool) {
			t.Helper()
			s.write(func(ctx context.Context, tx account.Tx) (err error) {
				email, ok, err = tx.UseMagicLink(ctx, hash(n), install, challenge, at)
				return err
			})
			return email, ok
		}
		t.Run("are used by their device, in their time, once", func(t *testing.T) {
			insert(link(1, "ann@example.com"))
			for _, wrong := range []struct {
				n                  byte
				install, challenge string
				at                 time.Time
			}{
				{9, "phone", "challenge", t0},
				{1, "tablet", "challenge", t0},
				{1, "phone", "", t0},
				{1, "phone", "challenge", t0.Add(10 * time.Minute)},
			} {
				if email, ok := use(wrong.n, wrong.install, wrong.challenge, wrong.at); ok || email != "" {
					t.Errorf("%+v was taken, for %q", wrong, email)
				}
			}
			last := t0.Add(10*time.Minute - time.Microsecond)
			if email, ok := use(1, "phone", "challenge", last); !ok || email != "ann@example.com" {
				t.Errorf("the link itself: %q, %v", email, ok)
			}
			if _, ok := use(1, "phone", "challenge", last); ok {
				t.Error("it was used twice")
			}
		})
		t.Run("make older ones of the same address useless, and no others", func(t *testing.T) {
			insert(link(2, "bob@example.com"))
			insert(link(3, "eve@example.com"))
			insert(link(4, "bob@example.com"))
			for n, want := range map[byte]bool{2: false, 3: true, 4: true} {
				if _, ok := use(n, "phone", "challenge", t0); ok != want {
					t.Errorf("link %d: %v, want %v", n, ok, want)
				}
			}
		})
		t.Run("let one of many win", func(t *testing.T) {
			insert(link(5, "race@example.com"))
			var won atomic.Int64
			var wg sync.WaitGroup
			for range 20 {
				wg.Go(func() {
					err := s.try(func(ctx context.Context, tx account.Tx) error {
						_, ok, err := tx.UseMagicLink(ctx, hash(5), "phone", "challenge", t0)
						if ok && err == nil {
							won.Add(1) // a transaction that runs again has lost before
						}
						return err
					})
					if err != nil {
						t.Error(err)
					}
				})
			}
			wg.Wait()
			if n := won.Load(); n != 1 {
				t.Errorf("%d won", n)
			}
		})
		t.Run("find the person of a verified address, a disabled one too", func(t *testing.T) {
			off := account.User{ID: "u1", Email: "off@example.com", EmailVerified: true, DisabledAt: t0, CreatedAt: t0}
			s.write(func(ctx context.Context, tx account.Tx) error {
				if err := tx.InsertUser(ctx, off); err != nil {
					return err
				}
				return tx.InsertUser(ctx, account.User{ID: "u2", Email: "unverified@example.com", CreatedAt: t0})
			})
			s.read(func(ctx context.Context, tx account.Tx) error {
				got, err := tx.UserOfEmail(ctx, "off@example.com")
				equal(t, "disabled", got, off)
				if err != nil {
					return err
				}
				for _, nobody := range []string{"unverified@example.com", "nobody@example.com", ""} {
					_, err = tx.UserOfEmail(ctx, nobody)
					is(t, nobody, err, account.ErrUserNotFound)
				}
				return nil
			})
		})
	})
}
