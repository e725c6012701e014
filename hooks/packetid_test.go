package hooks_test

import (
	"errors"
	"fmt"
	"os"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	mqtt "github.com/mochi-mqtt/server/v2"
	"github.com/mochi-mqtt/server/v2/packets"
	"github.com/opticworks/devicecloud/firmware-sim/mqttwire"
	"github.com/opticworks/devicecloud/hooks"
	"github.com/opticworks/devicecloud/registry"
	"github.com/opticworks/devicecloud/topic"
)

// A device uses for its own packets exactly the ids of the server's messages that
// it has not acknowledged. Nothing of either side is lost or refused.
func TestEveryIDCollidesForDevices(t *testing.T) {
	c := newCloud(t)
	for _, version := range versions {
		t.Run("MQTT "+version.String(), func(t *testing.T) {
			d := c.enroll()
			cl := c.connect(d, version)
			cl.ManualAck = true
			subscribe(t, cl, 1, d.topic("config/update"))
			eventually(t, "subscribed", func() bool { return c.courier.Deliver(d.id, topic.ConfigUpdate, []byte("0")) == nil })
			for i := 1; i < hooks.DownWindow; i++ {
				if err := c.courier.Deliver(d.id, topic.ConfigUpdate, fmt.Append(nil, i)); err != nil {
					t.Fatal(i, err)
				}
			}
			if err := c.courier.Deliver(d.id, topic.ConfigUpdate, []byte("x")); registry.KindOf(err) != registry.RateLimited {
				t.Errorf("beyond the window: %v", err)
			}
			ids := map[uint16]bool{}
			for i := range hooks.DownWindow {
				p := next(t, cl)
				if string(p.Payload) != fmt.Sprint(i) || ids[p.PacketID] {
					t.Errorf("got %s with id %d", p.Payload, p.PacketID)
				}
				ids[p.PacketID] = true
			}
			for id := range ids {
				if _, err := cl.Publish(mqttwire.Message{Topic: d.topic("state"), Payload: []byte(goodState), QoS: 1, PacketID: id}); err != nil {
					t.Errorf("PUBLISH with id %d: %v", id, err)
				}
				if _, err := cl.Publish(mqttwire.Message{Topic: d.topic("state"), Payload: []byte(goodState), QoS: 2, PacketID: id}); err != nil {
					t.Errorf("PUBLISH at QoS 2 with id %d: %v", id, err)
				}
				for _, kind := range []mqttwire.PacketType{mqttwire.SUBSCRIBE, mqttwire.UNSUBSCRIBE} {
					if err := cl.Write(&mqttwire.Packet{Type: kind, PacketID: id, Filters: []mqttwire.Filter{{Topic: d.topic("ota/trigger"), QoS: 1}}}); err != nil {
						t.Fatal(err)
					}
					ack, err := cl.ReadPacket(5 * time.Second)
					if err != nil || ack.PacketID != id || len(ack.ReasonCodes) > 0 && ack.ReasonCodes[0].Failed() {
						t.Errorf("%v with id %d: %v, %v", kind, id, ack, err)
					}
				}
			}
			if err := c.courier.Deliver(d.id, topic.ConfigUpdate, []byte("x")); registry.KindOf(err) != registry.RateLimited {
				t.Errorf("a message was taken for acknowledged: %v", err)
			}
			for id := range ids {
				// A PUBACK of the server's message does not end the device's own QoS 2 flow of that id.
				exchange(t, cl, &mqttwire.Packet{Type: mqttwire.PUBLISH, Topic: d.topic("state"), Payload: []byte(goodState), QoS: 2, PacketID: id}, mqttwire.PUBREC)
				exchange(t, cl, &mqttwire.Packet{Type: mqttwire.PUBLISH, Topic: d.topic("state"), Payload: []byte(goodState), QoS: 2, PacketID: id, Dup: true}, mqttwire.PUBREC)
				if err := cl.Write(&mqttwire.Packet{Type: mqttwire.PUBACK, PacketID: id}); err != nil {
					t.Fatal(err)
				}
				exchange(t, cl, &mqttwire.Packet{Type: mqttwire.PUBREL, PacketID: id}, mqttwire.PUBCOMP)
			}
			for range hooks.DownWindow {
				if err := c.courier.Deliver(d.id, topic.ConfigUpdate, []byte("x")); err != nil {
					t.Errorf("after all was acknowledged: %v", err)
				}
			}
		})
	}
}

// exchange writes a packet and wants its answer, without a failure.
func exchange(t testing.TB, cl *mqttwire.Client, p *mqttwire.Packet, want mqttwire.PacketType) {
	t.Helper()
	if err := cl.Write(p); err != nil {
		t.Fatal(err)
	}
	got, err := cl.ReadPacket(5 * time.Second)
	if err != nil || got.Type != want || got.PacketID != p.PacketID || got.ReasonCode != 0 {
		t.Errorf("%v with id %d: %+v, %v", p.Type, p.PacketID, got, err)
	}
}

// The same for an app, whose messages are mochi's: forty are unacknowledged.
func TestEveryIDCollidesForApps(t *testing.T) {
	c := newCloud(t)
	d := c.enroll()
	u := c.login("ann", d)
	for _, version := range versions {
		t.Run("MQTT "+version.String(), func(t *testing.T) {
			app := c.app(u, "u:", "phone", version)
			app.ManualAck = true
			subscribe(t, app, 1, d.topic("config/status"))
			device := c.connect(d, version)
			ids := map[uint16]bool{}
			for range 40 {
				publish(t, device, d.topic("config/status"), payloadOf(d, topic.ConfigStatus))
			}
			for len(ids) < 40 {
				if p := next(t, app); p.QoS == 1 {
					ids[p.PacketID] = true
				}
			}
			for id := range ids {
				for _, kind := range []mqttwire.PacketType{mqttwire.SUBSCRIBE, mqttwire.UNSUBSCRIBE} {
					if err := app.Write(&mqttwire.Packet{Type: kind, PacketID: id, Filters: []mqttwire.Filter{{Topic: d.topic("telemetry"), QoS: 1}}}); err != nil {
						t.Fatal(err)
					}
					ack, err := app.ReadPacket(5 * time.Second)
					if err != nil || ack.PacketID != id || len(ack.ReasonCodes) > 0 && ack.ReasonCodes[0].Failed() {
						t.Errorf("%v with id %d: %v, %v", kind, id, ack, err)
					}
				}
				if version != mqttwire.V5 {
					continue
				}
				ack, err := app.Publish(mqttwire.Message{Topic: d.topic("state"), Payload: []byte(goodState), QoS: 1, PacketID: id})
				if ack == nil || ack.PacketID != id || ack.ReasonCode != 0x87 {
					t.Errorf("PUBLISH with id %d: %v, %v", id, ack, err)
				}
			}
			cl, _ := c.broker.Server().Clients.Get("u:" + u.id + ":phone")
			if n := cl.State.Inflight.Len(); n != 40 {
				t.Errorf("%d of 40 messages are left", n)
			}
			for id := range ids {
				if err := app.Write(&mqttwire.Packet{Type: mqttwire.PUBACK, PacketID: id}); err != nil {
					t.Fatal(err)
				}
			}
			if err := app.Ping(); err != nil {
				t.Fatal(err)
			}
			if n := cl.State.Inflight.Len(); n != 0 {
				t.Errorf("%d messages are left", n)
			}
		})
	}
}

// Eight publishers and one MQTT 5 subscriber with a small Receive Maximum deadlock
// bare mochi.
func TestReceiveMaximum(t *testing.T) {
	const publishers, each, maximum = 8, 150, 5
	c := newCloud(t)
	devices := make([]thing, publishers)
	for i := range devices {
		devices[i] = c.enroll()
	}
	u := c.login("ann", devices...)
	app := c.app(u, "u:", "phone", mqttwire.V5, mqttwire.Number(mqttwire.PropReceiveMaximum, maximum))
	app.ManualAck = true
	subscribe(t, app, 1, "opticworks/+/config/status")
	var got, unacked, most atomic.Int64
	acks := make(chan uint16, publishers*each)
	var reading sync.WaitGroup
	reading.Go(func() {
		for id := range acks {
			unacked.Add(-1)
			if app.Write(&mqttwire.Packet{Type: mqttwire.PUBACK, PacketID: id}) != nil {
				return
			}
		}
	})
	reading.Go(func() {
		defer close(acks)
		for {
			p, err := app.ReadPacket(time.Minute)
			if err != nil {
				return
			}
			if p.Type != mqttwire.PUBLISH || p.QoS == 0 {
				continue
			}
			got.Add(1)
			if n := unacked.Add(1); n > most.Load() {
				most.Store(n)
			}
			acks <- p.PacketID
		}
	})
	var publishing sync.WaitGroup
	for _, d := range devices {
		cl := c.connect(d, mqttwire.V311)
		publishing.Go(func() {
			for i := range each {
				if _, err := cl.Publish(mqttwire.Message{Topic: d.topic("config/status"), Payload: []byte(payloadOf(d, topic.ConfigStatus)), QoS: 1}); err != nil {
					t.Error(i, err)
					return
				}
			}
		})
	}
	publishing.Wait()
	eventually(t, "every message came or was counted as dropped", func() bool {
		return got.Load()+int64(c.counter("mqtt_messages_dropped_total")) == publishers*each
	})
	t.Logf("%d came, at most %d unacknowledged", got.Load(), most.Load())
	if most.Load() > maximum {
		t.Errorf("%d unacknowledged at once", most.Load())
	}
	_ = app.Close()
	reading.Wait()
}

// A session is resumed by a client with a small Receive Maximum: it gets all that
// waited, in order, and never more than its maximum at once.
func TestResumedSession(t *testing.T) {
	c := newCloud(t)
	d, lost := c.enroll(), c.enroll()
	u := c.login("ann", d, lost)
	keep := mqttwire.Number(mqttwire.PropSessionExpiry, 3600)
	app := c.app(u, "u:", "phone", mqttwire.V5, keep)
	subscribe(t, app, 1, d.topic("config/status"), lost.topic("config/status"))
	if err := app.Close(); err != nil {
		t.Fatal(err)
	}
	id := "u:" + u.id + ":phone"
	eventually(t, "away", func() bool { cl, ok := c.broker.Server().Clients.Get(id); return ok && cl.Closed() })
	eventually(t, "counted as gone", func() bool { return c.counter("mqtt_sessions", "reader") == 0 })
	device, other := c.connect(d, mqttwire.V311), c.connect(lost, mqttwire.V311)
	status := func(i int) string { return fmt.Sprintf(`{"version":%d,"status":"applied"}`, i) }
	publish(t, other, lost.topic("config/status"), status(99))
	for i := range 20 {
		publish(t, device, d.topic("config/status"), status(i))
		if i == 10 {
			publish(t, other, lost.topic("config/status"), status(98))
		}
	}
	if err := c.reg.RemoveDevice(t.Context(), registry.Actor{Kind: registry.ActorUser, ID: u.id, Scopes: []string{registry.ScopeDeviceConfigure}}, lost.id); err != nil {
		t.Fatal(err)
	}

	app = c.dial()
	app.ManualAck = true
	hello := u.hello("u:", "phone", mqttwire.V5)
	hello.Resume = true
	ack, err := app.Connect(hello, keep, mqttwire.Number(mqttwire.PropReceiveMaximum, 3))
	if err != nil || !ack.SessionPresent {
		t.Fatal(ack, err)
	}
	for seen := 0; seen < 20; {
		batch := []*mqttwire.Packet{next(t, app)}
		for {
			p, err := app.Next(100 * time.Millisecond)
			if errors.Is(err, os.ErrDeadlineExceeded) {
				break
			}
			if err != nil {
				t.Fatal(err)
			}
			batch = append(batch, p)
		}
		if len(batch) > 3 {
			t.Errorf("%d at once", len(batch))
		}
		for _, p := range batch {
			if p.Topic != d.topic("config/status") || string(p.Payload) != status(seen) {
				t.Errorf("message %d is %s on %s", seen, p.Payload, p.Topic)
			}
			seen++
			if err := app.Write(&mqttwire.Packet{Type: mqttwire.PUBACK, PacketID: p.PacketID}); err != nil {
				t.Fatal(err)
			}
		}
	}
	publish(t, device, d.topic("config/status"), status(20))
	if p := next(t, app); string(p.Payload) != status(20) {
		t.Errorf("got %s", p.Payload)
	}
}

// The messages that an app has not acknowledged come in the order of their
// publication each time it comes back, however often that is within a second, and
// before what comes while it comes back; none comes twice on one connection.
func TestResumedSessionInOrder(t *testing.T) {
	during := &meanwhile{}
	c := newCloud(t, func(s *setup) { s.extra = append(s.extra, during) })
	d := c.enroll()
	u := c.login("ann", d)
	status := func(i int) string { return fmt.Sprintf(`{"version":%d,"status":"applied"}`, i) }
	device := c.connect(d, mqttwire.V311)
	for _, version := range versions {
		for _, maximum := range []uint32{0, 3} {
			if maximum > 0 && version != mqttwire.V5 {
				continue
			}
			t.Run(fmt.Sprintf("MQTT %v, Receive Maximum %d", version, maximum), func(t *testing.T) {
				hello := u.hello("u:", fmt.Sprint("phone", maximum, version), version)
				hello.Resume = true
				var props []mqttwire.Property
				if version == mqttwire.V5 {
					props = append(props, mqttwire.Number(mqttwire.PropSessionExpiry, 3600))
				}
				if maximum > 0 {
					props = append(props, mqttwire.Number(mqttwire.PropReceiveMaximum, maximum))
				}
				back := func(present bool) *mqttwire.Client {
					t.Helper()
					app := c.dial()
					app.ManualAck = true
					ack, err := app.Connect(hello, props...)
					if err != nil || ack.SessionPresent != present {
						t.Fatal(ack, err)
					}
					return app
				}
				leave := func(app *mqttwire.Client) {
					t.Helper()
					_ = app.Close()
					eventually(t, "away", func() bool { return c.counter("mqtt_sessions", "reader") == 0 })
				}
				next := func(app *mqttwire.Client, want int, ack bool) {
					t.Helper()
					p := next(t, app)
					if string(p.Payload) != status(want) {
						t.Errorf("got %s instead of %d", p.Payload, want)
					}
					if ack {
						if err := app.Write(&mqttwire.Packet{Type: mqttwire.PUBACK, PacketID: p.PacketID}); err != nil {
							t.Fatal(err)
						}
					}
				}
				app := back(false)
				subscribe(t, app, 1, d.topic("config/status"))
				leave(app)
				var count atomic.Int64 // of messages
				fresh := func() string { return status(int(count.Add(1)) - 1) }
				for range 10 { // the last ones may still be handed out when the app is back
					publish(t, device, d.topic("config/status"), fresh())
				}
				first := 0 // that is not acknowledged
				for range 3 {
					app = back(true)
					for range 2 {
						next(app, first, true)
						first++
					}
					if err := app.Ping(); err != nil { // so that the PUBACKs have arrived
						t.Fatal(err)
					}
					leave(app)
					for range 5 {
						publish(t, device, d.topic("config/status"), fresh())
					}
					if err := device.Ping(); err != nil { // so that the last one is handed to subscribers
						t.Fatal(err)
					}
				}
				server := c.broker.Server()
				say := func() {
					for range 2 {
						if err := server.Publish(d.topic("config/status"), []byte(fresh()), false, 1); err != nil {
							t.Error(err)
						}
					}
				}
				during.inherit.Store(&say)
				during.cleared.Store(&say)
				during.connack.Store(&say)
				app = back(true)
				if err := app.Ping(); err != nil { // so that the session is established
					t.Fatal(err)
				}
				publish(t, device, d.topic("config/status"), fresh())
				for ; first < int(count.Load()); first++ {
					next(app, first, true)
				}
				silent(t, app)
				leave(app)
				app = back(true) // nothing waits but what comes now
				for range 4 {
					next(app, first, true)
					first++
				}
				silent(t, app)
				leave(app)
				during.cleared.Store(&say)
				app = back(true)
				for range 6 {
					next(app, first, true)
					first++
				}
				silent(t, app)
				leave(app)
				during.inherit.Store(nil)
				during.connack.Store(nil)
				app = back(true)
				silent(t, app)
				leave(app)
			})
		}
	}
}

// meanwhile does something while a session is taken over: before mochi inherits it,
// when it has copied what waits and clears the old one, and after the CONNACK.
type meanwhile struct {
	mqtt.HookBase
	inherit, cleared, connack atomic.Pointer[func()]
}

func (m *meanwhile) ID() string { return "meanwhile" }

func (m *meanwhile) Provides(b byte) bool {
	return b == mqtt.OnSessionEstablish || b == mqtt.OnQosDropped || b == mqtt.OnPacketSent
}

func (m *meanwhile) OnSessionEstablish(*mqtt.Client, packets.Packet) {
	if f := m.inherit.Load(); f != nil {
		(*f)()
	}
}

// OnQosDropped is called for each message that the old session still has.
func (m *meanwhile) OnQosDropped(*mqtt.Client, packets.Packet) {
	if f := m.cleared.Swap(nil); f != nil {
		(*f)()
	}
}

func (m *meanwhile) OnPacketSent(_ *mqtt.Client, pk packets.Packet, _ []byte) {
	if f := m.connack.Load(); f != nil && pk.FixedHeader.Type == packets.Connack {
		(*f)()
	}
}

// A clean start gets nothing of what waited for the session before it.
func TestResumedSessionIsForgottenByACleanStart(t *testing.T) {
	c := newCloud(t)
	d := c.enroll()
	u := c.login("ann", d)
	device := c.connect(d, mqttwire.V311)
	hello := u.hello("u:", "phone", mqttwire.V5)
	keep := mqttwire.Number(mqttwire.PropSessionExpiry, 3600)
	app := c.app(u, "u:", "phone", mqttwire.V5, keep)
	subscribe(t, app, 1, d.topic("config/status"))
	_ = app.Close()
	eventually(t, "away", func() bool { return c.counter("mqtt_sessions", "reader") == 0 })
	for range 5 {
		publish(t, device, d.topic("config/status"), payloadOf(d, topic.ConfigStatus))
	}
	// A device has its PUBACK before the subscribers have the message.
	parked, _ := c.broker.Server().Clients.Get(hello.ClientID)
	eventually(t, "every message waits", func() bool { return parked.State.Inflight.Len() == 5 })
	app = c.dial()
	if ack, err := app.Connect(hello, keep, mqttwire.Number(mqttwire.PropReceiveMaximum, 2)); err != nil || ack.SessionPresent {
		t.Fatal(ack, err)
	}
	silent(t, app)
}

// What waits for a person and may not be read by them any more does not keep them
// from coming back.
func TestResumedSessionWithoutWhatWasLost(t *testing.T) {
	c := newCloud(t)
	d, lost := c.enroll(), c.enroll()
	u := c.login("ann", d, lost)
	app := c.app(u, "u:", "phone", mqttwire.V311)
	_ = app.Close()
	hello := u.hello("u:", "phone", mqttwire.V311)
	hello.Resume = true
	app = c.dial()
	if _, err := app.Connect(hello); err != nil {
		t.Fatal(err)
	}
	subscribe(t, app, 1, d.topic("config/status"), lost.topic("config/status"))
	if err := app.Close(); err != nil {
		t.Fatal(err)
	}
	eventually(t, "away", func() bool { return c.counter("mqtt_sessions", "reader") == 0 })
	publish(t, c.connect(lost, mqttwire.V311), lost.topic("config/status"), payloadOf(lost, topic.ConfigStatus))
	if err := c.reg.RemoveDevice(t.Context(), registry.Actor{Kind: registry.ActorUser, ID: u.id, Scopes: []string{registry.ScopeDeviceConfigure}}, lost.id); err != nil {
		t.Fatal(err)
	}
	app = c.dial()
	if ack, err := app.Connect(hello); err != nil || !ack.SessionPresent {
		t.Fatal(err)
	}
	silent(t, app)
	publish(t, c.connect(d, mqttwire.V311), d.topic("config/status"), payloadOf(d, topic.ConfigStatus))
	if p := next(t, app); p.Topic != d.topic("config/status") {
		t.Errorf("got %s", p.Topic)
	}
}

func TestMaximumPacketSize(t *testing.T) {
	c := newCloud(t)
	d := c.enroll()
	cl := c.dial()
	if _, err := cl.Connect(d.hello(mqttwire.V5), mqttwire.Number(mqttwire.PropMaximumPacketSize, 256)); err != nil {
		t.Fatal(err)
	}
	subscribe(t, cl, 1, d.topic("config/update"))
	large, small := make([]byte, 300), []byte("{}")
	eventually(t, "subscribed", func() bool { return c.courier.Deliver(d.id, topic.ConfigUpdate, small) == nil })
	if err := c.courier.Deliver(d.id, topic.ConfigUpdate, large); registry.KindOf(err) != registry.TooLarge {
		t.Errorf("%v", err)
	}
	next(t, cl)
	silent(t, cl)

	t.Run("an app is not bricked by a message that it cannot take", func(t *testing.T) {
		u := c.login("ann", d)
		keep := mqttwire.Number(mqttwire.PropSessionExpiry, 3600)
		app := c.app(u, "u:", "phone", mqttwire.V5, keep, mqttwire.Number(mqttwire.PropMaximumPacketSize, 256))
		subscribe(t, app, 1, d.topic("config/status"))
		publish(t, cl, d.topic("config/status"), `{"version":1,"status":"applied","x":"`+strings.Repeat("x", 300)+`"}`)
		publish(t, cl, d.topic("config/status"), `{"version":2,"status":"applied"}`)
		if p := next(t, app); string(p.Payload) != `{"version":2,"status":"applied"}` {
			t.Errorf("got %s", p.Payload)
		}
		client, _ := c.broker.Server().Clients.Get("u:" + u.id + ":phone")
		eventually(t, "nothing waits", func() bool { return client.State.Inflight.Len() == 0 })
	})
}
