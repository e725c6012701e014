package account

import (
	"context"
	"crypto/ed25519"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
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

// shown are the claims that are read of a token, in the form in which we write them.
// Times are seconds since 1970, 0 when absent.
type shown struct {
	Issuer    string   `json:"iss"`
	Subject   string   `json:"sub"`
	Audience  []string `json:"aud"`
	ID        string   `json:"jti"`
	IssuedAt  int64    `json:"iat"`
	NotBefore int64    `json:"nbf"`
	ExpiresAt int64    `json:"exp"`
	AuthTime  int64    `json:"auth_time"`
	SessionID string   `json:"sid"`
	Scope     string   `json:"scope"`
	Role      string   `json:"role"`
}

// segment is how the parts of a token are written. [RFC 7515 2]
var segment = base64.RawURLEncoding.Strict()

// tokenHeader is the header of what a key signs, as it stands in a token: members in
// the order of their names, as the library writes them.
func tokenHeader(keyID string) (string, error) {
	text, err := json.Marshal(map[string]string{"alg": jwt.SigningMethodEdDSA.Alg(), "kid": keyID, "typ": tokenType})
	return segment.EncodeToString(text), err
}

// issue signs an access token of a session, which it does not outlive; role is "" for
// people.
func (s *Service) issue(x Session, role string, now time.Time) (AccessToken, time.Duration, error) {
	ttl := max(time.Second, min(s.ttl(), x.AbsoluteExpiresAt.Sub(now)))
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
		return registry.Actor{}, time.Time{}, ErrInvalidToken.With(ErrSessionEnded)
	}
	return t.actor, t.until, nil
}

// ErrSessionEnded is the cause of ErrInvalidToken for a token that would be good if its
// session had not been ended.
var ErrSessionEnded = errors.New("account: the token's session has ended")

// parse checks a token; its errors are for the log and never quote the token.
func (s *Service) parse(token string) (registry.Actor, time.Time, error) {
	var none registry.Actor
	c, err := s.signed(token)
	if err != nil {
		return none, time.Time{}, err
	}
	now := s.opts.Now()
	if c.Issuer != s.opts.Issuer {
		return none, time.Time{}, jwt.ErrTokenInvalidIssuer
	}
	if issued := time.Unix(c.IssuedAt, 0); c.IssuedAt == 0 || issued.After(now.Add(skew)) || time.Unix(c.NotBefore, 0).After(now) {
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
	until := time.Unix(c.ExpiresAt, 0)
	if last := time.Unix(c.IssuedAt, 0).Add(s.ttl()); last.Before(until) { // or a revocation would be forgotten before the token is dead
		until = last
	}
	if !now.Before(until) {
		return none, time.Time{}, jwt.ErrTokenExpired
	}
	return a, until, nil
}

// signed are the claims of a token that a key of ours has signed. Only the very
// header that we write is taken, so that none is ever read: there is no algorithm to
// choose, no type, no critical extension. [RFC 8725 3.1, 3.11] Its errors hold nothing
// of the token.
func (s *Service) signed(token string) (c shown, err error) {
	header, rest, _ := strings.Cut(token, ".")
	payload, signature, three := strings.Cut(rest, ".")
	public, ours := s.keys.set.Load().verify[header]
	if !ours || !three {
		return c, jwt.ErrTokenUnverifiable
	}
	sum, err := segment.DecodeString(signature)
	if err != nil {
		return c, jwt.ErrTokenMalformed
	}
	if !ed25519.Verify(public, []byte(token[:len(header)+1+len(payload)]), sum) {
		return c, jwt.ErrTokenSignatureInvalid
	}
	text, err := segment.DecodeString(payload)
	if err != nil || json.Unmarshal(text, &c) != nil {
		return c, jwt.ErrTokenMalformed
	}
	return c, nil
}
