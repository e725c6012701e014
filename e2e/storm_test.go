package e2e_test

import (
	"encoding/json"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"net/http"
	"os"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/opticworks/devicecloud/firmware-sim/mqttwire"
)

// storm lets several connections claim the same device at once, over and over.
type storm struct {
	t     *testing.T
	cloud *Cloud
	admin string

	takeovers, rounds, twins, deaf, lost atomic.Int64
	goal                                 int64
	mu                                   sync.Mutex
	faults                               []string
}

func (s *storm) fault(format string, args ...any) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.faults = append(s.faults, fmt.Sprintf(format, args...))
}

// rival is one connection that claims a device.
type rival struct {
	*mqttwire.Client
	err error // of its CONNECT; nil: accepted
}

// hold is what a device's storm leaves behind.
type hold struct {
	Device
	live   *rival // the one connection that lives; nil: none
	uptime int
}

// round sends two to four CONNECTs at once, now and then while the connection that
// lives leaves or speaks. Then exactly one connection must answer.
func (s *storm) round(h *hold, rng *rand.Rand) {
	s.rounds.Add(1)
	var rivals []*rival
	for range 2 + rng.IntN(3) {
		client, err := s.dial(rng)
		if err != nil {
			s.fault("dial: %v", err)
			continue
		}
		client.Timeout = 15 * time.Second // longer than a CONNECT may wait for its id
		rivals = append(rivals, &rival{Client: client})
	}
	versions := make([]mqttwire.Version, len(rivals))
	for i := range versions {
		versions[i] = bothVersions[rng.IntN(2)]
	}
	leaves, speaks, how := rng.IntN(4) == 0, rng.IntN(2) == 0, rng.IntN(3)
	pauses := make([]time.Duration, len(rivals))
	for i := range pauses {
		if rng.IntN(2) == 0 {
			pauses[i] = time.Duration(rng.IntN(3000)) * time.Microsecond
		}
	}

	start := make(chan struct{})
	var group sync.WaitGroup
	for i, r := range rivals {
		group.Go(func() {
			<-start
			time.Sleep(pauses[i]) // no wait: it varies how the CONNECTs meet
			hello := deviceHello(h.Device, versions[i])
			hello.Will = &mqttwire.Will{Topic: h.Topic("state"), Payload: []byte(`{"online":false}`), QoS: 1, Retain: true}
			_, r.err = r.Connect(hello)
		})
	}
	reigning := h.live
	if reigning != nil {
		group.Go(func() {
			<-start
			if speaks { // in flight while it is taken over
				_ = reigning.Write(&mqttwire.Packet{Type: mqttwire.SUBSCRIBE, PacketID: 7, Filters: []mqttwire.Filter{{Topic: h.Topic("provision/response"), QoS: 1}}})
				_ = reigning.Write(&mqttwire.Packet{Type: mqttwire.PUBLISH, PacketID: 8, QoS: 1, Topic: h.Topic("state"), Payload: statePayload(h.uptime)})
			}
			if leaves {
				leave(reigning.Client, how)
			}
		})
	}
	close(start)
	group.Wait()

	var claimants []*rival
	accepted := 0
	for _, r := range rivals {
		switch {
		case r.err == nil:
			accepted++
			claimants = append(claimants, r)
		case refusalCode(r.err) != 0 || errors.Is(r.err, os.ErrDeadlineExceeded):
			s.fault("%s: CONNECT: %v", h.ID, r.err)
			_ = r.Close()
		default: // taken over before its CONNACK
			accepted++
			_ = r.Close()
		}
	}
	s.takeovers.Add(int64(accepted))
	if reigning != nil && !leaves {
		claimants = append(claimants, reigning)
	}
	h.live = s.survivor(h, claimants)
	if h.live == nil {
		return
	}
	h.uptime++
	err := report(h.live.Client, h.Device, h.uptime)
	if err == nil && rng.IntN(3) == 0 {
		err = exchange(h.live.Client, h.Device)
	}
	if err != nil {
		s.deaf.Add(1)
		s.fault("%s: the connection that lives is deaf: %v", h.ID, err)
		_ = h.live.Close()
		h.live = nil
	}
}

// survivor pings all at once. Every CONNACK has come, so each of them but one is
// superseded, and its ping must find nobody.
func (s *storm) survivor(h *hold, claimants []*rival) *rival {
	answers := make([]bool, len(claimants))
	var group sync.WaitGroup
	for i, r := range claimants {
		group.Go(func() { answers[i] = r.Ping() == nil })
	}
	group.Wait()
	var live *rival
	for i, r := range claimants {
		switch {
		case answers[i] && live != nil:
			s.twins.Add(1)
			s.fault("%s: two connections live at once", h.ID)
			_ = r.Close()
		case answers[i]:
			live = r
		default:
			_ = r.Close()
		}
	}
	if live == nil && len(claimants) > 0 {
		s.lost.Add(1)
		s.fault("%s: of %d accepted connections none lives", h.ID, len(claimants))
	}
	return live
}

// dial opens TCP, or TLS now and then.
func (s *storm) dial(rng *rand.Rand) (*mqttwire.Client, error) {
	if rng.IntN(8) == 0 {
		return mqttwire.Dial(s.t.Context(), "mqtts://"+s.cloud.MQTTS(), s.cloud.TLS())
	}
	return s.cloud.dialWire()
}

// leave ends a connection: with DISCONNECT, with FIN, or with RST.
func leave(client *mqttwire.Client, how int) {
	switch how {
	case 0:
		_ = client.Disconnect()
	case 1:
		_ = client.Close()
	default:
		if tcp, ok := client.Conn().(*net.TCPConn); ok {
			_ = tcp.SetLinger(0)
		}
		_ = client.Close()
	}
}

// wrongFlags compares the registry with the connections.
func (s *storm) wrongFlags(holds []*hold) (wrong []string) {
	devices := make([]Device, len(holds))
	for i, h := range holds {
		devices[i] = h.Device
	}
	s.cloud.eachView(s.t, s.admin, devices, func(i int, v DeviceView) {
		want := "offline"
		if holds[i].live != nil {
			want = "online"
		}
		if v.Status != want || v.Online != (want == "online") {
			wrong = append(wrong, fmt.Sprintf("%s is %s (%s, epoch %d), and ought to be %s", v.ID, v.Status, v.StatusReason, v.Epoch, want))
		}
	})
	return wrong
}

// settle waits until every flag is right, which the server does by itself and long
// before its sweep.
func (s *storm) settle(holds []*hold) {
	s.t.Helper()
	var wrong []string
	Await(s.t, 10*time.Second, func() bool {
		wrong = s.wrongFlags(holds)
		return len(wrong) == 0
	}, func() string {
		return fmt.Sprintf("%d presence flags are wrong: %v", len(wrong), wrong[:min(5, len(wrong))])
	})
}

// verdict fails the test with what went wrong during the storm.
func (s *storm) verdict() {
	s.t.Helper()
	s.t.Logf("%d takeovers in %d rounds: %d times two lived, %d deaf, %d times none lived", s.takeovers.Load(), s.rounds.Load(), s.twins.Load(), s.deaf.Load(), s.lost.Load())
	reportFaults(s.t, s.faults)
	if n := s.cloud.Metric("registry_presence_corrections_total"); n != 0 {
		s.t.Errorf("the sweep had to correct %v presence flags", n)
	}
	if n := s.cloud.Metric("mqtt_panics_total"); n != 0 {
		s.t.Errorf("%v panics", n)
	}
}

// staff is the administrator as an MQTT user.
func (c *Cloud) staff(t *testing.T) User {
	t.Helper()
	var answer struct {
		Token string `json:"access_token"`
		User  struct {
			ID string `json:"user_id"`
		} `json:"user"`
	}
	c.Post("/admin/auth/login", "", map[string]string{"email": adminEmail, "password": adminPassword}, &answer)
	return User{ID: answer.User.ID, Email: adminEmail, Token: answer.Token}
}

func staffHello(u User, client string, v mqttwire.Version) mqttwire.Connect {
	hello := personHello(u, client, v)
	hello.ClientID, hello.Username = "a:"+u.ID+":"+client, "a:"+u.ID
	return hello
}

// listener is an administrator's app that hears the server's word on presence.
type listener struct {
	mu    sync.Mutex
	last  map[string]announcement // by device id
	wrong []string
	end   error
	ended chan struct{}
}

// announcement is what the server publishes on state after a presence change.
type announcement struct {
	Online bool   `json:"online"`
	Status string `json:"status"`
	Epoch  *int64 `json:"epoch"` // only the server's word has it
}

// listen subscribes to every device's state.
func (c *Cloud) listen(t *testing.T) *listener {
	t.Helper()
	client := c.open(t, staffHello(c.staff(t), "listener", mqttwire.V311))
	if _, err := client.Subscribe(mqttwire.Filter{Topic: topicRoot + "/+/state", QoS: 0}); err != nil {
		t.Fatal(err)
	}
	l := &listener{last: map[string]announcement{}, ended: make(chan struct{})}
	go func() {
		defer close(l.ended)
		pinged := time.Now()
		for {
			p, err := client.Next(10 * time.Second)
			if errors.Is(err, os.ErrDeadlineExceeded) {
				p, err = nil, nil
			}
			if err == nil && time.Since(pinged) > 20*time.Second { // hearing much does not keep a client alive
				pinged = time.Now()
				err = client.Write(&mqttwire.Packet{Type: mqttwire.PINGREQ})
			}
			if err != nil {
				l.mu.Lock()
				l.end = err
				l.mu.Unlock()
				return
			}
			if p != nil {
				l.hear(p)
			}
		}
	}()
	return l
}

func (l *listener) hear(p *mqttwire.Packet) {
	var a announcement
	id := p.Topic[len(topicRoot)+1 : len(topicRoot)+33]
	l.mu.Lock()
	defer l.mu.Unlock()
	if err := json.Unmarshal(p.Payload, &a); err != nil {
		l.wrong = append(l.wrong, fmt.Sprintf("%s: %s: %v", p.Topic, p.Payload, err))
		return
	}
	if a.Epoch == nil {
		return // the device's own report
	}
	if before, ok := l.last[id]; ok && *a.Epoch < *before.Epoch {
		l.wrong = append(l.wrong, fmt.Sprintf("%s: epoch %d was announced after %d", id, *a.Epoch, *before.Epoch))
	}
	l.last[id] = a
}

func TestTakeoverStorm(t *testing.T) {
	const ids, workers = 100, 16
	rng := seeded(t)
	c := Start(t, Options{Env: map[string]string{"LOG_LEVEL": "info"}})
	s := &storm{t: t, cloud: c, admin: c.AdminToken(), goal: int64(scale(2000, 100000))}
	var holds []*hold
	for _, d := range c.enrollMany(t, s.admin, ids) {
		holds = append(holds, &hold{Device: d})
	}
	heard := c.listen(t)
	s.rageAll(holds, workers, rng)

	// A third of those that live leave, each its own way.
	for i, h := range holds {
		if h.live != nil && i%3 == 0 {
			leave(h.live.Client, i/3%3)
			h.live = nil
		}
	}
	s.admin = c.AdminToken()
	s.settle(holds)
	for _, h := range holds { // nobody is deaf who lived through it all
		if h.live == nil {
			continue
		}
		if err := exchange(h.live.Client, h.Device); err != nil {
			s.deaf.Add(1)
			s.fault("%s: at the end: %v", h.ID, err)
		}
	}
	if wrong := s.wrongFlags(holds); len(wrong) > 0 {
		t.Errorf("%d flags that were right have become wrong: %v", len(wrong), wrong[0])
	}
	s.verdict()

	t.Run("subscribers were told the truth last", func(t *testing.T) {
		var wrong []string
		Await(t, 5*time.Second, func() bool {
			heard.mu.Lock()
			defer heard.mu.Unlock()
			wrong = heard.wrong
			for _, h := range holds {
				if a, ok := heard.last[h.ID]; !ok || a.Online != (h.live != nil) {
					wrong = append(wrong[:len(wrong):len(wrong)], fmt.Sprintf("%s: last announced online %t, and live is %t", h.ID, a.Online, h.live != nil))
				}
			}
			return len(wrong) == 0 || heard.end != nil
		}, func() string {
			return fmt.Sprintf("%d announcements are wrong: %v", len(wrong), wrong[:min(3, len(wrong))])
		})
		if heard.end != nil {
			t.Errorf("the listener lost its connection: %v", heard.end)
		}
	})
	for _, h := range holds {
		if h.live != nil {
			_ = h.live.Disconnect()
		}
	}
}

// rageAll storms all devices, each by one goroutine at a time.
func (s *storm) rageAll(holds []*hold, workers int, rng *rand.Rand) {
	seeds := make([]uint64, len(holds))
	for i := range seeds {
		seeds[i] = rng.Uint64()
	}
	sources := make([]*rand.Rand, len(holds))
	for i := range sources {
		sources[i] = rand.New(rand.NewPCG(seeds[i], 3))
	}
	for s.takeovers.Load() < s.goal {
		inParallel(len(holds), workers, func(i int) {
			if s.takeovers.Load() < s.goal {
				s.round(holds[i], sources[i])
			}
		})
	}
}

func TestTakeoverStormThenKill(t *testing.T) {
	const ids, workers = 100, 16
	storms := scale(3, 20)
	rng := seeded(t)
	c := Start(t, Options{Process: true, Shipped: true, Env: map[string]string{"LOG_LEVEL": "info"}})
	s := &storm{t: t, cloud: c, admin: c.AdminToken()}
	var holds []*hold
	for _, d := range c.enrollMany(t, s.admin, ids) {
		holds = append(holds, &hold{Device: d})
	}
	for i := range storms {
		s.goal += int64(scale(2000, 100000) / storms)
		s.rageAll(holds, workers, rng)
		s.admin = c.AdminToken()
		s.settle(holds)
		s.verdict()

		// The last storm's kill is followed by the time after which "unknown" ends.
		last := i == storms-1
		if last {
			c.env["OFFLINE_THRESHOLD_SEC"] = "10"
		}
		c.Kill()
		c.Restart()
		for _, h := range holds {
			if h.live != nil {
				_ = h.live.Close()
				h.live = nil
			}
		}
		for status, want := range map[string]int{"online": 0, "unknown": ids, "offline": 0} {
			var list struct{ Total int }
			c.Get("/admin/devices?status="+status, s.admin, &list)
			if list.Total != want {
				t.Errorf("after kill %d: %d devices are %s, want %d", i, list.Total, status, want)
			}
		}
		// Half of them come back, and nobody else does.
		for _, h := range holds[:ids/2] {
			client := c.open(t, deviceHello(h.Device, bothVersions[rng.IntN(2)]))
			h.live = &rival{Client: client}
			h.uptime++
			if err := report(client, h.Device, h.uptime); err != nil {
				t.Errorf("after kill %d %s: %v", i, h.ID, err)
			}
		}
		devices := make([]Device, ids)
		for i, h := range holds {
			devices[i] = h.Device
		}
		wrong := 0
		c.eachView(t, s.admin, devices, func(i int, v DeviceView) {
			want := "unknown"
			if i < ids/2 {
				want = "online"
			}
			if v.Status != want {
				wrong++
			}
		})
		if wrong > 0 {
			t.Errorf("after kill %d: %d presence flags are wrong", i, wrong)
		}
		if last {
			stayAwake(t, holds[:ids/2])
			Await(t, 30*time.Second, func() bool {
				var list struct{ Total int }
				return c.Do(http.MethodGet, "/admin/devices?status=offline", s.admin, nil, &list) == http.StatusOK && list.Total == ids/2
			}, func() string { return "those who did not come back are not offline" })
			s.settle(holds)
		}
	}
}

// stayAwake pings for the connections until the test ends.
func stayAwake(t *testing.T, holds []*hold) {
	t.Helper()
	stop := make(chan struct{})
	var group sync.WaitGroup
	group.Go(func() {
		tick := time.NewTicker(2 * time.Second)
		defer tick.Stop()
		for {
			for _, h := range holds {
				if err := h.live.Ping(); err != nil {
					t.Errorf("%s: %v", h.ID, err)
					return
				}
			}
			select {
			case <-stop:
				return
			case <-tick.C:
			}
		}
	})
	t.Cleanup(func() {
		close(stop)
		group.Wait()
	})
}
