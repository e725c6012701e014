package webhook

import (
	"context"
	"encoding/base32"
	"encoding/binary"
	"strings"
	"time"

	"github.com/opticworks/devicecloud/registry"
)

// Status is what became of a delivery.
type Status string

// The states of a delivery.
const (
	Waiting   Status = "waiting" // also while it is being sent
	Delivered Status = "delivered"
	Failed    Status = "failed"
)

// Delivery is one event for one endpoint.
type Delivery struct {
	EndpointNo   int64
	EventID      int64
	Type         string
	DeviceID     string // "": about none
	Body         string // JSON, as it is signed and sent
	Status       Status
	Attempt      int       // how often it was sent, or begun to be
	FirstAttempt int       // attempts before the last replay
	DueAt        time.Time // of the next attempt; while it is being sent the end of the lease
	CreatedAt    time.Time // when the event happened
	TriedAt      time.Time // when the last attempt ended
	FinishedAt   time.Time // zero unless it has ended
	Answer       int       // HTTP status of the last attempt; 0: none
	Error        string    // why the last attempt failed: a code in lower snake case
}

// tries is the number of attempts since the last replay.
func (d Delivery) tries() int { return d.Attempt - d.FirstAttempt }

// crockford is the base 32 that nobody misreads. [crockford.com/base32.html]
var crockford = base32.NewEncoding("0123456789ABCDEFGHJKMNPQRSTVWXYZ").WithPadding(base32.NoPadding)

// ID is the delivery's name within its endpoint, and the header webhook-id: the same for
// every attempt, replays included.
func (d Delivery) ID() string {
	var b [8]byte
	binary.BigEndian.PutUint64(b[:], uint64(d.EventID))
	return "msg_" + crockford.EncodeToString(b[:])
}

// parseID reads what ID has made.
func parseID(id string) (eventID int64, ok bool) {
	text, ok := strings.CutPrefix(id, "msg_")
	if !ok || len(text) != crockford.EncodedLen(8) {
		return 0, false
	}
	b, err := crockford.DecodeString(text)
	if err != nil || len(b) != 8 {
		return 0, false
	}
	d := Delivery{EventID: int64(binary.BigEndian.Uint64(b))}
	return d.EventID, d.EventID > 0 && d.ID() == id
}

// Deliveries lists an endpoint's deliveries, the newest event first, before the given
// event number (0: from the newest); status "" is every one. Errors: Invalid for another
// status, and those of [Service.Endpoint].
func (s *Service) Deliveries(ctx context.Context, a registry.Actor, endpointID string, status Status, before int64, limit int) (list []Delivery, err error) {
	if err := manager(a); err != nil {
		return nil, err
	}
	switch status {
	case "", Waiting, Delivered, Failed:
	default:
		return nil, invalid("status must be waiting, delivered or failed.")
	}
	err = s.store.View(ctx, func(tx Tx) error {
		e, err := tx.Endpoint(ctx, endpointID)
		if err != nil {
			return err
		}
		list, err = tx.Deliveries(ctx, e.No, status, before, limit)
		return err
	})
	return list, err
}

// Replay sends a delivery that has ended once more, with its old id, by the whole plan of
// attempts. Errors: ErrDeliveryNotFound, ErrWaiting, ErrDisabled, and those of
// [Service.Endpoint].
func (s *Service) Replay(ctx context.Context, a registry.Actor, endpointID, deliveryID string) (d Delivery, err error) {
	if err := manager(a); err != nil {
		return Delivery{}, err
	}
	now := s.now()
	err = s.store.InTx(ctx, func(tx Tx) error {
		e, err := tx.Endpoint(ctx, endpointID)
		if err != nil {
			return err
		}
		eventID, ok := parseID(deliveryID)
		if !ok {
			return ErrDeliveryNotFound
		}
		if _, err := tx.Delivery(ctx, e.No, eventID); err != nil {
			return err
		}
		if !e.Enabled() {
			return ErrDisabled
		}
		changed, err := tx.ReplayDelivery(ctx, e.No, eventID, now)
		if err == nil && !changed {
			err = ErrWaiting
		}
		if err != nil {
			return err
		}
		if d, err = tx.Delivery(ctx, e.No, eventID); err != nil {
			return err
		}
		return s.audit(ctx, tx, a, "webhook_replayed", now, map[string]any{"webhook_id": endpointID, "delivery_id": deliveryID})
	})
	return d, err
}
