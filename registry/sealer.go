package registry

import (
	"crypto/aes"
	"crypto/cipher"
	"crypto/rand"
	"crypto/sha256"
	"errors"
	"fmt"
)

// Sealer encrypts secrets at rest with AES-256-GCM, bound to whose they are: the
// digests of device credentials, which are worth a password since an HMAC credential
// is keyed with one, and what the domain of people must be able to read back.
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

// sealedV1 is the first byte of a sealed secret, which so is longer than a bare one.
const sealedV1 = 1

var errSealed = errors.New("the stored credential is sealed with another key, or SECRET_ENCRYPTION_KEY is not set")

// seal encrypts d for storage; without a Sealer it is stored bare.
func (s *Sealer) seal(deviceID string, d Digest) Digest { return s.Seal(deviceID, d) }

// open decrypts what seal made; bare digests pass, so that a key can be added to a
// registry that exists.
func (s *Sealer) open(deviceID string, stored Digest) (Digest, error) {
	return s.Open(deviceID, stored, sha256.Size)
}

// Seal encrypts a secret for storage, bound to the name of its owner; without a
// Sealer (nil) it is stored bare.
func (s *Sealer) Seal(owner string, secret []byte) []byte {
	if s == nil {
		return secret
	}
	nonce := make([]byte, s.aead.NonceSize(), s.aead.NonceSize()+len(secret)+s.aead.Overhead())
	_, _ = rand.Read(nonce) // never fails, see its documentation
	return append([]byte{sealedV1}, s.aead.Seal(nonce, nonce, secret, []byte(owner))...)
}

// Open decrypts what [Sealer.Seal] made of a secret of size bytes for the same owner.
// What is stored bare passes.
func (s *Sealer) Open(owner string, stored []byte, size int) ([]byte, error) {
	if len(stored) == size {
		return stored, nil
	}
	if s == nil || len(stored) < 1+s.aead.NonceSize() || stored[0] != sealedV1 {
		return nil, errSealed
	}
	n := s.aead.NonceSize()
	secret, err := s.aead.Open(nil, stored[1:1+n], stored[1+n:], []byte(owner))
	if err != nil || len(secret) != size {
		return nil, errSealed
	}
	return secret, nil
}
