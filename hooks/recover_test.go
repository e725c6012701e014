package hooks_test

import (
	"context"
	"runtime/debug"
	"strings"
	"testing"
	"time"

	mqtt "github.com/mochi-mqtt/server/v2"
	"github.com/mochi-mqtt/server/v2/packets"

	"github.com/opticworks/devicecloud/firmware-sim/mqttwire"
	"github.com/opticworks/devicecloud/hooks"
	"github.com/opticworks/devicecloud/registry"
)

// explosive is the real store, which panics once, in the next read below the
// function that is armed. What it says holds a secret.
type explosive struct {
	registry.Store
	armed chan string
}

func (s explosive) View(ctx context.Context, f func(registry.Tx) error) error {
	select {
	case below := <-s.armed:
		if strings.Contains(string(debug.Stack()), below) {
			panic("the password is hunter2")
		}
		s.armed <- below // somebody else's read
	default:
	}
	return s.Store.View(ctx, f)
}

// A panic ends one session at most: never the process, never another's.
func TestPanics(t *testing.T) {
	armed := make(chan string, 1)
	c := newCloud(t, func(s *setup) {
		s.store = func(real registry.Store) registry.Store { return explosive{real, armed} }
	})
	d, bystander := c.enroll(), c.enroll()
	other := c.connect(bystander, mqttwire.V5)
	u := c.login("ann", d)
	watcher := c.app(u, "u:", "phone", mqttwire.V5)
	subscribe(t, watcher, 1, d.topic("state"))

	t.Run("in OnConnect the client is refused", func(t *testing.T) {
		armed <- "OnConnect("
		ack, err := c.dial().Connect(d.hello(mqttwire.V5))
		if err == nil || ack.ReasonCode != 0x88 {
			t.Errorf("%v, %v", ack, err)
		}
		c.connect(d, mqttwire.V5) // the id lock is free
	})
	t.Run("in OnPublish the message is not acknowledged and comes again", func(t *testing.T) {
		cl := c.connect(d, mqttwire.V5)
		armed <- "OnPublish("
		payload := strings.Replace(goodState, "true", "false", 1) // for which the registry's word is read
		if err := cl.Write(&mqttwire.Packet{Type: mqttwire.PUBLISH, Topic: d.topic("state"), Payload: []byte(payload), QoS: 1, PacketID: 3}); err != nil {
			t.Fatal(err)
		}
		packets, _ := cl.Drain(5 * time.Second)
		for _, p := range packets {
			if p.Type == mqttwire.PUBACK {
				t.Error("it was acknowledged")
			}
		}
		if r := c.offline(d); r != registry.ServerError {
			t.Errorf("reason %v", r)
		}
		publish(t, c.connect(d, mqttwire.V5), d.topic("state"), payload)
	})
	t.Run("behind the SUBACK the session ends", func(t *testing.T) {
		app := c.app(u, "u:", "tablet", mqttwire.V5)
		armed <- "OnPacketProcessed("
		if err := app.Write(&mqttwire.Packet{Type: mqttwire.SUBSCRIBE, PacketID: 1, Filters: []mqttwire.Filter{{Topic: d.topic("state")}}}); err != nil {
			t.Fatal(err)
		}
		if code := ended(t, app); code != 0x80 {
			t.Errorf("%#x", byte(code))
		}
	})
	t.Run("on a goroutine of our own nobody notices", func(t *testing.T) {
		armed <- "serve"
		subscribe(t, watcher, 1, "opticworks/+/#")
		eventually(t, "counted", func() bool { return c.counter("mqtt_hook_panics_total", "serve") == 1 })
		if err := watcher.Ping(); err != nil {
			t.Error(err)
		}
	})
	t.Run("others are not hurt", func(t *testing.T) { publish(t, other, bystander.topic("state"), goodState) })
	t.Run("each is counted, and logged without its value", func(t *testing.T) {
		if n := c.counter("mqtt_hook_panics_total"); n != 4 {
			t.Errorf("%v panics", n)
		}
		if log := c.logs.String(); !strings.Contains(log, "panic in a hook") || strings.Contains(log, "hunter2") {
			t.Error("the log has no panic, or its value")
		}
	})
}

// bomb panics inside mochi's read path, behind the answer to a message.
type bomb struct{ mqtt.HookBase }

func (*bomb) ID() string           { return "bomb" }
func (*bomb) Provides(b byte) bool { return b == mqtt.OnPublished }
func (*bomb) OnPublished(cl *mqtt.Client, _ packets.Packet) {
	if !cl.Net.Inline {
		panic("boom")
	}
}

// After a panic of mochi's own, which skips its teardown, nothing is left of the
// session, presence is right, and people are told.
func TestPanicInMochi(t *testing.T) {
	c := newCloud(t, func(s *setup) { s.extra = append(s.extra, &bomb{}) })
	d := c.enroll()
	app := c.app(c.login("ann", d), "u:", "phone", mqttwire.V5)
	subscribe(t, app, 1, d.topic("state"))
	hello := d.hello(mqttwire.V5)
	hello.Will = &mqttwire.Will{Topic: d.topic("state"), Payload: []byte(`{"online":false}`), Retain: true}
	cl := c.dial()
	if _, err := cl.Connect(hello); err != nil {
		t.Fatal(err)
	}
	subscribe(t, cl, 1, d.topic("command/+"))
	if _, err := cl.Publish(mqttwire.Message{Topic: d.topic("state"), Payload: []byte(goodState), QoS: 1}); err != nil {
		t.Fatal(err)
	}
	ended(t, cl)
	if r := c.offline(d); r != registry.ServerError {
		t.Errorf("reason %v", r)
	}
	if _, known := c.broker.Server().Clients.Get(d.id); known || len(c.broker.Server().Topics.Subscribers(d.topic("command/x")).Subscriptions) > 0 {
		t.Error("mochi still knows the client")
	}
	for {
		if got := decode(t, next(t, app).Payload); got.Status == "offline" {
			break
		}
	}
}

func TestOneGuard(t *testing.T) {
	c := newCloud(t)
	again := hooks.All(c.courier, c.reg, c.people, hooks.Options{})
	if err := c.broker.Server().AddHook(again[0], nil); err == nil {
		t.Error("a second guard was installed")
	}
}

func TestShutdown(t *testing.T) {
	c := newCloud(t)
	d := c.enroll()
	u := c.login("ann", d)
	cl, app := c.connect(d, mqttwire.V5), c.app(u, "u:", "phone", mqttwire.V5)
	old := c.connect(c.enroll(), mqttwire.V311)
	done := make(chan struct{})
	go func() {
		defer close(done)
		ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
		defer cancel()
		if err := c.broker.Shutdown(ctx); err != nil {
			t.Error(err)
		}
	}()
	for _, one := range []*mqttwire.Client{cl, app} {
		if code := ended(t, one); code != 0x8b {
			t.Errorf("%#x", byte(code))
		}
	}
	ended(t, old)
	<-done
	if p := c.row(d).Presence; p.Status != registry.Offline || p.Reason != registry.NodeShutdown {
		t.Errorf("%+v", p)
	}
}
