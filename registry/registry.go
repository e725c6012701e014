package registry

import (
	"context"
	"log/slog"
	"sync"
	"sync/atomic"
	"time"

	"github.com/opticworks/devicecloud/topic"
)

// Options configures a Registry. The zero value of each field is usable.
type Options struct {
	NodeID            string           // this node's name; default "node-1"
	Now               func() time.Time // default time.Now
	NextID            func() int64     // ids that grow with time; default NewIDSource(Now)
	Salt              string           // of device ids; default "opticworks-rs1"
	Root              topic.Root       // of topics, whose length counts; default "opticworks"
	SelfEnroll        bool             // an unknown device may enrol itself at its first connection [seed 003 4.2]
	OfflineThreshold  time.Duration    // silence that ends presence; default 120 s
	AuditRetention    time.Duration    // default 90 days
	HistoryRetention  time.Duration    // of connections and events; default 90 days
	MaxDevicesPerUser int              // default 50
	PairingCodeLife   time.Duration    // of a code that an app hands to a device; default 300 s
	Trial             time.Duration    // of services, from a device's first activation; default 30 days, negative: none
	NoClaimLimits     bool             // failed tries to claim are not limited
	Sealer            *Sealer          // nil: credentials are stored as bare digests
	Commands          CommandLimits    // default none
	InvitationMails   InvitationMails  // default none are sent
	ResetReleases     bool             // a factory reset that a device reports frees it from its owner
	Linger            time.Duration    // how long a batch collects writes; default 10 ms
	Logger            *slog.Logger     // default slog.Default()
}

func (o *Options) defaults() {
	if o.NodeID == "" {
		o.NodeID = "node-1"
	}
	if o.Now == nil {
		o.Now = time.Now
	}
	if o.NextID == nil {
		o.NextID = NewIDSource(o.Now)
	}
	if o.Root == "" {
		o.Root = "opticworks"
	}
	if o.Salt == "" {
		o.Salt = "opticworks-rs1"
	}
	const day = 24 * time.Hour
	for _, d := range []struct {
		field *time.Duration
		value time.Duration
	}{{&o.OfflineThreshold, 2 * time.Minute}, {&o.AuditRetention, 90 * day}, {&o.HistoryRetention, 90 * day}, {&o.Linger, 10 * time.Millisecond}, {&o.PairingCodeLife, 5 * time.Minute}} {
		if *d.field <= 0 {
			*d.field = d.value
		}
	}
	if o.Trial == 0 {
		o.Trial = 30 * day
	}
	if o.MaxDevicesPerUser <= 0 {
		o.MaxDevicesPerUser = 50
	}
	if o.Logger == nil {
		o.Logger = slog.Default()
	}
}

// Registry is the service of the domain. It is safe for concurrent use.
type Registry struct {
	store    Store
	courier  Courier
	opts     Options
	log      *slog.Logger
	ingest   *ingest
	feed     *feed
	dispatch *dispatcher
	counters Counters
	bootID   atomic.Int64
	// shareMoved has a place for one value: a share was written that may begin or end.
	shareMoved chan struct{}
	// inviteMoved has a place for one value: an invitation was written.
	inviteMoved chan struct{}
	// unknownSince is when this node booted; nil once the devices that a former
	// life left online have returned or are offline.
	unknownSince atomic.Pointer[time.Time]

	health struct {
		sync.Mutex
		at  time.Time
		err error
	}
}

// Counters are what the registry counts; they only grow.
type Counters struct {
	Batches             atomic.Int64 // group commits
	FailedBatches       atomic.Int64
	Committed           atomic.Int64 // writes in them
	CommitNanos         atomic.Int64 // time spent in them
	StaleWrites         atomic.Int64 // refused by the epoch fence
	Dropped             atomic.Int64 // QoS 0 messages dropped because too much waited
	RejectedPayloads    atomic.Int64
	Provisioned         atomic.Int64
	Claims              atomic.Int64 // devices that got an owner
	SelfEnrolled        atomic.Int64
	PresenceCorrections atomic.Int64 // made by the sweep; the goal is 0
	FeedDropped         atomic.Int64 // changes that listeners did not hear because they were too slow
}

// New makes a Registry and starts its group commit; [Registry.Close] ends it.
func New(store Store, courier Courier, opts Options) *Registry {
	opts.defaults()
	r := &Registry{store: store, courier: courier, opts: opts, log: opts.Logger, shareMoved: make(chan struct{}, 1), inviteMoved: make(chan struct{}, 1)}
	r.bootID.Store(opts.NextID())
	r.feed = newFeed(opts.NextID, &r.counters.FeedDropped)
	r.dispatch = newDispatcher(r)
	r.ingest = newIngest(store, opts.Linger, &r.counters, r.feed, r.log)
	return r
}

// Counters are the registry's counters, for metrics.
func (r *Registry) Counters() *Counters { return &r.counters }

// Close ends the listeners and the lanes of commands, commits what waits and refuses further writes with
// ErrUnavailable.
func (r *Registry) Close() {
	r.feed.close()
	r.dispatch.close()
	r.ingest.close()
}

// now is the time of a write, at the database's resolution of a microsecond.
func (r *Registry) now() time.Time { return r.opts.Now().Truncate(time.Microsecond).UTC() }

// Health reports whether the registry can commit, by a write through the group
// commit. The answer is kept for a second, so that probes cost nothing.
func (r *Registry) Health(ctx context.Context) error {
	r.health.Lock()
	defer r.health.Unlock()
	if time.Since(r.health.at) < time.Second {
		return r.health.err
	}
	r.health.err = r.ingest.do(ctx, func(tx Tx) error { return tx.Beat(ctx, r.opts.NodeID, r.bootID.Load(), r.now()) }, nil)
	r.health.at = time.Now()
	return r.health.err
}

// write runs f in a durable transaction of its own commit group, for changes that
// people make: they share commits with the devices' messages.
func (r *Registry) write(ctx context.Context, f func(Tx) error) error {
	return r.ingest.do(ctx, f, nil)
}

// change is write for what listeners hear of, see [Work].
func (r *Registry) change(ctx context.Context, f func(Tx) error, changes func() []*Change) error {
	return r.ingest.do(ctx, f, changes)
}

// Change runs f in a durable transaction of the group commit, for the domains above: a
// nil error means committed, and then listeners hear what changes returns; see [Work].
// Errors: f's own, ErrUnavailable.
func (r *Registry) Change(ctx context.Context, f func(Tx) error, changes func() []*Change) error {
	return r.change(ctx, f, changes)
}

// audit writes an audit row in the transaction of the change.
func (r *Registry) audit(ctx context.Context, tx Tx, a Actor, deviceID, event string, data map[string]any) error {
	return tx.InsertAudit(ctx, AuditEvent{
		ID: r.opts.NextID(), Domain: "registry", DeviceID: deviceID, Event: event, Data: data, Actor: a.String(),
		RequestID: a.RequestID, IP: a.IP, UserAgent: a.UserAgent, Client: a.ClientType, At: r.now(),
	})
}

// CloseFeed ends every listener with ErrFeedClosed and takes no new one, and ends the
// waits for commands: they must not hold up the end of the program. It may be called again.
func (r *Registry) CloseFeed() {
	r.feed.close()
	r.dispatch.stopWaiting()
}
