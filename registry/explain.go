package registry

import (
	"context"
	"errors"
	"slices"
)

// Explanation is why the gate lets somebody do something with a device, or does not.
type Explanation struct {
	Allowed       bool
	Refusal       *Error // nil when allowed: what the gate answers
	Role          Role   // what they are to the device; "" when nothing
	Capability    Capability
	RequiredScope string
	RolesThatMay  []Role
	Reason        string // a sentence for a person
}

// Explain tells an administrator what the gate answers to somebody, and why. It asks
// the gate itself. Errors: Forbidden, ErrUnavailable.
func (r *Registry) Explain(ctx context.Context, caller, about Actor, deviceID string, c Capability) (Explanation, error) {
	if err := staffOnly(caller, ActorAdmin); err != nil {
		return Explanation{}, err
	}
	rule := capabilities[c]
	x := Explanation{Capability: c, RequiredScope: rule.scope, RolesThatMay: slices.Clone(rule.roles)}
	err := r.store.View(ctx, func(tx Tx) error {
		d, err := r.related(ctx, tx, about, deviceID)
		x.Role = d.Role
		if err != nil {
			x.Role = ""
			return err
		}
		return r.judge(ctx, tx, about, d, c)
	})
	switch {
	case err == nil:
		x.Allowed = true
		x.Reason = "The role " + string(x.Role) + " may " + rule.name + " this device, and the token carries " + rule.scope + "."
	case errors.Is(err, ErrDeviceNotFound):
		x.Refusal = ErrDeviceNotFound
		x.Reason = "There is no such device, or this actor has no role on it."
	case errors.Is(err, ErrInsufficientRole):
		x.Refusal = ErrInsufficientRole
		x.Reason = "The role " + string(x.Role) + " may not " + rule.name + " a device."
	case errors.Is(err, ErrInsufficientScope):
		x.Refusal = ErrInsufficientScope
		x.Reason = "The role " + string(x.Role) + " may " + rule.name + " this device, but the token lacks " + rule.scope + "."
	case errors.Is(err, ErrEntitlementRequired):
		x.Refusal = ErrEntitlementRequired
		x.Reason = "The role " + string(x.Role) + " may " + rule.name + " this device, but no trial, plan or grant entitles it to that now."
	default:
		return Explanation{}, err
	}
	return x, nil
}
