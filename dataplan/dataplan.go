// Package dataplan is the domain of data plans: what is sold for the SIM card of a
// device, who buys it, and how a purchase lives from the order to its end.
//
// A purchase has a stage, which only moves along the table in purchase.go, and facts
// beside it: what was paid, refunded, disputed, held. Its status is a pure function of
// both (settle.go). The payment provider and the carrier report at least once and in any
// order; because facts only grow, every order of their reports ends in the same status.
//
// One noun, one file: plan.go, purchase.go, checkout.go, event.go (what the payment
// provider reports), settle.go (what follows from it), period.go (subscriptions), refund.go, reconcile.go. [contracts D, E.4]
package dataplan

import (
	"context"
	"encoding/hex"
	"log/slog"
	"net/netip"
	"sync/atomic"
	"time"

	"github.com/google/uuid"

	"github.com/opticworks/devicecloud/registry"
)

// Devices is what the domain of plans asks the domain of devices;
// [registry.Registry] implements it.
type Devices interface {
	// Access is the one gate; see [registry.Registry.Access].
	Access(ctx context.Context, a registry.Actor, deviceID string, c registry.Capability) (registry.OwnedDevice, error)
	// Tell lets live listeners hear of a change, after its commit.
	Tell(c *registry.Change)
}

// Store is what the domain needs of a database.
type Store interface {
	// View runs f on one read-only snapshot.
	View(ctx context.Context, f func(Tx) error) error
	// InTx runs f in one durable write transaction; see registry.Store.
	InTx(ctx context.Context, f func(Tx) error) error
}

// Tx is one transaction over the tables of plans and of devices.
type Tx interface {
	registry.Tx
	PlanTx
	PurchaseTx
	SIMTx
	FulfilmentTx
}

// Options configures a Service. The zero value of each field is usable.
type Options struct {
	Provider Provider         // takes payments; nil: no checkout and no refund, ErrFeatureDisabled
	Verifier Verifier         // of the provider's reports; nil: ErrWebhookNotConfigured
	Pages    string           // URL under which people reach this server, without a slash at the end
	Now      func() time.Time // default time.Now
	NextID   func() int64     // ids of audit rows: the registry's source; default a source of its own
	NewID    func() string    // purchase ids: 32 hex; default UUIDs of version 7
	Logger   *slog.Logger     // default slog.Default()

	Carrier         Carrier        // of the SIMs; nil: paid purchases wait
	Notices         NoticeReader   // of the carrier's notifications; nil: ErrWebhookNotConfigured
	NoticeWindow    time.Duration  // how far from now a notification may be signed; default 24 hours
	NoticeAddresses []netip.Prefix // from where they are taken; none: from anywhere
	Fulfilment      FulfilmentTimes
}

func (o *Options) defaults() {
	if o.Now == nil {
		o.Now = time.Now
	}
	if o.NextID == nil {
		o.NextID = registry.NewIDSource(o.Now)
	}
	if o.NewID == nil {
		o.NewID = func() string { u := uuid.Must(uuid.NewV7()); return hex.EncodeToString(u[:]) }
	}
	if o.Logger == nil {
		o.Logger = slog.Default()
	}
	if o.NoticeWindow <= 0 {
		o.NoticeWindow = 24 * time.Hour
	}
	o.Fulfilment.defaults()
}

// Service is the domain of data plans. It is safe for concurrent use.
type Service struct {
	store    Store
	devices  Devices
	opts     Options
	log      *slog.Logger
	counters Counters
	due      chan struct{} // capacity 1: a purchase may have become due at the carrier
}

// Counters are what the domain counts; they only grow.
type Counters struct {
	Events        atomic.Int64 // of the payment provider, that had an effect or were kept
	Duplicates    atomic.Int64 // of them that came again
	BadSignatures atomic.Int64
	Unconfigured  atomic.Int64 // reports that came while no secret was set
	Held          atomic.Int64 // purchases put on hold
	Refused       atomic.Int64 // transitions that the table does not have

	CarrierOrders    atomic.Int64 // requests that ordered, or may have
	CarrierRepaired  atomic.Int64 // orders whose answer was lost and that were found
	CarrierFailed    atomic.Int64 // purchases that the carrier refused
	Notices          atomic.Int64 // of the carrier, that were taken
	NoticeDuplicates atomic.Int64 // of them that came again
	NoticeRefused    atomic.Int64 // for their signature, time, form or address
}

// New makes a Service.
func New(store Store, devices Devices, opts Options) *Service {
	opts.defaults()
	return &Service{store: store, devices: devices, opts: opts, log: opts.Logger, due: make(chan struct{}, 1)}
}

// Counters are the domain's counters, for metrics.
func (s *Service) Counters() *Counters { return &s.counters }

// now is the time of a write, at the database's resolution of a microsecond.
func (s *Service) now() time.Time { return s.opts.Now().Truncate(time.Microsecond).UTC() }

// audit writes an audit row in the transaction of the change.
func (s *Service) audit(ctx context.Context, tx Tx, a registry.Actor, deviceID, event string, data map[string]any) error {
	return tx.InsertAudit(ctx, registry.AuditEvent{
		ID: s.opts.NextID(), Domain: "dataplan", DeviceID: deviceID, Event: event, Data: data, Actor: a.String(),
		RequestID: a.RequestID, IP: a.IP, UserAgent: a.UserAgent, Client: a.ClientType, At: s.now(),
	})
}
