package registry

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
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
	MailAt     time.Time // when its mail is to be sent, or sent again; zero: it was, or none is
}

// InvitationMails says whether people who are invited get a mail, and how many.
type InvitationMails struct {
	On         bool
	PerAddress Rate // to one e-mail address, whoever invites; the zero value is no limit
	PerInviter Rate // of one person or member of staff
}

// mailLease is how long whoever takes a mail has it for themselves. A mail that was
// neither sent nor refused by then is due again, until its invitation expires.
const mailLease = 15 * time.Minute

// invite writes an invitation, and with it when its mail is due: now, or never when too
// many were sent. Who invites hears nothing of that, or they would learn of others who
// invite the same person.
func (r *Registry) invite(ctx context.Context, tx Tx, a Actor, i Invitation) (put bool, err error) {
	if r.opts.InvitationMails.On {
		i.MailAt = i.CreatedAt
		for _, l := range []struct {
			of   string
			rate Rate
		}{{i.Email, r.opts.InvitationMails.PerAddress}, {a.String(), r.opts.InvitationMails.PerInviter}} {
			if l.rate.Interval <= 0 || i.MailAt.IsZero() {
				continue
			}
			sum := sha256.Sum256([]byte(l.of))
			wait, err := tx.TakeCommandToken(ctx, "mail:"+hex.EncodeToString(sum[:]), i.CreatedAt, l.rate.Interval, l.rate.Burst)
			if err != nil {
				return false, err
			}
			if wait > 0 {
				i.MailAt = time.Time{}
			}
		}
	}
	return tx.PutInvitation(ctx, i, maxShares)
}

// InvitationsMoved has a value when an invitation was written whose mail is due.
func (r *Registry) InvitationsMoved() <-chan struct{} { return r.inviteMoved }

// TakeInvitationMails takes at most limit invitations whose mails are due, each for its
// caller alone until [Registry.InvitationMailed], or for a quarter of an hour. Errors:
// ErrUnavailable.
func (r *Registry) TakeInvitationMails(ctx context.Context, limit int) (taken []Invitation, err error) {
	now := r.now()
	var due []Invitation
	err = r.store.View(ctx, func(tx Tx) (err error) {
		due, err = tx.InvitationsToMail(ctx, now, limit)
		return err
	})
	if err != nil || len(due) == 0 {
		return nil, err
	}
	err = r.write(ctx, func(tx Tx) error {
		taken = nil
		for _, i := range due {
			mine, err := tx.SetInvitationMail(ctx, i.ID, i.MailAt, now.Add(mailLease))
			if err != nil {
				return err
			}
			if mine {
				i.MailAt = now.Add(mailLease)
				taken = append(taken, i)
			}
		}
		return nil
	})
	return taken, err
}

// InvitationMailed says that the mail of an invitation that was taken is sent, or will
// never be. Errors: ErrUnavailable.
func (r *Registry) InvitationMailed(ctx context.Context, i Invitation) error {
	return r.write(ctx, func(tx Tx) error {
		_, err := tx.SetInvitationMail(ctx, i.ID, i.MailAt, time.Time{})
		return err
	})
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
	var gone freed
	now := r.now()
	err = r.change(ctx, func(tx Tx) (err error) {
		gone = freed{}
		if inv, err = r.answer(ctx, tx, a, id); err != nil {
			return err
		}
		if inv.Kind == InviteTransfer {
			gone, err = r.transfer(ctx, tx, a, inv, now)
			return err
		}
		return r.putShare(ctx, tx, a, inv.DeviceID, Ownership{
			DeviceNo: inv.DeviceNo, UserID: a.ID, Role: inv.Role, SharedAt: now, SharedBy: inv.InvitedBy, StartsAt: inv.StartsAt, EndsAt: inv.EndsAt, At: now,
		})
	}, func() []*Change {
		if inv.Kind == InviteTransfer {
			return append(r.freedChanges(inv.DeviceID, gone, false), claimedChange(inv.DeviceID, a.ID, viaTransfer, now))
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
	r.wasFreed(gone)
	r.AccessChanged(a.ID)
	return inv, nil
}
