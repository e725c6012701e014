package broker

import (
	"errors"
	"fmt"
	"os"

	"github.com/mochi-mqtt/server/v2/packets"
)

// Kinds of end that CloseReason tells apart; they are also reasons of presence.
const (
	ClientDisconnect = "client_disconnect" // the client sent DISCONNECT
	KeepaliveTimeout = "keepalive_timeout" // it was silent for longer than it may be
	NetworkError     = "network_error"     // the connection broke, or we closed it
	ProtocolError    = "protocol_error"    // it sent what MQTT forbids
)

// Sentinels that Lifecycle.ConnClosed can find in its error by errors.Is.
var (
	// ErrPanic: serving the connection panicked. The panic is logged and counted.
	ErrPanic = errors.New("broker: panic while serving a connection")
	// ErrSlowReader: the client read too slowly, and its write queue ran full or stalled.
	ErrSlowReader = errors.New("broker: client reads too slowly")
	// ErrHandshake: the TLS handshake failed; there was no MQTT.
	ErrHandshake = errors.New("broker: TLS handshake failed")
)

// GuardError says why the wire guard refused a client's bytes. It holds constants only, never what the client sent.
type GuardError struct {
	Code byte   // MQTT 5 reason code, 0x80 or above
	Why  string // for people
}

// Error implements error.
func (e *GuardError) Error() string { return fmt.Sprintf("wire guard 0x%02x: %s", e.Code, e.Why) }

func malformed(why string) error { return &GuardError{Code: packets.ErrMalformedPacket.Code, Why: why} }

func violation(why string) error {
	return &GuardError{Code: packets.ErrProtocolViolation.Code, Why: why}
}

// CloseReason classifies the error with which a connection ended, as ConnClosed gets it. code is the MQTT 5 reason code
// that describes it, 0 when there is none to tell the client. What the server itself began (a takeover, a kick, a
// drain) looks like NetworkError or, when a packet was just being processed, ClientDisconnect: whoever began it knows
// better.
func CloseReason(err error) (code byte, kind string) {
	var guard *GuardError
	var reason packets.Code
	switch {
	case err == nil:
		return 0, ClientDisconnect
	case errors.Is(err, ErrPanic):
		return packets.ErrUnspecifiedError.Code, ProtocolError
	case errors.Is(err, ErrHandshake), errors.Is(err, ErrSlowReader):
		return 0, NetworkError
	case errors.As(err, &guard):
		return guard.Code, ProtocolError
	case errors.Is(err, os.ErrDeadlineExceeded):
		return packets.ErrKeepAliveTimeout.Code, KeepaliveTimeout
	case errors.Is(err, packets.ErrRejectPacket): // a hook ended the session and has said what it wanted to say
		return 0, ProtocolError
	case errors.As(err, &reason):
		if reason.Code < packets.ErrUnspecifiedError.Code { // DISCONNECT with will message
			return 0, ClientDisconnect
		}
		return reason.Code, ProtocolError
	}
	return 0, NetworkError
}

// V3Code is the MQTT 3.1.1 CONNACK return code for an MQTT 5 reason code; 0 stays 0.
func V3Code(code byte) byte {
	switch code {
	case 0:
		return 0
	case packets.ErrUnsupportedProtocolVersion.Code:
		return 1
	case packets.ErrClientIdentifierNotValid.Code:
		return 2
	case packets.ErrServerUnavailable.Code, packets.ErrServerBusy.Code:
		return 3
	case packets.ErrBadUsernameOrPassword.Code:
		return 4
	}
	return 5
}
