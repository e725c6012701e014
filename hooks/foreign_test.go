package hooks_test

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"sync/atomic"
	"testing"
	"time"

	mqtt "github.com/mochi-mqtt/server/v2"
	"github.com/mochi-mqtt/server/v2/listeners"

	"github.com/opticworks/devicecloud/account"
	"github.com/opticworks/devicecloud/firmware-sim/mqttwire"
	"github.com/opticworks/devicecloud/hooks"
	"github.com/opticworks/devicecloud/registry"
	"github.com/opticworks/devicecloud/sqlstore"
	"github.com/opticworks/devicecloud/sqlstore/schematest"
)

// The device cloud as a plugin of somebody's own mochi server. What needs our
// listener is missing there: the wire guard and its limits, writes that never
// block, client certificates, and the certainty that a connection's end is told.
func ExampleAll() {
	quiet := slog.New(slog.NewTextHandler(io.Discard, nil))
	dir, _ := os.MkdirTemp("", "devicecloud")
	defer os.RemoveAll(dir)
	db, _ := sqlstore.Open(context.Background(), "sqlite:"+filepath.Join(dir, "cloud.db"), sqlstore.Options{})
	server := mqtt.New(&mqtt.Options{Logger: quiet})

	courier := hooks.NewCourier(server, "opticworks", quiet)
	reg := registry.New(db.Registry(), courier, registry.Options{Logger: quiet})
	key, _, _ := account.NewSigningKey()
	people, _ := account.New(db.Accounts(), reg, account.Options{SigningKey: key})
	for _, h := range hooks.All(courier, reg, people, hooks.Options{}) {
		if err := server.AddHook(h, nil); err != nil {
			fmt.Println(err)
		}
	}
	_ = server.AddListener(listeners.NewTCP(listeners.Config{ID: "mine", Address: "127.0.0.1:0"}))
	_ = server.Serve()
	fmt.Println(len(courier.Sessions()), "devices are online")

	_ = server.Close()
	reg.Close()
	_ = db.Close()
	// Output: 0 devices are online
}

// farewell holds mochi's teardown of a connection behind the guard's.
type farewell struct {
	mqtt.HookBase
	armed            atomic.Bool
	reached, release chan struct{}
}

func (*farewell) ID() string           { return "farewell" }
func (*farewell) Provides(b byte) bool { return b == mqtt.OnDisconnect }

func (f *farewell) OnDisconnect(*mqtt.Client, error, bool) {
	if f.armed.Swap(false) {
		f.reached <- struct{}{}
		<-f.release
	}
}

// In a server that is not ours the same things hold, from CONNECT to takeover.
func TestInAForeignServer(t *testing.T) {
	quiet := slog.New(slog.NewTextHandler(io.Discard, nil))
	ctx := context.Background()
	db := must[*sqlstore.DB](t)(sqlstore.Open(ctx, schematest.SQLite(t), sqlstore.Options{}))
	server := mqtt.New(&mqtt.Options{Logger: quiet})
	c := &cloud{t: t, db: db, courier: hooks.NewCourier(server, root, quiet)}
	c.reg = registry.New(db.Registry(), c.courier, registry.Options{Linger: time.Millisecond, Logger: quiet})
	key, _, err := account.NewSigningKey()
	if err != nil {
		t.Fatal(err)
	}
	c.people = must[*account.Service](t)(account.New(db.Accounts(), c.reg, account.Options{SigningKey: key, Dev: true}))
	for _, h := range hooks.All(c.courier, c.reg, c.people, hooks.Options{}) {
		if err := server.AddHook(h, nil); err != nil {
			t.Fatal(err)
		}
	}
	f := &farewell{reached: make(chan struct{}), release: make(chan struct{})}
	if err := server.AddHook(f, nil); err != nil {
		t.Fatal(err)
	}
	l := listeners.NewTCP(listeners.Config{ID: "mine", Address: "127.0.0.1:0"})
	if err := server.AddListener(l); err != nil {
		t.Fatal(err)
	}
	if err := server.Serve(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = server.Close()
		c.reg.Close()
		_ = db.Close()
	})
	dial := func() *mqttwire.Client {
		conn := must[net.Conn](t)(net.Dial("tcp", l.Address()))
		t.Cleanup(func() { _ = conn.Close() })
		return mqttwire.NewClient(conn, mqttwire.V311)
	}
	d := c.enroll()
	u := c.login("ann", d)
	app := dial()
	if _, err := app.Connect(u.hello("u:", "phone", mqttwire.V5)); err != nil {
		t.Fatal(err)
	}
	subscribe(t, app, 1, "opticworks/+/state")

	var cl *mqttwire.Client
	for i := range 20 {
		cl = dial()
		if _, err := cl.Connect(d.hello(versions[i%2])); err != nil {
			t.Fatal(err)
		}
		publish(t, cl, d.topic("state"), goodState)
	}
	subscribe(t, cl, 1, d.topic("provision/response"))
	publish(t, cl, d.topic("provision"), `{}`)
	next(t, cl)
	if p := c.row(d).Presence; p.Status != registry.Online || p.Epoch != 20 {
		t.Errorf("%+v", p)
	}
	wrong := d.hello(mqttwire.V5)
	wrong.Password = []byte("wrong")
	if ack, err := dial().Connect(wrong); err == nil || ack.ReasonCode != 0x86 {
		t.Errorf("a wrong password: %v", err)
	}
	if err := cl.Ping(); err != nil {
		t.Error(err)
	}
	if err := cl.Close(); err != nil {
		t.Fatal(err)
	}
	if r := c.offline(d); r != registry.NetworkError {
		t.Errorf("reason %v", r)
	}
	f.armed.Store(true)
	old := dial()
	if _, err := old.Connect(d.hello(mqttwire.V5)); err != nil {
		t.Fatal(err)
	}
	if err := old.Close(); err != nil {
		t.Fatal(err)
	}
	<-f.reached // what mochi does after this it does by client id
	cl = dial()
	if _, err := cl.Connect(d.hello(mqttwire.V5)); err != nil {
		t.Fatal(err)
	}
	f.release <- struct{}{}
	alias := mqttwire.Properties{mqttwire.Number(mqttwire.PropTopicAlias, 1)}
	if _, err := cl.Publish(mqttwire.Message{Topic: d.topic("telemetry"), Payload: []byte("{}")}); err != nil {
		t.Fatal(err)
	}
	for range 20 { // mochi's goroutine is through
		if err := cl.Ping(); err != nil {
			t.Fatal(err)
		}
	}
	if _, known := server.Clients.Get(d.id); !known {
		t.Error("the teardown of the old connection made mochi forget the new one")
	}
	if _, err := cl.Publish(mqttwire.Message{Topic: d.topic("state"), Payload: []byte(goodState), Properties: alias}); err != nil {
		t.Fatal(err)
	}
	if code := ended(t, cl); code != 0x94 {
		t.Errorf("topic alias: %#x", byte(code))
	}
	c.offline(d)
	last := document{}
	for {
		p, err := app.Next(200 * time.Millisecond)
		if err != nil {
			break
		}
		if got := decode(t, p.Payload); got.Epoch > 0 {
			last = got
		}
	}
	if last.Online || last.Epoch != 22 {
		t.Errorf("the last word was %+v", last)
	}
	if err := app.Disconnect(); err != nil {
		t.Fatal(err)
	}
	eventually(t, "nothing is left", func() bool { return hooks.Sessions(c.courier) == 0 })
}
