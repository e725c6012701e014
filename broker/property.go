package broker

import (
	"bytes"

	"github.com/mochi-mqtt/server/v2/packets"
)

// maxProperties is the largest block of properties of any packet but PUBLISH, in bytes. User properties have no other
// bound, and mochi sends those of a SUBSCRIBE back with the SUBACK.
const maxProperties = 4 << 10

// place is where a block of properties stands; a set of places is the sum of them.
type place uint8

const (
	inConnect place = 1 << iota
	inWill
	inSubscribe
	inUnsubscribe
	inAck
	inDisconnect
)

// shape is the form of a property's value.
type shape uint8

const (
	unknown shape = iota
	oneByte
	twoBytes
	fourBytes
	varInt
	text
	data
	textPair
)

// property says what form a property of a client's packet has and where it may stand; see table 2-4 of MQTT 5.
// Properties that only a server sends are unknown.
func property(id byte) (shape, place) {
	switch id {
	case packets.PropPayloadFormat:
		return oneByte, inWill
	case packets.PropMessageExpiryInterval, packets.PropWillDelayInterval:
		return fourBytes, inWill
	case packets.PropContentType, packets.PropResponseTopic:
		return text, inWill
	case packets.PropCorrelationData:
		return data, inWill
	case packets.PropSubscriptionIdentifier:
		return varInt, inSubscribe
	case packets.PropSessionExpiryInterval:
		return fourBytes, inConnect | inDisconnect
	case packets.PropAuthenticationMethod:
		return text, inConnect
	case packets.PropAuthenticationData:
		return data, inConnect
	case packets.PropRequestProblemInfo, packets.PropRequestResponseInfo:
		return oneByte, inConnect
	case packets.PropReasonString:
		return text, inAck | inDisconnect
	case packets.PropReceiveMaximum, packets.PropTopicAliasMaximum:
		return twoBytes, inConnect
	case packets.PropMaximumPacketSize:
		return fourBytes, inConnect
	case packets.PropUser:
		return textPair, inConnect | inWill | inSubscribe | inUnsubscribe | inAck | inDisconnect
	}
	return unknown, 0
}

// properties judges a block of MQTT 5 properties.
func (f *fields) properties(at place) error {
	n := f.varint()
	if f.bad == "" && n > maxProperties {
		return &GuardError{Code: packets.ErrQuotaExceeded.Code, Why: "block of properties is too large"}
	}
	block := &fields{b: f.take(n), bad: f.bad}
	var seen uint64 // bit set by id; ids end at 42
	for len(block.b) > 0 {
		id := block.byte()
		form, places := property(id)
		if places&at == 0 {
			return malformed("property does not belong here") // [MQTT-2.2.2]
		}
		if seen&(1<<id) != 0 && id != packets.PropUser {
			return violation("property given twice")
		}
		seen |= 1 << id
		if err := block.value(id, form); err != nil {
			return err
		}
	}
	if block.bad != "" {
		f.fail(block.bad)
	}
	return f.err()
}

// value judges the value of one property.
func (f *fields) value(id byte, form shape) error {
	var number uint32
	var words []byte
	switch form {
	case oneByte:
		number = uint32(f.byte())
	case twoBytes:
		number = uint32(f.uint16())
	case fourBytes:
		number = f.uint32()
	case varInt:
		number = uint32(f.varint())
	case text:
		words = f.text()
	case data:
		f.binary()
	case textPair:
		f.text()
		f.text()
	}
	if f.bad != "" {
		return f.err()
	}
	switch id {
	case packets.PropReceiveMaximum, packets.PropMaximumPacketSize, packets.PropSubscriptionIdentifier:
		if number == 0 {
			return violation("property must not be 0")
		}
	case packets.PropPayloadFormat, packets.PropRequestProblemInfo, packets.PropRequestResponseInfo:
		if number > 1 {
			return violation("property must be 0 or 1")
		}
	case packets.PropResponseTopic:
		if bytes.ContainsAny(words, "+#") {
			return violation("response topic with wildcards") // [MQTT-3.3.2-14]
		}
	case packets.PropAuthenticationMethod:
		return &GuardError{Code: packets.ErrBadAuthenticationMethod.Code, Why: "no authentication method is supported"}
	case packets.PropAuthenticationData:
		return violation("authentication data without a method")
	}
	return nil
}
