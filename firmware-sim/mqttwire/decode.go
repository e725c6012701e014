package mqttwire

import (
	"bufio"
	"encoding/binary"
	"fmt"
	"io"
	"strings"
	"unicode/utf8"
)

// ReadPacket reads one packet. The reader's buffer may be small: the body is read past it. An error of the reader is
// returned as it is (io.EOF only between packets), what is no packet as ErrMalformed, what is too big as ErrTooLarge.
func ReadPacket(r *bufio.Reader, v Version) (*Packet, error) {
	first, err := r.ReadByte()
	if err != nil {
		return nil, err
	}
	length, err := readLength(r)
	if err != nil {
		return nil, noEOF(err)
	}
	body := make([]byte, length)
	if _, err := io.ReadFull(r, body); err != nil {
		return nil, noEOF(err)
	}
	return decodeBody(first, body, v)
}

func readLength(r io.ByteReader) (int, error) {
	n := 0
	for i := range 4 {
		b, err := r.ReadByte()
		if err != nil {
			return 0, err
		}
		n |= int(b&0x7F) << (7 * i)
		if b&0x80 == 0 {
			if n > MaxReadSize {
				return 0, fmt.Errorf("%w: %d bytes", ErrTooLarge, n)
			}
			return n, nil
		}
	}
	return 0, malformed("remaining length of more than four bytes")
}

// noEOF turns the end in the middle of a packet into the error that says so.
func noEOF(err error) error {
	if err == io.EOF {
		return io.ErrUnexpectedEOF
	}
	return err
}

// Decode decodes exactly one packet that fills the whole slice. The packet keeps parts of it: the caller must not
// change it afterwards.
func Decode(frame []byte, v Version) (*Packet, error) {
	size, err := FrameSize(frame)
	if err != nil {
		return nil, err
	}
	if size == 0 || size > len(frame) {
		return nil, malformed("cut short")
	}
	if size < len(frame) {
		return nil, malformed("%d bytes after the packet", len(frame)-size)
	}
	header := 2
	for frame[header-1]&0x80 != 0 {
		header++
	}
	return decodeBody(frame[0], frame[header:], v)
}

// FrameSize returns the length of the packet that the bytes begin with, header included, or 0 when they do not yet
// tell. The packet is complete when that many bytes are there.
func FrameSize(b []byte) (int, error) {
	n := 0
	for i := range 4 {
		if len(b) < i+2 {
			return 0, nil
		}
		n |= int(b[i+1]&0x7F) << (7 * i)
		if b[i+1]&0x80 == 0 {
			if n > MaxReadSize {
				return 0, fmt.Errorf("%w: %d bytes", ErrTooLarge, n)
			}
			return i + 2 + n, nil
		}
	}
	return 0, malformed("remaining length of more than four bytes")
}

func decodeBody(first byte, body []byte, v Version) (*Packet, error) {
	p := &Packet{Type: PacketType(first >> 4)}
	d := &decoder{buf: body}
	if p.Type == PUBLISH {
		p.Dup, p.QoS, p.Retain = first&8 != 0, first>>1&3, first&1 != 0
	} else if p.Type != 0 && first&0x0F != p.flags() {
		d.fail("flags 0x%X", first&0x0F)
	}
	switch p.Type {
	case CONNECT:
		d.connect(p)
	case CONNACK:
		d.connack(p, v)
	case PUBLISH:
		d.publish(p, v)
	case PUBACK, PUBREC, PUBREL, PUBCOMP:
		p.PacketID = d.packetID()
		d.reason(p, v)
	case SUBSCRIBE, UNSUBSCRIBE:
		d.filters(p, v)
	case SUBACK, UNSUBACK:
		d.codes(p, v)
	case PINGREQ, PINGRESP:
	case DISCONNECT:
		d.reason(p, v)
	case AUTH:
		if v != V5 {
			d.fail("AUTH exists only in MQTT 5")
		}
		d.reason(p, v)
	default:
		d.fail("packet type 0")
	}
	if d.err == nil && len(d.buf) > 0 {
		d.fail("%d bytes left over", len(d.buf))
	}
	if d.err != nil {
		return nil, fmt.Errorf("%s: %w", p.Type, d.err)
	}
	return p, nil
}

func (d *decoder) connect(p *Packet) {
	c := &Connect{ProtocolName: d.text(), Version: Version(d.byte())}
	p.Connect = c
	flags := d.byte()
	c.KeepAlive = d.uint16()
	c.Resume = flags&2 == 0
	if d.err == nil && (c.ProtocolName != "MQTT" || c.Version != V311 && c.Version != V5) {
		d.fail("protocol %q level %d", c.ProtocolName, c.Version)
	}
	if flags&1 != 0 {
		d.fail("reserved connect flag") // [MQTT-3.1.2-3]
	}
	if c.Version == V5 {
		p.Properties = d.properties()
	}
	c.ClientID = d.text()
	if flags&4 != 0 {
		will := &Will{QoS: flags >> 3 & 3, Retain: flags&0x20 != 0}
		if will.QoS == 3 {
			d.fail("will with QoS 3")
		}
		if c.Version == V5 {
			will.Properties = d.properties()
		}
		will.Topic = d.text()
		will.Payload = d.binary()
		c.Will = will
	} else if flags&0x38 != 0 {
		d.fail("will flags without a will") // [MQTT-3.1.2-11]
	}
	if flags&0x80 != 0 {
		c.Username = d.text()
	} else if flags&0x40 != 0 && c.Version != V5 {
		d.fail("password without user name") // [MQTT-3.1.2-22]
	}
	if flags&0x40 != 0 {
		c.Password = d.binary()
	}
}

func (d *decoder) connack(p *Packet, v Version) {
	flags := d.byte()
	if flags > 1 {
		d.fail("acknowledge flags 0x%X", flags) // [MQTT-3.2.2-1]
	}
	p.SessionPresent = flags == 1
	p.ReasonCode = ReasonCode(d.byte())
	// A server that refuses the protocol version may not know which one to answer in.
	if v == V5 && len(d.buf) > 0 {
		p.Properties = d.properties()
	}
}

func (d *decoder) publish(p *Packet, v Version) {
	if p.QoS == 3 {
		d.fail("QoS 3") // [MQTT-3.3.1-4]
	}
	p.Topic = d.text()
	if p.QoS > 0 {
		p.PacketID = d.packetID()
	}
	if v == V5 {
		p.Properties = d.properties()
	}
	if strings.ContainsAny(p.Topic, "+#") {
		d.fail("wildcard in a topic name") // [MQTT-3.3.2-2]
	}
	if _, alias := p.Properties.Get(PropTopicAlias); p.Topic == "" && !alias {
		d.fail("no topic")
	}
	p.Payload, d.buf = d.buf, nil
}

func (d *decoder) filters(p *Packet, v Version) {
	p.PacketID = d.packetID()
	if v == V5 {
		p.Properties = d.properties()
	}
	for len(d.buf) > 0 && d.err == nil {
		f := Filter{Topic: d.text()}
		if p.Type == SUBSCRIBE {
			options := d.byte()
			f.QoS = options & 3
			if v == V5 {
				f.NoLocal, f.RetainAsPublished, f.RetainHandling = options&4 != 0, options&8 != 0, options>>4&3
				options &^= 0x3C
			}
			if options&^3 != 0 || f.QoS == 3 || f.RetainHandling == 3 {
				d.fail("subscription options 0x%X", options)
			}
		}
		p.Filters = append(p.Filters, f)
	}
	if len(p.Filters) == 0 {
		d.fail("no filter") // [MQTT-3.8.3-2]
	}
}

func (d *decoder) codes(p *Packet, v Version) {
	p.PacketID = d.packetID()
	if v == V5 {
		p.Properties = d.properties()
	}
	if p.Type == UNSUBACK && v != V5 {
		return
	}
	for _, c := range d.buf {
		p.ReasonCodes = append(p.ReasonCodes, ReasonCode(c))
	}
	if len(d.buf) == 0 {
		d.fail("no reason code")
	}
	d.buf = nil
}

// reason reads the reason code and the properties that MQTT 5 may leave out.
func (d *decoder) reason(p *Packet, v Version) {
	if v != V5 || len(d.buf) == 0 || d.err != nil {
		return
	}
	p.ReasonCode = ReasonCode(d.byte())
	if len(d.buf) > 0 {
		p.Properties = d.properties()
	}
}

// decoder takes fields from the front of a packet's body and keeps the first error.
type decoder struct {
	buf []byte
	err error
}

func (d *decoder) fail(format string, args ...any) {
	if d.err == nil {
		d.err = malformed(format, args...)
	}
}

func (d *decoder) take(n int) []byte {
	if d.err != nil {
		return nil
	}
	if n > len(d.buf) {
		d.fail("cut short")
		return nil
	}
	b := d.buf[:n:n]
	d.buf = d.buf[n:]
	return b
}

func (d *decoder) byte() byte {
	b := d.take(1)
	if b == nil {
		return 0
	}
	return b[0]
}

func (d *decoder) uint16() uint16 {
	b := d.take(2)
	if b == nil {
		return 0
	}
	return binary.BigEndian.Uint16(b)
}

func (d *decoder) uint32() uint32 {
	b := d.take(4)
	if b == nil {
		return 0
	}
	return binary.BigEndian.Uint32(b)
}

func (d *decoder) packetID() uint16 {
	id := d.uint16()
	if id == 0 {
		d.fail("packet identifier 0") // [MQTT-2.3.1-1]
	}
	return id
}

func (d *decoder) binary() []byte { return d.take(int(d.uint16())) }

func (d *decoder) text() string {
	b := d.binary()
	if !utf8.Valid(b) || strings.IndexByte(string(b), 0) >= 0 {
		d.fail("text is not UTF-8 without NUL") // [MQTT-1.5.3-1]
	}
	return string(b)
}

func (d *decoder) varint() int {
	n := 0
	for i := range 4 {
		b := d.byte()
		n |= int(b&0x7F) << (7 * i)
		if b&0x80 == 0 {
			return n
		}
	}
	d.fail("variable integer of more than four bytes")
	return 0
}
