package dataplan

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"regexp"
	"slices"
	"strings"
	"time"
	"unicode"
	"unicode/utf8"

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

var (
	planID   = regexp.MustCompile(`^[a-z0-9][a-z0-9_-]{0,63}$`)
	currency = regexp.MustCompile(`^[a-z]{3}$`)
	carrier  = regexp.MustCompile(`^[A-Za-z0-9_.-]{1,64}$`)
)

const (
	// maxAmount is the provider's own bound, in the currency's smallest unit.
	maxAmount = 99_999_999
	// maxPlans bounds a plans file.
	maxPlans = 500
)

// check says what is wrong with a plan, as the end of a sentence; "" when nothing is.
func (p *Plan) check() string {
	text := func(s string, least, most int) bool {
		n := utf8.RuneCountInString(s)
		return utf8.ValidString(s) && n >= least && n <= most && strings.IndexFunc(s, func(r rune) bool { return !unicode.IsPrint(r) }) < 0
	}
	switch {
	case !planID.MatchString(p.ID):
		return "id must be 1 to 64 of a-z, 0-9, - and _, and begin with a letter or digit."
	case !text(p.Name, 1, 64):
		return "name must have 1 to 64 printable characters."
	case !text(p.Description, 0, 500):
		return "description must have at most 500 printable characters."
	case p.Mode != ModePayment && p.Mode != ModeSubscription:
		return "mode must be payment or subscription."
	case p.Amount < 1 || p.Amount > maxAmount:
		return "amount must be 1 to 99999999, in the currency's smallest unit."
	case !currency.MatchString(p.Currency):
		return "currency must be a code of three lower-case letters."
	case p.Mode == ModeSubscription && !slices.Contains([]string{"day", "week", "month", "year"}, p.Interval):
		return "interval of a subscription must be day, week, month or year."
	case p.Mode == ModePayment && (p.Interval != "" || p.IntervalCount != 0):
		return "interval and interval_count are of subscriptions only."
	case p.Mode == ModeSubscription && (p.IntervalCount < 1 || p.IntervalCount > 12):
		return "interval_count must be 1 to 12."
	case p.Days < 0 || p.Days > 3650:
		return "days must be 0 to 3650."
	case p.Mode == ModeSubscription && p.Days != 0:
		return "days is of single payments only: a subscription lasts as long as it is paid."
	case p.DataMB < 0 || p.DataMB > 1<<30:
		return "data_mb must be 0 to 1073741824."
	case !carrier.MatchString(p.CarrierPackage):
		return "carrier_package must be 1 to 64 of letters, digits, _, . and -."
	case p.HistoryDays < 0 || p.HistoryDays > 3650:
		return "history_days must be 0 to 3650."
	}
	for i, name := range p.Capabilities {
		c, ok := registry.ParseCapability(name)
		if !ok || !slices.Contains(registry.Services(), c) || slices.Contains(p.Capabilities[:i], name) {
			return "capabilities must be among live_view, cloud_playback, clip_download and ai_summary, each once."
		}
	}
	return ""
}

// defaults fills in what may be left out.
func (p *Plan) defaults() {
	if p.Mode == "" {
		p.Mode = ModePayment
	}
	if p.Mode == ModeSubscription && p.IntervalCount == 0 {
		p.IntervalCount = 1
	}
}

// ParsePlans reads a plans file: a JSON object {"plans":[...]} of at most 500 plans, each
// as [Plan] says. An unknown name is an error: a slip in a price list costs money.
func ParsePlans(text []byte) ([]Plan, error) {
	var file struct {
		Plans []Plan `json:"plans"`
	}
	d := json.NewDecoder(bytes.NewReader(text))
	d.DisallowUnknownFields()
	if err := d.Decode(&file); err != nil {
		return nil, fmt.Errorf("not a list of plans: %w", err)
	}
	if d.More() {
		return nil, errors.New("not a list of plans: something follows the object")
	}
	if len(file.Plans) > maxPlans {
		return nil, fmt.Errorf("more than %d plans", maxPlans)
	}
	seen := map[string]bool{}
	for i := range file.Plans {
		p := &file.Plans[i]
		p.defaults()
		if why := p.check(); why != "" {
			return nil, fmt.Errorf("plan %d (%.64q): %s", i+1, p.ID, why)
		}
		if seen[p.ID] {
			return nil, fmt.Errorf("plan %d: the id %q is there twice", i+1, p.ID)
		}
		seen[p.ID] = true
	}
	return file.Plans, nil
}

// LoadPlans makes the table follow the plans file, at start: new ones are added, changed
// ones changed, and what is not in the file any more is retired. A plan that an
// administrator made under an id of the file is an error.
func (s *Service) LoadPlans(ctx context.Context, plans []Plan) error {
	return s.store.InTx(ctx, func(tx Tx) error {
		now := s.now()
		all, err := tx.Plans(ctx, true, "", 0)
		if err != nil {
			return err
		}
		want := map[string]Plan{}
		for _, p := range plans {
			want[p.ID] = p
		}
		for _, old := range all {
			p, in := want[old.ID]
			delete(want, old.ID)
			switch {
			case in && !old.FromFile:
				return fmt.Errorf("the plan %q of the plans file exists already, made by an administrator", old.ID)
			case !old.FromFile, !in && old.Retired, in && !old.Retired && same(old.Plan, p):
				continue
			}
			next := StoredPlan{Plan: p, FromFile: true, Retired: !in, UpdatedAt: now}
			if !in {
				next.Plan = old.Plan
			}
			if _, err := tx.UpdatePlan(ctx, next); err != nil {
				return err
			}
			if err := s.auditPlan(ctx, tx, registry.System(), "plan_changed", next); err != nil {
				return err
			}
		}
		for _, p := range plans {
			if _, missing := want[p.ID]; !missing {
				continue
			}
			next := StoredPlan{Plan: p, FromFile: true, CreatedAt: now, UpdatedAt: now}
			if _, err := tx.InsertPlan(ctx, next); err != nil {
				return err
			}
			if err := s.auditPlan(ctx, tx, registry.System(), "plan_created", next); err != nil {
				return err
			}
		}
		return nil
	})
}

func same(a, b Plan) bool {
	if !slices.Equal(a.Capabilities, b.Capabilities) {
		return false
	}
	a.Capabilities, b.Capabilities = nil, nil
	x, _ := json.Marshal(a)
	y, _ := json.Marshal(b)
	return bytes.Equal(x, y)
}

func (s *Service) auditPlan(ctx context.Context, tx Tx, a registry.Actor, event string, p StoredPlan) error {
	return s.audit(ctx, tx, a, "", event, map[string]any{
		"plan_id": p.ID, "amount": p.Amount, "currency": p.Currency, "mode": p.Mode, "retired": p.Retired,
	})
}

// Plans lists what is sold, in order of id, after the given id.
func (s *Service) Plans(ctx context.Context, after string, limit int) ([]StoredPlan, error) {
	return s.plans(ctx, false, after, limit)
}

// AllPlans is Plans with the retired ones, for administrators.
func (s *Service) AllPlans(ctx context.Context, a registry.Actor, after string, limit int) ([]StoredPlan, error) {
	if err := manager(a); err != nil {
		return nil, err
	}
	return s.plans(ctx, true, after, limit)
}

func (s *Service) plans(ctx context.Context, retired bool, after string, limit int) (list []StoredPlan, err error) {
	err = s.store.View(ctx, func(tx Tx) (err error) {
		list, err = tx.Plans(ctx, retired, after, limit)
		return err
	})
	return list, err
}

// Plan reads any plan, for administrators; ErrPlanNotFound.
func (s *Service) Plan(ctx context.Context, a registry.Actor, planID string) (p StoredPlan, err error) {
	if err := manager(a); err != nil {
		return p, err
	}
	err = s.store.View(ctx, func(tx Tx) (err error) {
		p, err = tx.Plan(ctx, planID)
		return err
	})
	return p, err
}

// CreatePlan begins to sell a plan. Errors: ErrInsufficientRole, ErrInsufficientScope,
// Invalid, ErrPlanExists.
func (s *Service) CreatePlan(ctx context.Context, a registry.Actor, p Plan) (StoredPlan, error) {
	if err := manager(a); err != nil {
		return StoredPlan{}, err
	}
	p.defaults()
	if why := p.check(); why != "" {
		return StoredPlan{}, registry.E(registry.Invalid, registry.ErrInvalidRequest.Code, why)
	}
	now := s.now()
	next := StoredPlan{Plan: p, CreatedAt: now, UpdatedAt: now}
	err := s.store.InTx(ctx, func(tx Tx) error {
		created, err := tx.InsertPlan(ctx, next)
		if err == nil && !created {
			err = ErrPlanExists
		}
		if err != nil {
			return err
		}
		return s.auditPlan(ctx, tx, a, "plan_created", next)
	})
	if err != nil {
		return StoredPlan{}, err
	}
	return next, nil
}

// ChangePlan changes a plan that an administrator made; what is bought stays as it was.
// change edits a copy. Errors as of CreatePlan, ErrPlanNotFound, ErrPlanFromFile.
func (s *Service) ChangePlan(ctx context.Context, a registry.Actor, planID string, change func(*StoredPlan)) (p StoredPlan, err error) {
	if err := manager(a); err != nil {
		return p, err
	}
	err = s.store.InTx(ctx, func(tx Tx) error {
		if p, err = tx.Plan(ctx, planID); err != nil {
			return err
		}
		if p.FromFile {
			return ErrPlanFromFile
		}
		change(&p)
		p.ID, p.FromFile, p.UpdatedAt = planID, false, s.now()
		p.defaults()
		if why := p.check(); why != "" {
			return registry.E(registry.Invalid, registry.ErrInvalidRequest.Code, why)
		}
		if _, err := tx.UpdatePlan(ctx, p); err != nil {
			return err
		}
		return s.auditPlan(ctx, tx, a, "plan_changed", p)
	})
	if err != nil {
		return StoredPlan{}, err
	}
	return p, nil
}

// The errors of plans.
var (
	ErrPlanNotFound = registry.E(registry.NotFound, "plan_not_found", "There is no such plan.")
	ErrPlanExists   = registry.E(registry.Conflict, "plan_exists", "There is a plan with this id.")
	ErrPlanFromFile = registry.E(registry.Conflict, "plan_from_file", "This plan is of the plans file. Change it there and restart the server.")
)
