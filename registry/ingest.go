package registry

import (
	"context"
	"errors"
	"log/slog"
	"sync"
	"time"
)

// CommitTimeout is how long a write may wait for its commit, in all. Longer than
// that and it fails with ErrUnavailable: a device then reconnects and resends.
const CommitTimeout = 5 * time.Second

const (
	// maxBatch closes a batch early, so that one commit stays short.
	maxBatch = 4096
	// maxQueued is how many writes may wait before those that nobody waits for
	// (QoS 0) are dropped.
	maxQueued = 20000
)

// ingest is the group commit: callers put writes into the open batch, one writer
// goroutine commits batch after batch, and each caller gets its own batch's
// result. It never hides a failure and Close drains it.
type ingest struct {
	store   Store
	log     *slog.Logger
	linger  time.Duration
	counter *Counters
	feed    *feed

	mu     sync.Mutex
	open   *openBatch
	closed bool

	wake chan struct{} // capacity 1: there is an open batch
	full chan struct{} // capacity 1: the open batch has reached maxBatch
	done chan struct{} // the writer has ended
}

// openBatch collects writes until the writer takes it.
type openBatch struct {
	Batch
	states   map[int64]*slot // newest per device wins
	deadline time.Time
	late     *time.Timer // settles a batch whose commit does not end in time

	// settled is closed when the batch is committed, has failed, or is late. Then err
	// may be read, and when it is nil the items' results. A late batch may still be
	// committed afterwards: nobody is told so.
	settled chan struct{}
	once    sync.Once
	err     error

	// ended is closed when the writer is through with the batch, however late. Then
	// result and the items' results may be read.
	ended  chan struct{}
	result error
}

// settle makes err the answer to those who wait for no longer than the deadline.
func (b *openBatch) settle(err error) {
	b.once.Do(func() {
		b.err = err
		close(b.settled)
	})
}

var errLate = errors.New("the commit takes too long")

// slot is a device's report in the open batch and the session it came by.
type slot struct {
	write   *StateWrite
	session *Session
}

func newIngest(store Store, linger time.Duration, counter *Counters, feed *feed, log *slog.Logger) *ingest {
	g := &ingest{
		store: store, linger: linger, log: log, counter: counter, feed: feed,
		wake: make(chan struct{}, 1), full: make(chan struct{}, 1), done: make(chan struct{}),
	}
	go g.write()
	return g
}

// wait returns the batch's result, after CommitTimeout at the latest.
func (b *openBatch) wait() error {
	<-b.settled
	return b.err
}

// batch returns the open batch for adding to it; mu is held.
func (g *ingest) batch() (*openBatch, error) {
	if g.closed {
		return nil, ErrUnavailable
	}
	if g.open == nil {
		b := &openBatch{
			states: map[int64]*slot{}, deadline: time.Now().Add(CommitTimeout), settled: make(chan struct{}), ended: make(chan struct{}),
		}
		b.late = time.AfterFunc(CommitTimeout, func() { b.settle(ErrUnavailable.With(errLate)) })
		g.open = b
		signal(g.wake)
	}
	if g.open.Len() == maxBatch {
		signal(g.full)
	}
	return g.open, nil
}

func signal(c chan struct{}) {
	select {
	case c <- struct{}{}:
	default:
	}
}

// state queues a report. When the open batch holds one of the same connection,
// the newer one is laid over it, and both callers share the result.
func (g *ingest) state(s *Session, state State, at time.Time) (*openBatch, *StateWrite, error) {
	g.mu.Lock()
	defer g.mu.Unlock()
	b, err := g.batch()
	if err != nil {
		return nil, nil, err
	}
	changed := true
	if f := s.firmware.Load(); f != nil && *f == state.FirmwareVersion {
		changed = false
	}
	if old := b.states[s.DeviceNo]; old != nil && old.write.Epoch == s.Epoch {
		old.write.State.overlay(state)
		old.write.At, old.write.Firmware = at, changed
		return b, old.write, nil
	}
	w := &StateWrite{DeviceNo: s.DeviceNo, DeviceID: s.DeviceID, Epoch: s.Epoch, At: at, State: state, Firmware: changed}
	b.states[s.DeviceNo] = &slot{w, s}
	b.States = append(b.States, w)
	return b, w, nil
}

// overlay lays a newer report over an older one: what it does not name stays.
func (s *State) overlay(n State) {
	s.Online, s.FirmwareVersion, s.UptimeSec, s.WifiRSSI = n.Online, n.FirmwareVersion, n.UptimeSec, n.WifiRSSI
	if n.ConfigVersion != nil {
		s.ConfigVersion = n.ConfigVersion
	}
	if n.RadarConnected != nil {
		s.RadarConnected = n.RadarConnected
	}
	if n.ZoneCount != nil {
		s.ZoneCount = n.ZoneCount
	}
	if n.ProtocolVersion != nil {
		s.ProtocolVersion = n.ProtocolVersion
	}
}

// add queues any other write.
func (g *ingest) add(put func(*Batch)) (*openBatch, error) {
	g.mu.Lock()
	defer g.mu.Unlock()
	b, err := g.batch()
	if err != nil {
		return nil, err
	}
	put(&b.Batch)
	return b, nil
}

// do queues work and waits for its commit, or for the batch to fail: f may still
// run when the caller's patience has ended, so leaving early would race with it.
func (g *ingest) do(ctx context.Context, f func(Tx) error, changes func() []*Change) error {
	if err := ctx.Err(); err != nil {
		return ErrUnavailable.With(err)
	}
	w := &Work{Do: f, Changes: changes}
	b, err := g.add(func(b *Batch) { b.Work = append(b.Work, w) })
	if err != nil {
		return err
	}
	<-b.ended
	if b.result != nil {
		return b.result
	}
	return w.Err
}

// overfull reports whether writes that nobody waits for should be dropped.
func (g *ingest) overfull() bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.open != nil && g.open.Len() >= maxQueued
}

// take closes the open batch to further writes; nil when there is none.
func (g *ingest) take() *openBatch {
	g.mu.Lock()
	defer g.mu.Unlock()
	b := g.open
	g.open = nil
	return b
}

// write is the writer goroutine: one batch after another, until closed and empty.
func (g *ingest) write() {
	defer close(g.done)
	timer := time.NewTimer(time.Hour)
	defer timer.Stop()
	for range g.wake {
		timer.Reset(g.linger)
		select {
		case <-timer.C:
		case <-g.full:
		}
		if b := g.take(); b != nil {
			g.commit(b)
		}
		g.mu.Lock()
		end := g.closed && g.open == nil
		g.mu.Unlock()
		if end {
			return
		}
	}
}

func (g *ingest) commit(b *openBatch) {
	start := time.Now()
	// A batch that waited behind a stuck one still gets a fair try, for those who wait
	// for its end.
	deadline := b.deadline
	if least := start.Add(time.Second); deadline.Before(least) {
		deadline = least
	}
	ctx, cancel := context.WithDeadline(context.Background(), deadline)
	err := g.store.Commit(ctx, &b.Batch)
	cancel()
	b.late.Stop()
	n := int64(b.Len())
	if err != nil {
		g.counter.FailedBatches.Add(1)
		g.log.Error("a batch was not committed", "writes", n, "after", time.Since(start), "error", err)
		b.result = ErrUnavailable.With(err)
	} else {
		g.counter.Batches.Add(1)
		g.counter.Committed.Add(n)
		g.counter.CommitNanos.Add(int64(time.Since(start)))
		for _, slot := range b.states {
			if slot.write.Firmware && !slot.write.Stale {
				slot.session.firmware.Store(&slot.write.State.FirmwareVersion)
			}
		}
		g.feed.committed(&b.Batch)
	}
	b.settle(b.result)
	close(b.ended)
}

// close refuses further writes, commits what waits, and ends the writer.
func (g *ingest) close() {
	g.mu.Lock()
	already := g.closed
	g.closed = true
	g.mu.Unlock()
	if !already {
		signal(g.wake)
	}
	<-g.done
}
