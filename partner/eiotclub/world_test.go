package eiotclub_test

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"os"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/opticworks/devicecloud/dataplan"
	"github.com/opticworks/devicecloud/partner/eiotclub"
	"github.com/opticworks/devicecloud/registry"
	"github.com/opticworks/devicecloud/sqlstore"
	"github.com/opticworks/devicecloud/sqlstore/pgtest"
	"github.com/opticworks/devicecloud/sqlstore/schematest"
	"github.com/opticworks/devicecloud/standin/carrier"
)

var postgres = pgtest.Fixture{Prepare: schematest.Migrate}

func TestMain(m *testing.M) { os.Exit(postgres.Run(m)) }

var t0 = time.Date(2026, 1, 22, 10, 0, 0, 0, time.UTC)

// eachEngine runs a test on a fresh database of each engine.
func eachEngine(t *testing.T, test func(t *testing.T, w *world)) {
	t.Helper()
	t.Run("sqlite", func(t *testing.T) {
		t.Parallel()
		test(t, newWorld(t, schematest.SQLite(t)))
	})
	t.Run("postgres", func(t *testing.T) {
		t.Parallel()
		test(t, newWorld(t, postgres.URL(t)))
	})
}

// world is a carrier, a database, and what stands between them.
type world struct {
	t       *testing.T
	carrier *carrier.Server
	db      *sqlstore.DB
	nextID  func() int64

	mu    sync.Mutex
	now   time.Time
	told  []*registry.Change
	n     int
	store *mortalStore
	ask   *mortalCarrier
	*dataplan.Service
}

func newWorld(t *testing.T, url string) *world {
	t.Helper()
	w := &world{t: t, now: t0}
	var err error
	if w.db, err = sqlstore.Open(t.Context(), url, sqlstore.Options{}); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = w.db.Close() })
	if w.carrier, err = carrier.Start(carrier.Options{PerSecond: 1 << 20, Now: w.clock}); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = w.carrier.Close() })
	w.nextID = registry.NewIDSource(time.Now)
	w.restart(nil)
	return w
}

// few reports whether a test is to take some of its cases alone: what is lost between us
// and the carrier is alike on both engines, so that the slower one need not see all of it.
func (w *world) few() bool { return strings.HasSuffix(w.t.Name(), "/postgres") }

func (w *world) clock() time.Time {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.now
}

func (w *world) pass(d time.Duration) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.now = w.now.Add(d)
}

// restart makes a new process of the service; with a death, it dies there.
func (w *world) restart(d *death) {
	w.t.Helper()
	client, err := eiotclub.NewClient(eiotclub.Options{
		AppKey: w.carrier.AppKey(), Secret: eiotclub.Secret(w.carrier.Secret()), BaseURL: w.carrier.URL(), Now: w.clock,
		Between: time.Microsecond, Timeout: 300 * time.Millisecond,
	})
	if err != nil {
		w.t.Fatal(err)
	}
	reader, err := eiotclub.NewReader(eiotclub.Secret(w.carrier.Secret()), eiotclub.Signer{})
	if err != nil {
		w.t.Fatal(err)
	}
	w.store, w.ask = &mortalStore{w.db.DataPlans(), d}, &mortalCarrier{Carrier: client, death: d}
	w.Service = dataplan.New(w.store, w, dataplan.Options{
		Now: w.clock, NextID: w.nextID, Carrier: w.ask, Notices: reader, Logger: slog.New(slog.DiscardHandler),
	})
}

// Access and Tell implement dataplan.Devices.
func (w *world) Access(ctx context.Context, _ registry.Actor, id string, _ registry.Capability) (d registry.OwnedDevice, err error) {
	err = w.db.DataPlans().View(ctx, func(tx dataplan.Tx) (err error) {
		d.Device, err = tx.Device(ctx, id)
		return err
	})
	return d, err
}

func (w *world) Tell(c *registry.Change) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.told = append(w.told, c)
}

func (w *world) heard() []*registry.Change {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.told
}

func (w *world) tx(f func(ctx context.Context, tx dataplan.Tx) error) {
	w.t.Helper()
	if err := w.db.DataPlans().InTx(w.t.Context(), func(tx dataplan.Tx) error { return f(w.t.Context(), tx) }); err != nil {
		w.t.Fatal(err)
	}
}

// device enrols a device.
func (w *world) device() (id string) {
	w.t.Helper()
	w.n++
	mac := registry.MAC(fmt.Sprintf("02:00:00:%02X:%02X:%02X", w.n>>16&255, w.n>>8&255, w.n&255))
	w.tx(func(ctx context.Context, tx dataplan.Tx) error {
		_, err := tx.InsertDevice(ctx, registry.NewDevice{ID: mac.DeviceID("salt"), MAC: mac, At: t0})
		return err
	})
	return mac.DeviceID("salt")
}

// sim adds a SIM, and puts it into a device unless that is "".
func (w *world) sim(device string) dataplan.SIM {
	w.t.Helper()
	w.n++
	iccid := fmt.Sprintf("89000000%011d", w.n)
	report, err := w.ImportSIMs(w.t.Context(), registry.System(), strings.NewReader("iccid,device_id\n"+iccid+","+device+"\n"), false)
	if err != nil || report.Created != 1 {
		w.t.Fatalf("%+v, %v", report, err)
	}
	list, err := w.SIMs(w.t.Context(), registry.System(), dataplan.SIMFilter{Query: iccid})
	if err != nil || len(list) != 1 {
		w.t.Fatalf("%d SIMs, %v", len(list), err)
	}
	return list[0]
}

var plan = dataplan.Plan{
	ID: "p", Name: "1 GB", Mode: dataplan.ModePayment, Amount: 990, Currency: "usd", Days: 30, DataMB: 1000, CarrierPackage: "P100",
	Capabilities: []string{"clip_download"},
}

// paid writes a purchase that was paid.
func (w *world) paid(device string, iccid dataplan.ICCID) (id string) {
	w.t.Helper()
	w.n++
	id = fmt.Sprintf("%032x", w.n)
	w.tx(func(ctx context.Context, tx dataplan.Tx) error {
		p := dataplan.Purchase{
			ID: id, UserID: "u", DeviceID: device, ICCID: iccid, Plan: plan, Stage: dataplan.Paid, Status: dataplan.Paid, Key: id,
			ExpiresAt: w.clock().Add(time.Hour), OutTradeNo: id, CreatedAt: w.clock(), UpdatedAt: w.clock(),
		}
		if _, err := tx.InsertPurchase(ctx, p); err != nil {
			return err
		}
		p.PaidAt, p.ClosedAt = w.clock(), w.clock()
		_, err := tx.UpdatePurchase(ctx, p)
		return err
	})
	return id
}

func (w *world) purchase(id string) (p dataplan.Purchase) {
	w.t.Helper()
	w.tx(func(ctx context.Context, tx dataplan.Tx) (err error) {
		p, err = tx.Purchase(ctx, id)
		return err
	})
	return p
}

func (w *world) simOf(s dataplan.SIM) dataplan.SIM {
	w.t.Helper()
	s, err := w.SIM(w.t.Context(), registry.System(), s.ID)
	if err != nil {
		w.t.Fatal(err)
	}
	return s
}

// entitled reports whether the plan's service may be used.
func (w *world) entitled(device string) (yes bool) {
	w.t.Helper()
	w.tx(func(ctx context.Context, tx dataplan.Tx) error {
		d, err := tx.Device(ctx, device)
		if err != nil {
			return err
		}
		yes, err = tx.Entitled(ctx, d.No, registry.CanClipDownload, w.clock())
		return err
	})
	return yes
}

// audits counts the audit rows of an event.
func (w *world) audits(event string) (n int) {
	w.t.Helper()
	w.tx(func(ctx context.Context, tx dataplan.Tx) error {
		list, err := tx.Audit(ctx, registry.AuditFilter{Event: event, Limit: 1000})
		n = len(list)
		return err
	})
	return n
}

var somewhere = netip.MustParseAddr("198.51.100.7")

// take hands a notification to the service; it must be taken.
func (w *world) take(body []byte) (duplicate bool) {
	w.t.Helper()
	duplicate, err := w.TakeNotice(w.t.Context(), registry.Actor{RequestID: "r"}, somewhere, body)
	if err != nil {
		w.t.Fatalf("%s: %v", body, err)
	}
	return duplicate
}

// outcome is what became of a notification.
func (w *world) outcome(id string) (o dataplan.NoticeOutcome) {
	w.t.Helper()
	w.tx(func(ctx context.Context, tx dataplan.Tx) error {
		e, _, err := tx.CarrierEvent(ctx, "eiotclub", id)
		o = e.Outcome
		return err
	})
	return o
}

// death is when a process is killed: at its n-th step that leaves a trace, before or
// after the trace is there. It does nothing any more then.
type death struct {
	mu    sync.Mutex
	step  int // counted down
	after bool
	dead  bool
}

var errKilled = errors.New("the process was killed")

// step does something that leaves a trace.
func (d *death) at(do func() error) error {
	if d == nil {
		return do()
	}
	d.mu.Lock()
	dead := d.dead
	d.step--
	now := d.step == 0
	d.dead = d.dead || now
	d.mu.Unlock()
	switch {
	case dead, now && !d.after:
		return errKilled
	case now:
		_ = do() // it is done, and nobody hears of it
		return errKilled
	}
	return do()
}

// died reports whether the process was killed at all.
func (d *death) died() bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.dead
}

type mortalStore struct {
	dataplan.Store
	death *death
}

func (s *mortalStore) InTx(ctx context.Context, f func(dataplan.Tx) error) error {
	return s.death.at(func() error { return s.Store.InTx(ctx, f) })
}

type mortalCarrier struct {
	dataplan.Carrier
	death  *death
	refuse bool // every order
}

func (c *mortalCarrier) Order(ctx context.Context, o dataplan.CarrierOrder) (id string, err error) {
	if c.refuse {
		return "", dataplan.ErrCarrierRefused
	}
	err = c.death.at(func() (err error) {
		id, err = c.Carrier.Order(ctx, o)
		return err
	})
	return id, err
}

func (c *mortalCarrier) Orders(ctx context.Context, iccid dataplan.ICCID) (list []dataplan.CarrierRecord, err error) {
	err = c.death.at(func() (err error) {
		list, err = c.Carrier.Orders(ctx, iccid)
		return err
	})
	return list, err
}
