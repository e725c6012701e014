package hooks

import (
	"bytes"
	"cmp"
	"slices"
	"sync"
	"time"

	mqtt "github.com/mochi-mqtt/server/v2"
	"github.com/mochi-mqtt/server/v2/packets"
	"github.com/opticworks/devicecloud/registry"
	"github.com/opticworks/devicecloud/topic"
)

// mochi has one packet-id map for both directions: a client's own PUBLISH or
// SUBSCRIBE that happens to use the id of an unacknowledged server message deletes
// that message, or gets 0x91. Clients and servers both count from 1, so this is the
// rule rather than the exception. Devices therefore get their messages past mochi,
// with ids of an outbox of their own; for people's fan-out, which is mochi's, the
// client's id is replaced by one far away while mochi works with it.

// downWindow is how many messages to one device may be unacknowledged: an ESP32
// has RAM for few, and there are only few kinds.
const downWindow = 32

// outbox is the server's half of a device's packet ids, and what the device has
// subscribed to.
type outbox struct {
	mu     sync.Mutex
	grants [maxKinds]uint8 // by topic.Kind: 0 not subscribed, else QoS + 1
	window int             // the smaller of downWindow and the client's Receive Maximum
	sent   []uint16        // unacknowledged, at most window
	next   uint16
	held   map[topic.Kind][]byte // answers that cannot be written yet, the last of each kind

	commands map[string]uint8  // as grants, of types of commands that it named
	carried  map[uint16]string // command ids of those in sent that are commands
}

// maxKinds is above every topic.Kind.
const maxKinds = 32

// take returns the QoS for a message of a kind and, at QoS 1, an id that is free.
func (o *outbox) take(k topic.Kind) (id uint16, qos byte, err error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.grants[k] == 0 {
		return 0, 0, registry.ErrOffline
	}
	return o.number(o.grants[k])
}

// number gives a message of a subscription its QoS and a free id; mu is held.
func (o *outbox) number(grant uint8) (id uint16, qos byte, err error) {
	switch {
	case grant == 1:
		return 0, 0, nil
	case len(o.sent) >= o.window:
		return 0, 0, errBusy
	}
	for {
		if o.next++; o.next == 0 {
			o.next = 1
		}
		if !slices.Contains(o.sent, o.next) {
			break
		}
	}
	o.sent = append(o.sent, o.next)
	return o.next, 1, nil
}

// acked frees an id; it reports whether it was in use. 0 never is.
func (o *outbox) acked(id uint16) bool {
	o.mu.Lock()
	defer o.mu.Unlock()
	i := slices.Index(o.sent, id)
	if i < 0 {
		return false
	}
	o.sent = slices.Delete(o.sent, i, i+1)
	delete(o.carried, id)
	return true
}

// grant replaces what the device has subscribed to, and returns the answers that
// were held back for it.
func (o *outbox) grant(grants [maxKinds]uint8, commands map[string]uint8) (due map[topic.Kind][]byte) {
	o.mu.Lock()
	o.grants, o.commands = grants, commands
	o.mu.Unlock()
	return o.due()
}

// due takes out the answers that were held back and may be written now.
func (o *outbox) due() (due map[topic.Kind][]byte) {
	o.mu.Lock()
	defer o.mu.Unlock()
	for k, payload := range o.held {
		if o.grants[k] != 0 {
			if due == nil {
				due = map[topic.Kind][]byte{}
			}
			due[k] = payload
			delete(o.held, k)
		}
	}
	return due
}

// takes reports whether the device has subscribed to a kind.
func (o *outbox) takes(k topic.Kind) bool {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.grants[k] > 0
}

// hold keeps an answer until its topic is subscribed, or the device has room for it.
func (o *outbox) hold(k topic.Kind, payload []byte) {
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.held == nil {
		o.held = map[topic.Kind][]byte{}
	}
	o.held[k] = payload
}

// substitute gives mochi a packet id that no unacknowledged message of its own
// uses. It belongs to the reader goroutine; restore is its reverse.
func (s *session) substitute(pk *packets.Packet) {
	s.fakeID = 0
	inflight := s.cl.State.Inflight
	if s.reader == nil || inflight.Len() == 0 { // a device never has messages of mochi's
		return
	}
	id := uint16((s.reader.window.newest()+32768)%65535 + 1)
	for tried := 0; tried < 65535; tried++ {
		if _, used := inflight.Get(id); !used {
			s.realID, s.fakeID = pk.PacketID, id
			pk.PacketID = id
			return
		}
		id = id%65535 + 1
	}
}

// restore puts the client's own id into the acknowledgement.
func (s *session) restore(pk *packets.Packet) {
	if s.fakeID != 0 && pk.PacketID == s.fakeID {
		pk.PacketID = s.realID
	}
}

// window is a reader's Receive Maximum over mochi's fan-out. mochi's own keeping of
// it deadlocks with a few publishers, so it is told that there is none, and the
// packet waits here, on the write loop of this client alone.
type window struct {
	mu    sync.Mutex
	limit int // 65535: none
	sent  map[uint16]struct{}
	freed chan struct{} // capacity 1
	last  uint16        // id of the newest message
}

const noWindow = 65535

func newWindow(limit uint16) *window {
	return &window{limit: int(limit), sent: map[uint16]struct{}{}, freed: make(chan struct{}, 1)}
}

func (w *window) newest() uint32 {
	w.mu.Lock()
	defer w.mu.Unlock()
	return uint32(w.last)
}

// begin tells where the ids of a resumed session go on.
func (w *window) begin(id uint16) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.last = id
}

// enter counts a message as unacknowledged. With wait it first waits for room,
// until gone.
func (w *window) enter(id uint16, wait bool, gone <-chan struct{}) {
	for {
		w.mu.Lock()
		w.last = id
		if w.limit == noWindow {
			w.mu.Unlock()
			return
		}
		if !wait || len(w.sent) < w.limit {
			w.sent[id] = struct{}{}
			w.mu.Unlock()
			return
		}
		w.mu.Unlock()
		select {
		case <-w.freed:
		case <-gone:
			return
		}
	}
}

// leave counts a message as acknowledged.
func (w *window) leave(id uint16) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if _, ok := w.sent[id]; !ok {
		return
	}
	delete(w.sent, id)
	select {
	case w.freed <- struct{}{}:
	default:
	}
}

// fits reports whether a PUBLISH stays within the client's Maximum Packet Size.
// [MQTT-3.1.2-24]
func fits(pk *packets.Packet, version byte, limit uint32) bool {
	if limit == 0 || version != 5 {
		return true
	}
	const header = 1 + 4 + 2 + 2 + 64 // length, topic length, id, and the short properties
	p := &pk.Properties
	if len(p.User) == 0 && len(p.CorrelationData)+len(p.ContentType)+len(p.ResponseTopic) == 0 && len(p.SubscriptionIdentifier) < 8 &&
		uint64(header+len(pk.TopicName)+len(pk.Payload)) <= uint64(limit) {
		return true
	}
	var buf bytes.Buffer
	measured := *pk
	measured.ProtocolVersion = version
	return measured.PublishEncode(&buf) == nil && uint64(buf.Len()) <= uint64(limit)
}

// outbound prepares a message of mochi's fan-out for a reader, on the client's
// write loop, or on the connection's goroutine while a session is resumed. ok is
// false when the message must not be written at all: the reader may no longer read
// the device, or it is too large. A message that is never acknowledged is taken
// out of mochi's map, or it would brick every reconnect.
func (g *guard) outbound(s *session, pk *packets.Packet) (ok bool) {
	r := s.reader
	if !r.mayRead(g.root, pk.TopicName) || !fits(pk, s.version, s.maxSize) {
		if pk.FixedHeader.Qos > 0 {
			s.cl.State.Inflight.Delete(pk.PacketID)
		}
		g.metrics.dropped.Inc()
		return false
	}
	if pk.FixedHeader.Qos == 0 {
		return true
	}
	live := s.live.Load()
	switch b := r.backlog; {
	case b == nil || pk.Ignore:
	case !live && pk.FixedHeader.Dup: // mochi resends before it reads
		b.exchange(s, pk, g.now())
	default:
		select { // the messages of the resumed session come first
		case <-b.sent:
			if b.took(pk) {
				return false
			}
		case <-s.gone:
			return false
		}
	}
	r.window.enter(pk.PacketID, live, s.gone)
	return true
}

// backlog is what a resumed session has waiting. Until sent is closed it belongs to
// the connection's goroutine.
type backlog struct {
	messages []packets.Packet // the oldest first
	late     []packets.Packet // those that mochi had for the session when they were gathered
	gathered bool
	first    uint16        // the id where their order begins
	sent     chan struct{} // closed when all are written
}

// exchange has mochi write the oldest message instead of one that came after
// resume, and puts that aside with all others of its kind: one for one, so that
// the window is kept too.
func (b *backlog) exchange(s *session, pk *packets.Packet, now time.Time) {
	if !b.gathered {
		b.gather(s)
	}
	if len(b.messages) == 0 {
		return // it has expired at this moment
	}
	oldest := b.messages[0]
	b.messages = b.messages[1:]
	if !s.restock(&oldest) {
		return // it cannot be: an id has just become free
	}
	// mochi has prepared the other one.
	oldest.ProtocolVersion, oldest.Mods = pk.ProtocolVersion, pk.Mods
	if oldest.Expiry > 0 {
		oldest.Properties.MessageExpiryInterval = uint32(max(1, oldest.Expiry-now.Unix())) // [MQTT-3.3.2-6]
	}
	*pk = oldest
}

// sort puts messages in the order of their ids, which begin anew after 65,535.
func (b *backlog) sort(messages []packets.Packet) {
	slices.SortFunc(messages, func(x, y packets.Packet) int {
		return cmp.Compare(x.PacketID-b.first, y.PacketID-b.first) // modulo 2^16
	})
}

// took reports whether the backlog had a message that mochi's write loop has too:
// it was sent to the new connection before mochi resent. Ids are used again, so it
// is known by its payload, which mochi does not copy.
func (b *backlog) took(pk *packets.Packet) bool {
	return slices.ContainsFunc(b.late, func(l packets.Packet) bool {
		return l.PacketID == pk.PacketID && len(l.Payload) > 0 && len(pk.Payload) > 0 && &l.Payload[0] == &pk.Payload[0]
	})
}

// resume prepares the messages of a session that is about to be inherited: those
// that this client may not read, or cannot take, are forgotten, and the others are
// put aside, because mochi resends in the order of a map within one second, and
// everything before it reads an acknowledgement. The id lock is held.
//
// The order is that of the packet ids, which mochi counts up from the client's last
// one and begins anew after 65,535; the new client goes on counting. It is the order
// in which the messages were first sent. [MQTT-4.6.0-1] [MQTT-4.6.0-6]
func (g *guard) resume(s *session, old *mqtt.Client) {
	if s.cl.Properties.Clean || old.Properties.Clean && old.Properties.ProtocolVersion < 5 {
		return // mochi inherits nothing [MQTT-3.1.2-4]
	}
	b := &backlog{sent: make(chan struct{})}
	s.reader.backlog = b
	for _, pk := range old.State.Inflight.GetAll(false) {
		if pk.FixedHeader.Type != packets.Publish {
			continue
		}
		old.State.Inflight.Delete(pk.PacketID)
		if !s.reader.mayRead(g.root, pk.TopicName) || !fits(&pk, s.version, s.maxSize) {
			g.metrics.dropped.Inc()
			continue
		}
		pk.FixedHeader.Dup = true // [MQTT-3.3.1-1]
		b.messages = append(b.messages, pk)
	}
	next, _ := old.NextPacketID() // 0 when all are used, and then any beginning does
	b.first = uint16(next)
	b.sort(b.messages)
	if len(b.messages) > 0 {
		b.first = b.messages[0].PacketID // what comes now has ids from next on
		s.countFrom(next)
	}
}

// countFrom makes the next packet id of a client that is not established yet the
// one that follows last.
func (s *session) countFrom(last uint32) {
	for id := uint32(0); id != last; {
		var err error
		if id, err = s.cl.NextPacketID(); err != nil {
			return // it cannot be: the client has used none
		}
	}
	s.reader.window.begin(uint16(last))
}

// restock gives mochi a message that it has not in its books. The id of one that resume
// put aside was free meanwhile, so a new message may have it, and one that was handed
// over has none; ok is false when no id is free.
func (s *session) restock(pk *packets.Packet) (ok bool) {
	inflight := s.cl.State.Inflight
	if _, used := inflight.Get(pk.PacketID); used || pk.PacketID == 0 {
		id, err := s.cl.NextPacketID()
		if err != nil { // 65,535 messages wait
			return false
		}
		pk.PacketID, pk.FixedHeader.Dup = uint16(id), false
	}
	inflight.Set(*pk)
	return true
}

// resend writes the backlog as the window allows, and ends with it or the session.
func (g *guard) resend(s *session) {
	b := s.reader.backlog
	if b == nil {
		for s.reader.inherited.take(true) != nil { // mochi inherits nothing, nor does this
		}
		return
	}
	if !b.gathered {
		b.gather(s)
	}
	var due []packets.Packet
	for {
		for _, pk := range b.messages {
			if !s.restock(&pk) {
				g.metrics.dropped.Inc()
				continue
			}
			pk.Ignore = true // marks it for outbound; it is not part of what is written
			due = append(due, pk)
		}
		handed := s.reader.inherited.take(true)
		if handed == nil {
			break
		}
		b.messages = slices.DeleteFunc(handed, func(pk packets.Packet) bool { return s.has(&pk) })
	}
	if len(due) == 0 {
		close(b.sent)
		return
	}
	g.background("resend", func() {
		defer close(b.sent)
		for _, pk := range due {
			// One that may not be written any more is passed over.
			if s.cl.WritePacket(pk) != nil && s.cl.Closed() {
				return // mochi has them all for the next connection
			}
		}
	})
}
