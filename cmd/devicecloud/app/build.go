package app

import (
	"context"
	"errors"
	"log/slog"
	"net/netip"

	"github.com/prometheus/client_golang/prometheus/collectors"

	"github.com/opticworks/devicecloud/account"
	"github.com/opticworks/devicecloud/broker"
	"github.com/opticworks/devicecloud/dataplan"
	"github.com/opticworks/devicecloud/hooks"
	"github.com/opticworks/devicecloud/httpapi"
	"github.com/opticworks/devicecloud/media"
	"github.com/opticworks/devicecloud/registry"
	"github.com/opticworks/devicecloud/rollout"
	"github.com/opticworks/devicecloud/sqlstore"
	"github.com/opticworks/devicecloud/topic"
	"github.com/opticworks/devicecloud/webhook"
)

// options are those of the domains. What is wrong with a setting is known when they are
// made, before anything is opened.
type options struct {
	registry registry.Options
	accounts account.Options
	webhooks webhook.Options
	plans    dataplan.Options
	forSale  []dataplan.Plan // nil: as they are in the database
	media    media.Options
	proxies  []netip.Prefix
}

func (c *Config) options(ctx context.Context, log *slog.Logger) (o options, err error) {
	if o.registry, err = c.registryOptions(log); err != nil {
		return options{}, err
	}
	if o.accounts, err = c.accountOptions(o.registry, log); err != nil {
		return options{}, err
	}
	if o.webhooks, err = c.webhookOptions(o.registry, log); err != nil {
		return options{}, err
	}
	o.plans = c.dataplanOptions(log, o.registry.NextID)
	if err = c.carrier(&o.plans); err != nil {
		return options{}, err
	}
	if o.forSale, err = c.dataPlans(); err != nil {
		return options{}, err
	}
	if o.media, err = c.mediaOptions(ctx, o.registry, log); err != nil {
		return options{}, err
	}
	o.proxies, err = c.trustedProxies()
	return o, err
}

// build is New behind the stand-ins, which have changed the configuration.
func (a *App) build(ctx context.Context, c Config) error {
	if err := a.loadTLS(); err != nil {
		return err
	}
	o, err := c.options(ctx, a.log)
	if err != nil {
		return err
	}
	if a.db, err = sqlstore.Open(ctx, c.DatabaseURL.Reveal(), sqlstore.Options{Logger: a.log}); err != nil {
		return err
	}
	a.broker, err = broker.New(broker.Options{
		TLSAddr: c.MQTTTLSAddr, PlainAddr: c.MQTTAddr, TLS: a.tls, Limits: c.brokerLimits(), Logger: a.log, Registerer: a.metrics,
	})
	if err != nil {
		return closeAll(err, a.db.Close)
	}
	courier := hooks.NewCourier(a.broker.Server(), topic.Root(c.TopicRoot), a.log)
	a.registry = registry.New(a.db.Registry(), courier, o.registry)
	if err = a.buildDomains(ctx, c, o, courier); err == nil {
		err = a.buildFaces(c, o, courier)
	}
	if err == nil {
		err = a.countAll()
	}
	if err != nil {
		return errors.Join(err, a.Close())
	}
	return nil
}

// buildDomains makes what stands on the registry.
func (a *App) buildDomains(ctx context.Context, c Config, o options, courier *hooks.Courier) (err error) {
	a.webhooks = webhook.New(a.db.Webhooks(), a.registry, o.webhooks)
	if a.accounts, err = account.New(a.db.Accounts(), a.registry, o.accounts); err != nil {
		return err
	}
	a.plans = dataplan.New(a.db.DataPlans(), a.registry, o.plans)
	if o.forSale != nil {
		if err := a.plans.LoadPlans(ctx, o.forSale); err != nil {
			return err
		}
	}
	a.rollouts = rollout.New(a.db.Rollouts(), a.registry, courier, rollout.Options{
		NodeID: c.NodeID, Root: topic.Root(c.TopicRoot), NextID: o.registry.NextID, Logger: a.log,
	})
	a.media = media.New(a.db.Media(), a.registry, o.media)
	if a.classifier, err = c.newClassifier(ctx, a.media, a.db, o.registry, a.log); err != nil {
		return err
	}
	a.ingestor, err = c.newIngestor(a.db, a.registry, a.classifier, o.registry, a.log)
	return err
}

// buildFaces makes what speaks MQTT and HTTP for the domains.
func (a *App) buildFaces(c Config, o options, courier *hooks.Courier) error {
	if err := a.broker.Use(hooks.All(courier, a.registry, a.accounts, hooks.Options{
		Root: topic.Root(c.TopicRoot), Logger: a.log, Registerer: a.metrics, DeviceCAs: a.deviceCAs(), Video: a.media, Updates: a.rollouts,
		Limits: c.deviceLimits(), OfflineThreshold: c.offlineThreshold(),
	})...); err != nil {
		return err
	}
	a.handler = httpapi.New(
		httpapi.Deps{
			Registry: a.registry, Accounts: a.accounts, Rollouts: a.rollouts, Webhooks: a.webhooks, DataPlans: a.plans,
			Media: a.media, Ingestor: a.ingestor, Classifier: a.classifier,
			WebSocket: a.broker.WebSocket(), Ready: a.readiness,
		},
		httpapi.Options{
			Logger: a.log, Registerer: a.metrics, TrustedProxies: o.proxies,
			AppLink: c.AppLinkURL, DeviceCAs: a.deviceCAs(), Limits: c.httpLimits(),
		})
	return nil
}

// countAll exports what the domains and the process count.
func (a *App) countAll() error {
	return errors.Join(
		a.metrics.Register(collectors.NewGoCollector()),
		a.metrics.Register(collectors.NewProcessCollector(collectors.ProcessCollectorOpts{})),
		a.metrics.Register(newRegistryCollector(a.registry.Counters())),
		a.metrics.Register(newDataPlanCollector(a.plans.Counters())),
		a.metrics.Register(newWebhookCollector(a.webhooks.Counters())),
		a.metrics.Register(newEventCollector(a.ingestor.Counters(), a.classifier.Counters())),
	)
}
