package hooks

import (
	"sync"
	"time"

	"github.com/opticworks/devicecloud/topic"
)

// Rate is a token bucket: Events a second on average, at most Burst at once. The
// zero value is off.
type Rate struct {
	Events float64
	Burst  int
}

func (r Rate) off() bool { return r.Events <= 0 }

// Limits bounds what one device may send. The zero value of each field is off.
type Limits struct {
	// ConnectsPerDevice bounds accepted CONNECTs. The excess is refused with 0x9F,
	// for 3.1.1 with 3.
	ConnectsPerDevice Rate
	// StatePerDevice bounds the messages that are written durably: state, and every
	// other kind that has no limit of its own. Above it, the server delays reading a
	// connection that publishes at QoS 1 or 2, and drops QoS 0.
	StatePerDevice Rate
	// TelemetryPerDevice bounds telemetry; the excess is handled as for state.
	TelemetryPerDevice Rate
	// TargetsPerDevice bounds targets/stream. Of the excess the newest is handed on when
	// there is room again, and what is older is dropped. [contracts, MQTT topic table]
	TargetsPerDevice Rate
	// OTAStatusPerUpdate bounds the progress reports of one update on one
	// connection. What is above is acknowledged and forgotten; success and failed
	// always count.
	OTAStatusPerUpdate int
}

const (
	// excessLimit is how long a device may stay above a limit before its session
	// ends with 0x96.
	excessLimit = 10 * time.Second
	// floodLimit is how many QoS 0 messages are dropped in one such time before that
	// is called a flood; a device that merely chats too often is left alone.
	floodLimit = 100
	// maxDelay bounds one delay of a reader, so that its keep-alive stays alive.
	maxDelay = 5 * time.Second
)

// bucket is the state of one Rate. It belongs to one goroutine, or to who locks it.
type bucket struct {
	tokens  float64
	last    time.Time // zero: full
	over    time.Time // since when every message was one too many; zero: not
	dropped int       // since over
}

// take takes a token. wait is zero when there was one; otherwise nothing was
// taken, and there will be one after wait.
func (b *bucket) take(r Rate, now time.Time) (wait time.Duration) {
	burst := float64(max(1, r.Burst))
	if b.last.IsZero() {
		b.tokens = burst
	} else {
		b.tokens = min(burst, b.tokens+now.Sub(b.last).Seconds()*r.Events)
	}
	b.last = now
	if b.tokens < 1 {
		if b.over.IsZero() {
			b.over, b.dropped = now, 0
		}
		return time.Duration((1 - b.tokens) / r.Events * float64(time.Second))
	}
	b.tokens--
	return 0
}

// connectLimit holds a bucket for each device that connected lately.
type connectLimit struct {
	rate Rate

	mu      sync.Mutex
	buckets map[string]*bucket
	sweepAt int // the number of buckets at which full ones are forgotten
}

const leastSweep = 1024

func newConnectLimit(r Rate) *connectLimit {
	return &connectLimit{rate: r, buckets: map[string]*bucket{}, sweepAt: leastSweep}
}

// allow counts a connection of a device.
func (l *connectLimit) allow(id string, now time.Time) bool {
	if l.rate.off() {
		return true
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	b := l.buckets[id]
	if b == nil {
		if len(l.buckets) >= l.sweepAt {
			l.forget(now)
		}
		b = &bucket{}
		l.buckets[id] = b
	}
	return b.take(l.rate, now) == 0
}

// forget drops the buckets that are full again: they say nothing. mu is held.
func (l *connectLimit) forget(now time.Time) {
	full := time.Duration(float64(max(1, l.rate.Burst)) / l.rate.Events * float64(time.Second))
	for id, b := range l.buckets {
		if now.Sub(b.last) >= full {
			delete(l.buckets, id)
		}
	}
	l.sweepAt = max(leastSweep, 2*len(l.buckets))
}

// excess is what a rate limit says of one message.
type excess uint8

const (
	within  excess = iota
	dropped        // QoS 0: forget it
	tooMuch        // above the limit for too long: the session ends
)

// meter charges a message of a kind to its bucket; it keeps nothing of payload. For QoS above 0 it delays the
// caller, which is the connection's reader, until there is a token.
func (g *guard) meter(s *session, k topic.Kind, qos byte, payload []byte) excess {
	d := s.device
	rate, b := g.limits.StatePerDevice, &d.state
	switch k {
	case topic.Telemetry:
		rate, b = g.limits.TelemetryPerDevice, &d.telemetry
	case topic.TargetsStream:
		rate, b = g.limits.TargetsPerDevice, &d.targets
	}
	if rate.off() {
		return within
	}
	now := g.now()
	wait := b.take(rate, now)
	if wait == 0 {
		b.over = time.Time{}
		if k == topic.TargetsStream {
			d.latest.overtaken()
		}
		return within
	}
	if k == topic.TargetsStream {
		if g.courier.latestLater(s, payload, wait) {
			b.tokens-- // spent in advance
		}
		return dropped
	}
	lasting := now.Sub(b.over) >= g.excess
	if qos == 0 {
		b.dropped++
		if lasting && b.dropped >= floodLimit {
			return tooMuch
		}
		return dropped
	}
	if lasting {
		return tooMuch
	}
	if !s.pause(min(wait, maxDelay)) {
		return dropped // the session has ended: nothing is answered any more
	}
	b.take(rate, g.now())
	return within
}

// pause waits for d; false when the session ends first.
func (s *session) pause(d time.Duration) bool {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return true
	case <-s.gone:
		return false
	}
}
