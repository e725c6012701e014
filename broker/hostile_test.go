package broker_test

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	mqtt "github.com/mochi-mqtt/server/v2"
	"github.com/mochi-mqtt/server/v2/packets"
	"github.com/opticworks/devicecloud/broker"
)

// lastWord is what a client of this version hears when it is refused, in hex.
func lastWord(ver, code byte, session bool) string {
	switch {
	case session && ver == 5:
		return fmt.Sprintf("e002%02x00", code)
	case !session && ver == 5:
		return fmt.Sprintf("200300%02x00", code)
	case !session && (code == 0x84 || code == 0x85):
		return fmt.Sprintf("200200%02x", broker.V3Code(code))
	}
	return ""
}

func TestMalformedPacketsAreAnsweredAndHarmNobody(t *testing.T) {
	h := start(t)
	bystander := h.client(t, 4).open("bystander")
	for _, b := range badFirst() {
		t.Run(fmt.Sprintf("first/%s v%d", b.name, b.ver), func(t *testing.T) {
			c := h.client(t, b.ver)
			c.say(b.in)
			if got, want := c.rest(), lastWord(b.ver, b.code, false); got != want {
				t.Errorf("got %s, want %s", got, want)
			}
		})
	}
	later := badLater()
	decoded := func(name string, code byte, v4, v5 []byte) {
		later = append(later, bad{name + " (mochi)", 4, code, v4}, bad{name + " (mochi)", 5, code, v5})
	}
	decoded("PUBLISH whose topic is not UTF-8", 0x81, packet(0x30, str("\xff")), packet(0x30, str("\xff"), raw(0)))
	decoded("PUBLISH with U+0000 in its topic", 0x81, packet(0x30, str("a\x00")), packet(0x30, str("a\x00"), raw(0)))
	decoded("PUBLISH with half a topic", 0x81, packet(0x30, raw(0, 9, 'a')), packet(0x30, raw(0, 9, 'a')))
	for _, b := range later {
		t.Run(fmt.Sprintf("later/%s v%d", b.name, b.ver), func(t *testing.T) {
			c := h.client(t, b.ver).open("device")
			c.say(b.in)
			if got, want := c.rest(), lastWord(b.ver, b.code, true); got != want {
				t.Errorf("got %s, want %s", got, want)
			}
			until(t, "the session is cleaned up", func() bool { _, ok := h.Server().Clients.Get("device"); return !ok })
			if code, kind := broker.CloseReason(h.guard.lastEnd()); code != b.code || kind != broker.ProtocolError {
				t.Errorf("reason 0x%02x %s", code, kind)
			}
		})
	}
	bystander.alive()
}

// Every kind of packet, cut at every byte, followed by the end of the connection.
func TestCutPacketsHarmNobody(t *testing.T) {
	h := start(t)
	bystander := h.client(t, 4).open("bystander")
	cut := func(t *testing.T, hello, p []byte) {
		for n := range p {
			nc, err := net.Dial("tcp", h.PlainAddr().String())
			if err != nil {
				t.Fatal(err)
			}
			_, _ = nc.Write(append(bytes.Clone(hello), p[:n]...))
			_ = nc.Close()
		}
	}
	for _, ver := range []byte{4, 5} {
		t.Run(fmt.Sprintf("version %d", ver), func(t *testing.T) {
			cut(t, nil, connect(ver, "device"))
			for _, p := range good(ver) {
				if len(p) < 200 {
					cut(t, connect(ver, "device"), p)
				}
			}
		})
	}
	until(t, "all are gone", func() bool { return h.Open() == 1 })
	bystander.alive()
}

func TestSilentAndSlowClients(t *testing.T) {
	if testing.Short() {
		t.Skip("takes the whole CONNECT timeout")
	}
	const silent = 3000
	h := start(t)
	conns := make([]net.Conn, 0, silent+2)
	defer func() {
		for _, nc := range conns {
			_ = nc.Close()
		}
	}()
	for i := range silent + 2 {
		addr := h.PlainAddr()
		if i%2 == 0 {
			addr = h.TLSAddr()
		}
		nc, err := net.Dial("tcp", addr.String())
		if err != nil {
			t.Fatal(err)
		}
		conns = append(conns, nc)
	}
	begun := time.Now()
	hello := connect(4, "slow") // one byte comes now and then, which wins no time
	ended := make(chan struct{})
	var slow sync.WaitGroup
	slow.Go(func() {
		tick := time.NewTicker(500 * time.Millisecond)
		defer tick.Stop()
		for _, b := range hello {
			select {
			case <-tick.C:
				_, _ = conns[1].Write([]byte{b})
			case <-ended:
				return
			}
		}
	})
	h.secure(t, 5).open("healthy").alive()
	if took := time.Since(begun); took > 3*time.Second {
		t.Errorf("a healthy client waited %v behind silent ones", took)
	}
	for _, nc := range conns {
		_ = nc.SetReadDeadline(begun.Add(6 * time.Second))
		if n, err := nc.Read(make([]byte, 1)); n != 0 || os.IsTimeout(err) {
			t.Fatalf("not closed within 6 s: %d %v", n, err)
		}
	}
	close(ended)
	slow.Wait()
}

func TestAnnouncedLengthsCostNoMemory(t *testing.T) {
	h := start(t)
	c := h.client(t, 4).open("warm")
	c.alive()
	before := rss(t)
	for kind := range byte(16) {
		for range 20 {
			c := h.client(t, 4)
			c.say(raw(kind<<4|2, 0xff, 0xff, 0xff, 0x7f), make([]byte, 1000))
			_, _ = io.Copy(io.Discard, c)
			_ = c.Close()
		}
	}
	for i := range 20 {
		c := h.client(t, 5).open(fmt.Sprint("device", i))
		c.say(raw(0x82, 0xff, 0xff, 0xff, 0x7f))
		c.want(14)
	}
	if grown := rss(t) - before; grown > 16<<20 {
		t.Errorf("256 MiB announcements grew RSS by %d KiB", grown>>10)
	}
}

// rss is the resident memory of this process in bytes, 0 where it cannot be told.
func rss(t testing.TB) int {
	t.Helper()
	status, err := os.ReadFile("/proc/self/status")
	if err != nil {
		t.Skip("no /proc")
	}
	_, after, _ := strings.Cut(string(status), "VmRSS:")
	kib, err := strconv.Atoi(strings.Fields(after)[0])
	if err != nil {
		t.Fatal(err)
	}
	return kib << 10
}

// refusing writes the CONNACK itself, as the guard hook does, and returns a code all the same.
func TestRefusedConnects(t *testing.T) {
	h := start(t, func(s *setup) {
		s.guard.onConnect = func(c *broker.Conn, _ packets.Packet) error {
			if c.ProtocolVersion() == 5 {
				_, _ = c.Write(raw(0x20, 3, 0, 0x86, 0))
			} else {
				_, _ = c.Write(raw(0x20, 2, 0, 0x86))
			}
			return packets.ErrBadUsernameOrPassword
		}
	})
	for ver, want := range map[byte]string{4: "20020004", 5: "2003008600"} {
		t.Run(fmt.Sprintf("hear one answer, whole, although they sent more, v%d", ver), func(t *testing.T) {
			c := h.client(t, ver)
			c.say(connect(ver, "x"), bytes.Repeat(ping(), 10_000)) // unread input would reset the connection
			if got := c.rest(); got != want {
				t.Errorf("got %s, want %s", got, want)
			}
		})
	}
}

// bomb panics inside mochi's own code path.
type bomb struct {
	mqtt.HookBase
	at byte
}

func (*bomb) ID() string                               { return "bomb" }
func (b *bomb) Provides(e byte) bool                   { return e == b.at }
func (*bomb) OnPublished(*mqtt.Client, packets.Packet) { panic("canary-secret") }
func (*bomb) OnSessionEstablished(cl *mqtt.Client, _ packets.Packet) {
	if cl.ID == "victim" {
		panic("canary-secret")
	}
}

func TestPanics(t *testing.T) {
	for name, at := range map[string]byte{"publishing": mqtt.OnPublished, "connecting": mqtt.OnSessionEstablished} {
		t.Run("while "+name+" end one connection, cleaned up and without its secrets in the log", func(t *testing.T) {
			log := &journal{}
			h := start(t, func(s *setup) {
				s.hooks = []mqtt.Hook{&bomb{at: at}}
				s.Logger = log.logger()
			})
			bystander := h.client(t, 4).open("bystander")
			c := h.client(t, 5)
			c.say(connect(5, "victim"), c.subscribe("a", 0, 1), c.publish("a", "x", 0, 0))
			if got := c.rest(); !strings.HasSuffix(got, "e0028000") {
				t.Errorf("got %s", got)
			}
			until(t, "the clean-up ran", func() bool { return h.guard.closed.Load() == 1 })
			if err := h.guard.lastEnd(); !errors.Is(err, broker.ErrPanic) {
				t.Error(err)
			}
			if n := len(h.Server().Topics.Subscribers("a").Subscriptions); n != 0 {
				t.Errorf("%d subscriptions left", n)
			}
			if text := log.String(); strings.Contains(text, "canary") || !strings.Contains(text, "panic while serving") {
				t.Errorf("log: %s", text)
			}
			bystander.alive()
		})
	}
	t.Run("in the clean-up do not keep the connection", func(t *testing.T) {
		var once atomic.Bool
		h := start(t, func(s *setup) {
			s.guard.onClosed = func(*broker.Conn, error) {
				if once.CompareAndSwap(false, true) {
					panic("clean-up")
				}
			}
		})
		c := h.client(t, 4).open("one")
		c.say(raw(0xe0, 0))
		_ = c.rest()
		until(t, "the connection is gone all the same", func() bool { return h.Open() == 0 })
		h.client(t, 4).open("two").alive()
	})
}
