package account

import (
	"context"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"errors"
	"fmt"
	"time"

	"github.com/opticworks/devicecloud/registry"
)

// refreshGrace is how long the app that used a refresh token may show it again
// without harm: a phone that lost the answer, or two of its processes. [contracts C.3]
const refreshGrace = 10 * time.Second

// refreshLen is the length of a refresh token, in random bytes.
const refreshLen = 32

// RefreshToken gets the next pair of tokens, once. It redacts itself in every
// format; only [RefreshToken.Reveal] gives its text. [contracts C.3]
type RefreshToken struct{ text string }

func newRefreshToken() RefreshToken {
	b := make([]byte, refreshLen)
	_, _ = rand.Read(b) // never fails, see its documentation
	return RefreshToken{base64.RawURLEncoding.EncodeToString(b)}
}

// ParseRefreshToken takes the text of a refresh token; ok is false when no token of
// ours has such a text.
func ParseRefreshToken(text string) (t RefreshToken, ok bool) {
	if len(text) != base64.RawURLEncoding.EncodedLen(refreshLen) {
		return RefreshToken{}, false
	}
	b, err := base64.RawURLEncoding.Strict().DecodeString(text)
	return RefreshToken{text}, err == nil && len(b) == refreshLen
}

// hash is what the database knows of the token.
func (t RefreshToken) hash() []byte {
	sum := sha256.Sum256([]byte(t.text))
	return sum[:]
}

// Reveal is the token's text, for the one answer that carries it.
func (t RefreshToken) Reveal() string { return t.text }

// Format redacts.
func (RefreshToken) Format(f fmt.State, _ rune) { _, _ = f.Write([]byte("[redacted]")) }

// MarshalText redacts.
func (RefreshToken) MarshalText() ([]byte, error) { return []byte("[redacted]"), nil }

// Refresh gives the next pair of tokens of a session and retires the token that was
// shown, in one transaction, to people and staff alike. Of all who show a token at
// once, one gets the pair. A token that was used before is ErrRefreshInProgress for
// the installation whose session it is within 10 seconds, and changes nothing; shown
// later, or by anybody else, it is stolen or its successor is: ErrInvalidToken, and
// the session ends. Unknown, expired and revoked are ErrInvalidToken. Others:
// ErrMissingFields, ErrUnavailable. [contracts C.3] [RFC 9700 4.14.2]
func (s *Service) Refresh(ctx context.Context, text, installID string, from registry.Actor) (Tokens, Profile, error) {
	if text == "" {
		return Tokens{}, Profile{}, ErrMissingFields
	}
	token, ok := ParseRefreshToken(text)
	if !ok {
		return Tokens{}, Profile{}, ErrInvalidToken
	}
	hash := token.hash()
	// What is not a token of a live session must not queue for the database's writer.
	err := s.store.View(ctx, func(tx Tx) error {
		_, _, err := s.family(ctx, tx, hash)
		return err
	})
	if err != nil {
		return Tokens{}, Profile{}, err
	}
	var tokens Tokens
	var p Profile
	stolen := ""
	err = s.store.InTx(ctx, func(tx Tx) error {
		tokens, p, stolen = Tokens{}, Profile{}, ""
		x, record, err := s.family(ctx, tx, hash)
		if err != nil {
			return err
		}
		now := s.now()
		first, err := tx.RetireRefreshToken(ctx, hash, now)
		switch {
		case err != nil:
			return err
		case first:
			tokens, p, err = s.rotate(ctx, tx, x, from, now)
			return err
		case installID != "" && installID == x.Device.InstallID && now.Sub(record.RetiredAt) <= refreshGrace:
			return ErrRefreshInProgress
		}
		stolen = x.ID
		return s.endStolen(ctx, tx, x, from, now)
	})
	switch {
	case err != nil:
		return Tokens{}, Profile{}, err
	case stolen != "":
		s.ended(stolen)
		return Tokens{}, Profile{}, ErrInvalidToken.With(errReuse)
	}
	return tokens, p, nil
}

var errReuse = errors.New("account: a refresh token was used twice")

// family reads the live session of a refresh token; ErrInvalidToken.
func (s *Service) family(ctx context.Context, tx Tx, hash []byte) (Session, RefreshRecord, error) {
	record, ok, err := tx.RefreshToken(ctx, hash)
	if err == nil && !ok {
		err = ErrInvalidToken
	}
	if err != nil {
		return Session{}, record, err
	}
	x, err := tx.Session(ctx, record.SessionID)
	if errors.Is(err, ErrSessionNotFound) || err == nil && !x.live(s.opts.Now()) {
		err = ErrInvalidToken
	}
	return x, record, err
}

// rotate gives a session its next tokens. Who it is of is read anew: a member of staff
// may have another role, or other scopes.
func (s *Service) rotate(ctx context.Context, tx Tx, x Session, from registry.Actor, now time.Time) (Tokens, Profile, error) {
	p, err := s.profile(ctx, tx, x.Of)
	if err != nil {
		return Tokens{}, Profile{}, err
	}
	role := ""
	if x.Of.Audience == AudienceAdmin {
		role = string(p.Kind)
		x.Scopes = p.staffScopes
	}
	idle, _ := lifetime(x.Of.Audience)
	x.LastUsedAt, x.ExpiresAt = now, now.Add(idle)
	if x.ExpiresAt.After(x.AbsoluteExpiresAt) {
		x.ExpiresAt = x.AbsoluteExpiresAt
	}
	x.IP, x.UserAgent = from.IP, from.UserAgent
	if from.ClientType != "" {
		x.ClientType = from.ClientType
	}
	live, err := tx.TouchSession(ctx, x)
	if err == nil && !live {
		err = ErrInvalidToken
	}
	if err != nil {
		return Tokens{}, Profile{}, err
	}
	tokens, err := s.hand(ctx, tx, x, role, now)
	return tokens, p, err
}

// endStolen ends the session of a refresh token that was shown twice.
func (s *Service) endStolen(ctx context.Context, tx Tx, x Session, from registry.Actor, now time.Time) error {
	if _, err := tx.RevokeSession(ctx, x.Of, x.ID, ReasonReuse, now); err != nil {
		return err
	}
	from.Kind, from.ID = "anonymous", "" // the thief, or whom was stolen from
	return s.audit(ctx, tx, from, "refresh_reuse_detected", now, map[string]any{"sid": x.ID, "of": x.Of.String()})
}
