package hooks

import (
	"sync"
	"sync/atomic"
	"time"

	mqtt "github.com/mochi-mqtt/server/v2"
	"github.com/mochi-mqtt/server/v2/packets"
	"github.com/opticworks/devicecloud/broker"
	"github.com/opticworks/devicecloud/media"
	"github.com/opticworks/devicecloud/registry"
)

// session is one connection from its CONNECT to the end of its clean-up, and for a
// person with a resumable session until that is forgotten. Exactly one of device
// and reader is set.
type session struct {
	cl      *mqtt.Client
	conn    *broker.Conn // nil behind somebody else's listener
	device  *device
	reader  *reader
	hello   *hello // until OnConnect has judged it
	id      string // client id
	version byte   // 4 = MQTT 3.1.1, 5 = MQTT 5
	maxSize uint32 // the largest packet the client takes; 0: any

	hold      atomic.Pointer[hold]    // of the lock of the client id, nil while this session does not have it
	before    *session                // what it took the id over from, until mochi has ended that
	successor atomic.Pointer[session] // what took the id over; set before superseded

	gone       chan struct{} // closed when the session ends, so that nobody waits for its client
	goneOnce   sync.Once
	ending     atomic.Pointer[ending]
	accepted   atomic.Bool // OnConnect let it in
	live       atomic.Bool // it is established: CONNACK was sent
	superseded atomic.Bool // a newer session of the id has claimed the epoch
	cleaned    atomic.Bool

	parked  *time.Timer  // forgets a reader that is away; under the id lock
	away    atomic.Int64 // since when a reader is away, in Unix nanoseconds; 0: it is not
	retired []retirement // told while it was being accepted; under Courier.mu

	timers struct {
		sync.Mutex
		stopped bool
		all     []*time.Timer
	}

	// Of the connection's reader goroutine.
	granted   []packets.Subscription // by the SUBSCRIBE that is being processed
	overQuota []bool                 // filters of it that were one too many
	codes     []byte                 // a device's answer to it
	realID    uint16                 // the client's packet id while mochi works with fakeID; 0: none
	fakeID    uint16
}

// hello is what a CONNECT said and mochi is not told.
type hello struct {
	password    []byte
	hasPassword bool
	will        *will
	method      string // of enhanced authentication, which nobody speaks here
}

// ending is why the server ends a session.
type ending struct {
	code   byte // of the DISCONNECT to MQTT 5; 0: it has been said already
	reason registry.Reason
}

// device is the side of a session that only devices have.
type device struct {
	session *registry.Session
	outbox  outbox
	vending atomic.Pointer[media.VendRequest] // being answered; nil: none

	// Of the connection's reader goroutine.
	filters                   []subscription
	state, telemetry, targets bucket
	update                    string // the update that ota/status reports on
	updateReports             int
	latest                    latest
	strayed                   time.Time // since when it has sent positions that nobody looks at; zero: not
}

func newSession(cl *mqtt.Client) *session {
	s := &session{cl: cl, gone: make(chan struct{})}
	s.conn, _ = broker.ConnOf(cl)
	return s
}

// session finds the session of a client; nil for the server's own and for what has
// not said CONNECT.
func (c *Courier) session(cl *mqtt.Client) *session {
	if conn, ok := broker.ConnOf(cl); ok {
		s, _ := conn.Attachment().(*session)
		return s
	}
	if cl.Net.Inline {
		return nil
	}
	c.mu.RLock()
	defer c.mu.RUnlock()
	return c.foreign[cl]
}

// attach makes session find s.
func (c *Courier) attach(s *session) {
	if s.conn != nil {
		s.conn.Attach(s)
		return
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.foreign[s.cl] = s
}

// end closes the session from anywhere, in such a way that mochi always takes its
// error path, with OnDisconnect: OnPacketRead rejects every packet once ending is
// set. code is what MQTT 5 is told. It reports whether the session was not ending
// already, and does not block.
func (s *session) end(code byte, reason registry.Reason) bool {
	if !s.ending.CompareAndSwap(nil, &ending{code, reason}) {
		return false
	}
	if code != 0 && s.version == 5 && s.live.Load() {
		// A failure to write means that the connection is gone, which is what is wanted.
		_ = s.cl.WritePacket(packets.Packet{FixedHeader: packets.FixedHeader{Type: packets.Disconnect}, ReasonCode: code})
	}
	s.release()
	_ = s.cl.Net.Conn.Close()
	return true
}

// release wakes whoever waits for the client.
func (s *session) release() { s.goneOnce.Do(func() { close(s.gone) }) }

// endAt ends the session at the given time.
func (s *session) endAt(at, now time.Time, code byte, reason registry.Reason) {
	s.after(at.Sub(now), func() { s.end(code, reason) })
}

// after runs f after d unless the session is over before.
func (s *session) after(d time.Duration, f func()) {
	s.timers.Lock()
	defer s.timers.Unlock()
	if !s.timers.stopped {
		s.timers.all = append(s.timers.all, time.AfterFunc(d, f))
	}
}

func (s *session) stopTimers() {
	s.timers.Lock()
	defer s.timers.Unlock()
	s.timers.stopped = true
	for _, t := range s.timers.all {
		t.Stop()
	}
}

// lastSeen is when the client last sent something.
func (s *session) lastSeen(now time.Time) time.Time {
	if s.conn != nil {
		if at := s.conn.LastRead(); !at.IsZero() {
			return at
		}
	}
	return now
}
