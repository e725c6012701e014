package account_test

import (
	"context"
	"crypto/sha256"
	"encoding/base64"
	"errors"
	"fmt"
	"log/slog"
	"regexp"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/opticworks/devicecloud/account"
	"github.com/opticworks/devicecloud/registry"
)

// mailbox takes every mail.
type mailbox chan account.Mail

func (b mailbox) Send(_ context.Context, m account.Mail) error {
	b <- m
	return nil
}

const verifier = "verifier-0123456789-0123456789-0123456789-0123"

func challengeOf(verifier string) string {
	sum := sha256.Sum256([]byte(verifier))
	return base64.RawURLEncoding.EncodeToString(sum[:])
}

// provider vouches for whom the token names: "subject e-mail verified|unverified".
type provider struct{}

func (provider) Verify(_ context.Context, req account.LoginRequest) (account.Identity, error) {
	f := strings.Fields(req.IDToken)
	return account.Identity{Subjects: f[:1], Email: f[1], EmailVerified: f[2] == "verified", Expires: time.Now().Add(time.Hour)}, nil
}

// newMailWorld is a world whose mails arrive in a mailbox.
func newMailWorld(t testing.TB) (*world, mailbox) {
	t.Helper()
	box := make(mailbox, 2000)
	w := newWorld(t, func(o *account.Options) {
		o.Mailer, o.LinkPage = box, "https://cloud.example.com/auth/magic"
		o.Providers = map[string]account.Provider{"acme": provider{}}
	})
	t.Cleanup(func() { w.CloseMail(context.Background()) })
	return w, box
}

var linkPattern = regexp.MustCompile(`(?m)^https://cloud\.example\.com/auth/magic#token=([A-Za-z0-9_-]{43})$`)

// ask asks for a link and reads its token in the mail.
func (w *world) ask(t testing.TB, box mailbox, email string) string {
	t.Helper()
	if err := w.SendMagicLink(t.Context(), account.MagicLinkRequest{Email: email, InstallID: "phone", CodeChallenge: challengeOf(verifier)}); err != nil {
		t.Fatal(err)
	}
	select {
	case m := <-box:
		found := linkPattern.FindStringSubmatch(m.Text)
		if found == nil {
			t.Fatalf("the mail has no link: %s", m.Text)
		}
		if shown := fmt.Sprintf("%v %+v %#v %s", m, m, m, m); strings.Contains(shown, found[1]) {
			t.Errorf("a mail shows its link: %s", shown)
		}
		return found[1]
	case <-time.After(10 * time.Second):
		t.Fatal("no mail")
	}
	return ""
}

func (w *world) show(ctx context.Context, token string) (account.Tokens, account.User, error) {
	return w.VerifyMagicLink(ctx, account.MagicLinkProof{Token: token, CodeVerifier: verifier, Device: account.Device{InstallID: "phone", Name: "Ann's phone"}}, from)
}

func TestALinkProvesTheMailbox(t *testing.T) {
	w, box := newMailWorld(t)
	t.Run("nobody's address makes a new person", func(t *testing.T) {
		tokens, u, err := w.show(t.Context(), w.ask(t, box, " New@Example.com"))
		if err != nil || u.Email != "new@example.com" || !u.EmailVerified {
			t.Fatalf("%+v, %v", u, err)
		}
		a, _, err := w.ActorByToken(t.Context(), tokens.Access.Reveal())
		if err != nil || a.ID != u.ID {
			t.Errorf("the token is %v's, %v", a, err)
		}
		if _, again, err := w.show(t.Context(), w.ask(t, box, "new@example.com")); err != nil || again.ID != u.ID {
			t.Errorf("the second time it is %+v, %v", again, err)
		}
		if n := w.events(t)["user_registered"]; n != 1 {
			t.Errorf("%d people were registered", n)
		}
	})
	t.Run("a person with this verified address signs in and has another way in", func(t *testing.T) {
		_, ann, err := w.Login(t.Context(), account.LoginRequest{Provider: "acme", IDToken: "s1 ann@example.com verified"}, from)
		if err != nil {
			t.Fatal(err)
		}
		for range 2 {
			if _, u, err := w.show(t.Context(), w.ask(t, box, "ann@example.com")); err != nil || u.ID != ann.ID {
				t.Errorf("signed in %+v, %v", u, err)
			}
		}
		if n := w.events(t)["identity_linked"]; n != 1 {
			t.Errorf("linked %d times", n)
		}
	})
	t.Run("an address that another provider has not verified is nobody's", func(t *testing.T) {
		if _, _, err := w.Login(t.Context(), account.LoginRequest{Provider: "acme", IDToken: "s2 eve@example.com unverified"}, from); !errors.Is(err, account.ErrEmailNotVerified) {
			t.Fatal(err)
		}
		if _, u, err := w.show(t.Context(), w.ask(t, box, "eve@example.com")); err != nil || u.Email != "eve@example.com" {
			t.Errorf("%+v, %v", u, err)
		}
	})
	t.Run("a disabled person stays outside", func(t *testing.T) {
		off := account.User{ID: "off", Email: "off@example.com", EmailVerified: true, DisabledAt: w.clock.Now(), CreatedAt: w.clock.Now()}
		if err := w.db.Accounts().InTx(t.Context(), func(tx account.Tx) error { return tx.InsertUser(t.Context(), off) }); err != nil {
			t.Fatal(err)
		}
		if _, _, err := w.show(t.Context(), w.ask(t, box, "off@example.com")); !errors.Is(err, account.ErrAccountDisabled) {
			t.Errorf("got %v", err)
		}
	})
}

// TestEachProofSignsInOnce: of 100 at once, one wins.
func TestEachProofSignsInOnce(t *testing.T) {
	w, box := newMailWorld(t)
	link := w.ask(t, box, "race@example.com")
	for name, try := range map[string]func(ctx context.Context) error{
		"a mailed link": func(ctx context.Context) error {
			_, _, err := w.show(ctx, link)
			return err
		},
		"a provider's token": func(ctx context.Context) error {
			_, _, err := w.Login(ctx, account.LoginRequest{Provider: "acme", IDToken: "s3 cat@example.com verified"}, from)
			return err
		},
	} {
		t.Run(name, func(t *testing.T) {
			var won atomic.Int64
			var wg sync.WaitGroup
			for range 100 {
				wg.Go(func() {
					switch err := try(t.Context()); {
					case err == nil:
						won.Add(1)
					case !errors.Is(err, account.ErrInvalidToken):
						t.Errorf("a loser gets %v", err)
					}
				})
			}
			wg.Wait()
			if n := won.Load(); n != 1 {
				t.Errorf("%d won", n)
			}
		})
	}
	if n := w.events(t)["login_failed"]; n != 198 {
		t.Errorf("%d failures are in the audit trail, want 198", n)
	}
}

func TestTheDatabaseKnowsNoLink(t *testing.T) {
	w, box := newMailWorld(t)
	token := w.ask(t, box, "ann@example.com")
	copied := t.TempDir() + "/copy.db"
	if err := w.db.Backup(t.Context(), copied); err != nil {
		t.Fatal(err)
	}
	for what, text := range map[string]string{"the database": read(t, copied), "the log": w.logs.String()} {
		if strings.Contains(text, token) || strings.Contains(text, verifier) {
			t.Errorf("%s holds the token or the verifier", what)
		}
	}
	if strings.Contains(w.logs.String(), "ann@example.com") {
		t.Error("the log holds the address")
	}
}

// links is a store of mailed links alone, none of which fits.
type links struct {
	account.Store
	account.Tx
	used func(hash []byte, install, challenge string)
}

func (l links) InTx(_ context.Context, f func(account.Tx) error) error { return f(l) }

func (links) InsertAudit(context.Context, registry.AuditEvent) error { return nil }

func (l links) UseMagicLink(_ context.Context, hash []byte, install, challenge string, _ time.Time) (string, bool, error) {
	l.used(hash, install, challenge)
	return "", false, nil
}

// FuzzMagicToken shows what is no link: whatever it is, it reaches the store as a hash
// and a challenge of one length, and is refused with one error.
func FuzzMagicToken(f *testing.F) {
	key, _, err := account.NewSigningKey()
	if err != nil {
		f.Fatal(err)
	}
	f.Add(strings.Repeat("A", 43), verifier, "phone")
	f.Add("\x00", "\xff", "\x00")
	f.Add("a", strings.Repeat("v", 200), "")
	f.Fuzz(func(t *testing.T, token, codeVerifier, install string) {
		store := links{used: func(hash []byte, got, challenge string) {
			if len(hash) != sha256.Size || len(challenge) != 43 || got != install || len(got) > 64 {
				t.Errorf("looked for %x, %q, %q", hash, got, challenge)
			}
			if fits := challenge == challengeOf(codeVerifier); fits && (len(codeVerifier) < 43 || len(codeVerifier) > 128) {
				t.Errorf("a verifier of %d characters is taken", len(codeVerifier))
			}
		}}
		s, err := account.New(store, nil, account.Options{SigningKey: key, Hash: cheap(), Mailer: mailbox(nil), Logger: slog.New(slog.DiscardHandler)})
		if err != nil {
			t.Fatal(err)
		}
		_, _, err = s.VerifyMagicLink(t.Context(), account.MagicLinkProof{Token: token, CodeVerifier: codeVerifier, Device: account.Device{InstallID: install}}, from)
		missing := token == "" || codeVerifier == "" || install == ""
		if missing != errors.Is(err, account.ErrMissingFields) || !missing && !errors.Is(err, account.ErrInvalidToken) && !isInvalidRequest(err) {
			t.Errorf("%q, %q, %q: %v", token, codeVerifier, install, err)
		}
	})
}
