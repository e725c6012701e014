package account

import (
	"context"
	"errors"
	"slices"
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

// CreateStaff makes a member of staff who signs in by password, with scopes as of
// [Service.ChangeStaff]. ErrInvalidEmail, ErrInvalidRole, ErrStaffScope, ErrWeakPassword
// (12 to 256 characters), ErrEmailTaken, Forbidden, ErrUnavailable.
func (s *Service) CreateStaff(ctx context.Context, a registry.Actor, email, password string, role AdminRole, scopes []string) (Admin, error) {
	if err := adminOnly(a); err != nil {
		return Admin{}, err
	}
	scopes, err := grantable(scopes)
	if err == nil && len(scopes) > 0 && role == AdminRoleSupport {
		err = ErrStaffScope
	}
	if err != nil {
		return Admin{}, err
	}
	m, err := s.newAdmin(ctx, email, password, role)
	if err != nil {
		return Admin{}, err
	}
	m.Scopes = scopes
	if err := s.store.InTx(ctx, func(tx Tx) error { return s.insertAdmin(ctx, tx, a, m) }); err != nil {
		return Admin{}, err
	}
	return m, nil
}

// StaffChange is what changes about a member of staff; nil is what stays.
type StaffChange struct {
	Role     *AdminRole
	Scopes   *[]string // all that are granted beyond those of the role; empty withdraws them
	Disabled *bool
}

// grantable puts scopes that are to be granted to an administrator in order, each once;
// ErrStaffScope.
func grantable(scopes []string) ([]string, error) {
	if len(scopes) == 0 {
		return nil, nil
	}
	scopes, err := parseScopes(scopes, []string{registry.ScopeSIM})
	if err != nil {
		return nil, ErrStaffScope
	}
	return scopes, nil
}

// ChangeStaff changes a member's role, grants or withdraws scopes, or disables or enables
// them. Any change ends all of their sessions, and another role the scopes that were
// granted: with the next sign-in the tokens carry what holds now. Scopes are granted to
// administrators alone, by another one; anybody may give up their own. The last
// administrator who is not disabled stays one, however many ask at once: ErrLastAdmin.
// Other errors: ErrInvalidRole, ErrStaffScope, ErrOwnScopes, ErrAdminNotFound, Forbidden.
func (s *Service) ChangeStaff(ctx context.Context, a registry.Actor, adminID string, c StaffChange) (m Admin, err error) {
	if err := adminOnly(a); err != nil {
		return Admin{}, err
	}
	if c.Role != nil && !c.Role.valid() {
		return Admin{}, ErrInvalidRole
	}
	if c.Scopes != nil {
		scopes, err := grantable(*c.Scopes)
		if err == nil && len(scopes) > 0 && c.Role != nil && *c.Role == AdminRoleSupport {
			err = ErrStaffScope
		}
		if err != nil {
			return Admin{}, err
		}
		c.Scopes = &scopes
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
				err = s.auditRole(ctx, tx, a, m, *c.Role, at)
				m.Role, m.Scopes = *c.Role, nil
			}
			if err != nil {
				return err
			}
		}
		if c.Scopes != nil {
			changed, err := s.setStaffScopes(ctx, tx, a, m, *c.Scopes, at)
			if err != nil {
				return err
			}
			if changed {
				reason = ReasonChanged
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

// auditRole records that a member has another role, and that what was granted to them has
// ended with the old one.
func (s *Service) auditRole(ctx context.Context, tx Tx, by registry.Actor, m Admin, role AdminRole, at time.Time) error {
	err := s.audit(ctx, tx, by, "staff_role_changed", at, map[string]any{"admin_id": m.ID, "from": string(m.Role), "to": string(role)})
	if err != nil || len(m.Scopes) == 0 {
		return err
	}
	return s.auditScopes(ctx, tx, by, m.ID, m.Scopes, nil, at)
}

// auditScopes records a grant or its end; each has such a row, whatever brought it.
func (s *Service) auditScopes(ctx context.Context, tx Tx, by registry.Actor, adminID string, from, to []string, at time.Time) error {
	return s.audit(ctx, tx, by, "staff_scopes_changed", at, map[string]any{"admin_id": adminID, "from": append([]string{}, from...), "to": append([]string{}, to...)})
}

// setStaffScopes grants or withdraws scopes, as they stand in m until now.
func (s *Service) setStaffScopes(ctx context.Context, tx Tx, a registry.Actor, m Admin, scopes []string, at time.Time) (changed bool, err error) {
	switch {
	case slices.Equal(m.Scopes, scopes):
		return false, nil
	case m.Role != AdminRoleAdmin && len(scopes) > 0:
		return false, ErrStaffScope
	case a.Kind == registry.ActorAdmin && a.ID == m.ID && slices.ContainsFunc(scopes, func(scope string) bool { return !slices.Contains(m.Scopes, scope) }):
		return false, ErrOwnScopes
	}
	changed, err = tx.SetAdminScopes(ctx, m.ID, scopes, at)
	if err == nil && changed {
		err = s.auditScopes(ctx, tx, a, m.ID, m.Scopes, scopes, at)
	}
	return changed, err
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
