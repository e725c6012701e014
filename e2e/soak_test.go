package e2e_test

import (
	"math/rand/v2"
	"os"
	"path/filepath"
	"strconv"
	"sync"
	"sync/atomic"
	"testing"
	"time"
)

// TestSoakChurn lets devices come and go for a long time, and looks for what grows.
// In CI it runs for a few seconds, so that it cannot rot; DEVICECLOUD_SOAK_TIME
// (a duration, one hour by default) is the time under DEVICECLOUD_SOAK=1.
func TestSoakChurn(t *testing.T) {
	devices, length := scale(50, 2000), 8*time.Second
	if os.Getenv("DEVICECLOUD_SOAK") == "1" {
		length = time.Hour
		if s := os.Getenv("DEVICECLOUD_SOAK_TIME"); s != "" {
			var err error
			if length, err = time.ParseDuration(s); err != nil {
				t.Fatal(err)
			}
		}
	}
	rng := seeded(t)
	c := Start(t, Options{Process: true, Shipped: true, Env: map[string]string{"LOG_LEVEL": "info"}})
	admin := c.AdminToken()
	all := c.enrollMany(t, admin, devices)
	end := time.Now().Add(length)
	var acks, connects atomic.Int64
	uptimes := make([]atomic.Int64, devices)
	var group sync.WaitGroup
	for i, d := range all {
		own := rand.New(rand.NewPCG(rng.Uint64(), 4))
		group.Go(func() {
			for time.Now().Before(end) {
				client, _, err := c.try(deviceHello(d, bothVersions[own.IntN(2)]))
				if err != nil {
					t.Errorf("%s: %v", d.ID, err)
					return
				}
				connects.Add(1)
				for range 1 + own.IntN(10) {
					n := uptimes[i].Load() + 1
					if err := report(client, d, int(n)); err != nil {
						t.Errorf("%s: %v", d.ID, err)
						return
					}
					uptimes[i].Store(n)
					acks.Add(1)
					time.Sleep(time.Duration(own.IntN(int(length) / 40))) // a device's pause
				}
				leave(client, own.IntN(3))
			}
		})
	}
	// After the first half everything has found its size.
	figures := func() (memory, goroutines, descriptors int, wal int64) {
		open, err := os.ReadDir("/proc/" + strconv.Itoa(c.pid(t)) + "/fd")
		if err != nil {
			t.Fatal(err)
		}
		if info, err := os.Stat(filepath.Join(c.DataDir(), "devicecloud.db-wal")); err == nil {
			wal = info.Size()
		}
		return c.memory(t, "VmRSS"), int(c.Metric("go_goroutines")), len(open), wal
	}
	time.Sleep(time.Until(end.Add(-length / 2)))
	memory, goroutines, descriptors, wal := figures()
	group.Wait()
	Await(t, 15*time.Second, func() bool { return c.Metric(`mqtt_connections{listener="plain"}`) == 0 }, func() string { return "connections are left" })
	memory2, goroutines2, descriptors2, wal2 := figures()
	t.Logf("%d connections, %d acknowledged states; half-way and at the end: %d and %d MB resident, %d and %d goroutines, %d and %d descriptors, WAL %d and %d KB",
		connects.Load(), acks.Load(), memory>>20, memory2>>20, goroutines, goroutines2, descriptors, descriptors2, wal>>10, wal2>>10)
	hours := length.Hours() / 2
	if grown := memory2 - memory; grown > 32<<20+int(hours*(1<<20)) {
		t.Errorf("the memory grew by %d MB in the second half", grown>>20)
	}
	if goroutines2 > 100 {
		t.Errorf("%d goroutines are left, and nobody is connected", goroutines2)
	}
	if descriptors2 > 64 {
		t.Errorf("%d descriptors are left, and nobody is connected", descriptors2)
	}
	if wal2 > 64<<20 {
		t.Errorf("the write-ahead log is %d MB", wal2>>20)
	}
	admin = c.AdminToken()
	c.eachView(t, admin, all, func(i int, v DeviceView) {
		if v.UptimeSec == nil || *v.UptimeSec != uptimes[i].Load() || v.Online {
			t.Errorf("%s acknowledged uptime %d, the registry has %+v", v.ID, uptimes[i].Load(), v)
		}
	})
	if n := c.Metric("registry_presence_corrections_total"); n != 0 {
		t.Errorf("the sweep had to correct %v presence flags", n)
	}
}
