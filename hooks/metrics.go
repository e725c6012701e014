package hooks

import (
	"fmt"

	"github.com/opticworks/devicecloud/topic"
	"github.com/prometheus/client_golang/prometheus"
)

// metrics are what the MQTT face counts. The hot counters are resolved once.
type metrics struct {
	publishes  *prometheus.CounterVec // by topic and result
	byKind     [maxKinds][verdicts]prometheus.Counter
	deliveries *prometheus.CounterVec // by topic
	refusals   *prometheus.CounterVec // of CONNECT, by reason code
	denials    *prometheus.CounterVec // by what was not allowed
	panics     *prometheus.CounterVec // by method of the hook
	dropped    prometheus.Counter
	sessions   []prometheus.Collector
}

func newMetrics(c *Courier) *metrics {
	counter := func(name, help string, labels ...string) *prometheus.CounterVec {
		return prometheus.NewCounterVec(prometheus.CounterOpts{Name: name, Help: help}, labels)
	}
	m := &metrics{
		publishes:  counter("mqtt_publishes_total", "Messages that devices published, by topic and what became of them.", "topic", "result"),
		deliveries: counter("mqtt_deliveries_total", "Messages written to devices, by topic.", "topic"),
		refusals:   counter("mqtt_connect_refusals_total", "Refused CONNECTs, by MQTT 5 reason code.", "code"),
		denials:    counter("mqtt_denials_total", "What clients tried and may not do.", "action"),
		panics:     counter("mqtt_hook_panics_total", "Panics recovered in the hook; the goal is 0.", "method"),
		dropped: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "mqtt_messages_dropped_total", Help: "Messages not handed to a subscriber that was too slow, away for too long, or no longer allowed.",
		}),
	}
	for k := range topic.Kind(maxKinds) {
		label := topic.Unknown // what a device may not publish is counted as one
		if k.Direction() == topic.FromDevice {
			label = k
		}
		for v := range verdicts {
			m.byKind[k][v] = m.publishes.WithLabelValues(label.String(), verdictNames[v])
		}
	}
	for kind, count := range map[string]func() float64{
		"device": func() float64 { n, _ := c.counts(); return float64(n) },
		"reader": func() float64 { _, n := c.counts(); return float64(n) },
	} {
		m.sessions = append(m.sessions, prometheus.NewGaugeFunc(prometheus.GaugeOpts{
			Name: "mqtt_sessions", Help: "Connected sessions.", ConstLabels: prometheus.Labels{"kind": kind},
		}, count))
	}
	return m
}

func (m *metrics) register(r prometheus.Registerer) error {
	for _, c := range append(m.sessions, m.publishes, m.deliveries, m.refusals, m.denials, m.panics, m.dropped) {
		if err := r.Register(c); err != nil {
			return fmt.Errorf("hooks: metrics: %w", err)
		}
	}
	return nil
}

func (m *metrics) published(k topic.Kind, v verdict) { m.byKind[k][v].Inc() }
func (m *metrics) delivered(k topic.Kind)            { m.deliveries.WithLabelValues(k.String()).Inc() }

func (m *metrics) refused(code byte) {
	m.refusals.WithLabelValues(fmt.Sprintf("0x%02x", code)).Inc()
}
func (m *metrics) denied(action string)   { m.denials.WithLabelValues(action).Inc() }
func (m *metrics) panicked(method string) { m.panics.WithLabelValues(method).Inc() }
