package account

import (
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"fmt"
)

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
