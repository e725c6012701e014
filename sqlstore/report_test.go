package sqlstore_test

import (
	"context"
	"fmt"
	"testing"

	"github.com/opticworks/devicecloud/account"
	"github.com/opticworks/devicecloud/registry"
)

func TestEvents(t *testing.T) {
	eachEngine(t, func(t *testing.T, s *store) {
		no, other := s.enrol(1), s.enrol(2)
		insert := func(id, deviceNo int64, typ string, keep int) {
			s.write(func(ctx context.Context, tx account.Tx) error {
				return tx.InsertEvent(ctx, registry.Event{ID: id, DeviceNo: deviceNo, Type: typ, OccurredAt: after(int(id)), Data: fmt.Sprintf(`{"id":%d}`, id)}, keep)
			})
		}
		list := func(typ string, before int64, limit int) (ids []int64) {
			s.read(func(ctx context.Context, tx account.Tx) error {
				events, err := tx.Events(ctx, no, typ, before, limit)
				for _, e := range events {
					ids = append(ids, e.ID)
				}
				return err
			})
			return ids
		}
		insert(1, no, "alert", 10)
		insert(2, other, "alert", 10)
		for id := int64(3); id <= 8; id++ {
			insert(id, no, "rejected", 4)
		}
		insert(9, no, "alert", 10)
		t.Run("keep only the newest of a type", func(t *testing.T) { equal(t, "rejected", list("rejected", 0, 0), []int64{8, 7, 6, 5}) })
		t.Run("leave other types and devices alone", func(t *testing.T) {
			equal(t, "alert", list("alert", 0, 0), []int64{9, 1})
			s.read(func(ctx context.Context, tx account.Tx) error {
				events, err := tx.Events(ctx, other, "", 0, 0)
				equal(t, "of the other", events, []registry.Event{{ID: 2, DeviceNo: other, Type: "alert", OccurredAt: after(2), Data: `{"id":2}`}})
				return err
			})
		})
		t.Run("are listed newest first, page by page", func(t *testing.T) {
			equal(t, "first page", list("", 0, 3), []int64{9, 8, 7})
			equal(t, "second page", list("", 7, 3), []int64{6, 5, 1})
			equal(t, "second page of a type", list("rejected", 7, 9), []int64{6, 5})
		})
	})
}

func TestDeleteHistory(t *testing.T) {
	eachEngine(t, func(t *testing.T, s *store) {
		no := s.enrol(1)
		for i := range 5 { // four connections ended, at 1, 2, 3 and 4
			s.connect(no, int64(100+i), after(i))
		}
		s.write(func(ctx context.Context, tx account.Tx) error {
			for i := range int64(4) {
				if err := tx.InsertEvent(ctx, registry.Event{ID: i + 1, DeviceNo: no, Type: "x", OccurredAt: after(int(i) + 1)}, 10); err != nil {
					return err
				}
			}
			return nil
		})
		del := func(limit int) (n int) {
			s.write(func(ctx context.Context, tx account.Tx) (err error) {
				n, err = tx.DeleteHistory(ctx, after(4), limit)
				return err
			})
			return n
		}
		t.Run("deletes what is old, so many at a time", func(t *testing.T) {
			equal(t, "deleted", []int{del(2), del(2), del(100), del(100)}, []int{2, 2, 2, 0})
		})
		t.Run("keeps what is not old", func(t *testing.T) {
			equal(t, "connections", len(s.connections(no)), 1)
			s.read(func(ctx context.Context, tx account.Tx) error {
				events, err := tx.Events(ctx, no, "", 0, 0)
				equal(t, "events", len(events), 1)
				return err
			})
			equal(t, "live", s.device(1).Presence.Status, registry.Online)
		})
	})
}
