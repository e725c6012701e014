package broker

import (
	"github.com/mochi-mqtt/server/v2/packets"
)

// Bits of the connect flags [MQTT-3.1.2].
const (
	flagReserved   = 1 << 0
	flagClean      = 1 << 1
	flagWill       = 1 << 2
	flagWillQoS    = 3 << 3
	flagWillRetain = 1 << 5
	flagPassword   = 1 << 6
	flagUserName   = 1 << 7
)

// judgeConnect judges a CONNECT and learns the protocol version, in the form of which every answer is given.
func (g *wireGuard) judgeConnect(f *fields) error {
	name, level := f.text(), f.byte()
	if f.bad != "" {
		return f.err()
	}
	if string(name) != "MQTT" || (level != 4 && level != 5) { // [MQTT-3.1.2-1] [MQTT-3.1.2-2]
		g.version.Store(4) // nobody knows what else such a client would understand
		return &GuardError{Code: packets.ErrUnsupportedProtocolVersion.Code, Why: "protocol is neither MQTT 3.1.1 nor 5"}
	}
	v5 := level == 5
	g.version.Store(uint32(level))
	flags := f.byte()
	_ = f.uint16() // keep alive: any value is allowed
	if err := judgeConnectFlags(flags, v5); f.bad == "" && err != nil {
		return err
	}
	if v5 {
		if err := f.properties(inConnect); err != nil {
			return err
		}
	}
	id := f.text()
	if flags&flagWill != 0 {
		if v5 {
			if err := f.properties(inWill); err != nil {
				return err
			}
		}
		if len(f.text()) == 0 {
			f.fail("empty will topic") // [MQTT-4.7.3-1]
		}
		f.binary()
	}
	if flags&flagUserName != 0 {
		f.text() // [MQTT-3.1.3-11]
	}
	if flags&flagPassword != 0 {
		f.binary()
	}
	if err := f.end(); err != nil {
		return err
	}
	if len(id) == 0 && !v5 && flags&flagClean == 0 { // mochi would answer 3.1.1 with a code that it does not have
		return &GuardError{Code: packets.ErrClientIdentifierNotValid.Code, Why: "empty client id without a clean session"} // [MQTT-3.1.3-8]
	}
	return nil
}

func judgeConnectFlags(flags byte, v5 bool) error {
	switch {
	case flags&flagReserved != 0:
		return malformed("reserved connect flag") // [MQTT-3.1.2-3]
	case flags&flagWillQoS == flagWillQoS:
		return malformed("will with QoS 3") // [MQTT-3.1.2-12]
	case flags&flagWill == 0 && flags&(flagWillQoS|flagWillRetain) != 0:
		return malformed("will options without a will") // [MQTT-3.1.2-11] [MQTT-3.1.2-13]
	case flags&flagPassword != 0 && flags&flagUserName == 0 && !v5:
		return malformed("password without a user name") // [MQTT-3.1.2-22] of 3.1.1
	}
	return nil
}
