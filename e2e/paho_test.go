package e2e_test

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/opticworks/devicecloud/firmware-sim/mqttwire"
)

// What the paho.mqtt.testing suites ask of any broker, asked of this one in its own
// terms: a device publishes, a person's app subscribes.

// fleetOfOne is a device with an owner.
type fleetOfOne struct {
	*Cloud
	admin  string
	device Device
	owner  User
}

func newFleetOfOne(t *testing.T) fleetOfOne {
	t.Helper()
	c := Start(t, Options{})
	admin := c.AdminToken()
	d := c.EnrollAs(admin)
	return fleetOfOne{c, admin, d, c.owned(t, admin, "owner@example.com", d)}
}

// app connects an app of the owner's.
func (f fleetOfOne) app(t *testing.T, name string, v mqttwire.Version, props ...mqttwire.Property) *mqttwire.Client {
	t.Helper()
	return f.open(t, personHello(f.owner, name, v), props...)
}

// telemetry publishes numbered telemetry.
func (f fleetOfOne) telemetry(t *testing.T, client *mqttwire.Client, n int, props ...mqttwire.Property) *mqttwire.Packet {
	t.Helper()
	ack, err := client.Publish(mqttwire.Message{
		Topic: f.device.Topic("telemetry"), QoS: 1, Properties: props,
		Payload: fmt.Appendf(nil, `{"device_id":%q,"timestamp":"2026-01-15T10:00:00Z","metrics":{"n":%d}}`, f.device.ID, n),
	})
	if err != nil {
		t.Fatal(err)
	}
	return ack
}

// number reads the number of a telemetry message; -1 when there is none.
func number(p *mqttwire.Packet) int {
	var m struct{ Metrics struct{ N *int } }
	if p == nil || json.Unmarshal(p.Payload, &m) != nil || m.Metrics.N == nil {
		return -1
	}
	return *m.Metrics.N
}

func subscribe(t *testing.T, client *mqttwire.Client, filters ...mqttwire.Filter) {
	t.Helper()
	if _, err := client.Subscribe(filters...); err != nil {
		t.Fatal(err)
	}
}

// next is the next message that must come.
func next(t *testing.T, client *mqttwire.Client) *mqttwire.Packet {
	t.Helper()
	p, err := client.Next(stretch * time.Second)
	if err != nil {
		t.Fatalf("no message: %v", err)
	}
	return p
}

// silence is a short wait in which no message may come.
func silence(t *testing.T, client *mqttwire.Client, why string) {
	t.Helper()
	if p, err := client.Next(150 * time.Millisecond); !errors.Is(err, os.ErrDeadlineExceeded) {
		t.Errorf("%s: %+v, %v", why, p, err)
	}
}

func TestRetainedMessages(t *testing.T) {
	t.Parallel()
	f := newFleetOfOne(t)
	device := f.open(t, deviceHello(f.device, mqttwire.V5))
	for _, suffix := range []string{"config/status", "ota/status", "telemetry"} {
		if _, err := device.Publish(mqttwire.Message{Topic: f.device.Topic(suffix), Payload: goodPayload(f.device, suffix), QoS: 1, Retain: true}); err != nil {
			t.Fatal(err)
		}
	}
	for _, v := range bothVersions {
		t.Run("whoever subscribes gets the last state, marked as retained, with MQTT "+v.String(), func(t *testing.T) {
			if err := report(device, f.device, 42); err != nil {
				t.Fatal(err)
			}
			for _, filter := range []string{f.device.Topic("state"), topicRoot + "/+/state", f.device.Topic("+"), f.device.Topic("#")} {
				app := f.app(t, "retained", v)
				subscribe(t, app, mqttwire.Filter{Topic: filter, QoS: 1})
				p := next(t, app)
				for p.Topic != f.device.Topic("state") {
					p = next(t, app)
				}
				var s struct {
					Online bool
					Uptime int `json:"uptime_sec"`
				}
				if err := json.Unmarshal(p.Payload, &s); err != nil || !p.Retain || p.QoS != 0 || !s.Online || s.Uptime != 42 {
					t.Errorf("%s gives %s, retain %t, QoS %d (%v)", filter, p.Payload, p.Retain, p.QoS, err)
				}
			}
		})
		t.Run("config/status and ota/status are retained, telemetry is not, with MQTT "+v.String(), func(t *testing.T) {
			app := f.app(t, "retained", v)
			subscribe(t, app, mqttwire.Filter{Topic: f.device.Topic("#"), QoS: 1})
			got := map[string]bool{}
			for p, err := app.Next(stretch * time.Second); err == nil; p, err = app.Next(200 * time.Millisecond) {
				got[strings.TrimPrefix(p.Topic, f.device.Topic(""))] = p.Retain
			}
			if len(got) != 3 || !got["state"] || !got["config/status"] || !got["ota/status"] {
				t.Errorf("it got %v", got)
			}
		})
		t.Run("a live message is not marked as retained, with MQTT "+v.String(), func(t *testing.T) {
			app := f.app(t, "retained", v)
			subscribe(t, app, mqttwire.Filter{Topic: f.device.Topic("state"), QoS: 0, RetainHandling: 2})
			if v == mqttwire.V311 {
				next(t, app)
			}
			if err := report(device, f.device, 43); err != nil {
				t.Fatal(err)
			}
			if p := next(t, app); p.Retain || p.QoS != 0 {
				t.Errorf("retain %t, QoS %d", p.Retain, p.QoS)
			}
		})
	}
	t.Run("retain handling 1 gives it to a new subscription only, 2 to none", func(t *testing.T) {
		app := f.app(t, "handling", mqttwire.V5)
		filter := mqttwire.Filter{Topic: f.device.Topic("state"), QoS: 1, RetainHandling: 2}
		subscribe(t, app, filter)
		silence(t, app, "retain handling 2")
		filter.RetainHandling = 1
		subscribe(t, app, filter)
		silence(t, app, "retain handling 1, the subscription exists")
		if _, err := app.Unsubscribe(filter.Topic); err != nil {
			t.Fatal(err)
		}
		subscribe(t, app, filter)
		next(t, app)
	})
	t.Run("an empty retained message of a device deletes nothing", func(t *testing.T) {
		if _, err := device.Publish(mqttwire.Message{Topic: f.device.Topic("state"), QoS: 1, Retain: true}); refusalCode(err) != mqttwire.PayloadFormatInvalid {
			t.Errorf("it is answered %v, want 0x99", err)
		}
		app := f.app(t, "retained", mqttwire.V311)
		subscribe(t, app, mqttwire.Filter{Topic: f.device.Topic("state")})
		next(t, app)
	})
}

func TestWills(t *testing.T) {
	t.Parallel()
	f := newFleetOfOne(t)
	app := f.app(t, "watcher", mqttwire.V311)
	subscribe(t, app, mqttwire.Filter{Topic: f.device.Topic("state"), QoS: 1})
	next(t, app) // what is retained
	await := func(t *testing.T, online bool, reason string) {
		t.Helper()
		for {
			p := next(t, app)
			var s struct {
				Online bool
				Reason string `json:"status_reason"`
			}
			if err := json.Unmarshal(p.Payload, &s); err != nil {
				t.Fatal(err)
			}
			if s.Online == online && (online || s.Reason == reason) {
				return
			}
			if !s.Online {
				t.Fatalf("state says %s, want online %t %s", p.Payload, online, reason)
			}
		}
	}
	for _, v := range bothVersions {
		connect := func(t *testing.T) *mqttwire.Client {
			t.Helper()
			hello := deviceHello(f.device, v)
			hello.Will = &mqttwire.Will{Topic: f.device.Topic("state"), Payload: []byte(`{"online":false}`), QoS: 1, Retain: true}
			if v == mqttwire.V5 { // a delay would keep a dead device online
				hello.Will.Properties = mqttwire.Properties{mqttwire.Number(mqttwire.PropWillDelay, 3600)}
			}
			client := f.open(t, hello)
			await(t, true, "")
			return client
		}
		t.Run("subscribers hear at once that a device died, with MQTT "+v.String(), func(t *testing.T) {
			client := connect(t)
			leave(client, 2)
			await(t, false, "network_error")
		})
		t.Run("and that it left, with MQTT "+v.String(), func(t *testing.T) {
			client := connect(t)
			leave(client, 0)
			await(t, false, "client_disconnect")
		})
		t.Run("and nothing when it was taken over, with MQTT "+v.String(), func(t *testing.T) {
			first := connect(t)
			second := connect(t)
			if code, closed := closedWithin(first, stretch*time.Second); !closed || v == mqttwire.V5 && code != mqttwire.SessionTakenOver {
				t.Errorf("the first connection: closed %t with %v, want 0x8E", closed, code)
			}
			silence(t, app, "the superseded connection's will")
			leave(second, 1)
			await(t, false, "network_error")
		})
	}
}

func TestOfflineQueueing(t *testing.T) {
	t.Parallel()
	f := newFleetOfOne(t)
	for _, v := range bothVersions {
		device := f.open(t, deviceHello(f.device, mqttwire.V311))
		hello := personHello(f.owner, "queue"+v.String(), v)
		hello.Resume = true
		var props []mqttwire.Property
		if v == mqttwire.V5 {
			props = append(props, mqttwire.Number(mqttwire.PropSessionExpiry, 600))
		}
		back := func(t *testing.T, present bool) *mqttwire.Client {
			t.Helper()
			app, ack, err := f.try(hello, props...)
			if err != nil {
				t.Fatal(err)
			}
			t.Cleanup(func() { _ = app.Close() })
			if ack.SessionPresent != present {
				t.Errorf("session present %t, want %t", ack.SessionPresent, present)
			}
			return app
		}
		t.Run("an app that comes back gets what it missed, in order, with MQTT "+v.String(), func(t *testing.T) {
			app := back(t, false)
			subscribe(t, app, mqttwire.Filter{Topic: f.device.Topic("telemetry"), QoS: 1})
			for _, how := range []int{0, 1, 2} {
				leave(app, how)
				f.settleConnections(t)
				var sent, got []int
				for n := range 20 {
					f.telemetry(t, device, n)
					sent = append(sent, n)
				}
				app = back(t, true)
				for range 20 {
					p := next(t, app)
					got = append(got, number(p))
					if p.QoS != 1 {
						t.Errorf("%s comes at QoS %d", p.Payload, p.QoS)
					}
				}
				if err := app.Ping(); err != nil { // so that the PUBACKs have arrived
					t.Fatal(err)
				}
				if !slices.Equal(got, sent) {
					t.Errorf("they come in this order: %v [MQTT-4.6.0-6]", got)
				}
			}
			silence(t, app, "after the queue")
			f.telemetry(t, device, 99) // and it is live again
			if p := next(t, app); number(p) != 99 {
				t.Errorf("the next is %s", p.Payload)
			}
			if err := app.Ping(); err != nil {
				t.Fatal(err)
			}
			leave(app, 1)
			f.settleConnections(t)
			silence(t, back(t, true), "what was acknowledged comes again")
		})
		t.Run("what it did not acknowledge comes again, marked as a duplicate, with MQTT "+v.String(), func(t *testing.T) {
			app := back(t, true)
			app.ManualAck = true
			f.telemetry(t, device, 7)
			first := next(t, app)
			leave(app, 2)
			f.settleConnections(t)
			app = back(t, true)
			again := next(t, app)
			if number(first) != 7 || number(again) != 7 || !again.Dup || again.PacketID != first.PacketID {
				t.Errorf("first %s (id %d), then %s (id %d, dup %t)", first.Payload, first.PacketID, again.Payload, again.PacketID, again.Dup)
			}
		})
		t.Run("a clean start forgets, with MQTT "+v.String(), func(t *testing.T) {
			clean := hello
			clean.Resume = false
			app, ack, err := f.try(clean)
			if err != nil || ack.SessionPresent {
				t.Fatalf("%+v, %v", ack, err)
			}
			defer app.Close()
			f.telemetry(t, device, 1)
			silence(t, app, "the subscription of a forgotten session")
		})
		t.Run("a device has no session to come back to, with MQTT "+v.String(), func(t *testing.T) {
			hello := deviceHello(f.device, v)
			hello.Resume = true
			client, _, err := f.try(hello, props...)
			if err != nil {
				t.Fatal(err)
			}
			subscribe(t, client, mqttwire.Filter{Topic: f.device.Topic("provision/response"), QoS: 1})
			_ = client.Close()
			client, ack, err := f.try(hello, props...)
			if err != nil || ack.SessionPresent {
				t.Errorf("session present: %+v, %v", ack, err)
			}
			_ = client.Close()
		})
	}
}

// settleConnections waits until the server has noticed that only the device is left.
func (f fleetOfOne) settleConnections(t *testing.T) {
	t.Helper()
	Await(t, stretch*time.Second, func() bool { return f.Metric(`mqtt_connections{listener="plain"}`) == 1 },
		func() string { return "the server does not notice that the app is gone" })
}

func TestFlowControl(t *testing.T) {
	t.Parallel()
	f := newFleetOfOne(t)
	t.Run("a device gets no more at once than its Receive Maximum, and the rest afterwards", func(t *testing.T) {
		device := f.open(t, deviceHello(f.device, mqttwire.V5), mqttwire.Number(mqttwire.PropReceiveMaximum, 1))
		device.ManualAck = true
		subscribe(t, device, mqttwire.Filter{Topic: f.device.Topic("provision/response"), QoS: 1})
		for range 2 {
			if _, err := device.Publish(mqttwire.Message{Topic: f.device.Topic("provision"), Payload: provisionPayload(f.device), QoS: 1}); err != nil {
				t.Fatal(err)
			}
		}
		first := next(t, device)
		silence(t, device, "a second message in flight [MQTT-3.3.4-9]")
		if err := device.Write(&mqttwire.Packet{Type: mqttwire.PUBACK, PacketID: first.PacketID}); err != nil {
			t.Fatal(err)
		}
		next(t, device)
	})
	t.Run("a client that has more in flight than the server's Receive Maximum is told 0x93", func(t *testing.T) {
		client, ack, err := f.try(deviceHello(f.device, mqttwire.V5))
		if err != nil {
			t.Fatal(err)
		}
		defer client.Close()
		limit, ok := ack.Properties.Number(mqttwire.PropReceiveMaximum)
		if !ok || limit > 100 {
			t.Fatalf("the server's Receive Maximum is %d, %t", limit, ok)
		}
		for id := uint16(1); id <= uint16(limit)+1; id++ {
			_ = client.Write(&mqttwire.Packet{Type: mqttwire.PUBLISH, QoS: 2, PacketID: id, Topic: f.device.Topic("telemetry"), Payload: goodPayload(f.device, "telemetry")})
		}
		if code, closed := closedWithin(client, stretch*time.Second); !closed || code != mqttwire.ReceiveMaximumExceeded {
			t.Errorf("closed %t with %v, want 0x93", closed, code)
		}
	})
	t.Run("a message above an app's Maximum Packet Size is left out, and nothing else", func(t *testing.T) {
		device := f.open(t, deviceHello(f.device, mqttwire.V5))
		app := f.app(t, "small", mqttwire.V5, mqttwire.Number(mqttwire.PropMaximumPacketSize, 300), mqttwire.Number(mqttwire.PropReceiveMaximum, 2))
		subscribe(t, app, mqttwire.Filter{Topic: f.device.Topic("telemetry"), QoS: 1})
		for n := range 10 {
			big := fmt.Appendf(nil, `{"device_id":%q,"timestamp":"2026-01-15T10:00:00Z","metrics":{},"logs":["%0400d"]}`, f.device.ID, n)
			if _, err := device.Publish(mqttwire.Message{Topic: f.device.Topic("telemetry"), QoS: 1, Payload: big}); err != nil {
				t.Fatal(err)
			}
			f.telemetry(t, device, n)
			if p := next(t, app); number(p) != n {
				t.Fatalf("message %d is %d bytes: %s", n, len(p.Payload), p.Payload)
			}
		}
	})
}

func TestUserPropertiesAndSubscriptionOptions(t *testing.T) {
	t.Parallel()
	f := newFleetOfOne(t)
	device := f.open(t, deviceHello(f.device, mqttwire.V5))
	t.Run("user properties arrive in order, with the content type, and not in the acknowledgement", func(t *testing.T) {
		app := f.app(t, "properties", mqttwire.V5)
		subscribe(t, app, mqttwire.Filter{Topic: f.device.Topic("telemetry"), QoS: 1})
		ack := f.telemetry(t, device, 1, mqttwire.Text(mqttwire.PropContentType, "application/json"), mqttwire.User("b", "2"), mqttwire.User("a", "1"), mqttwire.User("b", "3"))
		if len(ack.Properties) != 0 {
			t.Errorf("the PUBACK has %+v", ack.Properties)
		}
		p := next(t, app)
		var users []string
		for _, prop := range p.Properties {
			if prop.ID == mqttwire.PropUserProperty {
				users = append(users, prop.Name+"="+string(prop.Data))
			}
		}
		if !slices.Equal(users, []string{"b=2", "a=1", "b=3"}) || p.Properties.Text(mqttwire.PropContentType) != "application/json" {
			t.Errorf("the app got %+v", p.Properties)
		}
	})
	t.Run("subscription identifiers arrive, and the lower QoS counts", func(t *testing.T) {
		app := f.app(t, "identifiers", mqttwire.V5)
		id := app.NextID()
		err := app.Write(&mqttwire.Packet{
			Type: mqttwire.SUBSCRIBE, PacketID: id, Filters: []mqttwire.Filter{{Topic: f.device.Topic("telemetry"), QoS: 0}},
			Properties: mqttwire.Properties{mqttwire.Number(mqttwire.PropSubscriptionID, 77)},
		})
		if err != nil {
			t.Fatal(err)
		}
		if ack, err := app.ReadPacket(stretch * time.Second); err != nil || ack.Type != mqttwire.SUBACK {
			t.Fatalf("%+v, %v", ack, err)
		}
		f.telemetry(t, device, 2)
		p := next(t, app)
		if n, _ := p.Properties.Number(mqttwire.PropSubscriptionID); n != 77 || p.QoS != 0 {
			t.Errorf("identifier %d, QoS %d", n, p.QoS)
		}
	})
	t.Run("overlapping subscriptions give one message of the highest QoS, and none after both end", func(t *testing.T) {
		for _, v := range bothVersions {
			app := f.app(t, "overlap", v)
			subscribe(t, app, mqttwire.Filter{Topic: f.device.Topic("telemetry"), QoS: 1}, mqttwire.Filter{Topic: topicRoot + "/+/telemetry", QoS: 0})
			f.telemetry(t, device, 3)
			if p := next(t, app); p.QoS != 1 {
				t.Errorf("QoS %d", p.QoS)
			}
			silence(t, app, "a second copy")
			if _, err := app.Unsubscribe(f.device.Topic("telemetry"), topicRoot+"/+/telemetry"); err != nil {
				t.Fatal(err)
			}
			f.telemetry(t, device, 4)
			silence(t, app, "after UNSUBSCRIBE")
		}
	})
	t.Run("a shared subscription is refused to people, and CONNACK says so", func(t *testing.T) {
		app, ack, err := f.try(personHello(f.owner, "share", mqttwire.V5))
		if err != nil {
			t.Fatal(err)
		}
		defer app.Close()
		if n, ok := ack.Properties.Number(mqttwire.PropSharedSubAvailable); !ok || n != 0 {
			t.Errorf("CONNACK says %d, %t", n, ok)
		}
		if _, err := app.Subscribe(mqttwire.Filter{Topic: "$share/g/" + f.device.Topic("state")}); refusalCode(err) == 0 {
			t.Errorf("it is answered %v", err)
		}
	})
}

func TestServerKeepAlive(t *testing.T) {
	t.Parallel()
	f := newFleetOfOne(t)
	for asked, want := range map[uint16]uint32{0: 80, 60: 0, 80: 0, 120: 80, 43691: 80, 65535: 80} {
		hello := deviceHello(f.device, mqttwire.V5)
		hello.KeepAlive = asked
		client, ack, err := f.try(hello)
		if err != nil {
			t.Fatal(err)
		}
		if got, _ := ack.Properties.Number(mqttwire.PropServerKeepAlive); got != want {
			t.Errorf("for a keep-alive of %d CONNACK says %d, want %d (0: nothing)", asked, got, want)
		}
		for id, want := range map[mqttwire.PropertyID]uint32{mqttwire.PropMaximumPacketSize: 128 << 10, mqttwire.PropSessionExpiry: 0, mqttwire.PropSharedSubAvailable: 0} {
			if got, ok := ack.Properties.Number(id); !ok || got != want {
				t.Errorf("CONNACK says %d (%t) for property 0x%02x, want %d", got, ok, id, want)
			}
		}
		if err := client.Ping(); err != nil {
			t.Errorf("with a keep-alive of %d: %v", asked, err)
		}
		_ = client.Disconnect()
	}
	for _, v := range bothVersions {
		t.Run("a client that is silent for one and a half keep-alives is closed, with MQTT "+v.String(), func(t *testing.T) {
			hello := deviceHello(f.device, v)
			hello.KeepAlive = 1
			client := f.open(t, hello)
			began := time.Now()
			code, closed := closedWithin(client, stretch*2*time.Second)
			if took := time.Since(began); !closed || took < 1400*time.Millisecond || v == mqttwire.V5 && code != mqttwire.KeepAliveTimeout {
				t.Errorf("closed %t after %v with %v, want 0x8D after 1.5 s", closed, took, code)
			}
			f.AwaitDevice(f.device, f.admin, "offline because of its silence", func(v DeviceView) bool {
				return v.Status == "offline" && v.StatusReason == "keepalive_timeout"
			})
		})
	}
}
