package broker

import (
	"container/list"
	"sync"
	"time"
)

const (
	// crowd is how many handshakes for each slot may wait for it before no more
	// connections are accepted: some 100 ms of work.
	crowd = 64
	// crowdStep is how often acceptance looks whether the crowd has gone.
	crowdStep = 5 * time.Millisecond
)

// gate bounds how many TLS handshakes compute at once, so that a storm of them does not keep established sessions
// waiting behind thousands of runnable goroutines.
//
// Handshakes whose first half is done go before those that have not begun: otherwise, in a storm, the work already
// spent on most of them is lost to their deadline, their clients come again, and the storm feeds itself. A nil gate is
// always open.
type gate struct {
	mu    sync.Mutex
	most  int       // slots
	taken int       // of them
	begun list.List // of chan struct{}: who waits for a slot to go on, in order
	fresh list.List // the same: to begin
}

func newGate(n int) *gate {
	if n <= 0 {
		return nil
	}
	return &gate{most: n}
}

// enter takes a slot. waited says that there was none at first; ok is false when none came free until expires, of which
// the zero time means no limit.
func (g *gate) enter(expires time.Time, begun bool) (waited, ok bool) {
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
	turn := make(chan struct{}, 1)
	place := line.PushBack(turn)
	g.mu.Unlock()

	var expired <-chan time.Time
	if !expires.IsZero() {
		t := time.NewTimer(time.Until(expires))
		defer t.Stop()
		expired = t.C
	}
	select {
	case <-turn:
		return true, true
	case <-expired:
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	select {
	case <-turn: // it came at the same moment
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
			if turn, ok := next.Value.(chan struct{}); ok {
				turn <- struct{}{}
			}
			return
		}
	}
	g.taken--
}

// crowded reports whether so many wait to begin that accepting more would only make them wait here instead of in the
// kernel's accept queue, where they cost nothing and no deadline runs.
func (g *gate) crowded() bool {
	if g == nil {
		return false
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.fresh.Len() >= crowd*g.most
}
