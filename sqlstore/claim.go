package sqlstore

import (
	"context"
	"time"

	"github.com/opticworks/devicecloud/registry"
)

// ClaimSecretHash implements registry.ClaimTx.
func (t *tx) ClaimSecretHash(ctx context.Context, deviceNo int64) (hash []byte, err error) {
	_, err = t.found(ctx, `SELECT claim_secret_hash FROM devices WHERE device_no = $1`, []any{deviceNo}, &hash)
	return hash, err
}

// InsertPairing implements registry.ClaimTx. The person's row is written first, so
// that on PostgreSQL two claims of one person come one after the other.
func (t *tx) InsertPairing(ctx context.Context, p registry.Pairing, limit int) (bool, error) {
	if _, err := t.exec(ctx, `UPDATE users SET updated_at = updated_at WHERE user_id = $1`, p.UserID); err != nil {
		return false, err
	}
	var device any
	if p.DeviceNo != 0 {
		device = p.DeviceNo
	}
	return t.changes(ctx, `INSERT INTO claims (claim_id, user_id, via, hash, device_no, status, created_at, expires_at)
		SELECT $1, $2, $3, $4, CAST($5 AS INTEGER), 'pending', CAST($6 AS BIGINT), CAST($7 AS BIGINT)
		WHERE (SELECT count(*) FROM claims WHERE user_id = $2 AND status = 'pending' AND expires_at > $6) < CAST($8 AS BIGINT)`,
		p.ID, p.UserID, p.Via, p.Hash, device, micros(p.CreatedAt), micros(p.ExpiresAt), limit)
}

func (t *tx) pairing(ctx context.Context, condition string, arg any) (registry.Pairing, error) {
	list, err := collect(ctx, t, `SELECT c.claim_id, c.user_id, c.via, c.hash, c.device_no, d.device_id, c.status, c.error, c.created_at, c.expires_at
		FROM claims c LEFT JOIN devices d ON d.device_no = c.device_no WHERE `+condition, []any{arg},
		func(scan scanFunc, p *registry.Pairing) error {
			return scan(&p.ID, &p.UserID, &p.Via, &p.Hash, num(&p.DeviceNo), opt(&p.DeviceID), opt(&p.Status), opt(&p.Error), at(&p.CreatedAt), at(&p.ExpiresAt))
		})
	if err == nil && len(list) == 0 {
		err = registry.ErrClaimNotFound
	}
	if err != nil {
		return registry.Pairing{}, err
	}
	return list[0], nil
}

// Pairing implements registry.ClaimTx.
func (t *tx) Pairing(ctx context.Context, id string) (registry.Pairing, error) {
	return t.pairing(ctx, `c.claim_id = $1`, id)
}

// PairingByHash implements registry.ClaimTx.
func (t *tx) PairingByHash(ctx context.Context, hash []byte) (registry.Pairing, error) {
	return t.pairing(ctx, `c.hash = $1`, hash)
}

// SettlePairing implements registry.ClaimTx.
func (t *tx) SettlePairing(ctx context.Context, id string, status registry.ClaimStatus, deviceNo int64, why string) (bool, error) {
	return t.changes(ctx, `UPDATE claims SET status = $2, device_no = $3, error = $4 WHERE claim_id = $1 AND status = 'pending'`,
		id, string(status), deviceNo, text(why))
}

// DeletePairings implements registry.ClaimTx.
func (t *tx) DeletePairings(ctx context.Context, deviceNo int64) error {
	_, err := t.exec(ctx, `DELETE FROM claims WHERE device_no = $1`, deviceNo)
	return err
}

// DeleteClaims implements registry.ClaimTx.
func (t *tx) DeleteClaims(ctx context.Context, before time.Time, limit int) (int, error) {
	claims, err := t.exec(ctx, `DELETE FROM claims WHERE claim_id IN
		(SELECT claim_id FROM claims WHERE expires_at < $1 ORDER BY expires_at LIMIT CAST($2 AS BIGINT))`, micros(before), capped(limit))
	if err != nil {
		return 0, err
	}
	tries, err := t.exec(ctx, `DELETE FROM claim_tries WHERE try_id IN
		(SELECT try_id FROM claim_tries WHERE tried_at < $1 ORDER BY tried_at LIMIT CAST($2 AS BIGINT))`, micros(before), int64(limit)-claims)
	return int(claims + tries), err
}

// InsertTry implements registry.ClaimTx.
func (t *tx) InsertTry(ctx context.Context, id int64, subject string, now time.Time) error {
	_, err := t.exec(ctx, `INSERT INTO claim_tries (try_id, subject, tried_at) VALUES ($1, $2, $3)`, id, subject, micros(now))
	return err
}

// CountTries implements registry.ClaimTx.
func (t *tx) CountTries(ctx context.Context, subject string, since time.Time) (n int, oldest time.Time, err error) {
	err = t.row(ctx, `SELECT count(*), min(tried_at) FROM claim_tries WHERE subject = $1 AND tried_at > $2`,
		[]any{subject, micros(since)}, &n, at(&oldest))
	return n, oldest, err
}
