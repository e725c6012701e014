package httpapi

import (
	"net/http"
	"time"

	"github.com/opticworks/devicecloud/account"
	"github.com/opticworks/devicecloud/rollout"
)

// releaseBody is firmware that devices may be updated to.
type releaseBody struct {
	ReleaseID   string     `json:"release_id"`
	Version     string     `json:"version"`
	Hardware    []string   `json:"hardware"` // what it is for; none: any
	URL         string     `json:"url"`      // without its query
	SHA256      string     `json:"sha256"`
	MinRSSI     *int64     `json:"min_rssi"`
	Notes       string     `json:"notes"`
	WithdrawnAt *time.Time `json:"withdrawn_at"`
	CreatedBy   string     `json:"created_by"`
	CreatedAt   time.Time  `json:"created_at"`
}

func newReleaseBody(r rollout.Release) releaseBody {
	return releaseBody{
		r.ID, r.Version, list0(r.Hardware), r.Shown(), r.SHA256, r.MinRSSI, r.Notes, stamp(r.WithdrawnAt), r.CreatedBy, r.CreatedAt.UTC(),
	}
}

// list0 is a list that is never null.
func list0(list []string) []string {
	if list == nil {
		return []string{}
	}
	return list
}

func (a *api) listReleases(r *request) (answer, error) {
	q, err := r.params()
	if err != nil {
		return answer{}, err
	}
	before, limit, err := q.page(listReleases)
	if err != nil {
		return answer{}, err
	}
	rows, err := a.Rollouts.Releases(r.Context(), r.actor, before, limit+1)
	if err != nil {
		return answer{}, err
	}
	rows, cursor := next(listReleases, rows, limit, func(r rollout.Release) int64 { return r.No })
	return ok(struct {
		Releases   []releaseBody `json:"releases"`
		NextCursor string        `json:"next_cursor"`
	}{render(rows, newReleaseBody), cursor})
}

func (a *api) createRelease(r *request) (answer, error) {
	var in struct {
		Version  string   `json:"version"`
		Hardware []string `json:"hardware"`
		URL      string   `json:"url"`
		SHA256   string   `json:"sha256"`
		MinRSSI  *int64   `json:"min_rssi"`
		Notes    string   `json:"notes"`
	}
	if err := r.decode(&in, maxJSON); err != nil {
		return answer{}, err
	}
	if in.Version == "" || in.URL == "" || in.SHA256 == "" {
		return answer{}, account.ErrMissingFields
	}
	rel, err := a.Rollouts.CreateRelease(r.Context(), r.actor, rollout.Release{
		Version: in.Version, Hardware: in.Hardware, URL: in.URL, SHA256: in.SHA256, MinRSSI: in.MinRSSI, Notes: in.Notes,
	})
	if err != nil {
		return answer{}, err
	}
	return answer{http.StatusCreated, newReleaseBody(rel)}, nil
}

func (a *api) getRelease(r *request) (answer, error) {
	id, err := r.id("id", rollout.ErrReleaseNotFound)
	if err != nil {
		return answer{}, err
	}
	rel, err := a.Rollouts.Release(r.Context(), r.actor, id)
	if err != nil {
		return answer{}, err
	}
	return ok(newReleaseBody(rel))
}

// withdrawRelease keeps a release from being rolled out again; it stays to be read.
func (a *api) withdrawRelease(r *request) (answer, error) {
	id, err := r.id("id", rollout.ErrReleaseNotFound)
	if err != nil {
		return answer{}, err
	}
	rel, err := a.Rollouts.WithdrawRelease(r.Context(), r.actor, id)
	if err != nil {
		return answer{}, err
	}
	return ok(newReleaseBody(rel))
}
