package sqlstore

import (
	"context"

	"github.com/opticworks/devicecloud/registry"
)

// InsertOwnership implements registry.OwnershipTx.
func (t *tx) InsertOwnership(ctx context.Context, o registry.Ownership) (bool, error) {
	changed, err := t.changes(ctx, `INSERT INTO device_ownership
			(device_no, user_id, role, claimed_at, claimed_via, shared_at, shared_by, created_at, updated_at)
		VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $8) ON CONFLICT DO NOTHING`,
		o.DeviceNo, o.UserID, string(o.Role), micros(o.ClaimedAt), text(o.ClaimedVia), micros(o.SharedAt), text(o.SharedBy), micros(o.At))
	if err != nil || changed {
		return changed, err
	}
	own, err := t.found(ctx, `SELECT 1 FROM device_ownership WHERE device_no = $1 AND user_id = $2`,
		[]any{o.DeviceNo, o.UserID}, new(int))
	if err == nil && !own {
		err = registry.ErrOwnedByOther
	}
	return false, err
}

// DeleteOwnership implements registry.OwnershipTx.
func (t *tx) DeleteOwnership(ctx context.Context, deviceNo int64, userID string) (bool, error) {
	return t.changes(ctx, `DELETE FROM device_ownership WHERE device_no = $1 AND user_id = $2`, deviceNo, userID)
}

// DeleteOwnerships implements registry.OwnershipTx.
func (t *tx) DeleteOwnerships(ctx context.Context, deviceNo int64) ([]string, error) {
	return collect(ctx, t, `DELETE FROM device_ownership WHERE device_no = $1 RETURNING user_id`, []any{deviceNo},
		func(scan scanFunc, id *string) error { return scan(id) })
}

// Ownerships implements registry.OwnershipTx.
func (t *tx) Ownerships(ctx context.Context, deviceNo int64) ([]registry.Ownership, error) {
	return collect(ctx, t, `SELECT o.device_no, o.user_id, u.email, o.role, o.claimed_at, o.claimed_via, o.shared_at, o.shared_by, o.updated_at
		FROM device_ownership o JOIN users u ON u.user_id = o.user_id
		WHERE o.device_no = $1 ORDER BY CASE o.role WHEN 'owner' THEN 0 ELSE 1 END, o.created_at, o.user_id`, []any{deviceNo},
		func(scan scanFunc, o *registry.Ownership) error {
			return scan(&o.DeviceNo, &o.UserID, opt(&o.Email), opt(&o.Role), at(&o.ClaimedAt), opt(&o.ClaimedVia), at(&o.SharedAt), opt(&o.SharedBy), at(&o.At))
		})
}

// CountOwned implements registry.OwnershipTx.
func (t *tx) CountOwned(ctx context.Context, userID string) (n int, err error) {
	err = t.row(ctx, `SELECT count(*) FROM device_ownership WHERE user_id = $1 AND role = 'owner'`, []any{userID}, &n)
	return n, err
}

const fromOwnership = ` FROM device_ownership o JOIN devices d ON d.device_no = o.device_no
	JOIN device_presence p ON p.device_no = o.device_no`

func scanOwned(scan scanFunc, d *registry.OwnedDevice) error {
	return scanDevice(scan, &d.Device, opt(&d.Role))
}

// OwnedDevice implements registry.OwnershipTx.
func (t *tx) OwnedDevice(ctx context.Context, userID, deviceID string) (registry.OwnedDevice, error) {
	list, err := collect(ctx, t, `SELECT `+deviceColumns+`, o.role`+fromOwnership+`
		WHERE o.user_id = $1 AND d.device_id = $2`, []any{userID, deviceID}, scanOwned)
	if err == nil && len(list) == 0 {
		err = registry.ErrDeviceNotFound
	}
	if err != nil {
		return registry.OwnedDevice{}, err
	}
	return list[0], nil
}

// OwnedDevices implements registry.OwnershipTx.
func (t *tx) OwnedDevices(ctx context.Context, userID string, after int64, limit int) ([]registry.OwnedDevice, error) {
	return collect(ctx, t, `SELECT `+deviceColumns+`, o.role`+fromOwnership+`
		WHERE o.user_id = $1 AND o.device_no > $2 ORDER BY o.device_no LIMIT CAST($3 AS BIGINT)`, []any{userID, after, capped(limit)}, scanOwned)
}

// ReadableIDs implements registry.OwnershipTx.
func (t *tx) ReadableIDs(ctx context.Context, userID string) ([]string, error) {
	return collect(ctx, t, `SELECT d.device_id FROM device_ownership o JOIN devices d ON d.device_no = o.device_no
		WHERE o.user_id = $1 ORDER BY o.device_no`, []any{userID},
		func(scan scanFunc, id *string) error { return scan(id) })
}

// SetEverOwned implements registry.OwnershipTx.
func (t *tx) SetEverOwned(ctx context.Context, deviceNo int64) error {
	_, err := t.exec(ctx, `UPDATE devices SET ever_owned = TRUE WHERE device_no = $1`, deviceNo)
	return err
}
