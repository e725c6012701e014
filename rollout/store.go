package rollout

import (
	"context"
	"time"

	"github.com/opticworks/devicecloud/registry"
)

// Store is what the domain of firmware needs of a database.
type Store interface {
	// View runs f on one read-only snapshot.
	View(ctx context.Context, f func(Tx) error) error
	// Of is a transaction of the registry as this domain sees it.
	Of(tx registry.Tx) Tx
}

// Tx is one transaction over the tables of firmware and of devices.
type Tx interface {
	registry.Tx
	ReleaseTx
	PlanTx
	UpdateTx
}

// ReleaseTx reads and writes releases.
type ReleaseTx interface {
	// InsertRelease writes a release and returns its number; ErrReleaseExists when one of
	// the same version and hardware is not withdrawn.
	InsertRelease(ctx context.Context, r Release) (no int64, err error)
	// Release reads one release; ErrReleaseNotFound.
	Release(ctx context.Context, id string) (Release, error)
	// Releases lists releases, newest first, below the given number (0: from the top).
	Releases(ctx context.Context, before int64, limit int) ([]Release, error)
	// WithdrawRelease withdraws a release, only while it is not and nothing brings it to
	// devices; changed says whether it did.
	WithdrawRelease(ctx context.Context, no int64, at time.Time) (changed bool, err error)
}

// PlanTx reads and writes rollouts.
type PlanTx interface {
	// InsertRollout writes a rollout and returns its number; ErrReleaseWithdrawn.
	InsertRollout(ctx context.Context, r Rollout) (no int64, err error)
	// Rollout reads one rollout with its release; ErrRolloutNotFound.
	Rollout(ctx context.Context, id string) (Rollout, error)
	// Rollouts lists rollouts, newest first, below the given number (0: from the top);
	// status "" is every status.
	Rollouts(ctx context.Context, status Status, before int64, limit int) ([]Rollout, error)
	// SetRollout writes status, settings and the base of the threshold, only while the
	// status is still from.
	SetRollout(ctx context.Context, r Rollout, from Status) (changed bool, err error)
	// CountResult adds a result and returns the rollout as it is then.
	CountResult(ctx context.Context, no int64, succeeded bool, at time.Time) (Rollout, error)
	// CountLive counts a rollout's live updates.
	CountLive(ctx context.Context, no int64) (int, error)
	// Unfinished reports whether a rollout has a device that is not at its end.
	Unfinished(ctx context.Context, no int64) (bool, error)
	// Cancelling lists the numbers of the cancelled rollouts with devices that still wait.
	Cancelling(ctx context.Context) ([]int64, error)
	// FinishRollout finishes a rollout, only while it runs, the walk is where r says, and
	// no device is unfinished.
	FinishRollout(ctx context.Context, r Rollout, at time.Time) (changed bool, err error)
	// MovePlan notes how far the fleet was walked, only while walk and share are as r says.
	MovePlan(ctx context.Context, r Rollout, to int64) (changed bool, err error)
	// TakePace uses up the rate of a running rollout until a time, only while it was used
	// up until from.
	TakePace(ctx context.Context, no int64, from, to time.Time) (changed bool, err error)
	// Counts counts a rollout's devices by state.
	Counts(ctx context.Context, no int64) ([]Count, error)
	// Reasons counts them by state and reason where there is one, the most frequent first.
	Reasons(ctx context.Context, no int64, limit int) ([]Count, error)
}

// UpdateTx reads and writes how far devices are.
type UpdateTx interface {
	// Fleet lists devices in order of number, after the given one. A device that a newer
	// rollout than the given one is bringing a version to is Superseded.
	Fleet(ctx context.Context, rolloutNo, after int64, limit int) ([]Target, error)
	// Named reads one device as Fleet does; ErrDeviceNotFound.
	Named(ctx context.Context, rolloutNo int64, deviceID string) (Target, error)
	// InsertUpdate writes a device's row in a rollout; one that is there stays as it is.
	InsertUpdate(ctx context.Context, rolloutNo, deviceNo int64, state State, reason string, at time.Time) error
	// Supersede skips the devices numbered from first to last in older rollouts, where
	// they still wait, when they wait in this one.
	Supersede(ctx context.Context, rolloutNo, first, last int64, at time.Time) error
	// CancelUpdates cancels at most limit devices of a rollout that still wait; it returns
	// how many.
	CancelUpdates(ctx context.Context, rolloutNo int64, at time.Time, limit int) (int, error)

	// Update reads how far a device is in a rollout; ok is false when it is not in it.
	Update(ctx context.Context, rolloutNo, deviceNo int64) (u Update, ok bool, err error)
	// LiveUpdate reads a device's live update.
	LiveUpdate(ctx context.Context, deviceNo int64) (u Update, ok bool, err error)
	// LatestUpdate reads a device's update of the newest rollout in which it was neither
	// skipped nor cancelled.
	LatestUpdate(ctx context.Context, deviceNo int64) (u Update, ok bool, err error)
	// Updates lists the devices of a rollout in order of number, after the given one;
	// state "" is every state.
	Updates(ctx context.Context, rolloutNo int64, state State, after int64, limit int) ([]Update, error)
	// Waiting lists the devices of a rollout that wait for their turn, likewise.
	Waiting(ctx context.Context, rolloutNo, after int64, limit int) ([]Update, error)
	// Due lists live updates with something to settle: the device reports the version,
	// has restarted into another one after it had said that it succeeded, is disabled,
	// or its time has passed.
	Due(ctx context.Context, at time.Time, limit int) ([]Update, error)
	// Lost lists live updates of running rollouts whose device has come back to a node
	// without having heard, or having forgotten by a restart, what it was told.
	Lost(ctx context.Context, nodeID string, limit int) ([]Update, error)
	// Advance writes what changes in an update, only while state, attempt and sends are
	// what before says, and one that becomes live only while the device has no other.
	Advance(ctx context.Context, u, before Update) (changed bool, err error)
}
