package rollout

import (
	"context"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"math"
	"slices"
	"strconv"
	"time"

	"github.com/opticworks/devicecloud/registry"
)

// Status is what a rollout does.
type Status string

// The statuses of a rollout. Nothing follows cancelled; a finished one runs again when
// its share is raised.
const (
	Running   Status = "running"
	Paused    Status = "paused"    // by a person: nobody new is told
	Halted    Status = "halted"    // by its failure threshold: likewise
	Cancelled Status = "cancelled" // who was not told never will be
	Finished  Status = "finished"  // every device is at its end
)

// Valid reports whether it is one of the above.
func (s Status) Valid() bool {
	return slices.Contains([]Status{Running, Paused, Halted, Cancelled, Finished}, s)
}

// Settings are what an administrator says of how a rollout goes, and may change.
type Settings struct {
	Percent       int           // of the devices, 1 to 100; may only grow
	RatePerMinute int           // devices that are told in a minute, 1 to 60,000
	MaxAttempts   int           // how often a device is told before it counts as failed, 1 to 10
	Timeout       time.Duration // from the telling to the reported version, 1 min to 24 h
	HaltPercent   int           // failures of a hundred told devices that halt it, 1 to 100; 0: never
	HaltAfter     int           // results that there must be for that, 1 to 100,000
}

// DefaultSettings are those of a rollout of which nothing else is said: everybody, 100
// a minute, once, within 30 minutes, halted at 5 % failures after 20 results.
func DefaultSettings() Settings {
	return Settings{Percent: 100, RatePerMinute: 100, MaxAttempts: 1, Timeout: 30 * time.Minute, HaltPercent: 5, HaltAfter: 20}
}

func (s Settings) check() error {
	for _, x := range []struct {
		name             string
		value, low, high int
	}{
		{"percent", s.Percent, 1, 100},
		{"rate_per_minute", s.RatePerMinute, 1, 60000},
		{"max_attempts", s.MaxAttempts, 1, 10},
		{"timeout_sec", int(s.Timeout / time.Second), 60, 86400},
		{"halt_percent", s.HaltPercent, 0, 100},
		{"halt_after", s.HaltAfter, 1, 100000},
	} {
		if x.value < x.low || x.value > x.high {
			return invalid(x.name + " must be from " + strconv.Itoa(x.low) + " to " + strconv.Itoa(x.high) + ".")
		}
	}
	return nil
}

// Cohort narrows a rollout to devices of a kind, as they are when the fleet is walked.
// An empty list does not narrow.
type Cohort struct {
	Versions []string // of the firmware that they run; at most 32
	Hardware []string // at most 16
}

// Rollout is the bringing of a release to devices.
type Rollout struct {
	No      int64
	ID      string // ro_...
	Release Release
	Status  Status
	Settings
	Cohort       Cohort
	Listed       bool      // its devices were named
	PlannedAfter int64     // device_no that the walk over the fleet has come to
	PacedUntil   time.Time // the rate is used up until then

	// Results since it began, and before it was last resumed from a halt.
	Succeeded, Failed         int
	BaseSucceeded, BaseFailed int

	CreatedBy  string // the actor
	CreatedAt  time.Time
	UpdatedAt  time.Time
	FinishedAt time.Time // of cancelled too
}

// Draft is what a new rollout is made of. Cohort and percent may narrow the fleet
// together; named devices are taken as they are.
type Draft struct {
	ReleaseID string
	Settings
	Cohort  Cohort
	Devices []string // ids, at most 1,000; none: the fleet
	Paused  bool     // it begins with Resume
}

const (
	maxListed   = 1000
	maxVersions = 32
	// maxReasons bounds how many pairs of state and reason a rollout shows: reasons of
	// failures are the devices' own words.
	maxReasons = 50
)

// The errors of rollouts.
var (
	ErrRolloutNotFound = registry.E(registry.NotFound, "rollout_not_found", "There is no such rollout.")
	ErrRolloutOver     = registry.E(registry.Conflict, "rollout_over", "The rollout is over.")
	ErrPercentShrinks  = registry.E(registry.Conflict, "percent_shrinks", "The share of a rollout can only grow: who has the firmware has it.")
)

// Count is how many devices of a rollout are in a state, for a reason.
type Count struct {
	State  State
	Reason string // "" of a count of all
	N      int
}

// Census is where the devices of a rollout are.
type Census struct {
	States  []Count // every state that there is
	Reasons []Count // the most frequent first, at most 50
}

// chosen reports whether a device is in the share of a rollout. It hashes both, so that
// each rollout draws its own sample, and whoever is in a share is in every larger one.
func (r Rollout) chosen(deviceID string) bool {
	sum := sha256.Sum256([]byte(r.ID + "/" + deviceID))
	return binary.BigEndian.Uint64(sum[:8])%100 < uint64(r.Percent)
}

// CreateRollout begins to bring a release to devices. Errors: Invalid,
// ErrReleaseNotFound, ErrReleaseWithdrawn, ErrDeviceNotFound of a named one,
// ErrInsufficientRole, ErrInsufficientScope.
func (s *Service) CreateRollout(ctx context.Context, a registry.Actor, d Draft) (r Rollout, err error) {
	if err := manager(a); err != nil {
		return Rollout{}, err
	}
	if err := d.Settings.check(); err != nil {
		return Rollout{}, err
	}
	if d.Cohort.Hardware, err = hardwareList(d.Cohort.Hardware); err != nil {
		return Rollout{}, err
	}
	named := slices.Compact(slices.Sorted(slices.Values(d.Devices)))
	switch {
	case len(d.Cohort.Versions) > maxVersions || slices.ContainsFunc(d.Cohort.Versions, func(v string) bool { return !printable(v, 1, 32) }):
		return Rollout{}, invalid("versions must be at most " + strconv.Itoa(maxVersions) + " texts of 1 to 32 printable characters.")
	case len(named) > maxListed:
		return Rollout{}, invalid("At most " + strconv.Itoa(maxListed) + " devices can be named.")
	case len(named) > 0 && (len(d.Cohort.Versions) > 0 || len(d.Cohort.Hardware) > 0 || d.Percent != 100):
		return Rollout{}, invalid("Named devices exclude cohort and percent.")
	}
	now := s.now()
	err = s.change(ctx, func(tx Tx, _ *moves) error {
		release, err := tx.Release(ctx, d.ReleaseID)
		if err != nil {
			return err
		}
		r = Rollout{
			ID: newID("ro_"), Release: release, Status: Running, Settings: d.Settings, Cohort: d.Cohort, Listed: len(named) > 0,
			CreatedBy: a.String(), CreatedAt: now, UpdatedAt: now,
		}
		if d.Paused {
			r.Status = Paused
		}
		if r.No, err = tx.InsertRollout(ctx, r); err != nil {
			return err
		}
		for _, id := range named {
			t, err := tx.Named(ctx, r.No, id)
			if err == nil {
				err = s.enter(ctx, tx, r, t, now)
			}
			if errors.Is(err, registry.ErrDeviceNotFound) {
				return invalid("There is no device " + strconv.Quote(id) + ".")
			}
			if err != nil {
				return err
			}
		}
		if r.Listed {
			if err := tx.Supersede(ctx, r.No, 0, math.MaxInt32, now); err != nil {
				return err
			}
		}
		return s.audit(ctx, tx, a, "", "rollout_created", map[string]any{
			"rollout_id": r.ID, "release_id": release.ID, "version": release.Version, "status": string(r.Status), "percent": r.Percent,
			"versions": r.Cohort.Versions, "hardware": r.Cohort.Hardware, "devices": len(named), "rate_per_minute": r.RatePerMinute,
			"halt_percent": r.HaltPercent, "halt_after": r.HaltAfter, "max_attempts": r.MaxAttempts,
		})
	})
	if err != nil {
		return Rollout{}, err
	}
	s.hurry()
	return r, nil
}

// enter writes a device into a rollout: to wait for its turn, or why it never gets one.
func (s *Service) enter(ctx context.Context, tx Tx, r Rollout, t Target, now time.Time) error {
	state, reason := Pending, ""
	if why := t.unfit(r.Release); why != "" {
		state, reason = Skipped, why
	} else if t.Superseded {
		state, reason = Skipped, reasonSuperseded
	}
	return tx.InsertUpdate(ctx, r.No, t.DeviceNo, state, reason, now)
}

// Rollout reads one rollout and where its devices are. Errors: ErrRolloutNotFound,
// ErrInsufficientRole, ErrInsufficientScope.
func (s *Service) Rollout(ctx context.Context, a registry.Actor, id string) (r Rollout, c Census, err error) {
	if err := manager(a); err != nil {
		return Rollout{}, Census{}, err
	}
	err = s.view(ctx, func(tx Tx) (err error) {
		if r, err = tx.Rollout(ctx, id); err != nil {
			return err
		}
		if c.States, err = tx.Counts(ctx, r.No); err != nil {
			return err
		}
		c.Reasons, err = tx.Reasons(ctx, r.No, maxReasons)
		return err
	})
	return r, c, err
}

// Rollouts lists rollouts, newest first, below the given number (0: from the top);
// status "" is every status.
func (s *Service) Rollouts(ctx context.Context, a registry.Actor, status Status, before int64, limit int) (list []Rollout, err error) {
	if err := manager(a); err != nil {
		return nil, err
	}
	err = s.view(ctx, func(tx Tx) (err error) {
		list, err = tx.Rollouts(ctx, status, before, limit)
		return err
	})
	return list, err
}

// Updates lists the devices of a rollout in order of number, after the given one; state
// "" is every state. Errors: ErrRolloutNotFound, ErrInsufficientRole,
// ErrInsufficientScope.
func (s *Service) Updates(ctx context.Context, a registry.Actor, id string, state State, after int64, limit int) (list []Update, err error) {
	if err := manager(a); err != nil {
		return nil, err
	}
	err = s.view(ctx, func(tx Tx) error {
		r, err := tx.Rollout(ctx, id)
		if err == nil {
			list, err = tx.Updates(ctx, r.No, state, after, limit)
		}
		return err
	})
	return list, err
}

// SetSettings changes how a rollout goes. set gets what is and changes it. A finished
// rollout whose share grows runs again. Errors: Invalid, ErrPercentShrinks,
// ErrReleaseWithdrawn, ErrRolloutNotFound, ErrRolloutOver, ErrInsufficientRole,
// ErrInsufficientScope.
func (s *Service) SetSettings(ctx context.Context, a registry.Actor, id string, set func(*Settings)) (Rollout, error) {
	return s.steer(ctx, a, id, "rollout_changed", func(r *Rollout) error {
		before := r.Settings
		set(&r.Settings)
		if err := r.Settings.check(); err != nil {
			return err
		}
		grows := r.Percent > before.Percent
		switch {
		case r.Percent < before.Percent:
			return ErrPercentShrinks
		case r.Status == Cancelled, r.Status == Finished && !grows:
			return ErrRolloutOver
		case grows && r.Listed:
			return invalid("percent has no meaning for named devices.")
		}
		if grows {
			r.PlannedAfter = 0 // who was passed over may be in it now
		}
		if r.Status == Finished {
			if !r.Release.WithdrawnAt.IsZero() {
				return ErrReleaseWithdrawn
			}
			r.Status, r.FinishedAt = Running, time.Time{}
		}
		return nil
	})
}

// Pause keeps a running rollout from telling anybody new; updates under way go on.
// Errors as of SetSettings.
func (s *Service) Pause(ctx context.Context, a registry.Actor, id string) (Rollout, error) {
	return s.steer(ctx, a, id, "rollout_paused", func(r *Rollout) error {
		switch r.Status {
		case Running:
			r.Status = Paused
		case Paused, Halted:
			return errSame
		default:
			return ErrRolloutOver
		}
		return nil
	})
}

// Resume lets a paused or halted rollout run. After a halt the failure threshold begins
// anew with the results from then on. Errors as of SetSettings.
func (s *Service) Resume(ctx context.Context, a registry.Actor, id string) (Rollout, error) {
	return s.steer(ctx, a, id, "rollout_resumed", func(r *Rollout) error {
		switch r.Status {
		case Running:
			return errSame
		case Halted:
			r.BaseSucceeded, r.BaseFailed = r.Succeeded, r.Failed
			r.Status = Running
		case Paused:
			r.Status = Running
		default:
			return ErrRolloutOver
		}
		return nil
	})
}

// Cancel ends a rollout: who was not told never will be; updates under way go on, for a
// device cannot be told to stop. In a large fleet the devices that wait become cancelled
// one part after the other. Errors as of SetSettings.
func (s *Service) Cancel(ctx context.Context, a registry.Actor, id string) (Rollout, error) {
	return s.steer(ctx, a, id, "rollout_cancelled", func(r *Rollout) error {
		switch r.Status {
		case Cancelled:
			return errSame
		case Finished:
			return ErrRolloutOver
		}
		r.Status, r.FinishedAt = Cancelled, s.now()
		return nil
	})
}

// errSame says that a rollout is as it should be.
var errSame = errors.New("nothing to change")

// steer changes a rollout in one transaction with its audit row.
func (s *Service) steer(ctx context.Context, a registry.Actor, id, event string, set func(*Rollout) error) (r Rollout, err error) {
	if err := manager(a); err != nil {
		return Rollout{}, err
	}
	err = s.change(ctx, func(tx Tx, _ *moves) error {
		if r, err = tx.Rollout(ctx, id); err != nil {
			return err
		}
		before := r
		if err := set(&r); errors.Is(err, errSame) {
			return nil
		} else if err != nil {
			return err
		}
		r.UpdatedAt = s.now()
		changed, err := tx.SetRollout(ctx, r, before.Status)
		switch {
		case err != nil:
			return err
		case !changed:
			return registry.ErrUnavailable // another transaction was faster, and this one may be tried again
		}
		if r.Status == Cancelled {
			if _, err := tx.CancelUpdates(ctx, r.No, r.UpdatedAt, s.cancels); err != nil {
				return err
			}
		}
		return s.audit(ctx, tx, a, "", event, map[string]any{
			"rollout_id": r.ID, "status": string(r.Status), "was": string(before.Status), "percent": r.Percent,
			"rate_per_minute": r.RatePerMinute, "halt_percent": r.HaltPercent, "halt_after": r.HaltAfter, "max_attempts": r.MaxAttempts,
		})
	})
	if err != nil {
		return Rollout{}, err
	}
	s.hurry()
	return r, nil
}
