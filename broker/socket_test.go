package broker_test

import (
	"bytes"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/opticworks/devicecloud/broker"
)

// pipe is a TCP connection.
func pipe(t testing.TB) (near, far *net.TCPConn) {
	t.Helper()
	ln := listen(t)
	defer ln.Close()
	nc, err := net.Dial("tcp", ln.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	far = nc.(*net.TCPConn)
	nc, err = ln.Accept()
	if err != nil {
		t.Fatal(err)
	}
	near = nc.(*net.TCPConn)
	t.Cleanup(func() { _ = near.Close(); _ = far.Close() })
	return near, far
}

func TestSocket(t *testing.T) {
	t.Run("delivers everything in order although the reader is slow", func(t *testing.T) {
		near, far := pipe(t)
		s, _ := broker.Socket(near, 8<<20, time.Minute)
		var want bytes.Buffer
		for i := range 20_000 {
			line := []byte(fmt.Sprintf("line %d\n", i))
			want.Write(line)
			if n, err := s.Write(line); n != len(line) || err != nil {
				t.Fatal(n, err)
			}
		}
		got := make([]byte, want.Len())
		if _, err := io.ReadFull(far, got); err != nil || !bytes.Equal(got, want.Bytes()) {
			t.Errorf("%v, or bytes differ", err)
		}
	})
	t.Run("never blocks and closes when the queue is full", func(t *testing.T) {
		near, far := pipe(t)
		s, failure := broker.Socket(near, 64<<10, time.Minute)
		begun, sent := time.Now(), 0
		var err error
		for err == nil && sent < 64<<20 {
			var n int
			n, err = s.Write(make([]byte, 10_000))
			sent += n
		}
		if !errors.Is(err, broker.ErrSlowReader) || !errors.Is(failure(), broker.ErrSlowReader) {
			t.Fatalf("%v after %d bytes", err, sent)
		}
		if took := time.Since(begun); took > 2*time.Second {
			t.Errorf("took %v", took)
		}
		_, _ = io.Copy(io.Discard, far)
	})
	t.Run("closes a reader that stalls, not one that is slow", func(t *testing.T) {
		near, far := pipe(t)
		s, failure := broker.Socket(near, 64<<20, time.Second)
		if _, err := s.Write(make([]byte, 48<<20)); err != nil {
			t.Fatal(err)
		}
		end := time.Now().Add(2 * time.Second)
		for buf := make([]byte, 64<<10); time.Now().Before(end); {
			if _, err := far.Read(buf); err != nil {
				t.Fatalf("closed although it reads: %v, %v", err, failure())
			}
			<-time.After(20 * time.Millisecond)
		}
		if err := failure(); err != nil {
			t.Fatal(err)
		}
		until(t, "it is closed", func() bool { return errors.Is(failure(), broker.ErrSlowReader) })
	})
	t.Run("says why it cannot write any more", func(t *testing.T) {
		near, _ := pipe(t)
		s, _ := broker.Socket(near, 1, time.Minute)
		_ = s.Close()
		if _, err := s.Write([]byte("x")); !errors.Is(err, net.ErrClosed) {
			t.Error(err)
		}
	})
}

// One subscriber that stops reading must not hold up the publishers that match it.
func TestStalledReader(t *testing.T) {
	for _, how := range []string{"plain", "tls", "websocket", "websocket over tls"} {
		t.Run("over "+how+" blocks no publisher and is closed", func(t *testing.T) {
			var mu sync.Mutex
			var ends []error
			h := start(t, func(s *setup) {
				s.guard.onClosed = func(c *broker.Conn, err error) {
					if s, ok := c.Attachment().(*session); ok && s.cl.ID == "stalled" {
						mu.Lock()
						defer mu.Unlock()
						ends = append(ends, err)
					}
				}
			})
			var c *client
			switch how {
			case "plain":
				c = h.client(t, 5)
			case "tls":
				c = h.secure(t, 5)
			case "websocket":
				c = webSocketClient(t, h, false, 5)
			default:
				c = webSocketClient(t, h, true, 5)
			}
			if tc, ok := c.Conn.(*tls.Conn); ok {
				_ = tc.NetConn().(*net.TCPConn).SetReadBuffer(4096)
			}
			c.open("stalled")
			c.say(c.subscribe("load", 1, 1))
			c.want(9)
			payload := strings.Repeat("x", 60_000)
			var worst time.Duration
			var all sync.WaitGroup
			for i := range 4 {
				all.Go(func() {
					p := h.client(t, 4).open(fmt.Sprint("publisher", i))
					for n := range 60 {
						begun := time.Now()
						p.say(p.publish("load", payload, 1, uint16(n+1)))
						if _, _, err := p.next(); err != nil {
							t.Errorf("publisher: %v", err)
							return
						}
						mu.Lock()
						worst = max(worst, time.Since(begun))
						mu.Unlock()
					}
				})
			}
			all.Wait()
			until(t, "the stalled reader is closed", func() bool { mu.Lock(); defer mu.Unlock(); return len(ends) == 1 })
			if !errors.Is(ends[0], broker.ErrSlowReader) {
				t.Errorf("ended with %v", ends[0])
			}
			if worst > 2*time.Second {
				t.Errorf("a PUBACK took %v", worst)
			}
		})
	}
}

// A packet far larger than the queue reaches a healthy reader.
func TestBigPackets(t *testing.T) {
	h := start(t)
	for _, sub := range []*client{h.client(t, 4), h.secure(t, 5), webSocketClient(t, h, false, 5)} {
		sub.open("reader")
		sub.say(sub.subscribe("big", 0, 1))
		sub.want(9)
		p := h.client(t, 4).open("publisher")
		for range 5 {
			p.say(p.publish("big", strings.Repeat("x", 130_000), 1, 1))
			p.want(4)
			if body := sub.want(3); len(body) < 130_000 {
				t.Error(len(body))
			}
		}
		sub.say(raw(0xe0, 0))
		_ = sub.Close()
		until(t, "the reader is gone", func() bool { _, ok := h.Server().Clients.Get("reader"); return !ok })
	}
}
