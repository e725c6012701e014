package e2e_test

import (
	"bufio"
	"bytes"
	"compress/gzip"
	"context"
	"crypto/ecdsa"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"math/big"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/opticworks/devicecloud/firmware-sim/mqttwire"
)

// slowBodyLimit is how long a request with its body may take at most.
const slowBodyLimit = 60 * time.Second

func TestHostileHTTPClients(t *testing.T) {
	c := Start(t, Options{Process: true, Shipped: true, Env: map[string]string{"LOG_LEVEL": "info"}})
	admin := c.AdminToken()
	w := c.watch(t, admin)
	t.Run("bodies that are no good are refused, and none of them costs memory", func(t *testing.T) { badBodies(t, c, admin) })
	t.Run("500 clients that send a byte a second hold nobody up", func(t *testing.T) { slowRequests(t, c, admin) })
	t.Run("a public listener shows no metrics, no profiles and no $SYS", func(t *testing.T) { hiddenFromThePublic(t, c, admin) })
	w.done()
	if !c.alive(t) {
		t.Error("the process died")
	}
}

// TestAGzipBombCostsNothing sends bodies of 1 MiB that unpack to 1 GiB, also where
// nobody has signed in.
func TestAGzipBombCostsNothing(t *testing.T) {
	c := Start(t, Options{Process: true, Shipped: true}) // the race detector has a memory of its own
	admin := c.AdminToken()
	var member bytes.Buffer
	zip := gzip.NewWriter(&member)
	if _, err := zip.Write(make([]byte, 16<<20)); err != nil {
		t.Fatal(err)
	}
	if err := zip.Close(); err != nil {
		t.Fatal(err)
	}
	bomb := bytes.Repeat(member.Bytes(), 64) // members of one file
	send := func(path, encoding string) (int, error) {
		req, err := http.NewRequest(http.MethodPost, c.API()+path, bytes.NewReader(bomb))
		if err != nil {
			return 0, err
		}
		kind := "application/json"
		if strings.HasSuffix(path, "/import") {
			kind = "text/csv"
		}
		req.Header.Set("Content-Type", kind)
		req.Header.Set("Content-Encoding", encoding)
		req.Header.Set("Authorization", "Bearer "+admin)
		res, err := c.client.Do(req)
		if err != nil {
			return 0, err
		}
		_, _ = io.Copy(io.Discard, res.Body) // the status is enough
		return res.StatusCode, res.Body.Close()
	}
	paths := []string{"/api/auth/app-token", "/admin/auth/login", "/admin/enroll", "/admin/devices/import", "/admin/orders"}
	for _, path := range paths { // what a first request takes is not the bomb's
		c.Do(http.MethodPost, path, admin, map[string]string{}, nil)
	}
	before := c.memory(t, "VmRSS")
	var answered atomic.Int64 // the server may close before it has read all of a body
	for range 3 {
		var group sync.WaitGroup
		for _, path := range paths {
			for _, encoding := range []string{"gzip", "deflate", "br"} {
				group.Go(func() {
					status, err := send(path, encoding)
					if err == nil {
						answered.Add(1)
					}
					if err == nil && status != http.StatusUnsupportedMediaType {
						t.Errorf("%s in %s is answered %d", path, encoding, status)
					}
				})
			}
		}
		group.Wait()
	}
	if status, err := send("/admin/enroll", ""); err == nil && status != http.StatusRequestEntityTooLarge {
		t.Errorf("without its encoding it is answered %d", status)
	}
	if answered.Load() == 0 {
		t.Error("none of them is answered")
	}
	if grown := c.memory(t, "VmRSS") - before; grown > 8<<20 {
		t.Errorf("the memory grew by %d KB", grown>>10)
	}
}

func badBodies(t *testing.T, c *Cloud, admin string) {
	before := c.memory(t, "VmRSS")
	var bomb bytes.Buffer
	zip := gzip.NewWriter(&bomb)
	for range 64 {
		if _, err := zip.Write(make([]byte, 1<<20)); err != nil {
			t.Fatal(err)
		}
	}
	if err := zip.Close(); err != nil {
		t.Fatal(err)
	}
	for _, tc := range []struct {
		name, path, kind, encoding string
		body                       io.Reader
		want                       int
	}{
		{"a gzip bomb", "/admin/enroll", "application/json", "gzip", &bomb, http.StatusUnsupportedMediaType},
		{"100 MB of JSON", "/admin/enroll", "application/json", "", zeros(100 << 20), http.StatusRequestEntityTooLarge},
		{"100 MB of CSV", "/admin/devices/import", "text/csv", "", zeros(100 << 20), http.StatusRequestEntityTooLarge},
		{"20 KB at the login", "/admin/auth/login", "application/json", "", zeros(20 << 10), http.StatusRequestEntityTooLarge},
		{"JSON of 30,000 levels", "/admin/enroll", "application/json", "", strings.NewReader(strings.Repeat(`{"a":`, 10000) + "1" + strings.Repeat("}", 10000)), http.StatusBadRequest},
		{"a wrong type", "/admin/enroll", "application/json", "", strings.NewReader(`{"mac_address":7}`), http.StatusBadRequest},
		{"no JSON", "/admin/enroll", "application/json", "", strings.NewReader(`{"mac_address":`), http.StatusBadRequest},
		{"an array", "/admin/enroll", "application/json", "", strings.NewReader(`[]`), http.StatusBadRequest},
		{"broken UTF-8", "/admin/enroll", "application/json", "", strings.NewReader("{\"mac_address\":\"\xff\"}"), http.StatusBadRequest},
		{"a form", "/admin/enroll", "application/x-www-form-urlencoded", "", strings.NewReader("a=b"), http.StatusUnsupportedMediaType},
	} {
		req, err := http.NewRequest(http.MethodPost, c.API()+tc.path, tc.body)
		if err != nil {
			t.Fatal(err)
		}
		req.Header.Set("Content-Type", tc.kind)
		req.Header.Set("Authorization", "Bearer "+admin)
		if tc.encoding != "" {
			req.Header.Set("Content-Encoding", tc.encoding)
		}
		res, err := c.client.Do(req)
		if err != nil {
			// The server may close before it has read 100 MB.
			if tc.want != http.StatusRequestEntityTooLarge {
				t.Errorf("%s: %v", tc.name, err)
			}
			continue
		}
		text, _ := io.ReadAll(res.Body)
		_ = res.Body.Close()
		if res.StatusCode != tc.want || !bytes.Contains(text, []byte(`"error":`)) || !bytes.Contains(text, []byte(`"request_id":`)) {
			t.Errorf("%s is answered %d %.200s, want %d", tc.name, res.StatusCode, text, tc.want)
		}
	}
	if grown := c.memory(t, "VmRSS") - before; grown > 64<<20 {
		t.Errorf("the memory grew by %d MB", grown>>20)
	}
}

func slowRequests(t *testing.T, c *Cloud, admin string) {
	var conns []net.Conn
	defer func() {
		for _, conn := range conns {
			_ = conn.Close()
		}
	}()
	opened := time.Now()
	for i := range 500 {
		conn, err := net.Dial("tcp", c.address.HTTP)
		if err != nil {
			t.Fatal(err)
		}
		conns = append(conns, conn)
		if i%2 == 0 { // half of them in the header, half in the body
			_, err = io.WriteString(conn, "POST /admin/enroll HTTP/1.1\r\nHost: x\r\nX-Slow: ")
		} else {
			_, err = fmt.Fprintf(conn, "POST /admin/enroll HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer %s\r\nContent-Type: application/json\r\nContent-Length: 1000\r\n\r\n{", admin)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	stop := make(chan struct{})
	var group sync.WaitGroup
	group.Go(func() {
		tick := time.NewTicker(time.Second)
		defer tick.Stop()
		for {
			select {
			case <-stop:
				return
			case <-tick.C:
			}
			for _, conn := range conns {
				_, _ = io.WriteString(conn, "x") // closed ones do not matter
			}
		}
	})
	var times durations
	for range 50 {
		began := time.Now()
		if status := c.Do(http.MethodGet, "/admin/devices", admin, nil, nil); status != http.StatusOK {
			t.Fatalf("a good request is answered %d", status)
		}
		times = append(times, time.Since(began))
	}
	if p99 := times.percentile(.99); p99 > stretch*100*time.Millisecond {
		t.Errorf("p99 of a good request is %v", p99)
	}
	limit, which := 6*time.Second, 2 // those in the header; soak waits for all
	if scale(0, 1) == 1 {
		limit, which = slowBodyLimit+time.Second, 1
	}
	open := 0
	for i := 0; i < len(conns); i += which {
		_ = conns[i].SetReadDeadline(opened.Add(limit + stretch*time.Second))
		if _, err := io.Copy(io.Discard, conns[i]); errors.Is(err, os.ErrDeadlineExceeded) {
			open++
		}
	}
	if open > 0 {
		t.Errorf("%d slow requests are still open after %v", open, time.Since(opened))
	}
	close(stop)
	group.Wait()
}

func hiddenFromThePublic(t *testing.T, c *Cloud, admin string) {
	for _, path := range []string{"/metrics", "/debug/pprof/", "/debug/pprof/heap", "/debug/vars", "/debug/requests"} {
		if status := c.Do(http.MethodGet, path, admin, nil, nil); status != http.StatusNotFound {
			t.Errorf("%s answers %d", path, status)
		}
	}
	res, err := http.Get("http://" + c.address.Metrics + "/debug/pprof/")
	if err != nil {
		t.Fatal(err)
	}
	_ = res.Body.Close()
	if res.StatusCode != http.StatusNotFound {
		t.Errorf("/debug/pprof/ beside /metrics answers %d", res.StatusCode)
	}
	d := c.EnrollAs(admin)
	user := c.owned(t, admin, "nosy@example.com", d)
	app, device := c.open(t, personHello(user, "app", mqttwire.V5)), c.open(t, deviceHello(d, mqttwire.V5))
	for _, filter := range []string{"$SYS/#", "$SYS/broker/uptime", "$share/g/$SYS/#", "$share/g/#"} {
		if _, err := app.Subscribe(mqttwire.Filter{Topic: filter}); refusalCode(err) == 0 {
			t.Errorf("a person's %s is answered %v", filter, err)
		}
		if _, err := device.Subscribe(mqttwire.Filter{Topic: filter}); refusalCode(err) == 0 {
			t.Errorf("a device's %s is answered %v", filter, err)
		}
	}
}

// zeros is n bytes of spaces.
func zeros(n int64) io.Reader { return io.LimitReader(spaces{}, n) }

type spaces struct{}

func (spaces) Read(p []byte) (int, error) {
	for i := range p {
		p[i] = ' '
	}
	return len(p), nil
}

// serverPair writes a server certificate for localhost into two files.
func serverPair(t *testing.T, ca *authority, serial int64, certFile, keyFile string) {
	t.Helper()
	key := newKey(t)
	der, err := x509.CreateCertificate(rand.Reader, &x509.Certificate{
		SerialNumber: big.NewInt(serial), Subject: pkix.Name{CommonName: "localhost"}, DNSNames: []string{"localhost"},
		KeyUsage: x509.KeyUsageDigitalSignature, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
	}, ca.cert, key.Public(), ca.key)
	if err != nil {
		t.Fatal(err)
	}
	writeKey(t, key, keyFile)
	writePEM(t, "CERTIFICATE", der, certFile)
}

func writeKey(t *testing.T, key *ecdsa.PrivateKey, file string) {
	t.Helper()
	der, err := x509.MarshalECPrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	writePEM(t, "EC PRIVATE KEY", der, file)
}

// writePEM replaces a file in one step, as the tools that renew certificates do.
func writePEM(t *testing.T, kind string, der []byte, file string) {
	t.Helper()
	text := pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: der})
	if err := os.WriteFile(file+".new", text, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Rename(file+".new", file); err != nil {
		t.Fatal(err)
	}
}

func TestTLS(t *testing.T) {
	t.Parallel()
	ca := newAuthority(t, "server CA")
	dir := t.TempDir()
	certFile, keyFile := filepath.Join(dir, "server.pem"), filepath.Join(dir, "server-key.pem")
	serverPair(t, ca, 1001, certFile, keyFile)
	c := Start(t, Options{Env: map[string]string{"TLS_CERT_FILE": certFile, "TLS_KEY_FILE": keyFile, "HTTPS_ADDR": "127.0.0.1:0"}})
	roots := x509.NewCertPool()
	roots.AddCert(ca.cert)
	config := &tls.Config{RootCAs: roots, ServerName: "localhost"}

	t.Run("only 1.2 and 1.3 are spoken", func(t *testing.T) {
		for _, address := range []string{c.MQTTS(), c.address.HTTPS} {
			for version, allowed := range map[uint16]bool{tls.VersionTLS10: false, tls.VersionTLS11: false, tls.VersionTLS12: true, tls.VersionTLS13: true} {
				only := config.Clone()
				only.MinVersion, only.MaxVersion = version, version
				conn, err := tls.Dial("tcp", address, only)
				if err == nil {
					_ = conn.Close()
				}
				if (err == nil) != allowed {
					t.Errorf("%s on %s: %v", tls.VersionName(version), address, err)
				}
			}
		}
	})
	t.Run("plain text gets nowhere", func(t *testing.T) {
		conn, err := net.Dial("tcp", c.MQTTS())
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close()
		client := mqttwire.NewClient(conn, mqttwire.V311)
		client.Timeout = stretch * time.Second
		if _, err := client.Connect(deviceHello(c.Enroll(), mqttwire.V311)); err == nil || errors.Is(err, os.ErrDeadlineExceeded) {
			t.Errorf("it is answered %v", err)
		}
	})
	t.Run("the protocol name is mqtt, or none", func(t *testing.T) {
		for name, allowed := range map[string]bool{"mqtt": true, "": true, "h2": false} {
			named := config.Clone()
			if name != "" {
				named.NextProtos = []string{name}
			}
			conn, err := tls.Dial("tcp", c.MQTTS(), named)
			if err == nil {
				_ = conn.Close()
			}
			if (err == nil) != allowed {
				t.Errorf("%q: %v", name, err)
			}
		}
	})
	t.Run("a new certificate is used without dropping anybody", func(t *testing.T) {
		d := c.Enroll()
		client, err := mqttwire.Dial(t.Context(), "mqtts://"+c.MQTTS(), config)
		if err != nil {
			t.Fatal(err)
		}
		defer client.Close()
		if _, err := client.Connect(deviceHello(d, mqttwire.V5)); err != nil {
			t.Fatal(err)
		}
		serverPair(t, ca, 1002, certFile, keyFile)
		Await(t, 15*time.Second, func() bool {
			conn, err := tls.Dial("tcp", c.MQTTS(), config)
			if err != nil {
				t.Fatal(err)
			}
			defer conn.Close()
			return conn.ConnectionState().PeerCertificates[0].SerialNumber.Int64() == 1002
		}, func() string { return "the old certificate is still used" })
		if err := report(client, d, 4); err != nil {
			t.Errorf("a device that was connected: %v", err)
		}
		// A file that is no certificate changes nothing.
		if err := os.WriteFile(certFile, []byte("nothing"), 0o600); err != nil {
			t.Fatal(err)
		}
		Await(t, 15*time.Second, func() bool {
			conn, err := tls.Dial("tcp", c.MQTTS(), config)
			if err != nil {
				t.Fatalf("after a broken file: %v", err)
			}
			_ = conn.Close()
			return reportedIn(c, "cannot be reloaded")
		}, func() string { return "nobody is told of a broken certificate" })
	})
}

func TestPlainTextIsOffOutsideDevMode(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	ca := newAuthority(t, "server CA")
	serverPair(t, ca, 1, filepath.Join(dir, "c.pem"), filepath.Join(dir, "k.pem"))
	token := filepath.Join(dir, "token.pem")
	if out, err := exec.Command("openssl", "genpkey", "-algorithm", "ed25519", "-out", token).CombinedOutput(); err != nil {
		skipWithout(t, "openssl "+string(out), false)
	}
	base := map[string]string{
		"DATA_DIR": filepath.Join(dir, "data"), "HTTP_ADDR": "127.0.0.1:0", "METRICS_ADDR": "127.0.0.1:0", "MQTT_TLS_ADDR": "127.0.0.1:0",
		"TLS_CERT_FILE": filepath.Join(dir, "c.pem"), "TLS_KEY_FILE": filepath.Join(dir, "k.pem"), "TOKEN_SIGNING_KEY_FILE": token, "LOG_FORMAT": "json",
	}
	serve := func(changes map[string]string) (ready string, out string, code int) {
		ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
		defer cancel()
		cmd := exec.CommandContext(ctx, Shipped(t, "devicecloud"), "serve")
		env := map[string]string{}
		for _, m := range []map[string]string{base, changes} {
			for k, v := range m {
				env[k] = v
			}
		}
		cmd.Env = environ(env)
		stderr, err := cmd.StderrPipe()
		if err != nil {
			t.Fatal(err)
		}
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		var text strings.Builder
		for lines := bufio.NewScanner(stderr); lines.Scan(); {
			text.WriteString(lines.Text() + "\n")
			if strings.Contains(lines.Text(), `"msg":"ready"`) {
				ready = lines.Text()
				_ = cmd.Process.Signal(os.Interrupt)
			}
		}
		_ = cmd.Wait()
		return ready, text.String(), cmd.ProcessState.ExitCode()
	}
	t.Run("no plain MQTT listener unless it is asked for", func(t *testing.T) {
		ready, out, code := serve(nil)
		if !strings.Contains(ready, `"mqtt":""`) || code != 0 {
			t.Errorf("exit code %d:\n%s", code, out)
		}
	})
	for name, changes := range map[string]map[string]string{
		"plain MQTT on every address": {"MQTT_ADDR": "0.0.0.0:0"},
		"plain HTTP on every address": {"HTTP_ADDR": "0.0.0.0:0"},
		"no certificate":              {"TLS_CERT_FILE": "", "TLS_KEY_FILE": ""},
		"no signing key":              {"TOKEN_SIGNING_KEY_FILE": ""},
		"a signing key that is none":  {"TOKEN_SIGNING_KEY_FILE": filepath.Join(dir, "c.pem")},
		"a short encryption key":      {"SECRET_ENCRYPTION_KEY": "c2hvcnQ="},
		"an encryption key of text":   {"SECRET_ENCRYPTION_KEY": "dGhpcyBpcyBhIHNlY3JldCBrZXkgb2YgMzIgYnl0ZXM="},
		"a password of a sample":      {"ADMIN_EMAIL": "a@example.com", "ADMIN_PASSWORD": "your-secret-password-here"},
	} {
		t.Run("it does not start with "+name, func(t *testing.T) {
			if ready, out, code := serve(changes); ready != "" || code == 0 {
				t.Errorf("exit code %d:\n%s", code, out)
			}
		})
	}
}
