package registry

import (
	"context"
	"crypto/subtle"
	"strings"
	"time"

	"github.com/opticworks/devicecloud/topic"
)

// EnrollRequest is a device as the factory made it. The hashes are SHA-256 over the
// bytes of the secret exactly as the device sends it, 64 hex digits.
type EnrollRequest struct {
	MACAddress       string
	DeviceSecretHash string
	ClaimSecretHash  string // of the label's claim secret; may be ""
	Hardware         string // what it is built as, 1-32 letters, digits and ".-_"; may be ""
}

type enrollment struct {
	device NewDevice
	secret Digest
}

func (r *Registry) enrollment(req EnrollRequest) (e enrollment, err error) {
	mac, err := ParseMAC(req.MACAddress)
	if err != nil {
		return e, err
	}
	if e.secret, err = parseDigest("device_secret_hash", req.DeviceSecretHash); err != nil {
		return e, err
	}
	e.device = NewDevice{ID: mac.DeviceID(r.opts.Salt), MAC: mac, At: r.now()}
	if req.Hardware != "" && !ValidHardware(req.Hardware) {
		return e, E(Invalid, ErrInvalidRequest.Code, "hardware must be 1 to 32 letters, digits, dots, hyphens and underscores.")
	}
	e.device.Hardware = req.Hardware
	if req.ClaimSecretHash != "" {
		e.device.ClaimSecretHash, err = parseDigest("claim_secret_hash", req.ClaimSecretHash)
	}
	return e, err
}

// ValidHardware reports whether a text can name what a device is built as.
func ValidHardware(s string) bool {
	return len(s) >= 1 && len(s) <= 32 && strings.Trim(s, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789.-_") == ""
}

// Enroll records a device that the factory made. Errors: Invalid,
// ErrAlreadyEnrolled, Forbidden. [seed 003 4.1]
func (r *Registry) Enroll(ctx context.Context, a Actor, req EnrollRequest) (Device, error) {
	if err := adminOrService(a, ScopeDeviceEnroll); err != nil {
		return Device{}, err
	}
	e, err := r.enrollment(req)
	if err != nil {
		return Device{}, err
	}
	var no int64
	err = r.write(ctx, func(tx Tx) (err error) {
		no, err = r.enroll(ctx, tx, a, e)
		return err
	})
	if err != nil {
		return Device{}, err
	}
	return Device{No: no, ID: e.device.ID, MAC: e.device.MAC, CreatedAt: e.device.At, UpdatedAt: e.device.At}, nil
}

func (r *Registry) enroll(ctx context.Context, tx Tx, a Actor, e enrollment) (no int64, err error) {
	if no, err = tx.InsertDevice(ctx, e.device); err != nil {
		return 0, err
	}
	err = tx.PutCredential(ctx, no, Credential{
		ID: r.opts.NextID(), Slot: 1, Kind: CredentialSecret, Secret: r.opts.Sealer.seal(e.device.ID, e.secret), CreatedAt: e.device.At,
	})
	if err != nil {
		return 0, err
	}
	return no, r.audit(ctx, tx, a, e.device.ID, "enrolled", map[string]any{"mac_address": string(e.device.MAC)})
}

// sameSecret reports whether a device is enrolled with this very secret, so that an
// import can be repeated.
func (r *Registry) sameSecret(ctx context.Context, tx Tx, e enrollment) (bool, error) {
	c, err := tx.Credentialed(ctx, e.device.ID)
	if err != nil {
		return false, err
	}
	for _, cred := range c.Credentials {
		if d, err := r.opts.Sealer.open(e.device.ID, cred.Secret); err == nil && subtle.ConstantTimeCompare(d, e.secret) == 1 {
			return true, nil
		}
	}
	return false, nil
}

// AdminDevices lists all devices by filter and says how many match.
func (r *Registry) AdminDevices(ctx context.Context, a Actor, f DeviceFilter) (list []AdminDevice, total int, err error) {
	if err := staffOnly(a, ActorAdmin, ActorSupport); err != nil {
		return nil, 0, err
	}
	err = r.store.View(ctx, func(tx Tx) (err error) {
		list, total, err = tx.Devices(ctx, f)
		return err
	})
	return list, total, err
}

// AdminDetail is one device as staff see it.
type AdminDetail struct {
	Device
	Ownerships   []Ownership // the owner first
	Credentials  []CredentialMeta
	Reports      map[topic.Kind]Report
	Entitlements []Entitlement // now or later
}

// AdminDevice reads one device with everything that staff may know of it. A read by
// support staff is audited.
func (r *Registry) AdminDevice(ctx context.Context, a Actor, id string) (d AdminDetail, err error) {
	if err := staffOnly(a, ActorAdmin, ActorSupport); err != nil {
		return AdminDetail{}, err
	}
	err = r.store.View(ctx, func(tx Tx) (err error) {
		d = AdminDetail{}
		if d.Device, err = tx.Device(ctx, id); err != nil {
			return err
		}
		if d.Ownerships, err = tx.Ownerships(ctx, d.No); err != nil {
			return err
		}
		creds, err := tx.Credentials(ctx, d.No)
		if err != nil {
			return err
		}
		for _, c := range creds {
			d.Credentials = append(d.Credentials, CredentialMeta{c.ID, c.Kind, c.CreatedAt, c.ExpiresAt})
		}
		if d.Entitlements, err = tx.Entitlements(ctx, d.No, r.now()); err != nil {
			return err
		}
		d.Reports, err = tx.Reports(ctx, d.No)
		return err
	})
	if err == nil {
		err = r.auditSupport(ctx, a, id)
	}
	return d, err
}

// Audit reads the audit trail, newest first. Of the whole trail only administrators
// read; support staff read a device's.
func (r *Registry) Audit(ctx context.Context, a Actor, f AuditFilter) (list []AuditEvent, err error) {
	kinds := []ActorKind{ActorAdmin, ActorSupport}
	if f.DeviceID == "" {
		kinds = kinds[:1]
	}
	if err := staffOnly(a, kinds...); err != nil {
		return nil, err
	}
	err = r.store.View(ctx, func(tx Tx) (err error) {
		list, err = tx.Audit(ctx, f)
		return err
	})
	return list, err
}

// statsDays is how far back daily activity is counted.
const statsDays = 30

// Stats counts the fleet. [seed 003 10.1]
func (r *Registry) Stats(ctx context.Context, a Actor) (s Stats, err error) {
	if err := staffOnly(a, ActorAdmin); err != nil {
		return Stats{}, err
	}
	err = r.store.View(ctx, func(tx Tx) (err error) {
		s, err = tx.Stats(ctx, r.now().Truncate(24*time.Hour).AddDate(0, 0, 1-statsDays))
		return err
	})
	return s, err
}

// CountDevices is the number of devices, and of those online, for metrics.
func (r *Registry) CountDevices(ctx context.Context) (total, online int, err error) {
	err = r.store.View(ctx, func(tx Tx) (err error) {
		total, online, err = tx.CountDevices(ctx)
		return err
	})
	return total, online, err
}

// DisableDevice locks a device out and ends its session. Doing it again changes
// nothing. Errors: ErrDeviceNotFound, Forbidden.
func (r *Registry) DisableDevice(ctx context.Context, a Actor, id string) error {
	err := r.setDisabled(ctx, a, id, r.now(), "disabled")
	if err == nil {
		r.courier.Disconnect(id, CredentialRevoked)
	}
	return err
}

// EnableDevice lets a disabled device in again.
func (r *Registry) EnableDevice(ctx context.Context, a Actor, id string) error {
	return r.setDisabled(ctx, a, id, time.Time{}, "enabled")
}

func (r *Registry) setDisabled(ctx context.Context, a Actor, id string, disabledAt time.Time, event string) error {
	if err := staffOnly(a, ActorAdmin, ActorSupport); err != nil {
		return err
	}
	return r.write(ctx, func(tx Tx) error {
		d, err := tx.Device(ctx, id)
		if err != nil {
			return err
		}
		changed, err := tx.SetDeviceDisabled(ctx, d.No, disabledAt, r.now())
		if err != nil || !changed {
			return err
		}
		return r.audit(ctx, tx, a, id, event, nil)
	})
}

// DisconnectDevice ends a device's session; it may come back at once. It reports
// whether there was one.
func (r *Registry) DisconnectDevice(ctx context.Context, a Actor, id string) (bool, error) {
	if err := staffOnly(a, ActorAdmin, ActorSupport); err != nil {
		return false, err
	}
	err := r.write(ctx, func(tx Tx) error {
		if _, err := tx.Device(ctx, id); err != nil {
			return err
		}
		return r.audit(ctx, tx, a, id, "disconnected", nil)
	})
	if err != nil {
		return false, err
	}
	return r.courier.Disconnect(id, Kicked), nil
}

// DeleteDevice removes a device and everything that is known of it but the audit
// trail, and ends its session. Its MAC can be enrolled again.
func (r *Registry) DeleteDevice(ctx context.Context, a Actor, id string) error {
	if err := staffOnly(a, ActorAdmin); err != nil {
		return err
	}
	var users []string
	err := r.change(ctx, func(tx Tx) error {
		d, err := tx.Device(ctx, id)
		if err != nil {
			return err
		}
		if users, err = tx.DeleteOwnerships(ctx, d.No); err != nil {
			return err
		}
		if err := tx.DeleteDevice(ctx, d.No); err != nil {
			return err
		}
		if len(users) > 0 {
			if err := r.emit(ctx, tx, EventReleased, id, r.now(), map[string]any{"user_ids": users}); err != nil {
				return err
			}
		}
		return r.audit(ctx, tx, a, id, "deleted", map[string]any{"mac_address": string(d.MAC), "user_ids": users})
	}, func() []*Change { return []*Change{r.releasedChange(id, users, false)} })
	if err != nil {
		return err
	}
	r.courier.Disconnect(id, CredentialRevoked)
	for _, u := range users {
		r.AccessChanged(u)
	}
	return nil
}
