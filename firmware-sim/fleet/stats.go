package fleet

import (
	"maps"
	"math"
	"math/bits"
	"sync"
	"sync/atomic"
	"time"
)

// Stats counts what all devices of a run do. All of it may be used from any goroutine.
type Stats struct {
	Online      atomic.Int64 // connections whose CONNACK came and which have not ended
	Connected   atomic.Int64 // devices that were connected at least once
	Provisioned atomic.Int64 // devices whose provisioning the cloud confirmed
	Reconnects  atomic.Int64
	Published   atomic.Int64 // QoS 1 messages sent for the first time
	Acked       atomic.Int64
	Commands    atomic.Int64 // messages of the cloud that a device obeyed or refused
	Lent        atomic.Int64 // credentials for video that the cloud gave
	Located     atomic.Int64 // answers that name AWS IoT as the place of credentials
	Ended       atomic.Int64 // viewers that the cloud had ended

	Connect Histogram // from dialling to CONNACK
	Ack     Histogram // from PUBLISH to PUBACK

	mu      sync.Mutex
	errors  map[string]int64
	samples map[string]string
}

// Fail counts an error by kind and keeps the first text of each kind for the reader of the report.
func (s *Stats) Fail(kind string, err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.errors == nil {
		s.errors, s.samples = map[string]int64{}, map[string]string{}
	}
	s.errors[kind]++
	if _, ok := s.samples[kind]; !ok && err != nil {
		s.samples[kind] = err.Error()
	}
}

// Errors returns the counts by kind and an example of each.
func (s *Stats) Errors() (counts map[string]int64, samples map[string]string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	counts = maps.Clone(s.errors)
	if counts == nil {
		counts = map[string]int64{}
	}
	return counts, maps.Clone(s.samples)
}

// ErrorCount returns how many errors there were.
func (s *Stats) ErrorCount() int64 {
	s.mu.Lock()
	defer s.mu.Unlock()
	var n int64
	for _, c := range s.errors {
		n += c
	}
	return n
}

// Histogram holds durations in buckets of at most 6 % width: 16 for each power of two of microseconds. It needs no
// lock and a fixed 5 KiB however many values it takes.
type Histogram struct {
	buckets [40 * 16]atomic.Int64
	count   atomic.Int64
	max     atomic.Int64
}

// Record adds one duration.
func (h *Histogram) Record(d time.Duration) {
	us := max(d.Microseconds(), 0)
	h.buckets[bucketOf(us)].Add(1)
	h.count.Add(1)
	for {
		old := h.max.Load()
		if us <= old || h.max.CompareAndSwap(old, us) {
			return
		}
	}
}

// Count returns how many durations were recorded.
func (h *Histogram) Count() int64 { return h.count.Load() }

// Max returns the longest duration.
func (h *Histogram) Max() time.Duration { return time.Duration(h.max.Load()) * time.Microsecond }

// Quantile returns the duration that the share q of all values does not exceed, to the width of a bucket.
func (h *Histogram) Quantile(q float64) time.Duration {
	rank := int64(math.Ceil(q * float64(h.count.Load())))
	if rank == 0 {
		return 0
	}
	var seen int64
	for i := range h.buckets {
		seen += h.buckets[i].Load()
		if seen >= rank {
			return min(time.Duration(bucketTop(i))*time.Microsecond, h.Max())
		}
	}
	return h.Max()
}

// bucketOf puts values below 16 in buckets of their own, then 16 buckets for each power of two.
func bucketOf(us int64) int {
	if us < 16 {
		return int(us)
	}
	exponent := bits.Len64(uint64(us)) - 5
	return min(exponent*16+int(us>>exponent), 40*16-1)
}

// bucketTop is the largest value of a bucket.
func bucketTop(i int) int64 {
	if i < 32 {
		return int64(i)
	}
	exponent := i/16 - 1
	return (int64(i%16)+17)<<exponent - 1
}
