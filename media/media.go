package media

import (
	"context"
	"log/slog"
	"time"

	"github.com/opticworks/devicecloud/registry"
)

// Devices is what the domain of video asks the domain of devices;
// [registry.Registry] implements it.
type Devices interface {
	// AccessTx is the one gate of devices, in the caller's transaction.
	AccessTx(ctx context.Context, tx registry.Tx, a registry.Actor, deviceID string, c registry.Capability) (registry.OwnedDevice, error)
	// InstructDevice sends a command of the program's own.
	InstructDevice(ctx context.Context, deviceID string, req registry.CommandRequest) (c registry.Command, duplicate bool, err error)
}

// Store is what the domain of video needs of a database.
type Store interface {
	// View runs f on one read-only snapshot.
	View(ctx context.Context, f func(Tx) error) error
	// InTx runs f in one durable write transaction; see registry.Store.
	InTx(ctx context.Context, f func(Tx) error) error
}

// Tx is one transaction over the tables of video and of devices.
type Tx interface {
	registry.Tx
	VideoTx
	WatcherTx
	VendTx
}

// VideoTx reads and writes what a device's video is called.
type VideoTx interface {
	// Video reads what a device's video is called; the zero Video when it has none.
	Video(ctx context.Context, deviceNo int64) (Video, error)
	// PutVideo writes it, in place of what there is; ErrVideoTaken when one of the names
	// is another device's.
	PutVideo(ctx context.Context, deviceNo int64, v Video, at time.Time) error
}

// Options configures a Service. The zero value of each field is usable.
type Options struct {
	Cloud          Cloud            // where the video is; nil: nowhere, every request is refused as feature_disabled
	IoT            IoT              // where devices with a certificate of AWS IoT get credentials
	OwnCredentials bool             // viewers get credentials and sign for themselves, instead of a signed address
	Now            func() time.Time // default time.Now
	NextID         func() int64     // ids of rows: the registry's source; default a source of its own
	Logger         *slog.Logger     // default slog.Default()
}

func (o *Options) defaults() {
	if o.Now == nil {
		o.Now = time.Now
	}
	if o.NextID == nil {
		o.NextID = registry.NewIDSource(o.Now)
	}
	if o.Logger == nil {
		o.Logger = slog.Default()
	}
}

// Service is the domain of video. It is safe for concurrent use.
type Service struct {
	store   Store
	devices Devices
	opts    Options
	log     *slog.Logger
	clips   places
	lent    answers
}

// New makes a Service.
func New(store Store, devices Devices, opts Options) *Service {
	opts.defaults()
	return &Service{store: store, devices: devices, opts: opts, log: opts.Logger}
}

// now is the time of a write, at the database's resolution of a microsecond.
func (s *Service) now() time.Time { return s.opts.Now().Truncate(time.Microsecond).UTC() }

// audit writes an audit row in the transaction of the change.
func (s *Service) audit(ctx context.Context, tx Tx, a registry.Actor, deviceID, event string, data map[string]any) error {
	return tx.InsertAudit(ctx, registry.AuditEvent{
		ID: s.opts.NextID(), Domain: "media", DeviceID: deviceID, Event: event, Data: data, Actor: a.String(),
		RequestID: a.RequestID, IP: a.IP, UserAgent: a.UserAgent, Client: a.ClientType, At: s.now(),
	})
}

// The errors of this domain. Those of AWS are mapped to them by partner/kvs.
var (
	ErrNotProvisioned = registry.E(registry.Conflict, "video_not_provisioned", "The device has no video yet.")
	ErrRangeExceeded  = registry.E(registry.Forbidden, "entitlement_range_exceeded", "The device's plan does not reach back that far.")
	ErrVideoTaken     = registry.E(registry.Conflict, "video_name_taken", "Another device has this stream, channel or thing.")

	ErrNoMedia     = registry.E(registry.NotFound, "no_media", "There is no video at this time.")
	ErrRange       = registry.E(registry.Invalid, "invalid_range", "The time range is not valid.")
	ErrBusy        = &registry.Error{Kind: registry.RateLimited, Code: "RATE_LIMITED", Message: "Too many viewers or requests. Try again later.", RetryAfter: 5 * time.Second}
	ErrNoRetention = registry.E(registry.Conflict, "retention_disabled", "The device's video is not kept.")
	ErrUnsupported = registry.E(registry.Unsupported, "unsupported_media", "The device's video is of a kind that cannot be played.")
	ErrDenied      = registry.E(registry.Upstream, "upstream_denied", "The video service refuses this server.")
	ErrUnavailable = registry.E(registry.Unavailable, "upstream_unavailable", "The video service does not answer. Try again.")
)
