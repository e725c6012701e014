package dataplan

import (
	"context"
	"errors"
	"time"

	"github.com/opticworks/devicecloud/registry"
)

// FulfilmentTimes are how long things take at the carrier. The zero value of each field
// is usable.
type FulfilmentTimes struct {
	// Settle is how long a request whose answer was lost may still take effect. Only after
	// it may the carrier's silence about an order mean that there is none. Default 3 min.
	Settle time.Duration
	// Request bounds one conversation with the carrier, with the wait for its turn.
	// Default 1 min, at most half of Settle.
	Request time.Duration
	// Retry is the shortest pause before a purchase is looked at again. Default 15 s.
	Retry time.Duration
	// Pass is the pause between two looks at all purchases. Default 5 s.
	Pass time.Duration
	// Reconcile is the pause between two reconciliations. Default 1 h. [contracts E.4]
	Reconcile time.Duration
}

func (f *FulfilmentTimes) defaults() {
	for _, d := range []struct {
		field *time.Duration
		value time.Duration
	}{{&f.Settle, 3 * time.Minute}, {&f.Request, time.Minute}, {&f.Retry, 15 * time.Second}, {&f.Pass, 5 * time.Second}, {&f.Reconcile, time.Hour}} {
		if *d.field <= 0 {
			*d.field = d.value
		}
	}
	f.Request = min(f.Request, f.Settle/2)
}

// OrderAttempt is what we have done at the carrier for a purchase.
type OrderAttempt struct {
	PurchaseID string
	ICCID      ICCID     // of the SIM that it was ordered for
	Attempts   int       // requests that were sent, or may have been
	SentAt     time.Time // of the last of them; zero: none
	DueAt      time.Time // when it is looked at next
	LeaseUntil time.Time // somebody works on it until then
	TakenAt    time.Time // the carrier has the order; zero: nobody knows
	RefundedAt time.Time // the carrier gave the money back
	Problem    string    // what went wrong last: a sentence of ours
}

// FulfilmentTx reads and writes what passes between us and the carrier.
type FulfilmentTx interface {
	// CarrierOrder reads what was done for a purchase; ok is false when nothing was.
	CarrierOrder(ctx context.Context, purchaseID string) (o OrderAttempt, ok bool, err error)
	// LeaseCarrierOrder takes a purchase to work on, only while it is due and nobody else
	// does; leased says whether it did.
	LeaseCarrierOrder(ctx context.Context, purchaseID string, iccid ICCID, now, until time.Time) (leased bool, err error)
	// PutCarrierOrder writes what was done.
	PutCarrierOrder(ctx context.Context, o OrderAttempt) error
	// PurchaseByOrder finds a purchase by our name of its order, or, when that is "", by
	// the carrier's.
	PurchaseByOrder(ctx context.Context, outTradeNo, orderID string) (p Purchase, ok bool, err error)
	// PurchasesOfSIM lists the purchases for a SIM that were paid and have not ended, the
	// oldest first.
	PurchasesOfSIM(ctx context.Context, iccid ICCID) ([]Purchase, error)

	// InsertCarrierEvent records a notification; fresh is false when its id was there.
	InsertCarrierEvent(ctx context.Context, e CarrierEvent) (fresh bool, err error)
	// CarrierEvent reads a notification.
	CarrierEvent(ctx context.Context, provider, eventID string) (e CarrierEvent, ok bool, err error)
	// SettleCarrierEvent writes what became of a notification.
	SettleCarrierEvent(ctx context.Context, e CarrierEvent) error
	// TakeCarrierEffect claims what a notification does; first is false when another one
	// has done it.
	TakeCarrierEffect(ctx context.Context, effect, eventID string, at time.Time) (first bool, err error)
	// UnmatchedCarrierEvents lists notifications that nothing matched, received after a
	// time, in order.
	UnmatchedCarrierEvents(ctx context.Context, after time.Time, limit int) ([]CarrierEvent, error)
	// DeleteCarrierEvents deletes at most limit notifications from before a time; it
	// returns how many.
	DeleteCarrierEvents(ctx context.Context, before time.Time, limit int) (int, error)
}

// wake lets the worker look at the purchases now.
func (s *Service) wake() {
	select {
	case s.due <- struct{}{}:
	default: // it will
	}
}

// RunFulfilment does the carrier's work until ctx ends: it orders what was paid, and
// reconciles at the start and every hour. Everything it knows is in the database, so that
// it goes on where another one was killed. Several nodes may run it: a purchase is worked
// on by one at a time; but each keeps the carrier's rate by itself.
func (s *Service) RunFulfilment(ctx context.Context) {
	if s.opts.Carrier == nil && s.opts.Notices == nil {
		return
	}
	pass := time.NewTicker(s.opts.Fulfilment.Pass)
	defer pass.Stop()
	reconcile := time.NewTicker(s.opts.Fulfilment.Reconcile)
	defer reconcile.Stop()
	report := func(what string, err error) {
		if err != nil && ctx.Err() == nil {
			s.log.ErrorContext(ctx, what+" failed", "error", err)
		}
	}
	report("reconciliation with the carrier", s.ReconcileCarrier(ctx))
	for {
		report("the work at the carrier", s.Fulfil(ctx))
		select {
		case <-ctx.Done():
			return
		case <-pass.C:
		case <-s.due:
		case <-reconcile.C:
			report("reconciliation with the carrier", s.ReconcileCarrier(ctx))
		}
	}
}

// fulfilPage is how many purchases are read at once.
const fulfilPage = 100

// Fulfil looks once at every purchase that waits for the carrier and does what is due. A
// purchase that fails does not hold up the others.
func (s *Service) Fulfil(ctx context.Context) error {
	if s.opts.Carrier == nil {
		return nil
	}
	var failed []error
	for after := ""; ; {
		var list []Purchase
		err := s.store.View(ctx, func(tx Tx) (err error) {
			list, err = tx.WaitingPurchases(ctx, after, fulfilPage)
			return err
		})
		if err != nil {
			return errors.Join(append(failed, err)...)
		}
		for _, p := range list {
			if err := s.fulfil(ctx, p.ID); err != nil {
				failed = append(failed, err)
			}
			if ctx.Err() != nil {
				return ctx.Err()
			}
		}
		if len(list) < fulfilPage {
			return errors.Join(failed...)
		}
		after = list[len(list)-1].ID
	}
}

// task is what is to be done for a purchase, outside of a transaction.
type task struct {
	purchase Purchase
	attempt  OrderAttempt
	do       func(context.Context, task) error // nil: nothing
}

// fulfil does what is due for one purchase. The money's rule is in the order of things:
// that an order is about to be sent is committed before it is sent. Whoever finds such a
// row, after a crash or a lost answer, asks the carrier first. [contracts E.4]
func (s *Service) fulfil(ctx context.Context, purchaseID string) error {
	t, err := s.begin(ctx, purchaseID)
	if err != nil || t.do == nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, s.opts.Fulfilment.Request)
	defer cancel()
	return t.do(ctx, t)
}

// begin takes a purchase to work on and commits what will be done.
func (s *Service) begin(ctx context.Context, purchaseID string) (t task, err error) {
	err = s.store.InTx(ctx, func(tx Tx) error {
		t = task{}
		p, err := tx.Purchase(ctx, purchaseID)
		if err != nil || !p.Waiting() {
			return err
		}
		o, _, err := tx.CarrierOrder(ctx, p.ID)
		now := s.now()
		if err != nil || o.DueAt.After(now) || o.LeaseUntil.After(now) {
			return err
		}
		if o.SentAt.IsZero() {
			var has bool
			if o.ICCID, has, err = tx.SIMOfDevice(ctx, p.DeviceID); err != nil {
				return err
			}
			if !has {
				if p.Stage != PendingAssignment {
					_, err = s.advance(ctx, tx, registry.System(), &p, PendingAssignment, "the device has no SIM")
				}
				return err
			}
		}
		until := now.Add(2 * s.opts.Fulfilment.Request)
		if leased, err := tx.LeaseCarrierOrder(ctx, p.ID, o.ICCID, now, until); err != nil || !leased {
			return err
		}
		o.PurchaseID, o.LeaseUntil, o.DueAt = p.ID, until, now
		t = task{p, o, s.ask}
		if !o.SentAt.IsZero() {
			return tx.PutCarrierOrder(ctx, o)
		}
		t.do = s.order
		return s.announce(ctx, tx, &t, now)
	})
	return t, err
}

// announce commits that an order is about to be sent.
func (s *Service) announce(ctx context.Context, tx Tx, t *task, now time.Time) error {
	t.attempt.Attempts++
	t.attempt.SentAt, t.attempt.Problem = now, ""
	if err := tx.PutCarrierOrder(ctx, t.attempt); err != nil {
		return err
	}
	t.purchase.ICCID = t.attempt.ICCID // the SIM may have been another when it was bought
	_, err := s.advance(ctx, tx, registry.System(), &t.purchase, Ordering, "it is ordered at the carrier")
	return err
}

// order sends the one request that was announced.
func (s *Service) order(ctx context.Context, t task) error {
	if s.now().Sub(t.attempt.SentAt) > s.opts.Fulfilment.Request {
		return nil // we slept: somebody may have taken it for lost. The lease ends, and it is asked for
	}
	s.counters.CarrierOrders.Add(1)
	orderID, err := s.opts.Carrier.Order(ctx, CarrierOrder{
		ICCID: t.attempt.ICCID, PackageCode: t.purchase.Plan.CarrierPackage, OutTradeNo: t.purchase.OutTradeNo,
	})
	switch {
	case err == nil:
		return s.taken(ctx, t, CarrierRecord{OrderID: orderID, State: CarrierWaiting}, "")
	case !errors.Is(err, ErrCarrierRefused):
		return s.later(ctx, t, "the carrier's answer to the order was lost", err)
	}
	// It may have refused because it has the order: of a request that we took for lost.
	records, askErr := s.opts.Carrier.Orders(ctx, t.attempt.ICCID)
	if askErr != nil {
		return s.later(ctx, t, "the carrier refused, and does not say what it has", errors.Join(err, askErr))
	}
	if r, found, unclear := ours(records, t.purchase); found {
		return s.taken(ctx, t, r, "found after a refusal")
	} else if unclear {
		return s.unclear(ctx, t)
	}
	return s.refused(ctx, t, err)
}

// ours finds a purchase's order among those that the carrier has. unclear means that one
// of them may be it: the same package, without our name.
func ours(records []CarrierRecord, p Purchase) (r CarrierRecord, found, unclear bool) {
	for _, r := range records {
		if r.OutTradeNo == p.OutTradeNo || r.OutTradeNo == "" && r.OrderID != "" && r.OrderID == p.CarrierOrderID {
			return r, true, false
		}
		unclear = unclear || r.OutTradeNo == "" && (r.PackageCode == "" || r.PackageCode == p.Plan.CarrierPackage)
	}
	return CarrierRecord{}, false, unclear
}

// ask finds out what became of an order that may have been sent; and sends it again when
// it certainly was not taken.
func (s *Service) ask(ctx context.Context, t task) error {
	records, err := s.opts.Carrier.Orders(ctx, t.attempt.ICCID)
	if err != nil {
		return s.later(ctx, t, "the carrier does not say what it has", err)
	}
	r, found, unclear := ours(records, t.purchase)
	switch {
	case found:
		return s.taken(ctx, t, r, "found at the carrier")
	case unclear:
		return s.unclear(ctx, t)
	case !t.attempt.TakenAt.IsZero():
		return s.later(ctx, t, "the carrier took the order and does not list it", nil)
	}
	// A request that was sent may still be on its way until it has settled.
	if settled := t.attempt.SentAt.Add(s.opts.Fulfilment.Settle); settled.After(s.now()) {
		t.attempt.DueAt = settled
		return s.release(ctx, t)
	}
	again := false
	err = s.store.InTx(ctx, func(tx Tx) error {
		again = false
		o, _, err := tx.CarrierOrder(ctx, t.purchase.ID)
		if err != nil || !o.LeaseUntil.Equal(t.attempt.LeaseUntil) || !o.TakenAt.IsZero() {
			return err // it is not ours any more
		}
		if t.purchase, err = tx.Purchase(ctx, t.purchase.ID); err != nil || !t.purchase.Waiting() {
			return err
		}
		if iccid, has, err := tx.SIMOfDevice(ctx, t.purchase.DeviceID); err != nil {
			return err
		} else if has {
			t.attempt.ICCID = iccid // nothing was ordered for the old one
		}
		now := s.now()
		t.attempt.Attempts = o.Attempts
		t.attempt.LeaseUntil = now.Add(2 * s.opts.Fulfilment.Request)
		again = true
		return s.announce(ctx, tx, &t, now)
	})
	if err != nil || !again {
		return err
	}
	return s.order(ctx, t)
}

// taken records that the carrier has the order, and that its package runs when it says so.
func (s *Service) taken(ctx context.Context, t task, r CarrierRecord, how string) error {
	return s.store.InTx(ctx, func(tx Tx) error {
		p, err := tx.Purchase(ctx, t.purchase.ID)
		if err != nil {
			return err
		}
		if err := s.recordOrder(ctx, tx, &p, r.OrderID, how); err != nil {
			return err
		}
		if r.State == CarrierInUse && p.Stage != Active {
			return s.activate(ctx, tx, &p, s.now(), "the carrier lists it as in use")
		}
		if r.State == CarrierDone && p.Stage == Ordering {
			s.log.ErrorContext(ctx, "the carrier ended an order that never began: a person must look", "purchase_id", p.ID)
		}
		return nil
	})
}

// recordOrder writes that the carrier has the order of a purchase.
func (s *Service) recordOrder(ctx context.Context, tx Tx, p *Purchase, orderID, how string) error {
	now := s.now()
	o, _, err := tx.CarrierOrder(ctx, p.ID)
	if err != nil {
		return err
	}
	first := o.TakenAt.IsZero()
	o.PurchaseID, o.LeaseUntil, o.DueAt, o.Problem = p.ID, now, now.Add(s.opts.Fulfilment.Reconcile), ""
	if o.ICCID == "" {
		o.ICCID = p.ICCID
	}
	if o.SentAt.IsZero() {
		o.SentAt = now // not by us; but never to be sent again
	}
	if first {
		o.TakenAt = now
	}
	if err := tx.PutCarrierOrder(ctx, o); err != nil {
		return err
	}
	if p.CarrierOrderID == "" {
		p.CarrierOrderID = orderID
	}
	to := p.Stage
	if p.mayMove(Ordering) {
		to = Ordering
	}
	if _, err := s.advance(ctx, tx, registry.System(), p, to, "the carrier has the order"); err != nil || !first {
		return err
	}
	if how != "" {
		s.counters.CarrierRepaired.Add(1)
	}
	return s.audit(ctx, tx, registry.System(), p.DeviceID, "carrier_ordered", map[string]any{
		"purchase_id": p.ID, "carrier_order_id": orderID, "iccid": o.ICCID, "attempts": o.Attempts, "how": how,
	})
}

// later ends the work on a purchase for now. The pause grows with the time that it has
// been waiting already, so that a carrier that is away for long is not asked without end.
func (s *Service) later(ctx context.Context, t task, problem string, cause error) error {
	now := s.now()
	wait := min(max(now.Sub(t.purchase.UpdatedAt)/4, s.opts.Fulfilment.Retry), time.Hour)
	t.attempt.DueAt, t.attempt.Problem = now.Add(wait), problem
	s.log.WarnContext(ctx, "a purchase waits for the carrier", "purchase_id", t.purchase.ID, "problem", problem, "again_in", wait, "error", cause)
	return s.release(ctx, t)
}

// unclear: the carrier lists an order that may be ours. Another one could be paid twice,
// so that a person must look; what the carrier reports later still counts.
func (s *Service) unclear(ctx context.Context, t task) error {
	s.log.ErrorContext(ctx, "the carrier has an order without a name that may be ours: a person must look", "purchase_id", t.purchase.ID)
	t.attempt.DueAt, t.attempt.Problem = s.now().Add(time.Hour), "the carrier has an order that may be this one"
	return s.release(ctx, t)
}

// release gives a purchase back, only while it is still ours. It must not be kept from it
// by the end of the conversation's time.
func (s *Service) release(ctx context.Context, t task) error {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), 5*time.Second)
	defer cancel()
	return s.store.InTx(ctx, func(tx Tx) error {
		o, ok, err := tx.CarrierOrder(ctx, t.purchase.ID)
		if err != nil || !ok || !o.LeaseUntil.Equal(t.attempt.LeaseUntil) {
			return err
		}
		o.LeaseUntil, o.DueAt, o.Problem = s.now(), t.attempt.DueAt, t.attempt.Problem
		return tx.PutCarrierOrder(ctx, o)
	})
}

// refused ends a purchase that the carrier has refused for certain.
func (s *Service) refused(ctx context.Context, t task, cause error) error {
	return s.store.InTx(ctx, func(tx Tx) error {
		p, err := tx.Purchase(ctx, t.purchase.ID)
		if err != nil || p.Stage != Ordering {
			return err
		}
		t.attempt.LeaseUntil, t.attempt.Problem = s.now(), "the carrier refused the order"
		if err := tx.PutCarrierOrder(ctx, t.attempt); err != nil {
			return err
		}
		s.counters.CarrierFailed.Add(1)
		s.log.ErrorContext(ctx, "the carrier refused a purchase that was paid: a person must give the money back", "purchase_id", p.ID, "error", cause)
		_, err = s.advance(ctx, tx, registry.System(), &p, Failed, "the carrier refused the order")
		return err
	})
}

// activate begins the service of a purchase: the carrier's package runs since at.
func (s *Service) activate(ctx context.Context, tx Tx, p *Purchase, at time.Time, why string) error {
	if p.mayMove(Active) {
		now := s.now()
		p.ActiveAt = now
		if p.Plan.Days > 0 {
			p.ActiveUntil = now.AddDate(0, 0, p.Plan.Days)
		}
		if p.Plan.Mode == ModeSubscription {
			f, err := tx.Facts(ctx, p.ID)
			if err != nil {
				return err
			}
			p.ActiveUntil = f.PaidUntil
		}
	}
	moved, err := s.advance(ctx, tx, registry.System(), p, Active, why)
	if err != nil || !moved {
		return err
	}
	sim, ok, err := tx.SIMByNumber(ctx, p.ICCID, "")
	if err != nil || !ok || at.Before(sim.StatusAt) {
		return err
	}
	sim.Status, sim.StatusAt, sim.UpdatedAt = SIMActive, at, s.now()
	sim.Plan, sim.PlanEndsAt, sim.TotalMB, sim.UsedMB, sim.UsageAt = p.Plan.Name, p.ActiveUntil, int64(p.Plan.DataMB), 0, at
	sim.AlertType, sim.AlertValue, sim.AlertAt = 0, "", time.Time{}
	return tx.UpdateSIM(ctx, sim)
}
