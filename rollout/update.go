package rollout

import (
	"context"
	"slices"
	"time"

	"github.com/opticworks/devicecloud/registry"
)

// State is how far a device of a rollout is.
type State string

// The states of a device, in the order of its way. The last four are its end.
const (
	Pending     State = "pending"     // it was not its turn yet, or it is not connected
	Waiting     State = "waiting"     // not now: Reason says why
	Sent        State = "sent"        // it was told
	Accepted    State = "accepted"    // it says that it will
	Downloading State = "downloading" //
	Verifying   State = "verifying"   //
	Confirming  State = "confirming"  // it says that it has; the version that it reports decides
	Succeeded   State = "succeeded"   //
	Failed      State = "failed"      //
	Skipped     State = "skipped"     // it needs no update, or must not have it
	StateCancel State = "cancelled"   // the rollout was cancelled before its turn
)

// Valid reports whether it is one of the above.
func (s State) Valid() bool { return s == Pending || s == Waiting || s.Live() || s.Final() }

// Live reports whether the device may be working on the update.
func (s State) Live() bool {
	return slices.Contains([]State{Sent, Accepted, Downloading, Verifying, Confirming}, s)
}

// Final reports whether nothing follows.
func (s State) Final() bool {
	return slices.Contains([]State{Succeeded, Failed, Skipped, StateCancel}, s)
}

// The reasons of the cloud's own; a device has reasons of its own for failing.
const (
	reasonUpToDate    = "up_to_date"        // skipped: it runs the version
	reasonHardware    = "hardware_mismatch" // skipped: the release is not for what it is built as, or nobody has said what that is
	reasonDisabled    = "device_disabled"   // skipped
	reasonReleased    = "device_released"   // skipped: it was owned, and is nobody's
	reasonSuperseded  = "superseded"        // skipped: a newer rollout brings it a version
	reasonWeak        = "rssi_too_low"      // waiting: its signal is weaker than the release asks for
	reasonOffline     = "device_offline"    // pending again: it went before it said anything
	reasonTimeout     = "timeout"           // failed: it began, and was not heard of in time
	reasonNoAnswer    = "no_answer"         // failed: it was told, is connected, and has not said anything
	reasonInterrupted = "interrupted"       // failed: it restarted in the middle, again and again
	reasonMismatch    = "version_mismatch"  // failed: it said that it succeeded, and restarted into another version
	reasonTooLarge    = "too_large"         // failed: the message is larger than the device takes
	reasonUnconfirmed = "not_confirmed"     // failed: it said that it succeeded, and never reported the version
)

// Target is a device as a rollout looks at it.
type Target struct {
	DeviceNo   int64
	DeviceID   string
	Firmware   string // that it runs
	Hardware   string
	Disabled   bool
	Released   bool // it was owned, and is nobody's
	Superseded bool // a newer rollout brings it a version
}

// unfit is why a release must not or need not go to a device; "" when it may.
func (t Target) unfit(r Release) string {
	switch {
	case t.Disabled:
		return reasonDisabled
	case t.Released:
		return reasonReleased
	case t.Firmware == r.Version:
		return reasonUpToDate
	case !r.fits(t.Hardware):
		return reasonHardware
	}
	return ""
}

// in reports whether a device is of a cohort.
func (t Target) in(c Cohort) bool {
	return (len(c.Versions) == 0 || slices.Contains(c.Versions, t.Firmware)) &&
		(len(c.Hardware) == 0 || slices.Contains(c.Hardware, t.Hardware))
}

// Update is how far a device is in a rollout, with what decides how it goes on.
type Update struct {
	Target
	Rollout Rollout // with its release; without its tallies' base

	State       State
	Reason      string // why it waits, was skipped or has failed
	Progress    int    // percent, as the device says
	Attempt     int    // counted from 1; 0: it has not been told yet
	Sends       int    // how often the trigger was handed over in this attempt
	Epoch       int64  // of the connection that it was handed to, or that spoke last
	FromVersion string
	NotBefore   time.Time
	TriggeredAt time.Time // of this attempt
	SaidAt      time.Time // when the device said that it succeeded
	DueAt       time.Time
	FinishedAt  time.Time
	UpdatedAt   time.Time

	Presence   registry.Presence // Epoch, Status, NodeID and ConnectedAt alone
	RSSI       *int64
	Uptime     *int64
	ReportedAt time.Time
	Busy       bool // it works on another update: of another rollout, or by command
}

// restartedSince reports whether the device has restarted since a time: it speaks over a
// newer connection than the one that counts, and has less uptime than has passed.
func (u Update) restartedSince(at time.Time) bool {
	return u.Presence.Epoch > u.Epoch && u.Uptime != nil && !u.ReportedAt.Before(u.Presence.ConnectedAt) &&
		time.Duration(*u.Uptime)*time.Second < u.ReportedAt.Sub(at)
}

// progress is what listeners hear.
func (u Update) progress(at time.Time) *registry.Change {
	p := u.OTA()
	p.UpdatedAt = at
	return &registry.Change{Kind: registry.ChangeOTA, DeviceID: u.DeviceID, At: at, OTA: &p}
}

// OTA is the update as the device's people see it.
func (u Update) OTA() registry.OTAProgress {
	return registry.OTAProgress{
		RolloutID: u.Rollout.ID, Version: u.Rollout.Release.Version, State: string(u.State), Reason: u.Reason,
		Progress: u.Progress, Attempt: u.Attempt, UpdatedAt: u.UpdatedAt,
	}
}

// moves are the updates that a transaction has changed, for those who listen, and the
// rollouts that it has halted, for the log.
type moves struct {
	updates []Update
	halted  []Rollout
}

func (m *moves) reset() { m.updates, m.halted = nil, nil }

func (m *moves) changes() []*registry.Change {
	all := make([]*registry.Change, len(m.updates))
	for i, u := range m.updates {
		all[i] = u.progress(u.UpdatedAt)
	}
	return all
}

// advance writes what changes in an update, if nobody was faster, and remembers it.
func (s *Service) advance(ctx context.Context, tx Tx, m *moves, u, before Update, now time.Time) (bool, error) {
	u.UpdatedAt = now
	changed, err := tx.Advance(ctx, u, before)
	if err == nil && changed {
		m.updates = append(m.updates, u)
	}
	return changed, err
}

// DeviceProgress is how far a device is with its latest update, for whoever may read the
// device; nil when there was none. Errors: those of [registry.Registry.Access].
func (s *Service) DeviceProgress(ctx context.Context, a registry.Actor, deviceID string) (*registry.OTAProgress, error) {
	d, err := s.devices.Access(ctx, a, deviceID, registry.CanRead)
	if err != nil {
		return nil, err
	}
	var p *registry.OTAProgress
	err = s.view(ctx, func(tx Tx) error {
		u, ok, err := tx.LatestUpdate(ctx, d.No)
		if err == nil && ok {
			latest := u.OTA()
			p = &latest
		}
		return err
	})
	return p, err
}
