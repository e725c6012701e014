package httpapi

import (
	"encoding/json"
	"strconv"
	"time"

	"github.com/opticworks/devicecloud/account"
	"github.com/opticworks/devicecloud/registry"
	"github.com/opticworks/devicecloud/topic"
)

// deviceBody is a device in a list. [seed 003 7.1]
type deviceBody struct {
	DeviceID        string     `json:"device_id"`
	Name            *string    `json:"name"`
	Online          bool       `json:"online"` // status == "online"
	Status          string     `json:"status"` // online, offline, unknown
	StatusReason    *string    `json:"status_reason"`
	StatusChangedAt *time.Time `json:"status_changed_at"`
	FirmwareVersion *string    `json:"firmware_version"`
	LastSeen        *time.Time `json:"last_seen"`
}

// ownedBody is a device in a person's list.
type ownedBody struct {
	deviceBody
	Role string `json:"role"`
}

// stateBody is what a device said of itself last.
type stateBody struct {
	ConfigVersion   *int64     `json:"config_version"`
	WifiRSSI        *int64     `json:"wifi_rssi"`
	RadarConnected  *bool      `json:"radar_connected"`
	UptimeSec       *int64     `json:"uptime_sec"`
	ZoneCount       *int64     `json:"zone_count"`
	ProtocolVersion *string    `json:"protocol_version"`
	ReportedAt      *time.Time `json:"reported_at"`
}

// reportsBody are the last messages that are kept whole.
type reportsBody struct {
	Telemetry    *reportBody `json:"telemetry"`
	ConfigStatus *reportBody `json:"config_status"`
	OTAStatus    *reportBody `json:"ota_status"`
}

type reportBody struct {
	ReceivedAt time.Time       `json:"received_at"`
	Payload    json.RawMessage `json:"payload"` // as the device sent it
}

// detailBody is one device as its people see it.
type detailBody struct {
	ownedBody
	stateBody
	reportsBody
	Entitlements []entitlementBody `json:"entitlements"` // now or later
	Connectivity *connBody         `json:"connectivity"` // what keeps it from being online, as far as it is known
	OTA          *otaBody          `json:"ota"`          // the latest update of its firmware
}

func newDeviceBody(d registry.Device) deviceBody {
	p := d.Presence
	return deviceBody{
		DeviceID: d.ID, Name: text(d.Name), Online: p.Status == registry.Online, Status: p.Status.String(),
		StatusReason: text(p.Reason.String()), StatusChangedAt: stamp(p.ChangedAt), FirmwareVersion: text(d.FirmwareVersion), LastSeen: stamp(p.LastSeen),
	}
}

func newOwnedBody(d registry.OwnedDevice) ownedBody {
	return ownedBody{newDeviceBody(d.Device), string(d.Role)}
}

func newStateBody(d registry.Device) stateBody {
	s := d.State
	return stateBody{s.ConfigVersion, s.WifiRSSI, s.RadarConnected, s.UptimeSec, s.ZoneCount, s.ProtocolVersion, stamp(d.ReportedAt)}
}

func newReportsBody(reports map[topic.Kind]registry.Report) reportsBody {
	one := func(k topic.Kind) *reportBody {
		r, ok := reports[k]
		if !ok || !json.Valid([]byte(r.Payload)) {
			return nil
		}
		return &reportBody{r.ReceivedAt.UTC(), json.RawMessage(r.Payload)}
	}
	return reportsBody{one(topic.Telemetry), one(topic.ConfigStatus), one(topic.OTAStatus)}
}

// text is nil for "".
func text(s string) *string {
	if s == "" {
		return nil
	}
	return &s
}

// stamp is nil for the zero time, and else UTC.
func stamp(t time.Time) *time.Time {
	if t.IsZero() {
		return nil
	}
	t = t.UTC()
	return &t
}

// number is an id as text: ids of append-only rows need 63 bits, and a JavaScript
// number has 53.
func number(id int64) string { return strconv.FormatInt(id, 10) }

func (a *api) listDevices(r *request) (answer, error) {
	q, err := r.params()
	if err != nil {
		return answer{}, err
	}
	after, limit, err := q.page(listDevices)
	if err != nil {
		return answer{}, err
	}
	rows, err := a.Registry.Devices(r.Context(), r.actor, after, limit+1)
	if err != nil {
		return answer{}, err
	}
	rows, cursor := next(listDevices, rows, limit, func(d registry.OwnedDevice) int64 { return d.No })
	return ok(struct {
		Devices    []ownedBody `json:"devices"`
		NextCursor string      `json:"next_cursor"`
	}{render(rows, newOwnedBody), cursor})
}

func (a *api) getDevice(r *request) (answer, error) {
	id, err := r.deviceID()
	if err != nil {
		return answer{}, err
	}
	d, err := a.Registry.Device(r.Context(), r.actor, id)
	if err != nil {
		return answer{}, err
	}
	reports, err := a.Registry.DeviceReports(r.Context(), r.actor, id)
	if err != nil {
		return answer{}, err
	}
	entitlements, err := a.Registry.Entitlements(r.Context(), r.actor, id)
	if err != nil {
		return answer{}, err
	}
	ota, err := a.deviceOTA(r, id)
	if err != nil {
		return answer{}, err
	}
	connectivity, err := a.connectivity(r, d.Device)
	if err != nil {
		return answer{}, err
	}
	return ok(detailBody{newOwnedBody(d), newStateBody(d.Device), newReportsBody(reports), render(entitlements, newEntitlementBody), connectivity, ota})
}

// renamedBody is the answer of a rename. [seed 003 7.1]
type renamedBody struct {
	DeviceID  string    `json:"device_id"`
	Name      string    `json:"name"`
	UpdatedAt time.Time `json:"updated_at"`
}

func (a *api) renameDevice(r *request) (answer, error) {
	id, err := a.changes(r, registry.CanConfigure)
	if err != nil {
		return answer{}, err
	}
	var in struct {
		Name *string `json:"name"`
	}
	if err := r.decode(&in, maxJSON); err != nil {
		return answer{}, err
	}
	if in.Name == nil {
		return answer{}, account.ErrMissingFields
	}
	d, err := a.Registry.RenameDevice(r.Context(), r.actor, id, *in.Name)
	if err != nil {
		return answer{}, err
	}
	return ok(renamedBody{d.ID, d.Name, d.UpdatedAt.UTC()})
}

// deletedBody is the answer of a removal. [seed 003 7.1]
type deletedBody struct {
	Deleted  bool   `json:"deleted"`
	DeviceID string `json:"device_id"`
}

func (a *api) removeDevice(r *request) (answer, error) {
	id, err := a.changes(r, registry.CanLeave)
	if err != nil {
		return answer{}, err
	}
	if err := a.Registry.RemoveDevice(r.Context(), r.actor, id); err != nil {
		return answer{}, err
	}
	return ok(deletedBody{true, id})
}
