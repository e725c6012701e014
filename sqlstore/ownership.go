package sqlstore

import (
	"context"
	"time"

	"github.com/opticworks/devicecloud/registry"
)

// InsertOwnership implements registry.OwnershipTx.
func (t *tx) InsertOwnership(ctx context.Context, o registry.Ownership) (bool, error) {
	changed, err := t.changes(ctx, `INSERT INTO device_ownership
			(device_no, user_id, role, claimed_at, claimed_via, shared_at, shared_by, created_at, updated_at, starts_at, ends_at)
		VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $8, $9, $10) ON CONFLICT DO NOTHING`,
		o.DeviceNo, o.UserID, string(o.Role), micros(o.ClaimedAt), text(o.ClaimedVia), micros(o.SharedAt), text(o.SharedBy), micros(o.At),
		micros(o.StartsAt), micros(o.EndsAt))
	if err != nil || changed {
		return changed, err
	}
	return false, t.ownedByOther(ctx, o)
}

// ownedByOther says why a row was not inserted: nil when the person has one.
func (t *tx) ownedByOther(ctx context.Context, o registry.Ownership) error {
	own, err := t.found(ctx, `SELECT 1 FROM device_ownership WHERE device_no = $1 AND user_id = $2`,
		[]any{o.DeviceNo, o.UserID}, new(int))
	if err == nil && !own {
		err = registry.ErrOwnedByOther
	}
	return err
}

// InsertOwner implements registry.OwnershipTx. The person's row is written first, so
// that on PostgreSQL two claims of one person come one after the other.
func (t *tx) InsertOwner(ctx context.Context, o registry.Ownership, limit int) (bool, error) {
	if _, err := t.exec(ctx, `UPDATE users SET updated_at = updated_at WHERE user_id = $1`, o.UserID); err != nil {
		return false, err
	}
	changed, err := t.changes(ctx, `INSERT INTO device_ownership (device_no, user_id, role, claimed_at, claimed_via, created_at, updated_at)
		SELECT CAST($1 AS INTEGER), $2, 'owner', CAST($3 AS BIGINT), $4, CAST($5 AS BIGINT), CAST($5 AS BIGINT)
		WHERE (SELECT count(*) FROM device_ownership WHERE user_id = $2 AND role = 'owner') < CAST($6 AS BIGINT)
		ON CONFLICT DO NOTHING`, o.DeviceNo, o.UserID, micros(o.ClaimedAt), text(o.ClaimedVia), micros(o.At), limit)
	if err != nil || changed {
		return changed, err
	}
	taken, err := t.found(ctx, `SELECT 1 FROM device_ownership WHERE device_no = $1 AND (user_id = $2 OR role = 'owner')`,
		[]any{o.DeviceNo, o.UserID}, new(int))
	switch {
	case err != nil:
		return false, err
	case !taken:
		return false, registry.ErrDeviceLimit
	}
	return false, t.ownedByOther(ctx, o)
}

// DeleteOwnerships implements registry.OwnershipTx.
func (t *tx) DeleteOwnerships(ctx context.Context, deviceNo int64) ([]string, error) {
	return collect(ctx, t, `DELETE FROM device_ownership WHERE device_no = $1 RETURNING user_id`, []any{deviceNo},
		func(scan scanFunc, id *string) error { return scan(id) })
}

// Ownerships implements registry.OwnershipTx.
func (t *tx) Ownerships(ctx context.Context, deviceNo int64) ([]registry.Ownership, error) {
	return collect(ctx, t, `SELECT o.device_no, o.user_id, u.email, o.role, o.claimed_at, o.claimed_via, o.shared_at, o.shared_by, o.updated_at,
			o.starts_at, o.ends_at
		FROM device_ownership o JOIN users u ON u.user_id = o.user_id
		WHERE o.device_no = $1 ORDER BY CASE o.role WHEN 'owner' THEN 0 ELSE 1 END, o.created_at, o.user_id`, []any{deviceNo},
		func(scan scanFunc, o *registry.Ownership) error {
			return scan(&o.DeviceNo, &o.UserID, opt(&o.Email), opt(&o.Role), at(&o.ClaimedAt), opt(&o.ClaimedVia), at(&o.SharedAt), opt(&o.SharedBy), at(&o.At),
				at(&o.StartsAt), at(&o.EndsAt))
		})
}

const fromOwnership = ` FROM device_ownership o JOIN devices d ON d.device_no = o.device_no
	JOIN device_presence p ON p.device_no = o.device_no`

func scanOwned(scan scanFunc, d *registry.OwnedDevice) error {
	return scanDevice(scan, &d.Device, opt(&d.Role))
}

// holds is the condition that a row of device_ownership o holds at the time $2.
const holds = ` AND (o.starts_at IS NULL OR o.starts_at <= $2) AND (o.ends_at IS NULL OR o.ends_at > $2)`

// OwnedDevice implements registry.OwnershipTx.
func (t *tx) OwnedDevice(ctx context.Context, userID, deviceID string, now time.Time) (registry.OwnedDevice, error) {
	list, err := collect(ctx, t, `SELECT `+deviceColumns+`, o.role`+fromOwnership+`
		WHERE o.user_id = $1 AND d.device_id = $3`+holds, []any{userID, micros(now), deviceID}, scanOwned)
	if err == nil && len(list) == 0 {
		err = registry.ErrDeviceNotFound
	}
	if err != nil {
		return registry.OwnedDevice{}, err
	}
	return list[0], nil
}

// OwnedDevices implements registry.OwnershipTx.
func (t *tx) OwnedDevices(ctx context.Context, userID string, now time.Time, after int64, limit int) ([]registry.OwnedDevice, error) {
	when, args := holds, []any{userID, micros(now), after, capped(limit)}
	if now.IsZero() {
		when, args[1] = ` AND $2 = 0`, int64(0)
	}
	return collect(ctx, t, `SELECT `+deviceColumns+`, o.role`+fromOwnership+`
		WHERE o.user_id = $1 AND o.device_no > $3`+when+` ORDER BY o.device_no LIMIT CAST($4 AS BIGINT)`, args, scanOwned)
}

// ReadableIDs implements registry.OwnershipTx.
func (t *tx) ReadableIDs(ctx context.Context, userID string, now time.Time) ([]string, error) {
	return collect(ctx, t, `SELECT d.device_id FROM device_ownership o JOIN devices d ON d.device_no = o.device_no
		WHERE o.user_id = $1`+holds+` ORDER BY o.device_no`, []any{userID, micros(now)},
		func(scan scanFunc, id *string) error { return scan(id) })
}

// SetEverOwned implements registry.OwnershipTx.
func (t *tx) SetEverOwned(ctx context.Context, deviceNo int64) error {
	_, err := t.exec(ctx, `UPDATE devices SET ever_owned = TRUE WHERE device_no = $1`, deviceNo)
	return err
}
