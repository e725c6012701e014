package account

import (
	"context"
	"crypto/rand"
	"crypto/sha256"
	"crypto/subtle"
	"encoding/base64"
	"encoding/hex"
	"errors"
	"fmt"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/opticworks/devicecloud/registry"
)

const (
	// secretLen is the length of a secret, in random bytes.
	secretLen = 32
	// credentialIDLen is that of a credential's id; it is no secret.
	credentialIDLen = 8
	// keyPrefix begins every API key: bk_<id>_<secret>.
	keyPrefix = "bk_"
	// maxAPIKeys is how many live API keys a service account may have.
	maxAPIKeys = 20
	// keepRevoked is how long a revoked credential stays in the lists.
	keepRevoked = 90 * 24 * time.Hour
	// useEvery is how exactly the last use of a credential is known.
	useEvery = time.Minute
	// methodSecret names in audit rows and tokens how a service account has proven
	// itself.
	methodSecret = string(ClientSecret)
)

// ServiceSecret is a client secret or an API key, shown once. It redacts itself in
// every format; only [ServiceSecret.Reveal] gives its text.
type ServiceSecret struct{ text string }

// Reveal is the secret's text, for the one answer that carries it.
func (t ServiceSecret) Reveal() string { return t.text }

// Format redacts.
func (ServiceSecret) Format(f fmt.State, _ rune) { _, _ = f.Write([]byte("[redacted]")) }

// MarshalText redacts.
func (ServiceSecret) MarshalText() ([]byte, error) { return []byte("[redacted]"), nil }

// newSecret makes a credential's id and secret.
func newSecret() (id, text string, hash registry.Digest) {
	b := make([]byte, credentialIDLen+secretLen)
	_, _ = rand.Read(b) // never fails, see its documentation
	sum := sha256.Sum256(b[credentialIDLen:])
	return hex.EncodeToString(b[:credentialIDLen]), base64.RawURLEncoding.EncodeToString(b[credentialIDLen:]), sum[:]
}

// parseSecret is the digest of a secret's text; ok is false when no secret of ours has
// such a text.
func parseSecret(text string) (hash [sha256.Size]byte, ok bool) {
	if len(text) != base64.RawURLEncoding.EncodedLen(secretLen) || strings.ContainsAny(text, "\r\n") {
		return hash, false
	}
	b, err := base64.RawURLEncoding.Strict().DecodeString(text)
	if err != nil || len(b) != secretLen {
		return hash, false
	}
	return sha256.Sum256(b), true
}

// parseAPIKey takes an API key apart; ok is false when no key of ours has such a text.
func parseAPIKey(text string) (id string, hash [sha256.Size]byte, ok bool) {
	rest, ok := strings.CutPrefix(text, keyPrefix)
	if !ok || len(rest) < 2*credentialIDLen+1 || rest[2*credentialIDLen] != '_' {
		return "", hash, false
	}
	id = rest[:2*credentialIDLen]
	if strings.Trim(id, "0123456789abcdef") != "" {
		return "", hash, false
	}
	hash, ok = parseSecret(rest[2*credentialIDLen+1:])
	return id, hash, ok
}

// newClientSecret makes the client secret of an account.
func (s *Service) newClientSecret(a ServiceAccount) (ServiceCredential, ServiceSecret) {
	id, text, hash := newSecret()
	return ServiceCredential{ID: id, AccountID: a.ID, Kind: ClientSecret, Hash: hash, Scopes: a.Scopes, CreatedAt: s.now()}, ServiceSecret{text}
}

// RotateClientSecret replaces the client secret of a service account: the old one, and
// the tokens that it got, are refused from now on. ErrServiceAccountNotFound.
func (s *Service) RotateClientSecret(ctx context.Context, a registry.Actor, accountID string) (secret ServiceSecret, err error) {
	if err := adminOnly(a); err != nil {
		return ServiceSecret{}, err
	}
	var old []ServiceCredential
	at := s.now()
	err = s.store.InTx(ctx, func(tx Tx) error {
		account, err := tx.ServiceAccount(ctx, accountID)
		if err != nil {
			return err
		}
		if old, err = tx.ServiceCredentials(ctx, accountID, ClientSecret); err != nil {
			return err
		}
		for _, c := range old {
			if _, err := tx.RevokeServiceCredential(ctx, accountID, c.ID, at); err != nil {
				return err
			}
		}
		var fresh ServiceCredential
		fresh, secret = s.newClientSecret(account)
		if err := s.insertCredential(ctx, tx, fresh); err != nil {
			return err
		}
		return s.audit(ctx, tx, a, "service_secret_rotated", at, map[string]any{"account_id": accountID})
	})
	if err != nil {
		return ServiceSecret{}, err
	}
	s.forgetCredentials(old...)
	return secret, nil
}

// insertCredential writes a credential, and deletes those that were revoked long ago.
func (s *Service) insertCredential(ctx context.Context, tx Tx, c ServiceCredential) error {
	if err := tx.DeleteServiceCredentials(ctx, c.AccountID, c.CreatedAt.Add(-keepRevoked)); err != nil {
		return err
	}
	return tx.InsertServiceCredential(ctx, c)
}

// NewKey describes an API key.
type NewKey struct {
	Name      string
	Scopes    []string  // nil: all that the account has
	ExpiresAt time.Time // zero: never
}

// CreateAPIKey makes an API key, which is shown this once. Errors: Invalid,
// ErrInvalidScope, ErrServiceAccountNotFound, ErrTooManyKeys, Forbidden.
func (s *Service) CreateAPIKey(ctx context.Context, a registry.Actor, accountID string, k NewKey) (c ServiceCredential, secret ServiceSecret, err error) {
	if err := adminOnly(a); err != nil {
		return c, secret, err
	}
	if k.Name, err = checkName(k.Name); err != nil {
		return c, secret, err
	}
	at := s.now()
	if !k.ExpiresAt.IsZero() && !k.ExpiresAt.After(at) {
		return c, secret, registry.E(registry.Invalid, registry.ErrInvalidRequest.Code, "expires_at is in the past.")
	}
	err = s.store.InTx(ctx, func(tx Tx) error {
		account, err := tx.ServiceAccount(ctx, accountID)
		if err != nil {
			return err
		}
		scopes := account.Scopes
		if k.Scopes != nil {
			if scopes, err = parseScopes(k.Scopes, account.Scopes); err != nil {
				return err
			}
		}
		keys, err := tx.ServiceCredentials(ctx, accountID, APIKey)
		if err != nil {
			return err
		}
		live := 0
		for _, other := range keys {
			if other.live(at) {
				live++
			}
		}
		if live >= maxAPIKeys {
			return ErrTooManyKeys
		}
		id, text, hash := newSecret()
		secret = ServiceSecret{keyPrefix + id + "_" + text}
		c = ServiceCredential{
			ID: id, AccountID: accountID, Kind: APIKey, Name: k.Name, Hash: hash, Scopes: scopes, CreatedAt: at,
			ExpiresAt: k.ExpiresAt.Truncate(time.Microsecond).UTC(),
		}
		if k.ExpiresAt.IsZero() {
			c.ExpiresAt = time.Time{}
		}
		if err := s.insertCredential(ctx, tx, c); err != nil {
			return err
		}
		return s.audit(ctx, tx, a, "api_key_created", at, map[string]any{"account_id": accountID, "key_id": id, "name": k.Name, "scopes": scopes})
	})
	if err != nil {
		return ServiceCredential{}, ServiceSecret{}, err
	}
	return c, secret, nil
}

// APIKeys lists the API keys of a service account, revoked ones included.
func (s *Service) APIKeys(ctx context.Context, a registry.Actor, accountID string) (list []ServiceCredential, err error) {
	if err := adminOnly(a); err != nil {
		return nil, err
	}
	err = s.store.View(ctx, func(tx Tx) (err error) {
		if _, err = tx.ServiceAccount(ctx, accountID); err != nil {
			return err
		}
		list, err = tx.ServiceCredentials(ctx, accountID, APIKey)
		return err
	})
	return list, err
}

// RevokeAPIKey makes a key be refused from now on, and ends what it opened. Doing it
// again changes nothing. ErrServiceAccountNotFound, ErrCredentialNotFound.
func (s *Service) RevokeAPIKey(ctx context.Context, a registry.Actor, accountID, keyID string) error {
	if err := adminOnly(a); err != nil {
		return err
	}
	var c ServiceCredential
	at := s.now()
	err := s.store.InTx(ctx, func(tx Tx) (err error) {
		if _, err = tx.ServiceAccount(ctx, accountID); err != nil {
			return err
		}
		if c, err = tx.ServiceCredential(ctx, keyID); err != nil {
			return err
		}
		if c.AccountID != accountID || c.Kind != APIKey {
			return ErrCredentialNotFound
		}
		changed, err := tx.RevokeServiceCredential(ctx, accountID, keyID, at)
		if err != nil || !changed {
			return err
		}
		return s.audit(ctx, tx, a, "api_key_revoked", at, map[string]any{"account_id": accountID, "key_id": keyID})
	})
	if err != nil {
		return err
	}
	s.forgetCredentials(c)
	return nil
}

// live reports whether a credential may be used.
func (c ServiceCredential) live(now time.Time) bool {
	return c.RevokedAt.IsZero() && (c.ExpiresAt.IsZero() || now.Before(c.ExpiresAt))
}

// ClientCredentials gives a service account an access token for its client secret:
// with the scopes that it asks for, or, asking for none, with all that it has. There is
// no refresh token. [RFC 6749 4.4] Errors: ErrInvalidClient, ErrInvalidScope,
// ErrUnavailable.
func (s *Service) ClientCredentials(ctx context.Context, clientID, clientSecret string, scopes []string, from registry.Actor) (Tokens, []string, error) {
	var tokens Tokens
	var granted []string
	shown, _ := parseSecret(clientSecret) // of what is no secret: a digest that nothing has
	err := s.store.InTx(ctx, func(tx Tx) error {
		now := s.now()
		c, a, err := clientSecretOf(ctx, tx, clientID)
		if a.ID != "" {
			from.Kind, from.ID = registry.ActorService, a.ID
		}
		// The comparison runs whatever the outcome, so that its time says nothing.
		same := subtle.ConstantTimeCompare(c.Hash, shown[:]) == 1
		switch {
		case err != nil:
			return err
		case !same || !c.live(now) || !a.DisabledAt.IsZero():
			return ErrInvalidClient
		}
		granted = a.Scopes
		if len(scopes) > 0 {
			if granted, err = parseScopes(scopes, a.Scopes); err != nil {
				return err
			}
		}
		x := Session{ID: c.ID, Of: Subject{AudienceService, a.ID}, Scopes: granted, Method: methodSecret, CreatedAt: now, AbsoluteExpiresAt: c.ExpiresAt}
		if c.ExpiresAt.IsZero() { // it ends with no session
			x.AbsoluteExpiresAt = now.Add(s.ttl())
		}
		if tokens.Access, tokens.TTL, err = s.issue(x, "", now); err != nil {
			return err
		}
		if err := tx.UseServiceCredential(ctx, c.ID, now); err != nil {
			return err
		}
		return s.audit(ctx, tx, from, "login_succeeded", now, map[string]any{"method": methodSecret})
	})
	switch {
	case errors.Is(err, ErrServiceAccountNotFound), errors.Is(err, ErrCredentialNotFound):
		return Tokens{}, nil, s.refuseLogin(ctx, from, methodSecret, ErrInvalidClient.With(err))
	case err != nil:
		return Tokens{}, nil, s.refuseLogin(ctx, from, methodSecret, err)
	}
	return tokens, granted, nil
}

// clientSecretOf reads a service account and its client secret.
func clientSecretOf(ctx context.Context, tx Tx, accountID string) (ServiceCredential, ServiceAccount, error) {
	a, err := tx.ServiceAccount(ctx, accountID)
	if err != nil {
		return ServiceCredential{}, a, err
	}
	list, err := tx.ServiceCredentials(ctx, accountID, ClientSecret)
	if err != nil {
		return ServiceCredential{}, a, err
	}
	for _, c := range list {
		if c.RevokedAt.IsZero() {
			return c, a, nil
		}
	}
	return ServiceCredential{}, a, ErrCredentialNotFound
}

// actorByKey is the actor of an API key and until when it lives; the zero time is for
// ever. ErrInvalidToken for anything else.
func (s *Service) actorByKey(ctx context.Context, text string) (registry.Actor, time.Time, error) {
	id, shown, ok := parseAPIKey(text)
	if !ok {
		return registry.Actor{}, time.Time{}, ErrInvalidToken
	}
	c, err := s.credential(ctx, id)
	if err != nil {
		return registry.Actor{}, time.Time{}, err
	}
	if subtle.ConstantTimeCompare(c.Hash, shown[:]) != 1 || c.Kind != APIKey || !c.usable(s.opts.Now()) {
		return registry.Actor{}, time.Time{}, ErrInvalidToken.With(errNotLive)
	}
	s.used(c)
	return registry.Actor{Kind: registry.ActorService, ID: c.AccountID, Scopes: c.Scopes, SessionID: c.ID}, c.ExpiresAt, nil
}

// checkService refuses a token of a service account whose client secret was replaced,
// or which was disabled or deleted.
func (s *Service) checkService(ctx context.Context, a registry.Actor) error {
	c, err := s.credential(ctx, a.SessionID)
	if err != nil {
		return err
	}
	if c.AccountID != a.ID || c.Kind != ClientSecret || !c.usable(s.opts.Now()) {
		return ErrInvalidToken.With(errNotLive)
	}
	return nil
}

// knownCredential is a credential that has been shown, with what decides about it.
type knownCredential struct {
	ServiceCredential
	disabled bool         // the account is
	usedAt   atomic.Int64 // last recorded, microseconds
}

func (c *knownCredential) usable(now time.Time) bool { return !c.disabled && c.live(now) }

// credentialCache remembers credentials from their first use until they change, so
// that checking one reads no database.
type credentialCache struct {
	mu    sync.Mutex
	known map[string]*knownCredential
	// changes counts the calls of forget: what was read before one is not kept.
	changes int
}

func newCredentialCache() *credentialCache {
	return &credentialCache{known: map[string]*knownCredential{}}
}

func (c *credentialCache) get(id string) (known *knownCredential, changes int) {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.known[id], c.changes
}

func (c *credentialCache) put(k *knownCredential, changes int) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.changes == changes {
		c.known[k.ID] = k
	}
}

func (c *credentialCache) forget(ids ...string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.changes++
	for _, id := range ids {
		delete(c.known, id)
	}
}

// credential finds a credential by id; ErrInvalidToken when there is none.
func (s *Service) credential(ctx context.Context, id string) (*knownCredential, error) {
	known, changes := s.credentials.get(id)
	if known != nil {
		return known, nil
	}
	known = &knownCredential{}
	err := s.store.View(ctx, func(tx Tx) (err error) {
		if known.ServiceCredential, err = tx.ServiceCredential(ctx, id); err != nil {
			return err
		}
		a, err := tx.ServiceAccount(ctx, known.AccountID)
		known.disabled = !a.DisabledAt.IsZero()
		return err
	})
	switch {
	case errors.Is(err, ErrCredentialNotFound), errors.Is(err, ErrServiceAccountNotFound):
		return nil, ErrInvalidToken.With(err)
	case err != nil:
		return nil, err
	}
	known.usedAt.Store(known.LastUsedAt.UnixMicro())
	s.credentials.put(known, changes)
	return known, nil
}

// used records the use of a credential, at most once a minute, and never makes the
// caller wait for it.
func (s *Service) used(c *knownCredential) {
	at := s.now()
	last := c.usedAt.Load()
	if at.UnixMicro()-last < useEvery.Microseconds() || !c.usedAt.CompareAndSwap(last, at.UnixMicro()) {
		return
	}
	s.revocation.background(func() {
		ctx, cancel := context.WithTimeout(context.Background(), registry.CommitTimeout)
		defer cancel()
		err := s.store.InTx(ctx, func(tx Tx) error { return tx.UseServiceCredential(ctx, c.ID, at) })
		if err != nil {
			s.log.Warn("the last use of an API key could not be recorded", "key_id", c.ID, "error", err)
		}
	})
}
