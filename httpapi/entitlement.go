package httpapi

import (
	"net/http"
	"time"

	"github.com/opticworks/devicecloud/account"
	"github.com/opticworks/devicecloud/registry"
)

// entitlementBody is a right of a device to a service.
type entitlementBody struct {
	Capability  string     `json:"capability"`
	Source      string     `json:"source"` // trial, plan, grant
	StartsAt    time.Time  `json:"starts_at"`
	EndsAt      *time.Time `json:"ends_at"`
	HistoryDays *int       `json:"history_days"` // null: no limit
}

func newEntitlementBody(e registry.Entitlement) entitlementBody {
	b := entitlementBody{e.Capability.String(), string(e.Source), e.StartsAt.UTC(), stamp(e.EndsAt), nil}
	if e.HistoryDays > 0 {
		b.HistoryDays = &e.HistoryDays
	}
	return b
}

func (a *api) grantEntitlement(r *request) (answer, error) {
	id, err := a.manages(r)
	if err != nil {
		return answer{}, err
	}
	if _, err := a.Registry.Access(r.Context(), r.actor, id, registry.CanRead); err != nil {
		return answer{}, err
	}
	var in struct {
		Capability  string     `json:"capability"`
		StartsAt    *time.Time `json:"starts_at"`
		EndsAt      *time.Time `json:"ends_at"`
		HistoryDays int        `json:"history_days"`
	}
	if err := r.decode(&in, maxJSON); err != nil {
		return answer{}, err
	}
	if in.Capability == "" {
		return answer{}, account.ErrMissingFields
	}
	e := registry.Entitlement{HistoryDays: in.HistoryDays}
	e.Capability, _ = registry.ParseCapability(in.Capability) // the registry refuses what is no service
	if in.StartsAt != nil {
		e.StartsAt = *in.StartsAt
	}
	if in.EndsAt != nil {
		e.EndsAt = *in.EndsAt
	}
	if e, err = a.Registry.GrantEntitlement(r.Context(), r.actor, id, e); err != nil {
		return answer{}, err
	}
	return answer{http.StatusCreated, newEntitlementBody(e)}, nil
}

// revokedGrantsBody says how many grants there were.
type revokedGrantsBody struct {
	DeviceID string `json:"device_id"`
	Revoked  int    `json:"revoked"`
}

func (a *api) revokeEntitlements(r *request) (answer, error) {
	id, err := a.manages(r)
	if err != nil {
		return answer{}, err
	}
	if _, err := a.Registry.Access(r.Context(), r.actor, id, registry.CanRead); err != nil {
		return answer{}, err
	}
	q, err := r.params()
	if err != nil {
		return answer{}, err
	}
	c, known := registry.ParseCapability(q.Get("capability"))
	if !known {
		return answer{}, invalid("capability must be live_view, cloud_playback, clip_download or ai_summary.")
	}
	n, err := a.Registry.RevokeEntitlements(r.Context(), r.actor, id, c)
	if err != nil {
		return answer{}, err
	}
	return ok(revokedGrantsBody{id, n})
}
