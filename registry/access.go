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
	CanReadSIM                         // see the SIM card in the device

	// The services, which need an entitlement too.
	CanLiveView
	CanCloudPlayback
	CanClipDownload
	CanAISummary
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
	paid  bool // the device must be entitled to it
}

// The whole permission model: which roles have a capability, and which scope a
// token needs for it. By table, not by rank. [seed 003 9.1] [contracts C.5]
var capabilities = map[Capability]rule{
	CanRead:      {name: "read", roles: []Role{RoleOwner, RoleAdmin, RoleViewer, RoleStaff, RoleSupport, RoleService}, scope: ScopeDeviceRead},
	CanControl:   {name: "control", roles: []Role{RoleOwner, RoleAdmin, RoleStaff, RoleService}, scope: ScopeDeviceControl},
	CanConfigure: {name: "configure", roles: []Role{RoleOwner, RoleAdmin, RoleStaff, RoleService}, scope: ScopeDeviceConfigure},
	CanShare:     {name: "share", roles: []Role{RoleOwner, RoleStaff}, scope: ScopeDeviceConfigure},
	CanLeave:     {name: "leave", roles: []Role{RoleOwner, RoleAdmin, RoleViewer, RoleStaff}, scope: ScopeDeviceConfigure},
	// No viewer: the card is a contract of the owner's.
	CanReadSIM:  {name: "read_sim", roles: []Role{RoleOwner, RoleAdmin, RoleStaff, RoleSupport, RoleService}, scope: ScopeDeviceRead},
	CanEndanger: {name: "endanger", roles: []Role{RoleOwner, RoleStaff}, scope: ScopeDeviceControl},

	// No staff: a home is watched by its people alone. [contracts A.3]
	CanLiveView:      {name: "live_view", roles: []Role{RoleOwner, RoleAdmin, RoleViewer}, scope: ScopeDeviceRead, paid: true},
	CanCloudPlayback: {name: "cloud_playback", roles: []Role{RoleOwner, RoleAdmin, RoleViewer}, scope: ScopeDeviceRead, paid: true},
	CanClipDownload:  {name: "clip_download", roles: []Role{RoleOwner, RoleAdmin}, scope: ScopeDeviceRead, paid: true},
	CanAISummary:     {name: "ai_summary", roles: []Role{RoleOwner, RoleAdmin}, scope: ScopeDeviceRead, paid: true},
}

// String names a capability: "read", "control", "configure", "share", "leave", "endanger", "read_sim",
// "live_view", "cloud_playback", "clip_download", "ai_summary".
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
// the role is too little, ErrInsufficientScope when the token is, ErrEntitlementRequired
// when it is a service that nothing entitles the device to.
func (r *Registry) Access(ctx context.Context, a Actor, deviceID string, c Capability) (OwnedDevice, error) {
	var d OwnedDevice
	err := r.store.View(ctx, func(tx Tx) (err error) {
		d, err = r.access(ctx, tx, a, deviceID, c)
		return err
	})
	return d, err
}

// AccessTx is [Registry.Access] in the caller's transaction, for the domains above that
// decide and write in one.
func (r *Registry) AccessTx(ctx context.Context, tx Tx, a Actor, deviceID string, c Capability) (OwnedDevice, error) {
	return r.access(ctx, tx, a, deviceID, c)
}

func (r *Registry) access(ctx context.Context, tx Tx, a Actor, deviceID string, c Capability) (OwnedDevice, error) {
	d, err := r.related(ctx, tx, a, deviceID)
	if err == nil {
		err = r.judge(ctx, tx, a, d, c)
	}
	if err != nil {
		return OwnedDevice{}, err
	}
	return d, nil
}

// related reads a device and what the actor is to it; ErrDeviceNotFound when that
// is nothing.
func (r *Registry) related(ctx context.Context, tx Tx, a Actor, deviceID string) (d OwnedDevice, err error) {
	switch a.Kind {
	case ActorUser:
		return tx.OwnedDevice(ctx, a.ID, deviceID, r.now())
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

// judge is the verdict of the table and of the device's entitlements.
func (r *Registry) judge(ctx context.Context, tx Tx, a Actor, d OwnedDevice, c Capability) error {
	if err := allowed(a, d.Role, c); err != nil || !capabilities[c].paid {
		return err
	}
	entitled, err := tx.Entitled(ctx, d.No, c, r.now())
	if err == nil && !entitled {
		err = ErrEntitlementRequired
	}
	return err
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
		ids, err = tx.ReadableIDs(ctx, a.ID, r.now())
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
