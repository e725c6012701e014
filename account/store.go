package account

import (
	"context"
	"fmt"
	"time"

	"github.com/opticworks/devicecloud/registry"
)

// Store is what the domain of people needs of a database.
type Store interface {
	// View runs f on one read-only snapshot.
	View(ctx context.Context, f func(Tx) error) error
	// InTx runs f in one durable write transaction; see registry.Store.
	InTx(ctx context.Context, f func(Tx) error) error
}

// Tx is one transaction over the tables of people and of devices.
type Tx interface {
	registry.Tx
	UserTx
	AdminTx
	SessionTx
	MagicLinkTx
	ServiceTx
}

// UserTx reads and writes people.
type UserTx interface {
	// User reads one person; ErrUserNotFound.
	User(ctx context.Context, userID string) (User, error)
	// UserByIdentity finds the person behind a provider's subject; ErrUserNotFound.
	UserByIdentity(ctx context.Context, provider, subject string) (User, error)
	// VerifiedUser finds the person whose verified, normalised e-mail this is, also a
	// disabled one; ErrUserNotFound.
	VerifiedUser(ctx context.Context, email string) (User, error)
	// InsertUser writes a person; ErrEmailTaken when the e-mail is another's
	// verified one.
	InsertUser(ctx context.Context, u User) error
	// Users lists people by part of their e-mail or by id, in order of id, after the
	// given id.
	Users(ctx context.Context, f UserFilter) ([]User, error)
	// SetUserDisabled disables (at) or enables (zero time); changed says whether it
	// was otherwise before. ErrUserNotFound.
	SetUserDisabled(ctx context.Context, userID string, disabledAt, at time.Time) (changed bool, err error)
	// InsertIdentity binds a provider's subject to a person; ErrIdentityTaken.
	InsertIdentity(ctx context.Context, provider, subject, userID string, at time.Time) error
	// Identities lists by which providers a person gets in, the oldest first, each
	// provider once.
	Identities(ctx context.Context, userID string) ([]LinkedIdentity, error)
	// DeleteIdentities removes a person's identities of a provider, only while there
	// is one of another provider; changed says whether it did.
	DeleteIdentities(ctx context.Context, userID, provider string) (changed bool, err error)
	// SetUserEmail gives a person who has no e-mail a verified one, only while nobody
	// else has it; changed says whether it did.
	SetUserEmail(ctx context.Context, userID, email string, at time.Time) (changed bool, err error)
	// EraseUser removes a person and what names them: identities, mailed links, the
	// e-mail and the link of their order lines, address and program in the audit rows
	// of what they did, and the names that they gave to devices there. email is their
	// verified one, or "".
	EraseUser(ctx context.Context, userID, email string, at time.Time) error
}

// AdminTx reads and writes platform staff.
type AdminTx interface {
	// Admin reads one member of staff; ErrAdminNotFound.
	Admin(ctx context.Context, adminID string) (Admin, error)
	// AdminByEmail reads one member of staff by normalised e-mail; ErrAdminNotFound.
	AdminByEmail(ctx context.Context, email string) (Admin, error)
	// InsertAdmin writes a member of staff; ErrEmailTaken.
	InsertAdmin(ctx context.Context, a Admin) error
	// CountAdmins is how many administrators there are, disabled ones included.
	CountAdmins(ctx context.Context) (int, error)
	// SetAdminPassword replaces the password hash.
	SetAdminPassword(ctx context.Context, adminID, hash string, at time.Time) error
	// Admins lists staff in order of id, after the given id.
	Admins(ctx context.Context, after string, limit int) ([]Admin, error)
	// AdminByOIDC reads the member whose subject at the identity provider of staff
	// this is; ErrAdminNotFound.
	AdminByOIDC(ctx context.Context, subject string) (Admin, error)
	// SetAdminEmail changes the e-mail; ErrEmailTaken.
	SetAdminEmail(ctx context.Context, adminID, email string, at time.Time) error
	// SetAdminRole changes the role; changed says whether it was another. The scopes that
	// were granted go with the old one. Unless evenLast, it leaves the last administrator
	// that is not disabled alone: ErrLastAdmin.
	SetAdminRole(ctx context.Context, adminID string, role AdminRole, evenLast bool, at time.Time) (changed bool, err error)
	// SetAdminScopes replaces the scopes that are granted beyond those of the role; changed
	// says whether they were others. ErrStaffScope for who is no administrator.
	SetAdminScopes(ctx context.Context, adminID string, scopes []string, at time.Time) (changed bool, err error)
	// SetAdminDisabled disables (disabledAt) or enables (zero time); changed says
	// whether it was otherwise before. ErrLastAdmin as of SetAdminRole.
	SetAdminDisabled(ctx context.Context, adminID string, disabledAt, at time.Time) (changed bool, err error)
	// SetPendingTOTP writes a shared secret that is not confirmed yet, over another
	// such; changed is false when there is a confirmed one.
	SetPendingTOTP(ctx context.Context, adminID string, secret SealedTOTP, at time.Time) (changed bool, err error)
	// ConfirmTOTP confirms the pending secret and uses a time step up; changed is
	// false when there is nothing to confirm.
	ConfirmTOTP(ctx context.Context, adminID string, step int64, at time.Time) (changed bool, err error)
	// UseTOTPStep accepts a time step, only after every one that was accepted before;
	// fresh says whether it did.
	UseTOTPStep(ctx context.Context, adminID string, step int64, at time.Time) (fresh bool, err error)
	// ClearTOTP forgets the shared secret; changed says whether there was one.
	ClearTOTP(ctx context.Context, adminID string, at time.Time) (changed bool, err error)
}

// UserFilter narrows a list of people.
type UserFilter struct {
	Query string // part of the e-mail in any letter case, or the whole id; "" is everybody
	After string // the last user id of the page before
	Limit int    // at most 201
}

// SessionTx reads and writes sessions, and what may be used once.
type SessionTx interface {
	// InsertSession writes a session.
	InsertSession(ctx context.Context, x Session) error
	// Session reads one session; ErrSessionNotFound.
	Session(ctx context.Context, sid string) (Session, error)
	// Sessions lists a subject's live sessions before the given id, "" for the
	// newest, newest first.
	Sessions(ctx context.Context, of Subject, now time.Time, before string, limit int) ([]Session, error)
	// TouchSession records a refresh: when, until when the session lives now, from
	// where, and its scopes. changed is false when it is revoked.
	TouchSession(ctx context.Context, x Session) (changed bool, err error)
	// RevokeSession ends one session of a subject; changed is false when there is no
	// such session, or it was revoked before.
	RevokeSession(ctx context.Context, of Subject, sid, reason string, at time.Time) (changed bool, err error)
	// RevokeSessions ends all of a subject's sessions that are not revoked, but the
	// one to keep ("" for none), and returns their ids.
	RevokeSessions(ctx context.Context, of Subject, keep, reason string, at time.Time) (sids []string, err error)
	// RevokedSessions lists the sessions that were revoked since the given time.
	RevokedSessions(ctx context.Context, since time.Time) ([]Revoked, error)
	// ScrubSessions removes from all of a subject's sessions what says where and on
	// which device they were. They are kept until the given time at most.
	ScrubSessions(ctx context.Context, of Subject, until time.Time) error
	// DeleteSessions deletes at most limit sessions that ended for good before the
	// given time, or limit of their refresh tokens while there are as many; it returns
	// how many.
	DeleteSessions(ctx context.Context, before time.Time, limit int) (int, error)

	// InsertRefreshToken writes a refresh token of a session, by hash.
	InsertRefreshToken(ctx context.Context, hash []byte, sid string, at time.Time) error
	// RefreshToken reads a refresh token by hash; ok is false when there is none.
	RefreshToken(ctx context.Context, hash []byte) (t RefreshRecord, ok bool, err error)
	// RetireRefreshToken marks a token as used, only while it is not; changed says
	// whether it did.
	RetireRefreshToken(ctx context.Context, hash []byte, at time.Time) (changed bool, err error)

	// UseToken records a provider's token or code as used, by hash; fresh is false
	// when it was used before.
	UseToken(ctx context.Context, hash []byte, expires time.Time) (fresh bool, err error)
	// DeleteUsedTokens deletes at most limit used tokens that expired before the
	// given time; it returns how many.
	DeleteUsedTokens(ctx context.Context, before time.Time, limit int) (int, error)
	// DeleteMagicLinks deletes at most limit mailed links from before the given time;
	// it returns how many.
	DeleteMagicLinks(ctx context.Context, before time.Time, limit int) (int, error)
}

// LinkedIdentity is a provider by which a person gets in.
type LinkedIdentity struct {
	Provider  string
	CreatedAt time.Time
}

// Revoked is a session that was revoked.
type Revoked struct {
	ID        string
	RevokedAt time.Time
}

// RefreshRecord is what the database knows of a refresh token.
type RefreshRecord struct {
	SessionID string
	IssuedAt  time.Time
	RetiredAt time.Time // zero: it has not been used
}

// User is a person.
type User struct {
	ID            string
	Email         string // normalised; "" when the provider gives none
	EmailVerified bool
	DisabledAt    time.Time
	CreatedAt     time.Time
}

// AdminRole is what a member of staff may do.
type AdminRole string

// The roles of staff.
const (
	AdminRoleAdmin   AdminRole = "admin"
	AdminRoleSupport AdminRole = "support"
)

// Admin is a member of platform staff.
type Admin struct {
	ID              string
	Email           string       // normalised
	PasswordHash    PasswordHash // "" for who signs in through the identity provider alone
	Role            AdminRole
	Scopes          []string // granted beyond those of the role, to an administrator; see [Service.ChangeStaff]
	DisabledAt      time.Time
	CreatedAt       time.Time
	TOTPSecret      SealedTOTP
	TOTPConfirmedAt time.Time // zero: no second proof is asked for
	OIDCSubject     string    // at the identity provider of staff; "" for who has a password
}

// PasswordHash is an argon2id PHC string. It redacts itself in every format.
type PasswordHash string

// Format redacts, for every verb; a String method alone would not for %d.
func (PasswordHash) Format(f fmt.State, _ rune) { _, _ = f.Write([]byte("[redacted]")) }

// MarshalJSON redacts.
func (PasswordHash) MarshalJSON() ([]byte, error) { return []byte(`"[redacted]"`), nil }

// The errors of the domain of people.
var (
	ErrUserNotFound     = registry.E(registry.NotFound, "user_not_found", "There is no such person.")
	ErrAdminNotFound    = registry.E(registry.NotFound, "admin_not_found", "There is no such administrator.")
	ErrSessionNotFound  = registry.E(registry.NotFound, "session_not_found", "There is no such session.")
	ErrEmailTaken       = registry.E(registry.Conflict, "email_taken", "This e-mail address belongs to somebody else.")
	ErrIdentityNotFound = registry.E(registry.NotFound, "identity_not_found", "You have no identity of this provider.")
	ErrLastIdentity     = registry.E(registry.Conflict, "last_identity", "This is the only way into the account. Add another one first, or delete the account.")
	ErrIdentityTaken    = registry.E(registry.Conflict, "identity_taken", "This identity belongs to somebody else.")
	ErrStaffScope       = registry.E(registry.Invalid, "invalid_scope", "Only admin:sim can be granted, and to administrators alone.")
	ErrOwnScopes        = registry.E(registry.Forbidden, "own_scopes", "Nobody grants scopes to themselves. Ask another administrator.")
	ErrLastAdmin        = registry.E(registry.Conflict, "last_admin", "This is the last administrator.")
)
