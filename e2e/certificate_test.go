package e2e_test

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"math/big"
	"net/http"
	"os"
	"path/filepath"
	"testing"
	"time"

	mqtt "github.com/eclipse/paho.mqtt.golang"
)

// authority is a CA of the test's own.
type authority struct {
	t    *testing.T
	cert *x509.Certificate
	key  *ecdsa.PrivateKey
	pem  []byte
}

func newAuthority(t *testing.T, name string) *authority {
	t.Helper()
	a := &authority{t: t, key: newKey(t)}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: name}, IsCA: true, BasicConstraintsValid: true,
		KeyUsage: x509.KeyUsageCertSign, NotBefore: time.Now().Add(-48 * time.Hour), NotAfter: time.Now().Add(time.Hour),
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, a.key.Public(), a.key)
	if err != nil {
		t.Fatal(err)
	}
	if a.cert, err = x509.ParseCertificate(der); err != nil {
		t.Fatal(err)
	}
	a.pem = pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})
	return a
}

func newKey(t *testing.T) *ecdsa.PrivateKey {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return key
}

// issue makes a client certificate, valid from and until the given times from now.
func (a *authority) issue(commonName string, from, until time.Duration) tls.Certificate {
	a.t.Helper()
	key := newKey(a.t)
	serial, err := rand.Int(rand.Reader, big.NewInt(1<<62))
	if err != nil {
		a.t.Fatal(err)
	}
	der, err := x509.CreateCertificate(rand.Reader, &x509.Certificate{
		SerialNumber: serial, Subject: pkix.Name{CommonName: commonName}, KeyUsage: x509.KeyUsageDigitalSignature,
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth},
		NotBefore:   time.Now().Add(from), NotAfter: time.Now().Add(until),
	}, a.cert, key.Public(), a.key)
	if err != nil {
		a.t.Fatal(err)
	}
	return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key}
}

func TestClientCertificates(t *testing.T) {
	t.Parallel()
	ours, foreign := newAuthority(t, "device CA"), newAuthority(t, "device CA") // the same name, another key
	caFile := filepath.Join(t.TempDir(), "device-ca.pem")
	if err := os.WriteFile(caFile, ours.pem, 0o600); err != nil {
		t.Fatal(err)
	}
	c := Start(t, Options{Env: map[string]string{"DEVICE_CA_FILE": caFile}})
	admin := c.AdminToken()
	other := c.EnrollAs(admin)

	for _, tc := range []struct {
		name    string
		cert    func(Device) tls.Certificate
		allowed bool
	}{
		{"of the device CA", func(d Device) tls.Certificate { return ours.issue(d.ID, -time.Minute, time.Minute) }, true},
		{"of the device CA, expired", func(d Device) tls.Certificate { return ours.issue(d.ID, -time.Hour, -time.Minute) }, false},
		{"of the device CA, not valid yet", func(d Device) tls.Certificate { return ours.issue(d.ID, time.Minute, time.Hour) }, false},
		{"of the device CA, of another device", func(Device) tls.Certificate { return ours.issue(other.ID, -time.Minute, time.Minute) }, false},
		{"of another CA with the same name", func(d Device) tls.Certificate { return foreign.issue(d.ID, -time.Minute, time.Minute) }, false},
	} {
		t.Run("a certificate "+tc.name, func(t *testing.T) {
			c := c.For(t)
			d := c.EnrollAs(admin)
			client, err := c.Dial(d, withCertificate(tc.cert(d)))
			if !tc.allowed {
				if err == nil {
					t.Error("let in")
				}
				if v := c.Look(d, admin); v.Epoch != 0 {
					t.Errorf("the registry counted a connection: %+v", v)
				}
				return
			}
			if err != nil {
				t.Fatalf("refused: %v", err)
			}
			defer client.Disconnect(0)
			if err := Report(client, d, 5); err != nil {
				t.Error(err)
			}
			if v := c.Look(d, admin); !v.Online || v.UptimeSec == nil || *v.UptimeSec != 5 {
				t.Errorf("the registry has %+v", v)
			}
		})
	}

	t.Run("a certificate of an unknown CA whose fingerprint is registered", func(t *testing.T) {
		c := c.For(t)
		d := c.EnrollAs(admin)
		cert := foreign.issue(d.ID, -time.Minute, time.Hour)
		text := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: cert.Certificate[0]})
		c.Post("/admin/devices/"+d.ID+"/credentials", admin, map[string]any{"kind": "x509", "certificate_pem": string(text)}, nil)
		client, err := c.Dial(d, withCertificate(cert))
		if err != nil {
			t.Fatalf("refused: %v", err)
		}
		defer client.Disconnect(0)

		t.Run("ends the secret that it replaces", func(t *testing.T) {
			c := c.For(t)
			if _, err := c.Dial(d, nil); err == nil {
				t.Error("the old password still works")
			}
		})
		t.Run("drops the session when the device is disabled", func(t *testing.T) {
			c := c.For(t)
			c.Post("/admin/devices/"+d.ID+"/disable", admin, nil, nil)
			Await(t, time.Second, func() bool { return !client.IsConnectionOpen() }, func() string { return "it is still connected" })
			if _, err := c.Dial(d, withCertificate(cert)); err == nil {
				t.Error("a disabled device was let in")
			}
			if status := c.Do(http.MethodPost, "/admin/devices/"+d.ID+"/enable", admin, nil, nil); status != http.StatusOK {
				t.Fatalf("enable answers %d", status)
			}
			again, err := c.Dial(d, withCertificate(cert))
			if err != nil {
				t.Fatalf("after it was enabled again: %v", err)
			}
			again.Disconnect(0)
		})
	})

	t.Run("no certificate and the right password", func(t *testing.T) {
		c := c.For(t)
		d := c.EnrollAs(admin)
		client, err := c.Dial(d, func(o *mqtt.ClientOptions) { o.SetProtocolVersion(4) })
		if err != nil {
			t.Fatalf("refused: %v", err)
		}
		client.Disconnect(0)
	})
}
