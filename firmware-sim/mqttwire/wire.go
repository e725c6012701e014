// Package mqttwire is a small MQTT 3.1.1 and 5 client codec with a synchronous client on top.
//
// It exists so that the simulator, and the end-to-end tests of the cloud, speak to the server with code that shares
// nothing with the server: an error in one codec cannot hide behind the same error in the other. For that reason it
// imports only the standard library, encodes what it is told (also packets that a server must refuse) and decodes
// strictly what arrives.
//
// Layout: Packet is every control packet, [Packet.Append] encodes, [Decode] and [ReadPacket] decode, [Client] is the
// blocking convenience around one connection. A device that needs thousands of connections uses the codec alone.
package mqttwire

import (
	"errors"
	"fmt"
)

// Version is the MQTT protocol level that a CONNECT carries.
type Version byte

// The two protocol levels that the package speaks.
const (
	V311 Version = 4
	V5   Version = 5
)

// String returns the version as people write it.
func (v Version) String() string {
	switch v {
	case V311:
		return "3.1.1"
	case V5:
		return "5"
	}
	return fmt.Sprintf("level %d", byte(v))
}

// ParseVersion reads "3.1.1" or "5".
func ParseVersion(s string) (Version, error) {
	switch s {
	case "3.1.1", "3", "4", "311":
		return V311, nil
	case "5", "5.0":
		return V5, nil
	}
	return 0, fmt.Errorf("MQTT version %q is neither 3.1.1 nor 5", s)
}

// PacketType is the upper half of a packet's first byte.
type PacketType byte

// The fifteen control packets.
const (
	CONNECT     PacketType = 1
	CONNACK     PacketType = 2
	PUBLISH     PacketType = 3
	PUBACK      PacketType = 4
	PUBREC      PacketType = 5
	PUBREL      PacketType = 6
	PUBCOMP     PacketType = 7
	SUBSCRIBE   PacketType = 8
	SUBACK      PacketType = 9
	UNSUBSCRIBE PacketType = 10
	UNSUBACK    PacketType = 11
	PINGREQ     PacketType = 12
	PINGRESP    PacketType = 13
	DISCONNECT  PacketType = 14
	AUTH        PacketType = 15
)

// String returns the packet's name in the specification.
func (t PacketType) String() string {
	names := [...]string{
		"RESERVED", "CONNECT", "CONNACK", "PUBLISH", "PUBACK", "PUBREC", "PUBREL", "PUBCOMP",
		"SUBSCRIBE", "SUBACK", "UNSUBSCRIBE", "UNSUBACK", "PINGREQ", "PINGRESP", "DISCONNECT", "AUTH",
	}
	if int(t) < len(names) {
		return names[t]
	}
	return fmt.Sprintf("type %d", byte(t))
}

// Packet is any control packet. Only the fields of its type carry meaning; the others stay zero.
type Packet struct {
	Type PacketType

	// PUBLISH.
	Dup     bool
	QoS     byte
	Retain  bool
	Topic   string
	Payload []byte

	// PacketID belongs to PUBLISH with QoS > 0, the four acknowledgements, SUBSCRIBE, SUBACK, UNSUBSCRIBE, UNSUBACK.
	PacketID uint16

	// ReasonCode belongs to CONNACK (the 3.1.1 return code too), the acknowledgements, DISCONNECT and AUTH.
	ReasonCode ReasonCode
	// ReasonCodes has one entry for each filter of a SUBACK or, in MQTT 5, an UNSUBACK.
	ReasonCodes []ReasonCode
	// SessionPresent belongs to CONNACK.
	SessionPresent bool

	// Filters belongs to SUBSCRIBE and UNSUBSCRIBE (which uses only the names).
	Filters []Filter

	// Connect belongs to CONNECT.
	Connect *Connect

	// Properties is empty in MQTT 3.1.1.
	Properties Properties
}

// Connect is what a client says first.
type Connect struct {
	// Version decides the whole connection's encoding; zero means V311.
	Version Version
	// ProtocolName is "MQTT" when empty; a test may say something else.
	ProtocolName string
	// Resume asks for the stored session: the clean-session flag (clean start in MQTT 5) is its opposite,
	// because a device wants a clean one.
	Resume    bool
	KeepAlive uint16 // seconds; 0 means off
	ClientID  string
	Username  string // sent when not empty
	Password  []byte // sent when not nil
	Will      *Will
}

// Will is the message that the server publishes when the client vanishes.
type Will struct {
	Topic      string
	Payload    []byte
	QoS        byte
	Retain     bool
	Properties Properties
}

// Filter is one line of a SUBSCRIBE.
type Filter struct {
	Topic string
	QoS   byte
	// The next three exist only in MQTT 5.
	NoLocal           bool
	RetainAsPublished bool
	RetainHandling    byte
}

// The errors of the codec. Every error of decoding wraps ErrMalformed or ErrTooLarge.
var (
	// ErrMalformed says that bytes are no MQTT packet of the connection's version.
	ErrMalformed = errors.New("malformed packet")
	// ErrTooLarge says that a packet exceeds MaxReadSize, or the format's limits when encoding.
	ErrTooLarge = errors.New("packet too large")
)

// MaxReadSize is the largest packet body that ReadPacket and Client accept, a guard for the reader's memory.
const MaxReadSize = 1 << 20

// maxRemaining is the largest remaining length that four bytes can say.
const maxRemaining = 268_435_455

func malformed(format string, args ...any) error {
	return fmt.Errorf("%w: %s", ErrMalformed, fmt.Sprintf(format, args...))
}
