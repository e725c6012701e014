package main

import (
	"bufio"
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"math/big"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/opticworks/devicecloud/firmware-sim/fleet"
	"github.com/opticworks/devicecloud/firmware-sim/mqttwire"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// command runs the whole program and returns its exit code and output.
func command(t *testing.T, env map[string]string, args ...string) (code int, stdout, stderr string) {
	t.Helper()
	var out, errs bytes.Buffer
	p := program{args: args, getenv: func(name string) string { return env[name] }, stdout: &out, stderr: &errs}
	code = p.run(t.Context())
	return code, out.String(), errs.String()
}

func TestUsage(t *testing.T) {
	cases := []struct {
		name string
		args []string
		env  map[string]string
		code int
		text string
	}{
		{"help", []string{"--help"}, nil, 0, "--scenario"},
		{"unknown flag", []string{"--sceanrio", "steady"}, nil, 2, "--sceanrio"},
		{"unknown scenario", []string{"--scenario", "holiday"}, nil, 2, "holiday"},
		{"bad URL", []string{"--url", "http://localhost"}, nil, 2, "mqtt"},
		{"no such CA", []string{"--ca", "/nonexistent.pem"}, nil, 2, "--ca"},
		{"API without administrator", []string{"--api", "http://127.0.0.1:1"}, nil, 2, "ADMIN_EMAIL"},
		{"negative devices", []string{"--devices=-1"}, nil, 2, "-1 devices"},
		{
			"nobody listens at the API",
			[]string{"--api", "http://127.0.0.1:1", "--url", "mqtt://127.0.0.1:1"},
			map[string]string{"ADMIN_EMAIL": "a@example.com", "ADMIN_PASSWORD": "p"},
			1, "enrol",
		},
		{"nobody listens at the broker", []string{"--url", "mqtt://127.0.0.1:1", "--duration", "100ms"}, nil, 1, "connected: 0/25"},
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			code, stdout, stderr := command(t, c.env, c.args...)
			if code != c.code || !strings.Contains(stdout+stderr, c.text) {
				t.Errorf("exit %d, want %d and %q in\n%s%s", code, c.code, c.text, stdout, stderr)
			}
		})
	}
	t.Run("the password may come from a file", func(t *testing.T) {
		path := filepath.Join(t.TempDir(), "password")
		if err := os.WriteFile(path, []byte("from the file\n"), 0o600); err != nil {
			t.Fatal(err)
		}
		got, err := secret(func(name string) string { return map[string]string{"ADMIN_PASSWORD_FILE": path}[name] }, "ADMIN_PASSWORD")
		if err != nil || got != "from the file" {
			t.Errorf("%q, %v", got, err)
		}
	})
}

// The simulator must not share code with the cloud, or an error on both sides would cancel out.
func TestImportsNothingOfTheCloud(t *testing.T) {
	const module = "github.com/opticworks/devicecloud"
	out, err := exec.Command("go", "list", "-deps", "-f", "{{.ImportPath}}", "./...").Output()
	if err != nil {
		t.Fatal(err)
	}
	for _, path := range strings.Fields(string(out)) {
		if path == module || strings.HasPrefix(path, module+"/") && !strings.HasPrefix(path, module+"/firmware-sim") {
			t.Errorf("firmware-sim imports %s", path)
		}
	}
	out, err = exec.Command("go", "list", "-f", `{{join .Imports "\n"}}`, "./mqttwire").Output()
	if err != nil {
		t.Fatal(err)
	}
	for _, path := range strings.Fields(string(out)) {
		if strings.Contains(path, ".") {
			t.Errorf("mqttwire imports %s, which is not the standard library", path)
		}
	}
}

// certificate writes a self-signed server certificate for 127.0.0.1 and its key.
func certificate(t *testing.T, dir string) (certFile, keyFile string) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "test"}, NotAfter: time.Now().Add(time.Hour),
		IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)}, IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign | x509.KeyUsageDigitalSignature,
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, &key.PublicKey, key)
	if err != nil {
		t.Fatal(err)
	}
	rawKey, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	certFile, keyFile = filepath.Join(dir, "cert.pem"), filepath.Join(dir, "key.pem")
	for path, block := range map[string]*pem.Block{certFile: {Type: "CERTIFICATE", Bytes: der}, keyFile: {Type: "PRIVATE KEY", Bytes: rawKey}} {
		if err := os.WriteFile(path, pem.EncodeToMemory(block), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return certFile, keyFile
}

// startBroker runs mosquitto with TLS, somebody else's broker, beside a client that plays the cloud's part of
// provisioning.
func startBroker(t *testing.T) (url, ca string) {
	t.Helper()
	const binary = "/usr/sbin/mosquitto"
	if _, err := os.Stat(binary); err != nil {
		t.Skip("mosquitto is not installed")
	}
	dir := t.TempDir()
	cert, key := certificate(t, dir)
	probe, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	port := probe.Addr().(*net.TCPAddr).Port
	_ = probe.Close()
	config := filepath.Join(dir, "mosquitto.conf")
	// As root mosquitto would become another user, who cannot read the key.
	text := fmt.Sprintf("listener %d 127.0.0.1\nuser root\nallow_anonymous true\ncertfile %s\nkeyfile %s\nlog_dest stderr\n", port, cert, key)
	if err := os.WriteFile(config, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(binary, "-c", config)
	logs, err := cmd.StderrPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	running, drained := make(chan bool, 1), make(chan struct{})
	go func() {
		defer close(drained)
		for lines := bufio.NewScanner(logs); lines.Scan(); {
			if strings.Contains(lines.Text(), "running") {
				running <- true
			}
		}
	}()
	t.Cleanup(func() {
		_ = cmd.Process.Kill()
		<-drained
		_ = cmd.Wait()
	})
	select {
	case <-running:
	case <-drained:
		t.Fatal("mosquitto ended at once")
	case <-time.After(10 * time.Second):
		t.Fatal("mosquitto does not start")
	}
	url = fmt.Sprintf("mqtts://127.0.0.1:%d", port)
	provisioner(t, url, cert)
	return url, cert
}

// provisioner answers every provisioning request until the test ends.
func provisioner(t *testing.T, url, ca string) {
	t.Helper()
	roots, err := fleet.ReadRoots(ca)
	if err != nil {
		t.Fatal(err)
	}
	client, err := mqttwire.Dial(t.Context(), url, &tls.Config{RootCAs: roots})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := client.Connect(mqttwire.Connect{Version: mqttwire.V5, ClientID: "provisioner"}); err != nil {
		t.Fatal(err)
	}
	if _, err := client.Subscribe(mqttwire.Filter{Topic: "opticworks/+/provision", QoS: 1}); err != nil {
		t.Fatal(err)
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		for {
			request, err := client.Next(time.Minute)
			if errors.Is(err, os.ErrDeadlineExceeded) {
				continue
			}
			if err != nil {
				return
			}
			_, err = client.Publish(mqttwire.Message{Topic: request.Topic + "/response", QoS: 1, Payload: []byte(`{"status":"registered"}`)})
			if err != nil {
				return
			}
		}
	}()
	t.Cleanup(func() {
		_ = client.Close()
		<-done
	})
}

func TestAgainstMosquittoOverTLS(t *testing.T) {
	url, ca := startBroker(t)
	common := []string{"--url", url, "--ca", ca, "--devices", "6", "--mqtt", "mixed", "--interval", "100ms", "--backoff-base", "50ms", "--json"}
	report := func(t *testing.T, args ...string) fleet.Report {
		t.Helper()
		code, stdout, stderr := command(t, nil, append(common, args...)...)
		var r fleet.Report
		if err := json.Unmarshal([]byte(stdout), &r); err != nil {
			t.Fatalf("exit %d, %v\n%s%s", code, err, stdout, stderr)
		}
		if code != 0 || !r.Verdict.OK {
			t.Errorf("exit %d, %+v", code, r)
		}
		return r
	}
	t.Run("steady", func(t *testing.T) {
		r := report(t, "--duration", "1500ms", "--telemetry-interval", "200ms", "--state", filepath.Join(t.TempDir(), "fleet.json"))
		if r.Connected != 6 || r.Provisioned != 6 || r.Acked < 30 || len(r.Errors) != 0 {
			t.Errorf("report %+v", r)
		}
	})
	t.Run("storm", func(t *testing.T) {
		if r := report(t, "--scenario", "storm", "--waves", "1"); r.Reconnects < 6 {
			t.Errorf("report %+v", r)
		}
	})
	t.Run("takeover", func(t *testing.T) {
		if r := report(t, "--scenario", "takeover", "--takeovers", "60"); r.Acked == 0 || len(r.Errors) != 0 {
			t.Errorf("report %+v", r)
		}
	})
	t.Run("flaky", func(t *testing.T) {
		if r := report(t, "--scenario", "flaky", "--duration", "1s"); r.Reconnects == 0 {
			t.Errorf("report %+v", r)
		}
	})
	t.Run("an interrupt ends it in order, with the report for people", func(t *testing.T) {
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		var out, errs bytes.Buffer
		args := append([]string{"--auth", "hmac"}, common[:len(common)-1]...)
		p := program{args: args, getenv: func(string) string { return "" }, stdout: &out, stderr: &errs, terminal: true}
		if code := p.run(ctx); code != 0 || !strings.HasSuffix(out.String(), "ok  connected: 6/6 (no --api to compare with)\n") {
			t.Errorf("exit %d\n%s%s", code, out.String(), errs.String())
		}
	})
	t.Run("a certificate of nobody we know is refused", func(t *testing.T) {
		code, stdout, _ := command(t, nil, "--url", url, "--devices", "1", "--duration", "3s")
		if code != 1 || !strings.Contains(stdout, "TLS handshake") {
			t.Errorf("exit %d\n%s", code, stdout)
		}
	})
}
