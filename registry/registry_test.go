package registry_test

import (
	"context"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/base64"
	"encoding/binary"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/opticworks/devicecloud/account"
	"github.com/opticworks/devicecloud/registry"
	"github.com/opticworks/devicecloud/sqlstore"
	"github.com/opticworks/devicecloud/sqlstore/schematest"
	"github.com/opticworks/devicecloud/topic"
)

// courier records what the registry asks of MQTT.
type courier struct {
	unwatched atomic.Int64 // how often Watched still says no
	mu        sync.Mutex
	announced map[string][]string // device id -> payloads
	ended     []string
	expired   map[int64]time.Time
	changed   []string
	sessions  []registry.Live
	deliver   func(deviceID string, payload []byte) error         // nil: nobody listens
	command   func(string, int64, registry.CommandDelivery) error // nil: nobody is connected
}

func (c *courier) Deliver(deviceID string, _ topic.Kind, payload []byte) error {
	if c.deliver == nil {
		return registry.ErrOffline
	}
	return c.deliver(deviceID, payload)
}

func (c *courier) DeliverCommand(id string, epoch int64, d registry.CommandDelivery) error {
	if c.command != nil {
		return c.command(id, epoch, d)
	}
	return registry.ErrOffline
}

func (c *courier) Announce(id string, _ topic.Kind, payload []byte) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.announced[id] = append(c.announced[id], string(payload))
}

func (c *courier) Watched() bool { return c.unwatched.Add(-1) < 0 }

func (c *courier) Disconnect(id string, reason registry.Reason) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.ended = append(c.ended, id+" "+reason.String())
	return true
}

func (c *courier) ExpireSession(_ string, credentialID int64, at time.Time) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.expired[credentialID] = at
}

func (c *courier) AccessChanged(userID string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.changed = append(c.changed, userID)
}

func (c *courier) Sessions() []registry.Live { return c.sessions }

func (c *courier) last(id string) string {
	c.mu.Lock()
	defer c.mu.Unlock()
	if list := c.announced[id]; len(list) > 0 {
		return list[len(list)-1]
	}
	return ""
}

// house is a registry over a real SQLite file.
type house struct {
	*registry.Registry
	t       *testing.T
	db      *sqlstore.DB
	courier *courier
	opts    registry.Options
}

var (
	ctx   = context.Background()
	admin = registry.Actor{Kind: registry.ActorAdmin, ID: "adm_1", RequestID: "req_1", IP: "192.0.2.1", Scopes: []string{
		registry.ScopeDeviceRead, registry.ScopeDeviceControl, registry.ScopeDeviceConfigure,
	}}
	readOnly = registry.Actor{Kind: registry.ActorSupport, ID: "sup_1", Scopes: []string{registry.ScopeDeviceRead}}
)

func person(id string) registry.Actor {
	return registry.Actor{Kind: registry.ActorUser, ID: id, Scopes: []string{
		registry.ScopeDeviceRead, registry.ScopeDeviceControl, registry.ScopeDeviceConfigure,
	}}
}

func open(t *testing.T, opts registry.Options) *house {
	t.Helper()
	db, err := sqlstore.Open(ctx, schematest.SQLite(t), sqlstore.Options{Logger: slog.New(slog.DiscardHandler)})
	if err != nil {
		t.Fatal(err)
	}
	opts.Linger = time.Millisecond
	opts.Logger = slog.New(slog.DiscardHandler)
	c := &courier{announced: map[string][]string{}, expired: map[int64]time.Time{}}
	h := &house{registry.New(db.Registry(), c, opts), t, db, c, opts}
	if err := h.Boot(ctx); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		h.Registry.Close()
		if err := db.Close(); err != nil {
			t.Error(err)
		}
	})
	return h
}

// device is one device of the tests: its MAC, id and secret.
type device struct {
	mac, id, secret string
}

func newDevice(n int) device {
	mac := fmt.Sprintf("02:00:00:00:%02X:%02X", n>>8, n&255)
	m, _ := registry.ParseMAC(mac)
	return device{mac, m.DeviceID("opticworks-rs1"), fmt.Sprintf("secret-of-device-%032d", n)}
}

func (d device) hash() string {
	sum := sha256.Sum256([]byte(d.secret))
	return hex.EncodeToString(sum[:])
}

func (d device) hmac(at time.Time) string {
	key := sha256.Sum256([]byte(d.secret))
	raw, _ := hex.DecodeString(d.id)
	m := hmac.New(sha256.New, key[:])
	m.Write(binary.LittleEndian.AppendUint32(raw, uint32(at.Unix())))
	return fmt.Sprintf("v1.%d.%s", at.Unix(), base64.StdEncoding.EncodeToString(m.Sum(nil)))
}

func (h *house) enroll(n int) device {
	h.t.Helper()
	d := newDevice(n)
	if _, err := h.Enroll(ctx, admin, registry.EnrollRequest{MACAddress: d.mac, DeviceSecretHash: d.hash()}); err != nil {
		h.t.Fatal(err)
	}
	return d
}

func (h *house) login(d device, password string) (registry.Identity, error) {
	return h.Authenticate(ctx, registry.Login{DeviceID: d.id, Password: []byte(password), HasPassword: true})
}

func (h *house) connect(d device) *registry.Session {
	h.t.Helper()
	id, err := h.login(d, d.secret)
	if err != nil {
		h.t.Fatal(err)
	}
	s, err := h.Connect(ctx, id, registry.ConnectInfo{Remote: "192.0.2.7", Protocol: 4})
	if err != nil {
		h.t.Fatal(err)
	}
	return s
}

// user makes a person with a verified e-mail.
func (h *house) user(id, email string) {
	h.t.Helper()
	err := h.db.Accounts().InTx(ctx, func(tx account.Tx) error {
		return tx.InsertUser(ctx, account.User{ID: id, Email: email, EmailVerified: true, CreatedAt: time.Now()})
	})
	if err != nil {
		h.t.Fatal(err)
	}
}

func (h *house) audit(id string) []string {
	h.t.Helper()
	list, err := h.Audit(ctx, admin, registry.AuditFilter{DeviceID: id, Limit: 100})
	if err != nil {
		h.t.Fatal(err)
	}
	var names []string
	for i := len(list) - 1; i >= 0; i-- {
		names = append(names, list[i].Event)
	}
	return names
}

func (h *house) provision(s *registry.Session, d device) map[string]any {
	h.t.Helper()
	return h.provisionRaw(s, fmt.Sprintf(`{"device_id":%q,"mac_address":%q,"firmware_version":"1.2.0","timestamp":"2026-01-20T10:00:00Z"}`, d.id, d.mac))
}

func (h *house) provisionRaw(s *registry.Session, payload string) map[string]any {
	h.t.Helper()
	res, err := h.Provision(ctx, s, []byte(payload))
	if err != nil {
		h.t.Fatal(err)
	}
	var m map[string]any
	if err := json.Unmarshal(res, &m); err != nil {
		h.t.Fatal(err)
	}
	return m
}

const state = `{"online":true,"firmware_version":"1.2.0","uptime_sec":10,"wifi_rssi":-50,"zone_count":4}`

func TestCredentials(t *testing.T) {
	h := open(t, registry.Options{})
	d, other := h.enroll(1), h.enroll(2)
	now := time.Now()
	good := map[string]string{
		"the secret":            d.secret,
		"hmac now":              d.hmac(now),
		"hmac nine minutes ago": d.hmac(now.Add(-9 * time.Minute)),
		"hmac nine minutes on":  d.hmac(now.Add(9 * time.Minute)),
	}
	for name, password := range good {
		if _, err := h.login(d, password); err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
	bad := map[string]string{
		"empty": "", "wrong": d.secret + "x", "the hash": d.hash(), "another's": other.secret, "another's hmac": other.hmac(now),
		"hmac eleven minutes ago": d.hmac(now.Add(-11 * time.Minute)), "hmac eleven minutes on": d.hmac(now.Add(11 * time.Minute)),
		"hmac cut short": d.hmac(now)[:40], "hmac of another version": "v2" + d.hmac(now)[2:], "hmac with a newline": d.hmac(now) + "\n",
	}
	for name, password := range bad {
		if _, err := h.login(d, password); !errors.Is(err, registry.ErrBadCredential) {
			t.Errorf("%s: %v", name, err)
		}
	}
	if _, err := h.login(newDevice(3), d.secret); !errors.Is(err, registry.ErrBadCredential) {
		t.Errorf("an unknown device: %v", err)
	}
	if err := h.DisableDevice(ctx, admin, d.id); err != nil {
		t.Fatal(err)
	}
	if _, err := h.login(d, d.secret); !errors.Is(err, registry.ErrBadCredential) {
		t.Errorf("a disabled device: %v", err)
	}
}

func TestRotationKeepsTwoCredentialsAliveAndNeverThree(t *testing.T) {
	h := open(t, registry.Options{})
	d := h.enroll(1)
	s := h.connect(d)
	add := func(secret string, keep time.Duration) {
		t.Helper()
		sum := sha256.Sum256([]byte(secret))
		_, err := h.AddCredential(ctx, admin, d.id, registry.CredentialRequest{Kind: "secret", SecretHash: hex.EncodeToString(sum[:]), RetireOldAfter: keep})
		if err != nil {
			t.Fatal(err)
		}
	}
	works := func(secret string) bool { _, err := h.login(d, secret); return err == nil }
	add("second", time.Hour)
	if !works(d.secret) || !works("second") {
		t.Error("after a rotation with an hour's grace, both must work")
	}
	add("third", time.Hour)
	if works(d.secret) || !works("second") || !works("third") {
		t.Error("a third credential replaces the oldest")
	}
	if at, ok := h.courier.expired[s.CredentialID]; !ok || at.After(time.Now()) {
		t.Error("the session of the replaced credential must end at once")
	}
	add("fourth", 0)
	if works("second") || works("third") || !works("fourth") {
		t.Error("a rotation without grace leaves only the new one")
	}
}

func TestAConnectionWhoseCredentialIsRevokedMeanwhileIsRefused(t *testing.T) {
	h := open(t, registry.Options{})
	d := h.enroll(1)
	id, err := h.login(d, d.secret)
	if err != nil {
		t.Fatal(err)
	}
	if err := h.DisableDevice(ctx, admin, d.id); err != nil {
		t.Fatal(err)
	}
	if _, err := h.Connect(ctx, id, registry.ConnectInfo{}); !errors.Is(err, registry.ErrBadCredential) {
		t.Errorf("Connect = %v", err)
	}
}

func TestSealedCredentials(t *testing.T) {
	sealer, err := registry.NewSealer([]byte(strings.Repeat("k", 32)))
	if err != nil {
		t.Fatal(err)
	}
	h := open(t, registry.Options{Sealer: sealer})
	d := h.enroll(1)
	if _, err := h.login(d, d.secret); err != nil {
		t.Error(err)
	}
	want, _ := hex.DecodeString(d.hash())
	err = h.db.Registry().View(ctx, func(tx registry.Tx) error {
		c, err := tx.Credentialed(ctx, d.id)
		if err == nil && strings.Contains(string(c.Credentials[0].Secret), string(want)) {
			t.Error("the digest lies in clear in the database")
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	d8 := registry.Digest(want)
	if s := fmt.Sprintf("%v %+v %#v %s %d %x %q", d8, d8, d8, d8, d8, d8, d8); strings.Trim(strings.ReplaceAll(s, "[redacted]", ""), " ") != "" {
		t.Errorf("a digest prints itself: %s", s)
	}
}

func TestPresenceIsFencedByEpoch(t *testing.T) {
	h := open(t, registry.Options{})
	d := h.enroll(1)
	first := h.connect(d)
	second := h.connect(d)
	if second.Epoch != first.Epoch+1 {
		t.Fatalf("epochs %d, %d", first.Epoch, second.Epoch)
	}
	if changed, err := h.Disconnect(ctx, first, registry.NetworkError, time.Now()); changed || err != nil {
		t.Errorf("the old session's disconnect: %v, %v", changed, err)
	}
	if err := h.ReportState(first, []byte(state)); !errors.Is(err, registry.ErrStale) {
		t.Errorf("the old session's state: %v", err)
	}
	if err := h.KeepReport(first, topic.ConfigStatus, []byte(`{"version":1,"status":"applied"}`)); !errors.Is(err, registry.ErrStale) {
		t.Errorf("the old session's report: %v", err)
	}
	if err := h.ReportState(second, []byte(state)); err != nil {
		t.Fatal(err)
	}
	got, err := h.Device(ctx, admin, d.id)
	if err != nil || got.Presence.Status != registry.Online || *got.State.UptimeSec != 10 || got.FirmwareVersion != "1.2.0" {
		t.Errorf("%+v, %v", got, err)
	}
	if changed, err := h.Disconnect(ctx, second, registry.KeepaliveTimeout, time.Now()); !changed || err != nil {
		t.Errorf("the live session's disconnect: %v, %v", changed, err)
	}
	if last := h.courier.last(d.id); !strings.Contains(last, `"online":false,"status":"offline","status_reason":"keepalive_timeout","epoch":2`) || !strings.Contains(last, `"wifi_rssi":-50`) {
		t.Errorf("announced %s", last)
	}
	list, err := h.Connections(ctx, admin, d.id, 0, 10)
	if err != nil || len(list) != 2 || list[0].Reason != registry.KeepaliveTimeout || list[1].Reason != registry.Takeover || list[0].Remote != "192.0.2.7" {
		t.Errorf("history %+v, %v", list, err)
	}
}

func TestACrashLeavesUnknownUntilTheSilenceLimit(t *testing.T) {
	h := open(t, registry.Options{})
	d, back := h.enroll(1), h.enroll(2)
	h.connect(d)
	h.connect(back)
	later := time.Now()
	next := registry.New(h.db.Registry(), h.courier, registry.Options{
		Now: func() time.Time { return later }, Linger: time.Millisecond, Logger: slog.New(slog.DiscardHandler),
	})
	defer next.Close()
	if err := next.Boot(ctx); err != nil {
		t.Fatal(err)
	}
	status := func(d device) registry.Presence {
		t.Helper()
		got, err := next.Device(ctx, admin, d.id)
		if err != nil {
			t.Fatal(err)
		}
		return got.Presence
	}
	if p := status(d); p.Status != registry.StatusUnknown || p.Reason != registry.NodeLost {
		t.Errorf("after a crash: %v, %v", p.Status, p.Reason)
	}
	h.connect(back)
	if p := status(back); p.Status != registry.Online {
		t.Errorf("a device that came back: %v", p.Status)
	}
	list, err := next.Connections(ctx, admin, d.id, 0, 10)
	if err != nil || len(list) != 1 || list[0].Reason != registry.NodeLost {
		t.Errorf("history %+v, %v", list, err)
	}
}

func TestProvisioning(t *testing.T) {
	h := open(t, registry.Options{MaxDevicesPerUser: 2})
	h.user("usr_1", "buyer@example.com")
	order := func(d device, email string) {
		t.Helper()
		if _, _, err := h.CreateOrder(ctx, admin, registry.OrderRequest{OrderID: "o-" + d.mac, UserEmail: email, DeviceMAC: d.mac, ShippedAt: "2026-01-10"}); err != nil {
			t.Fatal(err)
		}
	}
	t.Run("links the buyer, once, and again changes nothing", func(t *testing.T) {
		d := h.enroll(1)
		order(d, "Buyer@Example.com ")
		s := h.connect(d)
		for range 3 {
			if res := h.provision(s, d); res["status"] != "registered" || res["owner"] != "usr_1" || res["device_id"] != d.id {
				t.Errorf("response %v", res)
			}
		}
		if got := strings.Join(h.audit(d.id), " "); strings.Count(got, "provisioned") != 1 || strings.Count(got, "claimed") != 1 {
			t.Errorf("audit %s", got)
		}
		s = h.connect(d) // after a factory reset
		if res := h.provision(s, d); res["owner"] != "usr_1" {
			t.Errorf("after a factory reset: %v", res)
		}
		mine, err := h.Devices(ctx, person("usr_1"), 0, 10)
		if err != nil || len(mine) != 1 || mine[0].Role != registry.RoleOwner || mine[0].FirmwareVersion != "1.2.0" {
			t.Errorf("%+v, %v", mine, err)
		}
		if len(h.courier.changed) == 0 || h.courier.changed[0] != "usr_1" {
			t.Error("the buyer's sessions were not told")
		}
	})
	t.Run("refuses another identity than the enrolled one", func(t *testing.T) {
		d, victim := h.enroll(2), h.enroll(3)
		order(victim, "buyer@example.com")
		s := h.connect(d)
		for want, payload := range map[string]string{
			"device_id_mismatch": fmt.Sprintf(`{"device_id":%q,"mac_address":%q,"firmware_version":"1"}`, victim.id, victim.mac),
			"mac_mismatch":       fmt.Sprintf(`{"device_id":%q,"mac_address":%q,"firmware_version":"1"}`, d.id, victim.mac),
			"invalid_payload":    `{"device_id":1}`,
		} {
			if res := h.provisionRaw(s, payload); res["status"] != "rejected" || res["error"] != want || res["owner"] != nil {
				t.Errorf("%s: %v", want, res)
			}
		}
		if mine, _ := h.Devices(ctx, person("usr_1"), 0, 10); len(mine) != 1 {
			t.Errorf("the buyer has %d devices", len(mine))
		}
	})
	t.Run("an unsold device is registered without an owner", func(t *testing.T) {
		d := h.enroll(4)
		if res := h.provision(h.connect(d), d); res["status"] != "registered" || res["owner"] != nil {
			t.Errorf("%v", res)
		}
	})
	t.Run("a released device is never linked again", func(t *testing.T) {
		d := newDevice(1)
		if err := h.RemoveDevice(ctx, person("usr_1"), d.id); err != nil {
			t.Fatal(err)
		}
		if res := h.provision(h.connect(d), d); res["owner"] != nil {
			t.Errorf("%v", res)
		}
	})
	t.Run("at the device limit it stays without an owner and tells why", func(t *testing.T) {
		for n := 10; n < 13; n++ {
			d := h.enroll(n)
			order(d, "buyer@example.com")
			res := h.provision(h.connect(d), d)
			if full := n == 12; (res["owner"] == nil) != full {
				t.Errorf("device %d: %v", n, res)
			}
		}
		events, err := h.Events(ctx, admin, newDevice(12).id, "order.device_limit_reached", 0, 10)
		if err != nil || len(events) != 1 {
			t.Errorf("%v, %v", events, err)
		}
	})
	t.Run("an order that comes after provisioning links too", func(t *testing.T) {
		d := h.enroll(20)
		h.user("usr_2", "late@example.com")
		if res := h.provision(h.connect(d), d); res["owner"] != nil {
			t.Errorf("%v", res)
		}
		order(d, "late@example.com")
		if mine, err := h.Devices(ctx, person("usr_2"), 0, 10); err != nil || len(mine) != 1 {
			t.Errorf("%v, %v", mine, err)
		}
	})
	t.Run("the buyer who logs in for the first time afterwards gets it then", func(t *testing.T) {
		d := h.enroll(21)
		order(d, "new@example.com")
		h.provision(h.connect(d), d)
		h.user("usr_3", "new@example.com")
		err := h.db.Accounts().InTx(ctx, func(tx account.Tx) error {
			n, _, err := h.LinkOrders(ctx, tx, "usr_3", "new@example.com")
			if n != 1 {
				t.Errorf("linked %d", n)
			}
			return err
		})
		if err != nil {
			t.Fatal(err)
		}
	})
}

func TestSelfEnrolment(t *testing.T) {
	h := open(t, registry.Options{SelfEnroll: true})
	d := newDevice(1)
	h.user("usr_1", "buyer@example.com")
	if _, _, err := h.CreateOrder(ctx, admin, registry.OrderRequest{OrderID: "o", UserEmail: "buyer@example.com", DeviceMAC: d.mac, ShippedAt: "2026-01-10"}); err != nil {
		t.Fatal(err)
	}
	if _, err := h.login(d, "short"); !errors.Is(err, registry.ErrBadCredential) {
		t.Errorf("a short first password: %v", err)
	}
	s := h.connect(d)
	if _, err := h.login(d, "another-password-of-enough-length!!"); !errors.Is(err, registry.ErrBadCredential) {
		t.Errorf("a second password: %v", err)
	}
	if res := h.provision(s, d); res["status"] != "registered" || res["owner"] != nil {
		t.Errorf("a self-enrolled device is never linked: %v", res)
	}
	if got := strings.Join(h.audit(d.id), " "); !strings.Contains(got, "self_enrolled") || !strings.Contains(got, "provisioned") {
		t.Errorf("audit %s", got)
	}
	if n := h.Counters().SelfEnrolled.Load(); n != 1 {
		t.Errorf("counted %d", n)
	}
}

func TestTheGate(t *testing.T) {
	h := open(t, registry.Options{})
	d, foreign := h.enroll(1), h.enroll(2)
	roles := map[string]registry.Role{"usr_o": registry.RoleOwner, "usr_a": registry.RoleAdmin, "usr_v": registry.RoleViewer}
	for id := range roles {
		h.user(id, id+"@example.com")
	}
	h.user("usr_s", "stranger@example.com")
	dev, err := h.Device(ctx, admin, d.id)
	if err != nil {
		t.Fatal(err)
	}
	err = h.db.Registry().InTx(ctx, func(tx registry.Tx) error {
		for id, role := range roles {
			if _, err := tx.InsertOwnership(ctx, registry.Ownership{DeviceNo: dev.No, UserID: id, Role: role, At: time.Now()}); err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	weak := person("usr_o")
	weak.Scopes = weak.Scopes[:1]
	const all, read = "read control configure share leave", "read leave"
	tests := []struct {
		name  string
		actor registry.Actor
		may   string
		or    error
	}{
		{"the owner", person("usr_o"), all, nil},
		{"a shared administrator", person("usr_a"), "read control configure leave", registry.ErrInsufficientRole},
		{"a viewer", person("usr_v"), read, registry.ErrInsufficientRole},
		{"a stranger", person("usr_s"), "", registry.ErrDeviceNotFound},
		{"the owner with a token to read", weak, "read", registry.ErrInsufficientScope},
		{"a platform administrator", admin, all, nil},
		{"support", readOnly, "read", registry.ErrInsufficientRole},
		{"a device", registry.Actor{Kind: registry.ActorDevice, ID: d.id}, "", registry.ErrDeviceNotFound},
		{"nobody", registry.Actor{}, "", registry.ErrDeviceNotFound},
	}
	for _, tt := range tests {
		for name, c := range map[string]registry.Capability{
			"read": registry.CanRead, "control": registry.CanControl, "configure": registry.CanConfigure, "share": registry.CanShare, "leave": registry.CanLeave,
		} {
			_, err := h.Access(ctx, tt.actor, d.id, c)
			if may := strings.Contains(tt.may, name); may != (err == nil) || err != nil && !errors.Is(err, tt.or) {
				t.Errorf("%s, %s: %v", tt.name, name, err)
			}
		}
		for _, id := range []string{foreign.id, newDevice(99).id, "nonsense", ""} {
			if tt.actor.Kind != registry.ActorUser {
				continue
			}
			if _, err := h.Access(ctx, tt.actor, id, registry.CanRead); !errors.Is(err, registry.ErrDeviceNotFound) {
				t.Errorf("%s, device %q: %v", tt.name, id, err)
			}
		}
	}
}

func TestGroupCommitTellsEachCallerItsOwnFate(t *testing.T) {
	h := open(t, registry.Options{})
	const n = 40
	sessions := make([]*registry.Session, n)
	for i := range sessions {
		sessions[i] = h.connect(h.enroll(i))
	}
	h.connect(newDevice(0)) // takes over: session 0 is stale
	var wg sync.WaitGroup
	for i, s := range sessions {
		for round := range 5 {
			wg.Go(func() {
				err := h.ReportState(s, fmt.Appendf(nil, `{"online":true,"firmware_version":"2.%d","uptime_sec":%d,"wifi_rssi":-1}`, i, round))
				if (i == 0) != errors.Is(err, registry.ErrStale) || i > 0 && err != nil {
					t.Errorf("device %d: %v", i, err)
				}
			})
		}
	}
	wg.Wait()
	for i := 1; i < n; i++ {
		if d, err := h.Device(ctx, admin, newDevice(i).id); err != nil || d.FirmwareVersion != fmt.Sprintf("2.%d", i) {
			t.Errorf("device %d: %q, %v", i, d.FirmwareVersion, err)
		}
	}
}

func TestAClosedRegistryAcknowledgesNothing(t *testing.T) {
	h := open(t, registry.Options{})
	s := h.connect(h.enroll(1))
	h.Registry.Close()
	if err := h.ReportState(s, []byte(state)); !errors.Is(err, registry.ErrUnavailable) {
		t.Errorf("ReportState = %v", err)
	}
	if err := h.Health(ctx); !errors.Is(err, registry.ErrUnavailable) {
		t.Errorf("Health = %v", err)
	}
}

func TestImports(t *testing.T) {
	h := open(t, registry.Options{})
	a, b := newDevice(1), newDevice(2)
	head := "mac_address,device_secret_hash,claim_secret_hash\n"
	line := func(d device) string { return d.mac + "," + d.hash() + ",\n" }
	imp := func(text string, partial bool) registry.ImportReport {
		t.Helper()
		r, err := h.ImportDevices(ctx, admin, strings.NewReader(text), partial)
		if err != nil {
			t.Fatal(err)
		}
		return r
	}
	bad := head + line(a) + "nonsense,xx\n" + line(b)
	if r := imp(bad, false); r.Applied || r.Created != 0 || r.Failed != 1 || r.Lines[1].Line != 3 || r.Lines[1].Code != "invalid_mac_address" {
		t.Errorf("a bad line: %+v", r)
	}
	if _, total, err := h.AdminDevices(ctx, admin, registry.DeviceFilter{Limit: 10}); total != 0 || err != nil {
		t.Errorf("%d devices after a refused import, %v", total, err)
	}
	if r := imp("\ufeff"+bad, true); !r.Applied || r.Created != 2 || r.Failed != 1 {
		t.Errorf("partial: %+v", r)
	}
	if r := imp(head+line(a)+line(b), false); !r.Applied || r.Existing != 2 {
		t.Errorf("again: %+v", r)
	}
	stolen := device{a.mac, a.id, "another secret"}
	if r := imp(head+line(stolen)+line(b)+line(b), true); r.Failed != 2 || r.Lines[0].Code != "already_enrolled" || r.Lines[2].Code != "duplicate_line" {
		t.Errorf("another secret, and a line twice: %+v", r)
	}
	for name, text := range map[string]string{
		"empty": "", "no header": line(a), "a column twice": "mac_address,mac_address,device_secret_hash\n", "an unknown column": "mac_address,device_secret_hash,x\n",
		"a column missing": "mac_address\n",
	} {
		if _, err := h.ImportDevices(ctx, admin, strings.NewReader(text), true); registry.KindOf(err) != registry.Invalid {
			t.Errorf("%s: %v", name, err)
		}
	}
	if _, err := h.ImportDevices(ctx, person("usr_1"), strings.NewReader(head), true); !errors.Is(err, registry.ErrInsufficientRole) {
		t.Errorf("a person imports: %v", err)
	}
	orders := "order_id,user_email,device_mac,shipped_at\no1,a@example.com," + a.mac + ",2026-01-01\no1,b@example.com," + a.mac + ",\n"
	r, err := h.ImportOrders(ctx, admin, strings.NewReader(orders), true)
	if err != nil || r.Created != 1 || r.Failed != 1 || r.Lines[1].Code != "order_exists" {
		t.Errorf("orders: %+v, %v", r, err)
	}
}

func FuzzImportCSV(f *testing.F) {
	f.Add("mac_address,device_secret_hash\n02:00:00:00:00:01," + newDevice(1).hash() + "\n")
	f.Add("order_id,user_email,device_mac,shipped_at\no1,a@example.com,02:00:00:00:00:01,2026-01-01\n")
	f.Add("mac_address,device_secret_hash\n\"unclosed,\n")
	f.Add("\ufeffmac_address;device_secret_hash\r\n=cmd|' /C calc'!A0,\x00\n")
	db, err := sqlstore.Open(ctx, schematest.SQLite(f), sqlstore.Options{Logger: slog.New(slog.DiscardHandler)})
	if err != nil {
		f.Fatal(err)
	}
	r := registry.New(db.Registry(), &courier{announced: map[string][]string{}}, registry.Options{Linger: time.Microsecond, Logger: slog.New(slog.DiscardHandler)})
	f.Cleanup(func() { r.Close(); _ = db.Close() })
	f.Fuzz(func(t *testing.T, text string) {
		for name, imp := range map[string]func() (registry.ImportReport, error){
			"devices": func() (registry.ImportReport, error) {
				return r.ImportDevices(ctx, admin, strings.NewReader(text), true)
			},
			"orders": func() (registry.ImportReport, error) {
				return r.ImportOrders(ctx, admin, strings.NewReader(text), true)
			},
		} {
			report, err := imp()
			if err != nil && registry.KindOf(err) != registry.Invalid {
				t.Errorf("%s: %v", name, err)
			}
			if report.Created+report.Existing+report.Failed != len(report.Lines) {
				t.Errorf("%s: %+v", name, report)
			}
			for _, l := range report.Lines {
				if l.Line < 2 || l.Status == "" || (l.Status == registry.LineError) != (l.Code != "") || l.Code == "internal" {
					t.Errorf("%s: %+v", name, l)
				}
			}
		}
	})
}

func FuzzAuthenticate(f *testing.F) {
	d := newDevice(1)
	db, err := sqlstore.Open(ctx, schematest.SQLite(f), sqlstore.Options{Logger: slog.New(slog.DiscardHandler)})
	if err != nil {
		f.Fatal(err)
	}
	r := registry.New(db.Registry(), &courier{announced: map[string][]string{}}, registry.Options{Linger: time.Microsecond, Logger: slog.New(slog.DiscardHandler)})
	f.Cleanup(func() { r.Close(); _ = db.Close() })
	if _, err := r.Enroll(ctx, admin, registry.EnrollRequest{MACAddress: d.mac, DeviceSecretHash: d.hash()}); err != nil {
		f.Fatal(err)
	}
	f.Add([]byte(d.secret))
	f.Add([]byte(d.hmac(time.Now())))
	f.Add([]byte("v1.4294967296."))
	f.Add([]byte("v1.-1.AAAA"))
	f.Fuzz(func(t *testing.T, password []byte) {
		_, err := r.Authenticate(ctx, registry.Login{DeviceID: d.id, Password: password, HasPassword: true})
		if err == nil && string(password) != d.secret && string(password) != d.hmac(time.Now()) && !strings.HasPrefix(string(password), "v1.") {
			t.Errorf("password %q let in", password)
		}
		if err != nil && !errors.Is(err, registry.ErrBadCredential) {
			t.Errorf("password %q: %v", password, err)
		}
	})
}
