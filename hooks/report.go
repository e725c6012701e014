package hooks

import (
	"encoding/json"

	"github.com/mochi-mqtt/server/v2/packets"
	"github.com/opticworks/devicecloud/topic"
)

// report keeps a message whole. Telemetry, and anything at QoS 0, is best effort:
// nobody waits for its commit.
func (g *guard) report(s *session, k topic.Kind, pk *packets.Packet) verdict {
	if k == topic.OTAStatus && g.tooMuchProgress(s, pk.Payload) {
		return forgotten
	}
	if k == topic.OTAStatus {
		return g.updateReported(s, pk)
	}
	if k == topic.Telemetry || pk.FixedHeader.Qos == 0 {
		if err := g.registry.KeepReportLater(s.device.session, k, pk.Payload); err != nil {
			return g.later(s, k, err)
		}
		return fanOut
	}
	return g.outcome(s, k, g.registry.KeepReport(s.device.session, k, pk.Payload))
}

// tooMuchProgress counts the reports on one update. A payload that it cannot read
// is left to the registry, which says what is wrong with it.
func (g *guard) tooMuchProgress(s *session, payload []byte) bool {
	if g.limits.OTAStatusPerUpdate <= 0 {
		return false
	}
	var r struct {
		Version   string `json:"version"`
		RolloutID string `json:"rollout_id"`
		Status    string `json:"status"`
	}
	if json.Unmarshal(payload, &r) != nil {
		return false
	}
	d := s.device
	if update := r.RolloutID + " " + r.Version; update != d.update {
		d.update, d.updateReports = update, 0
	}
	d.updateReports++
	return d.updateReports > g.limits.OTAStatusPerUpdate && r.Status != "success" && r.Status != "failed"
}
