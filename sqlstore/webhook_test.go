package sqlstore_test

import (
	"context"
	"fmt"
	"sync"
	"testing"
	"time"

	"github.com/opticworks/devicecloud/registry"
	"github.com/opticworks/devicecloud/sqlstore"
	"github.com/opticworks/devicecloud/webhook"
)

// hooks runs f in a transaction of webhooks that must commit.
func (s *store) hooks(f func(ctx context.Context, tx webhook.Tx) error) {
	s.t.Helper()
	ctx := s.t.Context()
	if err := s.Webhooks().InTx(ctx, func(tx webhook.Tx) error { return f(ctx, tx) }); err != nil {
		s.t.Fatal(err)
	}
}

// endpoint writes an endpoint that wants to hear when devices come and go.
func (s *store) endpoint(id string) (e webhook.Endpoint) {
	s.t.Helper()
	e = webhook.Endpoint{
		ID: id, URL: "https://example.com/" + id, Events: []string{registry.EventOnline, registry.EventOffline}, Secret: []byte{1, 2, 0xff},
		CreatedBy: "admin:1", CreatedAt: t0, UpdatedAt: t0,
	}
	s.hooks(func(ctx context.Context, tx webhook.Tx) (err error) {
		e.No, err = tx.InsertEndpoint(ctx, e, 50)
		return err
	})
	return e
}

// happen writes events 1, 2, 3... about the devices, a second apart.
func (s *store) happen(devices ...string) {
	s.t.Helper()
	ctx := s.t.Context()
	err := s.Registry().InTx(ctx, func(tx registry.Tx) error {
		for i, d := range devices {
			e := registry.OutboxEvent{ID: int64(i + 1), Type: registry.EventOnline, DeviceID: d, At: after(i)}
			if err := registry.Emit(ctx, tx, e); err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil {
		s.t.Fatal(err)
	}
}

// takes takes what is due and names it by event and attempt.
func (s *store) takes(no int64, now, until time.Time, limit int) (list []webhook.Delivery, names []string) {
	s.t.Helper()
	s.hooks(func(ctx context.Context, tx webhook.Tx) (err error) {
		list, _, err = tx.TakeDeliveries(ctx, no, now, until, limit)
		return err
	})
	for _, d := range list {
		names = append(names, fmt.Sprintf("%d#%d", d.EventID, d.Attempt))
	}
	return list, names
}

// finish writes the end of a delivery.
func (s *store) finish(d webhook.Delivery, status webhook.Status, at time.Time) (changed bool) {
	s.t.Helper()
	d.Status, d.TriedAt, d.Answer = status, at, 200
	if status != webhook.Waiting {
		d.FinishedAt = at
	}
	s.hooks(func(ctx context.Context, tx webhook.Tx) (err error) {
		changed, err = tx.FinishDelivery(ctx, d)
		return err
	})
	return changed
}

func TestEndpoints(t *testing.T) {
	eachEngine(t, func(t *testing.T, s *store) {
		e := s.endpoint("wh1")
		read := func() (got webhook.Endpoint) {
			t.Helper()
			s.hooks(func(ctx context.Context, tx webhook.Tx) (err error) { got, err = tx.Endpoint(ctx, "wh1"); return err })
			return got
		}
		equal(t, "endpoint", read(), e)
		s.endpoint("wh2")
		err := s.Webhooks().InTx(t.Context(), func(tx webhook.Tx) error {
			_, err := tx.InsertEndpoint(t.Context(), webhook.Endpoint{ID: "wh3", URL: "x", Secret: []byte{1}, CreatedBy: "a", CreatedAt: t0}, 2)
			return err
		})
		is(t, "one too many", err, webhook.ErrLimit)
		s.hooks(func(ctx context.Context, tx webhook.Tx) error {
			list, err := tx.Endpoints(ctx, "wh1", 10)
			if err == nil && (len(list) != 1 || list[0].ID != "wh2") {
				t.Errorf("listed %v", list)
			}
			_, err2 := tx.Endpoint(ctx, "absent")
			is(t, "absent", err2, webhook.ErrNotFound)
			return err
		})

		s.hooks(func(ctx context.Context, tx webhook.Tx) error {
			return tx.RotateSecret(ctx, e.No, []byte{9}, after(100), after(1))
		})
		e.OldSecret, e.OldSecretUntil, e.Secret, e.UpdatedAt = e.Secret, after(100), []byte{9}, after(1)
		equal(t, "rotated", read(), e)
		s.hooks(func(ctx context.Context, tx webhook.Tx) error { return tx.DeleteOldSecrets(ctx, after(99)) })
		equal(t, "rotated a while ago", read(), e)
		s.hooks(func(ctx context.Context, tx webhook.Tx) error { return tx.DeleteOldSecrets(ctx, after(100)) })
		e.OldSecret, e.OldSecretUntil = nil, time.Time{}
		equal(t, "rotated long ago", read(), e)

		s.hooks(func(ctx context.Context, tx webhook.Tx) error {
			for _, at := range []int{5, 6} {
				if err := tx.SetFailing(ctx, e.No, after(at)); err != nil {
					return err
				}
			}
			for _, at := range []int{20, 10} {
				if err := tx.SetNotBefore(ctx, e.No, after(at)); err != nil {
					return err
				}
			}
			changed, err := tx.DisableEndpoint(ctx, e.No, webhook.Failing, after(4), after(7))
			equal(t, "disabled, which does not fail for long enough", changed, false)
			return err
		})
		e.FailingSince, e.NotBefore = after(5), after(20)
		equal(t, "failing", read(), e)
		s.hooks(func(ctx context.Context, tx webhook.Tx) error {
			for _, want := range []bool{true, false} {
				changed, err := tx.DisableEndpoint(ctx, e.No, webhook.Failing, after(5), after(8))
				if err != nil {
					return err
				}
				equal(t, "disabled", changed, want)
			}
			return nil
		})
		e.DisabledAt, e.DisabledReason, e.UpdatedAt = after(8), webhook.Failing, after(8)
		equal(t, "disabled", read(), e)

		e.URL, e.Description, e.Events, e.DisabledAt, e.DisabledReason, e.UpdatedAt = "https://example.org", "ours", []string{registry.EventShared}, time.Time{}, "", after(9)
		s.hooks(func(ctx context.Context, tx webhook.Tx) error {
			for _, c := range []struct {
				was  time.Time
				want bool
			}{{after(1), false}, {after(8), true}} { // as it was before it was disabled, and as it is
				changed, err := tx.UpdateEndpoint(ctx, e, c.was)
				if err != nil {
					return err
				}
				equal(t, "changed", changed, c.want)
			}
			return nil
		})
		e.FailingSince, e.NotBefore = time.Time{}, time.Time{}
		equal(t, "enabled again", read(), e)
		s.hooks(func(ctx context.Context, tx webhook.Tx) error {
			return tx.SetFailing(ctx, e.No, after(30))
		})
		s.hooks(func(ctx context.Context, tx webhook.Tx) error { return tx.SetWorking(ctx, e.No) })
		equal(t, "working", read(), e)
		s.hooks(func(ctx context.Context, tx webhook.Tx) error {
			for _, want := range []bool{true, false} {
				changed, err := tx.DeleteEndpoint(ctx, e.No)
				if err != nil {
					return err
				}
				equal(t, "deleted", changed, want)
			}
			return nil
		})
	})
}

func TestDeliveriesAreTakenInOrderForEachDevice(t *testing.T) {
	eachEngine(t, func(t *testing.T, s *store) {
		e := s.endpoint("wh1")
		s.happen("a", "a", "b", "", "a", "")
		now, until := after(10), after(40)
		none, _ := s.takes(e.No, after(-1), until, 8)
		equal(t, "before they are due", len(none), 0)
		first, names := s.takes(e.No, now, until, 8)
		equal(t, "the first of each device, and what is about none", names, []string{"1#1", "3#1", "4#1", "6#1"})
		_, names = s.takes(e.No, now, until, 8)
		equal(t, "while they are being sent", names, nil)

		equal(t, "the end of the first", s.finish(first[0], webhook.Delivered, after(11)), true)
		equal(t, "the end of the first, again", s.finish(first[0], webhook.Failed, after(11)), false)
		second, names := s.takes(e.No, after(11), after(41), 8)
		equal(t, "the next one", names, []string{"2#1"})

		retry := second[0]
		retry.DueAt, retry.Error = after(60), "refused"
		equal(t, "a failure", s.finish(retry, webhook.Waiting, after(12)), true)
		_, names = s.takes(e.No, after(42), after(72), 8)
		equal(t, "when the leases of others are over", names, []string{"3#2", "4#2", "6#2"})
		equal(t, "a result after the lease", s.finish(first[1], webhook.Delivered, after(43)), false)
		again, names := s.takes(e.No, after(60), after(90), 8)
		equal(t, "the failed one when it is due", names, []string{"2#2"})
		equal(t, "given up", s.finish(again[0], webhook.Failed, after(61)), true)
		_, names = s.takes(e.No, after(61), after(91), 8)
		equal(t, "the one behind it", names, []string{"5#1"})

		var list []webhook.Delivery
		s.hooks(func(ctx context.Context, tx webhook.Tx) (err error) {
			list, err = tx.Deliveries(ctx, e.No, webhook.Failed, 0, 10)
			return err
		})
		equal(t, "failed", len(list), 1)
		want := again[0]
		want.Status, want.TriedAt, want.FinishedAt, want.Answer, want.Error, want.DueAt = webhook.Failed, after(61), after(61), 200, "refused", after(90)
		equal(t, "the failed one", list[0], want)
		s.hooks(func(ctx context.Context, tx webhook.Tx) error {
			for _, want := range []bool{true, false} {
				changed, err := tx.ReplayDelivery(ctx, e.No, 2, after(62))
				if err != nil {
					return err
				}
				equal(t, "replayed", changed, want)
			}
			return nil
		})
		replay, names := s.takes(e.No, after(62), after(92), 8)
		equal(t, "replayed", names, []string{"2#3"})
		equal(t, "attempts before", replay[0].FirstAttempt, 2)
		equal(t, "the replay's end", s.finish(replay[0], webhook.Delivered, after(63)), true)
		_, names = s.takes(e.No, after(63), after(93), 8)
		equal(t, "what is being sent already is not called forward", names, nil)
	})
}

func TestALongQueueBehindOneDeviceHoldsUpNobody(t *testing.T) {
	eachEngine(t, func(t *testing.T, s *store) {
		e := s.endpoint("wh1")
		devices := make([]string, 300)
		for i := range devices {
			devices[i] = "a"
		}
		s.happen(append(devices, "b")...)
		var taken []string
		rounds := 0
		for more := true; more; rounds++ {
			s.hooks(func(ctx context.Context, tx webhook.Tx) (err error) {
				var list []webhook.Delivery
				list, more, err = tx.TakeDeliveries(ctx, e.No, after(1000), after(1030), 8)
				for _, d := range list {
					taken = append(taken, fmt.Sprintf("%d#%d", d.EventID, d.Attempt))
				}
				return err
			})
		}
		equal(t, "taken", taken, []string{"1#1", "301#1"})
		equal(t, "transactions, none of them long", rounds, 2)
		s.hooks(func(ctx context.Context, tx webhook.Tx) error {
			due, err := tx.DueEndpoints(ctx, after(1001))
			equal(t, "due endpoints", len(due), 0)
			return err
		})
	})
}

func TestTwoProgramsNeverTakeTheSameAttempt(t *testing.T) {
	eachEngine(t, func(t *testing.T, s *store) {
		e := s.endpoint("wh1")
		devices := make([]string, 120)
		for i := range devices {
			devices[i] = fmt.Sprint("d", i%60)
		}
		s.happen(devices...)
		other := open(t, s.url, sqlstore.Options{})
		taken := make(chan string, 1000)
		var wg sync.WaitGroup
		for i := range 4 {
			db := s.DB
			if i%2 == 1 {
				db = other.DB
			}
			wg.Go(func() {
				for range 8 {
					err := db.Webhooks().InTx(t.Context(), func(tx webhook.Tx) error {
						list, _, err := tx.TakeDeliveries(t.Context(), e.No, after(1000), after(1030), 8)
						for _, d := range list {
							taken <- fmt.Sprint(d.EventID, "#", d.Attempt)
						}
						return err
					})
					if err != nil {
						t.Error(err)
					}
				}
			})
		}
		wg.Wait()
		close(taken)
		seen := map[string]bool{}
		for name := range taken {
			if seen[name] {
				t.Errorf("%s was taken twice", name)
			}
			seen[name] = true
		}
		equal(t, "taken", len(seen), 60)
	})
}

func TestDeliveriesAreForgotten(t *testing.T) {
	eachEngine(t, func(t *testing.T, s *store) {
		e := s.endpoint("wh1")
		s.happen("a", "b", "c", "d")
		list, _ := s.takes(e.No, after(10), after(40), 8)
		s.finish(list[0], webhook.Delivered, after(11))
		s.finish(list[1], webhook.Failed, after(12))
		count := func(what string, want int64, oldest time.Time) {
			t.Helper()
			s.hooks(func(ctx context.Context, tx webhook.Tx) error {
				n, at, err := tx.CountWaiting(ctx)
				equal(t, what, n, want)
				equal(t, what+", oldest", at, oldest)
				return err
			})
		}
		count("waiting", 2, after(2))
		deleted := func(what string, want int, remove func(ctx context.Context, tx webhook.Tx) (int, error)) {
			t.Helper()
			s.hooks(func(ctx context.Context, tx webhook.Tx) error {
				n, err := remove(ctx, tx)
				equal(t, what, n, want)
				return err
			})
		}
		deleted("delivered later", 0, func(ctx context.Context, tx webhook.Tx) (int, error) {
			return tx.DeleteEnded(ctx, webhook.Delivered, after(11), 10)
		})
		deleted("delivered before", 1, func(ctx context.Context, tx webhook.Tx) (int, error) {
			return tx.DeleteEnded(ctx, webhook.Delivered, after(13), 10)
		})
		deleted("failed before", 1, func(ctx context.Context, tx webhook.Tx) (int, error) {
			return tx.DeleteEnded(ctx, webhook.Failed, after(13), 10)
		})
		deleted("old, one at a time", 1, func(ctx context.Context, tx webhook.Tx) (int, error) { return tx.DeleteCreated(ctx, after(9), 1) })
		count("waiting", 1, after(3))
		deleted("of the endpoint", 1, func(ctx context.Context, tx webhook.Tx) (int, error) { return tx.DeleteDeliveries(ctx, e.No, 10) })
		count("waiting", 0, time.Time{})
	})
}
