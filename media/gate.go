package media

import (
	"context"
	"time"

	"github.com/opticworks/devicecloud/registry"
)

// Feature is a part of video that an operator configures by itself.
type Feature uint8

// The features.
const (
	Playback      Feature = iota + 1 // of a stream: HLS, DASH, clips, images
	Viewing                          // of a signalling channel: live, peer to peer
	DeviceVending                    // credentials of devices
	Identity                         // identities of people at Amazon Cognito
	Uploads                          // what people bring themselves: it needs no video
)

// channel reports whether the feature is of a device's channel and not of its stream.
func (f Feature) channel() bool { return f == Viewing }

// Want is what a request wants of a device.
type Want struct {
	Feature Feature
	From    time.Time // the start of what is to be played; zero: live
	// Disabled says that something else that the request needs is not configured; it is
	// found out last, as the feature's own configuration is.
	Disabled bool
}

// Admission is what was found on the way through the gate.
type Admission struct {
	Device registry.OwnedDevice
	Video  Video
}

// Admit decides whether a person may have a service of a device: the one gate of every
// route about video. The order of refusals is fixed [contracts A.3]:
//
//  1. ErrDeviceNotFound: no such device, or not the person's; and for everybody who is no
//     person, staff included: a home is watched by its people alone [contracts C.5]
//  2. ErrInsufficientRole, ErrInsufficientScope
//  3. ErrEntitlementRequired, [ErrRangeExceeded]
//  4. [ErrNotProvisioned]
//  5. ErrFeatureDisabled
func (s *Service) Admit(ctx context.Context, a registry.Actor, deviceID string, c registry.Capability, w Want) (in Admission, err error) {
	err = s.store.View(ctx, func(tx Tx) (err error) {
		in, err = s.admit(ctx, tx, a, deviceID, c, w)
		return err
	})
	return in, err
}

// admit is Admit in a transaction of the caller's.
func (s *Service) admit(ctx context.Context, tx Tx, a registry.Actor, deviceID string, c registry.Capability, w Want) (in Admission, err error) {
	if a.Kind != registry.ActorUser {
		return in, registry.ErrDeviceNotFound
	}
	if in.Device, err = s.devices.AccessTx(ctx, tx, a, deviceID, c); err != nil {
		return Admission{}, err
	}
	if err = s.reaches(ctx, tx, in.Device.No, c, w.From); err != nil {
		return Admission{}, err
	}
	if in.Video, err = tx.Video(ctx, in.Device.No); err != nil {
		return Admission{}, err
	}
	if !in.Video.has(w.Feature) {
		return Admission{}, ErrNotProvisioned
	}
	if w.Disabled || !s.offers(w.Feature) {
		return Admission{}, registry.ErrFeatureDisabled
	}
	return in, nil
}

// offers reports whether the operator has configured a feature.
func (s *Service) offers(f Feature) bool {
	return f == Uploads || s.opts.Cloud != nil && s.opts.Cloud.Offers(f)
}

// reaches refuses a start that lies before all that the device's entitlements to a
// service reach back to, or before the device came to its owner: what it recorded until
// then is somebody else's home, and stays at AWS when the device changes hands. One
// without a limit reaches everything since.
func (s *Service) reaches(ctx context.Context, tx Tx, deviceNo int64, c registry.Capability, from time.Time) error {
	if from.IsZero() {
		return nil
	}
	now := s.now()
	rows, err := tx.Ownerships(ctx, deviceNo)
	if err != nil {
		return err
	}
	for _, o := range rows {
		if o.Role == registry.RoleOwner && from.Before(o.ClaimedAt) {
			return errBeforeOwner
		}
	}
	list, err := tx.Entitlements(ctx, deviceNo, now)
	if err != nil {
		return err
	}
	for _, e := range list {
		if e.Capability != c || e.StartsAt.After(now) {
			continue
		}
		if e.HistoryDays == 0 || !from.Before(now.AddDate(0, 0, -e.HistoryDays)) {
			return nil
		}
	}
	return ErrRangeExceeded
}

// errBeforeOwner tells an app what [ErrRangeExceeded] does: to ask for less.
var errBeforeOwner = registry.E(registry.Forbidden, ErrRangeExceeded.Code, "The device came to its owner after this time.")

// Mine is the first step of [Service.Admit] alone, for before a body is looked at:
// ErrDeviceNotFound for everybody who has no role on the device.
func (s *Service) Mine(ctx context.Context, a registry.Actor, deviceID string) error {
	if a.Kind != registry.ActorUser {
		return registry.ErrDeviceNotFound
	}
	return s.store.View(ctx, func(tx Tx) error {
		_, err := tx.OwnedDevice(ctx, a.ID, deviceID, s.now())
		return err
	})
}
