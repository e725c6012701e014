package account

import (
	"net/netip"
	"sync"
	"time"
)

const (
	// freeFailures is how many wrong passwords an account takes from one address
	// before it is locked for that address, and how many an address may give in all.
	freeFailures        = 5
	freeFailuresAddress = 25
	// firstLock doubles with each lock after it, up to maxLock. A day without a
	// failure forgets everything.
	firstLock = 15 * time.Minute
	maxLock   = 8 * time.Hour
	forget    = 24 * time.Hour
	// maxTries bounds the memory of a storm of addresses: about 2 MB.
	maxTries = 20000
)

// lockout slows down who guesses passwords. It counts for each pair of account
// and address, so that a stranger cannot lock an administrator out from
// elsewhere, and for each address over all accounts. An account that does not
// exist is counted alike. It lives in memory: a restart forgives.
type lockout struct {
	mu    sync.Mutex
	tries map[tryKey]*tries
}

// tryKey is an address, alone (account "") or with an account.
type tryKey struct {
	account string
	network netip.Prefix // of one IPv4 address, or of an IPv6 /64, which is what one customer has
}

type tries struct {
	failures int
	locks    int // so far
	until    time.Time
	last     time.Time
}

func newLockout() *lockout { return &lockout{tries: map[tryKey]*tries{}} }

func network(ip string) netip.Prefix {
	a, err := netip.ParseAddr(ip)
	if err != nil {
		return netip.Prefix{}
	}
	bits := 64
	if a = a.Unmap(); a.Is4() {
		bits = 32
	}
	p, _ := a.WithZone("").Prefix(bits)
	return p
}

// attempt charges one try before the password is looked at, so that tries at
// once cannot exceed the limit, and says how long the caller is locked, 0 if not
// at all. locked says that this try, should it fail, was the last free one.
func (l *lockout) attempt(account, ip string, now time.Time) (wait time.Duration, locked bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	pair, address := l.get(tryKey{account, network(ip)}, now), l.get(tryKey{"", network(ip)}, now)
	for _, t := range []*tries{pair, address} {
		wait = max(wait, t.until.Sub(now))
	}
	if wait > 0 {
		return wait, false
	}
	locked = pair.charge(freeFailures, now)
	return 0, address.charge(freeFailuresAddress, now) || locked
}

func (t *tries) charge(free int, now time.Time) (locked bool) {
	t.failures++
	t.last = now
	if t.failures < free {
		return false
	}
	t.until = now.Add(min(firstLock<<min(t.locks, 10), maxLock))
	t.locks++
	t.failures = 0
	return true
}

// succeeded forgives an account's tries from the address, and takes this one back
// from the address's count, whose other failures stay.
func (l *lockout) succeeded(account, ip string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	delete(l.tries, tryKey{account, network(ip)})
	l.tries[tryKey{"", network(ip)}].refund(freeFailuresAddress)
}

// refund takes a try back that said nothing about the password.
func (l *lockout) refund(account, ip string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.tries[tryKey{account, network(ip)}].refund(freeFailures)
	l.tries[tryKey{"", network(ip)}].refund(freeFailuresAddress)
}

func (t *tries) refund(free int) {
	switch {
	case t == nil: // pruned meanwhile
	case t.failures > 0:
		t.failures--
	case t.locks > 0: // it was the one that locked
		t.failures, t.locks, t.until = free-1, t.locks-1, time.Time{}
	}
}

func (l *lockout) get(k tryKey, now time.Time) *tries {
	if t := l.tries[k]; t != nil && now.Sub(t.last) < forget {
		return t
	}
	if len(l.tries) >= maxTries {
		l.prune(now)
	}
	t := &tries{last: now}
	l.tries[k] = t
	return t
}

// prune drops what is forgotten; while that is not enough, what is not locked,
// and in the end anything.
func (l *lockout) prune(now time.Time) {
	for _, keep := range []func(*tries) bool{
		func(t *tries) bool { return now.Sub(t.last) < forget },
		func(t *tries) bool { return t.until.After(now) },
		func(*tries) bool { return false },
	} {
		for k, t := range l.tries {
			if !keep(t) {
				delete(l.tries, k)
			}
			if len(l.tries) < maxTries*3/4 {
				return
			}
		}
	}
}
