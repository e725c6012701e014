package rollout_test

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/opticworks/devicecloud/registry"
	"github.com/opticworks/devicecloud/rollout"
	"github.com/opticworks/devicecloud/sqlstore"
	"github.com/opticworks/devicecloud/sqlstore/pgtest"
	"github.com/opticworks/devicecloud/sqlstore/schematest"
	"github.com/opticworks/devicecloud/topic"
)

var postgres = pgtest.Fixture{Prepare: schematest.Migrate}

func TestMain(m *testing.M) { os.Exit(postgres.Run(m)) }

var (
	ctx   = context.Background()
	admin = registry.Actor{Kind: registry.ActorAdmin, ID: "adm_1", Scopes: []string{
		registry.ScopeDeviceRead, registry.ScopeDeviceControl, registry.ScopeDeviceConfigure, registry.ScopeConfigWrite,
	}}
)

// courier is MQTT as the domains see it: who is connected here, and what they were told.
type courier struct {
	mu    sync.Mutex
	takes map[string]bool
	told  map[string][]trigger
	fail  error
}

type trigger struct {
	Version   string `json:"version"`
	URL       string `json:"url"`
	SHA256    string `json:"sha256"`
	MinRSSI   *int64 `json:"min_rssi"`
	RolloutID string `json:"rollout_id"`
}

func (c *courier) Takes(id string, k topic.Kind) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return k == topic.OTATrigger && c.takes[id]
}

func (c *courier) Deliver(id string, k topic.Kind, payload []byte) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if !c.takes[id] {
		return registry.ErrOffline
	}
	if c.fail != nil {
		return c.fail
	}
	var t trigger
	if k != topic.OTATrigger || json.Unmarshal(payload, &t) != nil || len(payload) > 1024 {
		return errors.New("that is no trigger")
	}
	c.told[id] = append(c.told[id], t)
	return nil
}

func (*courier) Announce(string, topic.Kind, []byte)    {}
func (*courier) Watched() bool                          { return false }
func (*courier) ExpireSession(string, int64, time.Time) {}
func (*courier) DeliverCommand(string, int64, registry.CommandDelivery) error {
	return registry.ErrOffline
}
func (*courier) AccessChanged(string)                               {}
func (*courier) Sessions() []registry.Live                          { return nil }
func (*courier) Disconnect(deviceID string, _ registry.Reason) bool { return false }

// clock is a time that only the test moves.
type clock struct {
	mu sync.Mutex
	t  time.Time
}

func (c *clock) now() time.Time {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.t
}

func (c *clock) add(d time.Duration) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.t = c.t.Add(d)
}

// node is one program at a database.
type node struct {
	*rollout.Service
	t       *testing.T
	db      *sqlstore.DB
	reg     *registry.Registry
	courier *courier
	clock   *clock
	log     *strings.Builder
}

// eachEngine runs a test on a fresh database of each engine.
func eachEngine(t *testing.T, test func(t *testing.T, n *node)) {
	t.Helper()
	t.Run("sqlite", func(t *testing.T) {
		t.Parallel()
		test(t, open(t, schematest.SQLite(t), "node-1", &clock{t: time.Now().Truncate(time.Second)}))
	})
	t.Run("postgres", func(t *testing.T) {
		t.Parallel()
		test(t, open(t, postgres.URL(t), "node-1", &clock{t: time.Now().Truncate(time.Second)}))
	})
}

func open(t *testing.T, url, nodeID string, c *clock) *node {
	t.Helper()
	db, err := sqlstore.Open(ctx, url, sqlstore.Options{})
	if err != nil {
		t.Fatal(err)
	}
	n := &node{t: t, db: db, courier: &courier{takes: map[string]bool{}, told: map[string][]trigger{}}, clock: c, log: &strings.Builder{}}
	log := slog.New(slog.NewTextHandler(n.log, nil))
	n.reg = registry.New(db.Registry(), n.courier, registry.Options{NodeID: nodeID, Now: c.now, NextID: registry.NewIDSource(time.Now), Linger: time.Millisecond, Logger: log})
	n.Service = rollout.New(db.Rollouts(), n.reg, n.courier, rollout.Options{NodeID: nodeID, Now: c.now, NextID: registry.NewIDSource(time.Now), Logger: log})
	if err := n.reg.Boot(ctx); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		n.reg.Close()
		if err := db.Close(); err != nil {
			t.Error(err)
		}
	})
	return n
}

// device is a device of the tests.
type device struct {
	n       *node
	mac, id string
	secret  string
	session *registry.Session
	version string
	booted  time.Time
	rssi    int
}

// enrol makes the i-th device, of a kind of hardware.
func (n *node) enrol(i int, hardware string) *device {
	n.t.Helper()
	d := &device{n: n, mac: fmt.Sprintf("02:00:00:00:%02X:%02X", i>>8, i&255), secret: fmt.Sprintf("secret-%032d", i), version: "1.2.0", rssi: -50, booted: n.clock.now().Add(-time.Hour)}
	sum := sha256.Sum256([]byte(d.secret))
	row, err := n.reg.Enroll(ctx, admin, registry.EnrollRequest{MACAddress: d.mac, DeviceSecretHash: hex.EncodeToString(sum[:]), Hardware: hardware})
	if err != nil {
		n.t.Fatal(err)
	}
	d.id = row.ID
	return d
}

// fleet enrols devices and brings them up.
func (n *node) fleet(count int) []*device {
	n.t.Helper()
	all := make([]*device, count)
	for i := range all {
		all[i] = n.enrol(i+1, "")
		all[i].up()
	}
	return all
}

// up connects the device, has it subscribe and report its state.
func (d *device) up() *device {
	d.n.t.Helper()
	id, err := d.n.reg.Authenticate(ctx, registry.Login{DeviceID: d.id, Password: []byte(d.secret), HasPassword: true})
	if err == nil {
		d.session, err = d.n.reg.Connect(ctx, id, registry.ConnectInfo{Remote: "192.0.2.7", Protocol: 4})
	}
	if err != nil {
		d.n.t.Fatal(err)
	}
	d.n.courier.mu.Lock()
	d.n.courier.takes[d.id] = true
	d.n.courier.mu.Unlock()
	d.n.Ready(d.session)
	d.state()
	return d
}

// down loses the connection.
func (d *device) down() *device {
	d.n.t.Helper()
	d.n.courier.mu.Lock()
	d.n.courier.takes[d.id] = false
	d.n.courier.mu.Unlock()
	if _, err := d.n.reg.Disconnect(ctx, d.session, registry.NetworkError, d.n.clock.now()); err != nil {
		d.n.t.Fatal(err)
	}
	return d
}

// restart is down, a boot of 2 seconds into a version, and up.
func (d *device) restart(version string) *device {
	d.down()
	d.n.clock.add(2 * time.Second)
	d.version, d.booted = version, d.n.clock.now()
	d.n.clock.add(time.Second)
	return d.up()
}

func (d *device) state() {
	d.n.t.Helper()
	up := int(d.n.clock.now().Sub(d.booted) / time.Second)
	if err := d.n.reg.ReportState(d.session, fmt.Appendf(nil, `{"online":true,"firmware_version":%q,"uptime_sec":%d,"wifi_rssi":%d}`, d.version, up, d.rssi)); err != nil {
		d.n.t.Fatal(err)
	}
}

// say reports on the update that the device was told of last.
func (d *device) say(status string, progress int, code string) *device {
	d.n.t.Helper()
	t := d.last()
	payload := fmt.Appendf(nil, `{"status":%q,"version":%q,"progress":%d,"rollout_id":%q,"timestamp":"2026-01-15T10:00:00Z"}`, status, t.Version, progress, t.RolloutID)
	if code != "" {
		text, err := json.Marshal(code)
		if err != nil {
			d.n.t.Fatal(err)
		}
		payload = append(payload[:len(payload)-1], `,"error":`+string(text)+`}`...)
	}
	if err := d.n.Report(d.session, payload); err != nil {
		d.n.t.Fatal(err)
	}
	return d
}

// told is how often the device was told.
func (d *device) told() int {
	d.n.courier.mu.Lock()
	defer d.n.courier.mu.Unlock()
	return len(d.n.courier.told[d.id])
}

func (d *device) last() trigger {
	d.n.t.Helper()
	d.n.courier.mu.Lock()
	defer d.n.courier.mu.Unlock()
	told := d.n.courier.told[d.id]
	if len(told) == 0 {
		d.n.t.Fatal("the device was not told")
	}
	return told[len(told)-1]
}

// updates well.
func (d *device) updates() {
	d.n.t.Helper()
	d.say("pending", 0, "").say("downloading", 50, "").say("verifying", 100, "").say("success", 100, "")
	d.restart(d.last().Version)
}

// step looks once.
func (n *node) step() {
	n.t.Helper()
	if err := n.Step(ctx); err != nil {
		n.t.Fatal(err)
	}
}

// later moves the clock and looks.
func (n *node) later(d time.Duration) {
	n.t.Helper()
	n.clock.add(d)
	n.step()
}

func (n *node) release(version string, change ...func(*rollout.Release)) rollout.Release {
	n.t.Helper()
	r := rollout.Release{Version: version, URL: "https://updates.example.com/" + version + ".bin?sig=canary-signature", SHA256: strings.Repeat("ab", 32)}
	for _, f := range change {
		f(&r)
	}
	made, err := n.CreateRelease(ctx, admin, r)
	if err != nil {
		n.t.Fatal(err)
	}
	return made
}

// begin creates a rollout that tells everybody at once, but for what change says.
func (n *node) begin(r rollout.Release, change ...func(*rollout.Draft)) rollout.Rollout {
	n.t.Helper()
	d := rollout.Draft{ReleaseID: r.ID, Settings: rollout.DefaultSettings()}
	d.RatePerMinute = 60000
	for _, f := range change {
		f(&d)
	}
	ro, err := n.CreateRollout(ctx, admin, d)
	if err != nil {
		n.t.Fatal(err)
	}
	n.step()
	return ro
}

// look reads a rollout and its devices by state.
func (n *node) look(ro rollout.Rollout) (rollout.Rollout, map[rollout.State]int) {
	n.t.Helper()
	r, census, err := n.Rollout(ctx, admin, ro.ID)
	if err != nil {
		n.t.Fatal(err)
	}
	by := map[rollout.State]int{}
	for _, c := range census.States {
		by[c.State] = c.N
	}
	return r, by
}

// of is how far a device is in a rollout: "state reason".
func (n *node) of(ro rollout.Rollout, d *device) string {
	n.t.Helper()
	list, err := n.Updates(ctx, admin, ro.ID, "", 0, 0)
	if err != nil {
		n.t.Fatal(err)
	}
	i := slices.IndexFunc(list, func(u rollout.Update) bool { return u.DeviceID == d.id })
	if i < 0 {
		return ""
	}
	return strings.TrimSpace(string(list[i].State) + " " + list[i].Reason)
}

func (n *node) want(ro rollout.Rollout, d *device, want string) {
	n.t.Helper()
	if got := n.of(ro, d); got != want {
		n.t.Errorf("the device is %q, want %q", got, want)
	}
}

func (n *node) wantStatus(ro rollout.Rollout, want rollout.Status) rollout.Rollout {
	n.t.Helper()
	r, by := n.look(ro)
	if r.Status != want {
		n.t.Errorf("the rollout is %s, want %s; %v", r.Status, want, by)
	}
	return r
}

// events are the audit events of a device, or of nobody's with "", that begin with a
// prefix, oldest first.
func (n *node) events(deviceID, prefix string) (names []string) {
	n.t.Helper()
	list, err := n.reg.Audit(ctx, admin, registry.AuditFilter{DeviceID: deviceID, Limit: 1000})
	if err != nil {
		n.t.Fatal(err)
	}
	for _, e := range slices.Backward(list) {
		if strings.HasPrefix(e.Event, prefix) {
			names = append(names, e.Event)
		}
	}
	return names
}

func equal[T any](t *testing.T, what string, got, want T) {
	t.Helper()
	if fmt.Sprint(got) != fmt.Sprint(want) {
		t.Errorf("%s: %v, want %v", what, got, want)
	}
}

func is(t *testing.T, what string, err, want error) {
	t.Helper()
	if !errors.Is(err, want) {
		t.Errorf("%s: %v, want %v", what, err, want)
	}
}
