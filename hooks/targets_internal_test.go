package hooks

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/opticworks/devicecloud/registry"
)

// hall is a table of looks with devices that only write down what they are told.
type hall struct {
	*targets
	live map[string]*session
	said []string
	fail error
}

func deviceOf(n int) string { return fmt.Sprintf("%032x", n) }

func newHall(connected ...int) *hall {
	h := &hall{live: map[string]*session{}}
	for _, n := range connected {
		h.connect(n)
	}
	h.targets = &targets{
		root: "opticworks", now: time.Now, watched: map[string]*watchedDevice{},
		device: func(id string) *session { return h.live[id] },
		send: func(s *session, on bool) error {
			if h.fail != nil {
				return h.fail
			}
			h.said = append(h.said, fmt.Sprint(strings.TrimLeft(s.id, "0"), " ", on))
			return nil
		},
		failed: func(*session, bool, error) {},
	}
	return h
}

func (h *hall) connect(n int) *session {
	s := &session{id: deviceOf(n), device: &device{session: &registry.Session{}}}
	h.live[s.id] = s
	return s
}

// heard is what devices were told since the last time, in order.
func (h *hall) heard(t *testing.T, what string, want ...string) {
	t.Helper()
	h.mu.Lock()
	defer h.mu.Unlock()
	slices.Sort(h.said)
	if !slices.Equal(h.said, want) {
		t.Errorf("%s: devices heard %q, want %q", what, h.said, want)
	}
	h.said = nil
}

// viewer is a session of a person who may read devices.
func viewer(may ...int) *session {
	r := &reader{actor: registry.Actor{Kind: registry.ActorUser, ID: "1", Scopes: []string{registry.ScopeDeviceRead}}, person: &person{id: "1"}}
	s := &session{reader: r}
	s.accepted.Store(true)
	s.may(may...)
	return s
}

func (s *session) may(devices ...int) {
	ids := map[string]struct{}{}
	for _, n := range devices {
		ids[deviceOf(n)] = struct{}{}
	}
	s.reader.person.readable.Store(&ids)
}

func staffOf(kind registry.ActorKind) *session {
	s := &session{reader: &reader{actor: registry.Actor{Kind: kind, ID: "1", Scopes: []string{registry.ScopeDeviceRead}}}}
	s.accepted.Store(true)
	return s
}

func stream(n int) string { return "opticworks/" + deviceOf(n) + "/targets/stream" }

func none(string) bool { return false }

func TestLooksAtLivePositions(t *testing.T) {
	t.Run("the first begins and the last ends it", func(t *testing.T) {
		h, a, b := newHall(1), viewer(1), viewer(1)
		h.subscribed(a, []string{stream(1)})
		h.heard(t, "the first", "1 true")
		h.subscribed(b, []string{stream(1)})
		h.subscribed(a, []string{stream(1)})
		h.heard(t, "a second, and the first again")
		h.unsubscribed(a, none)
		h.heard(t, "one of two leaves")
		b.cleaned.Store(true)
		h.changed(b)
		h.heard(t, "the last connection ends", "1 false")
		if len(h.watched) != 0 {
			t.Errorf("%d devices are remembered", len(h.watched))
		}
	})
	t.Run("every filter that can match counts, of devices that the person may read", func(t *testing.T) {
		for filter, want := range map[string][]string{
			"opticworks/+/targets/stream":            {"1 true", "2 true"},
			"opticworks/+/#":                         {"1 true", "2 true"},
			"opticworks/" + deviceOf(2) + "/#":       {"2 true"},
			"opticworks/" + deviceOf(2) + "/+/+":     {"2 true"},
			"opticworks/" + deviceOf(3) + "/#":       nil,
			"opticworks/" + deviceOf(2) + "/state":   nil,
			"opticworks/+/+":                         nil,
			"opticworks/" + deviceOf(2) + "/targets": nil,
		} {
			h := newHall(1, 2, 3)
			h.subscribed(viewer(1, 2), []string{filter})
			h.heard(t, filter, want...)
		}
	})
	t.Run("staff and service accounts look at a device that they name", func(t *testing.T) {
		for _, kind := range []registry.ActorKind{registry.ActorAdmin, registry.ActorSupport, registry.ActorService} {
			h, s := newHall(1, 2), staffOf(kind)
			h.subscribed(s, []string{"#", "opticworks/#", "opticworks/+/#", "opticworks/+/targets/stream", "$share/g/opticworks/+/#"})
			h.heard(t, "wildcards of "+string(kind))
			h.subscribed(s, []string{stream(2), "$share/g/" + stream(1)})
			h.heard(t, "devices by name of "+string(kind), "1 true", "2 true")
		}
	})
	t.Run("a share that ends, ends the look, and one that begins, begins it", func(t *testing.T) {
		h, s := newHall(1, 2), viewer(1)
		h.subscribed(s, []string{"opticworks/+/targets/stream"})
		h.heard(t, "at first", "1 true")
		s.may(2)
		h.changed(s)
		h.heard(t, "after the change", "1 false", "2 true")
	})
	t.Run("a device that comes back hears it again, once", func(t *testing.T) {
		h, s := newHall(), viewer(1)
		h.subscribed(s, []string{stream(1)})
		h.heard(t, "while it is away")
		for range 2 {
			d := h.connect(1)
			h.ready(d)
			h.ready(d)
			h.heard(t, "when it subscribes to commands", "1 true")
		}
		h.connect(1)
		h.unsubscribed(s, none)
		h.heard(t, "a connection that was told nothing")
	})
	t.Run("a client that goes on with its session goes on looking, for as long as was left", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			h, before, after := newHall(1), viewer(1), viewer(1)
			h.subscribed(before, []string{stream(1)})
			h.heard(t, "at first", "1 true")
			time.Sleep(4 * time.Minute)
			before.superseded.Store(true)
			h.inherit(after, before, func(string) bool { return true })
			before.cleaned.Store(true)
			h.changed(before)
			h.heard(t, "the takeover")
			time.Sleep(time.Minute)
			synctest.Wait()
			h.heard(t, "five minutes after the SUBSCRIBE", "1 false")
		})
	})
}

func TestALookLapsesUnlessItIsRenewed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h, s := newHall(1, 2), viewer(1, 2)
		h.subscribed(s, []string{stream(1), stream(2)})
		h.heard(t, "the SUBSCRIBE", "1 true", "2 true")
		time.Sleep(4 * time.Minute)
		h.subscribed(s, []string{stream(1)})
		h.heard(t, "a renewal tells the device again, in case it forgot", "1 true")
		time.Sleep(time.Minute)
		synctest.Wait()
		h.heard(t, "five minutes after the first", "2 false")
		time.Sleep(4*time.Minute - time.Nanosecond)
		synctest.Wait()
		h.heard(t, "just before the renewed one ends")
		time.Sleep(time.Nanosecond)
		synctest.Wait()
		h.heard(t, "five minutes after the renewal", "1 false")
		h.subscribed(s, []string{stream(1)})
		h.heard(t, "and again", "1 true")
		s.cleaned.Store(true)
		h.changed(s)
		h.heard(t, "the end", "1 false")
	})
}

// TestWhoLooksInALoopDoesNotWearADeviceOut: a viewer may do no more than look.
func TestWhoLooksInALoopDoesNotWearADeviceOut(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h, s := newHall(1), viewer(1)
		h.linger = watchLinger
		for range 1000 {
			h.subscribed(s, []string{stream(1)})
			time.Sleep(time.Millisecond)
			h.unsubscribed(s, none)
		}
		synctest.Wait()
		h.heard(t, "a thousand looks in a second", "1 true")
		time.Sleep(watchLinger)
		synctest.Wait()
		h.heard(t, "then none", "1 false")
		if len(h.watched) != 0 {
			t.Errorf("%d devices are remembered", len(h.watched))
		}
		h.subscribed(s, []string{stream(1)})
		time.Sleep(watchLinger)
		h.heard(t, "one that is longer", "1 true")
		h.unsubscribed(s, none)
		h.heard(t, "its end", "1 false")
	})
}

func TestADeviceIsToldWhenItHasRoom(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h, s := newHall(1), viewer(1)
		step := func(what string, fail error, want ...string) {
			t.Helper()
			h.mu.Lock()
			h.fail = fail
			h.mu.Unlock()
			time.Sleep(watchRetry)
			synctest.Wait()
			h.heard(t, what, want...)
		}
		h.fail = errBusy
		h.subscribed(s, []string{stream(1)})
		step("busy", errBusy)
		step("room", nil, "1 true")
		h.fail = errBusy
		h.unsubscribed(s, none)
		step("busy again", errBusy)
		step("room again", nil, "1 false")
		step("and no more", nil)
		if len(h.watched) != 0 {
			t.Errorf("%d devices are remembered", len(h.watched))
		}
		h.fail = errNotSubscribed
		h.subscribed(s, []string{stream(1)})
		step("it takes no such commands", nil)
		h.ready(h.live[deviceOf(1)])
		h.heard(t, "now it does", "1 true")
		h.unsubscribed(s, none)
	})
}

func TestADeviceThatNobodyLooksAtIsHushed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h, s := newHall(1), viewer(1)
		d := h.live[deviceOf(1)]
		positions := func(span time.Duration) {
			for range span / (100 * time.Millisecond) {
				h.streamed(d)
				time.Sleep(100 * time.Millisecond)
			}
		}
		positions(4 * time.Second)
		h.heard(t, "a few that were on their way")
		positions(10 * time.Second)
		h.heard(t, "it goes on", "1 false", "1 false")
		h.subscribed(s, []string{stream(1)})
		h.heard(t, "somebody looks", "1 true")
		positions(time.Minute)
		h.heard(t, "while somebody looks")
		h.unsubscribed(s, none)
		h.heard(t, "the last look", "1 false")
		positions(4 * time.Second)
		h.heard(t, "what was on its way")
	})
}
