package dataplan_test

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"log/slog"
	"os"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/opticworks/devicecloud/account"
	"github.com/opticworks/devicecloud/dataplan"
	"github.com/opticworks/devicecloud/registry"
	"github.com/opticworks/devicecloud/sqlstore"
	"github.com/opticworks/devicecloud/sqlstore/pgtest"
	"github.com/opticworks/devicecloud/sqlstore/schematest"
)

var postgres = pgtest.Fixture{Prepare: schematest.Migrate}

func TestMain(m *testing.M) {
	// Each check commits a dozen times: a hundred of them on two engines take minutes.
	if err := flag.Set("rapid.checks", "20"); err != nil {
		panic(err)
	}
	os.Exit(postgres.Run(m))
}

// engines are the databases that the tests run on.
var engines = map[string]func(t testing.TB) string{
	"sqlite":   schematest.SQLite,
	"postgres": func(t testing.TB) string { return postgres.URL(t) },
}

func eachEngine(t *testing.T, test func(t *testing.T, w *world)) {
	for name, url := range engines {
		t.Run(name, func(t *testing.T) { test(t, newWorld(t, url(t))) })
	}
}

// gate is the domain of devices: everybody may do everything with every device but those
// that it refuses.
type gate struct{ refuse map[string]error }

func (g gate) Access(_ context.Context, a registry.Actor, deviceID string, _ registry.Capability) (registry.OwnedDevice, error) {
	return registry.OwnedDevice{}, g.refuse[a.ID+" "+deviceID]
}

func (gate) Tell(*registry.Change) {}

// provider is a payment provider in memory.
type provider struct {
	mu       sync.Mutex
	live     bool
	fail     error // of the next call
	failAt   int   // which call of a refund fails, counted from 1; 0: none
	moved    int   // refunds that succeeded
	sessions map[string]dataplan.Session
	made     int
	reports  map[string]dataplan.Report // by session
	refunds  map[string]int64           // by key
	canceled []string
}

func (p *provider) Live() bool { return p.live }

func (p *provider) failed() error {
	err := p.fail
	p.fail = nil
	return err
}

func (p *provider) CreateSession(_ context.Context, x dataplan.Purchase, _ dataplan.Pages) (dataplan.Session, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if err := p.failed(); err != nil {
		return dataplan.Session{}, err
	}
	if _, ok := p.sessions[x.ID]; !ok {
		p.made++
		p.sessions[x.ID] = dataplan.Session{ID: "cs_" + x.ID, URL: "https://pay.example.com/" + x.ID}
	}
	return p.sessions[x.ID], nil
}

func (p *provider) FetchSession(_ context.Context, id string) (dataplan.Report, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.reports[id], p.failed()
}

func (p *provider) Complete(_ context.Context, r dataplan.Report) (dataplan.Report, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	return r, p.failed()
}

func (p *provider) Refund(_ context.Context, _ dataplan.Purchase, intent string, amount int64, key string) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.refunds[intent+" "+key] = amount
	err := p.step()
	if err == nil {
		p.moved++
	}
	return err
}

// step is a call that fails when it is its turn to.
func (p *provider) step() error {
	if p.failAt--; p.failAt == 0 {
		return dataplan.ErrPaymentProvider
	}
	return p.failed()
}

func (p *provider) CancelSubscription(_ context.Context, id string) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	if err := p.step(); err != nil {
		return err
	}
	p.canceled = append(p.canceled, id)
	return nil
}

// world is the domain over a real store.
type world struct {
	t        testing.TB
	db       *sqlstore.DB
	provider *provider
	gate     gate
	service  *dataplan.Service
	ids      func() int64
	mu       sync.Mutex
	time     time.Time
	devices  int
	people   map[string]bool
}

var t0 = time.Date(2026, 1, 22, 10, 0, 0, 0, time.UTC)

func (w *world) now() time.Time {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.time
}

func (w *world) pass(d time.Duration) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.time = w.time.Add(d)
}

func newWorld(t testing.TB, url string) *world {
	t.Helper()
	db, err := sqlstore.Open(t.Context(), url, sqlstore.Options{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = db.Close() })
	w := &world{
		t: t, db: db, time: t0, ids: registry.NewIDSource(time.Now), gate: gate{map[string]error{}},
		provider: &provider{sessions: map[string]dataplan.Session{}, reports: map[string]dataplan.Report{}, refunds: map[string]int64{}},
	}
	w.service = dataplan.New(db.DataPlans(), w.gate, dataplan.Options{
		Provider: w.provider, Now: w.now, NextID: w.ids, Pages: "https://cloud.example.com", Logger: slog.New(slog.NewTextHandler(io.Discard, nil)),
	})
	for _, p := range []dataplan.Plan{
		{ID: "once", Name: "1 GB", Amount: 990, Currency: "usd", CarrierPackage: "P1", Days: 30, Capabilities: []string{"live_view"}},
		{ID: "other", Name: "2 GB", Amount: 1500, Currency: "usd", CarrierPackage: "P2"},
		{ID: "monthly", Name: "Monthly", Mode: dataplan.ModeSubscription, Amount: 490, Currency: "eur", Interval: "month", CarrierPackage: "PM", Capabilities: []string{"live_view"}},
	} {
		if _, err := w.service.CreatePlan(t.Context(), registry.System(), p); err != nil {
			t.Fatal(err)
		}
	}
	return w
}

func (w *world) tx(f func(ctx context.Context, tx dataplan.Tx) error) {
	w.t.Helper()
	if err := w.db.DataPlans().InTx(w.t.Context(), func(tx dataplan.Tx) error { return f(w.t.Context(), tx) }); err != nil {
		w.t.Fatal(err)
	}
}

// device enrols a device with a SIM and returns its id.
func (w *world) device() string {
	w.t.Helper()
	w.devices++
	mac, err := registry.ParseMAC(fmt.Sprintf("02:00:00:00:%02x:%02x", w.devices/256, w.devices%256))
	if err != nil {
		w.t.Fatal(err)
	}
	id := mac.DeviceID("salt")
	w.tx(func(ctx context.Context, tx dataplan.Tx) error {
		no, err := tx.InsertDevice(ctx, registry.NewDevice{ID: id, MAC: mac, At: t0})
		if err != nil {
			return err
		}
		sim := dataplan.SIM{ID: w.ids(), ICCID: dataplan.ICCID(fmt.Sprintf("8900000000%09d", w.devices)), Status: dataplan.SIMInactive, StatusAt: t0, CreatedAt: t0, UpdatedAt: t0}
		if _, err := tx.InsertSIM(ctx, sim); err != nil {
			return err
		}
		_, err = tx.AssignSIM(ctx, sim.ID, no, t0)
		return err
	})
	return id
}

func user(id string) registry.Actor { return registry.Actor{Kind: registry.ActorUser, ID: id} }

func admin() registry.Actor {
	return registry.Actor{Kind: registry.ActorAdmin, ID: "root", Scopes: []string{registry.ScopeConfigWrite}}
}

// person makes an account, once.
func (w *world) person(id string) {
	w.t.Helper()
	if w.people[id] {
		return
	}
	if w.people == nil {
		w.people = map[string]bool{}
	}
	w.people[id] = true
	err := w.db.Accounts().InTx(w.t.Context(), func(tx account.Tx) error {
		return tx.InsertUser(w.t.Context(), account.User{ID: id, CreatedAt: t0})
	})
	if err != nil {
		w.t.Fatal(err)
	}
}

// erase is what the erasure of a person leaves of an account: nothing.
func (w *world) erase(id string) {
	w.t.Helper()
	if err := w.db.Accounts().InTx(w.t.Context(), func(tx account.Tx) error { return tx.EraseUser(w.t.Context(), id, "", w.now()) }); err != nil {
		w.t.Fatal(err)
	}
}

// buy begins a purchase.
func (w *world) buy(userID, device, plan, key string) dataplan.Purchase {
	w.t.Helper()
	w.person(userID)
	p, _, err := w.service.Checkout(w.t.Context(), user(userID), dataplan.Order{PlanID: plan, DeviceID: device, Key: key})
	if err != nil {
		w.t.Fatal(err)
	}
	return p
}

func (w *world) take(e dataplan.Event) dataplan.Outcome {
	w.t.Helper()
	o, err := w.service.Take(w.t.Context(), registry.System(), e)
	if err != nil {
		w.t.Fatal(err)
	}
	return o
}

func (w *world) purchase(id string) dataplan.Purchase {
	w.t.Helper()
	p, err := w.service.PurchaseByID(w.t.Context(), admin(), id)
	if err != nil {
		w.t.Fatal(err)
	}
	return p
}

// audits counts the audit rows of an event.
func (w *world) audits(event string) (n int) {
	w.t.Helper()
	w.tx(func(ctx context.Context, tx dataplan.Tx) error {
		rows, err := tx.Audit(ctx, registry.AuditFilter{Event: event, Limit: 10000})
		n = len(rows)
		return err
	})
	return n
}

// entitled is whether the device may be watched now.
func (w *world) entitled(device string) (yes bool) {
	w.t.Helper()
	w.tx(func(ctx context.Context, tx dataplan.Tx) error {
		d, err := tx.Device(ctx, device)
		if err == nil {
			yes, err = tx.Entitled(ctx, d.No, registry.CanLiveView, w.now())
		}
		return err
	})
	return yes
}

// activate is what the carrier's confirmation does.
func (w *world) activate(p dataplan.Purchase, until time.Time) {
	w.t.Helper()
	w.tx(func(ctx context.Context, tx dataplan.Tx) error {
		return dataplan.Activate(ctx, w.service, tx, p.ID, w.now(), until)
	})
}

func is(t testing.TB, what string, err, want error) {
	t.Helper()
	if !errors.Is(err, want) {
		t.Errorf("%s: %v, want %v", what, err, want)
	}
}

func equal[T comparable](t testing.TB, what string, got, want T) {
	t.Helper()
	if got != want {
		t.Errorf("%s is %v, want %v", what, got, want)
	}
}

// events of one purchase, as the provider would report them.
type events struct{ p dataplan.Purchase }

func (x events) event(name string, kind dataplan.ReportKind, after time.Duration) dataplan.Event {
	r := dataplan.Report{Kind: kind, Type: dataplan.MetadataType, PurchaseID: x.p.ID, Currency: strings.ToUpper(x.p.Plan.Currency)}
	return dataplan.Event{ID: "evt_" + name + "_" + x.p.ID, Name: name, Created: t0.Add(after), Report: r}
}

func (x events) completed() dataplan.Event {
	e := x.event("checkout.session.completed", dataplan.SessionPaid, time.Minute)
	e.SessionID, e.Amount = "cs_"+x.p.ID, x.p.Plan.Amount
	if x.p.Plan.Mode == dataplan.ModeSubscription {
		e.SubscriptionID = "sub_" + x.p.ID
	} else {
		e.IntentID = "pi_" + x.p.ID
	}
	return e
}

func (x events) expired() dataplan.Event {
	e := x.event("checkout.session.expired", dataplan.SessionExpired, time.Hour)
	e.SessionID = "cs_" + x.p.ID
	return e
}

func (x events) asyncFailed() dataplan.Event {
	e := x.event("checkout.session.async_payment_failed", dataplan.SessionFailed, time.Hour)
	e.SessionID = "cs_" + x.p.ID
	return e
}

func (x events) unpaid() dataplan.Event {
	e := x.completed()
	e.ID, e.Kind = e.ID+"_unpaid", dataplan.SessionUnpaid
	return e
}

func (x events) succeeded() dataplan.Event {
	e := x.event("payment_intent.succeeded", dataplan.PaymentSucceeded, time.Minute)
	e.IntentID, e.Amount = "pi_"+x.p.ID, x.p.Plan.Amount
	return e
}

func (x events) declined() dataplan.Event {
	e := x.event("payment_intent.payment_failed", dataplan.PaymentDeclined, 30*time.Second)
	e.IntentID = "pi_" + x.p.ID
	return e
}

// refunded carries no word of ours when bare, as a subscription's charges do not.
func (x events) refunded(sum int64, bare bool) dataplan.Event {
	e := x.event(fmt.Sprintf("charge.refunded.%d", sum), dataplan.ChargeRefunded, 2*time.Minute)
	e.IntentID, e.Refunded, e.Whole = "pi_"+x.p.ID, sum, sum == x.p.Plan.Amount
	if bare {
		e.Type, e.PurchaseID = "", ""
	}
	return e
}

func (x events) dispute(closed, won bool) dataplan.Event {
	e := x.event(fmt.Sprintf("charge.dispute.%v", closed), dataplan.DisputeChanged, 3*time.Minute)
	e.IntentID, e.DisputeID, e.Closed, e.Won, e.Type, e.PurchaseID = "pi_"+x.p.ID, "dp_"+x.p.ID, closed, won, "", ""
	return e
}

// invoice is of the n-th month.
func (x events) invoice(n int, paid bool) dataplan.Event {
	kind, name := dataplan.InvoiceUnpaid, "invoice.payment_failed"
	if paid {
		kind, name = dataplan.InvoicePaid, "invoice.paid"
	}
	e := x.event(fmt.Sprintf("%s.%d", name, n), kind, time.Minute)
	e.InvoiceID, e.SubscriptionID = fmt.Sprintf("in_%d_%s", n, x.p.ID), "sub_"+x.p.ID
	e.StartsAt, e.EndsAt = t0.AddDate(0, n, 0), t0.AddDate(0, n+1, 0)
	e.Type, e.PurchaseID = "", "" // known by the subscription alone
	if paid {
		e.Amount = x.p.Plan.Amount
		e.IntentID = fmt.Sprintf("pi_%d_%s", n, x.p.ID)
	}
	return e
}

func (x events) subscription(over bool) dataplan.Event {
	e := x.event(fmt.Sprintf("customer.subscription.%v", over), dataplan.SubscriptionChanged, 5*time.Minute)
	e.SubscriptionID, e.Over = "sub_"+x.p.ID, over
	return e
}
