package sqlstore

import (
	"context"
	"encoding/json"
	"math"
	"time"

	"github.com/opticworks/devicecloud/registry"
	"github.com/opticworks/devicecloud/rollout"
)

const rolloutColumns = `r.rollout_no, r.rollout_id, r.status, r.percent, r.versions, r.hardware, r.listed, r.rate_per_minute, r.max_attempts,
	r.timeout_sec, r.halt_percent, r.halt_after, r.planned_after, r.paced_until, r.succeeded, r.failed, r.base_succeeded, r.base_failed,
	r.created_by, r.created_at, r.updated_at, r.finished_at`

// rolloutDest is where the rolloutColumns and the releaseColumns go.
func rolloutDest(r *rollout.Rollout) []any {
	return append([]any{
		&r.No, &r.ID, opt(&r.Status), &r.Percent,
		jsonList{&r.Cohort.Versions},
		jsonList{&r.Cohort.Hardware},
		&r.Listed, &r.RatePerMinute, &r.MaxAttempts,
		seconds{&r.Timeout},
		&r.HaltPercent, &r.HaltAfter, &r.PlannedAfter, at(&r.PacedUntil), &r.Succeeded, &r.Failed, &r.BaseSucceeded, &r.BaseFailed,
		&r.CreatedBy, at(&r.CreatedAt), at(&r.UpdatedAt), at(&r.FinishedAt),
	}, releaseDest(&r.Release)...)
}

// jsonList scans a list of texts; ” is an empty one.
type jsonList struct{ list *[]string }

func (j jsonList) Scan(v any) error {
	var s string
	if err := opt(&s).Scan(v); err != nil || s == "" {
		return err
	}
	return json.Unmarshal([]byte(s), j.list)
}

// jsonText is a list of texts as it is stored.
func jsonText(list []string) string {
	if len(list) == 0 {
		return ""
	}
	text, err := json.Marshal(list)
	if err != nil {
		return "" // a list of texts always marshals
	}
	return string(text)
}

// seconds scans a duration.
type seconds struct{ d *time.Duration }

func (s seconds) Scan(v any) error {
	var n int64
	err := num(&n).Scan(v)
	*s.d = time.Duration(n) * time.Second
	return err
}

// numberBelow is below for a surrogate key, which has 32 bits on PostgreSQL.
func numberBelow(before int64) int64 { return min(below(before), math.MaxInt32) }

func (t *tx) rollouts(ctx context.Context, condition string, args ...any) ([]rollout.Rollout, error) {
	return collect(ctx, t, `SELECT `+rolloutColumns+`, `+releaseColumns+` FROM rollouts r JOIN releases l ON l.release_no = r.release_no WHERE `+condition, args,
		func(scan scanFunc, r *rollout.Rollout) error { return scan(rolloutDest(r)...) })
}

// InsertRollout implements rollout.PlanTx.
func (t *tx) InsertRollout(ctx context.Context, r rollout.Rollout) (int64, error) {
	no, err := t.nextNumber(ctx, "rollouts")
	if err != nil {
		return 0, err
	}
	inserted, err := t.changes(ctx, `INSERT INTO rollouts (rollout_no, rollout_id, release_no, status, percent, versions, hardware, listed, rate_per_minute,
			max_attempts, timeout_sec, halt_percent, halt_after, created_by, created_at, updated_at)
		SELECT $1, $2, l.release_no, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $15, $15 FROM releases l
		WHERE l.release_no = $3 AND l.withdrawn_at IS NULL`,
		no, r.ID, r.Release.No, string(r.Status), int64(r.Percent), jsonText(r.Cohort.Versions), jsonText(r.Cohort.Hardware), r.Listed, int64(r.RatePerMinute),
		int64(r.MaxAttempts), int64(r.Timeout/time.Second), int64(r.HaltPercent), int64(r.HaltAfter), r.CreatedBy, micros(r.CreatedAt))
	if err == nil && !inserted {
		err = rollout.ErrReleaseWithdrawn
	}
	return no, err
}

// Rollout implements rollout.PlanTx.
func (t *tx) Rollout(ctx context.Context, id string) (rollout.Rollout, error) {
	list, err := t.rollouts(ctx, `r.rollout_id = $1`, id)
	return one(list, err)
}

func one(list []rollout.Rollout, err error) (rollout.Rollout, error) {
	if err == nil && len(list) == 0 {
		err = rollout.ErrRolloutNotFound
	}
	if err != nil {
		return rollout.Rollout{}, err
	}
	return list[0], nil
}

// Rollouts implements rollout.PlanTx.
func (t *tx) Rollouts(ctx context.Context, status rollout.Status, before int64, limit int) ([]rollout.Rollout, error) {
	switch status {
	case "":
		return t.rollouts(ctx, `r.rollout_no < $1 ORDER BY r.rollout_no DESC LIMIT CAST($2 AS BIGINT)`, numberBelow(before), capped(limit))
	case rollout.Running: // the text of the partial index, for the look that comes each second
		return t.rollouts(ctx, `r.status = 'running' AND r.rollout_no < $1 ORDER BY r.rollout_no DESC LIMIT CAST($2 AS BIGINT)`, numberBelow(before), capped(limit))
	}
	return t.rollouts(ctx, `r.rollout_no < $1 AND r.status = $3 ORDER BY r.rollout_no DESC LIMIT CAST($2 AS BIGINT)`, numberBelow(before), capped(limit), string(status))
}

// SetRollout implements rollout.PlanTx.
func (t *tx) SetRollout(ctx context.Context, r rollout.Rollout, from rollout.Status) (bool, error) {
	return t.changes(ctx, `UPDATE rollouts SET status = $3, percent = $4, rate_per_minute = $5, max_attempts = $6, timeout_sec = $7, halt_percent = $8,
			halt_after = $9, planned_after = $10, base_succeeded = $11, base_failed = $12, updated_at = $13, finished_at = $14
		WHERE rollout_no = $1 AND status = $2`,
		r.No, string(from), string(r.Status), int64(r.Percent), int64(r.RatePerMinute), int64(r.MaxAttempts), int64(r.Timeout/time.Second), int64(r.HaltPercent),
		int64(r.HaltAfter), r.PlannedAfter, int64(r.BaseSucceeded), int64(r.BaseFailed), micros(r.UpdatedAt), micros(r.FinishedAt))
}

// CountResult implements rollout.PlanTx.
func (t *tx) CountResult(ctx context.Context, no int64, succeeded bool, now time.Time) (rollout.Rollout, error) {
	column := `failed = failed + 1`
	if succeeded {
		column = `succeeded = succeeded + 1`
	}
	if _, err := t.exec(ctx, `UPDATE rollouts SET `+column+`, updated_at = $2 WHERE rollout_no = $1`, no, micros(now)); err != nil {
		return rollout.Rollout{}, err
	}
	list, err := t.rollouts(ctx, `r.rollout_no = $1`, no)
	return one(list, err)
}

// CountLive implements rollout.PlanTx.
func (t *tx) CountLive(ctx context.Context, no int64) (n int, err error) {
	err = t.row(ctx, `SELECT count(*) FROM rollout_devices u WHERE u.rollout_no = $1 AND `+live, []any{no}, &n)
	return n, err
}

const unfinished = `EXISTS (SELECT 1 FROM rollout_devices u WHERE u.rollout_no = $1 AND u.finished_at IS NULL)`

// Unfinished implements rollout.PlanTx.
func (t *tx) Unfinished(ctx context.Context, no int64) (yes bool, err error) {
	err = t.row(ctx, `SELECT `+unfinished, []any{no}, &yes)
	return yes, err
}

// Cancelling implements rollout.PlanTx.
func (t *tx) Cancelling(ctx context.Context) ([]int64, error) {
	return collect(ctx, t, `SELECT r.rollout_no FROM rollouts r WHERE r.status = 'cancelled' AND EXISTS (SELECT 1 FROM rollout_devices u
			WHERE u.rollout_no = r.rollout_no AND u.finished_at IS NULL AND u.state IN ('pending', 'waiting'))`, nil,
		func(scan scanFunc, no *int64) error { return scan(no) })
}

// FinishRollout implements rollout.PlanTx.
func (t *tx) FinishRollout(ctx context.Context, r rollout.Rollout, now time.Time) (bool, error) {
	return t.changes(ctx, `UPDATE rollouts SET status = 'finished', updated_at = $2, finished_at = $2
		WHERE rollout_no = $1 AND status = 'running' AND planned_after = $3 AND NOT `+unfinished, r.No, micros(now), r.PlannedAfter)
}

// MovePlan implements rollout.PlanTx.
func (t *tx) MovePlan(ctx context.Context, r rollout.Rollout, to int64) (bool, error) {
	return t.changes(ctx, `UPDATE rollouts SET planned_after = $4 WHERE rollout_no = $1 AND planned_after = $2 AND percent = $3 AND status = 'running'`,
		r.No, r.PlannedAfter, int64(r.Percent), to)
}

// TakePace implements rollout.PlanTx.
func (t *tx) TakePace(ctx context.Context, no int64, from, to time.Time) (bool, error) {
	before := int64(0)
	if !from.IsZero() {
		before = from.UnixMicro()
	}
	return t.changes(ctx, `UPDATE rollouts SET paced_until = $3 WHERE rollout_no = $1 AND COALESCE(paced_until, 0) = $2 AND status = 'running'`,
		no, before, micros(to))
}

// Counts implements rollout.PlanTx.
func (t *tx) Counts(ctx context.Context, no int64) ([]rollout.Count, error) {
	return collect(ctx, t, `SELECT state, count(*) FROM rollout_devices WHERE rollout_no = $1 GROUP BY state ORDER BY state`, []any{no},
		func(scan scanFunc, c *rollout.Count) error { return scan(opt(&c.State), &c.N) })
}

// Reasons implements rollout.PlanTx.
func (t *tx) Reasons(ctx context.Context, no int64, limit int) ([]rollout.Count, error) {
	return collect(ctx, t, `SELECT state, reason, count(*) FROM rollout_devices WHERE rollout_no = $1 AND reason IS NOT NULL
		GROUP BY state, reason ORDER BY count(*) DESC, state, reason LIMIT CAST($2 AS BIGINT)`, []any{no, capped(limit)},
		func(scan scanFunc, c *rollout.Count) error { return scan(opt(&c.State), &c.Reason, &c.N) })
}

// targetColumns are of devices d; $1 is the number of the rollout that looks.
const targetColumns = `d.device_no, d.device_id, d.firmware_version, d.hardware, d.disabled_at IS NOT NULL,
	d.ever_owned AND NOT EXISTS (SELECT 1 FROM device_ownership o WHERE o.device_no = d.device_no AND o.role = 'owner'),
	EXISTS (SELECT 1 FROM rollout_devices n WHERE n.device_no = d.device_no AND n.rollout_no > $1 AND n.state NOT IN ('skipped', 'cancelled'))`

func targetDest(d *rollout.Target) []any {
	return []any{&d.DeviceNo, &d.DeviceID, opt(&d.Firmware), opt(&d.Hardware), &d.Disabled, &d.Released, &d.Superseded}
}

// Fleet implements rollout.UpdateTx.
func (t *tx) Fleet(ctx context.Context, rolloutNo, after int64, limit int) ([]rollout.Target, error) {
	return collect(ctx, t, `SELECT `+targetColumns+` FROM devices d WHERE d.device_no > $2 ORDER BY d.device_no LIMIT CAST($3 AS BIGINT)`,
		[]any{rolloutNo, min(after, math.MaxInt32), capped(limit)}, func(scan scanFunc, d *rollout.Target) error { return scan(targetDest(d)...) })
}

// Named implements rollout.UpdateTx.
func (t *tx) Named(ctx context.Context, rolloutNo int64, deviceID string) (d rollout.Target, err error) {
	found, err := t.found(ctx, `SELECT `+targetColumns+` FROM devices d WHERE d.device_id = $2`, []any{rolloutNo, deviceID}, targetDest(&d)...)
	if err == nil && !found {
		err = registry.ErrDeviceNotFound
	}
	return d, err
}

// InsertUpdate implements rollout.UpdateTx.
func (t *tx) InsertUpdate(ctx context.Context, rolloutNo, deviceNo int64, state rollout.State, reason string, now time.Time) error {
	var finished any
	if state.Final() {
		finished = micros(now)
	}
	_, err := t.exec(ctx, `INSERT INTO rollout_devices (rollout_no, device_no, state, reason, finished_at, updated_at)
		VALUES ($1, $2, $3, $4, $5, $6) ON CONFLICT DO NOTHING`, rolloutNo, deviceNo, string(state), text(reason), finished, micros(now))
	return err
}

// Supersede implements rollout.UpdateTx.
func (t *tx) Supersede(ctx context.Context, rolloutNo, first, last int64, now time.Time) error {
	_, err := t.exec(ctx, `UPDATE rollout_devices SET state = 'skipped', reason = 'superseded', finished_at = $4, updated_at = $4
		WHERE rollout_no < $1 AND finished_at IS NULL AND state IN ('pending', 'waiting') AND device_no BETWEEN $2 AND $3
			AND EXISTS (SELECT 1 FROM rollout_devices n WHERE n.rollout_no = $1 AND n.device_no = rollout_devices.device_no AND n.state = 'pending')`,
		rolloutNo, first, last, micros(now))
	return err
}

// CancelUpdates implements rollout.UpdateTx.
func (t *tx) CancelUpdates(ctx context.Context, rolloutNo int64, now time.Time, limit int) (int, error) {
	n, err := t.exec(ctx, `UPDATE rollout_devices SET state = 'cancelled', reason = NULL, not_before = NULL, finished_at = $2, updated_at = $2
		WHERE rollout_no = $1 AND device_no IN (SELECT u.device_no FROM rollout_devices u
			WHERE u.rollout_no = $1 AND u.finished_at IS NULL AND u.state IN ('pending', 'waiting') ORDER BY u.device_no LIMIT CAST($3 AS BIGINT))`,
		rolloutNo, micros(now), capped(limit))
	return int(n), err
}

// live is the condition of the index of live updates u.
const live = `u.state IN ('sent', 'accepted', 'downloading', 'verifying', 'confirming')`

const selectUpdate = `SELECT u.state, u.reason, u.progress, u.attempt, u.sends, u.epoch, u.from_version, u.not_before, u.triggered_at, u.said_at,
		u.due_at, u.finished_at, u.updated_at,
		d.device_no, d.device_id, d.firmware_version, d.hardware, d.disabled_at IS NOT NULL,
		d.ever_owned AND NOT EXISTS (SELECT 1 FROM device_ownership o WHERE o.device_no = d.device_no AND o.role = 'owner'),
		p.epoch, p.status, p.node_id, p.connected_at, p.wifi_rssi, p.uptime_sec, p.reported_at,
		EXISTS (SELECT 1 FROM rollout_devices b WHERE b.device_no = d.device_no AND b.rollout_no <> u.rollout_no
				AND b.state IN ('sent', 'accepted', 'downloading', 'verifying', 'confirming'))
			OR EXISTS (SELECT 1 FROM device_commands c WHERE c.device_no = d.device_no AND c.finished_at IS NULL AND c.type = 'ota'),
		` + rolloutColumns + `, ` + releaseColumns + `
	FROM rollout_devices u JOIN rollouts r ON r.rollout_no = u.rollout_no JOIN releases l ON l.release_no = r.release_no
	JOIN devices d ON d.device_no = u.device_no JOIN device_presence p ON p.device_no = u.device_no WHERE `

func (t *tx) updates(ctx context.Context, condition string, args ...any) ([]rollout.Update, error) {
	return collect(ctx, t, selectUpdate+condition, args, func(scan scanFunc, u *rollout.Update) error {
		return scan(append([]any{
			opt(&u.State), opt(&u.Reason), &u.Progress, &u.Attempt, &u.Sends, &u.Epoch, opt(&u.FromVersion), at(&u.NotBefore), at(&u.TriggeredAt), at(&u.SaidAt),
			at(&u.DueAt), at(&u.FinishedAt), at(&u.UpdatedAt),
			&u.DeviceNo, &u.DeviceID, opt(&u.Firmware), opt(&u.Hardware), &u.Disabled, &u.Released,
			&u.Presence.Epoch, &u.Presence.Status, opt(&u.Presence.NodeID), at(&u.Presence.ConnectedAt), &u.RSSI, &u.Uptime, at(&u.ReportedAt), &u.Busy,
		}, rolloutDest(&u.Rollout)...)...)
	})
}

// first is the first of a list that may be empty.
func first(list []rollout.Update, err error) (rollout.Update, bool, error) {
	if err != nil || len(list) == 0 {
		return rollout.Update{}, false, err
	}
	return list[0], true, nil
}

// Update implements rollout.UpdateTx.
func (t *tx) Update(ctx context.Context, rolloutNo, deviceNo int64) (rollout.Update, bool, error) {
	return first(t.updates(ctx, `u.rollout_no = $1 AND u.device_no = $2`, rolloutNo, deviceNo))
}

// LiveUpdate implements rollout.UpdateTx.
func (t *tx) LiveUpdate(ctx context.Context, deviceNo int64) (rollout.Update, bool, error) {
	return first(t.updates(ctx, `u.device_no = $1 AND `+live, deviceNo))
}

// LatestUpdate implements rollout.UpdateTx.
func (t *tx) LatestUpdate(ctx context.Context, deviceNo int64) (rollout.Update, bool, error) {
	return first(t.updates(ctx, `u.device_no = $1 AND u.state NOT IN ('skipped', 'cancelled') ORDER BY u.rollout_no DESC LIMIT 1`, deviceNo))
}

// Updates implements rollout.UpdateTx.
func (t *tx) Updates(ctx context.Context, rolloutNo int64, state rollout.State, after int64, limit int) ([]rollout.Update, error) {
	const order = ` ORDER BY u.device_no LIMIT CAST($3 AS BIGINT)`
	if state == "" {
		return t.updates(ctx, `u.rollout_no = $1 AND u.device_no > $2`+order, rolloutNo, min(after, math.MaxInt32), capped(limit))
	}
	return t.updates(ctx, `u.rollout_no = $1 AND u.device_no > $2 AND u.state = $4`+order, rolloutNo, min(after, math.MaxInt32), capped(limit), string(state))
}

// Waiting implements rollout.UpdateTx.
func (t *tx) Waiting(ctx context.Context, rolloutNo, after int64, limit int) ([]rollout.Update, error) {
	return t.updates(ctx, `u.rollout_no = $1 AND u.device_no > $2 AND u.finished_at IS NULL AND u.state IN ('pending', 'waiting')
		ORDER BY u.device_no LIMIT CAST($3 AS BIGINT)`, rolloutNo, min(after, math.MaxInt32), capped(limit))
}

// Due implements rollout.UpdateTx; rollout.Update.restartedSince is the last condition
// in Go.
func (t *tx) Due(ctx context.Context, now time.Time, limit int) ([]rollout.Update, error) {
	return t.updates(ctx, live+` AND (d.firmware_version = l.version OR u.due_at <= $1 OR d.disabled_at IS NOT NULL
			OR u.state = 'confirming' AND p.epoch > u.epoch AND p.reported_at >= p.connected_at
				AND p.uptime_sec * 1000000 < p.reported_at - u.said_at)
		ORDER BY u.device_no LIMIT CAST($2 AS BIGINT)`, micros(now), capped(limit))
}

// Lost implements rollout.UpdateTx.
func (t *tx) Lost(ctx context.Context, nodeID string, limit int) ([]rollout.Update, error) {
	return t.updates(ctx, live+` AND u.state <> 'confirming' AND r.status = 'running' AND p.status = $1 AND p.node_id = $2 AND p.epoch > u.epoch
			AND (u.state = 'sent' OR p.reported_at >= p.connected_at AND p.uptime_sec * 1000000 < p.reported_at - u.triggered_at)
		ORDER BY u.device_no LIMIT CAST($3 AS BIGINT)`, int64(registry.Online), nodeID, capped(limit))
}

// Advance implements rollout.UpdateTx.
func (t *tx) Advance(ctx context.Context, u, before rollout.Update) (bool, error) {
	begins := u.State.Live() && !before.State.Live()
	return t.changes(ctx, `UPDATE rollout_devices SET state = $6, reason = $7, progress = $8, attempt = $9, sends = $10, epoch = $11, from_version = $12,
			not_before = $13, triggered_at = $14, said_at = $15, due_at = $16, finished_at = $17, updated_at = $18
		WHERE rollout_no = $1 AND device_no = $2 AND state = $3 AND attempt = $4 AND sends = $5
			AND ($19 = FALSE OR NOT EXISTS (SELECT 1 FROM rollout_devices u WHERE u.device_no = $2 AND u.rollout_no <> $1 AND `+live+`))`,
		u.Rollout.No, u.DeviceNo, string(before.State), int64(before.Attempt), int64(before.Sends),
		string(u.State), text(u.Reason), int64(u.Progress), int64(u.Attempt), int64(u.Sends), u.Epoch, text(u.FromVersion),
		micros(u.NotBefore), micros(u.TriggeredAt), micros(u.SaidAt), micros(u.DueAt), micros(u.FinishedAt), micros(u.UpdatedAt), begins)
}
