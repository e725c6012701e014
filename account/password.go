package account

import (
	"context"
	"crypto/rand"
	"crypto/subtle"
	"encoding/base64"
	"errors"
	"fmt"
	"strings"
	"time"

	"golang.org/x/crypto/argon2"
)

// HashParams is the cost of an argon2id hash.
type HashParams struct {
	MemoryKiB uint32 // at least 8 for each lane, at most 1 GiB
	Passes    uint32 // 1 to 16
	Lanes     uint8  // 1 to 16
}

const (
	saltLen = 16
	keyLen  = 32
	// maxPassword bounds what is hashed, in bytes.
	maxPassword = 1024
	// maxWaiting is how many logins may wait for a hash; more get 429 at once.
	maxWaiting = 64
)

// check refuses what argon2 would panic on, and a stored text that asks for an
// absurd amount of work.
func (p HashParams) check() error {
	if p.Passes < 1 || p.Passes > 16 || p.Lanes < 1 || p.Lanes > 16 || p.MemoryKiB < 8*uint32(p.Lanes) || p.MemoryKiB > 1<<20 {
		return errors.New("account: hash parameters out of range")
	}
	return nil
}

// hash makes the PHC string of a password under a new salt.
func (p HashParams) hash(password string) PasswordHash {
	salt := make([]byte, saltLen)
	_, _ = rand.Read(salt) // never fails, see its documentation
	key := argon2.IDKey([]byte(password), salt, p.Passes, p.MemoryKiB, p.Lanes, keyLen)
	b64 := base64.RawStdEncoding
	return PasswordHash(fmt.Sprintf("$argon2id$v=%d$m=%d,t=%d,p=%d$%s$%s", argon2.Version, p.MemoryKiB, p.Passes, p.Lanes, b64.EncodeToString(salt), b64.EncodeToString(key)))
}

// parsed is a PHC string in parts.
type parsed struct {
	params    HashParams
	salt, key []byte
}

var errBadHash = errors.New("account: the stored password hash is not an argon2id PHC string")

// parse reads a PHC string as hash writes it. Its error never quotes the text.
func (h PasswordHash) parse() (parsed, error) {
	var p parsed
	parts := strings.Split(string(h), "$")
	if len(parts) != 6 || parts[0] != "" || parts[1] != "argon2id" || parts[2] != fmt.Sprintf("v=%d", argon2.Version) {
		return p, errBadHash
	}
	if n, err := fmt.Sscanf(parts[3], "m=%d,t=%d,p=%d", &p.params.MemoryKiB, &p.params.Passes, &p.params.Lanes); n != 3 || err != nil {
		return p, errBadHash
	}
	var err error
	if p.salt, err = base64.RawStdEncoding.Strict().DecodeString(parts[4]); err != nil || len(p.salt) < 8 || len(p.salt) > 64 {
		return p, errBadHash
	}
	if p.key, err = base64.RawStdEncoding.Strict().DecodeString(parts[5]); err != nil || len(p.key) < 16 || len(p.key) > 64 {
		return p, errBadHash
	}
	if p.params.check() != nil {
		return p, errBadHash
	}
	return p, nil
}

// matches compares in constant time.
func (p parsed) matches(password string) bool {
	key := argon2.IDKey([]byte(password), p.salt, p.params.Passes, p.params.MemoryKiB, p.params.Lanes, uint32(len(p.key)))
	return subtle.ConstantTimeCompare(key, p.key) == 1
}

// hasher bounds how many hashes run at once, because each takes tens of
// milliseconds of a core and 19 MiB, and anybody may ask for one.
type hasher struct {
	params  HashParams
	running chan struct{} // a place each
	waiting chan struct{} // a place each
}

func newHasher(p HashParams, atOnce int) *hasher {
	return &hasher{params: p, running: make(chan struct{}, atOnce), waiting: make(chan struct{}, maxWaiting)}
}

// acquire takes a place; call release afterwards. It fails with ErrRateLimited
// when too many wait already, and with ctx's error.
func (h *hasher) acquire(ctx context.Context) (release func(), err error) {
	select {
	case h.waiting <- struct{}{}:
		defer func() { <-h.waiting }()
	default:
		busy := *ErrRateLimited
		busy.RetryAfter = time.Second
		return nil, &busy
	}
	select {
	case h.running <- struct{}{}:
		return func() { <-h.running }, nil
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}
