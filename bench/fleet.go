package main

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"os"
	"slices"
	"sync"
	"sync/atomic"
	"time"
)

const (
	dialers      = 64 // connections that are made at once, except in a storm
	ioTimeout    = 60 * time.Second
	connectLimit = 2 * time.Minute // for one device, all its attempts together
	pingEvery    = 25 * time.Second
	// perSource is how many connections come from one address: the kernel has about 28,000 ports for each, looks for a
	// free one long before it finds none, and a port stays taken for a minute after its connection was closed.
	perSource = 8000
)

// fleet is the load generator: devices with at most one message in flight each, one goroutine for a device.
type fleet struct {
	addr   string
	secure *tls.Config
	dialed atomic.Int64

	// mu keeps the pings of idle connections apart from everything else.
	mu      sync.Mutex
	links   []*link
	pacing  context.CancelFunc // ends the background messages
	paced   sync.WaitGroup
	failure atomic.Pointer[error] // the first of the background messages
	stop    chan struct{}
	ended   chan struct{}
}

// link is a device's connection.
type link struct {
	device
	conn     net.Conn
	buf      [64]byte
	state    []byte // PUBLISH of a state message
	idAt     int
	uptimeAt int
	sent     uint32
}

func newFleet(s start) (*fleet, reply, error) {
	f := &fleet{addr: s.Addr, stop: make(chan struct{}), ended: make(chan struct{})}
	if s.TLS {
		pem, err := os.ReadFile(s.CA)
		if err != nil {
			return nil, reply{}, err
		}
		roots := x509.NewCertPool()
		if !roots.AppendCertsFromPEM(pem) {
			return nil, reply{}, fmt.Errorf("no certificate in %s", s.CA)
		}
		// No ClientSessionCache: every handshake is a full one.
		f.secure = &tls.Config{RootCAs: roots, ServerName: "localhost", MinVersion: tls.VersionTLS13, CurvePreferences: []tls.CurveID{tls.X25519}}
	}
	go f.keepAlive()
	return f, reply{}, nil
}

func (f *fleet) close() error {
	close(f.stop)
	<-f.ended
	f.endPace()
	for _, l := range f.links {
		_ = l.conn.Close()
	}
	return nil
}

// do answers "connect" (Count devices, a few at a time), "subscribe", "publish" (Count messages in all, QoS 1), "pace"
// (Rate messages a second, until "pace end"), "storm" (all connections break, all devices return at once) and
// "handshakes" (Count devices connect and disconnect).
func (f *fleet) do(ctx context.Context, r request) (reply, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	begun := time.Now()
	var answer reply
	var err error
	switch r.Do {
	case "connect":
		f.links = make([]*link, r.Count)
		answer.Retries, err = f.connect(ctx, dialers)
	case "subscribe":
		err = f.each(func(l *link) error { return l.subscribe() })
	case "publish":
		answer, err = f.publish(r.Count)
	case "pace":
		f.pace(r.Rate)
	case "pace end":
		err = f.endPace()
	case "storm":
		for _, l := range f.links {
			_ = hangUp(l.conn)
		}
		if answer.Retries, err = f.connect(ctx, len(f.links)); err == nil {
			err = f.each(func(l *link) error { return l.subscribe() })
		}
	case "handshakes":
		err = f.handshakes(ctx, r.Count)
	default:
		err = fmt.Errorf("the fleet cannot do %q", r.Do)
	}
	answer.Seconds = time.Since(begun).Seconds()
	return answer, err
}

// connect connects every device, `parallel` at a time.
func (f *fleet) connect(ctx context.Context, parallel int) (retries int, err error) {
	ctx, cancel := context.WithTimeout(ctx, connectLimit)
	defer cancel()
	var tried atomic.Int64
	numbers := make(chan int)
	failed := make(chan error, len(f.links))
	var all sync.WaitGroup
	for range min(parallel, len(f.links)) {
		all.Go(func() {
			for i := range numbers {
				l, err := f.connectOne(ctx, i, &tried)
				f.links[i] = l
				if err != nil {
					failed <- err
					cancel()
				}
			}
		})
	}
	for i := range f.links {
		numbers <- i
	}
	close(numbers)
	all.Wait()
	close(failed)
	if err := <-failed; err != nil {
		f.links = slices.DeleteFunc(f.links, func(l *link) bool { return l == nil })
		return int(tried.Load()), err
	}
	return int(tried.Load()), nil
}

// connectOne tries until the device is connected, as a device does.
func (f *fleet) connectOne(ctx context.Context, i int, retries *atomic.Int64) (*link, error) {
	for {
		l, err := f.dial(ctx, deviceAt(i))
		if err == nil {
			return l, nil
		}
		if ctx.Err() != nil || errors.Is(err, errRefused) {
			return nil, err
		}
		retries.Add(1)
		if perr := pause(ctx, 100*time.Millisecond+rand.N(400*time.Millisecond)); perr != nil {
			return nil, err
		}
	}
}

// dial opens a connection and gets its CONNACK.
func (f *fleet) dial(ctx context.Context, d device) (*link, error) {
	// Each load generator has a network of loopback addresses of its own.
	network, host := byte(1+os.Getpid()%250), byte(1+f.dialed.Add(1)/perSource%250)
	dialer := net.Dialer{LocalAddr: &net.TCPAddr{IP: net.IPv4(127, network, 0, host)}, KeepAlive: -1}
	conn, err := dialer.DialContext(ctx, "tcp", f.addr)
	if err != nil {
		return nil, err
	}
	l := &link{device: d, conn: conn}
	if f.secure != nil {
		l.conn = tls.Client(conn, f.secure)
	}
	if err := l.connect(); err != nil {
		return nil, errors.Join(err, conn.Close())
	}
	l.state, l.idAt, l.uptimeAt = d.statePacket()
	return l, nil
}

func (l *link) connect() error {
	if err := l.conn.SetDeadline(time.Now().Add(ioTimeout)); err != nil {
		return err
	}
	body, err := l.exchange(l.connectPacket(), connack)
	if err != nil {
		return err
	}
	if body[1] != 0 {
		return fmt.Errorf("%w device %s: code %d", errRefused, l.id, body[1])
	}
	return l.conn.SetDeadline(time.Time{})
}

// exchange sends a packet and reads its answer.
func (l *link) exchange(b []byte, kind byte) ([]byte, error) {
	if _, err := l.conn.Write(b); err != nil {
		return nil, err
	}
	return expect(l.conn, l.buf[:], kind)
}

func (l *link) subscribe() error {
	body, err := l.exchange(l.subscribePacket(), suback)
	if err != nil {
		return err
	}
	if slices.ContainsFunc(body[2:], func(code byte) bool { return code >= 0x80 }) {
		return fmt.Errorf("%w a subscription of device %s: %x", errRefused, l.id, body[2:])
	}
	return nil
}

// report sends one state message and waits for its PUBACK.
func (l *link) report() error {
	l.sent++
	id := renumber(l.state, l.idAt, l.uptimeAt, l.sent)
	body, err := l.exchange(l.state, puback)
	if err != nil {
		return fmt.Errorf("device %s, message %d: %w", l.id, l.sent, err)
	}
	if body[0] != byte(id>>8) || body[1] != byte(id) {
		return fmt.Errorf("device %s: message %d was acknowledged as %x", l.id, id, body)
	}
	return nil
}

// each runs f for every connection, a few at a time.
func (f *fleet) each(do func(*link) error) error {
	var all sync.WaitGroup
	failed := make(chan error, dialers)
	for k := range dialers {
		all.Go(func() {
			for i := k; i < len(f.links); i += dialers {
				if err := do(f.links[i]); err != nil {
					failed <- err
					return
				}
			}
		})
	}
	all.Wait()
	close(failed)
	return <-failed
}

// publish sends `total` messages, every device the same number: each sends its next when the one before is
// acknowledged. It returns how long an acknowledgement took.
func (f *fleet) publish(total int) (reply, error) {
	times := make([]time.Duration, total)
	failed := make(chan error, len(f.links))
	var all sync.WaitGroup
	next := 0
	for i, l := range f.links {
		n := (i+1)*total/len(f.links) - i*total/len(f.links)
		mine := times[next : next+n]
		next += n
		all.Go(func() {
			for k := range mine {
				begun := time.Now()
				if err := l.report(); err != nil {
					failed <- err
					return
				}
				mine[k] = time.Since(begun)
			}
		})
	}
	all.Wait()
	close(failed)
	if err := <-failed; err != nil {
		return reply{}, err
	}
	p50, p99 := percentiles(times)
	return reply{P50: milliseconds(p50), P99: milliseconds(p99)}, nil
}

// pace lets every device report at its own steady pace, `rate` messages a second all together, in the background.
func (f *fleet) pace(rate float64) {
	var ctx context.Context
	ctx, f.pacing = context.WithCancel(context.Background())
	every := time.Duration(float64(len(f.links)) / rate * float64(time.Second))
	for _, l := range f.links {
		f.paced.Go(func() {
			wait := rand.N(every)
			for pause(ctx, wait) == nil {
				begun := time.Now()
				if err := l.report(); err != nil {
					f.failure.CompareAndSwap(nil, &err)
					return
				}
				wait = max(0, every-time.Since(begun))
			}
		})
	}
}

func (f *fleet) endPace() error {
	if f.pacing == nil {
		return nil
	}
	f.pacing()
	f.paced.Wait()
	f.pacing = nil
	if err := f.failure.Load(); err != nil {
		return *err
	}
	return nil
}

// handshakes connects `count` devices and disconnects each at once, as many at a time as keep a server busy.
func (f *fleet) handshakes(ctx context.Context, count int) error {
	var all sync.WaitGroup
	failed := make(chan error, dialers)
	for k := range dialers {
		all.Go(func() {
			for i := k; i < count; i += dialers {
				l, err := f.dial(ctx, deviceAt(i))
				if err == nil {
					_, err = l.conn.Write([]byte{14 << 4, 0}) // DISCONNECT
					err = errors.Join(err, l.conn.Close())
				}
				if err != nil {
					failed <- err
					return
				}
			}
		})
	}
	all.Wait()
	close(failed)
	return <-failed
}

// keepAlive pings idle connections, as devices do; that is part of what an idle device costs.
func (f *fleet) keepAlive() {
	defer close(f.ended)
	tick := time.NewTicker(pingEvery)
	defer tick.Stop()
	for {
		select {
		case <-f.stop:
			return
		case <-tick.C:
		}
		f.mu.Lock()
		if f.pacing == nil {
			// A connection that broke shows in the next request.
			_ = f.each(func(l *link) error {
				_, err := l.exchange([]byte{12 << 4, 0}, pingresp)
				return err
			})
		}
		f.mu.Unlock()
	}
}

// hangUp closes the connection without a word, as a device does that loses its power: TLS would say goodbye.
func hangUp(conn net.Conn) error {
	if t, ok := conn.(*tls.Conn); ok {
		return t.NetConn().Close()
	}
	return conn.Close()
}

// percentiles are the median and the 99th percentile. It sorts its argument.
func percentiles(times []time.Duration) (p50, p99 time.Duration) {
	if len(times) == 0 {
		return 0, 0
	}
	slices.Sort(times)
	return times[len(times)/2], times[(len(times)-1)*99/100]
}

func milliseconds(d time.Duration) float64 { return float64(d.Microseconds()) / 1000 }
