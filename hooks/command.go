package hooks

import (
	"context"
	"time"

	"github.com/mochi-mqtt/server/v2/packets"
	"github.com/opticworks/devicecloud/registry"
	"github.com/opticworks/devicecloud/topic"
)

// errNotSubscribed is for a type of command whose topic the device did not ask for.
var errNotSubscribed = registry.E(registry.NotFound, "not_subscribed", "The device has not subscribed to commands of this type.")

// DeliverCommand implements registry.Courier. MQTT 5 clients also get a Response Topic,
// the command id as Correlation Data, and a Message Expiry. [contracts G.2]
func (c *Courier) DeliverCommand(deviceID string, epoch int64, d registry.CommandDelivery) error {
	s := c.liveDevice(deviceID)
	if s == nil || s.device.session.Epoch != epoch {
		return registry.ErrOffline
	}
	return c.writeCommand(s, d, d.CommandID)
}

// writeCommand writes a command to a device's session. receipt is what
// [registry.Registry.CommandReceived] is told at the acknowledgement, "" for nothing.
func (c *Courier) writeCommand(s *session, d registry.CommandDelivery, receipt string) error {
	pk := packets.Packet{
		FixedHeader: packets.FixedHeader{Type: packets.Publish},
		TopicName:   c.root.BuildCommand(s.id, d.Type), Payload: d.Payload,
	}
	if s.version == 5 {
		pk.Properties = packets.Properties{
			ResponseTopic: c.root.Build(s.id, topic.CommandResponse), CorrelationData: []byte(d.CommandID),
			MessageExpiryInterval: uint32(max(1, (d.Expiry+time.Second-1)/time.Second)),
		}
	}
	id, qos, err := s.device.outbox.takeCommand(d.Type, receipt)
	if err != nil {
		return err
	}
	pk.FixedHeader.Qos, pk.PacketID = qos, id
	return c.write(s, topic.Command, pk)
}

// takeCommand is take for a command: its id is remembered until the acknowledgement.
func (o *outbox) takeCommand(commandType, commandID string) (id uint16, qos byte, err error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	grant := max(o.grants[topic.Command], o.commands[commandType])
	if grant == 0 {
		if len(o.commands) > 0 {
			return 0, 0, errNotSubscribed
		}
		return 0, 0, registry.ErrOffline
	}
	if id, qos, err = o.number(grant); err == nil && qos > 0 {
		if o.carried == nil {
			o.carried = map[uint16]string{}
		}
		o.carried[id] = commandID
	}
	return id, qos, err
}

// takesCommands reports whether the device has subscribed to commands of any type.
func (o *outbox) takesCommands() bool {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.grants[topic.Command] > 0 || len(o.commands) > 0
}

// command is the id of the command that an unacknowledged message carries; "" for any
// other message.
func (o *outbox) command(id uint16) string {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.carried[id]
}

// commandAnswered takes what a device says of a command; people who subscribed are told
// what changes something.
func (g *guard) commandAnswered(s *session, pk *packets.Packet) verdict {
	if pk.FixedHeader.Qos == 0 {
		if err := g.registry.AnswerCommandLater(s.device.session, pk.Payload); err != nil {
			return g.later(s, topic.CommandResponse, err)
		}
		return fanOut
	}
	ctx, cancel := context.WithTimeout(context.Background(), registry.CommitTimeout)
	defer cancel()
	news, err := g.registry.AnswerCommand(ctx, s.device.session, pk.Payload)
	if err == nil && !news {
		return settled
	}
	return g.outcome(s, topic.CommandResponse, err)
}

// commandReceived is a device's PUBACK of a command. A refusing one says that the device
// does not have it.
func (g *guard) commandReceived(s *session, pk *packets.Packet) {
	commandID := s.device.outbox.command(pk.PacketID)
	if commandID != "" && pk.ReasonCode < packets.ErrUnspecifiedError.Code {
		g.registry.CommandReceived(s.device.session, commandID)
	}
}
