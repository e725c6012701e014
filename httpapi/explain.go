package httpapi

import (
	"errors"
	"strings"

	"github.com/opticworks/devicecloud/account"
	"github.com/opticworks/devicecloud/registry"
	"github.com/opticworks/devicecloud/topic"
)

// explainBody is why somebody may do something with a device, or may not.
type explainBody struct {
	Allowed       bool     `json:"allowed"`
	Error         *string  `json:"error"` // the code that the gate answers; null when allowed
	Role          *string  `json:"role"`  // on the device; null when none
	Capability    string   `json:"capability"`
	RequiredScope string   `json:"required_scope"`
	RolesThatMay  []string `json:"roles_that_may"`
	Reason        string   `json:"reason"`
}

// explain tells an administrator what the gate answers to somebody.
func (a *api) explain(r *request) (answer, error) {
	q, err := r.params()
	if err != nil {
		return answer{}, err
	}
	var reference, deviceID, capability, scopes string
	for _, p := range []struct {
		name string
		to   *string
	}{{"actor", &reference}, {"device_id", &deviceID}, {"capability", &capability}, {"scopes", &scopes}} {
		if *p.to, err = q.text(p.name); err != nil {
			return answer{}, err
		}
	}
	if reference == "" || deviceID == "" || capability == "" {
		return answer{}, account.ErrMissingFields
	}
	c, known := registry.ParseCapability(capability)
	if !known {
		return answer{}, invalid("capability must be read, control, configure, share, leave, endanger, read_sim, live_view, cloud_playback, clip_download or ai_summary.")
	}
	about, err := a.Accounts.ActorNamed(r.Context(), r.actor, reference)
	disabled := errors.Is(err, account.ErrAccountDisabled)
	if err != nil && !disabled {
		return answer{}, err
	}
	if q.Has("scopes") {
		about.Scopes = strings.FieldsFunc(scopes, func(c rune) bool { return c == ',' || c == ' ' })
	}
	if !topic.ValidDeviceID(deviceID) {
		deviceID = "" // of no device
	}
	x, err := a.Registry.Explain(r.Context(), r.actor, about, deviceID, c)
	if err != nil {
		return answer{}, err
	}
	if disabled {
		x.Allowed, x.Refusal, x.Reason = false, account.ErrAccountDisabled, "The account is disabled: it has no token, whatever its role."
	}
	body := explainBody{x.Allowed, nil, text(string(x.Role)), x.Capability.String(), x.RequiredScope, render(x.RolesThatMay, func(r registry.Role) string { return string(r) }), x.Reason}
	if x.Refusal != nil {
		body.Error = text(x.Refusal.Code)
	}
	return ok(body)
}
