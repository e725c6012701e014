package app

import (
	"sync/atomic"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/opticworks/devicecloud/dataplan"
	"github.com/opticworks/devicecloud/media"
	"github.com/opticworks/devicecloud/registry"
)

// registryCollector exports counters of a domain, which itself knows no metrics library.
type registryCollector struct {
	counters []counter
}

type counter struct {
	desc  *prometheus.Desc
	value *atomic.Int64
	scale float64
}

// metric is one counter as it is exported.
type metric struct {
	name, help string
	value      *atomic.Int64
	scale      float64
}

func newRegistryCollector(c *registry.Counters) *registryCollector {
	return newCollector([]metric{
		{"registry_batches_total", "Group commits.", &c.Batches, 1},
		{"registry_failed_batches_total", "Group commits that failed: none of their messages was acknowledged.", &c.FailedBatches, 1},
		{"registry_committed_writes_total", "Writes in group commits.", &c.Committed, 1},
		{"registry_commit_seconds_total", "Time spent in group commits.", &c.CommitNanos, 1e-9},
		{"registry_stale_writes_total", "Writes of superseded sessions that the epoch fence refused.", &c.StaleWrites, 1},
		{"registry_dropped_messages_total", "QoS 0 messages dropped because too much waited.", &c.Dropped, 1},
		{"registry_rejected_payloads_total", "Payloads of devices that were not valid.", &c.RejectedPayloads, 1},
		{"registry_provisioned_total", "Provisionings.", &c.Provisioned, 1},
		{"registry_claims_total", "Devices that got an owner.", &c.Claims, 1},
		{"registry_self_enrolled_total", "Devices that enrolled themselves.", &c.SelfEnrolled, 1},
		{"registry_presence_corrections_total", "Wrong presence that the sweep corrected; the goal is 0.", &c.PresenceCorrections, 1},
		{"registry_stream_events_dropped_total", "Changes that event streams did not get because their clients read too slowly.", &c.FeedDropped, 1},
	})
}

// newDataPlanCollector exports the counters of data plans.
func newDataPlanCollector(c *dataplan.Counters) *registryCollector {
	return newCollector([]metric{
		{"dataplan_events_total", "Reports of the payment provider that were taken.", &c.Events, 1},
		{"dataplan_duplicate_events_total", "Reports of the payment provider that had been taken before.", &c.Duplicates, 1},
		{"dataplan_invalid_signatures_total", "Reports whose signature was not good.", &c.BadSignatures, 1},
		{"dataplan_unconfigured_events_total", "Reports that came while no webhook secret was set.", &c.Unconfigured, 1},
		{"dataplan_held_total", "Purchases put on hold because what was paid is not the price.", &c.Held, 1},
		{"dataplan_refused_transitions_total", "Reports that would have moved a purchase where it cannot go.", &c.Refused, 1},
		{"dataplan_carrier_orders_total", "Requests to the SIM carrier that ordered, or may have.", &c.CarrierOrders, 1},
		{"dataplan_carrier_repaired_total", "Orders that were found at the carrier after their answer was lost.", &c.CarrierRepaired, 1},
		{"dataplan_carrier_failed_total", "Purchases that the carrier refused.", &c.CarrierFailed, 1},
		{"dataplan_carrier_notices_total", "Notifications of the carrier that were taken.", &c.Notices, 1},
		{"dataplan_carrier_duplicate_notices_total", "Notifications of the carrier that had been taken before.", &c.NoticeDuplicates, 1},
		{"dataplan_carrier_refused_notices_total", "Notifications that were refused: signature, time, form, address.", &c.NoticeRefused, 1},
	})
}

func newCollector(rows []metric) *registryCollector {
	var all []counter
	for _, row := range rows {
		all = append(all, counter{prometheus.NewDesc(row.name, row.help, nil, nil), row.value, row.scale})
	}
	return &registryCollector{all}
}

// newEventCollector exports the counters of events from outside, and of the model that
// looks at their pictures.
func newEventCollector(c *media.IngestCounters, m *media.ClassifyCounters) *registryCollector {
	var all []counter
	for _, row := range []struct {
		name, help string
		value      *atomic.Int64
	}{
		{"registry_ingested_events_total", "Events from outside that were taken.", &c.Accepted},
		{"registry_ingest_duplicates_total", "Events from outside that had been taken before.", &c.Duplicates},
		{"registry_ingest_refused_total", "Deliveries and events from outside that were refused.", &c.Refused},
		{"registry_classifier_calls_total", "Calls of the model that looks at pictures of events; each is paid for.", &m.Calls},
		{"registry_classified_events_total", "Events whose picture the model has judged.", &m.Done},
		{"registry_classification_failures_total", "Tries to classify an event that failed.", &m.Failed},
	} {
		all = append(all, counter{prometheus.NewDesc(row.name, row.help, nil, nil), row.value, 1})
	}
	return &registryCollector{all}
}

// Describe implements prometheus.Collector.
func (c *registryCollector) Describe(ch chan<- *prometheus.Desc) {
	for _, x := range c.counters {
		ch <- x.desc
	}
}

// Collect implements prometheus.Collector.
func (c *registryCollector) Collect(ch chan<- prometheus.Metric) {
	for _, x := range c.counters {
		ch <- prometheus.MustNewConstMetric(x.desc, prometheus.CounterValue, float64(x.value.Load())*x.scale)
	}
}
