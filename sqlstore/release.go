package sqlstore

import (
	"context"
	"strings"
	"time"

	"github.com/opticworks/devicecloud/registry"
	"github.com/opticworks/devicecloud/rollout"
)

// Rollouts is the database as the domain of firmware sees it.
func (db *DB) Rollouts() rollout.Store { return rolloutStore{db} }

type rolloutStore struct{ db *DB }

func (s rolloutStore) View(ctx context.Context, f func(rollout.Tx) error) error {
	return s.db.view(ctx, func(t *tx) error { return f(t) })
}

// Of implements rollout.Store. Every transaction of this package is one over all tables.
func (rolloutStore) Of(t registry.Tx) rollout.Tx { return t.(rollout.Tx) }

const releaseColumns = `l.release_no, l.release_id, l.version, l.hardware, l.url, l.sha256, l.min_rssi, l.notes, l.withdrawn_at, l.created_by, l.created_at`

// releaseDest is where the releaseColumns go.
func releaseDest(r *rollout.Release) []any {
	return []any{&r.No, &r.ID, &r.Version, words{&r.Hardware}, &r.URL, &r.SHA256, &r.MinRSSI, &r.Notes, at(&r.WithdrawnAt), &r.CreatedBy, at(&r.CreatedAt)}
}

// words scans a space separated list.
type words struct{ list *[]string }

func (w words) Scan(v any) error {
	var s string
	if err := opt(&s).Scan(v); err != nil {
		return err
	}
	*w.list = strings.Fields(s)
	return nil
}

func (t *tx) releases(ctx context.Context, condition string, args ...any) ([]rollout.Release, error) {
	return collect(ctx, t, `SELECT `+releaseColumns+` FROM releases l WHERE `+condition, args, func(scan scanFunc, r *rollout.Release) error {
		return scan(releaseDest(r)...)
	})
}

// InsertRelease implements rollout.ReleaseTx.
func (t *tx) InsertRelease(ctx context.Context, r rollout.Release) (int64, error) {
	no, err := t.nextNumber(ctx, "releases")
	if err != nil {
		return 0, err
	}
	inserted, err := t.changes(ctx, `INSERT INTO releases (release_no, release_id, version, hardware, url, sha256, min_rssi, notes, created_by, created_at)
		VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10) ON CONFLICT DO NOTHING`,
		no, r.ID, r.Version, strings.Join(r.Hardware, " "), r.URL, r.SHA256, number(r.MinRSSI), r.Notes, r.CreatedBy, micros(r.CreatedAt))
	if err == nil && !inserted {
		err = rollout.ErrReleaseExists
	}
	return no, err
}

// Release implements rollout.ReleaseTx.
func (t *tx) Release(ctx context.Context, id string) (rollout.Release, error) {
	list, err := t.releases(ctx, `l.release_id = $1`, id)
	if err == nil && len(list) == 0 {
		err = rollout.ErrReleaseNotFound
	}
	if err != nil {
		return rollout.Release{}, err
	}
	return list[0], nil
}

// Releases implements rollout.ReleaseTx.
func (t *tx) Releases(ctx context.Context, before int64, limit int) ([]rollout.Release, error) {
	return t.releases(ctx, `l.release_no < $1 ORDER BY l.release_no DESC LIMIT CAST($2 AS BIGINT)`, numberBelow(before), capped(limit))
}

// WithdrawRelease implements rollout.ReleaseTx.
func (t *tx) WithdrawRelease(ctx context.Context, no int64, now time.Time) (bool, error) {
	return t.changes(ctx, `UPDATE releases SET withdrawn_at = $2 WHERE release_no = $1 AND withdrawn_at IS NULL
		AND NOT EXISTS (SELECT 1 FROM rollouts r WHERE r.release_no = $1 AND r.status IN ('running', 'paused', 'halted'))`, no, micros(now))
}
