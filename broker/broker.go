package broker

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"sync"
	"time"

	"github.com/gorilla/websocket"
	mqtt "github.com/mochi-mqtt/server/v2"
	"github.com/prometheus/client_golang/prometheus"
	"golang.org/x/time/rate"
)

// Sentinel errors of misuse.
var (
	// ErrGuard: Start needs exactly one hook that implements Lifecycle.
	ErrGuard = errors.New("broker: exactly one guard hook has to be installed")
	// ErrStarted: hooks come before Start, and Start comes once.
	ErrStarted = errors.New("broker: already started")
	// ErrStuck: connections did not end although their sockets were closed.
	ErrStuck = errors.New("broker: connections did not end")
)

// Options are what New needs. The zero value serves WebSocket only.
type Options struct {
	TLSAddr   string      // where MQTT over TLS listens, "" for nowhere
	PlainAddr string      // where MQTT without TLS listens, "" for nowhere
	TLS       *tls.Config // from NewTLSConfig; needed with TLSAddr
	Limits    Limits
	Logger    *slog.Logger // nil: silence

	Registerer prometheus.Registerer // for the metrics mqtt_...; nil: they are not registered
}

// Lifecycle is implemented by the one guard hook.
type Lifecycle interface {
	// ConnClosed is called once for every connection, whether its CONNECT reached the hooks or not, on the
	// connection's own goroutine, after mochi returned or panicked (err says which, see CloseReason) and before the
	// socket is closed. It may block; the session's place is free only when it returns. If it panics the panic is
	// logged and counted, and the connection is closed all the same.
	ConnClosed(c *Conn, err error)
	// Drain asks the session on c to end because the node shuts down: DISCONNECT 0x8B to MQTT 5, then c.Close. It must
	// not block, and it may come for a connection whose CONNECT was not answered yet or that is just ending.
	Drain(c *Conn)
}

// Broker owns the mochi server, its listeners and every connection's goroutine.
type Broker struct {
	srv      *mqtt.Server
	opts     Options
	limits   Limits
	tls      *tls.Config
	log      *slog.Logger
	metrics  *metrics
	roster   *roster
	gate     *gate
	rate     *rate.Limiter
	upgrader websocket.Upgrader
	drain    context.Context // ends when Shutdown begins
	stop     context.CancelFunc

	mu         sync.Mutex
	state      state
	guards     []Lifecycle
	guard      Lifecycle // the only one; set by Start, before anything is accepted
	tlsLn      net.Listener
	plainLn    net.Listener
	accepting  sync.WaitGroup
	mochiEnded bool
}

type state uint8

const (
	fresh state = iota
	serving
	draining
)

// New makes a broker that does not listen yet. It fails when TLSAddr is given without TLS, and when the metrics cannot be
// registered.
func New(opts Options) (*Broker, error) {
	if opts.TLSAddr != "" && opts.TLS == nil {
		return nil, errors.New("broker: TLSAddr needs a TLS configuration")
	}
	log := opts.Logger
	if log == nil {
		log = slog.New(slog.DiscardHandler)
	}
	m, err := newMetrics(opts.Registerer)
	if err != nil {
		return nil, err
	}
	limits := opts.Limits.effective()
	b := &Broker{
		opts: opts, limits: limits, tls: unhinted(opts.TLS), log: log, metrics: m,
		roster:   newRoster(limits),
		gate:     newGate(limits.MaxHandshakes, limits.TLSHandshakeTimeout),
		srv:      mqtt.New(mochiOptions(log)),
		upgrader: newUpgrader(),
	}
	if limits.AcceptRate > 0 {
		b.rate = rate.NewLimiter(rate.Limit(limits.AcceptRate), max(1, limits.AcceptBurst))
	}
	b.drain, b.stop = context.WithCancel(context.Background())
	return b, nil
}

// mochiOptions are mochi's options; each departs from its default for a reason.
func mochiOptions(log *slog.Logger) *mqtt.Options {
	caps := mqtt.NewDefaultServerCapabilities()
	caps.MinimumProtocolVersion = 4                        // the wire guard lets nothing older through
	caps.MaximumClientWritesPending = 256                  // a pointer each for every client, used or not
	caps.MaximumInflight = 512                             // each holds a whole packet, also of an app that is away
	caps.ReceiveMaximum = 20                               // what a small client is told it may have in flight
	caps.TopicAliasMaximum = 0                             // ACLs would see the topic ""
	caps.Compatibilities.NoInheritedPropertiesOnAck = true // or acknowledgements repeat the publisher's properties
	return &mqtt.Options{
		Capabilities:             caps,
		InlineClient:             true,
		ClientNetReadBufferSize:  512,
		ClientNetWriteBufferSize: 1,   // so that every Write is one whole packet
		SysTopicResendInterval:   300, // seconds; each one stops the world for ReadMemStats
		Logger:                   slog.New(newRedactor(log.Handler())),
	}
}

// Server is the mochi server, for publishing and inline subscriptions. Only Broker starts and closes it.
func (b *Broker) Server() *mqtt.Server { return b.srv }

// Use adds hooks, in the order in which mochi will call them. Hooks that implement Lifecycle are told about
// connections. It fails with ErrStarted after Start, or when a hook refuses to be initialised.
//
// mochi gives each hook a logger that lets only harmless attributes pass; a hook that has more to say brings its own.
func (b *Broker) Use(hs ...mqtt.Hook) error {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.state != fresh {
		return ErrStarted
	}
	for _, h := range hs {
		if err := b.srv.AddHook(h, nil); err != nil {
			return fmt.Errorf("broker: hook %s: %w", h.ID(), err)
		}
		if g, ok := h.(Lifecycle); ok {
			b.guards = append(b.guards, g)
		}
	}
	return nil
}

// Start listens and serves; it returns when both listeners are open. It fails with ErrGuard unless exactly one hook
// implements Lifecycle, with ErrStarted when it was called before, and when an address cannot be listened on.
func (b *Broker) Start() error {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.state != fresh {
		return ErrStarted
	}
	if len(b.guards) != 1 {
		return fmt.Errorf("%w, not %d", ErrGuard, len(b.guards))
	}
	var err error
	if b.tlsLn, err = listen(b.opts.TLSAddr); err != nil {
		return err
	}
	if b.plainLn, err = listen(b.opts.PlainAddr); err != nil {
		b.closeListeners()
		return err
	}
	b.guard = b.guards[0]
	if err := b.srv.Serve(); err != nil { // mochi has no listeners of its own: this starts its event loop
		b.closeListeners()
		return fmt.Errorf("broker: %w", err)
	}
	b.state = serving
	b.startAccepting(b.tlsLn, overTLS)
	b.startAccepting(b.plainLn, overPlain)
	return nil
}

// listen opens a listener, nil for no address. TCP keep-alives are off: MQTT has its own, and on a cellular link every
// probe wakes a radio.
func listen(addr string) (net.Listener, error) {
	if addr == "" {
		return nil, nil
	}
	lc := net.ListenConfig{KeepAlive: -1}
	ln, err := lc.Listen(context.Background(), "tcp", addr)
	if err != nil {
		return nil, fmt.Errorf("broker: %w", err)
	}
	return ln, nil
}

func (b *Broker) startAccepting(ln net.Listener, via transport) {
	if ln == nil {
		return
	}
	b.log.Info("mqtt listening", "listener", string(via), "address", ln.Addr().String())
	b.accepting.Go(func() { b.accept(ln, via) })
}

func (b *Broker) closeListeners() {
	for _, ln := range []net.Listener{b.tlsLn, b.plainLn} {
		if ln != nil {
			_ = ln.Close()
		}
	}
}

// Ready is false before Start and from the beginning of Shutdown.
func (b *Broker) Ready() bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.state == serving
}

// unhinted is the configuration without the list of wanted CAs that a server sends: a client that sees one keeps a
// certificate of another issuer to itself, and devices may be registered by the fingerprint of any certificate.
func unhinted(c *tls.Config) *tls.Config {
	if c == nil || c.ClientCAs == nil {
		return c
	}
	c = c.Clone()
	c.ClientCAs = nil
	return c
}

// TLSAddr is where MQTT over TLS listens, with its real port; nil when it does not.
func (b *Broker) TLSAddr() net.Addr { return b.addr(&b.tlsLn) }

// PlainAddr is where MQTT without TLS listens, with its real port; nil when it does not.
func (b *Broker) PlainAddr() net.Addr { return b.addr(&b.plainLn) }

func (b *Broker) addr(ln *net.Listener) net.Addr {
	b.mu.Lock()
	defer b.mu.Unlock()
	if *ln == nil {
		return nil
	}
	return (*ln).Addr()
}

// WebSocket serves MQTT over WebSocket [MQTT-6.0.0]: subprotocol "mqtt", binary messages, through the same guard, limits
// and clean-up as every other connection. It answers 503 before Start, while draining and above a limit.
//
// Any origin may connect: a browser adds nothing of its own to a CONNECT that would authenticate it.
func (b *Broker) WebSocket() http.Handler { return http.HandlerFunc(b.serveWebSocket) }

// Shutdown stops accepting, lets the guard hook end the sessions at Limits.DrainRate, waits for the connections'
// goroutines including their clean-up, and closes mochi. When ctx ends first, the remaining connections are cut at
// once; if even then some do not end within a second, it fails with ErrStuck and ctx's error and mochi stays open. It
// may be called again, and instead of Start.
func (b *Broker) Shutdown(ctx context.Context) error {
	b.mu.Lock()
	b.state = draining
	b.mu.Unlock()
	b.stop()
	b.roster.close()
	b.closeListeners()
	b.accepting.Wait()
	b.endSessions(ctx)

	ended := make(chan struct{})
	go func() {
		b.roster.ended.Wait()
		close(ended)
	}()
	if err := b.await(ctx, ended); err != nil {
		return err
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.mochiEnded {
		return nil
	}
	b.mochiEnded = true
	if err := b.srv.Close(); err != nil {
		return fmt.Errorf("broker: %w", err)
	}
	return nil
}

// endSessions asks every session to end, a tenth of a second's worth at a time.
func (b *Broker) endSessions(ctx context.Context) {
	all := b.roster.all()
	perSecond := b.limits.DrainRate
	if limit := b.limits.DrainTime; perSecond > 0 && limit > 0 {
		perSecond = max(perSecond, float64(len(all))/limit.Seconds())
	}
	step, every := max(1, len(all)), time.Second
	if perSecond > 0 {
		step = max(1, int(perSecond/10))
		every = time.Duration(float64(step) / perSecond * float64(time.Second))
	}
	tick := time.NewTicker(max(every, time.Millisecond))
	defer tick.Stop()
	for i, c := range all {
		if i > 0 && i%step == 0 {
			select {
			case <-tick.C:
			case <-ctx.Done():
				step = len(all)
			}
		}
		if b.roster.has(c) {
			_ = b.protect(func() error { b.guard.Drain(c); return nil })
			_ = c.Close()
		}
	}
}

// await waits until every connection ended. When ctx ends it cuts them.
func (b *Broker) await(ctx context.Context, ended <-chan struct{}) error {
	select {
	case <-ended:
		return nil
	case <-ctx.Done():
	}
	for _, c := range b.roster.all() {
		_ = c.sock.Close()
	}
	t := time.NewTimer(hardClose)
	defer t.Stop()
	select {
	case <-ended:
		return nil
	case <-t.C:
		return fmt.Errorf("%w: %d left: %w", ErrStuck, b.roster.len(), ctx.Err())
	}
}
