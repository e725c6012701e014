package e2e_test

import (
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/opticworks/devicecloud/account"
	"github.com/opticworks/devicecloud/broker"
)

// site is the certificates of a production cloud.
type site struct {
	cert, key string // TLS_CERT_FILE, TLS_KEY_FILE
	roots     *x509.CertPool
}

func newSite(t *testing.T) site {
	t.Helper()
	cert, key, ca, err := broker.DevCA(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	text, err := os.ReadFile(ca)
	if err != nil {
		t.Fatal(err)
	}
	s := site{cert, key, x509.NewCertPool()}
	if !s.roots.AppendCertsFromPEM(text) {
		t.Fatal("no certificate in the CA file")
	}
	return s
}

func (s site) client() *tls.Config {
	return &tls.Config{RootCAs: s.roots, ServerName: "localhost", MinVersion: tls.VersionTLS12}
}

// settings are those of a cloud that runs without --dev.
func (s site) settings(t *testing.T) map[string]string {
	t.Helper()
	_, key, err := account.NewSigningKey()
	if err != nil {
		t.Fatal(err)
	}
	sealing := make([]byte, 32)
	_, _ = rand.Read(sealing)
	keyFile := filepath.Join(t.TempDir(), "token-key.pem")
	if err := os.WriteFile(keyFile, key, 0o600); err != nil {
		t.Fatal(err)
	}
	return map[string]string{
		"TLS_CERT_FILE": s.cert, "TLS_KEY_FILE": s.key, "TOKEN_SIGNING_KEY_FILE": keyFile,
		"HTTPS_ADDR": "127.0.0.1:0", "MQTT_ADDR": "", "LIMIT_CONNECTS_PER_DEVICE": "1/h:3",
		"SECRET_ENCRYPTION_KEY": base64.StdEncoding.EncodeToString(sealing),
	}
}

func TestProduction(t *testing.T) {
	t.Parallel()
	here := newSite(t)
	c := Start(t, Options{Production: true, Env: here.settings(t), TLS: here.client()})
	admin := c.AdminToken()

	t.Run("nobody logs in by the dev provider", func(t *testing.T) {
		c := c.For(t)
		var answer struct{ Error string }
		if status := c.Do(http.MethodPost, "/api/auth/app-token", "", map[string]string{"provider": "dev", "id_token": "someone@example.com"}, &answer); status != http.StatusBadRequest || answer.Error != "invalid_provider" {
			t.Errorf("answered %d %+v", status, answer)
		}
	})
	t.Run("there is no plain MQTT and no development CA", func(t *testing.T) {
		if c.MQTT() != "" {
			t.Errorf("plain MQTT listens on %s", c.MQTT())
		}
		if _, err := os.Stat(filepath.Join(c.DataDir(), "ca-key.pem")); !errors.Is(err, os.ErrNotExist) {
			t.Errorf("a CA in DATA_DIR: %v", err)
		}
	})
	t.Run("the API answers over HTTPS, in TLS 1.2 and above", func(t *testing.T) {
		web := &http.Client{Timeout: 10 * time.Second, Transport: &http.Transport{TLSClientConfig: here.client()}}
		defer web.CloseIdleConnections()
		res, err := web.Get("https://" + c.address.HTTPS + "/readyz")
		if err != nil {
			t.Fatal(err)
		}
		text, err := io.ReadAll(res.Body)
		if err != nil || res.StatusCode != http.StatusOK || !json.Valid(text) {
			t.Errorf("answered %d %s, %v", res.StatusCode, text, err)
		}
		if res.Header.Get("Strict-Transport-Security") == "" {
			t.Error("no Strict-Transport-Security")
		}
		for name, address := range map[string]string{"HTTPS": c.address.HTTPS, "MQTT": c.MQTTS()} {
			old := here.client()
			old.MinVersion, old.MaxVersion = tls.VersionTLS10, tls.VersionTLS11
			if conn, err := tls.Dial("tcp", address, old); err == nil {
				_ = conn.Close()
				t.Errorf("%s speaks TLS 1.1", name)
			}
		}
	})
	t.Run("a device reports, and is held to its limit of connections", func(t *testing.T) {
		c := c.For(t)
		d := c.EnrollAs(admin)
		for i := range 3 {
			client, err := c.Dial(d, nil)
			if err != nil {
				t.Fatalf("connection %d: %v", i+1, err)
			}
			if err := Report(client, d, i); err != nil {
				t.Error(err)
			}
			client.Disconnect(0)
		}
		if _, err := c.Dial(d, nil); err == nil {
			t.Error("a fourth connection within the hour was let in")
		}
		if v := c.Look(d, admin); v.Epoch != 3 || v.UptimeSec == nil || *v.UptimeSec != 2 {
			t.Errorf("the registry has %+v", v)
		}
	})
	t.Run("a certificate is replaced without dropping a connection", func(t *testing.T) {
		c := c.For(t)
		d, next := c.EnrollAs(admin), newSite(t)
		before, err := c.Dial(d, nil)
		if err != nil {
			t.Fatal(err)
		}
		defer before.Disconnect(0)
		replace(t, next.key, here.key)
		replace(t, next.cert, here.cert)
		Await(t, 15*time.Second, func() bool {
			conn, err := tls.Dial("tcp", c.MQTTS(), next.client())
			if err != nil {
				return false
			}
			return conn.Close() == nil
		}, func() string { return "new connections still get the old certificate" })
		if err := Report(before, d, 9); err != nil {
			t.Errorf("the connection of before: %v", err)
		}
	})
}

// replace puts a file in another's place, as a certificate manager does.
func replace(t *testing.T, from, to string) {
	t.Helper()
	text, err := os.ReadFile(from)
	if err != nil {
		t.Fatal(err)
	}
	temp := fmt.Sprintf("%s.%d", to, time.Now().UnixNano())
	if err := os.WriteFile(temp, text, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Rename(temp, to); err != nil {
		t.Fatal(err)
	}
}
