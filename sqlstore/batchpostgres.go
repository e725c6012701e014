package sqlstore

import (
	"context"
	"database/sql"
	"time"

	"github.com/opticworks/devicecloud/registry"
	"github.com/opticworks/devicecloud/topic"
)

// postgresBatch writes each part of a batch in one statement over arrays, so that
// a batch is a handful of round trips.
type postgresBatch struct{ t *tx }

func (postgresEngine) batch(_ *sql.Conn, t *tx) batchWriter { return &postgresBatch{t} }

// waves cuts a list where a device comes up again, because one statement changes a
// row at most once.
func waves[T any](list []T, device func(T) int64, write func(wave []T) error) error {
	seen := make(map[int64]struct{}, len(list))
	start := 0
	for i, item := range list {
		no := device(item)
		if _, again := seen[no]; again {
			if err := write(list[start:i]); err != nil {
				return err
			}
			clear(seen)
			start = i
		}
		seen[no] = struct{}{}
	}
	if start == len(list) {
		return nil
	}
	return write(list[start:])
}

func (b *postgresBatch) states(ctx context.Context, list []*registry.StateWrite) error {
	return waves(list, func(w *registry.StateWrite) int64 { return w.DeviceNo }, func(wave []*registry.StateWrite) error {
		return b.stateWave(ctx, wave)
	})
}

func (b *postgresBatch) stateWave(ctx context.Context, wave []*registry.StateWrite) error {
	n := len(wave)
	var (
		no, epoch, now              = make([]int64, n), make([]int64, n), make([]int64, n)
		uptime, rssi, config, zones = make([]*int64, n), make([]*int64, n), make([]*int64, n), make([]*int64, n)
		radar, protocol, index      = make([]*bool, n), make([]*string, n), make(map[int64]int, n)
	)
	for i, w := range wave {
		s := &w.State
		no[i], epoch[i], now[i] = w.DeviceNo, w.Epoch, w.At.UnixMicro()
		uptime[i], rssi[i], config[i], zones[i] = s.UptimeSec, s.WifiRSSI, s.ConfigVersion, s.ZoneCount
		radar[i], protocol[i] = s.RadarConnected, s.ProtocolVersion
		index[w.DeviceNo] = i
		w.Stale = true
	}
	err := b.t.rows(ctx, `UPDATE device_presence p SET last_seen = v.at, reported_at = v.at,
			uptime_sec = COALESCE(v.uptime_sec, p.uptime_sec), wifi_rssi = COALESCE(v.wifi_rssi, p.wifi_rssi),
			config_version = COALESCE(v.config_version, p.config_version), radar_connected = COALESCE(v.radar_connected, p.radar_connected),
			zone_count = COALESCE(v.zone_count, p.zone_count), protocol_version = COALESCE(v.protocol_version, p.protocol_version)
		FROM unnest($1::integer[], $2::bigint[], $3::bigint[], $4::bigint[], $5::integer[], $6::bigint[], $7::boolean[], $8::integer[], $9::text[])
			AS v (device_no, epoch, at, uptime_sec, wifi_rssi, config_version, radar_connected, zone_count, protocol_version)
		WHERE p.device_no = v.device_no AND p.epoch = v.epoch
		RETURNING p.device_no`, []any{no, epoch, now, uptime, rssi, config, radar, zones, protocol}, func(scan scanFunc) error {
		var done int64
		if err := scan(&done); err != nil {
			return err
		}
		wave[index[done]].Stale = false
		return nil
	})
	if err != nil {
		return err
	}
	return b.firmware(ctx, wave)
}

// firmware writes the versions that changed, which are few.
func (b *postgresBatch) firmware(ctx context.Context, wave []*registry.StateWrite) error {
	var no, now []int64
	var version []string
	for _, w := range wave {
		if w.Firmware && !w.Stale {
			no, version, now = append(no, w.DeviceNo), append(version, w.State.FirmwareVersion), append(now, w.At.UnixMicro())
		}
	}
	if len(no) == 0 {
		return nil
	}
	_, err := b.t.exec(ctx, `UPDATE devices d SET firmware_version = NULLIF(v.version, ''), updated_at = v.at
		FROM unnest($1::integer[], $2::text[], $3::bigint[]) AS v (device_no, version, at) WHERE d.device_no = v.device_no`, no, version, now)
	return err
}

// fence is a connection of a device.
type fence struct{ deviceNo, epoch int64 }

func (b *postgresBatch) reports(ctx context.Context, list []*registry.ReportWrite) error {
	if len(list) == 0 {
		return nil
	}
	live, err := b.fences(ctx, list)
	if err != nil {
		return err
	}
	type key struct {
		deviceNo int64
		kind     topic.Kind
	}
	newest := make(map[key]*registry.ReportWrite, len(list))
	var events []*registry.ReportWrite
	for _, w := range list {
		if w.Stale = !live[fence{w.DeviceNo, w.Epoch}]; w.Stale {
			continue
		}
		newest[key{w.DeviceNo, w.Kind}] = w
		if w.EventID != 0 {
			events = append(events, w)
		}
	}
	var no, kind, now []int64
	var payload []string
	for _, w := range newest {
		no, kind, now, payload = append(no, w.DeviceNo), append(kind, int64(w.Kind)), append(now, w.At.UnixMicro()), append(payload, w.Payload)
	}
	if len(no) == 0 {
		return nil
	}
	_, err = b.t.exec(ctx, `INSERT INTO device_reports (device_no, kind, received_at, payload)
		SELECT v.device_no, v.kind, v.at, v.payload
		FROM unnest($1::integer[], $2::integer[], $3::bigint[], $4::text[]) AS v (device_no, kind, at, payload)
		ON CONFLICT (device_no, kind) DO UPDATE SET received_at = excluded.received_at, payload = excluded.payload`, no, kind, now, payload)
	if err != nil {
		return err
	}
	return b.events(ctx, events)
}

// fences moves last_seen of the reports' devices and tells which of their
// connections still are the devices' own.
func (b *postgresBatch) fences(ctx context.Context, list []*registry.ReportWrite) (map[fence]bool, error) {
	seen := make(map[fence]time.Time, len(list))
	for _, w := range list {
		seen[fence{w.DeviceNo, w.Epoch}] = w.At
	}
	no, epoch, now := make([]int64, 0, len(seen)), make([]int64, 0, len(seen)), make([]int64, 0, len(seen))
	for f, when := range seen {
		no, epoch, now = append(no, f.deviceNo), append(epoch, f.epoch), append(now, when.UnixMicro())
	}
	live := make(map[fence]bool, len(seen))
	err := b.t.rows(ctx, `UPDATE device_presence p SET last_seen = v.at
		FROM unnest($1::integer[], $2::bigint[], $3::bigint[]) AS v (device_no, epoch, at)
		WHERE p.device_no = v.device_no AND p.epoch = v.epoch RETURNING p.device_no, p.epoch`, []any{no, epoch, now}, func(scan scanFunc) error {
		var f fence
		err := scan(&f.deviceNo, &f.epoch)
		live[f] = true
		return err
	})
	return live, err
}

// events keeps reports as events, and of each type only the newest.
func (b *postgresBatch) events(ctx context.Context, list []*registry.ReportWrite) error {
	if len(list) == 0 {
		return nil
	}
	var id, no, now, keep []int64
	var typ, data []string
	for _, w := range list {
		id, no, now, keep = append(id, w.EventID), append(no, w.DeviceNo), append(now, w.At.UnixMicro()), append(keep, int64(max(w.Keep, 0)))
		typ, data = append(typ, eventType(w.Kind)), append(data, w.Payload)
	}
	_, err := b.t.exec(ctx, `INSERT INTO device_events (event_id, device_no, type, occurred_at, data)
		SELECT v.event_id, v.device_no, v.type, v.at, v.data
		FROM unnest($1::bigint[], $2::integer[], $3::text[], $4::bigint[], $5::text[]) AS v (event_id, device_no, type, at, data)`,
		id, no, typ, now, data)
	if err != nil {
		return err
	}
	_, err = b.t.exec(ctx, `DELETE FROM device_events e
		USING (SELECT DISTINCT u.device_no, u.type, u.keep FROM unnest($1::integer[], $2::text[], $3::bigint[]) AS u (device_no, type, keep)) v
		WHERE e.device_no = v.device_no AND e.type = v.type AND e.event_id <=
			(SELECT o.event_id FROM device_events o WHERE o.device_no = v.device_no AND o.type = v.type
				ORDER BY o.event_id DESC LIMIT 1 OFFSET v.keep)`, no, typ, keep)
	return err
}

func (b *postgresBatch) disconnects(ctx context.Context, list []*registry.Disconnect) error {
	return waves(list, func(d *registry.Disconnect) int64 { return d.DeviceNo }, func(wave []*registry.Disconnect) error {
		return b.disconnectWave(ctx, wave)
	})
}

func (b *postgresBatch) disconnectWave(ctx context.Context, wave []*registry.Disconnect) error {
	n := len(wave)
	no, epoch, now, seen, reason := make([]int64, n), make([]int64, n), make([]int64, n), make([]*int64, n), make([]int64, n)
	index := make(map[int64]int, n)
	for i, d := range wave {
		no[i], epoch[i], now[i], reason[i] = d.DeviceNo, d.Epoch, d.At.UnixMicro(), int64(d.Reason)
		if !d.LastSeen.IsZero() {
			micro := d.LastSeen.UnixMicro()
			seen[i] = &micro
		}
		index[d.DeviceNo] = i
	}
	var history []ended
	err := b.t.rows(ctx, `UPDATE device_presence p SET status = $6, reason = v.reason, changed_at = v.at, last_seen = GREATEST(p.last_seen, v.seen)
		FROM unnest($1::integer[], $2::bigint[], $3::bigint[], $4::bigint[], $5::integer[]) AS v (device_no, epoch, at, seen, reason)
			JOIN devices d ON d.device_no = v.device_no
		WHERE p.device_no = v.device_no AND p.epoch = v.epoch AND p.status = $7
		RETURNING p.device_no, `+rowColumns+`, d.firmware_version`,
		[]any{no, epoch, now, seen, reason, int64(registry.Offline), int64(registry.Online)}, func(scan scanFunc) error {
			var done int64
			var row presenceRow
			if err := scan(append([]any{&done}, row.dest()...)...); err != nil {
				return err
			}
			d := wave[index[done]]
			d.Changed, d.Row = true, row.Row
			history = append(history, row.end(done, d.At, d.Reason))
			return nil
		})
	if err != nil {
		return err
	}
	return b.history(ctx, history)
}

func (b *postgresBatch) claims(ctx context.Context, list []*registry.Claim) error {
	return waves(list, func(c *registry.Claim) int64 { return c.DeviceNo }, func(wave []*registry.Claim) error {
		return b.claimWave(ctx, wave)
	})
}

// claimWave reads, decides, and writes guarded by what it has read.
func (b *postgresBatch) claimWave(ctx context.Context, wave []*registry.Claim) error {
	n := len(wave)
	no, credential, now := make([]int64, n), make([]int64, n), make([]int64, n)
	index := make(map[int64]int, n)
	for i, c := range wave {
		no[i], credential[i], now[i] = c.DeviceNo, c.CredentialID, c.At.UnixMicro()
		index[c.DeviceNo] = i
		c.Refused = true
	}
	var history []ended
	err := b.t.rows(ctx, `SELECT d.device_no, `+rowColumns+`, d.firmware_version
		FROM unnest($1::integer[], $2::bigint[], $3::bigint[]) AS v (device_no, credential_id, at)
			JOIN devices d ON d.device_no = v.device_no JOIN device_presence p ON p.device_no = v.device_no
		WHERE d.disabled_at IS NULL AND (v.credential_id = 0 OR EXISTS (SELECT 1 FROM device_credentials c
			WHERE c.credential_id = v.credential_id AND c.device_no = v.device_no AND (c.expires_at IS NULL OR c.expires_at > v.at)))`,
		[]any{no, credential, now}, func(scan scanFunc) error {
			var found int64
			var old presenceRow
			if err := scan(append([]any{&found}, old.dest()...)...); err != nil {
				return err
			}
			c := wave[index[found]]
			c.Refused = false
			if last, over := takeOver(c, &old); over {
				history = append(history, last)
			}
			return nil
		})
	if err != nil {
		return err
	}
	if err := b.history(ctx, history); err != nil {
		return err
	}
	return b.online(ctx, wave)
}

// online writes the claims that were not refused.
func (b *postgresBatch) online(ctx context.Context, wave []*registry.Claim) error {
	var no, epoch, boot, connection, protocol, now []int64
	var node, remote []string
	for _, c := range wave {
		if c.Refused {
			continue
		}
		no, epoch, boot = append(no, c.DeviceNo), append(epoch, c.Row.Presence.Epoch), append(boot, c.BootID)
		connection, protocol, now = append(connection, c.ConnectionID), append(protocol, int64(c.Protocol)), append(now, c.At.UnixMicro())
		node, remote = append(node, c.NodeID), append(remote, c.Remote)
	}
	if len(no) == 0 {
		return nil
	}
	changed, err := b.t.exec(ctx, `UPDATE device_presence p SET epoch = v.epoch, status = $9, reason = $10,
			node_id = NULLIF(v.node_id, ''), boot_id = v.boot_id, connection_id = v.connection_id, remote = NULLIF(v.remote, ''),
			protocol = v.protocol, connected_at = v.at, changed_at = v.at, last_seen = v.at
		FROM unnest($1::integer[], $2::bigint[], $3::text[], $4::bigint[], $5::bigint[], $6::text[], $7::integer[], $8::bigint[])
			AS v (device_no, epoch, node_id, boot_id, connection_id, remote, protocol, at)
			JOIN devices d ON d.device_no = v.device_no AND d.disabled_at IS NULL
		WHERE p.device_no = v.device_no AND p.epoch = v.epoch - 1`,
		no, epoch, node, boot, connection, remote, protocol, now, int64(registry.Online), int64(registry.Connected))
	if err == nil && changed != int64(len(no)) {
		err = errLostRace
	}
	return err
}

// history records the ends of connections, once: what a crash left behind may have
// been settled already.
func (b *postgresBatch) history(ctx context.Context, list []ended) error {
	if len(list) == 0 {
		return nil
	}
	var id, no, epoch, protocol, from, until, reason []int64
	var node, remote []string
	for _, e := range list {
		id, no, epoch, protocol = append(id, e.ID), append(no, e.deviceNo), append(epoch, e.Epoch), append(protocol, int64(e.Protocol))
		from, until, reason = append(from, e.ConnectedAt.UnixMicro()), append(until, e.DisconnectedAt.UnixMicro()), append(reason, int64(e.Reason))
		node, remote = append(node, e.NodeID), append(remote, e.Remote)
	}
	_, err := b.t.exec(ctx, `INSERT INTO device_connections
			(connection_id, device_no, epoch, node_id, remote, protocol, connected_at, disconnected_at, reason)
		SELECT v.connection_id, v.device_no, v.epoch, NULLIF(v.node_id, ''), NULLIF(v.remote, ''), v.protocol, v.connected_at, v.disconnected_at, v.reason
		FROM unnest($1::bigint[], $2::integer[], $3::bigint[], $4::text[], $5::text[], $6::integer[], $7::bigint[], $8::bigint[], $9::integer[])
			AS v (connection_id, device_no, epoch, node_id, remote, protocol, connected_at, disconnected_at, reason)
		ON CONFLICT (connection_id) DO NOTHING`, id, no, epoch, node, remote, protocol, from, until, reason)
	return err
}
