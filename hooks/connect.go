package hooks

import (
	"context"
	"crypto/x509"
	"errors"
	"fmt"
	"net"
	"strings"
	"time"

	"github.com/google/uuid"
	mqtt "github.com/mochi-mqtt/server/v2"
	"github.com/mochi-mqtt/server/v2/packets"
	"github.com/opticworks/devicecloud/broker"
	"github.com/opticworks/devicecloud/registry"
	"github.com/opticworks/devicecloud/topic"
)

const (
	// lockLimit is how long a CONNECT waits for its client id before it is refused
	// with 0x89: an ESP32 gives up on its CONNACK after 10 s, and wants a refusal by 5.
	lockLimit = 4 * time.Second
	// storeLimit is the patience for a read of the registry.
	storeLimit = 5 * time.Second
	// lease is how long a connection of somebody else's listener may hold the id
	// lock, since nobody tells us how its CONNACK fared; and acceptance, the lease of
	// one whose CONNECT was not decided yet.
	lease      = 10 * time.Second
	acceptance = 30 * time.Second
)

// refusal is why a CONNECT was refused.
type refusal struct {
	code byte // MQTT 5
	why  string
	err  error // for the log
}

func refuse(code byte, why string) *refusal { return &refusal{code: code, why: why} }

func (r *refusal) because(err error) *refusal {
	r.err = err
	return r
}

// Error implements error. It holds nothing that the client sent.
func (r *refusal) Error() string { return fmt.Sprintf("connect refused 0x%02x: %s", r.code, r.why) }

func (r *refusal) Unwrap() error { return r.err }

// greet makes the session of a CONNECT and rewrites the packet before mochi looks
// at it. What mochi cannot be trusted with it does not get: the password, which it
// would log; the will, whose topic it never checks and which it fires at
// takeovers; the Receive Maximum, over which it deadlocks; and topic aliases.
func (g *guard) greet(cl *mqtt.Client, pk *packets.Packet) {
	s := newSession(cl)
	c, p := &pk.Connect, &pk.Properties
	s.version, s.maxSize = pk.ProtocolVersion, p.MaximumPacketSize
	s.hello = &hello{password: c.Password, hasPassword: c.PasswordFlag, method: p.AuthenticationMethod}
	if c.WillFlag {
		s.hello.will = &will{topic: c.WillTopic, payload: c.WillPayload}
	}
	c.Password, c.PasswordFlag = nil, false
	c.WillFlag, c.WillTopic, c.WillPayload, c.WillQos, c.WillRetain, c.WillProperties = false, "", nil, 0, false, packets.Properties{}
	receiveMaximum := p.ReceiveMaximum
	if receiveMaximum == 0 || pk.ProtocolVersion != 5 {
		receiveMaximum = noWindow
	}
	p.ReceiveMaximum, p.TopicAliasMaximum = 0, 0
	if c.UsernameFlag && isReader(string(c.Username)) && c.ClientIdentifier != "" {
		s.reader = &reader{window: newWindow(receiveMaximum)}
		switch {
		case pk.ProtocolVersion == 5:
			asked := time.Duration(p.SessionExpiryInterval) * time.Second
			s.reader.keep = min(asked, maxAway)
			s.reader.capped = asked > maxAway
			p.SessionExpiryInterval = uint32(s.reader.keep / time.Second)
		case !c.Clean:
			s.reader.keep = maxAway
		}
	} else { // a device has no resumable session; what it missed is in the registry
		s.device = &device{outbox: outbox{window: min(downWindow, int(receiveMaximum))}}
		c.Clean, p.SessionExpiryInterval = true, 0
	}
	p.SessionExpiryIntervalFlag = false // or mochi's expiry, which deletes by id, takes an interest
	g.courier.attach(s)
	if s.conn == nil {
		s.after(acceptance, func() { g.expireLease(s) })
	}
}

// OnConnect decides about a CONNECT: it is the only place that may refuse, because
// only here a refusal is certain. It writes the refusing CONNACK itself, which
// mochi does not. [MQTT-3.1.4-2] [MQTT-3.2.2-7]
func (g *guard) OnConnect(cl *mqtt.Client, pk packets.Packet) (err error) {
	s := g.courier.session(cl)
	if s == nil {
		return errNoSession
	}
	defer g.recovered("OnConnect", func() { err = g.turnAway(s, refuse(packets.ErrServerUnavailable.Code, "internal error")) })
	s.id = cl.ID
	err = g.accept(s, &pk)
	s.hello = nil // the password with it
	if err != nil {
		return g.turnAway(s, err)
	}
	limit := uint16(g.offlineThreshold / time.Second * 2 / 3) // mochi adds half of it
	if keep := cl.State.Keepalive; keep == 0 || keep > limit {
		cl.State.Keepalive, cl.State.ServerKeepalive = limit, true // [MQTT-3.1.2-21]
	}
	if s.conn != nil {
		s.conn.Authenticated()
	} else {
		s.after(lease, func() { g.expireLease(s) })
	}
	return nil
}

var errNoSession = errors.New("hooks: a client without a CONNECT")

// OnConnectAuthenticate repeats what OnConnect decided.
func (g *guard) OnConnectAuthenticate(cl *mqtt.Client, _ packets.Packet) bool {
	s := g.courier.session(cl)
	return s != nil && s.accepted.Load() && s.ending.Load() == nil
}

// turnAway answers a refused CONNECT and undoes what acceptance did.
func (g *guard) turnAway(s *session, err error) error {
	r := refuse(packets.ErrServerUnavailable.Code, "internal error")
	if !errors.As(err, &r) {
		r = r.because(err)
	}
	code := r.code
	if s.version != 5 {
		switch code = broker.V3Code(code); r.code {
		case packets.ErrQuotaExceeded.Code, packets.ErrConnectionRateExceeded.Code, packets.ErrServerShuttingDown.Code:
			code = packets.Err3ServerUnavailable.Code // "not authorized" would make firmware give up
		}
	}
	// A failure to write means that the client is gone already.
	_ = s.cl.WritePacket(packets.Packet{FixedHeader: packets.FixedHeader{Type: packets.Connack}, ReasonCode: code})
	g.metrics.refused(r.code)
	level := g.log.Debug
	if registry.KindOf(r.err) == registry.Internal && r.err != nil || r.code == packets.ErrServerUnavailable.Code {
		level = g.log.Warn
	}
	level("connect refused", "client", g.loggable(s.id), "remote", s.cl.Net.Remote, "code", int(r.code), "why", r.why, "error", r.err)
	g.cleanUp(s, r)
	return r
}

// loggable is what of a client id may be logged: the id of a device or of an account.
// A stranger may send anything, and a person by mistake a token.
func (g *guard) loggable(id string) string {
	if topic.ValidDeviceID(id) {
		return id
	}
	if isReader(id) {
		name, _, _ := strings.Cut(id[len(prefixUser):], ":")
		if len(name) == 36 && uuid.Validate(name) == nil {
			return id[:len(prefixUser)] + name
		}
	}
	return fmt.Sprintf("(%d bytes)", len(id))
}

// accept decides. Credential, client id and will come before the id lock: a
// stranger must not hold a victim's lock.
func (g *guard) accept(s *session, pk *packets.Packet) error {
	username := string(pk.Connect.Username)
	switch {
	case s.hello.method != "":
		return refuse(packets.ErrBadAuthenticationMethod.Code, "enhanced authentication")
	case !pk.Connect.UsernameFlag || username == "":
		return refuse(packets.ErrBadUsernameOrPassword.Code, "no user name")
	}
	g.courier.await(username, s)
	defer g.courier.settled(username, s)
	if s.reader != nil {
		return g.connectReader(s, username)
	}
	return g.connectDevice(s, username, pk.Connect.ClientIdentifier)
}

// lock takes the lock of the client id.
func (g *guard) lock(s *session) error {
	h := g.locks.acquire(s.id, lockLimit)
	if h == nil {
		return refuse(packets.ErrServerBusy.Code, "the client id is busy")
	}
	s.hold.Store(h)
	return s.over()
}

// over is the refusal of a session that was ended while it was being accepted.
func (s *session) over() error {
	if e := s.ending.Load(); e != nil {
		code := max(e.code, packets.ErrServerUnavailable.Code)
		if e.reason == registry.CredentialRevoked {
			code = packets.ErrBadUsernameOrPassword.Code // as any credential that is not valid
		}
		return refuse(code, "ended while it was being accepted: "+e.reason.String())
	}
	return nil
}

// connectDevice lets in a device: user name, client id and device id are one.
func (g *guard) connectDevice(s *session, username, clientID string) error {
	if !topic.ValidDeviceID(username) {
		return refuse(packets.ErrBadUsernameOrPassword.Code, "the user name is no device id")
	}
	ctx, cancel := context.WithTimeout(context.Background(), storeLimit)
	defer cancel()
	login := registry.Login{DeviceID: username, Password: s.hello.password, HasPassword: s.hello.hasPassword}
	login.Certificate, login.ByCA = g.certificate(s)
	identity, err := g.registry.Authenticate(ctx, login)
	switch {
	case errors.Is(err, registry.ErrBadCredential):
		return refuse(packets.ErrBadUsernameOrPassword.Code, "credential")
	case err != nil:
		return refuse(packets.ErrServerUnavailable.Code, "the registry cannot be read").because(err)
	case clientID != username:
		return refuse(packets.ErrClientIdentifierNotValid.Code, "client id is not the device id")
	}
	if w := s.hello.will; w != nil {
		if err := g.checkWill(username, w); err != nil {
			return err
		}
	}
	if !g.connects.allow(username, g.now()) {
		return refuse(packets.ErrConnectionRateExceeded.Code, "too many connections of this device")
	}
	if err := g.lock(s); err != nil {
		return err
	}
	claimed, err := g.registry.Connect(ctx, identity, registry.ConnectInfo{Remote: host(s.cl.Net.Remote), Protocol: int(s.version), MaxPacket: s.maxSize})
	switch {
	case errors.Is(err, registry.ErrBadCredential):
		return refuse(packets.ErrBadUsernameOrPassword.Code, "credential withdrawn")
	case err != nil:
		return refuse(packets.ErrServerUnavailable.Code, "the connection could not be recorded").because(err)
	}
	s.device.session = claimed
	retired := g.courier.admit(username, s)
	for _, r := range retired {
		g.courier.retire(s, r)
	}
	if at := claimed.ExpiresAt; !at.IsZero() {
		s.endAt(at, g.now(), packets.ErrNotAuthorized.Code, registry.CredentialRevoked)
	}
	return s.over()
}

// certificate is the client's certificate and whether the device CA vouches for
// its chain. The registry judges its name and fingerprint.
func (g *guard) certificate(s *session) (leaf *x509.Certificate, byCA bool) {
	if s.conn == nil {
		return nil, false
	}
	return registry.ClientCertificate(s.conn.PeerCertificates(), g.deviceCAs, g.now())
}

// host is an address without its port.
func host(remote string) string {
	if h, _, err := net.SplitHostPort(remote); err == nil {
		return h
	}
	return remote
}

// OnSessionEstablished follows the CONNACK.
func (g *guard) OnSessionEstablished(cl *mqtt.Client, _ packets.Packet) {
	s := g.courier.session(cl)
	if s == nil {
		return
	}
	defer g.recovered("OnSessionEstablished", func() { s.end(packets.ErrUnspecifiedError.Code, registry.ServerError) })
	defer g.leave(s)
	before := s.before
	s.before = nil // mochi has ended it
	s.live.Store(true)
	if s.device != nil {
		// mochi's own teardown works by id, also on a newer session. With these it
		// leaves everything to cleanUp.
		cl.Properties.Clean = false
		cl.Properties.Props.SessionExpiryInterval = 1
	} else {
		if cl.State.Subscriptions.Len() > 0 {
			g.courier.watch(s)
			if before != nil && before.reader != nil {
				g.courier.targets.inherit(s, before, s.subscribes)
			}
		}
		g.resend(s)
	}
}
