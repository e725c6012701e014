package fleet

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"time"

	"github.com/opticworks/devicecloud/firmware-sim/mqttwire"
)

// Why a session ends from the device's side.
var (
	errReboot      = errors.New("the device restarts")
	errPingTimeout = errors.New("no PINGRESP")
)

const (
	readBuffer     = 512              // a device receives little; 15,000 of these must fit
	packetTimeout  = 20 * time.Second // for the rest of a packet that has begun to arrive
	writeTimeout   = 10 * time.Second // esp-mqtt's network timeout
	provisionRetry = 10 * time.Second
	rebootLatest   = time.Second // after the answer to a reboot command, acknowledged or not
	targetsEvery   = 100 * time.Millisecond
	maxInflight    = 8
	packetDefault  = 1024 // esp-mqtt's default buffer
)

// purpose says what an acknowledgement means.
type purpose byte

const (
	forOther purpose = iota
	forState
	forProvision
	forReboot // the restart waits for this one's acknowledgement
)

// inflight is a QoS 1 message that awaits its PUBACK.
type inflight struct {
	id    uint16
	why   purpose
	mark  uint32
	first time.Time
	last  time.Time
	frame []byte // kept only by devices that resend
}

// later is something to do at a time.
type later struct {
	at time.Time
	do func(now time.Time) error
}

// session is one connection of a device. A single goroutine does everything: it sleeps in Read until the next thing
// is due, so a device costs one small stack and no lock.
type session struct {
	d       *Device
	link    Link
	r       *bufio.Reader
	version mqttwire.Version

	keepAlive time.Duration
	lastID    uint16
	waiting   []inflight
	schedule  []later

	// When the next of each is due; zero means never.
	state, telemetry, ping, provision, targets, reboot, video time.Time

	videoRequest string // the last request about video, whose answer counts

	pinged    bool // a PINGREQ is unanswered
	refused   bool // the provisioning was rejected; the next connection asks again
	oversized bool // counted once a session
}

func newSession(d *Device, link Link) *session {
	return &session{d: d, link: link, r: bufio.NewReaderSize(link, readBuffer), version: d.version(), keepAlive: d.life.KeepAlive}
}

// topic returns a topic of this device.
func (s *session) topic(suffix string) string {
	return s.d.life.Root + "/" + s.d.Identity.DeviceID + "/" + suffix
}

// run speaks the whole session. start is when the device began to dial.
func (s *session) run(ctx context.Context, start time.Time) error {
	// Wakes whoever reads when the run ends. Readers set their deadline first and look at the context afterwards, so
	// one of the two always sees the end.
	stop := context.AfterFunc(ctx, func() { _ = s.link.SetReadDeadline(time.Unix(1, 0)) })
	defer stop()
	if err := s.connect(ctx, start); err != nil {
		return err
	}
	s.d.stats.Online.Add(1)
	defer func() {
		s.d.live.Store(false)
		s.d.stats.Online.Add(-1)
	}()
	if err := s.subscribe(); err != nil {
		return err
	}
	for {
		if err := s.link.SetReadDeadline(s.due()); err != nil {
			return err
		}
		if ctx.Err() != nil {
			return s.send(&mqttwire.Packet{Type: mqttwire.DISCONNECT})
		}
		_, err := s.r.Peek(1)
		if errors.Is(err, os.ErrDeadlineExceeded) {
			err = s.act(time.Now())
		} else if err == nil {
			err = s.receive()
		}
		if err != nil {
			return err
		}
	}
}

func (s *session) connect(ctx context.Context, start time.Time) error {
	d := s.d
	id := d.Identity
	hello := &mqttwire.Connect{
		Version: s.version, ClientID: id.DeviceID, Username: id.DeviceID,
		Password: id.Password(d.life.Auth, time.Now()), KeepAlive: uint16(d.life.KeepAlive / time.Second),
		Will: &mqttwire.Will{Topic: s.topic("state"), Payload: []byte(willPayload), QoS: 1, Retain: true},
	}
	packet := &mqttwire.Packet{Type: mqttwire.CONNECT, Connect: hello}
	if s.version == mqttwire.V5 {
		packet.Properties = mqttwire.Properties{
			mqttwire.Number(mqttwire.PropReceiveMaximum, maxInflight),
			mqttwire.Number(mqttwire.PropMaximumPacketSize, uint32(d.life.PacketSize)),
		}
	}
	if err := s.send(packet); err != nil {
		return err
	}
	if err := errors.Join(s.link.SetReadDeadline(start.Add(d.life.ConnectTimeout)), ctx.Err()); err != nil {
		return err
	}
	ack, err := mqttwire.ReadPacket(s.r, s.version)
	if err != nil {
		return err
	}
	if ack.Type != mqttwire.CONNACK {
		return fmt.Errorf("%w: %s before CONNACK", mqttwire.ErrMalformed, ack.Type)
	}
	if ack.ReasonCode != mqttwire.Success {
		return &mqttwire.RefusedError{Request: mqttwire.CONNECT, Code: ack.ReasonCode, Reason: ack.Properties.Text(mqttwire.PropReasonString)}
	}
	if seconds, ok := ack.Properties.Number(mqttwire.PropServerKeepAlive); ok {
		s.keepAlive = time.Duration(seconds) * time.Second
	}
	now := time.Now()
	d.stats.Connect.Record(now.Sub(start))
	if d.sessions.Add(1) == 1 {
		d.stats.Connected.Add(1)
	} else {
		d.reconnects++
		d.stats.Reconnects.Add(1)
	}
	if s.keepAlive > 0 {
		s.ping = now.Add(s.keepAlive / 2) // esp-mqtt pings at half
	}
	if d.life.TelemetryInterval > 0 {
		s.telemetry = now.Add(time.Duration(d.rng.Int64N(int64(d.life.TelemetryInterval) + 1)))
	}
	return nil
}

// subscribe asks for everything that the cloud sends to a device; the life begins with the SUBACK.
func (s *session) subscribe() error {
	var filters []mqttwire.Filter
	for _, suffix := range []string{
		"provision/response", "config/update", "ota/trigger", "diag/request", "command/+",
		"claim/response", "claim/challenge",
	} {
		filters = append(filters, mqttwire.Filter{Topic: s.topic(suffix), QoS: 1})
	}
	if s.d.life.Video {
		for _, suffix := range []string{"kvs/config/response", "kvs/credentials/response"} {
			filters = append(filters, mqttwire.Filter{Topic: s.topic(suffix), QoS: 1})
		}
	}
	return s.send(&mqttwire.Packet{Type: mqttwire.SUBSCRIBE, PacketID: s.nextID(), Filters: filters})
}

// begin is what a device does once it can hear: register if it never did, else report.
func (s *session) begin(now time.Time) {
	if u := s.d.updating; u != nil { // the download went on without the connection
		s.schedule = append(s.schedule, later{now.Add(s.d.life.OTAStep), func(now time.Time) error { return s.continueUpdate(u, now) }})
	}
	if s.d.provisioned || s.refused {
		s.state = now
		s.videoWanted(now)
		return
	}
	s.provision = now
}

// due returns when the device must act next; zero when only the server can move it.
func (s *session) due() time.Time {
	earliest := time.Time{}
	consider := func(t time.Time) {
		if !t.IsZero() && (earliest.IsZero() || t.Before(earliest)) {
			earliest = t
		}
	}
	for _, t := range [...]time.Time{s.state, s.telemetry, s.ping, s.provision, s.targets, s.reboot, s.video} {
		consider(t)
	}
	for _, w := range s.waiting {
		consider(w.first.Add(s.d.life.AckTimeout))
		if w.frame != nil {
			consider(w.last.Add(espResend))
		}
	}
	for _, l := range s.schedule {
		consider(l.at)
	}
	return earliest
}

// act does everything whose time has come.
func (s *session) act(now time.Time) error {
	reached := func(t time.Time) bool { return !t.IsZero() && !t.After(now) }
	if reached(s.reboot) {
		return errReboot
	}
	if reached(s.ping) {
		if s.pinged {
			return errPingTimeout
		}
		s.pinged = true
		s.ping = now.Add(s.keepAlive / 2)
		if err := s.send(&mqttwire.Packet{Type: mqttwire.PINGREQ}); err != nil {
			return err
		}
	}
	if reached(s.provision) {
		if err := s.register(now); err != nil {
			return err
		}
	}
	if reached(s.state) {
		if err := s.reportState(now); err != nil {
			return err
		}
	}
	if reached(s.telemetry) {
		s.telemetry = now.Add(s.d.jitter(s.d.life.TelemetryInterval))
		if err := s.publish("telemetry", 0, false, forOther, s.d.telemetryReport(now)); err != nil {
			return err
		}
	}
	if reached(s.targets) {
		s.targets = now.Add(targetsEvery)
		if err := s.publish("targets/stream", 0, false, forOther, s.targetsReport(now)); err != nil {
			return err
		}
	}
	if reached(s.video) {
		if err := s.askForVideo(now); err != nil {
			return err
		}
	}
	for i := 0; i < len(s.schedule); {
		if !reached(s.schedule[i].at) {
			i++
			continue
		}
		do := s.schedule[i].do
		s.schedule = append(s.schedule[:i], s.schedule[i+1:]...)
		if err := do(now); err != nil {
			return err
		}
	}
	return s.chase(now)
}

// chase resends what waits too long, where the firmware does so, and gives up what waits far too long.
func (s *session) chase(now time.Time) error {
	kept := s.waiting[:0]
	for _, w := range s.waiting {
		if now.Sub(w.first) >= s.d.life.AckTimeout {
			s.d.stats.Fail("no PUBACK", nil)
			continue
		}
		if w.frame != nil && now.Sub(w.last) >= espResend {
			w.last = now
			w.frame[0] |= 1 << 3 // DUP
			if err := s.write(w.frame); err != nil {
				return err
			}
		}
		kept = append(kept, w)
	}
	s.waiting = kept
	return nil
}

func (s *session) register(now time.Time) error {
	if s.d.provisioned || s.refused {
		s.provision = time.Time{}
		return nil
	}
	// The next round is a retry; without an answer the device reports its state nevertheless.
	s.provision = now.Add(provisionRetry)
	if s.state.IsZero() {
		s.state = now.Add(provisionRetry)
	}
	return s.publish("provision", 1, false, forProvision, s.d.provisionRequest(now))
}

func (s *session) reportState(now time.Time) error {
	s.state = now.Add(s.d.jitter(s.d.life.Interval))
	if len(s.waiting) >= maxInflight {
		s.d.stats.Fail("state skipped: too many unacknowledged", nil)
		return nil
	}
	return s.publish("state", 1, true, forState, s.d.stateReport(now))
}

// publish sends a value as JSON, and remembers it until its PUBACK when the QoS is 1.
func (s *session) publish(suffix string, qos byte, retain bool, why purpose, value any) error {
	payload, err := json.Marshal(value)
	if err != nil {
		return err
	}
	p := &mqttwire.Packet{Type: mqttwire.PUBLISH, Topic: s.topic(suffix), Payload: payload, QoS: qos, Retain: retain}
	if qos > 0 {
		p.PacketID = s.nextID()
	}
	frame, err := p.Append(nil, s.version)
	if err != nil {
		return err
	}
	if qos > 0 {
		now := time.Now()
		w := inflight{id: p.PacketID, why: why, mark: uint32(max(s.d.lastMark, 0)), first: now, last: now}
		if s.d.life.ESPIDF {
			w.frame = frame
		}
		s.waiting = append(s.waiting, w)
		s.d.stats.Published.Add(1)
	}
	return s.write(frame)
}

func (s *session) nextID() uint16 {
	s.lastID++
	if s.lastID == 0 {
		s.lastID = 1
	}
	return s.lastID
}

func (s *session) send(p *mqttwire.Packet) error {
	frame, err := p.Append(nil, s.version)
	if err != nil {
		return err
	}
	return s.write(frame)
}

func (s *session) write(frame []byte) error {
	if err := s.link.SetWriteDeadline(time.Now().Add(writeTimeout)); err != nil {
		return err
	}
	_, err := s.link.Write(frame)
	return err
}

// receive reads one packet and does what it asks.
func (s *session) receive() error {
	now := time.Now()
	if err := s.link.SetReadDeadline(now.Add(packetTimeout)); err != nil {
		return err
	}
	p, err := mqttwire.ReadPacket(s.r, s.version)
	if err != nil {
		return err
	}
	switch p.Type {
	case mqttwire.PUBACK:
		return s.acknowledged(p)
	case mqttwire.PUBLISH:
		if p.QoS == 1 {
			if err := s.send(&mqttwire.Packet{Type: mqttwire.PUBACK, PacketID: p.PacketID}); err != nil {
				return err
			}
		}
		if len(p.Topic)+len(p.Payload) > s.d.life.PacketSize && !s.oversized {
			s.oversized = true
			s.d.stats.Fail("message from the cloud above what the firmware takes", nil)
		}
		return s.obey(p, now)
	case mqttwire.SUBACK:
		for _, code := range p.ReasonCodes {
			if code.Failed() {
				s.d.stats.Fail("SUBSCRIBE refused "+code.String(), nil)
			}
		}
		s.begin(now)
	case mqttwire.PINGRESP:
		s.pinged = false
	case mqttwire.DISCONNECT:
		return &mqttwire.DisconnectedError{Code: p.ReasonCode, Reason: p.Properties.Text(mqttwire.PropReasonString)}
	default:
		return fmt.Errorf("%w: unexpected %s", mqttwire.ErrMalformed, p.Type)
	}
	return nil
}

// acknowledged settles a QoS 1 message.
func (s *session) acknowledged(p *mqttwire.Packet) error {
	for i, w := range s.waiting {
		if w.id != p.PacketID {
			continue
		}
		s.waiting = append(s.waiting[:i], s.waiting[i+1:]...)
		if p.ReasonCode.Failed() {
			s.d.stats.Fail("PUBLISH refused "+p.ReasonCode.String(), nil)
			return nil
		}
		if err := s.note(w); err != nil {
			return err
		}
		s.d.stats.Ack.Record(time.Since(w.first))
		s.d.stats.Acked.Add(1)
		s.d.attempt = 0
		switch w.why {
		case forState:
			s.d.live.Store(true)
		case forReboot:
			return errReboot
		}
		return nil
	}
	if !s.d.life.ESPIDF { // a firmware that resends gets two for one
		s.d.stats.Fail("PUBACK for nothing", nil)
	}
	return nil
}

// note writes the ledger before anybody counts the acknowledgement.
func (s *session) note(w inflight) error {
	if s.d.ledger == nil {
		return nil
	}
	switch w.why {
	case forState:
		return s.d.ledger.State(s.d.Identity.DeviceID, w.mark)
	case forProvision:
		return s.d.ledger.Provision(s.d.Identity.DeviceID)
	}
	return nil
}
