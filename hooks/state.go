package hooks

import (
	"bytes"

	"github.com/mochi-mqtt/server/v2/packets"
	"github.com/opticworks/devicecloud/registry"
	"github.com/opticworks/devicecloud/topic"
)

// state keeps a state message: at QoS 1 and 2 the caller waits for its commit, at
// QoS 0 for nothing.
func (g *guard) state(s *session, pk *packets.Packet) verdict {
	if pk.FixedHeader.Qos == 0 {
		if err := g.registry.ReportStateLater(s.device.session, pk.Payload); err != nil {
			return g.later(s, topic.State, err)
		}
	} else if err := g.registry.ReportState(s.device.session, pk.Payload); err != nil {
		return g.outcome(s, topic.State, err)
	}
	if g.courier.watchers.Load() > 0 && claimsPresence(pk.Payload) {
		return g.word(s, topic.State)
	}
	return fanOut
}

// claimsPresence reports whether a state message could tell subscribers something
// about presence that is not the registry's word: that the device is offline,
// which it is not while it speaks, or the fields that the server alone sets. It
// may err on the side of yes.
func claimsPresence(payload []byte) bool {
	return bytes.Contains(payload, []byte("false")) || bytes.Contains(payload, []byte(`"status`)) ||
		bytes.Contains(payload, []byte(`"epoch`)) || bytes.IndexByte(payload, '\\') >= 0
}

// later turns the error of a write that nobody waits for into a verdict.
func (g *guard) later(s *session, k topic.Kind, err error) verdict {
	if registry.KindOf(err) == registry.Invalid {
		return g.outcome(s, k, err)
	}
	return forgotten // the registry has counted it
}
