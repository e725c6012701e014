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

// OrderAttempt is an order at the carrier and what we have done about it. A purchase has
// its own, and one for each further period of a subscription that is paid.
type OrderAttempt struct {
	OutTradeNo string // what the carrier calls it by us: once for each payment
	PurchaseID string
	InvoiceID  string    // of the period; "": the purchase's own
	StartsAt   time.Time // of the period: it is not ordered before; read only
	ICCID      ICCID     // of the SIM that it was ordered for; "": not yet
	OrderID    string    // the carrier's own name; "": not known
	Attempts   int       // requests that were sent, or may have been
	SentAt     time.Time // of the last of them; zero: none
	DueAt      time.Time // when it is looked at next
	LeaseUntil time.Time // somebody works on it until then
	TakenAt    time.Time // the carrier has the order; zero: nobody knows
	BeganAt    time.Time // its package runs since; zero: nobody has said so
	FailedAt   time.Time // of a further period: the carrier refused it
	RefundedAt time.Time // the carrier gave the money back
	Problem    string    // what went wrong last: a sentence of ours
}

// own reports whether it is the purchase's own, and not of a further period.
func (o *OrderAttempt) own() bool { return o.InvoiceID == "" }

// FulfilmentTx reads and writes what passes between us and the carrier.
type FulfilmentTx interface {
	// CarrierOrder reads what was done about an order; ok is false when nothing was.
	CarrierOrder(ctx context.Context, outTradeNo string) (o OrderAttempt, ok bool, err error)
	// CarrierOrders lists the orders of a purchase that something was done about, or will
	// be: its own first.
	CarrierOrders(ctx context.Context, purchaseID string) ([]OrderAttempt, error)
	// LeaseCarrierOrder takes an order to work on, only while it is due and nobody else
	// does; leased says whether it did.
	LeaseCarrierOrder(ctx context.Context, o OrderAttempt, now, until time.Time) (leased bool, err error)
	// PutCarrierOrder writes what was done.
	PutCarrierOrder(ctx context.Context, o OrderAttempt) error
	// UnplannedPeriods lists the further periods of a purchase that are paid and have no
	// order: all but the first that is paid.
	UnplannedPeriods(ctx context.Context, purchaseID string) ([]Period, error)
	// PlanRenewal writes that the package of a further period is to be ordered once it
	// starts. What is there stays.
	PlanRenewal(ctx context.Context, o OrderAttempt) error
	// DueRenewals lists what is due among the orders of further periods, in order of name
	// after the given one: of purchases that have begun and that nothing holds, and whose
	// payment was not given back. only narrows it to one name.
	DueRenewals(ctx context.Context, only, after string, now time.Time, limit int) ([]OrderAttempt, error)
	// OpenRenewals lists the orders of further periods for a SIM that have not begun, the
	// oldest first.
	OpenRenewals(ctx context.Context, iccid ICCID) ([]OrderAttempt, error)
	// OrderByName finds an order by our name of it or, when that is "", by the carrier's.
	// Of a purchase that nothing was done for, it has the names alone.
	OrderByName(ctx context.Context, outTradeNo, orderID string) (o OrderAttempt, ok bool, err error)
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

// Fulfil looks once at every purchase that waits for the carrier and does what is due,
// for further periods too. An order that fails does not hold up the others.
func (s *Service) Fulfil(ctx context.Context) error {
	if s.opts.Carrier == nil {
		return nil
	}
	return errors.Join(
		s.eachDue(ctx, func(tx Tx, after string) (names []string, err error) {
			list, err := tx.WaitingPurchases(ctx, after, fulfilPage)
			for _, p := range list {
				names = append(names, p.ID)
			}
			return names, err
		}, s.begin),
		s.eachDue(ctx, func(tx Tx, after string) (names []string, err error) {
			list, err := tx.DueRenewals(ctx, "", after, s.now(), fulfilPage)
			for _, o := range list {
				names = append(names, o.OutTradeNo)
			}
			return names, err
		}, s.renew),
	)
}

// eachDue does what is due for each of a list of names, a page at a time. The money's
// rule is in the order of things: begin commits that an order is about to be sent, before
// it is sent. Whoever finds such a row, after a crash or a lost answer, asks the carrier
// first. [contracts E.4]
func (s *Service) eachDue(ctx context.Context, page func(tx Tx, after string) ([]string, error), begin func(context.Context, string) (task, error)) error {
	var failed []error
	for after := ""; ; {
		var names []string
		err := s.store.View(ctx, func(tx Tx) (err error) {
			names, err = page(tx, after)
			return err
		})
		if err != nil {
			return errors.Join(append(failed, err)...)
		}
		for _, name := range names {
			if err := s.fulfil(ctx, name, begin); err != nil {
				failed = append(failed, err)
			}
			if ctx.Err() != nil {
				return ctx.Err()
			}
		}
		if len(names) < fulfilPage {
			return errors.Join(failed...)
		}
		after = names[len(names)-1]
	}
}

// task is what is to be done for an order, outside of a transaction.
type task struct {
	purchase Purchase
	attempt  OrderAttempt
	do       func(context.Context, task) error // nil: nothing
}

// fulfil does what is due for one order.
func (s *Service) fulfil(ctx context.Context, name string, begin func(context.Context, string) (task, error)) error {
	t, err := begin(ctx, name)
	if err != nil || t.do == nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, s.opts.Fulfilment.Request)
	defer cancel()
	return t.do(ctx, t)
}

// begin takes a purchase's own order to work on and commits what will be done.
func (s *Service) begin(ctx context.Context, purchaseID string) (t task, err error) {
	err = s.store.InTx(ctx, func(tx Tx) error {
		t = task{}
		p, err := tx.Purchase(ctx, purchaseID)
		if err != nil || !p.Waiting() {
			return err
		}
		o, _, err := tx.CarrierOrder(ctx, p.OutTradeNo)
		now := s.now()
		if err != nil || o.DueAt.After(now) || o.LeaseUntil.After(now) {
			return err
		}
		o.OutTradeNo, o.PurchaseID = p.OutTradeNo, p.ID
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
		return s.lease(ctx, tx, &t, p, o, now)
	})
	return t, err
}

// lease takes an order to work on, and announces it unless it was sent before.
func (s *Service) lease(ctx context.Context, tx Tx, t *task, p Purchase, o OrderAttempt, now time.Time) error {
	until := now.Add(2 * s.opts.Fulfilment.Request)
	if leased, err := tx.LeaseCarrierOrder(ctx, o, now, until); err != nil || !leased {
		return err
	}
	o.LeaseUntil, o.DueAt = until, now
	*t = task{p, o, s.ask}
	if !o.SentAt.IsZero() {
		return tx.PutCarrierOrder(ctx, o)
	}
	t.do = s.order
	return s.announce(ctx, tx, t, now)
}

// announce commits that an order is about to be sent.
func (s *Service) announce(ctx context.Context, tx Tx, t *task, now time.Time) error {
	t.attempt.Attempts++
	t.attempt.SentAt, t.attempt.Problem = now, ""
	if err := tx.PutCarrierOrder(ctx, t.attempt); err != nil {
		return err
	}
	t.purchase.ICCID = t.attempt.ICCID // the SIM may have been another when it was bought
	to := Ordering
	if !t.attempt.own() {
		to = t.purchase.Stage // what runs goes on
	}
	_, err := s.advance(ctx, tx, registry.System(), &t.purchase, to, "it is ordered at the carrier")
	return err
}

// order sends the one request that was announced.
func (s *Service) order(ctx context.Context, t task) error {
	if s.now().Sub(t.attempt.SentAt) > s.opts.Fulfilment.Request {
		return nil // we slept: somebody may have taken it for lost. The lease ends, and it is asked for
	}
	s.counters.CarrierOrders.Add(1)
	orderID, err := s.opts.Carrier.Order(ctx, CarrierOrder{
		ICCID: t.attempt.ICCID, PackageCode: t.purchase.Plan.CarrierPackage, OutTradeNo: t.attempt.OutTradeNo,
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
	if r, found, unclear, err := s.ours(ctx, records, t); err != nil {
		return s.later(ctx, t, "the carrier refused, and what it has could not be read", err)
	} else if found {
		return s.taken(ctx, t, r, "found after a refusal")
	} else if unclear {
		return s.unclear(ctx, t)
	}
	return s.refused(ctx, t, err)
}

// ours finds an order among those that the carrier has. unclear means that one of them
// may be it: the same package, without our name, and of no other order of ours.
func (s *Service) ours(ctx context.Context, records []CarrierRecord, t task) (r CarrierRecord, found, unclear bool, err error) {
	err = s.store.View(ctx, func(tx Tx) error {
		for _, r = range records {
			found = r.OutTradeNo == t.attempt.OutTradeNo || r.OutTradeNo == "" && r.OrderID != "" && r.OrderID == t.attempt.OrderID
			if found {
				return nil
			}
			if r.OutTradeNo != "" || r.PackageCode != "" && r.PackageCode != t.purchase.Plan.CarrierPackage {
				continue
			}
			_, others, err := tx.OrderByName(ctx, "", r.OrderID)
			if err != nil {
				return err
			}
			unclear = unclear || !others
		}
		return nil
	})
	return r, found, unclear && !found, err
}

// wanted reports whether an order is still to be sent.
func (s *Service) wanted(ctx context.Context, tx Tx, t task) (bool, error) {
	if t.attempt.own() {
		return t.purchase.Waiting(), nil
	}
	// It is leased by us, which ends at that time.
	list, err := tx.DueRenewals(ctx, t.attempt.OutTradeNo, "", t.attempt.LeaseUntil, 1)
	return len(list) == 1, err
}

// ask finds out what became of an order that may have been sent; and sends it again when
// it certainly was not taken.
func (s *Service) ask(ctx context.Context, t task) error {
	records, err := s.opts.Carrier.Orders(ctx, t.attempt.ICCID)
	if err != nil {
		return s.later(ctx, t, "the carrier does not say what it has", err)
	}
	r, found, unclear, err := s.ours(ctx, records, t)
	switch {
	case err != nil:
		return s.later(ctx, t, "what the carrier has could not be read", err)
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
		o, _, err := tx.CarrierOrder(ctx, t.attempt.OutTradeNo)
		if err != nil || !o.LeaseUntil.Equal(t.attempt.LeaseUntil) || !o.TakenAt.IsZero() {
			return err // it is not ours any more
		}
		if t.purchase, err = tx.Purchase(ctx, t.purchase.ID); err != nil {
			return err
		}
		if wanted, err := s.wanted(ctx, tx, t); err != nil || !wanted {
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
		o, _, err := tx.OrderByName(ctx, t.attempt.OutTradeNo, "")
		if err != nil {
			return err
		}
		if err := s.recordOrder(ctx, tx, &p, &o, r.OrderID, how); err != nil {
			return err
		}
		if r.State == CarrierInUse && o.BeganAt.IsZero() {
			return s.began(ctx, tx, &p, &o, s.now(), "the carrier lists it as in use")
		}
		if r.State == CarrierDone && o.BeganAt.IsZero() {
			s.log.ErrorContext(ctx, "the carrier ended an order that never began: a person must look", "purchase_id", p.ID, "out_trade_no", o.OutTradeNo)
		}
		return nil
	})
}

// recordOrder writes that the carrier has an order of a purchase.
func (s *Service) recordOrder(ctx context.Context, tx Tx, p *Purchase, o *OrderAttempt, orderID, how string) error {
	now := s.now()
	first := o.TakenAt.IsZero()
	o.LeaseUntil, o.DueAt, o.Problem, o.FailedAt = now, now.Add(s.opts.Fulfilment.Reconcile), "", time.Time{}
	if o.ICCID == "" {
		o.ICCID = p.ICCID
	}
	if o.SentAt.IsZero() {
		o.SentAt = now // not by us; but never to be sent again
	}
	if first {
		o.TakenAt = now
	}
	if o.OrderID == "" {
		o.OrderID = orderID
	}
	if err := tx.PutCarrierOrder(ctx, *o); err != nil {
		return err
	}
	to := p.Stage
	if o.own() {
		p.CarrierOrderID = o.OrderID
		switch {
		case p.mayMove(Ordering):
			to = Ordering
		case p.Stage == Failed && !p.PaidAt.IsZero():
			to = Paid // it has refused it, and yet has it
		}
	}
	if _, err := s.advance(ctx, tx, registry.System(), p, to, "the carrier has the order"); err != nil || !first {
		return err
	}
	if how != "" {
		s.counters.CarrierRepaired.Add(1)
	}
	return s.audit(ctx, tx, registry.System(), p.DeviceID, "carrier_ordered", map[string]any{
		"purchase_id": p.ID, "out_trade_no": o.OutTradeNo, "carrier_order_id": orderID, "iccid": o.ICCID, "attempts": o.Attempts, "how": how,
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
		o, ok, err := tx.CarrierOrder(ctx, t.attempt.OutTradeNo)
		if err != nil || !ok || !o.LeaseUntil.Equal(t.attempt.LeaseUntil) {
			return err
		}
		o.LeaseUntil, o.DueAt, o.Problem = s.now(), t.attempt.DueAt, t.attempt.Problem
		return tx.PutCarrierOrder(ctx, o)
	})
}

// refused records that the carrier has refused an order for certain. Of a purchase's own
// order, the purchase has failed; of a further period it goes on, and reads as failed.
func (s *Service) refused(ctx context.Context, t task, cause error) error {
	var told *registry.Change
	err := s.store.InTx(ctx, func(tx Tx) error {
		told = nil
		p, err := tx.Purchase(ctx, t.purchase.ID)
		if err != nil {
			return err
		}
		o, _, err := tx.CarrierOrder(ctx, t.attempt.OutTradeNo)
		if err != nil || !o.TakenAt.IsZero() || !o.BeganAt.IsZero() || o.own() && p.Stage != Ordering {
			return err // a report was faster
		}
		now := s.now()
		to := Failed
		o.LeaseUntil, o.Problem = now, "the carrier refused the order"
		if !o.own() {
			o.FailedAt, to = now, p.Stage
		}
		if err := tx.PutCarrierOrder(ctx, o); err != nil {
			return err
		}
		told = &registry.Change{Kind: registry.ChangePurchaseFailed, DeviceID: p.DeviceID, At: now, Purchase: &registry.PurchaseAlert{ID: p.ID, Reason: o.Problem}}
		_, err = s.advance(ctx, tx, registry.System(), &p, to, o.Problem)
		return err
	})
	if err == nil && told != nil {
		s.counters.CarrierFailed.Add(1)
		s.log.ErrorContext(ctx, "the carrier refused a purchase that was paid: a person must have it ordered again, or give the money back",
			"purchase_id", t.purchase.ID, "out_trade_no", t.attempt.OutTradeNo, "error", cause)
		s.devices.Tell(told)
	}
	return err
}
