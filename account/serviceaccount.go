package account

import (
	"context"
	"errors"
	"slices"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/opticworks/devicecloud/registry"
)

// ServiceAccount is a program that calls us: a factory, a back end.
type ServiceAccount struct {
	ID         string
	Name       string
	Scopes     []string // the most that its credentials may have
	DisabledAt time.Time
	CreatedBy  string // the actor, as in the audit trail
	CreatedAt  time.Time
}

// CredentialKind is what a service account proves itself with.
type CredentialKind string

// The kinds of credentials of service accounts.
const (
	ClientSecret CredentialKind = "client_secret" // [RFC 6749 2.3.1]
	APIKey       CredentialKind = "api_key"
)

// ServiceCredential is one credential of a service account.
type ServiceCredential struct {
	ID         string
	AccountID  string
	Kind       CredentialKind
	Name       string
	Hash       registry.Digest // SHA-256 of the secret's 32 random bytes
	Scopes     []string
	CreatedAt  time.Time
	ExpiresAt  time.Time // zero: never
	LastUsedAt time.Time // exact to a minute
	RevokedAt  time.Time
}

// ServiceTx reads and writes service accounts and their credentials.
type ServiceTx interface {
	// ServiceAccounts lists service accounts in order of id, after the given id.
	ServiceAccounts(ctx context.Context, after string, limit int) ([]ServiceAccount, error)
	// ServiceAccount reads one; ErrServiceAccountNotFound.
	ServiceAccount(ctx context.Context, accountID string) (ServiceAccount, error)
	// InsertServiceAccount writes one; ErrNameTaken.
	InsertServiceAccount(ctx context.Context, a ServiceAccount) error
	// SetServiceAccountDisabled disables (disabledAt) or enables (zero time); changed
	// says whether it was otherwise before.
	SetServiceAccountDisabled(ctx context.Context, accountID string, disabledAt, at time.Time) (changed bool, err error)
	// DeleteServiceAccount removes the account and its credentials.
	DeleteServiceAccount(ctx context.Context, accountID string) (changed bool, err error)
	// ServiceCredential reads one credential, revoked or not; ErrCredentialNotFound.
	ServiceCredential(ctx context.Context, credentialID string) (ServiceCredential, error)
	// ServiceCredentials lists an account's credentials of a kind, revoked ones
	// included, in order of id; kind "" is every kind.
	ServiceCredentials(ctx context.Context, accountID string, kind CredentialKind) ([]ServiceCredential, error)
	// InsertServiceCredential writes a credential; ErrServiceAccountNotFound.
	InsertServiceCredential(ctx context.Context, c ServiceCredential) error
	// RevokeServiceCredential revokes one; changed is false when it was revoked
	// before, or is not the account's.
	RevokeServiceCredential(ctx context.Context, accountID, credentialID string, at time.Time) (changed bool, err error)
	// UseServiceCredential records a use, only if it is later than the last one.
	UseServiceCredential(ctx context.Context, credentialID string, at time.Time) error
	// DeleteServiceCredentials deletes an account's credentials that were revoked
	// before the given time.
	DeleteServiceCredentials(ctx context.Context, accountID string, before time.Time) error
}

// AudienceService is the audience of the tokens of service accounts.
const AudienceService = "service"

// serviceScopes are the scopes that a service account may have, in the order in which
// they are kept.
var serviceScopes = []string{
	registry.ScopeDeviceRead, registry.ScopeDeviceControl, registry.ScopeDeviceConfigure, registry.ScopeConfigWrite,
	registry.ScopeDeviceEnroll, registry.ScopeOrderWrite, registry.ScopeSIM,
}

// parseScopes puts scopes in order, each once; ErrInvalidScope when one is not among
// those that are allowed, or there is none.
func parseScopes(asked, allowed []string) ([]string, error) {
	var scopes []string
	for _, known := range serviceScopes {
		if slices.Contains(asked, known) && slices.Contains(allowed, known) {
			scopes = append(scopes, known)
		}
	}
	for _, a := range asked {
		if !slices.Contains(scopes, a) {
			return nil, ErrInvalidScope
		}
	}
	if len(scopes) == 0 {
		return nil, ErrInvalidScope
	}
	return scopes, nil
}

// adminOnly lets platform administrators pass, and the program itself.
func adminOnly(a registry.Actor) error {
	if a.Kind == registry.ActorAdmin || a.Kind == registry.ActorSystem {
		return nil
	}
	return registry.ErrInsufficientRole
}

// checkName refuses a name that is not a text of 1 to 64 printable characters.
func checkName(name string) (string, error) {
	name = strings.TrimSpace(name)
	if n := utf8.RuneCountInString(name); n < 1 || n > 64 || !printable(name) {
		return "", registry.E(registry.Invalid, registry.ErrInvalidRequest.Code, "name must be a text of 1 to 64 printable characters.")
	}
	return name, nil
}

// CreateServiceAccount makes a service account and its first client secret, which is
// shown this once. Errors: Invalid, ErrInvalidScope, ErrNameTaken, Forbidden.
func (s *Service) CreateServiceAccount(ctx context.Context, a registry.Actor, name string, scopes []string) (ServiceAccount, ServiceSecret, error) {
	var none ServiceAccount
	err := adminOnly(a)
	if err == nil {
		name, err = checkName(name)
	}
	if err == nil {
		scopes, err = parseScopes(scopes, serviceScopes)
	}
	if err != nil {
		return none, ServiceSecret{}, err
	}
	account := ServiceAccount{ID: s.opts.NewID(), Name: name, Scopes: scopes, CreatedBy: a.String(), CreatedAt: s.now()}
	credential, secret := s.newClientSecret(account)
	err = s.store.InTx(ctx, func(tx Tx) error {
		if err := tx.InsertServiceAccount(ctx, account); err != nil {
			return err
		}
		if err := tx.InsertServiceCredential(ctx, credential); err != nil {
			return err
		}
		return s.audit(ctx, tx, a, "service_account_created", account.CreatedAt, map[string]any{"account_id": account.ID, "name": name, "scopes": scopes})
	})
	if err != nil {
		return none, ServiceSecret{}, err
	}
	return account, secret, nil
}

// ServiceAccounts lists service accounts in order of id, after the given id.
func (s *Service) ServiceAccounts(ctx context.Context, a registry.Actor, after string, limit int) (list []ServiceAccount, err error) {
	if err := adminOnly(a); err != nil {
		return nil, err
	}
	err = s.store.View(ctx, func(tx Tx) (err error) {
		list, err = tx.ServiceAccounts(ctx, after, limit)
		return err
	})
	return list, err
}

// ServiceAccount reads one service account; ErrServiceAccountNotFound.
func (s *Service) ServiceAccount(ctx context.Context, a registry.Actor, accountID string) (account ServiceAccount, err error) {
	if err := adminOnly(a); err != nil {
		return ServiceAccount{}, err
	}
	err = s.store.View(ctx, func(tx Tx) (err error) {
		account, err = tx.ServiceAccount(ctx, accountID)
		return err
	})
	return account, err
}

// DeleteServiceAccount removes a service account: its tokens and keys are refused from
// now on, and its sessions end. ErrServiceAccountNotFound.
func (s *Service) DeleteServiceAccount(ctx context.Context, a registry.Actor, accountID string) error {
	_, err := s.changeServiceAccount(ctx, a, accountID, "service_account_deleted", func(ctx context.Context, tx Tx, _ time.Time) (bool, error) {
		return tx.DeleteServiceAccount(ctx, accountID)
	})
	return err
}

// DisableServiceAccount locks a service account out, as a deletion does, until it is
// enabled again. ErrServiceAccountNotFound.
func (s *Service) DisableServiceAccount(ctx context.Context, a registry.Actor, accountID string) error {
	_, err := s.changeServiceAccount(ctx, a, accountID, "service_account_disabled", func(ctx context.Context, tx Tx, at time.Time) (bool, error) {
		return tx.SetServiceAccountDisabled(ctx, accountID, at, at)
	})
	return err
}

// EnableServiceAccount lets a disabled service account in again, with the credentials
// that were not revoked. ErrServiceAccountNotFound.
func (s *Service) EnableServiceAccount(ctx context.Context, a registry.Actor, accountID string) error {
	credentials, err := s.changeServiceAccount(ctx, a, accountID, "service_account_enabled", func(ctx context.Context, tx Tx, at time.Time) (bool, error) {
		return tx.SetServiceAccountDisabled(ctx, accountID, time.Time{}, at)
	})
	for _, c := range credentials {
		if c.RevokedAt.IsZero() {
			s.revocation.restore(c.ID)
		}
	}
	return err
}

// changeServiceAccount runs one change of an account with its audit row, and then
// forgets what is known of its credentials and ends what they opened. It returns the
// credentials that the account had; none when nothing changed.
func (s *Service) changeServiceAccount(ctx context.Context, a registry.Actor, accountID, event string, change func(ctx context.Context, tx Tx, at time.Time) (changed bool, err error)) ([]ServiceCredential, error) {
	if err := adminOnly(a); err != nil {
		return nil, err
	}
	var credentials []ServiceCredential
	changed := false
	at := s.now()
	err := s.store.InTx(ctx, func(tx Tx) (err error) {
		if _, err = tx.ServiceAccount(ctx, accountID); err != nil {
			return err
		}
		if credentials, err = tx.ServiceCredentials(ctx, accountID, ""); err != nil {
			return err
		}
		if changed, err = change(ctx, tx, at); err != nil || !changed {
			return err
		}
		return s.audit(ctx, tx, a, event, at, map[string]any{"account_id": accountID})
	})
	if err != nil || !changed {
		return nil, err
	}
	s.forgetCredentials(credentials...)
	return credentials, nil
}

// forgetCredentials is called after the commit of a change: what is known of the
// credentials is read anew, and what they opened ends.
func (s *Service) forgetCredentials(list ...ServiceCredential) {
	ids := make([]string, len(list))
	for i, c := range list {
		ids[i] = c.ID
	}
	s.credentials.forget(ids...)
	s.ended(ids...)
}

// serviceProfile is what a service account may see of itself.
func (s *Service) serviceProfile(ctx context.Context, a registry.Actor) (p Profile, err error) {
	err = s.store.View(ctx, func(tx Tx) error {
		account, err := tx.ServiceAccount(ctx, a.ID)
		p = Profile{Kind: a.Kind, ID: account.ID, CreatedAt: account.CreatedAt}
		return err
	})
	if errors.Is(err, ErrServiceAccountNotFound) {
		err = ErrInvalidToken.With(err)
	}
	return p, err
}

// The errors of service accounts.
var (
	ErrServiceAccountNotFound = registry.E(registry.NotFound, "service_account_not_found", "There is no such service account.")
	ErrCredentialNotFound     = registry.E(registry.NotFound, "key_not_found", "There is no such API key.")
	ErrNameTaken              = registry.E(registry.Conflict, "name_taken", "Another service account has this name.")
	ErrTooManyKeys            = registry.E(registry.Conflict, "key_limit_reached", "This service account has as many API keys as it may have.")
	ErrInvalidScope           = registry.E(registry.Invalid, "invalid_scope", "A scope is unknown, or more than the service account may have.")
	ErrInvalidClient          = registry.E(registry.Unauthenticated, "invalid_client", "The client id or its secret is not valid.")
)

var errNotLive = errors.New("account: the credential or its account is revoked, disabled or expired")
