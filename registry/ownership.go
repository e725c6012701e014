package registry

import (
	"context"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/opticworks/devicecloud/topic"
)

// Role is what a person is to a device.
type Role string

// The roles. [seed 003 9.1]
const (
	RoleOwner  Role = "owner"
	RoleAdmin  Role = "admin"
	RoleViewer Role = "viewer"
)

// Ownership is one row of device_ownership, the only truth about who may do what.
type Ownership struct {
	DeviceNo   int64
	UserID     string
	Email      string // of the user; only filled by reads
	Role       Role
	ClaimedAt  time.Time
	ClaimedVia string // qr, pairing_code, button, purchase, support, transfer
	SharedAt   time.Time
	SharedBy   string
	StartsAt   time.Time // of a share; zero: at once
	EndsAt     time.Time // of a share; zero: until revoked
	At         time.Time // of the write
}

// AuditEvent is one row of the audit trail.
type AuditEvent struct {
	ID        int64
	Domain    string // registry, account, ...
	DeviceID  string
	Event     string
	Data      map[string]any // nil: none. Never a secret
	Actor     string
	RequestID string
	IP        string
	UserAgent string
	Client    string
	At        time.Time
}

// AuditFilter narrows a read of the trail, newest first.
type AuditFilter struct {
	DeviceID string
	Event    string
	Actor    string
	Before   int64 // audit id: the cursor of the page before
	Limit    int
}

// Stats is the fleet at a glance. [seed 003 10.1]
type Stats struct {
	Total    int
	Online   int
	Versions []VersionCount
	Daily    []DayCount
}

// VersionCount is how many devices run a firmware version; "" is unknown.
type VersionCount struct {
	Version string
	Count   int
}

// DayCount is how many devices were last seen on a UTC day.
type DayCount struct {
	Date   string // 2006-01-02
	Active int
}

// Devices lists a person's devices in order of device number, after the given one.
// limit is at most 200.
func (r *Registry) Devices(ctx context.Context, a Actor, after int64, limit int) (list []OwnedDevice, err error) {
	switch {
	case !a.Has(ScopeDeviceRead):
		return nil, ErrInsufficientScope
	case a.Kind != ActorUser:
		return nil, nil // staff and service accounts own nothing; staff have a list of their own
	}
	err = r.store.View(ctx, func(tx Tx) (err error) {
		list, err = tx.OwnedDevices(ctx, a.ID, r.now(), after, limit)
		return err
	})
	return list, err
}

// Device reads one device. A read by support staff is audited.
func (r *Registry) Device(ctx context.Context, a Actor, id string) (OwnedDevice, error) {
	d, err := r.Access(ctx, a, id, CanRead)
	if err == nil {
		err = r.auditSupport(ctx, a, id)
	}
	if err != nil {
		return OwnedDevice{}, err
	}
	return d, nil
}

// auditSupport records that support staff looked at a person's device.
func (r *Registry) auditSupport(ctx context.Context, a Actor, id string) error {
	if a.Kind != ActorSupport {
		return nil
	}
	return r.write(ctx, func(tx Tx) error { return r.audit(ctx, tx, a, id, "device_read", nil) })
}

// DeviceReports reads the latest config/status, ota/status, telemetry and
// diag/response of a device.
func (r *Registry) DeviceReports(ctx context.Context, a Actor, id string) (reports map[topic.Kind]Report, err error) {
	err = r.store.View(ctx, func(tx Tx) error {
		d, err := r.access(ctx, tx, a, id, CanRead)
		if err != nil {
			return err
		}
		reports, err = tx.Reports(ctx, d.No)
		return err
	})
	return reports, err
}

// Connections lists a device's connections, newest first: the live one, if before
// is 0, then those that ended before the id `before`.
func (r *Registry) Connections(ctx context.Context, a Actor, id string, before int64, limit int) (list []Connection, err error) {
	err = r.store.View(ctx, func(tx Tx) error {
		d, err := r.access(ctx, tx, a, id, CanRead)
		if err != nil {
			return err
		}
		if p := d.Presence; before == 0 && p.Status == Online {
			list = append(list, Connection{
				ID: p.ConnectionID, Epoch: p.Epoch, NodeID: p.NodeID, Remote: p.Remote, Protocol: p.Protocol,
				ConnectedAt: p.ConnectedAt, Reason: p.Reason,
			})
		}
		ended, err := tx.Connections(ctx, d.No, before, limit-len(list))
		list = append(list, ended...)
		return err
	})
	return list, err
}

// Events lists what happened to a device, newest first; typ "" is every type.
func (r *Registry) Events(ctx context.Context, a Actor, id, typ string, before int64, limit int) (list []Event, err error) {
	err = r.store.View(ctx, func(tx Tx) error {
		d, err := r.access(ctx, tx, a, id, CanRead)
		if err != nil {
			return err
		}
		list, err = tx.Events(ctx, d.No, typ, before, limit)
		return err
	})
	return list, err
}

// RenameDevice gives a device a name of 1 to 64 printable characters.
func (r *Registry) RenameDevice(ctx context.Context, a Actor, id, name string) (d OwnedDevice, err error) {
	name = strings.TrimSpace(name)
	if n := utf8.RuneCountInString(name); n < 1 || n > 64 || !printable(name) {
		// The device first: a stranger learns nothing from a name.
		if _, err := r.Access(ctx, a, id, CanConfigure); err != nil {
			return OwnedDevice{}, err
		}
		return OwnedDevice{}, E(Invalid, ErrInvalidRequest.Code, "name must be a text of 1 to 64 printable characters.")
	}
	now := r.now()
	err = r.change(ctx, func(tx Tx) (err error) {
		if d, err = r.access(ctx, tx, a, id, CanConfigure); err != nil {
			return err
		}
		if err = tx.SetDeviceName(ctx, d.No, name, now); err != nil {
			return err
		}
		return r.audit(ctx, tx, a, id, "renamed", map[string]any{"name": name})
	}, func() []*Change {
		return []*Change{{Kind: ChangeUpdated, DeviceID: id, At: now, Name: name}}
	})
	d.Name, d.UpdatedAt = name, now
	return d, err
}

// RemoveDevice gives up a person's row: an owner's (or an administrator's) removal
// releases the device, so that everybody's rows and its name go; anybody else
// leaves the share. Sessions of those who lost access stop receiving it at once.
func (r *Registry) RemoveDevice(ctx context.Context, a Actor, id string) error {
	var gone freed
	released := false
	err := r.change(ctx, func(tx Tx) error {
		gone, released = freed{}, false
		d, err := r.access(ctx, tx, a, id, CanLeave)
		if err != nil {
			return err
		}
		released = d.Role == RoleOwner || d.Role == RoleStaff
		gone, err = r.giveUp(ctx, tx, a, d, a.ID)
		return err
	}, func() []*Change { return r.freedChanges(id, gone, !released) })
	if err != nil {
		return err
	}
	r.wasFreed(gone)
	return nil
}

// ReleaseDevice frees a device for staff: everybody's rows, its name and what it kept
// of its people go, and it can be claimed again. It reports whether anybody had it.
// Errors: ErrDeviceNotFound, ErrInsufficientRole.
func (r *Registry) ReleaseDevice(ctx context.Context, a Actor, id string) (released bool, err error) {
	if err := staffOnly(a, ActorAdmin, ActorSupport); err != nil {
		return false, err
	}
	var gone freed
	err = r.change(ctx, func(tx Tx) error {
		gone = freed{}
		d, err := tx.Device(ctx, id)
		if err != nil {
			return err
		}
		gone, err = r.release(ctx, tx, a, d, "")
		return err
	}, func() []*Change { return r.freedChanges(id, gone, false) })
	if err != nil {
		return false, err
	}
	r.wasFreed(gone)
	return len(gone.lost) > 0, nil
}

// freed is what a release has taken away.
type freed struct {
	lost  []string  // people who had the device
	ended []Command // that were open
}

// freedChanges tells people that they have lost a device, and before that what has become
// of the commands that were open; private: the others keep it.
func (r *Registry) freedChanges(deviceID string, gone freed, private bool) (all []*Change) {
	for _, c := range gone.ended {
		change := commandChange(c, c.FinishedAt)
		change.users = gone.lost
		all = append(all, change)
	}
	return append(all, r.releasedChange(deviceID, gone.lost, private))
}

// wasFreed makes a release that is committed felt: in live sessions and streams, and by
// those who wait for a command.
func (r *Registry) wasFreed(gone freed) {
	r.dispatch.finished(gone.ended...)
	for _, user := range gone.lost {
		r.AccessChanged(user)
	}
}

// releasedChange tells people that they have lost a device; private: the others
// keep it.
func (r *Registry) releasedChange(deviceID string, lost []string, private bool) *Change {
	return &Change{Kind: ChangeReleased, DeviceID: deviceID, At: r.now(), users: lost, private: private}
}

// giveUp removes a person's row on a device, and with the owner's everybody's and the
// name; it returns who lost access.
func (r *Registry) giveUp(ctx context.Context, tx Tx, a Actor, d OwnedDevice, userID string) (freed, error) {
	if d.Role != RoleOwner && d.Role != RoleStaff {
		if _, err := tx.DeleteShare(ctx, d.No, userID); err != nil {
			return freed{}, err
		}
		return freed{lost: []string{userID}}, r.audit(ctx, tx, a, d.ID, "share_left", map[string]any{"user_id": userID, "role": string(d.Role)})
	}
	return r.release(ctx, tx, a, d.Device, "")
}

// release makes a device nobody's: rows, open invitations and claims, the name, and what is kept
// of its people's time with it. That it was ever owned stays, so that no purchase links
// it again. reason is for the audit, "" when somebody asked for it.
func (r *Registry) release(ctx context.Context, tx Tx, a Actor, d Device, reason string) (gone freed, err error) {
	if gone.lost, err = tx.DeleteOwnerships(ctx, d.No); err != nil {
		return freed{}, err
	}
	if err := tx.DeleteInvitations(ctx, d.No); err != nil {
		return freed{}, err
	}
	if err := tx.DeletePairings(ctx, d.No); err != nil {
		return freed{}, err
	}
	if gone.ended, err = r.dropCommands(ctx, tx, a, d); err != nil {
		return freed{}, err
	}
	if err := tx.DeleteConfig(ctx, d.No); err != nil {
		return freed{}, err
	}
	if err := tx.SetDeviceName(ctx, d.No, "", r.now()); err != nil {
		return freed{}, err
	}
	if err := tx.DeletePersonal(ctx, d.No); err != nil {
		return freed{}, err
	}
	if len(gone.lost) > 0 {
		if err := r.emit(ctx, tx, EventReleased, d.ID, r.now(), map[string]any{"user_ids": gone.lost}); err != nil {
			return freed{}, err
		}
	}
	data := map[string]any{"user_ids": gone.lost}
	if reason != "" {
		data["reason"] = reason
	}
	return gone, r.audit(ctx, tx, a, d.ID, "released", data)
}

// bind makes a person the owner of a device that nobody owns. Errors: ErrDeviceLimit,
// ErrOwnedByOther.
func (r *Registry) bind(ctx context.Context, tx Tx, a Actor, d Device, userID, via string, now time.Time) error {
	changed, err := tx.InsertOwner(ctx, Ownership{
		DeviceNo: d.No, UserID: userID, Role: RoleOwner, ClaimedAt: now, ClaimedVia: via, At: now,
	}, r.opts.MaxDevicesPerUser)
	if err != nil {
		return err
	}
	if !changed {
		return ErrOwnedByOther
	}
	if err := r.firstOwned(ctx, tx, d, now); err != nil {
		return err
	}
	if err := r.emit(ctx, tx, EventClaimed, d.ID, now, map[string]any{"owner_user_id": userID, "via": via}); err != nil {
		return err
	}
	return r.audit(ctx, tx, a, d.ID, "claimed", map[string]any{"user_id": userID, "via": via})
}

// ReleaseDevices gives up everything that a person has of devices, in the caller's
// transaction: what they own is released, shares are left. done is called after the
// commit, and makes those who lost access lose it at once. The domain of people calls
// it in the transaction of an erasure.
func (r *Registry) ReleaseDevices(ctx context.Context, tx Tx, a Actor, userID string) (done func(), err error) {
	devices, err := tx.OwnedDevices(ctx, userID, time.Time{}, 0, 0)
	if err != nil {
		return nil, err
	}
	users := map[string]struct{}{userID: {}}
	var ended []Command
	var changes []*Change
	for _, d := range devices {
		gone, err := r.giveUp(ctx, tx, a, d, userID)
		if err != nil {
			return nil, err
		}
		for _, u := range gone.lost {
			users[u] = struct{}{}
		}
		ended = append(ended, gone.ended...)
		changes = append(changes, r.freedChanges(d.ID, gone, d.Role != RoleOwner)...)
	}
	return func() {
		r.feed.publish(changes)
		r.dispatch.finished(ended...)
		for u := range users {
			r.AccessChanged(u)
		}
	}, nil
}
