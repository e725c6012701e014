package dataplan

import (
	"context"
	"slices"
	"strconv"
	"time"

	"github.com/opticworks/devicecloud/registry"
)

// SIMStatus is whether a SIM can carry data, as the carrier has told us last.
type SIMStatus string

// The states of a SIM.
const (
	SIMInactive  SIMStatus = "inactive"  // it has never been active
	SIMActive    SIMStatus = "active"    // a package runs
	SIMSuspended SIMStatus = "suspended" // the carrier stopped it
	SIMExhausted SIMStatus = "exhausted" // the data of its package is used up
	SIMExpired   SIMStatus = "expired"   // its package has ended
	SIMRetired   SIMStatus = "retired"   // for good
)

// Valid reports whether it is one of the states.
func (s SIMStatus) Valid() bool {
	return slices.Contains([]SIMStatus{SIMInactive, SIMActive, SIMSuspended, SIMExhausted, SIMExpired, SIMRetired}, s)
}

// SIM is a SIM card, in a device or in a drawer.
type SIM struct {
	ID       int64
	ICCID    ICCID
	EID      Number
	IMSI     Number
	MSISDN   Number
	DeviceNo int64  // 0: in no device
	DeviceID string // of DeviceNo; read only

	Status      SIMStatus
	StatusAt    time.Time // when the carrier said so: what it said before changes nothing
	UsedMB      int64     // of the running package; -1: not known
	TotalMB     int64     // of the running package; 0: not known, or no limit
	UsageAt     time.Time // when the carrier said so; zero: never
	Plan        string    // name of the plan whose package runs, or ran last
	PlanEndsAt  time.Time // zero: not known, or never
	AlertType   AlertType // the last alert; 0: none since the package began
	AlertValue  string
	AlertAt     time.Time
	RefreshedAt time.Time // when we asked the carrier last
	CreatedAt   time.Time
	UpdatedAt   time.Time
}

// Connectivity is why a device that is not online cannot be, as far as its SIM is
// concerned. It explains presence, and never is it.
type Connectivity struct {
	Reason ConnectivityReason
	Since  time.Time
}

// ConnectivityReason is why a SIM carries no data.
type ConnectivityReason string

// The reasons.
const (
	PlanEnded     ConnectivityReason = "plan_ended"
	OutOfData     ConnectivityReason = "out_of_data"
	SIMStopped    ConnectivityReason = "suspended"
	SIMNotStarted ConnectivityReason = "not_activated"
	SIMGone       ConnectivityReason = "retired"
)

// Blocked reports why the SIM carries no data at a time; ok is false when nothing is
// known against it.
func (s SIM) Blocked(now time.Time) (c Connectivity, ok bool) {
	reasons := map[SIMStatus]ConnectivityReason{
		SIMInactive: SIMNotStarted, SIMSuspended: SIMStopped, SIMExhausted: OutOfData, SIMExpired: PlanEnded, SIMRetired: SIMGone,
	}
	switch reason, blocked := reasons[s.Status]; {
	case s.Status == SIMInactive && s.RefreshedAt.IsZero(): // it was added so; the carrier has not been asked
	case blocked:
		return Connectivity{reason, s.StatusAt}, true
	case !s.PlanEndsAt.IsZero() && !s.PlanEndsAt.After(now):
		return Connectivity{PlanEnded, s.PlanEndsAt}, true
	}
	return Connectivity{}, false
}

// ScopeSIM lets a token see the numbers of SIMs in full, and manage SIMs. It is given on
// purpose, to service accounts and to administrators. [contracts E.4]
const ScopeSIM = registry.ScopeSIM

// SIMFilter narrows a list of SIMs.
type SIMFilter struct {
	Query    string // a whole ICCID, EID, IMSI or MSISDN, or its last four digits
	Status   SIMStatus
	DeviceID string
	Assigned *bool
	Before   int64 // the last SIM id of the page before
	Limit    int
}

// SIMTx reads and writes SIMs.
type SIMTx interface {
	// InsertSIM writes a SIM; created is false when its ICCID is there. ErrSIMExists when
	// another SIM has its EID or IMSI.
	InsertSIM(ctx context.Context, s SIM) (created bool, err error)
	// SIM reads one SIM; ErrSIMNotFound.
	SIM(ctx context.Context, simID int64) (SIM, error)
	// SIMByNumber finds a SIM by ICCID or, when that is "", by EID.
	SIMByNumber(ctx context.Context, iccid ICCID, eid Number) (s SIM, ok bool, err error)
	// SIMInDevice finds the SIM that is in a device.
	SIMInDevice(ctx context.Context, deviceID string) (s SIM, ok bool, err error)
	// SIMs lists SIMs, the newest first.
	SIMs(ctx context.Context, f SIMFilter) ([]SIM, error)
	// SIMsToRefresh lists SIMs in devices that the carrier was not asked about since a
	// time, the longest not first.
	SIMsToRefresh(ctx context.Context, before time.Time, limit int) ([]SIM, error)
	// AssignSIM puts a SIM into a device, only while it is in none and the device has
	// none; changed says whether it did.
	AssignSIM(ctx context.Context, simID, deviceNo int64, at time.Time) (changed bool, err error)
	// UnassignSIM takes a SIM out of its device; changed says whether it was in one.
	UnassignSIM(ctx context.Context, simID int64, at time.Time) (changed bool, err error)
	// UpdateSIM writes what the carrier has told of a SIM.
	UpdateSIM(ctx context.Context, s SIM) error
}

// The errors of SIMs.
var (
	ErrSIMNotFound    = registry.E(registry.NotFound, "sim_not_found", "There is no such SIM card.")
	ErrSIMExists      = registry.E(registry.Conflict, "sim_exists", "Another SIM card has this number.")
	ErrSIMAssigned    = registry.E(registry.Conflict, "sim_assigned", "The SIM card is in another device. Take it out first.")
	ErrDeviceHasSIM   = registry.E(registry.Conflict, "device_has_sim", "The device has another SIM card. Take it out first.")
	ErrSIMNotAssigned = registry.E(registry.Conflict, "sim_not_assigned", "The SIM card is in no device.")
	errSIMNumbers     = registry.E(registry.Invalid, registry.ErrInvalidRequest.Code, "iccid must have 18 to 22 digits, eid 32, imsi 14 or 15, msisdn 5 to 15.")
)

// manages lets administrators pass, and service accounts whose token carries
// [ScopeSIM].
func manages(a registry.Actor) error {
	switch {
	case a.Kind == registry.ActorAdmin, a.Kind == registry.ActorSystem:
		return nil
	case a.Kind != registry.ActorService:
		return registry.ErrInsufficientRole
	case !a.Has(ScopeSIM):
		return registry.ErrInsufficientScope
	}
	return nil
}

// SIMs lists SIMs. Errors: ErrInsufficientRole, ErrInsufficientScope.
func (s *Service) SIMs(ctx context.Context, a registry.Actor, f SIMFilter) (list []SIM, err error) {
	if err := manages(a); err != nil {
		return nil, err
	}
	err = s.store.View(ctx, func(tx Tx) (err error) {
		list, err = tx.SIMs(ctx, f)
		return err
	})
	return list, err
}

// SIM reads one SIM. Errors: ErrInsufficientRole, ErrInsufficientScope, ErrSIMNotFound.
func (s *Service) SIM(ctx context.Context, a registry.Actor, simID int64) (sim SIM, err error) {
	if err := manages(a); err != nil {
		return sim, err
	}
	err = s.store.View(ctx, func(tx Tx) (err error) {
		sim, err = tx.SIM(ctx, simID)
		return err
	})
	return sim, err
}

// ShowsNumbers reports whether the caller may be answered with the numbers of these SIMs
// in full, and records that a member of staff is. Whoever answers with SIMs asks it, once
// for the whole answer.
func (s *Service) ShowsNumbers(ctx context.Context, a registry.Actor, sims ...SIM) (full bool, err error) {
	switch {
	case !a.Has(ScopeSIM):
		return false, nil
	case a.Kind == registry.ActorService || len(sims) == 0:
		return true, nil
	}
	ids, deviceID := make([]string, len(sims)), ""
	for i, sim := range sims {
		ids[i] = strconv.FormatInt(sim.ID, 10)
	}
	if len(sims) == 1 {
		deviceID = sims[0].DeviceID
	}
	err = s.store.InTx(ctx, func(tx Tx) error {
		return s.audit(ctx, tx, a, deviceID, "sim_numbers_read", map[string]any{"sim_ids": ids})
	})
	return err == nil, err
}

// DeviceSIM reads the SIM that is in a device, for who may see it
// (registry.CanReadSIM). Errors: those of the gate, ErrSIMNotFound.
func (s *Service) DeviceSIM(ctx context.Context, a registry.Actor, deviceID string) (sim SIM, err error) {
	if _, err := s.devices.Access(ctx, a, deviceID, registry.CanReadSIM); err != nil {
		return sim, err
	}
	err = s.store.View(ctx, func(tx Tx) (err error) {
		var ok bool
		if sim, ok, err = tx.SIMInDevice(ctx, deviceID); err == nil && !ok {
			err = ErrSIMNotFound
		}
		return err
	})
	return sim, err
}

// Connectivity reports why a device carries no data over its SIM; ok is false when it
// has none, or nothing is known against it. The caller has asked the gate.
func (s *Service) Connectivity(ctx context.Context, deviceID string) (c Connectivity, ok bool, err error) {
	err = s.store.View(ctx, func(tx Tx) error {
		sim, has, err := tx.SIMInDevice(ctx, deviceID)
		if err == nil && has {
			c, ok = sim.Blocked(s.now())
		}
		return err
	})
	return c, ok, err
}

// AssignSIM puts a SIM into a device, and lets purchases go on that waited for one. The
// same again changes nothing. Errors: ErrSIMNotFound, ErrDeviceNotFound, ErrSIMAssigned,
// ErrDeviceHasSIM, and those of [Service.SIM].
func (s *Service) AssignSIM(ctx context.Context, a registry.Actor, simID int64, deviceID string) (sim SIM, err error) {
	if err := manages(a); err != nil {
		return sim, err
	}
	err = s.store.InTx(ctx, func(tx Tx) (err error) {
		if sim, err = tx.SIM(ctx, simID); err != nil {
			return err
		}
		return s.assign(ctx, tx, a, &sim, deviceID)
	})
	if err == nil {
		s.wake()
	}
	return sim, err
}

// assign puts a SIM into a device in the caller's transaction.
func (s *Service) assign(ctx context.Context, tx Tx, a registry.Actor, sim *SIM, deviceID string) error {
	d, err := tx.Device(ctx, deviceID)
	switch {
	case err != nil:
		return err
	case sim.DeviceNo == d.No:
		return nil
	case sim.DeviceNo != 0:
		return ErrSIMAssigned
	}
	now := s.now()
	if changed, err := tx.AssignSIM(ctx, sim.ID, d.No, now); err != nil {
		return err
	} else if !changed {
		return ErrDeviceHasSIM
	}
	sim.DeviceNo, sim.DeviceID, sim.UpdatedAt = d.No, d.ID, now
	return s.audit(ctx, tx, a, d.ID, "sim_assigned", map[string]any{"sim_id": sim.ID, "iccid": sim.ICCID})
}

// UnassignSIM takes a SIM out of its device. Errors: ErrSIMNotFound, ErrSIMNotAssigned,
// and those of [Service.SIM].
func (s *Service) UnassignSIM(ctx context.Context, a registry.Actor, simID int64) (sim SIM, err error) {
	if err := manages(a); err != nil {
		return sim, err
	}
	err = s.store.InTx(ctx, func(tx Tx) (err error) {
		if sim, err = tx.SIM(ctx, simID); err != nil {
			return err
		}
		now := s.now()
		if changed, err := tx.UnassignSIM(ctx, simID, now); err != nil {
			return err
		} else if !changed {
			return ErrSIMNotAssigned
		}
		err = s.audit(ctx, tx, a, sim.DeviceID, "sim_unassigned", map[string]any{"sim_id": sim.ID, "iccid": sim.ICCID})
		sim.DeviceNo, sim.DeviceID, sim.UpdatedAt = 0, "", now
		return err
	})
	return sim, err
}

// RefreshSIM asks the carrier what a SIM has used and how it stands. Errors:
// ErrFeatureDisabled without a carrier, ErrCarrierRefused, ErrCarrierUnavailable, and
// those of [Service.SIM].
func (s *Service) RefreshSIM(ctx context.Context, a registry.Actor, simID int64) (SIM, error) {
	if err := manages(a); err != nil {
		return SIM{}, err
	}
	if s.opts.Carrier == nil {
		return SIM{}, registry.ErrFeatureDisabled
	}
	sim, err := s.SIM(ctx, a, simID)
	if err != nil {
		return sim, err
	}
	return s.refresh(ctx, a, sim)
}

// refresh asks the carrier about a SIM and writes what it says.
func (s *Service) refresh(ctx context.Context, a registry.Actor, sim SIM) (SIM, error) {
	asked := s.now()
	card, err := s.opts.Carrier.Card(ctx, sim.ICCID)
	if err != nil {
		return sim, err
	}
	err = s.store.InTx(ctx, func(tx Tx) (err error) {
		if sim, err = tx.SIM(ctx, sim.ID); err != nil {
			return err
		}
		before := sim
		sim.RefreshedAt, sim.UpdatedAt = asked, s.now()
		if card.UsedMB >= 0 && !sim.UsageAt.After(asked) {
			sim.UsedMB, sim.UsageAt = card.UsedMB, asked
			if card.TotalMB > 0 {
				sim.TotalMB = card.TotalMB
			}
		}
		status := card.Status
		if status == SIMActive && card.TotalMB > 0 && card.UsedMB >= card.TotalMB {
			status = SIMExhausted
		}
		if status == SIMSuspended && before.Status == SIMExpired {
			status = SIMExpired // stopped because it ended, which says more
		}
		if status != "" && status != sim.Status && !sim.StatusAt.After(asked) {
			sim.Status, sim.StatusAt = status, asked
		}
		if err := tx.UpdateSIM(ctx, sim); err != nil {
			return err
		}
		if a.Kind == registry.ActorSystem && before.Status == sim.Status {
			return nil // our own hourly question is nobody's deed
		}
		return s.audit(ctx, tx, a, sim.DeviceID, "sim_refreshed", map[string]any{
			"sim_id": sim.ID, "iccid": sim.ICCID, "status": sim.Status, "from": before.Status, "used_mb": sim.UsedMB,
		})
	})
	return sim, err
}
