package e2e_test

import (
	"errors"
	"fmt"
	"io"
	"maps"
	"net"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/opticworks/devicecloud/firmware-sim/mqttwire"
)

// rawConnect sends one CONNECT and returns the bytes of the answer until the
// server closes, and the time to the first of them.
func (c *Cloud) rawConnect(hello []byte) (answer []byte, took time.Duration, err error) {
	conn, err := net.DialTimeout("tcp", c.MQTT(), 5*time.Second)
	if err != nil {
		return nil, 0, err
	}
	defer conn.Close()
	if err := conn.SetDeadline(time.Now().Add(10 * time.Second)); err != nil {
		return nil, 0, err
	}
	began := time.Now()
	if _, err := conn.Write(hello); err != nil {
		return nil, 0, err
	}
	first := make([]byte, 64)
	n, err := conn.Read(first)
	took = time.Since(began)
	if err != nil {
		return nil, took, err
	}
	rest, err := io.ReadAll(conn)
	return append(first[:n], rest...), took, err
}

func TestWrongUnknownAndDisabledAreAlike(t *testing.T) {
	tries := scale(400, 2000)
	c := Start(t, Options{Process: true, Shipped: true, Env: map[string]string{"LOG_LEVEL": "info"}})
	admin := c.AdminToken()
	good, disabled, unknown := c.EnrollAs(admin), c.EnrollAs(admin), NewDevice()
	c.Post("/admin/devices/"+disabled.ID+"/disable", admin, nil, nil)
	wrong := good
	wrong.Secret = unknown.Secret
	kinds := []struct {
		name string
		Device
	}{{"wrong password", wrong}, {"unknown device", unknown}, {"disabled device", disabled}}
	for _, v := range bothVersions {
		times := make([]durations, len(kinds))
		answers := map[string]bool{}
		for range tries {
			for i, k := range kinds { // in turn, so that all have the same weather
				answer, took, err := c.rawConnect(must(t, &mqttwire.Packet{Type: mqttwire.CONNECT, Connect: ptr(deviceHello(k.Device, v))}, v))
				if err != nil {
					t.Fatalf("%s: %v", k.name, err)
				}
				times[i] = append(times[i], took)
				answers[string(answer)] = true
			}
		}
		if len(answers) != 1 {
			t.Errorf("MQTT %s: the answers differ: % x", v, slices.Collect(maps.Keys(answers)))
		}
		for answer := range answers {
			p, err := mqttwire.Decode([]byte(answer), v)
			want := map[mqttwire.Version]mqttwire.ReasonCode{mqttwire.V311: mqttwire.Refused311Credential, mqttwire.V5: mqttwire.BadUserNameOrPassword}[v]
			if err != nil || p.Type != mqttwire.CONNACK || p.ReasonCode != want {
				t.Errorf("MQTT %s: the answer is % x: %+v, %v, want CONNACK %v", v, answer, p, err, want)
			}
		}
		for i, k := range kinds {
			t.Logf("MQTT %s, %s: median %v", v, k.name, times[i].percentile(.5))
			for j := range i {
				if d := (times[i].percentile(.5) - times[j].percentile(.5)).Abs(); d > time.Millisecond {
					t.Errorf("MQTT %s: the medians of %s and %s differ by %v, want less than 1 ms", v, k.name, kinds[j].name, d)
				}
			}
		}
	}
	if n := c.Metric(`mqtt_connect_refusals_total{code="0x86"}`); n < float64(tries*6) {
		t.Errorf("the metric counts %v refusals, and there were %d", n, tries*6)
	}
	if log := c.Log(); strings.Contains(log, unknown.Secret) || strings.Contains(log, disabled.Secret) || strings.Contains(log, good.Secret) {
		t.Error("a secret is in the log")
	}
}

func ptr[T any](v T) *T { return &v }

func TestBadConnectsDelayNobody(t *testing.T) {
	c := Start(t, Options{Process: true, Shipped: true, Env: map[string]string{"LOG_LEVEL": "info"}})
	admin := c.AdminToken()
	w := c.watch(t, admin)
	stranger := must(t, &mqttwire.Packet{Type: mqttwire.CONNECT, Connect: ptr(deviceHello(NewDevice(), mqttwire.V311))}, mqttwire.V311)
	const strangers = 2000
	began := time.Now()
	inParallel(strangers, 4, func(int) {
		if _, _, err := c.rawConnect(stranger); err != nil {
			t.Error(err)
		}
	})
	rate := strangers / time.Since(began).Seconds()
	w.done()
	t.Logf("%.0f refused CONNECTs a second", rate)
	if rate < 200 {
		t.Errorf("only %.0f refused CONNECTs a second, want 200", rate)
	}
}

func TestForeignNamesRefuseWithoutKickingAnybody(t *testing.T) {
	t.Parallel()
	c := Start(t, Options{})
	admin := c.AdminToken()
	victim, attacker := c.EnrollAs(admin), c.EnrollAs(admin)
	live := c.open(t, deviceHello(victim, mqttwire.V5))
	epoch := c.Look(victim, admin).Epoch
	for _, v := range bothVersions {
		hello := deviceHello(attacker, v)
		hello.ClientID = victim.ID
		want := map[mqttwire.Version]mqttwire.ReasonCode{mqttwire.V311: mqttwire.Refused311ClientID, mqttwire.V5: mqttwire.ClientIdentifierNotValid}[v]
		if _, _, err := c.try(hello); refusalCode(err) != want {
			t.Errorf("MQTT %s: another's client id is answered %v, want %v", v, err, want)
		}
		hello = deviceHello(victim, v)
		hello.Password = []byte(attacker.Secret)
		if _, _, err := c.try(hello); err == nil {
			t.Errorf("MQTT %s: another's password is taken", v)
		}
		if err := live.Ping(); err != nil {
			t.Fatalf("MQTT %s: the victim was kicked: %v", v, err)
		}
	}
	if now := c.Look(victim, admin).Epoch; now != epoch {
		t.Errorf("the victim's epoch went from %d to %d", epoch, now)
	}
	t.Run("protocol versions that nobody speaks are refused", func(t *testing.T) {
		for name, raw := range map[string][]byte{
			"level 3": {0x10, 16, 0, 6, 'M', 'Q', 'I', 's', 'd', 'p', 3, 2, 0, 60, 0, 2, 'a', 'b'},
			"level 6": {0x10, 14, 0, 4, 'M', 'Q', 'T', 'T', 6, 2, 0, 60, 0, 2, 'a', 'b'},
		} {
			answer, _, err := c.rawConnect(raw)
			if err != nil || len(answer) < 4 || answer[0] != 0x20 || answer[3] != 0x01 && answer[3] != 0x84 {
				t.Errorf("%s is answered % x, %v", name, answer, err)
			}
		}
	})
}

func TestBadWillsAreRefusedAndNeverPublished(t *testing.T) {
	t.Parallel()
	c := Start(t, Options{})
	admin := c.AdminToken()
	d, other := c.EnrollAs(admin), c.EnrollAs(admin)
	bystander := c.open(t, staffHello(c.staff(t), "bystander", mqttwire.V311))
	subscribe(t, bystander, mqttwire.Filter{Topic: "#", QoS: 1})
	for name, will := range map[string]mqttwire.Will{
		"on another device's topic":   {Topic: other.Topic("state"), Payload: []byte(`{"online":false}`)},
		"as the cloud":                {Topic: d.Topic("provision/response"), Payload: []byte(`{"online":false}`)},
		"with a wildcard":             {Topic: topicRoot + "/+/state", Payload: []byte(`{"online":false}`)},
		"on $SYS":                     {Topic: "$SYS/broker/version", Payload: []byte(`x`)},
		"of 100 KB":                   {Topic: d.Topic("state"), Payload: fmt.Appendf(nil, `{"online":false,"x":"%0100000d"}`, 1)},
		"of 3 KB, not JSON":           {Topic: d.Topic("state"), Payload: []byte(strings.Repeat("x", 3000))},
		"that says online":            {Topic: d.Topic("state"), Payload: []byte(`{"online":true}`)},
		"with a wrong type":           {Topic: d.Topic("state"), Payload: []byte(`{"online":false,"uptime_sec":"long"}`)},
		"on a topic that is no state": {Topic: d.Topic("telemetry"), Payload: []byte(`{"online":false}`)},
	} {
		for _, v := range bothVersions {
			hello := deviceHello(d, v)
			hello.Will = ptr(will)
			hello.Will.QoS, hello.Will.Retain = 1, true
			client, _, err := c.try(hello)
			if err == nil {
				_ = client.Close()
				t.Errorf("MQTT %s: a will %s is taken", v, name)
			}
			if code := refusalCode(err); code != 0 && code != mqttwire.NotAuthorized && code != mqttwire.Refused311Authorized && code != mqttwire.PacketTooLarge {
				t.Errorf("MQTT %s: a will %s is answered %v", v, name, err)
			}
		}
	}
	silence(t, bystander, "a will that was refused")
	if v := c.Look(d, admin); v.Epoch != 0 {
		t.Errorf("the registry counted a connection: %+v", v)
	}
}

func TestPayloadsThatAreNoStateChangeNothing(t *testing.T) {
	t.Parallel()
	c := Start(t, Options{})
	admin := c.AdminToken()
	for _, v := range bothVersions {
		d := c.EnrollAs(admin)
		client := c.open(t, deviceHello(d, v))
		if err := report(client, d, 5); err != nil {
			t.Fatal(err)
		}
		with := func(field, value string) string {
			fields := map[string]string{"online": "true", "firmware_version": `"1.2.3"`, "uptime_sec": "6", "wifi_rssi": "-6"}
			fields[field] = value
			var parts []string
			for k, v := range fields {
				if v != "" {
					parts = append(parts, fmt.Sprintf("%q:%s", k, v))
				}
			}
			return "{" + strings.Join(parts, ",") + "}"
		}
		for _, payload := range []string{
			"", "null", "[]", "7", "{", "{}", "\x00", "\xff\xfe", strings.Repeat("[", 10000), `{"a":` + strings.Repeat(`{"a":`, 10000) + "1" + strings.Repeat("}", 10001),
			with("online", `"yes"`), with("online", "1"), with("online", ""), with("online", "null"), with("uptime_sec", "1e400"), with("uptime_sec", "NaN"), with("uptime_sec", "-1"),
			with("uptime_sec", "4294967296"), with("uptime_sec", "1.5"), with("uptime_sec", `"6"`), with("uptime_sec", ""), with("wifi_rssi", "1"), with("wifi_rssi", "-128"), with("wifi_rssi", ""),
			with("firmware_version", `""`), with("firmware_version", ""), with("firmware_version", `"`+strings.Repeat("1", 33)+`"`), with("firmware_version", `"a\nb"`), with("firmware_version", `"a\u0000"`),
			with("zone_count", "17"), with("config_version", "-1"), with("radar_connected", "0"),
			`{"online":true,"online":true,"firmware_version":"1.2.3","uptime_sec":6,"wifi_rssi":-6}`, with("x", `"`+strings.Repeat("x", 100<<10)+`"`), with("\x80", "1"),
		} {
			_, err := client.Publish(mqttwire.Message{Topic: d.Topic("state"), Payload: []byte(payload), QoS: 1})
			if v == mqttwire.V311 && err != nil || v == mqttwire.V5 && refusalCode(err) != mqttwire.PayloadFormatInvalid {
				t.Errorf("MQTT %s: %.60q is answered %v; 3.1.1 wants a PUBACK, 5 wants 0x99", v, payload, err)
			}
			var gone *mqttwire.DisconnectedError
			if errors.As(err, &gone) || errors.Is(err, io.EOF) {
				client = c.open(t, deviceHello(d, v))
			}
		}
		if got := c.Look(d, admin); got.UptimeSec == nil || *got.UptimeSec != 5 {
			t.Errorf("MQTT %s: the registry took one of them: %+v", v, got)
		}
		if n := c.Metric("registry_rejected_payloads_total"); n < 30 {
			t.Errorf("the metric counts %v", n)
		}
		// Odd, and good: text is text, wherever it ends up.
		for _, firmware := range []string{`'; DROP TABLE devices; --`, `=cmd|'/C calc'!A0`, `1.0"q`, `<script>`} {
			if _, err := client.Publish(mqttwire.Message{Topic: d.Topic("state"), Payload: fmt.Appendf(nil, `{"online":true,"firmware_version":%q,"uptime_sec":5,"wifi_rssi":-6}`, firmware), QoS: 1}); err != nil {
				t.Errorf("firmware %s: %v", firmware, err)
			}
			if got := c.Look(d, admin); got.Firmware != firmware {
				t.Errorf("firmware %s is %s in the registry", firmware, got.Firmware)
			}
		}
		// What a payload says of presence or of another device counts for nothing.
		if _, err := client.Publish(mqttwire.Message{Topic: d.Topic("state"), Payload: []byte(`{"online":false,"firmware_version":"1.2.3","uptime_sec":9,"wifi_rssi":-6,"last_seen":"2099-01-01T00:00:00Z"}`), QoS: 1}); err != nil {
			t.Error(err)
		}
		if got := c.Look(d, admin); !got.Online || *got.UptimeSec != 9 {
			t.Errorf("a connected device that says it is offline is %+v", got)
		}
		provisionAsAnother(t, c, client, d, c.EnrollAs(admin), admin)
	}
}

// provisionAsAnother lets d claim the identity of another device, in each part.
func provisionAsAnother(t *testing.T, c *Cloud, client *mqttwire.Client, d, other Device, admin string) {
	t.Helper()
	subscribe(t, client, mqttwire.Filter{Topic: d.Topic("provision/response"), QoS: 1})
	for payload, want := range map[string]string{
		fmt.Sprintf(provisionOf, other.ID, other.MAC):              "device_id_mismatch",
		fmt.Sprintf(provisionOf, other.ID, d.MAC):                  "device_id_mismatch",
		fmt.Sprintf(provisionOf, d.ID, other.MAC):                  "mac_mismatch",
		fmt.Sprintf(provisionOf, strings.ToUpper(d.ID), d.MAC):     "device_id_mismatch",
		fmt.Sprintf(provisionOf, d.ID, "not a MAC"):                "",
		fmt.Sprintf(`{"device_id":%q,"mac_address":%q}`, d.ID, ""): "",
	} {
		if _, err := client.Publish(mqttwire.Message{Topic: d.Topic("provision"), Payload: []byte(payload), QoS: 1}); err != nil {
			t.Errorf("%s: %v", payload, err)
			continue
		}
		p, err := client.Next(5 * time.Second)
		if err != nil || !strings.Contains(string(p.Payload), `"rejected"`) || !strings.Contains(string(p.Payload), want) {
			t.Errorf("%s is answered %+v, %v, want rejected %s", payload, p, err, want)
		}
	}
	for _, x := range []Device{d, other} {
		if v := c.Look(x, admin); v.Provisioned != nil {
			t.Errorf("one of them provisioned %s: %+v", x.ID, v)
		}
	}
}

func TestLimitsEndWhoeverExceedsThem(t *testing.T) {
	c := Start(t, Options{Process: true, Shipped: true, Env: map[string]string{"LOG_LEVEL": "info"}})
	admin := c.AdminToken()
	d := c.EnrollAs(admin)
	t.Run("a topic alias is told 0x94", func(t *testing.T) {
		for _, m := range []mqttwire.Packet{
			{Type: mqttwire.PUBLISH, QoS: 1, PacketID: 1, Topic: d.Topic("state"), Payload: statePayload(1)},
			{Type: mqttwire.PUBLISH, QoS: 1, PacketID: 1, Topic: "", Payload: statePayload(1)},
		} {
			client := c.open(t, deviceHello(d, mqttwire.V5))
			m.Properties = mqttwire.Properties{mqttwire.Number(mqttwire.PropTopicAlias, 1)}
			_ = client.Write(&m)
			if code, closed := closedWithin(client, stretch*time.Second); !closed || code != mqttwire.TopicAliasInvalid {
				t.Errorf("topic %q: closed %t with %v", m.Topic, closed, code)
			}
		}
	})
	t.Run("a packet that is too large is told 0x95", func(t *testing.T) {
		for _, v := range bothVersions {
			client := c.open(t, deviceHello(d, v))
			_ = client.Write(&mqttwire.Packet{Type: mqttwire.PUBLISH, QoS: 1, PacketID: 1, Topic: d.Topic("telemetry"), Payload: make([]byte, 129<<10)})
			code, closed := closedWithin(client, stretch*time.Second)
			if !closed || v == mqttwire.V5 && code != mqttwire.PacketTooLarge {
				t.Errorf("MQTT %s: closed %t with %v", v, closed, code)
			}
		}
	})
	t.Run("text that is not UTF-8 is told 0x81", func(t *testing.T) {
		client := c.open(t, deviceHello(d, mqttwire.V5))
		_ = client.WriteRaw([]byte{0x32, 7, 0, 2, 0xC0, 0xAF, 0, 1, 0})
		if code, closed := closedWithin(client, stretch*time.Second); !closed || code != mqttwire.MalformedPacket && code != mqttwire.TopicNameInvalid {
			t.Errorf("closed %t with %v", closed, code)
		}
	})
	t.Run("100,000 topics and filters of one device cost nothing", func(t *testing.T) {
		before := c.memory(t, "VmRSS")
		client := c.open(t, deviceHello(d, mqttwire.V5))
		go func() {
			for n := range 50000 {
				_ = client.Write(&mqttwire.Packet{Type: mqttwire.PUBLISH, QoS: 1, PacketID: uint16(n%60000 + 1), Retain: true, Topic: d.Topic(fmt.Sprint("x/", n)), Payload: []byte("x")})
				_ = client.Write(&mqttwire.Packet{Type: mqttwire.SUBSCRIBE, PacketID: uint16(n%60000 + 1), Filters: []mqttwire.Filter{{Topic: d.Topic(fmt.Sprint("command/x", n))}}})
			}
		}()
		granted, quota := 0, 0
		for n := range 100000 {
			p, err := client.ReadPacket(stretch * time.Second)
			if err != nil {
				t.Fatalf("answer %d: %v", n, err)
			}
			switch {
			case p.Type == mqttwire.PUBACK && p.ReasonCode != mqttwire.NotAuthorized:
				t.Fatalf("a topic of its own making is answered %v", p.ReasonCode)
			case p.Type == mqttwire.SUBACK && !p.ReasonCodes[0].Failed():
				granted++
			case p.Type == mqttwire.SUBACK && p.ReasonCodes[0] == mqttwire.QuotaExceeded:
				quota++
			}
		}
		if granted > 100 || quota == 0 {
			t.Errorf("%d filters were granted, %d refused with 0x97", granted, quota)
		}
		if grown := c.memory(t, "VmRSS") - before; grown > 32<<20 {
			t.Errorf("the memory grew by %d MB", grown>>20)
		}
	})
	t.Run("the sessions of one person are bounded", func(t *testing.T) {
		user := c.owned(t, admin, "many@example.com", d)
		let := 0
		for n := range 100 {
			hello := personHello(user, fmt.Sprint("app", n), mqttwire.V5)
			hello.Resume = true
			client, _, err := c.try(hello, mqttwire.Number(mqttwire.PropSessionExpiry, 0xFFFFFFFF))
			if err == nil {
				let++
				t.Cleanup(func() { _ = client.Close() })
			} else if refusalCode(err) != mqttwire.QuotaExceeded {
				t.Fatalf("session %d is answered %v", n, err)
			}
		}
		if let == 0 || let > 50 {
			t.Errorf("one person may have %d sessions", let)
		}
	})
}

func TestRatesPerDevice(t *testing.T) {
	t.Parallel()
	c := Start(t, Options{Env: map[string]string{"LIMIT_STATE_PER_DEVICE": "50/s:5", "LIMIT_TELEMETRY_PER_DEVICE": "1/m:5", "LIMIT_CONNECTS_PER_DEVICE": "6/m:3"}})
	admin := c.AdminToken()
	t.Run("QoS 1 above the rate is delayed, acknowledged and kept", func(t *testing.T) {
		d := c.EnrollAs(admin)
		client := c.open(t, deviceHello(d, mqttwire.V5))
		began := time.Now()
		for n := range 30 {
			if err := report(client, d, n); err != nil {
				t.Fatal(err)
			}
		}
		if took := time.Since(began); took < 400*time.Millisecond {
			t.Errorf("30 messages at 50 a second took %v", took)
		}
	})
	t.Run("QoS 0 above the rate is dropped, and the connection lives", func(t *testing.T) {
		d := c.EnrollAs(admin)
		client := c.open(t, deviceHello(d, mqttwire.V311))
		for range 50 {
			if _, err := client.Publish(mqttwire.Message{Topic: d.Topic("telemetry"), Payload: goodPayload(d, "telemetry")}); err != nil {
				t.Fatal(err)
			}
		}
		if err := client.Ping(); err != nil {
			t.Error(err)
		}
	})
	t.Run("a flood that does not end is told 0x96 after ten seconds", func(t *testing.T) {
		d := c.EnrollAs(admin)
		client := c.open(t, deviceHello(d, mqttwire.V5))
		began := time.Now()
		for time.Since(began) < 30*time.Second {
			if err := client.Write(&mqttwire.Packet{Type: mqttwire.PUBLISH, Topic: d.Topic("telemetry"), Payload: goodPayload(d, "telemetry")}); err != nil {
				break
			}
			p, err := client.ReadPacket(5 * time.Millisecond)
			if errors.Is(err, os.ErrDeadlineExceeded) {
				continue
			}
			if took := time.Since(began); err != nil || p.ReasonCode != mqttwire.MessageRateTooHigh || took < 9*time.Second {
				t.Errorf("after %v it is told %+v, %v", took, p, err)
			}
			return
		}
		t.Error("nobody told it")
	})
	t.Run("a device that connects too often is refused for a while, and nobody else", func(t *testing.T) {
		d := c.EnrollAs(admin)
		for n := range 6 {
			client, _, err := c.try(deviceHello(d, mqttwire.V5))
			if err == nil {
				_ = client.Disconnect()
			}
			if (err == nil) != (n < 3) || err != nil && refusalCode(err) != 0x9F {
				t.Errorf("connection %d: %v, want 3 and then 0x9F", n, err)
			}
		}
		if _, _, err := c.try(deviceHello(d, mqttwire.V311)); refusalCode(err) != mqttwire.Refused311Unavailable {
			t.Errorf("MQTT 3.1.1 is answered %v, want 3: the credential is good", err)
		}
		c.open(t, deviceHello(c.EnrollAs(admin), mqttwire.V311))
	})
}
