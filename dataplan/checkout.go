package dataplan

import (
	"context"
	"slices"
	"time"

	"github.com/opticworks/devicecloud/registry"
)

const (
	// checkoutLife is how long a checkout may be paid. The provider takes 30 minutes to a
	// day; while it lasts, nobody else of the household can buy the same plan.
	checkoutLife = 2 * time.Hour
	// checkoutLeast is what must be left of it for a session to be made.
	checkoutLeast = 35 * time.Minute
	// maxKey bounds an Idempotency-Key.
	maxKey = 255
)

// Provider takes payments. Each method's error is ErrPaymentProvider, whose cause holds
// neither a key nor a URL.
type Provider interface {
	// Live reports whether real money moves.
	Live() bool
	// CreateSession opens a checkout; the same purchase again gives the same session.
	CreateSession(ctx context.Context, p Purchase, pages Pages) (Session, error)
	// FetchSession reads how a checkout stands.
	FetchSession(ctx context.Context, sessionID string) (Report, error)
	// Complete asks for what an event leaves out, or tells only in the words of one
	// version of the provider's interface.
	Complete(ctx context.Context, r Report) (Report, error)
	// Refund gives back an amount of a payment, 0 for all that is left; the same key again
	// gives nothing back; with another amount it is ErrKeyReused.
	Refund(ctx context.Context, p Purchase, intentID string, amount int64, key string) error
	// CancelSubscription ends a subscription now; one that has ended is no error.
	CancelSubscription(ctx context.Context, subscriptionID string) error
}

// Session is a checkout at the payment provider.
type Session struct {
	ID  string
	URL string
}

// Pages is where the provider sends the buyer back to. The provider puts the id of the
// session for {CHECKOUT_SESSION_ID}.
type Pages struct{ Success, Cancel string }

// Order is what a person wants to buy.
type Order struct {
	PlanID   string
	DeviceID string
	ICCID    string // "", or the SIM that the app believes to be in the device
	Key      string // Idempotency-Key
}

// Checkout begins a purchase, or gives back the one that the key began, or the open one of
// the same person for the same SIM and plan; created says which. The price is the plan's.
// Errors: ErrFeatureDisabled, ErrInsufficientRole, those of [registry.Registry.Access],
// ErrPlanNotFound, ErrNoSIM, ErrPurchaseInProgress, ErrKeyReused, ErrPaymentProvider.
// [contracts D.2]
func (s *Service) Checkout(ctx context.Context, a registry.Actor, o Order) (p Purchase, created bool, err error) {
	if s.opts.Provider == nil {
		return p, false, registry.ErrFeatureDisabled
	}
	if a.Kind != registry.ActorUser {
		return p, false, registry.ErrInsufficientRole // money is spent by people
	}
	if o.Key == "" || len(o.Key) > maxKey {
		return p, false, registry.E(registry.Invalid, registry.ErrInvalidRequest.Code, "Idempotency-Key must have 1 to 255 characters.")
	}
	if _, err := s.devices.Access(ctx, a, o.DeviceID, registry.CanConfigure); err != nil {
		return p, false, err
	}
	now := s.now()
	err = s.store.InTx(ctx, func(tx Tx) error {
		p, created, err = s.place(ctx, tx, a, o, now)
		return err
	})
	if err != nil {
		return Purchase{}, false, err
	}
	if p.SessionID != "" || !p.ClosedAt.IsZero() {
		return p, created, nil
	}
	if p.ExpiresAt.Sub(now) < checkoutLeast {
		return Purchase{}, false, ErrPurchaseInProgress // its session, if there is one, must run out first
	}
	// After the commit. What fails here leaves a purchase without a session; the same
	// request again, or another of the same person, asks for the same session.
	session, err := s.opts.Provider.CreateSession(ctx, p, s.pages())
	if err != nil {
		return Purchase{}, false, err
	}
	p, err = s.opened(ctx, p.ID, session)
	return p, created, err
}

func (s *Service) pages() Pages {
	return Pages{Success: s.opts.Pages + "/checkout/success?session_id={CHECKOUT_SESSION_ID}", Cancel: s.opts.Pages + "/checkout/cancel"}
}

// place writes the row of a purchase, or finds the one that is meant.
func (s *Service) place(ctx context.Context, tx Tx, a registry.Actor, o Order, now time.Time) (p Purchase, created bool, err error) {
	if p, again, err := tx.PurchaseByKey(ctx, a.ID, o.Key); err != nil || again {
		if err == nil && (p.DeviceID != o.DeviceID || p.Plan.ID != o.PlanID) {
			err = ErrKeyReused
		}
		return p, false, err
	}
	plan, err := tx.Plan(ctx, o.PlanID)
	if err == nil && plan.Retired {
		err = ErrPlanNotFound
	}
	if err != nil {
		return p, false, err
	}
	iccid, ok, err := tx.SIMOfDevice(ctx, o.DeviceID)
	if err == nil && (!ok || o.ICCID != "" && o.ICCID != string(iccid)) {
		err = ErrNoSIM // a SIM that is named must be the one in the caller's device
	}
	if err != nil {
		return p, false, err
	}
	if p, open, err := tx.OpenPurchase(ctx, iccid, o.PlanID); err != nil {
		return p, false, err
	} else if open && now.Before(p.ExpiresAt) {
		if p.UserID != a.ID || p.DeviceID != o.DeviceID || p.SessionID != "" && p.CheckoutURL == "" {
			return p, false, ErrPurchaseInProgress
		}
		return p, false, nil
	} else if open {
		if err := s.lapse(ctx, tx, a, &p); err != nil {
			return p, false, err
		}
	}
	id := s.opts.NewID()
	p = Purchase{
		ID: id, UserID: a.ID, DeviceID: o.DeviceID, ICCID: iccid, Plan: plan.Plan, Stage: Pending, Status: Pending, Key: o.Key,
		ExpiresAt: now.Add(checkoutLife), OutTradeNo: id, CreatedAt: now, UpdatedAt: now,
	}
	if created, err = tx.InsertPurchase(ctx, p); err != nil || !created {
		if err == nil {
			err = ErrPurchaseInProgress // two at once: the other one was faster
		}
		return p, false, err
	}
	return p, true, s.audit(ctx, tx, a, o.DeviceID, "purchase_created", map[string]any{
		"purchase_id": id, "plan_id": plan.ID, "amount": plan.Amount, "currency": plan.Currency,
	})
}

// lapse closes a checkout that cannot be paid any more. If it was paid in the last moment,
// the report of that still counts.
func (s *Service) lapse(ctx context.Context, tx Tx, a registry.Actor, p *Purchase) error {
	s.close(p)
	to := Canceled
	if p.Stage != Pending {
		to = p.Stage
	}
	_, err := s.advance(ctx, tx, a, p, to, "checkout_expired")
	return err
}

// opened records the session of a purchase, unless a report was faster.
func (s *Service) opened(ctx context.Context, purchaseID string, session Session) (p Purchase, err error) {
	err = s.store.InTx(ctx, func(tx Tx) error {
		if p, err = tx.Purchase(ctx, purchaseID); err != nil {
			return err
		}
		if p.SessionID != "" && p.SessionID != session.ID {
			return nil
		}
		p.SessionID = session.ID
		if p.ClosedAt.IsZero() {
			p.CheckoutURL = session.URL
		}
		return s.settle(ctx, tx, registry.System(), &p, p.Stage, "session_opened")
	})
	return p, err
}

// SessionStatus is what anybody who knows the id of a session may learn: whether it was
// paid. ErrSessionNotFound. [contracts D.3, seed 000 2.21]
func (s *Service) SessionStatus(ctx context.Context, sessionID string) (paid bool, err error) {
	p, err := s.session(ctx, sessionID)
	return !p.PaidAt.IsZero(), err
}

// SessionPurchase is the purchase of a session, for the person who bought; for anybody else
// there is none: ErrSessionNotFound.
func (s *Service) SessionPurchase(ctx context.Context, a registry.Actor, sessionID string) (Purchase, error) {
	p, err := s.session(ctx, sessionID)
	if err == nil && (a.Kind != registry.ActorUser || p.UserID != a.ID) {
		err = ErrSessionNotFound
	}
	if err != nil {
		return Purchase{}, err
	}
	return p, nil
}

func (s *Service) session(ctx context.Context, sessionID string) (p Purchase, err error) {
	err = s.store.View(ctx, func(tx Tx) error {
		var ok bool
		if p, ok, err = tx.PurchaseBySession(ctx, sessionID); err == nil && !ok {
			err = ErrSessionNotFound
		}
		return err
	})
	return p, err
}

// Purchases lists what the person bought, the newest first, before the given id.
func (s *Service) Purchases(ctx context.Context, a registry.Actor, deviceID, before string, limit int) (list []Purchase, err error) {
	if a.Kind != registry.ActorUser {
		return nil, nil // others buy nothing; staff have a list of their own
	}
	err = s.store.View(ctx, func(tx Tx) (err error) {
		list, err = tx.Purchases(ctx, PurchaseFilter{UserID: a.ID, DeviceID: deviceID, Before: before, Limit: limit})
		return err
	})
	return list, err
}

// AllPurchases lists everybody's purchases for administrators.
func (s *Service) AllPurchases(ctx context.Context, a registry.Actor, f PurchaseFilter) (list []Purchase, err error) {
	if err := adminOnly(a); err != nil {
		return nil, err
	}
	err = s.store.View(ctx, func(tx Tx) (err error) {
		list, err = tx.Purchases(ctx, f)
		return err
	})
	return list, err
}

// PurchaseByID reads any purchase, for administrators; ErrPurchaseNotFound.
func (s *Service) PurchaseByID(ctx context.Context, a registry.Actor, purchaseID string) (p Purchase, err error) {
	if err := adminOnly(a); err != nil {
		return p, err
	}
	err = s.store.View(ctx, func(tx Tx) (err error) {
		p, err = tx.Purchase(ctx, purchaseID)
		return err
	})
	return p, err
}

// adminOnly lets platform administrators pass, and the program itself.
func adminOnly(a registry.Actor) error {
	if slices.Contains([]registry.ActorKind{registry.ActorAdmin, registry.ActorSystem}, a.Kind) {
		return nil
	}
	return registry.ErrInsufficientRole
}

// manager lets administrators pass whose token may change what is sold.
func manager(a registry.Actor) error {
	err := adminOnly(a)
	if err == nil && a.Kind != registry.ActorSystem && !a.Has(registry.ScopeConfigWrite) {
		err = registry.ErrInsufficientScope
	}
	return err
}
