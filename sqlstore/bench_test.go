package sqlstore_test

import (
	"fmt"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/opticworks/devicecloud/registry"
	"github.com/opticworks/devicecloud/sqlstore"
	"github.com/opticworks/devicecloud/topic"
)

// fleet fills an empty database with n devices that are online since t0, all with
// epoch 1, and a person "u1" who owns every thousandth.
func fleet(t testing.TB, s *store, n int) {
	t.Helper()
	numbers := `generate_series(1, $1::integer) AS g (n)`
	id, mac := `lpad(to_hex(n), 32, '0')`, `upper(lpad(to_hex(n), 12, '0'))`
	sqlite := strings.HasPrefix(s.url, "sqlite:")
	if sqlite {
		numbers = `(WITH RECURSIVE g (n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM g WHERE n < $1) SELECT n FROM g) AS g`
		id, mac = `printf('%032x', n)`, `printf('%012X', n)`
	}
	db := raw(t, s.url)
	micro := fmt.Sprint(t0.UnixMicro())
	for _, q := range []string{
		`INSERT INTO users (user_id, email, email_verified, created_at, updated_at) SELECT 'u' || n, 'user' || n || '@example.com', TRUE, 0, 0 FROM ` + numbers + ` WHERE n <= 1000`,
		`INSERT INTO devices (device_no, device_id, mac_address, name, firmware_version, created_at, updated_at)
			SELECT n, ` + id + `, ` + mac + `, 'Sensor ' || n, '1.' || (n % 5) || '.0', ` + micro + `, ` + micro + ` FROM ` + numbers,
		`INSERT INTO device_presence (device_no, epoch, status, reason, node_id, boot_id, connection_id, remote, protocol, connected_at, changed_at, last_seen)
			SELECT n, 1, 1, 1, 'node-1', 7, n, '192.168.100.123', 4, ` + micro + `, ` + micro + `, ` + micro + ` - n * 3600000000 FROM ` + numbers,
		`INSERT INTO device_ownership (device_no, user_id, role, created_at, updated_at) SELECT n, 'u' || (n / 1000), 'owner', 0, 0 FROM ` + numbers + ` WHERE n % 1000 = 0 AND n / 1000 <= 1000`,
		`INSERT INTO counters (name, value) SELECT 'devices', max(n) FROM ` + numbers,
	} {
		if _, err := db.ExecContext(t.Context(), q, n); err != nil {
			t.Fatalf("%v: %s", err, q)
		}
	}
	if sqlite {
		if _, err := db.ExecContext(t.Context(), `PRAGMA wal_checkpoint(TRUNCATE)`); err != nil {
			t.Fatal(err)
		}
	} else if _, err := db.ExecContext(t.Context(), `ANALYZE`); err != nil {
		t.Fatal(err)
	}
}

// cpu is the processor time of this process.
func cpu() time.Duration {
	var r syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &r); err != nil {
		return 0
	}
	return time.Duration(r.Utime.Nano() + r.Stime.Nano())
}

// perRow reports what f costs a row, wall clock and processor.
func perRow(b *testing.B, rows int, f func(round int)) {
	b.Helper()
	before := cpu()
	var slowest time.Duration
	rounds := 0
	for b.Loop() {
		start := time.Now()
		f(rounds)
		slowest = max(slowest, time.Since(start))
		rounds++
	}
	n := float64(rounds * rows)
	b.ReportMetric(float64((cpu()-before).Nanoseconds())/1e3/n, "cpu-µs/row")
	b.ReportMetric(float64(b.Elapsed().Nanoseconds())/1e3/n, "µs/row")
	b.ReportMetric(float64(slowest.Microseconds())/1e3, "slowest-ms")
}

// scattered are the numbers of size different devices, spread over a fleet of n.
func scattered(n, size, round int) []int64 {
	list := make([]int64, size)
	for i := range list {
		list[i] = int64((round*48_271+i*102_947)%n) + 1
	}
	return list
}

func BenchmarkCommitStates(b *testing.B) {
	for name, url := range engines {
		for _, n := range []int{20_000, 100_000} {
			s := open(b, url(b), sqlstore.Options{})
			fleet(b, s, n)
			for _, size := range []int{1, 100, 1000, 5000} {
				b.Run(fmt.Sprintf("%s/fleet=%d/batch=%d", name, n, size), func(b *testing.B) {
					writes := make([]*registry.StateWrite, size)
					for i := range writes {
						writes[i] = &registry.StateWrite{Epoch: 1, State: full()}
					}
					perRow(b, size, func(round int) {
						for i, no := range scattered(n, size, round) {
							writes[i].DeviceNo, writes[i].At = no, after(round)
						}
						s.commit(&registry.Batch{States: writes})
					})
				})
			}
		}
	}
}

func BenchmarkCommitConnections(b *testing.B) {
	const n, size = 100_000, 1000
	for name, url := range engines {
		s := open(b, url(b), sqlstore.Options{})
		fleet(b, s, n)
		id := int64(1 << 40)
		epochs := make([]int64, n+1)
		for i := range epochs {
			epochs[i] = 1
		}
		b.Run(name+"/disconnect and claim", func(b *testing.B) {
			perRow(b, size, func(round int) {
				batch := &registry.Batch{}
				for _, no := range scattered(n, size, round) {
					batch.Disconnects = append(batch.Disconnects, &registry.Disconnect{DeviceNo: no, Epoch: epochs[no], At: after(round), LastSeen: after(round), Reason: registry.NetworkError})
				}
				s.commit(batch)
				batch = &registry.Batch{}
				for _, no := range scattered(n, size, round) {
					id++
					epochs[no]++
					c := claim(no, id, after(round))
					c.Tell = false
					batch.Claims = append(batch.Claims, c)
				}
				s.commit(batch)
			})
		})
		b.Run(name+"/claim, taking over", func(b *testing.B) {
			perRow(b, size, func(round int) {
				batch := &registry.Batch{}
				for _, no := range scattered(n, size, round) {
					id++
					c := claim(no, id, after(round))
					c.Tell = false
					batch.Claims = append(batch.Claims, c)
				}
				s.commit(batch)
			})
		})
	}
}

func BenchmarkCommitReports(b *testing.B) {
	const n, size = 20_000, 1000
	payload := `{"device_id":"` + strings.Repeat("a", 32) + `","timestamp":"2026-01-22T10:00:00Z","metrics":{"heap":123456,"cpu":12}}`
	for name, url := range engines {
		s := open(b, url(b), sqlstore.Options{})
		fleet(b, s, n)
		id := int64(1 << 40)
		b.Run(name, func(b *testing.B) {
			perRow(b, size, func(round int) {
				batch := &registry.Batch{}
				for _, no := range scattered(n, size, round) {
					id++
					batch.Reports = append(batch.Reports, &registry.ReportWrite{DeviceNo: no, Epoch: 1, At: after(round), Kind: topic.Telemetry, Payload: payload, EventID: id, Keep: 20})
				}
				s.commit(batch)
			})
		})
	}
}

func BenchmarkCredentialed(b *testing.B) {
	for name, url := range engines {
		s := open(b, url(b), sqlstore.Options{})
		fleet(b, s, 20_000)
		b.Run(name, func(b *testing.B) {
			perRow(b, 1, func(round int) {
				err := s.Registry().View(b.Context(), func(tx registry.Tx) error {
					_, err := tx.Credentialed(b.Context(), fmt.Sprintf("%032x", round%20_000+1))
					return err
				})
				if err != nil {
					b.Fatal(err)
				}
			})
		})
	}
}
