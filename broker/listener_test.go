package broker_test

import (
	"bufio"
	"crypto/tls"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/opticworks/devicecloud/broker"
)

// stubborn is a listener whose first accepts fail, and whose connections may claim to come from elsewhere.
type stubborn struct {
	net.Listener
	fail atomic.Int64
	from func() net.Addr
}

func (s *stubborn) Accept() (net.Conn, error) {
	if s.fail.Add(-1) >= 0 {
		return nil, &net.OpError{Op: "accept", Net: "tcp", Err: os.NewSyscallError("accept4", syscall.EMFILE)}
	}
	nc, err := s.Listener.Accept()
	if err != nil || s.from == nil {
		return nc, err
	}
	return &elsewhere{nc.(*net.TCPConn), s.from()}, nil
}

type elsewhere struct {
	*net.TCPConn
	addr net.Addr
}

func (e *elsewhere) RemoteAddr() net.Addr { return e.addr }

func listen(t testing.TB) net.Listener {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	return ln
}

func nowhere(s *setup) { s.TLSAddr, s.PlainAddr = "", "" }

func TestAcceptErrors(t *testing.T) {
	log := &journal{}
	h := start(t, nowhere, func(s *setup) { s.Logger = log.logger() })
	ln := &stubborn{Listener: listen(t)}
	ln.fail.Store(6)
	h.Accept(ln)
	h.client(t, 4).open("after the storm").alive()
	if n := strings.Count(log.String(), "accept failed"); n != 1 || !strings.Contains(log.String(), "too many open files") {
		t.Errorf("%d lines: %s", n, log)
	}
}

// The child process runs out of descriptors for real.
func TestDescriptorExhaustion(t *testing.T) {
	const env = "BROKER_TEST_FEW_DESCRIPTORS"
	if os.Getenv(env) != "" {
		few := syscall.Rlimit{Cur: 64, Max: 64}
		if err := syscall.Setrlimit(syscall.RLIMIT_NOFILE, &few); err != nil {
			t.Fatal(err)
		}
		h := start(t)
		fmt.Println("listening", h.PlainAddr())
		_, _ = bufio.NewReader(os.Stdin).ReadString('\n')
		return
	}
	child := exec.Command(os.Args[0], "-test.run=^TestDescriptorExhaustion$")
	child.Env = append(os.Environ(), env+"=1")
	in, err := child.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	out, err := child.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	child.Stderr = os.Stderr
	if err := child.Start(); err != nil {
		t.Fatal(err)
	}
	defer func() {
		_ = in.Close()
		if err := child.Wait(); err != nil {
			t.Errorf("child: %v", err)
		}
	}()
	line, err := bufio.NewReader(out).ReadString('\n')
	if err != nil {
		t.Fatal(err)
	}
	addr, err := net.ResolveTCPAddr("tcp", strings.TrimPrefix(strings.TrimSpace(line), "listening "))
	if err != nil {
		t.Fatal(err)
	}
	var held []net.Conn
	for range 150 {
		nc, err := net.Dial("tcp", addr.String())
		if err != nil {
			t.Fatal(err)
		}
		held = append(held, nc)
	}
	for _, nc := range held {
		_ = nc.Close()
	}
	begun := time.Now()
	dial(t, addr, 4).open("after the storm").alive()
	if took := time.Since(begun); took > 5*time.Second {
		t.Errorf("recovered after %v", took)
	}
}

// refusedAtOnce dials and reports whether the connection is closed without a word.
func refusedAtOnce(t testing.TB, addr net.Addr) bool {
	t.Helper()
	nc, err := net.Dial("tcp", addr.String())
	if err != nil {
		t.Fatal(err)
	}
	defer nc.Close()
	_ = nc.SetReadDeadline(time.Now().Add(300 * time.Millisecond))
	_, err = nc.Read(make([]byte, 1))
	return !os.IsTimeout(err)
}

func TestAdmission(t *testing.T) {
	t.Run("bounds all connections together and gives places back", func(t *testing.T) {
		h := start(t, func(s *setup) { s.Limits.MaxConnections = 3 })
		a, _, _ := h.client(t, 4).open("a"), h.client(t, 5).open("b"), h.secure(t, 4).open("c")
		if !refusedAtOnce(t, h.PlainAddr()) || !refusedAtOnce(t, h.TLSAddr()) {
			t.Error("a fourth connection was let in")
		}
		a.say(raw(0xe0, 0))
		_ = a.rest()
		until(t, "the place is free", func() bool { return h.Open() == 2 })
		h.client(t, 4).open("d").alive()
	})
	t.Run("bounds the connections of one address, and of one IPv6 network", func(t *testing.T) {
		for name, addrs := range map[string][2]string{
			"v4": {"192.0.2.7:1", "192.0.2.8:1"}, "mapped v4": {"[::ffff:192.0.2.7]:1", "192.0.2.8:1"}, "v6": {"[2001:db8::1]:1", "[2001:db8:0:1::1]:1"},
		} {
			var from atomic.Pointer[net.TCPAddr]
			claim := func(s string) {
				addr, err := net.ResolveTCPAddr("tcp", s)
				if err != nil {
					t.Fatal(err)
				}
				from.Store(addr)
			}
			h := start(t, nowhere, func(s *setup) { s.Limits.MaxConnectionsPerAddress = 2 })
			h.Accept(&stubborn{Listener: listen(t), from: func() net.Addr { return from.Load() }})
			claim(addrs[0])
			h.client(t, 4).open("a")
			h.client(t, 4).open("b")
			if !refusedAtOnce(t, h.PlainAddr()) {
				t.Errorf("%s: a third connection of one address was let in", name)
			}
			claim(addrs[1])
			h.client(t, 4).open("c").alive()
		}
	})
	t.Run("does not bound loopback by address", func(t *testing.T) {
		h := start(t, func(s *setup) { s.Limits.MaxConnectionsPerAddress = 1 })
		h.client(t, 4).open("a")
		h.client(t, 4).open("b").alive()
	})
	t.Run("lets connections above the rate wait", func(t *testing.T) {
		h := start(t, func(s *setup) { s.Limits.AcceptRate, s.Limits.AcceptBurst = 20, 5 })
		begun := time.Now()
		var all sync.WaitGroup
		for i := range 15 {
			all.Go(func() { h.client(t, 4).open(fmt.Sprint("device", i)) })
		}
		all.Wait()
		if took := time.Since(begun); took < 450*time.Millisecond || took > 5*time.Second {
			t.Errorf("15 connections at 20/s after a burst of 5 took %v", took)
		}
	})
}

func TestKeepAlive(t *testing.T) {
	h := start(t)
	begun := time.Now()
	for ver, want := range map[byte]string{4: "", 5: "e0028d00"} {
		c := h.client(t, ver)
		var props []byte
		if ver == 5 {
			props = raw(0)
		}
		c.say(packet(0x10, str("MQTT"), raw(ver, 2, 0, 1), props, str(fmt.Sprint("device", ver))))
		c.want(2)
		if got := c.rest(); got != want {
			t.Errorf("v%d: got %s, want %s", ver, got, want)
		}
		if took := time.Since(begun); took < time.Second {
			t.Errorf("closed after %v, before 1.5 times the keep-alive of 1 s rounded down", took)
		}
		until(t, "the clean-up ran", func() bool { return h.Open() == 0 })
		if code, kind := broker.CloseReason(h.guard.lastEnd()); code != 0x8d || kind != broker.KeepaliveTimeout {
			t.Errorf("0x%02x %s", code, kind)
		}
		begun = time.Now()
	}
}

// firstFlight is the ClientHello of a client, as bytes.
func firstFlight(t testing.TB, curves ...tls.CurveID) []byte {
	t.Helper()
	near, far := net.Pipe()
	defer near.Close()
	defer far.Close()
	go func() {
		_ = tls.Client(far, &tls.Config{InsecureSkipVerify: true, CurvePreferences: curves}).Handshake()
	}()
	head := make([]byte, 5)
	if _, err := io.ReadFull(near, head); err != nil {
		t.Fatal(err)
	}
	body := make([]byte, int(head[3])<<8|int(head[4]))
	if _, err := io.ReadFull(near, body); err != nil {
		t.Fatal(err)
	}
	return append(head, body...)
}

func TestUnfinishedHandshakesHoldNobodyUp(t *testing.T) {
	h := start(t, func(s *setup) { s.Limits.MaxHandshakes = 1 })
	hello := firstFlight(t)
	for i := range 40 {
		c := dial(t, h.TLSAddr(), 4)
		c.say(hello[:len(hello)-i%2*20]) // every other one is even cut short
	}
	until(t, "all are in", func() bool { return h.Open() == 40 })
	begun := time.Now()
	for i := range 5 {
		h.secure(t, 5).open(fmt.Sprint("device", i)).alive()
	}
	if took := time.Since(begun); took > 2*time.Second {
		t.Errorf("5 handshakes took %v", took)
	}
}
