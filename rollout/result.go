package rollout

import (
	"context"
	"time"

	"github.com/opticworks/devicecloud/registry"
)

// deviceActor is a device as the one who acts.
func deviceActor(deviceID string) registry.Actor {
	return registry.Actor{Kind: registry.ActorDevice, ID: deviceID, ClientType: "device"}
}

// succeed ends an update whose device reports the version.
func (s *Service) succeed(ctx context.Context, tx Tx, m *moves, u Update, now time.Time) error {
	before := u
	u.State, u.Reason, u.Progress, u.FinishedAt, u.DueAt = Succeeded, "", 100, now, time.Time{}
	changed, err := s.advance(ctx, tx, m, u, before, now)
	if err != nil || !changed {
		return err
	}
	if err := s.auditResult(ctx, tx, "ota_success", u, now, nil); err != nil {
		return err
	}
	if err := s.emit(ctx, tx, u, now); err != nil {
		return err
	}
	return s.count(ctx, tx, m, u, true, now)
}

// fail ends an attempt. A device whose signal was too weak waits and has not failed; one
// that may try again waits for that.
func (s *Service) fail(ctx context.Context, tx Tx, m *moves, u Update, reason string, now time.Time) error {
	before := u
	u.Reason, u.DueAt, u.SaidAt = reason, time.Time{}, time.Time{}
	over := u.Rollout.Status == Cancelled || u.Rollout.Status == Finished
	switch {
	case reason == reasonWeak && !over:
		u.State, u.NotBefore, u.Attempt, u.Sends = Waiting, now.Add(s.opts.Weak), u.Attempt-1, 0
		_, err := s.advance(ctx, tx, m, u, before, now)
		return err
	case u.Attempt < u.Rollout.MaxAttempts && !over:
		u.State, u.NotBefore, u.Sends = Waiting, now.Add(s.opts.Retry), 0
	default:
		u.State, u.FinishedAt = Failed, now
	}
	changed, err := s.advance(ctx, tx, m, u, before, now)
	if err != nil || !changed {
		return err
	}
	if err := s.auditResult(ctx, tx, "ota_failed", u, now, map[string]any{"error": reason, "final": u.State == Failed}); err != nil {
		return err
	}
	if u.State != Failed {
		return nil
	}
	if err := s.emit(ctx, tx, u, now); err != nil {
		return err
	}
	return s.count(ctx, tx, m, u, false, now)
}

// skip ends an update that was not to be; it is no result.
func (s *Service) skip(ctx context.Context, tx Tx, m *moves, u Update, reason string, now time.Time) error {
	before := u
	u.State, u.Reason, u.FinishedAt, u.DueAt = Skipped, reason, now, time.Time{}
	_, err := s.advance(ctx, tx, m, u, before, now)
	return err
}

func (s *Service) auditResult(ctx context.Context, tx Tx, event string, u Update, now time.Time, more map[string]any) error {
	data := map[string]any{
		"rollout_id": u.Rollout.ID, "version": u.Rollout.Release.Version, "from_version": u.FromVersion, "attempt": u.Attempt,
		"duration_ms": now.Sub(u.TriggeredAt).Milliseconds(), "node_id": s.opts.NodeID,
	}
	for key, value := range more {
		data[key] = value
	}
	return s.audit(ctx, tx, deviceActor(u.DeviceID), u.DeviceID, event, data)
}

// emit tells the outside of the end of an update. [contracts H]
func (s *Service) emit(ctx context.Context, tx Tx, u Update, now time.Time) error {
	data := map[string]any{
		"rollout_id": u.Rollout.ID, "version": u.Rollout.Release.Version, "from_version": u.FromVersion, "status": string(u.State), "attempt": u.Attempt,
	}
	if u.Reason != "" {
		data["error"] = u.Reason
	}
	return registry.Emit(ctx, tx, registry.OutboxEvent{ID: s.opts.NextID(), Type: registry.EventOTACompleted, DeviceID: u.DeviceID, At: now, Data: data})
}

// count adds a result to its rollout, and halts that when too many have failed: in the
// transaction of the result, so that no device is told on the strength of an older sum.
func (s *Service) count(ctx context.Context, tx Tx, m *moves, u Update, succeeded bool, now time.Time) error {
	r, err := tx.CountResult(ctx, u.Rollout.No, succeeded, now)
	if err != nil || r.Status != Running && r.Status != Paused || !r.tooManyFailed(0) {
		return err
	}
	live, err := tx.CountLive(ctx, r.No)
	if err != nil || !r.tooManyFailed(live) {
		return err
	}
	from := r.Status
	r.Status, r.UpdatedAt = Halted, now
	changed, err := tx.SetRollout(ctx, r, from)
	if err != nil || !changed {
		return err
	}
	m.halted = append(m.halted, r)
	return s.audit(ctx, tx, registry.System(), "", "rollout_halted", map[string]any{
		"rollout_id": r.ID, "version": r.Release.Version, "succeeded": r.Succeeded, "failed": r.Failed,
		"halt_percent": r.HaltPercent, "halt_after": r.HaltAfter,
	})
}

// tooManyFailed is the failure threshold: so many results, and so many of a hundred
// failures among them and the updates under way. Those count, because bad news is
// sooner: a failure is said in the middle of the download, and a success only after the
// restart, so that the first results of a good release are its failures.
func (r Rollout) tooManyFailed(live int) bool {
	failed := r.Failed - r.BaseFailed
	results := failed + r.Succeeded - r.BaseSucceeded
	return r.HaltPercent > 0 && results >= r.HaltAfter && failed*100 >= r.HaltPercent*(results+live)
}

// logHalts says in the log what was halted.
func (s *Service) logHalts(m *moves) {
	for _, r := range m.halted {
		s.log.Warn("a rollout was halted: too many updates have failed", "rollout_id", r.ID, "version", r.Release.Version,
			"succeeded", r.Succeeded, "failed", r.Failed)
	}
}
