package account

import (
	"context"
	"errors"
	"unicode/utf8"

	"github.com/opticworks/devicecloud/registry"
)

// AdminLogin lets a member of staff in by password and, where one is set up, by the
// code of an authenticator. from says where the request comes from. An unknown address,
// a wrong password, a disabled account and a wrong or used code cost the same work and
// give the same ErrInvalidCredentials; a right password without the code that it needs
// is ErrTOTPRequired. Five failures lock the account for the caller's address for 15
// minutes, longer each time, with ErrRateLimited; 25 lock the address for every
// account. Other errors: ErrMissingFields, ErrUnavailable. [contracts C.4]
func (s *Service) AdminLogin(ctx context.Context, login AdminLogin, from registry.Actor) (Tokens, Admin, error) {
	if login.Email == "" || login.Password == "" {
		return Tokens{}, Admin{}, ErrMissingFields
	}
	// What is not an address is counted under one name: it can be no account's.
	address, err := registry.NormalizeEmail(login.Email)
	if err != nil {
		address = "?"
	}
	return s.authenticate(ctx, address, login, from)
}

// AdminLogin is what a member of staff types.
type AdminLogin struct {
	Email    string
	Password string
	TOTP     string // the authenticator's code; "" when there is none
}

const (
	methodPassword = "password"
	methodTOTP     = "password+totp"
)

// authenticate takes a place among the running hashes, charges the try, checks
// the password and the code and records the outcome. Only a wrong one stays charged.
func (s *Service) authenticate(ctx context.Context, address string, login AdminLogin, from registry.Actor) (Tokens, Admin, error) {
	release, err := s.hasher.acquire(ctx)
	if err != nil {
		return Tokens{}, Admin{}, err
	}
	defer release()
	wait, lastTry := s.lockout.attempt(address, from.IP, s.opts.Now())
	if wait > 0 {
		locked := *ErrRateLimited
		locked.RetryAfter = wait
		return Tokens{}, Admin{}, &locked
	}
	a, err := s.check(ctx, address, login.Password)
	var step int64
	if err == nil {
		step, err = s.secondProof(a, login.TOTP)
	}
	var tokens Tokens
	if err == nil {
		tokens, a, err = s.admit(ctx, a, login.Password, step, from)
	}
	switch {
	case errors.Is(err, ErrInvalidCredentials):
		if auditErr := s.auditRefusal(ctx, a, lastTry, from); auditErr != nil {
			return Tokens{}, Admin{}, auditErr
		}
		return Tokens{}, Admin{}, err
	case err != nil:
		s.lockout.refund(address, from.IP)
		return Tokens{}, Admin{}, err
	}
	s.lockout.succeeded(address, from.IP)
	return tokens, a, nil
}

// check does the same work whatever the outcome. The account is returned with
// ErrInvalidCredentials too when there is one, for the audit trail.
func (s *Service) check(ctx context.Context, address, password string) (a Admin, err error) {
	known := true
	err = s.store.View(ctx, func(tx Tx) (err error) {
		a, err = tx.AdminByEmail(ctx, address)
		return err
	})
	if errors.Is(err, ErrAdminNotFound) {
		known, a = false, Admin{PasswordHash: s.dummy}
	} else if err != nil {
		return Admin{}, err
	}
	if a.PasswordHash == "" { // of who signs in through the identity provider alone
		known, a.PasswordHash = false, s.dummy
	}
	hash, err := a.PasswordHash.parse()
	if err != nil {
		return Admin{}, err
	}
	if len(password) > maxPassword {
		password, known = password[:maxPassword], false
	}
	if matches := hash.matches(password); !matches || !known || !a.DisabledAt.IsZero() {
		return a, ErrInvalidCredentials
	}
	return a, nil
}

// admit opens the session of a member of staff whose password was right, uses up the
// time step of the code (0 for none), and writes a new hash when the parameters have
// changed since the old one was made. Whoever was disabled or got another password
// meanwhile, or whose code somebody else has used, is ErrInvalidCredentials. The caller
// holds a place for hashing.
func (s *Service) admit(ctx context.Context, checked Admin, password string, step int64, from registry.Actor) (tokens Tokens, a Admin, err error) {
	hash, err := checked.PasswordHash.parse()
	if err != nil {
		return Tokens{}, checked, err
	}
	var renewed PasswordHash
	if hash.params != s.opts.Hash {
		renewed = s.opts.Hash.hash(password)
	}
	err = s.store.InTx(ctx, func(tx Tx) (err error) {
		a, err = tx.Admin(ctx, checked.ID)
		switch {
		case errors.Is(err, ErrAdminNotFound), err == nil && (!a.DisabledAt.IsZero() || a.PasswordHash != checked.PasswordHash):
			return ErrInvalidCredentials
		case err != nil:
			return err
		}
		if (step == 0) != a.TOTPConfirmedAt.IsZero() { // turned on or off meanwhile
			return ErrInvalidCredentials
		}
		method := methodPassword
		if step != 0 {
			method = methodTOTP
			if fresh, err := tx.UseTOTPStep(ctx, a.ID, step, s.now()); err != nil {
				return err
			} else if !fresh {
				return ErrInvalidCredentials
			}
		}
		if renewed != "" {
			if err := tx.SetAdminPassword(ctx, a.ID, string(renewed), s.now()); err != nil {
				return err
			}
		}
		tokens, err = s.open(ctx, tx, opening{
			audience: AudienceAdmin, subject: a.ID, role: string(a.Role), method: method, scopes: a.tokenScopes(), from: from,
		})
		return err
	})
	if err != nil {
		return Tokens{}, checked, err
	}
	return tokens, a, nil
}

// auditRefusal records a failed try, and the lock that it brought, also when the
// caller has hung up meanwhile. What was typed is not recorded.
func (s *Service) auditRefusal(ctx context.Context, a Admin, locked bool, from registry.Actor) error {
	from.Kind, from.ID = "anonymous", ""
	if a.ID != "" {
		from.Kind, from.ID = a.Role.actorKind(), a.ID
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), registry.CommitTimeout)
	defer cancel()
	data, at := map[string]any{"method": methodPassword, "code": ErrInvalidCredentials.Code}, s.now()
	return s.store.InTx(ctx, func(tx Tx) error {
		if err := s.audit(ctx, tx, from, "login_failed", at, data); err != nil || !locked {
			return err
		}
		return s.audit(ctx, tx, from, "account_locked", at, map[string]any{"method": methodPassword})
	})
}

func (r AdminRole) actorKind() registry.ActorKind {
	if r == AdminRoleSupport {
		return registry.ActorSupport
	}
	return registry.ActorAdmin
}

// tokenScopes are the scopes that the member's tokens carry: those of the role, and what
// was granted.
func (a Admin) tokenScopes() []string {
	if a.Role == AdminRoleSupport {
		return []string{registry.ScopeDeviceRead}
	}
	scopes := []string{registry.ScopeDeviceRead, registry.ScopeDeviceControl, registry.ScopeDeviceConfigure, registry.ScopeConfigWrite}
	return append(scopes, a.Scopes...)
}

// EnsureAdmin makes the first administrator, and does nothing when there is
// any member of staff already. Errors as [Service.CreateAdmin].
func (s *Service) EnsureAdmin(ctx context.Context, email, password string) (created bool, err error) {
	var n int
	err = s.store.View(ctx, func(tx Tx) (err error) {
		n, err = tx.CountAdmins(ctx)
		return err
	})
	if err != nil || n > 0 {
		return false, err
	}
	a, err := s.newAdmin(ctx, email, password, AdminRoleAdmin)
	if err != nil {
		return false, err
	}
	err = s.store.InTx(ctx, func(tx Tx) error {
		created = false
		n, err := tx.CountAdmins(ctx)
		if err != nil || n > 0 {
			return err
		}
		created = true
		return s.insertAdmin(ctx, tx, registry.System(), a)
	})
	if errors.Is(err, ErrEmailTaken) { // another node was faster
		return false, nil
	}
	return created && err == nil, err
}

// CreateAdmin makes a member of staff, for an operator. Errors as
// [Service.CreateStaff].
func (s *Service) CreateAdmin(ctx context.Context, email, password string, role AdminRole) (Admin, error) {
	return s.CreateStaff(ctx, registry.System(), email, password, role, nil)
}

func (s *Service) newAdmin(ctx context.Context, email, password string, role AdminRole) (Admin, error) {
	address, err := registry.NormalizeEmail(email)
	if err != nil {
		return Admin{}, ErrInvalidEmail.With(err)
	}
	if !role.valid() {
		return Admin{}, ErrInvalidRole
	}
	hash, err := s.hashPassword(ctx, password)
	if err != nil {
		return Admin{}, err
	}
	return Admin{ID: s.opts.NewID(), Email: address, PasswordHash: hash, Role: role, CreatedAt: s.now()}, nil
}

// hashPassword hashes a password that staff may have; ErrWeakPassword.
func (s *Service) hashPassword(ctx context.Context, password string) (PasswordHash, error) {
	if n := utf8.RuneCountInString(password); n < 12 || n > 256 || !utf8.ValidString(password) || Guessable(password) != "" {
		return "", ErrWeakPassword
	}
	release, err := s.hasher.acquire(ctx)
	if err != nil {
		return "", err
	}
	defer release()
	return s.opts.Hash.hash(password), nil
}

func (r AdminRole) valid() bool { return r == AdminRoleAdmin || r == AdminRoleSupport }

func (s *Service) insertAdmin(ctx context.Context, tx Tx, by registry.Actor, a Admin) error {
	if err := tx.InsertAdmin(ctx, a); err != nil {
		return err
	}
	err := s.audit(ctx, tx, by, "staff_created", a.CreatedAt, map[string]any{"admin_id": a.ID, "role": string(a.Role)})
	if err != nil || len(a.Scopes) == 0 {
		return err
	}
	return s.auditScopes(ctx, tx, by, a.ID, nil, a.Scopes, a.CreatedAt)
}
