package account

import (
	"bytes"
	"crypto/ed25519"
	"crypto/rand"
	"crypto/sha256"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
)

// SigningKey is an Ed25519 private key that signs tokens. It redacts itself in
// every format. It sits behind a function because fmt asks no methods of values in
// unexported fields, and follows pointers.
type SigningKey struct{ key func() ed25519.PrivateKey }

func hide(k ed25519.PrivateKey) SigningKey {
	return SigningKey{func() ed25519.PrivateKey { return k }}
}

// Format redacts.
func (SigningKey) Format(f fmt.State, _ rune) { _, _ = f.Write([]byte("[redacted]")) }

// MarshalText redacts.
func (SigningKey) MarshalText() ([]byte, error) { return []byte("[redacted]"), nil }

const pemType = "PRIVATE KEY"

// maxKeys bounds how many keys are published at once.
const maxKeys = 8

// ParseSigningKeys reads Ed25519 private keys in PKCS #8 PEM, as
// `openssl genpkey -algorithm ed25519` writes them, one after the other: the first
// signs, the others verify. At least one, at most 8. Errors never quote the text.
func ParseSigningKeys(text []byte) (keys []SigningKey, err error) {
	for rest := text; ; {
		var block *pem.Block
		if block, rest = pem.Decode(rest); block == nil {
			break
		}
		key, err := parseBlock(block)
		if err != nil {
			return nil, err
		}
		keys = append(keys, key)
	}
	switch n := bytes.Count(text, []byte("-----BEGIN ")); {
	case len(keys) == 0:
		return nil, errors.New("account: the signing key is not a PEM block of type PRIVATE KEY")
	case n != len(keys): // one of them is cut or broken
		return nil, fmt.Errorf("account: %d of %d PEM blocks of the signing key can be read", len(keys), n)
	case n > maxKeys:
		return nil, fmt.Errorf("account: there are %d signing keys, more than %d", n, maxKeys)
	}
	return keys, nil
}

func parseBlock(block *pem.Block) (SigningKey, error) {
	if block.Type != pemType {
		return SigningKey{}, errors.New("account: the signing key is not a PEM block of type PRIVATE KEY")
	}
	parsed, err := x509.ParsePKCS8PrivateKey(block.Bytes)
	if err != nil {
		return SigningKey{}, errors.New("account: the signing key is not PKCS #8")
	}
	key, ok := parsed.(ed25519.PrivateKey)
	if !ok {
		return SigningKey{}, errors.New("account: the signing key is not Ed25519")
	}
	return hide(key), nil
}

// NewSigningKey makes a key, and its PKCS #8 PEM.
func NewSigningKey() (SigningKey, []byte, error) {
	_, key, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		return SigningKey{}, nil, fmt.Errorf("account: making a signing key: %w", err)
	}
	der, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		return SigningKey{}, nil, fmt.Errorf("account: making a signing key: %w", err)
	}
	return hide(key), pem.EncodeToMemory(&pem.Block{Type: pemType, Bytes: der}), nil
}

// LoadOrCreateSigningKeys reads the keys in file, or makes one and writes it there
// with mode 0600. Of two processes that start at once, both get the same key. It
// refuses a file that group or others may read.
func LoadOrCreateSigningKeys(file string) ([]SigningKey, error) {
	info, err := os.Stat(file)
	if errors.Is(err, fs.ErrNotExist) {
		if err := createSigningKey(file); err != nil {
			return nil, err
		}
		info, err = os.Stat(file)
	}
	if err != nil {
		return nil, fmt.Errorf("account: the signing key: %w", err)
	}
	if info.Mode().Perm()&0o077 != 0 {
		return nil, fmt.Errorf("account: the signing key %s may be read by others (mode %04o): chmod 600 it", file, info.Mode().Perm())
	}
	text, err := os.ReadFile(file)
	if err != nil {
		return nil, fmt.Errorf("account: the signing key: %w", err)
	}
	return ParseSigningKeys(text)
}

// createSigningKey writes a new key under a temporary name and links it into
// place, which fails when another process was faster: then theirs is the key. A
// crash leaves no half-written key behind under the real name.
func createSigningKey(file string) error {
	_, text, err := NewSigningKey()
	if err != nil {
		return err
	}
	temp, err := os.CreateTemp(filepath.Dir(file), ".signing-key-*") // mode 0600
	if err != nil {
		return fmt.Errorf("account: writing the signing key: %w", err)
	}
	_, err = temp.Write(text)
	err = errors.Join(err, temp.Sync(), temp.Close())
	if err == nil {
		err = os.Link(temp.Name(), file)
		if errors.Is(err, fs.ErrExist) {
			err = nil
		}
	}
	if err = errors.Join(err, os.Remove(temp.Name())); err != nil {
		return fmt.Errorf("account: writing the signing key: %w", err)
	}
	return nil
}

// jwk is a public key as JWKS spells it. The order of the first three fields is
// that of the thumbprint's canonical form. [RFC 8037 2, RFC 7638 3.2]
type jwk struct {
	Curve string `json:"crv"`
	Type  string `json:"kty"`
	X     string `json:"x"`
	ID    string `json:"kid,omitempty"`
	Use   string `json:"use,omitempty"`
	Alg   string `json:"alg,omitempty"`
}

// public is the key's public half, with its thumbprint as the key id.
func (k SigningKey) public() (jwk, error) {
	if k.key == nil {
		return jwk{}, errors.New("account: a signing key is needed")
	}
	pub, ok := k.key().Public().(ed25519.PublicKey)
	if !ok {
		return jwk{}, errors.New("account: the signing key has no Ed25519 public key")
	}
	j := jwk{Curve: "Ed25519", Type: "OKP", X: base64.RawURLEncoding.EncodeToString(pub)}
	canonical, err := json.Marshal(j)
	if err != nil {
		return jwk{}, fmt.Errorf("account: the signing key's thumbprint: %w", err)
	}
	sum := sha256.Sum256(canonical)
	j.ID, j.Use, j.Alg = base64.RawURLEncoding.EncodeToString(sum[:]), "sig", "EdDSA"
	return j, nil
}
