package media

import (
	"context"
	"errors"
	"log/slog"
	"strconv"
	"sync"
	"sync/atomic"
	"time"

	"github.com/opticworks/devicecloud/registry"
)

const (
	// modelTimeout is how long a model may take. [contracts B]
	modelTimeout = 10 * time.Second
	// frameTimeout is how long it may take to get a picture out of a stream.
	frameTimeout = 10 * time.Second
	// claimLife is how long a claim holds: longer than all that is done under it, so that
	// nobody begins a second time unless whoever had it is gone.
	claimLife = 45 * time.Second
	// patience is how long a request waits for another one that is at the same event.
	patience = 25 * time.Second
	// lookAgain is how often it looks.
	lookAgain = 100 * time.Millisecond
	// maxModelCalls is how many calls may be under way from this process.
	maxModelCalls = 4
)

// The refusals of a classification. [contracts B]
var (
	ErrEventNotFound    = registry.E(registry.NotFound, "event_not_found", "The device has no such event.")
	ErrImageTooLarge    = registry.E(registry.TooLarge, "image_too_large", "The image is larger than 1 MiB.")
	ErrUnsupportedImage = registry.E(registry.Invalid, "unsupported_image", "The image is neither JPEG, PNG, GIF nor WebP.")
	ErrNoFrame          = registry.E(registry.Conflict, "no_frame", "There is no picture of this event.")
	ErrModelBusy        = &registry.Error{Kind: registry.RateLimited, Code: "RATE_LIMITED", Message: "The model has too much to do. Try again later.", RetryAfter: 10 * time.Second}
	ErrModelBadOutput   = registry.E(registry.Upstream, "model_bad_output", "The model's answer cannot be used.")
	ErrModelTimeout     = registry.E(registry.Unavailable, "model_timeout", "The model did not answer in time. Try again.")
	errQuota            = &registry.Error{Kind: registry.RateLimited, Code: "RATE_LIMITED", Message: "The device has had all its classifications of today.", Scope: scopeDay}
)

// scopeDay is the scope of the limit of a device's day.
const scopeDay = "device"

// Model looks at a picture; partner/bedrock implements it.
type Model interface {
	// See returns what the model answers to the one question that there is, as the JSON
	// that it was made to give; nobody has judged it. Errors: [ErrModelBusy],
	// [ErrModelBadOutput], [ErrModelTimeout], [ErrUnsupportedImage], [ErrDenied],
	// [ErrUnavailable].
	See(ctx context.Context, p Picture) ([]byte, error)
}

// ClassifyOptions configures a Classifier. The zero value of each field is usable.
type ClassifyOptions struct {
	Model      Model  // nil: every request is refused as feature_disabled, and nobody is called
	ModelID    string // names it in results
	DailyLimit int    // calls about one device on a day (UTC); 0: no limit
	Now        func() time.Time
	NextID     func() int64
	Logger     *slog.Logger
}

// ClassifyCounters are what classification counts; they only grow.
type ClassifyCounters struct {
	Calls, Done, Failed atomic.Int64
}

// Classifier asks a model what is to be seen in the picture of an event, once for each
// event. It is safe for concurrent use.
type Classifier struct {
	video    *Service
	store    ClassifyStore
	opts     ClassifyOptions
	log      *slog.Logger
	calls    chan struct{}
	wake     chan struct{}
	counters ClassifyCounters
}

// NewClassifier makes a Classifier. It asks the service of video who may what, and for
// the pictures that nobody uploads.
func NewClassifier(video *Service, store ClassifyStore, opts ClassifyOptions) *Classifier {
	if opts.Now == nil {
		opts.Now = time.Now
	}
	if opts.NextID == nil {
		opts.NextID = registry.NewIDSource(opts.Now)
	}
	if opts.Logger == nil {
		opts.Logger = slog.Default()
	}
	return &Classifier{
		video: video, store: store, opts: opts, log: opts.Logger,
		calls: make(chan struct{}, maxModelCalls), wake: make(chan struct{}, 1),
	}
}

// Counters are the classifier's counters, for metrics.
func (c *Classifier) Counters() *ClassifyCounters { return &c.counters }

func (c *Classifier) now() time.Time { return c.opts.Now().Truncate(time.Microsecond).UTC() }

// Classify says what is to be seen in the picture of an event, which its id names or what
// its sender calls it. brings says that the request brings a picture; else one is taken
// out of the device's stream. begin is called for who may ask, when it is not known yet:
// it reads that picture, and may refuse. Whoever asks while another is at it waits for that one's
// result: the model is asked once. Errors: those of [Service.Admit] with CanAISummary,
// [ErrEventNotFound], those of begin, [ErrNoFrame], RateLimited, and those of [Model].
func (c *Classifier) Classify(ctx context.Context, a registry.Actor, deviceID, eventID string, brings bool, begin func() (*Picture, error)) (Classification, error) {
	want := Want{Feature: Playback, Disabled: c.opts.Model == nil}
	if brings {
		want.Feature = Uploads // no stream is needed
	}
	in, err := c.video.Admit(ctx, a, deviceID, registry.CanAISummary, want)
	if err != nil {
		return Classification{}, err
	}
	job := &classifying{actor: a, deviceID: in.Device.ID, video: in.Video}
	var done Classification
	var ready bool
	err = c.store.ClassifyView(ctx, func(tx ClassifyTx) (err error) {
		var ok bool
		if job.event, ok, err = tx.FindEvent(ctx, in.Device.No, eventID); err != nil || !ok {
			return errors.Join(err, notThere(ok))
		}
		done, ready, err = tx.Classification(ctx, job.event.ID, c.opts.ModelID)
		return err
	})
	if err != nil {
		return Classification{}, err
	}
	if ready && done.Status == ClassificationDone {
		return done, nil
	}
	if job.picture, err = begin(); err != nil {
		return Classification{}, err
	}
	// Whatever becomes of the request, what was paid for is kept.
	long, cancel := context.WithTimeout(context.WithoutCancel(ctx), patience)
	defer cancel()
	done, ready, err = c.claim(ctx, long, job)
	if err != nil || ready {
		return done, err
	}
	done, err = c.run(long, job)
	if err != nil {
		c.release(long, job, err, time.Time{})
		return Classification{}, err
	}
	return done, nil
}

func notThere(ok bool) error {
	if !ok {
		return ErrEventNotFound
	}
	return nil
}

// classifying is one event that this process looks at.
type classifying struct {
	actor    registry.Actor
	deviceID string
	video    Video
	event    registry.Event
	picture  *Picture // nil: out of the stream
	claim    int64
	attempts int
}

// row is the classification as its claimant writes it.
func (c *Classifier) row(job *classifying) Classification {
	return Classification{EventID: job.event.ID, ModelID: c.opts.ModelID, DeviceNo: job.event.DeviceNo, DeviceID: job.deviceID, Claim: job.claim}
}

// claim takes the right to ask the model, or waits for the result of whoever has it:
// then done is true. The asker ends the wait when they go.
func (c *Classifier) claim(asker, ctx context.Context, job *classifying) (found Classification, done bool, err error) {
	job.claim = c.opts.NextID()
	tick := time.NewTicker(lookAgain)
	defer tick.Stop()
	for {
		now, claimed := c.now(), false
		err = c.store.ClassifyTx(ctx, func(tx ClassifyTx) (err error) {
			if claimed, err = tx.ClaimClassification(ctx, c.row(job), now, now.Add(claimLife)); err != nil || claimed {
				return err
			}
			found, done, err = tx.Classification(ctx, job.event.ID, c.opts.ModelID)
			return err
		})
		if err != nil || claimed {
			return Classification{}, false, err
		}
		if done && found.Status == ClassificationDone {
			return found, true, nil
		}
		for wait := true; wait; { // reading costs less than trying to write
			select {
			case <-asker.Done():
				return Classification{}, false, registry.ErrUnavailable.With(asker.Err())
			case <-ctx.Done():
				return Classification{}, false, ErrModelTimeout.With(ctx.Err())
			case <-tick.C:
			}
			err := c.store.ClassifyView(ctx, func(tx ClassifyTx) error {
				row, ok, err := tx.Classification(ctx, job.event.ID, c.opts.ModelID)
				wait = ok && row.Status == ClassificationRunning && row.DueAt.After(c.now())
				return err
			})
			if err != nil {
				return Classification{}, false, err
			}
		}
	}
}

// run asks the model about an event whose claim is ours, and keeps the result.
func (c *Classifier) run(ctx context.Context, job *classifying) (Classification, error) {
	picture, err := c.frame(ctx, job)
	if err != nil {
		return Classification{}, err
	}
	day := c.now().Unix() / 86400
	if err := c.charge(ctx, job.event.DeviceNo, day); err != nil {
		return Classification{}, err
	}
	answer, err := c.see(ctx, picture)
	if err != nil {
		if free(err) {
			err = errors.Join(err, c.store.ClassifyTx(ctx, func(tx ClassifyTx) error { return tx.RefundClassification(ctx, job.event.DeviceNo, day) }))
		}
		return Classification{}, err
	}
	verdict, err := judge(answer)
	if err != nil {
		return Classification{}, err
	}
	row := c.row(job)
	row.Status, row.Label, row.Thousandths, row.Summary, row.ClassifiedAt = ClassificationDone, verdict.label, verdict.thousandths, verdict.summary, c.now()
	err = c.store.ClassifyTx(ctx, func(tx ClassifyTx) error {
		if _, err := tx.FinishClassification(ctx, row); err != nil {
			return err
		}
		return c.audit(ctx, tx, job, "event_classified", map[string]any{
			"event_id": strconv.FormatInt(row.EventID, 10), "model_id": row.ModelID, "label": string(row.Label), "confidence": float64(row.Thousandths) / 1000, "image": picture.Source,
		})
	})
	if err != nil {
		return Classification{}, err
	}
	c.counters.Done.Add(1)
	return row, nil
}

// frame is the picture of an event: the one that was brought, or one of the stream.
func (c *Classifier) frame(ctx context.Context, job *classifying) (Picture, error) {
	if job.picture != nil {
		return *job.picture, nil
	}
	ctx, cancel := context.WithTimeout(ctx, frameTimeout)
	defer cancel()
	image, err := c.video.opts.Cloud.Image(ctx, Holder{UserID: job.actor.ID, DeviceID: job.deviceID}, job.video, job.event.OccurredAt)
	switch {
	case errors.Is(err, ErrNoMedia), errors.Is(err, ErrNoRetention), errors.Is(err, ErrUnsupported), errors.Is(err, ErrRange):
		return Picture{}, ErrNoFrame.With(err)
	case err != nil:
		return Picture{}, err
	}
	p, err := NewPicture(image)
	if err != nil {
		return Picture{}, ErrNoFrame.With(err)
	}
	p.Source = "stream"
	return p, nil
}

// charge counts a call on the device's day.
func (c *Classifier) charge(ctx context.Context, deviceNo, day int64) error {
	if c.opts.DailyLimit <= 0 {
		return nil
	}
	charged := false
	err := c.store.ClassifyTx(ctx, func(tx ClassifyTx) (err error) {
		charged, err = tx.ChargeClassification(ctx, deviceNo, day, c.opts.DailyLimit)
		return err
	})
	if err == nil && !charged {
		over := *errQuota
		over.RetryAfter = time.Unix((day+1)*86400, 0).Sub(c.now())
		err = &over
	}
	return err
}

// see calls the model, within its time and behind those who were here before.
func (c *Classifier) see(ctx context.Context, p Picture) ([]byte, error) {
	wait, cancel := context.WithTimeout(ctx, modelTimeout)
	defer cancel()
	select {
	case c.calls <- struct{}{}:
		defer func() { <-c.calls }()
	case <-wait.Done():
		return nil, ErrModelBusy
	}
	c.counters.Calls.Add(1)
	ctx, stop := context.WithTimeout(ctx, modelTimeout)
	defer stop()
	answer, err := c.opts.Model.See(ctx, p)
	if err != nil && ctx.Err() != nil {
		return nil, ErrModelTimeout.With(err)
	}
	return answer, err
}

// free reports whether a failed call costs nothing: the model was not asked, or has said
// that it will not.
func free(err error) bool {
	return errors.Is(err, ErrModelBusy) || errors.Is(err, ErrUnavailable) || errors.Is(err, ErrDenied) || errors.Is(err, ErrUnsupportedImage) || errors.Is(err, registry.ErrFeatureDisabled)
}

// release gives up a claim after a failure: until a time, or for good.
func (c *Classifier) release(ctx context.Context, job *classifying, cause error, again time.Time) {
	c.counters.Failed.Add(1)
	code := "internal_error"
	if own := (*registry.Error)(nil); errors.As(cause, &own) {
		code = own.Code
	}
	level := slog.LevelInfo
	if errors.Is(cause, ErrDenied) || errors.Is(cause, ErrModelBadOutput) || code == "internal_error" {
		level = slog.LevelError // for the operator to mend
	}
	c.log.Log(ctx, level, "an event was not classified", "device_id", job.deviceID, "event_id", job.event.ID, "error", cause)
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), registry.CommitTimeout)
	defer cancel()
	err := c.store.ClassifyTx(ctx, func(tx ClassifyTx) error {
		if err := tx.ReleaseClassification(ctx, c.row(job), code, again); err != nil {
			return err
		}
		if !again.IsZero() {
			return nil // it is tried again
		}
		return c.audit(ctx, tx, job, "event_not_classified", map[string]any{
			"event_id": strconv.FormatInt(job.event.ID, 10), "model_id": c.opts.ModelID, "reason": code,
		})
	})
	if err != nil { // it lapses
		c.log.WarnContext(ctx, "a claim of a classification was not given up", "event_id", job.event.ID, "error", err)
	}
}

// audit writes an audit row. It names no picture and nothing that the model has said
// but the label.
func (c *Classifier) audit(ctx context.Context, tx ClassifyTx, job *classifying, event string, data map[string]any) error {
	a := job.actor
	return tx.InsertAudit(ctx, registry.AuditEvent{
		ID: c.opts.NextID(), Domain: "media", DeviceID: job.deviceID, Event: event, Data: data, Actor: a.String(),
		RequestID: a.RequestID, IP: a.IP, UserAgent: a.UserAgent, Client: a.ClientType, At: c.now(),
	})
}

// Results are the classifications of a device's events, by event: of those from one id to
// another, for who may have the service; nil for who may not, without an error.
func (c *Classifier) Results(ctx context.Context, a registry.Actor, deviceID string, from, to int64) (map[int64]Classification, error) {
	if a.Kind != registry.ActorUser {
		return nil, nil
	}
	all := map[int64]Classification{}
	err := c.store.ClassifyView(ctx, func(tx ClassifyTx) error {
		d, err := c.video.devices.AccessTx(ctx, tx, a, deviceID, registry.CanAISummary)
		if err != nil {
			return err
		}
		list, err := tx.Classifications(ctx, d.No, from, to)
		for _, row := range list {
			all[row.EventID] = row // of several models the latest
		}
		return err
	})
	if kind := registry.KindOf(err); err != nil && (kind == registry.Forbidden || kind == registry.NotFound) {
		return nil, nil
	}
	return all, err
}

const (
	// classifyWorkers is how many events of the queue this process looks at at once.
	classifyWorkers = 2
	// classifyAttempts is how often an event of the queue is tried.
	classifyAttempts = 5
	// classifyPoll is how often the queue is looked at when nobody says that there is
	// something new: for retries, and for what another process has left.
	classifyPoll = 10 * time.Second
	// classifyDelay is how long after a first failure an event is tried again; it
	// doubles. A picture comes into a stream some seconds after its time.
	classifyDelay = 15 * time.Second
)

// Interesting reports whether events of a type are classified by themselves, and by
// which model. [contracts B: run by the event pipeline]
func (c *Classifier) Interesting(eventType string) (modelID string, ok bool) {
	return c.opts.ModelID, eventType == "motion" && c.opts.Model != nil && c.video.offers(Playback)
}

// Wake says that there is something new in the queue. It does not block.
func (c *Classifier) Wake() {
	select {
	case c.wake <- struct{}{}:
	default:
	}
}

// Run works off the queue and deletes old counts, until ctx ends; then it waits for
// what is under way.
func (c *Classifier) Run(ctx context.Context) {
	poll, clean := time.NewTicker(classifyPoll), time.NewTicker(time.Hour)
	defer poll.Stop()
	defer clean.Stop()
	for {
		if c.opts.Model != nil {
			if err := c.work(ctx); err != nil && ctx.Err() == nil {
				c.log.Warn("events that wait were not classified; it will be tried again", "error", err)
			}
		}
		select {
		case <-ctx.Done():
			return
		case <-c.wake:
		case <-poll.C:
		case <-clean.C:
			today := c.now().Unix() / 86400
			err := c.store.ClassifyTx(ctx, func(tx ClassifyTx) error {
				_, err := tx.DeleteClassificationDays(ctx, today-1, ingestBatch)
				return err
			})
			if err != nil && ctx.Err() == nil {
				c.log.Warn("old counts of classifications were not deleted", "error", err)
			}
		}
	}
}

// work looks at everything that is due.
func (c *Classifier) work(ctx context.Context) error {
	for ctx.Err() == nil {
		var due []Classification
		err := c.store.ClassifyView(ctx, func(tx ClassifyTx) (err error) {
			due, err = tx.DueClassifications(ctx, c.opts.ModelID, c.now(), 10*classifyWorkers)
			return err
		})
		if err != nil || len(due) == 0 {
			return err
		}
		var all sync.WaitGroup
		room, failed := make(chan struct{}, classifyWorkers), make([]error, len(due))
		for i, row := range due {
			room <- struct{}{}
			all.Go(func() {
				defer func() { <-room }()
				failed[i] = c.attend(ctx, row)
			})
		}
		all.Wait()
		if err := errors.Join(failed...); err != nil {
			return err // at the next poll, and not at once
		}
	}
	return ctx.Err()
}

// attend tries one event of the queue; an error is that nothing could be written. A
// claim that is left lapses.
func (c *Classifier) attend(ctx context.Context, row Classification) error {
	if ctx.Err() != nil {
		return ctx.Err()
	}
	ctx = context.WithoutCancel(ctx) // what is paid for is kept
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	job := &classifying{actor: registry.System(), deviceID: row.DeviceID, claim: c.opts.NextID(), attempts: row.Attempts + 1}
	now, claimed, entitled := c.now(), false, false
	err := c.store.ClassifyTx(ctx, func(tx ClassifyTx) (err error) {
		job.event.ID, job.event.DeviceNo = row.EventID, row.DeviceNo
		if claimed, err = tx.ClaimClassification(ctx, c.row(job), now, now.Add(claimLife)); err != nil || !claimed {
			return err
		}
		if job.event, _, err = tx.FindEvent(ctx, row.DeviceNo, strconv.FormatInt(row.EventID, 10)); err != nil {
			return err
		}
		entitled, err = tx.Entitled(ctx, row.DeviceNo, registry.CanAISummary, now)
		return err
	})
	if err == nil && claimed {
		err = c.video.store.View(ctx, func(tx Tx) (err error) {
			job.video, err = tx.Video(ctx, row.DeviceNo)
			return err
		})
	}
	if err != nil || !claimed {
		return err
	}
	switch {
	case !entitled:
		err = registry.ErrEntitlementRequired
	case !job.video.has(Playback):
		err = ErrNotProvisioned
	default:
		_, err = c.run(ctx, job)
	}
	if err != nil {
		c.release(ctx, job, err, c.again(job, err))
	}
	return nil
}

// again is when an event of the queue is to be tried again; zero: never.
func (c *Classifier) again(job *classifying, err error) time.Time {
	if job.attempts >= classifyAttempts {
		return time.Time{}
	}
	if own := (*registry.Error)(nil); errors.As(err, &own) && own.Scope == scopeDay {
		return time.Time{}
	}
	switch registry.KindOf(err) {
	case registry.RateLimited, registry.Unavailable:
	default:
		if !errors.Is(err, ErrNoFrame) {
			return time.Time{}
		}
	}
	return c.now().Add(classifyDelay << (job.attempts - 1))
}
