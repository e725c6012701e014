package sqlstore_test

import (
	"context"
	"encoding/json"
	"testing"

	"github.com/opticworks/devicecloud/account"
	"github.com/opticworks/devicecloud/registry"
)

func TestAudit(t *testing.T) {
	eachEngine(t, func(t *testing.T, s *store) {
		events := []registry.AuditEvent{
			{ID: 1, Domain: "registry", DeviceID: deviceID(1), Event: "enrolled", Actor: "service:f", At: after(1)},
			{
				ID: 2, Domain: "registry", DeviceID: deviceID(2), Event: "renamed", Data: map[string]any{"name": "x", "id": json.Number("9007199254740993")},
				Actor: "user:u1", RequestID: "r", IP: "192.0.2.1", UserAgent: "agent\xff", Client: "app", At: after(2),
			},
			{ID: 3, Domain: "account", Event: "login", Actor: "user:u1", At: after(3)},
			{ID: 4, Domain: "registry", DeviceID: deviceID(1), Event: "renamed", Actor: "user:u2", At: after(4)},
		}
		s.write(func(ctx context.Context, tx account.Tx) error {
			for _, e := range events {
				if err := tx.InsertAudit(ctx, e); err != nil {
					return err
				}
			}
			return nil
		})
		list := func(f registry.AuditFilter) (ids []int64) {
			s.read(func(ctx context.Context, tx account.Tx) error {
				got, err := tx.Audit(ctx, f)
				for _, e := range got {
					ids = append(ids, e.ID)
				}
				return err
			})
			return ids
		}
		t.Run("reads back what was written, numbers whole and bytes as text", func(t *testing.T) {
			s.read(func(ctx context.Context, tx account.Tx) error {
				got, err := tx.Audit(ctx, registry.AuditFilter{Before: 3, Limit: 1})
				want := events[1]
				want.UserAgent = "agent\uFFFD"
				equal(t, "event", got, []registry.AuditEvent{want})
				return err
			})
		})
		for name, test := range map[string]struct {
			filter registry.AuditFilter
			want   []int64
		}{
			"everything, newest first": {registry.AuditFilter{}, []int64{4, 3, 2, 1}},
			"a page":                   {registry.AuditFilter{Before: 4, Limit: 2}, []int64{3, 2}},
			"of a device":              {registry.AuditFilter{DeviceID: deviceID(1)}, []int64{4, 1}},
			"of an event":              {registry.AuditFilter{Event: "renamed"}, []int64{4, 2}},
			"of an actor and event":    {registry.AuditFilter{Actor: "user:u1", Event: "login"}, []int64{3}},
			"of all three, and before": {registry.AuditFilter{DeviceID: deviceID(1), Event: "enrolled", Actor: "service:f", Before: 2, Limit: 5}, []int64{1}},
			"of nobody":                {registry.AuditFilter{Actor: "' OR 1=1"}, nil},
		} {
			t.Run("lists "+name, func(t *testing.T) { equal(t, "ids", list(test.filter), test.want) })
		}
		t.Run("deletes what is old, so many at a time", func(t *testing.T) {
			var deleted []int
			s.write(func(ctx context.Context, tx account.Tx) error {
				for range 3 {
					n, err := tx.DeleteAudit(ctx, after(4), 2)
					if err != nil {
						return err
					}
					deleted = append(deleted, n)
				}
				return nil
			})
			equal(t, "deleted", deleted, []int{2, 1, 0})
			equal(t, "left", list(registry.AuditFilter{}), []int64{4})
		})
	})
}
