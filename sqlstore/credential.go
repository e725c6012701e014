package sqlstore

import (
	"context"
	"time"

	"github.com/opticworks/devicecloud/registry"
)

// Credentialed implements registry.CredentialTx.
func (t *tx) Credentialed(ctx context.Context, deviceID string) (registry.Credentialed, error) {
	var c registry.Credentialed
	if err := ctx.Err(); err != nil {
		return c, t.engine.wrap(err)
	}
	err := t.rows(t.engine.quick(ctx), `SELECT d.device_no, d.device_id, d.disabled_at IS NOT NULL, d.firmware_version,
			c.credential_id, c.slot, c.kind, c.secret, c.created_at, c.expires_at
		FROM devices d LEFT JOIN device_credentials c ON c.device_no = d.device_no
		WHERE d.device_id = $1 ORDER BY c.slot`, []any{deviceID}, func(scan scanFunc) error {
		var k registry.Credential
		err := scan(&c.DeviceNo, &c.DeviceID, &c.Disabled, opt(&c.FirmwareVersion),
			num(&k.ID), num(&k.Slot), opt(&k.Kind), (*[]byte)(&k.Secret), at(&k.CreatedAt), at(&k.ExpiresAt))
		if err == nil && k.Slot != 0 {
			c.Credentials = append(c.Credentials, k)
		}
		return err
	})
	if err == nil && c.DeviceNo == 0 {
		err = registry.ErrDeviceNotFound
	}
	return c, err
}

// PutCredential implements registry.CredentialTx; ErrDeviceNotFound when there is
// no such device.
func (t *tx) PutCredential(ctx context.Context, deviceNo int64, c registry.Credential) error {
	_, err := t.exec(ctx, `INSERT INTO device_credentials (credential_id, device_no, slot, kind, secret, created_at, expires_at)
		VALUES ($1, $2, $3, $4, $5, $6, $7)
		ON CONFLICT (device_no, slot) DO UPDATE SET credential_id = excluded.credential_id, kind = excluded.kind,
			secret = excluded.secret, created_at = excluded.created_at, expires_at = excluded.expires_at`,
		c.ID, deviceNo, int64(c.Slot), string(c.Kind), []byte(c.Secret), micros(c.CreatedAt), micros(c.ExpiresAt))
	if t.engine.violation(err) == foreignKeyViolation {
		return registry.ErrDeviceNotFound.With(err)
	}
	return err
}

// ExpireCredential implements registry.CredentialTx.
func (t *tx) ExpireCredential(ctx context.Context, credentialID int64, when time.Time) error {
	_, err := t.exec(ctx, `UPDATE device_credentials SET expires_at = $2 WHERE credential_id = $1`, credentialID, micros(when))
	return err
}

// Credentials implements registry.CredentialTx.
func (t *tx) Credentials(ctx context.Context, deviceNo int64) ([]registry.Credential, error) {
	return collect(ctx, t, `SELECT credential_id, slot, kind, secret, created_at, expires_at
		FROM device_credentials WHERE device_no = $1 ORDER BY slot`, []any{deviceNo},
		func(scan scanFunc, c *registry.Credential) error {
			return scan(&c.ID, &c.Slot, opt(&c.Kind), (*[]byte)(&c.Secret), at(&c.CreatedAt), at(&c.ExpiresAt))
		})
}
