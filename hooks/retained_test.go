package hooks_test

import (
	"context"
	"fmt"
	"sync/atomic"
	"testing"
	"time"

	"github.com/opticworks/devicecloud/firmware-sim/mqttwire"
	"github.com/opticworks/devicecloud/registry"
	"github.com/opticworks/devicecloud/topic"
)

// Retained topics come from the registry, behind the SUBACK.
func TestRetainedTopics(t *testing.T) {
	c := newCloud(t)
	d, others, never := c.enroll(), c.enroll(), c.enroll()
	u := c.login("ann", d, never)
	for _, dev := range []thing{d, others} {
		cl := c.connect(dev, mqttwire.V311)
		for _, k := range []topic.Kind{topic.State, topic.ConfigStatus, topic.OTAStatus, topic.DiagResponse, topic.Telemetry} {
			publish(t, cl, spell(dev.id, k), payloadOf(dev, k))
		}
	}
	for _, version := range versions {
		t.Run("an exact topic, MQTT "+version.String(), func(t *testing.T) {
			app := c.app(u, "u:", "exact", version)
			id := app.NextID()
			if err := app.Write(&mqttwire.Packet{Type: mqttwire.SUBSCRIBE, PacketID: id, Filters: []mqttwire.Filter{{Topic: d.topic("state"), QoS: 1}}}); err != nil {
				t.Fatal(err)
			}
			first, err := app.ReadPacket(5 * time.Second)
			if err != nil || first.Type != mqttwire.SUBACK {
				t.Fatalf("%v before the SUBACK, %v", first, err)
			}
			p := next(t, app)
			if got := decode(t, p.Payload); !p.Retain || !got.Online || got.Epoch != 1 || *got.Uptime != 5 {
				t.Errorf("retain %v, %+v", p.Retain, got)
			}
			subscribe(t, app, 1, d.topic("config/status"))
			if p := next(t, app); !p.Retain || string(p.Payload) != payloadOf(d, topic.ConfigStatus) {
				t.Errorf("retain %v, %s", p.Retain, p.Payload)
			}
			subscribe(t, app, 1, never.topic("state"), d.topic("telemetry"))
			silent(t, app)
		})
		t.Run("a wildcard, MQTT "+version.String(), func(t *testing.T) {
			app := c.app(u, "u:", "wild", version)
			subscribe(t, app, 0, "opticworks/+/#")
			got := map[string]bool{}
			for range 3 {
				p := next(t, app)
				if !p.Retain {
					t.Errorf("retain = 0 on %s", p.Topic)
				}
				got[p.Topic] = true
			}
			for _, name := range []string{"state", "config/status", "ota/status"} {
				if !got[d.topic(name)] {
					t.Errorf("%s is missing", name)
				}
			}
			silent(t, app)
		})
	}
	t.Run("retain handling", func(t *testing.T) {
		app := c.app(u, "u:", "handling", mqttwire.V5)
		one := mqttwire.Filter{Topic: d.topic("state"), QoS: 1, RetainHandling: 1}
		if _, err := app.Subscribe(one); err != nil {
			t.Fatal(err)
		}
		next(t, app)
		if _, err := app.Subscribe(one); err != nil { // not new
			t.Fatal(err)
		}
		silent(t, app)
		if _, err := app.Subscribe(mqttwire.Filter{Topic: d.topic("ota/status"), QoS: 1, RetainHandling: 2}); err != nil {
			t.Fatal(err)
		}
		silent(t, app)
	})
	t.Run("devices are given none", func(t *testing.T) {
		cl := c.connect(d, mqttwire.V5)
		subscribe(t, cl, 1, d.topic("config/update"), d.topic("diag/request")) // and of its commands somebody's look would come
		silent(t, cl)
	})
}

// An administrator's wildcard over many devices is served page by page.
func TestRetainedOfManyDevices(t *testing.T) {
	const n = 250
	c := newCloud(t)
	want := map[string]bool{}
	for range n {
		d := c.enroll()
		want[d.topic("state")] = true
		if err := c.connect(d, mqttwire.V311).Close(); err != nil {
			t.Fatal(err)
		}
	}
	app := c.app(c.staff(), "a:", "console", mqttwire.V5)
	subscribe(t, app, 1, "#")
	for len(want) > 0 {
		p := next(t, app)
		if p.Retain {
			delete(want, p.Topic)
		}
	}
}

// between is the real store, which calls back after a read and before its result
// is used.
type between struct {
	registry.Store
	once *atomic.Pointer[func()]
}

func (s between) View(ctx context.Context, f func(registry.Tx) error) error {
	err := s.Store.View(ctx, f)
	if call := s.once.Swap(nil); call != nil {
		(*call)()
	}
	return err
}

// Who subscribes while a device changes has the newest word at the end, although a
// retained message was read before the change and written after it.
func TestRetainedAndLiveEndAlike(t *testing.T) {
	var once atomic.Pointer[func()]
	c := newCloud(t, func(s *setup) {
		s.store = func(real registry.Store) registry.Store { return between{real, &once} }
	})
	d := c.enroll()
	u := c.login("ann", d)
	device := c.connect(d, mqttwire.V311)
	status := func(i int) string { return fmt.Sprintf(`{"version":%d,"status":"applied"}`, i) }
	publish(t, device, d.topic("config/status"), status(1))
	for _, filter := range []string{d.topic("config/status"), "opticworks/+/config/status"} {
		app := c.app(u, "u:", "phone", mqttwire.V311)
		change := func() {
			sent := &c.broker.Server().Info.MessagesSent
			before := atomic.LoadInt64(sent)
			publish(t, device, d.topic("config/status"), status(2))
			eventually(t, "the change is written to the app", func() bool { return atomic.LoadInt64(sent) > before })
		}
		once.Store(&change)
		subscribe(t, app, 0, filter)
		newest := ""
		for {
			p, err := app.Next(300 * time.Millisecond)
			if err != nil {
				break
			}
			newest = string(p.Payload)
		}
		if newest != status(2) {
			t.Errorf("%s: the newest is %s", filter, newest)
		}
		publish(t, device, d.topic("config/status"), status(1))
	}
}
