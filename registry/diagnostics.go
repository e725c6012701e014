package registry

import (
	"context"
	"encoding/json"
	"time"

	"github.com/opticworks/devicecloud/topic"
)

// Diagnosis is what a device measured when it was asked.
type Diagnosis struct {
	RequestID string
	Answered  bool
	At        time.Time       // of the answer
	Result    json.RawMessage // a JSON object; nil until Answered
}

const (
	maxDiagnosticNames = 8
	maxDiagnosticName  = 16
)

// Diagnose asks a device that is connected to measure itself, include naming what (none:
// everything), and waits for the answer, at most for limit. Errors: those of Access by
// CanControl, Invalid, ErrOffline, RateLimited when the device has too much to
// acknowledge.
func (r *Registry) Diagnose(ctx context.Context, a Actor, deviceID string, include []string, limit time.Duration) (Diagnosis, error) {
	if _, err := r.Access(ctx, a, deviceID, CanControl); err != nil {
		return Diagnosis{}, err
	}
	if len(include) > maxDiagnosticNames {
		return Diagnosis{}, E(Invalid, ErrInvalidRequest.Code, "include has more than 8 names.")
	}
	for _, name := range include {
		if len(name) > maxDiagnosticName || !topic.ValidCommandType(name) {
			return Diagnosis{}, E(Invalid, ErrInvalidRequest.Code, "include must be names of lower-case letters, digits and hyphens.")
		}
	}
	now := r.now()
	asked := Diagnosis{RequestID: newCommandID(now)}
	payload, err := json.Marshal(struct {
		RequestID string   `json:"request_id"`
		Include   []string `json:"include,omitempty"`
	}{asked.RequestID, include})
	if err != nil {
		return Diagnosis{}, err
	}
	d, key, answer := r.dispatch, deviceID+" "+asked.RequestID, make(chan Diagnosis, 1)
	d.mu.Lock()
	d.diagnoses[key] = answer
	d.mu.Unlock()
	defer func() {
		d.mu.Lock()
		defer d.mu.Unlock()
		delete(d.diagnoses, key)
	}()
	if err = r.courier.Deliver(deviceID, topic.DiagRequest, payload); err == nil {
		err = r.write(ctx, func(tx Tx) error {
			return r.audit(ctx, tx, a, deviceID, "diagnostics_requested", map[string]any{"requestId": asked.RequestID, "include": include})
		})
	}
	if err != nil {
		return Diagnosis{}, err
	}
	timer := time.NewTimer(limit)
	defer timer.Stop()
	select {
	case got := <-answer:
		return got, nil
	case <-timer.C:
	case <-ctx.Done():
	case <-d.calm:
	}
	return asked, nil
}

// diagnosed gives a device's answer to whoever waits for it.
func (r *Registry) diagnosed(s *Session, payload []byte) {
	var said struct {
		RequestID   string          `json:"request_id"`
		Diagnostics json.RawMessage `json:"diagnostics"`
	}
	if json.Unmarshal(payload, &said) != nil || len(said.Diagnostics) == 0 || said.Diagnostics[0] != '{' {
		said.Diagnostics = json.RawMessage("{}")
	}
	d := r.dispatch
	d.mu.Lock()
	defer d.mu.Unlock()
	if answer := d.diagnoses[s.DeviceID+" "+said.RequestID]; answer != nil {
		select {
		case answer <- Diagnosis{said.RequestID, true, r.now(), said.Diagnostics}:
		default: // it has been told
		}
	}
}
