package registry

import (
	"context"
	"encoding/json"
	"errors"
	"math"
	"time"
)

// ProvisionRequest is what a device says after its Wi-Fi set-up. [seed 003 4.3]
type ProvisionRequest struct {
	DeviceID        string
	MAC             MAC
	FirmwareVersion string
	Hardware        string // "" when the device does not say
	Reset           bool   // somebody has reset the device by hand, and it has not said so yet
	ResetID         string // names that reset; "" for firmware that has no name for it
	MaxPacket       int    // the largest packet that the firmware takes, in bytes; 0: it did not say
}

// provisionResponse is what it gets back.
type provisionResponse struct {
	Status    string  `json:"status"` // registered or rejected
	DeviceID  string  `json:"device_id"`
	Owner     *string `json:"owner"`
	Error     string  `json:"error,omitempty"`
	Message   string  `json:"message,omitempty"`
	Timestamp string  `json:"timestamp"`
}

// The refusals of provisioning.
var (
	errDeviceIDMismatch = E(Invalid, "device_id_mismatch", "Device ID in payload does not match topic.")
	errMACMismatch      = E(Invalid, "mac_mismatch", "The MAC address is not the one this device was enrolled with.")
)

// DecodeProvision reads a provisioning request: device_id, mac_address and
// firmware_version are required; hardware (see [ValidHardware]), reset, reset_id and
// max_packet_size are not.
func DecodeProvision(payload []byte) (ProvisionRequest, error) {
	var p ProvisionRequest
	var got [3]bool
	err := eachMember(payload, func(name, v []byte) (err error) {
		switch key := string(name); key {
		case "device_id":
			got[0] = true
			p.DeviceID, err = stringValue(key, v, 1, 64)
		case "mac_address":
			got[1] = true
			var s string
			if s, err = stringValue(key, v, 1, 32); err == nil {
				p.MAC, err = ParseMAC(s)
			}
		case "firmware_version":
			got[2] = true
			p.FirmwareVersion, err = stringValue(key, v, 1, 32)
		case "hardware":
			if !isNull(v) {
				if p.Hardware, err = stringValue(key, v, 1, 32); err == nil && !ValidHardware(p.Hardware) {
					err = badPayload("hardware must be letters, digits, dots, hyphens and underscores.")
				}
			}
		case "reset":
			p.Reset, err = boolValue(key, v)
		case "reset_id":
			p.ResetID, err = stringValue(key, v, 1, 64)
		case "max_packet_size":
			var n int64
			n, err = intValue(key, v, DefaultPacket, math.MaxUint32)
			p.MaxPacket = int(min(n, LargestPacket))
		}
		return err
	})
	if err != nil {
		return ProvisionRequest{}, err
	}
	for i, name := range [...]string{"device_id", "mac_address", "firmware_version"} {
		if !got[i] {
			return ProvisionRequest{}, badPayload("%s is missing.", name)
		}
	}
	return p, nil
}

// Provision registers a device after its Wi-Fi set-up and returns the response to
// send it, also when the request is refused. Device, ownership by purchase, order
// and audit are one transaction; doing it again, by a resend or after a factory
// reset that it does not report, changes neither identity nor owner. Errors: ErrStale, ErrUnavailable; then
// nothing was committed and nothing is answered.
func (r *Registry) Provision(ctx context.Context, s *Session, payload []byte) ([]byte, error) {
	req, err := DecodeProvision(payload)
	if err == nil {
		err = r.checkIdentity(s, req)
	}
	var p provisioned
	if err == nil {
		err = r.change(ctx, func(tx Tx) (err error) {
			p, err = r.provision(ctx, tx, s, req, req.resetOf(payload))
			return err
		}, func() (all []*Change) {
			at := r.now()
			if p.released {
				all = r.freedChanges(s.DeviceID, p.gone, false)
			}
			if p.linked {
				all = append(all, claimedChange(s.DeviceID, p.owner, viaPurchase, at))
			}
			if !p.again {
				change := &Change{Kind: ChangeProvisioned, DeviceID: s.DeviceID, At: at, Firmware: req.FirmwareVersion}
				if p.linked { // whose streams do not read the device yet
					change.users = []string{p.owner}
				}
				all = append(all, change)
			}
			return all
		})
	}
	res := provisionResponse{Status: "registered", DeviceID: s.DeviceID, Timestamp: r.now().Format(time.RFC3339Nano)}
	var refusal *Error
	switch {
	case err == nil:
		r.counters.Provisioned.Add(1)
		s.firmware.Store(&req.FirmwareVersion)
		if p.owner != "" {
			res.Owner = &p.owner
		}
	case errors.As(err, &refusal) && refusal.Kind == Invalid:
		res.Status, res.Error, res.Message = "rejected", refusal.Code, refusal.Message
		r.counters.RejectedPayloads.Add(1)
		r.eventLater(s.DeviceNo, "provision.rejected", map[string]any{"error": refusal.Code, "message": refusal.Message})
	default:
		return nil, err
	}
	r.wasFreed(p.gone)
	if p.linked {
		r.counters.Claims.Add(1)
		r.AccessChanged(p.owner)
	}
	return json.Marshal(res)
}

// checkIdentity holds what the payload says against the authenticated device: the
// MAC in a payload is the attacker's word.
func (r *Registry) checkIdentity(s *Session, req ProvisionRequest) error {
	switch {
	case req.DeviceID != s.DeviceID:
		return errDeviceIDMismatch
	case req.MAC.DeviceID(r.opts.Salt) != s.DeviceID:
		return errMACMismatch
	}
	return nil
}

// provisioned is what a provisioning has done.
type provisioned struct {
	owner    string // now; "" without one
	linked   bool   // the owner bought the device, and it has become theirs
	again    bool   // this connection has done it before, and nothing was written
	released bool   // by a factory reset
	gone     freed
}

// provision does the work of Provision in its transaction.
func (r *Registry) provision(ctx context.Context, tx Tx, s *Session, req ProvisionRequest, report []byte) (p provisioned, err error) {
	now := r.now()
	d, err := tx.Device(ctx, s.DeviceID)
	switch {
	case err != nil:
		return provisioned{}, err
	case d.MAC == "" && d.SelfEnrolled:
		if _, err := tx.SetDeviceMAC(ctx, d.No, req.MAC, now); err != nil {
			return provisioned{}, err
		}
	case d.MAC != req.MAC:
		return provisioned{}, errMACMismatch
	}
	rows, err := tx.Ownerships(ctx, d.No)
	if err != nil {
		return provisioned{}, err
	}
	var owner Ownership
	for _, o := range rows {
		if o.Role == RoleOwner {
			owner = o
		}
	}
	actor := deviceActor(s.DeviceID)
	if req.Reset {
		if p.gone, p.released, err = r.factoryReset(ctx, tx, actor, s, d, owner, report, now); err != nil {
			return provisioned{}, err
		}
		if p.released {
			owner = Ownership{}
		}
	}
	p.owner = owner.UserID
	// A resend within the same connection: everything is done.
	p.again = !p.released && d.Presence.Epoch == s.Epoch && !d.ProvisionedAt.Before(s.ConnectedAt) &&
		d.FirmwareVersion == req.FirmwareVersion && d.MaxPacket == req.MaxPacket
	if p.again {
		return p, nil
	}
	stale, err := tx.SetProvisioned(ctx, d.No, s.Epoch, req.FirmwareVersion, req.MaxPacket, now)
	if err != nil {
		return provisioned{}, err
	}
	if stale {
		return provisioned{}, ErrStale
	}
	if req.Hardware != "" && d.Hardware == "" {
		if _, err := tx.SetDeviceHardware(ctx, d.No, req.Hardware, now); err != nil {
			return provisioned{}, err
		}
	}
	if p.owner == "" && !p.released && !d.SelfEnrolled && !d.EverOwned {
		if p.owner, err = r.linkByPurchase(ctx, tx, actor, d, now); err != nil {
			return provisioned{}, err
		}
		p.linked = p.owner != ""
	}
	data := map[string]any{"firmware_version": req.FirmwareVersion, "owner": nil}
	if p.owner != "" {
		data["owner"] = p.owner
	}
	told := map[string]any{"firmware_version": req.FirmwareVersion, "owner_user_id": data["owner"]}
	if err := r.emit(ctx, tx, EventProvisioned, s.DeviceID, now, told); err != nil {
		return provisioned{}, err
	}
	return p, r.audit(ctx, tx, actor, s.DeviceID, "provisioned", data)
}

// selfEnroll enrols a device at its first connection: the first password becomes
// its secret, and an alert is raised. It is never linked to a buyer until support
// confirms it. [seed 003 4.2]
func (r *Registry) selfEnroll(ctx context.Context, id Identity) (Identity, error) {
	cred := Credential{
		ID: r.opts.NextID(), Slot: 1, Kind: CredentialSecret, CreatedAt: r.now(), Secret: r.opts.Sealer.seal(id.DeviceID, id.enrolling),
	}
	var no int64
	err := r.change(ctx, func(tx Tx) (err error) {
		if no, err = tx.InsertDevice(ctx, NewDevice{ID: id.DeviceID, SelfEnrolled: true, At: cred.CreatedAt}); err != nil {
			return err
		}
		if err = tx.PutCredential(ctx, no, cred); err != nil {
			return err
		}
		alert := Event{ID: r.opts.NextID(), DeviceNo: no, Type: "device.self_enrolled", OccurredAt: cred.CreatedAt, Data: "{}"}
		if err = tx.InsertEvent(ctx, alert, keepEvents); err != nil {
			return err
		}
		if err = r.emit(ctx, tx, EventSelfEnrolled, id.DeviceID, cred.CreatedAt, nil); err != nil {
			return err
		}
		return r.audit(ctx, tx, Actor{Kind: ActorDevice, ID: id.DeviceID, ClientType: "device"}, id.DeviceID, "self_enrolled", nil)
	}, func() []*Change {
		return []*Change{{Kind: ChangeSelfEnrolled, DeviceID: id.DeviceID, At: cred.CreatedAt}}
	})
	if errors.Is(err, ErrAlreadyEnrolled) {
		return Identity{}, ErrBadCredential // somebody was faster; the next try is checked against that
	}
	if err != nil {
		return Identity{}, err
	}
	r.counters.SelfEnrolled.Add(1)
	r.log.Warn("a device enrolled itself", "device_id", id.DeviceID)
	return Identity{DeviceNo: no, DeviceID: id.DeviceID, CredentialID: cred.ID}, nil
}
