package sqlstore

import (
	"context"
	"strings"
	"time"

	"github.com/opticworks/devicecloud/account"
)

const userColumns = `u.user_id, u.email, u.email_verified, u.disabled_at, u.created_at`

func scanUser(scan scanFunc, u *account.User) error {
	return scan(&u.ID, opt(&u.Email), &u.EmailVerified, at(&u.DisabledAt), at(&u.CreatedAt))
}

func (t *tx) user(ctx context.Context, query string, args ...any) (account.User, error) {
	list, err := collect(ctx, t, query, args, scanUser)
	if err == nil && len(list) == 0 {
		err = account.ErrUserNotFound
	}
	if err != nil {
		return account.User{}, err
	}
	return list[0], nil
}

// User implements account.UserTx.
func (t *tx) User(ctx context.Context, userID string) (account.User, error) {
	return t.user(ctx, `SELECT `+userColumns+` FROM users u WHERE u.user_id = $1`, userID)
}

// UserByIdentity implements account.UserTx.
func (t *tx) UserByIdentity(ctx context.Context, provider, subject string) (account.User, error) {
	return t.user(ctx, `SELECT `+userColumns+` FROM user_identities i JOIN users u ON u.user_id = i.user_id
		WHERE i.provider = $1 AND i.subject = $2`, provider, subject)
}

// Users implements account.UserTx.
func (t *tx) Users(ctx context.Context, f account.UserFilter) ([]account.User, error) {
	query, args := `SELECT `+userColumns+` FROM users u WHERE u.user_id > $1`, []any{f.After, capped(f.Limit)}
	if f.Query != "" {
		query += ` AND (u.user_id = $3 OR lower(u.email) LIKE $4 ESCAPE '\')`
		args = append(args, f.Query, contains(strings.ToLower(f.Query)))
	}
	return collect(ctx, t, query+` ORDER BY u.user_id LIMIT CAST($2 AS BIGINT)`, args, scanUser)
}

// SetUserDisabled implements account.UserTx.
func (t *tx) SetUserDisabled(ctx context.Context, userID string, disabledAt, now time.Time) (changed bool, err error) {
	if disabledAt.IsZero() {
		changed, err = t.changes(ctx, `UPDATE users SET disabled_at = NULL, updated_at = $2
			WHERE user_id = $1 AND disabled_at IS NOT NULL`, userID, micros(now))
	} else {
		changed, err = t.changes(ctx, `UPDATE users SET disabled_at = $2, updated_at = $3
			WHERE user_id = $1 AND disabled_at IS NULL`, userID, micros(disabledAt), micros(now))
	}
	if err == nil && !changed {
		_, err = t.User(ctx, userID)
	}
	return changed, err
}

// UserByVerifiedEmail implements registry.People.
func (t *tx) UserByVerifiedEmail(ctx context.Context, email string) (userID string, ok bool, err error) {
	ok, err = t.found(ctx, `SELECT user_id FROM users WHERE email = $1 AND email_verified AND disabled_at IS NULL`, []any{email}, &userID)
	return userID, ok, err
}

// VerifiedEmail implements registry.People.
func (t *tx) VerifiedEmail(ctx context.Context, userID string) (email string, err error) {
	_, err = t.found(ctx, `SELECT email FROM users WHERE user_id = $1 AND email_verified`, []any{userID}, opt(&email))
	return email, err
}

// VerifiedUser implements account.UserTx.
func (t *tx) VerifiedUser(ctx context.Context, email string) (account.User, error) {
	return t.user(ctx, `SELECT `+userColumns+` FROM users u WHERE u.email = $1 AND u.email_verified`, email)
}

// InsertUser implements account.UserTx. An e-mail that is not verified may be
// anybody's, so that only verified ones are held against each other.
func (t *tx) InsertUser(ctx context.Context, u account.User) error {
	created, err := t.changes(ctx, `INSERT INTO users (user_id, email, email_verified, disabled_at, created_at, updated_at)
		VALUES ($1, $2, $3, $4, $5, $5) ON CONFLICT (email) WHERE email_verified DO NOTHING`,
		u.ID, text(u.Email), u.EmailVerified, micros(u.DisabledAt), micros(u.CreatedAt))
	if err == nil && !created {
		err = account.ErrEmailTaken
	}
	return err
}

// InsertIdentity implements account.UserTx; ErrUserNotFound when there is no such
// person.
func (t *tx) InsertIdentity(ctx context.Context, provider, subject, userID string, now time.Time) error {
	created, err := t.changes(ctx, `INSERT INTO user_identities (provider, subject, user_id, created_at)
		VALUES ($1, $2, $3, $4) ON CONFLICT (provider, subject) DO NOTHING`, provider, subject, userID, micros(now))
	switch {
	case t.engine.violation(err) == foreignKeyViolation:
		return account.ErrUserNotFound.With(err)
	case err == nil && !created:
		return account.ErrIdentityTaken
	}
	return err
}

// Identities implements account.UserTx.
func (t *tx) Identities(ctx context.Context, userID string) ([]account.LinkedIdentity, error) {
	return collect(ctx, t, `SELECT provider, min(created_at) FROM user_identities WHERE user_id = $1
		GROUP BY provider ORDER BY min(created_at), provider`, []any{userID},
		func(scan scanFunc, i *account.LinkedIdentity) error { return scan(&i.Provider, at(&i.CreatedAt)) })
}

// DeleteIdentities implements account.UserTx.
func (t *tx) DeleteIdentities(ctx context.Context, userID, provider string) (bool, error) {
	return t.changes(ctx, `DELETE FROM user_identities WHERE user_id = $1 AND provider = $2
		AND EXISTS (SELECT 1 FROM user_identities o WHERE o.user_id = $1 AND o.provider <> $2)`, userID, provider)
}

// SetUserEmail implements account.UserTx; ErrEmailTaken when somebody took it at the
// same moment.
func (t *tx) SetUserEmail(ctx context.Context, userID, email string, now time.Time) (bool, error) {
	changed, err := t.changes(ctx, `UPDATE users SET email = $2, email_verified = TRUE, updated_at = $3 WHERE user_id = $1 AND email IS NULL
		AND NOT EXISTS (SELECT 1 FROM users o WHERE o.email = $2 AND o.email_verified)`, userID, email, micros(now))
	if t.engine.violation(err) == uniqueViolation {
		err = account.ErrEmailTaken.With(err)
	}
	return changed, err
}
