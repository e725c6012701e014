package account

import (
	"context"
	"errors"
	"time"

	"github.com/opticworks/devicecloud/registry"
)

// Staff lists the members of staff in order of id, after the given id.
func (s *Service) Staff(ctx context.Context, a registry.Actor, after string, limit int) (list []Admin, err error) {
	if err := adminOnly(a); err != nil {
		return nil, err
	}
	err = s.store.View(ctx, func(tx Tx) (err error) {
		list, err = tx.Admins(ctx, after, limit)
		return err
	})
	return list, err
}

// CreateStaff makes a member of staff who signs in by password. ErrInvalidEmail,
// ErrInvalidRole, ErrWeakPassword (12 to 256 characters), ErrEmailTaken, Forbidden,
// ErrUnavailable.
func (s *Service) CreateStaff(ctx context.Context, a registry.Actor, email, password string, role AdminRole) (Admin, error) {
	if err := adminOnly(a); err != nil {
		return Admin{}, err
	}
	m, err := s.newAdmin(ctx, email, password, role)
	if err != nil {
		return Admin{}, err
	}
	if err := s.store.InTx(ctx, func(tx Tx) error { return s.insertAdmin(ctx, tx, a, m) }); err != nil {
		return Admin{}, err
	}
	return m, nil
}

// StaffChange is what changes about a member of staff; nil is what stays.
type StaffChange struct {
	Role     *AdminRole
	Disabled *bool
}

// ChangeStaff changes a member's role, or disables or enables them. Any change ends
// all of their sessions. The last administrator who is not disabled stays one, however
// many ask at once: ErrLastAdmin. Other errors: ErrInvalidRole, ErrAdminNotFound,
// Forbidden.
func (s *Service) ChangeStaff(ctx context.Context, a registry.Actor, adminID string, c StaffChange) (m Admin, err error) {
	if err := adminOnly(a); err != nil {
		return Admin{}, err
	}
	if c.Role != nil && !c.Role.valid() {
		return Admin{}, ErrInvalidRole
	}
	var sids []string
	at := s.now()
	err = s.store.InTx(ctx, func(tx Tx) error {
		sids = nil
		if m, err = tx.Admin(ctx, adminID); err != nil {
			return err
		}
		reason := ""
		if c.Role != nil {
			changed, err := tx.SetAdminRole(ctx, adminID, *c.Role, false, at)
			if err == nil && changed {
				reason = ReasonChanged
				err = s.audit(ctx, tx, a, "staff_role_changed", at, map[string]any{"admin_id": adminID, "from": string(m.Role), "to": string(*c.Role)})
			}
			if err != nil {
				return err
			}
		}
		if c.Disabled != nil {
			changed, err := s.setStaffDisabled(ctx, tx, a, adminID, *c.Disabled, at)
			if err != nil {
				return err
			}
			if changed {
				reason = ReasonDisabled
			}
		}
		if reason != "" {
			if sids, err = s.endSessions(ctx, tx, Subject{AudienceAdmin, adminID}, reason, at); err != nil {
				return err
			}
		}
		m, err = tx.Admin(ctx, adminID)
		return err
	})
	if err != nil {
		return Admin{}, err
	}
	s.ended(sids...)
	return m, nil
}

func (s *Service) setStaffDisabled(ctx context.Context, tx Tx, a registry.Actor, adminID string, disabled bool, at time.Time) (changed bool, err error) {
	event, since := "staff_enabled", time.Time{}
	if disabled {
		event, since = "staff_disabled", at
	}
	changed, err = tx.SetAdminDisabled(ctx, adminID, since, at)
	if err == nil && changed {
		err = s.audit(ctx, tx, a, event, at, map[string]any{"admin_id": adminID})
	}
	return changed, err
}

// ResetTOTP takes the second proof from a member who has lost it. Doing it again
// changes nothing. ErrAdminNotFound, Forbidden.
func (s *Service) ResetTOTP(ctx context.Context, a registry.Actor, adminID string) error {
	if err := adminOnly(a); err != nil {
		return err
	}
	return s.store.InTx(ctx, func(tx Tx) error {
		m, err := tx.Admin(ctx, adminID)
		if err != nil {
			return err
		}
		at := s.now()
		if _, err := tx.ClearTOTP(ctx, adminID, at); err != nil || m.TOTPConfirmedAt.IsZero() {
			return err
		}
		return s.audit(ctx, tx, a, "totp_disabled", at, map[string]any{"admin_id": adminID})
	})
}

// SetPassword gives a member of staff another password, for an operator who helps
// somebody locked out, and ends all of their sessions. ErrAdminNotFound,
// ErrWeakPassword, Forbidden.
func (s *Service) SetPassword(ctx context.Context, a registry.Actor, adminID, password string) error {
	if err := adminOnly(a); err != nil {
		return err
	}
	hash, err := s.hashPassword(ctx, password)
	if err != nil {
		return err
	}
	var sids []string
	at := s.now()
	err = s.store.InTx(ctx, func(tx Tx) (err error) {
		if err = tx.SetAdminPassword(ctx, adminID, string(hash), at); err != nil {
			return err
		}
		if sids, err = s.endSessions(ctx, tx, Subject{AudienceAdmin, adminID}, ReasonChanged, at); err != nil {
			return err
		}
		return s.audit(ctx, tx, a, "staff_password_set", at, map[string]any{"admin_id": adminID})
	})
	if err != nil {
		return err
	}
	s.ended(sids...)
	return nil
}

// StaffByEmail finds a member of staff; ErrInvalidEmail, ErrAdminNotFound, Forbidden.
func (s *Service) StaffByEmail(ctx context.Context, a registry.Actor, email string) (m Admin, err error) {
	if err := adminOnly(a); err != nil {
		return Admin{}, err
	}
	address, err := registry.NormalizeEmail(email)
	if err != nil {
		return Admin{}, ErrInvalidEmail.With(err)
	}
	err = s.store.View(ctx, func(tx Tx) (err error) {
		m, err = tx.AdminByEmail(ctx, address)
		return err
	})
	return m, err
}

// member reads the signed-in member of staff.
func (s *Service) member(ctx context.Context, tx Tx, a registry.Actor) (Admin, error) {
	if a.Kind != registry.ActorAdmin && a.Kind != registry.ActorSupport {
		return Admin{}, registry.ErrInsufficientRole
	}
	m, err := tx.Admin(ctx, a.ID)
	switch {
	case errors.Is(err, ErrAdminNotFound):
		return Admin{}, ErrInvalidToken.With(err)
	case err == nil && !m.DisabledAt.IsZero():
		return Admin{}, ErrAccountDisabled
	}
	return m, err
}
