package broker

import (
	"bufio"
	"net"
	"net/http"
	"net/netip"
	"sync"
	"time"

	"github.com/gorilla/websocket"
)

// frameBuffer is the size of a WebSocket's read buffer, and of its write buffer, which is pooled.
const frameBuffer = 512

func newUpgrader() websocket.Upgrader {
	return websocket.Upgrader{
		Subprotocols:    []string{"mqtt"}, // [MQTT-6.0.0-3] [MQTT-6.0.0-4]
		ReadBufferSize:  frameBuffer,
		WriteBufferSize: frameBuffer,
		WriteBufferPool: &sync.Pool{},
		CheckOrigin:     func(*http.Request) bool { return true },
	}
}

// serveWebSocket upgrades the request and serves the connection until it ends, on the HTTP server's goroutine.
func (b *Broker) serveWebSocket(w http.ResponseWriter, r *http.Request) {
	begun := time.Now()
	if !b.Ready() {
		b.refuseWebSocket(w, refusedDraining)
		return
	}
	if !offersMQTT(r) {
		http.Error(w, `this is MQTT over WebSocket: offer the subprotocol "mqtt"`, http.StatusBadRequest)
		return
	}
	remote := requestAddr(r)
	why := b.roster.full(remote)
	if why == "" && b.rate != nil && !b.rate.Allow() {
		why = refusedRate
	}
	if why != "" {
		b.refuseWebSocket(w, why)
		return
	}
	var c *Conn
	hijack := &hijacker{ResponseWriter: w, wrap: func(nc net.Conn) net.Conn {
		c = b.newConn(nc, overWebSocket, remote)
		return c.sock
	}}
	ws, err := b.upgrader.Upgrade(hijack, r, nil)
	if err != nil {
		if c != nil {
			_ = c.sock.Close()
		}
		return // the upgrader has answered
	}
	if why := b.roster.enter(c); why != "" { // the last place went to another one meanwhile
		b.metrics.refuse(why)
		_ = c.sock.Close()
		return
	}
	c.stream = &frames{ws: ws}
	if r.TLS != nil {
		c.secure, c.peer = true, r.TLS.PeerCertificates
	}
	b.serve(c, begun)
}

func (b *Broker) refuseWebSocket(w http.ResponseWriter, why refusal) {
	b.metrics.refuse(why)
	w.Header().Set("Retry-After", "10")
	http.Error(w, "no new connections: "+string(why), http.StatusServiceUnavailable)
}

func offersMQTT(r *http.Request) bool {
	for _, p := range websocket.Subprotocols(r) {
		if p == "mqtt" {
			return true
		}
	}
	return false
}

// requestAddr is the client's address as the HTTP server, or a handler that trusts a proxy, wrote it into the request.
func requestAddr(r *http.Request) net.Addr {
	if ap, err := netip.ParseAddrPort(r.RemoteAddr); err == nil {
		return net.TCPAddrFromAddrPort(ap)
	}
	if ip, err := netip.ParseAddr(r.RemoteAddr); err == nil {
		return net.TCPAddrFromAddrPort(netip.AddrPortFrom(ip, 0))
	}
	return unnamed(r.RemoteAddr)
}

// unnamed is an address that is not IP: what a request from a Unix socket or a test carries.
type unnamed string

func (unnamed) Network() string  { return "unknown" }
func (a unnamed) String() string { return string(a) }

// hijacker slides the non-blocking socket between the hijacked connection and the WebSocket library.
type hijacker struct {
	http.ResponseWriter
	wrap func(net.Conn) net.Conn
}

// Hijack implements http.Hijacker; unlike a type assertion the controller also finds it behind middleware.
func (h *hijacker) Hijack() (net.Conn, *bufio.ReadWriter, error) {
	nc, buffered, err := http.NewResponseController(h.ResponseWriter).Hijack()
	if err != nil {
		return nil, nil, err
	}
	_ = nc.SetDeadline(time.Time{}) // the HTTP server's deadlines end here; ours follow
	return h.wrap(nc), buffered, nil
}
