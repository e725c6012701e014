package hooks_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/opticworks/devicecloud/firmware-sim/mqttwire"
	"github.com/opticworks/devicecloud/hooks"
	"github.com/opticworks/devicecloud/registry"
	"github.com/opticworks/devicecloud/topic"
)

// faultyStore is the real store, with commits that fail or hang while a test wants
// it so.
type faultyStore struct {
	registry.Store
	fail atomic.Bool
	hang atomic.Bool
}

func (s *faultyStore) Commit(ctx context.Context, b *registry.Batch) error {
	if s.fail.Load() {
		return registry.ErrUnavailable
	}
	if s.hang.Load() {
		<-ctx.Done()
		return registry.ErrUnavailable.With(ctx.Err())
	}
	return s.Store.Commit(ctx, b)
}

func TestPublishIsACommitReceipt(t *testing.T) {
	c := newCloud(t)
	subscribe(t, c.app(c.staff(), "a:", "watcher", mqttwire.V5), 0, "opticworks/+/telemetry")
	for _, version := range versions {
		for _, qos := range []byte{1, 2} {
			t.Run(fmt.Sprintf("MQTT %s QoS %d", version, qos), func(t *testing.T) {
				d := c.enroll()
				cl := c.connect(d, version)
				for i := range 20 {
					payload := fmt.Sprintf(`{"online":true,"firmware_version":"1.2.0","uptime_sec":%d,"wifi_rssi":-50}`, i)
					if _, err := cl.Publish(mqttwire.Message{Topic: d.topic("state"), Payload: []byte(payload), QoS: qos, Retain: i%2 == 0}); err != nil {
						t.Fatal(err)
					}
					if got := c.row(d).State.UptimeSec; got == nil || *got != int64(i) {
						t.Fatalf("acknowledged, and the registry has %v instead of %d", got, i)
					}
				}
				for _, k := range []topic.Kind{topic.ConfigStatus, topic.OTAStatus, topic.DiagResponse} {
					if _, err := cl.Publish(mqttwire.Message{Topic: spell(d.id, k), Payload: []byte(payloadOf(d, k)), QoS: qos}); err != nil {
						t.Fatal(err)
					}
					detail, err := c.reg.AdminDevice(context.Background(), admin, d.id)
					if err != nil || detail.Reports[k].Payload != payloadOf(d, k) {
						t.Errorf("%s: %q, %v", k, detail.Reports[k].Payload, err)
					}
				}
			})
		}
	}
	t.Run("mochi retains nothing of ours", func(t *testing.T) {
		for name := range c.broker.Server().Topics.Retained.GetAll() {
			if !strings.HasPrefix(name, "$SYS") {
				t.Errorf("%s is retained", name)
			}
		}
	})
	t.Run("QoS 0 is kept too, later", func(t *testing.T) {
		d := c.enroll()
		cl := c.connect(d, mqttwire.V311)
		for _, k := range []topic.Kind{topic.State, topic.Telemetry, topic.ConfigStatus} {
			if _, err := cl.Publish(mqttwire.Message{Topic: spell(d.id, k), Payload: []byte(payloadOf(d, k))}); err != nil {
				t.Fatal(err)
			}
		}
		eventually(t, "kept", func() bool {
			detail, err := c.reg.AdminDevice(context.Background(), admin, d.id)
			return err == nil && detail.State.UptimeSec != nil && len(detail.Reports) == 2
		})
	})
}

func TestBadPayloads(t *testing.T) {
	c := newCloud(t)
	d := c.enroll()
	watcher := c.app(c.staff(), "a:", "watcher", mqttwire.V5)
	live := map[mqttwire.Version]*mqttwire.Client{mqttwire.V5: c.connect(d, mqttwire.V5)}
	other := c.enroll()
	live[mqttwire.V311] = c.connect(other, mqttwire.V311)
	subscribe(t, watcher, 1, "opticworks/+/state", "opticworks/+/config/status", "opticworks/+/command/response")
	if _, err := watcher.Next(time.Second); err != nil { // the retained state, which is served beside what follows
		t.Fatal(err)
	}
	if _, err := watcher.Next(time.Second); err != nil {
		t.Fatal(err)
	}
	n := 0
	for _, tc := range []struct {
		kind    topic.Kind
		payload string
	}{
		{topic.State, ""},
		{topic.State, "null"},
		{topic.State, "[]"},
		{topic.State, "{"},
		{topic.State, "{}"},
		{topic.State, strings.Repeat("[", 10000)},
		{topic.State, strings.Replace(goodState, "true", `"yes"`, 1)},
		{topic.State, strings.Replace(goodState, "-50", "-50e400", 1)},
		{topic.State, strings.Replace(goodState, "-50", "NaN", 1)},
		{topic.State, strings.Replace(goodState, "-50", "1", 1)},
		{topic.State, strings.Replace(goodState, "1.2.0", strings.Repeat("1", 33), 1)},
		{topic.State, strings.Replace(goodState, "1.2.0", "1\x01", 1)},
		{topic.State, goodState + goodState},
		{topic.ConfigStatus, `{"version":3,"status":"perhaps"}`},
		{topic.ConfigStatus, `{"status":"applied"}`},
		{topic.OTAStatus, `"x"`},
		{topic.DiagResponse, `{}`},
		{topic.CommandResponse, ""},
		{topic.CommandResponse, "[]"},
	} {
		for version, cl := range live {
			dev := d
			if version == mqttwire.V311 {
				dev = other
			}
			for _, qos := range []byte{0, 1, 2} {
				ack, err := cl.Publish(mqttwire.Message{Topic: spell(dev.id, tc.kind), Payload: []byte(tc.payload), QoS: qos})
				n++
				var no *mqttwire.RefusedError
				switch {
				case version == mqttwire.V311 || qos == 0: // acknowledged, or it would come again for ever
					if err != nil {
						t.Errorf("%s %.20q QoS %d: %v", tc.kind, tc.payload, qos, err)
					}
				case !errors.As(err, &no) || no.Code != 0x99:
					t.Errorf("%s %.20q QoS %d: %v, %v", tc.kind, tc.payload, qos, ack, err)
				}
			}
		}
	}
	for _, cl := range live {
		if err := cl.Ping(); err != nil {
			t.Error(err)
		}
	}
	silent(t, watcher)
	if got := c.counter("mqtt_publishes_total", "invalid"); got != float64(n) {
		t.Errorf("%v counted of %d", got, n)
	}
	eventually(t, "an event for the owner of the firmware", func() bool {
		events, err := c.reg.Events(context.Background(), admin, d.id, "payload.rejected", 0, 10)
		return err == nil && len(events) > 0
	})
}

func TestProvision(t *testing.T) {
	c := newCloud(t)
	for _, version := range versions {
		t.Run("MQTT "+version.String(), func(t *testing.T) {
			d, other := c.enroll(), c.enroll()
			cl := c.connect(d, version)
			response := func() (r struct{ Status, Error string }) {
				p := next(t, cl)
				if p.Topic != d.topic("provision/response") || p.QoS != 1 || p.Retain {
					t.Errorf("got %s, QoS %d, retain %v", p.Topic, p.QoS, p.Retain)
				}
				if err := json.Unmarshal(p.Payload, &r); err != nil {
					t.Fatal(err)
				}
				return r
			}
			publish(t, cl, d.topic("provision"), payloadOf(d, topic.Provision))
			silent(t, cl) // it has not subscribed yet
			subscribe(t, cl, 1, d.topic("provision/response"))
			if r := response(); r.Status != "registered" {
				t.Errorf("%+v", r)
			}
			if c.row(d).ProvisionedAt.IsZero() {
				t.Error("not provisioned")
			}
			publish(t, cl, d.topic("provision"), payloadOf(other, topic.Provision))
			if r := response(); r.Status != "rejected" || r.Error != "device_id_mismatch" {
				t.Errorf("%+v", r)
			}
			publish(t, cl, d.topic("provision"), strings.Replace(payloadOf(d, topic.Provision), d.mac, other.mac, 1))
			if r := response(); r.Status != "rejected" || r.Error != "mac_mismatch" {
				t.Errorf("%+v", r)
			}
			if !c.row(other).ProvisionedAt.IsZero() {
				t.Error("the other device was provisioned")
			}
			publish(t, cl, d.topic("provision"), "junk")
			if r := response(); r.Status != "rejected" {
				t.Errorf("%+v", r)
			}
		})
	}
}

func TestRequestsOfFeaturesThatAreNotThere(t *testing.T) {
	c := newCloud(t)
	d := c.enroll()
	cl := c.connect(d, mqttwire.V311)
	for _, tc := range []struct{ request, response, want string }{
		{"kvs/credentials/request", "kvs/credentials/response", `{"request_id":"r7","status":"error","error":"feature_disabled"}`},
		{"kvs/config/request", "kvs/config/response", `{"request_id":"r7","status":"error","error":"feature_disabled"}`},
	} {
		subscribe(t, cl, 1, d.topic(tc.response))
		publish(t, cl, d.topic(tc.request), `{"request_id":"r7"}`)
		if p := next(t, cl); p.Topic != d.topic(tc.response) || string(p.Payload) != tc.want {
			t.Errorf("%s: %s on %s", tc.request, p.Payload, p.Topic)
		}
	}
}

// What is not committed is not acknowledged, and the device is sent away to come
// back and send it again.
func TestAFailedCommitIsNotAcknowledged(t *testing.T) {
	var store *faultyStore
	c := newCloud(t, func(s *setup) {
		s.store = func(real registry.Store) registry.Store { store = &faultyStore{Store: real}; return store }
	})
	for _, version := range versions {
		for _, k := range []topic.Kind{topic.State, topic.ConfigStatus, topic.Provision} {
			d := c.enroll()
			cl := c.connect(d, version)
			store.fail.Store(true)
			if err := cl.Write(&mqttwire.Packet{Type: mqttwire.PUBLISH, Topic: spell(d.id, k), Payload: []byte(payloadOf(d, k)), QoS: 1, PacketID: 9}); err != nil {
				t.Fatal(err)
			}
			packets, err := cl.Drain(5 * time.Second)
			if errors.Is(err, os.ErrDeadlineExceeded) {
				t.Fatal("still open")
			}
			for _, p := range packets {
				if p.Type == mqttwire.PUBACK {
					t.Errorf("%s was acknowledged", k)
				}
				if p.Type == mqttwire.DISCONNECT && p.ReasonCode != 0x97 {
					t.Errorf("DISCONNECT %#x", byte(p.ReasonCode))
				}
			}
			store.fail.Store(false)
			if r := c.offline(d); r != registry.ServerError {
				t.Errorf("reason %v", r)
			}
			cl = c.connect(d, version)
			publish(t, cl, spell(d.id, k), payloadOf(d, k))
		}
	}
	t.Run("a CONNECT that cannot be recorded is refused", func(t *testing.T) {
		d := c.enroll()
		store.fail.Store(true)
		defer store.fail.Store(false)
		ack, err := c.dial().Connect(d.hello(mqttwire.V5))
		if err == nil || ack.ReasonCode != 0x88 {
			t.Error(err)
		}
		if ack, err = c.dial().Connect(d.hello(mqttwire.V311)); err == nil || ack.ReasonCode != 3 {
			t.Error(err)
		}
	})
}

// A registry that hangs ends the session within its patience, without an
// acknowledgement.
func TestAHangingCommit(t *testing.T) {
	var store *faultyStore
	c := newCloud(t, func(s *setup) {
		s.store = func(real registry.Store) registry.Store {
			store = &faultyStore{Store: real}
			return store
		}
	})
	d := c.enroll()
	cl := c.connect(d, mqttwire.V5)
	store.hang.Store(true)
	start := time.Now()
	if err := cl.Write(&mqttwire.Packet{Type: mqttwire.PUBLISH, Topic: d.topic("state"), Payload: []byte(goodState), QoS: 1, PacketID: 9}); err != nil {
		t.Fatal(err)
	}
	packets, _ := cl.Drain(10 * time.Second)
	if d := time.Since(start); d > 8*time.Second || d < 3*time.Second {
		t.Errorf("ended after %v", d)
	}
	if len(packets) != 1 || packets[0].Type != mqttwire.DISCONNECT || packets[0].ReasonCode != 0x97 {
		t.Errorf("got %v", packets)
	}
	store.hang.Store(false)
	if r := c.offline(d); r != registry.ServerError {
		t.Errorf("reason %v", r)
	}
}

// The device's own word on presence never reaches people.
func TestPresenceIsTheRegistrysWord(t *testing.T) {
	c := newCloud(t)
	d := c.enroll()
	u := c.login("ann", d)
	app := c.app(u, "u:", "phone", mqttwire.V5)
	subscribe(t, app, 1, d.topic("state"))
	if err := app.Ping(); err != nil { // what is retained is served behind the SUBACK: nothing yet
		t.Fatal(err)
	}
	cl := c.connect(d, mqttwire.V311)
	if got := decode(t, next(t, app).Payload); !got.Online || got.Epoch != 1 {
		t.Errorf("at connect: %+v", got)
	}
	for _, payload := range []string{
		strings.Replace(goodState, "true", "false", 1),
		strings.Replace(goodState, "{", `{"status":"offline","epoch":99,`, 1),
		strings.Replace(goodState, "{", `{"\u0073tatus":"offline",`, 1),
	} {
		publish(t, cl, d.topic("state"), payload)
		if got := decode(t, next(t, app).Payload); !got.Online || got.Status != "online" || got.Epoch != 1 || *got.Uptime != 5 {
			t.Errorf("%s: %+v", payload, got)
		}
	}
	publish(t, cl, d.topic("state"), goodState)
	if p := next(t, app); string(p.Payload) != goodState || p.Retain || p.QoS != 1 {
		t.Errorf("%s, retain %v, QoS %d", p.Payload, p.Retain, p.QoS)
	}
	if err := cl.Disconnect(); err != nil {
		t.Fatal(err)
	}
	if got := decode(t, next(t, app).Payload); got.Online || got.Status != "offline" || got.Reason != "client_disconnect" {
		t.Errorf("at the end: %+v", got)
	}
}

func TestReasonsOfTheEnd(t *testing.T) {
	c := newCloud(t)
	d := c.enroll()
	app := c.app(c.login("ann", d), "u:", "phone", mqttwire.V5)
	subscribe(t, app, 1, d.topic("state"))
	// What is served at the subscription may repeat the first announcement.
	var last document
	change := func() document {
		t.Helper()
		for {
			got := decode(t, next(t, app).Payload)
			if got.Epoch != last.Epoch || got.Status != last.Status || last.Epoch > 1 {
				last = got
				return got
			}
		}
	}
	for _, version := range versions {
		for _, tc := range []struct {
			want registry.Reason
			end  func(cl *mqttwire.Client) error
		}{
			{registry.ClientDisconnect, (*mqttwire.Client).Disconnect},
			{registry.NetworkError, (*mqttwire.Client).Close},
			{registry.ProtocolError, func(cl *mqttwire.Client) error { return cl.WriteRaw([]byte{0xf0, 2, 0, 0}) }},
			{registry.Kicked, func(*mqttwire.Client) error {
				_, err := c.reg.DisconnectDevice(context.Background(), admin, d.id)
				return err
			}},
		} {
			hello := d.hello(version)
			hello.Will = &mqttwire.Will{Topic: d.topic("state"), Payload: []byte(`{"online":false,"wifi_rssi":-99}`), QoS: 1, Retain: true}
			cl := c.dial()
			if _, err := cl.Connect(hello); err != nil {
				t.Fatal(err)
			}
			if err := tc.end(cl); err != nil {
				t.Fatal(err)
			}
			if got := c.offline(d); got != tc.want {
				t.Errorf("MQTT %s: reason %v, want %v", version, got, tc.want)
			}
			// The will is never handed out: there is one announcement of each change.
			if got := change(); got.Status != "online" {
				t.Errorf("%+v", got)
			}
			if got := change(); got.Status != "offline" || got.Reason != tc.want.String() {
				t.Errorf("%+v, want %v", got, tc.want)
			}
		}
	}
	silent(t, app)
}

// A device's wish to be kept, in its DISCONNECT, is not an error of protocol.
func TestSessionExpiryOfADevice(t *testing.T) {
	c := newCloud(t)
	d := c.enroll()
	cl := c.dial()
	if ack, err := cl.Connect(d.hello(mqttwire.V5), mqttwire.Number(mqttwire.PropSessionExpiry, 100)); err != nil || ack.SessionPresent {
		t.Fatal(err)
	}
	err := cl.Write(&mqttwire.Packet{Type: mqttwire.DISCONNECT, Properties: mqttwire.Properties{mqttwire.Number(mqttwire.PropSessionExpiry, 100)}})
	if err != nil {
		t.Fatal(err)
	}
	if r := c.offline(d); r != registry.ClientDisconnect {
		t.Errorf("reason %v", r)
	}
	hello := d.hello(mqttwire.V5)
	hello.Resume = true
	if ack, err := c.dial().Connect(hello); err != nil || ack.SessionPresent {
		t.Errorf("session present %v, %v", ack.SessionPresent, err)
	}
}

func TestRateLimits(t *testing.T) {
	c := newCloud(t, func(s *setup) {
		s.hooks.Limits = hooks.Limits{
			StatePerDevice: hooks.Rate{Events: 5, Burst: 2}, TelemetryPerDevice: hooks.Rate{Events: 0.001, Burst: 1}, OTAStatusPerUpdate: 2,
		}
	})
	t.Run("above the limit a QoS 1 publisher is delayed", func(t *testing.T) {
		d := c.enroll()
		cl := c.connect(d, mqttwire.V311)
		start := time.Now()
		for range 6 {
			publish(t, cl, d.topic("state"), goodState)
		}
		if took := time.Since(start); took < 600*time.Millisecond {
			t.Errorf("six messages took %v", took)
		}
	})
	t.Run("others are not", func(t *testing.T) {
		d := c.enroll()
		start := time.Now()
		publish(t, c.connect(d, mqttwire.V311), d.topic("state"), goodState)
		if took := time.Since(start); took > 500*time.Millisecond {
			t.Errorf("it took %v", took)
		}
	})
	t.Run("above the limit QoS 0 is dropped and counted", func(t *testing.T) {
		d := c.enroll()
		cl := c.connect(d, mqttwire.V311)
		for range 10 {
			if _, err := cl.Publish(mqttwire.Message{Topic: d.topic("telemetry"), Payload: []byte(`{"metrics":{}}`)}); err != nil {
				t.Fatal(err)
			}
		}
		if err := cl.Ping(); err != nil {
			t.Fatal(err)
		}
		if n := c.counter("mqtt_publishes_total", "telemetry", "dropped"); n != 9 {
			t.Errorf("%v dropped", n)
		}
	})
	t.Run("progress of an update beyond the limit is forgotten, its end is not", func(t *testing.T) {
		d := c.enroll()
		cl := c.connect(d, mqttwire.V311)
		status := func(s string, progress int) string {
			return fmt.Sprintf(`{"status":%q,"version":"1.3.0","progress":%d,"rollout_id":"ro_1"}`, s, progress)
		}
		last := func() string {
			reports, err := c.reg.DeviceReports(context.Background(), admin, d.id)
			if err != nil {
				t.Fatal(err)
			}
			return reports[topic.OTAStatus].Payload
		}
		for i := range 4 {
			publish(t, cl, d.topic("ota/status"), status("downloading", i))
		}
		if got := last(); got != status("downloading", 1) {
			t.Error(got)
		}
		publish(t, cl, d.topic("ota/status"), status("success", 100))
		if got := last(); got != status("success", 100) {
			t.Error(got)
		}
	})
	t.Run("a session above the limit for too long ends", func(t *testing.T) {
		hooks.ShortenExcess(c.guard, 300*time.Millisecond)
		d := c.enroll()
		cl := c.connect(d, mqttwire.V5)
		for i := range 30 {
			if err := cl.Write(&mqttwire.Packet{Type: mqttwire.PUBLISH, Topic: d.topic("state"), Payload: []byte(goodState), QoS: 1, PacketID: uint16(i + 1)}); err != nil {
				break
			}
		}
		if code := ended(t, cl); code != 0x96 {
			t.Errorf("%#x", byte(code))
		}
		if r := c.offline(d); r != registry.RateExceeded {
			t.Errorf("reason %v", r)
		}
		if n := c.counter("mqtt_publishes_total", "state", "rate_exceeded"); n != 1 {
			t.Errorf("%v messages were judged after the end", n-1)
		}
	})
}
