package app

import (
	"errors"
	"fmt"
	"log/slog"
	"os"
	"time"

	"github.com/opticworks/devicecloud/broker"
	"github.com/opticworks/devicecloud/hooks"
	"github.com/opticworks/devicecloud/httpapi"
	"github.com/opticworks/devicecloud/registry"
	"github.com/opticworks/devicecloud/topic"
)

// makeDataDir makes DATA_DIR, readable by its owner alone: the database and, in
// dev mode, keys lie in it.
func (c *Config) makeDataDir() error {
	if err := os.MkdirAll(c.DataDir, 0o700); err != nil {
		return fmt.Errorf("DATA_DIR: %w", err)
	}
	return nil
}

func (c *Config) registryOptions(log *slog.Logger) (registry.Options, error) {
	const day = 24 * time.Hour
	o := registry.Options{
		NodeID:            c.NodeID,
		NextID:            registry.NewIDSource(time.Now),
		Salt:              c.DeviceIDSalt,
		Root:              topic.Root(c.TopicRoot),
		SelfEnroll:        c.SelfEnroll,
		OfflineThreshold:  c.offlineThreshold(),
		AuditRetention:    time.Duration(c.AuditRetentionDays) * day,
		HistoryRetention:  time.Duration(c.HistoryRetentionDays) * day,
		MaxDevicesPerUser: c.MaxDevicesPerUser,
		PairingCodeLife:   time.Duration(c.PairingCodeExpirySec) * time.Second,
		Trial:             trialPeriod(c.TrialDays),
		NoClaimLimits:     c.Dev,
		Logger:            log,
		Commands: registry.CommandLimits{
			PerUser: registryRate(c.LimitCommandsPerUser), PerDevice: registryRate(c.LimitCommandsPerDevice), ByType: !c.Dev,
		},
		InvitationMails: registry.InvitationMails{
			On: c.SMTPURL != "" || c.Dev, PerAddress: registryRate(c.LimitInvitesPerEmail), PerInviter: registryRate(c.LimitInvitesPerUser),
		},
		ResetReleases: c.ResetReleasesOwnership,
	}
	key, err := c.encryptionKey()
	if err != nil || key == nil {
		return o, err
	}
	o.Sealer, err = registry.NewSealer(key)
	return o, err
}

// trialPeriod says "no trial" as the registry does: negative, where 0 is its own
// default.
func trialPeriod(days int) time.Duration {
	if days == 0 {
		return -1
	}
	return time.Duration(days) * 24 * time.Hour
}

func (c *Config) offlineThreshold() time.Duration {
	return time.Duration(c.OfflineThresholdSec) * time.Second
}

// registryRate is a rate as the registry counts it: the time that one event costs.
func registryRate(r Rate) registry.Rate {
	if r.Count == 0 {
		return registry.Rate{}
	}
	return registry.Rate{Interval: r.Per / time.Duration(r.Count), Burst: r.Burst}
}

// brokerLimits says "no limit" as the broker does: negative, where 0 is its own
// default.
func (c *Config) brokerLimits() broker.Limits {
	off := func(n int) int {
		if n == 0 {
			return -1
		}
		return n
	}
	l := broker.Limits{
		MaxConnections:           off(c.MQTTMaxConnections),
		MaxConnectionsPerAddress: off(c.MQTTMaxPerAddress),
		AcceptRate:               c.MQTTAcceptRate.PerSecond(),
		AcceptBurst:              c.MQTTAcceptRate.Burst,
	}
	if l.AcceptRate == 0 {
		l.AcceptRate = -1
	}
	return l
}

func (c *Config) deviceLimits() hooks.Limits {
	rate := func(r Rate) hooks.Rate { return hooks.Rate{Events: r.PerSecond(), Burst: r.Burst} }
	return hooks.Limits{
		ConnectsPerDevice:  rate(c.LimitConnectsPerDevice),
		StatePerDevice:     rate(c.LimitStatePerDevice),
		TelemetryPerDevice: rate(c.LimitTelemetryPerDevice),
		TargetsPerDevice:   rate(c.LimitTargetsPerDevice),
		OTAStatusPerUpdate: c.LimitOTAStatusPerUpdate,
	}
}

func (c *Config) httpLimits() httpapi.Limits {
	rate := func(r Rate) httpapi.Rate { return httpapi.Rate{PerSecond: r.PerSecond(), Burst: r.Burst} }
	return httpapi.Limits{
		RequestsPerAddress:   rate(c.HTTPRatePerAddress),
		RequestsPerUser:      rate(c.HTTPRatePerUser),
		LoginsPerAddress:     rate(c.LimitLoginsPerAddress),
		LoginsPerInstall:     rate(c.LimitLoginsPerInstall),
		MagicLinksPerEmail:   rate(c.LimitLinksPerEmail),
		MagicLinksPerAddress: rate(c.LimitLinksPerAddress),
		ChangesPerDevice:     rate(c.LimitChangesPerDevice),
	}
}

// closeAll gives back what was opened, last first, and joins the errors.
func closeAll(err error, closers ...func() error) error {
	for i := len(closers) - 1; i >= 0; i-- {
		err = errors.Join(err, closers[i]())
	}
	return err
}
