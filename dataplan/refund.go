package dataplan

import (
	"context"

	"github.com/opticworks/devicecloud/registry"
)

// Refund gives money of a purchase back: amount in the currency's smallest unit, 0 for all
// that is left of the latest payment. A subscription ends with it when all is given back.
// The purchase follows when the provider reports the refund. The same key again gives
// nothing back. Errors: ErrFeatureDisabled, ErrInsufficientRole, ErrInsufficientScope,
// ErrPurchaseNotFound, ErrNotRefundable, Invalid, ErrKeyReused, ErrPaymentProvider.
func (s *Service) Refund(ctx context.Context, a registry.Actor, purchaseID string, amount int64, key, reason string) (p Purchase, err error) {
	if err := manager(a); err != nil {
		return p, err
	}
	if s.opts.Provider == nil {
		return p, registry.ErrFeatureDisabled
	}
	var intent string
	err = s.store.InTx(ctx, func(tx Tx) error {
		if p, err = tx.Purchase(ctx, purchaseID); err != nil {
			return err
		}
		switch {
		case key == "" || len(key) > maxKey:
			return registry.E(registry.Invalid, registry.ErrInvalidRequest.Code, "Idempotency-Key must have 1 to 255 characters.")
		case amount < 0 || amount > p.Plan.Amount && p.HeldAt.IsZero():
			return registry.E(registry.Invalid, registry.ErrInvalidRequest.Code, "amount must be at most the price.")
		case p.PaidAt.IsZero() || p.Status == Refunded:
			return ErrNotRefundable
		}
		if intent, err = tx.LatestPayment(ctx, p.ID); err != nil {
			return err
		}
		if intent == "" {
			return ErrNotRefundable
		}
		// Before the call: who gave money away stays known whatever becomes of it.
		return s.audit(ctx, tx, a, p.DeviceID, "refund_requested", map[string]any{"purchase_id": p.ID, "amount": amount, "reason": reason})
	})
	if err != nil {
		return Purchase{}, err
	}
	// The subscription first: if the money went back and the rest was lost, the provider's
	// report would make the purchase refunded, no second try would come as far as this, and
	// the next period would be charged.
	if p.SubscriptionID != "" && amount == 0 {
		if err := s.opts.Provider.CancelSubscription(ctx, p.SubscriptionID); err != nil {
			return Purchase{}, err
		}
	}
	if err := s.opts.Provider.Refund(ctx, p, intent, amount, key); err != nil {
		return Purchase{}, err
	}
	return p, nil
}

// Resume lets a purchase go on that was held because what was paid is not its price.
// Errors: ErrInsufficientRole, ErrInsufficientScope, ErrPurchaseNotFound, ErrNotHeld.
func (s *Service) Resume(ctx context.Context, a registry.Actor, purchaseID string) (p Purchase, err error) {
	if err := manager(a); err != nil {
		return p, err
	}
	err = s.store.InTx(ctx, func(tx Tx) error {
		if p, err = tx.Purchase(ctx, purchaseID); err != nil {
			return err
		}
		if p.HeldAt.IsZero() || !p.ResumedAt.IsZero() {
			return ErrNotHeld
		}
		p.ResumedAt = s.now()
		return s.settle(ctx, tx, a, &p, p.Stage, "resumed")
	})
	if err != nil {
		return Purchase{}, err
	}
	s.wake()
	return p, nil
}
