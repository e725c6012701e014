package account

import (
	"context"
	"crypto/ed25519"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/opticworks/devicecloud/registry"
)

// keyLead is how long a new key is published before it signs: twice what others may
// keep the key set for. [contracts C.3]
const keyLead = 10 * time.Minute

// keyring holds the signing keys: one signs, all verify and are published. Keys come
// and go while the program runs, and no token that is still alive stops being good:
// a new first key signs once it has been published for keyLead, and a key that is
// gone from the list verifies for as long as a token that it signed may live.
type keyring struct {
	keep time.Duration // how long a key verifies after it has signed last and is gone
	set  atomic.Pointer[keySet]

	mu    sync.Mutex
	keys  []ringKey // the listed ones in their order, then those that are gone
	signs string    // id of the key that signs
}

// ringKey is a key of the ring.
type ringKey struct {
	key       SigningKey
	public    jwk
	published time.Time // zero: before the program started
	gone      time.Time // since when it is neither listed nor signs; zero: it is or does
	listed    bool
}

// keySet is what the ring says at one time. It is replaced as a whole.
type keySet struct {
	signer SigningKey
	id     string                       // header kid of what is signed
	verify map[string]ed25519.PublicKey // by the header of what the key has signed, as it stands in a token
	jwks   []byte
}

// newKeyring makes a ring. The first key signs at once: at the start nobody knows how
// long it has been published, and somebody has to.
func newKeyring(keys []SigningKey, keep time.Duration) (*keyring, error) {
	r := &keyring{keep: keep}
	for _, k := range keys {
		public, err := k.public()
		if err != nil {
			return nil, err
		}
		if !slices.ContainsFunc(r.keys, func(o ringKey) bool { return o.public.ID == public.ID }) {
			r.keys = append(r.keys, ringKey{key: k, public: public, listed: true})
		}
	}
	if len(r.keys) == 0 {
		return nil, errors.New("account: a signing key is needed")
	}
	r.signs = r.keys[0].public.ID
	return r, r.publish()
}

// replace takes a new list of keys. Of a list that is not good nothing is taken.
func (r *keyring) replace(keys []SigningKey, now time.Time) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	var next []ringKey
	for _, k := range keys {
		public, err := k.public()
		if err != nil {
			return err
		}
		if slices.ContainsFunc(next, func(o ringKey) bool { return o.public.ID == public.ID }) {
			continue
		}
		fresh := ringKey{key: k, public: public, published: now}
		for _, old := range r.keys {
			if old.public.ID == public.ID {
				fresh.published = old.published
			}
		}
		fresh.listed = true
		next = append(next, fresh)
	}
	if len(next) == 0 {
		return errors.New("account: a signing key is needed")
	}
	for _, old := range r.keys {
		if slices.ContainsFunc(next, func(k ringKey) bool { return k.public.ID == old.public.ID }) {
			continue
		}
		if old.listed = false; old.gone.IsZero() && old.public.ID != r.signs {
			old.gone = now
		}
		next = append(next, old)
	}
	r.keys = next
	return r.publish()
}

// advance lets time act: it hands signing over to the first listed key that has been
// published for long enough, and drops the keys whose last token is dead. It returns
// the id of the key that began to sign, "" when none did.
func (r *keyring) advance(now time.Time) (began string, err error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, k := range r.keys {
		if !k.listed || now.Sub(k.published) < keyLead {
			continue
		}
		if k.public.ID != r.signs {
			r.handOver(k.public.ID, now)
			began = k.public.ID
		}
		break
	}
	count := len(r.keys)
	r.keys = slices.DeleteFunc(r.keys, func(k ringKey) bool { return !k.gone.IsZero() && now.Sub(k.gone) > r.keep })
	if began == "" && len(r.keys) == count {
		return "", nil
	}
	return began, r.publish()
}

func (r *keyring) handOver(id string, now time.Time) {
	for i, k := range r.keys {
		if k.public.ID == r.signs && !k.listed {
			r.keys[i].gone = now
		}
	}
	r.signs = id
}

// publish makes the ring's state the one that signs and verifies.
func (r *keyring) publish() error {
	set := &keySet{verify: make(map[string]ed25519.PublicKey, len(r.keys))}
	published := make([]jwk, 0, len(r.keys))
	for _, k := range r.keys {
		public, ok := k.key.key().Public().(ed25519.PublicKey)
		if !ok {
			return errors.New("account: the signing key has no Ed25519 public key")
		}
		header, err := tokenHeader(k.public.ID)
		if err != nil {
			return err
		}
		set.verify[header] = public
		published = append(published, k.public)
		if k.public.ID == r.signs {
			set.signer, set.id = k.key, k.public.ID
		}
	}
	var err error
	if set.jwks, err = json.Marshal(map[string]any{"keys": published}); err != nil {
		return fmt.Errorf("account: the key set: %w", err)
	}
	r.set.Store(set)
	return nil
}

// JWKS is the public half of the signing keys as a JSON Web Key Set, for whoever
// checks our tokens themselves; they may keep it for 5 minutes.
func (s *Service) JWKS() []byte { return slices.Clone(s.keys.set.Load().jwks) }

// ReplaceSigningKeys takes a new list of signing keys while the program runs. Each is
// published and verifies at once. A new first key signs when it has been published for
// 10 minutes; a key that is not in the list any more verifies until the last token
// that it signed is dead. A list without a key is an error, and changes nothing.
func (s *Service) ReplaceSigningKeys(keys []SigningKey) error {
	return s.keys.replace(keys, s.opts.Now())
}

// advanceKeys lets a published key begin to sign when its time has come.
func (s *Service) advanceKeys(ctx context.Context) error {
	began, err := s.keys.advance(s.opts.Now())
	if err != nil || began == "" {
		return err
	}
	s.log.Info("another key signs the tokens now", "kid", began)
	return s.store.InTx(ctx, func(tx Tx) error {
		return s.audit(ctx, tx, registry.System(), "signing_key_rotated", s.now(), map[string]any{"kid": began})
	})
}
