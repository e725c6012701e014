package sqlstore_test

import (
	"context"
	"errors"
	"sync"
	"testing"
	"time"

	"github.com/opticworks/devicecloud/account"
)

// zero is no time.
var zero time.Time

func TestStaff(t *testing.T) {
	eachEngine(t, func(t *testing.T, s *store) {
		insert := func(a account.Admin) {
			t.Helper()
			s.write(func(ctx context.Context, tx account.Tx) error { return tx.InsertAdmin(ctx, a) })
		}
		read := func(id string) (a account.Admin) {
			t.Helper()
			s.read(func(ctx context.Context, tx account.Tx) (err error) {
				a, err = tx.Admin(ctx, id)
				return err
			})
			return a
		}
		insert(account.Admin{ID: "s1", Email: "a@example.com", PasswordHash: "x", Role: account.AdminRoleAdmin, CreatedAt: t0})
		insert(account.Admin{ID: "s2", Email: "b@example.com", Role: account.AdminRoleSupport, OIDCSubject: "sub-2", CreatedAt: t0})

		t.Run("are found by the subject at the provider and listed by id", func(t *testing.T) {
			s.read(func(ctx context.Context, tx account.Tx) error {
				a, err := tx.AdminByOIDC(ctx, "sub-2")
				equal(t, "by subject", a.ID, "s2")
				if err != nil {
					return err
				}
				_, err = tx.AdminByOIDC(ctx, "sub-1")
				is(t, "another subject", err, account.ErrAdminNotFound)
				_, err = tx.AdminByOIDC(ctx, "")
				is(t, "no subject", err, account.ErrAdminNotFound)
				list, err := tx.Admins(ctx, "s1", 10)
				equal(t, "after s1", len(list), 1)
				return err
			})
		})
		t.Run("cannot share a subject or an e-mail", func(t *testing.T) {
			for _, a := range []account.Admin{{ID: "s9", Email: "c@example.com", OIDCSubject: "sub-2"}, {ID: "s9", Email: "a@example.com"}} {
				a.Role, a.CreatedAt = account.AdminRoleAdmin, t0
				is(t, "insert", s.try(func(ctx context.Context, tx account.Tx) error { return tx.InsertAdmin(ctx, a) }), account.ErrEmailTaken)
			}
			set := func(id, email string) error {
				return s.try(func(ctx context.Context, tx account.Tx) error { return tx.SetAdminEmail(ctx, id, email, t0) })
			}
			is(t, "a taken e-mail", set("s2", "a@example.com"), account.ErrEmailTaken)
			is(t, "of nobody", set("nobody", "z@example.com"), account.ErrAdminNotFound)
			is(t, "their own", set("s2", "b@example.com"), nil)
			is(t, "a free one", set("s2", "bb@example.com"), nil)
			equal(t, "e-mail", read("s2").Email, "bb@example.com")
		})
		role := func(id string, r account.AdminRole, evenLast bool) (changed bool, err error) {
			err = s.try(func(ctx context.Context, tx account.Tx) (err error) {
				changed, err = tx.SetAdminRole(ctx, id, r, evenLast, t0)
				return err
			})
			return changed, err
		}
		disable := func(id string, off bool) (changed bool, err error) {
			at := zero
			if off {
				at = t0
			}
			err = s.try(func(ctx context.Context, tx account.Tx) (err error) {
				changed, err = tx.SetAdminDisabled(ctx, id, at, t0)
				return err
			})
			return changed, err
		}
		t.Run("keep their last administrator", func(t *testing.T) {
			_, err := role("s1", account.AdminRoleSupport, false)
			is(t, "demotion", err, account.ErrLastAdmin)
			_, err = disable("s1", true)
			is(t, "disabling", err, account.ErrLastAdmin)
			changed, err := role("s1", account.AdminRoleAdmin, false)
			if changed || err != nil {
				t.Errorf("the same role: %v, %v", changed, err)
			}
			_, err = role("nobody", account.AdminRoleAdmin, false)
			is(t, "nobody's role", err, account.ErrAdminNotFound)
			_, err = disable("nobody", true)
			is(t, "disabling nobody", err, account.ErrAdminNotFound)
			for _, step := range []func() (bool, error){
				func() (bool, error) { return role("s2", account.AdminRoleAdmin, false) },
				func() (bool, error) { return disable("s1", true) },
				func() (bool, error) { return role("s1", account.AdminRoleSupport, false) }, // a disabled one is none
				func() (bool, error) { return disable("s1", false) },
				func() (bool, error) { return role("s2", account.AdminRoleSupport, true) }, // the provider's word
				func() (bool, error) { return role("s1", account.AdminRoleAdmin, false) },
				func() (bool, error) { return role("s2", account.AdminRoleAdmin, false) },
			} {
				if changed, err := step(); !changed || err != nil {
					t.Fatalf("changed %v, %v", changed, err)
				}
			}
		})
		t.Run("keep one of two who are demoted at once", func(t *testing.T) {
			for range 20 {
				var wg sync.WaitGroup
				for _, id := range []string{"s1", "s2"} {
					wg.Go(func() {
						if _, err := role(id, account.AdminRoleSupport, false); err != nil && !errors.Is(err, account.ErrLastAdmin) {
							t.Error(err)
						}
					})
				}
				wg.Wait()
				one, two := read("s1").Role, read("s2").Role
				if (one == account.AdminRoleAdmin) == (two == account.AdminRoleAdmin) {
					t.Fatalf("the roles are %s and %s", one, two)
				}
				for _, id := range []string{"s1", "s2"} {
					if _, err := role(id, account.AdminRoleAdmin, false); err != nil {
						t.Fatal(err)
					}
				}
			}
		})
		t.Run("have scopes as long as they are administrators", func(t *testing.T) {
			scopes := func(id string, list ...string) (changed bool, err error) {
				err = s.try(func(ctx context.Context, tx account.Tx) (err error) {
					changed, err = tx.SetAdminScopes(ctx, id, list, t0)
					return err
				})
				return changed, err
			}
			insert(account.Admin{ID: "s3", Email: "s3@example.com", Role: account.AdminRoleAdmin, Scopes: []string{"admin:sim"}, CreatedAt: t0})
			insert(account.Admin{ID: "s4", Email: "s4@example.com", Role: account.AdminRoleSupport, CreatedAt: t0})
			equal(t, "as made", read("s3").Scopes, []string{"admin:sim"})
			for _, c := range []struct {
				id      string
				list    []string
				changed bool
				err     error
			}{
				{"s3", []string{"admin:sim"}, false, nil},
				{"s3", nil, true, nil},
				{"s3", nil, false, nil},
				{"s3", []string{"admin:sim"}, true, nil},
				{"s4", []string{"admin:sim"}, false, account.ErrStaffScope},
				{"s4", nil, false, nil},
				{"nobody", []string{"admin:sim"}, false, account.ErrAdminNotFound},
			} {
				changed, err := scopes(c.id, c.list...)
				if changed != c.changed || !errors.Is(err, c.err) {
					t.Errorf("%s %v: %v, %v", c.id, c.list, changed, err)
				}
			}
			equal(t, "granted", read("s3").Scopes, []string{"admin:sim"})
			for _, r := range []account.AdminRole{account.AdminRoleSupport, account.AdminRoleAdmin} {
				if changed, err := role("s3", r, false); !changed || err != nil || len(read("s3").Scopes) != 0 {
					t.Errorf("as %s: %v, %v, scopes %v", r, changed, err, read("s3").Scopes)
				}
			}
		})
		t.Run("accept no time step twice, and none before it", func(t *testing.T) {
			change := func(f func(ctx context.Context, tx account.Tx) (bool, error)) (changed bool) {
				t.Helper()
				s.write(func(ctx context.Context, tx account.Tx) (err error) {
					changed, err = f(ctx, tx)
					return err
				})
				return changed
			}
			pending := func(secret string) bool {
				return change(func(ctx context.Context, tx account.Tx) (bool, error) {
					return tx.SetPendingTOTP(ctx, "s1", account.SealedTOTP(secret), t0)
				})
			}
			use := func(step int64) bool {
				return change(func(ctx context.Context, tx account.Tx) (bool, error) { return tx.UseTOTPStep(ctx, "s1", step, t0) })
			}
			confirm := func(step int64) bool {
				return change(func(ctx context.Context, tx account.Tx) (bool, error) { return tx.ConfirmTOTP(ctx, "s1", step, t0) })
			}
			clear := func() bool {
				return change(func(ctx context.Context, tx account.Tx) (bool, error) { return tx.ClearTOTP(ctx, "s1", t0) })
			}
			if confirm(1) || use(1) || clear() {
				t.Error("there is no secret yet")
			}
			if !pending("first") || !pending("second") || use(5) || !confirm(7) || confirm(8) || pending("third") {
				t.Error("a secret is replaced until it is confirmed, and used afterwards")
			}
			if a := read("s1"); string(a.TOTPSecret) != "second" || !a.TOTPConfirmedAt.Equal(t0) {
				t.Errorf("%s confirmed at %v", []byte(a.TOTPSecret), a.TOTPConfirmedAt)
			}
			for _, c := range []struct {
				step int64
				want bool
			}{{7, false}, {6, false}, {8, true}, {8, false}, {10, true}, {9, false}} {
				if got := use(c.step); got != c.want {
					t.Errorf("step %d: %v", c.step, got)
				}
			}
			if !clear() || clear() || len(read("s1").TOTPSecret) != 0 || !read("s1").TOTPConfirmedAt.IsZero() {
				t.Error("it is not gone")
			}
		})
	})
}

func TestUsersForStaff(t *testing.T) {
	eachEngine(t, func(t *testing.T, s *store) {
		s.user("u1", "ann_x@example.com")
		s.user("u2", "annyx@example.com")
		s.user("u3", "")
		list := func(f account.UserFilter) (ids []string) {
			t.Helper()
			if f.Limit == 0 {
				f.Limit = 10
			}
			s.read(func(ctx context.Context, tx account.Tx) error {
				users, err := tx.Users(ctx, f)
				for _, u := range users {
					ids = append(ids, u.ID)
				}
				return err
			})
			return ids
		}
		for _, c := range []struct {
			name string
			f    account.UserFilter
			want []string
		}{
			{"all", account.UserFilter{}, []string{"u1", "u2", "u3"}},
			{"a page", account.UserFilter{After: "u1", Limit: 1}, []string{"u2"}},
			{"a part in another case", account.UserFilter{Query: "ANN"}, []string{"u1", "u2"}},
			{"an underscore is no wildcard", account.UserFilter{Query: "n_x"}, []string{"u1"}},
			{"nor is a percent sign", account.UserFilter{Query: "%"}, nil},
			{"the whole id", account.UserFilter{Query: "u3"}, []string{"u3"}},
			{"SQL", account.UserFilter{Query: "' OR 1=1--"}, nil},
		} {
			t.Run("list "+c.name, func(t *testing.T) { equal(t, "ids", list(c.f), c.want) })
		}
		t.Run("are disabled and enabled once", func(t *testing.T) {
			for _, c := range []struct {
				off, want bool
			}{{true, true}, {true, false}, {false, true}, {false, false}} {
				s.write(func(ctx context.Context, tx account.Tx) error {
					at := zero
					if c.off {
						at = t0
					}
					changed, err := tx.SetUserDisabled(ctx, "u1", at, t0)
					equal(t, "changed", changed, c.want)
					return err
				})
			}
			err := s.try(func(ctx context.Context, tx account.Tx) error {
				_, err := tx.SetUserDisabled(ctx, "nobody", t0, t0)
				return err
			})
			is(t, "nobody", err, account.ErrUserNotFound)
		})
		t.Run("are found by a verified e-mail, disabled too", func(t *testing.T) {
			s.write(func(ctx context.Context, tx account.Tx) error {
				if err := tx.InsertUser(ctx, account.User{ID: "u4", Email: "loose@example.com", CreatedAt: t0}); err != nil {
					return err
				}
				_, err := tx.SetUserDisabled(ctx, "u2", t0, t0)
				return err
			})
			s.read(func(ctx context.Context, tx account.Tx) error {
				u, err := tx.VerifiedUser(ctx, "annyx@example.com")
				equal(t, "id", u.ID, "u2")
				if err != nil {
					return err
				}
				_, err = tx.VerifiedUser(ctx, "loose@example.com")
				is(t, "not verified", err, account.ErrUserNotFound)
				return nil
			})
		})
	})
}
