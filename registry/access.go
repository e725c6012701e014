package registry

import (
	"context"
	"slices"
)

// Capability is one thing that an actor may do with a device.
type Capability uint8

// The capabilities.
const (
	CanRead      Capability = iota + 1 // see the device, its state, history and topics
	CanControl                         // send commands
	CanConfigure                       // rename, configuration
	CanShare                           // share, revoke, transfer
	CanLeave                           // give up one's own row: the owner's releases the device
	CanEndanger                        // send commands that cannot be undone
)

// The roles of those who have no row of their own on a device.
const (
	RoleStaff   Role = "staff"   // platform administrators
	RoleSupport Role = "support" // support staff
	RoleService Role = "service" // service accounts
)

// rule is who has a capability, and which scope a token needs for it.
type rule struct {
	name  string
	roles []Role
	scope string
}

// The whole permission model: which roles have a capability, and which scope a
// token needs for it. By table, not by rank. [seed 003 9.1] [contracts C.5]
var capabilities = map[Capability]rule{
	CanRead:      {"read", []Role{RoleOwner, RoleAdmin, RoleViewer, RoleStaff, RoleSupport, RoleService}, ScopeDeviceRead},
	CanControl:   {"control", []Role{RoleOwner, RoleAdmin, RoleStaff, RoleService}, ScopeDeviceControl},
	CanConfigure: {"configure", []Role{RoleOwner, RoleAdmin, RoleStaff, RoleService}, ScopeDeviceConfigure},
	CanShare:     {"share", []Role{RoleOwner, RoleStaff}, ScopeDeviceConfigure},
	CanLeave:     {"leave", []Role{RoleOwner, RoleAdmin, RoleViewer, RoleStaff}, ScopeDeviceConfigure},
	CanEndanger:  {"endanger", []Role{RoleOwner, RoleStaff}, ScopeDeviceControl},
}

// String names a capability: "read", "control", "configure", "share", "leave",
// "endanger".
func (c Capability) String() string { return capabilities[c].name }

// ParseCapability is the opposite of [Capability.String].
func ParseCapability(name string) (Capability, bool) {
	for c, r := range capabilities {
		if r.name == name {
			return c, true
		}
	}
	return 0, false
}

// Access is the one gate: it decides whether an actor may do something with a
// device, and reads the device. The order of refusals is fixed: ErrDeviceNotFound
// when there is no such device or it is not the actor's, ErrInsufficientRole when
// the role is too little, ErrInsufficientScope when the token is.
func (r *Registry) Access(ctx context.Context, a Actor, deviceID string, c Capability) (OwnedDevice, error) {
	var d OwnedDevice
	err := r.store.View(ctx, func(tx Tx) (err error) {
		d, err = r.access(ctx, tx, a, deviceID, c)
		return err
	})
	return d, err
}

func (r *Registry) access(ctx context.Context, tx Tx, a Actor, deviceID string, c Capability) (OwnedDevice, error) {
	d, err := related(ctx, tx, a, deviceID)
	if err == nil {
		err = allowed(a, d.Role, c)
	}
	if err != nil {
		return OwnedDevice{}, err
	}
	return d, nil
}

// related reads a device and what the actor is to it; ErrDeviceNotFound when that
// is nothing.
func related(ctx context.Context, tx Tx, a Actor, deviceID string) (d OwnedDevice, err error) {
	switch a.Kind {
	case ActorUser:
		return tx.OwnedDevice(ctx, a.ID, deviceID)
	case ActorAdmin:
		d.Role = RoleStaff
	case ActorSupport:
		d.Role = RoleSupport
	case ActorService:
		d.Role = RoleService
	default:
		return d, ErrDeviceNotFound
	}
	d.Device, err = tx.Device(ctx, deviceID)
	return d, err
}

// allowed is the verdict of the table.
func allowed(a Actor, role Role, c Capability) error {
	rule := capabilities[c]
	switch {
	case !slices.Contains(rule.roles, role):
		return ErrInsufficientRole
	case !a.Has(rule.scope):
		return ErrInsufficientScope
	}
	return nil
}

// MayReadAny reports whether the actor may read every device: staff and service
// accounts with the scope.
func (a Actor) MayReadAny() bool {
	return (a.Kind == ActorAdmin || a.Kind == ActorSupport || a.Kind == ActorService) && a.Has(ScopeDeviceRead)
}

// ReadableIDs lists the ids of the devices that a person may read. Staff and service
// accounts read any device (see [Actor.MayReadAny]) and have none of their own.
func (r *Registry) ReadableIDs(ctx context.Context, a Actor) (ids []string, err error) {
	if a.Kind != ActorUser || !a.Has(ScopeDeviceRead) {
		return nil, nil
	}
	err = r.store.View(ctx, func(tx Tx) (err error) {
		ids, err = tx.ReadableIDs(ctx, a.ID)
		return err
	})
	return ids, err
}

// staffOnly lets only the given kinds of actors pass.
func staffOnly(a Actor, kinds ...ActorKind) error {
	if a.Kind == ActorSystem || slices.Contains(kinds, a.Kind) {
		return nil
	}
	return ErrInsufficientRole
}

// adminOrService lets platform administrators pass, and service accounts whose token
// carries the scope: ErrInsufficientScope for one without, ErrInsufficientRole for
// anybody else.
func adminOrService(a Actor, scope string) error {
	if a.Kind == ActorService {
		if !a.Has(scope) {
			return ErrInsufficientScope
		}
		return nil
	}
	return staffOnly(a, ActorAdmin)
}
