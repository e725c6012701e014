package dataplan

import (
	"context"
	"errors"
	"strings"
	"time"

	"github.com/opticworks/devicecloud/registry"
)

// MetadataType marks what is ours among everything that an account at the payment
// provider reports. [contracts D.1]
const MetadataType = "data_plan"

// ReportKind is what a report of the payment provider means.
type ReportKind uint8

// The kinds of reports.
const (
	Unrelated           ReportKind = iota
	SessionPaid                    // the checkout was paid
	SessionUnpaid                  // the checkout is done, the money is on its way
	SessionFailed                  // ...and did not come
	SessionExpired                 // nobody paid in time
	SessionOpen                    // only of FetchSession: nothing has happened
	PaymentSucceeded               // the money is there
	PaymentDeclined                // one try failed; the buyer may try again
	ChargeRefunded                 // in part or whole
	DisputeChanged                 // opened or closed
	InvoicePaid                    // of a subscription
	InvoiceUnpaid                  //
	SubscriptionChanged            //
)

// Report is what a report of the payment provider says, as far as it is told.
type Report struct {
	Kind           ReportKind
	Type           string // metadata type; "" where the object carries none
	PurchaseID     string // metadata purchase_id
	SessionID      string
	IntentID       string
	SubscriptionID string
	InvoiceID      string
	DisputeID      string
	Amount         int64 // paid, in the currency's smallest unit
	Currency       string
	Refunded       int64 // in all
	Whole          bool  // of a refund: all of it
	Closed, Won    bool  // of a dispute; won by us
	Over           bool  // of a subscription
	StartsAt       time.Time
	EndsAt         time.Time // of an invoice's period
}

// Event is a report whose signature was verified.
type Event struct {
	Report
	ID         string
	Name       string // checkout.session.completed
	Created    time.Time
	APIVersion string
	Livemode   bool
}

// EventRecord is an event as it is remembered, so that its duplicate has no effect.
type EventRecord struct {
	ID         string
	Type       string
	Created    time.Time
	APIVersion string
	ReceivedAt time.Time
	Outcome    Outcome
}

// Outcome is what became of an event.
type Outcome string

// The outcomes.
const (
	Handled          Outcome = "handled"
	Ignored          Outcome = "ignored"   // not of a data plan
	Unmatched        Outcome = "unmatched" // of no purchase that we know; its facts are kept
	LivemodeMismatch Outcome = "livemode_mismatch"
	Duplicate        Outcome = "duplicate" // never stored
)

// Verifier checks and decodes reports of the payment provider.
type Verifier interface {
	// Verify fails with ErrInvalidSignature, or with ErrInvalidRequest for a signed body
	// that is no event.
	Verify(body []byte, signature string, now time.Time) (Event, error)
}

// Webhook takes a report of the payment provider: the raw body and the header of its
// signature. The record of the event and its effect are one transaction; a duplicate has
// none. Errors: ErrWebhookNotConfigured, ErrInvalidSignature, Invalid, and what a retry of
// the sender may heal. [contracts D.3]
func (s *Service) Webhook(ctx context.Context, a registry.Actor, body []byte, signature string) (Outcome, error) {
	if err := s.WebhookReady(ctx); err != nil {
		return "", err
	}
	e, err := s.opts.Verifier.Verify(body, signature, s.opts.Now())
	if err != nil {
		if errors.Is(err, ErrInvalidSignature) {
			s.counters.BadSignatures.Add(1)
		}
		return "", err
	}
	return s.Take(ctx, a, e)
}

// WebhookReady is ErrWebhookNotConfigured when there is no secret to check a report with;
// nothing of the body is worth reading then.
func (s *Service) WebhookReady(ctx context.Context) error {
	if s.opts.Verifier != nil {
		return nil
	}
	s.counters.Unconfigured.Add(1)
	s.log.ErrorContext(ctx, "a report of the payment provider came, and STRIPE_DATA_PLAN_WEBHOOK_SECRET is not set: it was refused, and will be sent again")
	return ErrWebhookNotConfigured
}

// Take is [Service.Webhook] for an event that was verified.
func (s *Service) Take(ctx context.Context, a registry.Actor, e Event) (Outcome, error) {
	outcome := Handled
	switch {
	case e.Kind == Unrelated, e.Type != "" && e.Type != MetadataType:
		outcome = Ignored
	case s.opts.Provider != nil && e.Livemode != s.opts.Provider.Live():
		outcome = LivemodeMismatch
	case s.opts.Provider != nil:
		// Before the transaction: what the event leaves out is asked for over the network.
		var err error
		if e.Report, err = s.opts.Provider.Complete(ctx, e.Report); err != nil {
			return "", err
		}
		if e.Type != "" && e.Type != MetadataType {
			outcome = Ignored
		}
	}
	if e.Created.IsZero() {
		e.Created = s.now()
	}
	var result Outcome
	err := s.store.InTx(ctx, func(tx Tx) error {
		result = outcome
		// The row is written first: whoever comes second waits here and finds it.
		fresh, err := tx.InsertStripeEvent(ctx, EventRecord{e.ID, e.Name, e.Created, e.APIVersion, s.now(), outcome})
		switch {
		case err != nil:
			return err
		case !fresh:
			result = Duplicate
			return nil
		case outcome == LivemodeMismatch:
			return s.audit(ctx, tx, a, "", "livemode_mismatch", map[string]any{"event_id": e.ID, "type": e.Name, "livemode": e.Livemode})
		case outcome == Ignored:
			return nil
		}
		matched, err := s.merge(ctx, tx, a, e)
		if err == nil && !matched {
			result = Unmatched
			if e.Type == MetadataType {
				err = s.audit(ctx, tx, a, "", "purchase_unmatched", map[string]any{"event_id": e.ID, "type": e.Name})
			}
		}
		return err
	})
	if err != nil {
		return "", err
	}
	if result == Duplicate {
		s.counters.Duplicates.Add(1)
	} else {
		s.counters.Events.Add(1)
		s.wake() // it may have been paid
	}
	s.log.InfoContext(ctx, "payment provider reported", "event_id", e.ID, "type", e.Name, "api_version", e.APIVersion, "outcome", result)
	return result, nil
}

// merge adds what an event says into what is known, and moves the purchase that it is
// about. Every part of it is a merge that neither order nor repetition changes. matched
// is false when no purchase is known: then what it says is kept for when there is one.
func (s *Service) merge(ctx context.Context, tx Tx, a registry.Actor, e Event) (matched bool, err error) {
	p, found, err := s.subject(ctx, tx, e.Report)
	if err != nil {
		return false, err
	}
	if e.IntentID != "" && e.moved() {
		owner, err := tx.PutPayment(ctx, Payment{IntentID: e.IntentID, PurchaseID: p.ID, Refunded: e.Refunded, Complete: e.Whole, At: s.now()})
		if err != nil {
			return false, err
		}
		if !found && owner != "" {
			if p, err = tx.Purchase(ctx, owner); err != nil {
				return false, err
			}
			found = true
		}
	}
	switch e.Kind {
	case DisputeChanged:
		err = tx.PutDispute(ctx, Dispute{ID: e.DisputeID, IntentID: e.IntentID, Closed: e.Closed, Won: e.Won, At: s.now()})
	case InvoicePaid, InvoiceUnpaid:
		err = tx.PutPeriod(ctx, Period{
			InvoiceID: e.InvoiceID, PurchaseID: p.ID, SubscriptionID: e.SubscriptionID, IntentID: e.IntentID, Paid: e.Kind == InvoicePaid,
			Amount: e.Amount, Currency: e.Currency, StartsAt: e.StartsAt, EndsAt: e.EndsAt, At: s.now(),
		})
	}
	if err != nil || !found {
		return false, err
	}
	if err := s.name(ctx, tx, &p, e.Report); err != nil {
		return false, err
	}
	return true, s.move(ctx, tx, a, &p, e)
}

// moved reports whether money has moved, one way or the other.
func (r *Report) moved() bool {
	switch r.Kind {
	case SessionPaid, PaymentSucceeded, ChargeRefunded, DisputeChanged, InvoicePaid:
		return true
	}
	return false
}

// subject finds the purchase that a report is about.
func (s *Service) subject(ctx context.Context, tx Tx, r Report) (p Purchase, found bool, err error) {
	if r.PurchaseID != "" && len(r.PurchaseID) == 32 {
		p, err = tx.Purchase(ctx, r.PurchaseID)
		if !errors.Is(err, ErrPurchaseNotFound) {
			return p, err == nil, err
		}
	}
	if r.SessionID != "" {
		if p, found, err = tx.PurchaseBySession(ctx, r.SessionID); err != nil || found {
			return p, found, err
		}
	}
	if r.SubscriptionID != "" {
		return tx.PurchaseBySubscription(ctx, r.SubscriptionID)
	}
	return Purchase{}, false, nil
}

// name records what the provider calls the parts of a purchase: the first name stays.
func (s *Service) name(ctx context.Context, tx Tx, p *Purchase, r Report) error {
	for _, n := range []struct {
		field *string
		value string
		find  func(ctx context.Context, id string) (Purchase, bool, error)
	}{{&p.SessionID, r.SessionID, tx.PurchaseBySession}, {&p.SubscriptionID, r.SubscriptionID, tx.PurchaseBySubscription}} {
		if *n.field != "" || n.value == "" {
			continue
		}
		_, taken, err := n.find(ctx, n.value)
		if err != nil {
			return err
		}
		if !taken { // what another purchase is called stays its name
			*n.field = n.value
		}
	}
	if p.PaymentIntentID == "" && r.IntentID != "" && p.Plan.Mode == ModePayment && r.moved() {
		// A payment of another purchase stays there.
		owner, err := tx.PutPayment(ctx, Payment{IntentID: r.IntentID, PurchaseID: p.ID, At: s.now()})
		if err != nil {
			return err
		}
		if owner == p.ID {
			p.PaymentIntentID = r.IntentID
		}
	}
	if p.SubscriptionID != "" && r.SubscriptionID == p.SubscriptionID {
		return tx.AdoptPeriods(ctx, p.SubscriptionID, p.ID)
	}
	return nil
}

// move makes the purchase follow the event.
func (s *Service) move(ctx context.Context, tx Tx, a registry.Actor, p *Purchase, e Event) error {
	to, unpaid := p.Stage, p.PaidAt.IsZero()
	switch e.Kind {
	case SessionPaid, PaymentSucceeded, InvoicePaid:
		s.paid(p, e)
		if unpaid {
			to = Paid
		}
	case SessionUnpaid:
		p.CheckoutURL = "" // nobody may pay it again
	case SessionFailed:
		s.close(p)
		to = Failed
	case PaymentDeclined:
		to = Failed // the checkout stays open: the buyer may try another card
	case SessionExpired:
		s.close(p)
		to = Canceled
	case SubscriptionChanged:
		if e.Over {
			if p.EndedAt.IsZero() || e.Created.Before(p.EndedAt) {
				p.EndedAt = e.Created
			}
			if unpaid {
				s.close(p)
				to = Canceled
			} else if p.Stage == Active && !p.ActiveUntil.After(s.now()) {
				to = Expired
			}
		}
	}
	switch {
	case to != p.Stage && !unpaid && (to == Failed || to == Canceled):
		// What was paid does not fail any more, whatever was tried before.
		if err := s.refuse(ctx, tx, a, p, to, e.Name); err != nil {
			return err
		}
		to = p.Stage
	case to == Canceled && p.Stage == Failed:
		to = Failed // nothing gets better by running out
	}
	_, err := s.advance(ctx, tx, a, p, to, e.Name)
	return err
}

// paid records that money came in, and holds the purchase when it is not the price.
func (s *Service) paid(p *Purchase, e Event) {
	if p.PaidAt.IsZero() || e.Created.Before(p.PaidAt) {
		p.PaidAt = e.Created
	}
	s.close(p)
	if e.Amount == p.Plan.Amount && strings.EqualFold(e.Currency, p.Plan.Currency) || !p.ResumedAt.IsZero() || !p.HeldAt.IsZero() {
		return
	}
	p.HeldAt, p.HoldReason = s.now(), "amount_mismatch"
}

// close ends the checkout.
func (s *Service) close(p *Purchase) {
	if p.ClosedAt.IsZero() {
		p.ClosedAt = s.now()
	}
	p.CheckoutURL = ""
}

// The errors of reports.
var (
	ErrWebhookNotConfigured = registry.E(registry.Internal, "webhook_not_configured", "This server has no secret to check such a report with.")
	ErrInvalidSignature     = registry.E(registry.Invalid, "invalid_signature", "The signature is missing, not valid, or too old.")
)
