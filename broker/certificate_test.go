package broker_test

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"math/big"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/opticworks/devicecloud/broker"
)

func copyFile(t testing.TB, from, to string) {
	t.Helper()
	data, err := os.ReadFile(from)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(to, data, 0o600); err != nil {
		t.Fatal(err)
	}
}

func TestCertificateReload(t *testing.T) {
	dir := t.TempDir()
	cert, key := filepath.Join(dir, "cert.pem"), filepath.Join(dir, "key.pem")
	_, roots := serverTLS(t)
	copyFile(t, testCA.cert, cert)
	copyFile(t, testCA.key, key)
	log := &journal{}
	config, err := broker.NewTLSConfig(cert, key, "", log.logger())
	if err != nil {
		t.Fatal(err)
	}
	h := start(t, func(s *setup) { s.TLS = config })
	serial := func() string {
		c := dialTLS(t, h.TLSAddr(), &tls.Config{InsecureSkipVerify: true}, 4)
		defer c.Close()
		return c.Conn.(*tls.Conn).ConnectionState().PeerCertificates[0].SerialNumber.String()
	}
	old := serial()
	c := dialTLS(t, h.TLSAddr(), &tls.Config{RootCAs: roots, ServerName: "localhost"}, 5).open("stays")

	if err := os.WriteFile(cert, []byte("broken"), 0o600); err != nil {
		t.Fatal(err)
	}
	until(t, "the broken file is noticed", func() bool { _ = serial(); return strings.Contains(log.String(), "cannot be reloaded") })
	if serial() != old {
		t.Error("the old certificate is gone")
	}

	newCert, newKey, _, err := broker.DevCA(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	copyFile(t, newCert, cert)
	copyFile(t, newKey, key)
	until(t, "the new certificate is served", func() bool { return serial() != old })
	c.alive()
	if n := strings.Count(log.String(), "cannot be reloaded"); n > 2 { // once, and perhaps once between the two copies
		t.Errorf("the broken file was logged %d times", n)
	}
}

func TestNewTLSConfig(t *testing.T) {
	serverTLS(t) // makes the files
	other, otherKey, _, err := broker.DevCA(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	for name, files := range map[string][3]string{
		"a key of another certificate":     {testCA.cert, otherKey, ""},
		"a missing certificate":            {"nowhere.pem", testCA.key, ""},
		"a missing key":                    {testCA.cert, "nowhere.pem", ""},
		"a missing device CA":              {other, otherKey, "nowhere.pem"},
		"a device CA without certificates": {other, otherKey, otherKey},
	} {
		t.Run("refuses "+name, func(t *testing.T) {
			if _, err := broker.NewTLSConfig(files[0], files[1], files[2], nil); err == nil {
				t.Error("no error")
			}
		})
	}
	h := start(t)
	handshake := func(config *tls.Config) (tls.ConnectionState, error) {
		config.RootCAs, config.ServerName = h.roots, "localhost"
		nc, err := tls.Dial("tcp", h.TLSAddr().String(), config)
		if err != nil {
			return tls.ConnectionState{}, err
		}
		defer nc.Close()
		return nc.ConnectionState(), nil
	}
	t.Run("speaks TLS 1.2 and 1.3 and nothing older", func(t *testing.T) {
		for version, ok := range map[uint16]bool{tls.VersionTLS11: false, tls.VersionTLS12: true, tls.VersionTLS13: true} {
			_, err := handshake(&tls.Config{MinVersion: tls.VersionTLS10, MaxVersion: version})
			if (err == nil) != ok {
				t.Errorf("%x: %v", version, err)
			}
		}
	})
	t.Run("takes the ALPN protocol mqtt or none", func(t *testing.T) {
		if s, err := handshake(&tls.Config{NextProtos: []string{"mqtt"}}); err != nil || s.NegotiatedProtocol != "mqtt" {
			t.Error(s.NegotiatedProtocol, err)
		}
		if _, err := handshake(&tls.Config{}); err != nil {
			t.Error(err)
		}
		if _, err := handshake(&tls.Config{NextProtos: []string{"h2"}}); err == nil {
			t.Error("h2 was accepted")
		}
	})
	t.Run("resumes sessions", func(t *testing.T) {
		cache := tls.NewLRUClientSessionCache(4)
		for range 2 {
			c := dialTLS(t, h.TLSAddr(), &tls.Config{RootCAs: h.roots, ServerName: "localhost", ClientSessionCache: cache}, 4)
			c.open("device") // the ticket comes before the CONNACK
			if c.Conn.(*tls.Conn).ConnectionState().DidResume {
				return
			}
			_ = c.Close()
		}
		t.Error("the second handshake was a full one")
	})
}

func TestClientCertificates(t *testing.T) {
	_, roots := serverTLS(t)
	config, err := broker.NewTLSConfig(testCA.cert, testCA.key, testCA.ca, nil)
	if err != nil {
		t.Fatal(err)
	}
	if config.ClientCAs == nil {
		t.Error("the device CA is not in ClientCAs")
	}
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "device"}, NotAfter: time.Now().Add(time.Hour)}
	der, err := x509.CreateCertificate(rand.Reader, template, template, &key.PublicKey, key)
	if err != nil {
		t.Fatal(err)
	}
	h := start(t, func(s *setup) { s.TLS = config })
	for name, certs := range map[string][]tls.Certificate{"device": {{Certificate: [][]byte{der}, PrivateKey: key}}, "": nil} {
		c := dialTLS(t, h.TLSAddr(), &tls.Config{RootCAs: roots, ServerName: "localhost", Certificates: certs}, 4).open("x" + name)
		cl, _ := h.Server().Clients.Get("x" + name)
		conn, _ := broker.ConnOf(cl)
		got := ""
		if peer := conn.PeerCertificates(); len(peer) > 0 {
			got = peer[0].Subject.CommonName
		}
		if got != name || !conn.TLS() || conn.WebSocket() {
			t.Errorf("certificate of %q, want %q", got, name)
		}
		_ = c.Close()
	}
}

func TestDevCA(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "data")
	certFile, keyFile, caFile, err := broker.DevCA(dir, "devices.example.com", "192.0.2.1")
	if err != nil {
		t.Fatal(err)
	}
	read := func(file string) string {
		data, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		return string(data)
	}
	leaf := func() *x509.Certificate {
		pair, err := tls.LoadX509KeyPair(certFile, keyFile)
		if err != nil {
			t.Fatal(err)
		}
		return pair.Leaf
	}
	first, ca := read(certFile), read(caFile)
	t.Run("is trusted for this host and the names that were asked for", func(t *testing.T) {
		name, err := os.Hostname()
		if err != nil {
			t.Fatal(err)
		}
		for _, host := range []string{"localhost", "127.0.0.1", "::1", name, "devices.example.com", "192.0.2.1"} {
			if _, err := leaf().Verify(x509.VerifyOptions{Roots: pool(t, caFile), DNSName: host}); err != nil {
				t.Errorf("%s: %v", host, err)
			}
		}
	})
	t.Run("keeps its keys to itself and leaves nothing else behind", func(t *testing.T) {
		files, err := os.ReadDir(dir)
		if err != nil || len(files) != 4 {
			t.Errorf("%v %v", files, err)
		}
		for _, f := range files {
			info, err := f.Info()
			if err != nil {
				t.Fatal(err)
			}
			if strings.HasSuffix(f.Name(), "-key.pem") && info.Mode().Perm() != 0o600 {
				t.Errorf("%s: %v", f.Name(), info.Mode())
			}
		}
	})
	t.Run("is the same the next time", func(t *testing.T) {
		if _, _, _, err := broker.DevCA(dir, "devices.example.com"); err != nil {
			t.Fatal(err)
		}
		if read(certFile) != first || read(caFile) != ca {
			t.Error("made anew without need")
		}
	})
	t.Run("issues a leaf again for another name and before it ends, from the same CA", func(t *testing.T) {
		if _, _, _, err := broker.DevCA(dir, "other.example.com"); err != nil {
			t.Fatal(err)
		}
		if leaf().VerifyHostname("other.example.com") != nil || read(caFile) != ca {
			t.Error("not issued again, or from another CA")
		}
		soon := leaf().NotAfter.Add(-20 * 24 * time.Hour)
		if err := broker.DevCAAt(dir, soon, "localhost"); err != nil {
			t.Fatal(err)
		}
		if !leaf().NotAfter.After(soon.Add(300*24*time.Hour)) || read(caFile) != ca {
			t.Errorf("ends %v", leaf().NotAfter)
		}
	})
	t.Run("repairs a broken leaf", func(t *testing.T) {
		if err := os.WriteFile(keyFile, []byte("broken"), 0o600); err != nil {
			t.Fatal(err)
		}
		if _, _, _, err := broker.DevCA(dir); err != nil {
			t.Fatal(err)
		}
		_ = leaf()
	})
	t.Run("never replaces a CA whose key is lost", func(t *testing.T) {
		if err := os.Remove(filepath.Join(dir, "ca-key.pem")); err != nil {
			t.Fatal(err)
		}
		if _, _, _, err := broker.DevCA(dir); err == nil || read(caFile) != ca {
			t.Error("replaced")
		}
	})
}
