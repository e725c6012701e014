package sqlstore

import (
	"context"
	"time"

	"github.com/opticworks/devicecloud/registry"
)

func scanLive(scan scanFunc, l *registry.Live) error {
	return scan(&l.DeviceNo, &l.DeviceID, &l.Epoch)
}

// Beat implements registry.PresenceTx.
func (t *tx) Beat(ctx context.Context, nodeID string, bootID int64, now time.Time) error {
	_, err := t.exec(ctx, `INSERT INTO nodes (node_id, boot_id, seen_at) VALUES ($1, $2, $3)
		ON CONFLICT (node_id) DO UPDATE SET boot_id = excluded.boot_id, seen_at = excluded.seen_at`, nodeID, bootID, micros(now))
	return err
}

// LivePresence implements registry.PresenceTx.
func (t *tx) LivePresence(ctx context.Context, nodeID string) ([]registry.Live, error) {
	return collect(ctx, t, `SELECT p.device_no, d.device_id, p.epoch
		FROM device_presence p JOIN devices d ON d.device_no = p.device_no
		WHERE p.node_id = $1 AND p.status = $2`, []any{nodeID, int64(registry.Online)}, scanLive)
}

// SettleBoot implements registry.PresenceTx.
func (t *tx) SettleBoot(ctx context.Context, nodeID string, bootID int64, now time.Time) (int, error) {
	const lost = ` FROM device_presence WHERE node_id = $1 AND status = $2 AND boot_id <> $3`
	args := []any{nodeID, int64(registry.Online), bootID, micros(now), int64(registry.NodeLost)}
	_, err := t.exec(ctx, `INSERT INTO device_connections
			(connection_id, device_no, epoch, node_id, remote, protocol, connected_at, disconnected_at, reason)
		SELECT connection_id, device_no, epoch, node_id, remote, protocol, connected_at, $4, $5`+lost+`
		ON CONFLICT (connection_id) DO NOTHING`, args...)
	if err != nil {
		return 0, err
	}
	n, err := t.exec(ctx, `UPDATE device_presence SET status = $6, reason = $5, changed_at = $4
		WHERE node_id = $1 AND status = $2 AND boot_id <> $3`, append(args, int64(registry.StatusUnknown))...)
	return int(n), err
}

// ExpireUnknown implements registry.PresenceTx.
func (t *tx) ExpireUnknown(ctx context.Context, nodeID string, before, now time.Time) ([]registry.Live, error) {
	return collect(ctx, t, `UPDATE device_presence SET status = $4, changed_at = $3
		WHERE node_id = $1 AND status = $5 AND changed_at < $2
		RETURNING device_no, (SELECT d.device_id FROM devices d WHERE d.device_no = device_presence.device_no), epoch`,
		[]any{nodeID, micros(before), micros(now), int64(registry.Offline), int64(registry.StatusUnknown)}, scanLive)
}

// Connections implements registry.PresenceTx.
func (t *tx) Connections(ctx context.Context, deviceNo, before int64, limit int) ([]registry.Connection, error) {
	return collect(ctx, t, `SELECT connection_id, epoch, node_id, remote, protocol, connected_at, disconnected_at, reason
		FROM device_connections WHERE device_no = $1 AND connection_id < $2 ORDER BY connection_id DESC LIMIT CAST($3 AS BIGINT)`,
		[]any{deviceNo, below(before), capped(limit)}, func(scan scanFunc, c *registry.Connection) error {
			return scan(&c.ID, &c.Epoch, opt(&c.NodeID), opt(&c.Remote), num(&c.Protocol), at(&c.ConnectedAt), at(&c.DisconnectedAt), &c.Reason)
		})
}
