package hooks_test

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/base64"
	"encoding/binary"
	"encoding/hex"
	"encoding/pem"
	"errors"
	"fmt"
	"math/big"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/opticworks/devicecloud/firmware-sim/mqttwire"
	"github.com/opticworks/devicecloud/hooks"
	"github.com/opticworks/devicecloud/registry"
)

var versions = []mqttwire.Version{mqttwire.V311, mqttwire.V5}

func TestConnect(t *testing.T) {
	c := newCloud(t, func(s *setup) { s.broker.Limits.MaxPreAuthPacket = 16 << 10 })
	d, other := c.enroll(), c.enroll()
	disabled := c.enroll()
	if err := c.reg.DisableDevice(context.Background(), admin, disabled.id); err != nil {
		t.Fatal(err)
	}
	u := c.login("ann", d)
	v := c.login("bob")
	state := d.topic("state")
	will := func(topic, payload string) func(*mqttwire.Connect) {
		return func(h *mqttwire.Connect) {
			h.Will = &mqttwire.Will{Topic: topic, Payload: []byte(payload), QoS: 1, Retain: true}
		}
	}
	asUser := func(h *mqttwire.Connect) { *h = u.hello("u:", "phone", h.Version) }
	unknown := strings.Repeat("0", 32)
	for _, tc := range []struct {
		name   string
		change func(*mqttwire.Connect)
		v5, v3 mqttwire.ReasonCode
	}{
		{"a device with its secret comes in", func(*mqttwire.Connect) {}, 0, 0},
		{"a wrong password is refused", func(h *mqttwire.Connect) { h.Password = []byte("wrong") }, 0x86, 4},
		{"an unknown device is refused alike", func(h *mqttwire.Connect) { h.ClientID, h.Username = unknown, unknown }, 0x86, 4},
		{"a disabled device is refused alike", func(h *mqttwire.Connect) { *h = disabled.hello(h.Version) }, 0x86, 4},
		{"an empty password is refused", func(h *mqttwire.Connect) { h.Password = []byte{} }, 0x86, 4},
		{"no password is refused", func(h *mqttwire.Connect) { h.Password = nil }, 0x86, 4},
		{"no user name is refused", func(h *mqttwire.Connect) { h.Username, h.Password = "", nil }, 0x86, 4},
		{"a foreign client id is refused", func(h *mqttwire.Connect) { h.ClientID = other.id }, 0x85, 2},
		{"an empty client id is refused", func(h *mqttwire.Connect) { h.ClientID = "" }, 0x85, 2},
		{"a client id in capitals is refused", func(h *mqttwire.Connect) { h.ClientID = strings.ToUpper(d.id) }, 0x85, 2},
		{"a user name with a wildcard is refused", func(h *mqttwire.Connect) { h.Username = "+" }, 0x86, 4},
		{"a user name of everything is refused", func(h *mqttwire.Connect) { h.Username = "#" }, 0x86, 4},
		{"a user name with a byte order mark is refused", func(h *mqttwire.Connect) { h.Username = "\ufeff" + d.id }, 0x86, 4},
		{"its own will comes in", will(state, `{"online":false}`), 0, 0},
		{"an empty will comes in", will(state, ""), 0, 0},
		{"another's will topic is refused", will(other.topic("state"), `{"online":false}`), 0x87, 5},
		{"a will on another topic of its own is refused", will(d.topic("telemetry"), `{}`), 0x87, 5},
		{"a will on a server's topic is refused", will(d.topic("provision/response"), `{}`), 0x87, 5},
		{"a will on $SYS is refused", will("$SYS/x", `{}`), 0x87, 5},
		{"a will on $CONTROL is refused", will("$CONTROL/x", `{}`), 0x87, 5},
		{"a will with a wildcard is refused", will("opticworks/+/state", `{}`), 0x87, 5},
		{"a shared will is refused", will("$share/g/"+state, `{}`), 0x87, 5},
		{"a will that claims to be online is refused", will(state, `{"online":true}`), 0x87, 5},
		{"a will that is no JSON is refused", will(state, `offline`), 0x87, 5},
		{"a will above 4 KiB is refused", will(state, `{"x":"`+strings.Repeat("y", 4090)+`"}`), 0x87, 5},
		{"a person with a token comes in", asUser, 0, 0},
		{"a person's bad token is refused", func(h *mqttwire.Connect) { asUser(h); h.Password = []byte("x.y.z") }, 0x86, 4},
		{"a person's missing token is refused", func(h *mqttwire.Connect) { asUser(h); h.Password = nil }, 0x86, 4},
		{"another person's token is refused", func(h *mqttwire.Connect) { asUser(h); h.Password = []byte(v.token) }, 0x86, 4},
		{"a person as administrator is refused", func(h *mqttwire.Connect) { asUser(h); h.Username = "a:" + u.id }, 0x86, 4},
		{"a person with another's client id is refused", func(h *mqttwire.Connect) { asUser(h); h.ClientID = "u:" + v.id + ":phone" }, 0x85, 2},
		{"a person with a device's client id is refused", func(h *mqttwire.Connect) { asUser(h); h.ClientID = d.id }, 0x85, 2},
		{"a person without a client name is refused", func(h *mqttwire.Connect) { asUser(h); h.ClientID = h.Username }, 0x85, 2},
		{"a person with an endless client id is refused", func(h *mqttwire.Connect) { asUser(h); h.ClientID += strings.Repeat("x", 100) }, 0x85, 2},
		{"a person with a will is refused", func(h *mqttwire.Connect) { asUser(h); will(state, `{"online":false}`)(h) }, 0x87, 5},
	} {
		for _, version := range versions {
			t.Run(fmt.Sprintf("%s, MQTT %s", tc.name, version), func(t *testing.T) {
				hello := d.hello(version)
				tc.change(&hello)
				cl := c.dial()
				want := tc.v5
				if version == mqttwire.V311 {
					want = tc.v3
				}
				ack, err := cl.Connect(hello)
				var refused *mqttwire.RefusedError
				if err != nil && !errors.As(err, &refused) {
					t.Fatal(err)
				}
				if ack.ReasonCode != want {
					t.Errorf("CONNACK %#x, want %#x", byte(ack.ReasonCode), byte(want))
				}
				if want != 0 {
					if code := ended(t, cl); code != 0 {
						t.Errorf("a DISCONNECT %v after the CONNACK", code)
					}
				}
			})
		}
	}
	t.Run("refusals do not touch the session that is there", func(t *testing.T) {
		cl := c.connect(d, mqttwire.V5)
		for range 20 {
			hello := d.hello(mqttwire.V5)
			hello.Password = []byte("wrong")
			if _, err := c.dial().Connect(hello); err == nil {
				t.Fatal("a wrong password came in")
			}
		}
		hello := other.hello(mqttwire.V5)
		hello.ClientID = d.id
		if _, err := c.dial().Connect(hello); err == nil {
			t.Fatal("a foreign client id came in")
		}
		if err := cl.Ping(); err != nil {
			t.Error(err)
		}
		if p := c.row(d).Presence; p.Status != registry.Online {
			t.Errorf("status %v", p.Status)
		}
	})
	t.Run("no secret is in the log", func(t *testing.T) {
		for _, secret := range []string{d.secret, disabled.secret, u.token, v.token} {
			if strings.Contains(c.logs.String(), secret) {
				t.Error("a secret was logged")
			}
		}
	})
	t.Run("every refusal is counted", func(t *testing.T) {
		if n := c.counter("mqtt_connect_refusals_total", "0x86"); n < 20 {
			t.Errorf("%v refusals", n)
		}
	})
}

func TestConnackTellsTheLimits(t *testing.T) {
	c := newCloud(t)
	d := c.enroll()
	hello := d.hello(mqttwire.V5)
	hello.KeepAlive = 43691 // 1.5 times this overflows 16 bits
	ack, err := c.dial().Connect(hello, mqttwire.Number(mqttwire.PropSessionExpiry, 3600))
	if err != nil {
		t.Fatal(err)
	}
	for _, p := range []struct {
		name string
		id   mqttwire.PropertyID
		want uint32
	}{
		{"Maximum Packet Size", mqttwire.PropMaximumPacketSize, 128 << 10},
		{"Server Keep Alive", mqttwire.PropServerKeepAlive, 80},
		{"Session Expiry", mqttwire.PropSessionExpiry, 0},
		{"Shared Subscription Available", mqttwire.PropSharedSubAvailable, 0},
	} {
		if got, ok := ack.Properties.Number(p.id); !ok || got != p.want {
			t.Errorf("%s %d, %v; want %d", p.name, got, ok, p.want)
		}
	}
}

// A client that keeps silent for longer than the threshold is gone, whatever
// keep-alive it asked for.
func TestSilenceEnds(t *testing.T) {
	for _, version := range versions {
		for _, keepAlive := range []uint16{0, 43691} {
			t.Run(fmt.Sprintf("keep-alive %d, MQTT %s", keepAlive, version), func(t *testing.T) {
				c := newCloud(t, func(s *setup) { s.hooks.OfflineThreshold = 3 * time.Second })
				t.Parallel()
				d := c.enroll()
				hello := d.hello(version)
				hello.KeepAlive = keepAlive
				cl := c.dial()
				if _, err := cl.Connect(hello); err != nil {
					t.Fatal(err)
				}
				if code := ended(t, cl); version == mqttwire.V5 && code != 0x8d {
					t.Errorf("DISCONNECT %#x", byte(code))
				}
				if r := c.offline(d); r != registry.KeepaliveTimeout {
					t.Errorf("reason %v", r)
				}
			})
		}
	}
}

func TestHMACLogin(t *testing.T) {
	c := newCloud(t)
	d := c.enroll()
	password := func(at time.Time, secret string) []byte {
		key := sha256.Sum256([]byte(secret))
		id, _ := hex.DecodeString(d.id)
		h := hmac.New(sha256.New, key[:])
		h.Write(id)
		_ = binary.Write(h, binary.LittleEndian, uint32(at.Unix()))
		return fmt.Appendf(nil, "v1.%d.%s", at.Unix(), base64.StdEncoding.EncodeToString(h.Sum(nil)))
	}
	hello := d.hello(mqttwire.V311)
	for name, tc := range map[string]struct {
		password []byte
		ok       bool
	}{
		"now comes in":                 {password(time.Now(), d.secret), true},
		"an hour ago is refused":       {password(time.Now().Add(-time.Hour), d.secret), false},
		"of another secret is refused": {password(time.Now(), "other"), false},
		"a mangled one is refused":     {append(password(time.Now(), d.secret), '='), false},
	} {
		t.Run(name, func(t *testing.T) {
			hello.Password = tc.password
			if _, err := c.dial().Connect(hello); (err == nil) != tc.ok {
				t.Error(err)
			}
		})
	}
}

// authority is a certificate authority that a test makes.
type authority struct {
	cert *x509.Certificate
	key  *ecdsa.PrivateKey
}

func newAuthority(t testing.TB) authority {
	t.Helper()
	key := must[*ecdsa.PrivateKey](t)(ecdsa.GenerateKey(elliptic.P256(), rand.Reader))
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "device CA"}, NotBefore: time.Now().Add(-time.Hour),
		NotAfter: time.Now().Add(time.Hour), IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign,
	}
	der := must[[]byte](t)(x509.CreateCertificate(rand.Reader, template, template, &key.PublicKey, key))
	return authority{must[*x509.Certificate](t)(x509.ParseCertificate(der)), key}
}

func (a authority) issue(t testing.TB, name string) tls.Certificate {
	t.Helper()
	key := must[*ecdsa.PrivateKey](t)(ecdsa.GenerateKey(elliptic.P256(), rand.Reader))
	template := &x509.Certificate{
		SerialNumber: big.NewInt(time.Now().UnixNano()), Subject: pkix.Name{CommonName: name}, NotBefore: time.Now().Add(-time.Hour),
		NotAfter: time.Now().Add(time.Hour), KeyUsage: x509.KeyUsageDigitalSignature, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth},
	}
	der := must[[]byte](t)(x509.CreateCertificate(rand.Reader, template, a.cert, &key.PublicKey, a.key))
	return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key}
}

func TestCertificateLogin(t *testing.T) {
	ca, stranger := newAuthority(t), newAuthority(t)
	caFile := filepath.Join(t.TempDir(), "device-ca.pem")
	if err := os.WriteFile(caFile, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: ca.cert.Raw}), 0o600); err != nil {
		t.Fatal(err)
	}
	c := newCloud(t, func(s *setup) {
		s.tls, s.deviceCA, s.hooks.DeviceCAs = true, caFile, pool(t, ca.cert)
	})
	d, other := c.enroll(), c.enroll()
	registered := stranger.issue(t, d.id)
	_, err := c.reg.AddCredential(context.Background(), admin, d.id, registry.CredentialRequest{
		Kind: "x509", CertificatePEM: string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: registered.Certificate[0]})),
		RetireOldAfter: time.Hour,
	})
	if err != nil {
		t.Fatal(err)
	}
	serverCA := x509.NewCertPool()
	if !serverCA.AppendCertsFromPEM(must[[]byte](t)(os.ReadFile(c.caFile))) {
		t.Fatal("no CA")
	}
	for _, tc := range []struct {
		name string
		cert tls.Certificate
		as   thing
		ok   bool
	}{
		{"a certificate of the device CA comes in", ca.issue(t, d.id), d, true},
		{"a registered certificate comes in", registered, d, true},
		{"another device's certificate is refused", ca.issue(t, other.id), d, false},
		{"a certificate of a strange CA is refused", stranger.issue(t, other.id), other, false},
	} {
		t.Run(tc.name, func(t *testing.T) {
			cl, err := mqttwire.Dial(context.Background(), "mqtts://"+c.broker.TLSAddr().String(), &tls.Config{
				RootCAs: serverCA, Certificates: []tls.Certificate{tc.cert}, ServerName: "localhost",
			})
			if err != nil {
				t.Fatal(err)
			}
			defer cl.Close()
			hello := tc.as.hello(mqttwire.V311)
			hello.Password = nil
			if _, err := cl.Connect(hello); (err == nil) != tc.ok {
				t.Error(err)
			}
		})
	}
}

func TestConnectRate(t *testing.T) {
	c := newCloud(t, func(s *setup) {
		s.hooks.Limits = hooks.Limits{ConnectsPerDevice: hooks.Rate{Events: 0.01, Burst: 3}}
	})
	d, other := c.enroll(), c.enroll()
	hello := d.hello(mqttwire.V5)
	wrong := hello
	wrong.Password = []byte("wrong")
	for range 10 { // a stranger cannot use up a victim's connections
		if _, err := c.dial().Connect(wrong); err == nil {
			t.Fatal("a wrong password came in")
		}
	}
	for range 3 {
		if _, err := c.dial().Connect(hello); err != nil {
			t.Fatal(err)
		}
	}
	if ack, err := c.dial().Connect(hello); err == nil || ack.ReasonCode != 0x9f {
		t.Errorf("the fourth: %v", err)
	}
	if ack, err := c.dial().Connect(d.hello(mqttwire.V311)); err == nil || ack.ReasonCode != 3 {
		t.Errorf("the fifth: %v", err)
	}
	c.connect(other, mqttwire.V311)
}

// during is the real store, which calls back when a batch with a claim was
// committed, before anybody knows.
type during struct {
	registry.Store
	claim *atomic.Pointer[func()]
}

func (s during) Commit(ctx context.Context, b *registry.Batch) error {
	err := s.Store.Commit(ctx, b)
	if len(b.Claims) > 0 {
		if call := s.claim.Swap(nil); call != nil {
			(*call)()
		}
	}
	return err
}

// What happens to a device while its connection is being accepted counts for it.
func TestEndedWhileItIsAccepted(t *testing.T) {
	var claim atomic.Pointer[func()]
	c := newCloud(t, func(s *setup) {
		s.store = func(real registry.Store) registry.Store { return during{real, &claim} }
	})
	for _, tc := range []struct {
		name string
		do   func(d thing)
		code mqttwire.ReasonCode
		why  registry.Reason
	}{
		{"disconnected", func(d thing) {
			if !c.courier.Disconnect(d.id, registry.Kicked) {
				t.Error("there was nothing to disconnect")
			}
		}, 0x98, registry.Kicked},
		{"disabled", func(d thing) { c.courier.Disconnect(d.id, registry.CredentialRevoked) }, 0x86, registry.CredentialRevoked},
		{"its credential retired", func(d thing) {
			detail, err := c.reg.AdminDevice(context.Background(), admin, d.id)
			if err != nil {
				t.Error(err)
			}
			c.courier.ExpireSession(d.id, detail.Credentials[0].ID, time.Now())
		}, 0x86, registry.CredentialRevoked},
	} {
		t.Run(tc.name, func(t *testing.T) {
			d := c.enroll()
			call := func() { tc.do(d) }
			claim.Store(&call)
			ack, err := c.dial().Connect(d.hello(mqttwire.V5))
			if err == nil || ack.ReasonCode != tc.code {
				t.Errorf("%v, %v", ack, err)
			}
			if r := c.offline(d); r != tc.why {
				t.Errorf("reason %v", r)
			}
			c.connect(d, mqttwire.V5)
		})
	}
}
