package hooks

import (
	"slices"
	"sync"

	mqtt "github.com/mochi-mqtt/server/v2"
	"github.com/mochi-mqtt/server/v2/packets"
)

// mochi copies what waits for a session to the one that takes it over, and makes that
// one known a moment later. A publisher that looked the session up before enters its
// message into the old one's books, where nobody looks any more. So whatever is entered
// there is handed to the successor too, which recognises what was copied. A publisher
// enters first and asks then whether the session is superseded; a successor says so
// first and looks into the books then: one of the two sees the other.

// inheritance is what a session is handed of the one that it took over.
type inheritance struct {
	mu      sync.Mutex
	handed  []packets.Packet // in the order of their arrival
	settled bool             // nobody waits for more: what comes now is sent at once
}

// OnQosPublish implements mqtt.Hook, on a publisher's goroutine: mochi has entered a
// message for a client into its books.
func (g *guard) OnQosPublish(cl *mqtt.Client, pk packets.Packet, _ int64, _ int) {
	defer g.recovered("OnQosPublish", nil)
	if s := g.courier.session(cl); s != nil && s.reader != nil && s.superseded.Load() {
		g.handOver(s, pk)
	}
}

// handOver gives a message in the books of a superseded session to its successor. To
// one that is established it is sent beside those of mochi's: this late its place in
// their order is lost, and the message is not.
func (g *guard) handOver(s *session, pk packets.Packet) {
	pk.PacketID = 0 // it was of the old session
	for s.superseded.Load() {
		s = s.successor.Load()
		if s.reader.inherited.keep(pk) {
			return
		}
		if s.reader.backlog == nil || s.has(&pk) {
			return // s did not resume what was before, or knows it
		}
		if !s.restock(&pk) {
			g.metrics.dropped.Inc()
			return
		}
	}
	pk.Ignore = true // as in resend
	g.background("handOver", func() {
		_ = s.cl.WritePacket(pk) // after a failure mochi has it for the next connection
	})
}

// keep keeps a message until the session is established; false when it is.
func (h *inheritance) keep(pk packets.Packet) bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	if !h.settled {
		h.handed = append(h.handed, pk)
	}
	return !h.settled
}

// take takes out what was kept. If that is nothing and the session is established,
// nothing will be kept any more.
func (h *inheritance) take(established bool) []packets.Packet {
	h.mu.Lock()
	defer h.mu.Unlock()
	handed := h.handed
	h.handed, h.settled = nil, established && handed == nil
	return handed
}

// has reports whether a message is in mochi's books for the session.
func (s *session) has(pk *packets.Packet) bool {
	return contains(s.cl.State.Inflight.GetAll(false), pk)
}

// contains looks for a message whose packet id may be another one. It is known by its
// payload, of which mochi makes one copy for each session that is to get it.
func contains(list []packets.Packet, pk *packets.Packet) bool {
	return slices.ContainsFunc(list, func(l packets.Packet) bool {
		return len(l.Payload) > 0 && len(pk.Payload) > 0 && &l.Payload[0] == &pk.Payload[0]
	})
}

// gather puts behind the messages that waited those that came while the session was
// taken over: first to the one before, then to this one. They are numbered anew, in
// this order, if an id could be of both.
func (b *backlog) gather(s *session) {
	b.gathered = true
	for _, l := range s.cl.State.Inflight.GetAll(false) {
		if l.FixedHeader.Type == packets.Publish {
			s.cl.State.Inflight.Delete(l.PacketID)
			l.FixedHeader.Dup = true
			b.late = append(b.late, l)
		}
	}
	handed := slices.DeleteFunc(s.reader.inherited.take(false), func(pk packets.Packet) bool { return contains(b.messages, &pk) })
	rest := slices.DeleteFunc(slices.Clone(b.late), func(pk packets.Packet) bool { return contains(handed, &pk) })
	b.sort(rest)
	if len(handed) > 0 {
		for i := range rest {
			rest[i].PacketID = 0
		}
	}
	b.messages = append(append(b.messages, handed...), rest...)
}
