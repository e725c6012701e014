package registry

import (
	"context"
	"encoding/json"
	"math"
	"time"

	"github.com/opticworks/devicecloud/topic"
)

// State is one report of a device. Absent optional fields are nil.
type State struct {
	Online          bool // the device's word; never decides presence
	FirmwareVersion string
	UptimeSec       *int64
	WifiRSSI        *int64
	ConfigVersion   *int64
	RadarConnected  *bool
	ZoneCount       *int64
	ProtocolVersion *string
}

// has says which required members a payload held.
type has uint8

const (
	hasOnline has = 1 << iota
	hasFirmware
	hasUptime
	hasRSSI
)

// DecodeState reads a state message strictly: online, firmware_version (1-32
// printable characters), uptime_sec (0..2^32-1) and wifi_rssi (-127..0) are
// required, unknown members are ignored, a wrong type or range is an error that
// names the member.
func DecodeState(payload []byte) (State, error) {
	s, got, err := decodeState(payload)
	if err != nil {
		return State{}, err
	}
	for _, m := range [...]struct {
		bit  has
		name string
	}{{hasOnline, "online"}, {hasFirmware, "firmware_version"}, {hasUptime, "uptime_sec"}, {hasRSSI, "wifi_rssi"}} {
		if got&m.bit == 0 {
			return State{}, badPayload("%s is missing.", m.name)
		}
	}
	return s, nil
}

// decodeState reads any subset of a state message.
func decodeState(payload []byte) (s State, got has, err error) {
	var n numbers // one allocation for all
	err = eachMember(payload, func(name, v []byte) (err error) {
		switch string(name) { // no allocation, and the cases name the member again for the error
		case "online":
			got |= hasOnline
			s.Online, err = boolValue("online", v)
		case "firmware_version":
			got |= hasFirmware
			s.FirmwareVersion, err = stringValue("firmware_version", v, 1, 32)
		case "uptime_sec":
			got |= hasUptime
			s.UptimeSec = &n.uptime
			n.uptime, err = intValue("uptime_sec", v, 0, math.MaxUint32)
		case "wifi_rssi":
			got |= hasRSSI
			s.WifiRSSI = &n.rssi
			n.rssi, err = intValue("wifi_rssi", v, -127, 0)
		case "config_version":
			if !isNull(v) {
				s.ConfigVersion = &n.config
				n.config, err = intValue("config_version", v, 0, math.MaxInt64)
			}
		case "zone_count":
			if !isNull(v) {
				s.ZoneCount = &n.zones
				n.zones, err = intValue("zone_count", v, 0, 16)
			}
		case "radar_connected":
			if !isNull(v) {
				s.RadarConnected = &n.radar
				n.radar, err = boolValue("radar_connected", v)
			}
		case "protocol_version":
			s.ProtocolVersion, err = protocolVersion("protocol_version", v)
		}
		return err
	})
	return s, got, err
}

// numbers is what a State points at.
type numbers struct {
	uptime, rssi, config, zones int64
	radar                       bool
}

// protocolVersion accepts a text or a number: firmware sends both.
func protocolVersion(key string, v []byte) (*string, error) {
	if isNull(v) {
		return nil, nil
	}
	s := string(v)
	if v[0] == '"' {
		var err error
		if s, err = stringValue(key, v, 1, 16); err != nil {
			return nil, err
		}
	} else if len(v) > 16 || v[0] != '-' && (v[0] < '0' || v[0] > '9') {
		return nil, badPayload("%s must be a text of 1 to 16 printable characters.", key)
	}
	return &s, nil
}

// CheckWill judges the will that a device announces on its state topic: a JSON
// object with any subset of a state message, in which online, if present, is
// false.
func (r *Registry) CheckWill(payload []byte) error {
	if len(payload) == 0 {
		return nil
	}
	s, _, err := decodeState(payload)
	if err != nil {
		return err
	}
	if s.Online {
		return badPayload("A will cannot say that the device is online.")
	}
	return nil
}

// ReportState decodes a state message and waits until it is committed: nil is a
// commit receipt. Errors: Invalid for a bad payload, ErrStale when a newer
// connection of the device took over, ErrUnavailable when nothing was committed
// within CommitTimeout.
func (r *Registry) ReportState(s *Session, payload []byte) error {
	state, err := DecodeState(payload)
	if err != nil {
		return err
	}
	b, w, err := r.ingest.state(s, state, r.now())
	if err != nil {
		return err
	}
	if err := b.wait(); err != nil {
		return err
	}
	if w.Stale {
		r.counters.StaleWrites.Add(1)
		return ErrStale
	}
	r.configBehind(s, state.ConfigVersion)
	if s.restarted.Load() {
		r.dispatch.background(func() { r.settleRestart(s) })
	}
	return nil
}

// ReportStateLater is ReportState for QoS 0: it never blocks, and drops the report
// with ErrUnavailable when too much waits.
func (r *Registry) ReportStateLater(s *Session, payload []byte) error {
	state, err := DecodeState(payload)
	if err != nil {
		return err
	}
	if r.ingest.overfull() {
		r.counters.Dropped.Add(1)
		return ErrUnavailable
	}
	_, _, err = r.ingest.state(s, state, r.now())
	return err
}

// stateDocument is the registry's word on a device, as it stands retained on the
// device's state topic.
type stateDocument struct {
	Online          bool    `json:"online"`
	Status          string  `json:"status"`
	StatusReason    string  `json:"status_reason,omitempty"`
	Epoch           int64   `json:"epoch"`
	FirmwareVersion string  `json:"firmware_version,omitempty"`
	UptimeSec       *int64  `json:"uptime_sec,omitempty"`
	WifiRSSI        *int64  `json:"wifi_rssi,omitempty"`
	ConfigVersion   *int64  `json:"config_version,omitempty"`
	RadarConnected  *bool   `json:"radar_connected,omitempty"`
	ZoneCount       *int64  `json:"zone_count,omitempty"`
	ProtocolVersion *string `json:"protocol_version,omitempty"`
	LastSeen        string  `json:"last_seen,omitempty"`
}

func (row Row) document() []byte {
	d := stateDocument{
		Online: row.Presence.Status == Online, Status: row.Presence.Status.String(), StatusReason: row.Presence.Reason.String(),
		Epoch: row.Presence.Epoch, FirmwareVersion: row.FirmwareVersion, UptimeSec: row.State.UptimeSec, WifiRSSI: row.State.WifiRSSI,
		ConfigVersion: row.State.ConfigVersion, RadarConnected: row.State.RadarConnected, ZoneCount: row.State.ZoneCount,
		ProtocolVersion: row.State.ProtocolVersion,
	}
	if !row.Presence.LastSeen.IsZero() {
		d.LastSeen = row.Presence.LastSeen.UTC().Format(time.RFC3339Nano)
	}
	b, err := json.Marshal(d)
	if err != nil {
		return nil // a struct of strings and numbers always marshals
	}
	return b
}

// Retained reads what is served to whoever subscribes to a retained kind of topic
// (state, config/status, ota/status): the registry's word on presence with the
// latest state, or the latest report. ok is false when there is nothing yet.
func (r *Registry) Retained(ctx context.Context, deviceID string, k topic.Kind) (payload []byte, ok bool, err error) {
	err = r.store.View(ctx, func(tx Tx) error {
		d, err := tx.Device(ctx, deviceID)
		if err != nil {
			return err
		}
		if k == topic.State {
			if ok = d.Presence.Epoch > 0; ok {
				payload = Row{d.Presence, d.State, d.FirmwareVersion, d.ReportedAt}.document()
			}
			return nil
		}
		report, found, err := tx.Report(ctx, d.No, k)
		payload, ok = []byte(report.Payload), found
		return err
	})
	return payload, ok, err
}
