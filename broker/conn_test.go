package broker_test

import (
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"testing"
	"time"

	"github.com/mochi-mqtt/server/v2/packets"
	"github.com/opticworks/devicecloud/broker"
)

func TestConn(t *testing.T) {
	conns := make(chan *broker.Conn, 1)
	var early []byte // what a hook sends before the CONNACK
	h := start(t, func(s *setup) {
		s.guard.onConnect = func(c *broker.Conn, _ packets.Packet) error {
			if c.ConnackSent() || c.Answered() || c.Attachment() != nil {
				t.Error("knows an answer before there is one")
			}
			for range 2 {
				if _, err := c.Write(early); err != nil {
					t.Error(err)
				}
			}
			conns <- c
			return nil
		}
	})
	for _, ver := range []byte{4, 5} {
		t.Run(fmt.Sprintf("knows its session, v%d", ver), func(t *testing.T) {
			client := h.client(t, ver).open("device")
			c := <-conns
			if c.ProtocolVersion() != ver || !c.ConnackSent() || c.Answered() || c.TLS() || c.WebSocket() || c.PeerCertificates() != nil ||
				c.RemoteAddr().String() != client.LocalAddr().String() || c.LocalAddr().String() != h.PlainAddr().String() || time.Since(c.LastRead()) > patience {
				t.Error("wrong")
			}
			s, ok := c.Attachment().(*session)
			if conn, mine := broker.ConnOf(s.cl); !ok || !mine || conn != c {
				t.Error("attachment is lost")
			}
			c.Attach("something of another type")
			if c.Attachment() != "something of another type" {
				t.Error(c.Attachment())
			}
			c.Attach(s)
			if _, ours := broker.ConnOf(h.Server().NewClient(nil, "other", "x", true)); ours {
				t.Error("a client without a connection has one")
			}
		})
	}
	t.Run("says nothing after its last word", func(t *testing.T) {
		client := h.client(t, 5).open("device")
		c := <-conns
		_, _ = c.Write(raw(0xe0, 2, 0x98, 0))
		if !c.Answered() {
			t.Error("not answered")
		}
		_, _ = c.Write(ping())
		_ = c.Close()
		_ = c.Close()
		if got := client.rest(); got != "e0029800" {
			t.Error(got)
		}
		if err := h.guard.lastEnd(); !errors.Is(err, net.ErrClosed) {
			t.Error(err)
		}
	})
	t.Run("sends what is queued before it closes", func(t *testing.T) {
		client := h.client(t, 4).open("device")
		c := <-conns
		big := packet(0x30, str("t"), make([]byte, 12<<20)) // more than the kernel takes at once
		if _, err := c.Write(big); err != nil {
			t.Fatal(err)
		}
		_ = c.Close()
		if n, err := io.Copy(io.Discard, client.r); int(n) != len(big) || err != nil {
			t.Errorf("%d of %d bytes came: %v", n, len(big), err)
		}
	})
	t.Run("sends nothing before the CONNACK", func(t *testing.T) {
		client := h.client(t, 5)
		early = packet(0x30, str("early"), raw(0))
		client.open("device")
		client.want(3)
		client.want(3)
		early = nil
		<-conns
	})
	t.Run("is not closed early by a deadline, and not much later", func(t *testing.T) {
		client := h.client(t, 4).open("device")
		c := <-conns
		var begun time.Time
		for range 5 {
			begun = time.Now()
			_ = c.SetDeadline(begun.Add(300 * time.Millisecond))
			<-time.After(100 * time.Millisecond)
		}
		_ = client.rest()
		if took := time.Since(begun); took < 300*time.Millisecond || took > 3*time.Second {
			t.Errorf("closed after %v", took)
		}
		if err := h.guard.lastEnd(); !errors.Is(err, os.ErrDeadlineExceeded) {
			t.Error(err)
		}
	})
}

func TestHangingCleanUp(t *testing.T) {
	release := make(chan struct{})
	h := start(t, func(s *setup) { s.guard.onClosed = func(*broker.Conn, error) { <-release } })
	c := h.client(t, 4).open("device")
	begun := time.Now()
	c.say(raw(0x82, 0))
	if got := c.rest(); got != "" {
		t.Error(got)
	}
	if took := time.Since(begun); took < 500*time.Millisecond || took > 5*time.Second {
		t.Errorf("the socket was closed after %v", took)
	}
	close(release)
}

func TestCloseReason(t *testing.T) {
	for _, c := range []struct {
		err  error
		code byte
		kind string
	}{
		{nil, 0, broker.ClientDisconnect},
		{packets.CodeDisconnectWillMessage, 0, broker.ClientDisconnect},
		{io.EOF, 0, broker.NetworkError},
		{fmt.Errorf("x: %w", io.ErrUnexpectedEOF), 0, broker.NetworkError},
		{net.ErrClosed, 0, broker.NetworkError},
		{broker.ErrSlowReader, 0, broker.NetworkError},
		{fmt.Errorf("%w: %w", broker.ErrHandshake, os.ErrDeadlineExceeded), 0, broker.NetworkError},
		{fmt.Errorf("read connection: %w", os.ErrDeadlineExceeded), 0x8d, broker.KeepaliveTimeout},
		{fmt.Errorf("read connection: %w", &broker.GuardError{Code: 0x95}), 0x95, broker.ProtocolError},
		{fmt.Errorf("x: %w", packets.ErrMalformedTopic), 0x81, broker.ProtocolError},
		{packets.ErrTopicAliasInvalid, 0x94, broker.ProtocolError},
		{packets.ErrRejectPacket, 0, broker.ProtocolError},
		{broker.ErrPanic, 0x80, broker.ProtocolError},
	} {
		if code, kind := broker.CloseReason(c.err); code != c.code || kind != c.kind {
			t.Errorf("%v: 0x%02x %s, want 0x%02x %s", c.err, code, kind, c.code, c.kind)
		}
	}
}

func TestV3Code(t *testing.T) {
	for code, want := range map[byte]byte{0: 0, 0x84: 1, 0x85: 2, 0x88: 3, 0x89: 3, 0x86: 4, 0x87: 5, 0x8a: 5, 0x97: 5} {
		if got := broker.V3Code(code); got != want {
			t.Errorf("0x%02x: %d, want %d", code, got, want)
		}
	}
}
