package dataplan

import (
	"context"
	"time"

	"github.com/opticworks/devicecloud/registry"
)

// EventRecord is an event of the payment provider as it is remembered, so that its
// duplicate has no effect.
type EventRecord struct {
	ID         string
	Type       string
	Created    time.Time
	APIVersion string
	ReceivedAt time.Time
	Outcome    string // handled, ignored, livemode_mismatch, unmatched
}

// Event is a report of the payment provider whose signature was verified.
type Event struct {
	ID         string
	Type       string
	Created    time.Time
	APIVersion string
	Livemode   bool
	Object     []byte // JSON, of the kind that Type says
}

// Verifier checks and decodes the body of a report.
type Verifier interface {
	// Verify fails with ErrInvalidSignature, or ErrInvalidRequest for a signed body that is
	// no event.
	Verify(body []byte, signature string, now time.Time) (Event, error)
}

// Provider takes payments.
type Provider interface {
	// Live reports whether real money moves.
	Live() bool
	// CreateSession opens a checkout; the same purchase again gives the same session.
	CreateSession(ctx context.Context, p Purchase, successURL, cancelURL string) (Session, error)
}

// Session is a checkout at the payment provider.
type Session struct {
	ID  string
	URL string
}

// The errors of reports.
var (
	ErrWebhookNotConfigured = registry.E(registry.Internal, "webhook_not_configured", "This server has no secret to check such a report with.")
	ErrInvalidSignature     = registry.E(registry.Invalid, "invalid_signature", "The signature is missing, not valid, or too old.")
)
