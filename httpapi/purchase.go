package httpapi

import (
	_ "embed"
	"errors"
	"net/http"
	"strconv"
	"strings"
	"time"

	"github.com/opticworks/devicecloud/account"
	"github.com/opticworks/devicecloud/dataplan"
	"github.com/opticworks/devicecloud/registry"
	"github.com/opticworks/devicecloud/topic"
)

// maxWebhook is the largest report of a partner that is read. [contracts D.3]
const maxWebhook = 256 << 10

// errWebhookNotConfigured is a 500 of our own: the sender is to try again once the
// operator has set the secret. [contracts D.3]
var errWebhookNotConfigured = &httpError{
	http.StatusInternalServerError, dataplan.ErrWebhookNotConfigured.Code, dataplan.ErrWebhookNotConfigured.Message,
}

// purchaseBody is a purchase as its buyer sees it.
type purchaseBody struct {
	PurchaseID  string     `json:"purchase_id"`
	DeviceID    string     `json:"device_id"`
	ICCID       string     `json:"iccid"` // masked
	Plan        planBody   `json:"plan"`  // as it was bought
	Status      string     `json:"status"`
	CheckoutURL *string    `json:"checkout_url"` // while it may be paid
	ExpiresAt   time.Time  `json:"expires_at"`   // of the checkout
	PaidAt      *time.Time `json:"paid_at"`
	ActiveAt    *time.Time `json:"active_at"`
	ActiveUntil *time.Time `json:"active_until"`
	EndedAt     *time.Time `json:"ended_at"` // of a subscription: it will not be renewed
	CreatedAt   time.Time  `json:"created_at"`
	UpdatedAt   time.Time  `json:"updated_at"`
}

func newPurchaseBody(p dataplan.Purchase) purchaseBody {
	return purchaseBody{
		p.ID, p.DeviceID, p.ICCID.Masked(), newPlanBody(p.Plan), string(p.Status), text(p.CheckoutURL), p.ExpiresAt.UTC(),
		stamp(p.PaidAt), stamp(p.ActiveAt), stamp(p.ActiveUntil), stamp(p.EndedAt), p.CreatedAt.UTC(), p.UpdatedAt.UTC(),
	}
}

// adminPurchaseBody adds what staff need to find it at the partners.
type adminPurchaseBody struct {
	purchaseBody
	UserID          string     `json:"user_id"`
	Stage           string     `json:"stage"`
	HoldReason      *string    `json:"hold_reason"`
	ResumedAt       *time.Time `json:"resumed_at"`
	SessionID       *string    `json:"stripe_session_id"`
	PaymentIntentID *string    `json:"stripe_payment_intent_id"`
	SubscriptionID  *string    `json:"stripe_subscription_id"`
	OutTradeNo      string     `json:"out_trade_no"`
	CarrierOrderID  *string    `json:"carrier_order_id"`
}

func newAdminPurchaseBody(p dataplan.Purchase) adminPurchaseBody {
	b := adminPurchaseBody{
		newPurchaseBody(p), p.UserID, string(p.Stage), text(p.HoldReason), stamp(p.ResumedAt), text(p.SessionID),
		text(p.PaymentIntentID), text(p.SubscriptionID), p.OutTradeNo, text(p.CarrierOrderID),
	}
	b.CheckoutURL = nil // it is the buyer's to pay
	return b
}

type purchasesBody struct {
	Purchases  []purchaseBody `json:"purchases"`
	NextCursor string         `json:"next_cursor"`
}

type adminPurchasesBody struct {
	Purchases  []adminPurchaseBody `json:"purchases"`
	NextCursor string              `json:"next_cursor"`
}

func purchaseKey(p dataplan.Purchase) string { return p.ID }

// checkoutBody is where to pay.
type checkoutBody struct {
	PurchaseID  string    `json:"purchase_id"`
	CheckoutURL *string   `json:"checkout_url"` // null: it was paid, or given up
	ExpiresAt   time.Time `json:"expires_at"`
	Status      string    `json:"status"`
}

func (a *api) checkout(r *request) (answer, error) {
	if r.actor.Kind != registry.ActorUser {
		return answer{}, registry.ErrInsufficientRole
	}
	var in struct {
		PlanID   string `json:"plan_id"`
		DeviceID string `json:"device_id"`
		ICCID    string `json:"iccid"`
	}
	if err := r.decode(&in, maxJSON); err != nil {
		return answer{}, err
	}
	key := r.Header.Get("Idempotency-Key")
	if in.PlanID == "" || in.DeviceID == "" || key == "" {
		return answer{}, account.ErrMissingFields
	}
	switch {
	case clean(key) != key:
		return answer{}, invalid("Idempotency-Key must be 1 to 255 printable characters.")
	case !topic.ValidDeviceID(in.DeviceID):
		return answer{}, registry.ErrDeviceNotFound
	case len(in.PlanID) > maxParam || len(in.ICCID) > maxParam:
		return answer{}, dataplan.ErrPlanNotFound
	}
	p, created, err := a.DataPlans.Checkout(r.Context(), r.actor, dataplan.Order{PlanID: in.PlanID, DeviceID: in.DeviceID, ICCID: in.ICCID, Key: key})
	if err != nil {
		return answer{}, err
	}
	body := checkoutBody{p.ID, text(p.CheckoutURL), p.ExpiresAt.UTC(), string(p.Status)}
	if created {
		return answer{http.StatusCreated, body}, nil
	}
	return ok(body)
}

// checkoutStatusBody is all that a guest learns of a checkout. [contracts D.3]
type checkoutStatusBody struct {
	Status string `json:"status"` // processing, paid
}

func (a *api) getSession(r *request) (answer, error) {
	id, err := r.id("session_id", dataplan.ErrSessionNotFound)
	if err != nil {
		return answer{}, err
	}
	if len(r.Header.Values("Authorization")) > 0 {
		// Whoever says who they are is held to it.
		if r.actor, err = a.identify(r.Request, person); err != nil {
			return answer{}, err
		}
		if err := a.limits.user(r.actor); err != nil {
			return answer{}, err
		}
		p, err := a.DataPlans.SessionPurchase(r.Context(), r.actor, id)
		if err != nil {
			return answer{}, err
		}
		return ok(newPurchaseBody(p))
	}
	paid, err := a.DataPlans.SessionStatus(r.Context(), id)
	if err != nil {
		return answer{}, err
	}
	if paid {
		return ok(checkoutStatusBody{"paid"})
	}
	return ok(checkoutStatusBody{"processing"})
}

func (a *api) listPurchases(r *request) (answer, error) {
	q, err := r.params()
	if err != nil {
		return answer{}, err
	}
	before, limit, err := q.textPage(listPurchases)
	if err != nil {
		return answer{}, err
	}
	device, err := q.text("device_id")
	if err != nil {
		return answer{}, err
	}
	rows, err := a.DataPlans.Purchases(r.Context(), r.actor, device, before, limit+1)
	if err != nil {
		return answer{}, err
	}
	rows, cursor := nextText(listPurchases, rows, limit, purchaseKey)
	return ok(purchasesBody{render(rows, newPurchaseBody), cursor})
}

func (a *api) adminListPurchases(r *request) (answer, error) {
	q, err := r.params()
	if err != nil {
		return answer{}, err
	}
	var f dataplan.PurchaseFilter
	limit := 0
	if f.Before, limit, err = q.textPage(listPurchases); err != nil {
		return answer{}, err
	}
	f.Limit = limit + 1
	status := ""
	for _, p := range []struct {
		name string
		into *string
	}{{"user_id", &f.UserID}, {"device_id", &f.DeviceID}, {"status", &status}} {
		if *p.into, err = q.text(p.name); err != nil {
			return answer{}, err
		}
	}
	f.Status = dataplan.Status(status)
	rows, err := a.DataPlans.AllPurchases(r.Context(), r.actor, f)
	if err != nil {
		return answer{}, err
	}
	rows, cursor := nextText(listPurchases, rows, limit, purchaseKey)
	return ok(adminPurchasesBody{render(rows, newAdminPurchaseBody), cursor})
}

func (a *api) adminGetPurchase(r *request) (answer, error) {
	id, err := r.id("purchase_id", dataplan.ErrPurchaseNotFound)
	if err != nil {
		return answer{}, err
	}
	p, err := a.DataPlans.PurchaseByID(r.Context(), r.actor, id)
	if err != nil {
		return answer{}, err
	}
	return ok(newAdminPurchaseBody(p))
}

func (a *api) refundPurchase(r *request) (answer, error) {
	var in struct {
		Amount *int64 `json:"amount"` // absent: all that is left
		Reason string `json:"reason"`
	}
	if err := r.decodeOptional(&in); err != nil {
		return answer{}, err
	}
	key := r.Header.Get("Idempotency-Key")
	amount := int64(0)
	switch {
	case key == "":
		return answer{}, account.ErrMissingFields
	case clean(key) != key || len(in.Reason) > maxParam || clean(in.Reason) != in.Reason:
		return answer{}, invalid("Idempotency-Key and reason must be at most 256 bytes of printable text.")
	case in.Amount != nil && *in.Amount < 1:
		return answer{}, invalid("amount must be at least 1, in the currency's smallest unit.")
	case in.Amount != nil:
		amount = *in.Amount
	}
	id, err := r.id("purchase_id", dataplan.ErrPurchaseNotFound)
	if err != nil {
		return answer{}, err
	}
	p, err := a.DataPlans.Refund(r.Context(), r.actor, id, amount, key, in.Reason)
	if err != nil {
		return answer{}, err
	}
	return answer{http.StatusAccepted, newAdminPurchaseBody(p)}, nil
}

func (a *api) resumePurchase(r *request) (answer, error) {
	id, err := r.id("purchase_id", dataplan.ErrPurchaseNotFound)
	if err != nil {
		return answer{}, err
	}
	p, err := a.DataPlans.Resume(r.Context(), r.actor, id)
	if err != nil {
		return answer{}, err
	}
	return ok(newAdminPurchaseBody(p))
}

func (a *api) retryPurchase(r *request) (answer, error) {
	id, err := r.id("purchase_id", dataplan.ErrPurchaseNotFound)
	if err != nil {
		return answer{}, err
	}
	p, err := a.DataPlans.Retry(r.Context(), r.actor, id)
	if err != nil {
		return answer{}, err
	}
	return ok(newAdminPurchaseBody(p))
}

// receivedBody tells the payment provider that it need not send a report again.
type receivedBody struct {
	Received  bool `json:"received"`
	Duplicate bool `json:"duplicate,omitempty"`
	Ignored   bool `json:"ignored,omitempty"`
}

func (a *api) stripeWebhook(r *request) (answer, error) {
	if err := a.DataPlans.WebhookReady(r.Context()); err != nil {
		return answer{}, notConfigured(err)
	}
	body, err := r.body("application/json", maxWebhook)
	if err != nil {
		return answer{}, err
	}
	r.actor.Kind = registry.ActorSystem // the signature says who it is
	outcome, err := a.DataPlans.Webhook(r.Context(), r.actor, body, r.Header.Get("Stripe-Signature"))
	if err != nil {
		return answer{}, notConfigured(retriable(err))
	}
	return ok(receivedBody{true, outcome == dataplan.Duplicate, outcome == dataplan.Ignored || outcome == dataplan.Unmatched || outcome == dataplan.LivemodeMismatch})
}

// notConfigured gives a missing secret its own 500.
func notConfigured(err error) error {
	if errors.Is(err, dataplan.ErrWebhookNotConfigured) {
		return errWebhookNotConfigured
	}
	return err
}

// retriable makes a passing failure of ours, or of a partner whom we asked in turn, a
// plain 500: the sender tries again. [contracts D.3]
func retriable(err error) error {
	switch registry.KindOf(err) {
	case registry.Unavailable, registry.Upstream:
		return errors.Join(errInternal, err)
	}
	return err
}

var (
	//go:embed checkout.html
	checkoutPageHTML string
	//go:embed checkout.js
	checkoutScript string
	//go:embed magiclink.css
	checkoutStyle string
)

// checkoutPage is where the payment provider sends the buyer back to. It is the same
// bytes for everybody: its script asks for the status that a guest may know. title and
// text are what is shown before; poll is whether there is anything to ask for.
func checkoutPage(title, words string, poll bool) http.HandlerFunc {
	script := ""
	if poll {
		script = checkoutScript
	}
	body := []byte(strings.NewReplacer("{{title}}", title, "{{words}}", words, "{{script}}", script, "{{style}}", checkoutStyle).Replace(checkoutPageHTML))
	policy := "default-src 'none'; connect-src 'self'; script-src '" + sourceHash(script) + "'; style-src '" + sourceHash(checkoutStyle) +
		"'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
	return func(w http.ResponseWriter, _ *http.Request) {
		h := w.Header()
		h.Set("Content-Type", "text/html; charset=utf-8")
		h.Set("Content-Length", strconv.Itoa(len(body)))
		h.Set("Content-Security-Policy", policy)
		h.Set("X-Robots-Tag", "noindex")
		_, _ = w.Write(body) // the client has gone: there is nobody to tell
	}
}
