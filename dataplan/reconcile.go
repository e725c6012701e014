package dataplan

import (
	"context"
	"errors"
	"time"

	"github.com/opticworks/devicecloud/registry"
)

const (
	// reconcileInterval is how often what the provider reported is compared with what it
	// says when it is asked. Every node does it: whatever it finds is merged like a report,
	// so that doing it twice changes nothing and no leader is needed.
	reconcileInterval = time.Hour
	// reportLate is how long after the end of a checkout a report may still be on its way.
	reportLate = 5 * time.Minute
	// eventRetention is how long events are remembered: the provider sends one again for
	// three days by itself, and up to thirty when a person asks for it.
	eventRetention = 90 * 24 * time.Hour
	reconcileBatch = 100
)

// Run does the recurring work of the domain until ctx ends, the first time at once.
func (s *Service) Run(ctx context.Context) {
	tick := time.NewTicker(reconcileInterval)
	defer tick.Stop()
	for {
		if err := s.Reconcile(ctx); err != nil && ctx.Err() == nil {
			s.log.WarnContext(ctx, "reconciling purchases failed; it will be tried again", "error", err)
		}
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
	}
}

// Reconcile settles checkouts whose time is over by asking the provider, ends subscriptions
// of people who were erased and purchases whose time is over, and forgets old events. It needs no outside caller and so no shared
// secret for one.
func (s *Service) Reconcile(ctx context.Context) error {
	return errors.Join(s.settleCheckouts(ctx), s.endOrphans(ctx), s.endPurchases(ctx), s.forgetEvents(ctx))
}

// settleCheckouts asks how the open checkouts ended whose time is over.
func (s *Service) settleCheckouts(ctx context.Context) error {
	var stale []Purchase
	err := s.store.View(ctx, func(tx Tx) (err error) {
		stale, err = tx.StaleCheckouts(ctx, s.now().Add(-reportLate), reconcileBatch)
		return err
	})
	for _, p := range stale {
		err = errors.Join(err, s.settleCheckout(ctx, p))
	}
	return err
}

func (s *Service) settleCheckout(ctx context.Context, p Purchase) error {
	var report Report
	if p.SessionID != "" {
		if s.opts.Provider == nil {
			return nil // nobody to ask
		}
		var err error
		if report, err = s.opts.Provider.FetchSession(ctx, p.SessionID); err != nil {
			return err
		}
		if report.Kind == SessionOpen {
			return nil
		}
		report.PurchaseID = p.ID
	}
	return s.store.InTx(ctx, func(tx Tx) error {
		now, err := tx.Purchase(ctx, p.ID)
		if err != nil || now.Version != p.Version {
			return err // a report was faster
		}
		if p.SessionID == "" {
			// Whether the provider has a session is not known; if it was paid, its report
			// names the purchase.
			return s.lapse(ctx, tx, registry.System(), &now)
		}
		_, err = s.merge(ctx, tx, registry.System(), Event{Report: report, Name: "reconciled", Created: s.now()})
		return err
	})
}

// endOrphans ends the subscriptions of people who were erased. Nobody is left who could
// end them, and the provider would charge a card for ever. One that fails holds up none
// of the others.
func (s *Service) endOrphans(ctx context.Context) error {
	if s.opts.Provider == nil {
		return nil
	}
	var failed []error
	for after := ""; ; {
		var list []Purchase
		err := s.store.View(ctx, func(tx Tx) (err error) {
			list, err = tx.OrphanedSubscriptions(ctx, after, reconcileBatch)
			return err
		})
		for _, p := range list {
			failed = append(failed, s.endOrphan(ctx, p))
			after = p.ID
		}
		if err != nil || len(list) < reconcileBatch || ctx.Err() != nil {
			return errors.Join(append(failed, err)...)
		}
	}
}

func (s *Service) endOrphan(ctx context.Context, p Purchase) error {
	if err := s.opts.Provider.CancelSubscription(ctx, p.SubscriptionID); err != nil {
		return err
	}
	return s.store.InTx(ctx, func(tx Tx) error {
		now, err := tx.Purchase(ctx, p.ID)
		if err != nil || !now.EndedAt.IsZero() {
			return err // the provider's report was faster
		}
		now.EndedAt = s.now()
		const why = "the buyer was erased"
		if err := s.audit(ctx, tx, registry.System(), now.DeviceID, "subscription_ended", map[string]any{"purchase_id": now.ID, "why": why}); err != nil {
			return err
		}
		return s.settle(ctx, tx, registry.System(), &now, now.Stage, why)
	})
}

// endPurchases expires what is active and over.
func (s *Service) endPurchases(ctx context.Context) error {
	var ended []Purchase
	err := s.store.View(ctx, func(tx Tx) (err error) {
		ended, err = tx.EndedPurchases(ctx, s.now(), reconcileBatch)
		return err
	})
	for _, p := range ended {
		err = errors.Join(err, s.store.InTx(ctx, func(tx Tx) error {
			now, err := tx.Purchase(ctx, p.ID)
			until := now.ActiveUntil
			if now.renews() {
				until = until.Add(renewalGrace)
			}
			if err != nil || now.Stage != Active || until.After(s.now()) {
				return err
			}
			_, err = s.advance(ctx, tx, registry.System(), &now, Expired, "time_over")
			return err
		}))
	}
	return err
}

func (s *Service) forgetEvents(ctx context.Context) error {
	for n := reconcileBatch; n == reconcileBatch; {
		err := s.store.InTx(ctx, func(tx Tx) (err error) {
			n, err = tx.DeleteStripeEvents(ctx, s.now().Add(-eventRetention), reconcileBatch)
			return err
		})
		if err != nil {
			return err
		}
	}
	return nil
}
