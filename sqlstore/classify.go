package sqlstore

import (
	"context"
	"strconv"
	"time"

	"github.com/opticworks/devicecloud/media"
	"github.com/opticworks/devicecloud/registry"
)

// Classifications is the database as the classification of events sees it.
func (db *DB) Classifications() media.ClassifyStore { return classifyStore{db} }

type classifyStore struct{ db *DB }

func (s classifyStore) ClassifyView(ctx context.Context, f func(media.ClassifyTx) error) error {
	return s.db.view(ctx, func(t *tx) error { return f(t) })
}

func (s classifyStore) ClassifyTx(ctx context.Context, f func(media.ClassifyTx) error) error {
	return s.db.inTx(ctx, func(t *tx) error { return f(t) })
}

var _ media.ClassifyTx = (*tx)(nil)

// FindEvent implements media.ClassifyTx.
func (t *tx) FindEvent(ctx context.Context, deviceNo int64, id string) (e registry.Event, ok bool, err error) {
	if no, perr := strconv.ParseInt(id, 10, 64); perr == nil {
		ok, err = t.found(ctx, `SELECT event_id, device_no, type, occurred_at, data FROM device_events WHERE event_id = $1 AND device_no = $2`,
			[]any{no, deviceNo}, &e.ID, &e.DeviceNo, &e.Type, at(&e.OccurredAt), &e.Data)
		if ok || err != nil {
			return e, ok, err
		}
	}
	ok, err = t.found(ctx, `SELECT d.event_id, d.device_no, d.type, d.occurred_at, d.data FROM iot_events i
		JOIN device_events d ON d.event_id = i.event_id WHERE i.device_no = $1 AND i.sender_id = $2`,
		[]any{deviceNo, id}, &e.ID, &e.DeviceNo, &e.Type, at(&e.OccurredAt), &e.Data)
	return e, ok, err
}

// QueueClassification implements media.IngestTx.
func (t *tx) QueueClassification(ctx context.Context, c media.Classification) error {
	_, err := t.exec(ctx, `INSERT INTO event_classifications (event_id, model_id, device_no, status, due_at, created_at)
		VALUES ($1, $2, $3, 'waiting', $4, $4) ON CONFLICT (event_id, model_id) DO NOTHING`, c.EventID, c.ModelID, c.DeviceNo, micros(c.CreatedAt))
	return err
}

// ClaimClassification implements media.ClassifyTx.
func (t *tx) ClaimClassification(ctx context.Context, c media.Classification, now, until time.Time) (bool, error) {
	return t.changes(ctx, `INSERT INTO event_classifications AS e (event_id, model_id, device_no, status, attempts, claim, due_at, created_at)
		VALUES ($1, $2, $3, 'running', 1, $4, $6, $5)
		ON CONFLICT (event_id, model_id) DO UPDATE SET status = 'running', attempts = e.attempts + 1, claim = excluded.claim, due_at = excluded.due_at, error = NULL
		WHERE e.status IN ('waiting', 'failed') OR e.status = 'running' AND e.due_at <= $5`,
		c.EventID, c.ModelID, c.DeviceNo, c.Claim, micros(now), micros(until))
}

// FinishClassification implements media.ClassifyTx.
func (t *tx) FinishClassification(ctx context.Context, c media.Classification) (bool, error) {
	return t.changes(ctx, `UPDATE event_classifications SET status = 'done', due_at = NULL, label = $4, confidence = $5, summary = $6, classified_at = $7, error = NULL
		WHERE event_id = $1 AND model_id = $2 AND claim = $3 AND status = 'running'`,
		c.EventID, c.ModelID, c.Claim, string(c.Label), c.Thousandths, c.Summary, micros(c.ClassifiedAt))
}

// ReleaseClassification implements media.ClassifyTx.
func (t *tx) ReleaseClassification(ctx context.Context, c media.Classification, why string, again time.Time) error {
	status := "waiting"
	if again.IsZero() {
		status = "failed"
	}
	_, err := t.exec(ctx, `UPDATE event_classifications SET status = $4, due_at = $5, error = $6
		WHERE event_id = $1 AND model_id = $2 AND claim = $3 AND status = 'running'`,
		c.EventID, c.ModelID, c.Claim, status, micros(again), text(why))
	return err
}

const classification = `SELECT c.event_id, c.model_id, c.device_no, d.device_id, c.status, c.attempts, c.claim, c.due_at, c.label, c.confidence, c.summary, c.error, c.created_at, c.classified_at
	FROM event_classifications c JOIN devices d ON d.device_no = c.device_no `

func scanClassification(scan scanFunc, c *media.Classification) error {
	return scan(&c.EventID, &c.ModelID, &c.DeviceNo, &c.DeviceID, opt(&c.Status), &c.Attempts, &c.Claim, at(&c.DueAt), opt(&c.Label), num(&c.Thousandths),
		opt(&c.Summary), opt(&c.Error), at(&c.CreatedAt), at(&c.ClassifiedAt))
}

// Classification implements media.ClassifyTx.
func (t *tx) Classification(ctx context.Context, eventID int64, modelID string) (c media.Classification, ok bool, err error) {
	list, err := collect(ctx, t, classification+`WHERE c.event_id = $1 AND c.model_id = $2`, []any{eventID, modelID}, scanClassification)
	if err != nil || len(list) == 0 {
		return c, false, err
	}
	return list[0], true, nil
}

// DueClassifications implements media.ClassifyTx.
func (t *tx) DueClassifications(ctx context.Context, modelID string, now time.Time, limit int) ([]media.Classification, error) {
	return collect(ctx, t, classification+`WHERE c.due_at <= $1 AND c.model_id = $2 ORDER BY c.due_at LIMIT CAST($3 AS BIGINT)`,
		[]any{micros(now), modelID, capped(limit)}, scanClassification)
}

// Classifications implements media.ClassifyTx.
func (t *tx) Classifications(ctx context.Context, deviceNo, from, to int64) ([]media.Classification, error) {
	return collect(ctx, t, classification+`WHERE c.device_no = $1 AND c.event_id BETWEEN $2 AND $3 AND c.status = 'done' ORDER BY c.event_id, c.classified_at`,
		[]any{deviceNo, from, to}, scanClassification)
}

// ChargeClassification implements media.ClassifyTx.
func (t *tx) ChargeClassification(ctx context.Context, deviceNo, day int64, limit int) (bool, error) {
	if limit <= 0 {
		return false, nil
	}
	return t.changes(ctx, `INSERT INTO classification_days AS c (device_no, day, calls) VALUES ($1, $2, 1)
		ON CONFLICT (device_no, day) DO UPDATE SET calls = c.calls + 1 WHERE c.calls < CAST($3 AS BIGINT)`, deviceNo, day, limit)
}

// RefundClassification implements media.ClassifyTx.
func (t *tx) RefundClassification(ctx context.Context, deviceNo, day int64) error {
	_, err := t.exec(ctx, `UPDATE classification_days SET calls = calls - 1 WHERE device_no = $1 AND day = $2 AND calls > 0`, deviceNo, day)
	return err
}

// DeleteClassificationDays implements media.ClassifyTx.
func (t *tx) DeleteClassificationDays(ctx context.Context, before int64, limit int) (int, error) {
	n, err := t.exec(ctx, `DELETE FROM classification_days WHERE (device_no, day) IN
		(SELECT c.device_no, c.day FROM classification_days c WHERE c.day < $1 ORDER BY c.day LIMIT CAST($2 AS BIGINT))`, before, int64(limit))
	return int(n), err
}
