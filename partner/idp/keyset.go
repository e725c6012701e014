package idp

import (
	"context"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/rsa"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"net/url"
	"strings"
	"sync"
	"time"

	"github.com/go-jose/go-jose/v4"
)

const (
	// keyAge is when keys are fetched anew although they serve: a key that the
	// provider has withdrawn must not verify for ever.
	keyAge = time.Hour
	// keyLife is for how long keys serve while the provider cannot be reached.
	keyLife = 24 * time.Hour
	// fetchPause is the least time between two fetches. Anybody can send a token
	// that names an unknown key, and must not make us hammer the provider with it.
	fetchPause = 10 * time.Second
	// fetchTime bounds one fetch: discovery and keys.
	fetchTime = 8 * time.Second
	// maxKeys bounds a key set; Google has 2 or 3 keys, Apple 3.
	maxKeys = 64
	// minRSABits is the least length of an RSA key. [RFC 7518 3.3]
	minRSABits = 2048
)

var errUnknownKey = errors.New("the token names a key that the provider does not have")

// unreachable is the failure to get keys, with which nothing can be said about a
// token.
type unreachable struct{ cause error }

func (e *unreachable) Error() string { return "the provider's keys: " + e.cause.Error() }
func (e *unreachable) Unwrap() error { return e.cause }

// keySet is the public keys of an issuer: found by discovery when a token first
// needs them, kept, and fetched anew when they are old or a token names one that is
// not there. At most one fetch runs at a time, and none within fetchPause of the
// last. It is safe for concurrent use.
type keySet struct {
	issuer string
	client *http.Client
	now    func() time.Time
	log    *slog.Logger

	mu      sync.Mutex
	keys    []jose.JSONWebKey
	fetched time.Time     // when keys were; zero: never
	tried   time.Time     // when the last fetch began; zero: never
	failure error         // of the last fetch
	flight  chan struct{} // closed when the fetch that runs has ended; nil: none runs
}

// find gives the keys that a token of this key id and algorithm may be signed with,
// all of the algorithm when the id is empty. errUnknownKey, *unreachable, or the
// context's error.
func (s *keySet) find(ctx context.Context, id, algorithm string) ([]jose.JSONWebKey, error) {
	for {
		s.mu.Lock()
		now := s.now()
		var keys []jose.JSONWebKey
		if !s.fetched.IsZero() && now.Sub(s.fetched) < keyLife {
			keys = fitting(s.keys, id, algorithm)
		}
		switch {
		case len(keys) > 0 && (now.Sub(s.fetched) < keyAge || s.flight != nil || now.Sub(s.tried) < fetchPause):
			s.mu.Unlock()
			return keys, nil
		case s.flight != nil:
			flight := s.flight
			s.mu.Unlock()
			select {
			case <-flight:
			case <-ctx.Done():
				return nil, ctx.Err()
			}
		case !s.tried.IsZero() && now.Sub(s.tried) < fetchPause:
			failure := s.failure
			s.mu.Unlock()
			if failure != nil {
				return nil, &unreachable{failure}
			}
			return nil, errUnknownKey
		default:
			s.flight, s.tried = make(chan struct{}), now
			s.mu.Unlock()
			s.fetch(ctx)
		}
	}
}

// fetch reads the keys for everybody who waits, so that it goes on when the request
// that began it is given up.
func (s *keySet) fetch(ctx context.Context) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), fetchTime)
	defer cancel()
	keys, err := s.read(ctx)
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.failure = err; err == nil {
		s.keys, s.fetched = keys, s.now()
	} else {
		s.log.WarnContext(ctx, "the keys of an identity provider could not be fetched", "issuer", s.issuer, "error", err)
	}
	close(s.flight)
	s.flight = nil
}

// read asks the issuer where its keys are, and for them.
// [OpenID Connect Discovery 1.0 4]
func (s *keySet) read(ctx context.Context) ([]jose.JSONWebKey, error) {
	text, err := get(ctx, s.client, strings.TrimSuffix(s.issuer, "/")+"/.well-known/openid-configuration")
	if err != nil {
		return nil, fmt.Errorf("discovery: %w", err)
	}
	var found struct {
		Issuer string `json:"issuer"`
		Keys   string `json:"jwks_uri"`
	}
	if json.Unmarshal(text, &found) != nil {
		return nil, errors.New("discovery: not a JSON object")
	}
	if found.Issuer != s.issuer {
		return nil, errors.New("discovery: it names another issuer")
	}
	u, err := url.Parse(found.Keys)
	if err != nil || checkURL(u) != nil {
		return nil, errors.New("discovery: jwks_uri is not a URL with TLS")
	}
	if text, err = get(ctx, s.client, found.Keys); err != nil {
		return nil, fmt.Errorf("keys: %w", err)
	}
	keys, err := parseKeys(text)
	if err != nil {
		return nil, fmt.Errorf("keys: %w", err)
	}
	return keys, nil
}

// parseKeys reads the public signing keys of a JSON Web Key Set. Keys that it cannot
// use do not spoil the others. [RFC 7517 5]
func parseKeys(text []byte) ([]jose.JSONWebKey, error) {
	var set struct {
		Keys []json.RawMessage `json:"keys"`
	}
	if json.Unmarshal(text, &set) != nil {
		return nil, errors.New("not a JSON Web Key Set")
	}
	if len(set.Keys) > maxKeys {
		return nil, fmt.Errorf("more than %d keys", maxKeys)
	}
	var keys []jose.JSONWebKey
	for _, raw := range set.Keys {
		var k jose.JSONWebKey
		if k.UnmarshalJSON(raw) == nil && k.Valid() && (k.Use == "" || k.Use == "sig") && asymmetric(k.Key) {
			keys = append(keys, k)
		}
	}
	if len(keys) == 0 {
		return nil, errors.New("no key that could verify a token")
	}
	return keys, nil
}

// asymmetric takes public keys alone: a symmetric one would let whoever reads the
// key set sign.
func asymmetric(key any) bool {
	switch key := key.(type) {
	case *rsa.PublicKey:
		return key.N.BitLen() >= minRSABits
	case *ecdsa.PublicKey, ed25519.PublicKey:
		return true
	}
	return false
}

func fitting(keys []jose.JSONWebKey, id, algorithm string) []jose.JSONWebKey {
	var fit []jose.JSONWebKey
	for _, k := range keys {
		if (id == "" || k.KeyID == id) && (k.Algorithm == "" || k.Algorithm == algorithm) {
			fit = append(fit, k)
		}
	}
	return fit
}
