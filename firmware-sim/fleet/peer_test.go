package fleet_test

import (
	"bufio"
	"context"
	"encoding/json"
	"net"
	"strings"
	"testing"
	"time"

	"github.com/opticworks/devicecloud/firmware-sim/fleet"
	"github.com/opticworks/devicecloud/firmware-sim/mqttwire"
)

// bench is one device on a workbench: the test plays the cloud on the other end of in-memory connections. It is made
// for synctest bubbles, where hours pass in no time.
type bench struct {
	t      *testing.T
	device *fleet.Device
	stats  *fleet.Stats
	dials  chan *peer // one for each connection the device opens
	off    context.CancelFunc
	done   chan struct{}
}

// peer is the cloud's end of one connection. Its reader drains the pipe, so that the device never waits for the test.
type peer struct {
	t       *testing.T
	conn    net.Conn
	version mqttwire.Version
	opened  time.Time
	packets chan *mqttwire.Packet // closed at the end of the connection
	lastID  uint16
	held    []*mqttwire.Packet // read while something else was awaited
}

// goldenDevice is the device of testdata/wire.
func goldenDevice() fleet.Identity {
	return fleet.Identity{MAC: "AA:BB:CC:DD:EE:FF", DeviceID: "a81eaf01853585964842a74570b534f7", Secret: "device-secret-example"}
}

// newBench switches a device on; the test switches it off with stop.
func newBench(t *testing.T, life fleet.Behaviour) *bench {
	t.Helper()
	o := fleet.Options{Behaviour: life}
	if err := o.Complete(); err != nil {
		t.Fatal(err)
	}
	b := &bench{t: t, stats: &fleet.Stats{}, dials: make(chan *peer, 100), done: make(chan struct{})}
	dial := func(context.Context, int) (fleet.Link, error) {
		near, far := net.Pipe()
		p := &peer{t: t, conn: far, version: o.Version, opened: time.Now(), packets: make(chan *mqttwire.Packet, 1000)}
		go p.read()
		b.dials <- p
		return fleet.Link{Conn: near, Bare: near}, nil
	}
	b.device = fleet.NewDevice(goldenDevice(), 0, 1, &o.Behaviour, dial, b.stats)
	ctx, off := context.WithCancel(t.Context())
	b.off = off
	go func() {
		defer close(b.done)
		b.device.Run(ctx)
	}()
	return b
}

func (b *bench) stop() {
	b.off()
	<-b.done
}

func (p *peer) read() {
	defer close(p.packets)
	defer p.conn.Close()
	r := bufio.NewReader(p.conn)
	for {
		packet, err := mqttwire.ReadPacket(r, p.version)
		if err != nil {
			return
		}
		p.packets <- packet
	}
}

// next returns the device's next packet, or nil at the end of the connection.
func (p *peer) next() *mqttwire.Packet {
	if len(p.held) > 0 {
		packet := p.held[0]
		p.held = p.held[1:]
		return packet
	}
	return <-p.packets
}

// want returns the next packet, which must be of that type.
func (p *peer) want(kind mqttwire.PacketType) *mqttwire.Packet {
	p.t.Helper()
	packet := p.next()
	if packet == nil || packet.Type != kind {
		p.t.Fatalf("got %+v, want %s", packet, kind)
	}
	return packet
}

// message returns the next message on that topic, acknowledging it and everything before it.
func (p *peer) message(suffix string) *mqttwire.Packet {
	p.t.Helper()
	for {
		packet := p.next()
		if packet == nil {
			p.t.Fatalf("the connection ended before a message on %s", suffix)
		}
		switch packet.Type {
		case mqttwire.PUBLISH:
			if packet.QoS == 1 {
				p.send(mqttwire.Packet{Type: mqttwire.PUBACK, PacketID: packet.PacketID})
			}
			if strings.HasSuffix(packet.Topic, "/"+suffix) {
				return packet
			}
		case mqttwire.PINGREQ:
			p.send(mqttwire.Packet{Type: mqttwire.PINGRESP})
		}
	}
}

func (p *peer) send(packet mqttwire.Packet) {
	p.t.Helper()
	b, err := packet.Append(nil, p.version)
	if err != nil {
		p.t.Fatal(err)
	}
	if _, err := p.conn.Write(b); err != nil {
		p.t.Fatalf("send %s: %v", packet.Type, err)
	}
}

// order publishes to the device and takes its PUBACK.
func (p *peer) order(suffix string, payload string) {
	p.t.Helper()
	p.lastID++
	p.send(mqttwire.Packet{
		Type: mqttwire.PUBLISH, Topic: "opticworks/" + goldenDevice().DeviceID + "/" + suffix, QoS: 1,
		PacketID: p.lastID, Payload: []byte(payload),
	})
	for {
		packet := <-p.packets
		if packet == nil {
			p.t.Fatal("the connection ended before the PUBACK")
		}
		if packet.Type == mqttwire.PUBACK && packet.PacketID == p.lastID {
			return
		}
		p.held = append(p.held, packet)
	}
}

// accept takes the device through CONNECT and SUBSCRIBE.
func (p *peer) accept() (connect, subscribe *mqttwire.Packet) {
	p.t.Helper()
	connect = p.want(mqttwire.CONNECT)
	p.send(mqttwire.Packet{Type: mqttwire.CONNACK})
	subscribe = p.want(mqttwire.SUBSCRIBE)
	p.send(mqttwire.Packet{Type: mqttwire.SUBACK, PacketID: subscribe.PacketID, ReasonCodes: make([]mqttwire.ReasonCode, len(subscribe.Filters))})
	return connect, subscribe
}

// register answers the provisioning and returns the request.
func (p *peer) register() *mqttwire.Packet {
	p.t.Helper()
	request := p.message("provision")
	p.order("provision/response", `{"status":"registered","owner":null}`)
	return request
}

// up brings a connection to where the device reports.
func (b *bench) up() *peer {
	b.t.Helper()
	p := <-b.dials
	p.accept()
	p.register()
	return p
}

func decode[T any](t *testing.T, packet *mqttwire.Packet) T {
	t.Helper()
	var value T
	if err := json.Unmarshal(packet.Payload, &value); err != nil {
		t.Fatalf("%s: %v in %s", packet.Topic, err, packet.Payload)
	}
	return value
}
