package broker_test

import (
	"testing"
	"time"

	"github.com/opticworks/devicecloud/broker"
	"github.com/prometheus/client_golang/prometheus"
)

// sample is the value of a metric with this label value, or the only one of its name for "".
func sample(t testing.TB, reg *prometheus.Registry, name, label string) float64 {
	t.Helper()
	families, err := reg.Gather()
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range families {
		if f.GetName() != name {
			continue
		}
		for _, m := range f.GetMetric() {
			if label == "" || m.GetLabel()[0].GetValue() == label {
				return m.GetGauge().GetValue() + m.GetCounter().GetValue()
			}
		}
	}
	t.Fatalf("no metric %s %q", name, label)
	return 0
}

func TestMetrics(t *testing.T) {
	reg := prometheus.NewRegistry()
	h := start(t, func(s *setup) {
		s.Registerer = reg
		s.Limits.MaxConnections = 2
		s.Limits.ConnectTimeout = 200 * time.Millisecond
	})
	is := func(want float64, name, label string) {
		t.Helper()
		until(t, name+" "+label, func() bool { return sample(t, reg, name, label) == want })
	}
	for _, name := range []string{"mqtt_panics_total", "mqtt_slow_writers_total", "mqtt_accept_errors_total"} {
		is(0, name, "")
	}
	a := h.client(t, 4).open("a")
	b := h.secure(t, 5).open("b")
	is(1, "mqtt_connections", "plain")
	is(1, "mqtt_connections", "tls")
	is(0, "mqtt_connections", "websocket")
	if !refusedAtOnce(t, h.PlainAddr()) {
		t.Error("a third connection")
	}
	is(1, "mqtt_connections_refused_total", "limit")
	a.say(raw(0x82, 0))
	_ = a.rest()
	is(1, "mqtt_packets_refused_total", "0x81")
	is(0, "mqtt_connections", "plain")
	is(1, "mqtt_connections_total", "plain")
	_ = h.client(t, 4).rest()
	is(1, "mqtt_connections_refused_total", "connect_timeout")
	until(t, "its place is free", func() bool { return h.Open() == 1 })
	noTLS := dial(t, h.TLSAddr(), 4)
	noTLS.say(connect(4, "x"))
	_, _ = noTLS.r.ReadByte()
	is(1, "mqtt_connections_refused_total", "tls")
	b.alive()

	if _, err := broker.New(broker.Options{Registerer: reg}); err == nil {
		t.Error("the metrics were registered twice")
	}
}
