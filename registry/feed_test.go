package registry_test

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/opticworks/devicecloud/registry"
)

// listen opens a listener that ends with the test.
func (h *house) listen(t *testing.T, a registry.Actor, o registry.ListenOptions) *registry.Listener {
	t.Helper()
	l, err := h.Listen(ctx, a, o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(l.Close)
	return l
}

// hear takes until there is something, and says it shortly: "snapshot", "+<id>" for
// a device as it is, "<kind> <id>" for a change.
func hear(t *testing.T, l *registry.Listener) (words []string) {
	t.Helper()
	for len(words) == 0 {
		select {
		case <-l.Ready():
		case <-time.After(5 * time.Second):
			t.Fatal("nothing is heard")
		}
		u, err := l.Take(ctx)
		if err != nil {
			t.Fatal(err)
		}
		words = append(words, spell(u)...)
	}
	return words
}

func spell(u registry.Update) (words []string) {
	if u.Snapshot {
		words = append(words, "snapshot")
	}
	for _, d := range u.Devices {
		words = append(words, "+"+d.ID)
	}
	for _, c := range u.Changes {
		words = append(words, string(c.Kind)+" "+c.DeviceID)
	}
	return words
}

// quiet checks that the listener has nothing more to say.
func quiet(t *testing.T, l *registry.Listener) {
	t.Helper()
	u, err := l.Take(ctx)
	if err != nil {
		t.Fatal(err)
	}
	if words := spell(u); words != nil {
		t.Errorf("it also hears %v", words)
	}
}

func wantWords(t *testing.T, got []string, want ...string) {
	t.Helper()
	if !slices.Equal(got, want) {
		t.Errorf("it hears %v, want %v", got, want)
	}
}

// role gives a person a role on a device.
func (h *house) role(d device, user string, role registry.Role) {
	h.t.Helper()
	err := h.db.Registry().InTx(ctx, func(tx registry.Tx) error {
		row, err := tx.Device(ctx, d.id)
		if err != nil {
			return err
		}
		o := registry.Ownership{DeviceNo: row.No, UserID: user, Role: role, At: time.Now()}
		if role != registry.RoleOwner {
			o.SharedAt, o.SharedBy = o.At, "somebody"
		}
		_, err = tx.InsertOwnership(ctx, o)
		return err
	})
	if err != nil {
		h.t.Fatal(err)
	}
}

func (h *house) give(d device, user string)  { h.role(d, user, registry.RoleOwner) }
func (h *house) share(d device, user string) { h.role(d, user, registry.RoleViewer) }

func (h *house) report(s *registry.Session, uptime int) {
	h.t.Helper()
	if err := h.ReportState(s, fmt.Appendf(nil, `{"online":true,"firmware_version":"1.0.0","uptime_sec":%d,"wifi_rssi":-50}`, uptime)); err != nil {
		h.t.Fatal(err)
	}
}

func TestAListenerHearsItsOwnDevicesOnly(t *testing.T) {
	h := open(t, registry.Options{})
	mine, other := h.enroll(1), h.enroll(2)
	h.user("u1", "one@example.com")
	h.give(mine, "u1")
	l := h.listen(t, person("u1"), registry.ListenOptions{})
	wantWords(t, hear(t, l), "snapshot", "+"+mine.id)

	s, foreign := h.connect(mine), h.connect(other)
	h.report(foreign, 1)
	h.report(s, 2)
	wantWords(t, hear(t, l), "device.status "+mine.id, "device.state "+mine.id)
	if _, err := h.RenameDevice(ctx, person("u1"), mine.id, "Hall"); err != nil {
		t.Fatal(err)
	}
	wantWords(t, hear(t, l), "device.updated "+mine.id)
	if _, err := h.Disconnect(ctx, s, registry.ClientDisconnect, time.Now()); err != nil {
		t.Fatal(err)
	}
	wantWords(t, hear(t, l), "device.status "+mine.id)
	quiet(t, l)
}

func TestAListenerIsRefused(t *testing.T) {
	h := open(t, registry.Options{})
	d := h.enroll(1)
	h.user("u1", "one@example.com")
	h.user("u2", "two@example.com")
	h.give(d, "u1")
	many := make([]string, 51)
	for i := range many {
		many[i] = newDevice(i).id
	}
	for _, c := range []struct {
		name string
		a    registry.Actor
		o    registry.ListenOptions
		want error
	}{
		{"without the scope", registry.Actor{Kind: registry.ActorUser, ID: "u1"}, registry.ListenOptions{}, registry.ErrInsufficientScope},
		{"a stranger's device", person("u2"), registry.ListenOptions{Devices: []string{d.id}}, registry.ErrDeviceNotFound},
		{"an absent device", admin, registry.ListenOptions{Devices: []string{newDevice(9).id}}, registry.ErrDeviceNotFound},
		{"too many devices", admin, registry.ListenOptions{Devices: many}, registry.ErrInvalidRequest},
		{"a service account that names nothing", registry.Actor{Kind: registry.ActorService, ID: "s", Scopes: []string{registry.ScopeDeviceRead}}, registry.ListenOptions{}, registry.ErrInvalidRequest},
	} {
		t.Run(c.name, func(t *testing.T) {
			if _, err := h.Listen(ctx, c.a, c.o); !errors.Is(err, c.want) {
				t.Errorf("got %v, want %v", err, c.want)
			}
		})
	}
	t.Run("an eleventh of one person, until one has gone", func(t *testing.T) {
		var last *registry.Listener
		for range 10 {
			last = h.listen(t, person("u1"), registry.ListenOptions{})
		}
		_, err := h.Listen(ctx, person("u1"), registry.ListenOptions{})
		if !errors.Is(err, registry.ErrTooManyListeners) || registry.KindOf(err) != registry.RateLimited {
			t.Errorf("got %v", err)
		}
		h.listen(t, person("u2"), registry.ListenOptions{})
		last.Close()
		last.Close()
		h.listen(t, person("u1"), registry.ListenOptions{})
	})
	t.Run("one more of a session ends the oldest of that session", func(t *testing.T) {
		of := func(session string) registry.Actor {
			a := person("u2")
			a.SessionID = session
			return a
		}
		var ended []int
		for i := range 10 {
			session := "phone"
			if i == 0 {
				session = "tablet"
			}
			h.listen(t, of(session), registry.ListenOptions{Ended: func() { ended = append(ended, i) }})
		}
		if _, err := h.Listen(ctx, of("watch"), registry.ListenOptions{}); !errors.Is(err, registry.ErrTooManyListeners) {
			t.Errorf("another session: %v", err)
		}
		h.listen(t, of("phone"), registry.ListenOptions{})
		h.listen(t, of("phone"), registry.ListenOptions{})
		if fmt.Sprint(ended) != "[1 2]" {
			t.Errorf("ended are %v", ended)
		}
	})
	t.Run("all that were refused have left no trace: the next hears", func(t *testing.T) {
		l := h.listen(t, admin, registry.ListenOptions{Devices: []string{d.id, d.id}})
		wantWords(t, hear(t, l), "snapshot", "+"+d.id)
	})
}

func TestStaffHearTheDevicesTheyName(t *testing.T) {
	h := open(t, registry.Options{SelfEnroll: true})
	d := h.enroll(1)
	named, all := h.listen(t, admin, registry.ListenOptions{Devices: []string{d.id}}), h.listen(t, readOnly, registry.ListenOptions{})
	h.user("u1", "one@example.com")
	people := h.listen(t, person("u1"), registry.ListenOptions{})
	wantWords(t, hear(t, named), "snapshot", "+"+d.id)
	wantWords(t, hear(t, all), "snapshot")
	wantWords(t, hear(t, people), "snapshot")
	h.connect(d)
	wantWords(t, hear(t, named), "device.status "+d.id)

	stranger := newDevice(7)
	h.connect(stranger)
	wantWords(t, hear(t, all), "device.self_enrolled "+stranger.id)
	for _, l := range []*registry.Listener{named, all, people} {
		quiet(t, l)
	}
}

func TestGainingAndLosingADevice(t *testing.T) {
	h := open(t, registry.Options{})
	d := h.enroll(1)
	h.user("u1", "one@example.com")
	h.user("u2", "two@example.com")
	l, staff := h.listen(t, person("u1"), registry.ListenOptions{}), h.listen(t, admin, registry.ListenOptions{Devices: []string{d.id}})
	wantWords(t, hear(t, l), "snapshot")
	wantWords(t, hear(t, staff), "snapshot", "+"+d.id)
	s := h.connect(d)
	h.report(s, 1)
	wantWords(t, hear(t, staff), "device.status "+d.id, "device.state "+d.id)
	quiet(t, l)

	t.Run("a purchase that links at provisioning is heard, then the device as it is", func(t *testing.T) {
		if _, _, err := h.CreateOrder(ctx, admin, registry.OrderRequest{OrderID: "o1", UserEmail: "one@example.com", DeviceMAC: d.mac, ShippedAt: "2026-01-02"}); err != nil {
			t.Fatal(err)
		}
		h.provision(s, d)
		wantWords(t, hearAll(t, l, 3), "+"+d.id, "device.claimed "+d.id, "device.provisioned "+d.id)
		wantWords(t, hear(t, staff), "device.claimed "+d.id, "device.provisioned "+d.id)
		h.report(s, 2)
		wantWords(t, hear(t, l), "device.state "+d.id)
		hear(t, staff)
	})
	t.Run("who leaves a share is told, the owner is not", func(t *testing.T) {
		h.share(d, "u2")
		viewer := h.listen(t, person("u2"), registry.ListenOptions{})
		wantWords(t, hear(t, viewer), "snapshot", "+"+d.id)
		if err := h.RemoveDevice(ctx, person("u2"), d.id); err != nil {
			t.Fatal(err)
		}
		h.report(s, 3)
		wantWords(t, hear(t, viewer), "device.released "+d.id)
		quiet(t, viewer)
		wantWords(t, hear(t, l), "device.state "+d.id)
		hear(t, staff)
	})
	t.Run("a release is the last that its people hear", func(t *testing.T) {
		if err := h.RemoveDevice(ctx, person("u1"), d.id); err != nil {
			t.Fatal(err)
		}
		h.report(s, 4)
		wantWords(t, hear(t, l), "device.released "+d.id)
		quiet(t, l)
		wantWords(t, hear(t, staff), "device.released "+d.id, "device.state "+d.id)
	})
	t.Run("an order for a device that is there already links and is heard", func(t *testing.T) {
		e := h.enroll(2)
		h.provision(h.connect(e), e)
		if _, err := h.ImportOrders(ctx, admin, strings.NewReader("order_id,user_email,device_mac,shipped_at\no2,two@example.com,"+e.mac+",2026-01-02\n"), false); err != nil {
			t.Fatal(err)
		}
		viewer := h.listen(t, person("u2"), registry.ListenOptions{})
		wantWords(t, hear(t, viewer), "snapshot", "+"+e.id)
		if err := h.DeleteDevice(ctx, admin, e.id); err != nil {
			t.Fatal(err)
		}
		wantWords(t, hear(t, viewer), "device.released "+e.id)
	})
}

// hearAll hears until n words have come.
func hearAll(t *testing.T, l *registry.Listener, n int) (words []string) {
	t.Helper()
	for len(words) < n {
		words = append(words, hear(t, l)...)
	}
	slices.Sort(words) // claim and device may come at once or one after the other
	return words
}

func TestAListenerResumes(t *testing.T) {
	h := open(t, registry.Options{})
	d, other := h.enroll(1), h.enroll(2)
	h.user("u1", "one@example.com")
	h.give(d, "u1")
	s, foreign := h.connect(d), h.connect(other)
	l := h.listen(t, person("u1"), registry.ListenOptions{})
	wantWords(t, hear(t, l), "snapshot", "+"+d.id)
	quiet(t, l)
	start := l.Cursor()

	t.Run("with what it has missed, once and in order, though nobody listened meanwhile", func(t *testing.T) {
		h.report(s, 1)
		<-l.Ready()
		u, err := l.Take(ctx)
		if err != nil || len(u.Changes) != 1 {
			t.Fatalf("%+v, %v", u, err)
		}
		cut := l.CursorOf(u.Changes[0])
		l.Close()
		for n := range 5 {
			h.report(s, 10+n)
			h.report(foreign, 1)
		}
		again := h.listen(t, person("u1"), registry.ListenOptions{After: cut})
		u, err = again.Take(ctx)
		if err != nil || u.Snapshot || len(u.Changes) != 5 {
			t.Fatalf("%+v, %v", u, err)
		}
		for n, c := range u.Changes {
			if *c.State.UptimeSec != int64(10+n) {
				t.Errorf("change %d is of uptime %d", n, *c.State.UptimeSec)
			}
		}
		h.report(s, 99)
		wantWords(t, hear(t, again), "device.state "+d.id)
		quiet(t, again)
	})
	t.Run("more than the ring holds is a snapshot", func(t *testing.T) {
		burst := &registry.Batch{}
		for range 4097 {
			burst.States = append(burst.States, &registry.StateWrite{DeviceID: other.id})
		}
		registry.FeedOf(h.Registry).Committed(burst)
		wantWords(t, hear(t, h.listen(t, person("u1"), registry.ListenOptions{After: start})), "snapshot", "+"+d.id)
	})
	t.Run("what is no place in this life is a snapshot", func(t *testing.T) {
		life, _, _ := strings.Cut(start, "-")
		for _, after := range []string{"x", "1-1", life, life + "-", life + "--1", life + "-x", life + "-9000000", "-1-1", start + " ", strings.Repeat("9", 30) + "-1"} {
			l := h.listen(t, person("u1"), registry.ListenOptions{After: after})
			if words := hear(t, l); words[0] != "snapshot" {
				t.Errorf("%q resumes with %v", after, words)
			}
			l.Close()
		}
	})
	t.Run("nothing from before a device was one's own", func(t *testing.T) {
		h.user("u2", "two@example.com")
		l := h.listen(t, person("u2"), registry.ListenOptions{})
		hear(t, l)
		quiet(t, l)
		cut := l.Cursor()
		h.report(foreign, 7)
		if _, _, err := h.CreateOrder(ctx, admin, registry.OrderRequest{OrderID: "o9", UserEmail: "two@example.com", DeviceMAC: other.mac, ShippedAt: "2026-01-02"}); err != nil {
			t.Fatal(err)
		}
		h.provision(foreign, other)
		h.report(foreign, 8)
		l.Close()
		l = h.listen(t, person("u2"), registry.ListenOptions{After: cut})
		u, err := l.Take(ctx)
		if err != nil {
			t.Fatal(err)
		}
		wantWords(t, spell(u), "+"+other.id, "device.claimed "+other.id, "device.provisioned "+other.id, "device.state "+other.id)
	})
}

func TestASlowListenerIsCutAndHarmsNobody(t *testing.T) {
	h := open(t, registry.Options{})
	d := h.enroll(1)
	h.user("u1", "one@example.com")
	h.user("u2", "two@example.com")
	h.give(d, "u1")
	h.share(d, "u2")
	s := h.connect(d)
	ended := make(chan struct{})
	slow := h.listen(t, person("u1"), registry.ListenOptions{Ended: func() { close(ended) }})
	good := h.listen(t, person("u2"), registry.ListenOptions{})
	hear(t, slow)
	hear(t, good)
	for n := range 257 {
		h.report(s, n)
		wantWords(t, hear(t, good), "device.state "+d.id)
	}
	select {
	case <-ended:
	default:
		t.Error("the slow one is not told")
	}
	if _, err := slow.Take(ctx); !errors.Is(err, registry.ErrListenerSlow) {
		t.Errorf("the slow one goes on: %v", err)
	}
	if n := h.Counters().FeedDropped.Load(); n != 257 {
		t.Errorf("%d changes count as dropped", n)
	}
}

func TestClosingTheFeedEndsEverybody(t *testing.T) {
	h := open(t, registry.Options{})
	h.user("u1", "one@example.com")
	ended := 0
	l := h.listen(t, person("u1"), registry.ListenOptions{Ended: func() { ended++ }})
	hear(t, l)
	h.CloseFeed()
	h.CloseFeed()
	if _, err := l.Take(ctx); !errors.Is(err, registry.ErrFeedClosed) || ended != 1 {
		t.Errorf("got %v, told %d times", err, ended)
	}
	if _, err := h.Listen(ctx, person("u1"), registry.ListenOptions{}); !errors.Is(err, registry.ErrFeedClosed) {
		t.Errorf("a new one: %v", err)
	}
}

func TestTheFeedRestsWhenNobodyComesBack(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := registry.NewFeed()
		if f.Active() {
			t.Error("it works for nobody")
		}
		leave := f.Enter()
		leave()
		time.Sleep(59 * time.Second)
		if !f.Active() {
			t.Error("it forgets at once")
		}
		leave = f.Enter()
		time.Sleep(time.Hour)
		synctest.Wait()
		if !f.Active() {
			t.Error("it forgets while somebody listens")
		}
		leave()
		time.Sleep(61 * time.Second)
		synctest.Wait()
		if f.Active() {
			t.Error("it goes on for nobody")
		}
	})
}

func FuzzCursor(f *testing.F) {
	f.Add("1763801234567890123-42")
	f.Add("-1-1")
	f.Add("1-")
	f.Fuzz(func(t *testing.T, s string) {
		life, seq, ok := registry.ParseCursor(s)
		if ok && (life <= 0 || seq < 0) {
			t.Errorf("%q is %d, %d", s, life, seq)
		}
		if !ok && (life != 0 || seq != 0) {
			t.Errorf("%q is refused and still %d, %d", s, life, seq)
		}
	})
}

// BenchmarkReportState shows what the feed costs a message: without listeners, with
// one that hears other devices, and with one that hears this one.
func BenchmarkReportState(b *testing.B) {
	for _, c := range []struct {
		name      string
		listeners int
		own       bool
	}{{"nobody listens", 0, false}, {"a listener of other devices", 1, false}, {"a listener of this device", 1, true}} {
		b.Run(c.name, func(b *testing.B) {
			feed := registry.NewFeed()
			batch := &registry.Batch{}
			for n := range 1000 {
				uptime := int64(n)
				batch.States = append(batch.States, &registry.StateWrite{DeviceID: newDevice(n).id, At: time.Now(), State: registry.State{UptimeSec: &uptime}})
			}
			if c.listeners > 0 {
				id := newDevice(5000).id
				if c.own {
					id = newDevice(1).id
				}
				defer feed.Enter(id)()
			}
			b.ReportAllocs()
			for b.Loop() {
				feed.Committed(batch)
			}
			b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N)/1000, "ns/message")
		})
	}
}
