package mqttwire

import (
	"encoding/binary"
	"fmt"
)

// Append adds the packet's bytes for that version to dst. It refuses only what the format cannot express (lengths,
// unknown properties); whether the packet makes sense is the caller's business, because tests send nonsense.
func (p *Packet) Append(dst []byte, v Version) ([]byte, error) {
	if p.Type == CONNECT && p.Connect != nil {
		v = p.Connect.level()
	}
	body, err := p.appendBody(make([]byte, 0, 64+len(p.Topic)+len(p.Payload)), v)
	if err != nil {
		return nil, fmt.Errorf("encode %s: %w", p.Type, err)
	}
	dst = append(dst, byte(p.Type)<<4|p.flags())
	dst, err = appendVarint(dst, len(body))
	if err != nil {
		return nil, fmt.Errorf("encode %s: %w", p.Type, err)
	}
	return append(dst, body...), nil
}

// flags returns the lower half of the first byte.
func (p *Packet) flags() byte {
	switch p.Type {
	case PUBLISH:
		return bit(p.Dup, 3) | (p.QoS&3)<<1 | bit(p.Retain, 0)
	case PUBREL, SUBSCRIBE, UNSUBSCRIBE:
		return 2
	}
	return 0
}

func (p *Packet) appendBody(dst []byte, v Version) ([]byte, error) {
	switch p.Type {
	case CONNECT:
		return p.appendConnect(dst)
	case CONNACK:
		dst = append(dst, bit(p.SessionPresent, 0), byte(p.ReasonCode))
		return p.appendProperties(dst, v)
	case PUBLISH:
		return p.appendPublish(dst, v)
	case PUBACK, PUBREC, PUBREL, PUBCOMP:
		dst = binary.BigEndian.AppendUint16(dst, p.PacketID)
		return p.appendReason(dst, v)
	case SUBSCRIBE, UNSUBSCRIBE:
		return p.appendFilters(dst, v)
	case SUBACK, UNSUBACK:
		return p.appendCodes(dst, v)
	case DISCONNECT, AUTH:
		return p.appendReason(dst, v)
	}
	return dst, nil
}

// level returns the protocol level that goes on the wire.
func (c *Connect) level() Version {
	if c.Version == 0 {
		return V311
	}
	return c.Version
}

func (p *Packet) appendConnect(dst []byte) ([]byte, error) {
	c := p.Connect
	if c == nil {
		return nil, fmt.Errorf("no Connect given")
	}
	name := c.ProtocolName
	if name == "" {
		name = "MQTT"
	}
	// 3.1.1 knows no password without a user name [MQTT-3.1.2-22].
	hasUser := c.Username != "" || c.Password != nil && c.level() != V5
	flags := bit(hasUser, 7) | bit(c.Password != nil, 6) | bit(!c.Resume, 1)
	if c.Will != nil {
		flags |= bit(c.Will.Retain, 5) | (c.Will.QoS&3)<<3 | 1<<2
	}
	w := writer{buf: dst}
	w.bytes([]byte(name))
	w.buf = append(w.buf, byte(c.level()), flags)
	w.buf = binary.BigEndian.AppendUint16(w.buf, c.KeepAlive)
	if c.level() == V5 {
		w.properties(p.Properties)
	}
	w.bytes([]byte(c.ClientID))
	if c.Will != nil {
		if c.level() == V5 {
			w.properties(c.Will.Properties)
		}
		w.bytes([]byte(c.Will.Topic))
		w.bytes(c.Will.Payload)
	}
	if hasUser {
		w.bytes([]byte(c.Username))
	}
	if c.Password != nil {
		w.bytes(c.Password)
	}
	return w.buf, w.err
}

func (p *Packet) appendPublish(dst []byte, v Version) ([]byte, error) {
	w := writer{buf: dst}
	w.bytes([]byte(p.Topic))
	if p.QoS > 0 {
		w.buf = binary.BigEndian.AppendUint16(w.buf, p.PacketID)
	}
	if v == V5 {
		w.properties(p.Properties)
	}
	w.buf = append(w.buf, p.Payload...)
	return w.buf, w.err
}

func (p *Packet) appendFilters(dst []byte, v Version) ([]byte, error) {
	w := writer{buf: binary.BigEndian.AppendUint16(dst, p.PacketID)}
	if v == V5 {
		w.properties(p.Properties)
	}
	for _, f := range p.Filters {
		w.bytes([]byte(f.Topic))
		if p.Type == SUBSCRIBE {
			options := f.QoS & 3
			if v == V5 {
				options |= bit(f.NoLocal, 2) | bit(f.RetainAsPublished, 3) | (f.RetainHandling&3)<<4
			}
			w.buf = append(w.buf, options)
		}
	}
	return w.buf, w.err
}

func (p *Packet) appendCodes(dst []byte, v Version) ([]byte, error) {
	dst = binary.BigEndian.AppendUint16(dst, p.PacketID)
	dst, err := p.appendProperties(dst, v)
	if err != nil {
		return nil, err
	}
	if p.Type == UNSUBACK && v != V5 {
		return dst, nil
	}
	for _, c := range p.ReasonCodes {
		dst = append(dst, byte(c))
	}
	return dst, nil
}

// appendReason writes the reason code and properties, which MQTT 5 lets one leave out when they say nothing.
func (p *Packet) appendReason(dst []byte, v Version) ([]byte, error) {
	if v != V5 || p.ReasonCode == Success && len(p.Properties) == 0 {
		return dst, nil
	}
	dst = append(dst, byte(p.ReasonCode))
	if len(p.Properties) == 0 {
		return dst, nil
	}
	return p.Properties.append(dst)
}

func (p *Packet) appendProperties(dst []byte, v Version) ([]byte, error) {
	if v != V5 {
		return dst, nil
	}
	return p.Properties.append(dst)
}

// writer collects the first error, so that a packet's fields can be written one after the other.
type writer struct {
	buf []byte
	err error
}

func (w *writer) bytes(b []byte) {
	if w.err == nil {
		w.buf, w.err = appendBytes(w.buf, b)
	}
}

func (w *writer) properties(ps Properties) {
	if w.err == nil {
		w.buf, w.err = ps.append(w.buf)
	}
}

// appendBytes writes a string or binary field with its 16-bit length.
func appendBytes(dst, b []byte) ([]byte, error) {
	if len(b) > 0xFFFF {
		return nil, fmt.Errorf("%w: a field of %d bytes", ErrTooLarge, len(b))
	}
	dst = binary.BigEndian.AppendUint16(dst, uint16(len(b)))
	return append(dst, b...), nil
}

// appendVarint writes a length of up to four bytes.
func appendVarint(dst []byte, n int) ([]byte, error) {
	if n < 0 || n > maxRemaining {
		return nil, fmt.Errorf("%w: length %d", ErrTooLarge, n)
	}
	for n >= 0x80 {
		dst = append(dst, byte(n)|0x80)
		n >>= 7
	}
	return append(dst, byte(n)), nil
}

func bit(set bool, n uint) byte {
	if set {
		return 1 << n
	}
	return 0
}
