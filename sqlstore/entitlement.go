package sqlstore

import (
	"context"
	"time"

	"github.com/opticworks/devicecloud/registry"
)

// InsertEntitlement implements registry.EntitlementTx.
func (t *tx) InsertEntitlement(ctx context.Context, e registry.Entitlement) (bool, error) {
	var days any
	if e.HistoryDays > 0 {
		days = e.HistoryDays
	}
	return t.changes(ctx, `INSERT INTO device_entitlements
			(entitlement_id, device_no, capability, source, starts_at, ends_at, history_days, granted_by, created_at)
		VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9) ON CONFLICT (device_no, capability) WHERE source = 'trial' DO NOTHING`,
		e.ID, e.DeviceNo, e.Capability.String(), string(e.Source), micros(e.StartsAt), micros(e.EndsAt), days, text(e.GrantedBy), micros(e.CreatedAt))
}

// Entitlements implements registry.EntitlementTx.
func (t *tx) Entitlements(ctx context.Context, deviceNo int64, now time.Time) ([]registry.Entitlement, error) {
	return collect(ctx, t, `SELECT entitlement_id, device_no, capability, source, starts_at, ends_at, history_days, granted_by, purchase_id, suspended_at, created_at
		FROM device_entitlements WHERE device_no = $1 AND suspended_at IS NULL AND (ends_at IS NULL OR ends_at > $2) ORDER BY entitlement_id`,
		[]any{deviceNo, micros(now)}, func(scan scanFunc, e *registry.Entitlement) error {
			var capability string
			err := scan(&e.ID, &e.DeviceNo, &capability, opt(&e.Source), at(&e.StartsAt), at(&e.EndsAt), num(&e.HistoryDays), opt(&e.GrantedBy), opt(&e.PurchaseID),
				at(&e.SuspendedAt), at(&e.CreatedAt))
			e.Capability, _ = registry.ParseCapability(capability) // the table holds no other
			return err
		})
}

// Entitled implements registry.EntitlementTx.
func (t *tx) Entitled(ctx context.Context, deviceNo int64, c registry.Capability, now time.Time) (bool, error) {
	return t.found(ctx, `SELECT 1 FROM device_entitlements WHERE device_no = $1 AND capability = $2
		AND suspended_at IS NULL AND starts_at <= $3 AND (ends_at IS NULL OR ends_at > $3)`, []any{deviceNo, c.String(), micros(now)}, new(int))
}

// PutPlanEntitlement implements dataplan.PurchaseTx.
func (t *tx) PutPlanEntitlement(ctx context.Context, deviceID string, e registry.Entitlement) error {
	var days any
	if e.HistoryDays > 0 {
		days = e.HistoryDays
	}
	_, err := t.exec(ctx, `INSERT INTO device_entitlements
			(entitlement_id, device_no, capability, source, starts_at, ends_at, history_days, purchase_id, suspended_at, created_at)
		SELECT CAST($1 AS BIGINT), d.device_no, $3, $4, CAST($5 AS BIGINT), CAST($6 AS BIGINT), CAST($7 AS INTEGER), $8, CAST($9 AS BIGINT), CAST($10 AS BIGINT)
			FROM devices d WHERE d.device_id = $2
		ON CONFLICT (purchase_id, capability) WHERE purchase_id IS NOT NULL
			DO UPDATE SET starts_at = $5, ends_at = $6, history_days = $7, suspended_at = $9`,
		e.ID, deviceID, e.Capability.String(), string(e.Source), micros(e.StartsAt), micros(e.EndsAt), days, e.PurchaseID, micros(e.SuspendedAt), micros(e.CreatedAt))
	return err
}

// DeleteGrants implements registry.EntitlementTx.
func (t *tx) DeleteGrants(ctx context.Context, deviceNo int64, c registry.Capability) (int, error) {
	n, err := t.exec(ctx, `DELETE FROM device_entitlements WHERE device_no = $1 AND capability = $2 AND source = 'grant'`, deviceNo, c.String())
	return int(n), err
}
