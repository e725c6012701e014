package sqlstore_test

import (
	"context"
	"testing"

	"github.com/opticworks/devicecloud/account"
	"github.com/opticworks/devicecloud/registry"
)

func TestEntitlements(t *testing.T) {
	eachEngine(t, func(t *testing.T, s *store) {
		no, other := s.enrol(1), s.enrol(2)
		insert := func(id, device int64, c registry.Capability, source registry.EntitlementSource, from, to int) (changed bool) {
			e := registry.Entitlement{ID: id, DeviceNo: device, Capability: c, Source: source, StartsAt: after(from), CreatedAt: t0}
			if to > 0 {
				e.EndsAt = after(to)
			}
			s.write(func(ctx context.Context, tx account.Tx) (err error) {
				changed, err = tx.InsertEntitlement(ctx, e)
				return err
			})
			return changed
		}
		equal(t, "inserted", []bool{
			insert(1, no, registry.CanLiveView, registry.EntitledByTrial, 0, 10), insert(2, no, registry.CanLiveView, registry.EntitledByTrial, 20, 30),
			insert(3, no, registry.CanAISummary, registry.EntitledByGrant, 5, 0), insert(4, no, registry.CanAISummary, registry.EntitledByGrant, 5, 6),
			insert(5, other, registry.CanLiveView, registry.EntitledByTrial, 0, 10),
		}, []bool{true, false, true, true, true})
		entitled := func(device int64, c registry.Capability, at int) (ok bool) {
			s.read(func(ctx context.Context, tx account.Tx) (err error) {
				ok, err = tx.Entitled(ctx, device, c, after(at))
				return err
			})
			return ok
		}
		equal(t, "entitled", []bool{
			entitled(no, registry.CanLiveView, 0), entitled(no, registry.CanLiveView, 9), entitled(no, registry.CanLiveView, 10), entitled(no, registry.CanLiveView, 25),
			entitled(no, registry.CanAISummary, 4), entitled(no, registry.CanAISummary, 500), entitled(no, registry.CanClipDownload, 5), entitled(other, registry.CanAISummary, 5),
		}, []bool{true, true, false, false, false, true, false, false})
		s.read(func(ctx context.Context, tx account.Tx) error {
			list, err := tx.Entitlements(ctx, no, after(7))
			equal(t, "list", list, []registry.Entitlement{
				{ID: 1, DeviceNo: no, Capability: registry.CanLiveView, Source: registry.EntitledByTrial, StartsAt: t0, EndsAt: after(10), CreatedAt: t0},
				{ID: 3, DeviceNo: no, Capability: registry.CanAISummary, Source: registry.EntitledByGrant, StartsAt: after(5), CreatedAt: t0},
			})
			return err
		})
		s.write(func(ctx context.Context, tx account.Tx) error {
			n, err := tx.DeleteGrants(ctx, no, registry.CanAISummary)
			equal(t, "grants", []any{n, err}, []any{2, nil})
			n, err = tx.DeleteGrants(ctx, no, registry.CanLiveView)
			equal(t, "a trial is no grant", []any{n, err}, []any{0, nil})
			return nil
		})
	})
}
