package dataplan

import (
	"context"
	"slices"
	"time"

	"github.com/opticworks/devicecloud/registry"
)

// Status is where a purchase stands. Some are stages, which follow one another; the
// others say what happened beside and hide the stage while they hold.
type Status string

// The stages.
const (
	Pending           Status = "PENDING"            // the buyer has not paid yet
	Canceled          Status = "CANCELED"           // nobody paid in time
	Failed            Status = "FAILED"             // the payment failed, or the carrier refused the order
	Paid              Status = "PAID"               // waits for the order at the carrier
	PendingAssignment Status = "PENDING_ASSIGNMENT" // paid, but the device has no SIM
	Ordering          Status = "ORDERING"           // ordered, not confirmed yet
	Active            Status = "ACTIVE"
	Expired           Status = "EXPIRED"
)

// The side states, in the order in which one hides another.
const (
	Refunded          Status = "REFUNDED"           // all of it; the end of a single payment
	Disputed          Status = "DISPUTED"           // the buyer's bank took the money back, or may
	Hold              Status = "HOLD"               // what was paid is not the price: a person must look
	PartiallyRefunded Status = "PARTIALLY_REFUNDED" // the service goes on
	PastDue           Status = "PAST_DUE"           // of a subscription: an invoice is unpaid
)

// stages is the table of the machine: where a stage may go. The rest is refused, with
// an audit row. Money that came in is never ignored: a purchase that was given up goes
// on when it is paid after all. Refunds, disputes and holds are no stages: they are
// reachable from anywhere. [contracts E.4]
var stages = map[Status][]Status{
	Pending:           {Paid, Canceled, Failed},
	Canceled:          {Paid, Failed},
	Failed:            {Paid}, // only asked for while nothing was paid: what the carrier refused stays so
	Paid:              {PendingAssignment, Ordering, Active},
	PendingAssignment: {Ordering},
	Ordering:          {Active, Failed},
	Active:            {Expired},
	Expired:           {Active}, // of a subscription that is paid late
}

// mayMove reports whether the table has a way for the purchase to a stage.
func (p *Purchase) mayMove(to Status) bool {
	if p.Stage == Expired && p.Plan.Mode != ModeSubscription {
		return false
	}
	return slices.Contains(stages[p.Stage], to)
}

// Purchase is one plan bought for the SIM of one device. It names device and person by
// value and outlives both: it is a record of money.
type Purchase struct {
	ID       string // 32 hex; also what the carrier calls the order: outTradeNo [contracts E.4]
	UserID   string
	DeviceID string
	ICCID    ICCID
	Plan     Plan // as it was when it was bought; its amount and currency are the price
	Stage    Status
	Status   Status // what people see: the side state that holds, else the stage
	Version  int64  // counts the writes; the guard of each

	Key         string // the buyer's Idempotency-Key
	SessionID   string // at the payment provider; "" until it has answered
	CheckoutURL string // where to pay; "" once that is over
	// ExpiresAt is until when the buyer may pay.
	ExpiresAt time.Time
	// ClosedAt is when nobody could pay any more; zero: an open checkout.
	ClosedAt        time.Time
	PaymentIntentID string
	SubscriptionID  string

	PaidAt      time.Time // when the provider first said so; zero: nothing was paid
	HeldAt      time.Time
	HoldReason  string
	ResumedAt   time.Time // an administrator accepted what was held
	ActiveAt    time.Time // when the carrier's package began
	ActiveUntil time.Time // when it ends; zero: the plan does not say
	EndedAt     time.Time // of a subscription: it will not be renewed

	OutTradeNo     string // what the carrier calls the order: the id
	CarrierOrderID string

	CreatedAt time.Time
	UpdatedAt time.Time
}

// Waiting reports whether the carrier's part is due: it was paid, and nothing holds it.
func (p *Purchase) Waiting() bool {
	return slices.Contains([]Status{Paid, PendingAssignment, Ordering}, p.Stage) && !p.blocked()
}

// blocked reports whether a side state keeps the service from beginning or going on.
func (p *Purchase) blocked() bool {
	return p.Status == Refunded || p.Status == Disputed || p.Status == Hold
}

// PurchaseTx reads and writes purchases.
type PurchaseTx interface {
	// InsertPurchase writes a purchase; created is false when the person has used the key
	// before, or a checkout of the same SIM and plan is open.
	InsertPurchase(ctx context.Context, p Purchase) (created bool, err error)
	// UpdatePurchase writes what changes in a purchase's life, only while its version is
	// still that of p; the row then has the next one.
	UpdatePurchase(ctx context.Context, p Purchase) (changed bool, err error)
	// Purchase reads one; ErrPurchaseNotFound.
	Purchase(ctx context.Context, purchaseID string) (Purchase, error)
	// PurchaseByKey finds a person's purchase by their Idempotency-Key.
	PurchaseByKey(ctx context.Context, userID, key string) (p Purchase, ok bool, err error)
	// OpenPurchase finds the purchase of a SIM and plan whose checkout is open.
	OpenPurchase(ctx context.Context, iccid ICCID, planID string) (p Purchase, ok bool, err error)
	// PurchaseBySession finds a purchase by the provider's checkout session.
	PurchaseBySession(ctx context.Context, sessionID string) (p Purchase, ok bool, err error)
	// PurchaseBySubscription finds a purchase by the provider's subscription.
	PurchaseBySubscription(ctx context.Context, subscriptionID string) (p Purchase, ok bool, err error)
	// Purchases lists purchases, the newest first.
	Purchases(ctx context.Context, f PurchaseFilter) ([]Purchase, error)
	// WaitingPurchases lists those that wait for the carrier (see [Purchase.Waiting]), in
	// order of id after the given one.
	WaitingPurchases(ctx context.Context, after string, limit int) ([]Purchase, error)
	// StaleCheckouts lists open checkouts whose time was over before the given time.
	StaleCheckouts(ctx context.Context, before time.Time, limit int) ([]Purchase, error)
	// OrphanedSubscriptions lists subscriptions that go on although their buyer was erased,
	// in order of id after the given one.
	OrphanedSubscriptions(ctx context.Context, after string, limit int) ([]Purchase, error)
	// EndedPurchases lists the active ones whose time was over before the given time.
	EndedPurchases(ctx context.Context, before time.Time, limit int) ([]Purchase, error)

	// Facts reads what is known beside a purchase: payments, disputes, periods.
	Facts(ctx context.Context, purchaseID string) (Facts, error)
	// PutPayment merges what is known of a payment: amounts never shrink, and once known
	// to be of a purchase it stays there. It returns whose it is, "" while that is unknown.
	PutPayment(ctx context.Context, p Payment) (purchaseID string, err error)
	// LatestPayment is the payment of a purchase that was made last and is not wholly
	// refunded; "" when there is none.
	LatestPayment(ctx context.Context, purchaseID string) (intentID string, err error)
	// PutDispute merges what is known of a dispute of a payment: a closed one stays closed.
	PutDispute(ctx context.Context, d Dispute) error
	// PutPeriod merges what is known of an invoice: a paid one stays paid.
	PutPeriod(ctx context.Context, p Period) error
	// AdoptPeriods gives the invoices of a subscription that nobody owns to a purchase.
	AdoptPeriods(ctx context.Context, subscriptionID, purchaseID string) error

	// InsertStripeEvent records an event of the payment provider; fresh is false when it
	// was there.
	InsertStripeEvent(ctx context.Context, e EventRecord) (fresh bool, err error)
	// DeleteStripeEvents deletes at most limit events from before the given time, and
	// payments, disputes and periods of that age that belong to no purchase; it returns
	// how many events.
	DeleteStripeEvents(ctx context.Context, before time.Time, limit int) (int, error)

	// PutPlanEntitlement writes what a purchase entitles a device to; one row for each
	// purchase and capability. It does nothing for a device that is not there.
	PutPlanEntitlement(ctx context.Context, deviceID string, e registry.Entitlement) error
	// SIMOfDevice is the SIM card that is in a device; ok is false when there is none.
	SIMOfDevice(ctx context.Context, deviceID string) (iccid ICCID, ok bool, err error)
}

// PurchaseFilter narrows a list of purchases.
type PurchaseFilter struct {
	UserID   string // "" is everybody
	DeviceID string
	Status   Status
	Before   string // the last purchase id of the page before
	Limit    int
}

// The errors of purchases.
var (
	ErrPurchaseNotFound   = registry.E(registry.NotFound, "purchase_not_found", "There is no such purchase.")
	ErrSessionNotFound    = registry.E(registry.NotFound, "session_not_found", "There is no such checkout session.")
	ErrNoSIM              = registry.E(registry.Conflict, "no_sim", "The device has no SIM card that a plan could be bought for.")
	ErrPurchaseInProgress = registry.E(registry.Conflict, "purchase_in_progress", "Somebody is paying for the same plan of this device. Try again when that is over.")
	ErrKeyReused          = registry.E(registry.Conflict, "idempotency_conflict", "This Idempotency-Key was used for another request.")
	ErrPaymentProvider    = registry.E(registry.Upstream, "payment_provider_error", "The payment provider does not answer as it should. Try again.")
	ErrNotHeld            = registry.E(registry.Conflict, "not_on_hold", "The purchase is not on hold.")
	ErrNotRefundable      = registry.E(registry.Conflict, "not_refundable", "There is nothing to give back: it was not paid, or was refunded.")
)
