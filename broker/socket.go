package broker

import (
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"sync"
	"syscall"
	"time"
)

// drainStep is how much a client has to read within the stall limit to count as alive.
const drainStep = 4 << 10

// socket is a network connection whose Write never blocks. It sits under TLS, so that tls.Conn.Write cannot block
// either: otherwise one subscriber that stops reading blocks every publisher that matches it.
//
// While nothing waits, Write hands the bytes to the kernel directly. What the kernel does not take waits in a bounded
// queue for the drainer, a goroutine that lives only as long as bytes wait. Any failure to write closes the connection.
type socket struct {
	net.Conn          // what is read from and written to
	base     net.Conn // the connection under it; closing it never blocks
	direct   func(p []byte) (int, error)
	limit    int           // bytes that may wait
	stall    time.Duration // 0: for ever
	slow     func()        // counts a client that was closed for reading too slowly

	gate    *gate // set during the TLS handshake only, by the connection's goroutine
	inGate  bool
	begun   bool      // the handshake has answered the client
	expires time.Time // end of the handshake

	mu       sync.Mutex
	queue    []byte
	waiting  int // bytes in queue and in the drainer's hands
	draining bool
	err      error         // the first failure; nothing is written after it
	idle     chan struct{} // closed when the drainer ends; made by flush
}

// newSocket wraps conn: a *net.TCPConn, or what an HTTP server hijacked (a *net.TCPConn or a *tls.Conn). Of the latter
// no direct write is possible, so everything goes through the queue.
func newSocket(conn net.Conn, l Limits, slow func()) *socket {
	s := &socket{Conn: conn, base: conn, limit: l.WriteQueue, stall: l.WriteStall, slow: slow}
	if t, ok := conn.(*tls.Conn); ok {
		s.base = t.NetConn()
	}
	if c, ok := conn.(syscall.Conn); ok {
		if raw, err := c.SyscallConn(); err == nil {
			s.direct = directWriter(raw)
		}
	}
	return s
}

// Write takes all of p or closes the connection; it never blocks and never keeps p.
func (s *socket) Write(p []byte) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.err != nil {
		return 0, s.err
	}
	s.begun = s.gate != nil
	if s.draining {
		if s.limit > 0 && s.waiting > s.limit {
			return 0, s.fail(fmt.Errorf("%w: queue is full", ErrSlowReader))
		}
		s.queue = append(s.queue, p...)
		s.waiting += len(p)
		return len(p), nil
	}
	sent := 0
	if s.direct != nil {
		var err error
		if sent, err = s.direct(p); err != nil {
			return 0, s.fail(err)
		}
	}
	if sent < len(p) {
		s.queue = append([]byte(nil), p[sent:]...)
		s.waiting, s.draining = len(s.queue), true
		go s.drain()
	}
	return len(p), nil
}

// drain writes the queue until it is empty or the client stalls.
func (s *socket) drain() {
	for {
		s.mu.Lock()
		if len(s.queue) == 0 || s.err != nil {
			s.queue, s.waiting, s.draining = nil, 0, false
			if s.idle != nil {
				close(s.idle)
				s.idle = nil
			}
			s.mu.Unlock()
			return
		}
		batch := s.queue
		s.queue = nil
		s.mu.Unlock()
		for len(batch) > 0 {
			if s.stall > 0 {
				_ = s.Conn.SetWriteDeadline(time.Now().Add(s.stall))
			}
			n, err := s.Conn.Write(batch[:min(len(batch), drainStep)])
			batch = batch[n:]
			s.mu.Lock()
			s.waiting -= n
			if err != nil {
				if os.IsTimeout(err) {
					err = fmt.Errorf("%w: nothing read for %v", ErrSlowReader, s.stall)
				}
				_ = s.fail(err)
				batch = nil
			}
			s.mu.Unlock()
		}
		_ = s.Conn.SetWriteDeadline(time.Time{}) // or the next direct write would meet a deadline of the past
	}
}

// fail closes the connection for the first err and returns that one. s.mu is held.
func (s *socket) fail(err error) error {
	if s.err == nil {
		s.err = err
		if errors.Is(err, ErrSlowReader) {
			s.slow()
		}
		_ = s.base.Close()
	}
	return s.err
}

// failure is why nothing can be written any more, nil while it can.
func (s *socket) failure() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.err
}

// flush waits until nothing is queued any more or the connection is closed; whoever calls it has armed the hard close.
func (s *socket) flush() {
	s.mu.Lock()
	if !s.draining {
		s.mu.Unlock()
		return
	}
	if s.idle == nil {
		s.idle = make(chan struct{})
	}
	idle := s.idle
	s.mu.Unlock()
	<-idle
}

// Read reads. During the TLS handshake it leaves the gate while it waits for the client and enters it again before the
// handshake goes on computing. A client that has hung up in the meantime is not worth that;
// one that sends more than a read takes, as no device does, is found out later.
func (s *socket) Read(p []byte) (int, error) {
	if s.gate == nil {
		return s.Conn.Read(p)
	}
	s.leaveGate()
	n, err := s.Conn.Read(p)
	if err != nil {
		return n, err
	}
	late, ok := s.gate.enter(s.expires, s.begun)
	if !ok {
		return 0, os.ErrDeadlineExceeded
	}
	s.inGate = true
	if late && hungUp(s.base) {
		return 0, io.ErrUnexpectedEOF
	}
	return n, nil
}

func (s *socket) leaveGate() {
	if s.inGate {
		s.inGate = false
		s.gate.leave()
	}
}

// Close closes without a word and at once, whatever is queued.
func (s *socket) Close() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.err == nil {
		s.err = net.ErrClosed
	}
	return s.base.Close()
}

// closeWrite says that nothing more follows: close-notify where the socket itself is TLS, then FIN.
func (s *socket) closeWrite() {
	if t, ok := s.Conn.(*tls.Conn); ok {
		_ = t.CloseWrite()
	}
	if t, ok := s.base.(*net.TCPConn); ok {
		_ = t.CloseWrite()
	}
}

// SetDeadline sets the read side only; writes never wait, and the stall limit is the drainer's.
func (s *socket) SetDeadline(t time.Time) error { return s.Conn.SetReadDeadline(t) }

// SetWriteDeadline does nothing; tls.Conn and the WebSocket library call it before writes that cannot block.
func (s *socket) SetWriteDeadline(time.Time) error { return nil }
