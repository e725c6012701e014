package fleet

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"os"
	"sync"
	"time"

	"github.com/opticworks/devicecloud/firmware-sim/mqttwire"
)

// contender is one of several connections that claim to be the same device at the same time. Its reader goroutine
// ends, and closes gone, when the connection does.
type contender struct {
	d       *Device // identity and behaviour only; the device itself stays switched off
	link    Link
	version mqttwire.Version
	answers chan *mqttwire.Packet // CONNACK, PINGRESP, PUBACK
	gone    chan struct{}

	mu sync.Mutex // writes come from the reader's pings and from the scenario
}

const (
	contenderPing   = 20 * time.Second
	contenderAnswer = 15 * time.Second // the server may hold a CONNECT for 10 s while it ends the session before
)

// dialContender opens the transport and says nothing yet.
func dialContender(ctx context.Context, d *Device, version mqttwire.Version) (*contender, error) {
	ctx, cancel := context.WithTimeout(ctx, d.life.ConnectTimeout)
	defer cancel()
	link, err := d.dial(ctx, d.index)
	if err != nil {
		return nil, err
	}
	return &contender{d: d, link: link, version: version, answers: make(chan *mqttwire.Packet, 16), gone: make(chan struct{})}, nil
}

// connect sends CONNECT, starts the reader and waits for CONNACK.
func (c *contender) connect() error {
	start := time.Now()
	id := c.d.Identity
	hello := &mqttwire.Connect{
		Version: c.version, ClientID: id.DeviceID, Username: id.DeviceID,
		Password: id.Password(c.d.life.Auth, start), KeepAlive: 60,
		Will: &mqttwire.Will{Topic: c.topic("state"), Payload: []byte(willPayload), QoS: 1, Retain: true},
	}
	err := c.send(&mqttwire.Packet{Type: mqttwire.CONNECT, Connect: hello})
	go c.read()
	if err != nil {
		c.leave(farewellFIN)
		return err
	}
	ack, err := c.answer(mqttwire.CONNACK)
	if err != nil {
		c.leave(farewellFIN)
		return err
	}
	if ack.ReasonCode != mqttwire.Success {
		c.leave(farewellFIN)
		return &mqttwire.RefusedError{Request: mqttwire.CONNECT, Code: ack.ReasonCode}
	}
	c.d.stats.Connect.Record(time.Since(start))
	return nil
}

func (c *contender) topic(suffix string) string {
	return c.d.life.Root + "/" + c.d.Identity.DeviceID + "/" + suffix
}

func (c *contender) send(p *mqttwire.Packet) error {
	frame, err := p.Append(nil, c.version)
	if err != nil {
		return err
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if err := c.link.SetWriteDeadline(time.Now().Add(writeTimeout)); err != nil {
		return err
	}
	_, err = c.link.Write(frame)
	return err
}

// read passes answers on and keeps the connection alive until it ends.
func (c *contender) read() {
	defer close(c.gone)
	defer func() { _ = c.link.Close() }()
	r := bufio.NewReaderSize(c.link, readBuffer)
	for {
		if err := c.link.SetReadDeadline(time.Now().Add(contenderPing)); err != nil {
			return
		}
		if _, err := r.Peek(1); errors.Is(err, os.ErrDeadlineExceeded) {
			if err := c.send(&mqttwire.Packet{Type: mqttwire.PINGREQ}); err != nil {
				return
			}
			continue
		}
		p, err := mqttwire.ReadPacket(r, c.version)
		if err != nil {
			return
		}
		switch p.Type {
		case mqttwire.PUBLISH:
			if p.QoS == 1 && c.send(&mqttwire.Packet{Type: mqttwire.PUBACK, PacketID: p.PacketID}) != nil {
				return
			}
		case mqttwire.DISCONNECT:
			// The server closes next; a connection that only said goodbye is still a live one.
		default:
			select {
			case c.answers <- p:
			default: // nobody waits for so many
			}
		}
	}
}

var (
	errGone     = errors.New("the connection ended")
	errNoAnswer = errors.New("no answer")
)

// answer waits for the next packet of that type.
func (c *contender) answer(want mqttwire.PacketType) (*mqttwire.Packet, error) {
	timer := time.NewTimer(contenderAnswer)
	defer timer.Stop()
	for {
		select {
		case p := <-c.answers:
			if p.Type == want {
				return p, nil
			}
		case <-c.gone:
			// The answer may have come just before the end.
			select {
			case p := <-c.answers:
				if p.Type == want {
					return p, nil
				}
			default:
				return nil, errGone
			}
		case <-timer.C:
			return nil, errNoAnswer
		}
	}
}

// alive reports whether the connection has not ended.
func (c *contender) alive() bool {
	select {
	case <-c.gone:
		return false
	default:
		return true
	}
}

// prove shows that the connection is not deaf: it answers a ping, and a QoS 1 state gets its PUBACK.
func (c *contender) prove(mark uint32) error {
	if err := c.send(&mqttwire.Packet{Type: mqttwire.PINGREQ}); err != nil {
		return err
	}
	if _, err := c.answer(mqttwire.PINGRESP); err != nil {
		return err
	}
	now := time.Now()
	payload, err := json.Marshal(stateReport{
		Online: true, FirmwareVersion: c.d.life.Firmware, UptimeSec: mark, WifiRSSI: -55,
		RadarConnected: true, ProtocolVersion: 1, LastSeen: timestamp(now),
	})
	if err != nil {
		return err
	}
	c.d.stats.Published.Add(1)
	err = c.send(&mqttwire.Packet{Type: mqttwire.PUBLISH, Topic: c.topic("state"), QoS: 1, Retain: true, PacketID: 1, Payload: payload})
	if err != nil {
		return err
	}
	ack, err := c.answer(mqttwire.PUBACK)
	if err != nil {
		return err
	}
	if ack.ReasonCode.Failed() {
		return &mqttwire.RefusedError{Request: mqttwire.PUBLISH, Code: ack.ReasonCode}
	}
	c.d.stats.Ack.Record(time.Since(now))
	c.d.stats.Acked.Add(1)
	return nil
}

// farewell is how a connection ends from our side.
type farewell byte

const (
	farewellDisconnect farewell = iota
	farewellFIN
	farewellRST
	farewells
)

// leave ends the connection and waits for its reader.
func (c *contender) leave(how farewell) {
	if how == farewellDisconnect {
		// If it does not go out, the cut below is what remains anyway.
		_ = c.send(&mqttwire.Packet{Type: mqttwire.DISCONNECT})
		_ = c.link.Close()
	}
	c.link.Cut(how == farewellRST)
	<-c.gone
}
