package hooks

import (
	"context"
	"errors"

	mqtt "github.com/mochi-mqtt/server/v2"
	"github.com/mochi-mqtt/server/v2/packets"
	"github.com/opticworks/devicecloud/registry"
	"github.com/opticworks/devicecloud/topic"
)

// verdict is what became of a PUBLISH, and so its answer.
type verdict uint8

const (
	fanOut    verdict = iota // committed where its kind is: acknowledged, handed to subscribers
	settled                  // the same, handed to nobody
	invalid                  // will never be accepted
	forbidden                // not this client's to publish
	forgotten                // dropped: QoS 0 that cannot be kept, progress that is too much
	transient                // not committed: the device has to send it again
	stale                    // a newer connection of the device took over
	excessive                // above a rate limit for too long
	broken                   // a defect of ours; as transient
	verdicts
)

var verdictNames = [verdicts]string{"accepted", "accepted", "invalid", "forbidden", "dropped", "unavailable", "stale", "rate_exceeded", "broken"}

// The two answers that mochi understands. Any other error is acknowledged all the
// same, and a wrapped code panics.
var (
	errReject error = packets.ErrRejectPacket
	errIgnore error = packets.CodeSuccessIgnore
)

// OnPublish decides about a client's PUBLISH. mochi acknowledges after it, so
// durable work is done here and nowhere else: the PUBACK is a commit receipt.
func (g *guard) OnPublish(cl *mqtt.Client, pk packets.Packet) (out packets.Packet, err error) {
	s := g.courier.session(cl)
	defer g.recovered("OnPublish", func() { out, err = pk, g.answer(s, &pk, topic.Unknown, broken) })
	pk.FixedHeader.Retain = false // mochi's map of retained messages burns time; ours are in the registry
	if cl.Net.Inline {
		return pk, nil
	}
	if s == nil || s.device == nil || !s.accepted.Load() {
		err = g.answer(s, &pk, topic.Unknown, forbidden)
		return pk, err
	}
	k, ok := mayPublish(g.root, s.id, pk.TopicName) // again: another hook may have allowed it
	if !ok {
		err = g.answer(s, &pk, topic.Unknown, forbidden)
		return pk, err
	}
	v := excessive
	switch g.meter(s, k, pk.FixedHeader.Qos, pk.Payload) {
	case within:
		v = g.publish(s, k, &pk)
	case dropped:
		v = forgotten
	}
	err = g.answer(s, &pk, k, v)
	return pk, err
}

// publish does what a message of a kind asks for.
func (g *guard) publish(s *session, k topic.Kind, pk *packets.Packet) verdict {
	switch k {
	case topic.State:
		return g.state(s, pk)
	case topic.Telemetry, topic.ConfigStatus, topic.OTAStatus, topic.DiagResponse:
		return g.report(s, k, pk)
	case topic.Provision:
		return g.provision(s, pk)
	case topic.Claim:
		return g.claim(s, k, pk, g.registry.ClaimByCode)
	case topic.ClaimConfirm:
		return g.claim(s, k, pk, g.registry.ConfirmClaim)
	case topic.CommandResponse:
		return g.commandAnswered(s, pk)
	case topic.KVSCredentialsRequest:
		return g.videoCredentials(s, pk)
	case topic.KVSConfigRequest:
		return g.videoConfig(s, pk)
	case topic.TargetsStream:
		g.courier.targets.streamed(s)
		return fanOut // not kept
	}
	return g.disabled(s, k, pk)
}

// outcome turns a registry error into a verdict, and keeps what is wrong with a
// payload where the owner of the firmware sees it.
func (g *guard) outcome(s *session, k topic.Kind, err error) verdict {
	switch {
	case err == nil:
		return fanOut
	case errors.Is(err, registry.ErrStale):
		return stale
	case registry.KindOf(err) == registry.Invalid:
		g.registry.RejectedPayload(s.device.session, k, err)
		return invalid
	}
	g.log.Warn("a message was not committed", "device_id", s.id, "topic", k.String(), "error", err)
	return transient
}

// answer is the one place that answers a PUBLISH. It writes refusing
// acknowledgements itself, and returns what makes mochi do the rest:
//
//	fanOut     PUBACK or PUBREC, then the subscribers, if there are any
//	settled    PUBACK, written here; or PUBREC, by mochi
//	invalid    MQTT 5: 0x99. 3.1.1: acknowledged, or it would come again for ever
//	forbidden  MQTT 5: 0x87. 3.1.1: closed
//	transient  no answer: the session ends with 0x97 and the device resends; never a
//	           PUBACK of 0x80 and above, which forbids that [MQTT-4.4.0-2]
//	stale      no answer; 0x8E
//	excessive  no answer; 0x96
func (g *guard) answer(s *session, pk *packets.Packet, k topic.Kind, v verdict) error {
	g.metrics.published(k, v)
	qos := pk.FixedHeader.Qos
	switch v {
	case fanOut:
		if g.courier.watchers.Load() > 0 && k.People() {
			return nil
		}
		return g.receipt(s, pk)
	case settled:
		return g.receipt(s, pk)
	case forgotten:
		if qos > 0 && s.ending.Load() == nil {
			return errIgnore
		}
	case invalid:
		if qos > 0 && s.version != 5 {
			return errIgnore
		}
		g.negative(s, pk, packets.ErrPayloadFormatInvalid)
	case forbidden:
		switch {
		case s == nil || qos == 0:
		case s.version == 5:
			g.negative(s, pk, packets.ErrNotAuthorized)
		default:
			s.end(0, registry.ProtocolError)
		}
	case transient, broken:
		if s != nil && (qos > 0 || v == broken) {
			s.end(packets.ErrQuotaExceeded.Code, registry.ServerError)
		}
	case stale:
		s.end(packets.ErrSessionTakenOver.Code, registry.Takeover)
	case excessive:
		s.end(packets.ErrMessageRateTooHigh.Code, registry.RateExceeded)
	}
	return errReject
}

// receipt acknowledges a message that goes to no subscriber. The PUBACK of a device
// is written past mochi, whose bookkeeping of ids has nothing to keep here: that
// bookkeeping costs more than the registry's own work on a message. mochi then takes
// the message for one of QoS 0 that nobody gets: that is cheaper than a rejected one,
// of which it makes a copy for its log whatever the log's level.
func (g *guard) receipt(s *session, pk *packets.Packet) error {
	if pk.FixedHeader.Qos != 1 || s.conn == nil {
		return errIgnore
	}
	ack := [...]byte{packets.Puback << 4, 2, byte(pk.PacketID >> 8), byte(pk.PacketID)}
	if _, err := s.conn.Write(ack[:]); err != nil {
		g.log.Debug("an acknowledgement was not written", "device_id", s.id, "error", err) // the device sends the message again
	}
	pk.FixedHeader.Qos, pk.Ignore = 0, true
	return nil
}

// negative writes an acknowledgement that refuses; QoS 0 has none.
func (g *guard) negative(s *session, pk *packets.Packet, code packets.Code) {
	ack := packets.Packet{PacketID: pk.PacketID, ReasonCode: code.Code}
	switch pk.FixedHeader.Qos {
	case 0:
		return
	case 1:
		ack.FixedHeader.Type = packets.Puback
	default:
		ack.FixedHeader.Type = packets.Pubrec
	}
	if err := s.cl.WritePacket(ack); err != nil {
		g.log.Debug("a refusal was not written", "device_id", s.id, "error", err)
	}
}

// word gives subscribers the registry's word instead of the device's. It holds the
// id lock as every announcement does, so that none comes after one of a newer
// connection.
func (g *guard) word(s *session, k topic.Kind) verdict {
	g.enter(s)
	defer g.leave(s)
	if s.superseded.Load() {
		return settled
	}
	ctx, cancel := context.WithTimeout(context.Background(), storeLimit)
	defer cancel()
	payload, ok, err := g.registry.Retained(ctx, s.id, k)
	switch {
	case err != nil: // it is committed: whoever subscribes anew gets it
		g.log.Warn("subscribers were not told of a message", "device_id", s.id, "topic", k.String(), "error", err)
	case ok:
		g.courier.Announce(s.id, k, payload)
	}
	return settled
}
