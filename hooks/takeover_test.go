package hooks_test

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	mqtt "github.com/mochi-mqtt/server/v2"
	"github.com/mochi-mqtt/server/v2/packets"

	"github.com/opticworks/devicecloud/firmware-sim/mqttwire"
	"github.com/opticworks/devicecloud/hooks"
	"github.com/opticworks/devicecloud/registry"
	"github.com/opticworks/devicecloud/topic"
)

// contender is one connection of a device in the storm. Its goroutine reads to the
// end, and acknowledges.
type contender struct {
	cl       *mqttwire.Client
	open     atomic.Bool
	messages atomic.Int64
	pongs    atomic.Int64
}

func (c *contender) run(done *sync.WaitGroup) {
	defer done.Done()
	defer c.open.Store(false)
	defer c.cl.Close()
	for {
		p, err := c.cl.ReadPacket(time.Minute)
		if err != nil {
			return
		}
		switch p.Type {
		case mqttwire.PUBLISH:
			c.messages.Add(1)
			if p.QoS == 1 && c.cl.Write(&mqttwire.Packet{Type: mqttwire.PUBACK, PacketID: p.PacketID}) != nil {
				return
			}
		case mqttwire.PINGRESP:
			c.pongs.Add(1)
		}
	}
}

// watch follows the registry's announcements as they are handed out.
type watch struct {
	mu      sync.Mutex
	t       *testing.T
	last    map[string]document
	strange int // messages that are not the registry's word, or of an older epoch
}

func (w *watch) run(cl *mqttwire.Client, done *sync.WaitGroup) {
	defer done.Done()
	for {
		p, err := cl.Next(time.Minute)
		if err != nil {
			return
		}
		got := decode(w.t, p.Payload)
		topicOf, _ := root.Parse(p.Topic)
		w.mu.Lock()
		if got.Epoch == 0 || got.Epoch < w.last[topicOf.DeviceID].Epoch {
			w.strange++
			w.t.Logf("%s after %+v", p.Payload, w.last[topicOf.DeviceID])
		}
		w.last[topicOf.DeviceID] = got
		w.mu.Unlock()
	}
}

// Two thousand takeovers, two to four at once, over a hundred ids: presence is
// never wrong, at most one connection of an id lives, and it is not deaf.
func TestTakeovers(t *testing.T) {
	const ids, total = 100, 2000
	c := newCloud(t)
	devices := make([]thing, ids)
	for i := range devices {
		devices[i] = c.enroll()
	}
	var reading sync.WaitGroup
	w := &watch{t: t, last: map[string]document{}}
	watcher := c.app(c.staff(), "a:", "watcher", mqttwire.V311)
	subscribe(t, watcher, 1, "opticworks/+/state")
	reading.Add(1)
	go w.run(watcher, &reading)

	all := make([][]*contender, ids)
	var accepted, refused atomic.Int64
	var storm sync.WaitGroup
	for i := range devices {
		storm.Go(func() {
			var mu sync.Mutex
			random := rand.New(rand.NewPCG(uint64(i), 1))
			for n := 0; n < total/ids; {
				var round sync.WaitGroup
				for range 2 + random.IntN(3) {
					n++
					hello := devices[i].hello(versions[random.IntN(2)])
					hello.Will = &mqttwire.Will{Topic: devices[i].topic("state"), Payload: []byte(`{"online":false}`), QoS: 1, Retain: true}
					pause, vanish := time.Duration(random.IntN(3000))*time.Microsecond, random.IntN(4) == 0
					round.Go(func() {
						time.Sleep(pause)
						cl, err := mqttwire.Dial(t.Context(), "mqtt://"+c.broker.PlainAddr().String(), nil)
						if err != nil {
							t.Error(err)
							return
						}
						if _, err := cl.Connect(hello); err != nil {
							refused.Add(1)
							_ = cl.Close()
							return
						}
						accepted.Add(1)
						// A failure means that the connection was taken over already.
						_ = cl.Write(&mqttwire.Packet{Type: mqttwire.SUBSCRIBE, PacketID: 1, Filters: []mqttwire.Filter{{Topic: devices[i].topic("config/update"), QoS: 1}}})
						if vanish {
							_ = cl.Close()
							return
						}
						one := &contender{cl: cl}
						one.open.Store(true)
						mu.Lock()
						all[i] = append(all[i], one)
						mu.Unlock()
						reading.Add(1)
						go one.run(&reading)
					})
				}
				round.Wait()
			}
		})
	}
	start := time.Now()
	storm.Wait()
	t.Logf("%d connections in %v, %d more were taken over while they connected", accepted.Load(), time.Since(start), refused.Load())

	for i, d := range devices {
		var open []*contender
		settled := func() bool {
			open = open[:0]
			for _, one := range all[i] {
				if one.open.Load() {
					open = append(open, one)
				}
			}
			live := 0
			if len(open) == 1 {
				live = 1
			}
			p := c.row(d).Presence
			_, known := c.broker.Server().Clients.Get(d.id)
			sessions := 0
			for _, s := range c.courier.Sessions() {
				if s.DeviceID == d.id && s.Epoch == p.Epoch {
					sessions++
				}
			}
			w.mu.Lock()
			defer w.mu.Unlock()
			return len(open) <= 1 && (p.Status == registry.Online) == (live == 1) && known == (live == 1) && sessions == live &&
				w.last[d.id].Epoch == p.Epoch && w.last[d.id].Online == (live == 1)
		}
		eventually(t, fmt.Sprintf("presence of %s is right", d.id), settled)
		if len(open) == 0 {
			continue
		}
		one := open[0]
		eventually(t, "the survivor has subscribed", func() bool { return c.courier.Deliver(d.id, topic.ConfigUpdate, []byte("{}")) == nil })
		eventually(t, "the survivor hears", func() bool { return one.messages.Load() > 0 })
		if err := one.cl.Write(&mqttwire.Packet{Type: mqttwire.PINGREQ}); err != nil {
			t.Error(err)
		}
		eventually(t, "the survivor is answered", func() bool { return one.pongs.Load() > 0 })
	}
	w.mu.Lock()
	if w.strange > 0 {
		t.Errorf("%d announcements were not the registry's, or out of order", w.strange)
	}
	w.mu.Unlock()
	if n := c.reg.Counters().PresenceCorrections.Load(); n > 0 {
		t.Errorf("%d corrections of presence", n)
	}
	c.stop()
	reading.Wait()
}

// gate holds a CONNECT between its acceptance and mochi's taking over.
type gate struct {
	mqtt.HookBase
	armed            atomic.Bool
	reached, release chan struct{}
	refuse           atomic.Bool
}

func (*gate) ID() string           { return "gate" }
func (*gate) Provides(b byte) bool { return b == mqtt.OnConnect }

func (g *gate) OnConnect(*mqtt.Client, packets.Packet) error {
	if g.refuse.Load() {
		return packets.ErrServerBusy
	}
	if g.armed.Load() {
		g.reached <- struct{}{}
		<-g.release
	}
	return nil
}

// A session that is superseded, but that mochi has not disconnected yet, changes
// no subscriptions: they would be the new one's.
func TestSupersededSessionChangesNothing(t *testing.T) {
	g := &gate{reached: make(chan struct{}), release: make(chan struct{})}
	c := newCloud(t, func(s *setup) { s.extra = append(s.extra, g) })
	d := c.enroll()
	u := c.login("ann", d)
	name := d.topic("state")
	clients := func() int { return len(c.broker.Server().Topics.Subscribers(name).Subscriptions) }
	for _, kind := range []mqttwire.PacketType{mqttwire.SUBSCRIBE, mqttwire.UNSUBSCRIBE} {
		old := c.app(u, "u:", "phone", mqttwire.V5, mqttwire.Number(mqttwire.PropSessionExpiry, 60))
		if kind == mqttwire.UNSUBSCRIBE {
			subscribe(t, old, 1, name)
		}
		g.armed.Store(true)
		fresh := c.dial()
		hello := u.hello("u:", "phone", mqttwire.V5)
		hello.Resume = true
		connected := make(chan error)
		go func() {
			_, err := fresh.Connect(hello)
			connected <- err
		}()
		<-g.reached
		if err := old.Write(&mqttwire.Packet{Type: kind, PacketID: 7, Filters: []mqttwire.Filter{{Topic: name, QoS: 1}}}); err != nil {
			t.Fatal(err)
		}
		// It waits for the id lock, behind the packets before it.
		eventually(t, "it waits", func() bool { return hooks.Waiting(c.guard, "u:"+u.id+":phone") == 2 })
		g.armed.Store(false)
		g.release <- struct{}{}
		if err := <-connected; err != nil {
			t.Fatal(err)
		}
		ended(t, old)
		want := 0
		if kind == mqttwire.UNSUBSCRIBE {
			want = 1
		}
		eventually(t, "the old session's goroutine is through", func() bool { return hooks.Waiting(c.guard, "u:"+u.id+":phone") == 0 })
		if n := clients(); n != want {
			t.Errorf("%d subscriptions after the old session's %v, want %d", n, kind, want)
		}
		if err := fresh.Disconnect(); err != nil {
			t.Fatal(err)
		}
	}
}

// A session whose epoch was taken by a connection that mochi then does not accept
// could write nothing any more: it ends.
func TestTakenOverByNobody(t *testing.T) {
	g := &gate{}
	c := newCloud(t, func(s *setup) { s.extra = append(s.extra, g) })
	d := c.enroll()
	old := c.connect(d, mqttwire.V5)
	g.refuse.Store(true)
	if _, err := c.dial().Connect(d.hello(mqttwire.V5)); err == nil {
		t.Fatal("it came in")
	}
	if code := ended(t, old); code != 0x8e {
		t.Errorf("%#x", byte(code))
	}
	c.offline(d)
	g.refuse.Store(false)
	publish(t, c.connect(d, mqttwire.V5), d.topic("state"), goodState)
}

// slow makes SUBSCRIBE and UNSUBSCRIBE of some filters take time inside mochi.
type slow struct {
	mqtt.HookBase
	reached chan struct{}
}

func (*slow) ID() string { return "slow" }
func (*slow) Provides(b byte) bool {
	return b == mqtt.OnSubscribe || b == mqtt.OnUnsubscribe
}

func (s *slow) OnSubscribe(_ *mqtt.Client, pk packets.Packet) packets.Packet {
	if len(pk.Filters) > 1 {
		s.reached <- struct{}{}
		time.Sleep(50 * time.Millisecond)
	}
	return pk
}

func (s *slow) OnUnsubscribe(cl *mqtt.Client, pk packets.Packet) packets.Packet {
	return s.OnSubscribe(cl, pk)
}

// A SUBSCRIBE or UNSUBSCRIBE that is being processed at a takeover touches nothing
// of the new session.
func TestSubscribeInFlightAtTakeover(t *testing.T) {
	pause := &slow{reached: make(chan struct{}, 8)}
	c := newCloud(t, func(s *setup) { s.extra = append(s.extra, pause) })
	first, second := c.enroll(), c.enroll()
	u := c.login("ann", first, second)
	a, b := mqttwire.Filter{Topic: first.topic("state"), QoS: 1}, mqttwire.Filter{Topic: second.topic("state"), QoS: 1}
	clients := func(f mqttwire.Filter) int { return len(c.broker.Server().Topics.Subscribers(f.Topic).Subscriptions) }
	for _, version := range versions {
		old := c.app(u, "u:", "phone", version)
		subscribe(t, old, 1, a.Topic)
		if err := old.Write(&mqttwire.Packet{Type: mqttwire.UNSUBSCRIBE, PacketID: 2, Filters: []mqttwire.Filter{a, b}}); err != nil {
			t.Fatal(err)
		}
		<-pause.reached
		middle := c.app(u, "u:", "phone", version)
		subscribe(t, middle, 1, a.Topic)
		ended(t, old)
		if clients(a) != 1 {
			t.Error("the old session's UNSUBSCRIBE made the new one deaf")
		}
		if err := middle.Write(&mqttwire.Packet{Type: mqttwire.SUBSCRIBE, PacketID: 2, Filters: []mqttwire.Filter{a, b}}); err != nil {
			t.Fatal(err)
		}
		<-pause.reached
		c.app(u, "u:", "phone", version)
		ended(t, middle)
		if clients(b) != 0 {
			t.Error("the old session's SUBSCRIBE is inherited by the new one")
		}
	}
}

// What a device subscribes to belongs to its connection alone, and mochi has no
// part in it.
func TestSubscriptionsOfADeviceEndWithItsConnection(t *testing.T) {
	c := newCloud(t)
	for _, version := range versions {
		d := c.enroll()
		name := d.topic("ota/trigger")
		deliver := func() error { return c.courier.Deliver(d.id, topic.OTATrigger, []byte("{}")) }
		cl := c.connect(d, version)
		subscribe(t, cl, 1, name, d.topic("command/+"))
		eventually(t, "the grant follows the SUBACK", func() bool { return deliver() == nil })
		if got := next(t, cl); got.Topic != name || got.QoS != 1 {
			t.Errorf("%v", got)
		}
		if n := len(c.broker.Server().Topics.Subscribers(name).Subscriptions); n != 0 {
			t.Errorf("mochi keeps %d subscriptions", n)
		}
		ack, err := cl.Unsubscribe(name, d.topic("config/update"))
		if err != nil || version == mqttwire.V5 && !slices.Equal(ack.ReasonCodes, []mqttwire.ReasonCode{0, 0x11}) {
			t.Errorf("%v, %v", ack, err)
		}
		if deliver() == nil {
			t.Error("delivered after the UNSUBSCRIBE")
		}
		subscribe(t, cl, 1, name)
		c.connect(d, version)
		if deliver() == nil {
			t.Error("the new connection is given what only the old one subscribed to")
		}
	}
}
