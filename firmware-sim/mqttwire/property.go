package mqttwire

import (
	"encoding/binary"
	"fmt"
)

// PropertyID names an MQTT 5 property.
type PropertyID byte

// All properties of MQTT 5.
const (
	PropPayloadFormat          PropertyID = 0x01
	PropMessageExpiry          PropertyID = 0x02
	PropContentType            PropertyID = 0x03
	PropResponseTopic          PropertyID = 0x08
	PropCorrelationData        PropertyID = 0x09
	PropSubscriptionID         PropertyID = 0x0B
	PropSessionExpiry          PropertyID = 0x11
	PropAssignedClientID       PropertyID = 0x12
	PropServerKeepAlive        PropertyID = 0x13
	PropAuthMethod             PropertyID = 0x15
	PropAuthData               PropertyID = 0x16
	PropRequestProblemInfo     PropertyID = 0x17
	PropWillDelay              PropertyID = 0x18
	PropRequestResponseInfo    PropertyID = 0x19
	PropResponseInfo           PropertyID = 0x1A
	PropServerReference        PropertyID = 0x1C
	PropReasonString           PropertyID = 0x1F
	PropReceiveMaximum         PropertyID = 0x21
	PropTopicAliasMaximum      PropertyID = 0x22
	PropTopicAlias             PropertyID = 0x23
	PropMaximumQoS             PropertyID = 0x24
	PropRetainAvailable        PropertyID = 0x25
	PropUserProperty           PropertyID = 0x26
	PropMaximumPacketSize      PropertyID = 0x27
	PropWildcardSubAvailable   PropertyID = 0x28
	PropSubscriptionIDsAllowed PropertyID = 0x29
	PropSharedSubAvailable     PropertyID = 0x2A
)

// Property is one property with its value: Number for the integer ones, Data for text and binary, Name and Data for
// a user property.
type Property struct {
	ID     PropertyID
	Number uint32
	Name   string
	Data   []byte
}

// Properties keeps the order of the wire and allows repetition, so that a test can send what a server must refuse.
type Properties []Property

// Number makes an integer property of any width.
func Number(id PropertyID, n uint32) Property { return Property{ID: id, Number: n} }

// Text makes a property of a string, or of bytes.
func Text(id PropertyID, s string) Property { return Property{ID: id, Data: []byte(s)} }

// User makes a user property.
func User(name, value string) Property {
	return Property{ID: PropUserProperty, Name: name, Data: []byte(value)}
}

// Get returns the first property with that id.
func (ps Properties) Get(id PropertyID) (Property, bool) {
	for _, p := range ps {
		if p.ID == id {
			return p, true
		}
	}
	return Property{}, false
}

// Number returns the first integer property with that id.
func (ps Properties) Number(id PropertyID) (uint32, bool) {
	p, ok := ps.Get(id)
	return p.Number, ok
}

// Text returns the first text or binary property with that id, "" when there is none.
func (ps Properties) Text(id PropertyID) string {
	p, _ := ps.Get(id)
	return string(p.Data)
}

// valueKind is how a property's value is written.
type valueKind byte

const (
	kindNone valueKind = iota
	kindByte
	kindUint16
	kindUint32
	kindVarint
	kindText
	kindBinary
	kindPair
)

func (id PropertyID) kind() valueKind {
	switch id {
	case PropPayloadFormat, PropRequestProblemInfo, PropRequestResponseInfo, PropMaximumQoS, PropRetainAvailable,
		PropWildcardSubAvailable, PropSubscriptionIDsAllowed, PropSharedSubAvailable:
		return kindByte
	case PropServerKeepAlive, PropReceiveMaximum, PropTopicAliasMaximum, PropTopicAlias:
		return kindUint16
	case PropMessageExpiry, PropSessionExpiry, PropWillDelay, PropMaximumPacketSize:
		return kindUint32
	case PropSubscriptionID:
		return kindVarint
	case PropContentType, PropResponseTopic, PropAssignedClientID, PropAuthMethod, PropResponseInfo,
		PropServerReference, PropReasonString:
		return kindText
	case PropCorrelationData, PropAuthData:
		return kindBinary
	case PropUserProperty:
		return kindPair
	}
	return kindNone
}

// append writes the properties with their length in front.
func (ps Properties) append(dst []byte) ([]byte, error) {
	body := make([]byte, 0, 16*len(ps))
	for _, p := range ps {
		var err error
		body, err = p.append(body)
		if err != nil {
			return nil, err
		}
	}
	dst, err := appendVarint(dst, len(body))
	if err != nil {
		return nil, err
	}
	return append(dst, body...), nil
}

func (p Property) append(dst []byte) ([]byte, error) {
	dst = append(dst, byte(p.ID))
	switch p.ID.kind() {
	case kindByte:
		return append(dst, byte(p.Number)), nil
	case kindUint16:
		return binary.BigEndian.AppendUint16(dst, uint16(p.Number)), nil
	case kindUint32:
		return binary.BigEndian.AppendUint32(dst, p.Number), nil
	case kindVarint:
		return appendVarint(dst, int(p.Number))
	case kindText, kindBinary:
		return appendBytes(dst, p.Data)
	case kindPair:
		dst, err := appendBytes(dst, []byte(p.Name))
		if err != nil {
			return nil, err
		}
		return appendBytes(dst, p.Data)
	}
	return nil, fmt.Errorf("property 0x%02X is not one of MQTT 5", byte(p.ID))
}

// properties reads a length and that many bytes of properties.
func (d *decoder) properties() Properties {
	length := d.varint()
	block := decoder{buf: d.take(length)}
	if d.err != nil {
		return nil
	}
	var ps Properties
	for len(block.buf) > 0 && block.err == nil {
		p := block.property()
		// Only these two may be repeated [MQTT-3.1.2.11].
		if _, twice := ps.Get(p.ID); twice && p.ID != PropUserProperty && p.ID != PropSubscriptionID {
			block.fail("property 0x%02X twice", byte(p.ID))
		}
		ps = append(ps, p)
	}
	if block.err != nil {
		d.err = block.err
		return nil
	}
	return ps
}

func (d *decoder) property() Property {
	p := Property{ID: PropertyID(d.byte())}
	switch p.ID.kind() {
	case kindByte:
		p.Number = uint32(d.byte())
	case kindUint16:
		p.Number = uint32(d.uint16())
	case kindUint32:
		p.Number = d.uint32()
	case kindVarint:
		p.Number = uint32(d.varint())
	case kindText:
		p.Data = []byte(d.text())
	case kindBinary:
		p.Data = d.binary()
	case kindPair:
		p.Name = d.text()
		p.Data = []byte(d.text())
	default:
		d.fail("property 0x%02X is unknown", byte(p.ID))
	}
	return p
}
