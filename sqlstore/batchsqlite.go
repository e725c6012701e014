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

// The parameters of what runs on the driver's connection have no numbers: of a
// numbered one the driver reads the name anew for each row, which is an allocation.

// updateState replaces what a report names and keeps the rest.
const updateState = `UPDATE device_presence SET last_seen = ?, reported_at = ?,
	uptime_sec = COALESCE(?, uptime_sec), wifi_rssi = COALESCE(?, wifi_rssi),
	config_version = COALESCE(?, config_version), radar_connected = COALESCE(?, radar_connected),
	zone_count = COALESCE(?, zone_count), protocol_version = COALESCE(?, protocol_version)
	WHERE device_no = ? AND epoch = ?`

const updateFirmware = `UPDATE devices SET firmware_version = $2, updated_at = $3 WHERE device_no = $1`

func (b *sqliteBatch) states(ctx context.Context, list []*registry.StateWrite) error {
	if len(list) == 0 {
		return nil
	}
	if err := b.raw(func(c *sqliteConn) error { return c.states(ctx, list) }); err != nil {
		return err
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

// raw runs f on the driver's connection: database/sql would add a third to the cost
// of each row. f must not use b.t.
func (b *sqliteBatch) raw(f func(*sqliteConn) error) error {
	err := b.conn.Raw(func(driverConn any) error {
		c, ok := driverConn.(*sqliteConn)
		if !ok {
			return fmt.Errorf("unexpected connection %T", driverConn)
		}
		return f(c)
	})
	return b.t.failed(err)
}

// over is the context's error, asked for at every 64th row. The statements
// themselves do not get it: watching it costs more than they do.
func over(ctx context.Context, row int) error {
	if row%64 != 0 {
		return nil
	}
	return ctx.Err()
}

func (c *sqliteConn) states(ctx context.Context, list []*registry.StateWrite) error {
	return c.prepared(ctx, func(all []*prepared) error {
		for i, w := range list {
			if err := over(ctx, i); err != nil {
				return err
			}
			s := &w.State
			var at any = w.At.UnixMicro()
			n, err := all[0].exec(at, at, number(s.UptimeSec), number(s.WifiRSSI), number(s.ConfigVersion), flag(s.RadarConnected),
				number(s.ZoneCount), optional(s.ProtocolVersion), w.DeviceNo, w.Epoch)
			if err != nil {
				return err
			}
			w.Stale = n == 0
		}
		return nil
	}, updateState)
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

const endPresence = `UPDATE device_presence SET status = ?, reason = ?, changed_at = ?,
	last_seen = COALESCE(CASE WHEN last_seen > ? THEN last_seen ELSE ? END, last_seen)
	WHERE device_no = ? AND epoch = ? AND status = ?`

// insertHistory records the end of the connection that a presence row tells of,
// once: what a crash left behind may have been settled already.
const insertHistory = `INSERT INTO device_connections
		(connection_id, device_no, epoch, node_id, remote, protocol, connected_at, disconnected_at, reason)
	SELECT connection_id, device_no, epoch, node_id, remote, protocol, connected_at, ?, ?
	FROM device_presence WHERE device_no = ?
	ON CONFLICT (connection_id) DO NOTHING`

func (b *sqliteBatch) disconnects(ctx context.Context, list []*registry.Disconnect) error {
	if len(list) == 0 {
		return nil
	}
	if err := b.raw(func(c *sqliteConn) error { return c.disconnects(ctx, list) }); err != nil {
		return err
	}
	for _, d := range list {
		if !d.Changed || !d.Tell {
			continue
		}
		row, err := b.row(ctx, d.DeviceNo)
		if err != nil {
			return err
		}
		d.Row = row.Row
	}
	return nil
}

func (c *sqliteConn) disconnects(ctx context.Context, list []*registry.Disconnect) error {
	return c.prepared(ctx, func(all []*prepared) error {
		end, history := all[0], all[1]
		for i, d := range list {
			if err := over(ctx, i); err != nil {
				return err
			}
			at, seen := micros(d.At), micros(d.LastSeen)
			n, err := end.exec(int64(registry.Offline), int64(d.Reason), at, seen, seen, d.DeviceNo, d.Epoch, int64(registry.Online))
			if err != nil {
				return err
			}
			if n == 0 {
				continue
			}
			d.Changed = true
			if _, err := history.exec(at, int64(d.Reason), d.DeviceNo); err != nil {
				return err
			}
		}
		return nil
	}, endPresence, insertHistory)
}

// row reads a device's presence row.
func (b *sqliteBatch) row(ctx context.Context, deviceNo int64) (row presenceRow, err error) {
	err = b.t.row(context.WithoutCancel(ctx), `SELECT `+rowColumns+`, d.firmware_version`+fromDevices+` WHERE d.device_no = $1`,
		[]any{deviceNo}, row.dest()...)
	return row, err
}

// mayClaim finds what a claim decides by, if the device is enabled and the credential
// live.
const mayClaim = `SELECT p.epoch, p.status, p.node_id, p.boot_id, d.firmware_version` + fromDevices + `
	WHERE d.device_no = ? AND d.disabled_at IS NULL AND (? = 0 OR EXISTS (SELECT 1 FROM device_credentials c
		WHERE c.credential_id = ? AND c.device_no = d.device_no AND (c.expires_at IS NULL OR c.expires_at > ?)))`

const beginPresence = `UPDATE device_presence SET epoch = ?, status = ?, reason = ?, node_id = ?, boot_id = ?,
	connection_id = ?, remote = ?, protocol = ?, connected_at = ?, changed_at = ?, last_seen = ?
	WHERE device_no = ?`

// claims read, decide and write: nobody else writes in between.
func (b *sqliteBatch) claims(ctx context.Context, list []*registry.Claim) error {
	if len(list) == 0 {
		return nil
	}
	if err := b.raw(func(c *sqliteConn) error { return c.claims(ctx, list) }); err != nil {
		return err
	}
	for _, c := range list {
		if c.Refused || !c.Tell {
			continue
		}
		row, err := b.row(ctx, c.DeviceNo)
		if err != nil {
			return err
		}
		c.Row.State, c.Row.ReportedAt = row.State, row.ReportedAt
	}
	return nil
}

func (c *sqliteConn) claims(ctx context.Context, list []*registry.Claim) error {
	return c.prepared(ctx, func(all []*prepared) error {
		may, history, begin := all[0], all[1], all[2]
		var v [5]driver.Value
		for i, claim := range list {
			if err := over(ctx, i); err != nil {
				return err
			}
			at := micros(claim.At)
			allowed, err := may.row(v[:], claim.DeviceNo, claim.CredentialID, claim.CredentialID, at)
			if err != nil {
				return err
			}
			if claim.Refused = !allowed; claim.Refused {
				continue
			}
			var old presenceRow
			if err := old.scanClaimed(v); err != nil {
				return err
			}
			if last, over := takeOver(claim, &old); over {
				if _, err := history.exec(at, int64(last.Reason), claim.DeviceNo); err != nil {
					return err
				}
			}
			_, err = begin.exec(claim.Row.Presence.Epoch, int64(registry.Online), int64(registry.Connected), text(clean(claim.NodeID)), claim.BootID,
				claim.ConnectionID, text(clean(claim.Remote)), int64(claim.Protocol), at, at, at, claim.DeviceNo)
			if err != nil {
				return err
			}
		}
		return nil
	}, mayClaim, insertHistory, beginPresence)
}

// scanClaimed reads the columns of [mayClaim].
func (r *presenceRow) scanClaimed(v [5]driver.Value) error {
	p := &r.Presence
	var status int
	err := errors.Join(num(&p.Epoch).Scan(v[0]), num(&status).Scan(v[1]), opt(&p.NodeID).Scan(v[2]), num(&r.bootID).Scan(v[3]),
		opt(&r.FirmwareVersion).Scan(v[4]))
	p.Status = registry.Status(status)
	return err
}
