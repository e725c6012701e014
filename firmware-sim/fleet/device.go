package fleet

import (
	"context"
	crand "crypto/rand"
	"errors"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"time"

	"github.com/opticworks/devicecloud/firmware-sim/mqttwire"
)

// Behaviour is how the devices of a run live. The zero value of a field means what its comment says.
type Behaviour struct {
	Root              string           // topic root; "" = opticworks
	Auth              Auth             // "" = AuthSecret
	Version           mqttwire.Version // 0 = V311
	Mixed             bool             // every other device speaks the other version
	KeepAlive         time.Duration    // 0 = 60 s
	Interval          time.Duration    // between states, +-20 %; 0 = 5 s
	TelemetryInterval time.Duration    // 0 = off
	ConnectTimeout    time.Duration    // from dialling to CONNACK; 0 = 20 s
	AckTimeout        time.Duration    // until an unanswered QoS 1 message is given up; 0 = 30 s
	BackoffBase       time.Duration    // full jitter; 0 = 1 s
	BackoffCap        time.Duration    // 0 = 60 s
	ESPIDF            bool             // fixed 10 s between attempts, resend after 1 s, as esp-mqtt does
	BootTime          time.Duration    // a reboot's length; 0 = 1 s
	OTAStep           time.Duration    // between two states of an update: long is a slow download; 0 = 1 s
	UpdateFailures    float64          // share of updates that fail after half of the download, 0 to 1
	UpdateLies        float64          // share of updates that are said to have succeeded, and restart into the old version
	PressButton       bool             // answer ownership challenges as if somebody pressed the button
	ClaimCode         string           // pairing code that the first device presents
	Firmware          string           // "" = 1.2.0
	Commands          Manner           // "" = Prompt
	CommandTime       time.Duration    // that a slow device takes; 0 = 2 s
	Reset             bool             // somebody has pressed the reset button of every device before it was switched on
	PacketSize        int              // the largest packet that the firmware takes, declared when it is not 1024; 0 = 1024, with Video 4096
	Video             bool             // it has a camera: it asks for credentials, and ends viewers
}

const (
	espReconnect = 10 * time.Second // esp-mqtt's default, without jitter
	espResend    = time.Second      // esp-mqtt's message_retransmit_timeout
)

func (b *Behaviour) fillDefaults() {
	setDefault(&b.Root, "opticworks")
	setDefault(&b.Auth, AuthSecret)
	setDefault(&b.Version, mqttwire.V311)
	setDefault(&b.KeepAlive, 60*time.Second)
	setDefault(&b.Interval, 5*time.Second)
	setDefault(&b.ConnectTimeout, 20*time.Second)
	setDefault(&b.AckTimeout, 30*time.Second)
	setDefault(&b.BackoffBase, time.Second)
	setDefault(&b.BackoffCap, 60*time.Second)
	setDefault(&b.BootTime, time.Second)
	setDefault(&b.OTAStep, time.Second)
	setDefault(&b.Firmware, "1.2.0")
	setDefault(&b.Commands, Prompt)
	setDefault(&b.CommandTime, 2*time.Second)
	if b.Video {
		setDefault(&b.PacketSize, videoPacket)
	}
	setDefault(&b.PacketSize, packetDefault)
}

func setDefault[T comparable](field *T, value T) {
	var zero T
	if *field == zero {
		*field = value
	}
}

// Ledger notes what the server acknowledged, before the acknowledgement counts.
type Ledger interface {
	State(deviceID string, uptime uint32) error
	Provision(deviceID string) error
}

// Device is one simulated RS-1. Run's goroutine owns all of it; the fields after mu and the atomics are for others.
type Device struct {
	Identity Identity

	index    int
	seed     uint16
	life     *Behaviour
	dial     Dialer
	stats    *Stats
	ledger   Ledger // nil when nobody compares
	rng      *rand.Rand
	booted   time.Time
	lastMark int64 // the last uptime reported in this boot, -1 for none
	baseMark int64 // what uptime starts from; a crash check resumes above its ledger
	attempt  int   // connection attempts since the last one that proved good

	provisioned bool // the cloud confirmed it since the last factory reset
	counted     bool // provisioned at least once
	claimed     bool
	reset       string // names the reset that the cloud has not heard of; "" for none
	firmware    string
	config      int
	zones       int
	reconnects  int
	requests    int               // about video
	lentUntil   time.Time         // when the credentials for video end
	updates     int               // triggers that were obeyed, which decides their fate
	updating    *update           // under way, over a lost connection too; nil: none
	answered    []commandResponse // the last 16, oldest first, so that a repeated command has one effect

	sessions atomic.Uint32 // accepted connections
	live     atomic.Bool   // the current connection had a state acknowledged

	mu   sync.Mutex
	link *Link // the open connection
	cut  bool  // we ended it ourselves
}

// NewDevice makes a device that is switched off.
func NewDevice(id Identity, index int, seed uint16, life *Behaviour, dial Dialer, stats *Stats) *Device {
	d := &Device{
		Identity: id, index: index, seed: seed, life: life, dial: dial, stats: stats, firmware: life.Firmware, lastMark: -1,
		rng: rand.New(rand.NewPCG(uint64(seed), uint64(index))),
	}
	if life.Reset {
		d.reset = crand.Text() // each reset is one of its own, whatever the seed
	}
	return d
}

// Run is the device's life from power on until the context ends, which it takes as a farewell to say DISCONNECT for.
func (d *Device) Run(ctx context.Context) {
	d.booted = time.Now()
	for ctx.Err() == nil {
		err := d.connectOnce(ctx)
		delay := d.backoff()
		switch {
		case ctx.Err() != nil:
			return
		case errors.Is(err, errReboot):
			delay = d.life.BootTime
		case err != nil && !d.wasCut() && !errors.As(err, new(*cutError)):
			d.stats.Fail(failureKind(err), err)
		}
		if !pause(ctx, delay) {
			return
		}
		if errors.Is(err, errReboot) {
			d.reboot()
		}
	}
}

// reboot starts the uptime anew, except under a ledger, which tells reports apart by it.
func (d *Device) reboot() {
	d.booted, d.attempt, d.updating = time.Now(), 0, nil
	if d.ledger == nil {
		d.lastMark = -1
	}
}

// connectOnce dials and lives one session; the error says why it ended.
func (d *Device) connectOnce(ctx context.Context) error {
	d.mu.Lock()
	d.cut = false
	d.mu.Unlock()
	start := time.Now()
	dialCtx, cancel := context.WithTimeout(ctx, d.life.ConnectTimeout)
	defer cancel()
	link, err := d.dial(dialCtx, d.index)
	if err != nil {
		return err
	}
	d.hold(&link)
	defer d.hold(nil)
	// A connection that is already cut or broken has nothing more to say on Close.
	defer func() { _ = link.Close() }()
	return newSession(d, link).run(ctx, start)
}

// backoff returns the pause before the next attempt: full jitter, so that a fleet never comes back as one.
func (d *Device) backoff() time.Duration {
	if d.life.ESPIDF {
		return espReconnect
	}
	ceiling := d.life.BackoffCap
	if d.attempt < 30 {
		ceiling = min(ceiling, d.life.BackoffBase<<d.attempt)
	}
	d.attempt++
	return time.Duration(d.rng.Int64N(int64(ceiling) + 1))
}

func (d *Device) hold(link *Link) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.link = link
}

// Cut ends the current connection without a word, and reports whether there was one.
func (d *Device) Cut(reset bool) bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.link == nil {
		return false
	}
	d.cut = true
	d.link.Cut(reset)
	return true
}

func (d *Device) wasCut() bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.cut
}

// Sessions returns how many connections the server accepted.
func (d *Device) Sessions() uint32 { return d.sessions.Load() }

// Live reports whether the device is connected and the server acknowledged a state of this connection.
func (d *Device) Live() bool { return d.live.Load() }

// version returns what this device speaks.
func (d *Device) version() mqttwire.Version {
	if d.life.Mixed && d.index%2 == 1 {
		return mqttwire.V311 + mqttwire.V5 - d.life.Version
	}
	return d.life.Version
}

// nextMark is the uptime for the next report. It grows with every report, also when reports come faster than once a
// second, so that it tells reports apart.
func (d *Device) nextMark(now time.Time) uint32 {
	d.lastMark = max(d.baseMark+int64(now.Sub(d.booted)/time.Second), d.lastMark+1)
	return uint32(d.lastMark)
}

func (d *Device) rssi() int { return -55 + d.rng.IntN(9) - 4 }

// jitter spreads an interval by 20 % in both directions.
func (d *Device) jitter(interval time.Duration) time.Duration {
	return time.Duration(float64(interval) * (0.8 + 0.4*d.rng.Float64()))
}

func (d *Device) provisionRequest(now time.Time) provisionRequest {
	r := provisionRequest{
		DeviceID: d.Identity.DeviceID, MACAddress: d.Identity.MAC, FirmwareVersion: d.firmware,
		Timestamp: timestamp(now), Reset: d.reset != "", ResetID: d.reset,
	}
	if d.life.PacketSize != packetDefault {
		r.MaxPacketSize = d.life.PacketSize
	}
	return r
}

func (d *Device) stateReport(now time.Time) stateReport {
	return stateReport{
		Online: true, FirmwareVersion: d.firmware, UptimeSec: d.nextMark(now), WifiRSSI: d.rssi(),
		ConfigVersion: d.config, RadarConnected: true, ZoneCount: d.zones, ProtocolVersion: 1, LastSeen: timestamp(now),
	}
}

func (d *Device) telemetryReport(now time.Time) telemetryReport {
	return telemetryReport{DeviceID: d.Identity.DeviceID, Timestamp: timestamp(now), Metrics: map[string]float64{
		"free_heap":     float64(140_000 + d.rng.IntN(8_000)),
		"wifi_rssi":     float64(d.rssi()),
		"temperature_c": 38 + float64(d.rng.IntN(80))/10,
		"targets":       float64(d.rng.IntN(3)),
	}}
}

// pause waits and reports false when the context ended first.
func pause(ctx context.Context, d time.Duration) bool {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-ctx.Done():
		return false
	case <-timer.C:
		return true
	}
}
