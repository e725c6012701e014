package mqttwire

import "fmt"

// ReasonCode is an MQTT 5 reason code, or the return code of a 3.1.1 CONNACK or SUBACK.
type ReasonCode byte

// The reason codes that tests and the simulator name. The 3.1.1 return codes of CONNACK have their own names below.
const (
	Success                     ReasonCode = 0x00
	NoMatchingSubscribers       ReasonCode = 0x10
	UnspecifiedError            ReasonCode = 0x80
	MalformedPacket             ReasonCode = 0x81
	ProtocolError               ReasonCode = 0x82
	UnsupportedProtocolVersion  ReasonCode = 0x84
	ClientIdentifierNotValid    ReasonCode = 0x85
	BadUserNameOrPassword       ReasonCode = 0x86
	NotAuthorized               ReasonCode = 0x87
	ServerUnavailable           ReasonCode = 0x88
	ServerBusy                  ReasonCode = 0x89
	Banned                      ReasonCode = 0x8A
	ServerShuttingDown          ReasonCode = 0x8B
	KeepAliveTimeout            ReasonCode = 0x8D
	SessionTakenOver            ReasonCode = 0x8E
	TopicFilterInvalid          ReasonCode = 0x8F
	TopicNameInvalid            ReasonCode = 0x90
	PacketIdentifierInUse       ReasonCode = 0x91
	PacketIdentifierNotFound    ReasonCode = 0x92
	ReceiveMaximumExceeded      ReasonCode = 0x93
	TopicAliasInvalid           ReasonCode = 0x94
	PacketTooLarge              ReasonCode = 0x95
	MessageRateTooHigh          ReasonCode = 0x96
	QuotaExceeded               ReasonCode = 0x97
	AdministrativeAction        ReasonCode = 0x98
	PayloadFormatInvalid        ReasonCode = 0x99
	RetainNotSupported          ReasonCode = 0x9A
	QoSNotSupported             ReasonCode = 0x9B
	SharedSubscriptionsRefused  ReasonCode = 0x9E
	SubscriptionIDsNotSupported ReasonCode = 0xA1
	WildcardsNotSupported       ReasonCode = 0xA2
)

// The return codes of a 3.1.1 CONNACK.
const (
	Refused311Version     ReasonCode = 1
	Refused311ClientID    ReasonCode = 2
	Refused311Unavailable ReasonCode = 3
	Refused311Credential  ReasonCode = 4
	Refused311Authorized  ReasonCode = 5
)

// Failed reports whether the code is a refusal in an acknowledgement of either version. In a 3.1.1 CONNACK every
// code but 0 is one; Client.Connect knows that.
func (c ReasonCode) Failed() bool { return c >= 0x80 }

// String returns the code in hex, as logs and the specification write it.
func (c ReasonCode) String() string { return fmt.Sprintf("0x%02X", byte(c)) }

// RefusedError says that the server answered a request with a failure code.
type RefusedError struct {
	// Request is the packet that was refused: CONNECT, PUBLISH, SUBSCRIBE or UNSUBSCRIBE.
	Request PacketType
	Code    ReasonCode
	// Reason is the server's reason string, if it sent one.
	Reason string
}

// Error names the request and the code.
func (e *RefusedError) Error() string {
	if e.Reason != "" {
		return fmt.Sprintf("%s refused with %s: %s", e.Request, e.Code, e.Reason)
	}
	return fmt.Sprintf("%s refused with %s", e.Request, e.Code)
}

// DisconnectedError says that the server sent DISCONNECT while the client waited for something else.
type DisconnectedError struct {
	Code   ReasonCode
	Reason string
}

// Error names the code.
func (e *DisconnectedError) Error() string {
	return fmt.Sprintf("server sent DISCONNECT %s %s", e.Code, e.Reason)
}
