package dataplan

import (
	"context"
	"time"

	"github.com/opticworks/devicecloud/registry"
)

// Mode is how a plan is paid.
type Mode string

// The modes, as the payment provider names them.
const (
	ModePayment      Mode = "payment" // once
	ModeSubscription Mode = "subscription"
)

// Plan is what is sold. A purchase keeps a copy of the plan as it was, so that a change
// touches nothing that is bought.
type Plan struct {
	ID             string   `json:"id"`   // 1-64 of a-z, 0-9, - and _
	Name           string   `json:"name"` // 1-64 characters
	Description    string   `json:"description,omitempty"`
	Mode           Mode     `json:"mode"`
	Amount         int64    `json:"amount"`                   // in the currency's smallest unit
	Currency       string   `json:"currency"`                 // ISO 4217, lower case
	Interval       string   `json:"interval,omitempty"`       // of a subscription: day, week, month, year
	IntervalCount  int      `json:"interval_count,omitempty"` // default 1
	Days           int      `json:"days,omitempty"`           // how long a single payment lasts; 0: as the carrier says
	DataMB         int      `json:"data_mb,omitempty"`        // 0: no limit
	CarrierPackage string   `json:"carrier_package"`          // what the carrier calls the package
	Capabilities   []string `json:"capabilities,omitempty"`   // services that it entitles the device to
	HistoryDays    int      `json:"history_days,omitempty"`   // how far back recordings may be played; 0: no limit
}

// StoredPlan is a plan as the table has it.
type StoredPlan struct {
	Plan
	FromFile  bool // of the plans file: only the file changes it
	Retired   bool // not sold any more
	CreatedAt time.Time
	UpdatedAt time.Time
}

// PlanTx reads and writes plans.
type PlanTx interface {
	// Plan reads a plan, retired or not; ErrPlanNotFound.
	Plan(ctx context.Context, planID string) (StoredPlan, error)
	// Plans lists plans in order of id, after the given id; retired ones only if asked.
	Plans(ctx context.Context, retired bool, after string, limit int) ([]StoredPlan, error)
	// InsertPlan writes a plan; created is false when the id is taken.
	InsertPlan(ctx context.Context, p StoredPlan) (created bool, err error)
	// UpdatePlan writes a plan over the one with its id; changed is false when there is
	// none, or it is of the other origin.
	UpdatePlan(ctx context.Context, p StoredPlan) (changed bool, err error)
}

// ErrPlanNotFound says that no such plan is sold.
var ErrPlanNotFound = registry.E(registry.NotFound, "plan_not_found", "There is no such plan.")
