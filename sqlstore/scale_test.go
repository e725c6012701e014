package sqlstore_test

import (
	"context"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/opticworks/devicecloud/account"
	"github.com/opticworks/devicecloud/registry"
	"github.com/opticworks/devicecloud/sqlstore"
)

// TestAHundredThousandDevices holds the reads that people wait for against a
// generous limit: an index that is not used misses it by far.
func TestAHundredThousandDevices(t *testing.T) {
	if testing.Short() {
		t.Skip("fills a database with 100,000 devices")
	}
	n := 100_000
	if raceDetector {
		n = 10_000
	}
	found := 0 // names that "sensor 4321" finds
	for i := 1; i <= n; i++ {
		if strings.HasPrefix(fmt.Sprint(i), "4321") {
			found++
		}
	}
	for name, url := range engines {
		t.Run(name, func(t *testing.T) {
			s := open(t, url(t), sqlstore.Options{})
			fleet(t, s, n)
			id := fmt.Sprintf("%032x", n/2)
			for _, read := range []struct {
				name  string
				limit time.Duration
				f     func(ctx context.Context, tx account.Tx) (got, want int, err error)
			}{
				{"one device", 50 * time.Millisecond, func(ctx context.Context, tx account.Tx) (int, int, error) {
					d, err := tx.Device(ctx, id)
					return int(d.No), n / 2, err
				}},
				{"its credentials", 50 * time.Millisecond, func(ctx context.Context, tx account.Tx) (int, int, error) {
					c, err := tx.Credentialed(ctx, id)
					return int(c.DeviceNo), n / 2, err
				}},
				{"a person's devices", 50 * time.Millisecond, func(ctx context.Context, tx account.Tx) (int, int, error) {
					list, err := tx.OwnedDevices(ctx, "u5", t0, 0, 200)
					return len(list), 1, err
				}},
				{"an owner's e-mail", 500 * time.Millisecond, func(ctx context.Context, tx account.Tx) (int, int, error) {
					list, total, err := tx.Devices(ctx, registry.DeviceFilter{Owner: "user5@example.com", Limit: 50})
					return total + len(list), 2, err
				}},
				{"the last page", time.Second, func(ctx context.Context, tx account.Tx) (int, int, error) {
					list, total, err := tx.Devices(ctx, registry.DeviceFilter{After: int64(n - 50), Limit: 50})
					return total + len(list), n + 50, err
				}},
				{"a page of a version", time.Second, func(ctx context.Context, tx account.Tx) (int, int, error) {
					list, total, err := tx.Devices(ctx, registry.DeviceFilter{Version: "1.3.0", Limit: 50})
					return total + len(list), n/5 + 50, err
				}},
				{"a page of those online", 2 * time.Second, func(ctx context.Context, tx account.Tx) (int, int, error) {
					list, total, err := tx.Devices(ctx, registry.DeviceFilter{Status: ptr(registry.Online), Limit: 50})
					return total + len(list), n + 50, err
				}},
				{"a search", 5 * time.Second, func(ctx context.Context, tx account.Tx) (int, int, error) {
					list, total, err := tx.Devices(ctx, registry.DeviceFilter{Query: "sensor 4321", Limit: 50})
					return total + len(list), 2 * found, err
				}},
				{"the fleet's statistics", 5 * time.Second, func(ctx context.Context, tx account.Tx) (int, int, error) {
					stats, err := tx.Stats(ctx, t0.AddDate(0, 0, -6))
					return stats.Total + len(stats.Versions) + len(stats.Daily), n + 5 + 7, err
				}},
				{"who is live", 5 * time.Second, func(ctx context.Context, tx account.Tx) (int, int, error) {
					list, err := tx.LivePresence(ctx, "node-1")
					return len(list), n, err
				}},
			} {
				t.Run("read "+read.name+" in time", func(t *testing.T) {
					best := time.Hour
					for range 3 { // the machine may be busy; a missing index is slow each time
						start := time.Now()
						s.read(func(ctx context.Context, tx account.Tx) error {
							got, want, err := read.f(ctx, tx)
							equal(t, "found", got, want)
							return err
						})
						best = min(best, time.Since(start))
					}
					t.Logf("%v", best)
					if best > read.limit {
						t.Errorf("took %v, limit %v", best, read.limit)
					}
				})
			}
		})
	}
}

func TestSQLiteUsesItsIndexes(t *testing.T) {
	s := open(t, engines["sqlite"](t), sqlstore.Options{})
	db := raw(t, s.url)
	for query, index := range map[string]string{
		`SELECT 1 FROM devices WHERE device_id = $1`:                                                                                                "sqlite_autoindex_devices_1",
		`SELECT user_id FROM users WHERE email = $1 AND email_verified AND disabled_at IS NULL`:                                                     "idx_users_verified_email",
		`SELECT 1 FROM device_events WHERE device_no = $1 AND type = $2 ORDER BY event_id DESC LIMIT 1 OFFSET $3`:                                   "idx_events_device",
		`SELECT 1 FROM device_connections WHERE device_no = $1 AND connection_id < $2 ORDER BY connection_id DESC LIMIT $3`:                         "idx_connections_device",
		`SELECT 1 FROM device_connections c WHERE c.disconnected_at < $1 ORDER BY c.disconnected_at LIMIT $2`:                                       "idx_connections_ended",
		`SELECT 1 FROM device_audit WHERE audit_id < $1 AND device_id = $3 ORDER BY audit_id DESC LIMIT $2`:                                         "idx_audit_device",
		`SELECT 1 FROM orders WHERE device_mac = $1 AND linked_at IS NULL AND shipped_at IS NOT NULL`:                                               "idx_orders_mac",
		`SELECT 1 FROM device_ownership o JOIN devices d ON d.device_no = o.device_no WHERE o.user_id = $1 ORDER BY o.device_no`:                    "idx_ownership_user",
		`SELECT firmware_version, count(*) FROM devices GROUP BY firmware_version`:                                                                  "idx_devices_version",
		`DELETE FROM device_audit WHERE audit_id IN (SELECT a.audit_id FROM device_audit a WHERE a.created_at < $1 ORDER BY a.created_at LIMIT $2)`: "idx_audit_created",
		`UPDATE device_audit SET ip = NULL WHERE actor = $1`:                                                                                        "idx_audit_actor",
		`UPDATE orders SET user_email = '' WHERE linked_user_id = $1 OR (user_email = $2 AND $2 <> '')`:                                             "idx_orders_linked",
		`UPDATE orders SET user_email = '' WHERE user_email = $2 AND $2 <> '' OR linked_user_id = $1`:                                               "idx_orders_email",
		`SELECT sid FROM auth_sessions WHERE revoked_at IS NOT NULL AND revoked_at >= $1`:                                                           "idx_auth_sessions_revoked",
		`SELECT sid FROM auth_sessions WHERE user_id = $1 AND revoked_at IS NULL AND ($3 = '' OR sid < $3) ORDER BY sid DESC`:                       "idx_auth_sessions_user",
		`SELECT r.hash FROM auth_sessions s JOIN refresh_tokens r ON r.sid = s.sid WHERE s.absolute_expires_at < $1 LIMIT $2`:                       "idx_auth_sessions_end",
	} {
		plan := strings.Join(texts(t, db, `EXPLAIN QUERY PLAN `+query, 1, 2, 3), "\n")
		if !strings.Contains(plan, index) {
			t.Errorf("%s does not use %s:\n%s", query, index, plan)
		}
	}
}
