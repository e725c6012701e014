package account_test

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"

	"github.com/opticworks/devicecloud/account"
	"github.com/opticworks/devicecloud/registry"
)

// directory is an identity provider of staff that vouches for whoever the test says;
// the real one is tested where it lives.
type directory struct {
	who account.StaffIdentity
	err error
}

func (d *directory) AuthURL(_ context.Context, f account.StaffFlow) (string, error) {
	return "https://idp.example.com/auth?state=" + f.State + "&nonce=" + f.Nonce + "&verifier=" + f.Verifier, d.err
}

func (d *directory) Exchange(_ context.Context, code string, f account.StaffFlow) (account.StaffIdentity, error) {
	if code != "code "+f.Nonce {
		return account.StaffIdentity{}, account.ErrInvalidToken
	}
	return d.who, d.err
}

// browser is a sign-in that has begun.
type browser struct{ kept, state, nonce string }

func begin(t testing.TB, w *world) browser {
	t.Helper()
	address, kept, err := w.BeginStaffLogin(context.Background())
	if err != nil {
		t.Fatal(err)
	}
	var b browser
	b.kept = kept
	for part := range strings.SplitSeq(strings.SplitN(address, "?", 2)[1], "&") {
		switch name, value, _ := strings.Cut(part, "="); name {
		case "state":
			b.state = value
		case "nonce":
			b.nonce = value
		}
	}
	return b
}

func (b browser) back() account.StaffReturn {
	return account.StaffReturn{Kept: b.kept, State: b.state, Code: "code " + b.nonce}
}

// flipped is a text whose first character is another.
func flipped(s string) string {
	if s[0] == 'A' {
		return "B" + s[1:]
	}
	return "A" + s[1:]
}

func TestStaffOIDC(t *testing.T) {
	ctx := context.Background()
	newDirectory := func(t *testing.T) (*world, *directory) {
		d := &directory{who: account.StaffIdentity{Subject: "sub-1", Email: "Ann@Example.com", EmailVerified: true, Groups: []string{"all", "ops"}}}
		w := newWorld(t, func(o *account.Options) {
			o.StaffProvider, o.StaffGroups = d, account.StaffGroups{Admin: "ops", Support: "help"}
		})
		return w, d
	}
	in := func(t *testing.T, w *world) (account.Tokens, account.Admin) {
		t.Helper()
		tokens, m, err := w.FinishStaffLogin(ctx, begin(t, w).back(), from)
		if err != nil {
			t.Fatal(err)
		}
		return tokens, m
	}
	t.Run("a member is made at the first sign-in and found by the subject", func(t *testing.T) {
		w, d := newDirectory(t)
		tokens, m := in(t, w)
		if a := w.alive(t, "token", tokens); a.Kind != registry.ActorAdmin || a.ID != m.ID || m.Email != "ann@example.com" {
			t.Errorf("%+v %+v", a, m)
		}
		d.who.Email = "ann.married@example.com"
		_, again := in(t, w)
		if again.ID != m.ID || again.Email != "ann.married@example.com" {
			t.Errorf("%+v", again)
		}
		if e := w.events(t); e["staff_created"] != 1 || e["login_succeeded"] != 2 {
			t.Errorf("the trail has %v", e)
		}
	})
	t.Run("has no password", func(t *testing.T) {
		w, _ := newDirectory(t)
		in(t, w)
		for _, p := range []string{"", "x", strings.Repeat("x", 20)} {
			_, _, err := w.AdminLogin(ctx, account.AdminLogin{Email: "ann@example.com", Password: p}, from)
			if !errors.Is(err, account.ErrInvalidCredentials) && !errors.Is(err, account.ErrMissingFields) {
				t.Errorf("%q: %v", p, err)
			}
		}
	})
	t.Run("what was granted stays with the member until the groups make another role", func(t *testing.T) {
		w, d := newDirectory(t)
		_, m := in(t, w)
		w.grant(t, registry.System(), m.ID, registry.ScopeSIM)
		for range 2 {
			if tokens, _ := in(t, w); !w.alive(t, "granted", tokens).Has(registry.ScopeSIM) {
				t.Error("the token does not carry the grant")
			}
		}
		for _, group := range []string{"help", "ops"} {
			d.who.Groups = []string{group}
			if tokens, got := in(t, w); len(got.Scopes) != 0 || w.alive(t, group, tokens).Has(registry.ScopeSIM) {
				t.Errorf("as %s: %v", group, got.Scopes)
			}
		}
		if n := w.events(t)["staff_scopes_changed"]; n != 2 {
			t.Errorf("%d rows in the trail", n)
		}
	})
	t.Run("the groups decide the role at each sign-in, and another role ends the other sessions", func(t *testing.T) {
		w, d := newDirectory(t)
		first, _ := in(t, w)
		same, _ := in(t, w)
		w.alive(t, "the same role ends nothing", first)
		d.who.Groups = []string{"help"}
		third, m := in(t, w)
		w.over(t, "first", first)
		w.over(t, "same", same)
		if a := w.alive(t, "third", third); a.Kind != registry.ActorSupport || m.Role != account.AdminRoleSupport {
			t.Errorf("%+v", a)
		}
	})
	t.Run("an e-mail of another member is refused and audited", func(t *testing.T) {
		w, d := newDirectory(t)
		boss := w.admin(t)
		d.who.Email = adminEmail
		if _, _, err := w.FinishStaffLogin(ctx, begin(t, w).back(), from); !errors.Is(err, account.ErrLinkRequired) {
			t.Error(err)
		}
		list, err := w.Staff(ctx, registry.System(), "", 10)
		if err != nil || len(list) != 1 || list[0].ID != boss.ID || list[0].OIDCSubject != "" {
			t.Errorf("%+v, %v", list, err)
		}
		if n := w.events(t)["login_failed"]; n != 1 {
			t.Errorf("%d rows in the trail", n)
		}
		d.who.Email = "ann@example.com"
		in(t, w)
		d.who.Email = adminEmail // taken later
		if _, _, err := w.FinishStaffLogin(ctx, begin(t, w).back(), from); !errors.Is(err, account.ErrLinkRequired) {
			t.Error(err)
		}
	})
	t.Run("who is not vouched for stays out", func(t *testing.T) {
		for name, c := range map[string]struct {
			change func(*account.StaffIdentity)
			want   error
		}{
			"in no group":          {func(i *account.StaffIdentity) { i.Groups = nil }, registry.ErrInsufficientRole},
			"in other groups":      {func(i *account.StaffIdentity) { i.Groups = []string{"OPS", "ops ", ""} }, registry.ErrInsufficientRole},
			"without a subject":    {func(i *account.StaffIdentity) { i.Subject = "" }, account.ErrInvalidToken},
			"without an e-mail":    {func(i *account.StaffIdentity) { i.Email = "" }, account.ErrInvalidToken},
			"e-mail not verified":  {func(i *account.StaffIdentity) { i.EmailVerified = false }, account.ErrEmailNotVerified},
			"with a broken e-mail": {func(i *account.StaffIdentity) { i.Email = "root" }, account.ErrInvalidToken},
		} {
			t.Run(name, func(t *testing.T) {
				w, d := newDirectory(t)
				c.change(&d.who)
				if _, _, err := w.FinishStaffLogin(ctx, begin(t, w).back(), from); !errors.Is(err, c.want) {
					t.Errorf("%v, want %v", err, c.want)
				}
				if list, err := w.Staff(ctx, registry.System(), "", 10); err != nil || len(list) != 0 {
					t.Errorf("%v, %v", list, err)
				}
			})
		}
	})
	t.Run("an empty group setting makes nobody staff", func(t *testing.T) {
		d := &directory{who: account.StaffIdentity{Subject: "s", Email: "a@example.com", EmailVerified: true, Groups: []string{""}}}
		w := newWorld(t, func(o *account.Options) { o.StaffProvider = d })
		if _, _, err := w.FinishStaffLogin(ctx, begin(t, w).back(), from); !errors.Is(err, registry.ErrInsufficientRole) {
			t.Error(err)
		}
	})
	t.Run("a disabled member stays out", func(t *testing.T) {
		w, _ := newDirectory(t)
		w.admin(t)
		tokens, m := in(t, w)
		if _, err := w.ChangeStaff(ctx, registry.System(), m.ID, account.StaffChange{Disabled: ptr(true)}); err != nil {
			t.Fatal(err)
		}
		w.over(t, "disabled", tokens)
		if _, _, err := w.FinishStaffLogin(ctx, begin(t, w).back(), from); !errors.Is(err, account.ErrAccountDisabled) {
			t.Error(err)
		}
	})
	t.Run("only the browser that began it finishes it, within ten minutes", func(t *testing.T) {
		w, _ := newDirectory(t)
		mine, other := begin(t, w), begin(t, w)
		for name, b := range map[string]account.StaffReturn{
			"nothing kept":             {State: mine.state, Code: "code " + mine.nonce},
			"another browser's state":  {Kept: mine.kept, State: other.state, Code: "code " + mine.nonce},
			"no state":                 {Kept: mine.kept, Code: "code " + mine.nonce},
			"something else kept":      {Kept: "AAAA", State: mine.state, Code: "code " + mine.nonce},
			"what was kept, tampered":  {Kept: flipped(mine.kept), State: mine.state, Code: "code " + mine.nonce},
			"what was kept, shortened": {Kept: mine.kept[:len(mine.kept)-1], State: mine.state, Code: "code " + mine.nonce},
		} {
			if _, _, err := w.FinishStaffLogin(ctx, b, from); !errors.Is(err, account.ErrInvalidState) {
				t.Errorf("%s: %v", name, err)
			}
		}
		late := begin(t, w)
		w.clock.Add(account.StaffFlowTTL)
		if _, _, err := w.FinishStaffLogin(ctx, late.back(), from); !errors.Is(err, account.ErrInvalidState) {
			t.Errorf("after ten minutes: %v", err)
		}
		noCode := begin(t, w)
		if _, _, err := w.FinishStaffLogin(ctx, account.StaffReturn{Kept: noCode.kept, State: noCode.state}, from); !errors.Is(err, account.ErrInvalidToken) {
			t.Errorf("without a code: %v", err)
		}
		if mine.nonce == "" || strings.Contains(mine.kept, mine.nonce) || mine.state == other.state || mine.nonce == other.nonce {
			t.Error("what the browser keeps is not sealed, or not fresh")
		}
	})
	t.Run("without a provider there is no such sign-in", func(t *testing.T) {
		w := newWorld(t, nil)
		if _, _, err := w.BeginStaffLogin(ctx); !errors.Is(err, account.ErrInvalidProvider) || w.StaffOIDC() {
			t.Error(err)
		}
		if _, _, err := w.FinishStaffLogin(ctx, account.StaffReturn{}, from); !errors.Is(err, account.ErrInvalidProvider) {
			t.Error(err)
		}
	})
	t.Run("flows redact themselves", func(t *testing.T) {
		if s := fmt.Sprintf("%v %+v %#v", account.StaffFlow{Verifier: "secret"}, account.StaffFlow{Verifier: "secret"}, account.StaffFlow{Verifier: "secret"}); strings.Contains(s, "secret") {
			t.Error(s)
		}
	})
}

// FuzzStaffFlow: nothing that a browser brings is taken but what it was given.
func FuzzStaffFlow(f *testing.F) {
	w := newWorld(f, func(o *account.Options) { o.StaffProvider = &directory{} })
	b := begin(f, w)
	f.Add(b.kept)
	f.Add(b.kept[:len(b.kept)-1])
	f.Add("")
	f.Add("AAAA")
	f.Fuzz(func(t *testing.T, kept string) {
		flow, ok := w.OpenFlow(kept)
		if ok != (kept == b.kept) || ok && (flow.State != b.state || flow.Nonce != b.nonce) {
			t.Errorf("%q is taken", kept)
		}
	})
}
