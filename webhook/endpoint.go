package webhook

import (
	"context"
	"crypto/rand"
	"encoding/base64"
	"fmt"
	"slices"
	"strings"
	"time"
	"unicode"
	"unicode/utf8"

	"github.com/opticworks/devicecloud/registry"
)

// Endpoint is a program outside that is told of events.
type Endpoint struct {
	No             int64
	ID             string
	URL            string
	Description    string
	Events         []string // in the order of [Events]
	Secret         []byte   // sealed
	OldSecret      []byte   // sealed; nil: none
	OldSecretUntil time.Time
	DisabledAt     time.Time // zero: enabled
	DisabledReason DisabledReason
	FailingSince   time.Time // zero: the last attempt succeeded, or there was none
	NotBefore      time.Time // it asked not to be called until then
	CreatedBy      string    // the actor, as in the audit trail
	CreatedAt      time.Time
	UpdatedAt      time.Time
}

// Enabled reports whether events are kept for it and sent.
func (e Endpoint) Enabled() bool { return e.DisabledAt.IsZero() }

// shown is the URL as it is audited: without its query, which may be what lets us in.
func (e Endpoint) shown() string {
	before, _, has := strings.Cut(e.URL, "?")
	if has {
		return before + "?[redacted]"
	}
	return before
}

// DisabledReason is why an endpoint is disabled.
type DisabledReason string

// The reasons.
const (
	ByRequest DisabledReason = "by_request"
	Gone      DisabledReason = "gone"    // it answered 410
	Failing   DisabledReason = "failing" // for five days
)

// EventTest is the event of [Service.Test], which nobody subscribes to.
const EventTest = "webhook.test"

// Events are the events that an endpoint can be told of. [contracts H]
func Events() []string {
	return []string{
		registry.EventProvisioned, registry.EventClaimed, registry.EventReleased, registry.EventSelfEnrolled,
		registry.EventOnline, registry.EventOffline, registry.EventShared, registry.EventCommandCompleted,
		registry.EventOTACompleted, registry.EventSIMAlert, registry.EventPlanActivated, registry.EventPlanRefunded,
	}
}

// Secret is what an endpoint's messages are signed with, shown once. It redacts itself in
// every format; only [Secret.Reveal] gives its text.
type Secret struct{ text string }

// Reveal is the secret's text, "whsec_" and 32 bytes in base64.
func (s Secret) Reveal() string { return s.text }

// Format redacts.
func (Secret) Format(f fmt.State, _ rune) { _, _ = f.Write([]byte("[redacted]")) }

// MarshalText redacts.
func (Secret) MarshalText() ([]byte, error) { return []byte("[redacted]"), nil }

const (
	// secretLen is within the 24 to 64 bytes of Standard Webhooks.
	secretLen = 32
	// rotation is how long the former secret signs too. [contracts H]
	rotation = 24 * time.Hour
	// maxEndpoints bounds the goroutines of the worker too.
	maxEndpoints   = 50
	maxDescription = 256 // characters
)

// newSecret makes a secret for an endpoint, as it is shown and as it is stored.
func (s *Service) newSecret(endpointID string) (shown Secret, stored []byte) {
	key := make([]byte, secretLen)
	_, _ = rand.Read(key) // never fails, see its documentation
	return Secret{"whsec_" + base64.StdEncoding.EncodeToString(key)}, s.opts.Sealer.Seal(sealedFor(endpointID), key)
}

// sealedFor is whose a sealed secret is.
func sealedFor(endpointID string) string { return "webhook:" + endpointID }

// keys are what an endpoint's messages are signed with now, the newest first.
func (s *Service) keys(e Endpoint, now time.Time) ([][]byte, error) {
	stored := [][]byte{e.Secret}
	if e.OldSecret != nil && now.Before(e.OldSecretUntil) {
		stored = append(stored, e.OldSecret)
	}
	keys := make([][]byte, len(stored))
	for i, b := range stored {
		key, err := s.opts.Sealer.Open(sealedFor(e.ID), b, secretLen)
		if err != nil {
			return nil, err
		}
		keys[i] = key
	}
	return keys, nil
}

// Change is what people set of an endpoint; nil stays as it is.
type Change struct {
	URL         *string
	Description *string
	Events      []string
	Enabled     *bool
}

// apply checks a change and makes it.
func (s *Service) apply(c Change, e *Endpoint, now time.Time) error {
	if c.URL != nil {
		if err := s.opts.Guard.CheckURL(*c.URL); err != nil {
			return err
		}
		e.URL = *c.URL
	}
	if c.Description != nil {
		e.Description = strings.TrimSpace(*c.Description)
		if utf8.RuneCountInString(e.Description) > maxDescription || strings.ContainsFunc(e.Description, func(r rune) bool { return !unicode.IsPrint(r) }) {
			return invalid("description must be at most 256 printable characters.")
		}
	}
	if c.Events != nil {
		e.Events = nil
		for _, known := range Events() {
			if slices.Contains(c.Events, known) {
				e.Events = append(e.Events, known)
			}
		}
		for _, asked := range c.Events {
			if !slices.Contains(e.Events, asked) {
				return invalid("events must be among " + strings.Join(Events(), ", ") + ".")
			}
		}
	}
	if len(e.Events) == 0 {
		return invalid("events must name at least one event.")
	}
	switch {
	case c.Enabled == nil || *c.Enabled == e.Enabled():
	case *c.Enabled:
		e.DisabledAt, e.DisabledReason, e.FailingSince, e.NotBefore = time.Time{}, "", time.Time{}, time.Time{}
	default:
		e.DisabledAt, e.DisabledReason = now, ByRequest
	}
	e.UpdatedAt = now
	return nil
}

// Create registers an endpoint and makes its secret, which is shown this once. Errors:
// Invalid, ErrLimit, ErrInsufficientRole, ErrInsufficientScope.
func (s *Service) Create(ctx context.Context, a registry.Actor, c Change) (Endpoint, Secret, error) {
	if err := manager(a); err != nil {
		return Endpoint{}, Secret{}, err
	}
	now := s.now()
	e := Endpoint{ID: s.opts.NewID(), CreatedBy: a.String(), CreatedAt: now}
	if c.URL == nil {
		return Endpoint{}, Secret{}, invalid("url is missing.")
	}
	if err := s.apply(c, &e, now); err != nil {
		return Endpoint{}, Secret{}, err
	}
	var shown Secret
	shown, e.Secret = s.newSecret(e.ID)
	err := s.store.InTx(ctx, func(tx Tx) (err error) {
		if e.No, err = tx.InsertEndpoint(ctx, e, maxEndpoints); err != nil {
			return err
		}
		return s.audit(ctx, tx, a, "webhook_created", now, map[string]any{"webhook_id": e.ID, "url": e.shown(), "events": e.Events})
	})
	if err != nil {
		return Endpoint{}, Secret{}, err
	}
	return e, shown, nil
}

// List lists endpoints in order of id, after the given id. Errors: ErrInsufficientRole,
// ErrInsufficientScope.
func (s *Service) List(ctx context.Context, a registry.Actor, after string, limit int) (list []Endpoint, err error) {
	if err := manager(a); err != nil {
		return nil, err
	}
	err = s.store.View(ctx, func(tx Tx) (err error) {
		list, err = tx.Endpoints(ctx, after, limit)
		return err
	})
	return list, err
}

// Endpoint reads one endpoint. Errors: ErrNotFound, ErrInsufficientRole,
// ErrInsufficientScope.
func (s *Service) Endpoint(ctx context.Context, a registry.Actor, id string) (e Endpoint, err error) {
	if err := manager(a); err != nil {
		return Endpoint{}, err
	}
	err = s.store.View(ctx, func(tx Tx) (err error) {
		e, err = tx.Endpoint(ctx, id)
		return err
	})
	return e, err
}

// Update changes an endpoint. To enable one forgets its failures, and what waited at it
// is sent. Errors: Invalid, ErrUnavailable, and those of [Service.Endpoint].
func (s *Service) Update(ctx context.Context, a registry.Actor, id string, c Change) (e Endpoint, err error) {
	if err := manager(a); err != nil {
		return Endpoint{}, err
	}
	now := s.now()
	err = s.store.InTx(ctx, func(tx Tx) (err error) {
		if e, err = tx.Endpoint(ctx, id); err != nil {
			return err
		}
		was := e.UpdatedAt
		if err = s.apply(c, &e, now); err != nil {
			return err
		}
		changed, err := tx.UpdateEndpoint(ctx, e, was)
		switch {
		case err != nil:
			return err
		case !changed:
			return registry.ErrUnavailable // another change was faster, and this one may be tried again
		}
		return s.audit(ctx, tx, a, "webhook_changed", now, map[string]any{"webhook_id": id, "url": e.shown(), "events": e.Events, "enabled": e.Enabled()})
	})
	return e, err
}

// Rotate gives an endpoint another secret, which is shown this once. Messages carry the
// signatures of both for 24 hours; a secret that an earlier rotation left signs no more.
// Errors: those of [Service.Endpoint].
func (s *Service) Rotate(ctx context.Context, a registry.Actor, id string) (e Endpoint, shown Secret, err error) {
	if err := manager(a); err != nil {
		return Endpoint{}, Secret{}, err
	}
	now := s.now()
	shown, stored := s.newSecret(id)
	err = s.store.InTx(ctx, func(tx Tx) (err error) {
		if e, err = tx.Endpoint(ctx, id); err != nil {
			return err
		}
		e.OldSecretUntil = now.Add(rotation)
		if err = tx.RotateSecret(ctx, e.No, stored, e.OldSecretUntil, now); err != nil {
			return err
		}
		return s.audit(ctx, tx, a, "webhook_secret_rotated", now, map[string]any{"webhook_id": id})
	})
	if err != nil {
		return Endpoint{}, Secret{}, err
	}
	return e, shown, nil
}

// Delete removes an endpoint and its deliveries, in small transactions. Errors: those of
// [Service.Endpoint].
func (s *Service) Delete(ctx context.Context, a registry.Actor, id string) error {
	e, err := s.Endpoint(ctx, a, id)
	if err != nil {
		return err
	}
	for n := purgeBatch; n == purgeBatch; {
		err := s.store.InTx(ctx, func(tx Tx) (err error) {
			n, err = tx.DeleteDeliveries(ctx, e.No, purgeBatch)
			return err
		})
		if err != nil {
			return err
		}
	}
	return s.store.InTx(ctx, func(tx Tx) error {
		changed, err := tx.DeleteEndpoint(ctx, e.No)
		if err == nil && !changed {
			err = ErrNotFound
		}
		if err != nil {
			return err
		}
		return s.audit(ctx, tx, a, "webhook_deleted", s.now(), map[string]any{"webhook_id": id, "url": e.shown()})
	})
}

// Test sends an endpoint an event of the type webhook.test, by the way of all others, and
// returns the delivery, which waits. Errors: ErrDisabled, and those of [Service.Endpoint].
func (s *Service) Test(ctx context.Context, a registry.Actor, id string) (d Delivery, err error) {
	if err := manager(a); err != nil {
		return Delivery{}, err
	}
	now := s.now()
	event := registry.OutboxEvent{ID: s.opts.NextID(), Type: EventTest, At: now, Data: map[string]any{"webhook_id": id}}
	err = s.store.InTx(ctx, func(tx Tx) error {
		e, err := tx.Endpoint(ctx, id)
		switch {
		case err != nil:
			return err
		case !e.Enabled():
			return ErrDisabled
		}
		if err := tx.InsertDelivery(ctx, e.No, event); err != nil {
			return err
		}
		if d, err = tx.Delivery(ctx, e.No, event.ID); err != nil {
			return err
		}
		return s.audit(ctx, tx, a, "webhook_tested", now, map[string]any{"webhook_id": id, "delivery_id": d.ID()})
	})
	return d, err
}
