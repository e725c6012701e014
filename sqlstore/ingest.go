package sqlstore

import (
	"context"
	"time"

	"github.com/opticworks/devicecloud/media"
)

// Ingest is the database as the ingestion of events sees it.
func (db *DB) Ingest() media.IngestStore { return ingestStore{db} }

type ingestStore struct{ db *DB }

func (s ingestStore) IngestTx(ctx context.Context, f func(media.IngestTx) error) error {
	return s.db.inTx(ctx, func(t *tx) error { return f(t) })
}

var _ media.IngestTx = (*tx)(nil)

// InsertIngested implements media.IngestTx.
func (t *tx) InsertIngested(ctx context.Context, e media.IngestedEvent) (bool, []byte, error) {
	inserted, err := t.changes(ctx, `INSERT INTO iot_events
			(event_id, device_no, sender_id, type, occurred_at, received_at, dedup_key, body_hash, source)
		VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9) ON CONFLICT (dedup_key) DO NOTHING`,
		e.ID, e.DeviceNo, text(e.SenderID), e.Type, micros(e.OccurredAt), micros(e.ReceivedAt), e.DedupKey, e.BodyHash, e.Source)
	if err != nil || inserted {
		return inserted, nil, err
	}
	var hash []byte
	err = t.row(ctx, `SELECT body_hash FROM iot_events WHERE dedup_key = $1`, []any{e.DedupKey}, &hash)
	return false, hash, err
}

// MarkIngestAudit implements media.IngestTx.
func (t *tx) MarkIngestAudit(ctx context.Context, keyID, reason string, minute int64) (bool, error) {
	return t.changes(ctx, `INSERT INTO ingest_audits (key_id, reason, minute) VALUES ($1, $2, $3)
		ON CONFLICT (key_id, reason, minute) DO NOTHING`, keyID, reason, minute)
}

// DeleteIngested implements media.IngestTx.
func (t *tx) DeleteIngested(ctx context.Context, received, audited time.Time, limit int) (int, error) {
	events, err := t.exec(ctx, `DELETE FROM iot_events WHERE event_id IN
		(SELECT e.event_id FROM iot_events e WHERE e.received_at < $1 ORDER BY e.received_at LIMIT CAST($2 AS BIGINT))`, micros(received), int64(limit))
	if err != nil {
		return 0, err
	}
	marks, err := t.exec(ctx, `DELETE FROM ingest_audits WHERE minute IN
		(SELECT a.minute FROM ingest_audits a WHERE a.minute < $1 ORDER BY a.minute LIMIT CAST($2 AS BIGINT))`, audited.Unix()/60, int64(limit)-events)
	return int(events + marks), err
}
