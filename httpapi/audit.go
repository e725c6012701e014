package httpapi

import (
	"time"

	"github.com/opticworks/devicecloud/registry"
)

// auditBody is one row of the audit trail. [seed 003 7.2]
type auditBody struct {
	ID         string         `json:"id"`
	Event      string         `json:"event"`
	At         time.Time      `json:"at"`
	By         string         `json:"by"` // user:<id>, admin:<id>, device:<id>, system, ...
	Data       map[string]any `json:"data"`
	Domain     string         `json:"domain"`
	DeviceID   *string        `json:"device_id"`
	RequestID  *string        `json:"request_id"`
	IP         *string        `json:"ip"`
	UserAgent  *string        `json:"user_agent"`
	ClientType *string        `json:"client_type"`
}

func newAuditBody(e registry.AuditEvent) auditBody {
	data := e.Data
	if data == nil {
		data = map[string]any{}
	}
	return auditBody{number(e.ID), e.Event, e.At.UTC(), e.Actor, data, e.Domain, text(e.DeviceID), text(e.RequestID), text(e.IP), text(e.UserAgent), text(e.Client)}
}

// audit reads the trail of everything, narrowed by device_id, event and actor.
func (a *api) audit(r *request) (answer, error) {
	q, err := r.params()
	if err != nil {
		return answer{}, err
	}
	var f registry.AuditFilter
	for _, p := range []struct {
		name string
		to   *string
	}{{"device_id", &f.DeviceID}, {"event", &f.Event}, {"actor", &f.Actor}} {
		if *p.to, err = q.text(p.name); err != nil {
			return answer{}, err
		}
	}
	return a.auditPage(r, q, f)
}

// deviceAudit reads the trail of one device, which may be gone already.
func (a *api) deviceAudit(r *request) (answer, error) {
	id, err := r.deviceID()
	if err != nil {
		return answer{}, err
	}
	q, err := r.params()
	if err != nil {
		return answer{}, err
	}
	return a.auditPage(r, q, registry.AuditFilter{DeviceID: id})
}

func (a *api) auditPage(r *request, q params, f registry.AuditFilter) (answer, error) {
	before, limit, err := q.page(listAudit)
	if err != nil {
		return answer{}, err
	}
	f.Before, f.Limit = before, limit+1
	rows, err := a.Registry.Audit(r.Context(), r.actor, f)
	if err != nil {
		return answer{}, err
	}
	rows, cursor := next(listAudit, rows, limit, func(e registry.AuditEvent) int64 { return e.ID })
	return ok(struct {
		Events     []auditBody `json:"events"`
		NextCursor string      `json:"next_cursor"`
	}{render(rows, newAuditBody), cursor})
}
