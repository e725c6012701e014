package account

import (
	"context"
	"slices"
	"sync"
	"time"

	"github.com/opticworks/devicecloud/registry"
)

// revocation is what makes a sign-out work at once although checking a token reads
// no database: the ids of sessions that were ended while tokens of theirs may still
// be alive, and who wants to be told.
type revocation struct {
	keep time.Duration // how long an id is kept: the life of an access token and the skew

	mu        sync.Mutex
	gone      map[string]time.Time // session id -> until when it is kept
	followers map[string]map[*follower]struct{}
	running   int       // followers that are being called
	idle      sync.Cond // on mu: running has become 0
}

// follower is one call of Follow.
type follower struct {
	keys  []string
	ended func() // called once
}

func newRevocation(keep time.Duration) *revocation {
	r := &revocation{keep: keep, gone: map[string]time.Time{}, followers: map[string]map[*follower]struct{}{}}
	r.idle.L = &r.mu
	return r
}

// has reports whether a session has been ended.
func (r *revocation) has(sid string) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	_, ok := r.gone[sid]
	return ok
}

// add records sessions that ended at the given time, and tells who follows them.
func (r *revocation) add(at time.Time, keys ...string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, k := range keys {
		if until := at.Add(r.keep); until.After(r.gone[k]) {
			r.gone[k] = until
		}
		for f := range r.followers[k] {
			r.drop(f)
			r.call(f.ended)
		}
	}
}

// restore takes back that something has ended: a service account was enabled again.
func (r *revocation) restore(key string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	delete(r.gone, key)
}

// call runs a follower on a goroutine of its own. It is called with mu held.
func (r *revocation) call(ended func()) {
	r.running++
	go func() {
		defer func() {
			r.mu.Lock()
			defer r.mu.Unlock()
			if r.running--; r.running == 0 {
				r.idle.Broadcast()
			}
		}()
		ended()
	}()
}

// background runs f on a goroutine of its own, which wait waits for.
func (r *revocation) background(f func()) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.call(f)
}

// wait returns when no follower is running.
func (r *revocation) wait() {
	r.mu.Lock()
	defer r.mu.Unlock()
	for r.running > 0 {
		r.idle.Wait()
	}
}

// drop is called with mu held.
func (r *revocation) drop(f *follower) {
	for _, k := range f.keys {
		delete(r.followers[k], f)
		if len(r.followers[k]) == 0 {
			delete(r.followers, k)
		}
	}
}

// forget drops the ids whose last token is dead.
func (r *revocation) forget(now time.Time) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for k, until := range r.gone {
		if now.After(until) {
			delete(r.gone, k)
		}
	}
}

func (r *revocation) follow(keys []string, ended func()) (stop func()) {
	f := &follower{keys, ended}
	r.mu.Lock()
	defer r.mu.Unlock()
	if slices.ContainsFunc(keys, func(k string) bool { _, ok := r.gone[k]; return ok }) {
		r.call(ended)
		return func() {}
	}
	for _, k := range keys {
		if r.followers[k] == nil {
			r.followers[k] = map[*follower]struct{}{}
		}
		r.followers[k][f] = struct{}{}
	}
	return func() {
		r.mu.Lock()
		defer r.mu.Unlock()
		r.drop(f)
	}
}

// Follow calls ended once, on a goroutine of its own, when the actor's session is
// revoked, or the account behind it disabled or erased; at once if it already is.
// The expiry of the actor's token is the caller's own timer. ended may block; stop
// gives the place back, and ended may still be running when it returns.
func (s *Service) Follow(a registry.Actor, ended func()) (stop func()) {
	return s.revocation.follow([]string{a.SessionID}, ended)
}

// ended makes revoked sessions end here: their tokens are refused from now on, and
// their followers are called. It is called after the commit of the revocation.
func (s *Service) ended(sids ...string) { s.revocation.add(s.opts.Now(), sids...) }

// Boot reads which sessions were ended while tokens of theirs may still be alive. It
// is called before the first token is checked; without it a restart would forgive.
func (s *Service) Boot(ctx context.Context) error {
	return s.readRevoked(ctx, s.opts.Now().Add(-s.revocation.keep))
}

// readRevoked reads what was ended since the given time: by this process before it
// started, by another one on the same database, or in a commit that this one was told
// had failed.
func (s *Service) readRevoked(ctx context.Context, since time.Time) error {
	var list []Revoked
	err := s.store.View(ctx, func(tx Tx) (err error) {
		list, err = tx.RevokedSessions(ctx, since)
		return err
	})
	for _, x := range list {
		s.revocation.add(x.RevokedAt, x.ID)
	}
	return err
}
