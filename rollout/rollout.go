// Package rollout is the domain of firmware: releases, and their way to devices.
//
// A release is a version with its URL and hash; it never changes. A rollout brings a
// release to devices: to all, to a share of them, to those of a cohort, or to named
// ones. A device of a rollout is in a state (update.go): it waits for its turn, has been
// told, downloads, verifies, has said that it succeeded, or is at the end. Success is
// not what a device says of itself but the version that it reports after its restart.
//
// A device's ota/status is taken in the transaction that keeps the message, together
// with the result, its audit row and the decision to halt (status.go, result.go). All
// else is a loop that compares what is with what should be, once a second (step.go):
// who is in a rollout, whose turn it is, who has to be told again, who is late. Its
// only memory is the database, so that a restart loses nothing, and every program at
// the same database may run it: each tells the devices that are connected to it, and
// they share a rollout's rate.
package rollout

import (
	"context"
	"crypto/rand"
	"log/slog"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/opticworks/devicecloud/registry"
	"github.com/opticworks/devicecloud/topic"
)

// Devices is what the domain of firmware asks the domain of devices;
// [registry.Registry] implements it.
type Devices interface {
	// Access is the gate; see [registry.Registry.Access].
	Access(ctx context.Context, a registry.Actor, deviceID string, c registry.Capability) (registry.OwnedDevice, error)
	// Change commits f and tells listeners; see [registry.Registry.Change].
	Change(ctx context.Context, f func(registry.Tx) error, changes func() []*registry.Change) error
	// KeepReport keeps a device's message together with work; see
	// [registry.Registry.KeepReport].
	KeepReport(s *registry.Session, k topic.Kind, payload []byte, with ...*registry.Work) error
	// KeepReportLater is KeepReport of which nobody waits for the commit.
	KeepReportLater(s *registry.Session, k topic.Kind, payload []byte, with ...*registry.Work) error
}

// Courier is what the domain needs from MQTT. Its methods do not block on the network.
type Courier interface {
	// Takes reports whether the device is connected here and has subscribed to messages
	// of the kind, SUBACK included.
	Takes(deviceID string, k topic.Kind) bool
	// Deliver writes one message to the device's live session; see
	// [registry.Courier].
	Deliver(deviceID string, k topic.Kind, payload []byte) error
}

// Options configures a Service. The zero value of each field is usable.
type Options struct {
	NodeID  string           // this node's name, as the registry has it; default "node-1"
	Root    topic.Root       // of topics, whose length counts; default "opticworks"
	Now     func() time.Time // default time.Now
	NextID  func() int64     // ids of audit rows: the registry's source; default a source of its own
	Tick    time.Duration    // between two looks at the rollouts; default 1 s
	Confirm time.Duration    // that a device may take to report the version that it says it has; default 5 min
	Retry   time.Duration    // before a device that has failed is told again; default 10 min
	Weak    time.Duration    // before a device that has said that its signal is too weak is asked again; default 5 min
	Logger  *slog.Logger     // default slog.Default()
}

func (o *Options) defaults() {
	if o.NodeID == "" {
		o.NodeID = "node-1"
	}
	if o.Root == "" {
		o.Root = "opticworks"
	}
	if o.Now == nil {
		o.Now = time.Now
	}
	if o.NextID == nil {
		o.NextID = registry.NewIDSource(o.Now)
	}
	for _, d := range []struct {
		field *time.Duration
		value time.Duration
	}{{&o.Tick, time.Second}, {&o.Confirm, 5 * time.Minute}, {&o.Retry, 10 * time.Minute}, {&o.Weak, 5 * time.Minute}} {
		if *d.field <= 0 {
			*d.field = d.value
		}
	}
	if o.Logger == nil {
		o.Logger = slog.Default()
	}
}

// Service is the domain of firmware. It is safe for concurrent use.
type Service struct {
	store   Store
	devices Devices
	courier Courier
	opts    Options
	log     *slog.Logger
	cancels int // devices that are cancelled in one transaction

	wake chan struct{} // capacity 1: look at once
	busy atomic.Bool   // there is something to look for
	walk walk          // of Run's goroutine

	mu   sync.Mutex
	came []int64 // devices that have come since the last look, by number
}

// New makes a Service. Nothing moves before [Service.Run].
func New(store Store, devices Devices, courier Courier, opts Options) *Service {
	opts.defaults()
	s := &Service{
		store: store, devices: devices, courier: courier, opts: opts, log: opts.Logger,
		cancels: cancelBatch, wake: make(chan struct{}, 1), walk: walk{behind: map[int64]int64{}},
	}
	s.busy.Store(true) // until the first look
	return s
}

// now is the time of a write, at the database's resolution of a microsecond.
func (s *Service) now() time.Time { return s.opts.Now().Truncate(time.Microsecond).UTC() }

// hurry makes Run look at once.
func (s *Service) hurry() {
	select {
	case s.wake <- struct{}{}:
	default:
	}
}

// view runs f on one snapshot.
func (s *Service) view(ctx context.Context, f func(Tx) error) error { return s.store.View(ctx, f) }

// change runs f in a durable transaction of the group commit; afterwards listeners hear
// how far the devices are that f has moved. f may run again.
func (s *Service) change(ctx context.Context, f func(Tx, *moves) error) error {
	m := &moves{}
	return s.devices.Change(ctx, func(tx registry.Tx) error {
		m.reset()
		return f(s.store.Of(tx), m)
	}, m.changes)
}

// audit writes an audit row in the transaction of the change. deviceID is "" for what is
// no device's.
func (s *Service) audit(ctx context.Context, tx Tx, a registry.Actor, deviceID, event string, data map[string]any) error {
	return tx.InsertAudit(ctx, registry.AuditEvent{
		ID: s.opts.NextID(), Domain: "rollout", DeviceID: deviceID, Event: event, Data: data, Actor: a.String(),
		RequestID: a.RequestID, IP: a.IP, UserAgent: a.UserAgent, Client: a.ClientType, At: s.now(),
	})
}

// manager lets administrators pass whose token may change configuration: a release is
// code that every device will run. [contracts, HTTP route table]
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

// newID is an id that nobody can guess.
func newID(prefix string) string { return prefix + strings.ToLower(rand.Text()[:20]) }

func invalid(sentence string) error {
	return registry.E(registry.Invalid, registry.ErrInvalidRequest.Code, sentence)
}
