package sqlstore_test

import (
	"context"
	"testing"

	"github.com/opticworks/devicecloud/account"
	"github.com/opticworks/devicecloud/registry"
)

func TestCredentials(t *testing.T) {
	eachEngine(t, func(t *testing.T, s *store) {
		no := s.enrol(1)
		first := registry.Credential{ID: 11, Slot: 1, Kind: registry.CredentialSecret, Secret: registry.Digest{0, 1, 255}, CreatedAt: t0}
		second := registry.Credential{ID: 12, Slot: 2, Kind: registry.CredentialX509, Secret: registry.Digest{2}, CreatedAt: after(1), ExpiresAt: after(9)}
		put := func(c registry.Credential) {
			t.Helper()
			s.write(func(ctx context.Context, tx account.Tx) error { return tx.PutCredential(ctx, no, c) })
		}
		read := func() (c registry.Credentialed) {
			s.read(func(ctx context.Context, tx account.Tx) (err error) {
				c, err = tx.Credentialed(ctx, deviceID(1))
				return err
			})
			return c
		}
		t.Run("of a device without any are none", func(t *testing.T) {
			equal(t, "credentialed", read(), registry.Credentialed{DeviceNo: no, DeviceID: deviceID(1)})
		})
		t.Run("are read with the device, by slot", func(t *testing.T) {
			put(second)
			put(first)
			equal(t, "credentialed", read(), registry.Credentialed{DeviceNo: no, DeviceID: deviceID(1), Credentials: []registry.Credential{first, second}})
			s.read(func(ctx context.Context, tx account.Tx) error {
				list, err := tx.Credentials(ctx, no)
				equal(t, "list", list, []registry.Credential{first, second})
				return err
			})
		})
		t.Run("in a slot that is taken replace what is there", func(t *testing.T) {
			first.ID, first.Kind, first.Secret = 13, registry.CredentialHMAC, registry.Digest{9}
			put(first)
			equal(t, "credentials", read().Credentials, []registry.Credential{first, second})
		})
		t.Run("expire, and stay listed", func(t *testing.T) {
			s.write(func(ctx context.Context, tx account.Tx) error { return tx.ExpireCredential(ctx, 13, after(5)) })
			first.ExpiresAt = after(5)
			equal(t, "credentials", read().Credentials, []registry.Credential{first, second})
		})
		t.Run("are at most two", func(t *testing.T) {
			err := s.try(func(ctx context.Context, tx account.Tx) error {
				return tx.PutCredential(ctx, no, registry.Credential{ID: 14, Slot: 3, Kind: registry.CredentialSecret, Secret: registry.Digest{1}, CreatedAt: t0})
			})
			if err == nil {
				t.Error("a third slot was written")
			}
		})
		t.Run("come with what CONNECT needs of the device", func(t *testing.T) {
			s.commit(&registry.Batch{States: []*registry.StateWrite{{DeviceNo: no, Epoch: s.connect(no, 101, t0), At: t0, State: full(), Firmware: true}}})
			s.write(func(ctx context.Context, tx account.Tx) error {
				_, err := tx.SetDeviceDisabled(ctx, no, t0, t0)
				return err
			})
			got := read()
			equal(t, "device", []any{got.Disabled, got.FirmwareVersion}, []any{true, "1.2.0"})
		})
	})
}
