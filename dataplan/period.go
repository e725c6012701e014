package dataplan

import "time"

// Period is one stretch of a subscription, keyed by the provider's invoice.
type Period struct {
	InvoiceID      string
	PurchaseID     string // "": not known yet
	SubscriptionID string
	IntentID       string // what paid it; "": nothing did
	Paid           bool
	Amount         int64
	Currency       string
	StartsAt       time.Time
	EndsAt         time.Time
	At             time.Time
}
