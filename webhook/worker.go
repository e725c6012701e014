package webhook

import (
	"context"
	"errors"
	"net/http"
	"sync"
	"time"

	"github.com/opticworks/devicecloud/registry"
)

const (
	// attemptTimeout bounds an attempt. [contracts H]
	attemptTimeout = 15 * time.Second
	// lease is how long a delivery that was taken is nobody else's: an attempt, and time
	// to write down what came of it.
	lease = 2 * attemptTimeout
	// laneWidth is how many attempts are made at one endpoint at once.
	laneWidth = 8
	// writeTimeout bounds the write of results, which is made also when the program ends.
	writeTimeout = 5 * time.Second
	// endGrace is how long attempts under way may take when the program ends.
	endGrace = 3 * time.Second

	// How many polls apart the waiting are counted, and what is old is deleted: 10 s and
	// a minute.
	countPolls, purgePolls = 20, 120
	// purgeBatch is the most rows that are deleted in one transaction, so that nobody
	// waits for it.
	purgeBatch = 500
	// How long deliveries are kept for people to look at and to replay, and how old an
	// event may become at an endpoint that is disabled.
	keepDelivered = 7 * 24 * time.Hour
	keepFailed    = 30 * 24 * time.Hour
)

// Run delivers until ctx ends, and returns when the attempts under way have ended. Each
// endpoint has a lane of its own, so that one that hangs holds up nobody else. Several
// programs may run on one database.
func (s *Service) Run(ctx context.Context) {
	w := &worker{Service: s, lanes: map[int64]struct{}{}}
	var stop context.CancelFunc
	w.attempts, stop = context.WithCancel(context.WithoutCancel(ctx))
	defer stop()
	defer w.running.Wait()
	context.AfterFunc(ctx, func() { time.AfterFunc(endGrace, stop) })
	poll, count, purge := time.NewTicker(s.opts.Poll), time.NewTicker(countPolls*s.opts.Poll), time.NewTicker(purgePolls*s.opts.Poll)
	defer poll.Stop()
	defer count.Stop()
	defer purge.Stop()
	for {
		var err error
		select {
		case <-ctx.Done():
			return
		case <-poll.C:
			err = w.dispatch(ctx)
		case <-count.C:
			err = s.count(ctx)
		case <-purge.C:
			err = s.purge(ctx)
		}
		if err != nil && ctx.Err() == nil {
			s.log.Warn("recurring work on webhooks failed; it will be tried again", "error", err)
		}
	}
}

// worker is one Run.
type worker struct {
	*Service
	attempts context.Context // ends a while after Run's
	running  sync.WaitGroup

	mu    sync.Mutex
	lanes map[int64]struct{} // endpoints that are being sent to
}

// dispatch opens a lane for each endpoint that has none and that something is due for.
func (w *worker) dispatch(ctx context.Context) error {
	var due []Endpoint
	err := w.store.View(ctx, func(tx Tx) (err error) {
		due, err = tx.DueEndpoints(ctx, w.now())
		return err
	})
	if err != nil {
		return err
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, e := range due {
		if _, open := w.lanes[e.No]; open {
			continue
		}
		w.lanes[e.No] = struct{}{}
		w.running.Go(func() {
			defer func() {
				w.mu.Lock()
				defer w.mu.Unlock()
				delete(w.lanes, e.No)
			}()
			if err := w.lane(ctx, e.ID, e.No); err != nil && ctx.Err() == nil {
				w.log.Warn("deliveries to a webhook could not be read or written; they will be tried again", "webhook_id", e.ID, "error", err)
			}
		})
	}
	return nil
}

// attempted is a delivery and what came of its attempt.
type attempted struct {
	delivery Delivery
	result   Result
}

// lane sends to one endpoint until nothing is due. It is one goroutine, and one for each
// attempt under way.
func (w *worker) lane(ctx context.Context, id string, no int64) (err error) {
	done := make(chan attempted, laneWidth)
	flying := 0
	defer func() {
		for ; flying > 0; flying-- { // of an error: what is under way is sent again after its lease
			<-done
		}
	}()
	for {
		more := false // there may be others that could fly now
		if ctx.Err() == nil && flying < laneWidth {
			e, list, rest, err := w.take(ctx, id, no, laneWidth-flying)
			if err != nil {
				return err
			}
			for _, d := range list {
				flying++
				go func() { done <- attempted{d, w.attempt(e, d)} }()
			}
			more = rest && flying < laneWidth
		}
		switch {
		case more && len(done) == 0:
			continue
		case flying == 0:
			return nil
		}
		group := []attempted{<-done}
		for len(done) > 0 {
			group = append(group, <-done)
		}
		flying -= len(group)
		if err := w.record(id, no, group); err != nil {
			return err
		}
	}
}

// take leases deliveries of an endpoint that may be called; see [DeliveryTx].
func (w *worker) take(ctx context.Context, id string, no int64, limit int) (e Endpoint, list []Delivery, more bool, err error) {
	now := w.now()
	err = w.store.InTx(ctx, func(tx Tx) (err error) {
		list, more = nil, false
		if e, err = tx.Endpoint(ctx, id); err != nil || !e.Enabled() || e.NotBefore.After(now) {
			return err
		}
		list, more, err = tx.TakeDeliveries(ctx, no, now, now.Add(lease), limit)
		return err
	})
	if errors.Is(err, ErrNotFound) {
		err = nil // it was deleted
	}
	return e, list, more, err
}

// attempt sends a delivery.
func (w *worker) attempt(e Endpoint, d Delivery) Result {
	now := w.now()
	keys, err := w.keys(e, now)
	m := Message{URL: e.URL, ID: d.ID(), Timestamp: now, Body: d.Body}
	if err == nil {
		m.Signatures, err = sign(m.ID, m.Body, keys, now)
	}
	if err != nil {
		w.log.Error("a webhook's message cannot be signed", "webhook_id", e.ID, "error", err)
		return Result{Error: "not_signed"}
	}
	ctx, cancel := context.WithTimeout(w.attempts, attemptTimeout)
	defer cancel()
	r := w.opts.Post.Post(ctx, m)
	if r.Error == "interrupted" && w.attempts.Err() == nil {
		r.Error = "connection_failed"
	}
	return r
}

// record writes what came of attempts, in one transaction with what follows for the
// endpoint.
func (w *worker) record(id string, no int64, group []attempted) error {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(w.attempts), writeTimeout)
	defer cancel()
	now := w.now()
	var disabled DisabledReason
	var tally [5]int64
	err := w.store.InTx(ctx, func(tx Tx) error {
		disabled, tally = "", [5]int64{}
		for _, a := range group {
			reason, count, err := w.recordOne(ctx, tx, id, no, a, now)
			if err != nil {
				return err
			}
			if reason != "" {
				disabled = reason
			}
			tally[count]++
		}
		return nil
	})
	if err != nil {
		return err
	}
	w.counters.Delivered.Add(tally[countDelivered])
	w.counters.Retried.Add(tally[countRetried])
	w.counters.GivenUp.Add(tally[countGivenUp])
	w.counters.Interrupted.Add(tally[countInterrupted])
	if disabled != "" {
		w.counters.Disabled.Add(1)
		w.log.Error("a webhook was disabled: nothing is kept for it any more", "webhook_id", id, "reason", string(disabled))
		w.alerts.Tell(&registry.Change{Kind: registry.ChangeWebhookDisabled, At: now, Webhook: &registry.WebhookAlert{ID: id, Reason: string(disabled)}})
	}
	return nil
}

// What recordOne counts.
const (
	countNothing = iota // the lease had run out, and the result is somebody else's
	countDelivered
	countRetried
	countGivenUp
	countInterrupted
)

// recordOne writes the result of one attempt; reason says that it disabled the endpoint.
func (w *worker) recordOne(ctx context.Context, tx Tx, id string, no int64, a attempted, now time.Time) (reason DisabledReason, count int, err error) {
	d := a.delivery
	if a.result.Error == "interrupted" {
		// The receiver may have it or not, and no attempt is lost by that.
		d.FirstAttempt, d.DueAt = d.FirstAttempt+1, now
		changed, err := tx.FinishDelivery(ctx, d)
		if err != nil || !changed {
			return "", countNothing, err
		}
		return "", countInterrupted, nil
	}
	d.settle(a.result, now)
	changed, err := tx.FinishDelivery(ctx, d)
	if err != nil || !changed {
		return "", countNothing, err
	}
	if d.Status == Delivered {
		return "", countDelivered, tx.SetWorking(ctx, no)
	}
	if count = countRetried; d.Status == Failed {
		count = countGivenUp
	}
	if err := tx.SetFailing(ctx, no, now); err != nil {
		return "", 0, err
	}
	if pause := a.result.pause(); pause > 0 {
		if err := tx.SetNotBefore(ctx, no, now.Add(pause)); err != nil {
			return "", 0, err
		}
	}
	since, why := now.Add(-failingLimit), Failing
	if a.result.Status == http.StatusGone {
		since, why = time.Time{}, Gone
	}
	changed, err = tx.DisableEndpoint(ctx, no, why, since, now)
	if err != nil || !changed {
		return "", count, err
	}
	return why, count, w.audit(ctx, tx, registry.System(), "webhook_disabled", now, map[string]any{"webhook_id": id, "reason": string(why)})
}

// count reads how many deliveries wait, for metrics.
func (s *Service) count(ctx context.Context) error {
	return s.store.View(ctx, func(tx Tx) error {
		n, oldest, err := tx.CountWaiting(ctx)
		if err != nil {
			return err
		}
		s.counters.Waiting.Store(n)
		s.counters.OldestNanos.Store(0)
		if n > 0 {
			s.counters.OldestNanos.Store(int64(max(0, s.now().Sub(oldest))))
		}
		return nil
	})
}

// purge deletes what has outlived its retention, in small transactions.
func (s *Service) purge(ctx context.Context) error {
	now := s.now()
	if err := s.store.InTx(ctx, func(tx Tx) error { return tx.DeleteOldSecrets(ctx, now) }); err != nil {
		return err
	}
	for _, remove := range []func(tx Tx) (int, error){
		func(tx Tx) (int, error) { return tx.DeleteEnded(ctx, Delivered, now.Add(-keepDelivered), purgeBatch) },
		func(tx Tx) (int, error) { return tx.DeleteEnded(ctx, Failed, now.Add(-keepFailed), purgeBatch) },
		func(tx Tx) (int, error) { return tx.DeleteCreated(ctx, now.Add(-2*keepFailed), purgeBatch) },
	} {
		for n := purgeBatch; n == purgeBatch; {
			err := s.store.InTx(ctx, func(tx Tx) (err error) {
				n, err = remove(tx)
				return err
			})
			if err != nil {
				return err
			}
		}
	}
	return nil
}
