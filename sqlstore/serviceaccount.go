package sqlstore

import (
	"context"
	"strings"
	"time"

	"github.com/opticworks/devicecloud/account"
)

const selectServiceAccount = `SELECT account_id, name, scopes, disabled_at, created_by, created_at FROM service_accounts `

func (t *tx) serviceAccounts(ctx context.Context, query string, args ...any) ([]account.ServiceAccount, error) {
	return collect(ctx, t, query, args, func(scan scanFunc, a *account.ServiceAccount) error {
		var scopes string
		err := scan(&a.ID, &a.Name, &scopes, at(&a.DisabledAt), &a.CreatedBy, at(&a.CreatedAt))
		a.Scopes = strings.Fields(scopes)
		return err
	})
}

// ServiceAccounts implements account.ServiceTx.
func (t *tx) ServiceAccounts(ctx context.Context, after string, limit int) ([]account.ServiceAccount, error) {
	return t.serviceAccounts(ctx, selectServiceAccount+`WHERE account_id > $1 ORDER BY account_id LIMIT CAST($2 AS BIGINT)`, after, capped(limit))
}

// ServiceAccount implements account.ServiceTx.
func (t *tx) ServiceAccount(ctx context.Context, accountID string) (account.ServiceAccount, error) {
	list, err := t.serviceAccounts(ctx, selectServiceAccount+`WHERE account_id = $1`, accountID)
	if err == nil && len(list) == 0 {
		err = account.ErrServiceAccountNotFound
	}
	if err != nil {
		return account.ServiceAccount{}, err
	}
	return list[0], nil
}

// InsertServiceAccount implements account.ServiceTx.
func (t *tx) InsertServiceAccount(ctx context.Context, a account.ServiceAccount) error {
	created, err := t.changes(ctx, `INSERT INTO service_accounts (account_id, name, scopes, disabled_at, created_by, created_at, updated_at)
		VALUES ($1, $2, $3, $4, $5, $6, $6) ON CONFLICT (name) DO NOTHING`,
		a.ID, a.Name, strings.Join(a.Scopes, " "), micros(a.DisabledAt), a.CreatedBy, micros(a.CreatedAt))
	if err == nil && !created {
		err = account.ErrNameTaken
	}
	return err
}

// SetServiceAccountDisabled implements account.ServiceTx.
func (t *tx) SetServiceAccountDisabled(ctx context.Context, accountID string, disabledAt, now time.Time) (bool, error) {
	if disabledAt.IsZero() {
		return t.changes(ctx, `UPDATE service_accounts SET disabled_at = NULL, updated_at = $2
			WHERE account_id = $1 AND disabled_at IS NOT NULL`, accountID, micros(now))
	}
	return t.changes(ctx, `UPDATE service_accounts SET disabled_at = $2, updated_at = $3
		WHERE account_id = $1 AND disabled_at IS NULL`, accountID, micros(disabledAt), micros(now))
}

// DeleteServiceAccount implements account.ServiceTx.
func (t *tx) DeleteServiceAccount(ctx context.Context, accountID string) (bool, error) {
	return t.changes(ctx, `DELETE FROM service_accounts WHERE account_id = $1`, accountID)
}

const selectServiceCredential = `SELECT credential_id, account_id, kind, name, hash, scopes, created_at, expires_at, last_used_at, revoked_at
	FROM service_credentials `

func (t *tx) serviceCredentials(ctx context.Context, query string, args ...any) ([]account.ServiceCredential, error) {
	return collect(ctx, t, query, args, func(scan scanFunc, c *account.ServiceCredential) error {
		var scopes string
		err := scan(&c.ID, &c.AccountID, opt(&c.Kind), &c.Name, (*[]byte)(&c.Hash), &scopes, at(&c.CreatedAt), at(&c.ExpiresAt), at(&c.LastUsedAt), at(&c.RevokedAt))
		c.Scopes = strings.Fields(scopes)
		return err
	})
}

// ServiceCredential implements account.ServiceTx.
func (t *tx) ServiceCredential(ctx context.Context, credentialID string) (account.ServiceCredential, error) {
	list, err := t.serviceCredentials(ctx, selectServiceCredential+`WHERE credential_id = $1`, credentialID)
	if err == nil && len(list) == 0 {
		err = account.ErrCredentialNotFound
	}
	if err != nil {
		return account.ServiceCredential{}, err
	}
	return list[0], nil
}

// ServiceCredentials implements account.ServiceTx.
func (t *tx) ServiceCredentials(ctx context.Context, accountID string, kind account.CredentialKind) ([]account.ServiceCredential, error) {
	return t.serviceCredentials(ctx, selectServiceCredential+`WHERE account_id = $1 AND ($2 = '' OR kind = $2)
		ORDER BY created_at, credential_id`, accountID, string(kind))
}

// InsertServiceCredential implements account.ServiceTx.
func (t *tx) InsertServiceCredential(ctx context.Context, c account.ServiceCredential) error {
	_, err := t.exec(ctx, `INSERT INTO service_credentials
			(credential_id, account_id, kind, name, hash, scopes, created_at, expires_at, last_used_at, revoked_at)
		VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10)`,
		c.ID, c.AccountID, string(c.Kind), c.Name, []byte(c.Hash), strings.Join(c.Scopes, " "), micros(c.CreatedAt), micros(c.ExpiresAt),
		micros(c.LastUsedAt), micros(c.RevokedAt))
	if t.engine.violation(err) == foreignKeyViolation {
		return account.ErrServiceAccountNotFound.With(err)
	}
	return err
}

// RevokeServiceCredential implements account.ServiceTx.
func (t *tx) RevokeServiceCredential(ctx context.Context, accountID, credentialID string, now time.Time) (bool, error) {
	return t.changes(ctx, `UPDATE service_credentials SET revoked_at = $3
		WHERE credential_id = $2 AND account_id = $1 AND revoked_at IS NULL`, accountID, credentialID, micros(now))
}

// UseServiceCredential implements account.ServiceTx.
func (t *tx) UseServiceCredential(ctx context.Context, credentialID string, now time.Time) error {
	_, err := t.exec(ctx, `UPDATE service_credentials SET last_used_at = $2
		WHERE credential_id = $1 AND (last_used_at IS NULL OR last_used_at < $2)`, credentialID, micros(now))
	return err
}

// DeleteServiceCredentials implements account.ServiceTx.
func (t *tx) DeleteServiceCredentials(ctx context.Context, accountID string, before time.Time) error {
	_, err := t.exec(ctx, `DELETE FROM service_credentials WHERE account_id = $1 AND revoked_at < $2`, accountID, micros(before))
	return err
}
