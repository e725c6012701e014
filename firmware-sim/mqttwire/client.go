package mqttwire

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"net/url"
	"time"
)

// Client is one MQTT connection used step by step: every call writes, then waits for its answer. Messages that
// arrive in between are acknowledged and kept for Next. It is not safe for use by several goroutines at once.
type Client struct {
	// Timeout limits each wait for an answer and each write; NewClient sets 10 s.
	Timeout time.Duration
	// ManualAck leaves PUBACK, PUBREC and PUBCOMP to the caller (by Write).
	ManualAck bool

	conn    net.Conn
	version Version
	lastID  uint16
	pending []byte    // bytes of a packet that has not fully arrived
	inbox   []*Packet // messages that arrived while something else was awaited
}

// Message is what Publish sends.
type Message struct {
	Topic      string
	Payload    []byte
	QoS        byte
	Retain     bool
	Dup        bool
	PacketID   uint16 // 0 takes the client's next one
	Properties Properties
}

// Dial opens the transport of a URL: mqtt:// or tcp:// plain, mqtts://, ssl:// or tls:// with TLS. The default ports
// are 1883 and 8883. tlsConfig may be nil; its ServerName defaults to the URL's host. Nothing is sent yet.
func Dial(ctx context.Context, rawURL string, tlsConfig *tls.Config) (*Client, error) {
	address, secure, err := ParseURL(rawURL)
	if err != nil {
		return nil, err
	}
	var conn net.Conn
	if secure {
		dialer := tls.Dialer{Config: tlsConfig}
		conn, err = dialer.DialContext(ctx, "tcp", address)
	} else {
		conn, err = new(net.Dialer).DialContext(ctx, "tcp", address)
	}
	if err != nil {
		return nil, fmt.Errorf("dial %s: %w", rawURL, err)
	}
	return NewClient(conn, V311), nil
}

// ParseURL returns the host:port of an MQTT URL and whether it asks for TLS.
func ParseURL(rawURL string) (address string, secure bool, err error) {
	u, err := url.Parse(rawURL)
	if err != nil {
		return "", false, fmt.Errorf("MQTT URL %q: %w", rawURL, err)
	}
	port := u.Port()
	switch u.Scheme {
	case "mqtt", "tcp":
		if port == "" {
			port = "1883"
		}
	case "mqtts", "ssl", "tls":
		secure = true
		if port == "" {
			port = "8883"
		}
	default:
		return "", false, fmt.Errorf("MQTT URL %q: want mqtt:// or mqtts://", rawURL)
	}
	if u.Hostname() == "" {
		return "", false, fmt.Errorf("MQTT URL %q has no host", rawURL)
	}
	return net.JoinHostPort(u.Hostname(), port), secure, nil
}

// NewClient wraps an open connection. The version holds until Connect sets it, for tests that write raw packets.
func NewClient(conn net.Conn, v Version) *Client {
	return &Client{Timeout: 10 * time.Second, conn: conn, version: v}
}

// Conn returns the connection, for tests that cut it.
func (c *Client) Conn() net.Conn { return c.conn }

// Version returns the version that this connection speaks.
func (c *Client) Version() Version { return c.version }

// Connect sends CONNECT and returns the CONNACK. A refusal is both: the packet and a *RefusedError. props go into an
// MQTT 5 CONNECT.
func (c *Client) Connect(hello Connect, props ...Property) (*Packet, error) {
	c.version = hello.level()
	if err := c.Write(&Packet{Type: CONNECT, Connect: &hello, Properties: props}); err != nil {
		return nil, err
	}
	ack, err := c.await(CONNECT, func(p *Packet) bool { return p.Type == CONNACK })
	if err != nil {
		return nil, err
	}
	if ack.ReasonCode != Success {
		return ack, refused(CONNECT, ack.ReasonCode, ack)
	}
	return ack, nil
}

// Publish sends a message and waits for its PUBACK (QoS 1) or PUBCOMP (QoS 2), which it returns; for QoS 0 it returns
// nil at once. A refusal is both: the acknowledgement and a *RefusedError.
func (c *Client) Publish(m Message) (*Packet, error) {
	id := m.PacketID
	if m.QoS > 0 && id == 0 {
		id = c.NextID()
	}
	err := c.Write(&Packet{
		Type: PUBLISH, Topic: m.Topic, Payload: m.Payload, QoS: m.QoS, Retain: m.Retain, Dup: m.Dup,
		PacketID: id, Properties: m.Properties,
	})
	if err != nil || m.QoS == 0 {
		return nil, err
	}
	answer := PUBACK
	if m.QoS == 2 {
		answer = PUBREC
	}
	ack, err := c.awaitID(PUBLISH, answer, id)
	if err != nil {
		return ack, err
	}
	if m.QoS != 2 {
		return ack, nil
	}
	if err := c.Write(&Packet{Type: PUBREL, PacketID: id}); err != nil {
		return nil, err
	}
	return c.awaitID(PUBLISH, PUBCOMP, id)
}

// Subscribe sends one SUBSCRIBE and returns the SUBACK. When a filter is refused it returns a *RefusedError with the
// first failure code beside the packet.
func (c *Client) Subscribe(filters ...Filter) (*Packet, error) {
	id := c.NextID()
	if err := c.Write(&Packet{Type: SUBSCRIBE, PacketID: id, Filters: filters}); err != nil {
		return nil, err
	}
	return c.awaitID(SUBSCRIBE, SUBACK, id)
}

// Unsubscribe sends one UNSUBSCRIBE and returns the UNSUBACK.
func (c *Client) Unsubscribe(topics ...string) (*Packet, error) {
	id := c.NextID()
	filters := make([]Filter, 0, len(topics))
	for _, t := range topics {
		filters = append(filters, Filter{Topic: t})
	}
	if err := c.Write(&Packet{Type: UNSUBSCRIBE, PacketID: id, Filters: filters}); err != nil {
		return nil, err
	}
	return c.awaitID(UNSUBSCRIBE, UNSUBACK, id)
}

// Ping sends PINGREQ and waits for PINGRESP.
func (c *Client) Ping() error {
	if err := c.Write(&Packet{Type: PINGREQ}); err != nil {
		return err
	}
	_, err := c.await(PINGREQ, func(p *Packet) bool { return p.Type == PINGRESP })
	return err
}

// Next returns the next message, from the inbox or from the wire. When none comes in time the error satisfies
// errors.Is(err, os.ErrDeadlineExceeded) and the connection stays usable.
func (c *Client) Next(timeout time.Duration) (*Packet, error) {
	if len(c.inbox) > 0 {
		p := c.inbox[0]
		c.inbox = c.inbox[1:]
		return p, nil
	}
	deadline := time.Now().Add(timeout)
	for {
		p, err := c.receive(deadline)
		if err != nil {
			return nil, err
		}
		if p.Type == PUBLISH {
			return p, nil
		}
		if p.Type == DISCONNECT {
			return nil, &DisconnectedError{Code: p.ReasonCode, Reason: p.Properties.Text(PropReasonString)}
		}
	}
}

// Disconnect sends DISCONNECT with code 0 and closes.
func (c *Client) Disconnect() error {
	return errors.Join(c.Write(&Packet{Type: DISCONNECT}), c.conn.Close())
}

// Close closes the connection without DISCONNECT, so that the will is due.
func (c *Client) Close() error { return c.conn.Close() }

// NextID returns a fresh packet identifier.
func (c *Client) NextID() uint16 {
	c.lastID++
	if c.lastID == 0 {
		c.lastID = 1
	}
	return c.lastID
}

// Write encodes and sends one packet without waiting for anything.
func (c *Client) Write(p *Packet) error {
	b, err := p.Append(nil, c.version)
	if err != nil {
		return err
	}
	return c.WriteRaw(b)
}

// WriteRaw sends bytes as they are.
func (c *Client) WriteRaw(b []byte) error {
	if err := c.conn.SetWriteDeadline(time.Now().Add(c.Timeout)); err != nil {
		return err
	}
	_, err := c.conn.Write(b)
	return err
}

// ReadPacket reads the next packet of any type, acknowledging nothing. A timeout loses nothing: the bytes of half a
// packet wait for the next call. The error is io.EOF or the connection's own when the other side is gone.
func (c *Client) ReadPacket(timeout time.Duration) (*Packet, error) {
	return c.read(time.Now().Add(timeout))
}

// Drain reads until the connection ends or the time is over, and returns the packets that came, unacknowledged, and
// the error that ended it: io.EOF or a reset when the server closed, os.ErrDeadlineExceeded when it did not.
// It is how a test asks "was I closed, and what was the last word?".
func (c *Client) Drain(timeout time.Duration) ([]*Packet, error) {
	deadline := time.Now().Add(timeout)
	var packets []*Packet
	for {
		p, err := c.read(deadline)
		if err != nil {
			return packets, err
		}
		packets = append(packets, p)
	}
}

func (c *Client) read(deadline time.Time) (*Packet, error) {
	if err := c.conn.SetReadDeadline(deadline); err != nil {
		return nil, err
	}
	chunk := make([]byte, 4096)
	for {
		size, err := FrameSize(c.pending)
		if err != nil {
			return nil, err
		}
		if size > 0 && len(c.pending) >= size {
			// A copy, because the packet keeps parts of its frame while pending moves on.
			frame := append([]byte(nil), c.pending[:size]...)
			c.pending = append(c.pending[:0], c.pending[size:]...)
			return Decode(frame, c.version)
		}
		n, err := c.conn.Read(chunk)
		c.pending = append(c.pending, chunk[:n]...)
		if err != nil && n == 0 {
			return nil, err
		}
	}
}

// receive reads a packet and does what the protocol asks of the receiver of a message.
func (c *Client) receive(deadline time.Time) (*Packet, error) {
	p, err := c.read(deadline)
	if err != nil || c.ManualAck {
		return p, err
	}
	switch {
	case p.Type == PUBLISH && p.QoS == 1:
		err = c.Write(&Packet{Type: PUBACK, PacketID: p.PacketID})
	case p.Type == PUBLISH && p.QoS == 2:
		err = c.Write(&Packet{Type: PUBREC, PacketID: p.PacketID})
	case p.Type == PUBREL:
		err = c.Write(&Packet{Type: PUBCOMP, PacketID: p.PacketID})
	}
	return p, err
}

// await reads until the wanted packet; messages go to the inbox, a DISCONNECT ends the wait.
func (c *Client) await(request PacketType, wanted func(*Packet) bool) (*Packet, error) {
	deadline := time.Now().Add(c.Timeout)
	for {
		p, err := c.receive(deadline)
		if err != nil {
			return nil, fmt.Errorf("await the answer to %s: %w", request, err)
		}
		if wanted(p) {
			return p, nil
		}
		switch p.Type {
		case PUBLISH:
			c.inbox = append(c.inbox, p)
		case DISCONNECT:
			gone := &DisconnectedError{Code: p.ReasonCode, Reason: p.Properties.Text(PropReasonString)}
			return p, fmt.Errorf("await the answer to %s: %w", request, gone)
		}
	}
}

func (c *Client) awaitID(request, answer PacketType, id uint16) (*Packet, error) {
	ack, err := c.await(request, func(p *Packet) bool { return p.Type == answer && p.PacketID == id })
	if err != nil {
		return ack, err
	}
	if ack.ReasonCode.Failed() {
		return ack, refused(request, ack.ReasonCode, ack)
	}
	for _, code := range ack.ReasonCodes {
		if code.Failed() {
			return ack, refused(request, code, ack)
		}
	}
	return ack, nil
}

func refused(request PacketType, code ReasonCode, ack *Packet) error {
	return &RefusedError{Request: request, Code: code, Reason: ack.Properties.Text(PropReasonString)}
}
