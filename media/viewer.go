package media

import (
	"context"
	"crypto/rand"
	"strings"
	"time"

	"github.com/opticworks/devicecloud/registry"
)

// watchLife is how long a connection of a viewer may last at AWS, from when it was opened.
// [contracts A.1]
const watchLife = time.Hour

// WatcherTx reads and writes who may be watching.
type WatcherTx interface {
	// InsertWatcher records a viewer that was given.
	InsertWatcher(ctx context.Context, w Watcher) error
	// Outsiders lists viewers who may still be watching at a time, of people who have no
	// role on the device then, oldest first.
	Outsiders(ctx context.Context, at time.Time, limit int) ([]Watcher, error)
	// DeleteWatcher removes a viewer.
	DeleteWatcher(ctx context.Context, no int64) error
	// DeleteWatchers removes at most limit viewers who cannot be watching at a time; it
	// returns how many.
	DeleteWatchers(ctx context.Context, at time.Time, limit int) (int, error)
}

// Watcher is a viewer that somebody was given, for as long as they may be watching by it.
type Watcher struct {
	No        int64
	DeviceNo  int64
	DeviceID  string // not written
	UserID    string
	ClientID  string // of signalling
	VendedAt  time.Time
	LiveUntil time.Time
}

// Watching is a viewer as it is answered.
type Watching struct {
	Viewer
	ClientID string
	Region   string
}

// Watch gives a person a viewer of a device's signalling channel: an address that is
// signed already, or, where the operator allows it (Options.OwnCredentials), credentials
// by which an app signs for itself. Errors: those of [Service.Admit] by CanLiveView,
// those of [Cloud].
func (s *Service) Watch(ctx context.Context, a registry.Actor, deviceID string) (Watching, error) {
	w := Want{Feature: Viewing}
	in, err := s.Admit(ctx, a, deviceID, registry.CanLiveView, w)
	if err != nil {
		return Watching{}, err
	}
	h := Holder{UserID: a.ID, DeviceID: deviceID}
	out := Watching{ClientID: newClientID(a.ID), Region: s.opts.Cloud.Region()}
	if out.Viewer, err = s.opts.Cloud.View(ctx, h, in.Video, out.ClientID, s.opts.OwnCredentials); err != nil {
		return Watching{}, err
	}
	now := s.now()
	err = s.vended(ctx, a, deviceID, registry.CanLiveView, w, h, out.Expires, map[string]any{"client_id": out.ClientID}, func(tx Tx, in Admission) error {
		return tx.InsertWatcher(ctx, Watcher{
			No: s.opts.NextID(), DeviceNo: in.Device.No, UserID: a.ID, ClientID: out.ClientID, VendedAt: now,
			LiveUntil: out.Expires.Add(watchLife).Truncate(time.Microsecond),
		})
	})
	if err != nil {
		return Watching{}, err
	}
	return out, nil
}

// newClientID makes the id of a viewer: of the person and of chance, and never of what
// the app says, because two of the same id take each other's place.
func newClientID(userID string) string {
	id := plain(userID)
	return "u" + strings.ToLower(id[max(0, len(id)-8):]) + "-" + rand.Text()
}

// Identify gives a person a token of the identity pool of Amazon Cognito that names the
// device. Errors: those of [Service.Admit] by CanLiveView, those of [Cloud].
func (s *Service) Identify(ctx context.Context, a registry.Actor, deviceID string) (Identified, error) {
	w := Want{Feature: Identity}
	if _, err := s.Admit(ctx, a, deviceID, registry.CanLiveView, w); err != nil {
		return Identified{}, err
	}
	h := Holder{UserID: a.ID, DeviceID: deviceID}
	out, err := s.opts.Cloud.Identify(ctx, h)
	if err != nil {
		return Identified{}, err
	}
	err = s.vended(ctx, a, deviceID, registry.CanLiveView, w, h, s.now().Add(out.Life), map[string]any{"identity_id": out.IdentityID}, nil)
	if err != nil {
		return Identified{}, err
	}
	return out, nil
}
