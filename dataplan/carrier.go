package dataplan

import (
	"context"
	"fmt"
	"time"

	"github.com/opticworks/devicecloud/registry"
)

// Number is another number that names a SIM or its subscriber: EID, IMSI or MSISDN. Like
// [ICCID] it masks itself in every format and in JSON; only [Number.Reveal] gives it in
// full. [contracts E.4]
type Number string

// Reveal is the number in full, for the carrier, the database and who has the scope
// [ScopeSIM].
func (n Number) Reveal() string { return string(n) }

// shownDigits is how much a mask leaves at each end.
const shownDigits = 4

// Masked is the number with its first and last four digits: "8900…0447". A number that
// is too short for that keeps its last two.
func (n Number) Masked() string {
	switch {
	case n == "":
		return ""
	case len(n) > 3*shownDigits-2:
		return string(n[:shownDigits]) + "…" + string(n[len(n)-shownDigits:])
	}
	return "…" + string(n[max(0, len(n)-2):])
}

// Format masks, for every verb; a String method alone would not for %d.
func (n Number) Format(f fmt.State, _ rune) { _, _ = f.Write([]byte(n.Masked())) }

// MarshalText masks.
func (n Number) MarshalText() ([]byte, error) { return []byte(n.Masked()), nil }

// Carrier is what the domain asks of the carrier of the SIMs. Each method's error is
// ErrCarrierRefused when the carrier has said no, ErrCarrierUnavailable when nobody
// knows what it did: the answer did not arrive, or was none.
type Carrier interface {
	// Order orders a package for a SIM, effective at once. It sends one request and
	// never a second one.
	Order(ctx context.Context, o CarrierOrder) (orderID string, err error)
	// Orders lists every order of a SIM that the carrier knows.
	Orders(ctx context.Context, iccid ICCID) ([]CarrierRecord, error)
	// Card reads a SIM and what it has used.
	Card(ctx context.Context, iccid ICCID) (Card, error)
}

// CarrierOrder is a package to be ordered.
type CarrierOrder struct {
	ICCID       ICCID
	PackageCode string // what the carrier calls the package
	OutTradeNo  string // what we call the order, at most 32 characters: once for each purchase
}

// CarrierRecord is an order as the carrier knows it.
type CarrierRecord struct {
	OrderID     string // the carrier's own
	OutTradeNo  string // ours; "" when the carrier does not say
	PackageCode string
	State       CarrierState
}

// CarrierState is how far an order is at the carrier.
type CarrierState int

// The states of an order at the carrier. [contracts E.1]
const (
	CarrierWaiting CarrierState = iota
	CarrierInUse
	CarrierDone // used up, expired or refunded
)

// Card is a SIM as the carrier knows it.
type Card struct {
	Status    SIMStatus // "" when the carrier says what we do not know
	UsedMB    int64     // of the current package; -1 when the carrier does not say
	TotalMB   int64     // 0 when the carrier does not say
	ExpiresAt time.Time // of the current package; zero when the carrier does not say
}

// The errors of the carrier.
var (
	ErrCarrierRefused     = registry.E(registry.Conflict, "carrier_refused", "The carrier refused this.")
	ErrCarrierUnavailable = registry.E(registry.Unavailable, "carrier_unavailable", "The carrier does not answer. Try again.")
)
