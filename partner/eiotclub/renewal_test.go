package eiotclub_test

import (
	"context"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/opticworks/devicecloud/dataplan"
	"github.com/opticworks/devicecloud/registry"
	"github.com/opticworks/devicecloud/standin/carrier"
)

var monthly = dataplan.Plan{
	ID: "m", Name: "Monthly", Mode: dataplan.ModeSubscription, Amount: 490, Currency: "eur", Interval: "month", DataMB: 1000, CarrierPackage: "PM",
	Capabilities: []string{"clip_download"},
}

// subscribed writes a subscription that nobody has paid yet.
func (w *world) subscribed(device string, iccid dataplan.ICCID) (id string) {
	w.t.Helper()
	w.n++
	id = fmt.Sprintf("%032x", w.n)
	w.tx(func(ctx context.Context, tx dataplan.Tx) error {
		_, err := tx.InsertPurchase(ctx, dataplan.Purchase{
			ID: id, UserID: "u", DeviceID: device, ICCID: iccid, Plan: monthly, Stage: dataplan.Pending, Status: dataplan.Pending, Key: id,
			ExpiresAt: w.clock().Add(time.Hour), OutTradeNo: id, CreatedAt: w.clock(), UpdatedAt: w.clock(),
		})
		return err
	})
	return id
}

// reports are what the payment provider says of a subscription.
func (w *world) reports(name string, r dataplan.Report) {
	w.t.Helper()
	w.n++ // another report that says the same has another id
	r.Currency = "eur"
	if _, err := w.Take(w.t.Context(), registry.System(), dataplan.Event{Report: r, ID: fmt.Sprint(name, w.n), Name: name, Created: w.clock()}); err != nil {
		w.t.Fatal(err)
	}
}

func (w *world) completed(id string) {
	w.t.Helper()
	w.reports("checkout.session.completed", dataplan.Report{
		Kind: dataplan.SessionPaid, Type: dataplan.MetadataType, PurchaseID: id, SessionID: "cs_" + id, SubscriptionID: "sub_" + id, Amount: 490,
	})
}

// invoice of the n-th month is paid.
func (w *world) invoice(id string, n int) {
	w.t.Helper()
	w.reports("invoice.paid", dataplan.Report{
		Kind: dataplan.InvoicePaid, SubscriptionID: "sub_" + id, InvoiceID: fmt.Sprintf("in_%d_%s", n, id), IntentID: fmt.Sprintf("pi_%d_%s", n, id), Amount: 490,
		StartsAt: t0.AddDate(0, n, 0), EndsAt: t0.AddDate(0, n+1, 0),
	})
}

// month lets time pass until an hour of the n-th month has.
func (w *world) month(n int) { w.pass(t0.AddDate(0, n, 0).Add(time.Hour).Sub(w.clock())) }

// begin lets the carrier's last package begin.
func (w *world) begin(sim dataplan.SIM) {
	w.t.Helper()
	orders := w.carrier.Orders()
	w.take(w.carrier.Notice("PkgEffective", "", field("iccid", string(sim.ICCID)), field("outTradeNo", orders[len(orders)-1].OutTradeNo)))
}

// ordered is how many orders the carrier has; each has a name of its own.
func (w *world) ordered(t *testing.T) int {
	t.Helper()
	names := map[string]bool{}
	for _, o := range w.carrier.Orders() {
		if o.OutTradeNo == "" || len(o.OutTradeNo) > 32 || names[o.OutTradeNo] {
			t.Errorf("an order has the name %q", o.OutTradeNo)
		}
		names[o.OutTradeNo] = true
	}
	return len(names)
}

// renewing is a subscription whose first month runs.
func (w *world) renewing(t *testing.T) (device string, sim dataplan.SIM, id string) {
	t.Helper()
	device = w.device()
	sim = w.sim(device)
	id = w.subscribed(device, sim.ICCID)
	before := w.ordered(t)
	w.invoice(id, 0) // before the checkout that began it
	w.completed(id)
	w.invoice(id, 0)
	_ = w.Fulfil(t.Context())
	w.begin(sim)
	if p := w.purchase(id); p.Stage != dataplan.Active || w.ordered(t) != before+1 {
		t.Fatalf("the first month: %s, %d orders", p.Stage, w.ordered(t)-before)
	}
	return device, sim, id
}

func (w *world) fulfil(t *testing.T, times int) {
	t.Helper()
	for range times {
		_ = w.Fulfil(t.Context()) // its errors are those of the faults
		w.pass(4 * time.Minute)
	}
}

func TestEachPaidPeriodIsOrderedOnce(t *testing.T) {
	eachEngine(t, func(t *testing.T, w *world) {
		device, sim, id := w.renewing(t)
		w.invoice(id, 1) // before its time
		w.fulfil(t, 2)
		if n := w.ordered(t); n != 1 {
			t.Errorf("%d orders before the second month", n)
		}
		w.month(1)
		w.fulfil(t, 1)
		w.invoice(id, 1)
		w.fulfil(t, 2)
		if n := w.ordered(t); n != 2 {
			t.Errorf("%d orders in the second month", n)
		}
		if o := w.carrier.Orders()[1]; o.ICCID != string(sim.ICCID) || o.PackageCode != "PM" {
			t.Errorf("the order is %+v", o)
		}
		w.begin(sim)
		if p, sim := w.purchase(id), w.simOf(sim); p.Status != dataplan.Active || !w.entitled(device) || !sim.PlanEndsAt.Equal(t0.AddDate(0, 2, 0)) {
			t.Errorf("renewed: %s, the SIM until %s", p.Status, sim.PlanEndsAt)
		}
		// The third is paid late: the service has ended, and begins with the package.
		w.month(2)
		w.pass(50 * time.Hour)
		if err := w.Reconcile(t.Context()); err != nil {
			t.Fatal(err)
		}
		if p := w.purchase(id); p.Stage != dataplan.Expired {
			t.Errorf("unpaid for two days: %s", p.Stage)
		}
		w.invoice(id, 2)
		w.fulfil(t, 2)
		if p := w.purchase(id); p.Stage != dataplan.Expired || w.entitled(device) {
			t.Errorf("paid late: %s", p.Stage)
		}
		// Nobody reports the beginning: it is asked for.
		_ = w.carrier.Begin(w.carrier.Orders()[2].ID) // nobody listens
		w.pass(time.Hour)
		w.fulfil(t, 1)
		if p := w.purchase(id); p.Stage != dataplan.Active || !w.entitled(device) || w.ordered(t) != 3 {
			t.Errorf("begun late: %s, %d orders", p.Stage, w.ordered(t))
		}
	})
}

func TestRenewalsThatAreNotOrdered(t *testing.T) {
	refund := func(w *world, id string, n int, whole bool) {
		w.reports("charge.refunded", dataplan.Report{Kind: dataplan.ChargeRefunded, IntentID: fmt.Sprintf("pi_%d_%s", n, id), Refunded: 490, Whole: whole})
	}
	dispute := func(w *world, id string, n int, won bool) {
		w.reports("charge.dispute", dataplan.Report{Kind: dataplan.DisputeChanged, IntentID: fmt.Sprintf("pi_%d_%s", n, id), DisputeID: "dp_" + id, Closed: won, Won: won})
	}
	for name, c := range map[string]struct {
		first func(w *world, id, device string)
		then  func(w *world, id, device string) // nil: it is never ordered
	}{
		"its money was given back": {func(w *world, id, _ string) { refund(w, id, 1, true) }, nil},
		"all was given back": {func(w *world, id, _ string) {
			refund(w, id, 0, true)
			refund(w, id, 1, true)
		}, nil},
		"the carrier gave the running package back": {func(w *world, id, _ string) {
			w.take(w.carrier.Notice("Refund", "", field("outTradeNo", id), field("refundAmount", "4.90")))
		}, nil},
		"it is disputed, until that is won": {
			func(w *world, id, _ string) { dispute(w, id, 1, false) }, func(w *world, id, _ string) { dispute(w, id, 1, true) },
		},
		"the device has no SIM, until it has": {
			func(w *world, _, device string) { w.remove(device) }, func(w *world, _, device string) { w.sim(device) },
		},
	} {
		t.Run(name, func(t *testing.T) {
			eachEngine(t, func(t *testing.T, w *world) {
				device, _, id := w.renewing(t)
				w.month(1)
				w.invoice(id, 1)
				c.first(w, id, device)
				w.fulfil(t, 3)
				if n := w.ordered(t); n != 1 {
					t.Errorf("%d orders", n)
				}
				if c.then == nil {
					return
				}
				c.then(w, id, device)
				w.fulfil(t, 2)
				if n := w.ordered(t); n != 2 {
					t.Errorf("%d orders after that", n)
				}
			})
		})
	}
}

// remove takes the SIM out of a device.
func (w *world) remove(device string) {
	w.t.Helper()
	list, err := w.SIMs(w.t.Context(), registry.System(), dataplan.SIMFilter{DeviceID: device})
	if err == nil {
		_, err = w.UnassignSIM(w.t.Context(), registry.System(), list[0].ID)
	}
	if err != nil {
		w.t.Fatal(err)
	}
}

// Lost answers and killed processes: the further period is ordered once too.
func TestRenewalsAreNeverOrderedTwice(t *testing.T) {
	eachEngine(t, func(t *testing.T, w *world) {
		kills, least := 0, 16
		all := []carrier.Fault{carrier.None, carrier.LoseBefore, carrier.LoseAfter, carrier.Garbled}
		if w.few() {
			all, least = []carrier.Fault{carrier.LoseAfter}, 4
		}
		for _, fault := range all {
			for step := 1; step <= 4; step++ {
				for _, after := range []bool{false, true} {
					what := fmt.Sprintf("fault %d, killed at step %d, after it: %t", fault, step, after)
					_, sim, id := w.renewing(t)
					start := w.clock()
					before := w.ordered(t)
					w.pass(t0.AddDate(0, 1, 1).Sub(t0))
					w.reports("invoice.paid", dataplan.Report{
						Kind: dataplan.InvoicePaid, SubscriptionID: "sub_" + id, InvoiceID: "in_1_" + id, IntentID: "pi_1_" + id, Amount: 490,
						StartsAt: start, EndsAt: start.AddDate(0, 2, 0),
					})
					d := &death{step: step, after: after}
					w.restart(d)
					w.carrier.Fail(fault)
					w.fulfil(t, 2)
					if d.died() {
						kills++
					}
					w.restart(nil)
					w.fulfil(t, 3)
					w.carrier.Forget()
					if n := w.ordered(t) - before; n != 1 {
						t.Fatalf("%s: %d orders", what, n)
					}
					w.begin(sim)
				}
			}
		}
		if kills < least {
			t.Errorf("only %d processes were killed", kills)
		}
	})
}

func administrator() registry.Actor {
	return registry.Actor{Kind: registry.ActorAdmin, ID: "root", Scopes: []string{registry.ScopeConfigWrite}}
}

// What the carrier refused is visible, heard, and ordered again when an administrator
// says so: once.
func TestRefusedOrdersAreRetried(t *testing.T) {
	eachEngine(t, func(t *testing.T, w *world) {
		retry := func(id string) error {
			_, err := w.Retry(t.Context(), administrator(), id)
			return err
		}
		alerts := func(id string) (n int) {
			for _, c := range w.heard() {
				if c.Kind == registry.ChangePurchaseFailed && c.Purchase.ID == id {
					n++
				}
			}
			return n
		}
		device := w.device()
		own := w.paid(device, w.sim(device).ICCID)
		if err := retry(own); err == nil {
			t.Error("what was not refused is ordered again")
		}
		w.refuseNext(t, own)
		w.fulfil(t, 1)
		if p := w.purchase(own); p.Status != dataplan.Failed || alerts(own) != 1 || w.ordered(t) != 0 {
			t.Fatalf("refused: %s, heard %d times", p.Status, alerts(own))
		}
		for _, a := range []registry.Actor{{Kind: registry.ActorUser, ID: "u"}, {Kind: registry.ActorSupport, ID: "s"}, {Kind: registry.ActorService, ID: "x"}} {
			if _, err := w.Retry(t.Context(), a, own); registry.KindOf(err) != registry.Forbidden {
				t.Errorf("%s: %v", a.Kind, err)
			}
		}
		if err := retry(own); err != nil {
			t.Fatal(err)
		}
		if err := retry(own); err == nil {
			t.Error("a second retry at once is taken")
		}
		w.carrier.Fail(carrier.None, carrier.None, carrier.None, carrier.LoseAfter) // three questions, and the order
		w.through(t, own)
		if p := w.purchase(own); p.Stage != dataplan.Ordering || w.ordered(t) != 1 || w.audits("fulfilment_retried") != 1 {
			t.Errorf("retried: %s, %d orders", p.Stage, w.ordered(t))
		}

		device, sim, id := w.renewing(t)
		w.month(1)
		w.invoice(id, 1)
		w.refuseNext(t, id)
		if p := w.purchase(id); p.Status != dataplan.Failed || p.Stage != dataplan.Active || alerts(id) != 1 || !w.entitled(device) {
			t.Fatalf("a renewal that is refused: %s %s, heard %d times, entitled %t", p.Status, p.Stage, alerts(id), w.entitled(device))
		}
		if err := retry(id); err != nil {
			t.Fatal(err)
		}
		w.fulfil(t, 3)
		if p := w.purchase(id); p.Status != dataplan.Active || w.ordered(t) != 3 {
			t.Errorf("a renewal that is retried: %s, %d orders", p.Status, w.ordered(t))
		}
		w.begin(sim)

		// The carrier refuses, and has it after all: it is asked before it is ordered again.
		device = w.device()
		late := w.sim(device).ICCID
		second := w.paid(device, late)
		w.refuseNext(t, second)
		if _, err := w.ask.Order(t.Context(), dataplan.CarrierOrder{ICCID: late, PackageCode: plan.CarrierPackage, OutTradeNo: second}); err != nil {
			t.Fatal(err)
		}
		if err := retry(second); err != nil {
			t.Fatal(err)
		}
		w.through(t, second)

		// ...or its report repairs what has failed.
		device = w.device()
		third := w.paid(device, w.sim(device).ICCID)
		w.refuseNext(t, third)
		w.take(w.carrier.Notice("PkgEffective", "", field("outTradeNo", third)))
		if p := w.purchase(third); p.Stage != dataplan.Active || !w.entitled(device) {
			t.Errorf("begun after a refusal: %s", p.Stage)
		}
	})
}

// refuseNext works with a carrier that refuses every order and nothing else.
func (w *world) refuseNext(t *testing.T, id string) {
	t.Helper()
	w.ask.refuse = true
	defer func() { w.ask.refuse = false }()
	w.fulfil(t, 1)
	if p := w.purchase(id); p.Status != dataplan.Failed {
		t.Fatalf("refused, it is %s", p.Status)
	}
}

func TestRenewalNames(t *testing.T) {
	w := newWorld(t, "sqlite:"+t.TempDir()+"/d.db")
	_, _, id := w.renewing(t)
	w.month(1)
	w.invoice(id, 1)
	w.fulfil(t, 1)
	if o := w.carrier.Orders()[1]; len(o.OutTradeNo) != 32 || o.OutTradeNo == id || strings.Trim(o.OutTradeNo, "0123456789abcdef") != "" {
		t.Errorf("the second order is called %q", o.OutTradeNo)
	}
}
