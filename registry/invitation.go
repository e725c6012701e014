package registry

import (
	"context"
	"time"
)

// InvitationKind is what an invitation offers.
type InvitationKind string

// The kinds of invitations.
const (
	InviteShare    InvitationKind = "share"    // a role on a device
	InviteTransfer InvitationKind = "transfer" // the device itself
)

// Invitation is an offer to whoever has a verified e-mail. Only open ones are kept:
// what is accepted, declined or withdrawn stays in the audit trail alone.
type Invitation struct {
	ID         int64
	DeviceNo   int64
	DeviceID   string // filled by reads, like the next two
	DeviceName string
	From       string // e-mail of the person who invited; "" for staff
	Kind       InvitationKind
	Email      string // normalised
	Role       Role   // of a transfer: owner
	StartsAt   time.Time
	EndsAt     time.Time
	InvitedBy  string // id of the person or member of staff
	CreatedAt  time.Time
	ExpiresAt  time.Time
}

// ErrInvitationNotFound: there is no such open invitation, or it is not this person's.
var ErrInvitationNotFound = E(NotFound, "invitation_not_found", "There is no such invitation.")

// invitee is the verified e-mail of a person who asks; "" when there is none. Only
// people are invited: ErrInsufficientRole, ErrInsufficientScope.
func invitee(ctx context.Context, tx Tx, a Actor, scope string) (string, error) {
	switch {
	case a.Kind != ActorUser:
		return "", ErrInsufficientRole
	case !a.Has(scope):
		return "", ErrInsufficientScope
	}
	return tx.VerifiedEmail(ctx, a.ID)
}

// Invitations lists the open invitations to a person, newest first, below the given id
// (0: from the top); limit is at most 200. Errors: ErrInsufficientRole for staff and
// service accounts, ErrInsufficientScope.
func (r *Registry) Invitations(ctx context.Context, a Actor, before int64, limit int) (list []Invitation, err error) {
	err = r.store.View(ctx, func(tx Tx) error {
		email, err := invitee(ctx, tx, a, ScopeDeviceRead)
		if err != nil || email == "" {
			return err
		}
		list, err = tx.InvitationsTo(ctx, email, r.now(), before, limit)
		return err
	})
	return list, err
}

// answer takes an open invitation of a person out of the table.
func (r *Registry) answer(ctx context.Context, tx Tx, a Actor, id int64) (Invitation, error) {
	email, err := invitee(ctx, tx, a, ScopeDeviceConfigure)
	if err != nil {
		return Invitation{}, err
	}
	if email == "" {
		return Invitation{}, ErrInvitationNotFound
	}
	inv, err := tx.Invitation(ctx, id, email, r.now())
	if err != nil {
		return Invitation{}, err
	}
	taken, err := tx.DeleteInvitation(ctx, id)
	if err == nil && !taken {
		err = ErrInvitationNotFound
	}
	return inv, err
}

// DeclineInvitation turns an invitation down. Errors: ErrInvitationNotFound also for
// somebody else's, ErrInsufficientRole, ErrInsufficientScope.
func (r *Registry) DeclineInvitation(ctx context.Context, a Actor, id int64) (inv Invitation, err error) {
	err = r.write(ctx, func(tx Tx) (err error) {
		if inv, err = r.answer(ctx, tx, a, id); err != nil {
			return err
		}
		return r.audit(ctx, tx, a, inv.DeviceID, "invitation_declined", map[string]any{"invitation_id": id, "kind": string(inv.Kind)})
	})
	return inv, err
}

// AcceptInvitation makes a person what an invitation to their verified e-mail offers.
// Errors: ErrInvitationNotFound also for somebody else's, ErrAlreadyOwner,
// ErrDeviceLimit for a transfer, ErrInsufficientRole, ErrInsufficientScope.
func (r *Registry) AcceptInvitation(ctx context.Context, a Actor, id int64) (inv Invitation, err error) {
	var lost []string
	now := r.now()
	err = r.change(ctx, func(tx Tx) (err error) {
		lost = nil
		if inv, err = r.answer(ctx, tx, a, id); err != nil {
			return err
		}
		if inv.Kind == InviteTransfer {
			lost, err = r.transfer(ctx, tx, a, inv, now)
			return err
		}
		return r.putShare(ctx, tx, a, inv.DeviceID, Ownership{
			DeviceNo: inv.DeviceNo, UserID: a.ID, Role: inv.Role, SharedAt: now, SharedBy: inv.InvitedBy, StartsAt: inv.StartsAt, EndsAt: inv.EndsAt, At: now,
		})
	}, func() []*Change {
		if inv.Kind == InviteTransfer {
			return []*Change{r.releasedChange(inv.DeviceID, lost, false), claimedChange(inv.DeviceID, a.ID, viaTransfer, now)}
		}
		return sharedChange(inv.DeviceID, a.ID, inv.Role, now, inv.StartsAt, inv.EndsAt, true)
	})
	if err != nil {
		return Invitation{}, err
	}
	if inv.Kind == InviteTransfer {
		r.counters.Claims.Add(1)
	}
	r.sharesMoved()
	for _, user := range append(lost, a.ID) {
		r.AccessChanged(user)
	}
	return inv, nil
}
