package httpapi

import (
	"context"
	"log/slog"
	"net/http"
	"strconv"
	"sync"
	"time"

	"github.com/opticworks/devicecloud/registry"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promhttp"
)

// Metrics serves what a gatherer has gathered, for the address that is not open
// to the public (METRICS_ADDR).
func Metrics(g prometheus.Gatherer) http.Handler {
	mux := http.NewServeMux()
	mux.Handle("GET /metrics", promhttp.HandlerFor(g, promhttp.HandlerOpts{ErrorHandling: promhttp.ContinueOnError, MaxRequestsInFlight: 4}))
	return mux
}

// metrics counts requests; nil counts nothing.
type metrics struct {
	requests *prometheus.CounterVec
	seconds  *prometheus.HistogramVec
	streams  prometheus.Gauge
	events   *prometheus.CounterVec
}

func newMetrics(reg prometheus.Registerer, fleet counter, logger *slog.Logger, now func() time.Time) *metrics {
	if reg == nil {
		return nil
	}
	m := &metrics{
		requests: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "registry_api_requests_total", Help: "HTTP requests, by route, method and status.",
		}, []string{"route", "method", "code"}),
		seconds: prometheus.NewHistogramVec(prometheus.HistogramOpts{
			Name: "registry_api_request_seconds", Help: "Time to answer an HTTP request, by route.",
			Buckets: []float64{.001, .0025, .005, .01, .025, .05, .1, .25, .5, 1, 2.5, 5, 10},
		}, []string{"route"}),
		streams: prometheus.NewGauge(prometheus.GaugeOpts{Name: "registry_event_streams", Help: "Open event streams."}),
		events: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "registry_stream_events_total", Help: "Events written to event streams, by kind; of a snapshot, device.state for each device.",
		}, []string{"event"}),
	}
	for _, c := range []prometheus.Collector{m.requests, m.seconds, m.streams, m.events, newFleetCollector(fleet, logger, now)} {
		if err := reg.Register(c); err != nil {
			logger.Error("a metric is not exported", "error", err)
		}
	}
	return m
}

func (m *metrics) observe(route, verb string, status int, took time.Duration) {
	if m == nil {
		return
	}
	if route == "" {
		route = "unmatched"
	}
	m.requests.WithLabelValues(route, method(verb), strconv.Itoa(status)).Inc()
	if route != pathMQTT && route != pathStream { // the life of a stream is no answering time
		m.seconds.WithLabelValues(route).Observe(took.Seconds())
	}
}

// stream counts a stream until closed is called.
func (m *metrics) stream() (closed func()) {
	if m == nil {
		return func() {}
	}
	m.streams.Inc()
	return m.streams.Dec
}

// streamed counts the events of one update.
func (m *metrics) streamed(u registry.Update) {
	if m == nil {
		return
	}
	if len(u.Devices) > 0 {
		m.events.WithLabelValues(string(registry.ChangeState)).Add(float64(len(u.Devices)))
	}
	for _, c := range u.Changes {
		m.events.WithLabelValues(string(c.Kind)).Inc()
	}
}

// method keeps a client from inventing labels and log values.
func method(verb string) string {
	switch verb {
	case get, post, patch, remove, http.MethodHead, http.MethodPut, http.MethodOptions:
		return verb
	}
	return "other"
}

// counter is the fleet's size; [registry.Registry] implements it.
type counter interface {
	CountDevices(ctx context.Context) (total, online int, err error)
}

const (
	// countEvery is how long a count is kept, so that scraping costs nothing with
	// 100,000 devices.
	countEvery   = 10 * time.Second
	countTimeout = 2 * time.Second
)

// fleetCollector gives the gauges of the fleet at scrape time.
type fleetCollector struct {
	fleet         counter
	log           *slog.Logger
	now           func() time.Time
	total, online *prometheus.Desc

	mu     sync.Mutex
	at     time.Time
	counts [2]int
	known  bool // counts are good
}

func newFleetCollector(fleet counter, logger *slog.Logger, now func() time.Time) *fleetCollector {
	return &fleetCollector{
		fleet: fleet, log: logger, now: now,
		total:  prometheus.NewDesc("registry_devices", "Enrolled devices.", nil, nil),
		online: prometheus.NewDesc("registry_devices_online", "Devices that are connected.", nil, nil),
	}
}

// Describe implements prometheus.Collector.
func (c *fleetCollector) Describe(ch chan<- *prometheus.Desc) {
	ch <- c.total
	ch <- c.online
}

// Collect implements prometheus.Collector. While the store does not answer, the
// gauges are absent rather than stale.
func (c *fleetCollector) Collect(ch chan<- prometheus.Metric) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if now := c.now(); c.at.IsZero() || now.Sub(c.at) >= countEvery {
		ctx, cancel := context.WithTimeout(context.Background(), countTimeout)
		total, online, err := c.fleet.CountDevices(ctx)
		cancel()
		c.at, c.counts, c.known = now, [2]int{total, online}, err == nil
		if err != nil {
			c.log.Warn("the devices could not be counted", "error", err)
		}
	}
	if c.known {
		ch <- prometheus.MustNewConstMetric(c.total, prometheus.GaugeValue, float64(c.counts[0]))
		ch <- prometheus.MustNewConstMetric(c.online, prometheus.GaugeValue, float64(c.counts[1]))
	}
}
