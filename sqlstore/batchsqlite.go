package sqlstore

import (
	"context"
	"database/sql"
	"database/sql/driver"
	"errors"
	"fmt"

	"github.com/opticworks/devicecloud/registry"
)

// sqliteBatch writes row by row: a prepared statement runs in 2 to 3 microseconds,
// and what a batch costs is the pages that it touches.
type sqliteBatch struct {
	conn *sql.Conn
	t    *tx
}

func (e *sqliteEngine) batch(conn *sql.Conn, t *tx) batchWriter { return &sqliteBatch{conn, t} }

// updateState replaces what a report names and keeps the rest. Its parameters have
// no numbers: of a numbered one the driver reads the name anew for each row, which
// is an allocation.
const updateState = `UPDATE device_presence SET last_seen = ?, reported_at = ?,
	uptime_sec = COALESCE(?, uptime_sec), wifi_rssi = COALESCE(?, wifi_rssi),
	config_version = COALESCE(?, config_version), radar_connected = COALESCE(?, radar_connected),
	zone_count = COALESCE(?, zone_count), protocol_version = COALESCE(?, protocol_version)
	WHERE device_no = ? AND epoch = ?`

const updateFirmware = `UPDATE devices SET firmware_version = $2, updated_at = $3 WHERE device_no = $1`

// states runs on the driver's connection: database/sql would add a third to the
// cost of each row.
func (b *sqliteBatch) states(ctx context.Context, list []*registry.StateWrite) error {
	if len(list) == 0 {
		return nil
	}
	err := b.conn.Raw(func(driverConn any) error {
		c, ok := driverConn.(*sqliteConn)
		if !ok {
			return fmt.Errorf("unexpected connection %T", driverConn)
		}
		return c.states(ctx, list)
	})
	if err != nil {
		return b.t.engine.wrap(err)
	}
	for _, w := range list {
		if w.Stale || !w.Firmware {
			continue
		}
		if _, err := b.t.exec(ctx, updateFirmware, w.DeviceNo, text(w.State.FirmwareVersion), micros(w.At)); err != nil {
			return err
		}
	}
	return nil
}

// over is the context's error, asked for at every 64th row. The statements
// themselves do not get it: watching it costs more than they do.
func over(ctx context.Context, row int) error {
	if row%64 != 0 {
		return nil
	}
	return ctx.Err()
}

func (c *sqliteConn) states(ctx context.Context, list []*registry.StateWrite) (err error) {
	stmt, err := c.take(ctx, updateState)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, c.give(updateState, stmt)) }()
	own := context.WithoutCancel(ctx)
	var args [10]driver.NamedValue
	for i := range args {
		args[i].Ordinal = i + 1
	}
	for i, w := range list {
		if err := over(ctx, i); err != nil {
			return err
		}
		s := &w.State
		var at any = w.At.UnixMicro()
		args[0].Value = at
		args[1].Value = at
		args[2].Value = number(s.UptimeSec)
		args[3].Value = number(s.WifiRSSI)
		args[4].Value = number(s.ConfigVersion)
		args[5].Value = flag(s.RadarConnected)
		args[6].Value = number(s.ZoneCount)
		args[7].Value = optional(s.ProtocolVersion)
		args[8].Value = w.DeviceNo
		args[9].Value = w.Epoch
		res, err := stmt.ExecContext(own, args[:])
		if err != nil {
			return err
		}
		n, err := res.RowsAffected()
		if err != nil {
			return err
		}
		w.Stale = n == 0
	}
	return nil
}

func (b *sqliteBatch) reports(ctx context.Context, list []*registry.ReportWrite) error {
	own := context.WithoutCancel(ctx)
	for i, w := range list {
		if err := over(ctx, i); err != nil {
			return b.t.engine.wrap(err)
		}
		live, err := b.t.changes(own, `UPDATE device_presence SET last_seen = $3 WHERE device_no = $1 AND epoch = $2`,
			w.DeviceNo, w.Epoch, micros(w.At))
		if err != nil {
			return err
		}
		if w.Stale = !live; w.Stale {
			continue
		}
		if _, err := b.t.exec(own, `INSERT INTO device_reports (device_no, kind, received_at, payload) VALUES ($1, $2, $3, $4)
			ON CONFLICT (device_no, kind) DO UPDATE SET received_at = excluded.received_at, payload = excluded.payload`,
			w.DeviceNo, int64(w.Kind), micros(w.At), w.Payload); err != nil {
			return err
		}
		if w.EventID == 0 {
			continue
		}
		e := registry.Event{ID: w.EventID, DeviceNo: w.DeviceNo, Type: eventType(w.Kind), OccurredAt: w.At, Data: w.Payload}
		if err := b.t.InsertEvent(own, e, w.Keep); err != nil {
			return err
		}
	}
	return nil
}

func (b *sqliteBatch) disconnects(ctx context.Context, list []*registry.Disconnect) error {
	own := context.WithoutCancel(ctx)
	for i, d := range list {
		if err := over(ctx, i); err != nil {
			return b.t.engine.wrap(err)
		}
		var row presenceRow
		changed, err := b.t.found(own, `UPDATE device_presence SET status = $3, reason = $4, changed_at = $5,
				last_seen = COALESCE(CASE WHEN last_seen > $6 THEN last_seen ELSE $6 END, last_seen)
			WHERE device_no = $1 AND epoch = $2 AND status = $7
			RETURNING `+returnedColumns, []any{
			d.DeviceNo, d.Epoch, int64(registry.Offline), int64(d.Reason), micros(d.At), micros(d.LastSeen), int64(registry.Online),
		}, row.dest()...)
		if err != nil {
			return err
		}
		if !changed {
			continue
		}
		d.Changed, d.Row = true, row.Row
		if err := b.history(own, row.end(d.DeviceNo, d.At, d.Reason)); err != nil {
			return err
		}
	}
	return nil
}

// returnedColumns are the rowColumns and the firmware version as SQLite returns
// them, which knows no other table there but in a subquery.
const returnedColumns = `epoch, status, reason, node_id, boot_id, connection_id, remote, protocol,
	connected_at, changed_at, last_seen, reported_at,
	uptime_sec, wifi_rssi, config_version, radar_connected, zone_count, protocol_version,
	(SELECT d.firmware_version FROM devices d WHERE d.device_no = device_presence.device_no)`

// claims read, decide and write: nobody else writes in between.
func (b *sqliteBatch) claims(ctx context.Context, list []*registry.Claim) error {
	own := context.WithoutCancel(ctx)
	for i, c := range list {
		if err := over(ctx, i); err != nil {
			return b.t.engine.wrap(err)
		}
		var old presenceRow
		allowed, err := b.t.found(own, `SELECT `+rowColumns+`, d.firmware_version`+fromDevices+`
			WHERE d.device_no = $1 AND d.disabled_at IS NULL AND ($2 = 0 OR EXISTS (SELECT 1 FROM device_credentials c
				WHERE c.credential_id = $2 AND c.device_no = $1 AND (c.expires_at IS NULL OR c.expires_at > $3)))`,
			[]any{c.DeviceNo, c.CredentialID, micros(c.At)}, old.dest()...)
		if err != nil {
			return err
		}
		if c.Refused = !allowed; c.Refused {
			continue
		}
		last, over := takeOver(c, &old)
		if over {
			if err := b.history(own, last); err != nil {
				return err
			}
		}
		_, err = b.t.exec(own, `UPDATE device_presence SET epoch = $2, status = $3, reason = $4, node_id = $5, boot_id = $6,
				connection_id = $7, remote = $8, protocol = $9, connected_at = $10, changed_at = $10, last_seen = $10
			WHERE device_no = $1`,
			c.DeviceNo, c.Row.Presence.Epoch, int64(registry.Online), int64(registry.Connected), text(c.NodeID), c.BootID,
			c.ConnectionID, text(c.Remote), int64(c.Protocol), micros(c.At))
		if err != nil {
			return err
		}
	}
	return nil
}

// history records the end of a connection, once: what a crash left behind may have
// been settled already.
func (b *sqliteBatch) history(ctx context.Context, e ended) error {
	_, err := b.t.exec(ctx, `INSERT INTO device_connections
			(connection_id, device_no, epoch, node_id, remote, protocol, connected_at, disconnected_at, reason)
		VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9) ON CONFLICT (connection_id) DO NOTHING`,
		e.ID, e.deviceNo, e.Epoch, text(e.NodeID), text(e.Remote), int64(e.Protocol), micros(e.ConnectedAt), micros(e.DisconnectedAt), int64(e.Reason))
	return err
}
