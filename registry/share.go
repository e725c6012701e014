package registry

import (
	"context"
	"errors"
	"slices"
	"time"
)

const (
	// maxShares is how many people a device may be shared with, invited ones included.
	maxShares = 20
	// invitationLife is how long an invitation can be accepted. [contracts, HTTP route table]
	invitationLife = 7 * 24 * time.Hour
)

// The refusals of sharing.
var (
	ErrInvalidRole   = E(Invalid, "invalid_role", "role must be admin or viewer.")
	ErrShareLimit    = E(Conflict, "share_limit_reached", "The device is shared with as many people as it can be.")
	ErrShareNotFound = E(NotFound, "share_not_found", "There is no such share.")
	ErrAlreadyOwner  = E(Conflict, "already_owner", "This person owns the device.")
)

// ShareRequest is whom a device is to be shared with, as what, and for how long.
type ShareRequest struct {
	Email    string
	Role     Role
	StartsAt time.Time // zero: at once
	EndsAt   time.Time // zero: until revoked
}

// ShareStatus is what has become of a share.
type ShareStatus string

// The states of a share. Whether an address belongs to anybody is no part of it: it is
// pending until somebody has accepted.
const (
	SharePending   ShareStatus = "pending"   // an invitation waits
	ShareScheduled ShareStatus = "scheduled" // accepted, and begins later
	ShareActive    ShareStatus = "active"
)

// Share is one line of whom a device is shared with: an accepted share, or an
// invitation that is open.
type Share struct {
	Ownership  // of an invitation: role, e-mail and times alone
	Status     ShareStatus
	Kind       InvitationKind
	Invitation int64 // 0: accepted
	ExpiresAt  time.Time
}

// check reads the request's e-mail, and refuses what can never be shared.
func (req *ShareRequest) check(now time.Time) (err error) {
	if req.Role != RoleAdmin && req.Role != RoleViewer {
		return ErrInvalidRole
	}
	if req.Email, err = NormalizeEmail(req.Email); err != nil {
		return err
	}
	switch {
	case req.EndsAt.IsZero():
	case !req.EndsAt.After(now):
		return E(Invalid, ErrInvalidRequest.Code, "ends_at has passed.")
	case !req.EndsAt.After(req.StartsAt):
		return E(Invalid, ErrInvalidRequest.Code, "ends_at must be after starts_at.")
	}
	for _, at := range []*time.Time{&req.StartsAt, &req.EndsAt} {
		if year := at.Year(); year < 1 || year > 9999 {
			return E(Invalid, ErrInvalidRequest.Code, "starts_at and ends_at must be RFC 3339 times.")
		}
		*at = at.UTC().Truncate(time.Microsecond)
	}
	return nil
}

// ShareDevice invites the person whose verified e-mail this is, now or some day. Who
// has the device shared already gets the new role and times at once (ShareActive).
// Sharing makes, demotes and removes no owner. Errors: those of [Registry.Access] with
// CanShare, ErrInvalidRole, Invalid, ErrAlreadyOwner, ErrShareLimit.
func (r *Registry) ShareDevice(ctx context.Context, a Actor, id string, req ShareRequest) (status ShareStatus, err error) {
	var user string
	now := r.now()
	err = r.change(ctx, func(tx Tx) error {
		status, user = SharePending, ""
		d, err := r.access(ctx, tx, a, id, CanShare)
		if err != nil {
			return err
		}
		if err := req.check(now); err != nil {
			return err
		}
		sharee, err := sharee(ctx, tx, d.No, req.Email, now)
		if err != nil {
			return err
		}
		if sharee != "" {
			status, user = ShareActive, sharee
			return r.putShare(ctx, tx, a, id, Ownership{
				DeviceNo: d.No, UserID: sharee, Role: req.Role, SharedAt: now, SharedBy: a.ID, StartsAt: req.StartsAt, EndsAt: req.EndsAt, At: now,
			})
		}
		inv := Invitation{
			ID: r.opts.NextID(), DeviceNo: d.No, Kind: InviteShare, Email: req.Email, Role: req.Role,
			StartsAt: req.StartsAt, EndsAt: req.EndsAt, InvitedBy: a.ID, CreatedAt: now, ExpiresAt: now.Add(invitationLife),
		}
		put, err := r.invite(ctx, tx, a, inv)
		switch {
		case err != nil:
			return err
		case !put:
			return ErrShareLimit
		}
		return r.audit(ctx, tx, a, id, "share_invited", map[string]any{"invitation_id": inv.ID, "role": string(req.Role)})
	}, func() []*Change { return sharedChange(id, user, req.Role, now, req.StartsAt, req.EndsAt, user != "") })
	switch {
	case err != nil:
	case user != "":
		r.sharesMoved()
		r.AccessChanged(user)
	default:
		signal(r.inviteMoved)
	}
	return status, err
}

// sharee is the person with this verified e-mail when the device is shared with them;
// "" otherwise. ErrAlreadyOwner when they own it.
func sharee(ctx context.Context, tx Tx, deviceNo int64, email string, now time.Time) (string, error) {
	user, ok, err := tx.UserByVerifiedEmail(ctx, email)
	if err != nil || !ok {
		return "", err
	}
	rows, err := tx.Ownerships(ctx, deviceNo)
	if err != nil {
		return "", err
	}
	for _, o := range rows {
		switch {
		case o.UserID != user:
		case o.Role == RoleOwner:
			return "", ErrAlreadyOwner
		case o.EndsAt.IsZero() || o.EndsAt.After(now):
			return user, nil
		}
	}
	return "", nil
}

// putShare writes a person's share and its audit row.
func (r *Registry) putShare(ctx context.Context, tx Tx, a Actor, deviceID string, o Ownership) error {
	changed, err := tx.PutShare(ctx, o)
	switch {
	case err != nil:
		return err
	case !changed:
		return ErrAlreadyOwner
	}
	data := map[string]any{"user_id": o.UserID, "role": string(o.Role)}
	for name, at := range map[string]time.Time{"starts_at": o.StartsAt, "ends_at": o.EndsAt} {
		if !at.IsZero() {
			data[name] = at.Format(time.RFC3339)
		}
	}
	if err := r.emit(ctx, tx, EventShared, deviceID, o.At, data); err != nil {
		return err
	}
	return r.audit(ctx, tx, a, deviceID, "shared", data)
}

// sharedChange tells a person what a device is to them, and nobody else.
func sharedChange(deviceID, userID string, role Role, at, startsAt, endsAt time.Time, told bool) []*Change {
	if !told {
		return nil
	}
	return []*Change{{
		Kind: ChangeShared, DeviceID: deviceID, At: at, Share: &Ownership{UserID: userID, Role: role, StartsAt: startsAt, EndsAt: endsAt},
		users: []string{userID}, private: true,
	}}
}

// Shares lists whom a device is shared with, those who have accepted first, and its
// open invitations; at most maxShares and a transfer. Errors: those of
// [Registry.Access] with CanShare.
func (r *Registry) Shares(ctx context.Context, a Actor, id string) (list []Share, err error) {
	now := r.now()
	err = r.store.View(ctx, func(tx Tx) error {
		list = nil
		d, err := r.access(ctx, tx, a, id, CanShare)
		if err != nil {
			return err
		}
		rows, err := tx.Ownerships(ctx, d.No)
		if err != nil {
			return err
		}
		for _, o := range rows {
			status := ShareActive
			switch {
			case o.Role == RoleOwner, !o.EndsAt.IsZero() && !o.EndsAt.After(now):
				continue
			case o.StartsAt.After(now):
				status = ShareScheduled
			}
			list = append(list, Share{Ownership: o, Status: status, Kind: InviteShare})
		}
		open, err := tx.InvitationsOf(ctx, d.No, now)
		for _, i := range open {
			o := Ownership{DeviceNo: d.No, Email: i.Email, Role: i.Role, StartsAt: i.StartsAt, EndsAt: i.EndsAt, SharedAt: i.CreatedAt, SharedBy: i.InvitedBy}
			list = append(list, Share{Ownership: o, Status: SharePending, Kind: i.Kind, Invitation: i.ID, ExpiresAt: i.ExpiresAt})
		}
		return err
	})
	return list, err
}

// RemoveShare takes a share away from a person, who loses the device at once. Errors:
// those of [Registry.Access] with CanShare, ErrShareNotFound also for the owner.
func (r *Registry) RemoveShare(ctx context.Context, a Actor, id, userID string) error {
	err := r.change(ctx, func(tx Tx) error {
		d, err := r.access(ctx, tx, a, id, CanShare)
		if err != nil {
			return err
		}
		removed, err := tx.DeleteShare(ctx, d.No, userID)
		switch {
		case err != nil:
			return err
		case !removed:
			return ErrShareNotFound
		}
		return r.audit(ctx, tx, a, id, "share_revoked", map[string]any{"user_id": userID})
	}, func() []*Change { return []*Change{r.releasedChange(id, []string{userID}, true)} })
	if err == nil {
		r.AccessChanged(userID)
	}
	return err
}

// WithdrawInvitation takes back an invitation that a device's owner has sent. Errors:
// those of [Registry.Access] with CanShare, ErrShareNotFound.
func (r *Registry) WithdrawInvitation(ctx context.Context, a Actor, id string, invitation int64) error {
	return r.write(ctx, func(tx Tx) error {
		d, err := r.access(ctx, tx, a, id, CanShare)
		if err != nil {
			return err
		}
		open, err := tx.InvitationsOf(ctx, d.No, r.now())
		if err != nil {
			return err
		}
		if !slices.ContainsFunc(open, func(i Invitation) bool { return i.ID == invitation }) {
			return ErrShareNotFound
		}
		if _, err := tx.DeleteInvitation(ctx, invitation); err != nil {
			return err
		}
		return r.audit(ctx, tx, a, id, "invitation_withdrawn", map[string]any{"invitation_id": invitation})
	})
}

const (
	// boundaryCheck bounds how long this node sleeps until it looks for the next
	// beginning or end of a share: another node may have written one.
	boundaryCheck = 5 * time.Second
	// boundaryRetry is the pause after the database could not be read.
	boundaryRetry = 250 * time.Millisecond
	// endedShares is how long an ended share stays, so that every node has told its
	// listeners before it goes.
	endedShares = time.Minute
)

// Crossing is a share that began or ended.
type Crossing struct {
	DeviceID string
	Ownership
}

// sharesMoved makes followShares look again: a share was written.
func (r *Registry) sharesMoved() { signal(r.shareMoved) }

// followShares tells people's sessions and listeners when a share of theirs begins or
// ends, until ctx ends. The gate itself looks at the clock; this is for those who
// hold a list of what they may read.
func (r *Registry) followShares(ctx context.Context) {
	last := r.now()
	for wait := time.Duration(0); ; {
		timer := time.NewTimer(wait)
		select {
		case <-ctx.Done():
			timer.Stop()
			return
		case <-r.shareMoved:
			timer.Stop()
		case <-timer.C:
		}
		now := r.now()
		next, err := r.crossShares(ctx, last, now)
		if err != nil {
			if ctx.Err() == nil {
				r.log.Warn("shares that begin and end could not be read; it will be tried again", "error", err)
			}
			wait = boundaryRetry
			continue
		}
		last, wait = now, boundaryCheck
		if !next.IsZero() {
			wait = min(wait, next.Sub(now))
		}
	}
}

// crossShares acts on the shares that began or ended after `last` and until now, and
// returns when the next one does; zero when there is none.
func (r *Registry) crossShares(ctx context.Context, last, now time.Time) (next time.Time, err error) {
	var crossed []Crossing
	ended := false
	err = r.store.View(ctx, func(tx Tx) (err error) {
		if crossed, err = tx.CrossedShares(ctx, last, now); err != nil {
			return err
		}
		var first time.Time
		if next, first, err = tx.NextCrossing(ctx, now); err == nil {
			ended = !first.IsZero() && first.Before(now.Add(-endedShares))
		}
		return err
	})
	if err != nil {
		return time.Time{}, err
	}
	for _, c := range crossed {
		if !c.EndsAt.IsZero() && !c.EndsAt.After(now) {
			r.feed.publish([]*Change{{Kind: ChangeReleased, DeviceID: c.DeviceID, At: c.EndsAt, users: []string{c.UserID}, private: true}})
		} else {
			r.feed.publish(sharedChange(c.DeviceID, c.UserID, c.Role, c.StartsAt, c.StartsAt, c.EndsAt, true))
		}
		r.AccessChanged(c.UserID)
	}
	if ended {
		err = r.forgetEnded(ctx, now.Add(-endedShares))
	}
	return next, err
}

// forgetEnded deletes shares that ended before the given time.
func (r *Registry) forgetEnded(ctx context.Context, before time.Time) error {
	return r.write(ctx, func(tx Tx) error {
		gone, err := tx.DeleteEndedShares(ctx, before, retentionBatch)
		for _, c := range gone {
			data := map[string]any{"user_id": c.UserID, "role": string(c.Role), "ends_at": c.EndsAt.Format(time.RFC3339)}
			err = errors.Join(err, r.audit(ctx, tx, System(), c.DeviceID, "share_ended", data))
		}
		return err
	})
}
