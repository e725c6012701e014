package media

import (
	"context"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"log/slog"
	"strconv"
	"strings"
	"sync/atomic"
	"time"

	"github.com/opticworks/devicecloud/registry"
)

const (
	// MaxIngestBody is the largest body of a delivery, in bytes. [contracts F]
	MaxIngestBody = 64 << 10
	// maxIngestBatch is how many events one delivery may hold.
	maxIngestBatch = 100
	// ingestSkew is how far a delivery's timestamp may be from our clock, either way.
	ingestSkew = 300 * time.Second
	// maxSignatures is how many signatures of one delivery are looked at: that of the
	// old key and of the new one while the sender changes them, and some to spare.
	maxSignatures = 8
	// keepIngested is how many ingested events of one type a device keeps.
	keepIngested = 1000
	// minDedup is the least time for which an event is known again: many times the
	// window of a timestamp, and longer than any sender repeats one.
	minDedup = 48 * time.Hour
	// ingestBatch is how many rows one transaction of the retention deletes.
	ingestBatch = 500
)

// actorIngest is the kind of actor that a signing key is: "ingest:k1".
const actorIngest registry.ActorKind = "ingest"

// The refusals of a delivery. [contracts F]
var (
	ErrIngestNotConfigured = registry.E(registry.NotConfigured, "ingest_not_configured", "No key is configured that events could be signed with.")
	ErrIngestTooLarge      = registry.E(registry.TooLarge, "body_too_large", "The body is larger than 64 KiB.")
	ErrInvalidSignature    = registry.E(registry.Unauthenticated, "invalid_signature", "The signature is missing or not valid.")
	ErrStaleTimestamp      = registry.E(registry.Unauthenticated, "stale_timestamp", "The timestamp is more than 300 seconds from the server's clock.")
	ErrEventConflict       = registry.E(registry.Conflict, "event_id_conflict", "There is another event of this event_id.")
	errIngestLimited       = registry.E(registry.RateLimited, "RATE_LIMITED", "Too many deliveries are signed with this key. Try again later.")
)

// IngestKey is a key that a sender of events signs with.
type IngestKey struct {
	ID     string
	Secret []byte
}

// String is the key without its secret.
func (k IngestKey) String() string { return "ingest key " + k.ID }

// LogValue is the key without its secret.
func (k IngestKey) LogValue() slog.Value { return slog.StringValue(k.String()) }

// Format is String for every verb.
func (k IngestKey) Format(f fmt.State, _ rune) { _, _ = f.Write([]byte(k.String())) }

// Sign is the signature, in lower hex, that a sender puts behind "v1=": HMAC-SHA256
// over timestamp, method, path and body, with a dot between each two. [contracts F]
func (k IngestKey) Sign(timestamp, method, path string, body []byte) string {
	return hex.EncodeToString(signature(k.Secret, timestamp, method, path, body))
}

func signature(secret []byte, timestamp, method, path string, body []byte) []byte {
	mac := hmac.New(sha256.New, secret)
	_, _ = mac.Write([]byte(timestamp + "." + method + "." + path + ".")) // never fails
	_, _ = mac.Write(body)
	return mac.Sum(nil)
}

// Delivery is one request of a sender as it came in. The headers are all the values
// that the request has of each.
type Delivery struct {
	Method, Path string
	KeyID        []string // X-Ingest-Key-Id
	Timestamp    []string // X-Ingest-Timestamp
	Signature    []string // X-Ingest-Signature
	Body         []byte   // what was read of it: one byte more than MaxIngestBody is too large
	From         registry.Actor
}

// Ingested is what became of a delivery.
type Ingested struct {
	Batch      bool // the delivery held a list
	Accepted   int
	Duplicates int
	Rejected   []RejectedEvent // of a batch; what is wrong with a single event is an error
}

// RejectedEvent is an event of a batch that was not taken, which repeats in vain.
type RejectedEvent struct {
	Index   int
	EventID string // as the sender calls it
	Err     *registry.Error
}

// IngestedEvent is what is remembered of an event to know it again. Its data is in the
// device's events, under the same id.
type IngestedEvent struct {
	ID         int64
	DeviceNo   int64
	SenderID   string // as the sender calls it; "" when it does not
	Type       string
	OccurredAt time.Time
	ReceivedAt time.Time
	DedupKey   []byte // SHA-256; UNIQUE
	BodyHash   []byte // SHA-256 of the canonical event
	Source     string // id of the key
}

// IngestStore is what ingestion needs of a database.
type IngestStore interface {
	// IngestTx runs f in one durable write transaction; see registry.Store.
	IngestTx(ctx context.Context, f func(IngestTx) error) error
}

// IngestTx is one transaction over ingested events and the tables of devices.
type IngestTx interface {
	registry.Tx
	// InsertIngested remembers an event. When there is one of the same DedupKey,
	// inserted is false and hash the BodyHash of that one.
	InsertIngested(ctx context.Context, e IngestedEvent) (inserted bool, hash []byte, err error)
	// MarkIngestAudit records that there is an audit row of a key and a reason in a
	// minute since 1970; first is false when there was one before.
	MarkIngestAudit(ctx context.Context, keyID, reason string, minute int64) (first bool, err error)
	// DeleteIngested deletes at most limit events received, and marks of audit rows
	// made, before a time; it returns how many.
	DeleteIngested(ctx context.Context, received, audited time.Time, limit int) (int, error)
	// QueueClassification writes that an event is to be classified, in the background.
	QueueClassification(ctx context.Context, c Classification) error
}

// IngestOptions configures an Ingestor. The zero value of each field is usable.
type IngestOptions struct {
	Keys      []IngestKey      // none: every delivery is ErrIngestNotConfigured
	Retention time.Duration    // of what is remembered to know an event again; 48 h at least
	Now       func() time.Time // default time.Now
	NextID    func() int64     // the registry's source
	Logger    *slog.Logger     // default slog.Default()
	// Limit takes a token of a key and returns 0, or how long until there is one; nil:
	// no limit.
	Limit func(keyID string) time.Duration
	// Tell is told of each event that was taken, after its commit; it must not block.
	Tell func(c *registry.Change)
	// Interesting says whether an event of a type is to be classified; nil: none is.
	// Queued is called after the commit of one that is.
	Interesting func(eventType string) (modelID string, ok bool)
	Queued      func()
}

// IngestCounters are what ingestion counts; they only grow.
type IngestCounters struct {
	Accepted, Duplicates, Refused atomic.Int64
}

// Ingestor takes events of devices that the outside sends over HTTPS. It is safe for
// concurrent use.
type Ingestor struct {
	store    IngestStore
	opts     IngestOptions
	log      *slog.Logger
	keys     map[string]IngestKey
	audited  auditedMinutes
	counters IngestCounters
}

// NewIngestor makes an Ingestor.
func NewIngestor(store IngestStore, opts IngestOptions) *Ingestor {
	if opts.Now == nil {
		opts.Now = time.Now
	}
	if opts.NextID == nil {
		opts.NextID = registry.NewIDSource(opts.Now)
	}
	if opts.Logger == nil {
		opts.Logger = slog.Default()
	}
	opts.Retention = max(opts.Retention, minDedup)
	s := &Ingestor{store: store, opts: opts, log: opts.Logger, keys: map[string]IngestKey{}}
	for _, k := range opts.Keys {
		s.keys[k.ID] = k
	}
	return s
}

// Counters are the ingestor's counters, for metrics.
func (s *Ingestor) Counters() *IngestCounters { return &s.counters }

func (s *Ingestor) now() time.Time { return s.opts.Now().Truncate(time.Microsecond).UTC() }

// Ingest takes a delivery: a nil error means that every event that it counts as
// accepted is committed. The order of refusals is fixed: ErrIngestNotConfigured,
// ErrIngestTooLarge, ErrInvalidSignature, ErrStaleTimestamp, RateLimited, Invalid
// (invalid_payload); of a single event also registry.ErrDeviceNotFound and
// ErrEventConflict, which in a batch are in its answer. The same event again is a
// duplicate and has no effect. [contracts F]
func (s *Ingestor) Ingest(ctx context.Context, d Delivery) (Ingested, error) {
	key, err := s.open(&d)
	if err != nil {
		s.refused(ctx, d, err, "")
		return Ingested{}, err
	}
	events, batch, err := decodeDelivery(d.Body, s.now())
	if err != nil {
		s.refused(ctx, d, err, "")
		return Ingested{}, err
	}
	var results []error
	var changes []*registry.Change
	var queued bool
	err = s.store.IngestTx(ctx, func(tx IngestTx) error {
		results, changes, queued = make([]error, len(events)), nil, false // it may run again
		for i, e := range events {
			if e.err != nil {
				results[i] = e.err
				continue
			}
			change, asked, err := s.take(ctx, tx, key, e)
			if own := (*registry.Error)(nil); err != nil && (!errors.As(err, &own) || own.Kind != registry.NotFound && own.Kind != registry.Conflict) {
				return err
			}
			if results[i] = err; err == nil {
				changes, queued = append(changes, change), queued || asked
			}
		}
		return nil
	})
	if err != nil {
		return Ingested{}, err
	}
	return s.settle(ctx, d, events, results, changes, queued, batch)
}

// settle makes known what a delivery has done, and counts it.
func (s *Ingestor) settle(ctx context.Context, d Delivery, events []sentEvent, results []error, changes []*registry.Change, queued, batch bool) (Ingested, error) {
	out := Ingested{Batch: batch}
	for _, c := range changes {
		if s.opts.Tell != nil {
			s.opts.Tell(c)
		}
	}
	if queued && s.opts.Queued != nil {
		s.opts.Queued()
	}
	for i, err := range results {
		switch {
		case err == nil:
			out.Accepted++
		case errors.Is(err, errDuplicate):
			out.Duplicates++
			s.refused(ctx, d, errDuplicate, events[i].DeviceID)
		default:
			s.refused(ctx, d, err, events[i].DeviceID)
			var own *registry.Error
			if !batch || !errors.As(err, &own) {
				return Ingested{}, err
			}
			out.Rejected = append(out.Rejected, RejectedEvent{i, events[i].EventID, own})
		}
	}
	s.counters.Accepted.Add(int64(out.Accepted))
	return out, nil
}

// errDuplicate is an event that has been taken before. It never leaves the package.
var errDuplicate = registry.E(registry.Conflict, "duplicate", "The event has been taken before.")

// take writes one event, unless it is known: errDuplicate when it is the same,
// ErrEventConflict when it is another. ErrDeviceNotFound.
func (s *Ingestor) take(ctx context.Context, tx IngestTx, key IngestKey, e sentEvent) (c *registry.Change, queued bool, err error) {
	d, err := tx.Device(ctx, e.DeviceID)
	if err != nil {
		return nil, false, err
	}
	now := s.now()
	row := IngestedEvent{
		ID: s.opts.NextID(), DeviceNo: d.No, SenderID: e.EventID, Type: e.Type, OccurredAt: e.OccurredAt, ReceivedAt: now,
		DedupKey: e.dedupKey(), BodyHash: e.bodyHash(), Source: key.ID,
	}
	inserted, hash, err := tx.InsertIngested(ctx, row)
	switch {
	case err != nil:
		return nil, false, err
	case !inserted && hmac.Equal(hash, row.BodyHash):
		return nil, false, errDuplicate
	case !inserted:
		return nil, false, ErrEventConflict
	}
	event := registry.Event{ID: row.ID, DeviceNo: d.No, Type: e.Type, OccurredAt: e.OccurredAt, Data: string(e.Data)}
	if err := tx.InsertEvent(ctx, event, keepIngested); err != nil {
		return nil, false, err
	}
	if queued, err = s.queue(ctx, tx, event, now); err != nil {
		return nil, false, err
	}
	return &registry.Change{Kind: registry.ChangeEvent, DeviceID: e.DeviceID, At: now, Event: &event}, queued, nil
}

// queue writes that an event is to be classified, when its type asks for it and the
// device is entitled to it.
func (s *Ingestor) queue(ctx context.Context, tx IngestTx, e registry.Event, now time.Time) (bool, error) {
	if s.opts.Interesting == nil {
		return false, nil
	}
	model, ok := s.opts.Interesting(e.Type)
	if !ok {
		return false, nil
	}
	if ok, err := tx.Entitled(ctx, e.DeviceNo, registry.CanAISummary, now); err != nil || !ok {
		return false, err
	}
	return true, tx.QueueClassification(ctx, Classification{EventID: e.ID, DeviceNo: e.DeviceNo, ModelID: model, CreatedAt: now})
}

// open checks who sent a delivery, before anything of its body is looked at.
func (s *Ingestor) open(d *Delivery) (IngestKey, error) {
	if len(s.keys) == 0 {
		return IngestKey{}, ErrIngestNotConfigured
	}
	if len(d.Body) > MaxIngestBody {
		return IngestKey{}, ErrIngestTooLarge
	}
	key, at, err := s.verify(*d)
	if err != nil {
		return IngestKey{}, err
	}
	if apart := s.now().Sub(at); apart > ingestSkew || apart < -ingestSkew {
		return IngestKey{}, ErrStaleTimestamp
	}
	if s.opts.Limit != nil { // behind the signature: no stranger uses up what a key may do
		if wait := s.opts.Limit(key.ID); wait > 0 {
			limited := *errIngestLimited
			limited.RetryAfter = wait
			return IngestKey{}, &limited
		}
	}
	return key, nil
}

// verify finds the key that a delivery is signed with, and its timestamp. An unknown
// key costs as much time as a wrong signature.
func (s *Ingestor) verify(d Delivery) (IngestKey, time.Time, error) {
	if len(d.KeyID) != 1 || len(d.Timestamp) != 1 || len(d.Signature) == 0 {
		return IngestKey{}, time.Time{}, ErrInvalidSignature
	}
	seconds, ok := decimal(d.Timestamp[0])
	if !ok {
		return IngestKey{}, time.Time{}, ErrInvalidSignature
	}
	key, known := s.keys[d.KeyID[0]]
	want := signature(key.Secret, d.Timestamp[0], d.Method, d.Path, d.Body)
	good := false
	for _, got := range parseSignatures(d.Signature) {
		good = hmac.Equal(got, want) || good
	}
	if !known || !good {
		return IngestKey{}, time.Time{}, ErrInvalidSignature
	}
	return key, time.Unix(seconds, 0), nil
}

// decimal is a Unix time of 1 to 12 digits.
func decimal(s string) (int64, bool) {
	if len(s) == 0 || len(s) > 12 {
		return 0, false
	}
	for i := range len(s) {
		if s[i] < '0' || s[i] > '9' {
			return 0, false
		}
	}
	n, err := strconv.ParseInt(s, 10, 64)
	return n, err == nil
}

// parseSignatures are the signatures of version 1 in a header, those of exactly 32
// bytes in hex of either case; what is anything else is left out.
func parseSignatures(values []string) [][]byte {
	var all [][]byte
	for _, value := range values {
		for part := range strings.SplitSeq(value, ",") {
			if len(all) == maxSignatures {
				return all
			}
			text, ok := strings.CutPrefix(strings.TrimSpace(part), "v1=")
			if !ok || len(text) != 2*sha256.Size {
				continue
			}
			if mac, err := hex.DecodeString(text); err == nil {
				all = append(all, mac)
			}
		}
	}
	return all
}

// Run deletes what need not be known any more, until ctx ends.
func (s *Ingestor) Run(ctx context.Context) {
	tick := time.NewTicker(time.Hour)
	defer tick.Stop()
	for {
		if err := s.retain(ctx); err != nil && ctx.Err() == nil {
			s.log.Warn("old ingested events were not deleted; it will be tried again", "error", err)
		}
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
	}
}

func (s *Ingestor) retain(ctx context.Context) error {
	for ctx.Err() == nil {
		var n int
		now := s.now()
		err := s.store.IngestTx(ctx, func(tx IngestTx) (err error) {
			n, err = tx.DeleteIngested(ctx, now.Add(-s.opts.Retention), now.Add(-time.Hour), ingestBatch)
			return err
		})
		if err != nil || n < ingestBatch {
			return err
		}
	}
	return nil
}
