// Package stripepay takes payments through Stripe: checkout sessions, refunds, and the
// reading of what a report leaves out (client.go), and the checking and decoding of
// reports (webhook.go, decode.go). Nothing of Stripe's is known outside of this package.
package stripepay

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"time"

	"github.com/stripe/stripe-go/v76"
	"github.com/stripe/stripe-go/v76/client"

	"github.com/opticworks/devicecloud/dataplan"
)

// Options configures a Client; only Key has no usable zero value.
type Options struct {
	Key     string        // sk_test_..., sk_live_..., rk_...
	BaseURL string        // where Stripe answers; default https://api.stripe.com
	Timeout time.Duration // of one request; default 20 s
	Retries int64         // of one request that got no answer; default 2, negative: none
}

// Client is Stripe as the domain sees it. It is safe for concurrent use.
type Client struct {
	api  *client.API
	live bool
}

var _ dataplan.Provider = (*Client)(nil)

// New makes a client. It does not call Stripe.
func New(o Options) *Client {
	if o.Timeout <= 0 {
		o.Timeout = 20 * time.Second
	}
	switch {
	case o.Retries == 0:
		o.Retries = 2
	case o.Retries < 0:
		o.Retries = 0
	}
	config := &stripe.BackendConfig{
		HTTPClient:        &http.Client{Timeout: o.Timeout, CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }},
		MaxNetworkRetries: stripe.Int64(o.Retries),
		LeveledLogger:     &stripe.LeveledLogger{Level: stripe.LevelNull}, // it would log URLs and answers
		EnableTelemetry:   stripe.Bool(false),
	}
	if o.BaseURL != "" {
		config.URL = stripe.String(strings.TrimSuffix(o.BaseURL, "/"))
	}
	backend := stripe.GetBackendWithConfig(stripe.APIBackend, config)
	return &Client{
		api:  client.New(o.Key, &stripe.Backends{API: backend, Connect: backend, Uploads: backend}),
		live: strings.HasPrefix(o.Key, "sk_live_") || strings.HasPrefix(o.Key, "rk_live_"),
	}
}

// Live implements dataplan.Provider.
func (c *Client) Live() bool { return c.live }

// metadata is what Stripe's dashboard shows to everybody who may look at it: no more of a
// SIM than its last four digits. [contracts D.2]
func metadata(p dataplan.Purchase) map[string]string {
	return map[string]string{
		"type": dataplan.MetadataType, "purchase_id": p.ID, "user_id": p.UserID, "device_id": p.DeviceID,
		"plan_id": p.Plan.ID, "iccid_last4": p.ICCID.Last4(),
	}
}

// CreateSession implements dataplan.Provider. Stripe's idempotency key is the purchase id,
// so that an answer that was lost can be asked for again.
func (c *Client) CreateSession(ctx context.Context, p dataplan.Purchase, pages dataplan.Pages) (dataplan.Session, error) {
	price := &stripe.CheckoutSessionLineItemPriceDataParams{
		Currency: stripe.String(p.Plan.Currency), UnitAmount: stripe.Int64(p.Plan.Amount),
		ProductData: &stripe.CheckoutSessionLineItemPriceDataProductDataParams{Name: stripe.String(p.Plan.Name)},
	}
	if p.Plan.Description != "" {
		price.ProductData.Description = stripe.String(p.Plan.Description)
	}
	params := &stripe.CheckoutSessionParams{
		Mode: stripe.String(string(p.Plan.Mode)), ClientReferenceID: stripe.String(p.ID), Metadata: metadata(p),
		SuccessURL: stripe.String(pages.Success), CancelURL: stripe.String(pages.Cancel), ExpiresAt: stripe.Int64(p.ExpiresAt.Unix()),
		LineItems: []*stripe.CheckoutSessionLineItemParams{{Quantity: stripe.Int64(1), PriceData: price}},
	}
	if p.Plan.Mode == dataplan.ModeSubscription {
		price.Recurring = &stripe.CheckoutSessionLineItemPriceDataRecurringParams{
			Interval: stripe.String(p.Plan.Interval), IntervalCount: stripe.Int64(int64(p.Plan.IntervalCount)),
		}
		params.SubscriptionData = &stripe.CheckoutSessionSubscriptionDataParams{Metadata: metadata(p)}
	} else {
		params.PaymentIntentData = &stripe.CheckoutSessionPaymentIntentDataParams{Metadata: metadata(p)}
	}
	params.Context = ctx
	params.SetIdempotencyKey(p.ID)
	s, err := c.api.CheckoutSessions.New(params)
	if err != nil {
		return dataplan.Session{}, failure("create a checkout session", err)
	}
	if s.ID == "" || s.URL == "" {
		return dataplan.Session{}, dataplan.ErrPaymentProvider.With(errNoSession)
	}
	return dataplan.Session{ID: s.ID, URL: s.URL}, nil
}

var errNoSession = errors.New("create a checkout session: the answer has no id or no url")

// FetchSession implements dataplan.Provider.
func (c *Client) FetchSession(ctx context.Context, sessionID string) (dataplan.Report, error) {
	params := &stripe.CheckoutSessionParams{}
	params.Context = ctx
	s, err := c.api.CheckoutSessions.Get(sessionID, params)
	if err != nil {
		return dataplan.Report{}, failure("read a checkout session", err)
	}
	r := dataplan.Report{
		SessionID: s.ID, Type: s.Metadata["type"], PurchaseID: s.Metadata["purchase_id"], Amount: s.AmountTotal, Currency: string(s.Currency),
	}
	if s.PaymentIntent != nil {
		r.IntentID = s.PaymentIntent.ID
	}
	if s.Subscription != nil {
		r.SubscriptionID = s.Subscription.ID
	}
	switch {
	case s.Status == stripe.CheckoutSessionStatusExpired:
		r.Kind = dataplan.SessionExpired
	case s.Status == stripe.CheckoutSessionStatusComplete && s.PaymentStatus != stripe.CheckoutSessionPaymentStatusUnpaid:
		r.Kind = dataplan.SessionPaid
	case s.Status == stripe.CheckoutSessionStatusComplete:
		r.Kind = dataplan.SessionUnpaid
	default:
		r.Kind = dataplan.SessionOpen
	}
	return r, nil
}

// Complete implements dataplan.Provider. What changes between versions of Stripe's
// interface, and what an event does not carry, is read from the object itself, which
// answers in the version of this library. [contracts D.3]
func (c *Client) Complete(ctx context.Context, r dataplan.Report) (dataplan.Report, error) {
	switch {
	case r.Kind == dataplan.InvoicePaid || r.Kind == dataplan.InvoiceUnpaid:
		params := &stripe.InvoiceParams{}
		params.Context = ctx
		inv, err := c.api.Invoices.Get(r.InvoiceID, params)
		if err != nil {
			return r, failure("read an invoice", err)
		}
		return fromInvoice(r, inv), nil
	case r.Type == "" && r.IntentID != "" && (r.Kind == dataplan.ChargeRefunded || r.Kind == dataplan.DisputeChanged):
		params := &stripe.PaymentIntentParams{}
		params.Context = ctx
		intent, err := c.api.PaymentIntents.Get(r.IntentID, params)
		if err != nil {
			return r, failure("read a payment", err)
		}
		r.Type, r.PurchaseID = intent.Metadata["type"], intent.Metadata["purchase_id"]
	}
	return r, nil
}

func fromInvoice(r dataplan.Report, inv *stripe.Invoice) dataplan.Report {
	r.Amount, r.Currency = inv.AmountPaid, string(inv.Currency)
	if inv.Subscription != nil {
		r.SubscriptionID = inv.Subscription.ID
	}
	if inv.PaymentIntent != nil {
		r.IntentID = inv.PaymentIntent.ID
	}
	if inv.SubscriptionDetails != nil && len(inv.SubscriptionDetails.Metadata) > 0 {
		r.Type, r.PurchaseID = inv.SubscriptionDetails.Metadata["type"], inv.SubscriptionDetails.Metadata["purchase_id"]
	}
	if inv.Lines != nil {
		for _, line := range inv.Lines.Data {
			if line.Period != nil && time.Unix(line.Period.End, 0).After(r.EndsAt) {
				r.StartsAt, r.EndsAt = time.Unix(line.Period.Start, 0).UTC(), time.Unix(line.Period.End, 0).UTC()
			}
		}
	}
	return r
}

// Refund implements dataplan.Provider.
func (c *Client) Refund(ctx context.Context, p dataplan.Purchase, intentID string, amount int64, key string) error {
	params := &stripe.RefundParams{PaymentIntent: stripe.String(intentID), Metadata: metadata(p)}
	if amount > 0 {
		params.Amount = stripe.Int64(amount)
	}
	params.Context = ctx
	params.SetIdempotencyKey(refundKey(p.ID, key))
	if _, err := c.api.Refunds.New(params); err != nil {
		var e *stripe.Error
		switch {
		case errors.As(err, &e) && e.Code == stripe.ErrorCodeChargeAlreadyRefunded:
			return nil
		case e != nil && e.Type == stripe.ErrorTypeIdempotency:
			return dataplan.ErrKeyReused
		}
		return failure("refund a payment", err)
	}
	return nil
}

// maxKey is the longest idempotency key that Stripe takes.
const maxKey = 255

// refundKey is Stripe's idempotency key of a refund. One that would be too long goes in
// as its digest.
func refundKey(purchaseID, key string) string {
	whole := "refund:" + purchaseID + ":" + key
	if len(whole) <= maxKey {
		return whole
	}
	sum := sha256.Sum256([]byte(key))
	return "refund:" + purchaseID + ":sha256:" + hex.EncodeToString(sum[:])
}

// CancelSubscription implements dataplan.Provider.
func (c *Client) CancelSubscription(ctx context.Context, subscriptionID string) error {
	params := &stripe.SubscriptionCancelParams{}
	params.Context = ctx
	if _, err := c.api.Subscriptions.Cancel(subscriptionID, params); err != nil {
		var e *stripe.Error
		if errors.As(err, &e) && e.HTTPStatusCode == http.StatusNotFound {
			return nil // it has ended
		}
		return failure("cancel a subscription", err)
	}
	return nil
}

// failure is ErrPaymentProvider with a cause for the log: of Stripe's error only what
// names it, of one of the network neither URL nor header. Stripe's own texts repeat parts
// of the key.
func failure(what string, err error) error {
	var e *stripe.Error
	var u *url.Error
	switch {
	case errors.As(err, &e):
		err = fmt.Errorf("status %s, type %s, code %s, param %s, request %s",
			strconv.Itoa(e.HTTPStatusCode), e.Type, e.Code, e.Param, e.RequestID)
	case errors.As(err, &u):
		err = u.Err
	default: // the library's text quotes the answer
		err = errors.New("the answer could not be read")
	}
	return dataplan.ErrPaymentProvider.With(fmt.Errorf("%s: %w", what, err))
}
