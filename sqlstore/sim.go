package sqlstore

import (
	"context"
	"time"

	"github.com/opticworks/devicecloud/dataplan"
)

const selectSIM = `SELECT s.sim_id, s.iccid, s.eid, s.imsi, s.msisdn, s.device_no, d.device_id, s.status, s.status_at,
		COALESCE(s.used_mb, -1), s.total_mb, s.usage_at, s.plan, s.plan_ends_at, s.alert_type, s.alert_value, s.alert_at,
		s.refreshed_at, s.created_at, s.updated_at, s.stopped_at
	FROM sim_cards s LEFT JOIN devices d ON d.device_no = s.device_no WHERE `

func (t *tx) sims(ctx context.Context, condition string, args ...any) ([]dataplan.SIM, error) {
	return collect(ctx, t, selectSIM+condition, args, func(scan scanFunc, s *dataplan.SIM) error {
		return scan(&s.ID, opt(&s.ICCID), opt(&s.EID), opt(&s.IMSI), opt(&s.MSISDN), num(&s.DeviceNo), opt(&s.DeviceID), opt(&s.Status), at(&s.StatusAt),
			&s.UsedMB, num(&s.TotalMB), at(&s.UsageAt), opt(&s.Plan), at(&s.PlanEndsAt), num((*int)(&s.AlertType)), opt(&s.AlertValue), at(&s.AlertAt),
			at(&s.RefreshedAt), at(&s.CreatedAt), at(&s.UpdatedAt), at(&s.StoppedAt))
	})
}

func (t *tx) oneSIM(ctx context.Context, condition string, args ...any) (dataplan.SIM, bool, error) {
	list, err := t.sims(ctx, condition, args...)
	if err != nil || len(list) == 0 {
		return dataplan.SIM{}, false, err
	}
	return list[0], true, nil
}

// InsertSIM implements dataplan.SIMTx.
func (t *tx) InsertSIM(ctx context.Context, s dataplan.SIM) (bool, error) {
	created, err := t.changes(ctx, `INSERT INTO sim_cards (sim_id, iccid, eid, imsi, msisdn, status, status_at, created_at, updated_at)
		VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $8) ON CONFLICT DO NOTHING`,
		s.ID, string(s.ICCID), text(s.EID), text(s.IMSI), text(s.MSISDN), string(s.Status), micros(s.StatusAt), micros(s.CreatedAt))
	if err != nil || created {
		return created, err
	}
	if _, there, err := t.SIMByNumber(ctx, s.ICCID, ""); err != nil || there {
		return false, err
	}
	return false, dataplan.ErrSIMExists
}

// SIM implements dataplan.SIMTx.
func (t *tx) SIM(ctx context.Context, simID int64) (dataplan.SIM, error) {
	s, ok, err := t.oneSIM(ctx, `s.sim_id = $1`, simID)
	if err == nil && !ok {
		err = dataplan.ErrSIMNotFound
	}
	return s, err
}

// SIMByNumber implements dataplan.SIMTx.
func (t *tx) SIMByNumber(ctx context.Context, iccid dataplan.ICCID, eid dataplan.Number) (dataplan.SIM, bool, error) {
	if iccid != "" {
		return t.oneSIM(ctx, `s.iccid = $1`, string(iccid))
	}
	return t.oneSIM(ctx, `s.eid = $1`, eid.Reveal())
}

// SIMInDevice implements dataplan.SIMTx.
func (t *tx) SIMInDevice(ctx context.Context, deviceID string) (dataplan.SIM, bool, error) {
	return t.oneSIM(ctx, `d.device_id = $1`, deviceID)
}

// SIMs implements dataplan.SIMTx.
func (t *tx) SIMs(ctx context.Context, f dataplan.SIMFilter) ([]dataplan.SIM, error) {
	assigned := ""
	if f.Assigned != nil {
		assigned = map[bool]string{true: "yes", false: "no"}[*f.Assigned]
	}
	ending := "%" + f.Query
	if len(f.Query) != 4 {
		ending = "" // matches none
	}
	return t.sims(ctx, `s.sim_id < $1 AND ($2 = '' OR s.status = $2) AND ($3 = '' OR d.device_id = $3)
			AND ($4 = '' OR ($4 = 'yes') = (s.device_no IS NOT NULL))
			AND ($5 = '' OR s.iccid = $5 OR s.eid = $5 OR s.imsi = $5 OR s.msisdn = $5 OR s.iccid LIKE $6)
		ORDER BY s.sim_id DESC LIMIT CAST($7 AS BIGINT)`,
		below(f.Before), string(f.Status), f.DeviceID, assigned, f.Query, ending, capped(f.Limit))
}

// SIMsToRefresh implements dataplan.SIMTx.
func (t *tx) SIMsToRefresh(ctx context.Context, before time.Time, limit int) ([]dataplan.SIM, error) {
	return t.sims(ctx, `s.device_no IS NOT NULL AND s.status <> 'retired' AND COALESCE(s.refreshed_at, 0) < $1
		ORDER BY COALESCE(s.refreshed_at, 0), s.sim_id LIMIT CAST($2 AS BIGINT)`, micros(before), capped(limit))
}

// AssignSIM implements dataplan.SIMTx.
func (t *tx) AssignSIM(ctx context.Context, simID, deviceNo int64, at time.Time) (bool, error) {
	return t.changes(ctx, `UPDATE sim_cards SET device_no = $2, updated_at = $3 WHERE sim_id = $1 AND device_no IS NULL
		AND NOT EXISTS (SELECT 1 FROM sim_cards o WHERE o.device_no = $2)`, simID, deviceNo, micros(at))
}

// UnassignSIM implements dataplan.SIMTx.
func (t *tx) UnassignSIM(ctx context.Context, simID int64, at time.Time) (bool, error) {
	return t.changes(ctx, `UPDATE sim_cards SET device_no = NULL, updated_at = $2 WHERE sim_id = $1 AND device_no IS NOT NULL`, simID, micros(at))
}

// UpdateSIM implements dataplan.SIMTx.
func (t *tx) UpdateSIM(ctx context.Context, s dataplan.SIM) error {
	var used, total, alert any
	if s.UsedMB >= 0 {
		used = s.UsedMB
	}
	if s.TotalMB > 0 {
		total = s.TotalMB
	}
	if s.AlertType != 0 {
		alert = int64(s.AlertType)
	}
	_, err := t.exec(ctx, `UPDATE sim_cards SET status = $2, status_at = $3, used_mb = $4, total_mb = $5, usage_at = $6, plan = $7, plan_ends_at = $8,
			alert_type = $9, alert_value = $10, alert_at = $11, refreshed_at = $12, updated_at = $13, stopped_at = $14
		WHERE sim_id = $1`,
		s.ID, string(s.Status), micros(s.StatusAt), used, total, micros(s.UsageAt), text(s.Plan), micros(s.PlanEndsAt),
		alert, text(s.AlertValue), micros(s.AlertAt), micros(s.RefreshedAt), micros(s.UpdatedAt), micros(s.StoppedAt))
	return err
}
