package sqlstore

import (
	"context"
	"time"

	"github.com/opticworks/devicecloud/account"
)

// InsertMagicLink implements account.MagicLinkTx.
func (t *tx) InsertMagicLink(ctx context.Context, l account.MagicLink) error {
	if _, err := t.exec(ctx, `UPDATE magic_links SET used_at = $2 WHERE email = $1 AND used_at IS NULL`, l.Email, micros(l.CreatedAt)); err != nil {
		return err
	}
	_, err := t.exec(ctx, `INSERT INTO magic_links (token_hash, email, install_id, code_challenge, created_at, expires_at, used_at)
		VALUES ($1, $2, $3, $4, $5, $6, NULL)`, l.TokenHash, l.Email, l.InstallID, l.CodeChallenge, micros(l.CreatedAt), micros(l.ExpiresAt))
	return err
}

// UseMagicLink implements account.MagicLinkTx.
func (t *tx) UseMagicLink(ctx context.Context, tokenHash []byte, installID, codeChallenge string, now time.Time) (email string, ok bool, err error) {
	ok, err = t.found(ctx, `UPDATE magic_links SET used_at = $4
		WHERE token_hash = $1 AND install_id = $2 AND code_challenge = $3 AND used_at IS NULL AND expires_at > $4
		RETURNING email`, []any{tokenHash, installID, codeChallenge, micros(now)}, &email)
	return email, ok, err
}

// UserOfEmail implements account.MagicLinkTx.
func (t *tx) UserOfEmail(ctx context.Context, email string) (account.User, error) {
	return t.user(ctx, `SELECT `+userColumns+` FROM users u WHERE u.email = $1 AND u.email_verified`, email)
}
