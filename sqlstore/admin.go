package sqlstore

import (
	"context"
	"time"

	"github.com/opticworks/devicecloud/account"
)

const selectAdmin = `SELECT admin_id, email, password_hash, role, disabled_at, created_at FROM admins WHERE `

func (t *tx) admin(ctx context.Context, query string, args ...any) (account.Admin, error) {
	list, err := collect(ctx, t, query, args, func(scan scanFunc, a *account.Admin) error {
		return scan(&a.ID, &a.Email, opt(&a.PasswordHash), opt(&a.Role), at(&a.DisabledAt), at(&a.CreatedAt))
	})
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
	created, err := t.changes(ctx, `INSERT INTO admins (admin_id, email, password_hash, role, disabled_at, created_at, updated_at)
		VALUES ($1, $2, $3, $4, $5, $6, $6) ON CONFLICT (email) DO NOTHING`,
		a.ID, a.Email, string(a.PasswordHash), string(a.Role), micros(a.DisabledAt), micros(a.CreatedAt))
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
