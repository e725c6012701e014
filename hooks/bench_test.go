package hooks_test

import (
	"fmt"
	"log/slog"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/opticworks/devicecloud/firmware-sim/mqttwire"
	"github.com/opticworks/devicecloud/registry"
)

// cpu is the time that the whole process has computed.
func cpu(b *testing.B) time.Duration {
	var u syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &u); err != nil {
		b.Fatal(err)
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}

// A durable QoS 1 state message, from many devices at once, each waiting for its
// PUBACK: the whole way through broker, hooks, registry and SQLite, with and
// without somebody who listens. The client's share is in it.
func BenchmarkState(b *testing.B) {
	for _, watchers := range []int{0, 1} {
		for _, version := range versions {
			b.Run(fmt.Sprintf("MQTT %s, %d subscribers", version, watchers), func(b *testing.B) {
				const publishers = 200
				c := newCloud(b, func(s *setup) {
					s.registry.Linger = 10 * time.Millisecond
					s.broker.Logger, s.registry.Logger, s.hooks.Logger = slog.New(slog.DiscardHandler), slog.New(slog.DiscardHandler), slog.New(slog.DiscardHandler)
				})
				clients := make([]*mqttwire.Client, publishers)
				devices := make([]thing, publishers)
				for i := range clients {
					devices[i] = c.enroll()
					clients[i] = c.connect(devices[i], version)
				}
				if watchers > 0 {
					u := c.login("ann")
					c.give(u.id, devices[0], registry.RoleViewer)
					subscribe(b, c.app(u, "u:", "phone", mqttwire.V5), 0, devices[0].topic("telemetry"))
				}
				b.ResetTimer()
				before := cpu(b)
				var all sync.WaitGroup
				for i, cl := range clients {
					n := b.N / publishers
					if i < b.N%publishers {
						n++
					}
					all.Go(func() {
						name := devices[i].topic("state")
						for range n {
							if _, err := cl.Publish(mqttwire.Message{Topic: name, Payload: []byte(goodState), QoS: 1}); err != nil {
								b.Error(err)
								return
							}
						}
					})
				}
				all.Wait()
				b.ReportMetric(float64(cpu(b)-before)/float64(b.N), "cpu-ns/op")
			})
		}
	}
}
