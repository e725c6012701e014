package sqlstore

import (
	"context"
	"time"

	"github.com/opticworks/devicecloud/registry"
)

// dayMicros is the length of a UTC day as times are stored.
const dayMicros = 24 * 60 * 60 * 1_000_000

// Stats implements registry.DeviceTx. Versions come most used first, days oldest
// first, days without activity are left out.
func (t *tx) Stats(ctx context.Context, since time.Time) (registry.Stats, error) {
	var s registry.Stats
	var err error
	if s.Total, s.Online, err = t.CountDevices(ctx); err != nil {
		return s, err
	}
	s.Versions, err = collect(ctx, t, `SELECT firmware_version, count(*) FROM devices
		GROUP BY firmware_version ORDER BY count(*) DESC, COALESCE(firmware_version, '')`, nil,
		func(scan scanFunc, v *registry.VersionCount) error { return scan(opt(&v.Version), &v.Count) })
	if err != nil {
		return s, err
	}
	s.Daily, err = collect(ctx, t, `SELECT last_seen / $2, count(*) FROM device_presence
		WHERE last_seen >= $1 GROUP BY last_seen / $2 ORDER BY last_seen / $2`, []any{since.UnixMicro(), int64(dayMicros)},
		func(scan scanFunc, d *registry.DayCount) error {
			var day int64
			if err := scan(&day, &d.Active); err != nil {
				return err
			}
			d.Date = time.UnixMicro(day * dayMicros).UTC().Format(time.DateOnly)
			return nil
		})
	return s, err
}

// CountDevices implements registry.DeviceTx.
func (t *tx) CountDevices(ctx context.Context) (total, online int, err error) {
	err = t.row(ctx, `SELECT (SELECT count(*) FROM devices), (SELECT count(*) FROM device_presence WHERE status = $1)`,
		[]any{int64(registry.Online)}, &total, &online)
	return total, online, err
}
