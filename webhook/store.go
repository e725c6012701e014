package webhook

import (
	"context"
	"time"

	"github.com/opticworks/devicecloud/registry"
)

// Store is what the domain needs of a database.
type Store interface {
	// View runs f on one read-only snapshot.
	View(ctx context.Context, f func(Tx) error) error
	// InTx runs f in one durable write transaction. Only the guarded statements of Tx
	// behave as if it ran alone, so that deliveries never make a commit of the devices'
	// run again. f may run again and has no side effects but its writes.
	InTx(ctx context.Context, f func(Tx) error) error
}

// Tx is one transaction over the tables of webhooks.
type Tx interface {
	registry.AuditTx
	EndpointTx
	DeliveryTx
}

// EndpointTx reads and writes endpoints.
type EndpointTx interface {
	// Endpoints lists endpoints in order of id, after the given id.
	Endpoints(ctx context.Context, after string, limit int) ([]Endpoint, error)
	// Endpoint reads one; ErrNotFound.
	Endpoint(ctx context.Context, id string) (Endpoint, error)
	// InsertEndpoint writes one with its subscriptions, only while there are fewer than
	// limit; it returns its number. ErrLimit.
	InsertEndpoint(ctx context.Context, e Endpoint, limit int) (no int64, err error)
	// UpdateEndpoint writes what people change: URL, description, events, and whether it
	// is disabled, which forgets its failures when it is not; only while the endpoint was
	// last changed at a time, so that nothing is undone that e was read before.
	UpdateEndpoint(ctx context.Context, e Endpoint, was time.Time) (changed bool, err error)
	// RotateSecret puts a sealed secret in the place of the one that signs, which signs
	// too until a time.
	RotateSecret(ctx context.Context, no int64, secret []byte, oldUntil, at time.Time) error
	// DeleteOldSecrets forgets the secrets whose time is over.
	DeleteOldSecrets(ctx context.Context, at time.Time) error
	// DeleteEndpoint removes an endpoint with what it still has of deliveries.
	DeleteEndpoint(ctx context.Context, no int64) (changed bool, err error)
	// SetFailing records that an endpoint began to fail, unless it is failing.
	SetFailing(ctx context.Context, no int64, at time.Time) error
	// SetWorking forgets that it was failing.
	SetWorking(ctx context.Context, no int64) error
	// SetNotBefore keeps an endpoint from being called until a time, unless that is
	// later already.
	SetNotBefore(ctx context.Context, no int64, until time.Time) error
	// DisableEndpoint disables an endpoint that is enabled and has been failing since
	// before a time (zero: whether it is failing or not); changed says whether it did.
	DisableEndpoint(ctx context.Context, no int64, reason DisabledReason, failingSince, at time.Time) (changed bool, err error)
}

// DeliveryTx reads and writes deliveries.
type DeliveryTx interface {
	// InsertDelivery writes an event for one endpoint, whatever it is subscribed to.
	InsertDelivery(ctx context.Context, endpointNo int64, e registry.OutboxEvent) error
	// Deliveries lists an endpoint's deliveries, the newest event first, before the given
	// event (0: from the newest); status "" is every one.
	Deliveries(ctx context.Context, endpointNo int64, status Status, before int64, limit int) ([]Delivery, error)
	// Delivery reads one; ErrDeliveryNotFound.
	Delivery(ctx context.Context, endpointNo, eventID int64) (Delivery, error)
	// DueEndpoints lists the endpoints that something is due for and that may be called.
	DueEndpoints(ctx context.Context, at time.Time) ([]Endpoint, error)
	// TakeDeliveries takes at most limit deliveries of an endpoint that are due, each the
	// first that waits about its device, and leases them until a time: their attempt has
	// grown by one, which nobody else's has. more says that others may be due that it has
	// not looked at: what waits behind older ones can be very long.
	TakeDeliveries(ctx context.Context, endpointNo int64, now, until time.Time, limit int) (list []Delivery, more bool, err error)
	// FinishDelivery writes the result of the attempt, unless the lease has run out and
	// somebody else has begun another, and calls the next one about the device forward
	// when d has ended. changed says whether it did.
	FinishDelivery(ctx context.Context, d Delivery) (changed bool, err error)
	// ReplayDelivery makes a delivery that has ended wait again, due at once; changed
	// says whether it had.
	ReplayDelivery(ctx context.Context, endpointNo, eventID int64, at time.Time) (changed bool, err error)
	// DeleteEnded deletes at most limit deliveries that ended before a time; it returns
	// how many.
	DeleteEnded(ctx context.Context, status Status, before time.Time, limit int) (int, error)
	// DeleteCreated deletes at most limit deliveries of events from before a time,
	// whatever became of them.
	DeleteCreated(ctx context.Context, before time.Time, limit int) (int, error)
	// DeleteDeliveries deletes at most limit deliveries of an endpoint.
	DeleteDeliveries(ctx context.Context, endpointNo int64, limit int) (int, error)
	// CountWaiting counts the deliveries that wait at enabled endpoints, and says when
	// the oldest of them happened.
	CountWaiting(ctx context.Context) (n int64, oldest time.Time, err error)
}
