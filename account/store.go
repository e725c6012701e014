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
}

// UserTx reads and writes people.
type UserTx interface {
	// User reads one person; ErrUserNotFound.
	User(ctx context.Context, userID string) (User, error)
	// UserByIdentity finds the person behind a provider's subject; ErrUserNotFound.
	UserByIdentity(ctx context.Context, provider, subject string) (User, error)
	// InsertUser writes a person; ErrEmailTaken when the e-mail is another's
	// verified one.
	InsertUser(ctx context.Context, u User) error
	// InsertIdentity binds a provider's subject to a person; ErrIdentityTaken.
	InsertIdentity(ctx context.Context, provider, subject, userID string, at time.Time) error
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
	ID           string
	Email        string // normalised
	PasswordHash PasswordHash
	Role         AdminRole
	DisabledAt   time.Time
	CreatedAt    time.Time
}

// PasswordHash is an argon2id PHC string. It redacts itself in every format.
type PasswordHash string

// Format redacts, for every verb; a String method alone would not for %d.
func (PasswordHash) Format(f fmt.State, _ rune) { _, _ = f.Write([]byte("[redacted]")) }

// MarshalJSON redacts.
func (PasswordHash) MarshalJSON() ([]byte, error) { return []byte(`"[redacted]"`), nil }

// The errors of the domain of people.
var (
	ErrUserNotFound  = registry.E(registry.NotFound, "user_not_found", "There is no such person.")
	ErrAdminNotFound = registry.E(registry.NotFound, "admin_not_found", "There is no such administrator.")
	ErrEmailTaken    = registry.E(registry.Conflict, "email_taken", "This e-mail address belongs to somebody else.")
	ErrIdentityTaken = registry.E(registry.Conflict, "identity_taken", "This identity belongs to somebody else.")
)
