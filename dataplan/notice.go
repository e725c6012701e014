package dataplan

import (
	"time"

	"github.com/opticworks/devicecloud/registry"
)

// NoticeReader verifies and reads what the carrier posts to us.
type NoticeReader interface {
	// Read reads one notification. Errors, in this order: ErrNoticePayload when it is
	// not a JSON object, ErrNoticeSignature, ErrNoticePayload when a field that decides
	// something has not the form that it must have.
	Read(body []byte) (Notice, error)
}

// Notice is a notification of the carrier. Which fields are set depends on its kind.
type Notice struct {
	ID    string // of this notification: the same one twice counts once
	Event string // as the carrier calls it
	Kind  NoticeKind
	At    time.Time // when the carrier signed it
	Hash  []byte    // SHA-256 of what it says, without what a repetition signs anew

	ICCID        ICCID // of the SIM; "" for one that is named by EID
	EID          Number
	OutTradeNo   string // our name of the order; "" when the carrier does not say
	OrderID      string // the carrier's
	PackageCode  string
	AlertType    AlertType
	AlertValue   string        // what is left, in the unit of the alert's type
	RefundAmount string        // as the carrier writes it
	Orders       []NoticeOrder // of NoticeOrdered
}

// NoticeOrder is an order within a notification.
type NoticeOrder struct {
	ICCID       ICCID
	EID         Number
	OutTradeNo  string
	OrderID     string
	PackageCode string
}

// NoticeKind is what a notification means to us.
type NoticeKind uint8

// The kinds of notifications. [contracts E.3]
const (
	NoticeUnknown   NoticeKind = iota // kept, and otherwise ignored
	NoticeAlert                       // little is left of a package
	NoticeOrdered                     // the carrier took orders
	NoticeEffective                   // a package began
	NoticeStopped                     // a SIM was stopped
	NoticeRefunded                    // an order was refunded
)

// AlertType is what there is little left of.
type AlertType int

// The types of alerts. [contracts E.1]
const (
	AlertData    AlertType = 1 // less than 100 MB
	AlertPercent AlertType = 2 // less than 10 %
	AlertDays    AlertType = 3 // less than 7 days
)

// String names the type: data_low, percent_low, days_low.
func (t AlertType) String() string {
	switch t {
	case AlertData:
		return "data_low"
	case AlertPercent:
		return "percent_low"
	case AlertDays:
		return "days_low"
	}
	return "other"
}

// The errors of notifications.
var (
	ErrNoticePayload   = registry.E(registry.Invalid, "invalid_payload", "The notification is not valid.")
	ErrNoticeSignature = registry.E(registry.Unauthenticated, "invalid_signature", "The signature is not valid.")
	ErrNoticeStale     = registry.E(registry.Unauthenticated, "stale_timestamp", "The notification is too old, or of the future.")
	ErrNoticeReused    = registry.E(registry.Conflict, "id_reuse", "This id was used for another notification.")
	ErrNoticeAddress   = registry.E(registry.Forbidden, "address_not_allowed", "Notifications are not taken from this address.")
)
