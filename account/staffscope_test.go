package account_test

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"testing"

	"github.com/opticworks/devicecloud/account"
	"github.com/opticworks/devicecloud/registry"
)

// simScopes are the scopes that let a member see the numbers of SIM cards.
var simScopes = []string{registry.ScopeSIM}

// grant gives scopes to a member, or takes them.
func (w *world) grant(t testing.TB, by registry.Actor, adminID string, scopes ...string) account.Admin {
	t.Helper()
	if scopes == nil {
		scopes = []string{}
	}
	m, err := w.ChangeStaff(context.Background(), by, adminID, account.StaffChange{Scopes: &scopes})
	if err != nil {
		t.Fatal(err)
	}
	return m
}

func TestScopesOfStaff(t *testing.T) {
	ctx := context.Background()
	t.Run("a grant ends the sessions, is in the next tokens and in those after", func(t *testing.T) {
		w := newWorld(t, nil)
		boss := as(w.admin(t))
		m := w.member(t, "m@example.com", account.AdminRoleAdmin)
		before := w.signInStaff(t, "m@example.com")
		if w.alive(t, "before", before).Has(registry.ScopeSIM) {
			t.Error("an administrator has the scope by role")
		}
		if got := w.grant(t, boss, m.ID, registry.ScopeSIM); !slices.Equal(got.Scopes, simScopes) {
			t.Errorf("granted %v", got.Scopes)
		}
		w.over(t, "before the grant", before)
		tokens := w.signInStaff(t, "m@example.com")
		if a := w.alive(t, "with the grant", tokens); !a.Has(registry.ScopeSIM) || !a.Has(registry.ScopeConfigWrite) {
			t.Errorf("the token carries %v", a.Scopes)
		}
		next, _, err := w.Refresh(ctx, tokens.Refresh.Reveal(), "", from)
		if err != nil || !w.alive(t, "refreshed", next).Has(registry.ScopeSIM) {
			t.Errorf("after a refresh: %v", err)
		}
		named, err := w.ActorNamed(ctx, boss, "admin:"+m.ID)
		if err != nil || !named.Has(registry.ScopeSIM) {
			t.Errorf("explained as %v, %v", named.Scopes, err)
		}
		w.grant(t, boss, m.ID, registry.ScopeSIM, registry.ScopeSIM) // the same again
		w.alive(t, "after the same again", next)
		w.grant(t, boss, m.ID)
		w.over(t, "withdrawn", next)
		if w.alive(t, "after", w.signInStaff(t, "m@example.com")).Has(registry.ScopeSIM) {
			t.Error("the scope outlives its withdrawal")
		}
		if n := w.events(t)["staff_scopes_changed"]; n != 2 {
			t.Errorf("%d rows in the trail", n)
		}
	})
	t.Run("a member may be made with a grant", func(t *testing.T) {
		w := newWorld(t, nil)
		boss := as(w.admin(t))
		m, err := w.CreateStaff(ctx, boss, "m@example.com", adminPassword, account.AdminRoleAdmin, simScopes)
		if err != nil || !slices.Equal(m.Scopes, simScopes) || !w.alive(t, "made", w.signInStaff(t, "m@example.com")).Has(registry.ScopeSIM) {
			t.Error(m.Scopes, err)
		}
		if n := w.events(t)["staff_scopes_changed"]; n != 1 {
			t.Errorf("%d rows in the trail", n)
		}
	})
	t.Run("another role drops it, for good", func(t *testing.T) {
		w := newWorld(t, nil)
		boss := as(w.admin(t))
		m := w.member(t, "m@example.com", account.AdminRoleAdmin)
		w.grant(t, boss, m.ID, registry.ScopeSIM)
		tokens := w.signInStaff(t, "m@example.com")
		for _, role := range []account.AdminRole{account.AdminRoleSupport, account.AdminRoleAdmin} {
			got, err := w.ChangeStaff(ctx, boss, m.ID, account.StaffChange{Role: &role})
			if err != nil || len(got.Scopes) != 0 {
				t.Errorf("as %s: %v, %v", role, got.Scopes, err)
			}
		}
		w.over(t, "before", tokens)
		if w.alive(t, "after", w.signInStaff(t, "m@example.com")).Has(registry.ScopeSIM) {
			t.Error("the scope came back with the role")
		}
		if n := w.events(t)["staff_scopes_changed"]; n != 2 {
			t.Errorf("%d rows in the trail", n)
		}
	})
	t.Run("it comes with the role in one change", func(t *testing.T) {
		w := newWorld(t, nil)
		boss := as(w.admin(t))
		m := w.member(t, "m@example.com", account.AdminRoleSupport)
		got, err := w.ChangeStaff(ctx, boss, m.ID, account.StaffChange{Role: ptr(account.AdminRoleAdmin), Scopes: &simScopes})
		if err != nil || got.Role != account.AdminRoleAdmin || !slices.Equal(got.Scopes, simScopes) {
			t.Error(got, err)
		}
	})
	t.Run("disabling keeps it for who is enabled again", func(t *testing.T) {
		w := newWorld(t, nil)
		boss := as(w.admin(t))
		m := w.member(t, "m@example.com", account.AdminRoleAdmin)
		w.grant(t, boss, m.ID, registry.ScopeSIM)
		for _, off := range []bool{true, false} {
			if _, err := w.ChangeStaff(ctx, boss, m.ID, account.StaffChange{Disabled: &off}); err != nil {
				t.Fatal(err)
			}
		}
		if !w.alive(t, "after", w.signInStaff(t, "m@example.com")).Has(registry.ScopeSIM) {
			t.Error("the scope is gone")
		}
	})
	t.Run("nobody grants it to themselves, and everybody may give it up", func(t *testing.T) {
		w := newWorld(t, nil)
		boss := as(w.admin(t))
		m := w.member(t, "m@example.com", account.AdminRoleAdmin)
		tokens := w.signInStaff(t, "m@example.com")
		if _, err := w.ChangeStaff(ctx, as(m), m.ID, account.StaffChange{Scopes: &simScopes}); !errors.Is(err, account.ErrOwnScopes) {
			t.Error(err)
		}
		w.alive(t, "after the refusal", tokens)
		w.grant(t, boss, m.ID, registry.ScopeSIM)
		w.grant(t, as(m), m.ID, registry.ScopeSIM) // what stands there already
		if got := w.grant(t, as(m), m.ID); len(got.Scopes) != 0 {
			t.Errorf("kept %v", got.Scopes)
		}
	})
	t.Run("of a grant and a demotion at once, support never has it", func(t *testing.T) {
		for range 10 {
			w := newWorld(t, nil)
			boss := as(w.admin(t))
			m := w.member(t, "m@example.com", account.AdminRoleAdmin)
			var wg sync.WaitGroup
			for _, c := range []account.StaffChange{{Scopes: &simScopes}, {Role: ptr(account.AdminRoleSupport)}} {
				wg.Go(func() {
					if _, err := w.ChangeStaff(ctx, boss, m.ID, c); err != nil && !errors.Is(err, account.ErrStaffScope) {
						t.Error(err)
					}
				})
			}
			wg.Wait()
			if got, err := w.StaffByEmail(ctx, boss, "m@example.com"); err != nil || got.Role != account.AdminRoleSupport || len(got.Scopes) != 0 {
				t.Fatal(got, err)
			}
		}
	})
}

func TestScopesThatStaffCannotHave(t *testing.T) {
	ctx := context.Background()
	w := newWorld(t, nil)
	boss := as(w.admin(t))
	m := w.member(t, "m@example.com", account.AdminRoleAdmin)
	help := w.member(t, "s@example.com", account.AdminRoleSupport)
	for _, scopes := range [][]string{{registry.ScopeDeviceEnroll}, {registry.ScopeSIM, registry.ScopeOrderWrite}, {""}, {"admin:sim "}, {"admin:*"}, {registry.ScopeDeviceRead}} {
		t.Run(fmt.Sprintf("%q is refused", scopes), func(t *testing.T) {
			if _, err := w.ChangeStaff(ctx, boss, m.ID, account.StaffChange{Scopes: &scopes}); !errors.Is(err, account.ErrStaffScope) {
				t.Errorf("a change: %v", err)
			}
			if _, err := w.CreateStaff(ctx, boss, "n@example.com", adminPassword, account.AdminRoleAdmin, scopes); !errors.Is(err, account.ErrStaffScope) {
				t.Errorf("a new member: %v", err)
			}
		})
	}
	t.Run("support staff are refused", func(t *testing.T) {
		for name, change := range map[string]func() error{
			"a member of support": func() error {
				_, err := w.ChangeStaff(ctx, boss, help.ID, account.StaffChange{Scopes: &simScopes})
				return err
			},
			"a change to support": func() error {
				_, err := w.ChangeStaff(ctx, boss, m.ID, account.StaffChange{Role: ptr(account.AdminRoleSupport), Scopes: &simScopes})
				return err
			},
			"a new member of support": func() error {
				_, err := w.CreateStaff(ctx, boss, "n@example.com", adminPassword, account.AdminRoleSupport, simScopes)
				return err
			},
		} {
			if err := change(); !errors.Is(err, account.ErrStaffScope) {
				t.Errorf("%s: %v", name, err)
			}
		}
	})
	if n := w.events(t)["staff_scopes_changed"]; n != 0 {
		t.Errorf("%d rows in the trail of what was refused", n)
	}
}
