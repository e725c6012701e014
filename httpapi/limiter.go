package httpapi

import (
	"crypto/sha256"
	"math"
	"net/netip"
	"sync"
	"time"

	"github.com/opticworks/devicecloud/account"
	"github.com/opticworks/devicecloud/registry"
	"golang.org/x/time/rate"
)

// Rate is a limit: a steady rate and a burst above it.
type Rate struct {
	PerSecond float64 // 0: no limit
	Burst     int     // at once; at least 1
}

// Limits are the rates of each kind of request. Loopback is exempt from those for an
// address: it is the operator, or a proxy that is not configured as one.
type Limits struct {
	RequestsPerAddress   Rate // every route
	RequestsPerUser      Rate // routes that need a token; a person, a member of staff or a service account
	LoginsPerAddress     Rate // people, staff and service accounts
	LoginsPerInstall     Rate // an app's installation, as it names itself
	MagicLinksPerEmail   Rate // mails to one address
	MagicLinksPerAddress Rate
	ChangesPerDevice     Rate // POST, PATCH and DELETE on one device, by those who may
}

// limits are the limiters of Limits. Each method takes a token and returns nil, or
// refuses with account.ErrRateLimited and how long until there is one.
type limits struct {
	now                                                                    func() time.Time
	requests, users, logins, installs, linksPerEmail, linksPerAddr, change *limiter
}

func newLimits(l Limits, now func() time.Time) *limits {
	return &limits{
		now: now, requests: newLimiter(l.RequestsPerAddress), users: newLimiter(l.RequestsPerUser),
		logins: newLimiter(l.LoginsPerAddress), installs: newLimiter(l.LoginsPerInstall),
		linksPerEmail: newLimiter(l.MagicLinksPerEmail), linksPerAddr: newLimiter(l.MagicLinksPerAddress),
		change: newLimiter(l.ChangesPerDevice),
	}
}

// request charges any request to the address that it comes from.
func (l *limits) request(from netip.Addr) error { return l.address(l.requests, from) }

// user charges a request to who has proven themselves.
func (l *limits) user(a registry.Actor) error { return l.take(l.users, a.String()) }

// login charges an attempt to sign in to the address; before the body is read.
func (l *limits) login(from netip.Addr) error { return l.address(l.logins, from) }

// install charges it to the app's installation too, "" for none.
func (l *limits) install(id string) error { return l.take(l.installs, id) }

// magicLink charges a mail with a link to the address that asks, then to the e-mail
// that gets it, which is normalised.
func (l *limits) magicLink(from netip.Addr, email string) error {
	if err := l.address(l.linksPerAddr, from); err != nil {
		return err
	}
	return l.take(l.linksPerEmail, email)
}

// device charges a change to the device. Only for who may make it: a stranger could
// use up the device's changes otherwise, and learn that it exists.
func (l *limits) device(id string) error { return l.take(l.change, id) }

// address takes a token of a network: of one IPv4 address, or of an IPv6 /64, which
// is what one customer has.
func (l *limits) address(of *limiter, from netip.Addr) error {
	if of == nil || from.IsLoopback() {
		return nil
	}
	bits := 64
	if from.Is4() {
		bits = 32
	}
	network, _ := from.Prefix(bits) // the bits fit
	return l.take(of, network.Addr().String())
}

func (l *limits) take(of *limiter, key string) error {
	if of == nil || key == "" {
		return nil
	}
	wait := of.wait(key, l.now())
	if wait == 0 {
		return nil
	}
	limited := *account.ErrRateLimited
	limited.RetryAfter = wait
	return &limited
}

// NewLimit is a limiter of its own for each key, for what only a domain can charge: it
// takes a token and returns 0, or how long until there is one. nil when the rate is 0.
func NewLimit(limit Rate) func(key string) time.Duration {
	l := newLimiter(limit)
	if l == nil {
		return nil
	}
	return func(key string) time.Duration { return l.wait(key, time.Now()) }
}

const (
	// maxBuckets bounds the memory of a storm of keys, in buckets of each of two
	// generations: about 10 MB in all.
	maxBuckets = 20000
	// maxKey is the longest key that is kept as it is, in bytes; of a longer one its
	// SHA-256 is kept.
	maxKey = 64
)

// limiter is a token bucket for each key. Buckets live in two generations: when the
// young one is full, or old enough that an idle bucket has refilled, it becomes the
// old one and the old one is dropped. A key in use moves on.
type limiter struct {
	limit  Rate
	refill time.Duration // an empty bucket is full again

	mu         sync.Mutex
	young, old map[string]*rate.Limiter
	born       time.Time // of young
}

// newLimiter is nil, which limits nothing, when the rate is 0.
func newLimiter(limit Rate) *limiter {
	if limit.PerSecond <= 0 {
		return nil
	}
	limit.Burst = max(1, limit.Burst)
	refill := time.Duration(math.Min(float64(limit.Burst)/limit.PerSecond, 1e6) * float64(time.Second))
	return &limiter{limit: limit, refill: refill, young: map[string]*rate.Limiter{}}
}

// wait takes a token of the key; it returns 0, or how long until there is one.
func (l *limiter) wait(key string, now time.Time) time.Duration {
	if len(key) > maxKey {
		sum := sha256.Sum256([]byte(key))
		key = string(sum[:])
	}
	res := l.bucket(key, now).ReserveN(now, 1)
	d := res.DelayFrom(now)
	if d > 0 {
		res.CancelAt(now)
	}
	return d
}

func (l *limiter) bucket(key string, now time.Time) *rate.Limiter {
	l.mu.Lock()
	defer l.mu.Unlock()
	if b := l.young[key]; b != nil {
		return b
	}
	if len(l.young) >= maxBuckets || now.Sub(l.born) > l.refill+time.Minute {
		l.young, l.old, l.born = map[string]*rate.Limiter{}, l.young, now
	}
	b := l.old[key]
	if b == nil {
		b = rate.NewLimiter(rate.Limit(l.limit.PerSecond), l.limit.Burst)
	}
	l.young[key] = b
	return b
}
