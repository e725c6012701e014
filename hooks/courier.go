package hooks

import (
	"errors"
	"log/slog"
	"sync"
	"sync/atomic"
	"time"

	mqtt "github.com/mochi-mqtt/server/v2"
	"github.com/mochi-mqtt/server/v2/packets"
	"github.com/opticworks/devicecloud/registry"
	"github.com/opticworks/devicecloud/topic"
)

// Courier carries the registry's messages to live sessions: it is the table of
// them, and implements [registry.Courier]. Make it with [NewCourier], hand it to
// registry.New, and then to [All], which completes it; before that it has no
// sessions and delivers nothing.
type Courier struct {
	server  *mqtt.Server
	root    topic.Root
	log     *slog.Logger
	metrics *metrics
	now     func() time.Time
	speaker *mqtt.Client // the server as a publisher; works without Options.InlineClient

	// watchers is how many sessions may hold a subscription to what devices say. At
	// 0, mochi is not asked to look for subscribers.
	watchers atomic.Int64

	mu      sync.RWMutex
	live    map[string]*session                              // by client id: accepted, or of a person who is away
	pending map[string]map[*session]struct{}                 // by user name: being accepted
	people  map[string]*person                               // by user id: with a session in live
	foreign map[*mqtt.Client]*session                        // of somebody else's listener
	load    func(userID string) (map[string]struct{}, error) // reads what a person may read; set by All

	targets        *targets
	targetsCommand func(on bool) (registry.CommandDelivery, error) // set by All

	reloads sync.WaitGroup
	guarded atomic.Bool // a guard is installed
}

var _ registry.Courier = (*Courier)(nil)

// NewCourier makes the courier of a mochi server. Topics are below root.
func NewCourier(server *mqtt.Server, root topic.Root, logger *slog.Logger) *Courier {
	if logger == nil {
		logger = slog.New(slog.DiscardHandler)
	}
	c := &Courier{
		server: server, root: root, log: logger, now: time.Now,
		speaker: server.NewClient(nil, mqtt.LocalListener, "devicecloud", true),
		live:    map[string]*session{}, pending: map[string]map[*session]struct{}{},
		people: map[string]*person{}, foreign: map[*mqtt.Client]*session{},
	}
	c.metrics = newMetrics(c)
	c.targets = c.newTargets()
	return c
}

// Errors of Deliver beside registry.ErrOffline.
var (
	errTooLarge = registry.E(registry.TooLarge, "payload_too_large", "The message is larger than the device takes.")
	errBusy     = registry.E(registry.RateLimited, "device_busy", "The device has not acknowledged earlier messages yet.")
	errNoTopic  = registry.E(registry.Internal, "no_such_topic", "Messages of this kind are not delivered this way.")
)

// Deliver writes one message to the device's live session, at QoS 1 or at the QoS
// it subscribed with. ErrOffline: there is no session here that subscribed to the
// topic. RateLimited: too many are unacknowledged. TooLarge: above the client's
// Maximum Packet Size. Commands go by DeliverCommand.
func (c *Courier) Deliver(deviceID string, k topic.Kind, payload []byte) error {
	if k.Direction() != topic.ToDevice || k == topic.Command {
		return errNoTopic
	}
	c.mu.RLock()
	s := c.live[deviceID]
	c.mu.RUnlock()
	if s == nil || s.device == nil {
		return registry.ErrOffline
	}
	return c.deliver(s, k, payload)
}

func (c *Courier) deliver(s *session, k topic.Kind, payload []byte) error {
	return c.deliverFor(s, k, payload, 0)
}

// deliverFor is deliver with a Message Expiry for MQTT 5; 0: none.
func (c *Courier) deliverFor(s *session, k topic.Kind, payload []byte, expiry time.Duration) error {
	if !s.live.Load() || s.ending.Load() != nil {
		return registry.ErrOffline
	}
	pk := packets.Packet{
		FixedHeader: packets.FixedHeader{Type: packets.Publish},
		TopicName:   c.root.Build(s.id, k), Payload: payload,
	}
	if s.version == 5 {
		pk.Properties.MessageExpiryInterval = uint32(expiry / time.Second)
	}
	id, qos, err := s.device.outbox.take(k)
	if err != nil {
		return err
	}
	pk.FixedHeader.Qos, pk.PacketID = qos, id
	return c.write(s, k, pk)
}

// write writes a message to a device whose outbox has numbered it.
func (c *Courier) write(s *session, k topic.Kind, pk packets.Packet) error {
	err := s.cl.WritePacket(pk)
	if err == nil {
		c.metrics.delivered(k)
		return nil
	}
	s.device.outbox.acked(pk.PacketID)
	if errors.Is(err, packets.ErrPacketTooLarge) {
		return errTooLarge
	}
	return registry.ErrOffline.With(err)
}

// Announce hands people's subscriptions a message of the server's own. Retained
// kinds are not kept here: whoever subscribes later gets them from the registry.
func (c *Courier) Announce(deviceID string, k topic.Kind, payload []byte) {
	if !c.Watched() || len(payload) == 0 {
		return
	}
	err := c.server.InjectPacket(c.speaker, packets.Packet{
		FixedHeader: packets.FixedHeader{Type: packets.Publish, Qos: 1}, // of subscribers; nothing is acknowledged here
		TopicName:   c.root.Build(deviceID, k), Payload: payload, PacketID: 1,
	})
	if err != nil {
		c.log.Warn("an announcement was not handed out", "device_id", deviceID, "topic", k.String(), "error", err)
	}
}

// Watched reports whether anybody might be handed an announcement.
func (c *Courier) Watched() bool { return c.watchers.Load() > 0 }

// Disconnect ends the device's session, and those that are just being accepted.
func (c *Courier) Disconnect(deviceID string, reason registry.Reason) bool {
	found := false
	for _, s := range c.sessionsOf(deviceID) {
		found = s.end(endCode(reason), reason) || found
	}
	return found
}

// retirement is the end of a credential, as ExpireSession was told.
type retirement struct {
	credentialID int64
	at           time.Time
}

// ExpireSession ends the device's session at the given time if it was opened with
// this credential. A session that is being accepted may or may not use it: it
// remembers, and decides when it is.
func (c *Courier) ExpireSession(deviceID string, credentialID int64, at time.Time) {
	r := retirement{credentialID, at}
	c.mu.Lock()
	s := c.live[deviceID]
	for p := range c.pending[deviceID] {
		p.retired = append(p.retired, r)
	}
	c.mu.Unlock()
	if s != nil && s.device != nil {
		c.retire(s, r)
	}
}

// retire schedules the end of an accepted session whose credential ends.
func (c *Courier) retire(s *session, r retirement) {
	if s.device.session.CredentialID != r.credentialID {
		return
	}
	now := c.now()
	if !r.at.After(now) {
		s.end(packets.ErrNotAuthorized.Code, registry.CredentialRevoked)
		return
	}
	s.endAt(r.at, now, packets.ErrNotAuthorized.Code, registry.CredentialRevoked)
}

// Sessions lists the devices that are connected here; sessions that are just being
// accepted or ended are left out.
func (c *Courier) Sessions() []registry.Live {
	c.mu.RLock()
	defer c.mu.RUnlock()
	list := make([]registry.Live, 0, len(c.live))
	for _, s := range c.live {
		if s.device != nil && s.live.Load() && s.ending.Load() == nil {
			r := s.device.session
			list = append(list, registry.Live{DeviceNo: r.DeviceNo, DeviceID: r.DeviceID, Epoch: r.Epoch})
		}
	}
	return list
}

// sessionsOf lists a device's session and those being accepted under its name.
func (c *Courier) sessionsOf(deviceID string) []*session {
	c.mu.RLock()
	defer c.mu.RUnlock()
	var list []*session
	if s := c.live[deviceID]; s != nil && s.device != nil {
		list = append(list, s)
	}
	for s := range c.pending[deviceID] {
		if s.device != nil {
			list = append(list, s)
		}
	}
	return list
}

// await enters a session that is being accepted under a user name, so that the
// registry can end it meanwhile.
func (c *Courier) await(username string, s *session) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.pending[username] == nil {
		c.pending[username] = map[*session]struct{}{}
	}
	c.pending[username][s] = struct{}{}
}

// settled takes a session out of those being accepted.
func (c *Courier) settled(username string, s *session) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.unawait(username, s)
}

func (c *Courier) unawait(username string, s *session) {
	delete(c.pending[username], s)
	if len(c.pending[username]) == 0 {
		delete(c.pending, username)
	}
}

// admit makes s the session of its client id, under the id's lock, and marks the
// one before as superseded. That happens even if s is to end at once: the epoch of
// the one before is gone.
func (c *Courier) admit(username string, s *session) (retired []retirement) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.unawait(username, s)
	s.before, retired = c.live[s.id], s.retired
	c.live[s.id], s.retired = s, nil
	s.accepted.Store(true)
	if s.before != nil {
		s.before.successor.Store(s)
		s.before.superseded.Store(true)
		s.before.release()
	}
	return retired
}

// remove forgets a session, under the id's lock.
func (c *Courier) remove(s *session) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.live[s.id] == s {
		delete(c.live, s.id)
	}
	delete(c.foreign, s.cl)
}

// forgetAll forgets the readers that are away, when the server stops.
func (c *Courier) forgetAll(g *guard) {
	c.mu.RLock()
	var away []*session
	for _, s := range c.live {
		if s.reader != nil && s.away.Load() != 0 {
			away = append(away, s)
		}
	}
	c.mu.RUnlock()
	for _, s := range away {
		h := g.locks.acquire(s.id, 0)
		s.parked.Stop()
		g.forget(s)
		h.release()
	}
}

// counts is the number of connected sessions, of devices and of others.
func (c *Courier) counts() (devices, readers int) {
	c.mu.RLock()
	defer c.mu.RUnlock()
	for _, s := range c.live {
		switch {
		case !s.live.Load() || s.cleaned.Load():
		case s.device != nil:
			devices++
		default:
			readers++
		}
	}
	return devices, readers
}

// endCode is the reason code that tells an MQTT 5 client why.
func endCode(r registry.Reason) byte {
	switch r {
	case registry.CredentialRevoked:
		return packets.ErrNotAuthorized.Code
	case registry.Takeover:
		return packets.ErrSessionTakenOver.Code
	case registry.NodeShutdown:
		return packets.ErrServerShuttingDown.Code
	case registry.RateExceeded:
		return packets.ErrMessageRateTooHigh.Code
	case registry.ServerError:
		return packets.ErrUnspecifiedError.Code
	}
	return packets.ErrAdministrativeAction.Code
}
