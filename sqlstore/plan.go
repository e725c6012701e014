package sqlstore

import (
	"context"
	"encoding/json"

	"github.com/opticworks/devicecloud/dataplan"
)

const selectPlan = `SELECT terms, from_file, retired, created_at, updated_at FROM data_plans WHERE `

func (t *tx) plans(ctx context.Context, condition string, args ...any) ([]dataplan.StoredPlan, error) {
	return collect(ctx, t, selectPlan+condition, args, func(scan scanFunc, p *dataplan.StoredPlan) error {
		return scan(terms{&p.Plan}, &p.FromFile, &p.Retired, at(&p.CreatedAt), at(&p.UpdatedAt))
	})
}

// terms scans a plan.
type terms struct{ p *dataplan.Plan }

func (s terms) Scan(v any) error {
	var text string
	if err := opt(&text).Scan(v); err != nil {
		return err
	}
	return json.Unmarshal([]byte(text), s.p)
}

// Plan implements dataplan.PlanTx.
func (t *tx) Plan(ctx context.Context, planID string) (dataplan.StoredPlan, error) {
	list, err := t.plans(ctx, `plan_id = $1`, planID)
	if err == nil && len(list) == 0 {
		err = dataplan.ErrPlanNotFound
	}
	if err != nil {
		return dataplan.StoredPlan{}, err
	}
	return list[0], nil
}

// Plans implements dataplan.PlanTx.
func (t *tx) Plans(ctx context.Context, retired bool, after string, limit int) ([]dataplan.StoredPlan, error) {
	return t.plans(ctx, `plan_id > $1 AND ($2 OR NOT retired) ORDER BY plan_id LIMIT CAST($3 AS BIGINT)`, after, retired, capped(limit))
}

// InsertPlan implements dataplan.PlanTx.
func (t *tx) InsertPlan(ctx context.Context, p dataplan.StoredPlan) (bool, error) {
	text, err := json.Marshal(p.Plan)
	if err != nil {
		return false, err
	}
	return t.changes(ctx, `INSERT INTO data_plans (plan_id, terms, from_file, retired, created_at, updated_at)
		VALUES ($1, $2, $3, $4, $5, $6) ON CONFLICT (plan_id) DO NOTHING`,
		p.ID, string(text), p.FromFile, p.Retired, micros(p.CreatedAt), micros(p.UpdatedAt))
}

// UpdatePlan implements dataplan.PlanTx.
func (t *tx) UpdatePlan(ctx context.Context, p dataplan.StoredPlan) (bool, error) {
	text, err := json.Marshal(p.Plan)
	if err != nil {
		return false, err
	}
	return t.changes(ctx, `UPDATE data_plans SET terms = $3, retired = $4, updated_at = $5 WHERE plan_id = $1 AND from_file = $2`,
		p.ID, p.FromFile, string(text), p.Retired, micros(p.UpdatedAt))
}
