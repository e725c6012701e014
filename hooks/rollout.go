package hooks

import (
	"github.com/mochi-mqtt/server/v2/packets"
	"github.com/opticworks/devicecloud/registry"
	"github.com/opticworks/devicecloud/topic"
)

// Updates is what the MQTT face asks of the domain of firmware; *rollout.Service
// implements it.
type Updates interface {
	// Report takes a device's ota/status; nil is a commit receipt.
	Report(s *registry.Session, payload []byte) error
	// ReportLater is Report for QoS 0: it never blocks.
	ReportLater(s *registry.Session, payload []byte) error
	// Ready says that a device has subscribed to ota/trigger and has had the SUBACK. It
	// does not block.
	Ready(s *registry.Session)
}

// noUpdates is a cloud without rollouts.
type noUpdates struct{ registry *registry.Registry }

func (n noUpdates) Report(s *registry.Session, payload []byte) error {
	return n.registry.KeepReport(s, topic.OTAStatus, payload)
}

func (n noUpdates) ReportLater(s *registry.Session, payload []byte) error {
	return n.registry.KeepReportLater(s, topic.OTAStatus, payload)
}

func (noUpdates) Ready(*registry.Session) {}

// updateReported takes what a device says of an update; its acknowledgement is a receipt
// of what follows from it too: the result, and the halt of its rollout.
func (g *guard) updateReported(s *session, pk *packets.Packet) verdict {
	if pk.FixedHeader.Qos == 0 {
		if err := g.updates.ReportLater(s.device.session, pk.Payload); err != nil {
			return g.later(s, topic.OTAStatus, err)
		}
		return fanOut
	}
	return g.outcome(s, topic.OTAStatus, g.updates.Report(s.device.session, pk.Payload))
}

// Takes reports whether a device is connected here and has subscribed to messages of a
// kind, SUBACK included.
func (c *Courier) Takes(deviceID string, k topic.Kind) bool {
	c.mu.RLock()
	s := c.live[deviceID]
	c.mu.RUnlock()
	return s != nil && s.device != nil && s.live.Load() && s.ending.Load() == nil && s.device.outbox.takes(k)
}
