package sqlstore_test

import (
	"context"
	"fmt"
	"strconv"
	"sync"
	"testing"
	"time"

	"github.com/opticworks/devicecloud/account"
	"github.com/opticworks/devicecloud/media"
	"github.com/opticworks/devicecloud/registry"
	"github.com/opticworks/devicecloud/sqlstore"
)

// Two programs on one database get the same event at once, many times.
func TestOneEventFromTwoPrograms(t *testing.T) {
	eachEngine(t, func(t *testing.T, s *store) {
		second := open(t, s.url, sqlstore.Options{})
		s.enrol(1)
		key := media.IngestKey{ID: "k1", Secret: []byte("lake-copper-41-moss-9Kq2vB7m")}
		nextID := registry.NewIDSource(time.Now)
		var programs []*media.Ingestor
		for _, db := range []*store{s, second} {
			programs = append(programs, media.NewIngestor(db.Ingest(), media.IngestOptions{Keys: []media.IngestKey{key}, NextID: nextID}))
		}
		const path = "/api/internal/aws/iot-event"
		ts := strconv.FormatInt(time.Now().Unix(), 10)
		body := []byte(fmt.Sprintf(`{"event_id":"e","device_id":"%s","type":"motion","occurred_at":"2026-01-15T09:59:58Z"}`, deviceID(1)))
		d := media.Delivery{Method: "POST", Path: path, Body: body, KeyID: []string{"k1"}, Timestamp: []string{ts}, Signature: []string{"v1=" + key.Sign(ts, "POST", path, body)}}
		const times = 200
		var mu sync.Mutex
		var accepted, duplicates int
		var all sync.WaitGroup
		for i := range times {
			all.Go(func() {
				// A sender repeats what was answered with 503.
				for range 20 {
					got, err := programs[i%2].Ingest(t.Context(), d)
					if registry.KindOf(err) == registry.Unavailable && err != nil {
						continue
					}
					if err != nil {
						t.Error(err)
					}
					mu.Lock()
					accepted, duplicates = accepted+got.Accepted, duplicates+got.Duplicates
					mu.Unlock()
					return
				}
				t.Error("unavailable")
			})
		}
		all.Wait()
		equal(t, "accepted and duplicates", []int{accepted, duplicates}, []int{1, times - 1})
		s.read(func(ctx context.Context, tx account.Tx) error {
			device, err := tx.Device(ctx, deviceID(1))
			if err != nil {
				return err
			}
			events, err := tx.Events(ctx, device.No, "", 0, 0)
			equal(t, "events", len(events), 1)
			if err != nil {
				return err
			}
			trail, err := tx.Audit(ctx, registry.AuditFilter{Event: "ingest_duplicate"})
			if len(trail) < 1 || len(trail) > 2 { // a minute may end in between
				t.Errorf("%d audit rows", len(trail))
			}
			return err
		})
	})
}

func TestIngestedEvents(t *testing.T) {
	eachEngine(t, func(t *testing.T, s *store) {
		no := s.enrol(1)
		ingest := func(f func(ctx context.Context, tx media.IngestTx) error) {
			t.Helper()
			if err := s.Ingest().IngestTx(t.Context(), func(tx media.IngestTx) error { return f(t.Context(), tx) }); err != nil {
				t.Fatal(err)
			}
		}
		insert := func(id int64, key, hash string, at time.Time) (inserted bool, old []byte) {
			ingest(func(ctx context.Context, tx media.IngestTx) (err error) {
				inserted, old, err = tx.InsertIngested(ctx, media.IngestedEvent{
					ID: id, DeviceNo: no, SenderID: "", Type: "motion", OccurredAt: t0, ReceivedAt: at, DedupKey: []byte(key), BodyHash: []byte(hash), Source: "k1",
				})
				return err
			})
			return inserted, old
		}
		for i := range 5 {
			if ok, _ := insert(int64(i+1), fmt.Sprint("key", i), "hash", after(i)); !ok {
				t.Error("not inserted")
			}
		}
		ok, old := insert(9, "key3", "other", after(9))
		equal(t, "again", []any{ok, string(old)}, []any{false, "hash"})

		ingest(func(ctx context.Context, tx media.IngestTx) error {
			for i, want := range []bool{true, false, true} {
				first, err := tx.MarkIngestAudit(ctx, "k1", "reason", int64(29_000_000+i/2))
				equal(t, "first", []any{first, err}, []any{want, nil})
			}
			return nil
		})
		// In small batches, the oldest first.
		for _, want := range []int{2, 1, 0} {
			ingest(func(ctx context.Context, tx media.IngestTx) error {
				n, err := tx.DeleteIngested(ctx, after(3), time.Unix(0, 0), 2)
				equal(t, "deleted", []any{n, err}, []any{want, nil})
				return nil
			})
		}
		ingest(func(ctx context.Context, tx media.IngestTx) error {
			n, err := tx.DeleteIngested(ctx, time.Unix(0, 0), time.Unix(29_000_001*60, 0), 500)
			equal(t, "marks", []any{n, err}, []any{1, nil})
			return nil
		})
		if ok, _ := insert(10, "key1", "hash", after(10)); !ok {
			t.Error("what is forgotten is new")
		}
		s.write(func(ctx context.Context, tx account.Tx) error { return tx.DeleteDevice(ctx, no) })
	})
}

func TestClassifications(t *testing.T) {
	eachEngine(t, func(t *testing.T, s *store) {
		no, other := s.enrol(1), s.enrol(2)
		in := func(f func(ctx context.Context, tx media.ClassifyTx) error) {
			t.Helper()
			if err := s.Classifications().ClassifyTx(t.Context(), func(tx media.ClassifyTx) error { return f(t.Context(), tx) }); err != nil {
				t.Fatal(err)
			}
		}
		in(func(ctx context.Context, tx media.ClassifyTx) error {
			for id := range int64(4) {
				if err := tx.InsertEvent(ctx, registry.Event{ID: id + 1, DeviceNo: no, Type: "motion", OccurredAt: t0}, 10); err != nil {
					return err
				}
			}
			return nil
		})
		c := media.Classification{EventID: 1, ModelID: "m", DeviceNo: no}
		claim := func(by int64, now, until int) (claimed bool) {
			in(func(ctx context.Context, tx media.ClassifyTx) (err error) {
				mine := c
				mine.Claim = by
				claimed, err = tx.ClaimClassification(ctx, mine, after(now), after(until))
				return err
			})
			return claimed
		}
		finish := func(by int64) (changed bool) {
			in(func(ctx context.Context, tx media.ClassifyTx) (err error) {
				mine := c
				mine.Claim, mine.Label, mine.Thousandths, mine.Summary, mine.ClassifiedAt = by, media.LabelPerson, 870, "A person.", after(9)
				changed, err = tx.FinishClassification(ctx, mine)
				return err
			})
			return changed
		}
		release := func(by int64, again time.Time) {
			in(func(ctx context.Context, tx media.ClassifyTx) error {
				mine := c
				mine.Claim = by
				return tx.ReleaseClassification(ctx, mine, "upstream_unavailable", again)
			})
		}
		equal(t, "claims", []bool{claim(11, 0, 30), claim(12, 1, 31), claim(13, 30, 60)}, []bool{true, false, true}) // the third after the lapse
		equal(t, "the first one is late", finish(11), false)
		release(11, time.Time{})
		equal(t, "still claimed", claim(14, 31, 61), false)
		release(13, after(40))
		equal(t, "released", claim(15, 32, 62), true)
		release(15, time.Time{})
		equal(t, "failed", claim(16, 33, 63), true)
		equal(t, "finished", []bool{finish(16), finish(16), claim(17, 100, 130)}, []bool{true, false, false})
		in(func(ctx context.Context, tx media.ClassifyTx) error {
			got, ok, err := tx.Classification(ctx, 1, "m")
			got.CreatedAt = time.Time{}
			equal(t, "done", []any{got, ok, err}, []any{media.Classification{
				EventID: 1, ModelID: "m", DeviceNo: no, DeviceID: deviceID(1), Status: media.ClassificationDone, Attempts: 4, Claim: 16,
				Label: media.LabelPerson, Thousandths: 870, Summary: "A person.", ClassifiedAt: after(9),
			}, true, nil})
			_, ok, err = tx.Classification(ctx, 1, "another")
			equal(t, "of another model", []any{ok, err}, []any{false, nil})
			return err
		})
		err := s.Ingest().IngestTx(t.Context(), func(tx media.IngestTx) error {
			for id := int64(2); id <= 4; id++ {
				if err := tx.QueueClassification(t.Context(), media.Classification{EventID: id, ModelID: "m", DeviceNo: no, CreatedAt: after(int(10 - id))}); err != nil {
					return err
				}
			}
			return nil
		})
		if err != nil {
			t.Fatal(err)
		}
		in(func(ctx context.Context, tx media.ClassifyTx) error {
			due, err := tx.DueClassifications(ctx, "m", after(7), 10)
			equal(t, "due", []any{len(due), due[0].EventID, due[1].EventID, err}, []any{2, int64(4), int64(3), nil})
			list, err := tx.Classifications(ctx, no, 1, 4)
			equal(t, "list", []any{len(list), err}, []any{1, nil})
			list, err = tx.Classifications(ctx, other, 1, 4)
			equal(t, "of another device", []any{len(list), err}, []any{0, nil})
			return err
		})
		charge := func(device, day int64, limit int) (ok bool) {
			in(func(ctx context.Context, tx media.ClassifyTx) (err error) {
				ok, err = tx.ChargeClassification(ctx, device, day, limit)
				return err
			})
			return ok
		}
		equal(t, "charged", []bool{charge(no, 5, 2), charge(no, 5, 2), charge(no, 5, 2), charge(no, 6, 2), charge(other, 5, 2), charge(other, 5, 0)}, []bool{true, true, false, true, true, false})
		in(func(ctx context.Context, tx media.ClassifyTx) error { return tx.RefundClassification(ctx, no, 5) })
		equal(t, "refunded", []bool{charge(no, 5, 2), charge(no, 5, 2)}, []bool{true, false})
		in(func(ctx context.Context, tx media.ClassifyTx) error {
			n, err := tx.DeleteClassificationDays(ctx, 6, 10)
			equal(t, "days", []any{n, err}, []any{2, nil})
			return nil
		})
		// What is kept of an event goes with it.
		s.write(func(ctx context.Context, tx account.Tx) error { return tx.DeletePersonal(ctx, no) })
		in(func(ctx context.Context, tx media.ClassifyTx) error {
			_, ok, err := tx.Classification(ctx, 1, "m")
			equal(t, "gone", []any{ok, err}, []any{false, nil})
			return nil
		})
	})
}

func TestFindEvent(t *testing.T) {
	eachEngine(t, func(t *testing.T, s *store) {
		no, other := s.enrol(1), s.enrol(2)
		err := s.Ingest().IngestTx(t.Context(), func(tx media.IngestTx) error {
			ctx := t.Context()
			if _, _, err := tx.InsertIngested(ctx, media.IngestedEvent{ID: 7, DeviceNo: no, SenderID: "evt-1", Type: "motion", OccurredAt: t0, ReceivedAt: t0, DedupKey: []byte("a"), BodyHash: []byte("b"), Source: "k1"}); err != nil {
				return err
			}
			return tx.InsertEvent(ctx, registry.Event{ID: 7, DeviceNo: no, Type: "motion", OccurredAt: t0, Data: "{}"}, 10)
		})
		if err != nil {
			t.Fatal(err)
		}
		for _, c := range []struct {
			device int64
			id     string
			want   bool
		}{{no, "7", true}, {no, "evt-1", true}, {no, "8", false}, {no, "", false}, {no, "99999999999999999999", false}, {other, "7", false}, {other, "evt-1", false}} {
			err := s.Classifications().ClassifyView(t.Context(), func(tx media.ClassifyTx) error {
				e, ok, err := tx.FindEvent(t.Context(), c.device, c.id)
				if ok != c.want || ok && e.ID != 7 {
					t.Errorf("%d %q: %v %+v", c.device, c.id, ok, e)
				}
				return err
			})
			if err != nil {
				t.Error(err)
			}
		}
	})
}
