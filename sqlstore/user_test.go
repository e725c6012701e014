package sqlstore_test

import (
	"context"
	"testing"
	"time"

	"github.com/opticworks/devicecloud/account"
	"github.com/opticworks/devicecloud/registry"
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

func TestIdentities(t *testing.T) {
	eachEngine(t, func(t *testing.T, s *store) {
		s.user("u1", "ann@example.com")
		s.user("u2", "")
		s.user("u3", "")
		s.write(func(ctx context.Context, tx account.Tx) error {
			for i, id := range []struct{ provider, subject, user string }{
				{"wechat", "openid:1", "u1"}, {"wechat", "unionid:1", "u1"}, {"google", "1", "u1"}, {"google", "2", "u2"},
			} {
				if err := tx.InsertIdentity(ctx, id.provider, id.subject, id.user, after(i)); err != nil {
					return err
				}
			}
			return nil
		})
		t.Run("are listed by provider, the oldest first", func(t *testing.T) {
			s.read(func(ctx context.Context, tx account.Tx) error {
				list, err := tx.Identities(ctx, "u1")
				equal(t, "list", list, []account.LinkedIdentity{{Provider: "wechat", CreatedAt: t0}, {Provider: "google", CreatedAt: after(2)}})
				return err
			})
		})
		t.Run("can be taken away while there is another", func(t *testing.T) {
			s.write(func(ctx context.Context, tx account.Tx) error {
				for _, c := range []struct {
					user, provider string
					want           bool
				}{{"u1", "apple", false}, {"u2", "google", false}, {"u1", "wechat", true}, {"u1", "wechat", false}, {"u1", "google", false}} {
					changed, err := tx.DeleteIdentities(ctx, c.user, c.provider)
					if err != nil {
						return err
					}
					equal(t, c.user+" "+c.provider, changed, c.want)
				}
				_, err := tx.UserByIdentity(ctx, "wechat", "openid:1")
				is(t, "the other name", err, account.ErrUserNotFound)
				return nil
			})
		})
		t.Run("bring an e-mail to who has none, if nobody has it", func(t *testing.T) {
			s.write(func(ctx context.Context, tx account.Tx) error {
				for _, c := range []struct {
					user, email string
					want        bool
				}{{"u2", "ann@example.com", false}, {"u1", "new@example.com", false}, {"u2", "bob@example.com", true}, {"u3", "bob@example.com", false}, {"nobody", "x@example.com", false}} {
					changed, err := tx.SetUserEmail(ctx, c.user, c.email, after(9))
					if err != nil {
						return err
					}
					equal(t, c.user+" "+c.email, changed, c.want)
				}
				id, ok, err := tx.UserByVerifiedEmail(ctx, "bob@example.com")
				equal(t, "owner", []any{id, ok}, []any{"u2", true})
				return err
			})
		})
	})
}

func TestEraseUser(t *testing.T) {
	eachEngine(t, func(t *testing.T, s *store) {
		s.user("u1", "ann@example.com")
		s.user("u2", "bob@example.com")
		no := s.enrol(1)
		s.own(no, "u1", registry.RoleOwner)
		s.begin(session("s1", ann))
		order := func(id string, mac registry.MAC, email string) registry.Order {
			return registry.Order{OrderID: id, DeviceMAC: mac, UserEmail: email, ShippedAt: t0, CreatedAt: t0}
		}
		s.write(func(ctx context.Context, tx account.Tx) error {
			for _, o := range []registry.Order{
				order("open", mac(1), "ann@example.com"), order("linked", mac(2), "gift@example.com"), order("bobs", mac(3), "bob@example.com"), order("anns, but bobs", mac(4), "ann@example.com"),
			} {
				if _, err := tx.InsertOrder(ctx, o); err != nil {
					return err
				}
			}
			for id, m := range map[string]registry.MAC{"linked": mac(2)} {
				if _, err := tx.LinkOrder(ctx, id, m, "u1", t0); err != nil {
					return err
				}
			}
			if _, err := tx.LinkOrder(ctx, "anns, but bobs", mac(4), "u2", t0); err != nil {
				return err
			}
			for i, actor := range []string{"user:u1", "user:u2", "user:u11"} {
				if err := tx.InsertAudit(ctx, registry.AuditEvent{ID: int64(i + 1), Domain: "account", Event: "x", Actor: actor, IP: "192.0.2.7", UserAgent: "App/1", Client: "app", At: t0}); err != nil {
					return err
				}
			}
			return tx.InsertIdentity(ctx, "google", "1", "u1", t0)
		})
		s.write(func(ctx context.Context, tx account.Tx) error {
			if err := tx.ScrubSessions(ctx, ann, after(60)); err != nil {
				return err
			}
			return tx.EraseUser(ctx, "u1", "ann@example.com", after(1))
		})
		s.read(func(ctx context.Context, tx account.Tx) error {
			_, err := tx.User(ctx, "u1")
			is(t, "user", err, account.ErrUserNotFound)
			_, err = tx.UserByIdentity(ctx, "google", "1")
			is(t, "identity", err, account.ErrUserNotFound)
			rows, err := tx.Ownerships(ctx, no)
			equal(t, "ownerships", len(rows), 0)
			if err != nil {
				return err
			}
			events, err := tx.Audit(ctx, registry.AuditFilter{})
			for _, e := range events {
				equal(t, "address of "+e.Actor, e.IP+e.UserAgent == "", e.Actor == "user:u1")
			}
			if err != nil {
				return err
			}
			open, ok, err := tx.OpenOrder(ctx, mac(1))
			equal(t, "the line is not open any more", []any{open.OrderID, ok}, []any{"", false})
			return err
		})
		equal(t, "session", s.session("s1"), account.Session{
			ID: "s1", Of: ann, Scopes: []string{"device:read", "device:control"}, Method: "google",
			CreatedAt: t0, LastUsedAt: t0, ExpiresAt: t0.Add(time.Hour), AbsoluteExpiresAt: after(60),
		})
		t.Run("an import that names the e-mail again changes nothing", func(t *testing.T) {
			s.write(func(ctx context.Context, tx account.Tx) error {
				for _, o := range []registry.Order{order("open", mac(1), "ann@example.com"), order("linked", mac(2), "gift@example.com"), order("anns, but bobs", mac(4), "ann@example.com")} {
					created, err := tx.InsertOrder(ctx, o)
					if err != nil {
						return err
					}
					equal(t, o.OrderID, created, false)
				}
				list, err := tx.OpenOrdersFor(ctx, "ann@example.com")
				equal(t, "open lines", len(list), 0)
				return err
			})
		})
		t.Run("what is another person's stays", func(t *testing.T) {
			s.write(func(ctx context.Context, tx account.Tx) error {
				_, err := tx.InsertOrder(ctx, order("bobs", mac(3), "x@example.com"))
				is(t, "another's line", err, registry.ErrOrderExists)
				return nil
			})
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
