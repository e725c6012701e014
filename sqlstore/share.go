package sqlstore

import (
	"context"
	"time"

	"github.com/opticworks/devicecloud/registry"
)

// PutShare implements registry.ShareTx.
func (t *tx) PutShare(ctx context.Context, o registry.Ownership) (bool, error) {
	return t.changes(ctx, `INSERT INTO device_ownership
			(device_no, user_id, role, shared_at, shared_by, created_at, updated_at, starts_at, ends_at)
		VALUES ($1, $2, $3, $4, $5, $6, $6, $7, $8)
		ON CONFLICT (device_no, user_id) DO UPDATE SET role = excluded.role, shared_at = excluded.shared_at, shared_by = excluded.shared_by,
			updated_at = excluded.updated_at, starts_at = excluded.starts_at, ends_at = excluded.ends_at
		WHERE device_ownership.role <> 'owner'`,
		o.DeviceNo, o.UserID, string(o.Role), micros(o.SharedAt), text(o.SharedBy), micros(o.At), micros(o.StartsAt), micros(o.EndsAt))
}

// DeleteShare implements registry.ShareTx.
func (t *tx) DeleteShare(ctx context.Context, deviceNo int64, userID string) (bool, error) {
	return t.changes(ctx, `DELETE FROM device_ownership WHERE device_no = $1 AND user_id = $2 AND role <> 'owner'`, deviceNo, userID)
}

func scanCrossing(scan scanFunc, c *registry.Crossing) error {
	return scan(&c.DeviceID, &c.DeviceNo, &c.UserID, opt(&c.Role), at(&c.StartsAt), at(&c.EndsAt))
}

// CrossedShares implements registry.ShareTx; each of its two parts is a range of an
// index, and a share that began and ended comes once.
func (t *tx) CrossedShares(ctx context.Context, after, until time.Time) ([]registry.Crossing, error) {
	return collect(ctx, t, `SELECT d.device_id, o.device_no, o.user_id, o.role, o.starts_at, o.ends_at
			FROM device_ownership o JOIN devices d ON d.device_no = o.device_no WHERE o.starts_at > $1 AND o.starts_at <= $2
		UNION SELECT d.device_id, o.device_no, o.user_id, o.role, o.starts_at, o.ends_at
			FROM device_ownership o JOIN devices d ON d.device_no = o.device_no WHERE o.ends_at > $1 AND o.ends_at <= $2
		ORDER BY 2, 3`, []any{micros(after), micros(until)}, scanCrossing)
}

// NextCrossing implements registry.ShareTx.
func (t *tx) NextCrossing(ctx context.Context, after time.Time) (next, firstEnded time.Time, err error) {
	var ends time.Time
	err = t.row(ctx, `SELECT (SELECT min(starts_at) FROM device_ownership WHERE starts_at > $1),
		(SELECT min(ends_at) FROM device_ownership WHERE ends_at > $1),
		(SELECT min(ends_at) FROM device_ownership WHERE ends_at <= $1)`, []any{micros(after)}, at(&next), at(&ends), at(&firstEnded))
	if next.IsZero() || !ends.IsZero() && ends.Before(next) {
		next = ends
	}
	return next, firstEnded, err
}

// DeleteEndedShares implements registry.ShareTx.
func (t *tx) DeleteEndedShares(ctx context.Context, before time.Time, limit int) ([]registry.Crossing, error) {
	list, err := collect(ctx, t, `SELECT d.device_id, o.device_no, o.user_id, o.role, o.starts_at, o.ends_at
		FROM device_ownership o JOIN devices d ON d.device_no = o.device_no
		WHERE o.ends_at < $1 ORDER BY o.ends_at LIMIT CAST($2 AS BIGINT)`, []any{micros(before), capped(limit)}, scanCrossing)
	if err != nil {
		return nil, err
	}
	gone := list[:0]
	for _, c := range list {
		deleted, err := t.changes(ctx, `DELETE FROM device_ownership WHERE device_no = $1 AND user_id = $2 AND ends_at < $3`,
			c.DeviceNo, c.UserID, micros(before))
		if err != nil {
			return nil, err
		}
		if deleted {
			gone = append(gone, c)
		}
	}
	return gone, nil
}
