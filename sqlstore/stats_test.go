package sqlstore_test

import (
	"context"
	"testing"
	"time"

	"github.com/opticworks/devicecloud/account"
	"github.com/opticworks/devicecloud/registry"
)

func TestStats(t *testing.T) {
	eachEngine(t, func(t *testing.T, s *store) {
		midnight := time.Date(2026, 1, 22, 0, 0, 0, 0, time.UTC)
		for n, seen := range []time.Time{midnight.Add(-time.Microsecond), midnight, midnight.Add(24*time.Hour - time.Microsecond), midnight.Add(-72 * time.Hour)} {
			no := s.enrol(n)
			state := full()
			if n == 0 {
				state.FirmwareVersion = "1.3.0"
			}
			s.connect(no, int64(100+n), seen)
			s.commit(&registry.Batch{States: []*registry.StateWrite{{DeviceNo: no, Epoch: 1, At: seen, State: state, Firmware: n != 3}}})
		}
		s.enrol(9) // never connected
		s.commit(&registry.Batch{Disconnects: []*registry.Disconnect{{DeviceNo: 4, Epoch: 1, At: midnight, Reason: registry.Kicked}}})
		s.read(func(ctx context.Context, tx account.Tx) error {
			got, err := tx.Stats(ctx, midnight.Add(-48*time.Hour))
			equal(t, "stats", got, registry.Stats{
				Total: 5, Online: 3,
				Versions: []registry.VersionCount{{Version: "", Count: 2}, {Version: "1.2.0", Count: 2}, {Version: "1.3.0", Count: 1}},
				Daily:    []registry.DayCount{{Date: "2026-01-21", Active: 1}, {Date: "2026-01-22", Active: 2}},
			})
			return err
		})
	})
	t.Run("of an empty fleet are zero", func(t *testing.T) {
		eachEngine(t, func(t *testing.T, s *store) {
			s.read(func(ctx context.Context, tx account.Tx) error {
				got, err := tx.Stats(ctx, t0)
				equal(t, "stats", got, registry.Stats{})
				return err
			})
		})
	})
}
