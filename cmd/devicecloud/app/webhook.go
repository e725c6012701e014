package app

import (
	"log/slog"
	"net/netip"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/opticworks/devicecloud/registry"
	"github.com/opticworks/devicecloud/webhook"
)

// webhookNetworks reads WEBHOOK_ALLOWED_NETWORKS.
func (c *Config) webhookNetworks() ([]netip.Prefix, error) {
	return prefixes("WEBHOOK_ALLOWED_NETWORKS", c.WebhookAllowedNetworks)
}

// webhookOptions are the options of webhooks; ids and the key are the registry's.
func (c *Config) webhookOptions(reg registry.Options, log *slog.Logger) (webhook.Options, error) {
	networks, err := c.webhookNetworks()
	return webhook.Options{
		NextID: reg.NextID, Sealer: reg.Sealer, Guard: webhook.Guard{Allowed: networks, Loopback: c.Dev}, Logger: log,
	}, err
}

// webhookCollector exports the counters of webhooks.
type webhookCollector struct {
	counters        *webhook.Counters
	attempts        *prometheus.Desc
	disabled        *prometheus.Desc
	waiting, oldest *prometheus.Desc
}

func newWebhookCollector(c *webhook.Counters) *webhookCollector {
	return &webhookCollector{
		counters: c,
		attempts: prometheus.NewDesc("webhook_attempts_total", "Attempts to deliver, by what came of them.", []string{"result"}, nil),
		disabled: prometheus.NewDesc("webhook_endpoints_disabled_total", "Endpoints that were disabled because they failed or are gone.", nil, nil),
		waiting:  prometheus.NewDesc("webhook_deliveries_waiting", "Deliveries that wait at enabled endpoints.", nil, nil),
		oldest:   prometheus.NewDesc("webhook_oldest_waiting_seconds", "Age of the oldest of them.", nil, nil),
	}
}

// Describe implements prometheus.Collector.
func (c *webhookCollector) Describe(ch chan<- *prometheus.Desc) {
	ch <- c.attempts
	ch <- c.disabled
	ch <- c.waiting
	ch <- c.oldest
}

// Collect implements prometheus.Collector.
func (c *webhookCollector) Collect(ch chan<- prometheus.Metric) {
	n := c.counters
	for result, count := range map[string]int64{
		"delivered": n.Delivered.Load(), "retried": n.Retried.Load(), "given_up": n.GivenUp.Load(), "interrupted": n.Interrupted.Load(),
	} {
		ch <- prometheus.MustNewConstMetric(c.attempts, prometheus.CounterValue, float64(count), result)
	}
	ch <- prometheus.MustNewConstMetric(c.disabled, prometheus.CounterValue, float64(n.Disabled.Load()))
	ch <- prometheus.MustNewConstMetric(c.waiting, prometheus.GaugeValue, float64(n.Waiting.Load()))
	ch <- prometheus.MustNewConstMetric(c.oldest, prometheus.GaugeValue, float64(n.OldestNanos.Load())/1e9)
}
