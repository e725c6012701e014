package broker

import (
	"fmt"

	"github.com/mochi-mqtt/server/v2/packets"
	"github.com/prometheus/client_golang/prometheus"
)

// refusal is why a connection was refused, or given up before there was an MQTT session; a metric label.
type refusal string

const (
	refusedTotal     refusal = "limit"           // Limits.MaxConnections
	refusedAddress   refusal = "address_limit"   // Limits.MaxConnectionsPerAddress
	refusedRate      refusal = "rate"            // Limits.AcceptRate, WebSocket only
	refusedDraining  refusal = "draining"        // not started, or shutting down
	refusedHandshake refusal = "tls"             // the TLS handshake failed
	refusedTimeout   refusal = "connect_timeout" // no CONNECT came in time
)

// metrics counts what an operator wants to know of the engine room. The series are few and all there from the start,
// so that a rate can be taken of the first event too.
type metrics struct {
	open     *prometheus.GaugeVec
	total    *prometheus.CounterVec
	refused  *prometheus.CounterVec
	rejected *prometheus.CounterVec
	panics   prometheus.Counter
	slow     prometheus.Counter
	accepts  prometheus.Counter
}

// newMetrics registers the metrics, unless reg is nil. It fails when one of them is registered already.
func newMetrics(reg prometheus.Registerer) (*metrics, error) {
	m := &metrics{
		open: prometheus.NewGaugeVec(prometheus.GaugeOpts{
			Name: "mqtt_connections", Help: "Open connections, by listener.",
		}, []string{"listener"}),
		total: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "mqtt_connections_total", Help: "Connections that were let in, by listener.",
		}, []string{"listener"}),
		refused: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "mqtt_connections_refused_total", Help: "Connections that were refused or never became a session, by reason.",
		}, []string{"reason"}),
		rejected: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "mqtt_packets_refused_total", Help: "Packets that ended their connection, by MQTT 5 reason code.",
		}, []string{"code"}),
		panics: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "mqtt_panics_total", Help: "Panics that were caught while serving a connection.",
		}),
		slow: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "mqtt_slow_writers_total", Help: "Connections that were closed because the client read too slowly.",
		}),
		accepts: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "mqtt_accept_errors_total", Help: "Failed accepts, for want of descriptors for example.",
		}),
	}
	for _, via := range []transport{overTLS, overPlain, overWebSocket} {
		m.open.WithLabelValues(string(via))
		m.total.WithLabelValues(string(via))
	}
	for _, why := range []refusal{refusedTotal, refusedAddress, refusedRate, refusedDraining, refusedHandshake, refusedTimeout} {
		m.refused.WithLabelValues(string(why))
	}
	for _, code := range []packets.Code{packets.ErrMalformedPacket, packets.ErrProtocolViolation, packets.ErrUnsupportedProtocolVersion, packets.ErrPacketTooLarge} {
		m.rejected.WithLabelValues(codeLabel(code.Code))
	}
	if reg == nil {
		return m, nil
	}
	for _, c := range []prometheus.Collector{m.open, m.total, m.refused, m.rejected, m.panics, m.slow, m.accepts} {
		if err := reg.Register(c); err != nil {
			return nil, fmt.Errorf("broker: metrics: %w", err)
		}
	}
	return m, nil
}

// codeLabel is a reason code as people know it.
func codeLabel(code byte) string { return fmt.Sprintf("0x%02X", code) }

func (m *metrics) opened(via transport) {
	m.open.WithLabelValues(string(via)).Inc()
	m.total.WithLabelValues(string(via)).Inc()
}

func (m *metrics) closed(via transport)   { m.open.WithLabelValues(string(via)).Dec() }
func (m *metrics) refuse(why refusal)     { m.refused.WithLabelValues(string(why)).Inc() }
func (m *metrics) refusePacket(code byte) { m.rejected.WithLabelValues(codeLabel(code)).Inc() }
func (m *metrics) panicked()              { m.panics.Inc() }
func (m *metrics) slowReader()            { m.slow.Inc() }
func (m *metrics) acceptFailed()          { m.accepts.Inc() }
