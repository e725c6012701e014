package e2e_test

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"net/http"
	"os"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/opticworks/devicecloud/firmware-sim/mqttwire"
)

// The clients of the tests that attack, crash and storm: one MQTT connection each,
// packet by packet, over a codec that shares nothing with the server's.

// stretch is by how much a limit on waiting may be exceeded on a slow machine.
const stretch = 5

// scale is the size of a schedule: ci, or soak under DEVICECLOUD_SOAK=1.
func scale(ci, soak int) int {
	if os.Getenv("DEVICECLOUD_SOAK") == "1" {
		return soak
	}
	return ci
}

// seeded is the source of a test's choices. DEVICECLOUD_SEED repeats those of a
// run that failed.
func seeded(t *testing.T) *rand.Rand {
	t.Helper()
	seed := uint64(time.Now().UnixNano())
	if s := os.Getenv("DEVICECLOUD_SEED"); s != "" {
		var err error
		if seed, err = strconv.ParseUint(s, 10, 64); err != nil {
			t.Fatal(err)
		}
	}
	t.Logf("DEVICECLOUD_SEED=%d repeats the choices of this run", seed)
	return rand.New(rand.NewPCG(seed, 1))
}

// bothVersions are the protocol versions that every rule holds for.
var bothVersions = []mqttwire.Version{mqttwire.V311, mqttwire.V5}

// dialWire opens plain TCP to the MQTT listener and says nothing.
func (c *Cloud) dialWire() (*mqttwire.Client, error) {
	conn, err := net.DialTimeout("tcp", c.MQTT(), 10*time.Second)
	if err != nil {
		return nil, err
	}
	return mqttwire.NewClient(conn, mqttwire.V311), nil
}

// deviceHello is the CONNECT of a device.
func deviceHello(d Device, v mqttwire.Version) mqttwire.Connect {
	return mqttwire.Connect{Version: v, ClientID: d.ID, Username: d.ID, Password: []byte(d.Secret), KeepAlive: 60}
}

// personHello is the CONNECT of a person's app; client tells the apps of one
// person apart.
func personHello(u User, client string, v mqttwire.Version) mqttwire.Connect {
	return mqttwire.Connect{Version: v, ClientID: "u:" + u.ID + ":" + client, Username: "u:" + u.ID, Password: []byte(u.Token), KeepAlive: 60}
}

// try connects with that CONNECT. A refusal is an error, and the connection closed.
func (c *Cloud) try(hello mqttwire.Connect, props ...mqttwire.Property) (*mqttwire.Client, *mqttwire.Packet, error) {
	client, err := c.dialWire()
	if err != nil {
		return nil, nil, err
	}
	ack, err := client.Connect(hello, props...)
	if err != nil {
		_ = client.Close()
		return nil, ack, err
	}
	return client, ack, nil
}

// open is try that must succeed; the connection ends with the test.
func (c *Cloud) open(t *testing.T, hello mqttwire.Connect, props ...mqttwire.Property) *mqttwire.Client {
	t.Helper()
	client, _, err := c.try(hello, props...)
	if err != nil {
		t.Fatalf("client %s is not let in: %v", hello.ClientID, err)
	}
	t.Cleanup(func() { _ = client.Close() })
	return client
}

// statePayload is a good state message.
func statePayload(uptime int) []byte {
	return fmt.Appendf(nil, `{"online":true,"firmware_version":"1.2.3","uptime_sec":%d,"wifi_rssi":%d}`, uptime, rssiOf(uptime))
}

// rssiOf goes with an uptime, so that a row of two messages shows.
func rssiOf(uptime int) int { return -1 - uptime%100 }

func provisionPayload(d Device) []byte { return fmt.Appendf(nil, provisionOf, d.ID, d.MAC) }

// report publishes a state at QoS 1 and waits for its PUBACK.
func report(client *mqttwire.Client, d Device, uptime int) error {
	_, err := client.Publish(mqttwire.Message{Topic: d.Topic("state"), Payload: statePayload(uptime), QoS: 1, Retain: true})
	return err
}

// exchange proves that a device's connection hears as well as it speaks: it
// subscribes to the answer, provisions, and gets it.
func exchange(client *mqttwire.Client, d Device) error {
	if _, err := client.Subscribe(mqttwire.Filter{Topic: d.Topic("provision/response"), QoS: 1}); err != nil {
		return err
	}
	if _, err := client.Publish(mqttwire.Message{Topic: d.Topic("provision"), Payload: provisionPayload(d), QoS: 1}); err != nil {
		return err
	}
	answer, err := client.Next(10 * time.Second)
	if err != nil {
		return fmt.Errorf("the answer to provision: %w", err)
	}
	if !strings.Contains(string(answer.Payload), `"registered"`) {
		return fmt.Errorf("provision/response is %s", answer.Payload)
	}
	return nil
}

// closedWithin reports whether the server ends the connection in time, and the
// code of its DISCONNECT, 0 if it sent none.
func closedWithin(client *mqttwire.Client, limit time.Duration) (code mqttwire.ReasonCode, closed bool) {
	last, err := client.Drain(limit)
	for _, p := range last {
		if p.Type == mqttwire.DISCONNECT {
			code = p.ReasonCode
		}
	}
	return code, !errors.Is(err, os.ErrDeadlineExceeded)
}

// refusalCode is the code of a CONNACK, PUBACK or SUBACK that refused; 0 when err
// is something else.
func refusalCode(err error) mqttwire.ReasonCode {
	var r *mqttwire.RefusedError
	if errors.As(err, &r) {
		return r.Code
	}
	return 0
}

// enrollMany enrols devices with one request.
func (c *Cloud) enrollMany(t *testing.T, adminToken string, n int) []Device {
	t.Helper()
	devices := make([]Device, n)
	text := bytes.NewBufferString("mac_address,device_secret_hash\n")
	for i := range devices {
		devices[i] = NewDevice()
		hash := sha256.Sum256([]byte(devices[i].Secret))
		fmt.Fprintf(text, "%s,%s\n", devices[i].MAC, hex.EncodeToString(hash[:]))
	}
	req, err := http.NewRequest(http.MethodPost, c.API()+"/admin/devices/import", text)
	if err != nil {
		t.Fatal(err)
	}
	req.Header.Set("Content-Type", "text/csv")
	req.Header.Set("Authorization", "Bearer "+adminToken)
	res, err := c.client.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer res.Body.Close()
	var answer struct{ Created int }
	if err := json.NewDecoder(res.Body).Decode(&answer); err != nil || answer.Created != n {
		t.Fatalf("the import answers %d, %+v, %v", res.StatusCode, answer, err)
	}
	return devices
}

// owned makes a person who owns a device that has provisioned.
func (c *Cloud) owned(t *testing.T, admin, email string, d Device) User {
	t.Helper()
	c.Sell(d, email)
	user := c.UserToken(email)
	client := c.open(t, deviceHello(d, mqttwire.V311))
	if err := exchange(client, d); err != nil {
		t.Fatal(err)
	}
	if err := client.Disconnect(); err != nil {
		t.Fatal(err)
	}
	c.AwaitDevice(d, admin, "owned and gone", func(v DeviceView) bool {
		return v.Status == "offline" && v.Owner != nil && v.Owner.UserID == user.ID
	})
	return user
}

// view reads a device as an administrator, from any goroutine.
func (c *Cloud) view(id, adminToken string) (DeviceView, error) {
	var v DeviceView
	status, text, err := c.request(http.MethodGet, "/admin/devices/"+id, adminToken, nil)
	if err == nil && status != http.StatusOK {
		err = fmt.Errorf("GET /admin/devices/%s answered %d: %s", id, status, text)
	}
	if err != nil {
		return v, err
	}
	return v, json.Unmarshal(text, &v)
}

// eachView reads many devices, a few at a time, and calls f with each from one
// goroutine.
func (c *Cloud) eachView(t *testing.T, adminToken string, devices []Device, f func(i int, v DeviceView)) {
	t.Helper()
	views, failures := make([]DeviceView, len(devices)), make([]error, len(devices))
	inParallel(len(devices), 8, func(i int) { views[i], failures[i] = c.view(devices[i].ID, adminToken) })
	for i, err := range failures {
		if err != nil {
			t.Fatal(err)
		}
		f(i, views[i])
	}
}

// inParallel calls f(0) to f(n-1) from so many goroutines.
func inParallel(n, workers int, f func(i int)) {
	work := make(chan int)
	var group sync.WaitGroup
	for range min(workers, n) {
		group.Go(func() {
			for i := range work {
				f(i)
			}
		})
	}
	for i := range n {
		work <- i
	}
	close(work)
	group.Wait()
}

// pid is the process of a cloud that is one.
func (c *Cloud) pid(t *testing.T) int {
	t.Helper()
	p, ok := c.runner.(*process)
	if !ok {
		t.Fatal("the cloud is no process of its own")
	}
	return p.cmd.Process.Pid
}

// alive reports whether the process of the cloud has not ended.
func (c *Cloud) alive(t *testing.T) bool {
	t.Helper()
	return syscall.Kill(c.pid(t), 0) == nil
}

// peakMemory is the most memory that the process ever had resident, in bytes.
func (c *Cloud) peakMemory(t *testing.T) int {
	t.Helper()
	return c.memory(t, "VmHWM")
}

// memory reads a figure of the process in bytes: VmRSS now, VmHWM at its highest.
func (c *Cloud) memory(t *testing.T, figure string) int {
	t.Helper()
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", c.pid(t)))
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(string(text)) {
		if rest, ok := strings.CutPrefix(line, figure+":"); ok {
			kilobytes, err := strconv.Atoi(strings.TrimSuffix(strings.TrimSpace(rest), " kB"))
			if err != nil {
				t.Fatal(err)
			}
			return kilobytes << 10
		}
	}
	t.Fatalf("no %s in %s", figure, text)
	return 0
}

// durations are measured times.
type durations []time.Duration

func (ds durations) percentile(p float64) time.Duration {
	if len(ds) == 0 {
		return 0
	}
	sorted := slices.Sorted(slices.Values(ds))
	return sorted[min(len(sorted)-1, int(p*float64(len(sorted))))]
}

// witness watches a cloud while others attack it: a bystander pings, and a device
// reports at QoS 1, without a pause.
type witness struct {
	t     *testing.T
	cloud *Cloud
	admin string
	stop  context.CancelFunc
	group sync.WaitGroup

	device  Device // that reports
	mu      sync.Mutex
	pings   durations
	acks    durations
	acked   int // the last uptime
	failure error
}

// watch starts a witness. Its limits are checked by done.
func (c *Cloud) watch(t *testing.T, admin string) *witness {
	t.Helper()
	ctx, stop := context.WithCancel(context.Background())
	w := &witness{t: t, cloud: c, admin: admin, stop: stop, device: c.EnrollAs(admin)}
	bystander := c.open(t, deviceHello(c.EnrollAs(admin), mqttwire.V5))
	reporter := c.open(t, deviceHello(w.device, mqttwire.V311))
	w.run(ctx, func(int) error { return bystander.Ping() }, &w.pings)
	w.run(ctx, func(n int) error {
		err := report(reporter, w.device, n)
		if err == nil {
			w.mu.Lock()
			w.acked = n
			w.mu.Unlock()
		}
		return err
	}, &w.acks)
	t.Cleanup(func() { stop(); w.group.Wait() })
	return w
}

// run repeats an exchange with the server and takes its time.
func (w *witness) run(ctx context.Context, once func(n int) error, into *durations) {
	w.group.Go(func() {
		tick := time.NewTicker(10 * time.Millisecond)
		defer tick.Stop()
		for n := 1; ctx.Err() == nil; n++ {
			began := time.Now()
			err := once(n)
			w.mu.Lock()
			*into = append(*into, time.Since(began))
			if err != nil {
				w.failure = errors.Join(w.failure, fmt.Errorf("exchange %d: %w", n, err))
			}
			w.mu.Unlock()
			if err != nil {
				return
			}
			<-tick.C
		}
	})
}

// pass waits until both have had so many more answers, which shows that the cloud
// is well now.
func (w *witness) pass(more int) {
	w.t.Helper()
	count := func() (int, int) {
		w.mu.Lock()
		defer w.mu.Unlock()
		return len(w.pings), len(w.acks)
	}
	pings, acks := count()
	Await(w.t, 10*time.Second, func() bool {
		p, a := count()
		w.mu.Lock()
		defer w.mu.Unlock()
		return w.failure != nil || p >= pings+more && a >= acks+more
	}, func() string { return "the bystander or the reporting device gets no answers" })
}

// done ends the watch and judges it: nobody was cut off, a ping was answered
// within 100 ms, ingest never stopped, and what was acknowledged is there.
func (w *witness) done() {
	w.t.Helper()
	w.stop()
	w.group.Wait()
	w.t.Logf("bystander: %d pings, p99 %v, longest %v; ingest: %d PUBACKs, p99 %v, longest %v",
		len(w.pings), w.pings.percentile(.99), w.pings.percentile(1), len(w.acks), w.acks.percentile(.99), w.acks.percentile(1))
	if w.failure != nil {
		w.t.Errorf("somebody who did nothing wrong was cut off: %v", w.failure)
	}
	if longest := w.pings.percentile(1); longest > stretch*100*time.Millisecond {
		w.t.Errorf("a bystander's ping took %v, want 100 ms", longest)
	}
	if p99 := w.acks.percentile(.99); p99 > stretch*250*time.Millisecond {
		w.t.Errorf("p99 of a PUBACK is %v, want 250 ms", p99)
	}
	if v, err := w.cloud.view(w.device.ID, w.admin); err != nil || v.UptimeSec == nil || *v.UptimeSec < int64(w.acked) {
		w.t.Errorf("uptime %d is acknowledged, and the registry has %+v (%v)", w.acked, v, err)
	}
	if reportedIn(w.cloud, w.device.Secret) {
		w.t.Error("the device's secret is in the log")
	}
}

// flood writes until the connection ends or the time is over, and returns how much
// went out.
func flood(conn net.Conn, chunk []byte, limit time.Duration) (sent int, err error) {
	if err := conn.SetWriteDeadline(time.Now().Add(limit)); err != nil {
		return 0, err
	}
	for {
		n, err := conn.Write(chunk)
		sent += n
		if err != nil {
			return sent, err
		}
	}
}

// reportedIn reports whether the cloud has logged that text.
func reportedIn(c *Cloud, text string) bool { return strings.Contains(c.Log(), text) }
