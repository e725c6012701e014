package httpapi

import (
	"context"
	"net/http"
	"time"

	"github.com/opticworks/devicecloud/account"
	"github.com/opticworks/devicecloud/registry"
	"github.com/opticworks/devicecloud/rollout"
)

// otaBody is how far a device is with an update.
type otaBody struct {
	RolloutID string    `json:"rollout_id"`
	Version   string    `json:"version"` // of the new firmware
	State     string    `json:"state"`
	Reason    *string   `json:"reason"`   // why it waits, was skipped or has failed
	Progress  int       `json:"progress"` // percent
	Attempt   int       `json:"attempt"`  // 0: it has not been told yet
	UpdatedAt time.Time `json:"updated_at"`
}

func newOTABody(p registry.OTAProgress) otaBody {
	return otaBody{p.RolloutID, p.Version, p.State, text(p.Reason), p.Progress, p.Attempt, p.UpdatedAt.UTC()}
}

// otaEvent is ota.progress of a stream.
type otaEvent struct {
	eventHead
	otaBody
}

// deviceOTA is how far a device is with its latest update; nil when there was none.
func (a *api) deviceOTA(r *request, deviceID string) (*otaBody, error) {
	p, err := a.Rollouts.DeviceProgress(r.Context(), r.actor, deviceID)
	if err != nil || p == nil {
		return nil, err
	}
	body := newOTABody(*p)
	return &body, nil
}

// settingsBody is how a rollout goes; absent fields of a request keep their value.
type settingsBody struct {
	Percent       *int `json:"percent"`
	RatePerMinute *int `json:"rate_per_minute"`
	MaxAttempts   *int `json:"max_attempts"`
	TimeoutSec    *int `json:"timeout_sec"`
	HaltPercent   *int `json:"halt_percent"` // 0: never
	HaltAfter     *int `json:"halt_after"`   // results
}

func (b settingsBody) lay(s *rollout.Settings) {
	for _, f := range []struct{ to, from *int }{
		{&s.Percent, b.Percent}, {&s.RatePerMinute, b.RatePerMinute}, {&s.MaxAttempts, b.MaxAttempts}, {&s.HaltPercent, b.HaltPercent}, {&s.HaltAfter, b.HaltAfter},
	} {
		if f.from != nil {
			*f.to = *f.from
		}
	}
	if b.TimeoutSec != nil {
		const more = 1 << 30 // than is allowed, and less than a Duration holds
		s.Timeout = time.Duration(max(-1, min(*b.TimeoutSec, more))) * time.Second
	}
}

type cohortBody struct {
	Versions []string `json:"versions"`
	Hardware []string `json:"hardware"`
}

// rolloutBody is a rollout in a list.
type rolloutBody struct {
	RolloutID     string     `json:"rollout_id"`
	ReleaseID     string     `json:"release_id"`
	Version       string     `json:"version"`
	Status        string     `json:"status"` // running, paused, halted, cancelled, finished
	Percent       int        `json:"percent"`
	Cohort        cohortBody `json:"cohort"`
	Listed        bool       `json:"listed"` // its devices were named
	RatePerMinute int        `json:"rate_per_minute"`
	MaxAttempts   int        `json:"max_attempts"`
	TimeoutSec    int        `json:"timeout_sec"`
	HaltPercent   int        `json:"halt_percent"`
	HaltAfter     int        `json:"halt_after"`
	Succeeded     int        `json:"succeeded"` // results
	Failed        int        `json:"failed"`
	CreatedBy     string     `json:"created_by"`
	CreatedAt     time.Time  `json:"created_at"`
	UpdatedAt     time.Time  `json:"updated_at"`
	FinishedAt    *time.Time `json:"finished_at"`
}

// rolloutDetailBody is one rollout, with where its devices are.
type rolloutDetailBody struct {
	rolloutBody
	Devices map[string]int `json:"devices"` // by state
	Total   int            `json:"total"`
	Reasons []reasonBody   `json:"reasons"`
}

type reasonBody struct {
	State  string `json:"state"`
	Reason string `json:"reason"`
	Count  int    `json:"count"`
}

func newRolloutBody(r rollout.Rollout) rolloutBody {
	return rolloutBody{
		r.ID, r.Release.ID, r.Release.Version, string(r.Status), r.Percent,
		cohortBody{list0(r.Cohort.Versions), list0(r.Cohort.Hardware)},
		r.Listed,
		r.RatePerMinute, r.MaxAttempts, int(r.Timeout / time.Second), r.HaltPercent, r.HaltAfter, r.Succeeded, r.Failed,
		r.CreatedBy, r.CreatedAt.UTC(), r.UpdatedAt.UTC(), stamp(r.FinishedAt),
	}
}

func (a *api) listRollouts(r *request) (answer, error) {
	q, err := r.params()
	if err != nil {
		return answer{}, err
	}
	status := rollout.Status(q.Get("status"))
	if status != "" && !status.Valid() {
		return answer{}, invalid("status must be running, paused, halted, cancelled or finished.")
	}
	before, limit, err := q.page(listRollouts)
	if err != nil {
		return answer{}, err
	}
	rows, err := a.Rollouts.Rollouts(r.Context(), r.actor, status, before, limit+1)
	if err != nil {
		return answer{}, err
	}
	rows, cursor := next(listRollouts, rows, limit, func(r rollout.Rollout) int64 { return r.No })
	return ok(struct {
		Rollouts   []rolloutBody `json:"rollouts"`
		NextCursor string        `json:"next_cursor"`
	}{render(rows, newRolloutBody), cursor})
}

func (a *api) createRollout(r *request) (answer, error) {
	var in struct {
		ReleaseID string `json:"release_id"`
		settingsBody
		Cohort  cohortBody `json:"cohort"`
		Devices []string   `json:"devices"`
		Paused  bool       `json:"paused"`
	}
	if err := r.decode(&in, maxJSON); err != nil {
		return answer{}, err
	}
	if in.ReleaseID == "" {
		return answer{}, account.ErrMissingFields
	}
	d := rollout.Draft{
		ReleaseID: in.ReleaseID, Settings: rollout.DefaultSettings(), Cohort: rollout.Cohort{Versions: in.Cohort.Versions, Hardware: in.Cohort.Hardware},
		Devices: in.Devices, Paused: in.Paused,
	}
	if in.Devices != nil && len(in.Devices) == 0 {
		return answer{}, invalid("devices must name at least one device, or be absent.")
	}
	in.lay(&d.Settings)
	created, err := a.Rollouts.CreateRollout(r.Context(), r.actor, d)
	if err != nil {
		return answer{}, err
	}
	return answer{http.StatusCreated, newRolloutBody(created)}, nil
}

func (a *api) getRollout(r *request) (answer, error) {
	id, err := r.id("id", rollout.ErrRolloutNotFound)
	if err != nil {
		return answer{}, err
	}
	ro, census, err := a.Rollouts.Rollout(r.Context(), r.actor, id)
	if err != nil {
		return answer{}, err
	}
	body := rolloutDetailBody{rolloutBody: newRolloutBody(ro), Devices: map[string]int{}, Reasons: render(census.Reasons, func(c rollout.Count) reasonBody {
		return reasonBody{string(c.State), c.Reason, c.N}
	})}
	for _, c := range census.States {
		body.Devices[string(c.State)] = c.N
		body.Total += c.N
	}
	return ok(body)
}

func (a *api) changeRollout(r *request) (answer, error) {
	id, err := r.id("id", rollout.ErrRolloutNotFound)
	if err != nil {
		return answer{}, err
	}
	var in settingsBody
	if err := r.decode(&in, maxJSON); err != nil {
		return answer{}, err
	}
	if in == (settingsBody{}) {
		return answer{}, account.ErrMissingFields
	}
	ro, err := a.Rollouts.SetSettings(r.Context(), r.actor, id, in.lay)
	if err != nil {
		return answer{}, err
	}
	return ok(newRolloutBody(ro))
}

func (a *api) pauseRollout(r *request) (answer, error)  { return steerRollout(r, a.Rollouts.Pause) }
func (a *api) resumeRollout(r *request) (answer, error) { return steerRollout(r, a.Rollouts.Resume) }

func (a *api) cancelRollout(r *request) (answer, error) { return steerRollout(r, a.Rollouts.Cancel) }

func steerRollout(r *request, steer func(context.Context, registry.Actor, string) (rollout.Rollout, error)) (answer, error) {
	id, err := r.id("id", rollout.ErrRolloutNotFound)
	if err != nil {
		return answer{}, err
	}
	ro, err := steer(r.Context(), r.actor, id)
	if err != nil {
		return answer{}, err
	}
	return ok(newRolloutBody(ro))
}

// updateBody is a device of a rollout.
type updateBody struct {
	DeviceID        string     `json:"device_id"`
	Online          bool       `json:"online"`
	FirmwareVersion *string    `json:"firmware_version"` // that it runs
	FromVersion     *string    `json:"from_version"`     // that it ran before
	State           string     `json:"state"`
	Reason          *string    `json:"reason"`
	Progress        int        `json:"progress"`
	Attempt         int        `json:"attempt"`
	NotBefore       *time.Time `json:"not_before"` // of one that waits
	TriggeredAt     *time.Time `json:"triggered_at"`
	FinishedAt      *time.Time `json:"finished_at"`
	UpdatedAt       time.Time  `json:"updated_at"`
}

func newUpdateBody(u rollout.Update) updateBody {
	return updateBody{
		u.DeviceID, u.Presence.Status == registry.Online, text(u.Firmware), text(u.FromVersion), string(u.State), text(u.Reason), u.Progress, u.Attempt,
		stamp(u.NotBefore), stamp(u.TriggeredAt), stamp(u.FinishedAt), u.UpdatedAt.UTC(),
	}
}

func (a *api) listUpdates(r *request) (answer, error) {
	id, err := r.id("id", rollout.ErrRolloutNotFound)
	if err != nil {
		return answer{}, err
	}
	q, err := r.params()
	if err != nil {
		return answer{}, err
	}
	state := rollout.State(q.Get("state"))
	if state != "" && !state.Valid() {
		return answer{}, invalid("state is not one that a device of a rollout can be in.")
	}
	after, limit, err := q.page(listUpdates)
	if err != nil {
		return answer{}, err
	}
	rows, err := a.Rollouts.Updates(r.Context(), r.actor, id, state, after, limit+1)
	if err != nil {
		return answer{}, err
	}
	rows, cursor := next(listUpdates, rows, limit, func(u rollout.Update) int64 { return u.DeviceNo })
	return ok(struct {
		Devices    []updateBody `json:"devices"`
		NextCursor string       `json:"next_cursor"`
	}{render(rows, newUpdateBody), cursor})
}
