package hooks

import (
	"slices"

	mqtt "github.com/mochi-mqtt/server/v2"
	"github.com/mochi-mqtt/server/v2/packets"
	"github.com/opticworks/devicecloud/topic"
)

// How many filters one session may hold; those above are refused with 0x97.
const (
	maxDeviceFilters = 32
	maxReaderFilters = 256
)

// OnSubscribe takes a device's filters out of mochi's hands: the courier writes to a
// device itself, so they only matter to its own session, and mochi's index of them
// would cost more memory than all the rest of the connection.
//
// For people it takes the id lock: a SUBSCRIBE in flight at a takeover must not touch
// the new session's subscriptions, so a superseded session's filters are emptied.
func (g *guard) OnSubscribe(cl *mqtt.Client, pk packets.Packet) (out packets.Packet) {
	s := g.courier.session(cl)
	defer g.recovered("OnSubscribe", func() {
		pk.Filters = nil
		out = pk
		_ = g.abort(s)
	})
	if s == nil {
		return pk
	}
	if s.device != nil {
		s.codes = g.subscribe(s, pk.Filters)
		pk.Filters = nil
		return pk
	}
	g.enter(s)
	s.granted, s.overQuota = nil, nil
	if s.superseded.Load() {
		pk.Filters = nil
		return pk
	}
	room := maxReaderFilters - cl.State.Subscriptions.Len()
	for i, f := range pk.Filters {
		if _, has := cl.State.Subscriptions.Get(f.Filter); has {
			if f.RetainHandling == 1 {
				pk.Filters[i].RetainHandling = 2 // it is not new: nothing retained [MQTT-3.3.1-10]
			}
			continue
		}
		if room--; room < 0 {
			if s.overQuota == nil {
				s.overQuota = make([]bool, len(pk.Filters))
			}
			s.overQuota[i] = true
			pk.Filters[i].Filter = "" // which mochi refuses
		}
	}
	return pk
}

// subscription is one filter of a device.
type subscription struct {
	filter string
	qos    byte // 0 or 1: the courier sends nothing at QoS 2
}

// subscribe adds filters to a device's own, and returns a reason code for each.
// [MQTT-3.8.4-6]
func (g *guard) subscribe(s *session, filters []packets.Subscription) []byte {
	codes := make([]byte, len(filters))
	for i, f := range filters {
		codes[i] = g.subscribeOne(s, f)
		if codes[i] >= packets.ErrUnspecifiedError.Code {
			g.metrics.denied("subscribe")
			if s.version != 5 {
				codes[i] = packets.ErrUnspecifiedError.Code
			}
		}
	}
	return codes
}

func (g *guard) subscribeOne(s *session, f packets.Subscription) byte {
	d, qos := s.device, min(f.Qos, 1)
	i := slices.IndexFunc(d.filters, func(have subscription) bool { return have.filter == f.Filter })
	switch {
	case !mqtt.IsValidFilter(f.Filter, false):
		return packets.ErrTopicFilterInvalid.Code
	case f.NoLocal && mqtt.IsSharedFilter(f.Filter):
		return packets.ErrProtocolViolationInvalidSharedNoLocal.Code // [MQTT-3.8.3-4]
	case !mayReceive(g.root, s.id, f.Filter):
		return packets.ErrNotAuthorized.Code
	case i >= 0:
		d.filters[i].qos = qos // [MQTT-3.8.4-3]
	case len(d.filters) == maxDeviceFilters:
		return packets.ErrQuotaExceeded.Code
	default:
		d.filters = append(d.filters, subscription{f.Filter, qos})
	}
	return qos
}

// unsubscribe removes filters from a device's own, and returns a reason code for
// each. [MQTT-3.11.3-1]
func (s *session) unsubscribe(filters []packets.Subscription) []byte {
	codes := make([]byte, len(filters))
	for i, f := range filters {
		had := len(s.device.filters)
		s.device.filters = slices.DeleteFunc(s.device.filters, func(have subscription) bool { return have.filter == f.Filter })
		if len(s.device.filters) == had {
			codes[i] = packets.CodeNoSubscriptionExisted.Code
		}
	}
	return codes
}

// acknowledge completes the SUBACK or UNSUBACK of a device, whose filters mochi has
// not seen.
func (s *session) acknowledge(pk *packets.Packet) {
	if s.device != nil {
		pk.ReasonCodes, pk.Properties.ReasonString = s.codes, ""
	}
}

// quota gives the filters that were one too many their reason code.
func (s *session) quota(pk *packets.Packet) {
	if s.version != 5 || len(s.overQuota) != len(pk.ReasonCodes) {
		return
	}
	for i, over := range s.overQuota {
		if over {
			pk.ReasonCodes[i] = packets.ErrQuotaExceeded.Code
		}
	}
}

// OnSubscribed notes what was granted and gives the id lock back. It comes before
// the SUBACK is written, so nothing is delivered from here.
func (g *guard) OnSubscribed(cl *mqtt.Client, pk packets.Packet, codes []byte) {
	s := g.courier.session(cl)
	if s == nil {
		if cl.Net.Inline { // of the program around us: it wants to hear, for ever
			g.courier.watchers.Add(1)
		}
		return
	}
	defer g.recovered("OnSubscribed", func() { _ = g.abort(s) })
	defer g.leave(s)
	for i, f := range pk.Filters {
		if codes[i] < packets.ErrUnspecifiedError.Code {
			s.granted = append(s.granted, f)
		} else {
			g.metrics.denied("subscribe")
		}
	}
	if s.reader != nil && len(s.granted) > 0 {
		g.courier.watch(s)
	}
}

// OnUnsubscribe takes the id lock, as OnSubscribe does.
func (g *guard) OnUnsubscribe(cl *mqtt.Client, pk packets.Packet) (out packets.Packet) {
	s := g.courier.session(cl)
	defer g.recovered("OnUnsubscribe", func() {
		pk.Filters = nil
		out = pk
		_ = g.abort(s)
	})
	if s == nil {
		return pk
	}
	if s.device != nil {
		s.codes = s.unsubscribe(pk.Filters)
		pk.Filters = nil
		return pk
	}
	g.enter(s)
	if s.superseded.Load() {
		pk.Filters = nil
	}
	return pk
}

// OnUnsubscribed gives the id lock back. mochi also calls it from its teardown, on
// other goroutines and with the lock in other hands: those calls carry no protocol
// version.
func (g *guard) OnUnsubscribed(cl *mqtt.Client, pk packets.Packet) {
	if pk.ProtocolVersion == 0 {
		return
	}
	s := g.courier.session(cl)
	if s == nil {
		return
	}
	defer g.recovered("OnUnsubscribed", func() { _ = g.abort(s) })
	defer g.leave(s)
	if s.device != nil {
		s.device.outbox.grant(g.grants(s))
		return
	}
	g.courier.targets.unsubscribed(s, s.subscribes)
}

// subscribes reports whether a reader has a filter.
func (s *session) subscribes(filter string) bool {
	_, has := s.cl.State.Subscriptions.Get(filter)
	return has
}

// OnPacketProcessed comes after the SUBACK was written: now what waited for the
// subscription may follow.
func (g *guard) OnPacketProcessed(cl *mqtt.Client, pk packets.Packet, err error) {
	if pk.FixedHeader.Type != packets.Subscribe || err != nil {
		return
	}
	s := g.courier.session(cl)
	if s == nil {
		return
	}
	defer g.recovered("OnPacketProcessed", func() { _ = g.abort(s) })
	granted := s.granted
	s.granted, s.overQuota = nil, nil
	if s.device == nil {
		g.look(s, granted)
		g.serve(s, granted)
		return
	}
	for k, payload := range s.device.outbox.grant(g.grants(s)) {
		g.respond(s, k, payload)
	}
	if s.device.outbox.takes(topic.ConfigUpdate) {
		g.registry.ConfigReady(s.device.session)
	}
	if s.device.outbox.takes(topic.OTATrigger) {
		g.updates.Ready(s.device.session)
	}
	if s.device.outbox.takesCommands() {
		g.registry.CommandsReady(s.device.session)
		g.courier.targets.ready(s)
	}
}

// look begins or renews the looks at live positions among newly granted filters.
func (g *guard) look(s *session, granted []packets.Subscription) {
	filters := make([]string, len(granted))
	for i, f := range granted {
		filters[i] = f.Filter
	}
	g.courier.targets.subscribed(s, filters)
}

// grants is what a device has subscribed to, by kind: 0 not at all, else QoS + 1;
// commands is the same by type, of those that it named.
func (g *guard) grants(s *session) (grants [maxKinds]uint8, commands map[string]uint8) {
	for _, have := range s.device.filters {
		t, ok := g.root.Parse(have.filter)
		switch {
		case !ok: // the one wildcard
			grants[topic.Command] = have.qos + 1
		case t.Kind == topic.Command:
			if commands == nil {
				commands = map[string]uint8{}
			}
			commands[t.Command] = have.qos + 1
		default:
			grants[t.Kind] = have.qos + 1
		}
	}
	return grants, commands
}
