package broker

import (
	"io"
	"slices"
	"sync/atomic"

	"github.com/mochi-mqtt/server/v2/packets"
)

// wireGuard reads an MQTT byte stream and hands on only what mochi may see. It frames every packet and refuses a bad
// header before a byte of the body is awaited. PUBLISH streams through without a copy, since mochi decodes it safely;
// every other packet with a body is judged whole, and copied only when it comes in pieces.
//
// Read belongs to one goroutine. authenticated and version may be used from any.
type wireGuard struct {
	src           io.Reader
	before, after int // largest packet before and after authentication
	authenticated atomic.Bool
	version       atomic.Uint32 // 4 or 5, 0 before a CONNECT was judged

	opened bool   // the CONNECT was handed on
	left   int    // bytes of a streaming packet that have not come yet
	ahead  []byte // read, but not looked at: what came behind CONNECT
	held   []byte // the beginning of a packet that came in pieces
	ready  []byte // a judged packet that waits for the reader
	err    error  // how it ended; sticky
}

// Read implements io.Reader. What it refuses it refuses with a *GuardError, after everything good before it was read.
func (g *wireGuard) Read(p []byte) (int, error) {
	if len(p) == 0 {
		return 0, nil
	}
	for {
		switch {
		case len(g.ready) > 0:
			n := copy(p, g.ready)
			if g.ready = g.ready[n:]; len(g.ready) == 0 {
				g.ready = nil
			}
			return n, nil
		case g.err != nil:
			return 0, g.err
		case g.held != nil:
			g.collect()
		default:
			n, err := g.fetch(p)
			good := g.scan(p[:n])
			if g.err == nil {
				g.err = err
			}
			if good > 0 {
				return good, nil
			}
		}
	}
}

// fetch reads what was read ahead, then from the source.
func (g *wireGuard) fetch(p []byte) (int, error) {
	if len(g.ahead) == 0 {
		return g.src.Read(p)
	}
	n := copy(p, g.ahead)
	if g.ahead = g.ahead[n:]; len(g.ahead) == 0 {
		g.ahead = nil
	}
	return n, nil
}

// scan judges b and returns how much of its beginning may go on. It stops behind CONNECT, because which limits hold for
// the rest is known only when the hooks have decided.
func (g *wireGuard) scan(b []byte) int {
	i := 0
	for i < len(b) {
		if g.left > 0 {
			k := min(g.left, len(b)-i)
			i += k
			g.left -= k
			continue
		}
		h, err := g.header(b[i:])
		if err != nil {
			g.err = err
			return i
		}
		size := h.length + h.body
		switch {
		case h.length == 0 || (h.whole() && len(b)-i < size):
			g.held = slices.Clone(b[i:])
			return i
		case !h.whole():
			i += h.length
			g.left = h.body
			continue
		}
		if g.err = g.judge(h, b[i+h.length:i+size]); g.err != nil {
			return i
		}
		i += size
		if h.kind == packets.Connect {
			if i < len(b) {
				g.ahead = slices.Clone(b[i:])
			}
			return i
		}
	}
	return i
}

// collect reads on at a packet that came in pieces. The buffer grows with what has come, never with what was announced.
func (g *wireGuard) collect() {
	h, err := g.header(g.held)
	if err != nil {
		g.held, g.err = nil, err
		return
	}
	size := len(g.held) + 1 // of an unfinished header at least one byte is missing
	if h.length > 0 {
		size = h.length + h.body
		if !h.whole() {
			g.left = size - len(g.held)
			g.ready, g.held = g.held, nil
			return
		}
	}
	have := len(g.held)
	if have == size {
		g.ready, g.held = g.held, nil
		if g.err = g.judge(h, g.ready[h.length:]); g.err != nil {
			g.ready = nil
		}
		return
	}
	if cap(g.held) == have {
		g.held = slices.Grow(g.held, min(size-have, max(have, 64)))
	}
	n, err := g.fetch(g.held[have:min(size, cap(g.held))])
	g.held = g.held[:have+n]
	if err != nil && len(g.held) < size {
		g.held, g.err = nil, err // nobody will ever complete it
	}
}

// header is a packet's fixed header. length is 0 while it is incomplete.
type header struct {
	kind, flags  byte
	length, body int
}

// whole reports whether the packet is judged whole. Only PUBLISH streams; PINGREQ has no body to judge.
func (h header) whole() bool { return h.kind != packets.Publish }

// header decodes and judges the fixed header at the beginning of b, which is not empty.
func (g *wireGuard) header(b []byte) (header, error) {
	h := header{kind: b[0] >> 4, flags: b[0] & 15}
	if err := g.judgeKind(h); err != nil {
		return h, err
	}
	for i := 1; i < len(b); i++ {
		h.body |= int(b[i]&127) << (7 * (i - 1))
		if b[i]&128 != 0 {
			if i == 4 {
				return h, malformed("length is longer than four bytes") // [MQTT-1.5.5-1]
			}
			continue
		}
		if i > 1 && b[i] == 0 && g.version.Load() == 5 {
			return h, malformed("length is not in its shortest form") // [MQTT-1.5.5-1]
		}
		h.length = i + 1
		return h, g.judgeSize(h)
	}
	return h, nil
}

// judgeKind judges the first byte of a packet: its type and its flags.
func (g *wireGuard) judgeKind(h header) error {
	want := byte(0)
	switch h.kind {
	case packets.Connect:
		if g.opened {
			return violation("second CONNECT") // [MQTT-3.1.0-2]
		}
	case packets.Publish:
		if h.flags&6 == 6 {
			return malformed("PUBLISH with QoS 3") // [MQTT-3.3.1-4]
		}
		if h.flags&6 == 0 && h.flags&8 != 0 {
			return malformed("PUBLISH with QoS 0 and DUP") // [MQTT-3.3.1-2]
		}
		want = h.flags
	case packets.Pubrel, packets.Subscribe, packets.Unsubscribe:
		want = 2
	case packets.Puback, packets.Pubrec, packets.Pubcomp, packets.Pingreq, packets.Disconnect:
	case packets.Reserved:
		return malformed("packet type 0")
	case packets.Auth: // no client gets as far: an authentication method is refused in CONNECT
		return violation("AUTH without an authentication method")
	default:
		return violation("packet type that only a server sends")
	}
	if !g.opened && h.kind != packets.Connect {
		return violation("first packet is not CONNECT") // [MQTT-3.1.0-1]
	}
	if h.flags != want {
		return malformed("reserved flags") // [MQTT-2.1.3-1]
	}
	return nil
}

// judgeSize judges a packet's length, before its body is awaited.
func (g *wireGuard) judgeSize(h header) error {
	limit := g.before
	if g.opened && g.authenticated.Load() {
		limit = g.after
	}
	if h.length+h.body > limit {
		return &GuardError{Code: packets.ErrPacketTooLarge.Code, Why: "packet is too large"}
	}
	v5 := g.version.Load() == 5
	ok := true
	switch h.kind {
	case packets.Publish:
		least := 2 // topic
		if h.flags&6 != 0 {
			least += 2 // packet id
		}
		if v5 {
			least++ // properties
		}
		ok = h.body >= least
	case packets.Puback, packets.Pubrec, packets.Pubrel, packets.Pubcomp:
		ok = h.body == 2 || v5 && h.body > 2
	case packets.Pingreq:
		ok = h.body == 0
	case packets.Disconnect:
		ok = h.body == 0 || v5
	}
	if !ok {
		return malformed("length does not fit the packet type")
	}
	return nil
}

// judge judges a whole packet's body.
func (g *wireGuard) judge(h header, body []byte) error {
	f := &fields{b: body}
	v5 := g.version.Load() == 5
	switch h.kind {
	case packets.Connect:
		g.opened = true
		return g.judgeConnect(f)
	case packets.Subscribe, packets.Unsubscribe:
		return judgeFilters(f, h.kind == packets.Subscribe, v5)
	case packets.Disconnect:
		return judgeDisconnect(f)
	case packets.Puback, packets.Pubrec, packets.Pubrel, packets.Pubcomp:
		return judgeAck(f)
	}
	return nil
}
