package sqlstore_test

import (
	"context"
	"testing"

	"github.com/opticworks/devicecloud/account"
)

func TestUsers(t *testing.T) {
	eachEngine(t, func(t *testing.T, s *store) {
		insert := func(u account.User) error {
			return s.try(func(ctx context.Context, tx account.Tx) error { return tx.InsertUser(ctx, u) })
		}
		ann := account.User{ID: "u1", Email: "ann@example.com", EmailVerified: true, CreatedAt: t0}
		t.Run("are read back by id and by identity", func(t *testing.T) {
			if err := insert(ann); err != nil {
				t.Fatal(err)
			}
			s.write(func(ctx context.Context, tx account.Tx) error {
				return tx.InsertIdentity(ctx, "google", "sub-1", "u1", t0)
			})
			s.read(func(ctx context.Context, tx account.Tx) error {
				got, err := tx.User(ctx, "u1")
				equal(t, "by id", got, ann)
				if err != nil {
					return err
				}
				got, err = tx.UserByIdentity(ctx, "google", "sub-1")
				equal(t, "by identity", got, ann)
				return err
			})
		})
		t.Run("who do not exist are not found", func(t *testing.T) {
			s.read(func(ctx context.Context, tx account.Tx) error {
				_, err := tx.User(ctx, "nobody")
				is(t, "by id", err, account.ErrUserNotFound)
				_, err = tx.UserByIdentity(ctx, "apple", "sub-1")
				is(t, "by identity", err, account.ErrUserNotFound)
				return nil
			})
			err := s.try(func(ctx context.Context, tx account.Tx) error {
				return tx.InsertIdentity(ctx, "apple", "sub-9", "nobody", t0)
			})
			is(t, "identity", err, account.ErrUserNotFound)
		})
		t.Run("cannot share a verified e-mail", func(t *testing.T) {
			is(t, "second", insert(account.User{ID: "u2", Email: "ann@example.com", EmailVerified: true, CreatedAt: t0}), account.ErrEmailTaken)
		})
		t.Run("may name the same e-mail unverified, or none", func(t *testing.T) {
			for _, u := range []account.User{{ID: "u3", Email: "ann@example.com", CreatedAt: t0}, {ID: "u4", CreatedAt: t0}, {ID: "u5", EmailVerified: true, CreatedAt: t0}, {ID: "u6", EmailVerified: true, CreatedAt: t0}} {
				if err := insert(u); err != nil {
					t.Errorf("%s: %v", u.ID, err)
				}
			}
		})
		t.Run("are found by an e-mail that is verified, while they are enabled", func(t *testing.T) {
			if err := insert(account.User{ID: "u7", Email: "off@example.com", EmailVerified: true, DisabledAt: t0, CreatedAt: t0}); err != nil {
				t.Fatal(err)
			}
			s.read(func(ctx context.Context, tx account.Tx) error {
				for email, want := range map[string]string{"ann@example.com": "u1", "off@example.com": "", "nobody@example.com": "", "": ""} {
					id, ok, err := tx.UserByVerifiedEmail(ctx, email)
					if err != nil {
						return err
					}
					equal(t, email, []any{id, ok}, []any{want, want != ""})
				}
				return nil
			})
		})
		t.Run("cannot share an identity", func(t *testing.T) {
			err := s.try(func(ctx context.Context, tx account.Tx) error {
				return tx.InsertIdentity(ctx, "google", "sub-1", "u3", t0)
			})
			is(t, "second", err, account.ErrIdentityTaken)
		})
	})
}

func TestAdmins(t *testing.T) {
	eachEngine(t, func(t *testing.T, s *store) {
		boss := account.Admin{ID: "a1", Email: "boss@example.com", PasswordHash: "$argon2id$1", Role: account.AdminRoleAdmin, CreatedAt: t0}
		insert := func(a account.Admin) error {
			return s.try(func(ctx context.Context, tx account.Tx) error { return tx.InsertAdmin(ctx, a) })
		}
		t.Run("are read back by id and e-mail, and counted", func(t *testing.T) {
			if err := insert(boss); err != nil {
				t.Fatal(err)
			}
			s.read(func(ctx context.Context, tx account.Tx) error {
				got, err := tx.Admin(ctx, "a1")
				equal(t, "by id", got, boss)
				if err != nil {
					return err
				}
				got, err = tx.AdminByEmail(ctx, "boss@example.com")
				equal(t, "by e-mail", got, boss)
				if err != nil {
					return err
				}
				n, err := tx.CountAdmins(ctx)
				equal(t, "count", n, 1)
				return err
			})
		})
		t.Run("cannot share an e-mail", func(t *testing.T) {
			is(t, "second", insert(account.Admin{ID: "a2", Email: "boss@example.com", PasswordHash: "x", Role: account.AdminRoleSupport, CreatedAt: t0}), account.ErrEmailTaken)
		})
		t.Run("have one of the two roles", func(t *testing.T) {
			if err := insert(account.Admin{ID: "a3", Email: "c@example.com", PasswordHash: "x", Role: "root", CreatedAt: t0}); err == nil {
				t.Error("a role that does not exist was written")
			}
		})
		t.Run("get a new password", func(t *testing.T) {
			s.write(func(ctx context.Context, tx account.Tx) error {
				return tx.SetAdminPassword(ctx, "a1", "$argon2id$2", after(1))
			})
			s.read(func(ctx context.Context, tx account.Tx) error {
				got, err := tx.Admin(ctx, "a1")
				equal(t, "hash", string(got.PasswordHash), "$argon2id$2")
				return err
			})
		})
		t.Run("who do not exist are not found", func(t *testing.T) {
			err := s.try(func(ctx context.Context, tx account.Tx) error {
				_, err := tx.Admin(ctx, "a9")
				is(t, "by id", err, account.ErrAdminNotFound)
				_, err = tx.AdminByEmail(ctx, "x@example.com")
				is(t, "by e-mail", err, account.ErrAdminNotFound)
				return tx.SetAdminPassword(ctx, "a9", "x", t0)
			})
			is(t, "password", err, account.ErrAdminNotFound)
		})
	})
}
