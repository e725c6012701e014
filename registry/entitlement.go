package registry

import (
	"context"
	"slices"
	"time"
)

// Entitlement is the right to have a service for a device, for a time. It belongs to
// the device and stays with it when its owner changes.
type Entitlement struct {
	ID          int64
	DeviceNo    int64
	Capability  Capability // a service, see [Services]
	Source      EntitlementSource
	StartsAt    time.Time
	EndsAt      time.Time // zero: never
	HistoryDays int       // how far back a recording may be played; 0: no limit
	GrantedBy   string    // the actor of a grant
	PurchaseID  string    // of a plan: what was bought
	SuspendedAt time.Time // not zero: it rests, while the money for it is in doubt
	CreatedAt   time.Time
}

// EntitlementSource is where an entitlement comes from.
type EntitlementSource string

// The sources of entitlements.
const (
	EntitledByTrial EntitlementSource = "trial" // of a device's first activation, once
	EntitledByPlan  EntitlementSource = "plan"
	EntitledByGrant EntitlementSource = "grant" // of an administrator
)

// ErrEntitlementRequired: the role allows it, and nothing pays for it.
var ErrEntitlementRequired = E(Forbidden, "entitlement_required", "The device has no plan for this.")

// maxHistoryDays bounds an entitlement's history.
const maxHistoryDays = 3650

// Services lists the capabilities that need an entitlement. [contracts A.3]
func Services() []Capability {
	return []Capability{CanLiveView, CanCloudPlayback, CanClipDownload, CanAISummary}
}

// trial is what a device has from its first activation on.
func trial() []Capability { return []Capability{CanLiveView, CanCloudPlayback} }

// firstOwned records that a device has an owner, and starts its trial if it never had
// one.
func (r *Registry) firstOwned(ctx context.Context, tx Tx, d Device, now time.Time) error {
	if !d.EverOwned && r.opts.Trial > 0 {
		for _, c := range trial() {
			_, err := tx.InsertEntitlement(ctx, Entitlement{
				ID: r.opts.NextID(), DeviceNo: d.No, Capability: c, Source: EntitledByTrial, StartsAt: now, EndsAt: now.Add(r.opts.Trial), CreatedAt: now,
			})
			if err != nil {
				return err
			}
		}
	}
	return tx.SetEverOwned(ctx, d.No)
}

// Entitlements lists what a device is entitled to now or later. Errors: those of
// [Registry.Access] with CanRead.
func (r *Registry) Entitlements(ctx context.Context, a Actor, id string) (list []Entitlement, err error) {
	err = r.store.View(ctx, func(tx Tx) error {
		d, err := r.access(ctx, tx, a, id, CanRead)
		if err != nil {
			return err
		}
		list, err = tx.Entitlements(ctx, d.No, r.now())
		return err
	})
	return list, err
}

// manager lets administrators pass whose token may change what is sold.
func manager(a Actor) error {
	if err := staffOnly(a, ActorAdmin); err != nil {
		return err
	}
	if a.Kind != ActorSystem && !a.Has(ScopeConfigWrite) {
		return ErrInsufficientScope
	}
	return nil
}

// GrantEntitlement entitles a device by hand: of e, capability, times (StartsAt zero: now)
// and history count. Errors: ErrDeviceNotFound, Invalid, ErrInsufficientRole,
// ErrInsufficientScope.
func (r *Registry) GrantEntitlement(ctx context.Context, a Actor, id string, e Entitlement) (Entitlement, error) {
	if err := manager(a); err != nil {
		return Entitlement{}, err
	}
	now := r.now()
	e.ID, e.Source, e.GrantedBy, e.CreatedAt = r.opts.NextID(), EntitledByGrant, a.String(), now
	if e.StartsAt.IsZero() {
		e.StartsAt = now
	}
	e.StartsAt, e.EndsAt = e.StartsAt.UTC().Truncate(time.Microsecond), e.EndsAt.UTC().Truncate(time.Microsecond)
	err := r.write(ctx, func(tx Tx) error {
		d, err := tx.Device(ctx, id)
		if err != nil {
			return err
		}
		switch {
		case !slices.Contains(Services(), e.Capability):
			return E(Invalid, ErrInvalidRequest.Code, "capability must be live_view, cloud_playback, clip_download or ai_summary.")
		case e.StartsAt.Year() < 1 || e.StartsAt.Year() > 9999 || e.EndsAt.Year() > 9999:
			return E(Invalid, ErrInvalidRequest.Code, "starts_at and ends_at must be RFC 3339 times.")
		case !e.EndsAt.IsZero() && (!e.EndsAt.After(now) || !e.EndsAt.After(e.StartsAt)):
			return E(Invalid, ErrInvalidRequest.Code, "ends_at must be after starts_at and in the future.")
		case e.HistoryDays < 0 || e.HistoryDays > maxHistoryDays:
			return E(Invalid, ErrInvalidRequest.Code, "history_days must be 0 to 3650.")
		}
		e.DeviceNo = d.No
		if _, err := tx.InsertEntitlement(ctx, e); err != nil {
			return err
		}
		return r.audit(ctx, tx, a, id, "entitlement_granted", map[string]any{"capability": e.Capability.String(), "entitlement_id": e.ID})
	})
	if err != nil {
		return Entitlement{}, err
	}
	return e, nil
}

// RevokeEntitlements takes back what was granted by hand for a capability; trials and
// plans stay. It returns how many grants there were. Errors as of GrantEntitlement.
func (r *Registry) RevokeEntitlements(ctx context.Context, a Actor, id string, c Capability) (n int, err error) {
	if err := manager(a); err != nil {
		return 0, err
	}
	err = r.write(ctx, func(tx Tx) error {
		d, err := tx.Device(ctx, id)
		if err != nil {
			return err
		}
		if n, err = tx.DeleteGrants(ctx, d.No, c); err != nil || n == 0 {
			return err
		}
		return r.audit(ctx, tx, a, id, "entitlement_revoked", map[string]any{"capability": c.String(), "grants": n})
	})
	return n, err
}
