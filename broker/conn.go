package broker

import (
	"crypto/tls"
	"crypto/x509"
	"io"
	"net"
	"sync"
	"sync/atomic"
	"time"

	"github.com/gorilla/websocket"
	mqtt "github.com/mochi-mqtt/server/v2"
	"github.com/mochi-mqtt/server/v2/packets"
)

const (
	// hardClose is how long a connection that was asked to close may take for its last words.
	hardClose = time.Second
	// lingering is how long a closed connection still reads, so that unread input does not turn into a reset that
	// eats the last words on their way.
	lingering    = 200 * time.Millisecond
	lingerBytes  = 64 << 10
	deadlineStep = time.Second
)

// The state of the answer to CONNECT.
const (
	unanswered uint32 = iota
	accepted
	refused
)

// Conn is one network connection as mochi sees it: cl.Net.Conn of a client. Its methods may be called from any
// goroutine, except Read, which is mochi's, and those whose doc says otherwise.
type Conn struct {
	sock      *socket
	stream    io.ReadWriter // what carries MQTT: the socket, a *tls.Conn over it, or *frames over it
	guard     wireGuard
	remote    net.Addr
	transport transport
	peer      []*x509.Certificate
	secure    bool

	session  atomic.Pointer[any]
	connack  atomic.Uint32
	answered atomic.Bool
	lastRead atomic.Int64

	mu       sync.Mutex
	early    []byte    // what was to be sent before the CONNACK
	deadline time.Time // of the read side
	closing  bool
	finished bool
	hard     *time.Timer
}

// ConnOf is the connection of a client, false when it came in through a listener that is not ours or is not connected
// to a network at all.
func ConnOf(cl *mqtt.Client) (*Conn, bool) {
	c, ok := cl.Net.Conn.(*Conn)
	return c, ok
}

// Attach stores what the guard hook wants to find again for this connection, in place of what was attached before.
func (c *Conn) Attach(session any) { c.session.Store(&session) }

// Attachment is what was attached last, nil before.
func (c *Conn) Attachment() any {
	if s := c.session.Load(); s != nil {
		return *s
	}
	return nil
}

// Authenticated raises the limit of the packets that follow the CONNECT to Limits.MaxPacket.
func (c *Conn) Authenticated() { c.guard.authenticated.Store(true) }

// ProtocolVersion is 4 (MQTT 3.1.1) or 5, and 0 before a CONNECT was judged.
func (c *Conn) ProtocolVersion() byte { return byte(c.guard.version.Load()) }

// ConnackSent reports whether the CONNECT was answered, with whatever code.
func (c *Conn) ConnackSent() bool { return c.connack.Load() != unanswered }

// Answered reports whether the last word has been written: a DISCONNECT, or a CONNACK that refuses. What is written
// after it is swallowed [MQTT-3.14.4-1].
func (c *Conn) Answered() bool { return c.answered.Load() }

// PeerCertificates is the client's certificate and the chain it sent, unverified; nil without TLS or a certificate.
func (c *Conn) PeerCertificates() []*x509.Certificate { return c.peer }

// TLS reports whether the connection is encrypted.
func (c *Conn) TLS() bool { return c.secure }

// WebSocket reports whether MQTT runs over WebSocket.
func (c *Conn) WebSocket() bool { return c.transport == overWebSocket }

// LocalAddr implements net.Conn.
func (c *Conn) LocalAddr() net.Addr { return c.sock.LocalAddr() }

// RemoteAddr is the client's address; over WebSocket the one that the HTTP request carries.
func (c *Conn) RemoteAddr() net.Addr { return c.remote }

// LastRead is when the client last sent something, the zero time before.
func (c *Conn) LastRead() time.Time {
	if n := c.lastRead.Load(); n != 0 {
		return time.Unix(0, n)
	}
	return time.Time{}
}

// Read implements net.Conn for mochi. Its errors are a *GuardError, net.ErrClosed after Close, or the network's.
func (c *Conn) Read(p []byte) (int, error) {
	n, err := c.guard.Read(p)
	if n > 0 {
		c.lastRead.Store(time.Now().UnixNano())
	}
	if err != nil && c.isClosing() {
		return n, net.ErrClosed
	}
	return n, err
}

// Write sends p, which has to be one whole MQTT packet, without ever blocking. A client that reads too slowly is
// closed.
//
// It keeps mochi's slips off the wire: nothing overtakes the CONNACK [MQTT-3.2.0-1], nothing follows a last word, a
// 3.1.1 client gets neither a DISCONNECT, which does not exist for it, nor an MQTT 5 code in its CONNACK.
func (c *Conn) Write(p []byte) (int, error) {
	if len(p) == 0 {
		return 0, nil
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.send(p)
}

// send is Write with c.mu held.
func (c *Conn) send(p []byte) (int, error) {
	if c.finished {
		return 0, net.ErrClosed
	}
	if c.answered.Load() {
		return len(p), nil
	}
	switch p[0] >> 4 {
	case packets.Connack:
		return c.sendConnack(p)
	case packets.Disconnect:
		if c.ProtocolVersion() != 5 {
			return len(p), nil
		}
		c.answered.Store(true)
	default:
		if c.connack.Load() == unanswered {
			if limit := c.sock.limit; limit > 0 && len(c.early) > limit {
				return 0, ErrSlowReader
			}
			c.early = append(c.early, p...)
			return len(p), nil
		}
	}
	return c.stream.Write(p)
}

func (c *Conn) sendConnack(p []byte) (int, error) {
	i := 1 // of the acknowledge flags; the reason code follows them
	for i < len(p) && p[i]&128 != 0 {
		i++
	}
	i += 2
	if i >= len(p) {
		return 0, io.ErrShortWrite
	}
	early := c.early
	c.early = nil
	if p[i] == 0 {
		c.connack.Store(accepted)
		if n, err := c.stream.Write(p); err != nil || len(early) == 0 {
			return n, err
		}
		_, err := c.stream.Write(early)
		return len(p), err
	}
	c.connack.Store(refused)
	c.answered.Store(true)
	if c.ProtocolVersion() != 5 && p[i] >= packets.ErrUnspecifiedError.Code {
		_, err := c.stream.Write([]byte{packets.Connack << 4, 2, 0, V3Code(p[i])})
		return len(p), err
	}
	return c.stream.Write(p)
}

// Close asks the connection to end: it wakes the reader. The connection's own goroutine then cleans up, sends what is
// queued and the last word, and closes; after one second the connection is closed in any case. Close may be called
// more than once and never blocks.
func (c *Conn) Close() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.closing {
		return nil
	}
	c.closing = true
	_ = c.sock.SetReadDeadline(time.Unix(1, 0))
	if !c.finished {
		c.hard = time.AfterFunc(hardClose, func() { _ = c.sock.Close() })
	}
	return nil
}

func (c *Conn) isClosing() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.closing
}

// SetDeadline sets the deadline of the read side; writes never wait. It may be met up to a second late, never early:
// mochi sets it anew for each packet, and most times that costs nothing.
func (c *Conn) SetDeadline(t time.Time) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.closing {
		return nil
	}
	if early := c.deadline.Sub(t); !t.IsZero() && !c.deadline.IsZero() && early >= 0 && early <= deadlineStep {
		return nil
	}
	if !t.IsZero() {
		t = t.Add(deadlineStep)
	}
	c.deadline = t
	return c.sock.SetReadDeadline(t)
}

// SetReadDeadline implements net.Conn; see SetDeadline.
func (c *Conn) SetReadDeadline(t time.Time) error { return c.SetDeadline(t) }

// SetWriteDeadline does nothing: a Write never waits.
func (c *Conn) SetWriteDeadline(time.Time) error { return nil }

// expire sets the deadline of the handshake and of CONNECT, which is met to the point.
func (c *Conn) expire(t time.Time) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if !c.closing {
		c.deadline = time.Time{} // the first SetDeadline always counts
		_ = c.sock.SetReadDeadline(t)
	}
}

// finish says what mochi has not said, and closes. It belongs to the connection's goroutine, after the clean-up.
func (c *Conn) finish(err error) {
	_ = c.Close() // arms the hard close
	code, kind := CloseReason(err)
	c.mu.Lock()
	if word := c.lastWord(code); word != nil {
		_, _ = c.send(word)
	}
	c.mu.Unlock()
	switch s := c.stream.(type) {
	case *tls.Conn:
		_ = s.CloseWrite()
	case *frames:
		s.sayGoodbye()
	}
	c.sock.flush()
	c.sock.closeWrite()
	if c.answered.Load() || (kind != ClientDisconnect && kind != NetworkError) {
		_ = c.sock.SetReadDeadline(time.Now().Add(lingering))
		_, _ = io.CopyN(io.Discard, c.sock.base, lingerBytes)
	}
	c.mu.Lock()
	c.finished = true
	c.hard.Stop()
	c.mu.Unlock()
	_ = c.sock.Close()
}

// lastWord is the packet that tells the client why, nil when there is none. c.mu is held.
func (c *Conn) lastWord(code byte) []byte {
	if code < packets.ErrUnspecifiedError.Code || c.answered.Load() {
		return nil
	}
	waiting := c.connack.Load() == unanswered
	switch v := c.ProtocolVersion(); {
	case v == 5 && !waiting:
		return []byte{packets.Disconnect << 4, 2, code, 0}
	case v == 5 && code != packets.ErrKeepAliveTimeout.Code: // which no CONNACK can say
		return []byte{packets.Connack << 4, 3, 0, code, 0}
	case v == 4 && waiting && (code == packets.ErrUnsupportedProtocolVersion.Code || code == packets.ErrClientIdentifierNotValid.Code):
		return []byte{packets.Connack << 4, 2, 0, V3Code(code)}
	}
	return nil
}

// frames is an MQTT byte stream in WebSocket messages.
type frames struct {
	ws  *websocket.Conn
	msg io.Reader // rest of the message that is being read
}

// Read implements io.Reader. MQTT packets need not be aligned with messages [MQTT-6.0.0-2].
func (f *frames) Read(p []byte) (int, error) {
	for {
		if f.msg == nil {
			kind, msg, err := f.ws.NextReader()
			if err != nil {
				return 0, err
			}
			if kind != websocket.BinaryMessage {
				return 0, malformed("WebSocket message is not binary") // [MQTT-6.0.0-1]
			}
			f.msg = msg
		}
		n, err := f.msg.Read(p)
		if err == io.EOF {
			f.msg, err = nil, nil
		}
		if n > 0 || err != nil {
			return n, err
		}
	}
}

// Write sends p as one message. It is for one caller at a time.
func (f *frames) Write(p []byte) (int, error) {
	if err := f.ws.WriteMessage(websocket.BinaryMessage, p); err != nil {
		return 0, err
	}
	return len(p), nil
}

func (f *frames) sayGoodbye() {
	word := websocket.FormatCloseMessage(websocket.CloseNormalClosure, "")
	_ = f.ws.WriteControl(websocket.CloseMessage, word, time.Now().Add(hardClose))
}
