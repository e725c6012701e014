package broker_test

import (
	"bufio"
	"bytes"
	"crypto/tls"
	"encoding/hex"
	"io"
	"net"
	"testing"
	"time"
)

// patience is how long a test waits for what has to happen.
const patience = 10 * time.Second

// client is an MQTT client that says exactly what it is told to.
type client struct {
	net.Conn
	t   testing.TB
	r   *bufio.Reader
	ver byte
}

func wrap(t testing.TB, nc net.Conn, ver byte) *client {
	t.Cleanup(func() { nc.Close() })
	return &client{Conn: nc, t: t, r: bufio.NewReader(nc), ver: ver}
}

func dial(t testing.TB, addr net.Addr, ver byte) *client {
	t.Helper()
	nc, err := net.Dial("tcp", addr.String())
	if err != nil {
		t.Fatal(err)
	}
	return wrap(t, nc, ver)
}

func dialTLS(t testing.TB, addr net.Addr, config *tls.Config, ver byte) *client {
	t.Helper()
	nc, err := tls.Dial("tcp", addr.String(), config)
	if err != nil {
		t.Fatal(err)
	}
	return wrap(t, nc, ver)
}

// say sends bytes; an error does not matter, the answer does.
func (c *client) say(parts ...[]byte) {
	_ = c.SetWriteDeadline(time.Now().Add(patience))
	_, _ = c.Write(bytes.Join(parts, nil))
}

// next is the next packet of the server.
func (c *client) next() (first byte, body []byte, err error) {
	_ = c.SetReadDeadline(time.Now().Add(patience))
	return readPacket(c.r)
}

func readPacket(r *bufio.Reader) (byte, []byte, error) {
	first, err := r.ReadByte()
	if err != nil {
		return 0, nil, err
	}
	n, shift := 0, 0
	for {
		b, err := r.ReadByte()
		if err != nil {
			return 0, nil, err
		}
		n |= int(b&127) << shift
		shift += 7
		if b < 128 {
			break
		}
	}
	body := make([]byte, n)
	_, err = io.ReadFull(r, body)
	return first, body, err
}

// want is the next packet, which has to be of this kind.
func (c *client) want(kind byte) []byte {
	c.t.Helper()
	first, body, err := c.next()
	if err != nil || first>>4 != kind {
		c.t.Fatalf("want packet type %d, got %02x %x, %v", kind, first, body, err)
	}
	return body
}

// rest is everything that still comes until the server closes properly, in hex.
func (c *client) rest() string {
	c.t.Helper()
	_ = c.SetReadDeadline(time.Now().Add(patience))
	got, err := io.ReadAll(c.r)
	if err != nil {
		c.t.Errorf("connection did not end properly: %v after %x", err, got)
	}
	return hex.EncodeToString(got)
}

// open sends CONNECT and waits for the CONNACK that accepts it.
func (c *client) open(id string) *client {
	c.t.Helper()
	c.say(connect(c.ver, id))
	if body := c.want(2); body[1] != 0 {
		c.t.Fatalf("CONNACK %x", body)
	}
	return c
}

// alive proves by a ping that the session lives.
func (c *client) alive() {
	c.t.Helper()
	c.say(ping())
	c.want(13)
}

func (c *client) props() []byte {
	if c.ver == 5 {
		return []byte{0}
	}
	return nil
}

func (c *client) subscribe(filter string, qos byte, id uint16) []byte {
	return packet(0x82, u16(id), c.props(), str(filter), []byte{qos})
}

func (c *client) publish(topic, payload string, qos byte, id uint16) []byte {
	var pid []byte
	if qos > 0 {
		pid = u16(id)
	}
	return packet(0x30|qos<<1, str(topic), pid, c.props(), []byte(payload))
}

func ping() []byte { return []byte{0xc0, 0} }

// connect is a CONNECT with a clean session, keep-alive 60, a user name and a password.
func connect(ver byte, id string) []byte {
	var props []byte
	if ver == 5 {
		props = []byte{0}
	}
	return packet(0x10, str("MQTT"), []byte{ver, 0xc2, 0, 60}, props, str(id), str("user"), str("password"))
}

// packet is a packet of these parts with its length.
func packet(first byte, parts ...[]byte) []byte {
	body := bytes.Join(parts, nil)
	return append(append([]byte{first}, varint(len(body))...), body...)
}

func str(s string) []byte  { return append(u16(uint16(len(s))), s...) }
func u16(n uint16) []byte  { return []byte{byte(n >> 8), byte(n)} }
func raw(b ...byte) []byte { return b }

func varint(n int) []byte {
	var out []byte
	for {
		b := byte(n & 127)
		if n >>= 7; n > 0 {
			out = append(out, b|128)
			continue
		}
		return append(out, b)
	}
}
