package media

import (
	"fmt"
	"log/slog"
)

// Secret is text that no log, error or audit row may show: a signed address, a key, a
// token. Every format of it is redacted; [Secret.Reveal] is the one way to its text.
type Secret string

const redacted = "[redacted]"

// String redacts.
func (s Secret) String() string { return redacted }

// Format redacts, for every verb.
func (s Secret) Format(f fmt.State, _ rune) { _, _ = f.Write([]byte(redacted)) }

// LogValue redacts.
func (s Secret) LogValue() slog.Value { return slog.StringValue(redacted) }

// MarshalText redacts.
func (s Secret) MarshalText() ([]byte, error) { return []byte(redacted), nil }

// Reveal is the text of the secret.
func (s Secret) Reveal() string { return string(s) }
