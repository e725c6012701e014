package account

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/golang-jwt/jwt/v5"
	"github.com/opticworks/devicecloud/registry"
)

// AccessToken is a bearer token. It redacts itself in every format; only
// [AccessToken.Reveal] gives its text.
type AccessToken struct{ text string }

// Reveal is the token's text, for the one answer that carries it.
func (t AccessToken) Reveal() string { return t.text }

// Format redacts.
func (AccessToken) Format(f fmt.State, _ rune) { _, _ = f.Write([]byte("[redacted]")) }

// MarshalText redacts.
func (AccessToken) MarshalText() ([]byte, error) { return []byte("[redacted]"), nil }

// Tokens is what a login or a refresh gives.
type Tokens struct {
	Access     AccessToken
	TTL        time.Duration // of Access
	Refresh    RefreshToken
	RefreshTTL time.Duration
}

const (
	tokenType = "at+jwt"
	// maxToken bounds the text that is looked at, in bytes; ours have about 600.
	maxToken = 4096
	// skew is how far a token's iat may lie in the future: another node's clock.
	skew = time.Minute
)

// claims are the claims of an access token. [contracts C.3]
type claims struct {
	jwt.RegisteredClaims
	SessionID string   `json:"sid"`
	AuthTime  int64    `json:"auth_time"`      // when the session began, seconds since 1970
	Scope     string   `json:"scope"`          // space-separated
	Methods   []string `json:"amr"`            // how the person proved themselves
	Role      string   `json:"role,omitempty"` // of staff
}

// newParser makes what checks the form and the claims that every token has.
func newParser(issuer string, now func() time.Time) *jwt.Parser {
	return jwt.NewParser(
		jwt.WithValidMethods([]string{jwt.SigningMethodEdDSA.Alg()}), jwt.WithIssuer(issuer),
		jwt.WithExpirationRequired(), jwt.WithTimeFunc(now), jwt.WithStrictDecoding(),
	)
}

// issue signs an access token of a session; role is "" for people.
func (s *Service) issue(x Session, role string, now time.Time) (AccessToken, time.Duration, error) {
	ttl := s.ttl()
	t := jwt.NewWithClaims(jwt.SigningMethodEdDSA, claims{
		RegisteredClaims: jwt.RegisteredClaims{
			Issuer: s.opts.Issuer, Subject: x.Of.ID, Audience: jwt.ClaimStrings{x.Of.Audience}, ID: randomText(),
			IssuedAt: jwt.NewNumericDate(now), ExpiresAt: jwt.NewNumericDate(now.Add(ttl)),
		},
		SessionID: x.ID, AuthTime: x.CreatedAt.Unix(), Scope: strings.Join(x.Scopes, " "), Methods: []string{x.Method}, Role: role,
	})
	set := s.keys.set.Load()
	t.Header["typ"], t.Header["kid"] = tokenType, set.id
	text, err := t.SignedString(set.signer.key())
	if err != nil {
		return AccessToken{}, 0, fmt.Errorf("account: signing a token: %w", err)
	}
	return AccessToken{text}, ttl, nil
}

// ActorByToken checks an access token, or an API key of a service account, and says
// whose it is and until when; the zero time, of API keys alone, is for ever.
// ErrInvalidToken for anything that is not a live token of ours, or one whose session
// was ended, with one text for all of it. The actor's RequestID, IP, UserAgent and
// ClientType are the caller's to fill in, its Scopes are shared and must not be
// changed. It reads no database, but at the first use of a service account's
// credential, which may also be ErrUnavailable.
func (s *Service) ActorByToken(ctx context.Context, token string) (registry.Actor, time.Time, error) {
	if len(token) > maxToken || strings.ContainsAny(token, "\r\n") { // base64 decoders skip line breaks
		return registry.Actor{}, time.Time{}, ErrInvalidToken
	}
	if strings.HasPrefix(token, keyPrefix) {
		return s.actorByKey(ctx, token)
	}
	key := sha256.Sum256([]byte(token))
	t, ok := s.checked.get(key, s.opts.Now())
	if !ok {
		a, until, err := s.parse(token)
		if err != nil {
			return registry.Actor{}, time.Time{}, ErrInvalidToken.With(err)
		}
		t = checked{a, until}
		s.checked.add(key, t)
	}
	if t.actor.Kind == registry.ActorService {
		if err := s.checkService(ctx, t.actor); err != nil {
			return registry.Actor{}, time.Time{}, err
		}
	} else if s.revocation.has(t.actor.SessionID) {
		return registry.Actor{}, time.Time{}, ErrInvalidToken.With(errSessionEnded)
	}
	return t.actor, t.until, nil
}

var errSessionEnded = errors.New("account: the token's session has ended")

// parse checks a token; its errors are for the log and never quote the token.
func (s *Service) parse(token string) (registry.Actor, time.Time, error) {
	var none registry.Actor
	var c claims
	_, err := s.parser.ParseWithClaims(token, &c, func(t *jwt.Token) (any, error) {
		id, _ := t.Header["kid"].(string)
		public, ok := s.keys.set.Load().verify[id]
		if !ok || t.Header["typ"] != tokenType {
			return nil, errors.New("not an access token of these keys")
		}
		if t.Header["crit"] != nil { // the library does not look; we know no extensions [RFC 7515 4.1.11]
			return nil, errors.New("a critical header that is unknown")
		}
		return public, nil
	})
	if err != nil {
		return none, time.Time{}, sentinelOf(err)
	}
	now := s.opts.Now()
	if c.IssuedAt == nil || c.IssuedAt.After(now.Add(skew)) {
		return none, time.Time{}, errors.New("issued in the future, or at no time")
	}
	if c.Subject == "" || c.SessionID == "" || c.ID == "" || len(c.Audience) != 1 {
		return none, time.Time{}, errors.New("a required claim is missing")
	}
	a := registry.Actor{ID: c.Subject, SessionID: c.SessionID, Scopes: slices.Clip(strings.Fields(c.Scope))}
	if c.Audience[0] != AudienceService && c.AuthTime > 0 {
		a.ProvedAt = time.Unix(c.AuthTime, 0)
	}
	switch {
	case c.Audience[0] == AudienceApp && c.Role == "":
		a.Kind = registry.ActorUser
	case c.Audience[0] == AudienceAdmin && c.Role == string(AdminRoleAdmin):
		a.Kind = registry.ActorAdmin
	case c.Audience[0] == AudienceAdmin && c.Role == string(AdminRoleSupport):
		a.Kind = registry.ActorSupport
	case c.Audience[0] == AudienceService && c.Role == "":
		a.Kind = registry.ActorService
	default:
		return none, time.Time{}, errors.New("audience and role do not fit")
	}
	until := c.ExpiresAt.Time
	if last := c.IssuedAt.Add(s.ttl()); last.Before(until) { // or a revocation would be forgotten before the token is dead
		until = last
	}
	if !now.Before(until) {
		return none, time.Time{}, jwt.ErrTokenExpired
	}
	return a, until, nil
}

// sentinelOf keeps which check failed and drops the rest: the library's texts may
// quote parts of the token.
func sentinelOf(err error) error {
	for _, known := range []error{
		jwt.ErrTokenMalformed, jwt.ErrTokenUnverifiable, jwt.ErrTokenSignatureInvalid, jwt.ErrTokenExpired,
		jwt.ErrTokenNotValidYet, jwt.ErrTokenInvalidIssuer, jwt.ErrTokenRequiredClaimMissing,
	} {
		if errors.Is(err, known) {
			return known
		}
	}
	return jwt.ErrTokenInvalidClaims
}
