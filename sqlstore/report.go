package sqlstore

import (
	"context"
	"strings"
	"time"

	"github.com/opticworks/devicecloud/registry"
	"github.com/opticworks/devicecloud/topic"
)

// eventType is the type of the event that a report leaves: "config.status".
func eventType(k topic.Kind) string { return strings.ReplaceAll(k.String(), "/", ".") }

// Report implements registry.ReportTx.
func (t *tx) Report(ctx context.Context, deviceNo int64, k topic.Kind) (r registry.Report, ok bool, err error) {
	ok, err = t.found(ctx, `SELECT payload, received_at FROM device_reports WHERE device_no = $1 AND kind = $2`,
		[]any{deviceNo, int64(k)}, &r.Payload, at(&r.ReceivedAt))
	return r, ok, err
}

// Reports implements registry.ReportTx.
func (t *tx) Reports(ctx context.Context, deviceNo int64) (map[topic.Kind]registry.Report, error) {
	all := make(map[topic.Kind]registry.Report)
	err := t.rows(ctx, `SELECT kind, payload, received_at FROM device_reports WHERE device_no = $1`,
		[]any{deviceNo}, func(scan scanFunc) error {
			var k topic.Kind
			var r registry.Report
			if err := scan(&k, &r.Payload, at(&r.ReceivedAt)); err != nil {
				return err
			}
			all[k] = r
			return nil
		})
	return all, err
}

// Events implements registry.ReportTx.
func (t *tx) Events(ctx context.Context, deviceNo int64, typ string, before int64, limit int) ([]registry.Event, error) {
	query := `SELECT event_id, device_no, type, occurred_at, data FROM device_events
		WHERE device_no = $1 AND event_id < $2 ORDER BY event_id DESC LIMIT CAST($3 AS BIGINT)`
	args := []any{deviceNo, below(before), capped(limit)}
	if typ != "" {
		query = `SELECT event_id, device_no, type, occurred_at, data FROM device_events
			WHERE device_no = $1 AND event_id < $2 AND type = $4 ORDER BY event_id DESC LIMIT CAST($3 AS BIGINT)`
		args = append(args, typ)
	}
	return collect(ctx, t, query, args, func(scan scanFunc, e *registry.Event) error {
		return scan(&e.ID, &e.DeviceNo, &e.Type, at(&e.OccurredAt), &e.Data)
	})
}

const (
	insertEvent = `INSERT INTO device_events (event_id, device_no, type, occurred_at, data) VALUES ($1, $2, $3, $4, $5)`
	// trimEvents keeps the newest $3 events of a type.
	trimEvents = `DELETE FROM device_events WHERE device_no = $1 AND type = $2 AND event_id <=
		(SELECT e.event_id FROM device_events e WHERE e.device_no = $1 AND e.type = $2 ORDER BY e.event_id DESC LIMIT 1 OFFSET $3)`
)

// InsertEvent implements registry.ReportTx; ErrDeviceNotFound when there is no
// such device.
func (t *tx) InsertEvent(ctx context.Context, e registry.Event, keep int) error {
	data := e.Data
	if data == "" {
		data = "{}"
	}
	if _, err := t.exec(ctx, insertEvent, e.ID, e.DeviceNo, e.Type, micros(e.OccurredAt), data); err != nil {
		if t.engine.violation(err) == foreignKeyViolation {
			return registry.ErrDeviceNotFound.With(err)
		}
		return err
	}
	_, err := t.exec(ctx, trimEvents, e.DeviceNo, e.Type, int64(max(keep, 0)))
	return err
}

// DeletePersonal implements registry.ReportTx.
func (t *tx) DeletePersonal(ctx context.Context, deviceNo int64) error {
	for _, query := range []string{
		`DELETE FROM device_reports WHERE device_no = $1`,
		`DELETE FROM device_events WHERE device_no = $1`,
		`DELETE FROM device_connections WHERE device_no = $1`,
	} {
		if _, err := t.exec(ctx, query, deviceNo); err != nil {
			return err
		}
	}
	return nil
}

// DeleteHistory implements registry.ReportTx.
func (t *tx) DeleteHistory(ctx context.Context, before time.Time, limit int) (int, error) {
	connections, err := t.exec(ctx, `DELETE FROM device_connections WHERE connection_id IN
		(SELECT c.connection_id FROM device_connections c WHERE c.disconnected_at < $1 ORDER BY c.disconnected_at LIMIT $2)`,
		micros(before), int64(limit))
	if err != nil {
		return 0, err
	}
	events, err := t.exec(ctx, `DELETE FROM device_events WHERE event_id IN
		(SELECT e.event_id FROM device_events e WHERE e.occurred_at < $1 ORDER BY e.occurred_at LIMIT $2)`,
		micros(before), int64(limit)-connections)
	return int(connections + events), err
}
