package httpapi

import (
	"context"
	"time"

	"github.com/opticworks/devicecloud/media"
	"github.com/opticworks/devicecloud/registry"
)

// adminBody is what staff see of every device, beside what its people see.
type adminBody struct {
	MACAddress    *string    `json:"mac_address"`
	Hardware      *string    `json:"hardware"`
	NodeID        *string    `json:"node_id"` // of the latest connection
	ProvisionedAt *time.Time `json:"provisioned_at"`
	CreatedAt     time.Time  `json:"created_at"`
	SelfEnrolled  bool       `json:"self_enrolled"`
	Disabled      bool       `json:"disabled"`
}

// adminListBody is a device in the list of all.
type adminListBody struct {
	deviceBody
	adminBody
	Owner *ownerRef `json:"owner"`
}

type ownerRef struct {
	UserID string  `json:"user_id"`
	Email  *string `json:"email"`
}

// adminDetailBody is one device as staff see it: flat, the people's fields and more.
type adminDetailBody struct {
	deviceBody
	stateBody
	reportsBody
	adminBody
	Epoch        int64             `json:"epoch"`
	FirstSeen    *time.Time        `json:"first_seen"`
	DisabledAt   *time.Time        `json:"disabled_at"`
	Owner        *ownerBody        `json:"owner"`
	Shares       []shareBody       `json:"shares"`
	Credentials  []credentialBody  `json:"credentials"`
	Entitlements []entitlementBody `json:"entitlements"` // now or later
	Connectivity *connBody         `json:"connectivity"` // as its people see it
	Video        videoBody         `json:"video"`
	OTA          *otaBody          `json:"ota"` // the latest update of its firmware
}

type ownerBody struct {
	ownerRef
	ClaimedAt  *time.Time `json:"claimed_at"`
	ClaimedVia *string    `json:"claimed_via"`
}

type shareBody struct {
	ownerRef
	Role     string     `json:"role"` // admin, viewer
	SharedAt *time.Time `json:"shared_at"`
	SharedBy *string    `json:"shared_by"` // user id
	StartsAt *time.Time `json:"starts_at"`
	EndsAt   *time.Time `json:"ends_at"`
}

func newAdminBody(d registry.Device) adminBody {
	return adminBody{text(string(d.MAC)), text(d.Hardware), text(d.Presence.NodeID), stamp(d.ProvisionedAt), d.CreatedAt.UTC(), d.SelfEnrolled, !d.DisabledAt.IsZero()}
}

func newAdminListBody(d registry.AdminDevice) adminListBody {
	b := adminListBody{deviceBody: newDeviceBody(d.Device), adminBody: newAdminBody(d.Device)}
	if d.OwnerID != "" {
		b.Owner = &ownerRef{d.OwnerID, text(d.OwnerEmail)}
	}
	return b
}

func newAdminDetailBody(d registry.AdminDetail, v media.Video) adminDetailBody {
	b := adminDetailBody{
		deviceBody: newDeviceBody(d.Device), stateBody: newStateBody(d.Device), reportsBody: newReportsBody(d.Reports), adminBody: newAdminBody(d.Device),
		Epoch: d.Device.Presence.Epoch, FirstSeen: stamp(d.Device.FirstSeen), DisabledAt: stamp(d.Device.DisabledAt),
		Shares: []shareBody{}, Credentials: render(d.Credentials, newCredentialBody), Entitlements: render(d.Entitlements, newEntitlementBody),
		Video: newVideoBody(v),
	}
	for _, o := range d.Ownerships {
		ref := ownerRef{o.UserID, text(o.Email)}
		if o.Role == registry.RoleOwner {
			b.Owner = &ownerBody{ref, stamp(o.ClaimedAt), text(o.ClaimedVia)}
		} else {
			b.Shares = append(b.Shares, shareBody{ref, string(o.Role), stamp(o.SharedAt), text(o.SharedBy), stamp(o.StartsAt), stamp(o.EndsAt)})
		}
	}
	return b
}

// maxPage bounds numbered pages, which cost what they skip. Cursors have no end.
const maxPage = 10000

// filter reads the filters and the place in the list of all devices.
func filter(q params) (f registry.DeviceFilter, limit, page int, err error) {
	var status string
	for _, p := range []struct {
		name string
		to   *string
	}{{"status", &status}, {"version", &f.Version}, {"owner", &f.Owner}, {"q", &f.Query}} {
		if *p.to, err = q.text(p.name); err != nil {
			return f, 0, 0, err
		}
	}
	if status != "" {
		s, known := registry.ParseStatus(status)
		if !known {
			return f, 0, 0, invalid("status must be online, offline or unknown.")
		}
		f.Status = &s
	}
	if f.After, limit, err = q.page(listAdminDevices); err != nil {
		return f, 0, 0, err
	}
	if page, err = q.number("page", 1, 1, maxPage); err != nil {
		return f, 0, 0, err
	}
	if f.After > 0 && page > 1 {
		return f, 0, 0, invalid("cursor and page exclude each other.")
	}
	f.Offset, f.Limit = (page-1)*limit, limit+1
	return f, limit, page, nil
}

func (a *api) adminListDevices(r *request) (answer, error) {
	q, err := r.params()
	if err != nil {
		return answer{}, err
	}
	f, limit, page, err := filter(q)
	if err != nil {
		return answer{}, err
	}
	rows, total, err := a.Registry.AdminDevices(r.Context(), r.actor, f)
	if err != nil {
		return answer{}, err
	}
	rows, cursor := next(listAdminDevices, rows, limit, func(d registry.AdminDevice) int64 { return d.No })
	body := struct {
		Devices    []adminListBody `json:"devices"`
		Total      int             `json:"total"` // of all pages
		Page       int             `json:"page,omitempty"`
		NextCursor string          `json:"next_cursor"`
	}{render(rows, newAdminListBody), total, page, cursor}
	if f.After > 0 {
		body.Page = 0 // a cursor knows no numbers
	}
	return ok(body)
}

func (a *api) adminGetDevice(r *request) (answer, error) {
	id, err := r.deviceID()
	if err != nil {
		return answer{}, err
	}
	d, err := a.Registry.AdminDevice(r.Context(), r.actor, id)
	if err != nil {
		return answer{}, err
	}
	v, err := a.Media.Video(r.Context(), r.actor, id)
	if err != nil {
		return answer{}, err
	}
	body := newAdminDetailBody(d, v)
	if body.OTA, err = a.deviceOTA(r, id); err != nil {
		return answer{}, err
	}
	if body.Connectivity, err = a.connectivity(r, d.Device); err != nil {
		return answer{}, err
	}
	return ok(body)
}

func (a *api) deleteDevice(r *request) (answer, error) {
	id, err := a.manages(r)
	if err != nil {
		return answer{}, err
	}
	if err := a.Registry.DeleteDevice(r.Context(), r.actor, id); err != nil {
		return answer{}, err
	}
	return ok(deletedBody{true, id})
}

// disabledBody is the answer of disabling and enabling.
type disabledBody struct {
	DeviceID string `json:"device_id"`
	Disabled bool   `json:"disabled"`
}

func (a *api) disableDevice(r *request) (answer, error) {
	return a.setDisabled(r, true, a.Registry.DisableDevice)
}

func (a *api) enableDevice(r *request) (answer, error) {
	return a.setDisabled(r, false, a.Registry.EnableDevice)
}

func (a *api) setDisabled(r *request, disabled bool, set func(context.Context, registry.Actor, string) error) (answer, error) {
	id, err := a.manages(r)
	if err != nil {
		return answer{}, err
	}
	if err := set(r.Context(), r.actor, id); err != nil {
		return answer{}, err
	}
	return ok(disabledBody{id, disabled})
}

// disconnectedBody says whether there was a session to end.
type disconnectedBody struct {
	DeviceID     string `json:"device_id"`
	Disconnected bool   `json:"disconnected"`
}

func (a *api) disconnectDevice(r *request) (answer, error) {
	id, err := a.manages(r)
	if err != nil {
		return answer{}, err
	}
	was, err := a.Registry.DisconnectDevice(r.Context(), r.actor, id)
	if err != nil {
		return answer{}, err
	}
	return ok(disconnectedBody{id, was})
}
