package webhook_test

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/opticworks/devicecloud/registry"
	"github.com/opticworks/devicecloud/sqlstore"
	"github.com/opticworks/devicecloud/sqlstore/schematest"
	"github.com/opticworks/devicecloud/webhook"
)

// attempt is what a receiver of the tests got.
type attempt struct {
	at time.Time
	webhook.Message
}

// network is every receiver, by URL. What has no answer gets 200.
type network struct {
	mu      sync.Mutex
	answers map[string]func(n int, m webhook.Message) webhook.Result // n counts from 1
	got     map[string][]attempt
}

func (n *network) Post(ctx context.Context, m webhook.Message) webhook.Result {
	n.mu.Lock()
	n.got[m.URL] = append(n.got[m.URL], attempt{time.Now(), m})
	answer, count := n.answers[m.URL], len(n.got[m.URL])
	n.mu.Unlock()
	if answer == nil {
		return webhook.Result{Status: 200}
	}
	r := answer(count, m)
	if r == hang {
		<-ctx.Done()
		if errors.Is(ctx.Err(), context.Canceled) {
			return webhook.Result{Error: "interrupted"}
		}
		return webhook.Result{Error: "timeout"}
	}
	return r
}

// hang is the answer of a receiver that gives none.
var hang = webhook.Result{Status: -1}

func always(r webhook.Result) func(int, webhook.Message) webhook.Result {
	return func(int, webhook.Message) webhook.Result { return r }
}

// attempts is what a receiver got so far.
func (n *network) attempts(url string) []attempt {
	n.mu.Lock()
	defer n.mu.Unlock()
	return slices.Clone(n.got[url])
}

type alerts struct {
	mu   sync.Mutex
	list []string
}

func (a *alerts) Tell(c *registry.Change) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.list = append(a.list, c.Webhook.ID+" "+c.Webhook.Reason)
}

// house is a service over a real store, in virtual time.
type house struct {
	*webhook.Service
	*network
	t      *testing.T
	poll   time.Duration
	db     *sqlstore.DB
	alerts *alerts
	nextID func() int64
	logs   *strings.Builder
}

var admin = registry.Actor{Kind: registry.ActorAdmin, ID: "a1", Scopes: []string{registry.ScopeConfigWrite}}

// inBubble runs a test in virtual time; the service delivers while it runs. Tests of days
// poll less often: each poll is work.
func inBubble(t *testing.T, poll time.Duration, test func(h *house)) {
	synctest.Test(t, func(t *testing.T) {
		h := &house{t: t, poll: poll, network: &network{answers: map[string]func(int, webhook.Message) webhook.Result{}, got: map[string][]attempt{}}, alerts: &alerts{}, logs: &strings.Builder{}}
		var err error
		if h.db, err = sqlstore.Open(t.Context(), schematest.SQLite(t), sqlstore.Options{}); err != nil {
			t.Fatal(err)
		}
		h.nextID = registry.NewIDSource(time.Now)
		h.Service = h.service()
		stop := h.run(h.Service)
		test(h)
		stop()
		if err := h.db.Close(); err != nil {
			t.Error(err)
		}
	})
}

func (h *house) service() *webhook.Service {
	sealer, err := registry.NewSealer([]byte("0123456789abcdef0123456789abcdef"))
	if err != nil {
		h.t.Fatal(err)
	}
	return webhook.New(h.db.Webhooks(), h.alerts, webhook.Options{
		Post: h.network, Poll: h.poll, NextID: h.nextID, Sealer: sealer, Logger: slog.New(slog.NewTextHandler(h.logs, nil)),
	})
}

// run runs a service until stop is called.
func (h *house) run(s *webhook.Service) (stop func()) {
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	go func() {
		defer close(done)
		s.Run(ctx)
	}()
	return func() {
		cancel()
		<-done
	}
}

// register makes an endpoint for a URL.
func (h *house) register(url string, events ...string) (webhook.Endpoint, webhook.Secret) {
	h.t.Helper()
	e, secret, err := h.Create(h.t.Context(), admin, webhook.Change{URL: &url, Events: events})
	if err != nil {
		h.t.Fatal(err)
	}
	return e, secret
}

// emit commits an event about a device.
func (h *house) emit(typ, device string, data map[string]any) {
	h.t.Helper()
	err := h.db.Registry().InTx(context.Background(), func(tx registry.Tx) error {
		return registry.Emit(context.Background(), tx, registry.OutboxEvent{ID: h.nextID(), Type: typ, DeviceID: device, At: time.Now(), Data: data})
	})
	if err != nil {
		h.t.Fatal(err)
	}
}

// wait lets time pass.
func (h *house) wait(d time.Duration) {
	time.Sleep(d)
	synctest.Wait()
}

func (h *house) deliveries(id string, status webhook.Status) []webhook.Delivery {
	h.t.Helper()
	list, err := h.Deliveries(context.Background(), admin, id, status, 0, 200)
	if err != nil {
		h.t.Fatal(err)
	}
	return list
}

func (h *house) endpoint(id string) webhook.Endpoint {
	h.t.Helper()
	e, err := h.Endpoint(context.Background(), admin, id)
	if err != nil {
		h.t.Fatal(err)
	}
	return e
}

const here, there = "https://here.example/", "https://there.example/"

func TestTheRetryPlan(t *testing.T) {
	inBubble(t, 30*time.Second, func(h *house) {
		h.answers[here] = always(webhook.Result{Status: 500, Error: "refused"})
		e, _ := h.register(here, registry.EventClaimed)
		h.emit(registry.EventClaimed, "d1", nil)
		h.wait(100 * time.Hour)
		got := h.attempts(here)
		plan := []time.Duration{5 * time.Second, 5 * time.Minute, 30 * time.Minute, 2 * time.Hour, 5 * time.Hour, 10 * time.Hour, 14 * time.Hour, 20 * time.Hour, 24 * time.Hour}
		if len(got) != len(plan)+1 {
			t.Fatalf("%d attempts", len(got))
		}
		for i, want := range plan {
			if d := got[i+1].at.Sub(got[i].at); d < want || d > want+want/5+h.poll {
				t.Errorf("attempt %d came %v after the one before, not %v to a fifth more", i+2, d, want)
			}
			if got[i+1].ID != got[0].ID || got[i+1].Body != got[0].Body {
				t.Errorf("attempt %d differs in id or body", i+2)
			}
			if !got[i+1].Timestamp.After(got[i].Timestamp) || got[i+1].Signatures == got[i].Signatures {
				t.Errorf("attempt %d has the timestamp or the signature of the one before", i+2)
			}
		}
		if list := h.deliveries(e.ID, webhook.Failed); len(list) != 1 || list[0].Attempt != 10 || list[0].Answer != 500 {
			t.Errorf("in the end %+v", list)
		}
		if c := h.Counters(); c.GivenUp.Load() != 1 || c.Retried.Load() != 9 || c.Delivered.Load() != 0 {
			t.Error("the counters are wrong")
		}
		t.Run("and again when it is replayed", func(t *testing.T) {
			h.answers[here] = func(n int, _ webhook.Message) webhook.Result {
				if n < 12 {
					return webhook.Result{Status: 500, Error: "refused"}
				}
				return webhook.Result{Status: 200}
			}
			d, err := h.Replay(context.Background(), admin, e.ID, got[0].ID)
			if err != nil || d.Status != webhook.Waiting {
				t.Fatal(d, err)
			}
			if _, err := h.Replay(context.Background(), admin, e.ID, got[0].ID); !errors.Is(err, webhook.ErrWaiting) {
				t.Errorf("a second replay: %v", err)
			}
			h.wait(time.Minute)
			if more := h.attempts(here)[10:]; len(more) != 2 || more[1].ID != got[0].ID {
				t.Errorf("replayed: %+v", more)
			}
			if list := h.deliveries(e.ID, webhook.Delivered); len(list) != 1 || list[0].Attempt != 12 {
				t.Errorf("in the end %+v", list)
			}
		})
	})
}

func TestFiveDaysOfFailureDisableAnEndpoint(t *testing.T) {
	inBubble(t, 2*time.Minute, func(h *house) {
		h.answers[here] = always(webhook.Result{Error: "timeout"})
		e, _ := h.register(here, registry.EventOnline)
		other, _ := h.register(there, registry.EventOnline)
		began := time.Now()
		for time.Since(began) < 119*time.Hour {
			h.emit(registry.EventOnline, fmt.Sprint("d", time.Since(began)), nil)
			h.wait(6 * time.Hour)
		}
		if e := h.endpoint(e.ID); !e.Enabled() || e.FailingSince.IsZero() {
			t.Fatalf("before five days: %+v", e)
		}
		h.emit(registry.EventOnline, "d", nil)
		h.wait(12 * time.Hour)
		now := h.endpoint(e.ID)
		if now.DisabledReason != webhook.Failing {
			t.Fatalf("after five days: %+v", now)
		}
		if !slices.Equal(h.alerts.list, []string{e.ID + " failing"}) || h.Counters().Disabled.Load() != 1 || !strings.Contains(h.logs.String(), "disabled") {
			t.Errorf("administrators heard %v", h.alerts.list)
		}
		calls, kept := len(h.attempts(here)), len(h.deliveries(e.ID, ""))
		h.emit(registry.EventOnline, "d2", nil)
		h.wait(48 * time.Hour)
		if len(h.attempts(here)) != calls || len(h.deliveries(e.ID, "")) != kept {
			t.Error("a disabled endpoint was called, or something was kept for it")
		}
		if e := h.endpoint(other.ID); !e.Enabled() {
			t.Error("another endpoint was disabled too")
		}
		if _, err := h.Test(context.Background(), admin, e.ID); !errors.Is(err, webhook.ErrDisabled) {
			t.Errorf("a test of a disabled endpoint: %v", err)
		}

		h.mu.Lock()
		h.answers[here] = nil
		h.mu.Unlock()
		waiting := len(h.deliveries(e.ID, webhook.Waiting))
		if waiting == 0 {
			t.Fatal("nothing waits")
		}
		enabled := true
		if _, err := h.Update(context.Background(), admin, e.ID, webhook.Change{Enabled: &enabled}); err != nil {
			t.Fatal(err)
		}
		h.wait(48 * time.Hour)
		if e := h.endpoint(e.ID); !e.FailingSince.IsZero() || len(h.deliveries(e.ID, webhook.Waiting)) != 0 {
			t.Errorf("enabled again: %+v, %d wait", e, len(h.deliveries(e.ID, webhook.Waiting)))
		}
		var audited []string
		err := h.db.Registry().View(context.Background(), func(tx registry.Tx) error {
			list, err := tx.Audit(context.Background(), registry.AuditFilter{Event: "webhook_disabled", Limit: 10})
			for _, a := range list {
				audited = append(audited, a.Domain+" "+a.Actor+" "+fmt.Sprint(a.Data["webhook_id"] == e.ID))
			}
			return err
		})
		if err != nil || !slices.Equal(audited, []string{"webhook system true"}) {
			t.Errorf("audited %v, %v", audited, err)
		}
	})
}

func TestOneSuccessInFiveDaysKeepsAnEndpoint(t *testing.T) {
	inBubble(t, 2*time.Minute, func(h *house) {
		h.answers[here] = func(n int, _ webhook.Message) webhook.Result {
			if n%9 == 0 {
				return webhook.Result{Status: 202}
			}
			return webhook.Result{Status: 500, Error: "refused"}
		}
		e, _ := h.register(here, registry.EventOnline)
		for i := range 7 {
			h.emit(registry.EventOnline, fmt.Sprint("d", i), nil)
			h.wait(24 * time.Hour)
		}
		if e := h.endpoint(e.ID); !e.Enabled() {
			t.Errorf("%+v", e)
		}
	})
}

func TestGone(t *testing.T) {
	inBubble(t, 10*time.Second, func(h *house) {
		h.answers[here] = always(webhook.Result{Status: 410, Error: "refused"})
		e, _ := h.register(here, registry.EventOnline)
		h.emit(registry.EventOnline, "d1", nil)
		h.emit(registry.EventOnline, "d1", nil)
		h.wait(time.Hour)
		if n := len(h.attempts(here)); n != 1 {
			t.Errorf("called %d times", n)
		}
		if e := h.endpoint(e.ID); e.DisabledReason != webhook.Gone || !slices.Equal(h.alerts.list, []string{e.ID + " gone"}) {
			t.Errorf("%+v, administrators heard %v", e, h.alerts.list)
		}
	})
}

func TestAReceiverThatHasTooMuchToDoIsLeftAlone(t *testing.T) {
	for status, want := range map[int]time.Duration{429: 40 * time.Second, 502: 30 * time.Second, 504: 30 * time.Second, 503: 40 * time.Second, 500: 0} {
		t.Run(fmt.Sprint(status), func(t *testing.T) {
			inBubble(t, 500*time.Millisecond, func(h *house) {
				h.answers[here] = func(n int, _ webhook.Message) webhook.Result {
					if n > 1 {
						return webhook.Result{Status: 200}
					}
					r := webhook.Result{Status: status, Error: "refused"}
					if status == 429 || status == 503 {
						r.RetryAfter = 40 * time.Second
					}
					return r
				}
				h.register(here, registry.EventOnline)
				h.emit(registry.EventOnline, "d1", nil)
				h.wait(2 * time.Second)
				h.emit(registry.EventOnline, "d2", nil) // nothing of its own keeps it back
				h.wait(10 * time.Minute)
				got := h.attempts(here)
				if len(got) != 3 {
					t.Fatalf("%d attempts", len(got))
				}
				d := got[1].at.Sub(got[0].at)
				if want == 0 && d > 4*time.Second || want > 0 && (d < want || d > want+want/5+2*time.Second) {
					t.Errorf("left alone for %v, want %v", d, want)
				}
			})
		})
	}
}

func TestAReceiverThatHangsHoldsUpNobodyElse(t *testing.T) {
	inBubble(t, 500*time.Millisecond, func(h *house) {
		h.answers[here] = always(hang)
		e, _ := h.register(here, registry.EventOnline)
		h.register(there, registry.EventOnline)
		for i := range 30 {
			h.emit(registry.EventOnline, fmt.Sprint("d", i), nil)
		}
		h.wait(2 * time.Second)
		if n := len(h.attempts(there)); n != 30 {
			t.Errorf("the other one got %d of 30", n)
		}
		if n := len(h.attempts(here)); n != 8 {
			t.Errorf("%d attempts at once at one that hangs", n)
		}
		h.wait(14 * time.Second)
		if list := h.deliveries(e.ID, webhook.Waiting); len(list) != 30 || !slices.ContainsFunc(list, func(d webhook.Delivery) bool { return d.Error == "timeout" }) {
			t.Errorf("after 15 seconds: %+v", list)
		}
	})
}

// TestALongQueueOfADeviceHoldsUpNobodyElse has more of it than one transaction looks at.
func TestALongQueueOfADeviceHoldsUpNobodyElse(t *testing.T) {
	inBubble(t, 500*time.Millisecond, func(h *house) {
		h.answers[here] = func(_ int, m webhook.Message) webhook.Result {
			if strings.Contains(m.Body, `"device_id":"a"`) {
				return hang
			}
			return webhook.Result{Status: 200}
		}
		h.register(here, registry.EventOnline)
		for range 600 {
			h.emit(registry.EventOnline, "a", nil)
		}
		h.emit(registry.EventOnline, "b", nil)
		h.wait(time.Second)
		if n := len(h.attempts(here)); n != 2 {
			t.Errorf("%d attempts, want the first of one device and the only one of the other", n)
		}
	})
}

func TestTheOrderOfADeviceIsKept(t *testing.T) {
	inBubble(t, time.Second, func(h *house) {
		var mu sync.Mutex
		refused := map[string]int{}
		h.answers[here] = func(_ int, m webhook.Message) webhook.Result {
			mu.Lock()
			defer mu.Unlock()
			if refused[m.ID]++; strings.Contains(m.Body, `"n":3`) && refused[m.ID] < 3 {
				return webhook.Result{Status: 500, Error: "refused"}
			}
			return webhook.Result{Status: 200}
		}
		h.register(here, registry.EventOnline)
		for n := range 8 {
			h.emit(registry.EventOnline, "a", map[string]any{"n": n})
			h.emit(registry.EventOnline, "b", map[string]any{"n": n + 100})
		}
		h.wait(time.Minute)
		var a, b []string
		for _, m := range h.attempts(here) {
			n := m.Body[strings.Index(m.Body, `"n":`)+4 : len(m.Body)-2]
			if strings.Contains(m.Body, `"device_id":"a"`) {
				a = append(a, n)
			} else {
				b = append(b, n)
			}
		}
		if got := strings.Join(a, " "); got != "0 1 2 3 3" {
			t.Errorf("while one message is refused: %s", got)
		}
		if got := strings.Join(b, " "); got != "100 101 102 103 104 105 106 107" {
			t.Errorf("the other device: %s", got)
		}
		h.wait(time.Hour)
		a = nil
		for _, m := range h.attempts(here) {
			if strings.Contains(m.Body, `"device_id":"a"`) {
				a = append(a, m.Body[strings.Index(m.Body, `"n":`)+4:len(m.Body)-2])
			}
		}
		if got := strings.Join(a, " "); got != "0 1 2 3 3 3 4 5 6 7" {
			t.Errorf("in the end: %s", got)
		}
	})
}

func TestTheEndOfTheProgramLosesNoAttempt(t *testing.T) {
	inBubble(t, 500*time.Millisecond, func(h *house) {
		h.answers[here] = always(hang)
		e, _ := h.register(here, registry.EventOnline)
		second := h.service()
		stop := h.run(second)
		h.emit(registry.EventOnline, "d1", nil)
		h.wait(time.Second)
		before := time.Now()
		stop()
		if took := time.Since(before); took > 4*time.Second {
			t.Errorf("the end took %v", took)
		}
		h.mu.Lock()
		h.answers[here] = nil
		h.mu.Unlock()
		h.wait(time.Minute)
		if list := h.deliveries(e.ID, webhook.Delivered); len(list) != 1 {
			t.Errorf("%+v", h.deliveries(e.ID, ""))
		}
	})
}

func TestRetention(t *testing.T) {
	inBubble(t, 10*time.Minute, func(h *house) {
		h.answers[there] = always(webhook.Result{Status: 500, Error: "refused"})
		e, _ := h.register(here, registry.EventOnline)
		f, _ := h.register(there, registry.EventOnline)
		h.emit(registry.EventOnline, "d1", nil)
		h.wait(6 * 24 * time.Hour)
		if len(h.deliveries(e.ID, webhook.Delivered)) != 1 || len(h.deliveries(f.ID, webhook.Failed)) != 1 {
			t.Error("six days later it is gone")
		}
		h.wait(2 * 24 * time.Hour)
		if len(h.deliveries(e.ID, "")) != 0 || len(h.deliveries(f.ID, webhook.Failed)) != 1 {
			t.Error("eight days later what was delivered is there, or what failed is not")
		}
		h.wait(30 * 24 * time.Hour)
		if len(h.deliveries(f.ID, "")) != 0 {
			t.Error("what failed is there after 38 days")
		}
	})
}
