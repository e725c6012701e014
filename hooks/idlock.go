package hooks

import (
	"sync"
	"time"
)

// idLocks is one lock for each client id. mochi lets two simultaneous CONNECTs of
// one id both stay live, and lets the teardown of an old connection run after the
// new session was added; the lock is held from OnConnect to OnSessionEstablished,
// from OnDisconnect to the end of the clean-up, and around each change of
// subscriptions.
type idLocks struct {
	mu   sync.Mutex
	byID map[string]*idLock
}

type idLock struct {
	slot  chan struct{} // holds one element while somebody holds the lock
	users int           // holders and waiters; under idLocks.mu
}

// hold is the possession of a lock. It is released once, by any goroutine.
type hold struct {
	locks *idLocks
	id    string
	lock  *idLock
}

func newIDLocks() *idLocks { return &idLocks{byID: map[string]*idLock{}} }

// acquire takes the lock of an id; nil when it could not within the limit. A limit
// of 0 waits for ever: every holder is bounded by the limits of the registry.
func (l *idLocks) acquire(id string, limit time.Duration) *hold {
	l.mu.Lock()
	lock := l.byID[id]
	if lock == nil {
		lock = &idLock{slot: make(chan struct{}, 1)}
		l.byID[id] = lock
	}
	lock.users++
	l.mu.Unlock()
	select {
	case lock.slot <- struct{}{}:
		return &hold{locks: l, id: id, lock: lock}
	default:
	}
	var expired <-chan time.Time
	if limit > 0 {
		t := time.NewTimer(limit)
		defer t.Stop()
		expired = t.C
	}
	select {
	case lock.slot <- struct{}{}:
		return &hold{locks: l, id: id, lock: lock}
	case <-expired:
		l.leave(id, lock)
		return nil
	}
}

// release gives the lock back.
func (h *hold) release() {
	<-h.lock.slot
	h.locks.leave(h.id, h.lock)
}

func (l *idLocks) leave(id string, lock *idLock) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if lock.users--; lock.users == 0 {
		delete(l.byID, id)
	}
}
