package eiotclub

import (
	"bytes"
	"crypto/hmac"
	"crypto/md5"
	"crypto/sha1"
	"crypto/sha256"
	"crypto/subtle"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"hash"
	"io"
	"slices"
	"strings"
)

// Secret is a text that redacts itself in every format.
type Secret string

// Format redacts.
func (Secret) Format(f fmt.State, _ rune) { _, _ = f.Write([]byte("[redacted]")) }

// MarshalText redacts.
func (Secret) MarshalText() ([]byte, error) { return []byte("[redacted]"), nil }

// Hash is the digest of a signature.
type Hash uint8

// The digests. Only HMACSHA256 takes the secret as a key.
const (
	SHA1 Hash = iota
	MD5
	SHA256
	HMACSHA256
)

// BoolStyle is how a truth is written in what is signed.
type BoolStyle uint8

// The styles of truths: 1 and 0 as PHP writes them, or true and false.
const (
	BoolDigits BoolStyle = iota
	BoolWords
)

// NestedStyle is how an object or a list within the parameters is written in what is
// signed. Both keep the order of its keys and the text of its numbers, and leave out
// insignificant white space.
type NestedStyle uint8

// The styles of nested values.
const (
	NestedCompact NestedStyle = iota // with slashes and all but control characters unescaped
	NestedRaw                        // its strings as they were sent
)

// Signer computes the carrier's signatures: parameters without the empty ones, sorted
// by name in ASCII, as k=v joined by &, and the secret behind them as one more. The
// zero value of each field but Secret is what the carrier does. [contracts E.2]
//
// The text that is signed holds the secret. It is never put together: it goes into the
// digest piece by piece, and there is nothing to log.
type Signer struct {
	Secret      Secret
	Hash        Hash
	LowerCase   bool     // lower-case hex; the carrier's is upper-case
	Exclude     []string // parameters that are not signed, beside "sign"
	SecretParam string   // name of the secret; default "secret"
	KeepEmpty   bool     // sign empty parameters too
	Bools       BoolStyle
	Nested      NestedStyle
}

// signParam carries the signature itself.
const signParam = "sign"

var (
	errNotObject = errors.New("not one JSON object")
	errTwice     = errors.New("a parameter is there twice")
)

// Params are the parameters of a request or notification, each as its own JSON text.
type Params map[string]json.RawMessage

// ParseParams reads one JSON object and keeps every value as it is written. An error
// means: not JSON, not an object, or a name twice, which readers would not agree on.
func ParseParams(body []byte) (Params, error) {
	d := json.NewDecoder(bytes.NewReader(body))
	t, err := d.Token()
	if err != nil || t != json.Delim('{') {
		return nil, errNotObject
	}
	p := Params{}
	for d.More() {
		t, err := d.Token()
		name, ok := t.(string)
		if err != nil || !ok {
			return nil, errNotObject
		}
		var value json.RawMessage
		if err := d.Decode(&value); err != nil {
			return nil, errNotObject
		}
		if _, twice := p[name]; twice {
			return nil, errTwice
		}
		p[name] = value
	}
	if _, err := d.Token(); err != nil { // the closing brace
		return nil, errNotObject
	}
	if _, err := d.Token(); !errors.Is(err, io.EOF) {
		return nil, errNotObject
	}
	return p, nil
}

// Sign is the signature of the parameters.
func (s Signer) Sign(p Params) string {
	names := make([]string, 0, len(p))
	for name := range p {
		if name != signParam && !slices.Contains(s.Exclude, name) {
			names = append(names, name)
		}
	}
	slices.Sort(names)
	h := s.hash()
	separator := ""
	for _, name := range names {
		if value := s.text(p[name]); value != "" || s.KeepEmpty {
			write(h, separator, name, "=", value)
			separator = "&"
		}
	}
	if s.Hash != HMACSHA256 {
		param := s.SecretParam
		if param == "" {
			param = "secret"
		}
		write(h, separator, param, "=", string(s.Secret))
	}
	digest := hex.EncodeToString(h.Sum(nil))
	if s.LowerCase {
		return digest
	}
	return strings.ToUpper(digest)
}

func (s Signer) hash() hash.Hash {
	switch s.Hash {
	case MD5:
		return md5.New()
	case SHA256:
		return sha256.New()
	case HMACSHA256:
		return hmac.New(sha256.New, []byte(s.Secret))
	}
	return sha1.New()
}

func write(h hash.Hash, parts ...string) {
	for _, part := range parts {
		h.Write([]byte(part)) // a hash never fails
	}
}

// text is a value as it is signed; "" for an empty one. A number keeps its literal
// text: 10.00 is not 10, and 0 is not empty.
func (s Signer) text(raw json.RawMessage) string {
	raw = bytes.TrimSpace(raw)
	if len(raw) == 0 {
		return ""
	}
	switch raw[0] {
	case 'n':
		return ""
	case 't':
		if s.Bools == BoolDigits {
			return "1"
		}
		return "true"
	case 'f':
		if s.Bools == BoolDigits {
			return "0"
		}
		return "false"
	case '"':
		var text string
		_ = json.Unmarshal(raw, &text) // it is JSON: the decoder has read it
		return text
	case '{', '[':
		return s.nested(raw)
	}
	return string(raw)
}

// nested is an object or a list as it is signed, from its own bytes: decoding it into
// a map would lose the order of its keys.
func (s Signer) nested(raw []byte) string {
	var compact bytes.Buffer
	if json.Compact(&compact, raw) != nil || compact.String() == "[]" {
		return ""
	}
	if s.Nested == NestedRaw {
		return compact.String()
	}
	return unescaped(compact.Bytes())
}

// unescaped is compact JSON in which each string is written with the fewest escapes:
// no \/, no \u for what can be written as it is.
func unescaped(compact []byte) string {
	if !bytes.Contains(compact, []byte(`\`)) {
		return string(compact)
	}
	var out bytes.Buffer
	e := json.NewEncoder(&out)
	e.SetEscapeHTML(false) // & < > stay as they are
	for i := 0; i < len(compact); {
		if compact[i] != '"' {
			out.WriteByte(compact[i])
			i++
			continue
		}
		end := i + 1
		for ; end < len(compact) && compact[end] != '"'; end++ {
			if compact[end] == '\\' {
				end++
			}
		}
		end = min(end+1, len(compact))
		var text string
		if json.Unmarshal(compact[i:end], &text) != nil || e.Encode(text) != nil {
			return string(compact)
		}
		out.Truncate(out.Len() - 1) // the encoder's line end
		i = end
	}
	return out.String()
}

// Mismatch is a signature that is not the carrier's. It tells the first characters of
// both, by which an operator recognises a wrong secret; more never leaves this package.
type Mismatch struct{ Expected, Received string }

func (m *Mismatch) Error() string {
	return fmt.Sprintf("the signature begins with %q, expected %q", m.Received, m.Expected)
}

// shown is how much of a signature a log may hold.
const shown = 8

// Verify checks the signature that the parameters carry, in constant time. It tries
// both styles of truths and of nested values, beginning with the configured ones: the
// carrier has been seen with either. The error is a *[Mismatch].
func (s Signer) Verify(p Params) error {
	var received string
	_ = json.Unmarshal(p[signParam], &received) // none, or no text: it will not match
	expected := s.Sign(p)
	for _, try := range s.styles() {
		// ConstantTimeCompare is 0 at once for another length, which is no secret.
		if subtle.ConstantTimeCompare([]byte(try.Sign(p)), []byte(received)) == 1 {
			return nil
		}
	}
	return &Mismatch{Expected: expected[:shown], Received: printable(received)}
}

func (s Signer) styles() []Signer {
	all := make([]Signer, 0, 4)
	for _, bools := range []BoolStyle{s.Bools, 1 - s.Bools} {
		for _, nested := range []NestedStyle{s.Nested, 1 - s.Nested} {
			style := s
			style.Bools, style.Nested = bools, nested
			all = append(all, style)
		}
	}
	return all
}

// printable is the beginning of what somebody sent as a signature; what is not hex is
// not repeated.
func printable(signature string) string {
	signature = signature[:min(len(signature), shown)]
	if strings.Trim(signature, "0123456789abcdefABCDEF") != "" {
		return "not hex"
	}
	return signature
}
