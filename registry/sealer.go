package registry

import (
	"crypto/aes"
	"crypto/cipher"
	"crypto/rand"
	"crypto/sha256"
	"errors"
	"fmt"
)

// Sealer encrypts credential digests at rest with AES-256-GCM, bound to their
// device: a digest is worth a password, since an HMAC credential is keyed with it.
type Sealer struct{ aead cipher.AEAD }

// NewSealer makes a Sealer from a key of 32 bytes.
func NewSealer(key []byte) (*Sealer, error) {
	if len(key) != 32 {
		return nil, fmt.Errorf("the encryption key has %d bytes, not 32", len(key))
	}
	block, err := aes.NewCipher(key)
	if err != nil {
		return nil, err
	}
	aead, err := cipher.NewGCM(block)
	if err != nil {
		return nil, err
	}
	return &Sealer{aead}, nil
}

// sealedV1 is the first byte of a sealed digest; a bare one is 32 bytes long.
const sealedV1 = 1

var errSealed = errors.New("the stored credential is sealed with another key, or SECRET_ENCRYPTION_KEY is not set")

// seal encrypts d for storage; without a Sealer it is stored bare.
func (s *Sealer) seal(deviceID string, d Digest) Digest {
	if s == nil {
		return d
	}
	nonce := make([]byte, s.aead.NonceSize(), s.aead.NonceSize()+len(d)+s.aead.Overhead())
	_, _ = rand.Read(nonce) // never fails, see its documentation
	return append(Digest{sealedV1}, s.aead.Seal(nonce, nonce, d, []byte(deviceID))...)
}

// open decrypts what seal made; bare digests pass, so that a key can be added to a
// registry that exists.
func (s *Sealer) open(deviceID string, stored Digest) (Digest, error) {
	if len(stored) == sha256.Size {
		return stored, nil
	}
	if s == nil || len(stored) < 1+s.aead.NonceSize() || stored[0] != sealedV1 {
		return nil, errSealed
	}
	n := s.aead.NonceSize()
	d, err := s.aead.Open(nil, stored[1:1+n], stored[1+n:], []byte(deviceID))
	if err != nil || len(d) != sha256.Size {
		return nil, errSealed
	}
	return d, nil
}
