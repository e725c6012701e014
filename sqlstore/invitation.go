package sqlstore

import (
	"context"
	"time"

	"github.com/opticworks/devicecloud/registry"
)

// PutInvitation implements registry.InvitationTx. The device's row is written first,
// so that on PostgreSQL two invitations to one device come one after the other.
func (t *tx) PutInvitation(ctx context.Context, i registry.Invitation, limit int) (bool, error) {
	if _, err := t.exec(ctx, `UPDATE devices SET updated_at = updated_at WHERE device_no = $1`, i.DeviceNo); err != nil {
		return false, err
	}
	if i.Kind == registry.InviteTransfer {
		if _, err := t.exec(ctx, `DELETE FROM invitations WHERE device_no = $1 AND kind = 'transfer'`, i.DeviceNo); err != nil {
			return false, err
		}
	}
	return t.changes(ctx, `INSERT INTO invitations
			(invitation_id, device_no, kind, email, role, starts_at, ends_at, invited_by, created_at, expires_at, mail_at)
		SELECT CAST($1 AS BIGINT), CAST($2 AS INTEGER), $3, $4, $5, CAST($6 AS BIGINT), CAST($7 AS BIGINT), $8, CAST($9 AS BIGINT), CAST($10 AS BIGINT), CAST($12 AS BIGINT)
		WHERE $3 = 'transfer'
			OR (SELECT count(*) FROM device_ownership WHERE device_no = $2 AND role <> 'owner' AND (ends_at IS NULL OR ends_at > $9))
			+ (SELECT count(*) FROM invitations WHERE device_no = $2 AND kind = 'share' AND email <> $4 AND expires_at > $9) < CAST($11 AS BIGINT)
		ON CONFLICT (device_no, kind, email) DO UPDATE SET invitation_id = excluded.invitation_id, role = excluded.role,
			starts_at = excluded.starts_at, ends_at = excluded.ends_at, invited_by = excluded.invited_by,
			created_at = excluded.created_at, expires_at = excluded.expires_at, mail_at = COALESCE(excluded.mail_at, invitations.mail_at)`,
		i.ID, i.DeviceNo, string(i.Kind), i.Email, string(i.Role), micros(i.StartsAt), micros(i.EndsAt), i.InvitedBy, micros(i.CreatedAt), micros(i.ExpiresAt), limit,
		micros(i.MailAt))
}

const selectInvitations = `SELECT i.invitation_id, i.device_no, d.device_id, d.name, u.email, i.kind, i.email, i.role,
		i.starts_at, i.ends_at, i.invited_by, i.created_at, i.expires_at, i.mail_at
	FROM invitations i JOIN devices d ON d.device_no = i.device_no LEFT JOIN users u ON u.user_id = i.invited_by`

func scanInvitation(scan scanFunc, i *registry.Invitation) error {
	return scan(&i.ID, &i.DeviceNo, &i.DeviceID, opt(&i.DeviceName), opt(&i.From), opt(&i.Kind), &i.Email, opt(&i.Role),
		at(&i.StartsAt), at(&i.EndsAt), &i.InvitedBy, at(&i.CreatedAt), at(&i.ExpiresAt), at(&i.MailAt))
}

// Invitation implements registry.InvitationTx.
func (t *tx) Invitation(ctx context.Context, id int64, email string, now time.Time) (registry.Invitation, error) {
	list, err := collect(ctx, t, selectInvitations+` WHERE i.invitation_id = $1 AND i.email = $2 AND i.expires_at > $3`,
		[]any{id, email, micros(now)}, scanInvitation)
	if err == nil && len(list) == 0 {
		err = registry.ErrInvitationNotFound
	}
	if err != nil {
		return registry.Invitation{}, err
	}
	return list[0], nil
}

// InvitationsTo implements registry.InvitationTx.
func (t *tx) InvitationsTo(ctx context.Context, email string, now time.Time, before int64, limit int) ([]registry.Invitation, error) {
	return collect(ctx, t, selectInvitations+` WHERE i.email = $1 AND i.expires_at > $2 AND i.invitation_id < $3
		ORDER BY i.invitation_id DESC LIMIT CAST($4 AS BIGINT)`, []any{email, micros(now), below(before), capped(limit)}, scanInvitation)
}

// InvitationsOf implements registry.InvitationTx.
func (t *tx) InvitationsOf(ctx context.Context, deviceNo int64, now time.Time) ([]registry.Invitation, error) {
	return collect(ctx, t, selectInvitations+` WHERE i.device_no = $1 AND i.expires_at > $2 ORDER BY i.invitation_id`,
		[]any{deviceNo, micros(now)}, scanInvitation)
}

// InvitationsToMail implements registry.InvitationTx.
func (t *tx) InvitationsToMail(ctx context.Context, now time.Time, limit int) ([]registry.Invitation, error) {
	return collect(ctx, t, selectInvitations+` WHERE i.mail_at <= $1 AND i.expires_at > $1 ORDER BY i.mail_at LIMIT CAST($2 AS BIGINT)`,
		[]any{micros(now), capped(limit)}, scanInvitation)
}

// SetInvitationMail implements registry.InvitationTx.
func (t *tx) SetInvitationMail(ctx context.Context, id int64, from, to time.Time) (bool, error) {
	return t.changes(ctx, `UPDATE invitations SET mail_at = CAST($3 AS BIGINT) WHERE invitation_id = $1 AND mail_at = $2`, id, micros(from), micros(to))
}

// DeleteInvitation implements registry.InvitationTx.
func (t *tx) DeleteInvitation(ctx context.Context, id int64) (bool, error) {
	return t.changes(ctx, `DELETE FROM invitations WHERE invitation_id = $1`, id)
}

// DeleteInvitations implements registry.InvitationTx.
func (t *tx) DeleteInvitations(ctx context.Context, deviceNo int64) error {
	_, err := t.exec(ctx, `DELETE FROM invitations WHERE device_no = $1`, deviceNo)
	return err
}

// DeleteExpiredInvitations implements registry.InvitationTx.
func (t *tx) DeleteExpiredInvitations(ctx context.Context, before time.Time, limit int) (int, error) {
	n, err := t.exec(ctx, `DELETE FROM invitations WHERE invitation_id IN
		(SELECT invitation_id FROM invitations WHERE expires_at < $1 ORDER BY expires_at LIMIT CAST($2 AS BIGINT))`, micros(before), capped(limit))
	return int(n), err
}
