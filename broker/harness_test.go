package broker_test

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	mqtt "github.com/mochi-mqtt/server/v2"
	"github.com/mochi-mqtt/server/v2/packets"
	"github.com/opticworks/devicecloud/broker"
	"go.uber.org/goleak"
)

func TestMain(m *testing.M) {
	goleak.VerifyTestMain(m, goleak.Cleanup(func(code int) {
		if testCA.cert != "" {
			_ = os.RemoveAll(filepath.Dir(testCA.cert))
		}
		os.Exit(code)
	}))
}

// guard is a guard hook that lets everybody in and everything through.
type guard struct {
	mqtt.HookBase
	srv       *mqtt.Server
	onConnect func(*broker.Conn, packets.Packet) error
	onClosed  func(*broker.Conn, error)
	lockIDs   bool // one session of an id at a time connects or ends, as the real guard hook does

	locks  sync.Map // id -> chan struct{} of one place
	closed atomic.Int64
	mu     sync.Mutex
	ends   []error
}

type session struct {
	cl    *mqtt.Client
	holds bool // the id's lock; used by its own goroutine only
}

func (g *guard) enter(s *session) {
	if g.lockIDs && !s.holds {
		lock, _ := g.locks.LoadOrStore(s.cl.ID, make(chan struct{}, 1))
		lock.(chan struct{}) <- struct{}{}
		s.holds = true
	}
}

func (g *guard) leave(s *session) {
	if s.holds {
		s.holds = false
		lock, _ := g.locks.Load(s.cl.ID)
		<-lock.(chan struct{})
	}
}

func (*guard) ID() string { return "guard" }

func (*guard) Provides(b byte) bool {
	switch b {
	case mqtt.OnConnect, mqtt.OnConnectAuthenticate, mqtt.OnACLCheck, mqtt.OnPacketRead, mqtt.OnSessionEstablished, mqtt.OnDisconnect:
		return true
	}
	return false
}

func (g *guard) OnConnect(cl *mqtt.Client, pk packets.Packet) error {
	c, ok := broker.ConnOf(cl)
	if !ok {
		return packets.ErrNotAuthorized
	}
	if g.onConnect != nil {
		if err := g.onConnect(c, pk); err != nil {
			return err
		}
	}
	s := &session{cl: cl}
	c.Attach(s)
	g.enter(s)
	c.Authenticated()
	return nil
}

func (g *guard) OnSessionEstablished(cl *mqtt.Client, _ packets.Packet) {
	c, _ := broker.ConnOf(cl)
	g.leave(c.Attachment().(*session))
}

func (g *guard) OnDisconnect(cl *mqtt.Client, _ error, _ bool) {
	c, _ := broker.ConnOf(cl)
	if s, ok := c.Attachment().(*session); ok {
		g.enter(s)
	}
}

func (*guard) OnConnectAuthenticate(*mqtt.Client, packets.Packet) bool { return true }
func (*guard) OnACLCheck(*mqtt.Client, string, bool) bool              { return true }

func (*guard) OnPacketRead(_ *mqtt.Client, pk packets.Packet) (packets.Packet, error) {
	if pk.FixedHeader.Type == packets.Connect {
		pk.Properties.ReceiveMaximum = 0
	}
	return pk, nil
}

func (g *guard) ConnClosed(c *broker.Conn, err error) {
	if s, ok := c.Attachment().(*session); ok {
		g.enter(s)
		defer g.leave(s)
		if cur, ok := g.srv.Clients.Get(s.cl.ID); ok && cur == s.cl {
			s.cl.ClearInflights()
			g.srv.UnsubscribeClient(s.cl)
			g.srv.Clients.Delete(s.cl.ID)
		}
	}
	if g.onClosed != nil {
		g.onClosed(c, err)
	}
	g.mu.Lock()
	g.ends = append(g.ends, err)
	g.mu.Unlock()
	g.closed.Add(1)
}

func (g *guard) Drain(c *broker.Conn) {
	if s, ok := c.Attachment().(*session); ok && c.ConnackSent() {
		_ = s.cl.WritePacket(packets.Packet{
			FixedHeader: packets.FixedHeader{Type: packets.Disconnect},
			ReasonCode:  packets.ErrServerShuttingDown.Code,
		})
	}
	_ = c.Close()
}

// lastEnd is the error with which the last connection ended.
func (g *guard) lastEnd() error {
	g.mu.Lock()
	defer g.mu.Unlock()
	if len(g.ends) == 0 {
		return nil
	}
	return g.ends[len(g.ends)-1]
}

// house is a running broker.
type house struct {
	*broker.Broker
	guard *guard
	roots *x509.CertPool
}

// setup is what a test may change before the broker starts.
type setup struct {
	broker.Options
	guard *guard
	hooks []mqtt.Hook // besides the guard
}

// start runs a broker with a TLS and a plain listener on free ports and ends it with the test.
func start(t testing.TB, change ...func(*setup)) *house {
	t.Helper()
	s := &setup{guard: &guard{}, Options: broker.Options{TLSAddr: "127.0.0.1:0", PlainAddr: "127.0.0.1:0"}}
	h := &house{guard: s.guard}
	s.TLS, h.roots = serverTLS(t)
	s.Limits = broker.Limits{AcceptRate: -1, DrainRate: -1}
	for _, f := range change {
		f(s)
	}
	b, err := broker.New(s.Options)
	if err != nil {
		t.Fatal(err)
	}
	h.Broker = b
	h.guard.srv = b.Server()
	if err := b.Use(append([]mqtt.Hook{h.guard}, s.hooks...)...); err != nil {
		t.Fatal(err)
	}
	if err := b.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { h.stop(t) })
	return h
}

// stop shuts down and checks that nothing is left.
func (h *house) stop(t testing.TB) {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	if err := h.Shutdown(ctx); err != nil {
		t.Errorf("Shutdown: %v", err)
	}
	if n := h.Server().Clients.Len(); n != 1 { // the inline client stays
		t.Errorf("%d clients left", n-1)
	}
	if n := h.Open(); n != 0 {
		t.Errorf("%d connections left", n)
	}
}

var testCA struct { // one development CA for all tests: making keys costs time
	once          sync.Once
	cert, key, ca string
	err           error
}

func serverTLS(t testing.TB) (*tls.Config, *x509.CertPool) {
	t.Helper()
	testCA.once.Do(func() {
		dir, err := os.MkdirTemp("", "broker-ca")
		if err != nil {
			testCA.err = err
			return
		}
		testCA.cert, testCA.key, testCA.ca, testCA.err = broker.DevCA(dir)
	})
	if testCA.err != nil {
		t.Fatal(testCA.err)
	}
	config, err := broker.NewTLSConfig(testCA.cert, testCA.key, "", nil)
	if err != nil {
		t.Fatal(err)
	}
	return config, pool(t, testCA.ca)
}

func pool(t testing.TB, caFile string) *x509.CertPool {
	t.Helper()
	pem, err := os.ReadFile(caFile)
	if err != nil {
		t.Fatal(err)
	}
	p := x509.NewCertPool()
	p.AppendCertsFromPEM(pem)
	return p
}

func (h *house) client(t testing.TB, ver byte) *client {
	t.Helper()
	return dial(t, h.PlainAddr(), ver)
}

func (h *house) secure(t testing.TB, ver byte) *client {
	t.Helper()
	return dialTLS(t, h.TLSAddr(), &tls.Config{RootCAs: h.roots, ServerName: "localhost"}, ver)
}

// until waits for a condition.
func until(t testing.TB, what string, ok func() bool) {
	t.Helper()
	tick := time.NewTicker(2 * time.Millisecond)
	defer tick.Stop()
	for end := time.Now().Add(patience); !ok(); <-tick.C {
		if time.Now().After(end) {
			t.Fatalf("waited in vain until %s", what)
		}
	}
}

// journal collects log lines.
type journal struct {
	mu   sync.Mutex
	text strings.Builder
}

func (j *journal) Write(p []byte) (int, error) {
	j.mu.Lock()
	defer j.mu.Unlock()
	return j.text.Write(p)
}

func (j *journal) String() string {
	j.mu.Lock()
	defer j.mu.Unlock()
	return j.text.String()
}

// logger writes everything, debugging included, into the journal.
func (j *journal) logger() *slog.Logger {
	return slog.New(slog.NewTextHandler(j, &slog.HandlerOptions{Level: slog.LevelDebug}))
}
