package e2e_test

import (
	"bytes"
	"context"
	"crypto/rand"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"maps"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/opticworks/devicecloud/cmd/devicecloud/app"
)

const (
	adminEmail    = "staff@example.com"
	adminPassword = "lake-Copper-41-moss"
	topicRoot     = "opticworks"
)

// Options says how a cloud is started. The zero value is dev mode in process on
// free ports, with SQLite in a folder of its own.
type Options struct {
	Process     bool              // the real binary as a process, for kill -9 and exit codes
	Shipped     bool              // that binary as it is shipped, also in a run with the race detector: for time and memory
	Descriptors int               // how many that process may have open; 0: as many as the test
	Env         map[string]string // further settings by name: LIMIT_STATE_PER_DEVICE=...
	Configure   func(*app.Config) // further changes, in process only
	Production  bool              // without --dev, in process only; Env gives certificates and the signing key
	TLS         *tls.Config       // what clients trust then, instead of the development CA
}

// Cloud is a running devicecloud.
type Cloud struct {
	t       *testing.T
	opts    Options
	dir     string
	env     map[string]string // settings of this start
	address app.Addresses
	runner  runner
	log     *logBuffer
	client  *http.Client
	scan    *scanner // of the client
}

// runner is a program that runs: in process or as a process.
type runner interface {
	// stop asks for an orderly end and waits for it; the exit code.
	stop() (int, error)
	// kill ends it at once, without a chance to write anything.
	kill() error
}

// Start starts a cloud and stops it when the test ends.
func Start(t *testing.T, opts Options) *Cloud {
	t.Helper()
	c := &Cloud{t: t, opts: opts, dir: t.TempDir(), log: &logBuffer{}, scan: &scanner{}}
	c.client = &http.Client{Timeout: 30 * time.Second, Transport: c.scan}
	c.env = map[string]string{
		"DATA_DIR": filepath.Join(c.dir, "data"), "ADMIN_EMAIL": adminEmail, "ADMIN_PASSWORD": adminPassword,
		"HTTP_ADDR": "127.0.0.1:0", "METRICS_ADDR": "127.0.0.1:0", "MQTT_TLS_ADDR": "127.0.0.1:0", "MQTT_ADDR": "127.0.0.1:0",
		"LOG_LEVEL": "debug", "LOG_FORMAT": "json",
	}
	for name, value := range opts.Env {
		c.env[name] = value
	}
	c.start()
	t.Cleanup(func() {
		if c.runner != nil {
			c.Stop()
		}
		if t.Failed() {
			t.Logf("the end of the cloud's log:\n%s", c.log.tail(100))
		}
		c.client.CloseIdleConnections()
		for _, where := range c.scan.found() {
			t.Errorf("%s answered the number of a SIM card in full", where)
		}
		if number := inFull.FindString(c.log.String()); number != "" {
			t.Errorf("the log has the number of a SIM card in full: %s", number)
		}
	})
	return c
}

// For is the same cloud for a sub-test: what fails, fails the sub-test. Starting and
// stopping stay with the test that started it.
func (c *Cloud) For(t *testing.T) *Cloud {
	sub := *c
	sub.t = t
	return &sub
}

func (c *Cloud) start() {
	c.t.Helper()
	var err error
	if c.opts.Process {
		c.runner, c.address, err = startProcess(c.t, c.opts, c.env, c.log)
	} else {
		c.runner, c.address, err = startInProcess(c.t, c.opts, c.env, c.log)
	}
	if err != nil {
		c.t.Fatalf("the cloud did not start: %v\n%s", err, c.log.tail(40))
	}
}

// Stop ends the cloud as SIGTERM does and returns its exit code, 0 in process.
func (c *Cloud) Stop() int {
	c.t.Helper()
	code, err := c.runner.stop()
	if err != nil {
		c.t.Errorf("the cloud did not stop: %v", err)
	}
	c.runner = nil
	return code
}

// Kill ends the process as kill -9 does. Only with Options.Process.
func (c *Cloud) Kill() {
	c.t.Helper()
	if err := c.runner.kill(); err != nil {
		c.t.Fatal(err)
	}
	c.runner = nil
}

// Restart starts the cloud again on the same data and the same ports, after
// stopping it if it runs.
func (c *Cloud) Restart() {
	c.t.Helper()
	if c.runner != nil {
		c.Stop()
	}
	for name, address := range map[string]string{
		"HTTP_ADDR": c.address.HTTP, "METRICS_ADDR": c.address.Metrics, "MQTT_TLS_ADDR": c.address.MQTTTLS, "MQTT_ADDR": c.address.MQTT,
	} {
		if address != "" {
			c.env[name] = address
		}
	}
	c.client.CloseIdleConnections()
	c.start()
}

// API is the base URL of the HTTP API.
func (c *Cloud) API() string { return "http://" + c.address.HTTP }

// MQTT is host:port of plain MQTT; MQTTS of MQTT over TLS.
func (c *Cloud) MQTT() string { return c.address.MQTT }

// MQTTS is host:port of MQTT over TLS.
func (c *Cloud) MQTTS() string { return c.address.MQTTTLS }

// WebSocket is the URL of MQTT over WebSocket.
func (c *Cloud) WebSocket() string { return "ws://" + c.address.HTTP + "/mqtt" }

// DataDir is DATA_DIR.
func (c *Cloud) DataDir() string { return c.env["DATA_DIR"] }

// CA is the file of the development CA.
func (c *Cloud) CA() string { return filepath.Join(c.DataDir(), "ca.pem") }

// TLS trusts the development CA, or is Options.TLS.
func (c *Cloud) TLS() *tls.Config {
	c.t.Helper()
	if c.opts.TLS != nil {
		return c.opts.TLS.Clone()
	}
	text, err := os.ReadFile(c.CA())
	if err != nil {
		c.t.Fatal(err)
	}
	pool := x509.NewCertPool()
	if !pool.AppendCertsFromPEM(text) {
		c.t.Fatal("the CA file holds no certificate")
	}
	return &tls.Config{RootCAs: pool, ServerName: "localhost", MinVersion: tls.VersionTLS12}
}

// Log is everything that the cloud has logged so far.
func (c *Cloud) Log() string { return c.log.String() }

// Do sends a JSON request and decodes the answer into `into` unless that is nil; it
// returns the status. body may be nil.
func (c *Cloud) Do(method, path, token string, body, into any) int {
	c.t.Helper()
	status, text, err := c.request(method, path, token, body)
	if err != nil {
		c.t.Fatalf("%s %s: %v", method, path, err)
	}
	if into != nil {
		if err := json.Unmarshal(text, into); err != nil {
			c.t.Fatalf("%s %s answered %d %s: %v", method, path, status, text, err)
		}
	}
	return status
}

func (c *Cloud) request(method, path, token string, body any) (int, []byte, error) {
	var reader io.Reader
	if body != nil {
		text, err := json.Marshal(body)
		if err != nil {
			return 0, nil, err
		}
		reader = bytes.NewReader(text)
	}
	req, err := http.NewRequest(method, c.API()+path, reader)
	if err != nil {
		return 0, nil, err
	}
	if body != nil {
		req.Header.Set("Content-Type", "application/json")
	}
	if token != "" {
		req.Header.Set("Authorization", "Bearer "+token)
	}
	res, err := c.client.Do(req)
	if err != nil {
		return 0, nil, err
	}
	defer res.Body.Close()
	text, err := io.ReadAll(res.Body)
	return res.StatusCode, text, err
}

// Get reads a path that must answer 200.
func (c *Cloud) Get(path, token string, into any) {
	c.t.Helper()
	if status := c.Do(http.MethodGet, path, token, nil, into); status != http.StatusOK {
		c.t.Fatalf("GET %s answered %d: %v", path, status, into)
	}
}

// Post sends a body that must be taken.
func (c *Cloud) Post(path, token string, body, into any) {
	c.t.Helper()
	if status := c.Do(http.MethodPost, path, token, body, into); status/100 != 2 {
		c.t.Fatalf("POST %s answered %d: %v", path, status, into)
	}
}

// AdminToken logs the administrator in.
func (c *Cloud) AdminToken() string {
	c.t.Helper()
	var answer struct {
		Token string `json:"access_token"`
	}
	c.Post("/admin/auth/login", "", map[string]string{"email": adminEmail, "password": adminPassword}, &answer)
	return answer.Token
}

// installID is the app's installation that people log in from.
const installID = "7c1f9a52-e2e-install"

// User is a person who is logged in.
type User struct{ ID, Email, Token, Refresh string }

// UserToken logs a person in by the dev provider.
func (c *Cloud) UserToken(email string) User {
	c.t.Helper()
	var answer struct {
		Token   string `json:"access_token"`
		Refresh string `json:"refresh_token"`
		User    struct {
			ID string `json:"user_id"`
		} `json:"user"`
	}
	c.Post("/api/auth/app-token", "", map[string]any{
		"provider": "dev", "id_token": email, "device": map[string]string{"install_id": installID, "platform": "ios", "name": "Phone"},
	}, &answer)
	return User{answer.User.ID, email, answer.Token, answer.Refresh}
}

// Device is a device that the factory made.
type Device struct{ ID, MAC, Secret string }

// Topic is a topic of the device: Topic("state").
func (d Device) Topic(suffix string) string { return topicRoot + "/" + d.ID + "/" + suffix }

// NewDevice makes a device's identity, enrolled nowhere.
func NewDevice() Device {
	var mac [6]byte
	_, _ = rand.Read(mac[:])
	mac[0] = mac[0]&^1 | 2 // locally administered
	d := Device{Secret: rand.Text()}
	var pairs []string
	for _, b := range mac {
		pairs = append(pairs, fmt.Sprintf("%02X", b))
	}
	d.MAC = strings.Join(pairs, ":")
	sum := sha256.Sum256([]byte(hex.EncodeToString(mac[:]) + "opticworks-rs1"))
	d.ID = hex.EncodeToString(sum[:16])
	return d
}

// Enroll makes a device and enrols it.
func (c *Cloud) Enroll() Device {
	c.t.Helper()
	return c.EnrollAs(c.AdminToken())
}

// EnrollAs enrols with a token that the test has already.
func (c *Cloud) EnrollAs(adminToken string) Device {
	c.t.Helper()
	d := NewDevice()
	hash := sha256.Sum256([]byte(d.Secret))
	var answer struct {
		ID string `json:"device_id"`
	}
	c.Post("/admin/enroll", adminToken, map[string]string{"mac_address": d.MAC, "device_secret_hash": hex.EncodeToString(hash[:])}, &answer)
	if answer.ID != d.ID {
		c.t.Fatalf("the cloud derived %s from %s, the device %s", answer.ID, d.MAC, d.ID)
	}
	return d
}

// Sell records that a device was sold and shipped to an e-mail address.
func (c *Cloud) Sell(d Device, email string) {
	c.t.Helper()
	c.Post("/admin/orders", c.AdminToken(), map[string]string{
		"order_id": "order-" + d.ID[:8], "user_email": email, "device_mac": d.MAC, "shipped_at": "2026-01-02T03:04:05Z",
	}, nil)
}

// DeviceView is a device as the API shows it to staff.
type DeviceView struct {
	ID           string     `json:"device_id"`
	MAC          string     `json:"mac_address"`
	Online       bool       `json:"online"`
	Status       string     `json:"status"`
	StatusReason string     `json:"status_reason"`
	Firmware     string     `json:"firmware_version"`
	UptimeSec    *int64     `json:"uptime_sec"`
	WifiRSSI     *int64     `json:"wifi_rssi"`
	Provisioned  *time.Time `json:"provisioned_at"`
	Epoch        int64      `json:"epoch"`
	Owner        *struct {
		UserID string `json:"user_id"`
		Email  string `json:"email"`
	} `json:"owner"`
}

// Look reads a device as an administrator.
func (c *Cloud) Look(d Device, adminToken string) DeviceView {
	c.t.Helper()
	var v DeviceView
	c.Get("/admin/devices/"+d.ID, adminToken, &v)
	return v
}

// AwaitDevice waits until the device looks as it should, 15 seconds at most.
func (c *Cloud) AwaitDevice(d Device, adminToken, what string, ok func(DeviceView) bool) DeviceView {
	c.t.Helper()
	var v DeviceView
	Await(c.t, 15*time.Second, func() bool {
		v = c.Look(d, adminToken)
		return ok(v)
	}, func() string { return fmt.Sprintf("%s; it is %+v", what, v) })
	return v
}

// Metric reads one metric without labels, or with the labels spelled as Prometheus
// does: registry_api_requests_total{code="200",...}. Absent is 0.
func (c *Cloud) Metric(name string) float64 {
	c.t.Helper()
	res, err := c.client.Get("http://" + c.address.Metrics + "/metrics")
	if err != nil {
		c.t.Fatal(err)
	}
	defer res.Body.Close()
	text, err := io.ReadAll(res.Body)
	if err != nil {
		c.t.Fatal(err)
	}
	for line := range strings.Lines(string(text)) {
		if value, ok := strings.CutPrefix(line, name+" "); ok {
			f, err := strconv.ParseFloat(strings.TrimSpace(value), 64)
			if err != nil {
				c.t.Fatal(err)
			}
			return f
		}
	}
	return 0
}

// Await waits for a condition, and fails the test with what() when it does not come.
func Await(t *testing.T, limit time.Duration, ok func() bool, what func() string) {
	t.Helper()
	deadline := time.Now().Add(limit)
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for !ok() {
		if time.Now().After(deadline) {
			t.Fatalf("after %v: %s", limit, what())
		}
		<-tick.C
	}
}

// skipWithout skips a test whose tool is missing; with CI=true that is a failure.
func skipWithout(t *testing.T, what string, have bool) {
	t.Helper()
	switch {
	case have:
	case os.Getenv("CI") == "true":
		t.Fatalf("%s is missing, and CI must run every test", what)
	default:
		t.Skipf("%s is missing; scripts/test-deps.sh installs it", what)
	}
}

// logBuffer keeps what a cloud logs.
type logBuffer struct {
	mu   sync.Mutex
	text bytes.Buffer
}

func (b *logBuffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.text.Write(p)
}

func (b *logBuffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.text.String()
}

func (b *logBuffer) tail(lines int) string {
	var all []string
	for line := range strings.Lines(b.String()) {
		if !strings.Contains(line, `"msg":"http request"`) { // a test that waits asks often
			all = append(all, line)
		}
	}
	return strings.Join(all[max(0, len(all)-lines):], "")
}

// inProcess runs the program inside the test.
type inProcess struct {
	app    *app.App
	cancel context.CancelFunc
	ended  chan error
}

func startInProcess(t *testing.T, opts Options, env map[string]string, log io.Writer) (runner, app.Addresses, error) {
	t.Helper()
	config, err := app.FromEnvironment(!opts.Production, func(name string) (string, bool) {
		value, ok := env[name]
		return value, ok
	}, slices.Collect(maps.Keys(env))...)
	if err != nil {
		return nil, app.Addresses{}, err
	}
	if opts.Configure != nil {
		opts.Configure(&config)
	}
	if err := config.Prepare(); err != nil {
		return nil, app.Addresses{}, err
	}
	a, err := app.New(t.Context(), config, slog.New(slog.NewJSONHandler(log, &slog.HandlerOptions{Level: slog.LevelDebug})))
	if err != nil {
		return nil, app.Addresses{}, err
	}
	if _, err := a.FirstAdmin(t.Context()); err != nil {
		return nil, app.Addresses{}, err
	}
	ctx, cancel := context.WithCancel(context.Background())
	p := &inProcess{app: a, cancel: cancel, ended: make(chan error, 1)}
	go func() { p.ended <- a.Run(ctx) }()
	select {
	case <-a.Ready():
		return p, a.Addresses(), nil
	case err := <-p.ended:
		cancel()
		return nil, app.Addresses{}, fmt.Errorf("%w (%v)", err, a.Close())
	}
}

func (p *inProcess) stop() (int, error) {
	p.cancel()
	select {
	case err := <-p.ended:
		if closeErr := p.app.Close(); err == nil {
			err = closeErr
		}
		return 0, err
	case <-time.After(40 * time.Second):
		return 1, fmt.Errorf("it still runs after 40 s")
	}
}

func (p *inProcess) kill() error {
	return fmt.Errorf("only a process can be killed: set Options.Process")
}
