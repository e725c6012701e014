package registry

import (
	"context"
	"encoding/json"
	"errors"
	"time"

	"github.com/opticworks/devicecloud/topic"
)

// Config is the configuration that people want a device to have. Version 0 is none.
type Config struct {
	Version   int64
	Zones     []Zone
	UpdatedAt time.Time
}

// ReportedConfig is what a device said of its configuration last.
type ReportedConfig struct {
	Version   int64
	Status    string // applied, rejected, pending
	ZoneCount *int64
	Error     string
	At        time.Time
}

// ConfigState is what is wanted and what there is.
type ConfigState struct {
	DeviceID string
	Desired  Config
	Reported *ReportedConfig // nil: it never said
}

// InSync reports whether the device has applied what is wanted.
func (s ConfigState) InSync() bool {
	return s.Reported != nil && s.Reported.Version == s.Desired.Version && s.Reported.Status == "applied"
}

// packetOverhead is what a QoS 1 PUBLISH has beside topic and payload: fixed header,
// length of the topic, packet id.
const packetOverhead = 7

// The errors of configurations.
var (
	ErrVersionConflict = E(Conflict, "version_conflict", "The configuration has another version by now.")
	ErrConfigTooLarge  = E(TooLarge, "config_too_large", "The configuration is larger than the device takes.")
)

// configUpdate is what a device gets on config/update.
type configUpdate struct {
	Version   int64  `json:"version"`
	UpdatedAt string `json:"updated_at"`
	Zones     []Zone `json:"zones"`
}

// Payload is the message to the device.
func (c Config) Payload() ([]byte, error) {
	return json.Marshal(configUpdate{c.Version, c.UpdatedAt.UTC().Format(time.RFC3339), c.Zones})
}

// DeviceConfig reads what is wanted of a device and what it has.
func (r *Registry) DeviceConfig(ctx context.Context, a Actor, deviceID string) (s ConfigState, err error) {
	err = r.store.View(ctx, func(tx Tx) error {
		d, err := r.access(ctx, tx, a, deviceID, CanRead)
		if err != nil {
			return err
		}
		s, err = configState(ctx, tx, d.Device)
		return err
	})
	return s, err
}

func configState(ctx context.Context, tx Tx, d Device) (ConfigState, error) {
	s := ConfigState{DeviceID: d.ID}
	var err error
	if s.Desired, _, err = tx.Config(ctx, d.No); err != nil {
		return s, err
	}
	report, ok, err := tx.Report(ctx, d.No, topic.ConfigStatus)
	if err != nil || !ok {
		return s, err
	}
	var said struct {
		Version   int64  `json:"version"`
		Status    string `json:"status"`
		ZoneCount *int64 `json:"zone_count"`
		Error     string `json:"error"`
	}
	if json.Unmarshal([]byte(report.Payload), &said) == nil {
		s.Reported = &ReportedConfig{said.Version, said.Status, said.ZoneCount, said.Error, report.ReceivedAt}
	}
	return s, nil
}

// SetDeviceConfig replaces the configuration of the version given, 0 for none yet, and
// sends it to the device if that is connected; otherwise when it is. The new version is
// above both the one replaced and the one that the device reported. Errors: those of
// Access by CanConfigure, ErrVersionConflict, ErrConfigTooLarge, ErrUnavailable.
func (r *Registry) SetDeviceConfig(ctx context.Context, a Actor, deviceID string, replaces int64, zones []Zone) (s ConfigState, err error) {
	now := r.now()
	err = r.change(ctx, func(tx Tx) error {
		d, err := r.access(ctx, tx, a, deviceID, CanConfigure)
		if err != nil {
			return err
		}
		if s, err = configState(ctx, tx, d.Device); err != nil {
			return err
		}
		if s.Desired.Version != replaces {
			return ErrVersionConflict
		}
		s.Desired = Config{Version: replaces + 1, Zones: zones, UpdatedAt: now}
		if s.Reported != nil && s.Reported.Version > replaces {
			s.Desired.Version = s.Reported.Version + 1
		}
		payload, err := s.Desired.Payload()
		if err != nil {
			return err
		}
		if len(payload)+len(r.opts.Root.Build(deviceID, topic.ConfigUpdate))+packetOverhead > d.PacketLimit(r.dispatch.session(deviceID)) {
			return ErrConfigTooLarge
		}
		changed, err := tx.PutConfig(ctx, d.No, s.Desired, replaces)
		if err == nil && !changed {
			err = ErrVersionConflict
		}
		if err != nil {
			return err
		}
		return r.audit(ctx, tx, a, deviceID, "config_changed", map[string]any{"version": s.Desired.Version, "replaces": replaces, "zone_count": len(zones)})
	}, func() []*Change { return []*Change{{Kind: ChangeConfig, DeviceID: deviceID, At: now, Config: &s}} })
	if err != nil {
		return ConfigState{}, err
	}
	r.sendConfig(ctx, deviceID, func(ConfigState, Device) bool { return true })
	return s, nil
}

// ConfigReady says that a device has subscribed to its configuration and has had the
// SUBACK: it is sent what it does not have. It does not block.
func (r *Registry) ConfigReady(s *Session) {
	r.dispatch.background(func() {
		r.sendConfig(context.Background(), s.DeviceID, func(c ConfigState, _ Device) bool {
			s.wanted.Store(c.Desired.Version)
			return c.Reported == nil || c.Reported.Version < c.Desired.Version
		})
	})
}

// configBehind sends a device its configuration again, once over a connection, when its
// state says that it has lost it.
func (r *Registry) configBehind(s *Session, has *int64) {
	wanted := s.wanted.Load()
	if wanted == 0 || has == nil || *has >= wanted || !s.wanted.CompareAndSwap(wanted, 0) {
		return
	}
	r.dispatch.background(func() {
		r.sendConfig(context.Background(), s.DeviceID, func(c ConfigState, d Device) bool {
			refused := c.Reported != nil && c.Reported.Version == c.Desired.Version && c.Reported.Status != "applied"
			return !refused && d.State.ConfigVersion != nil && *d.State.ConfigVersion < c.Desired.Version
		})
	})
}

// sendConfig sends a device what is wanted of it, if it should be, and again if that
// has changed meanwhile, so that the last that it gets is the newest. A device that is
// not there gets it when it subscribes.
func (r *Registry) sendConfig(ctx context.Context, deviceID string, should func(ConfigState, Device) bool) {
	for sent := int64(0); ; {
		var c ConfigState
		var d Device
		err := r.store.View(ctx, func(tx Tx) (err error) {
			if d, err = tx.Device(ctx, deviceID); err == nil {
				c, err = configState(ctx, tx, d)
			}
			return err
		})
		if err == nil && (c.Desired.Version == 0 || c.Desired.Version == sent || sent == 0 && !should(c, d)) {
			return
		}
		var payload []byte
		if err == nil {
			payload, err = c.Desired.Payload()
		}
		if err == nil {
			sent = c.Desired.Version
			err = r.courier.Deliver(deviceID, topic.ConfigUpdate, payload)
		}
		if err != nil {
			if !errors.Is(err, ErrOffline) {
				r.log.Warn("a configuration was not sent; it will be when the device subscribes anew", "device_id", deviceID, "error", err)
			}
			return
		}
	}
}

// configReported tells listeners that a device has said something of its configuration.
func (r *Registry) configReported(s *Session) {
	if !r.feed.active.Load() {
		return
	}
	ctx := context.Background()
	var c ConfigState
	err := r.store.View(ctx, func(tx Tx) error {
		d, err := tx.Device(ctx, s.DeviceID)
		if err == nil {
			c, err = configState(ctx, tx, d)
		}
		return err
	})
	if err != nil {
		r.log.Warn("listeners were not told of a configuration", "device_id", s.DeviceID, "error", err)
		return
	}
	r.feed.publish([]*Change{{Kind: ChangeConfig, DeviceID: s.DeviceID, At: r.now(), Config: &c}})
}
