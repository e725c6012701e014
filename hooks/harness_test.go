package hooks_test

import (
	"bytes"
	"context"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	mqtt "github.com/mochi-mqtt/server/v2"
	"github.com/prometheus/client_golang/prometheus"

	"github.com/opticworks/devicecloud/account"
	"github.com/opticworks/devicecloud/broker"
	"github.com/opticworks/devicecloud/firmware-sim/mqttwire"
	"github.com/opticworks/devicecloud/hooks"
	"github.com/opticworks/devicecloud/registry"
	"github.com/opticworks/devicecloud/sqlstore"
	"github.com/opticworks/devicecloud/sqlstore/schematest"
	"github.com/opticworks/devicecloud/topic"
)

const root topic.Root = "opticworks"

var admin = registry.Actor{Kind: registry.ActorAdmin, ID: "root", Scopes: []string{registry.ScopeDeviceRead}}

// cloud is the whole way of a packet: broker, hooks, registry, accounts, SQLite.
type cloud struct {
	t       testing.TB
	broker  *broker.Broker
	courier *hooks.Courier
	guard   []mqtt.Hook
	reg     *registry.Registry
	db      *sqlstore.DB
	people  *account.Service
	metrics *prometheus.Registry
	logs    *logBuffer
	caFile  string
	macs    int
	follows atomic.Int64 // watches over sign-ins that were not given back
	stop    func()

	commander registry.Actor // who sends commands; set by the first
}

// watched counts the watches over sign-ins.
type watched struct {
	*account.Service
	open *atomic.Int64
}

func (w watched) Follow(a registry.Actor, ended func()) (stop func()) {
	giveBack := w.Service.Follow(a, ended)
	w.open.Add(1)
	return sync.OnceFunc(func() {
		w.open.Add(-1)
		giveBack()
	})
}

// setup is what a test may change.
type setup struct {
	hooks    hooks.Options
	registry registry.Options
	account  account.Options
	broker   broker.Options
	store    func(registry.Store) registry.Store
	tls      bool
	deviceCA string
	extra    []mqtt.Hook // beside the guard, and behind it
}

type logBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (l *logBuffer) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(p)
}

func (l *logBuffer) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.String()
}

func must[T any](t testing.TB) func(T, error) T {
	return func(v T, err error) T {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
		return v
	}
}

func newCloud(t testing.TB, change ...func(*setup)) *cloud {
	t.Helper()
	c := &cloud{t: t, metrics: prometheus.NewRegistry(), logs: &logBuffer{}}
	log := slog.New(slog.NewTextHandler(c.logs, &slog.HandlerOptions{Level: slog.LevelDebug}))
	ctx := context.Background()
	s := &setup{
		registry: registry.Options{Linger: time.Millisecond, Logger: log},
		account:  account.Options{Dev: true, Hash: account.HashParams{MemoryKiB: 64, Passes: 1, Lanes: 1}, Logger: log},
		broker:   broker.Options{PlainAddr: "127.0.0.1:0", Logger: log, Limits: broker.Limits{DrainRate: -1}},
		hooks:    hooks.Options{Registerer: c.metrics},
		store:    func(s registry.Store) registry.Store { return s },
	}
	for _, f := range change {
		f(s)
	}
	if s.tls {
		cert, key, ca, err := broker.DevCA(t.TempDir(), "localhost", "127.0.0.1")
		if err != nil {
			t.Fatal(err)
		}
		c.caFile = ca
		s.broker.TLS = must[*tls.Config](t)(broker.NewTLSConfig(cert, key, s.deviceCA, log))
		s.broker.TLSAddr = "127.0.0.1:0"
	}
	c.db = must[*sqlstore.DB](t)(sqlstore.Open(ctx, schematest.SQLite(t), sqlstore.Options{Logger: log}))
	c.broker = must[*broker.Broker](t)(broker.New(s.broker))
	c.courier = hooks.NewCourier(c.broker.Server(), root, log)
	c.reg = registry.New(s.store(c.db.Registry()), c.courier, s.registry)
	signing, _, err := account.NewSigningKey()
	if err != nil {
		t.Fatal(err)
	}
	s.account.SigningKey = signing
	c.people = must[*account.Service](t)(account.New(c.db.Accounts(), c.reg, s.account))
	c.guard = hooks.All(c.courier, c.reg, watched{c.people, &c.follows}, s.hooks)
	if err := c.broker.Use(c.guard...); err != nil {
		t.Fatal(err)
	}
	if err := c.broker.Use(s.extra...); err != nil {
		t.Fatal(err)
	}
	if err := c.reg.Boot(ctx); err != nil {
		t.Fatal(err)
	}
	if err := c.broker.Start(); err != nil {
		t.Fatal(err)
	}
	c.stop = sync.OnceFunc(func() {
		ctx, cancel := context.WithTimeout(ctx, 20*time.Second)
		defer cancel()
		if err := c.broker.Shutdown(ctx); err != nil {
			t.Errorf("shutdown: %v", err)
		}
		if n := hooks.Leftovers(c.guard); n != "" {
			t.Errorf("left behind after the shutdown: %s", n)
		}
		if n := c.follows.Load(); n != 0 {
			t.Errorf("%d sign-ins are still watched after the shutdown", n)
		}
		c.reg.Close()
		if err := c.db.Close(); err != nil {
			t.Error(err)
		}
		if t.Failed() && os.Getenv("SHOW_LOGS") != "" {
			t.Log(c.logs.String())
		}
	})
	t.Cleanup(c.stop)
	return c
}

// thing is an enrolled device.
type thing struct {
	id, mac, secret string
}

func (d thing) topic(suffix string) string { return string(root) + "/" + d.id + "/" + suffix }

// enroll makes a device as the factory does.
func (c *cloud) enroll() thing {
	c.t.Helper()
	c.macs++
	d := thing{mac: fmt.Sprintf("02:00:00:%02X:%02X:%02X", c.macs>>16&255, c.macs>>8&255, c.macs&255)}
	d.secret = "factory-secret-of-" + d.mac
	sum := sha256.Sum256([]byte(d.secret))
	e, err := c.reg.Enroll(context.Background(), admin, registry.EnrollRequest{MACAddress: d.mac, DeviceSecretHash: hex.EncodeToString(sum[:])})
	if err != nil {
		c.t.Fatal(err)
	}
	d.id = e.ID
	return d
}

// person is a user with a token.
type person struct{ id, token string }

// login makes a person, who buys the devices given: they become theirs at once.
func (c *cloud) login(name string, devices ...thing) person {
	c.t.Helper()
	ctx := context.Background()
	tokens, user, err := c.people.Login(ctx, account.LoginRequest{Provider: account.ProviderDev, IDToken: name + "@example.com"}, registry.Actor{})
	if err != nil {
		c.t.Fatal(err)
	}
	for _, d := range devices {
		c.give(user.ID, d, registry.RoleViewer)
	}
	return person{user.ID, tokens.Access.Reveal()}
}

// give writes a row of ownership.
func (c *cloud) give(userID string, d thing, role registry.Role) {
	c.t.Helper()
	err := c.db.Registry().InTx(context.Background(), func(tx registry.Tx) error {
		row, err := tx.Device(context.Background(), d.id)
		if err != nil {
			return err
		}
		_, err = tx.InsertOwnership(context.Background(), registry.Ownership{DeviceNo: row.No, UserID: userID, Role: role, At: time.Now()})
		return err
	})
	if err != nil {
		c.t.Fatal(err)
	}
	c.courier.AccessChanged(userID)
}

// staff logs an administrator in.
func (c *cloud) staff() person {
	c.t.Helper()
	const email, password = "root@example.com", "correct horse battery"
	if _, err := c.people.EnsureAdmin(context.Background(), email, password); err != nil {
		c.t.Fatal(err)
	}
	tokens, a, err := c.people.AdminLogin(context.Background(), account.AdminLogin{Email: email, Password: password}, registry.Actor{IP: "127.0.0.1"})
	if err != nil {
		c.t.Fatal(err)
	}
	return person{a.ID, tokens.Access.Reveal()}
}

// dial opens a connection without a word.
func (c *cloud) dial() *mqttwire.Client {
	c.t.Helper()
	cl, err := mqttwire.Dial(context.Background(), "mqtt://"+c.broker.PlainAddr().String(), nil)
	if err != nil {
		c.t.Fatal(err)
	}
	c.t.Cleanup(func() { _ = cl.Close() })
	return cl
}

func (d thing) hello(v mqttwire.Version) mqttwire.Connect {
	return mqttwire.Connect{Version: v, KeepAlive: 60, ClientID: d.id, Username: d.id, Password: []byte(d.secret)}
}

// connect brings a device online.
func (c *cloud) connect(d thing, v mqttwire.Version) *mqttwire.Client {
	c.t.Helper()
	cl := c.dial()
	if _, err := cl.Connect(d.hello(v)); err != nil {
		c.t.Fatal(err)
	}
	return cl
}

func (p person) hello(prefix, name string, v mqttwire.Version) mqttwire.Connect {
	return mqttwire.Connect{
		Version: v, KeepAlive: 60, ClientID: prefix + p.id + ":" + name, Username: prefix + p.id, Password: []byte(p.token),
	}
}

// app connects a person's app, or with the prefix "a:" an administrator.
func (c *cloud) app(p person, prefix, name string, v mqttwire.Version, props ...mqttwire.Property) *mqttwire.Client {
	c.t.Helper()
	cl := c.dial()
	if _, err := cl.Connect(p.hello(prefix, name, v), props...); err != nil {
		c.t.Fatal(err)
	}
	return cl
}

const goodState = `{"online":true,"firmware_version":"1.2.0","uptime_sec":5,"wifi_rssi":-50}`

// publish sends at QoS 1 and fails the test unless it is acknowledged.
func publish(t testing.TB, cl *mqttwire.Client, name, payload string) {
	t.Helper()
	if _, err := cl.Publish(mqttwire.Message{Topic: name, Payload: []byte(payload), QoS: 1}); err != nil {
		t.Fatal(err)
	}
}

func subscribe(t testing.TB, cl *mqttwire.Client, qos byte, filters ...string) {
	t.Helper()
	list := make([]mqttwire.Filter, len(filters))
	for i, f := range filters {
		list[i] = mqttwire.Filter{Topic: f, QoS: qos}
	}
	if _, err := cl.Subscribe(list...); err != nil {
		t.Fatal(err)
	}
}

// next reads the next message and fails the test when none comes.
func next(t testing.TB, cl *mqttwire.Client) *mqttwire.Packet {
	t.Helper()
	p, err := cl.Next(5 * time.Second)
	if err != nil {
		t.Fatal(err)
	}
	return p
}

// silent fails the test when a message is waiting. What could have been sent has
// been, once a PINGRESP is there, so nothing is waited for.
func silent(t testing.TB, cl *mqttwire.Client) {
	t.Helper()
	if err := cl.Ping(); err != nil {
		t.Fatal(err)
	}
	if p, err := cl.Next(50 * time.Millisecond); err == nil {
		t.Errorf("got %s on %s", p.Payload, p.Topic)
	} else if !errors.Is(err, os.ErrDeadlineExceeded) {
		t.Error(err)
	}
}

// document is the registry's word on a device.
type document struct {
	Online bool   `json:"online"`
	Status string `json:"status"`
	Reason string `json:"status_reason"`
	Epoch  int64  `json:"epoch"`
	Uptime *int64 `json:"uptime_sec"`
}

func decode(t testing.TB, payload []byte) (d document) {
	t.Helper()
	if err := json.Unmarshal(payload, &d); err != nil {
		t.Fatalf("%s: %v", payload, err)
	}
	return d
}

// row reads a device as the registry has it.
func (c *cloud) row(d thing) registry.Device {
	c.t.Helper()
	detail, err := c.reg.AdminDevice(context.Background(), admin, d.id)
	if err != nil {
		c.t.Fatal(err)
	}
	return detail.Device
}

// eventually waits for a condition.
func eventually(t testing.TB, what string, f func() bool) {
	t.Helper()
	deadline := time.Now().Add(10 * time.Second)
	for !f() {
		if time.Now().After(deadline) {
			t.Fatalf("never: %s", what)
		}
		time.Sleep(2 * time.Millisecond)
	}
}

// offline waits until the registry says that a device is, and why.
func (c *cloud) offline(d thing) registry.Reason {
	c.t.Helper()
	var p registry.Presence
	eventually(c.t, "offline", func() bool { p = c.row(d).Presence; return p.Status == registry.Offline })
	return p.Reason
}

// ended reads to the end of a connection and returns the code of a DISCONNECT, 0
// without one.
func ended(t testing.TB, cl *mqttwire.Client) mqttwire.ReasonCode {
	t.Helper()
	packets, err := cl.Drain(5 * time.Second)
	if errors.Is(err, os.ErrDeadlineExceeded) {
		t.Fatalf("the connection is still open; got %v", packets)
	}
	for _, p := range packets {
		if p.Type == mqttwire.DISCONNECT {
			return p.ReasonCode
		}
	}
	return 0
}

// counter reads a metric by name and one label value.
func (c *cloud) counter(name string, labels ...string) float64 {
	c.t.Helper()
	families, err := c.metrics.Gather()
	if err != nil {
		c.t.Fatal(err)
	}
	sum := 0.0
	for _, f := range families {
		if f.GetName() != name {
			continue
		}
		for _, m := range f.GetMetric() {
			text := m.String()
			all := true
			for _, l := range labels {
				all = all && strings.Contains(text, `"`+l+`"`)
			}
			if all {
				sum += m.GetCounter().GetValue() + m.GetGauge().GetValue()
			}
		}
	}
	return sum
}

func pool(t testing.TB, certs ...*x509.Certificate) *x509.CertPool {
	t.Helper()
	p := x509.NewCertPool()
	for _, c := range certs {
		p.AddCert(c)
	}
	return p
}
