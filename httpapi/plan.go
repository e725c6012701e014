package httpapi

import (
	"net/http"
	"time"

	"github.com/opticworks/devicecloud/dataplan"
)

// planBody is a plan as a buyer sees it.
type planBody struct {
	PlanID        string   `json:"plan_id"`
	Name          string   `json:"name"`
	Description   string   `json:"description"`
	Mode          string   `json:"mode"`     // payment, subscription
	Amount        int64    `json:"amount"`   // in the currency's smallest unit
	Currency      string   `json:"currency"` // ISO 4217, lower case
	Interval      *string  `json:"interval"` // of a subscription
	IntervalCount *int     `json:"interval_count"`
	Days          *int     `json:"days"`    // null: as the carrier says, or as long as it is paid
	DataMB        *int     `json:"data_mb"` // null: no limit
	Capabilities  []string `json:"capabilities"`
	HistoryDays   *int     `json:"history_days"` // null: no limit
}

// positive is null for what is not set.
func positive(n int) *int {
	if n <= 0 {
		return nil
	}
	return &n
}

func newPlanBody(p dataplan.Plan) planBody {
	caps := p.Capabilities
	if caps == nil {
		caps = []string{}
	}
	return planBody{
		p.ID, p.Name, p.Description, string(p.Mode), p.Amount, p.Currency, text(p.Interval), positive(p.IntervalCount),
		positive(p.Days), positive(p.DataMB), caps, positive(p.HistoryDays),
	}
}

// adminPlanBody is a plan as who sells it sees it.
type adminPlanBody struct {
	planBody
	CarrierPackage string    `json:"carrier_package"`
	FromFile       bool      `json:"from_file"`
	Retired        bool      `json:"retired"`
	CreatedAt      time.Time `json:"created_at"`
	UpdatedAt      time.Time `json:"updated_at"`
}

func newAdminPlanBody(p dataplan.StoredPlan) adminPlanBody {
	return adminPlanBody{newPlanBody(p.Plan), p.CarrierPackage, p.FromFile, p.Retired, p.CreatedAt.UTC(), p.UpdatedAt.UTC()}
}

type plansBody struct {
	Plans      []planBody `json:"plans"`
	NextCursor string     `json:"next_cursor"`
}

type adminPlansBody struct {
	Plans      []adminPlanBody `json:"plans"`
	NextCursor string          `json:"next_cursor"`
}

func planKey(p dataplan.StoredPlan) string { return p.ID }

func (a *api) listPlans(r *request) (answer, error) {
	q, err := r.params()
	if err != nil {
		return answer{}, err
	}
	after, limit, err := q.textPage(listPlans)
	if err != nil {
		return answer{}, err
	}
	rows, err := a.DataPlans.Plans(r.Context(), after, limit+1)
	if err != nil {
		return answer{}, err
	}
	rows, cursor := nextText(listPlans, rows, limit, planKey)
	return ok(plansBody{render(rows, func(p dataplan.StoredPlan) planBody { return newPlanBody(p.Plan) }), cursor})
}

func (a *api) adminListPlans(r *request) (answer, error) {
	q, err := r.params()
	if err != nil {
		return answer{}, err
	}
	after, limit, err := q.textPage(listPlans)
	if err != nil {
		return answer{}, err
	}
	rows, err := a.DataPlans.AllPlans(r.Context(), r.actor, after, limit+1)
	if err != nil {
		return answer{}, err
	}
	rows, cursor := nextText(listPlans, rows, limit, planKey)
	return ok(adminPlansBody{render(rows, newAdminPlanBody), cursor})
}

func (a *api) adminGetPlan(r *request) (answer, error) {
	id, err := r.id("plan_id", dataplan.ErrPlanNotFound)
	if err != nil {
		return answer{}, err
	}
	p, err := a.DataPlans.Plan(r.Context(), r.actor, id)
	if err != nil {
		return answer{}, err
	}
	return ok(newAdminPlanBody(p))
}

// planRequest is what an administrator sends; on a change, what is absent stays.
type planRequest struct {
	PlanID         *string   `json:"plan_id"`
	Name           *string   `json:"name"`
	Description    *string   `json:"description"`
	Mode           *string   `json:"mode"`
	Amount         *int64    `json:"amount"`
	Currency       *string   `json:"currency"`
	Interval       *string   `json:"interval"`
	IntervalCount  *int      `json:"interval_count"`
	Days           *int      `json:"days"`
	DataMB         *int      `json:"data_mb"`
	CarrierPackage *string   `json:"carrier_package"`
	Capabilities   *[]string `json:"capabilities"`
	HistoryDays    *int      `json:"history_days"`
	Retired        *bool     `json:"retired"`
}

// set writes a value that is there.
func set[T any](field *T, value *T) {
	if value != nil {
		*field = *value
	}
}

// apply edits a plan but for its id.
func (in *planRequest) apply(p *dataplan.StoredPlan) {
	mode := string(p.Mode)
	set(&mode, in.Mode)
	p.Mode = dataplan.Mode(mode)
	set(&p.Name, in.Name)
	set(&p.Description, in.Description)
	set(&p.Amount, in.Amount)
	set(&p.Currency, in.Currency)
	set(&p.Interval, in.Interval)
	set(&p.IntervalCount, in.IntervalCount)
	set(&p.Days, in.Days)
	set(&p.DataMB, in.DataMB)
	set(&p.CarrierPackage, in.CarrierPackage)
	set(&p.Capabilities, in.Capabilities)
	set(&p.HistoryDays, in.HistoryDays)
	set(&p.Retired, in.Retired)
}

func (a *api) createPlan(r *request) (answer, error) {
	var in planRequest
	if err := r.decode(&in, maxJSON); err != nil {
		return answer{}, err
	}
	var p dataplan.StoredPlan
	in.apply(&p)
	set(&p.ID, in.PlanID)
	made, err := a.DataPlans.CreatePlan(r.Context(), r.actor, p.Plan)
	if err != nil {
		return answer{}, err
	}
	return answer{http.StatusCreated, newAdminPlanBody(made)}, nil
}

func (a *api) changePlan(r *request) (answer, error) {
	var in planRequest
	if err := r.decode(&in, maxJSON); err != nil {
		return answer{}, err
	}
	id, err := r.id("plan_id", dataplan.ErrPlanNotFound)
	if err != nil {
		return answer{}, err
	}
	p, err := a.DataPlans.ChangePlan(r.Context(), r.actor, id, in.apply)
	if err != nil {
		return answer{}, err
	}
	return ok(newAdminPlanBody(p))
}

// retirePlan ends the sale of a plan; what was bought stays.
func (a *api) retirePlan(r *request) (answer, error) {
	id, err := r.id("plan_id", dataplan.ErrPlanNotFound)
	if err != nil {
		return answer{}, err
	}
	p, err := a.DataPlans.ChangePlan(r.Context(), r.actor, id, func(p *dataplan.StoredPlan) { p.Retired = true })
	if err != nil {
		return answer{}, err
	}
	return ok(newAdminPlanBody(p))
}
