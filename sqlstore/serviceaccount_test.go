package sqlstore_test

import (
	"context"
	"testing"

	"github.com/opticworks/devicecloud/account"
	"github.com/opticworks/devicecloud/registry"
)

func TestServiceAccounts(t *testing.T) {
	eachEngine(t, func(t *testing.T, s *store) {
		one := account.ServiceAccount{ID: "a1", Name: "factory", Scopes: []string{registry.ScopeDeviceRead, registry.ScopeDeviceEnroll}, CreatedBy: "admin:x", CreatedAt: t0}
		key := account.ServiceCredential{ID: "k1", AccountID: "a1", Kind: account.APIKey, Name: "line", Hash: registry.Digest{1, 2}, Scopes: one.Scopes, CreatedAt: t0, ExpiresAt: after(60)}
		secret := account.ServiceCredential{ID: "k0", AccountID: "a1", Kind: account.ClientSecret, Hash: registry.Digest{3}, Scopes: one.Scopes, CreatedAt: t0}
		s.write(func(ctx context.Context, tx account.Tx) error {
			if err := tx.InsertServiceAccount(ctx, one); err != nil {
				return err
			}
			if err := tx.InsertServiceCredential(ctx, key); err != nil {
				return err
			}
			return tx.InsertServiceCredential(ctx, secret)
		})
		t.Run("are read back with their credentials", func(t *testing.T) {
			s.read(func(ctx context.Context, tx account.Tx) error {
				a, err := tx.ServiceAccount(ctx, "a1")
				equal(t, "account", a, one)
				if err != nil {
					return err
				}
				c, err := tx.ServiceCredential(ctx, "k1")
				equal(t, "key", c, key)
				if err != nil {
					return err
				}
				for kind, want := range map[account.CredentialKind]int{account.APIKey: 1, account.ClientSecret: 1, "": 2} {
					list, err := tx.ServiceCredentials(ctx, "a1", kind)
					equal(t, "credentials of kind "+string(kind), len(list), want)
					if err != nil {
						return err
					}
				}
				list, err := tx.ServiceAccounts(ctx, "", 10)
				equal(t, "accounts", list, []account.ServiceAccount{one})
				return err
			})
		})
		t.Run("that do not exist are not found", func(t *testing.T) {
			s.read(func(ctx context.Context, tx account.Tx) error {
				_, err := tx.ServiceAccount(ctx, "nobody")
				is(t, "account", err, account.ErrServiceAccountNotFound)
				_, err = tx.ServiceCredential(ctx, "nothing")
				is(t, "credential", err, account.ErrCredentialNotFound)
				return nil
			})
			err := s.try(func(ctx context.Context, tx account.Tx) error {
				return tx.InsertServiceCredential(ctx, account.ServiceCredential{ID: "k9", AccountID: "nobody", Kind: account.APIKey, Hash: registry.Digest{1}, CreatedAt: t0})
			})
			is(t, "a key of nobody", err, account.ErrServiceAccountNotFound)
		})
		t.Run("cannot share a name", func(t *testing.T) {
			err := s.try(func(ctx context.Context, tx account.Tx) error {
				return tx.InsertServiceAccount(ctx, account.ServiceAccount{ID: "a2", Name: "factory", CreatedBy: "x", CreatedAt: t0})
			})
			is(t, "insert", err, account.ErrNameTaken)
		})
		t.Run("keep the latest use", func(t *testing.T) {
			for _, at := range []int{5, 3} {
				s.write(func(ctx context.Context, tx account.Tx) error { return tx.UseServiceCredential(ctx, "k1", after(at)) })
			}
			s.read(func(ctx context.Context, tx account.Tx) error {
				c, err := tx.ServiceCredential(ctx, "k1")
				equal(t, "last use", c.LastUsedAt, after(5))
				return err
			})
		})
		t.Run("are disabled once and credentials revoked once", func(t *testing.T) {
			s.write(func(ctx context.Context, tx account.Tx) error {
				for _, c := range []struct {
					off, want bool
				}{{true, true}, {true, false}, {false, true}, {false, false}} {
					at := zero
					if c.off {
						at = t0
					}
					changed, err := tx.SetServiceAccountDisabled(ctx, "a1", at, t0)
					equal(t, "changed", changed, c.want)
					if err != nil {
						return err
					}
				}
				for i, accountID := range []string{"another", "a1", "a1"} {
					changed, err := tx.RevokeServiceCredential(ctx, accountID, "k1", after(i))
					equal(t, "revoked", changed, i == 1)
					if err != nil {
						return err
					}
				}
				return nil
			})
		})
		t.Run("forget what was revoked long ago", func(t *testing.T) {
			count := func() (n int) {
				s.read(func(ctx context.Context, tx account.Tx) error {
					list, err := tx.ServiceCredentials(ctx, "a1", "")
					n = len(list)
					return err
				})
				return n
			}
			s.write(func(ctx context.Context, tx account.Tx) error {
				return tx.DeleteServiceCredentials(ctx, "a1", after(1))
			})
			equal(t, "before", count(), 2)
			s.write(func(ctx context.Context, tx account.Tx) error {
				return tx.DeleteServiceCredentials(ctx, "a1", after(2))
			})
			equal(t, "after", count(), 1)
		})
		t.Run("go with their credentials", func(t *testing.T) {
			s.write(func(ctx context.Context, tx account.Tx) error {
				for _, want := range []bool{true, false} {
					changed, err := tx.DeleteServiceAccount(ctx, "a1")
					equal(t, "deleted", changed, want)
					if err != nil {
						return err
					}
				}
				_, err := tx.ServiceCredential(ctx, "k0")
				is(t, "credential", err, account.ErrCredentialNotFound)
				return nil
			})
		})
	})
}
