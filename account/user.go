package account

import (
	"context"
	"time"

	"github.com/opticworks/devicecloud/registry"
)

// staffOnly lets administrators and support staff pass, and the program itself.
func staffOnly(a registry.Actor) error {
	if a.Kind == registry.ActorSupport {
		return nil
	}
	return adminOnly(a)
}

// Users lists people for staff, in order of id. Errors: Forbidden.
func (s *Service) Users(ctx context.Context, a registry.Actor, f UserFilter) (list []User, err error) {
	if err := staffOnly(a); err != nil {
		return nil, err
	}
	err = s.store.View(ctx, func(tx Tx) (err error) {
		list, err = tx.Users(ctx, f)
		return err
	})
	return list, err
}

// UserDetail is a person as staff see them.
type UserDetail struct {
	User
	Devices    []registry.OwnedDevice // the first 200
	Identities []LinkedIdentity
	Sessions   int // that are live; at most 200 are counted
}

// maxDetail bounds the lists of a [UserDetail].
const maxDetail = 200

// UserDetail reads one person with everything that staff may know. ErrUserNotFound,
// Forbidden.
func (s *Service) UserDetail(ctx context.Context, a registry.Actor, userID string) (d UserDetail, err error) {
	if err := staffOnly(a); err != nil {
		return UserDetail{}, err
	}
	err = s.store.View(ctx, func(tx Tx) (err error) {
		if d.User, err = tx.User(ctx, userID); err != nil {
			return err
		}
		if d.Devices, err = tx.OwnedDevices(ctx, userID, s.now(), 0, maxDetail); err != nil {
			return err
		}
		if d.Identities, err = tx.Identities(ctx, userID); err != nil {
			return err
		}
		sessions, err := tx.Sessions(ctx, Subject{AudienceApp, userID}, s.now(), "", maxDetail)
		d.Sessions = len(sessions)
		return err
	})
	return d, err
}

// DisableUser locks a person out and ends all of their sessions. Doing it again
// changes nothing. ErrUserNotFound, Forbidden.
func (s *Service) DisableUser(ctx context.Context, a registry.Actor, userID string) error {
	if err := adminOnly(a); err != nil {
		return err
	}
	var sids []string
	at := s.now()
	err := s.store.InTx(ctx, func(tx Tx) error {
		sids = nil
		changed, err := tx.SetUserDisabled(ctx, userID, at, at)
		if err != nil || !changed {
			return err
		}
		if sids, err = s.endSessions(ctx, tx, Subject{AudienceApp, userID}, ReasonDisabled, at); err != nil {
			return err
		}
		return s.audit(ctx, tx, a, "user_disabled", at, map[string]any{"user_id": userID})
	})
	if err != nil {
		return err
	}
	s.ended(sids...)
	return nil
}

// EnableUser lets a disabled person sign in again. ErrUserNotFound, Forbidden.
func (s *Service) EnableUser(ctx context.Context, a registry.Actor, userID string) error {
	if err := adminOnly(a); err != nil {
		return err
	}
	at := s.now()
	return s.store.InTx(ctx, func(tx Tx) error {
		changed, err := tx.SetUserDisabled(ctx, userID, time.Time{}, at)
		if err != nil || !changed {
			return err
		}
		return s.audit(ctx, tx, a, "user_enabled", at, map[string]any{"user_id": userID})
	})
}

// SignOutUser ends all sessions of a person, who may sign in again, and says how many
// there were. Support staff may do it too. ErrUserNotFound, Forbidden.
func (s *Service) SignOutUser(ctx context.Context, a registry.Actor, userID string) (int, error) {
	if err := staffOnly(a); err != nil {
		return 0, err
	}
	var sids []string
	at := s.now()
	err := s.store.InTx(ctx, func(tx Tx) error {
		if _, err := tx.User(ctx, userID); err != nil {
			return err
		}
		var err error
		if sids, err = s.endSessions(ctx, tx, Subject{AudienceApp, userID}, ReasonStaff, at); err != nil || len(sids) == 0 {
			return err
		}
		return s.audit(ctx, tx, a, "session_revoked", at, map[string]any{"user_id": userID, "sids": sids, "reason": ReasonStaff})
	})
	if err != nil {
		return 0, err
	}
	s.ended(sids...)
	return len(sids), nil
}
