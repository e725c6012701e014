package sqlstore

import (
	"context"
	"time"
)

// EraseUser implements account.UserTx. An order line without e-mail counts as linked,
// so that it can never be somebody else's purchase.
func (t *tx) EraseUser(ctx context.Context, userID, email string, now time.Time) error {
	for _, s := range []struct {
		query string
		args  []any
	}{
		{`UPDATE orders SET user_email = '', linked_at = coalesce(linked_at, $3),
				linked_user_id = CASE WHEN linked_user_id = $1 THEN NULL ELSE linked_user_id END
			WHERE linked_user_id = $1 OR (user_email = $2 AND $2 <> '')`, []any{userID, email, micros(now)}},
		{`DELETE FROM invitations WHERE email = $1 AND $1 <> ''`, []any{email}},
		{`DELETE FROM claim_tries WHERE subject = $1`, []any{"user:" + userID}},
		{`DELETE FROM magic_links WHERE email = $1 AND $1 <> ''`, []any{email}},
		{`UPDATE device_audit SET ip = NULL, user_agent = NULL, event_data = CASE WHEN event_type IN ('renamed', 'command_issued') THEN '{}' ELSE event_data END
			WHERE actor = $1`, []any{"user:" + userID}}, // a name of a device, or in what it was told, may be a person's
		{`UPDATE device_commands SET params = '{}', message = NULL, result = NULL WHERE issuer = $1`, []any{"user:" + userID}},
		{`DELETE FROM users WHERE user_id = $1`, []any{userID}}, // with identities and ownerships
	} {
		if _, err := t.exec(ctx, s.query, s.args...); err != nil {
			return err
		}
	}
	return nil
}
