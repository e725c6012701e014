package e2e_test

import (
	"bytes"
	"crypto/tls"
	"encoding/json"
	"io"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/opticworks/devicecloud/firmware-sim/mqttwire"
	"github.com/opticworks/devicecloud/standin/aws"
)

// TestADeviceBorrowsCredentials is contracts A.5 (b) over both versions of MQTT: what a
// device asks for and gets, how often, and who else sees it.
func TestADeviceBorrowsCredentials(t *testing.T) {
	t.Parallel()
	s := openStudio(t, nil)
	var secrets []string
	for _, version := range bothVersions {
		d := s.newCamera(t, "ann@example.com", true)
		client := s.open(t, deviceHello(d, version))
		subscribe(t, client, mqttwire.Filter{Topic: d.Topic("kvs/credentials/response"), QoS: 1})
		first, raw := borrow(t, client, d, `{"request_id":"r1","purpose":"stream","device_id":"`+s.camera.ID+`"}`)
		name := "cam-" + d.ID[:8]
		if first.Status != "ok" || first.RequestID != "r1" || first.StreamName != name || first.ChannelName != name || first.Region != "us-east-1" || !strings.Contains(first.ChannelARN, name) {
			t.Fatalf("the device is lent %s", raw)
		}
		if left := time.Until(first.Credentials.Expiration); left < 59*time.Minute || left > time.Hour {
			t.Errorf("for %s", left)
		}
		secrets = append(secrets, first.Credentials.SecretAccessKey, first.Credentials.SessionToken)
		if _, again := borrow(t, client, d, `{"request_id":"r1","purpose":"stream"}`); !bytes.Equal(again, raw) {
			t.Errorf("the same request gets another answer")
		}
		if l, raw := borrow(t, client, d, `{"request_id":"r2","purpose":"stream"}`); l.Error != "rate_limited" || l.RequestID != "r2" || l.RetryAfter < 50 || l.RetryAfter > 60 || len(raw) > 256 {
			t.Errorf("another request gets %s", raw)
		}
		// A new connection gets nothing of what was asked before.
		if err := client.Disconnect(); err != nil {
			t.Fatal(err)
		}
		client = s.open(t, deviceHello(d, version))
		subscribe(t, client, mqttwire.Filter{Topic: d.Topic("kvs/credentials/response"), QoS: 1})
		if m, err := client.Next(300 * time.Millisecond); err == nil {
			t.Errorf("a new connection gets %s %d bytes", m.Topic, len(m.Payload))
		}
	}
	trail := s.trail(s.camera, s.admin)
	if count(trail, "video_credentials_lent") != 0 {
		t.Error("the payload said whose credentials they are")
	}
	// Two devices, one vend each: repeats are answered from memory.
	if n := s.aws.Calls("AssumeRole"); n != 2 {
		t.Errorf("AWS was asked %d times, want 2", n)
	}
	s.quiet(t, secrets)
}

// TestRefusalsToADevice is one row for each error that a device may be answered.
func TestRefusalsToADevice(t *testing.T) {
	t.Parallel()
	s := openStudio(t, nil)
	ask := func(d Device, request string, props ...mqttwire.Property) (lent, []byte) {
		t.Helper()
		version := mqttwire.V311
		if len(props) > 0 {
			version = mqttwire.V5
		}
		client := s.open(t, deviceHello(d, version), props...)
		subscribe(t, client, mqttwire.Filter{Topic: d.Topic("kvs/credentials/response"), QoS: 1}, mqttwire.Filter{Topic: d.Topic("kvs/config/response"), QoS: 1})
		return borrow(t, client, d, request)
	}
	const request = `{"request_id":"r1","purpose":"webrtc"}`
	unpaid := s.EnrollAs(s.admin)
	if l, raw := ask(unpaid, request); l.Error != "entitlement_required" {
		t.Errorf("without a plan: %s", raw)
	}
	if l, raw := ask(s.newCamera(t, "ann@example.com", false), request); l.Error != "not_provisioned" {
		t.Errorf("without video: %s", raw)
	}
	d := s.newCamera(t, "ann@example.com", true)
	for _, size := range []uint32{256, 1024} { // without asking AWS, and with what it gave
		if l, raw := ask(d, request, mqttwire.Number(mqttwire.PropMaximumPacketSize, size)); l.Error != "payload_too_large" || len(raw) > 256 {
			t.Errorf("with a buffer of %d: %s", size, raw)
		}
	}
	s.aws.Fail("AssumeRole", aws.Fault{Status: 503, Code: "ServiceUnavailable"})
	if l, raw := ask(d, request); l.Error != "upstream_unavailable" || l.RetryAfter != 60 {
		t.Errorf("while AWS is away: %s", raw)
	}
	s.aws.Heal()
	// None of these was charged.
	if l, raw := ask(d, request, mqttwire.Number(mqttwire.PropMaximumPacketSize, 4096)); l.Status != "ok" {
		t.Errorf("after them: %.200s", raw)
	}
	client := s.open(t, deviceHello(d, mqttwire.V5))
	for _, payload := range []string{``, `[]`, `{}`, `{"request_id":"r","purpose":"spy"}`, `{"request_id":5,"purpose":"stream"}`, `{"request_id":"` + strings.Repeat("r", 65) + `","purpose":"stream"}`} {
		_, err := client.Publish(mqttwire.Message{Topic: d.Topic("kvs/credentials/request"), Payload: []byte(payload), QoS: 1})
		if refusalCode(err) != 0x99 {
			t.Errorf("%.40q: %v", payload, err)
		}
	}
}

// TestADeviceIsToldOfIoT is contracts A.5 (a).
func TestADeviceIsToldOfIoT(t *testing.T) {
	t.Parallel()
	s := openStudio(t, nil)
	client := s.open(t, deviceHello(s.camera, mqttwire.V311))
	subscribe(t, client, mqttwire.Filter{Topic: s.camera.Topic("kvs/config/response"), QoS: 1})
	if _, err := client.Publish(mqttwire.Message{Topic: s.camera.Topic("kvs/config/request"), Payload: []byte(`{"request_id":"r1"}`), QoS: 1}); err != nil {
		t.Fatal(err)
	}
	m, err := client.Next(10 * time.Second)
	if err != nil {
		t.Fatal(err)
	}
	var got map[string]string
	if err := json.Unmarshal(m.Payload, &got); err != nil {
		t.Fatal(err)
	}
	name := "cam-" + s.camera.ID[:8]
	for key, want := range map[string]string{
		"request_id": "r1", "status": "ok", "mode": "iot_credentials", "endpoint": "c1example.credentials.iot.us-east-1.amazonaws.com",
		"role_alias": "camera", "thing_name": name, "region": "us-east-1", "stream_name": name, "channel_name": name,
	} {
		if got[key] != want {
			t.Errorf("%s is %q, want %q", key, got[key], want)
		}
	}
	if len(got) != 9 || s.aws.Calls("") != 0 {
		t.Errorf("%d members; AWS was asked %d times", len(got), s.aws.Calls(""))
	}
}

// TestADeviceBorrowsOverHTTPS is the way of a device whose buffer is too small: its client
// certificate opens the same answer, under the same limits.
func TestADeviceBorrowsOverHTTPS(t *testing.T) {
	t.Parallel()
	s := openStudio(t, nil)
	other := s.EnrollAs(s.admin)
	get := func(query string, certificates ...tls.Certificate) (int, string, []byte) {
		t.Helper()
		config := s.TLS()
		config.Certificates = certificates
		client := &http.Client{Transport: &http.Transport{TLSClientConfig: config, DisableKeepAlives: true}}
		answer, err := client.Get("https://" + s.address.HTTPS + "/api/device/kvs-credentials" + query)
		if err != nil {
			t.Fatal(err)
		}
		defer answer.Body.Close()
		text, err := io.ReadAll(answer.Body)
		if err != nil {
			t.Fatal(err)
		}
		var problem struct{ Error string }
		_ = json.Unmarshal(text, &problem)
		if answer.StatusCode == 200 && answer.Header.Get("Cache-Control") != "no-store" {
			t.Error("the answer may be kept")
		}
		return answer.StatusCode, problem.Error, text
	}
	mine := s.ca.issue(s.camera.ID, -time.Minute, time.Hour)
	for name, c := range map[string]struct {
		certificates []tls.Certificate
		want         string
	}{
		"no certificate":           {nil, "invalid_token"},
		"of another CA":            {[]tls.Certificate{newAuthority(t, "device CA").issue(s.camera.ID, -time.Minute, time.Hour)}, "invalid_credentials"},
		"expired":                  {[]tls.Certificate{s.ca.issue(s.camera.ID, -time.Hour, -time.Minute)}, "invalid_credentials"},
		"of no device":             {[]tls.Certificate{s.ca.issue("opticworks", -time.Minute, time.Hour)}, "invalid_credentials"},
		"of a device that is none": {[]tls.Certificate{s.ca.issue(NewDevice().ID, -time.Minute, time.Hour)}, "invalid_credentials"},
	} {
		if status, code, _ := get("", c.certificates...); status != 401 || code != c.want {
			t.Errorf("%s: %d %s, want 401 %s", name, status, code, c.want)
		}
	}
	if status, code, _ := get("", s.ca.issue(other.ID, -time.Minute, time.Hour)); status != 403 || code != "entitlement_required" {
		t.Errorf("a device without a plan: %d %s", status, code)
	}
	if status, code, _ := get("?purpose=spy", mine); status != 400 || code != "invalid_payload" {
		t.Errorf("for no purpose: %d %s", status, code)
	}
	status, _, text := get("?purpose=webrtc&request_id=r9", mine)
	var l lent
	if err := json.Unmarshal(text, &l); err != nil || status != 200 || l.RequestID != "r9" || l.Credentials.SessionToken == "" {
		t.Fatalf("%d %.200s: %v", status, text, err)
	}
	_ = s.master(t, l)
	if status, _, again := get("?purpose=webrtc&request_id=r9", mine); status != 200 || !bytes.Equal(again, text) {
		t.Errorf("again: %d", status)
	}
	if status, code, _ := get("?purpose=webrtc&request_id=r10", mine); status != 429 || code != "rate_limited" {
		t.Errorf("another: %d %s", status, code)
	}
	s.Post("/admin/devices/"+s.camera.ID+"/disable", s.admin, nil, nil)
	if status, code, _ := get("?purpose=webrtc&request_id=r9", mine); status != 401 || code != "invalid_credentials" {
		t.Errorf("a disabled device: %d %s", status, code)
	}
	if n := count(s.trail(s.camera, s.admin), "video_credentials_lent"); n != 1 {
		t.Errorf("%d vends are audited, want 1", n)
	}
	s.quiet(t, []string{l.Credentials.SecretAccessKey, l.Credentials.SessionToken})
}
