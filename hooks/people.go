package hooks

import (
	"context"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/mochi-mqtt/server/v2/packets"
	"github.com/opticworks/devicecloud/registry"
)

// Accounts is what the MQTT face needs of the domain of people.
type Accounts interface {
	// ActorByToken checks an access token or an API key and returns whose it is and when
	// it ends; the zero time is never. Errors: Unauthenticated, Unavailable.
	ActorByToken(ctx context.Context, token string) (actor registry.Actor, expires time.Time, err error)
	// Follow calls ended once, on a goroutine of its own, when the actor signs out, is
	// disabled or erased; at once if that has happened. stop gives the place back and
	// may be called again.
	Follow(actor registry.Actor, ended func()) (stop func())
}

// The prefixes of user names and client ids that are not devices'.
const (
	prefixUser    = "u:"
	prefixStaff   = "a:"
	prefixService = "s:"
)

const (
	// maxReaders is how many sessions one person may have, connected or kept.
	maxReaders = 20
	// maxReaderID bounds a client id, in bytes.
	maxReaderID = 128
	// maxAway is how long a session is kept for a client that asks for it, whatever
	// longer time it asks for. Messages queue meanwhile, at most maxQueued.
	maxAway   = 24 * time.Hour
	maxQueued = 256
	// staleLimit is how long a person's sessions are served from what is known when
	// their access changed and the new list has not been read.
	staleLimit = 500 * time.Millisecond
	// leastLock is the patience for another session's lock while one's own is held.
	leastLock = 100 * time.Millisecond
	// reloadRetry is the pause between attempts to read it.
	reloadRetry = 250 * time.Millisecond
)

// reader is the side of a session that people, staff and service accounts have:
// they subscribe, and publish nothing.
type reader struct {
	actor     registry.Actor
	person    *person // of a user; nil for staff
	keep      time.Duration
	window    *window
	backlog   *backlog // nil when nothing is resumed
	inherited inheritance
	capped    bool // the client asked to be kept for longer than maxAway
	serving   serving
	looks     looks
	// unfollow ends the watch over the sign-in that the session stands on; nil until it
	// begins. expelled is set once that has ended: then the session is not kept.
	unfollow func()
	expelled atomic.Bool
	// watching is set once the session may hold a subscription; it counts in
	// Courier.watchers then.
	watching atomic.Bool
}

// person is what the sessions of one user share: the devices they may read.
type person struct {
	id string
	// readable is replaced as a whole; nil until it is known, and then nothing may
	// be read.
	readable atomic.Pointer[map[string]struct{}]

	mu        sync.Mutex
	sessions  map[*session]struct{}
	version   int // counts changes of access
	reloading bool
}

// reads reports whether the reader may read a device now.
func (r *reader) reads(deviceID string) bool {
	switch {
	case r.actor.MayReadAny():
		return true
	case r.person == nil || !r.actor.Has(registry.ScopeDeviceRead):
		return false
	}
	ids := r.person.readable.Load()
	if ids == nil {
		return false
	}
	_, ok := (*ids)[deviceID]
	return ok
}

// readsSome reports whether there can be anything that the reader may read.
func (r *reader) readsSome() bool {
	return r.actor.MayReadAny() || r.person != nil && r.actor.Has(registry.ScopeDeviceRead)
}

// isReader reports whether a user name is one of those that are not devices'.
func isReader(username string) bool {
	return strings.HasPrefix(username, prefixUser) || strings.HasPrefix(username, prefixStaff) || strings.HasPrefix(username, prefixService)
}

// namedLike reports whether the user name is the one that the actor has to use.
func namedLike(username string, a registry.Actor) bool {
	prefix := ""
	switch a.Kind {
	case registry.ActorUser:
		prefix = prefixUser
	case registry.ActorAdmin, registry.ActorSupport:
		prefix = prefixStaff
	case registry.ActorService:
		prefix = prefixService
	}
	// An id with a colon could be mistaken for another's id and client name.
	return prefix != "" && a.ID != "" && username == prefix+a.ID && !strings.Contains(a.ID, ":")
}

// connectReader lets in a person, a member of staff or a service account. Order:
// token, client id, will, then everything that needs the id lock.
func (g *guard) connectReader(s *session, username string) error {
	ctx, cancel := context.WithTimeout(context.Background(), storeLimit)
	defer cancel()
	actor, expires, err := g.accounts.ActorByToken(ctx, string(s.hello.password))
	switch {
	case registry.KindOf(err) == registry.Unavailable && err != nil:
		return refuse(packets.ErrServerUnavailable.Code, "accounts are not available").because(err)
	case err != nil:
		return refuse(packets.ErrBadUsernameOrPassword.Code, "token").because(err)
	case !namedLike(username, actor):
		return refuse(packets.ErrBadUsernameOrPassword.Code, "the token is not this user's")
	case !strings.HasPrefix(s.id, username+":") || len(s.id) > maxReaderID:
		return refuse(packets.ErrClientIdentifierNotValid.Code, "client id")
	case s.hello.will != nil:
		return refuse(packets.ErrNotAuthorized.Code, "people publish nothing, and no will")
	}
	s.reader.actor = actor
	if err := g.lock(s); err != nil {
		return err
	}
	s.reader.unfollow = g.accounts.Follow(actor, func() { g.expel(s) })
	if actor.Kind == registry.ActorUser {
		if err := g.join(s, actor.ID); err != nil {
			return err
		}
	}
	g.courier.admit(username, s)
	if before := s.before; before != nil && before.reader != nil {
		if before.reader.watching.Load() {
			g.courier.watch(s) // it may inherit subscriptions
		}
		if before.away.Load() != 0 {
			before.parked.Stop()
			g.courier.part(before)
		}
	}
	if old, ok := g.courier.server.Clients.Get(s.id); ok {
		g.resume(s, old)
	}
	if !expires.IsZero() { // an API key may live for ever
		s.endAt(expires, g.now(), packets.ErrMaxConnectTime.Code, registry.CredentialRevoked)
	}
	return s.over()
}

// watch counts a session among those that may hold a subscription.
func (c *Courier) watch(s *session) {
	if !s.reader.watching.Swap(true) {
		c.watchers.Add(1)
	}
}

// join makes s one of a user's sessions and reads what the user may read. When the
// user has too many, the session that is away for the longest time is forgotten.
func (g *guard) join(s *session, userID string) error {
	c := g.courier
	longest, ok := c.enter(s, userID)
	if !ok && longest != nil {
		if h := g.locks.acquire(longest.id, leastLock); h != nil {
			if longest.away.Load() != 0 && !longest.superseded.Load() {
				longest.parked.Stop()
				g.forget(longest)
			}
			h.release()
		}
		_, ok = c.enter(s, userID)
	}
	if !ok {
		return refuse(packets.ErrQuotaExceeded.Code, "too many sessions of one person")
	}
	if err := c.reload(s.reader.person); err != nil {
		return refuse(packets.ErrServerUnavailable.Code, "access could not be read").because(err)
	}
	return nil
}

// enter puts s among its user's sessions. Without room it returns the one that is
// away for the longest time, if any is.
func (c *Courier) enter(s *session, userID string) (longest *session, ok bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	p := c.people[userID]
	if p == nil {
		p = &person{id: userID, sessions: map[*session]struct{}{}}
		c.people[userID] = p
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	others := 0
	for other := range p.sessions {
		if other.id == s.id { // the one that s takes over
			continue
		}
		others++
		if at := other.away.Load(); at != 0 && (longest == nil || at < longest.away.Load()) {
			longest = other
		}
	}
	if others >= maxReaders {
		return longest, false
	}
	p.sessions[s] = struct{}{}
	s.reader.person = p
	return nil, true
}

// part takes s out of its user's sessions, and ends the watch over its sign-in.
func (c *Courier) part(s *session) {
	p := s.reader.person
	if s.reader.unfollow != nil {
		s.reader.unfollow()
	}
	if s.reader.watching.Swap(false) {
		c.watchers.Add(-1)
	}
	if p == nil {
		return
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	p.mu.Lock()
	defer p.mu.Unlock()
	delete(p.sessions, s)
	if len(p.sessions) == 0 && c.people[p.id] == p {
		delete(c.people, p.id)
	}
}

// AccessChanged makes a person's sessions ask again which devices they may read.
// It does not wait for the answer; if that takes longer than half a second they
// read nothing until it is there.
func (c *Courier) AccessChanged(userID string) {
	c.mu.RLock()
	p := c.people[userID]
	c.mu.RUnlock()
	if p == nil {
		return
	}
	p.mu.Lock()
	p.version++
	start := !p.reloading
	p.reloading = true
	p.mu.Unlock()
	if start {
		c.reloads.Go(func() { c.refresh(p) })
	}
}

// refresh reads what a person may read until that is known, or nobody asks any
// more.
func (c *Courier) refresh(p *person) {
	defer func() {
		if r := recover(); r != nil {
			c.panicked("refresh", r)
			p.readable.Store(nil)
		}
	}()
	expired := time.AfterFunc(staleLimit, p.expire)
	defer expired.Stop()
	for {
		err := c.reload(p)
		p.mu.Lock()
		over := err == nil || len(p.sessions) == 0
		p.reloading = p.reloading && !over
		p.mu.Unlock()
		if over {
			return
		}
		c.log.Warn("a person's access could not be read; it will be tried again", "user_id", p.id, "error", err)
		p.expire()
		time.Sleep(reloadRetry)
	}
}

// expire makes a person read nothing until their access is known again.
func (p *person) expire() {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.reloading {
		p.readable.Store(nil)
	}
}

// reload reads what a person may read, again if it changes meanwhile.
func (c *Courier) reload(p *person) error {
	for {
		p.mu.Lock()
		version := p.version
		p.mu.Unlock()
		ids, err := c.load(p.id)
		if err != nil {
			return err
		}
		p.mu.Lock()
		if p.version == version {
			p.readable.Store(&ids)
			p.reloading = false
			p.mu.Unlock()
			c.accessMoved(p)
			return nil
		}
		p.mu.Unlock()
	}
}

// readableIDs is Courier.load over the registry.
func readableIDs(reg *registry.Registry) func(userID string) (map[string]struct{}, error) {
	return func(userID string) (map[string]struct{}, error) {
		ctx, cancel := context.WithTimeout(context.Background(), storeLimit)
		defer cancel()
		list, err := reg.ReadableIDs(ctx, registry.Actor{Kind: registry.ActorUser, ID: userID, Scopes: []string{registry.ScopeDeviceRead}})
		if err != nil {
			return nil, err
		}
		ids := make(map[string]struct{}, len(list))
		for _, id := range list {
			ids[id] = struct{}{}
		}
		return ids, nil
	}
}

// expel ends a session whose sign-in has ended: the connection, or what is kept of it
// with the messages that wait in it. It runs on a goroutine of its own.
func (g *guard) expel(s *session) {
	defer g.recovered("expel", nil)
	s.reader.expelled.Store(true)
	s.end(packets.ErrNotAuthorized.Code, registry.CredentialRevoked)
	// Whoever has the lock now is parking s, or has let a newer session take it over, or
	// will see that it is expelled.
	h := g.locks.acquire(s.id, 0)
	defer h.release()
	if s.away.Load() != 0 && !s.superseded.Load() {
		s.parked.Stop()
		g.forget(s)
	}
}

// park keeps a reader's session after its connection ended, for as long as the
// client asked; the id lock is held. mochi's own expiry would delete by id, also a
// session that has just come back.
func (g *guard) park(s *session) {
	s.parked = time.AfterFunc(s.reader.keep, func() {
		h := g.locks.acquire(s.id, 0)
		defer h.release()
		if !s.superseded.Load() {
			g.forget(s)
		}
	})
	s.away.Store(g.now().UnixNano())
}
