package registry

import (
	"context"
	"sync/atomic"
	"time"
)

// Feed lets the tests drive a feed without a registry.
type Feed struct{ *feed }

// NewFeed makes one.
func NewFeed() Feed {
	return Feed{newFeed(NewIDSource(time.Now), new(atomic.Int64))}
}

// FeedOf is the feed of a registry.
func FeedOf(r *Registry) Feed { return Feed{r.feed} }

// Active reports whether changes are kept.
func (f Feed) Active() bool { return f.active.Load() }

// Committed publishes a batch.
func (f Feed) Committed(b *Batch) { f.committed(b) }

// Enter adds a listener of some devices that takes whatever it gets.
func (f Feed) Enter(devices ...string) (leave func()) {
	l := &Listener{feed: f.feed, actor: Actor{Kind: ActorUser, ID: "u"}, ready: make(chan struct{}, 1), backlog: 1 << 40}
	if err := f.enter(l); err != nil {
		return func() {}
	}
	readable := map[string]struct{}{}
	for _, id := range devices {
		readable[id] = struct{}{}
	}
	f.mu.Lock()
	l.read(readable)
	f.mu.Unlock()
	return l.Close
}

// ParseCursor reads a cursor.
func ParseCursor(s string) (life, seq int64, ok bool) { return parseCursor(s) }

// CrossShares acts on shares that began or ended after `last` and until now, as the
// follower of shares does, and returns when the next one does.
func (r *Registry) CrossShares(ctx context.Context, last, now time.Time) (time.Time, error) {
	return r.crossShares(ctx, last, now)
}

// BindingProof is the proof of a claim.
func BindingProof(key []byte, message string) []byte { return bindingProof(key, message) }

// SweepCommands ends the commands whose timer has run out, as Run does.
func SweepCommands(r *Registry) error { return r.sweepCommands(context.Background()) }

// CommandsIdle reports whether nothing is being sent to the device at this moment.
func CommandsIdle(r *Registry, deviceID string) bool {
	r.dispatch.mu.Lock()
	defer r.dispatch.mu.Unlock()
	l := r.dispatch.lanes[deviceID]
	return l == nil || !l.busy
}
