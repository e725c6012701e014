package httpapi

import (
	"encoding/json"
	"net/http"
	"time"

	"github.com/opticworks/devicecloud/account"
	"github.com/opticworks/devicecloud/registry"
)

// configBody is what is wanted of a device and what it has. [contracts, HTTP route table]
type configBody struct {
	Desired  desiredBody   `json:"desired"`
	Reported *reportedBody `json:"reported"`
	InSync   bool          `json:"in_sync"`
}

type desiredBody struct {
	Version   int64           `json:"version"` // 0: nobody has wanted anything yet
	Zones     []registry.Zone `json:"zones"`
	UpdatedAt *time.Time      `json:"updated_at"`
}

type reportedBody struct {
	Version   int64     `json:"version"`
	Status    string    `json:"status"`
	ZoneCount *int64    `json:"zone_count"`
	Error     *string   `json:"error"`
	At        time.Time `json:"at"`
}

func newConfigBody(s registry.ConfigState) configBody {
	b := configBody{Desired: desiredBody{s.Desired.Version, s.Desired.Zones, stamp(s.Desired.UpdatedAt)}, InSync: s.InSync()}
	if b.Desired.Zones == nil {
		b.Desired.Zones = []registry.Zone{}
	}
	if r := s.Reported; r != nil {
		b.Reported = &reportedBody{r.Version, r.Status, r.ZoneCount, text(r.Error), r.At.UTC()}
	}
	return b
}

func (a *api) getConfig(r *request) (answer, error) {
	id, err := r.deviceID()
	if err != nil {
		return answer{}, err
	}
	s, err := a.Registry.DeviceConfig(r.Context(), r.actor, id)
	if err != nil {
		return answer{}, err
	}
	return ok(newConfigBody(s))
}

func (a *api) putConfig(r *request) (answer, error) {
	id, err := a.changes(r, registry.CanConfigure)
	if err != nil {
		return answer{}, err
	}
	var in struct {
		Version *int64          `json:"version"`
		Zones   json.RawMessage `json:"zones"`
	}
	if err := r.decode(&in, maxJSON); err != nil {
		return answer{}, err
	}
	if in.Version == nil || len(in.Zones) == 0 {
		return answer{}, account.ErrMissingFields
	}
	zones, err := registry.ParseZones(in.Zones)
	if err != nil {
		return answer{}, invalid(sentence(err))
	}
	s, err := a.Registry.SetDeviceConfig(r.Context(), r.actor, id, *in.Version, zones)
	if err != nil {
		return answer{}, err
	}
	return ok(newConfigBody(s))
}

// configEvent is config.updated of a stream.
type configEvent struct {
	eventHead
	configBody
}

// diagnosisBody is what a device measured, or that it was asked.
type diagnosisBody struct {
	RequestID   string          `json:"request_id"`
	Status      string          `json:"status"` // sent, answered
	At          *time.Time      `json:"at"`
	Diagnostics json.RawMessage `json:"diagnostics"`
}

// diagnose asks a device to measure itself. 202: it has not answered in time; what it
// says later is among its events.
func (a *api) diagnose(r *request) (answer, error) {
	id, err := a.changes(r, registry.CanControl)
	if err != nil {
		return answer{}, err
	}
	in := struct {
		Include []string `json:"include"`
		Wait    *int64   `json:"wait"`
	}{}
	if err := r.decode(&in, maxJSON); err != nil {
		return answer{}, err
	}
	wait := int64(10)
	if in.Wait != nil {
		wait = *in.Wait
	}
	if wait < 0 || wait > maxWait {
		return answer{}, invalid("wait must be from 0 to 25 seconds.")
	}
	d, err := a.Registry.Diagnose(r.Context(), r.actor, id, in.Include, time.Duration(wait)*time.Second)
	if err != nil {
		return answer{}, err
	}
	if !d.Answered {
		return answer{http.StatusAccepted, diagnosisBody{RequestID: d.RequestID, Status: "sent"}}, nil
	}
	return ok(diagnosisBody{d.RequestID, "answered", stamp(d.At), d.Result})
}
