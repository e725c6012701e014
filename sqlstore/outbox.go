package sqlstore

import (
	"context"

	"github.com/opticworks/devicecloud/registry"
)

// delivery is an event as it is written, before it is known who wants it.
type delivery struct {
	id             int64
	typ            string
	deviceID, body string
	at             int64
}

// subscribed is which events anybody wants: the truth itself and no copy of it, so that
// no node misses what another has just been asked to tell.
func (t *tx) subscribed(ctx context.Context) (map[string]bool, error) {
	var types map[string]bool
	err := t.rows(ctx, `SELECT DISTINCT s.event_type FROM webhook_subscriptions s
		JOIN webhook_endpoints e ON e.endpoint_no = s.endpoint_no WHERE e.disabled_at IS NULL`, nil, func(scan scanFunc) error {
		var typ string
		err := scan(&typ)
		if types == nil {
			types = map[string]bool{}
		}
		types[typ] = true
		return err
	})
	return types, err
}

// InsertOutbox implements registry.OutboxTx.
func (t *tx) InsertOutbox(ctx context.Context, events ...registry.OutboxEvent) error {
	if len(events) == 0 {
		return nil
	}
	types, err := t.subscribed(ctx)
	if err != nil || len(types) == 0 {
		return err
	}
	return t.insertOutbox(ctx, types, events)
}

func (t *tx) insertOutbox(ctx context.Context, types map[string]bool, events []registry.OutboxEvent) error {
	var list []delivery
	for _, e := range events {
		if !types[e.Type] {
			continue
		}
		body, err := e.Body()
		if err != nil {
			return err
		}
		list = append(list, delivery{e.ID, e.Type, e.DeviceID, body, e.At.UnixMicro()})
	}
	if len(list) == 0 {
		return nil
	}
	return t.engine.insertDeliveries(ctx, t, list)
}

// presenceEvents writes the events of a batch. It is the hot path: with nobody subscribed
// it is one read of a table that is empty, for the whole batch.
func (t *tx) presenceEvents(ctx context.Context, b *registry.Batch) error {
	if len(b.Disconnects) == 0 && len(b.Claims) == 0 {
		return nil
	}
	types, err := t.subscribed(t.engine.quick(ctx))
	if err != nil || !types[registry.EventOnline] && !types[registry.EventOffline] {
		return err
	}
	return t.insertOutbox(ctx, types, b.PresenceEvents())
}

const insertDelivery = `INSERT INTO webhook_deliveries (endpoint_no, event_id, type, device_id, body, status, due_at, created_at)
	SELECT s.endpoint_no, CAST($1 AS BIGINT), s.event_type, CAST($3 AS TEXT), CAST($4 AS TEXT), 'waiting', CAST($5 AS BIGINT), CAST($5 AS BIGINT)
	FROM webhook_subscriptions s JOIN webhook_endpoints e ON e.endpoint_no = s.endpoint_no
	WHERE s.event_type = $2 AND e.disabled_at IS NULL`

func (e *sqliteEngine) insertDeliveries(ctx context.Context, t *tx, list []delivery) error {
	for _, d := range list {
		if _, err := t.exec(ctx, insertDelivery, d.id, d.typ, text(d.deviceID), d.body, d.at); err != nil {
			return err
		}
	}
	return nil
}

func (postgresEngine) insertDeliveries(ctx context.Context, t *tx, list []delivery) error {
	var id, at []int64
	var typ, device, body []string
	for _, d := range list {
		id, at = append(id, d.id), append(at, d.at)
		typ, device, body = append(typ, d.typ), append(device, d.deviceID), append(body, d.body)
	}
	_, err := t.exec(ctx, `INSERT INTO webhook_deliveries (endpoint_no, event_id, type, device_id, body, status, due_at, created_at)
		SELECT s.endpoint_no, v.event_id, v.type, NULLIF(v.device_id, ''), v.body, 'waiting', v.at, v.at
		FROM unnest($1::bigint[], $2::text[], $3::text[], $4::text[], $5::bigint[]) AS v (event_id, type, device_id, body, at)
			JOIN webhook_subscriptions s ON s.event_type = v.type JOIN webhook_endpoints e ON e.endpoint_no = s.endpoint_no
		WHERE e.disabled_at IS NULL`, id, typ, device, body, at)
	return err
}
