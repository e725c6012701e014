package registry_test

import (
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/opticworks/devicecloud/registry"
	"github.com/opticworks/devicecloud/topic"
)

// line is MQTT as commands see it: what was handed to a device, and what that failed with.
type line struct {
	mu   sync.Mutex
	got  []registry.CommandDelivery
	fail error
	sent chan registry.CommandDelivery
}

func (l *line) deliver(_ string, _ int64, c registry.CommandDelivery) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.fail != nil {
		return l.fail
	}
	l.got = append(l.got, c)
	l.sent <- c
	return nil
}

func (l *line) breaks(err error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.fail = err
}

// clock is a time that the test moves.
type testClock struct {
	mu sync.Mutex
	t  time.Time
}

func (c *testClock) now() time.Time {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.t
}

func (c *testClock) add(d time.Duration) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.t = c.t.Add(d)
}

// barracks is a house with a device, its owner, a line and a clock.
type barracks struct {
	*house
	line  *line
	clock *testClock
	dev   device
	owner registry.Actor
}

func newBarracks(t *testing.T, opts registry.Options) *barracks {
	t.Helper()
	b := &barracks{line: &line{sent: make(chan registry.CommandDelivery, 100)}, clock: &testClock{t: time.Now().Truncate(time.Second)}}
	opts.Now = b.clock.now
	b.house = open(t, opts)
	b.courier.command = b.line.deliver
	b.dev = b.enroll(1)
	b.user("u1", "u1@example.com")
	b.own("u1", registry.RoleOwner)
	b.owner = person("u1")
	b.owner.ProvedAt = b.clock.now()
	return b
}

func (b *barracks) own(user string, role registry.Role) {
	b.t.Helper()
	err := b.db.Registry().InTx(ctx, func(tx registry.Tx) error {
		d, err := tx.Device(ctx, b.dev.id)
		if err != nil {
			return err
		}
		_, err = tx.InsertOwnership(ctx, registry.Ownership{DeviceNo: d.No, UserID: user, Role: role, At: time.Now()})
		return err
	})
	if err != nil {
		b.t.Fatal(err)
	}
}

// online connects the device and has it subscribe to commands.
func (b *barracks) online() *registry.Session {
	b.t.Helper()
	s := b.connect(b.dev)
	b.CommandsReady(s)
	b.idle()
	return s
}

// idle waits until what was waiting has been sent.
func (b *barracks) idle() {
	b.t.Helper()
	for deadline := time.Now().Add(10 * time.Second); !registry.CommandsIdle(b.Registry, b.dev.id); time.Sleep(time.Millisecond) {
		if time.Now().After(deadline) {
			b.t.Fatal("it sends for ever")
		}
	}
}

func (b *barracks) send(requestID, typ string) registry.Command {
	b.t.Helper()
	c, _, err := b.SendCommand(ctx, b.owner, b.dev.id, registry.CommandRequest{RequestID: requestID, Type: typ})
	if err != nil {
		b.t.Fatalf("%s %s: %v", requestID, typ, err)
	}
	return c
}

func (b *barracks) next() registry.CommandDelivery {
	b.t.Helper()
	select {
	case c := <-b.line.sent:
		return c
	case <-time.After(5 * time.Second):
		b.t.Fatal("nothing was sent")
	}
	return registry.CommandDelivery{}
}

// is waits until a command has a state.
func (b *barracks) is(c registry.Command, want registry.CommandStatus, code string) registry.Command {
	b.t.Helper()
	deadline := time.Now().Add(5 * time.Second)
	for {
		got, err := b.Command(ctx, b.owner, b.dev.id, c.ID)
		if err != nil {
			b.t.Fatal(err)
		}
		if got.Status == want && got.Code == code {
			return got
		}
		if time.Now().After(deadline) {
			b.t.Fatalf("%s is %s %q, want %s %q", c.RequestID, got.Status, got.Code, want, code)
		}
		time.Sleep(time.Millisecond)
	}
}

func (b *barracks) answer(s *registry.Session, c registry.Command, status string) (news bool) {
	b.t.Helper()
	news, err := b.AnswerCommand(ctx, s, fmt.Appendf(nil, `{"command_id":%q,"status":%q,"code":"C","result":{"a":1}}`, c.ID, status))
	if err != nil {
		b.t.Fatal(err)
	}
	return news
}

func (b *barracks) refused(err, want error) {
	b.t.Helper()
	if !errors.Is(err, want) {
		b.t.Errorf("got %v, want %v", err, want)
	}
}

func TestCommandLife(t *testing.T) {
	t.Run("goes straight to a device that is connected, and through each state", func(t *testing.T) {
		b := newBarracks(t, registry.Options{})
		s := b.online()
		c := b.send("r1", "identify")
		if c.Status != registry.CommandSent {
			t.Errorf("it is %s", c.Status)
		}
		d := b.next()
		var p struct {
			ID      string `json:"command_id"`
			Attempt int
			Expires time.Time `json:"expires_at"`
		}
		if err := json.Unmarshal(d.Payload, &p); err != nil || p.ID != c.ID || p.Attempt != 1 || !p.Expires.Equal(c.ExpiresAt) || len(p.ID) != 26 {
			t.Errorf("%s: %v", d.Payload, err)
		}
		b.CommandReceived(s, c.ID)
		b.is(c, registry.CommandDelivered, "")
		for _, status := range []string{"accepted", "in_progress", "accepted"} {
			b.answer(s, c, status)
		}
		b.is(c, registry.CommandInProgress, "")
		if !b.answer(s, c, "succeeded") {
			t.Error("the answer is no news")
		}
		got := b.is(c, registry.CommandSucceeded, "C")
		if got.Result != `{"a":1}` || got.FinishedAt.IsZero() {
			t.Errorf("%+v", got)
		}
		if b.answer(s, c, "succeeded") || b.answer(s, c, "failed") || b.answer(s, c, "rejected") {
			t.Error("an answer after the end is news")
		}
		b.is(c, registry.CommandSucceeded, "C")
		if got := b.audit(b.dev.id); slices.Index(got, "command_issued") < 0 || slices.Index(got, "command_finished") < 0 || strings.Count(strings.Join(got, " "), "late_response") != 1 {
			t.Errorf("audited %v", got)
		}
	})
	t.Run("waits for a device that is away, in order and at a pace", func(t *testing.T) {
		b := newBarracks(t, registry.Options{})
		var all []registry.Command
		for i := range 3 {
			all = append(all, b.send(fmt.Sprint("r", i), "identify"))
			b.is(all[i], registry.CommandQueued, "")
		}
		begin := time.Now()
		b.online()
		for _, c := range all {
			if d := b.next(); d.CommandID != c.ID {
				t.Errorf("%s is out of order", d.CommandID)
			}
		}
		if took := time.Since(begin); took < 400*time.Millisecond {
			t.Errorf("three in %v", took)
		}
	})
	t.Run("is sent again over the next connection until it is acknowledged", func(t *testing.T) {
		b := newBarracks(t, registry.Options{})
		s := b.online()
		c := b.send("r1", "identify")
		b.next()
		b.CommandsGone(s)
		s = b.online()
		if d := b.next(); d.CommandID != c.ID || !strings.Contains(string(d.Payload), `"attempt":2`) {
			t.Errorf("%s", d.Payload)
		}
		b.CommandReceived(s, c.ID)
		b.is(c, registry.CommandDelivered, "")
	})
	t.Run("is sent again when it was acknowledged and the connection was lost before the answer", func(t *testing.T) {
		b := newBarracks(t, registry.Options{})
		s := b.online()
		c := b.send("r1", "identify")
		b.next()
		b.CommandReceived(s, c.ID)
		b.is(c, registry.CommandDelivered, "")
		b.CommandsGone(s)
		s = b.online()
		b.next()
		b.answer(s, c, "succeeded")
		b.is(c, registry.CommandSucceeded, "C")
	})
	t.Run("is not taken from an older connection", func(t *testing.T) {
		b := newBarracks(t, registry.Options{})
		s := b.online()
		c := b.send("r1", "identify")
		b.connect(b.dev)
		_, err := b.AnswerCommand(ctx, s, fmt.Appendf(nil, `{"command_id":%q,"status":"succeeded"}`, c.ID))
		b.refused(err, registry.ErrStale)
	})
	t.Run("is not another device's to answer", func(t *testing.T) {
		b := newBarracks(t, registry.Options{})
		b.online()
		c := b.send("r1", "identify")
		other := b.connect(b.enroll(2))
		if _, err := b.AnswerCommand(ctx, other, fmt.Appendf(nil, `{"command_id":%q,"status":"succeeded"}`, c.ID)); err != nil {
			t.Error(err)
		}
		b.is(c, registry.CommandSent, "")
	})
	t.Run("goes back to the queue when the connection breaks under it", func(t *testing.T) {
		b := newBarracks(t, registry.Options{})
		b.online()
		b.line.breaks(registry.ErrOffline)
		c := b.send("r1", "identify")
		if c.Status != registry.CommandQueued || c.Attempt != 0 {
			t.Errorf("it is %s after %d attempts", c.Status, c.Attempt)
		}
		b.line.breaks(nil)
		b.online()
		b.next()
	})
	t.Run("waits while the device has too much to acknowledge", func(t *testing.T) {
		b := newBarracks(t, registry.Options{})
		b.online()
		b.line.breaks(registry.E(registry.RateLimited, "device_busy", ""))
		c := b.send("r1", "identify")
		b.is(c, registry.CommandQueued, "")
		b.line.breaks(nil)
		b.next()
		b.is(c, registry.CommandSent, "")
	})
	t.Run("that restarts the device succeeds when it is back with less uptime", func(t *testing.T) {
		b := newBarracks(t, registry.Options{})
		s := b.online()
		c := b.send("r1", "reboot")
		b.next()
		b.CommandReceived(s, c.ID)
		b.is(c, registry.CommandDelivered, "")
		b.clock.add(10 * time.Second)
		b.CommandsGone(s)
		for _, tc := range []struct {
			uptime int
			want   registry.CommandStatus
		}{{500, registry.CommandDelivered}, {3, registry.CommandSucceeded}} {
			s = b.online()
			b.clock.add(time.Second)
			if err := b.ReportState(s, fmt.Appendf(nil, `{"online":true,"firmware_version":"1","uptime_sec":%d,"wifi_rssi":-5}`, tc.uptime)); err != nil {
				t.Fatal(err)
			}
			if err := b.Health(ctx); err != nil {
				t.Fatal(err)
			}
			b.is(c, tc.want, "")
			b.CommandsGone(s)
		}
		if len(b.line.got) != 1 {
			t.Errorf("it was sent %d times", len(b.line.got))
		}
	})
	t.Run("that updates the firmware ends with the report of the update", func(t *testing.T) {
		b := newBarracks(t, registry.Options{})
		s := b.online()
		params := json.RawMessage(`{"version":"2.0","url":"https://example.com/f?sig=abc","sha256":"` + strings.Repeat("a", 64) + `"}`)
		c, _, err := b.SendCommand(ctx, b.owner, b.dev.id, registry.CommandRequest{RequestID: "r1", Type: "ota", Params: params})
		if err != nil {
			t.Fatal(err)
		}
		if strings.Contains(c.Shown(), "abc") {
			t.Errorf("shown as %s", c.Shown())
		}
		for _, status := range []string{"downloading", "success"} {
			if err := b.KeepReport(s, topic.OTAStatus, fmt.Appendf(nil, `{"version":"2.0","status":%q}`, status)); err != nil {
				t.Fatal(err)
			}
		}
		b.is(c, registry.CommandSucceeded, "")
	})
}

func TestCommandTimers(t *testing.T) {
	b := newBarracks(t, registry.Options{})
	c := b.send("r1", "identify")
	b.clock.add(61 * time.Second)
	t.Run("a command is not sent after its time", func(t *testing.T) {
		s := b.online()
		b.is(c, registry.CommandExpired, "expired")
		if len(b.line.sent) > 0 {
			t.Error("it was sent")
		}
		b.CommandsGone(s)
	})
	t.Run("a command that waited for too long expires by itself", func(t *testing.T) {
		c := b.send("r2", "identify")
		b.clock.add(61 * time.Second)
		if err := registry.SweepCommands(b.Registry); err != nil {
			t.Fatal(err)
		}
		b.is(c, registry.CommandExpired, "expired")
	})
	s := b.online()
	t.Run("a command that was never acknowledged times out", func(t *testing.T) {
		c := b.send("r3", "identify")
		b.next()
		b.clock.add(59 * time.Second)
		if err := registry.SweepCommands(b.Registry); err != nil {
			t.Fatal(err)
		}
		b.is(c, registry.CommandSent, "")
		b.clock.add(2 * time.Second)
		if err := registry.SweepCommands(b.Registry); err != nil {
			t.Fatal(err)
		}
		b.is(c, registry.CommandTimedOut, "not_acknowledged")
	})
	t.Run("a command that was never answered times out by its type", func(t *testing.T) {
		time.Sleep(210 * time.Millisecond) // the pace of commands, which is the wall clock's
		c := b.send("r4", "identify")
		b.next()
		b.CommandReceived(s, c.ID)
		b.is(c, registry.CommandDelivered, "")
		b.clock.add(11 * time.Second)
		if err := registry.SweepCommands(b.Registry); err != nil {
			t.Fatal(err)
		}
		b.is(c, registry.CommandTimedOut, "no_answer")
	})
}

func TestCommandRequests(t *testing.T) {
	t.Run("are idempotent by their id", func(t *testing.T) {
		b := newBarracks(t, registry.Options{Commands: registry.CommandLimits{PerDevice: registry.Rate{Interval: time.Minute, Burst: 1}}})
		first := b.send("r1", "identify")
		again, duplicate, err := b.SendCommand(ctx, b.owner, b.dev.id, registry.CommandRequest{RequestID: "r1", Type: "identify", Params: json.RawMessage(` { } `)})
		if err != nil || !duplicate || again.ID != first.ID {
			t.Errorf("%v %v %v", again.ID, duplicate, err)
		}
		_, _, err = b.SendCommand(ctx, b.owner, b.dev.id, registry.CommandRequest{RequestID: "r1", Type: "reboot"})
		b.refused(err, registry.ErrRequestConflict)
		_, _, err = b.SendCommand(ctx, b.owner, b.dev.id, registry.CommandRequest{RequestID: "r2", Type: "identify"})
		var e *registry.Error
		if !errors.As(err, &e) || e.Code != "RATE_LIMITED" || e.Scope != "device" || e.RetryAfter <= 0 {
			t.Errorf("%v", err)
		}
	})
	t.Run("racing with one id make one command", func(t *testing.T) {
		b := newBarracks(t, registry.Options{})
		b.online()
		var wg sync.WaitGroup
		var mu sync.Mutex
		ids, fresh := map[string]bool{}, 0
		for range 200 {
			wg.Go(func() {
				c, duplicate, err := b.SendCommand(ctx, b.owner, b.dev.id, registry.CommandRequest{RequestID: "r1", Type: "identify"})
				mu.Lock()
				defer mu.Unlock()
				if err != nil {
					t.Error(err)
				}
				if ids[c.ID] = true; !duplicate {
					fresh++
				}
			})
		}
		wg.Wait()
		if len(ids) != 1 || fresh != 1 || len(b.line.sent) != 1 {
			t.Errorf("%d ids, %d fresh, %d sent", len(ids), fresh, len(b.line.sent))
		}
	})
	t.Run("are limited by user, device and type", func(t *testing.T) {
		b := newBarracks(t, registry.Options{Commands: registry.CommandLimits{PerUser: registry.Rate{Interval: time.Second, Burst: 4}, ByType: true}})
		for i, want := range []string{"", "", "", "type"} {
			_, _, err := b.SendCommand(ctx, b.owner, b.dev.id, registry.CommandRequest{RequestID: fmt.Sprint(i), Type: "reboot"})
			if got := scope(err); got != want {
				t.Errorf("reboot %d: %v", i, err)
			}
		}
		b.send("x", "identify")
		_, _, err := b.SendCommand(ctx, b.owner, b.dev.id, registry.CommandRequest{RequestID: "y", Type: "identify"})
		if scope(err) != "user" {
			t.Errorf("%v", err)
		}
	})
	t.Run("fill the queue, and the newest is refused", func(t *testing.T) {
		b := newBarracks(t, registry.Options{})
		for i := range 20 {
			b.send(fmt.Sprint(i), "identify")
		}
		_, _, err := b.SendCommand(ctx, b.owner, b.dev.id, registry.CommandRequest{RequestID: "x", Type: "identify"})
		b.refused(err, registry.ErrQueueFull)
	})
	t.Run("of a configuration give way to the newest", func(t *testing.T) {
		b := newBarracks(t, registry.Options{})
		params := json.RawMessage(`{"zones":[]}`)
		send := func(id string) registry.Command {
			c, _, err := b.SendCommand(ctx, b.owner, b.dev.id, registry.CommandRequest{RequestID: id, Type: "set-config", Params: params})
			if err != nil {
				t.Fatal(err)
			}
			return c
		}
		first, second := send("r1"), send("r2")
		b.is(first, registry.CommandCancelled, "superseded")
		b.is(second, registry.CommandQueued, "")
	})
	t.Run("are cancelled in the queue alone", func(t *testing.T) {
		b := newBarracks(t, registry.Options{})
		c := b.send("r1", "identify")
		for range 2 {
			if got, err := b.CancelCommand(ctx, b.owner, b.dev.id, c.ID); err != nil || got.Status != registry.CommandCancelled {
				t.Errorf("%s %v", got.Status, err)
			}
		}
		b.online()
		sent := b.send("r2", "identify")
		_, err := b.CancelCommand(ctx, b.owner, b.dev.id, sent.ID)
		b.refused(err, registry.ErrAlreadySent)
		_, err = b.CancelCommand(ctx, b.owner, b.dev.id, "nonsense")
		b.refused(err, registry.ErrCommandNotFound)
		if d := b.next(); d.CommandID != sent.ID {
			t.Error("the cancelled one was sent")
		}
	})
	t.Run("that are now or never do not wait", func(t *testing.T) {
		b := newBarracks(t, registry.Options{})
		none := time.Duration(0)
		_, _, err := b.SendCommand(ctx, b.owner, b.dev.id, registry.CommandRequest{RequestID: "r1", Type: "identify", TTL: &none})
		b.refused(err, registry.ErrOffline)
		_, _, err = b.SendCommand(ctx, b.owner, b.dev.id, registry.CommandRequest{RequestID: "r2", Type: "unlock"})
		b.refused(err, registry.ErrOffline)
		b.online()
		b.line.breaks(registry.ErrOffline)
		_, _, err = b.SendCommand(ctx, b.owner, b.dev.id, registry.CommandRequest{RequestID: "r3", Type: "unlock"})
		b.refused(err, registry.ErrOffline)
	})
	t.Run("that cannot be undone are an owner's who has just signed in", func(t *testing.T) {
		b := newBarracks(t, registry.Options{})
		b.online()
		b.user("u2", "u2@example.com")
		b.own("u2", registry.RoleAdmin)
		shared := person("u2")
		shared.ProvedAt = b.clock.now()
		req := registry.CommandRequest{RequestID: "r1", Type: "factory-reset"}
		_, _, err := b.SendCommand(ctx, shared, b.dev.id, req)
		b.refused(err, registry.ErrInsufficientRole)
		old := b.owner
		old.ProvedAt = b.clock.now().Add(-5*time.Minute - time.Second)
		_, _, err = b.SendCommand(ctx, old, b.dev.id, req)
		b.refused(err, registry.ErrReauthenticate)
		if _, _, err := b.SendCommand(ctx, b.owner, b.dev.id, req); err != nil {
			t.Error(err)
		}
		if err := b.Health(ctx); err != nil {
			t.Fatal(err)
		}
		if n := strings.Count(strings.Join(b.audit(b.dev.id), " "), "command_denied"); n != 2 {
			t.Errorf("%d refusals were audited", n)
		}
	})
	t.Run("of a type that the firmware has rejected are refused", func(t *testing.T) {
		b := newBarracks(t, registry.Options{})
		s := b.online()
		if err := b.ReportState(s, []byte(`{"online":true,"firmware_version":"1","uptime_sec":9,"wifi_rssi":-5}`)); err != nil {
			t.Fatal(err)
		}
		c := b.send("r1", "sing")
		if _, err := b.AnswerCommand(ctx, s, fmt.Appendf(nil, `{"command_id":%q,"status":"rejected","code":"UNSUPPORTED_COMMAND"}`, c.ID)); err != nil {
			t.Fatal(err)
		}
		_, _, err := b.SendCommand(ctx, b.owner, b.dev.id, registry.CommandRequest{RequestID: "r2", Type: "sing"})
		b.refused(err, registry.ErrUnsupported)
	})
	t.Run("do not leave after their issuer lost the right", func(t *testing.T) {
		b := newBarracks(t, registry.Options{})
		b.user("u2", "u2@example.com")
		b.own("u2", registry.RoleAdmin)
		c, _, err := b.SendCommand(ctx, person("u2"), b.dev.id, registry.CommandRequest{RequestID: "r1", Type: "identify"})
		if err != nil {
			t.Fatal(err)
		}
		kept := b.send("r2", "identify")
		if err := b.RemoveDevice(ctx, person("u2"), b.dev.id); err != nil {
			t.Fatal(err)
		}
		b.online()
		if d := b.next(); d.CommandID != kept.ID {
			t.Error("it was sent")
		}
		b.is(c, registry.CommandCancelled, "access_lost")
	})
	t.Run("go with their owner", func(t *testing.T) {
		b := newBarracks(t, registry.Options{})
		b.send("r1", "identify")
		if err := b.RemoveDevice(ctx, b.owner, b.dev.id); err != nil {
			t.Fatal(err)
		}
		list, err := b.Commands(ctx, admin, b.dev.id, 0, 10)
		if err != nil || len(list) != 0 {
			t.Errorf("%v %v", list, err)
		}
	})
	t.Run("hide what is secret by its name", func(t *testing.T) {
		b := newBarracks(t, registry.Options{})
		c, _, err := b.SendCommand(ctx, b.owner, b.dev.id, registry.CommandRequest{
			RequestID: "r1", Type: "set-wifi", Params: json.RawMessage(`{"ssid":"home","wifi":[{"Password":"canary"}],"pin":"canary"}`),
		})
		if err != nil || strings.Contains(c.Shown(), "canary") || !strings.Contains(c.Shown(), "home") {
			t.Errorf("%s %v", c.Shown(), err)
		}
		list, _ := b.Audit(ctx, admin, registry.AuditFilter{DeviceID: b.dev.id, Limit: 10})
		if text, _ := json.Marshal(list); strings.Contains(string(text), "canary") {
			t.Errorf("%s", text)
		}
	})
}

func scope(err error) string {
	var e *registry.Error
	if errors.As(err, &e) {
		return e.Scope
	}
	return ""
}

func TestAwaitCommand(t *testing.T) {
	b := newBarracks(t, registry.Options{})
	s := b.online()
	c := b.send("r1", "identify")
	t.Run("gives up after its limit", func(t *testing.T) {
		if got, err := b.AwaitCommand(ctx, c, time.Millisecond); err != nil || got.Status != registry.CommandSent {
			t.Errorf("%s %v", got.Status, err)
		}
	})
	t.Run("ends with the command", func(t *testing.T) {
		done := make(chan registry.Command, 1)
		go func() {
			got, _ := b.AwaitCommand(ctx, c, time.Minute)
			done <- got
		}()
		b.answer(s, c, "failed")
		select {
		case got := <-done:
			if got.Status != registry.CommandFailed {
				t.Errorf("%s", got.Status)
			}
		case <-time.After(5 * time.Second):
			t.Error("it still waits")
		}
	})
	t.Run("does not hold up the end of the program", func(t *testing.T) {
		b.CloseFeed()
		c := b.send("r2", "identify")
		if _, err := b.AwaitCommand(ctx, c, time.Minute); err != nil {
			t.Error(err)
		}
	})
}

func FuzzDecodeCommandAnswer(f *testing.F) {
	f.Add([]byte(`{"command_id":"01J","status":"succeeded","code":"C","message":"m","result":{"a":[1]},"timestamp":"x"}`))
	f.Add([]byte(`{"command_id":"01J","status":"accepted","result":null}`))
	f.Fuzz(func(t *testing.T, payload []byte) {
		a, err := registry.DecodeCommandAnswer(payload)
		if err == nil && (a.CommandID == "" || a.Status == "" || a.Result != "" && !json.Valid([]byte(a.Result))) {
			t.Errorf("%q is %+v", payload, a)
		}
	})
}

func FuzzParseZones(f *testing.F) {
	f.Add([]byte(`[{"id":"z1","name":"Sofa","type":"include","vertices":[[0,0],[2000,0],[2000,1500]],"sensitivity":50}]`))
	f.Fuzz(func(t *testing.T, raw []byte) {
		zones, err := registry.ParseZones(raw)
		if err != nil {
			return
		}
		text, err := json.Marshal(zones)
		if err != nil {
			t.Fatal(err)
		}
		if again, err := registry.ParseZones(text); err != nil || len(again) != len(zones) {
			t.Errorf("%s: %v", text, err)
		}
	})
}
