package broker

import (
	"io"
	"net"
	"sync/atomic"
	"time"
)

// Guard is the wire guard over a stream, for tests. Authenticated is asked before each read.
type Guard struct{ g wireGuard }

// NewGuard makes a guard with the default limits.
func NewGuard(src io.Reader, authenticated bool) *Guard {
	l := Limits{}.effective()
	g := &Guard{}
	g.g.src, g.g.before, g.g.after = src, l.MaxPreAuthPacket, l.MaxPacket
	g.g.authenticated.Store(authenticated)
	return g
}

func (g *Guard) Read(p []byte) (int, error)  { return g.g.Read(p) }
func (g *Guard) Version() byte               { return byte(g.g.version.Load()) }
func (g *Guard) Authenticated() *atomic.Bool { return &g.g.authenticated }

// Accept makes the broker accept from ln as if it were its plain listener, until Shutdown.
func (b *Broker) Accept(ln net.Listener) {
	b.mu.Lock()
	b.plainLn = ln
	b.mu.Unlock()
	b.startAccepting(ln, overPlain)
}

// Open is the number of open connections.
func (b *Broker) Open() int { return b.roster.len() }

// NewRedactor is the handler between mochi and a logger.
var NewRedactor = newRedactor

// DevCAAt is DevCA at another time.
func DevCAAt(dir string, now time.Time, names ...string) error {
	a := authority{dir: dir, names: names, now: now}
	return a.ensure()
}

// Socket is a non-blocking socket over nc with this queue and stall limit.
func Socket(nc net.Conn, queue int, stall time.Duration) (conn net.Conn, failure func() error) {
	s := newSocket(nc, Limits{WriteQueue: queue, WriteStall: stall}, func() {})
	return s, s.failure
}

// Gate is what bounds the handshakes that compute at once.
type Gate struct{ g *gate }

// NewGate makes a gate with n slots.
func NewGate(n int) Gate { return Gate{newGate(n, 0)} }

// Gate is the broker's.
func (b *Broker) Gate() Gate { return Gate{b.gate} }

func (g Gate) Enter(expires time.Time, begun bool) bool {
	_, ok := g.g.enter(expires, begun)
	return ok
}
func (g Gate) Leave()        { g.g.leave() }
func (g Gate) Crowded() bool { return g.g.crowded() }

// Waiting is how many wait for a slot.
func (g Gate) Waiting() int {
	g.g.mu.Lock()
	defer g.g.mu.Unlock()
	return g.g.fresh.Len() + g.g.begun.Len()
}
