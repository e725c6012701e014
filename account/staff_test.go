package account_test

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"testing"
	"time"

	"github.com/opticworks/devicecloud/account"
	"github.com/opticworks/devicecloud/registry"
)

func ptr[T any](v T) *T { return &v }

// member makes a member of staff.
func (w *world) member(t testing.TB, email string, role account.AdminRole) account.Admin {
	t.Helper()
	m, err := w.CreateAdmin(context.Background(), email, adminPassword, role)
	if err != nil {
		t.Fatal(err)
	}
	return m
}

// signInStaff logs a member of staff in.
func (w *world) signInStaff(t testing.TB, email string) account.Tokens {
	t.Helper()
	tokens, _, err := w.AdminLogin(context.Background(), account.AdminLogin{Email: email, Password: adminPassword}, from)
	if err != nil {
		t.Fatal(err)
	}
	return tokens
}

// over fails the test unless the tokens of a session are refused.
func (w *world) over(t testing.TB, what string, tokens account.Tokens) {
	t.Helper()
	if _, _, err := w.ActorByToken(context.Background(), tokens.Access.Reveal()); !errors.Is(err, account.ErrInvalidToken) {
		t.Errorf("%s: the access token gives %v", what, err)
	}
	if _, _, err := w.Refresh(context.Background(), tokens.Refresh.Reveal(), "", from); !errors.Is(err, account.ErrInvalidToken) {
		t.Errorf("%s: the refresh token gives %v", what, err)
	}
}

// alive fails the test unless the access token is good.
func (w *world) alive(t testing.TB, what string, tokens account.Tokens) registry.Actor {
	t.Helper()
	a, _, err := w.ActorByToken(context.Background(), tokens.Access.Reveal())
	if err != nil {
		t.Errorf("%s: %v", what, err)
	}
	return a
}

func TestChangeStaff(t *testing.T) {
	ctx := context.Background()
	t.Run("another role ends every session and holds at the next login", func(t *testing.T) {
		w := newWorld(t, nil)
		boss := w.admin(t)
		m := w.member(t, "m@example.com", account.AdminRoleAdmin)
		first, second, other := w.signInStaff(t, "m@example.com"), w.signInStaff(t, "m@example.com"), w.signInStaff(t, adminEmail)
		told := make(chan struct{})
		w.Follow(w.alive(t, "before", first), func() { close(told) })
		got, err := w.ChangeStaff(ctx, as(boss), m.ID, account.StaffChange{Role: ptr(account.AdminRoleSupport)})
		if err != nil || got.Role != account.AdminRoleSupport {
			t.Fatal(got, err)
		}
		<-told
		w.over(t, "first", first)
		w.over(t, "second", second)
		w.alive(t, "another member's", other)
		if a := w.alive(t, "after", w.signInStaff(t, "m@example.com")); a.Kind != registry.ActorSupport {
			t.Errorf("%+v", a)
		}
		if n := w.events(t)["staff_role_changed"]; n != 1 {
			t.Errorf("%d rows in the trail", n)
		}
	})
	t.Run("the same again changes nothing and ends nothing", func(t *testing.T) {
		w := newWorld(t, nil)
		boss := w.admin(t)
		w.member(t, "m@example.com", account.AdminRoleSupport)
		tokens := w.signInStaff(t, "m@example.com")
		a := w.alive(t, "before", tokens)
		if _, err := w.ChangeStaff(ctx, as(boss), a.ID, account.StaffChange{Role: ptr(account.AdminRoleSupport), Disabled: ptr(false)}); err != nil {
			t.Fatal(err)
		}
		w.alive(t, "after", tokens)
	})
	t.Run("a disabled member is out until enabled", func(t *testing.T) {
		w := newWorld(t, nil)
		boss := w.admin(t)
		m := w.member(t, "m@example.com", account.AdminRoleSupport)
		tokens := w.signInStaff(t, "m@example.com")
		if _, err := w.ChangeStaff(ctx, as(boss), m.ID, account.StaffChange{Disabled: ptr(true)}); err != nil {
			t.Fatal(err)
		}
		w.over(t, "disabled", tokens)
		login := account.AdminLogin{Email: "m@example.com", Password: adminPassword}
		if _, _, err := w.AdminLogin(ctx, login, from); !errors.Is(err, account.ErrInvalidCredentials) {
			t.Error(err)
		}
		if _, err := w.ChangeStaff(ctx, as(boss), m.ID, account.StaffChange{Disabled: ptr(false)}); err != nil {
			t.Fatal(err)
		}
		w.signInStaff(t, "m@example.com")
	})
	t.Run("another password ends every session", func(t *testing.T) {
		w := newWorld(t, nil)
		m := w.admin(t)
		tokens := w.signInStaff(t, adminEmail)
		if err := w.SetPassword(ctx, registry.System(), m.ID, "another horse battery"); err != nil {
			t.Fatal(err)
		}
		w.over(t, "before the change", tokens)
		if _, _, err := w.AdminLogin(ctx, password(""), from); !errors.Is(err, account.ErrInvalidCredentials) {
			t.Error(err)
		}
	})
	t.Run("another password by an operator's command reaches the running server", func(t *testing.T) {
		w := newWorld(t, nil)
		m := w.admin(t)
		tokens := w.signInStaff(t, adminEmail)
		told := make(chan struct{})
		w.Follow(w.alive(t, "before", tokens), func() { close(told) })
		command, err := account.New(w.db.Accounts(), w.reg, account.Options{SigningKey: w.signing, Now: w.clock.Now, Hash: cheap()})
		if err != nil {
			t.Fatal(err)
		}
		if err := command.SetPassword(ctx, registry.System(), m.ID, "another horse battery"); err != nil {
			t.Fatal(err)
		}
		if err := w.FollowRevocations(ctx); err != nil {
			t.Fatal(err)
		}
		<-told
		w.over(t, "after", tokens)
	})
	t.Run("the last administrator stays one", func(t *testing.T) {
		w := newWorld(t, nil)
		boss := w.admin(t)
		w.member(t, "s@example.com", account.AdminRoleSupport)
		gone := w.member(t, "d@example.com", account.AdminRoleAdmin)
		if _, err := w.ChangeStaff(ctx, as(boss), gone.ID, account.StaffChange{Disabled: ptr(true)}); err != nil {
			t.Fatal(err)
		}
		tokens := w.signInStaff(t, adminEmail)
		for _, c := range []account.StaffChange{{Role: ptr(account.AdminRoleSupport)}, {Disabled: ptr(true)}, {Role: ptr(account.AdminRoleSupport), Disabled: ptr(true)}} {
			if _, err := w.ChangeStaff(ctx, as(boss), boss.ID, c); !errors.Is(err, account.ErrLastAdmin) {
				t.Error(err)
			}
		}
		w.alive(t, "the last administrator's session", tokens)
		// A disabled administrator is no administrator to count, and may be demoted.
		if _, err := w.ChangeStaff(ctx, as(boss), gone.ID, account.StaffChange{Role: ptr(account.AdminRoleSupport)}); err != nil {
			t.Error(err)
		}
	})
	t.Run("of two who demote each other at once, one stays", func(t *testing.T) {
		for range 10 {
			w := newWorld(t, nil)
			a, b := w.admin(t), w.member(t, "b@example.com", account.AdminRoleAdmin)
			var wg sync.WaitGroup
			for _, pair := range [][2]account.Admin{{a, b}, {b, a}} {
				wg.Go(func() {
					_, err := w.ChangeStaff(ctx, as(pair[0]), pair[1].ID, account.StaffChange{Role: ptr(account.AdminRoleSupport)})
					if err != nil && !errors.Is(err, account.ErrLastAdmin) {
						t.Error(err)
					}
				})
			}
			wg.Wait()
			list, err := w.Staff(ctx, registry.System(), "", 10)
			if err != nil {
				t.Fatal(err)
			}
			admins := 0
			for _, m := range list {
				if m.Role == account.AdminRoleAdmin {
					admins++
				}
			}
			if admins != 1 {
				t.Fatalf("%d administrators are left", admins)
			}
		}
	})
	t.Run("anybody but an administrator is refused", func(t *testing.T) {
		w := newWorld(t, nil)
		boss := w.admin(t)
		for _, a := range []registry.Actor{as(w.member(t, "s@example.com", account.AdminRoleSupport)), {Kind: registry.ActorUser, ID: "u"}, {Kind: registry.ActorService, ID: "s"}, {}} {
			_, err := w.ChangeStaff(ctx, a, boss.ID, account.StaffChange{Disabled: ptr(true)})
			for what, err := range map[string]error{
				"change": err, "reset": w.ResetTOTP(ctx, a, boss.ID), "password": w.SetPassword(ctx, a, boss.ID, "another horse battery"),
				"disable": w.DisableUser(ctx, a, "u"), "enable": w.EnableUser(ctx, a, "u"), "erase": w.Erase(ctx, a, "somebody"),
				"delete": w.DeleteServiceAccount(ctx, a, "x"), "revoke": w.RevokeAPIKey(ctx, a, "x", "y"),
			} {
				if !errors.Is(err, registry.ErrInsufficientRole) {
					t.Errorf("%v may %s: %v", a, what, err)
				}
			}
		}
	})
}

func TestPeopleForStaff(t *testing.T) {
	ctx := context.Background()
	t.Run("a disabled person is signed out and cannot come back until enabled", func(t *testing.T) {
		w := newWorld(t, nil)
		boss := as(w.admin(t))
		tokens, u := w.login(t, "ann@example.com")
		other, _ := w.login(t, "bob@example.com")
		for range 2 { // again changes nothing
			if err := w.DisableUser(ctx, boss, u.ID); err != nil {
				t.Fatal(err)
			}
		}
		w.over(t, "disabled", tokens)
		w.alive(t, "somebody else's", other)
		if _, _, err := w.Login(ctx, account.LoginRequest{Provider: "dev", IDToken: "ann@example.com"}, from); !errors.Is(err, account.ErrAccountDisabled) {
			t.Error(err)
		}
		if err := w.EnableUser(ctx, boss, u.ID); err != nil {
			t.Fatal(err)
		}
		w.login(t, "ann@example.com")
		if e := w.events(t); e["user_disabled"] != 1 || e["user_enabled"] != 1 {
			t.Errorf("the trail has %v", e)
		}
	})
	t.Run("support staff sign people out, who may come back", func(t *testing.T) {
		w := newWorld(t, nil)
		help := as(w.member(t, "s@example.com", account.AdminRoleSupport))
		one, u := w.login(t, "ann@example.com")
		two, _ := w.login(t, "ann@example.com")
		if n, err := w.SignOutUser(ctx, help, u.ID); n != 2 || err != nil {
			t.Errorf("%d sessions, %v", n, err)
		}
		w.over(t, "one", one)
		w.over(t, "two", two)
		w.login(t, "ann@example.com")
	})
	t.Run("an erased person is gone", func(t *testing.T) {
		w := newWorld(t, nil)
		boss := as(w.admin(t))
		tokens, u := w.login(t, "ann@example.com")
		if err := w.Erase(ctx, boss, u.ID); err != nil {
			t.Fatal(err)
		}
		w.over(t, "erased", tokens)
		if _, err := w.UserDetail(ctx, boss, u.ID); !errors.Is(err, account.ErrUserNotFound) {
			t.Error(err)
		}
	})
	t.Run("they are found by a part of the e-mail, page by page", func(t *testing.T) {
		w := newWorld(t, nil)
		boss := as(w.admin(t))
		for i := range 5 {
			w.clock.Add(time.Second)
			w.login(t, fmt.Sprintf("p%d_x@example.com", i))
		}
		w.login(t, "pax@example.org")
		var found []string
		for after := ""; ; {
			page, err := w.Users(ctx, boss, account.UserFilter{Query: "_X@Example", After: after, Limit: 2})
			if err != nil {
				t.Fatal(err)
			}
			if len(page) == 0 {
				break
			}
			for _, u := range page {
				found, after = append(found, u.Email), u.ID
			}
		}
		if len(found) != 5 {
			t.Errorf("found %v", found)
		}
	})
	t.Run("people and services read nobody", func(t *testing.T) {
		w := newWorld(t, nil)
		_, u := w.login(t, "ann@example.com")
		for _, a := range []registry.Actor{{Kind: registry.ActorUser, ID: u.ID}, {Kind: registry.ActorService, ID: "s"}, {}} {
			if _, err := w.Users(ctx, a, account.UserFilter{Limit: 1}); !errors.Is(err, registry.ErrInsufficientRole) {
				t.Error(err)
			}
			if _, err := w.UserDetail(ctx, a, u.ID); !errors.Is(err, registry.ErrInsufficientRole) {
				t.Error(err)
			}
			if _, err := w.SignOutUser(ctx, a, u.ID); !errors.Is(err, registry.ErrInsufficientRole) {
				t.Error(err)
			}
		}
	})
}
