package hooks

import (
	"crypto/x509"
	"errors"
	"fmt"
	"log/slog"
	"math"
	"sync"
	"time"

	mqtt "github.com/mochi-mqtt/server/v2"
	"github.com/mochi-mqtt/server/v2/packets"
	"github.com/opticworks/devicecloud/broker"
	"github.com/opticworks/devicecloud/registry"
	"github.com/opticworks/devicecloud/topic"
	"github.com/prometheus/client_golang/prometheus"
)

// Options configures the MQTT face. The zero value of each field is usable.
type Options struct {
	Root             topic.Root            // default the courier's
	Logger           *slog.Logger          // default the courier's
	Registerer       prometheus.Registerer // nil: the metrics are kept, and not shown
	Now              func() time.Time      // default time.Now
	DeviceCAs        *x509.CertPool        // that vouch for client certificates; nil: only registered ones count
	Video            Video                 // answers devices about video; nil: it is disabled
	Limits           Limits
	Updates          Updates       // firmware; nil: what devices say of it is kept, and nothing follows
	OfflineThreshold time.Duration // of silence that ends a connection; default 120 s
	MaxPacket        int           // what the listener takes, in bytes, and MQTT 5 clients are told; default 128 KiB
}

// All returns the hooks of the cloud, for broker.Use, or for the AddHook of
// anybody's own mochi server: one guard. It completes the courier, which must be
// of the same server. Add no other hook that authenticates or allows: mochi asks
// for one that agrees.
//
// In a server without our listener (package broker) these promises do not hold:
// bytes are not judged before mochi parses them, a client that stops reading
// blocks those who publish to it, a CONNACK that cannot be written or a panic of
// mochi's own leaves the session to a lease of 10 s, client certificates are not
// seen, and 3.1.1 clients are sent mochi's own codes.
func All(courier *Courier, reg *registry.Registry, accounts Accounts, opts Options) []mqtt.Hook {
	if opts.Root == "" {
		opts.Root = courier.root
	}
	if opts.Logger == nil {
		opts.Logger = courier.log
	}
	if opts.Now == nil {
		opts.Now = time.Now
	}
	if opts.OfflineThreshold <= 0 {
		opts.OfflineThreshold = 2 * time.Minute
	}
	if opts.MaxPacket <= 0 {
		opts.MaxPacket = 128 << 10
	}
	if opts.Updates == nil {
		opts.Updates = noUpdates{reg}
	}
	courier.root, courier.log, courier.now = opts.Root, opts.Logger, opts.Now
	courier.load, courier.targetsCommand, courier.targets.root = readableIDs(reg), reg.TargetsCommand, opts.Root
	g := &guard{
		courier: courier, registry: reg, accounts: accounts, root: opts.Root, log: opts.Logger, now: opts.Now, deviceCAs: opts.DeviceCAs, video: opts.Video,
		limits: opts.Limits, updates: opts.Updates, offlineThreshold: opts.OfflineThreshold, maxPacket: uint32(min(opts.MaxPacket, math.MaxInt32)),
		metrics: courier.metrics, registerer: opts.Registerer, locks: newIDLocks(), connects: newConnectLimit(opts.Limits.ConnectsPerDevice),
		excess: excessLimit, retainers: make(chan struct{}, retainers),
	}
	return []mqtt.Hook{g}
}

// guard is the one hook. Its methods are called by mochi on the connections'
// goroutines, on the clients' write loops and on the publishers' goroutines; each
// recovers by itself.
type guard struct {
	mqtt.HookBase
	courier          *Courier
	registry         *registry.Registry
	accounts         Accounts
	root             topic.Root
	log              *slog.Logger
	now              func() time.Time
	deviceCAs        *x509.CertPool
	video            Video
	limits           Limits
	updates          Updates
	offlineThreshold time.Duration
	maxPacket        uint32
	metrics          *metrics
	registerer       prometheus.Registerer
	locks            *idLocks
	connects         *connectLimit
	excess           time.Duration
	retainers        chan struct{} // as many as may read retained topics at once
	work             sync.WaitGroup
}

var _ broker.Lifecycle = (*guard)(nil)

// ID implements mqtt.Hook.
func (g *guard) ID() string { return "devicecloud" }

// Provides implements mqtt.Hook.
func (g *guard) Provides(b byte) bool {
	switch b {
	case mqtt.OnConnect, mqtt.OnConnectAuthenticate, mqtt.OnSessionEstablished, mqtt.OnDisconnect, mqtt.OnACLCheck,
		mqtt.OnPacketRead, mqtt.OnPacketEncode, mqtt.OnPacketProcessed, mqtt.OnPublish, mqtt.OnPublishDropped, mqtt.OnQosPublish,
		mqtt.OnSubscribe, mqtt.OnSubscribed, mqtt.OnUnsubscribe, mqtt.OnUnsubscribed:
		return true
	}
	return false
}

// The misuses that Init refuses.
var (
	errTwice = errors.New("hooks: a server has one guard")
	errCaps  = errors.New("hooks: the server's capabilities break a promise")
)

// Init implements mqtt.Hook: the start-up assertion. It refuses capabilities with
// which mochi would break what this package promises.
func (g *guard) Init(any) error {
	c := g.Opts.Capabilities
	switch {
	case !g.courier.guarded.CompareAndSwap(false, true):
		return errTwice
	case c.Compatibilities.PassiveClientDisconnect:
		return fmt.Errorf("%w: PassiveClientDisconnect leaves superseded connections open", errCaps)
	case c.MaximumQos < 2:
		return fmt.Errorf("%w: MaximumQos %d answers QoS 2 with PUBACK", errCaps, c.MaximumQos)
	case c.RetainAvailable == 0:
		return fmt.Errorf("%w: RetainAvailable 0 refuses the messages of devices", errCaps)
	case c.MaximumSessionExpiryInterval != math.MaxUint32:
		return fmt.Errorf("%w: MaximumSessionExpiryInterval makes mochi delete sessions by id", errCaps)
	}
	if g.registerer == nil {
		return nil
	}
	return g.metrics.register(g.registerer)
}

// Stop implements mqtt.Hook: it waits for what the hook began.
func (g *guard) Stop() error {
	g.courier.forgetAll(g)
	g.work.Wait()
	g.courier.reloads.Wait()
	return nil
}

// OnPacketRead sees every packet of a client before mochi does. An error other
// than ErrRejectPacket is ignored by mochi, and that one closes the connection.
func (g *guard) OnPacketRead(cl *mqtt.Client, pk packets.Packet) (out packets.Packet, err error) {
	s := g.courier.session(cl)
	defer g.recovered("OnPacketRead", func() { out, err = pk, g.abort(s) })
	if s == nil {
		if pk.FixedHeader.Type == packets.Connect {
			g.greet(cl, &pk)
		}
		return pk, nil
	}
	if s.ending.Load() != nil {
		return pk, packets.ErrRejectPacket
	}
	switch pk.FixedHeader.Type {
	case packets.Publish:
		switch {
		case pk.Properties.TopicAliasFlag: // access checks would see the topic ""
			s.end(packets.ErrTopicAliasInvalid.Code, registry.ProtocolError)
			return pk, packets.ErrRejectPacket
		case len(pk.TopicName) > 0 && pk.TopicName[0] == '$':
			pk.TopicName = noTopic
		}
		if pk.FixedHeader.Qos == 1 {
			s.substitute(&pk)
		}
	case packets.Puback:
		g.acknowledged(s, &pk)
	case packets.Pubrec:
		if pk.ReasonCode >= packets.ErrUnspecifiedError.Code && s.reader != nil {
			s.reader.window.leave(pk.PacketID)
		}
	case packets.Pubcomp:
		if s.reader != nil {
			s.reader.window.leave(pk.PacketID)
		}
	case packets.Subscribe, packets.Unsubscribe:
		s.substitute(&pk)
	case packets.Disconnect:
		g.farewell(s, &pk)
	}
	return pk, nil
}

// noTopic stands for the "$" topics that mochi would drop without an answer: a
// topic that it accepts and nobody may publish to.
const noTopic = "-"

// acknowledged takes the PUBACKs of what the courier sent. mochi finds nothing
// under id 0.
func (g *guard) acknowledged(s *session, pk *packets.Packet) {
	if s.reader != nil {
		s.reader.window.leave(pk.PacketID)
		return
	}
	g.commandReceived(s, pk)
	if s.device.outbox.acked(pk.PacketID) {
		pk.PacketID = 0
		for k, payload := range s.device.outbox.due() {
			g.respond(s, k, payload)
		}
	}
}

// farewell is a client's DISCONNECT. How long its session is kept is ours to
// remember; the flag would make mochi expire it by id.
func (g *guard) farewell(s *session, pk *packets.Packet) {
	p := &pk.Properties
	if !p.SessionExpiryIntervalFlag {
		return
	}
	if s.reader == nil {
		p.SessionExpiryIntervalFlag = false
		return
	}
	asked := min(time.Duration(p.SessionExpiryInterval)*time.Second, maxAway)
	if asked > 0 && s.reader.keep == 0 {
		return // a protocol error, which mochi answers [MQTT-3.14.2-2]
	}
	p.SessionExpiryIntervalFlag = false
	s.reader.keep = asked
	s.cl.Properties.Props.SessionExpiryInterval = uint32(asked / time.Second)
}

// OnPacketEncode sees every packet before it is written.
func (g *guard) OnPacketEncode(cl *mqtt.Client, pk packets.Packet) (out packets.Packet) {
	// A packet without a type cannot be encoded, so it is not written.
	defer g.recovered("OnPacketEncode", func() { out = packets.Packet{} })
	s := g.courier.session(cl)
	if s == nil {
		return pk
	}
	switch pk.FixedHeader.Type {
	case packets.Publish:
		if s.reader != nil && !g.outbound(s, &pk) {
			return packets.Packet{}
		}
	case packets.Puback:
		s.restore(&pk)
	case packets.Suback, packets.Unsuback:
		s.restore(&pk)
		s.quota(&pk)
		s.acknowledge(&pk)
	case packets.Pubrec:
		if pk.ReasonCode == packets.ErrPacketIdentifierInUse.Code { // a repeated PUBLISH is received, not refused
			pk.ReasonCode, pk.Properties.ReasonString = 0, "" // [MQTT-4.3.3-10]
		}
	case packets.Connack:
		g.welcome(s, &pk)
	}
	return pk
}

// welcome completes a CONNACK.
func (g *guard) welcome(s *session, pk *packets.Packet) {
	if s.version != 5 {
		if pk.ReasonCode >= packets.ErrUnspecifiedError.Code {
			pk.ReasonCode = broker.V3Code(pk.ReasonCode)
		}
		return
	}
	if pk.ReasonCode != 0 {
		return
	}
	p := &pk.Properties
	p.MaximumPacketSize = g.maxPacket
	p.TopicAliasMaximum = 0
	if s.reader == nil || s.reader.person != nil {
		p.SharedSubAvailable, p.SharedSubAvailableFlag = 0, true
	}
	switch {
	case s.device != nil:
		p.SessionExpiryInterval, p.SessionExpiryIntervalFlag = 0, true
	case s.reader.capped:
		p.SessionExpiryInterval, p.SessionExpiryIntervalFlag = uint32(s.reader.keep/time.Second), true
	}
}

// abort ends a session after a panic, so that no half-done packet counts.
func (g *guard) abort(s *session) error {
	if s != nil {
		s.end(packets.ErrUnspecifiedError.Code, registry.ServerError)
	}
	return packets.ErrRejectPacket
}

// OnPublishDropped counts messages that a reader was too slow for.
func (g *guard) OnPublishDropped(*mqtt.Client, packets.Packet) { g.metrics.dropped.Inc() }
