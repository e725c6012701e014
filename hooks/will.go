package hooks

import (
	"github.com/mochi-mqtt/server/v2/packets"
	"github.com/opticworks/devicecloud/topic"
)

// maxWill bounds the payload of a will, in bytes.
const maxWill = 4 << 10

// will is a last will as CONNECT carried it. It is judged and goes no further:
// mochi never gets it, and what people are told when a device vanishes is the
// registry's own announcement, fenced by the connection's epoch. So there is no
// will at a takeover, none of a superseded session, and none is lost in a panic.
type will struct {
	topic   string
	payload []byte
}

// checkWill judges the will of a device: on its own state topic, small, and not
// claiming to be online.
func (g *guard) checkWill(deviceID string, w *will) error {
	if t, ok := g.root.Parse(w.topic); !ok || t.Kind != topic.State || t.DeviceID != deviceID {
		g.metrics.denied("will")
		return refuse(packets.ErrNotAuthorized.Code, "will topic")
	}
	if len(w.payload) > maxWill {
		return refuse(packets.ErrNotAuthorized.Code, "will too large")
	}
	if err := g.registry.CheckWill(w.payload); err != nil {
		return refuse(packets.ErrNotAuthorized.Code, "will payload").because(err)
	}
	return nil
}
