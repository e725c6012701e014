package dataplan

import (
	"context"
	"time"

	"github.com/opticworks/devicecloud/registry"
)

// Payment is what is known of one payment at the provider.
type Payment struct {
	IntentID   string // the provider's payment intent
	PurchaseID string // "": not known yet
	Refunded   int64  // in all, in the currency's smallest unit
	Complete   bool   // all of it was refunded
	At         time.Time
}

// Dispute is a payment that the buyer's bank takes back, or tries to.
type Dispute struct {
	ID       string
	IntentID string
	Closed   bool
	Won      bool // by us; a lost one keeps the purchase disputed
	At       time.Time
}

// Facts is what is known beside a purchase.
type Facts struct {
	Payments    int       // how many there are
	Complete    int       // of them wholly refunded
	PartRefunds int       // of them refunded in part or whole
	Disputes    int       // that are open or lost
	Unpaid      int       // invoices that were not paid
	PaidUntil   time.Time // of a subscription: the end of the last period that is paid
	Withdrawn   bool      // the carrier gave the money for the last package back, and ended it
	Refused     int       // orders for further periods that the carrier refused
}

// status is the one place where a purchase's stage and facts become what people see.
func (p *Purchase) status(f Facts) Status {
	switch {
	case f.Payments > 0 && f.Complete == f.Payments, f.Withdrawn:
		return Refunded
	case f.Disputes > 0:
		return Disputed
	case !p.HeldAt.IsZero() && p.ResumedAt.IsZero():
		return Hold
	case f.Refused > 0:
		return Failed // it goes on as long as it is paid, but a person must look
	case f.PartRefunds > 0:
		return PartiallyRefunded
	case f.Unpaid > 0 && p.EndedAt.IsZero() && !p.PaidAt.IsZero():
		return PastDue
	}
	return p.Stage
}

// advance moves a purchase to a stage and settles it, in the caller's transaction. A
// stage that the table does not allow changes nothing but leaves an audit row. why is
// what caused it, for the audit trail. p must have been read in this transaction; it is
// up to date afterwards. Whoever changes other fields of p sets them before.
func (s *Service) advance(ctx context.Context, tx Tx, a registry.Actor, p *Purchase, to Status, why string) (moved bool, err error) {
	from := p.Stage
	if to != from {
		if !p.mayMove(to) {
			if err := s.refuse(ctx, tx, a, p, to, why); err != nil {
				return false, err
			}
			return false, s.settle(ctx, tx, a, p, from, why)
		}
		p.Stage = to
	}
	if err := s.settle(ctx, tx, a, p, from, why); err != nil || to != Paid || to == from {
		return to != from, err
	}
	return true, s.overtaken(ctx, tx, p)
}

// refuse records that a purchase was told to go where it cannot.
func (s *Service) refuse(ctx context.Context, tx Tx, a registry.Actor, p *Purchase, to Status, why string) error {
	s.counters.Refused.Add(1)
	return s.audit(ctx, tx, a, p.DeviceID, "transition_refused", map[string]any{"purchase_id": p.ID, "from": p.Stage, "to": to, "why": why})
}

// settle works out the status of a purchase anew and writes it, with an audit row for a
// transition, and makes the device's entitlements follow.
func (s *Service) settle(ctx context.Context, tx Tx, a registry.Actor, p *Purchase, from Status, why string) error {
	if err := planRenewals(ctx, tx, p); err != nil {
		return err
	}
	f, err := tx.Facts(ctx, p.ID)
	if err != nil {
		return err
	}
	if p.Plan.Mode == ModeSubscription && !p.ActiveAt.IsZero() && f.PaidUntil.After(p.ActiveUntil) {
		p.ActiveUntil = f.PaidUntil
	}
	before := p.Status
	p.Status, p.UpdatedAt = p.status(f), s.now()
	if changed, err := tx.UpdatePurchase(ctx, *p); err != nil || !changed {
		if err == nil {
			err = registry.ErrUnavailable // another writer was faster
		}
		return err
	}
	p.Version++
	if before != p.Status || from != p.Stage {
		if p.Status == Hold {
			s.counters.Held.Add(1)
			s.log.ErrorContext(ctx, "a purchase is on hold: what was paid is not its price", "purchase_id", p.ID, "reason", p.HoldReason)
		}
		err := s.audit(ctx, tx, a, p.DeviceID, "purchase_transition", map[string]any{
			"purchase_id": p.ID, "from": before, "to": p.Status, "stage": p.Stage, "why": why,
		})
		if err != nil {
			return err
		}
	}
	if err := s.tell(ctx, tx, p, before, from); err != nil {
		return err
	}
	return s.entitle(ctx, tx, p)
}

// tell lets the outside hear that a plan has begun, or that its money went back.
func (s *Service) tell(ctx context.Context, tx Tx, p *Purchase, before, from Status) error {
	typ := ""
	switch {
	case p.Stage == Active && from != Active:
		typ = registry.EventPlanActivated
	case p.Status == Refunded && before != Refunded:
		typ = registry.EventPlanRefunded
	default:
		return nil
	}
	return registry.Emit(ctx, tx, registry.OutboxEvent{ID: s.opts.NextID(), Type: typ, DeviceID: p.DeviceID, At: p.UpdatedAt, Data: map[string]any{
		"purchase_id": p.ID, "user_id": p.UserID, "plan_id": p.Plan.ID, "status": p.Status,
	}})
}

// renewalGrace is how long a subscription's service goes on after a paid period: the
// provider finalises and collects the next invoice an hour or more after it began.
const renewalGrace = 24 * time.Hour

// renews reports whether the purchase is a subscription that has not been ended.
func (p *Purchase) renews() bool { return p.Plan.Mode == ModeSubscription && p.EndedAt.IsZero() }

// serviceEnds is when the service of a purchase ends unless it is renewed; zero: it does
// not say.
func (p *Purchase) serviceEnds() time.Time {
	if p.renews() && !p.ActiveUntil.IsZero() {
		return p.ActiveUntil.Add(renewalGrace)
	}
	return p.ActiveUntil
}

// entitle makes what the device is entitled to follow the purchase: it begins when the
// carrier's package does, rests while the money is in doubt, and ends with it.
// [contracts D.3: payment success is not entitlement]
func (s *Service) entitle(ctx context.Context, tx Tx, p *Purchase) error {
	if p.ActiveAt.IsZero() || p.Stage != Active && p.Stage != Expired {
		return nil
	}
	now := s.now()
	ends, suspended := p.serviceEnds(), time.Time{}
	switch {
	case p.Status == Refunded, p.Stage == Expired:
		if ends.IsZero() || ends.After(now) {
			ends = now
		}
	case p.Status == Disputed, p.Status == Hold:
		suspended = now
	}
	for _, name := range p.Plan.Capabilities {
		c, ok := registry.ParseCapability(name)
		if !ok {
			continue // checked when the plan was made
		}
		err := tx.PutPlanEntitlement(ctx, p.DeviceID, registry.Entitlement{
			ID: s.opts.NextID(), Capability: c, Source: registry.EntitledByPlan, PurchaseID: p.ID, StartsAt: p.ActiveAt, EndsAt: ends,
			HistoryDays: p.Plan.HistoryDays, SuspendedAt: suspended, CreatedAt: now,
		})
		if err != nil {
			return err
		}
	}
	return nil
}
