package sqlstore

import (
	"context"
	"time"

	"github.com/opticworks/devicecloud/registry"
)

const selectCommand = `SELECT c.command_no, c.command_id, c.device_no, d.device_id, c.issuer, c.request_id, c.body_hash, c.type, c.params,
		c.queueable, c.status, c.code, c.message, c.result, c.attempt, c.epoch, c.firmware,
		c.issued_at, c.sent_at, c.delivered_at, c.finished_at, c.expires_at, c.due_at
	FROM device_commands c JOIN devices d ON d.device_no = c.device_no WHERE `

func scanCommand(scan scanFunc, c *registry.Command) error {
	return scan(&c.No, &c.ID, &c.DeviceNo, &c.DeviceID, &c.Issuer, &c.RequestID, &c.BodyHash, &c.Type, &c.Params,
		&c.Queueable, opt(&c.Status), opt(&c.Code), opt(&c.Message), opt(&c.Result), &c.Attempt, &c.Epoch, opt(&c.Firmware),
		at(&c.IssuedAt), at(&c.SentAt), at(&c.DeliveredAt), at(&c.FinishedAt), at(&c.ExpiresAt), at(&c.DueAt))
}

func (t *tx) commands(ctx context.Context, condition string, args ...any) ([]registry.Command, error) {
	return collect(ctx, t, selectCommand+condition, args, scanCommand)
}

// InsertCommand implements registry.CommandTx.
func (t *tx) InsertCommand(ctx context.Context, c registry.Command) (bool, error) {
	return t.changes(ctx, `INSERT INTO device_commands
			(command_no, command_id, device_no, issuer, request_id, body_hash, type, params, queueable, status,
			attempt, epoch, issued_at, sent_at, expires_at, due_at)
		VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $15, $16) ON CONFLICT DO NOTHING`,
		c.No, c.ID, c.DeviceNo, c.Issuer, c.RequestID, c.BodyHash, c.Type, c.Params, c.Queueable, string(c.Status),
		int64(c.Attempt), c.Epoch, micros(c.IssuedAt), micros(c.SentAt), micros(c.ExpiresAt), micros(c.DueAt))
}

// Command implements registry.CommandTx.
func (t *tx) Command(ctx context.Context, deviceNo int64, commandID string) (registry.Command, error) {
	list, err := t.commands(ctx, `c.device_no = $1 AND c.command_id = $2`, deviceNo, commandID)
	if err == nil && len(list) == 0 {
		err = registry.ErrCommandNotFound
	}
	if err != nil {
		return registry.Command{}, err
	}
	return list[0], nil
}

// CommandByRequest implements registry.CommandTx.
func (t *tx) CommandByRequest(ctx context.Context, deviceNo int64, issuer, requestID string) (c registry.Command, ok bool, err error) {
	list, err := t.commands(ctx, `c.device_no = $1 AND c.issuer = $2 AND c.request_id = $3`, deviceNo, issuer, requestID)
	if err != nil || len(list) == 0 {
		return registry.Command{}, false, err
	}
	return list[0], true, nil
}

// Commands implements registry.CommandTx.
func (t *tx) Commands(ctx context.Context, deviceNo, before int64, limit int) ([]registry.Command, error) {
	return t.commands(ctx, `c.device_no = $1 AND c.command_no < $2 ORDER BY c.command_no DESC LIMIT $3`, deviceNo, below(before), capped(limit))
}

// OpenCommands implements registry.CommandTx.
func (t *tx) OpenCommands(ctx context.Context, deviceNo int64) ([]registry.Command, error) {
	return t.commands(ctx, `c.device_no = $1 AND c.finished_at IS NULL ORDER BY c.command_no`, deviceNo)
}

// DueCommands implements registry.CommandTx.
func (t *tx) DueCommands(ctx context.Context, now time.Time, limit int) ([]registry.Command, error) {
	return t.commands(ctx, `c.finished_at IS NULL AND c.due_at <= $1 ORDER BY c.due_at LIMIT $2`, micros(now), capped(limit))
}

// AdvanceCommand implements registry.CommandTx.
func (t *tx) AdvanceCommand(ctx context.Context, c registry.Command, from registry.CommandStatus) (bool, error) {
	return t.changes(ctx, `UPDATE device_commands SET status = $3, code = $4, message = $5, result = $6, attempt = $7, epoch = $8,
			firmware = $9, sent_at = $10, delivered_at = $11, finished_at = $12, due_at = $13
		WHERE command_no = $1 AND status = $2`,
		c.No, string(from), string(c.Status), text(c.Code), text(c.Message), text(c.Result), int64(c.Attempt), c.Epoch,
		text(c.Firmware), micros(c.SentAt), micros(c.DeliveredAt), micros(c.FinishedAt), micros(c.DueAt))
}

// SetCommandLate implements registry.CommandTx.
func (t *tx) SetCommandLate(ctx context.Context, commandNo int64, now time.Time) (bool, error) {
	return t.changes(ctx, `UPDATE device_commands SET late_at = $2 WHERE command_no = $1 AND late_at IS NULL`, commandNo, micros(now))
}

// CommandUnsupported implements registry.CommandTx.
func (t *tx) CommandUnsupported(ctx context.Context, deviceNo int64, commandType, firmware string) (bool, error) {
	return t.found(ctx, `SELECT 1 FROM device_commands WHERE device_no = $1 AND type = $2 AND firmware = $3
		AND status = 'rejected' AND code = $4`, []any{deviceNo, commandType, firmware, registry.CodeUnsupported}, new(int))
}

// DeleteCommands implements registry.CommandTx.
func (t *tx) DeleteCommands(ctx context.Context, deviceNo int64) error {
	_, err := t.exec(ctx, `DELETE FROM device_commands WHERE device_no = $1`, deviceNo)
	return err
}

// DeleteFinishedCommands implements registry.CommandTx.
func (t *tx) DeleteFinishedCommands(ctx context.Context, before time.Time, limit int) (int, error) {
	n, err := t.exec(ctx, `DELETE FROM device_commands WHERE command_no IN
		(SELECT c.command_no FROM device_commands c WHERE c.finished_at < $1 ORDER BY c.finished_at LIMIT $2)`, micros(before), int64(limit))
	return int(n), err
}

// TakeCommandToken implements registry.CommandTx. It is the generic cell rate
// algorithm: a bucket is one time, and whoever finds it too far ahead has to wait.
// [ITU-T I.371 annex A]
func (t *tx) TakeCommandToken(ctx context.Context, bucket string, now time.Time, interval time.Duration, burst int) (time.Duration, error) {
	tolerance := interval * time.Duration(max(1, burst)-1)
	took, err := t.changes(ctx, `INSERT INTO command_rates (bucket, full_at) VALUES ($1, $2)
		ON CONFLICT (bucket) DO UPDATE SET full_at = CASE WHEN command_rates.full_at > $3 THEN command_rates.full_at + $4 ELSE $2 END
		WHERE command_rates.full_at <= $5`,
		bucket, now.Add(interval).UnixMicro(), now.UnixMicro(), interval.Microseconds(), now.Add(tolerance).UnixMicro())
	if err != nil || took {
		return 0, err
	}
	var fullAt time.Time
	if err := t.row(ctx, `SELECT full_at FROM command_rates WHERE bucket = $1`, []any{bucket}, at(&fullAt)); err != nil {
		return 0, err
	}
	return max(fullAt.Add(-tolerance).Sub(now), time.Microsecond), nil
}

// DeleteCommandRates implements registry.CommandTx.
func (t *tx) DeleteCommandRates(ctx context.Context, now time.Time, limit int) (int, error) {
	n, err := t.exec(ctx, `DELETE FROM command_rates WHERE bucket IN
		(SELECT r.bucket FROM command_rates r WHERE r.full_at < $1 ORDER BY r.full_at LIMIT $2)`, micros(now), int64(limit))
	return int(n), err
}

// ActorEnabled implements registry.People.
func (t *tx) ActorEnabled(ctx context.Context, kind registry.ActorKind, id string) (bool, error) {
	var query string
	switch kind {
	case registry.ActorUser:
		query = `SELECT 1 FROM users WHERE user_id = $1 AND disabled_at IS NULL`
	case registry.ActorAdmin:
		query = `SELECT 1 FROM admins WHERE admin_id = $1 AND role = 'admin' AND disabled_at IS NULL`
	case registry.ActorService:
		query = `SELECT 1 FROM service_accounts WHERE account_id = $1 AND disabled_at IS NULL`
	default:
		return false, nil
	}
	return t.found(ctx, query, []any{id}, new(int))
}
