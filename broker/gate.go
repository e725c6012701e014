package broker

import (
	"container/list"
	"sync"
	"time"
)

// crowdStep is how often acceptance looks whether a crowd has gone.
const crowdStep = 5 * time.Millisecond

// gate bounds how many TLS handshakes compute at once, so that a storm of them does not keep established sessions
// waiting behind thousands of runnable goroutines.
//
// Handshakes whose first half is done go before those that have not begun: otherwise, in a storm, the work already
// spent on most of them is lost to their deadline, their clients come again, and the storm feeds itself. A nil gate is
// always open.
type gate struct {
	most     int           // slots
	patience time.Duration // how long who is to begin may wait before it is a crowd, whose clients may have given up

	mu    sync.Mutex
	taken int       // slots
	begun list.List // of turn: who waits for a slot to go on, in order
	fresh list.List // the same: to begin
}

// turn is somebody's place in line.
type turn struct {
	come  chan struct{} // capacity 1
	since time.Time
}

// newGate makes a gate of n slots for handshakes that may take as long as limit; 0 is for ever.
func newGate(n int, limit time.Duration) *gate {
	if n <= 0 {
		return nil
	}
	if limit <= 0 {
		limit = 5 * time.Second
	}
	return &gate{most: n, patience: limit / 16}
}

// enter takes a slot. late says that it came after longer than patience; ok is false when none came free until expires,
// of which the zero time means no limit.
func (g *gate) enter(expires time.Time, begun bool) (late, ok bool) {
	g.mu.Lock()
	if g.taken < g.most {
		g.taken++
		g.mu.Unlock()
		return false, true
	}
	line := &g.fresh
	if begun {
		line = &g.begun
	}
	mine := turn{make(chan struct{}, 1), time.Now()}
	place := line.PushBack(mine)
	g.mu.Unlock()

	var expired <-chan time.Time
	if !expires.IsZero() {
		t := time.NewTimer(time.Until(expires))
		defer t.Stop()
		expired = t.C
	}
	select {
	case <-mine.come:
		return time.Since(mine.since) > g.patience, true
	case <-expired:
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	select {
	case <-mine.come: // it came at the same moment
		return true, true
	default:
		line.Remove(place)
		return true, false
	}
}

// leave gives the slot to the next in line.
func (g *gate) leave() {
	g.mu.Lock()
	defer g.mu.Unlock()
	for _, line := range [...]*list.List{&g.begun, &g.fresh} {
		if next := line.Front(); next != nil {
			line.Remove(next)
			if t, ok := next.Value.(turn); ok {
				t.come <- struct{}{}
			}
			return
		}
	}
	g.taken--
}

// crowded reports whether handshakes wait so long to begin that accepting more would only make them wait here instead
// of in the kernel's accept queue, where they cost nothing and no deadline of ours runs.
func (g *gate) crowded() bool {
	if g == nil {
		return false
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	first, ok := turn{}, false
	if next := g.fresh.Front(); next != nil {
		first, ok = next.Value.(turn)
	}
	return ok && time.Since(first.since) > g.patience
}
