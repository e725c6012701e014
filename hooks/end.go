package hooks

import (
	"context"
	"errors"
	"time"

	mqtt "github.com/mochi-mqtt/server/v2"
	"github.com/mochi-mqtt/server/v2/packets"
	"github.com/opticworks/devicecloud/broker"
	"github.com/opticworks/devicecloud/registry"
)

const (
	// offlineLimit is how long the end of a connection holds its id lock for a
	// registry that cannot be written; offlineLater, how much longer it is tried
	// without the lock. The registry's sweep mends what is left.
	offlineLimit = 10 * time.Second
	offlineLater = time.Minute
	// shutdownLimit is both at a shutdown: the next start settles what is left.
	shutdownLimit = 5 * time.Second
)

// enter takes the id lock unless the session holds it. It is called on the
// connection's own goroutine.
func (g *guard) enter(s *session) {
	if s.hold.Load() == nil {
		s.hold.Store(g.locks.acquire(s.id, 0))
	}
}

// leave gives the id lock back if the session holds it.
func (g *guard) leave(s *session) {
	if h := s.hold.Swap(nil); h != nil {
		h.release()
	}
}

// OnDisconnect takes the id lock, which is kept until the end of the clean-up, so
// that no new session of the id comes between. Behind our own listener the clean-up
// is ConnClosed, which comes in any case; mochi leaves OnDisconnect out when the
// CONNACK fails.
func (g *guard) OnDisconnect(cl *mqtt.Client, err error, _ bool) {
	s := g.courier.session(cl)
	if s == nil || s.cleaned.Load() {
		return
	}
	defer g.recovered("OnDisconnect", nil)
	if s.conn == nil {
		g.cleanUp(s, err)
		return
	}
	g.enter(s)
}

// ConnClosed implements broker.Lifecycle: the clean-up.
func (g *guard) ConnClosed(c *broker.Conn, err error) {
	s, ok := c.Attachment().(*session)
	if !ok {
		return
	}
	defer g.recovered("ConnClosed", func() { g.leave(s) })
	g.cleanUp(s, err)
}

// Drain implements broker.Lifecycle: the node shuts down.
func (g *guard) Drain(c *broker.Conn) {
	defer g.recovered("Drain", nil)
	if s, ok := c.Attachment().(*session); ok {
		s.end(packets.ErrServerShuttingDown.Code, registry.NodeShutdown)
	}
}

// expireLease ends a connection of somebody else's listener that was not
// established in time.
func (g *guard) expireLease(s *session) {
	if s.live.Load() || s.cleaned.Load() {
		return
	}
	defer g.recovered("expireLease", nil)
	_ = s.cl.Net.Conn.Close()
	g.cleanUp(s, errLease)
}

var errLease = errors.New("hooks: the connection was not established in time")

// cleanUp ends a session, once: presence, mochi's traces of it, our own. A session
// that never had the id lock leaves no more than its table entry.
func (g *guard) cleanUp(s *session, err error) {
	if s.cleaned.Swap(true) {
		return
	}
	s.release()
	s.stopTimers()
	if s.reader != nil {
		g.courier.targets.changed(s)
	}
	if !s.accepted.Load() && s.hold.Load() == nil {
		g.courier.remove(s)
		return
	}
	g.enter(s)
	defer g.leave(s)
	g.endBefore(s)
	if s.reader != nil {
		if s.reader.keep > 0 && s.live.Load() && !s.superseded.Load() && !s.reader.expelled.Load() {
			g.park(s)
			return
		}
		g.forget(s)
		return
	}
	g.forget(s)
	if s.device.session != nil {
		g.registry.CommandsGone(s.device.session)
	}
	if d := s.device; d.session != nil && !s.superseded.Load() { // the claim that superseded it has ended its row
		g.offline(s, s.reason(err))
	}
}

// endBefore ends the session that s took the id over from, if it did not come to
// mochi doing so: its epoch is gone, and it can write nothing any more.
func (g *guard) endBefore(s *session) {
	switch before := s.before; {
	case before == nil:
	case before.away.Load() != 0:
		g.forget(before)
	default:
		before.end(packets.ErrSessionTakenOver.Code, registry.Takeover)
	}
}

// forget removes a session from mochi, by id only where the id is still its own,
// and from our tables; the id lock is held. A panic makes mochi skip its part.
func (g *guard) forget(s *session) {
	server := g.courier.server
	if cl, ok := server.Clients.Get(s.id); ok && cl == s.cl {
		cl.ClearInflights()
		server.UnsubscribeClient(cl)
		server.Clients.Delete(s.id)
	}
	g.courier.remove(s)
	if s.reader != nil {
		g.courier.part(s)
	}
}

// offline writes the end of a device's connection. The id lock is held at first,
// so that the announcement comes before the next connection's.
func (g *guard) offline(s *session, reason registry.Reason) {
	seen := s.lastSeen(g.now())
	limit := offlineLimit
	if reason == registry.NodeShutdown {
		limit = shutdownLimit
	}
	err := g.writeOffline(s, reason, seen, limit)
	if err != nil && reason != registry.NodeShutdown {
		g.leave(s)
		err = g.writeOffline(s, reason, seen, offlineLater)
	}
	if err != nil {
		g.log.Error("the end of a connection could not be recorded; the sweep will", "device_id", s.id, "epoch", s.device.session.Epoch, "error", err)
	}
}

func (g *guard) writeOffline(s *session, reason registry.Reason, seen time.Time, limit time.Duration) error {
	ctx, cancel := context.WithTimeout(context.Background(), limit)
	defer cancel()
	_, err := g.registry.Disconnect(ctx, s.device.session, reason, seen)
	return err
}

// reason is why a connection ended: what the server wanted, else what happened.
func (s *session) reason(err error) registry.Reason {
	if e := s.ending.Load(); e != nil {
		return e.reason
	}
	if errors.Is(err, broker.ErrPanic) {
		return registry.ServerError
	}
	switch _, kind := broker.CloseReason(err); kind {
	case broker.ClientDisconnect:
		return registry.ClientDisconnect
	case broker.KeepaliveTimeout:
		return registry.KeepaliveTimeout
	case broker.ProtocolError:
		return registry.ProtocolError
	}
	return registry.NetworkError
}
