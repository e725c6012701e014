package sqlstore

import (
	"context"
	"slices"
	"strings"
	"time"

	"github.com/opticworks/devicecloud/account"
)

const selectAdmin = `SELECT admin_id, email, password_hash, role, scopes, disabled_at, created_at, totp_secret, totp_confirmed_at, oidc_subject
	FROM admins WHERE `

func scanAdmin(scan scanFunc, a *account.Admin) error {
	var scopes string
	err := scan(&a.ID, &a.Email, opt(&a.PasswordHash), opt(&a.Role), &scopes, at(&a.DisabledAt), at(&a.CreatedAt), (*[]byte)(&a.TOTPSecret), at(&a.TOTPConfirmedAt), opt(&a.OIDCSubject))
	a.Scopes = strings.Fields(scopes)
	return err
}

func (t *tx) admin(ctx context.Context, query string, args ...any) (account.Admin, error) {
	list, err := collect(ctx, t, query, args, scanAdmin)
	if err == nil && len(list) == 0 {
		err = account.ErrAdminNotFound
	}
	if err != nil {
		return account.Admin{}, err
	}
	return list[0], nil
}

// Admin implements account.AdminTx.
func (t *tx) Admin(ctx context.Context, adminID string) (account.Admin, error) {
	return t.admin(ctx, selectAdmin+`admin_id = $1`, adminID)
}

// AdminByEmail implements account.AdminTx.
func (t *tx) AdminByEmail(ctx context.Context, email string) (account.Admin, error) {
	return t.admin(ctx, selectAdmin+`email = $1`, email)
}

// InsertAdmin implements account.AdminTx.
func (t *tx) InsertAdmin(ctx context.Context, a account.Admin) error {
	created, err := t.changes(ctx, `INSERT INTO admins (admin_id, email, password_hash, role, scopes, disabled_at, created_at, updated_at, oidc_subject)
		VALUES ($1, $2, $3, $4, $5, $6, $7, $7, $8) ON CONFLICT DO NOTHING`,
		a.ID, a.Email, string(a.PasswordHash), string(a.Role), strings.Join(a.Scopes, " "), micros(a.DisabledAt), micros(a.CreatedAt), text(a.OIDCSubject))
	if err == nil && !created {
		err = account.ErrEmailTaken
	}
	return err
}

// CountAdmins implements account.AdminTx.
func (t *tx) CountAdmins(ctx context.Context) (n int, err error) {
	err = t.row(ctx, `SELECT count(*) FROM admins`, nil, &n)
	return n, err
}

// SetAdminPassword implements account.AdminTx; ErrAdminNotFound when there is none.
func (t *tx) SetAdminPassword(ctx context.Context, adminID, hash string, now time.Time) error {
	changed, err := t.changes(ctx, `UPDATE admins SET password_hash = $2, updated_at = $3 WHERE admin_id = $1`, adminID, hash, micros(now))
	if err == nil && !changed {
		err = account.ErrAdminNotFound
	}
	return err
}

// Admins implements account.AdminTx.
func (t *tx) Admins(ctx context.Context, after string, limit int) ([]account.Admin, error) {
	return collect(ctx, t, selectAdmin+`admin_id > $1 ORDER BY admin_id LIMIT CAST($2 AS BIGINT)`, []any{after, capped(limit)}, scanAdmin)
}

// AdminByOIDC implements account.AdminTx.
func (t *tx) AdminByOIDC(ctx context.Context, subject string) (account.Admin, error) {
	return t.admin(ctx, selectAdmin+`oidc_subject = $1`, subject)
}

// SetAdminEmail implements account.AdminTx; ErrAdminNotFound when there is none.
func (t *tx) SetAdminEmail(ctx context.Context, adminID, email string, now time.Time) error {
	changed, err := t.changes(ctx, `UPDATE admins SET email = $2, updated_at = $3
		WHERE admin_id = $1 AND NOT EXISTS (SELECT 1 FROM admins o WHERE o.email = $2 AND o.admin_id <> $1)`, adminID, email, micros(now))
	if t.engine.violation(err) == uniqueViolation {
		return account.ErrEmailTaken.With(err)
	}
	if err != nil || changed {
		return err
	}
	if _, err := t.Admin(ctx, adminID); err != nil {
		return err
	}
	return account.ErrEmailTaken
}

// anotherAdmin holds while an administrator other than $1 can act.
const anotherAdmin = `EXISTS (SELECT 1 FROM admins o WHERE o.admin_id <> $1 AND o.role = 'admin' AND o.disabled_at IS NULL)`

// SetAdminRole implements account.AdminTx; ErrAdminNotFound when there is none.
func (t *tx) SetAdminRole(ctx context.Context, adminID string, role account.AdminRole, evenLast bool, now time.Time) (bool, error) {
	changed, err := t.changes(ctx, `UPDATE admins SET role = $2, scopes = '', updated_at = $3 WHERE admin_id = $1 AND role <> $2
		AND ($4 OR role <> 'admin' OR disabled_at IS NOT NULL OR `+anotherAdmin+`)`, adminID, string(role), micros(now), evenLast)
	if err != nil || changed {
		return changed, err
	}
	a, err := t.Admin(ctx, adminID)
	if err == nil && a.Role != role {
		err = account.ErrLastAdmin
	}
	return false, err
}

// SetAdminScopes implements account.AdminTx; ErrAdminNotFound when there is none.
func (t *tx) SetAdminScopes(ctx context.Context, adminID string, scopes []string, now time.Time) (bool, error) {
	changed, err := t.changes(ctx, `UPDATE admins SET scopes = $2, updated_at = $3
		WHERE admin_id = $1 AND scopes <> $2 AND (role = 'admin' OR $2 = '')`, adminID, strings.Join(scopes, " "), micros(now))
	if err != nil || changed {
		return changed, err
	}
	a, err := t.Admin(ctx, adminID)
	if err == nil && !slices.Equal(a.Scopes, scopes) {
		err = account.ErrStaffScope
	}
	return false, err
}

// SetAdminDisabled implements account.AdminTx; ErrAdminNotFound when there is none.
func (t *tx) SetAdminDisabled(ctx context.Context, adminID string, disabledAt, now time.Time) (changed bool, err error) {
	if disabledAt.IsZero() {
		changed, err = t.changes(ctx, `UPDATE admins SET disabled_at = NULL, updated_at = $2
			WHERE admin_id = $1 AND disabled_at IS NOT NULL`, adminID, micros(now))
	} else {
		changed, err = t.changes(ctx, `UPDATE admins SET disabled_at = $2, updated_at = $3 WHERE admin_id = $1 AND disabled_at IS NULL
			AND (role <> 'admin' OR `+anotherAdmin+`)`, adminID, micros(disabledAt), micros(now))
	}
	if err != nil || changed {
		return changed, err
	}
	a, err := t.Admin(ctx, adminID)
	if err == nil && a.DisabledAt.IsZero() && !disabledAt.IsZero() {
		err = account.ErrLastAdmin
	}
	return false, err
}

// SetPendingTOTP implements account.AdminTx.
func (t *tx) SetPendingTOTP(ctx context.Context, adminID string, secret account.SealedTOTP, now time.Time) (bool, error) {
	return t.changes(ctx, `UPDATE admins SET totp_secret = $2, totp_step = NULL, updated_at = $3
		WHERE admin_id = $1 AND totp_confirmed_at IS NULL`, adminID, []byte(secret), micros(now))
}

// ConfirmTOTP implements account.AdminTx.
func (t *tx) ConfirmTOTP(ctx context.Context, adminID string, step int64, now time.Time) (bool, error) {
	return t.changes(ctx, `UPDATE admins SET totp_confirmed_at = $3, totp_step = $2, updated_at = $3
		WHERE admin_id = $1 AND totp_secret IS NOT NULL AND totp_confirmed_at IS NULL`, adminID, step, micros(now))
}

// UseTOTPStep implements account.AdminTx.
func (t *tx) UseTOTPStep(ctx context.Context, adminID string, step int64, now time.Time) (bool, error) {
	return t.changes(ctx, `UPDATE admins SET totp_step = $2, updated_at = $3
		WHERE admin_id = $1 AND totp_confirmed_at IS NOT NULL AND (totp_step IS NULL OR totp_step < $2)`, adminID, step, micros(now))
}

// ClearTOTP implements account.AdminTx.
func (t *tx) ClearTOTP(ctx context.Context, adminID string, now time.Time) (bool, error) {
	return t.changes(ctx, `UPDATE admins SET totp_secret = NULL, totp_confirmed_at = NULL, totp_step = NULL, updated_at = $2
		WHERE admin_id = $1 AND totp_secret IS NOT NULL`, adminID, micros(now))
}
