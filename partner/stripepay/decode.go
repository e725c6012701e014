package stripepay

import (
	"encoding/json"
	"time"

	"github.com/opticworks/devicecloud/dataplan"
)

// object is what is read of the objects in reports: mostly fields that mean the same in
// every version of Stripe's interface. The rest stands in for the object itself where
// there is no key to fetch it with. [contracts D.3]
type object struct {
	ID              string            `json:"id"`
	Status          string            `json:"status"`
	PaymentStatus   string            `json:"payment_status"`
	AmountTotal     int64             `json:"amount_total"`
	Amount          int64             `json:"amount"`
	AmountReceived  int64             `json:"amount_received"`
	AmountRefunded  int64             `json:"amount_refunded"`
	AmountPaid      int64             `json:"amount_paid"`
	Currency        string            `json:"currency"`
	ClientReference string            `json:"client_reference_id"`
	Metadata        map[string]string `json:"metadata"`
	PaymentIntent   reference         `json:"payment_intent"`
	Subscription    reference         `json:"subscription"`
	Details         details           `json:"subscription_details"`
	Parent          struct {
		Details details `json:"subscription_details"`
	} `json:"parent"`
	Lines struct {
		Data []struct {
			Period struct {
				Start int64 `json:"start"`
				End   int64 `json:"end"`
			} `json:"period"`
		} `json:"data"`
	} `json:"lines"`
}

// details is what an invoice says of its subscription.
type details struct {
	Subscription reference         `json:"subscription"`
	Metadata     map[string]string `json:"metadata"`
}

// reference is the id of another object, which may be there whole.
type reference string

func (r *reference) UnmarshalJSON(b []byte) error {
	var whole struct {
		ID string `json:"id"`
	}
	if len(b) > 0 && b[0] == '{' {
		err := json.Unmarshal(b, &whole)
		*r = reference(whole.ID)
		return err
	}
	var id *string
	err := json.Unmarshal(b, &id)
	if id != nil {
		*r = reference(*id)
	}
	return err
}

// decode tells what a report means. An object of an unexpected form is unrelated: it is
// not of our making.
func decode(name string, raw []byte) dataplan.Report {
	kind, known := kinds[name]
	if !known {
		return dataplan.Report{}
	}
	var o object
	if err := json.Unmarshal(raw, &o); err != nil || o.ID == "" {
		return dataplan.Report{}
	}
	r := dataplan.Report{
		Kind: kind, Type: o.Metadata["type"], PurchaseID: o.Metadata["purchase_id"], Currency: o.Currency,
		IntentID: string(o.PaymentIntent), SubscriptionID: string(o.Subscription),
	}
	switch kind {
	case dataplan.SessionPaid, dataplan.SessionFailed, dataplan.SessionExpired:
		r.SessionID, r.Amount = o.ID, o.AmountTotal
		if r.PurchaseID == "" {
			r.PurchaseID = o.ClientReference
		}
		if name == "checkout.session.completed" && o.PaymentStatus != "paid" && o.PaymentStatus != "no_payment_required" {
			r.Kind = dataplan.SessionUnpaid
		}
	case dataplan.PaymentSucceeded, dataplan.PaymentDeclined:
		r.IntentID, r.Amount = o.ID, o.AmountReceived
		if r.Amount == 0 {
			r.Amount = o.Amount
		}
	case dataplan.ChargeRefunded:
		r.Refunded, r.Whole = o.AmountRefunded, o.AmountRefunded > 0 && o.AmountRefunded >= o.Amount
	case dataplan.DisputeChanged:
		r.DisputeID = o.ID
		r.Closed = name == "charge.dispute.closed"
		r.Won = r.Closed && (o.Status == "won" || o.Status == "warning_closed")
	case dataplan.InvoicePaid, dataplan.InvoiceUnpaid:
		r = invoice(r, o)
	case dataplan.SubscriptionChanged:
		r.SubscriptionID = o.ID
		r.Over = name == "customer.subscription.deleted" || o.Status == "canceled" || o.Status == "incomplete_expired"
	}
	return r
}

var kinds = map[string]dataplan.ReportKind{
	"checkout.session.completed":               dataplan.SessionPaid,
	"checkout.session.async_payment_succeeded": dataplan.SessionPaid,
	"checkout.session.async_payment_failed":    dataplan.SessionFailed,
	"checkout.session.expired":                 dataplan.SessionExpired,
	"payment_intent.succeeded":                 dataplan.PaymentSucceeded,
	"payment_intent.payment_failed":            dataplan.PaymentDeclined,
	"charge.refunded":                          dataplan.ChargeRefunded,
	"charge.dispute.created":                   dataplan.DisputeChanged,
	"charge.dispute.closed":                    dataplan.DisputeChanged,
	"invoice.paid":                             dataplan.InvoicePaid,
	"invoice.payment_failed":                   dataplan.InvoiceUnpaid,
	"customer.subscription.updated":            dataplan.SubscriptionChanged,
	"customer.subscription.deleted":            dataplan.SubscriptionChanged,
}

// invoice reads what an invoice says of its subscription, in the words of old and new
// versions.
func invoice(r dataplan.Report, o object) dataplan.Report {
	r.InvoiceID, r.Amount = o.ID, o.AmountPaid
	for _, d := range []details{o.Details, o.Parent.Details} {
		if r.SubscriptionID == "" {
			r.SubscriptionID = string(d.Subscription)
		}
		if r.Type == "" {
			r.Type, r.PurchaseID = d.Metadata["type"], d.Metadata["purchase_id"]
		}
	}
	for _, line := range o.Lines.Data {
		if end := time.Unix(line.Period.End, 0).UTC(); line.Period.End > 0 && end.After(r.EndsAt) {
			r.StartsAt, r.EndsAt = time.Unix(line.Period.Start, 0).UTC(), end
		}
	}
	return r
}
