package fleet

import (
	"encoding/json"
	"time"
)

// The shapes of what a device says, in the order of the wire; testdata/wire holds an example of each.

type provisionRequest struct {
	DeviceID        string `json:"device_id"`
	MACAddress      string `json:"mac_address"`
	FirmwareVersion string `json:"firmware_version"`
	Timestamp       string `json:"timestamp"`
	Reset           bool   `json:"reset,omitempty"`
	ResetID         string `json:"reset_id,omitempty"`
	MaxPacketSize   int    `json:"max_packet_size,omitempty"`
}

type stateReport struct {
	Online          bool   `json:"online"`
	FirmwareVersion string `json:"firmware_version"`
	UptimeSec       uint32 `json:"uptime_sec"`
	WifiRSSI        int    `json:"wifi_rssi"`
	ConfigVersion   int    `json:"config_version"`
	RadarConnected  bool   `json:"radar_connected"`
	ZoneCount       int    `json:"zone_count"`
	ProtocolVersion int    `json:"protocol_version"`
	LastSeen        string `json:"last_seen"`
}

type telemetryReport struct {
	DeviceID  string             `json:"device_id"`
	Timestamp string             `json:"timestamp"`
	Metrics   map[string]float64 `json:"metrics"`
	Logs      []string           `json:"logs,omitempty"`
}

type configStatus struct {
	Version   int    `json:"version"`
	Status    string `json:"status"`
	ZoneCount int    `json:"zone_count"`
	Error     string `json:"error,omitempty"`
	Timestamp string `json:"timestamp"`
}

type otaStatus struct {
	Status    string `json:"status"`
	Version   string `json:"version"`
	Progress  int    `json:"progress"`
	Error     string `json:"error,omitempty"`
	RolloutID string `json:"rollout_id"`
	Timestamp string `json:"timestamp"`
}

type diagResponse struct {
	RequestID   string         `json:"request_id"`
	Timestamp   string         `json:"timestamp"`
	Diagnostics map[string]any `json:"diagnostics"`
}

type commandResponse struct {
	CommandID string          `json:"command_id"`
	Status    string          `json:"status"`
	Code      string          `json:"code,omitempty"`
	Message   string          `json:"message,omitempty"`
	Result    *map[string]any `json:"result,omitempty"` // a pointer, so that an empty result is sent as {}
	Timestamp string          `json:"timestamp"`
}

type claimRequest struct {
	Code  string `json:"code"`
	Nonce string `json:"nonce"`
	Proof string `json:"proof"`
}

type claimConfirm struct {
	ClaimID   string `json:"claim_id"`
	Challenge string `json:"challenge"`
	Proof     string `json:"proof"`
}

type targetsReport struct {
	Timestamp string   `json:"timestamp"`
	Targets   []target `json:"targets"`
}

type target struct {
	ID int `json:"id"`
	X  int `json:"x"` // mm
	Y  int `json:"y"` // mm
}

// willPayload is the last will.
const willPayload = `{"online":false}`

// The shapes of what the cloud says. Unknown fields are ignored.

type provisionResponse struct {
	Status string `json:"status"`
	Error  string `json:"error"`
}

type configUpdate struct {
	Version int               `json:"version"`
	Zones   []json.RawMessage `json:"zones"`
}

type otaTrigger struct {
	Version   string `json:"version"`
	URL       string `json:"url"`
	SHA256    string `json:"sha256"`
	MinRSSI   int    `json:"min_rssi"`
	RolloutID string `json:"rollout_id"`
}

type diagRequest struct {
	RequestID string   `json:"request_id"`
	Include   []string `json:"include"`
}

type command struct {
	CommandID string          `json:"command_id"`
	Params    json.RawMessage `json:"params"`
	ExpiresAt time.Time       `json:"expires_at"`
	On        *bool           `json:"on"` // command/targets may come bare
}

type claimResponse struct {
	Status string `json:"status"`
	Error  string `json:"error"`
}

type claimChallenge struct {
	ClaimID   string `json:"claim_id"`
	Challenge string `json:"challenge"`
}

// timestamp is how the RS-1 writes a time.
func timestamp(t time.Time) string { return t.UTC().Format(time.RFC3339) }
