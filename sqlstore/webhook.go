package sqlstore

import (
	"cmp"
	"context"
	"database/sql"
	"math"
	"time"

	"github.com/opticworks/devicecloud/registry"
	"github.com/opticworks/devicecloud/webhook"
)

// Webhooks is the database as the domain of webhooks sees it.
func (db *DB) Webhooks() webhook.Store { return webhookStore{db} }

type webhookStore struct{ db *DB }

func (s webhookStore) View(ctx context.Context, f func(webhook.Tx) error) error {
	return s.db.view(ctx, func(t *tx) error { return f(t) })
}

func (s webhookStore) InTx(ctx context.Context, f func(webhook.Tx) error) error {
	return s.db.retry(ctx, func() error {
		return s.db.transaction(ctx, false, func(_ *sql.Conn, t *tx) error { return f(t) })
	})
}

const selectEndpoint = `SELECT e.endpoint_no, e.endpoint_id, e.url, e.description, e.secret, e.old_secret, e.old_secret_until,
		e.disabled_at, e.disabled_reason, e.failing_since, e.not_before, e.created_by, e.created_at, e.updated_at
	FROM webhook_endpoints e WHERE `

// endpoints reads endpoints with their subscriptions, in the order of webhook.Events.
func (t *tx) endpoints(ctx context.Context, condition string, args ...any) ([]webhook.Endpoint, error) {
	list, err := collect(ctx, t, selectEndpoint+condition, args, func(scan scanFunc, e *webhook.Endpoint) error {
		return scan(&e.No, &e.ID, &e.URL, &e.Description, &e.Secret, &e.OldSecret, at(&e.OldSecretUntil),
			at(&e.DisabledAt), opt(&e.DisabledReason), at(&e.FailingSince), at(&e.NotBefore), &e.CreatedBy, at(&e.CreatedAt), at(&e.UpdatedAt))
	})
	if err != nil {
		return nil, err
	}
	for i := range list {
		wanted := map[string]bool{}
		err := t.rows(ctx, `SELECT event_type FROM webhook_subscriptions WHERE endpoint_no = $1`, []any{list[i].No}, func(scan scanFunc) error {
			var typ string
			err := scan(&typ)
			wanted[typ] = true
			return err
		})
		if err != nil {
			return nil, err
		}
		for _, known := range webhook.Events() {
			if wanted[known] {
				list[i].Events = append(list[i].Events, known)
			}
		}
	}
	return list, nil
}

// Endpoints implements webhook.EndpointTx.
func (t *tx) Endpoints(ctx context.Context, after string, limit int) ([]webhook.Endpoint, error) {
	return t.endpoints(ctx, `e.endpoint_id > $1 ORDER BY e.endpoint_id LIMIT CAST($2 AS BIGINT)`, after, capped(limit))
}

// Endpoint implements webhook.EndpointTx.
func (t *tx) Endpoint(ctx context.Context, id string) (webhook.Endpoint, error) {
	list, err := t.endpoints(ctx, `e.endpoint_id = $1`, id)
	if err == nil && len(list) == 0 {
		err = webhook.ErrNotFound
	}
	if err != nil {
		return webhook.Endpoint{}, err
	}
	return list[0], nil
}

// InsertEndpoint implements webhook.EndpointTx.
func (t *tx) InsertEndpoint(ctx context.Context, e webhook.Endpoint, limit int) (no int64, err error) {
	if no, err = t.nextNumber(ctx, "webhook_endpoints"); err != nil { // others wait here
		return 0, err
	}
	put, err := t.changes(ctx, `INSERT INTO webhook_endpoints (endpoint_no, endpoint_id, url, description, secret, disabled_at, disabled_reason,
			created_by, created_at, updated_at)
		SELECT CAST($1 AS INTEGER), CAST($2 AS TEXT), CAST($3 AS TEXT), CAST($4 AS TEXT), $5, CAST($6 AS BIGINT), CAST($7 AS TEXT),
			CAST($8 AS TEXT), CAST($9 AS BIGINT), CAST($9 AS BIGINT)
		WHERE (SELECT COUNT(*) FROM webhook_endpoints) < $10`,
		no, e.ID, e.URL, e.Description, e.Secret, micros(e.DisabledAt), text(e.DisabledReason), e.CreatedBy, micros(e.CreatedAt), int64(limit))
	if err == nil && !put {
		err = webhook.ErrLimit
	}
	if err != nil {
		return 0, err
	}
	return no, t.subscribe(ctx, no, e.Events)
}

func (t *tx) subscribe(ctx context.Context, no int64, events []string) error {
	for _, typ := range events {
		if _, err := t.exec(ctx, `INSERT INTO webhook_subscriptions (event_type, endpoint_no) VALUES ($1, $2)`, typ, no); err != nil {
			return err
		}
	}
	return nil
}

// UpdateEndpoint implements webhook.EndpointTx.
func (t *tx) UpdateEndpoint(ctx context.Context, e webhook.Endpoint, was time.Time) (bool, error) {
	changed, err := t.changes(ctx, `UPDATE webhook_endpoints SET url = $2, description = $3, disabled_at = $4, disabled_reason = $5,
			failing_since = CASE WHEN disabled_at IS NOT NULL AND CAST($4 AS BIGINT) IS NULL THEN NULL ELSE failing_since END,
			not_before = CASE WHEN disabled_at IS NOT NULL AND CAST($4 AS BIGINT) IS NULL THEN NULL ELSE not_before END,
			updated_at = $6
		WHERE endpoint_no = $1 AND updated_at = $7`,
		e.No, e.URL, e.Description, micros(e.DisabledAt), text(e.DisabledReason), micros(e.UpdatedAt), micros(was))
	if err != nil || !changed {
		return false, err
	}
	if _, err := t.exec(ctx, `DELETE FROM webhook_subscriptions WHERE endpoint_no = $1`, e.No); err != nil {
		return false, err
	}
	return true, t.subscribe(ctx, e.No, e.Events)
}

// RotateSecret implements webhook.EndpointTx.
func (t *tx) RotateSecret(ctx context.Context, no int64, secret []byte, oldUntil, now time.Time) error {
	changed, err := t.changes(ctx, `UPDATE webhook_endpoints SET old_secret = secret, old_secret_until = $3, secret = $2, updated_at = $4
		WHERE endpoint_no = $1`, no, secret, micros(oldUntil), micros(now))
	if err == nil && !changed {
		err = webhook.ErrNotFound
	}
	return err
}

// DeleteOldSecrets implements webhook.EndpointTx.
func (t *tx) DeleteOldSecrets(ctx context.Context, now time.Time) error {
	_, err := t.exec(ctx, `UPDATE webhook_endpoints SET old_secret = NULL, old_secret_until = NULL WHERE old_secret_until <= $1`, micros(now))
	return err
}

// DeleteEndpoint implements webhook.EndpointTx.
func (t *tx) DeleteEndpoint(ctx context.Context, no int64) (bool, error) {
	return t.changes(ctx, `DELETE FROM webhook_endpoints WHERE endpoint_no = $1`, no)
}

// SetFailing implements webhook.EndpointTx.
func (t *tx) SetFailing(ctx context.Context, no int64, now time.Time) error {
	_, err := t.exec(ctx, `UPDATE webhook_endpoints SET failing_since = $2 WHERE endpoint_no = $1 AND failing_since IS NULL`, no, micros(now))
	return err
}

// SetWorking implements webhook.EndpointTx.
func (t *tx) SetWorking(ctx context.Context, no int64) error {
	_, err := t.exec(ctx, `UPDATE webhook_endpoints SET failing_since = NULL WHERE endpoint_no = $1 AND failing_since IS NOT NULL`, no)
	return err
}

// SetNotBefore implements webhook.EndpointTx.
func (t *tx) SetNotBefore(ctx context.Context, no int64, until time.Time) error {
	_, err := t.exec(ctx, `UPDATE webhook_endpoints SET not_before = $2
		WHERE endpoint_no = $1 AND (not_before IS NULL OR not_before < $2)`, no, micros(until))
	return err
}

// DisableEndpoint implements webhook.EndpointTx.
func (t *tx) DisableEndpoint(ctx context.Context, no int64, reason webhook.DisabledReason, failingSince, now time.Time) (bool, error) {
	before := int64(math.MaxInt64)
	if !failingSince.IsZero() {
		before = failingSince.UnixMicro()
	}
	return t.changes(ctx, `UPDATE webhook_endpoints SET disabled_at = $3, disabled_reason = $2, updated_at = $3
		WHERE endpoint_no = $1 AND disabled_at IS NULL AND failing_since <= $4`, no, string(reason), micros(now), before)
}

const deliveryColumns = `d.endpoint_no, d.event_id, d.type, d.device_id, d.body, d.status, d.attempt, d.first_attempt,
	d.due_at, d.created_at, d.tried_at, d.finished_at, d.answer, d.error`

// deliveryDest is where the deliveryColumns go.
func deliveryDest(d *webhook.Delivery) []any {
	return []any{
		&d.EndpointNo, &d.EventID, &d.Type, opt(&d.DeviceID), &d.Body, opt(&d.Status), &d.Attempt, &d.FirstAttempt,
		at(&d.DueAt), at(&d.CreatedAt), at(&d.TriedAt), at(&d.FinishedAt), num(&d.Answer), opt(&d.Error),
	}
}

func (t *tx) deliveries(ctx context.Context, condition string, args ...any) ([]webhook.Delivery, error) {
	return collect(ctx, t, `SELECT `+deliveryColumns+` FROM webhook_deliveries d WHERE `+condition, args, func(scan scanFunc, d *webhook.Delivery) error {
		return scan(deliveryDest(d)...)
	})
}

// InsertDelivery implements webhook.DeliveryTx.
func (t *tx) InsertDelivery(ctx context.Context, endpointNo int64, e registry.OutboxEvent) error {
	body, err := e.Body()
	if err != nil {
		return err
	}
	_, err = t.exec(ctx, `INSERT INTO webhook_deliveries (endpoint_no, event_id, type, device_id, body, status, due_at, created_at)
		VALUES ($1, $2, $3, $4, $5, 'waiting', $6, $6)`, endpointNo, e.ID, e.Type, text(e.DeviceID), body, micros(e.At))
	return err
}

// Deliveries implements webhook.DeliveryTx.
func (t *tx) Deliveries(ctx context.Context, endpointNo int64, status webhook.Status, before int64, limit int) ([]webhook.Delivery, error) {
	if status == "" {
		return t.deliveries(ctx, `d.endpoint_no = $1 AND d.event_id < $2 ORDER BY d.event_id DESC LIMIT CAST($3 AS BIGINT)`,
			endpointNo, below(before), capped(limit))
	}
	return t.deliveries(ctx, `d.endpoint_no = $1 AND d.status = $4 AND d.event_id < $2 ORDER BY d.event_id DESC LIMIT CAST($3 AS BIGINT)`,
		endpointNo, below(before), capped(limit), string(status))
}

// Delivery implements webhook.DeliveryTx.
func (t *tx) Delivery(ctx context.Context, endpointNo, eventID int64) (webhook.Delivery, error) {
	list, err := t.deliveries(ctx, `d.endpoint_no = $1 AND d.event_id = $2`, endpointNo, eventID)
	if err == nil && len(list) == 0 {
		err = webhook.ErrDeliveryNotFound
	}
	if err != nil {
		return webhook.Delivery{}, err
	}
	return list[0], nil
}

// DueEndpoints implements webhook.DeliveryTx.
func (t *tx) DueEndpoints(ctx context.Context, now time.Time) ([]webhook.Endpoint, error) {
	return t.endpoints(ctx, `e.disabled_at IS NULL AND (e.not_before IS NULL OR e.not_before <= $1)
		AND EXISTS (SELECT 1 FROM webhook_deliveries d WHERE d.endpoint_no = e.endpoint_no AND d.status = 'waiting' AND d.due_at <= $1)`, micros(now))
}

// dueDelivery is a delivery that is due, and what stands before it.
type dueDelivery struct {
	webhook.Delivery
	blocked time.Time // when an older one about the same device is due; zero: there is none
}

const (
	// takePage is how many due deliveries are looked at, at a time.
	takePage = 64
	// takePages bounds a transaction: all others wait for SQLite's one writer.
	takePages = 4
)

// TakeDeliveries implements webhook.DeliveryTx. What cannot be taken because an older one
// waits is put off until that is due, or its lease ends, so that it is not looked at
// again each time.
func (t *tx) TakeDeliveries(ctx context.Context, endpointNo int64, now, until time.Time, limit int) (taken []webhook.Delivery, more bool, err error) {
	for range takePages {
		due, err := collect(ctx, t, `SELECT `+deliveryColumns+`, (SELECT o.due_at FROM webhook_deliveries o
				WHERE o.endpoint_no = d.endpoint_no AND o.device_id = d.device_id AND o.status = 'waiting' AND o.event_id < d.event_id
				ORDER BY o.event_id LIMIT 1)
			FROM webhook_deliveries d WHERE d.endpoint_no = $1 AND d.status = 'waiting' AND d.due_at <= $2
			ORDER BY d.due_at, d.event_id LIMIT CAST($3 AS BIGINT)`, []any{endpointNo, micros(now), capped(takePage)}, func(scan scanFunc, d *dueDelivery) error {
			return scan(append(deliveryDest(&d.Delivery), at(&d.blocked))...)
		})
		if err != nil {
			return nil, false, err
		}
		for _, d := range due {
			if len(taken) == limit {
				return taken, true, nil
			}
			next, attempt := until, d.Attempt+1
			if !d.blocked.IsZero() {
				next, attempt = maxTime(until, d.blocked), d.Attempt
			}
			changed, err := t.changes(ctx, `UPDATE webhook_deliveries SET due_at = $4, attempt = $5
				WHERE endpoint_no = $1 AND event_id = $2 AND status = 'waiting' AND attempt = $3 AND due_at <= $6`,
				endpointNo, d.EventID, int64(d.Attempt), micros(next), int64(attempt), micros(now))
			if err != nil {
				return nil, false, err
			}
			if changed && d.blocked.IsZero() {
				d.Attempt, d.DueAt = attempt, next
				taken = append(taken, d.Delivery)
			}
		}
		if len(due) < takePage {
			return taken, false, nil
		}
	}
	return taken, true, nil
}

func maxTime(a, b time.Time) time.Time {
	if cmp.Compare(a.UnixMicro(), b.UnixMicro()) < 0 {
		return b
	}
	return a
}

// FinishDelivery implements webhook.DeliveryTx.
func (t *tx) FinishDelivery(ctx context.Context, d webhook.Delivery) (bool, error) {
	changed, err := t.changes(ctx, `UPDATE webhook_deliveries SET status = $4, first_attempt = $5, due_at = $6, tried_at = $7, finished_at = $8,
			answer = $9, error = $10
		WHERE endpoint_no = $1 AND event_id = $2 AND attempt = $3 AND status = 'waiting'`,
		d.EndpointNo, d.EventID, int64(d.Attempt), string(d.Status), int64(d.FirstAttempt), micros(d.DueAt), micros(d.TriedAt), micros(d.FinishedAt),
		positive(d.Answer), text(d.Error))
	if err != nil || !changed || d.Status == webhook.Waiting || d.DeviceID == "" {
		return changed, err
	}
	// The next one, unless it was begun already: then its time is its own.
	_, err = t.exec(ctx, `UPDATE webhook_deliveries SET due_at = $3
		WHERE endpoint_no = $1 AND due_at > $3 AND status = 'waiting' AND attempt = first_attempt AND event_id =
			(SELECT MIN(o.event_id) FROM webhook_deliveries o WHERE o.endpoint_no = $1 AND o.device_id = $2 AND o.status = 'waiting')`,
		d.EndpointNo, d.DeviceID, micros(d.FinishedAt))
	return true, err
}

// ReplayDelivery implements webhook.DeliveryTx.
func (t *tx) ReplayDelivery(ctx context.Context, endpointNo, eventID int64, now time.Time) (bool, error) {
	return t.changes(ctx, `UPDATE webhook_deliveries SET status = 'waiting', first_attempt = attempt, due_at = $3, finished_at = NULL
		WHERE endpoint_no = $1 AND event_id = $2 AND status <> 'waiting'`, endpointNo, eventID, micros(now))
}

// DeleteEnded implements webhook.DeliveryTx.
func (t *tx) DeleteEnded(ctx context.Context, status webhook.Status, before time.Time, limit int) (int, error) {
	n, err := t.exec(ctx, `DELETE FROM webhook_deliveries WHERE (endpoint_no, event_id) IN
		(SELECT d.endpoint_no, d.event_id FROM webhook_deliveries d WHERE d.finished_at IS NOT NULL AND d.finished_at < $1 AND d.status = $2
			ORDER BY d.finished_at LIMIT CAST($3 AS BIGINT))`, micros(before), string(status), capped(limit))
	return int(n), err
}

// DeleteCreated implements webhook.DeliveryTx.
func (t *tx) DeleteCreated(ctx context.Context, before time.Time, limit int) (int, error) {
	n, err := t.exec(ctx, `DELETE FROM webhook_deliveries WHERE (endpoint_no, event_id) IN
		(SELECT d.endpoint_no, d.event_id FROM webhook_deliveries d WHERE d.created_at < $1 ORDER BY d.created_at LIMIT CAST($2 AS BIGINT))`,
		micros(before), capped(limit))
	return int(n), err
}

// DeleteDeliveries implements webhook.DeliveryTx.
func (t *tx) DeleteDeliveries(ctx context.Context, endpointNo int64, limit int) (int, error) {
	n, err := t.exec(ctx, `DELETE FROM webhook_deliveries WHERE endpoint_no = $1 AND event_id IN
		(SELECT d.event_id FROM webhook_deliveries d WHERE d.endpoint_no = $1 LIMIT CAST($2 AS BIGINT))`, endpointNo, capped(limit))
	return int(n), err
}

// CountWaiting implements webhook.DeliveryTx.
func (t *tx) CountWaiting(ctx context.Context) (n int64, oldest time.Time, err error) {
	err = t.row(ctx, `SELECT COUNT(*), MIN(d.created_at) FROM webhook_deliveries d
		JOIN webhook_endpoints e ON e.endpoint_no = d.endpoint_no WHERE d.status = 'waiting' AND e.disabled_at IS NULL`, nil, &n, at(&oldest))
	return n, oldest, err
}
