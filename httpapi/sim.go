package httpapi

import (
	"errors"
	"io"
	"net/http"
	"strconv"
	"time"

	"github.com/gorilla/mux"
	"github.com/opticworks/devicecloud/account"
	"github.com/opticworks/devicecloud/dataplan"
	"github.com/opticworks/devicecloud/registry"
)

// simBody is a SIM card. Its numbers are masked, but for a token with the scope
// admin:sim. [contracts E.4]
type simBody struct {
	ICCID        string     `json:"iccid"`
	EID          *string    `json:"eid"`
	IMSI         *string    `json:"imsi"`
	MSISDN       *string    `json:"msisdn"`
	DeviceID     *string    `json:"device_id"`
	Status       string     `json:"status"` // inactive, active, suspended, exhausted, expired, retired
	StatusAt     time.Time  `json:"status_at"`
	UsageMB      *int64     `json:"usage_mb"` // of the running package
	TotalMB      *int64     `json:"total_mb"`
	UsageAt      *time.Time `json:"usage_at"`
	Plan         *string    `json:"plan"`
	PlanEndsAt   *time.Time `json:"plan_ends_at"`
	Alert        *string    `json:"alert"` // data_low, percent_low, days_low, other
	AlertLeft    *string    `json:"alert_left"`
	AlertAt      *time.Time `json:"alert_at"`
	Connectivity *connBody  `json:"connectivity"`
}

// adminSIMBody is a SIM card as who manages them sees it.
type adminSIMBody struct {
	SIMID string `json:"sim_id"`
	simBody
	RefreshedAt *time.Time `json:"refreshed_at"`
	CreatedAt   time.Time  `json:"created_at"`
}

// connBody is why a device carries no data over its SIM card.
type connBody struct {
	Kind   string     `json:"kind"`   // sim
	Status string     `json:"status"` // plan_ended, out_of_data, suspended, not_activated, retired
	Since  *time.Time `json:"since"`
}

func newConnBody(c dataplan.Connectivity, ok bool) *connBody {
	if !ok {
		return nil
	}
	return &connBody{"sim", string(c.Reason), stamp(c.Since)}
}

func newSIMBody(s dataplan.SIM, full bool, now time.Time) simBody {
	shown := func(n dataplan.Number) *string {
		if full {
			return text(n.Reveal())
		}
		return text(n.Masked())
	}
	b := simBody{
		ICCID: s.ICCID.Masked(), EID: shown(s.EID), IMSI: shown(s.IMSI), MSISDN: shown(s.MSISDN), DeviceID: text(s.DeviceID),
		Status: string(s.Status), StatusAt: s.StatusAt.UTC(), UsageAt: stamp(s.UsageAt), Plan: text(s.Plan), PlanEndsAt: stamp(s.PlanEndsAt),
		AlertLeft: text(s.AlertValue), AlertAt: stamp(s.AlertAt), Connectivity: newConnBody(s.Blocked(now)),
	}
	if full {
		b.ICCID = string(s.ICCID)
	}
	if s.UsedMB >= 0 {
		b.UsageMB = &s.UsedMB
	}
	if s.TotalMB > 0 {
		b.TotalMB = &s.TotalMB
	}
	if s.AlertType != 0 {
		b.Alert = text(s.AlertType.String())
	}
	return b
}

// adminSIMs renders the SIMs of an answer for who asks.
func (a *api) adminSIMs(r *request, sims ...dataplan.SIM) ([]adminSIMBody, error) {
	full, err := a.DataPlans.ShowsNumbers(r.Context(), r.actor, sims...)
	return render(sims, func(s dataplan.SIM) adminSIMBody {
		return adminSIMBody{number(s.ID), newSIMBody(s, full, a.opts.Now()), stamp(s.RefreshedAt), s.CreatedAt.UTC()}
	}), err
}

func (a *api) deviceSIM(r *request) (answer, error) {
	id, err := r.deviceID()
	if err != nil {
		return answer{}, err
	}
	s, err := a.DataPlans.DeviceSIM(r.Context(), r.actor, id)
	if err != nil {
		return answer{}, err
	}
	return ok(newSIMBody(s, false, a.opts.Now()))
}

// connectivity is what a device's SIM has to do with its not being online; nil when it is,
// or nothing is known against the SIM. Presence stays what it is.
func (a *api) connectivity(r *request, d registry.Device) (*connBody, error) {
	if d.Presence.Status == registry.Online {
		return nil, nil
	}
	c, known, err := a.DataPlans.Connectivity(r.Context(), d.ID)
	return newConnBody(c, known), err
}

func (a *api) listSIMs(r *request) (answer, error) {
	q, err := r.params()
	if err != nil {
		return answer{}, err
	}
	var f dataplan.SIMFilter
	var status, assigned string
	for _, p := range []struct {
		name string
		to   *string
	}{{"q", &f.Query}, {"status", &status}, {"device_id", &f.DeviceID}, {"assigned", &assigned}} {
		if *p.to, err = q.text(p.name); err != nil {
			return answer{}, err
		}
	}
	if f.Status = dataplan.SIMStatus(status); status != "" && !f.Status.Valid() {
		return answer{}, invalid("status must be inactive, active, suspended, exhausted, expired or retired.")
	}
	if assigned != "" {
		yes, err := q.flag("assigned")
		if err != nil {
			return answer{}, err
		}
		f.Assigned = &yes
	}
	var limit int
	if f.Before, limit, err = q.page(listSIMs); err != nil {
		return answer{}, err
	}
	f.Limit = limit + 1
	rows, err := a.DataPlans.SIMs(r.Context(), r.actor, f)
	if err != nil {
		return answer{}, err
	}
	rows, cursor := next(listSIMs, rows, limit, func(s dataplan.SIM) int64 { return s.ID })
	sims, err := a.adminSIMs(r, rows...)
	if err != nil {
		return answer{}, err
	}
	return ok(struct {
		SIMs       []adminSIMBody `json:"sims"`
		NextCursor string         `json:"next_cursor"`
	}{sims, cursor})
}

// simLine is what became of a line of an import.
type simLine struct {
	importLine
	ICCID string `json:"iccid,omitempty"` // masked
}

func newSIMLine(l registry.ImportLine) simLine { return simLine{newImportLine(l, "exists"), l.ID} }

func (a *api) importSIMs(r *request) (answer, error) {
	return importCSV(r, a.DataPlans.ImportSIMs, newSIMLine)
}

// simID is the SIM in the path. What cannot be one is answered as an absent one.
func (r *request) simID() (int64, error) {
	id, err := strconv.ParseInt(mux.Vars(r.Request)["sim_id"], 10, 64)
	if err != nil || id <= 0 {
		return 0, dataplan.ErrSIMNotFound
	}
	return id, nil
}

// oneSIM answers with a SIM that was read or changed.
func (a *api) oneSIM(r *request, do func(simID int64) (dataplan.SIM, error)) (answer, error) {
	id, err := r.simID()
	if err != nil && r.actor.Kind == registry.ActorService && !r.actor.Has(dataplan.ScopeSIM) {
		err = registry.ErrInsufficientScope
	}
	if err != nil {
		return answer{}, err
	}
	s, err := do(id)
	if err != nil {
		return answer{}, err
	}
	sims, err := a.adminSIMs(r, s)
	if err != nil {
		return answer{}, err
	}
	return ok(sims[0])
}

func (a *api) getSIM(r *request) (answer, error) {
	return a.oneSIM(r, func(id int64) (dataplan.SIM, error) { return a.DataPlans.SIM(r.Context(), r.actor, id) })
}

func (a *api) assignSIM(r *request) (answer, error) {
	var in struct {
		DeviceID string `json:"device_id"`
	}
	if err := r.decode(&in, maxJSON); err != nil {
		return answer{}, err
	}
	if in.DeviceID == "" {
		return answer{}, account.ErrMissingFields
	}
	return a.oneSIM(r, func(id int64) (dataplan.SIM, error) {
		return a.DataPlans.AssignSIM(r.Context(), r.actor, id, in.DeviceID)
	})
}

func (a *api) unassignSIM(r *request) (answer, error) {
	return a.oneSIM(r, func(id int64) (dataplan.SIM, error) { return a.DataPlans.UnassignSIM(r.Context(), r.actor, id) })
}

func (a *api) refreshSIM(r *request) (answer, error) {
	return a.oneSIM(r, func(id int64) (dataplan.SIM, error) { return a.DataPlans.RefreshSIM(r.Context(), r.actor, id) })
}

// noticeBody is what the carrier gets. [contracts E.3]
type noticeBody struct {
	Code    int    `json:"code"`
	Message string `json:"message"`
}

func (a *api) carrierWebhook(r *request) (answer, error) {
	// Of whatever media type: the signature says what it is.
	body, err := io.ReadAll(http.MaxBytesReader(r.w, r.Body, maxJSON))
	var tooLarge *http.MaxBytesError
	switch {
	case errors.As(err, &tooLarge):
		return answer{}, errTooLarge
	case err != nil:
		return answer{}, errCut
	}
	duplicate, err := a.DataPlans.TakeNotice(r.Context(), r.actor, exchangeOf(r.Request).address, body)
	switch {
	case err != nil:
		return answer{}, notConfigured(retriable(err)) // [contracts E.3]: 500, and it comes again
	case duplicate:
		return ok(noticeBody{http.StatusOK, "duplicate"})
	}
	return ok(noticeBody{http.StatusOK, "success"})
}

// simEvent is the data of sim.alert.
type simEvent struct {
	eventHead
	Alert  string  `json:"alert"` // data_low, percent_low, days_low, stopped, other
	Left   *string `json:"left"`
	ICCID  string  `json:"iccid"` // masked
	Status string  `json:"status"`
}
