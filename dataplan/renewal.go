package dataplan

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"time"

	"github.com/opticworks/devicecloud/registry"
)

// renewalName is what the carrier calls the order of a further period: 32 hex that follow
// from its invoice, so that the same period always has the same one. [contracts E.4]
func renewalName(purchaseID, invoiceID string) string {
	sum := sha256.Sum256([]byte(purchaseID + ":" + invoiceID))
	return hex.EncodeToString(sum[:16])
}

// planRenewals writes an order for each period of a subscription that is paid, but the
// first, which the purchase's own order is for. Which one is the first may become known
// late; that a period is not the first, once known, stays so: no order is planned that
// another fact would take back.
func planRenewals(ctx context.Context, tx Tx, p *Purchase) error {
	if p.Plan.Mode != ModeSubscription {
		return nil
	}
	periods, err := tx.UnplannedPeriods(ctx, p.ID)
	for _, d := range periods {
		if err != nil {
			return err
		}
		err = tx.PlanRenewal(ctx, OrderAttempt{OutTradeNo: renewalName(p.ID, d.InvoiceID), PurchaseID: p.ID, InvoiceID: d.InvoiceID, StartsAt: d.StartsAt})
	}
	return err
}

// renew takes the order of a further period to work on and commits what will be done.
// Without a SIM in the device it waits.
func (s *Service) renew(ctx context.Context, outTradeNo string) (t task, err error) {
	err = s.store.InTx(ctx, func(tx Tx) error {
		t = task{}
		now := s.now()
		list, err := tx.DueRenewals(ctx, outTradeNo, "", now, 1)
		if err != nil || len(list) == 0 {
			return err
		}
		o := list[0]
		p, err := tx.Purchase(ctx, o.PurchaseID)
		if err != nil {
			return err
		}
		if o.SentAt.IsZero() {
			var has bool
			if o.ICCID, has, err = tx.SIMOfDevice(ctx, p.DeviceID); err != nil || !has {
				return err
			}
		}
		return s.lease(ctx, tx, &t, p, o, now)
	})
	return t, err
}

// began records that the package of an order runs since at, and with it the service. One
// that the carrier has stopped since then has ended; one that begins before the purchase
// is known to be paid counts once it is.
func (s *Service) began(ctx context.Context, tx Tx, p *Purchase, o *OrderAttempt, at time.Time, why string) error {
	o.BeganAt, o.FailedAt, o.Problem = at, time.Time{}, ""
	if o.ICCID == "" {
		o.ICCID = p.ICCID
	}
	if o.SentAt.IsZero() {
		now := s.now()
		o.SentAt, o.DueAt, o.LeaseUntil = now, now, now // not by us; but never to be sent again
	}
	if err := tx.PutCarrierOrder(ctx, *o); err != nil {
		return err
	}
	if o.own() && p.CarrierOrderID == "" {
		p.CarrierOrderID = o.OrderID
	}
	if p.Stage == Failed && !p.PaidAt.IsZero() { // it has refused it, and yet has it
		_, err := s.advance(ctx, tx, registry.System(), p, Paid, why)
		return err
	}
	return s.start(ctx, tx, p, o, why)
}

// overtaken lets a purchase that is known to be paid only now catch up with what the
// carrier has said of its order already.
func (s *Service) overtaken(ctx context.Context, tx Tx, p *Purchase) error {
	o, ok, err := tx.CarrierOrder(ctx, p.OutTradeNo)
	switch {
	case err != nil || !ok:
		return err
	case !o.BeganAt.IsZero():
		return s.start(ctx, tx, p, &o, "its package runs already")
	case !o.TakenAt.IsZero():
		_, err = s.advance(ctx, tx, registry.System(), p, Ordering, "the carrier has the order already")
	}
	return err
}

// start begins the service of a purchase with the package of an order that has begun.
func (s *Service) start(ctx context.Context, tx Tx, p *Purchase, o *OrderAttempt, why string) error {
	now := s.now()
	sim, known, err := tx.SIMByNumber(ctx, o.ICCID, "")
	if err != nil {
		return err
	}
	stopped := known && !sim.StoppedAt.Before(o.BeganAt)
	to := Active
	if p.Stage == Expired && (stopped || !p.serviceEnds().IsZero() && !p.serviceEnds().After(now)) {
		to = Expired // what has begun is over already
	}
	if p.mayMove(to) && p.ActiveAt.IsZero() {
		p.ActiveAt = now
		if p.Plan.Days > 0 {
			p.ActiveUntil = now.AddDate(0, 0, p.Plan.Days)
		}
	}
	moved, err := s.advance(ctx, tx, registry.System(), p, to, why)
	switch {
	case err != nil:
		return err
	case moved && stopped:
		_, err = s.advance(ctx, tx, registry.System(), p, Expired, "the carrier stopped the SIM")
		return err
	case p.Stage != Active || stopped || !known || o.BeganAt.Before(sim.StatusAt):
		return nil
	}
	sim.Status, sim.StatusAt, sim.UpdatedAt = SIMActive, o.BeganAt, now
	sim.Plan, sim.PlanEndsAt, sim.TotalMB, sim.UsedMB, sim.UsageAt = p.Plan.Name, p.ActiveUntil, int64(p.Plan.DataMB), 0, o.BeganAt
	sim.AlertType, sim.AlertValue, sim.AlertAt = 0, "", time.Time{}
	return tx.UpdateSIM(ctx, sim)
}

// lastBegan is when the last package of a purchase began on a SIM; zero: none did.
func lastBegan(ctx context.Context, tx Tx, p Purchase, iccid ICCID) (last time.Time, err error) {
	orders, err := tx.CarrierOrders(ctx, p.ID)
	for _, o := range orders {
		if o.ICCID == iccid && o.BeganAt.After(last) {
			last = o.BeganAt
		}
	}
	return last, err
}

// Retry lets what the carrier has refused of a purchase be ordered again, with the same
// care as an order whose answer was lost: the carrier is asked what it has first. Errors:
// ErrInsufficientRole, ErrInsufficientScope, ErrPurchaseNotFound, ErrNotRetriable.
func (s *Service) Retry(ctx context.Context, a registry.Actor, purchaseID string) (p Purchase, err error) {
	if err := manager(a); err != nil {
		return p, err
	}
	err = s.store.InTx(ctx, func(tx Tx) error {
		if p, err = tx.Purchase(ctx, purchaseID); err != nil {
			return err
		}
		if p.blocked() || p.PaidAt.IsZero() {
			return ErrNotRetriable
		}
		orders, err := tx.CarrierOrders(ctx, p.ID)
		if err != nil {
			return err
		}
		var names []string
		for _, o := range orders {
			if o.FailedAt.IsZero() && (!o.own() || p.Stage != Failed) {
				continue
			}
			// SentAt stays: whoever takes it up asks the carrier before it sends anything.
			o.FailedAt, o.DueAt, o.Problem = time.Time{}, s.now(), ""
			if err := tx.PutCarrierOrder(ctx, o); err != nil {
				return err
			}
			names = append(names, o.OutTradeNo)
		}
		if len(names) == 0 {
			return ErrNotRetriable
		}
		to := p.Stage
		if to == Failed {
			to = Paid
		}
		if err := s.audit(ctx, tx, a, p.DeviceID, "fulfilment_retried", map[string]any{"purchase_id": p.ID, "orders": names}); err != nil {
			return err
		}
		_, err = s.advance(ctx, tx, a, &p, to, "to be ordered again")
		return err
	})
	if err != nil {
		return Purchase{}, err
	}
	s.wake()
	return p, nil
}
