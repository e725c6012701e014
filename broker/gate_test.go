package broker_test

import (
	"crypto/tls"
	"fmt"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/opticworks/devicecloud/broker"
	"github.com/prometheus/client_golang/prometheus"
)

func TestGate(t *testing.T) {
	t.Run("a handshake that has begun goes before those that have not", func(t *testing.T) {
		g := broker.NewGate(1)
		if !g.Enter(time.Time{}, false) {
			t.Fatal("an open gate")
		}
		var mu sync.Mutex
		var order []string
		var all sync.WaitGroup
		for i, w := range []struct {
			name  string
			begun bool
		}{{"first", false}, {"second", false}, {"half done", true}, {"half done too", true}} {
			all.Go(func() {
				if !g.Enter(time.Now().Add(patience), w.begun) {
					t.Error(w.name, "was not let in")
					return
				}
				mu.Lock()
				order = append(order, w.name)
				mu.Unlock()
				g.Leave()
			})
			until(t, w.name+" waits", func() bool { return g.Waiting() == i+1 })
		}
		g.Leave()
		all.Wait()
		if want := []string{"half done", "half done too", "first", "second"}; !slices.Equal(order, want) {
			t.Errorf("order %q", order)
		}
	})
	t.Run("who has waited too long leaves the line, and no slot is lost", func(t *testing.T) {
		g := broker.NewGate(1)
		if !g.Enter(time.Time{}, false) {
			t.Fatal("an open gate")
		}
		for _, begun := range []bool{false, true} {
			if g.Enter(time.Now().Add(time.Millisecond), begun) {
				t.Error("let in through a full gate")
			}
		}
		if n := g.Waiting(); n != 0 {
			t.Errorf("%d still wait", n)
		}
		g.Leave()
		if !g.Enter(time.Now().Add(time.Millisecond), false) {
			t.Error("the slot was lost")
		}
	})
	t.Run("every slot is used and none is given twice", func(t *testing.T) {
		const slots = 3
		g := broker.NewGate(slots)
		var mu sync.Mutex
		in, most := 0, 0
		var all sync.WaitGroup
		for i := range 200 {
			all.Go(func() {
				limit := patience
				if i%5 == 0 {
					limit = time.Microsecond
				}
				if !g.Enter(time.Now().Add(limit), i%2 == 0) {
					return
				}
				mu.Lock()
				in++
				most = max(most, in)
				mu.Unlock()
				time.Sleep(50 * time.Microsecond) // the work
				mu.Lock()
				in--
				mu.Unlock()
				g.Leave()
			})
		}
		all.Wait()
		if most > slots || g.Waiting() != 0 {
			t.Errorf("%d at once, %d left", most, g.Waiting())
		}
		for range slots {
			if !g.Enter(time.Now().Add(time.Millisecond), false) {
				t.Error("a slot was lost")
			}
		}
	})
}

// A storm waits where it costs nothing.
func TestACrowdOfHandshakesKeepsOthersInTheAcceptQueue(t *testing.T) {
	h := start(t, func(s *setup) {
		s.Limits.MaxHandshakes, s.Limits.ConnectTimeout = 1, 8*time.Second
	})
	g := h.Gate()
	if !g.Enter(time.Time{}, false) {
		t.Fatal("an open gate")
	}
	hello := firstFlight(t)
	const open = 3
	for range open {
		dial(t, h.TLSAddr(), 4).say(hello)
	}
	until(t, "they wait for a slot", func() bool { return g.Waiting() == open })
	until(t, "they have waited for long", g.Crowded)
	for range 5 {
		dial(t, h.TLSAddr(), 4).say(hello)
	}
	const others = 20 // by the time that these are served, an unhindered listener has let the five in
	for i := range others {
		h.client(t, 5).open(fmt.Sprint("not over TLS ", i)).alive()
	}
	if n := h.Open() - others; n > open+1 { // one more was being accepted when the crowd was complete
		t.Errorf("%d are in, of a crowd of %d", n, open)
	}
	g.Leave()
	until(t, "the crowd has gone", func() bool { return !g.Crowded() })
	for i := range 3 {
		h.secure(t, 5).open(fmt.Sprint("device", i)).alive()
	}
}

func TestWhoHungUpWhileWaitingIsNotServed(t *testing.T) {
	var served atomic.Int64
	reg := prometheus.NewRegistry()
	h := start(t, func(s *setup) {
		s.Limits.MaxHandshakes, s.Limits.ConnectTimeout, s.Registerer = 1, 3*time.Second, reg
		s.TLS = s.TLS.Clone()
		certificate := s.TLS.GetCertificate
		s.TLS.GetCertificate = func(hello *tls.ClientHelloInfo) (*tls.Certificate, error) {
			served.Add(1)
			return certificate(hello)
		}
	})
	g, hello := h.Gate(), firstFlight(t, tls.CurveP256) // as short as a device's: one read takes it all
	const tries = 20                                    // the kernel may hand over a FIN late
	for n := range tries {
		before := served.Load()
		if !g.Enter(time.Now().Add(patience), false) {
			t.Fatal("an open gate")
		}
		c := dial(t, h.TLSAddr(), 4)
		c.say(hello)
		until(t, "it has waited for long", g.Crowded)
		_ = c.Close()
		g.Leave()
		until(t, "it is counted", func() bool { return sample(t, reg, "mqtt_connections_refused_total", "tls") == float64(n+1) })
		if served.Load() == before {
			h.secure(t, 5).open("another").alive()
			return
		}
	}
	t.Errorf("%d clients that had hung up were served", tries)
}
