package account

import (
	"context"

	"github.com/opticworks/devicecloud/registry"
)

// Erase removes a person for good, at their own wish or an administrator's: their
// devices are released and their shares given up, their sessions end, and nothing
// that names them stays. What they did stays in the audit trail under the bare id,
// without address and program. ErrUserNotFound; ErrInsufficientRole for anybody else.
func (s *Service) Erase(ctx context.Context, a registry.Actor, userID string) error {
	self := a.Kind == registry.ActorUser && a.ID == userID
	if !self && a.Kind != registry.ActorAdmin && a.Kind != registry.ActorSystem {
		return registry.ErrInsufficientRole
	}
	if self { // its own rows of the trail come without these too
		a.IP, a.UserAgent = "", ""
	}
	var sids []string
	var done func()
	err := s.store.InTx(ctx, func(tx Tx) error {
		u, err := tx.User(ctx, userID)
		if err != nil {
			return err
		}
		at, of := s.now(), Subject{AudienceApp, userID}
		if done, err = s.devices.ReleaseDevices(ctx, tx, a, userID); err != nil {
			return err
		}
		if sids, err = s.endSessions(ctx, tx, of, ReasonErased, at); err != nil {
			return err
		}
		// A restart must know them for as long as their last token could live.
		if err := tx.ScrubSessions(ctx, of, at.Add(s.revocation.keep)); err != nil {
			return err
		}
		email := u.Email
		if !u.EmailVerified { // it may be anybody's
			email = ""
		}
		if err := tx.EraseUser(ctx, userID, email, at); err != nil {
			return err
		}
		return s.audit(ctx, tx, a, "user_erased", at, map[string]any{"user_id": userID})
	})
	if err != nil {
		return err
	}
	s.ended(sids...)
	done()
	return nil
}
