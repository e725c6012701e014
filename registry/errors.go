package registry

import (
	"errors"
	"fmt"
	"time"
)

// Kind is what went wrong, in the few ways a caller acts on. Only the outer
// faces turn it into a status or a reason code.
type Kind uint8

// The kinds of errors.
const (
	Internal        Kind = iota // a defect or a broken store; details are for the log only
	Invalid                     // the request is wrong and will stay wrong
	Unauthenticated             // nobody we know
	Forbidden                   // known, but not allowed
	NotFound                    // absent, or not the caller's
	Conflict                    // it contradicts what is there
	TooLarge                    //
	RateLimited                 // try again after RetryAfter
	Unavailable                 // a transient failure: nothing was committed, try again
	NotConfigured               // the operator has not set this up
	Unsupported                 // the device cannot do it
	Upstream                    // another party refuses us, which is for the operator to mend
)

// Error is the one error type of the domain: a kind for programs, a code and a
// sentence for the caller, and a cause for the log. Code and Message never hold a
// secret or an internal detail.
type Error struct {
	Kind       Kind
	Code       string // lower snake case, stable
	Message    string // a sentence for a person
	RetryAfter time.Duration
	Scope      string // of RateLimited: whose limit it is, where there are several
	Err        error  // the cause; never shown to the caller
}

func (e *Error) Error() string {
	if e.Err != nil {
		return fmt.Sprintf("%s: %v", e.Code, e.Err)
	}
	return e.Code + ": " + e.Message
}

func (e *Error) Unwrap() error { return e.Err }

// Is makes errors.Is(err, ErrX) compare codes, so that a sentinel with a cause
// added by [Error.With] still matches.
func (e *Error) Is(target error) bool {
	t, ok := target.(*Error)
	return ok && t.Code == e.Code
}

// With is the same error with a cause for the log.
func (e *Error) With(cause error) *Error {
	c := *e
	c.Err = cause
	return &c
}

// E makes an error of the domain.
func E(kind Kind, code, message string) *Error {
	return &Error{Kind: kind, Code: code, Message: message}
}

// KindOf is the kind of err; Internal when err is not an [Error].
func KindOf(err error) Kind {
	var e *Error
	if errors.As(err, &e) {
		return e.Kind
	}
	return Internal
}

// The errors that callers tell apart.
var (
	ErrDeviceNotFound    = E(NotFound, "device_not_found", "There is no such device.")
	ErrAlreadyEnrolled   = E(Conflict, "already_enrolled", "A device with this MAC address is already enrolled.")
	ErrInsufficientRole  = E(Forbidden, "insufficient_role", "Your role on this device does not allow this.")
	ErrInsufficientScope = E(Forbidden, "insufficient_scope", "The token's scopes do not allow this.")
	ErrBadCredential     = E(Unauthenticated, "invalid_credentials", "The device id or its credential is not valid.")
	ErrStale             = E(Conflict, "stale_session", "A newer connection of the same device took over.")
	ErrUnavailable       = E(Unavailable, "store_unavailable", "The registry is not available. Try again.")
	ErrOffline           = E(Conflict, "device_offline", "The device is not connected.")
	ErrBadPayload        = E(Invalid, "invalid_payload", "The payload is not valid.")
	ErrInvalidRequest    = E(Invalid, "invalid_request", "The request is not valid.")
	ErrOrderExists       = E(Conflict, "order_exists", "This order line exists with other contents.")
	ErrFeatureDisabled   = E(NotConfigured, "feature_disabled", "This feature is not configured on this server.")
	ErrDeviceLimit       = E(Conflict, "device_limit_reached", "This person owns as many devices as one person can.")
	ErrOwnedByOther      = E(Forbidden, "owned_by_other", "The device has another owner.")
)
