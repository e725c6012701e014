package dataplan_test

import (
	"fmt"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/opticworks/devicecloud/dataplan"
	"github.com/opticworks/devicecloud/registry"
)

// story is what the provider reports of one purchase, and where it ends.
type story struct {
	name   string
	plan   string
	events func(x events) []dataplan.Event
	status dataplan.Status
	stage  dataplan.Status
}

var stories = []story{
	{"paid", "once", func(x events) []dataplan.Event { return []dataplan.Event{x.completed(), x.succeeded()} }, dataplan.Paid, dataplan.Paid},
	{"paid after a declined card", "once", func(x events) []dataplan.Event {
		return []dataplan.Event{x.declined(), x.completed(), x.succeeded()}
	}, dataplan.Paid, dataplan.Paid},
	{"money that takes days", "once", func(x events) []dataplan.Event { return []dataplan.Event{x.unpaid(), x.completed(), x.succeeded()} }, dataplan.Paid, dataplan.Paid},
	{"money that never comes", "once", func(x events) []dataplan.Event { return []dataplan.Event{x.unpaid(), x.asyncFailed(), x.declined()} }, dataplan.Failed, dataplan.Failed},
	{"given up", "once", func(x events) []dataplan.Event { return []dataplan.Event{x.expired()} }, dataplan.Canceled, dataplan.Canceled},
	{"given up after a declined card", "once", func(x events) []dataplan.Event { return []dataplan.Event{x.declined(), x.expired()} }, dataplan.Failed, dataplan.Failed},
	{"refunded in steps", "once", func(x events) []dataplan.Event {
		return []dataplan.Event{x.completed(), x.succeeded(), x.refunded(100, false), x.refunded(400, true), x.refunded(990, false)}
	}, dataplan.Refunded, dataplan.Paid},
	{"refunded in part", "once", func(x events) []dataplan.Event {
		return []dataplan.Event{x.completed(), x.refunded(100, true), x.refunded(400, true)}
	}, dataplan.PartiallyRefunded, dataplan.Paid},
	{"a refund that names nothing of ours", "once", func(x events) []dataplan.Event { return []dataplan.Event{x.completed(), x.refunded(990, true)} }, dataplan.Refunded, dataplan.Paid},
	{"a dispute that is won", "once", func(x events) []dataplan.Event {
		return []dataplan.Event{x.completed(), x.succeeded(), x.dispute(false, false), x.dispute(true, true)}
	}, dataplan.Paid, dataplan.Paid},
	{"a dispute that is lost", "once", func(x events) []dataplan.Event {
		return []dataplan.Event{x.completed(), x.dispute(false, false), x.dispute(true, false)}
	}, dataplan.Disputed, dataplan.Paid},
	{"a dispute and a refund", "once", func(x events) []dataplan.Event {
		return []dataplan.Event{x.completed(), x.succeeded(), x.dispute(false, false), x.refunded(990, true)}
	}, dataplan.Refunded, dataplan.Paid},
	{"another price", "once", func(x events) []dataplan.Event {
		cheap := x.succeeded()
		cheap.Amount = 99
		return []dataplan.Event{x.completed(), cheap}
	}, dataplan.Hold, dataplan.Paid},
	{"another currency", "once", func(x events) []dataplan.Event {
		e := x.completed()
		e.Currency = "jpy"
		return []dataplan.Event{e, x.succeeded()}
	}, dataplan.Hold, dataplan.Paid},
	{"a subscription", "monthly", func(x events) []dataplan.Event {
		return []dataplan.Event{x.completed(), x.invoice(0, true), x.invoice(1, true), x.subscription(false)}
	}, dataplan.Paid, dataplan.Paid},
	{"an unpaid invoice", "monthly", func(x events) []dataplan.Event {
		return []dataplan.Event{x.completed(), x.invoice(0, true), x.invoice(1, false), x.subscription(false)}
	}, dataplan.PastDue, dataplan.Paid},
	{"an invoice paid late", "monthly", func(x events) []dataplan.Event {
		return []dataplan.Event{x.completed(), x.invoice(0, true), x.invoice(1, false), x.invoice(1, true)}
	}, dataplan.Paid, dataplan.Paid},
	{"a subscription that ends", "monthly", func(x events) []dataplan.Event {
		return []dataplan.Event{x.completed(), x.invoice(0, true), x.invoice(1, false), x.subscription(false), x.subscription(true)}
	}, dataplan.Paid, dataplan.Paid},
}

// Whatever order the reports come in, and however often, a purchase ends where it ends.
func TestEveryOrderOfReportsEndsAlike(t *testing.T) {
	eachEngine(t, func(t *testing.T, w *world) {
		n := 0
		for _, st := range stories {
			t.Run(st.name, func(t *testing.T) {
				run := func(order func([]dataplan.Event) []dataplan.Event) string {
					n++
					p := w.buy(fmt.Sprintf("u%d", n), w.device(), st.plan, "k")
					list := st.events(events{p})
					for _, e := range order(list) {
						w.take(e)
					}
					got := w.purchase(p.ID)
					return fmt.Sprintf("%s %s paid %s closed %v url %q session %v ended %s", got.Status, got.Stage, got.PaidAt, !got.ClosedAt.IsZero(), got.CheckoutURL,
						got.SessionID == "cs_"+p.ID, got.EndedAt)
				}
				want := run(func(l []dataplan.Event) []dataplan.Event { return l })
				if !strings.HasPrefix(want, fmt.Sprintf("%s %s ", st.status, st.stage)) {
					t.Fatalf("it ends as %s, want %s %s", want, st.status, st.stage)
				}
				rapid.Check(t, func(rt *rapid.T) {
					var told []string
					got := run(func(l []dataplan.Event) []dataplan.Event {
						l = rapid.Permutation(l).Draw(rt, "order")
						again := rapid.SliceOfN(rapid.IntRange(0, len(l)-1), 0, 3).Draw(rt, "again")
						for _, i := range again {
							l = append(l, l[i])
						}
						for _, e := range l {
							told = append(told, e.Name)
						}
						return l
					})
					if got != want {
						rt.Fatalf("%s, want %s, after %v", got, want, told)
					}
				})
			})
		}
	})
}

func TestAReportManyTimesAtOnce(t *testing.T) {
	eachEngine(t, func(t *testing.T, w *world) {
		p := w.buy("u", w.device(), "once", "k")
		x := events{p}
		for _, e := range []dataplan.Event{x.completed(), x.succeeded(), x.refunded(990, false)} {
			var handled, other atomic.Int64
			var all sync.WaitGroup
			for range 200 {
				all.Go(func() {
					for {
						o, err := w.service.Take(t.Context(), registry.System(), e)
						switch {
						case registry.KindOf(err) == registry.Unavailable && err != nil:
							continue // the sender tries again
						case err == nil && o == dataplan.Handled:
							handled.Add(1)
						case err == nil && o == dataplan.Duplicate:
						default:
							other.Add(1)
							t.Errorf("%s: %v %v", e.Name, o, err)
						}
						return
					}
				})
			}
			all.Wait()
			equal(t, e.Name+" had an effect", handled.Load(), 1)
		}
		equal(t, "the status", w.purchase(p.ID).Status, dataplan.Refunded)
		equal(t, "transitions", w.audits("purchase_transition"), 2) // PAID, REFUNDED
	})
}

func TestWhatIsNotOurs(t *testing.T) {
	w := newWorld(t, engines["sqlite"](t))
	p := w.buy("u", w.device(), "once", "k")
	x := events{p}
	shop := x.completed()
	shop.ID, shop.Type = "evt_shop", "order"
	equal(t, "the shop's event", w.take(shop), dataplan.Ignored)
	equal(t, "an unknown type", w.take(dataplan.Event{ID: "evt_1", Name: "account.updated"}), dataplan.Ignored)
	lost := x.completed()
	lost.ID, lost.PurchaseID, lost.SessionID = "evt_lost", strings.Repeat("0", 32), "cs_lost"
	equal(t, "of a purchase that nobody knows", w.take(lost), dataplan.Unmatched)
	equal(t, "audited", w.audits("purchase_unmatched"), 1)
	live := x.completed()
	live.ID, live.Livemode = "evt_live", true
	equal(t, "of the other mode", w.take(live), dataplan.LivemodeMismatch)
	equal(t, "audited", w.audits("livemode_mismatch"), 1)
	equal(t, "the purchase", w.purchase(p.ID).Status, dataplan.Pending)
}

// A report that gives two purchases one name is taken, and the name stays where it was.
func TestNamesStay(t *testing.T) {
	eachEngine(t, func(t *testing.T, w *world) {
		first, second := w.buy("u", w.device(), "once", "1"), w.buy("u", w.device(), "monthly", "2")
		w.take(events{first}.completed())
		e := events{second}.completed()
		e.SessionID, e.IntentID = first.SessionID, "pi_"+first.ID
		equal(t, "the outcome", w.take(e), dataplan.Handled)
		equal(t, "the first", w.purchase(first.ID).SessionID, first.SessionID)
		equal(t, "the second", w.purchase(second.ID).SessionID, second.SessionID)
	})
}

// A failure while the event is taken leaves nothing: the sender's next try has the effect.
func TestAFailureRollsBack(t *testing.T) {
	w := newWorld(t, engines["sqlite"](t))
	p := w.buy("u", w.device(), "once", "k")
	w.provider.fail = dataplan.ErrPaymentProvider
	_, err := w.service.Take(t.Context(), registry.System(), events{p}.completed())
	is(t, "asking the provider failed", err, dataplan.ErrPaymentProvider)
	equal(t, "the purchase", w.purchase(p.ID).Status, dataplan.Pending)
	equal(t, "the next try", w.take(events{p}.completed()), dataplan.Handled)
	equal(t, "the purchase", w.purchase(p.ID).Status, dataplan.Paid)
}

// What people may see follows the money, from the carrier's word on.
func TestEntitlementFollowsTheMoney(t *testing.T) {
	eachEngine(t, func(t *testing.T, w *world) {
		device := w.device()
		p := w.buy("u", device, "once", "k")
		x := events{p}
		w.take(x.completed())
		equal(t, "entitled when it is only paid", w.entitled(device), false)
		w.activate(p, t0.AddDate(0, 0, 30))
		equal(t, "entitled when the carrier has confirmed", w.entitled(device), true)
		w.take(x.dispute(false, false))
		equal(t, "the status", w.purchase(p.ID).Status, dataplan.Disputed)
		equal(t, "entitled while it is disputed", w.entitled(device), false)
		w.take(x.dispute(true, true))
		equal(t, "entitled when the dispute is won", w.entitled(device), true)
		w.take(x.refunded(100, false))
		equal(t, "entitled when a part is refunded", w.entitled(device), true)
		w.take(x.refunded(990, false))
		equal(t, "entitled when all is refunded", w.entitled(device), false)
	})
}

func TestASubscriptionLives(t *testing.T) {
	eachEngine(t, func(t *testing.T, w *world) {
		device := w.device()
		p := w.buy("u", device, "monthly", "k")
		x := events{p}
		for _, e := range []dataplan.Event{x.invoice(0, true), x.completed()} {
			w.take(e)
		}
		w.activate(p, time.Time{})
		equal(t, "paid until", w.purchase(p.ID).ActiveUntil, t0.AddDate(0, 1, 0))
		w.pass(32 * 24 * time.Hour) // the first month is over
		w.take(x.invoice(1, false))
		equal(t, "the status", w.purchase(p.ID).Status, dataplan.PastDue)
		equal(t, "entitled a day after the month", w.entitled(device), false)
		if err := w.service.Reconcile(t.Context()); err != nil {
			t.Fatal(err)
		}
		equal(t, "the stage", w.purchase(p.ID).Stage, dataplan.Expired)
		w.take(x.invoice(1, true))
		equal(t, "the status when it is paid late", w.purchase(p.ID).Status, dataplan.Active)
		equal(t, "entitled again", w.entitled(device), true)
		w.take(x.subscription(true))
		equal(t, "entitled to the end of what is paid", w.entitled(device), true)
		w.pass(30 * 24 * time.Hour)
		if err := w.service.Reconcile(t.Context()); err != nil {
			t.Fatal(err)
		}
		equal(t, "the stage at the end", w.purchase(p.ID).Stage, dataplan.Expired)
		equal(t, "entitled at the end", w.entitled(device), false)
	})
}

// Whoever was erased pays no more: nobody is left who could end what renews itself.
func TestAnErasedBuyerPaysNoMore(t *testing.T) {
	eachEngine(t, func(t *testing.T, w *world) {
		purchases := map[string]dataplan.Purchase{}
		for _, id := range []string{"gone", "stays"} {
			p := w.buy(id, w.device(), "monthly", "k")
			x := events{p}
			w.take(x.completed())
			w.take(x.invoice(0, true))
			purchases[id] = p
		}
		single := w.buy("gone", w.device(), "once", "k2")
		w.take(events{single}.completed())
		reconcile := func() error { return w.service.Reconcile(t.Context()) }
		is(t, "while everybody is there", reconcile(), nil)
		equal(t, "ended", len(w.provider.canceled), 0)
		w.erase("gone")
		w.provider.fail = dataplan.ErrPaymentProvider
		is(t, "the provider fails", reconcile(), dataplan.ErrPaymentProvider)
		is(t, "again", reconcile(), nil)
		is(t, "and again", reconcile(), nil)
		equal(t, "ended", fmt.Sprint(w.provider.canceled), "[sub_"+purchases["gone"].ID+"]")
		equal(t, "it is known that it ends", w.purchase(purchases["gone"].ID).EndedAt.IsZero(), false)
		equal(t, "another one goes on", w.purchase(purchases["stays"].ID).EndedAt.IsZero(), true)
		equal(t, "what was paid once stays", w.purchase(single.ID).Status, dataplan.Paid)
		equal(t, "audited", w.audits("subscription_ended"), 1)
		report := events{purchases["gone"]}.subscription(true)
		w.take(report)
		equal(t, "the provider's report after it", w.purchase(purchases["gone"].ID).Status, dataplan.Paid)
	})
}
