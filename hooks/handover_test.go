package hooks_test

import (
	"fmt"
	"math/rand/v2"
	"sync"
	"testing"
	"time"

	"github.com/opticworks/devicecloud/firmware-sim/mqttwire"
)

// An app that comes back again and again while devices speak misses nothing that it has
// subscribed to.
func TestNothingIsLostWhileAnAppComesBack(t *testing.T) {
	const speakers, returns = 4, 60
	c := newCloud(t)
	devices := make([]thing, speakers)
	for i := range devices {
		devices[i] = c.enroll()
	}
	u := c.login("ann", devices...)
	hello := u.hello("u:", "phone", mqttwire.V5)
	hello.Resume = true
	back := func() *mqttwire.Client {
		t.Helper()
		app := c.dial()
		if _, err := app.Connect(hello, mqttwire.Number(mqttwire.PropSessionExpiry, 3600)); err != nil {
			t.Fatal(err)
		}
		return app
	}
	app := back()
	var said [speakers]int
	heard := map[string]bool{}
	for _, d := range devices {
		subscribe(t, app, 1, d.topic("config/status"))
	}
	status := func(n int) string { return fmt.Sprintf(`{"version":%d,"status":"applied"}`, n) }
	stop := make(chan struct{})
	var group sync.WaitGroup
	for i, d := range devices {
		client := c.connect(d, mqttwire.V311)
		group.Go(func() {
			for {
				select {
				case <-stop:
					return
				default:
				}
				if _, err := client.Publish(mqttwire.Message{Topic: d.topic("config/status"), Payload: []byte(status(said[i])), QoS: 1}); err != nil {
					t.Error(err)
					return
				}
				said[i]++
			}
		})
	}
	hear := func(limit time.Duration) {
		for end := time.Now().Add(limit); ; {
			p, err := app.Next(time.Until(end))
			if err != nil {
				return
			}
			heard[p.Topic+" "+string(p.Payload)] = true
		}
	}
	for range returns {
		hear(time.Duration(1+rand.IntN(20)) * time.Millisecond)
		app = back() // the connection before is still there
	}
	close(stop)
	group.Wait()
	hear(time.Second)
	total := 0
	for i, d := range devices {
		for n := range said[i] {
			total++
			if !heard[d.topic("config/status")+" "+status(n)] {
				t.Errorf("message %d of device %d is lost", n, i)
			}
		}
	}
	t.Logf("%d messages, %d returns", total, returns)
}
