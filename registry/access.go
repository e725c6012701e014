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
)

// RoleStaff is the role of platform staff, who have no row of their own.
const RoleStaff Role = "staff"

// The whole permission model: which roles have a capability, and which scope a
// token needs for it. By table, not by rank. [seed 003 9.1]
var capabilities = map[Capability]struct {
	roles []Role
	scope string
}{
	CanRead:      {[]Role{RoleOwner, RoleAdmin, RoleViewer}, ScopeDeviceRead},
	CanControl:   {[]Role{RoleOwner, RoleAdmin}, ScopeDeviceControl},
	CanConfigure: {[]Role{RoleOwner, RoleAdmin}, ScopeDeviceConfigure},
	CanShare:     {[]Role{RoleOwner}, ScopeDeviceConfigure},
	CanLeave:     {[]Role{RoleOwner, RoleAdmin, RoleViewer}, ScopeDeviceConfigure},
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
	var d OwnedDevice
	var err error
	switch a.Kind {
	case ActorUser:
		d, err = tx.OwnedDevice(ctx, a.ID, deviceID)
	case ActorAdmin, ActorSupport:
		d.Role = RoleStaff
		d.Device, err = tx.Device(ctx, deviceID)
	default:
		err = ErrDeviceNotFound
	}
	if err != nil {
		return OwnedDevice{}, err
	}
	rule := capabilities[c]
	switch {
	case a.Kind == ActorSupport && c != CanRead, d.Role != RoleStaff && !slices.Contains(rule.roles, d.Role):
		return OwnedDevice{}, ErrInsufficientRole
	case !a.Has(rule.scope):
		return OwnedDevice{}, ErrInsufficientScope
	}
	return d, nil
}

// MayReadAny reports whether the actor may read every device: staff with the
// scope.
func (a Actor) MayReadAny() bool {
	return (a.Kind == ActorAdmin || a.Kind == ActorSupport) && a.Has(ScopeDeviceRead)
}

// ReadableIDs lists the ids of the devices that a person may read. Staff read any
// device (see [Actor.MayReadAny]) and have none of their own.
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
