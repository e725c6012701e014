package eiotclub_test

import (
	"context"
	"fmt"
	"sync"
	"testing"
	"time"

	"github.com/opticworks/devicecloud/dataplan"
	"github.com/opticworks/devicecloud/registry"
	"github.com/opticworks/devicecloud/standin/carrier"
)

func TestPaidPlanBegins(t *testing.T) {
	eachEngine(t, func(t *testing.T, w *world) {
		device := w.device()
		sim := w.sim(device)
		id := w.paid(device, sim.ICCID)
		if err := w.Fulfil(t.Context()); err != nil {
			t.Fatal(err)
		}
		p := w.purchase(id)
		if p.Stage != dataplan.Ordering || p.CarrierOrderID == "" || w.entitled(device) {
			t.Fatalf("after the order: %s, order %q, entitled %t", p.Stage, p.CarrierOrderID, w.entitled(device))
		}
		orders := w.carrier.Orders()
		if len(orders) != 1 || orders[0].OutTradeNo != id || len(id) != 32 || orders[0].ICCID != string(sim.ICCID) || orders[0].PackageCode != "P100" {
			t.Fatalf("the carrier has %+v", orders)
		}
		w.take(w.carrier.Notice("PkgEffective", "e1", carrier.Field{Name: "iccid", Value: string(sim.ICCID)}))
		p, sim = w.purchase(id), w.simOf(sim)
		if p.Stage != dataplan.Active || !w.entitled(device) || !p.ActiveUntil.Equal(t0.AddDate(0, 0, 30)) {
			t.Fatalf("after it began: %s until %s, entitled %t", p.Stage, p.ActiveUntil, w.entitled(device))
		}
		if sim.Status != dataplan.SIMActive || sim.Plan != "1 GB" || !sim.PlanEndsAt.Equal(p.ActiveUntil) || sim.TotalMB != 1000 {
			t.Errorf("the SIM is %+v", sim)
		}
		w.pass(31 * 24 * time.Hour)
		if w.entitled(device) {
			t.Error("the plan has ended, and the device is entitled")
		}
		if c, blocked := sim.Blocked(w.clock()); !blocked || c.Reason != dataplan.PlanEnded {
			t.Errorf("the SIM is blocked %t for %s", blocked, c.Reason)
		}
	})
}

func TestPlanThatNobodyReportsIsAskedFor(t *testing.T) {
	eachEngine(t, func(t *testing.T, w *world) {
		device := w.device()
		sim := w.sim(device)
		id := w.paid(device, sim.ICCID)
		_ = w.Fulfil(t.Context())
		if err := w.carrier.Begin(w.carrier.Orders()[0].ID); err != nil { // nobody listens
			t.Fatal(err)
		}
		w.pass(61 * time.Minute)
		if err := w.Fulfil(t.Context()); err != nil {
			t.Fatal(err)
		}
		if p := w.purchase(id); p.Stage != dataplan.Active || !w.entitled(device) {
			t.Errorf("an hour later it is %s", p.Stage)
		}
	})
}

func TestPurchaseWaitsForASIM(t *testing.T) {
	eachEngine(t, func(t *testing.T, w *world) {
		device := w.device()
		sim := w.sim("")
		id := w.paid(device, "8900000000000000999")
		for range 3 {
			if err := w.Fulfil(t.Context()); err != nil {
				t.Fatal(err)
			}
			if p := w.purchase(id); p.Stage != dataplan.PendingAssignment {
				t.Fatalf("without a SIM it is %s", p.Stage)
			}
			w.pass(time.Minute)
		}
		if asked, _, _ := w.carrier.Asked(); asked != 0 {
			t.Errorf("the carrier was asked %d times", asked)
		}
		if n := w.audits("purchase_transition"); n != 1 {
			t.Errorf("%d transitions are in the trail", n)
		}
		if _, err := w.AssignSIM(t.Context(), registry.System(), sim.ID, device); err != nil {
			t.Fatal(err)
		}
		if err := w.Fulfil(t.Context()); err != nil {
			t.Fatal(err)
		}
		if p := w.purchase(id); p.Stage != dataplan.Ordering || p.ICCID != sim.ICCID || len(w.carrier.Orders()) != 1 {
			t.Errorf("with a SIM it is %s for %s, %d orders", p.Stage, p.ICCID, len(w.carrier.Orders()))
		}
	})
}

func TestRefusedOrderFails(t *testing.T) {
	eachEngine(t, func(t *testing.T, w *world) {
		device := w.device()
		id := w.paid(device, w.sim(device).ICCID)
		w.carrier.Fail(carrier.Refuse)
		if err := w.Fulfil(t.Context()); err != nil {
			t.Fatal(err)
		}
		if p := w.purchase(id); p.Stage != dataplan.Failed || w.Counters().CarrierFailed.Load() != 1 {
			t.Errorf("it is %s", p.Stage)
		}
		w.pass(time.Hour)
		_ = w.Fulfil(t.Context())
		if n := len(w.carrier.Orders()); n != 0 {
			t.Errorf("it was ordered %d times after it had failed", n)
		}
	})
}

// outcomeOf lets time pass until a purchase is through, and checks that it was ordered
// once, or never when it failed.
func (w *world) through(t *testing.T, id string) {
	t.Helper()
	for range 14 {
		_ = w.Fulfil(t.Context()) // its errors are those of the faults
		p := w.purchase(id)
		var mine []carrier.Order
		for _, o := range w.carrier.Orders() {
			if o.OutTradeNo == id {
				mine = append(mine, o)
			}
		}
		switch {
		case len(mine) > 1:
			t.Fatalf("it was ordered %d times", len(mine))
		case p.Stage == dataplan.Failed && len(mine) > 0:
			t.Fatal("it failed, and the carrier has it")
		case p.Stage == dataplan.Failed:
			return
		case p.CarrierOrderID != "":
			if len(mine) != 1 || mine[0].ID != p.CarrierOrderID {
				t.Fatalf("we have order %s, the carrier %+v", p.CarrierOrderID, mine)
			}
			return
		}
		w.pass(4 * time.Minute)
	}
	t.Fatalf("it is still %s after an hour", w.purchase(id).Stage)
}

var faults = []carrier.Fault{
	carrier.None, carrier.LoseBefore, carrier.LoseAfter, carrier.Broken, carrier.BrokenAfter, carrier.Refuse, carrier.Garbled, carrier.Late,
}

// Whatever is lost between us and the carrier, nothing is ordered twice.
func TestLostAnswersNeverOrderTwice(t *testing.T) {
	eachEngine(t, func(t *testing.T, w *world) {
		cases := 0
		for _, first := range faults {
			for _, second := range faults {
				third := faults[cases%len(faults)]
				cases++
				if w.few() && cases%5 != 0 {
					continue
				}
				t.Run(fmt.Sprintf("%d %d %d", first, second, third), func(t *testing.T) {
					device := w.device()
					id := w.paid(device, w.sim(device).ICCID)
					w.carrier.Fail(first, second, third)
					w.through(t, id)
					w.carrier.Forget()
				})
			}
		}
		t.Logf("%d cases", cases)
	})
}

// A process that is killed at any of its steps, before or after the step has left its
// trace, is followed by one that goes on: nothing is ordered twice, nothing forgotten.
func TestKilledProcessesNeverOrderTwice(t *testing.T) {
	eachEngine(t, func(t *testing.T, w *world) {
		kills, least := 0, 40
		all := []carrier.Fault{carrier.None, carrier.LoseBefore, carrier.LoseAfter, carrier.BrokenAfter, carrier.Refuse}
		if w.few() {
			all, least = []carrier.Fault{carrier.LoseAfter}, 8
		}
		for _, fault := range all {
			for step := 1; step <= 7; step++ {
				for _, after := range []bool{false, true} {
					t.Run(fmt.Sprintf("fault %d, killed at step %d, after it: %t", fault, step, after), func(t *testing.T) {
						device := w.device()
						id := w.paid(device, w.sim(device).ICCID)
						d := &death{step: step, after: after}
						w.restart(d)
						w.carrier.Fail(fault)
						for range 4 {
							_ = w.Fulfil(t.Context())
							w.pass(4 * time.Minute)
						}
						if d.died() {
							kills++
						}
						w.restart(nil)
						w.through(t, id)
						w.carrier.Forget()
					})
				}
			}
		}
		if kills < least {
			t.Errorf("only %d processes were killed", kills)
		}
		t.Logf("%d kills", kills)
	})
}

// Two processes at once: each purchase is worked on by one.
func TestSeveralWorkersOrderOnce(t *testing.T) {
	eachEngine(t, func(t *testing.T, w *world) {
		var ids []string
		for range 12 {
			device := w.device()
			ids = append(ids, w.paid(device, w.sim(device).ICCID))
		}
		w.carrier.Fail(carrier.LoseAfter, carrier.None, carrier.LoseBefore)
		var workers sync.WaitGroup
		for range 4 {
			workers.Go(func() { _ = w.Fulfil(context.WithoutCancel(t.Context())) })
		}
		workers.Wait()
		for _, id := range ids {
			w.through(t, id)
		}
		if n := len(w.carrier.Orders()); n != len(ids) {
			t.Errorf("%d orders for %d purchases", n, len(ids))
		}
	})
}

func TestOrderWithoutANameIsLeftToAPerson(t *testing.T) {
	eachEngine(t, func(t *testing.T, w *world) {
		device := w.device()
		id := w.paid(device, w.sim(device).ICCID)
		w.carrier.Fail(carrier.LoseAfter)
		_ = w.Fulfil(t.Context())
		w.carrier.Rename(w.carrier.Orders()[0].ID, "")
		for range 10 {
			w.pass(time.Hour)
			_ = w.Fulfil(t.Context())
		}
		if p := w.purchase(id); len(w.carrier.Orders()) != 1 || p.Stage != dataplan.Ordering {
			t.Errorf("%d orders, %s", len(w.carrier.Orders()), p.Stage)
		}
	})
}
