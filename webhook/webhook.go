package webhook

import (
	"context"
	"log/slog"
	"sync/atomic"
	"time"

	"github.com/google/uuid"

	"github.com/opticworks/devicecloud/registry"
)

// Options configures a Service. The zero value of each field is usable.
type Options struct {
	Now    func() time.Time // default time.Now
	NewID  func() string    // ids of endpoints; default UUIDs of version 7
	NextID func() int64     // ids of events and audit rows: the registry's source; default a source of its own
	Sealer *registry.Sealer // encrypts the signing secrets at rest; nil: stored bare
	Guard  Guard            // which addresses may be called
	Post   Poster           // sends; default [NewClient] of Guard
	Poll   time.Duration    // how long a delivery that is due waits at most to be seen; default 500 ms
	Logger *slog.Logger     // default slog.Default()
}

func (o *Options) defaults() {
	if o.Now == nil {
		o.Now = time.Now
	}
	if o.NewID == nil {
		o.NewID = func() string { return uuid.Must(uuid.NewV7()).String() }
	}
	if o.NextID == nil {
		o.NextID = registry.NewIDSource(o.Now)
	}
	if o.Poll <= 0 {
		o.Poll = 500 * time.Millisecond
	}
	if o.Post == nil {
		o.Post = NewClient(o.Guard)
	}
	if o.Logger == nil {
		o.Logger = slog.Default()
	}
}

// Alerts is how administrators who listen are told; [registry.Registry] implements it. It
// is called after the commit and must not block.
type Alerts interface {
	Tell(c *registry.Change)
}

// Service is the domain of webhooks. It is safe for concurrent use.
type Service struct {
	store    Store
	alerts   Alerts
	opts     Options
	log      *slog.Logger
	counters Counters
}

// Counters are what the domain counts. The first five only grow; the last two are how it
// stands, as of some seconds ago.
type Counters struct {
	Delivered   atomic.Int64 // attempts that a receiver accepted
	Retried     atomic.Int64 // attempts that failed and are made again
	GivenUp     atomic.Int64 // deliveries that failed for good
	Disabled    atomic.Int64 // endpoints that were disabled because they failed
	Interrupted atomic.Int64 // attempts that the end of the program cut off; they are made again
	Waiting     atomic.Int64 // deliveries that wait, of enabled endpoints
	OldestNanos atomic.Int64 // age of the oldest of them
}

// New makes a Service; [Service.Run] delivers.
func New(store Store, alerts Alerts, opts Options) *Service {
	opts.defaults()
	return &Service{store: store, alerts: alerts, opts: opts, log: opts.Logger}
}

// Counters are the service's counters, for metrics.
func (s *Service) Counters() *Counters { return &s.counters }

// now is the time of a write, at the database's resolution of a microsecond.
func (s *Service) now() time.Time { return s.opts.Now().Truncate(time.Microsecond).UTC() }

// audit writes an audit row in the transaction of the change.
func (s *Service) audit(ctx context.Context, tx Tx, a registry.Actor, event string, at time.Time, data map[string]any) error {
	return tx.InsertAudit(ctx, registry.AuditEvent{
		ID: s.opts.NextID(), Domain: "webhook", Event: event, Data: data, Actor: a.String(), RequestID: a.RequestID,
		IP: a.IP, UserAgent: a.UserAgent, Client: a.ClientType, At: at,
	})
}

// manager lets administrators pass whose token may change settings.
func manager(a registry.Actor) error {
	switch {
	case a.Kind == registry.ActorSystem:
		return nil
	case a.Kind != registry.ActorAdmin:
		return registry.ErrInsufficientRole
	case !a.Has(registry.ScopeConfigWrite):
		return registry.ErrInsufficientScope
	}
	return nil
}

// The errors of webhooks.
var (
	ErrNotFound         = registry.E(registry.NotFound, "webhook_not_found", "There is no such webhook.")
	ErrDeliveryNotFound = registry.E(registry.NotFound, "delivery_not_found", "There is no such delivery of this webhook.")
	ErrLimit            = registry.E(registry.Conflict, "webhook_limit_reached", "There are as many webhooks as there may be.")
	ErrDisabled         = registry.E(registry.Conflict, "webhook_disabled", "The webhook is disabled: enable it first.")
	ErrWaiting          = registry.E(registry.Conflict, "delivery_waiting", "The delivery has not ended yet; it is tried again by itself.")
)

func invalid(sentence string) error {
	return registry.E(registry.Invalid, registry.ErrInvalidRequest.Code, sentence)
}
