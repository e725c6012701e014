package hooks

import (
	"context"

	"github.com/mochi-mqtt/server/v2/packets"
	"github.com/opticworks/devicecloud/registry"
	"github.com/opticworks/devicecloud/topic"
)

// claim binds a device to the person whose code it presents, or who had its button
// pressed. A refusal is a response like any other; the message is acknowledged when
// what it did is committed. [contracts I]
func (g *guard) claim(s *session, k topic.Kind, pk *packets.Packet, bind func(context.Context, *registry.Session, []byte) ([]byte, error)) verdict {
	response, err := bind(context.Background(), s.device.session, pk.Payload)
	if err != nil {
		return g.outcome(s, k, err)
	}
	g.respond(s, topic.ClaimResponse, response)
	return settled
}
