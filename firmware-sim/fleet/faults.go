package fleet

import (
	"math/rand/v2"
	"net"
	"sync"
	"sync/atomic"
	"syscall"
	"time"
)

// faults breaks connections while it is armed: each gets a random number of bytes to send, and the write that crosses
// it goes out in part and is followed by RST or by a silent FIN. It sits below TLS, so the cut falls anywhere in a
// record and therefore anywhere in a packet.
type faults struct {
	armed atomic.Bool
	cuts  atomic.Int64

	mu  sync.Mutex
	rng *rand.Rand
}

const (
	faultLeast = 100   // in the middle of the TLS handshake
	faultMost  = 8_000 // after some minutes of ordinary reports
)

func newFaults(seed uint16) *faults {
	f := &faults{rng: rand.New(rand.NewPCG(uint64(seed), 0xfa17))}
	f.armed.Store(true)
	return f
}

// wrap is a NewDialer's wrap.
func (f *faults) wrap(_ int, bare net.Conn) net.Conn {
	f.mu.Lock()
	defer f.mu.Unlock()
	// Squared, so that most connections break early, some in the handshake, and some live long.
	share := f.rng.Float64()
	budget := faultLeast + int64(share*share*(faultMost-faultLeast))
	return &faultyConn{Conn: bare, faults: f, left: budget, reset: f.rng.IntN(2) == 0}
}

type faultyConn struct {
	net.Conn
	faults *faults
	left   int64
	reset  bool
}

// Write sends what the budget allows and then cuts. It is called by one goroutine at a time: the session's.
func (c *faultyConn) Write(b []byte) (int, error) {
	if !c.faults.armed.Load() || int64(len(b)) <= c.left {
		n, err := c.Conn.Write(b)
		c.left -= int64(n)
		return n, err
	}
	n, err := c.Conn.Write(b[:max(c.left, 0)])
	if err != nil {
		return n, err
	}
	c.faults.cuts.Add(1)
	Link{Conn: c.Conn, Bare: c.Conn}.Cut(c.reset)
	return n, &cutError{}
}

// SetLinger lets Link.Cut reset through the wrapper too.
func (c *faultyConn) SetLinger(sec int) error {
	if tcp, ok := c.Conn.(*net.TCPConn); ok {
		return tcp.SetLinger(sec)
	}
	return syscall.ENOTSUP
}

// cutError is our own doing, which no report counts as an error of the server.
type cutError struct{}

func (*cutError) Error() string { return "cut by the scenario" }

// interval is how often a flaky scenario also cuts connections that say little.
func (f *faults) interval() time.Duration {
	f.mu.Lock()
	defer f.mu.Unlock()
	return time.Duration(50+f.rng.IntN(150)) * time.Millisecond
}

// pick returns a random index below n and whether to reset.
func (f *faults) pick(n int) (index int, reset bool) {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.rng.IntN(n), f.rng.IntN(2) == 0
}
