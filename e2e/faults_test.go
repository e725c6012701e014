package e2e_test

import (
	"bufio"
	"context"
	"database/sql"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/opticworks/devicecloud/firmware-sim/mqttwire"
	_ "modernc.org/sqlite"
)

// tryLater are the refusals of CONNECT that tell a device to come back: the registry
// cannot be written, or the end of the connection before is still to be recorded.
var tryLater = []mqttwire.ReasonCode{mqttwire.ServerUnavailable, mqttwire.ServerBusy, mqttwire.Refused311Unavailable}

// reporter is a device that provisions and then reports as fast as it is
// acknowledged, and its ledger. The ledger belongs to its goroutine until that ends.
type reporter struct {
	Device
	version     mqttwire.Version
	sent, acked int  // uptimes, which only grow
	provisioned bool // acknowledged
	connections int
	acks        *atomic.Int64 // of all reporters
	wrong       error         // an answer that nobody may get
	farewell    mqttwire.ReasonCode
}

// run reports until ctx ends, through any number of connections.
func (r *reporter) run(ctx context.Context, c *Cloud, rng *rand.Rand) {
	for ctx.Err() == nil {
		client, _, err := c.try(deviceHello(r.Device, r.version))
		if err == nil {
			r.connections++
			err = r.report(ctx, client)
			_ = client.Close()
		}
		var refused *mqttwire.RefusedError
		if errors.As(err, &refused) && (refused.Request != mqttwire.CONNECT || !slices.Contains(tryLater, refused.Code)) {
			r.wrong = err
			return
		}
		var gone *mqttwire.DisconnectedError
		if errors.As(err, &gone) {
			r.farewell = gone.Code
		}
		select {
		case <-ctx.Done():
		case <-time.After(time.Duration(50+rng.IntN(150)) * time.Millisecond): // a device's pause before it tries again
		}
	}
}

func (r *reporter) report(ctx context.Context, client *mqttwire.Client) error {
	for ctx.Err() == nil {
		if !r.provisioned {
			if _, err := client.Publish(mqttwire.Message{Topic: r.Topic("provision"), Payload: provisionPayload(r.Device), QoS: 1}); err != nil {
				return err
			}
			r.provisioned = true
		}
		r.sent++
		if err := report(client, r.Device, r.sent); err != nil {
			return err
		}
		r.acked = r.sent
		r.acks.Add(1)
	}
	return nil
}

// crowd is many reporters.
type crowd struct {
	reporters []*reporter
	acks      atomic.Int64
	stop      context.CancelFunc
	group     sync.WaitGroup
}

// report lets devices report, every other one with MQTT 5.
func (c *Cloud) report(devices []Device, rng *rand.Rand) *crowd {
	all := &crowd{}
	for i, d := range devices {
		all.reporters = append(all.reporters, &reporter{Device: d, version: bothVersions[i%2], acks: &all.acks})
	}
	all.resume(c, rng)
	return all
}

// resume lets the same devices report again after end.
func (all *crowd) resume(c *Cloud, rng *rand.Rand) {
	ctx, stop := context.WithCancel(context.Background())
	all.stop = stop
	for _, r := range all.reporters {
		own := rand.New(rand.NewPCG(rng.Uint64(), 2))
		all.group.Go(func() { r.run(ctx, c, own) })
	}
}

// end stops the reporters; their ledgers may be read then.
func (all *crowd) end() {
	all.stop()
	all.group.Wait()
}

// missing compares the ledgers with the registry and returns what was acknowledged
// and is not there, and what is there and nobody sent.
func (all *crowd) missing(t *testing.T, c *Cloud, admin string) (faults []string) {
	t.Helper()
	devices := make([]Device, len(all.reporters))
	for i, r := range all.reporters {
		devices[i] = r.Device
		if r.wrong != nil {
			faults = append(faults, fmt.Sprintf("%s was told %v", r.ID, r.wrong))
		}
	}
	c.eachView(t, admin, devices, func(i int, v DeviceView) {
		r := all.reporters[i]
		uptime := 0
		if v.UptimeSec != nil {
			uptime = int(*v.UptimeSec)
		}
		switch {
		case uptime < r.acked || uptime > r.sent:
			faults = append(faults, fmt.Sprintf("%s: uptime %d is acknowledged, %d was sent, the registry has %d", r.ID, r.acked, r.sent, uptime))
		case uptime > 0 && (v.WifiRSSI == nil || int(*v.WifiRSSI) != rssiOf(uptime) || v.Firmware == ""):
			faults = append(faults, fmt.Sprintf("%s: half a message is in the registry: %+v", r.ID, v))
		case r.provisioned && v.Provisioned == nil:
			faults = append(faults, r.ID+": its provisioning is acknowledged and not there")
		}
	})
	return faults
}

// reportFaults fails the test with the first few.
func reportFaults(t *testing.T, faults []string) {
	t.Helper()
	for i, f := range faults {
		if i == 10 {
			t.Errorf("and %d more", len(faults)-i)
			return
		}
		t.Error(f)
	}
}

// integrity asks SQLite about the files as the dead process left them: a copy, so
// that the recovery stays the next start's own work.
func integrity(t *testing.T, dataDir string) string {
	t.Helper()
	dir := t.TempDir()
	for _, name := range []string{"devicecloud.db", "devicecloud.db-wal"} {
		text, err := os.ReadFile(filepath.Join(dataDir, name))
		if errors.Is(err, os.ErrNotExist) && name != "devicecloud.db" {
			continue
		}
		if err == nil {
			err = os.WriteFile(filepath.Join(dir, name), text, 0o600)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	db, err := sql.Open("sqlite", filepath.Join(dir, "devicecloud.db"))
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	var verdict string
	if err := db.QueryRow("PRAGMA integrity_check").Scan(&verdict); err != nil {
		t.Fatal(err)
	}
	return verdict
}

func TestKillDuringIngestLosesNothingAcknowledged(t *testing.T) {
	kills, clients := scale(5, 50), 200
	rng := seeded(t)
	c := Start(t, Options{Process: true, Shipped: true, Env: map[string]string{"LOG_LEVEL": "info"}})
	var crowds []*crowd
	acked, slowest := 0, time.Duration(0)
	for kill := range kills {
		admin := c.AdminToken()
		all := c.report(c.enrollMany(t, admin, clients), rng)
		// From the first CONNECTs, over provisioning, to the middle of the reports.
		time.Sleep(time.Duration(100+rng.IntN(1900)) * time.Millisecond)
		c.Kill()
		all.end()
		crowds = append(crowds, all)
		acked += int(all.acks.Load())
		if verdict := integrity(t, c.DataDir()); verdict != "ok" {
			t.Errorf("kill %d: integrity_check says %s", kill, verdict)
		}
		began := time.Now()
		c.Restart()
		slowest = max(slowest, time.Since(began))
		admin = c.AdminToken()
		for round, all := range crowds[max(0, len(crowds)-5):] {
			if faults := all.missing(t, c, admin); len(faults) > 0 {
				t.Errorf("after kill %d, of the clients of round %d of the last five:", kill, round)
				reportFaults(t, faults)
			}
		}
		var list struct{ Total int }
		c.Get("/admin/devices?status=online", admin, &list)
		if list.Total != 0 {
			t.Errorf("kill %d: %d devices are online, and nobody is connected", kill, list.Total)
		}
	}
	if acked < kills*clients {
		t.Errorf("only %d states were acknowledged: the kills hit nothing", acked)
	}
	t.Logf("%d kills, %d clients each: %d acknowledged states; the slowest restart took %v", kills, clients, acked, slowest)
}

// lockVariable names the database that the test binary locks when it is started
// again as another process.
const lockVariable = "DEVICECLOUD_E2E_LOCK"

// TestHoldLock is that other process: it takes the write lock, says so, and holds it
// until its standard input ends.
func TestHoldLock(t *testing.T) {
	path := os.Getenv(lockVariable)
	if path == "" {
		t.Skip("it is part of another test")
	}
	db, err := sql.Open("sqlite", "file:"+path+"?_pragma=busy_timeout(10000)")
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	db.SetMaxOpenConns(1)
	if _, err := db.Exec("BEGIN IMMEDIATE"); err != nil {
		t.Fatal(err)
	}
	fmt.Println("locked")
	_, _ = io.Copy(io.Discard, os.Stdin) // the end of it is the signal
	if _, err := db.Exec("ROLLBACK"); err != nil {
		t.Fatal(err)
	}
}

// lockRegistry locks the database from another process; release ends it.
func (c *Cloud) lockRegistry(t *testing.T) (release func()) {
	t.Helper()
	cmd := exec.Command(os.Args[0], "-test.run=^TestHoldLock$", "-test.v")
	cmd.Env = environ(map[string]string{lockVariable: filepath.Join(c.DataDir(), "devicecloud.db")})
	stdin, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	stdout, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = cmd.Process.Kill() })
	lines := bufio.NewScanner(stdout)
	for lines.Scan() && lines.Text() != "locked" {
	}
	if lines.Text() != "locked" {
		t.Fatalf("the lock was not taken: %v", cmd.Wait())
	}
	return func() {
		_ = stdin.Close()
		_, _ = io.Copy(io.Discard, stdout)
		if err := cmd.Wait(); err != nil {
			t.Errorf("the process that held the lock: %v", err)
		}
	}
}

func TestRegistryLockedFromOutsideHoldsBackEveryPUBACK(t *testing.T) {
	t.Parallel()
	const locked, clients = 10 * time.Second, 60
	rng := seeded(t)
	c := Start(t, Options{Process: true, Shipped: true, Env: map[string]string{"LOG_LEVEL": "info"}})
	admin := c.AdminToken()
	reader := c.open(t, personHello(c.owned(t, admin, "reader@example.com", c.EnrollAs(admin)), "app", mqttwire.V5))
	all := c.report(c.enrollMany(t, admin, clients), rng)
	Await(t, 20*time.Second, func() bool { return all.acks.Load() > 5*clients }, func() string { return "nobody reports" })

	release := c.lockRegistry(t)
	unlock := time.Now().Add(locked)
	// What was committed before the lock may still be on its way: until none comes for a while.
	before := all.acks.Load()
	for quiet := time.Now(); time.Since(quiet) < 500*time.Millisecond && time.Now().Before(unlock); time.Sleep(10 * time.Millisecond) {
		if n := all.acks.Load(); n != before {
			before, quiet = n, time.Now()
		}
	}
	saw503 := false
	for tick := time.NewTicker(100 * time.Millisecond); time.Now().Before(unlock); <-tick.C {
		status, _, err := c.request(http.MethodGet, "/readyz", "", nil)
		saw503 = saw503 || err == nil && status == http.StatusServiceUnavailable
		if err := reader.Ping(); err != nil {
			t.Fatalf("a person's app lost its connection: %v", err)
		}
		var list struct{ Total int }
		if status := c.Do(http.MethodGet, "/admin/devices", admin, nil, &list); status != http.StatusOK || list.Total != clients+1 {
			t.Fatalf("the registry cannot be read while it is locked for writing: %d, %+v", status, list)
		}
	}
	if n := all.acks.Load() - before; n != 0 {
		t.Errorf("%d states were acknowledged while nothing could be committed", n)
	}
	if !saw503 {
		t.Error("/readyz never said 503")
	}
	released := time.Now()
	release()
	Await(t, 15*time.Second, func() bool { return all.acks.Load() > before+10*clients }, func() string {
		return fmt.Sprintf("%d PUBACKs since the lock ended", all.acks.Load()-before)
	})
	recovered := time.Since(released)
	Await(t, 5*time.Second, func() bool { return c.Do(http.MethodGet, "/readyz", "", nil, nil) == http.StatusOK }, func() string { return "/readyz still says no" })
	all.end()
	reportFaults(t, all.missing(t, c, admin))
	closed := 0
	for _, r := range all.reporters {
		if r.farewell == mqttwire.QuotaExceeded {
			closed++
		}
		if r.farewell != 0 && r.farewell != mqttwire.QuotaExceeded {
			t.Errorf("%s was told to go with %v, want 0x97", r.ID, r.farewell)
		}
		c.AwaitDevice(r.Device, admin, "offline after all connections ended", func(v DeviceView) bool { return v.Status == "offline" })
	}
	t.Logf("back %v after the lock ended; %d of %d MQTT 5 sessions ended with 0x97", recovered, closed, clients/2)
	if closed == 0 {
		t.Error("no device with MQTT 5 was told why its session ended")
	}
}

func TestDatabaseThatCannotBeWrittenAcknowledgesNothing(t *testing.T) {
	c := Start(t, Options{Process: true, Shipped: true, Env: map[string]string{"LOG_LEVEL": "info"}})
	admin := c.AdminToken()
	d, other := c.EnrollAs(admin), c.EnrollAs(admin)
	client := c.open(t, deviceHello(d, mqttwire.V5))
	if err := report(client, d, 1); err != nil {
		t.Fatal(err)
	}
	// The process may write no file beyond this size from now on: a full disk.
	limit := exec.Command("prlimit", "--pid", fmt.Sprint(c.pid(t)), "--fsize=4096:unlimited")
	if out, err := limit.CombinedOutput(); err != nil {
		t.Skipf("prlimit: %v %s", err, out)
	}
	err := report(client, d, 2)
	var gone *mqttwire.DisconnectedError
	if !errors.As(err, &gone) || gone.Code != mqttwire.QuotaExceeded {
		t.Errorf("a state that cannot be written is answered %v, want no answer and DISCONNECT 0x97", err)
	}
	if !c.alive(t) {
		t.Fatal("the process died of a full disk")
	}
	if v, err := c.view(d.ID, admin); err != nil || v.UptimeSec == nil || *v.UptimeSec != 1 {
		t.Errorf("reading while the disk is full: %+v, %v", v, err)
	}
	if _, _, err := c.try(deviceHello(other, mqttwire.V5)); refusalCode(err) != mqttwire.ServerUnavailable {
		t.Errorf("a CONNECT that cannot be recorded is answered %v, want 0x88", err)
	}
	if status := c.Do(http.MethodGet, "/readyz", "", nil, nil); status != http.StatusServiceUnavailable {
		t.Errorf("/readyz says %d", status)
	}
	if out, err := exec.Command("prlimit", "--pid", fmt.Sprint(c.pid(t)), "--fsize=unlimited:unlimited").CombinedOutput(); err != nil {
		t.Fatalf("prlimit: %v %s", err, out)
	}
	Await(t, 15*time.Second, func() bool {
		again, _, err := c.try(deviceHello(d, mqttwire.V5))
		if err != nil {
			return false
		}
		defer again.Close()
		return report(again, d, 3) == nil
	}, func() string { return "the device does not get back in after there is room again" })
	if v, err := c.view(d.ID, admin); err != nil || v.UptimeSec == nil || *v.UptimeSec != 3 {
		t.Errorf("afterwards the registry has %+v, %v", v, err)
	}
}

func TestSIGTERMDuringIngest(t *testing.T) {
	const clients = 100
	rng := seeded(t)
	c := Start(t, Options{Process: true, Shipped: true, Env: map[string]string{"LOG_LEVEL": "info"}})
	admin := c.AdminToken()
	devices := c.enrollMany(t, admin, clients)
	all := c.report(devices, rng)
	Await(t, 20*time.Second, func() bool { return all.acks.Load() > 5*clients }, func() string { return "nobody reports" })

	probes := make(chan int)
	go func() {
		defer close(probes)
		for {
			status, _, err := c.request(http.MethodGet, "/readyz", "", nil)
			if err != nil {
				return
			}
			probes <- status
		}
	}()
	ended := make(chan int, 1)
	running := c.runner
	began := time.Now()
	go func() {
		code, err := running.stop()
		if err != nil {
			code = -1
		}
		ended <- code
	}()
	saw503 := false
	for status := range probes {
		saw503 = saw503 || status == http.StatusServiceUnavailable
	}
	if code := <-ended; code != 0 {
		t.Errorf("exit code %d", code)
	}
	took := time.Since(began)
	c.runner = nil
	all.end()
	if !saw503 {
		t.Error("/readyz never said 503 while the program ended")
	}
	told := 0
	for _, r := range all.reporters {
		if r.version == mqttwire.V5 && r.farewell == mqttwire.ServerShuttingDown {
			told++
		}
	}
	if told != clients/2 {
		t.Errorf("%d of %d sessions with MQTT 5 ended with DISCONNECT 0x8B", told, clients/2)
	}
	c.Restart()
	reportFaults(t, all.missing(t, c, admin))
	c.eachView(t, admin, devices, func(i int, v DeviceView) {
		if v.Status != "offline" || v.StatusReason != "node_shutdown" {
			t.Errorf("%s is %s because of %s, want offline because of node_shutdown", v.ID, v.Status, v.StatusReason)
		}
	})
	t.Logf("%d acknowledged states; the end took %v; %d MQTT 5 clients were told 0x8B", all.acks.Load(), took, told)
}

func TestDescriptorExhaustion(t *testing.T) {
	c := Start(t, Options{Process: true, Shipped: true, Descriptors: 256, Env: map[string]string{"LOG_LEVEL": "info"}})
	admin := c.AdminToken()
	d := c.EnrollAs(admin)
	client := c.open(t, deviceHello(d, mqttwire.V5))
	other := c.EnrollAs(admin)
	if err := report(client, d, 1); err != nil {
		t.Fatal(err)
	}
	var conns []net.Conn
	defer func() {
		for _, conn := range conns {
			_ = conn.Close()
		}
	}()
	for range 400 { // the kernel completes them; the process cannot accept them all
		conn, err := net.DialTimeout("tcp", c.MQTT(), time.Second)
		if err != nil {
			break
		}
		conns = append(conns, conn)
	}
	Await(t, 10*time.Second, func() bool {
		return reportedIn(c, "accept failed")
	}, func() string { return "the process never ran out of descriptors" })
	for n := 2; n < 50; n++ {
		began := time.Now()
		if err := report(client, d, n); err != nil {
			t.Fatalf("a device that was there before is cut off: %v", err)
		}
		if took := time.Since(began); took > stretch*250*time.Millisecond {
			t.Errorf("its PUBACK took %v", took)
		}
	}
	for _, conn := range conns {
		_ = conn.Close()
	}
	began := time.Now()
	c.client.CloseIdleConnections()
	Await(t, 5*time.Second, func() bool {
		again, _, err := c.try(deviceHello(other, mqttwire.V311))
		if err != nil {
			return false
		}
		defer again.Close()
		return report(again, other, 1) == nil
	}, func() string { return "nobody new gets in after the descriptors are free again" })
	t.Logf("%d sockets against 256 descriptors; a new device got in %v after they closed", len(conns), time.Since(began).Round(time.Millisecond))
	if v := c.Look(d, admin); v.UptimeSec == nil || *v.UptimeSec != 49 {
		t.Errorf("the registry has %+v", v)
	}
	if !c.alive(t) {
		t.Error("the process died")
	}
}
