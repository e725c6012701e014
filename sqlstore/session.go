package sqlstore

import (
	"context"
	"strings"
	"time"

	"github.com/opticworks/devicecloud/account"
)

const sessionColumns = `sid, user_id, admin_id, scopes, method, install_id, device_name, platform, client_type, ip, user_agent,
	created_at, last_used_at, expires_at, absolute_expires_at, revoked_at, revoke_reason`

func scanSession(scan scanFunc, x *account.Session) error {
	var user, admin, scopes string
	err := scan(&x.ID, opt(&user), opt(&admin), &scopes, &x.Method, opt(&x.Device.InstallID), opt(&x.Device.Name), opt(&x.Device.Platform),
		opt(&x.ClientType), opt(&x.IP), opt(&x.UserAgent), at(&x.CreatedAt), at(&x.LastUsedAt), at(&x.ExpiresAt), at(&x.AbsoluteExpiresAt),
		at(&x.RevokedAt), opt(&x.RevokeReason))
	x.Of, x.Scopes = account.Subject{Audience: account.AudienceApp, ID: user}, strings.Fields(scopes)
	if admin != "" {
		x.Of = account.Subject{Audience: account.AudienceAdmin, ID: admin}
	}
	return err
}

// owner is a subject as the two columns of a session hold it.
func owner(of account.Subject) (userID, adminID any) {
	if of.Audience == account.AudienceAdmin {
		return nil, of.ID
	}
	return of.ID, nil
}

// ownedBy is the condition on the column of a subject's kind; its id is $1.
func ownedBy(of account.Subject) string {
	if of.Audience == account.AudienceAdmin {
		return `admin_id = $1`
	}
	return `user_id = $1`
}

// InsertSession implements account.SessionTx.
func (t *tx) InsertSession(ctx context.Context, x account.Session) error {
	user, admin := owner(x.Of)
	_, err := t.exec(ctx, `INSERT INTO auth_sessions (`+sessionColumns+`)
		VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $15, $16, $17)`,
		x.ID, user, admin, strings.Join(x.Scopes, " "), x.Method, text(x.Device.InstallID), text(x.Device.Name), text(x.Device.Platform),
		text(x.ClientType), text(x.IP), text(x.UserAgent), micros(x.CreatedAt), micros(x.LastUsedAt), micros(x.ExpiresAt),
		micros(x.AbsoluteExpiresAt), micros(x.RevokedAt), text(x.RevokeReason))
	return err
}

// Session implements account.SessionTx.
func (t *tx) Session(ctx context.Context, sid string) (account.Session, error) {
	list, err := collect(ctx, t, `SELECT `+sessionColumns+` FROM auth_sessions WHERE sid = $1`, []any{sid}, scanSession)
	if err == nil && len(list) == 0 {
		err = account.ErrSessionNotFound
	}
	if err != nil {
		return account.Session{}, err
	}
	return list[0], nil
}

// Sessions implements account.SessionTx.
func (t *tx) Sessions(ctx context.Context, of account.Subject, now time.Time, before string, limit int) ([]account.Session, error) {
	return collect(ctx, t, `SELECT `+sessionColumns+` FROM auth_sessions
		WHERE `+ownedBy(of)+` AND revoked_at IS NULL AND expires_at > $2 AND absolute_expires_at > $2 AND ($3 = '' OR sid < $3)
		ORDER BY sid DESC LIMIT CAST($4 AS BIGINT)`, []any{of.ID, micros(now), before, capped(limit)}, scanSession)
}

// TouchSession implements account.SessionTx.
func (t *tx) TouchSession(ctx context.Context, x account.Session) (bool, error) {
	return t.changes(ctx, `UPDATE auth_sessions SET scopes = $2, ip = $3, user_agent = $4, client_type = $5, last_used_at = $6, expires_at = $7
		WHERE sid = $1 AND revoked_at IS NULL`,
		x.ID, strings.Join(x.Scopes, " "), text(x.IP), text(x.UserAgent), text(x.ClientType), micros(x.LastUsedAt), micros(x.ExpiresAt))
}

// RevokeSession implements account.SessionTx.
func (t *tx) RevokeSession(ctx context.Context, of account.Subject, sid, reason string, now time.Time) (bool, error) {
	return t.changes(ctx, `UPDATE auth_sessions SET revoked_at = $3, revoke_reason = $4
		WHERE `+ownedBy(of)+` AND sid = $2 AND revoked_at IS NULL`, of.ID, sid, micros(now), reason)
}

// RevokeSessions implements account.SessionTx.
func (t *tx) RevokeSessions(ctx context.Context, of account.Subject, keep, reason string, now time.Time) ([]string, error) {
	return collect(ctx, t, `UPDATE auth_sessions SET revoked_at = $3, revoke_reason = $4
		WHERE `+ownedBy(of)+` AND sid <> $2 AND revoked_at IS NULL RETURNING sid`, []any{of.ID, keep, micros(now), reason},
		func(scan scanFunc, sid *string) error { return scan(sid) })
}

// RevokedSessions implements account.SessionTx.
func (t *tx) RevokedSessions(ctx context.Context, since time.Time) ([]account.Revoked, error) {
	return collect(ctx, t, `SELECT sid, revoked_at FROM auth_sessions WHERE revoked_at IS NOT NULL AND revoked_at >= $1`, []any{micros(since)},
		func(scan scanFunc, r *account.Revoked) error { return scan(&r.ID, at(&r.RevokedAt)) })
}

// ScrubSessions implements account.SessionTx.
func (t *tx) ScrubSessions(ctx context.Context, of account.Subject, until time.Time) error {
	_, err := t.exec(ctx, `UPDATE auth_sessions SET install_id = NULL, device_name = NULL, platform = NULL, client_type = NULL, ip = NULL, user_agent = NULL,
			absolute_expires_at = CASE WHEN absolute_expires_at > $2 THEN $2 ELSE absolute_expires_at END
		WHERE `+ownedBy(of), of.ID, micros(until))
	return err
}

// DeleteSessions implements account.SessionTx. A session may have thousands of
// refresh tokens, so that these go first, and count.
func (t *tx) DeleteSessions(ctx context.Context, before time.Time, limit int) (int, error) {
	n, err := t.exec(ctx, `DELETE FROM refresh_tokens WHERE hash IN
		(SELECT r.hash FROM auth_sessions s JOIN refresh_tokens r ON r.sid = s.sid WHERE s.absolute_expires_at < $1 LIMIT $2)`, micros(before), capped(limit))
	if err != nil || n >= capped(limit) {
		return int(n), err
	}
	n, err = t.exec(ctx, `DELETE FROM auth_sessions WHERE sid IN
		(SELECT s.sid FROM auth_sessions s WHERE s.absolute_expires_at < $1 ORDER BY s.absolute_expires_at LIMIT $2)`, micros(before), capped(limit))
	return int(n), err
}

// InsertRefreshToken implements account.SessionTx.
func (t *tx) InsertRefreshToken(ctx context.Context, hash []byte, sid string, now time.Time) error {
	_, err := t.exec(ctx, `INSERT INTO refresh_tokens (hash, sid, issued_at) VALUES ($1, $2, $3)`, hash, sid, micros(now))
	return err
}

// RefreshToken implements account.SessionTx.
func (t *tx) RefreshToken(ctx context.Context, hash []byte) (r account.RefreshRecord, ok bool, err error) {
	ok, err = t.found(ctx, `SELECT sid, issued_at, retired_at FROM refresh_tokens WHERE hash = $1`, []any{hash},
		&r.SessionID, at(&r.IssuedAt), at(&r.RetiredAt))
	return r, ok, err
}

// RetireRefreshToken implements account.SessionTx.
func (t *tx) RetireRefreshToken(ctx context.Context, hash []byte, now time.Time) (bool, error) {
	return t.changes(ctx, `UPDATE refresh_tokens SET retired_at = $2 WHERE hash = $1 AND retired_at IS NULL`, hash, micros(now))
}

// UseToken implements account.SessionTx.
func (t *tx) UseToken(ctx context.Context, hash []byte, expires time.Time) (bool, error) {
	return t.changes(ctx, `INSERT INTO used_tokens (hash, expires_at) VALUES ($1, $2) ON CONFLICT (hash) DO NOTHING`, hash, micros(expires))
}

// DeleteUsedTokens implements account.SessionTx.
func (t *tx) DeleteUsedTokens(ctx context.Context, before time.Time, limit int) (int, error) {
	n, err := t.exec(ctx, `DELETE FROM used_tokens WHERE hash IN
		(SELECT u.hash FROM used_tokens u WHERE u.expires_at < $1 ORDER BY u.expires_at LIMIT $2)`, micros(before), capped(limit))
	return int(n), err
}

// DeleteMagicLinks implements account.SessionTx.
func (t *tx) DeleteMagicLinks(ctx context.Context, before time.Time, limit int) (int, error) {
	n, err := t.exec(ctx, `DELETE FROM magic_links WHERE token_hash IN
		(SELECT m.token_hash FROM magic_links m WHERE m.created_at < $1 ORDER BY m.created_at LIMIT $2)`, micros(before), capped(limit))
	return int(n), err
}
