package httpapi

import (
	"math"
	"net/netip"
	"sync"
	"time"

	"golang.org/x/time/rate"
)

// maxBuckets bounds the memory of a storm of addresses, in buckets of each of two
// generations: about 10 MB in all.
const maxBuckets = 20000

// limiter is a token bucket for each address. Buckets live in two generations:
// when the young one is full, or old enough that an idle bucket has refilled, it
// becomes the old one and the old one is dropped. An address in use moves on.
type limiter struct {
	limit  Rate
	refill time.Duration // an empty bucket is full again

	mu         sync.Mutex
	young, old map[netip.Prefix]*rate.Limiter
	born       time.Time // of young
}

// newLimiter is nil, which limits nothing, when the rate is 0.
func newLimiter(limit Rate) *limiter {
	if limit.PerSecond <= 0 {
		return nil
	}
	limit.Burst = max(1, limit.Burst)
	refill := time.Duration(math.Min(float64(limit.Burst)/limit.PerSecond, 1e6) * float64(time.Second))
	return &limiter{limit: limit, refill: refill, young: map[netip.Prefix]*rate.Limiter{}}
}

// wait takes a token of the address; it returns 0, or how long until there is one.
// Loopback is exempt: it is the operator, or a proxy that is not configured as one.
func (l *limiter) wait(addr netip.Addr, now time.Time) time.Duration {
	if l == nil || addr.IsLoopback() {
		return 0
	}
	b := l.bucket(addr, now)
	res := b.ReserveN(now, 1)
	d := res.DelayFrom(now)
	if d > 0 {
		res.CancelAt(now)
	}
	return d
}

func (l *limiter) bucket(addr netip.Addr, now time.Time) *rate.Limiter {
	bits := 64 // of IPv6: what one customer has
	if addr.Is4() {
		bits = 32
	}
	key, _ := addr.Prefix(bits) // the bits fit
	l.mu.Lock()
	defer l.mu.Unlock()
	if b := l.young[key]; b != nil {
		return b
	}
	if len(l.young) >= maxBuckets || now.Sub(l.born) > l.refill+time.Minute {
		l.young, l.old, l.born = map[netip.Prefix]*rate.Limiter{}, l.young, now
	}
	b := l.old[key]
	if b == nil {
		b = rate.NewLimiter(rate.Limit(l.limit.PerSecond), l.limit.Burst)
	}
	l.young[key] = b
	return b
}
