package dataplan_test

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/opticworks/devicecloud/dataplan"
	"github.com/opticworks/devicecloud/registry"
)

func TestCheckoutRefuses(t *testing.T) {
	w := newWorld(t, engines["sqlite"](t))
	device, bare := w.device(), w.device()
	w.tx(func(ctx context.Context, tx dataplan.Tx) error {
		sim, ok, err := tx.SIMInDevice(ctx, bare)
		if err == nil && ok {
			_, err = tx.UnassignSIM(ctx, sim.ID, t0)
		}
		return err
	})
	w.gate.refuse["viewer "+device] = registry.ErrInsufficientRole
	w.gate.refuse["stranger "+device] = registry.ErrDeviceNotFound
	w.buy("neighbour", device, "other", "theirs")
	off := dataplan.New(w.db.DataPlans(), w.gate, dataplan.Options{})
	for name, c := range map[string]struct {
		service *dataplan.Service
		actor   registry.Actor
		order   dataplan.Order
		want    error
	}{
		"without a payment provider":           {off, user("u"), dataplan.Order{PlanID: "once", DeviceID: device, Key: "k"}, registry.ErrFeatureDisabled},
		"staff":                                {w.service, admin(), dataplan.Order{PlanID: "once", DeviceID: device, Key: "k"}, registry.ErrInsufficientRole},
		"a service account":                    {w.service, registry.Actor{Kind: registry.ActorService, ID: "s"}, dataplan.Order{PlanID: "once", DeviceID: device, Key: "k"}, registry.ErrInsufficientRole},
		"a viewer":                             {w.service, user("viewer"), dataplan.Order{PlanID: "once", DeviceID: device, Key: "k"}, registry.ErrInsufficientRole},
		"a stranger":                           {w.service, user("stranger"), dataplan.Order{PlanID: "once", DeviceID: device, Key: "k"}, registry.ErrDeviceNotFound},
		"no key":                               {w.service, user("u"), dataplan.Order{PlanID: "once", DeviceID: device}, registry.ErrInvalidRequest},
		"a long key":                           {w.service, user("u"), dataplan.Order{PlanID: "once", DeviceID: device, Key: strings.Repeat("k", 256)}, registry.ErrInvalidRequest},
		"an unknown plan":                      {w.service, user("u"), dataplan.Order{PlanID: "none", DeviceID: device, Key: "k"}, dataplan.ErrPlanNotFound},
		"a device without a SIM":               {w.service, user("u"), dataplan.Order{PlanID: "once", DeviceID: bare, Key: "k"}, dataplan.ErrNoSIM},
		"a SIM that is in another device":      {w.service, user("u"), dataplan.Order{PlanID: "once", DeviceID: device, ICCID: "8900000000999999999", Key: "k"}, dataplan.ErrNoSIM},
		"what somebody else is paying for":     {w.service, user("u"), dataplan.Order{PlanID: "other", DeviceID: device, Key: "k"}, dataplan.ErrPurchaseInProgress},
		"a key that was used for another plan": {w.service, user("neighbour"), dataplan.Order{PlanID: "once", DeviceID: device, Key: "theirs"}, dataplan.ErrKeyReused},
	} {
		_, _, err := c.service.Checkout(t.Context(), c.actor, c.order)
		is(t, name, err, c.want)
	}
	equal(t, "sessions", w.provider.made, 1)
}

func TestCheckoutAgain(t *testing.T) {
	eachEngine(t, func(t *testing.T, w *world) {
		device := w.device()
		order := dataplan.Order{PlanID: "once", DeviceID: device, Key: "k"}
		w.provider.fail = dataplan.ErrPaymentProvider
		_, _, err := w.service.Checkout(t.Context(), user("u"), order)
		is(t, "the provider fails", err, dataplan.ErrPaymentProvider)
		first, created, err := w.service.Checkout(t.Context(), user("u"), order)
		if err != nil || created || first.CheckoutURL == "" || first.SessionID == "" {
			t.Fatalf("the same request again: %+v %v %v", first, created, err)
		}
		again, created, err := w.service.Checkout(t.Context(), user("u"), dataplan.Order{PlanID: "once", DeviceID: device, Key: "other", ICCID: "8900000000000000001"})
		if err != nil || created || again.ID != first.ID || again.CheckoutURL != first.CheckoutURL {
			t.Fatalf("another request for the same SIM and plan: %+v %v %v", again, created, err)
		}
		// A declined card leaves the checkout open: nobody pays twice.
		w.take(events{first}.declined())
		equal(t, "the status", w.purchase(first.ID).Status, dataplan.Failed)
		equal(t, "the checkout after a declined card", w.buy("u", device, "once", "third").ID, first.ID)
		w.pass(3 * time.Hour)
		next := w.buy("u", device, "once", "fourth")
		if next.ID == first.ID || next.CheckoutURL == "" {
			t.Fatalf("after its end: %+v", next)
		}
		// Paid in the last moment, reported late: it counts.
		w.take(events{first}.completed())
		equal(t, "the first", w.purchase(first.ID).Status, dataplan.Paid)
		equal(t, "the next", w.purchase(next.ID).Status, dataplan.Pending)
		paid, created, err := w.service.Checkout(t.Context(), user("u"), order)
		if err != nil || created || paid.ID != first.ID || paid.CheckoutURL != "" {
			t.Fatalf("the first key when it was paid: %+v %v %v", paid, created, err)
		}
	})
}

// However many ask at once, one checkout is open for a SIM and plan.
func TestCheckoutAtOnce(t *testing.T) {
	eachEngine(t, func(t *testing.T, w *world) {
		device := w.device()
		var mu sync.Mutex
		ids := map[string]int{}
		var all sync.WaitGroup
		for i := range 40 {
			all.Go(func() {
				p, _, err := w.service.Checkout(t.Context(), user("u"), dataplan.Order{PlanID: "once", DeviceID: device, Key: fmt.Sprint("k", i%20)})
				mu.Lock()
				defer mu.Unlock()
				switch {
				case err == nil:
					ids[p.ID]++
				case !errors.Is(err, dataplan.ErrPurchaseInProgress) && registry.KindOf(err) != registry.Unavailable:
					t.Error(err)
				}
			})
		}
		all.Wait()
		if len(ids) != 1 || w.provider.made != 1 {
			t.Errorf("%d purchases, %d sessions: %v", len(ids), w.provider.made, ids)
		}
		equal(t, "audited", w.audits("purchase_created"), 1)
	})
}

// A guest learns whether a session was paid, its buyer what it is, anybody else nothing.
func TestSessions(t *testing.T) {
	w := newWorld(t, engines["sqlite"](t))
	p := w.buy("a", w.device(), "once", "k")
	paid, err := w.service.SessionStatus(t.Context(), p.SessionID)
	equal(t, "paid", fmt.Sprint(paid, err), "false <nil>")
	w.take(events{p}.completed())
	paid, err = w.service.SessionStatus(t.Context(), p.SessionID)
	equal(t, "paid", fmt.Sprint(paid, err), "true <nil>")
	_, err = w.service.SessionStatus(t.Context(), "cs_none")
	is(t, "an unknown session", err, dataplan.ErrSessionNotFound)
	if got, err := w.service.SessionPurchase(t.Context(), user("a"), p.SessionID); err != nil || got.ID != p.ID {
		t.Errorf("the buyer gets %+v %v", got, err)
	}
	for _, a := range []registry.Actor{user("b"), admin(), {Kind: registry.ActorService, ID: "a"}} {
		_, err := w.service.SessionPurchase(t.Context(), a, p.SessionID)
		is(t, a.String(), err, dataplan.ErrSessionNotFound)
	}
}

func TestRefundAndResume(t *testing.T) {
	w := newWorld(t, engines["sqlite"](t))
	p := w.buy("u", w.device(), "once", "k")
	x := events{p}
	support := registry.Actor{Kind: registry.ActorSupport, ID: "s", Scopes: []string{registry.ScopeConfigWrite}}
	refund := func(a registry.Actor, amount int64, key string) error {
		_, err := w.service.Refund(t.Context(), a, p.ID, amount, key, "")
		return err
	}
	is(t, "support", refund(support, 0, "r"), registry.ErrInsufficientRole)
	is(t, "without the scope", refund(registry.Actor{Kind: registry.ActorAdmin, ID: "a"}, 0, "r"), registry.ErrInsufficientScope)
	is(t, "what was not paid", refund(admin(), 0, "r"), dataplan.ErrNotRefundable)
	_, err := w.service.Resume(t.Context(), admin(), p.ID)
	is(t, "what is not held", err, dataplan.ErrNotHeld)
	wrong := x.completed()
	wrong.Amount = 1
	w.take(wrong)
	equal(t, "the status", w.purchase(p.ID).Status, dataplan.Hold)
	_, err = w.service.Resume(t.Context(), support, p.ID)
	is(t, "support", err, registry.ErrInsufficientRole)
	if _, err := w.service.Resume(t.Context(), admin(), p.ID); err != nil {
		t.Fatal(err)
	}
	equal(t, "the status", w.purchase(p.ID).Status, dataplan.Paid)
	again := x.succeeded()
	again.Amount = 1
	w.take(again)
	equal(t, "what was accepted stays so", w.purchase(p.ID).Status, dataplan.Paid)
	is(t, "more than the price", refund(admin(), -1, "r"), registry.ErrInvalidRequest)
	is(t, "no key", refund(admin(), 0, ""), registry.ErrInvalidRequest)
	w.provider.fail = dataplan.ErrPaymentProvider
	is(t, "the provider fails", refund(admin(), 100, "r"), dataplan.ErrPaymentProvider)
	is(t, "again", refund(admin(), 100, "r"), nil)
	equal(t, "refunds at the provider", len(w.provider.refunds), 1)
	equal(t, "it follows the provider's report", w.purchase(p.ID).Status, dataplan.Paid)
	w.take(x.refunded(990, true))
	is(t, "what was refunded", refund(admin(), 0, "s"), dataplan.ErrNotRefundable)
	equal(t, "audited", w.audits("refund_requested"), 2)
}

func TestRefundOfASubscriptionEndsIt(t *testing.T) {
	w := newWorld(t, engines["sqlite"](t))
	p := w.buy("u", w.device(), "monthly", "k")
	x := events{p}
	w.take(x.completed())
	w.take(x.invoice(0, true))
	if _, err := w.service.Refund(t.Context(), admin(), p.ID, 0, "r", "asked for"); err != nil {
		t.Fatal(err)
	}
	equal(t, "canceled", fmt.Sprint(w.provider.canceled), "[sub_"+p.ID+"]")
	if _, ok := w.provider.refunds["pi_0_"+p.ID+" r"]; !ok {
		t.Errorf("refunded %v", w.provider.refunds)
	}
}

// What fails between the two halves of it is done by the next try, also when the provider
// has reported the refund meanwhile: a subscription that goes on after it would be charged
// again.
func TestARefundThatWasCutOffEndsTheSubscription(t *testing.T) {
	for name, fail := range map[string]int{"the first half fails": 1, "the second half fails": 2} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t, engines["sqlite"](t))
			p := w.buy("u", w.device(), "monthly", "k")
			x := events{p}
			w.take(x.completed())
			w.take(x.invoice(0, true))
			w.provider.failAt = fail
			_, err := w.service.Refund(t.Context(), admin(), p.ID, 0, "r", "asked for")
			is(t, "the provider fails", err, dataplan.ErrPaymentProvider)
			if w.provider.moved > 0 {
				back := x.refunded(490, true)
				back.IntentID = "pi_0_" + p.ID
				w.take(back)
			}
			if _, err := w.service.Refund(t.Context(), admin(), p.ID, 0, "r", "asked for"); err != nil && w.provider.moved == 0 {
				t.Error("again:", err)
			}
			if w.provider.moved == 0 || len(w.provider.canceled) == 0 {
				t.Errorf("%d refunds, canceled %v", w.provider.moved, w.provider.canceled)
			}
		})
	}
}

// What no report told is found out by asking.
func TestReconcile(t *testing.T) {
	eachEngine(t, func(t *testing.T, w *world) {
		kinds := map[string]dataplan.ReportKind{"paid": dataplan.SessionPaid, "expired": dataplan.SessionExpired, "open": dataplan.SessionOpen, "on its way": dataplan.SessionUnpaid}
		want := map[string]dataplan.Status{
			"paid": dataplan.Paid, "expired": dataplan.Canceled, "open": dataplan.Pending, "on its way": dataplan.Pending, "never asked": dataplan.Canceled,
		}
		ids := map[string]string{}
		for name, kind := range kinds {
			p := w.buy("u", w.device(), "once", name)
			ids[name] = p.ID
			w.provider.reports[p.SessionID] = dataplan.Report{
				Kind: kind, Type: dataplan.MetadataType, SessionID: p.SessionID, IntentID: "pi_" + p.ID, Amount: 990, Currency: "usd",
			}
		}
		w.provider.fail = dataplan.ErrPaymentProvider
		device := w.device()
		_, _, err := w.service.Checkout(t.Context(), user("u"), dataplan.Order{PlanID: "once", DeviceID: device, Key: "never asked"})
		is(t, "the provider fails", err, dataplan.ErrPaymentProvider)
		w.tx(func(ctx context.Context, tx dataplan.Tx) error {
			p, _, err := tx.PurchaseByKey(ctx, "u", "never asked")
			ids["never asked"] = p.ID
			return err
		})
		reconcile := func() {
			t.Helper()
			if err := w.service.Reconcile(t.Context()); err != nil {
				t.Fatal(err)
			}
		}
		reconcile()
		for name, id := range ids {
			equal(t, name+" before its time", w.purchase(id).Status, dataplan.Pending)
		}
		w.pass(3 * time.Hour)
		reconcile()
		reconcile()
		for name, id := range ids {
			equal(t, name, w.purchase(id).Status, want[name])
		}
		// A report that comes after all changes nothing, or tells what is new.
		p := w.purchase(ids["paid"])
		w.take(events{p}.completed())
		equal(t, "the report after", w.purchase(p.ID).Status, dataplan.Paid)
	})
}

func TestPlansFile(t *testing.T) {
	w := newWorld(t, engines["sqlite"](t))
	load := func(text string) error {
		t.Helper()
		plans, err := dataplan.ParsePlans([]byte(text))
		if err != nil {
			t.Fatal(err)
		}
		return w.service.LoadPlans(t.Context(), plans)
	}
	const one = `{"plans":[{"id":"a","name":"A","amount":100,"currency":"eur","carrier_package":"P"},{"id":"b","name":"B","amount":200,"currency":"eur","carrier_package":"P"}]}`
	for range 2 {
		if err := load(one); err != nil {
			t.Fatal(err)
		}
	}
	equal(t, "created", w.audits("plan_created"), 3+2)
	device := w.device()
	p := w.buy("u", device, "a", "k")
	if err := load(`{"plans":[{"id":"a","name":"A","amount":150,"currency":"eur","carrier_package":"P"}]}`); err != nil {
		t.Fatal(err)
	}
	equal(t, "what was bought", w.purchase(p.ID).Plan.Amount, 100)
	equal(t, "changed", w.audits("plan_changed"), 2)
	_, _, err := w.service.Checkout(t.Context(), user("u"), dataplan.Order{PlanID: "b", DeviceID: device, Key: "gone"})
	is(t, "a plan that has gone from the file", err, dataplan.ErrPlanNotFound)
	_, err = w.service.ChangePlan(t.Context(), admin(), "a", func(p *dataplan.StoredPlan) { p.Amount = 1 })
	is(t, "a plan of the file", err, dataplan.ErrPlanFromFile)
	_, err = w.service.CreatePlan(t.Context(), admin(), dataplan.Plan{ID: "a", Name: "x", Amount: 1, Currency: "eur", CarrierPackage: "P"})
	is(t, "an id that is taken", err, dataplan.ErrPlanExists)
	if err := load(`{"plans":[{"id":"once","name":"A","amount":150,"currency":"eur","carrier_package":"P"}]}`); err == nil {
		t.Error("a plan of an administrator was taken over by the file")
	}
	if err := load(one); err != nil {
		t.Fatal(err)
	}
	w.buy("u", device, "b", "back")
}

func TestPlansFileRefuses(t *testing.T) {
	plan := func(more string) string {
		return `{"plans":[{"id":"a","name":"A","amount":100,"currency":"eur","carrier_package":"P"` + more + `}]}`
	}
	if _, err := dataplan.ParsePlans([]byte(plan(`,"days":30`))); err != nil {
		t.Fatal(err)
	}
	for _, text := range []string{
		``, `[]`, `{"plan":[]}`, plan("") + "x", plan(`,"amout":1`), plan(`,"amount":0`), plan(`,"amount":1.5`), plan(`,"amount":100000000`), plan(`,"currency":"EUR"`),
		plan(`,"id":"A"`), plan(`,"id":""`), plan(`,"name":""`), plan(`,"name":"a\nb"`), plan(`,"mode":"loan"`), plan(`,"mode":"subscription"`),
		plan(`,"mode":"subscription","interval":"hour"`), plan(`,"mode":"subscription","interval":"month","days":3`), plan(`,"mode":"subscription","interval":"month","interval_count":13`),
		plan(`,"interval":"month"`), plan(`,"carrier_package":""`), plan(`,"carrier_package":"a b"`), plan(`,"capabilities":["read"]`),
		plan(`,"capabilities":["live_view","live_view"]`), plan(`,"history_days":-1`), plan(`,"days":-1`), plan(`,"data_mb":-1`), plan(`,"description":"\u0000"`),
		`{"plans":[{"id":"a","name":"A","amount":1,"currency":"eur","carrier_package":"P"},{"id":"a","name":"A","amount":1,"currency":"eur","carrier_package":"P"}]}`,
	} {
		if _, err := dataplan.ParsePlans([]byte(text)); err == nil {
			t.Errorf("taken: %s", text)
		}
	}
}

// Only what the table has is a way.
func TestStages(t *testing.T) {
	all := []dataplan.Status{
		dataplan.Pending, dataplan.Canceled, dataplan.Failed, dataplan.Paid, dataplan.PendingAssignment, dataplan.Ordering, dataplan.Active, dataplan.Expired,
	}
	for _, from := range all {
		if _, ok := dataplan.Stages[from]; !ok {
			t.Errorf("%s has no row", from)
		}
	}
	w := newWorld(t, engines["sqlite"](t))
	p := w.buy("u", w.device(), "once", "k")
	w.activate(p, time.Time{}) // PENDING to ACTIVE
	got := w.purchase(p.ID)
	equal(t, "the stage", got.Stage, dataplan.Pending)
	equal(t, "audited", w.audits("transition_refused"), 1)
	w.take(events{p}.completed())
	w.take(events{p}.expired())
	equal(t, "a checkout that runs out after it was paid", w.purchase(p.ID).Status, dataplan.Paid)
	equal(t, "audited", w.audits("transition_refused"), 2)
}

func TestICCIDIsMasked(t *testing.T) {
	const number = "8900000000000000447"
	i, ok := dataplan.ParseICCID(number)
	if !ok {
		t.Fatal("refused")
	}
	for _, text := range []string{i.String(), fmt.Sprint(i), fmt.Sprintf("%d %q %x %#v %+v", i, i, i, i, struct{ I dataplan.ICCID }{i}), i.Masked()} {
		if strings.Contains(text, number) || strings.Contains(text, "38393030") {
			t.Errorf("shown: %s", text)
		}
	}
	equal(t, "masked", i.Masked(), "8900…0447")
	equal(t, "last four", i.Last4(), "0447")
	for _, bad := range []string{"", "1", number + "00000", "89000000000000004x7", strings.Repeat("9", 17)} {
		if _, ok := dataplan.ParseICCID(bad); ok {
			t.Errorf("%q is taken", bad)
		}
	}
}
