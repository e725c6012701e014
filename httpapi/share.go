package httpapi

import (
	"context"
	"net/http"
	"strconv"
	"time"

	"github.com/gorilla/mux"
	"github.com/opticworks/devicecloud/account"
	"github.com/opticworks/devicecloud/registry"
)

// sharingBody is the answer to an offer of a share: pending, also for who has no
// account, unless the person has the device shared already.
type sharingBody struct {
	Shared bool   `json:"shared"`
	Status string `json:"status"` // pending, active
}

func (a *api) shareDevice(r *request) (answer, error) {
	id, err := a.changes(r, registry.CanShare)
	if err != nil {
		return answer{}, err
	}
	var in struct {
		UserEmail string     `json:"user_email"`
		Role      string     `json:"role"`
		StartsAt  *time.Time `json:"starts_at"`
		EndsAt    *time.Time `json:"ends_at"`
	}
	if err := r.decode(&in, maxJSON); err != nil {
		return answer{}, err
	}
	if in.UserEmail == "" || in.Role == "" {
		return answer{}, account.ErrMissingFields
	}
	req := registry.ShareRequest{Email: in.UserEmail, Role: registry.Role(in.Role)}
	if in.StartsAt != nil {
		req.StartsAt = *in.StartsAt
	}
	if in.EndsAt != nil {
		req.EndsAt = *in.EndsAt
	}
	status, err := a.Registry.ShareDevice(r.Context(), r.actor, id, req)
	if err != nil {
		return answer{}, err
	}
	return answer{http.StatusAccepted, sharingBody{true, string(status)}}, nil
}

// sharedBody is one line of whom a device is shared with. Exactly one of UserID and
// InvitationID is set.
type sharedBody struct {
	UserID       *string    `json:"user_id"`
	InvitationID *string    `json:"invitation_id"`
	Email        *string    `json:"email"`
	Kind         string     `json:"kind"` // share, transfer
	Role         string     `json:"role"` // admin, viewer; of a transfer owner
	Status       string     `json:"status"`
	StartsAt     *time.Time `json:"starts_at"`
	EndsAt       *time.Time `json:"ends_at"`
	SharedAt     *time.Time `json:"shared_at"`
	SharedBy     *string    `json:"shared_by"`
	ExpiresAt    *time.Time `json:"expires_at"` // of an invitation
}

func newSharedBody(s registry.Share) sharedBody {
	b := sharedBody{
		UserID: text(s.UserID), Email: text(s.Email), Kind: string(s.Kind), Role: string(s.Role), Status: string(s.Status),
		StartsAt: stamp(s.StartsAt), EndsAt: stamp(s.EndsAt), SharedAt: stamp(s.SharedAt), SharedBy: text(s.SharedBy), ExpiresAt: stamp(s.ExpiresAt),
	}
	if s.Invitation != 0 {
		b.InvitationID = text(number(s.Invitation))
	}
	return b
}

func (a *api) listShares(r *request) (answer, error) {
	id, err := r.deviceID()
	if err != nil {
		return answer{}, err
	}
	list, err := a.Registry.Shares(r.Context(), r.actor, id)
	if err != nil {
		return answer{}, err
	}
	return ok(struct {
		Shares     []sharedBody `json:"shares"`
		NextCursor string       `json:"next_cursor"` // always "": a device has few shares
	}{render(list, newSharedBody), ""})
}

// unsharedBody is the answer to a share that was revoked, or an invitation that was
// taken back.
type unsharedBody struct {
	Revoked  bool   `json:"revoked"`
	DeviceID string `json:"device_id"`
}

// removeShare takes the id of a person, or of an invitation that is still open.
func (a *api) removeShare(r *request) (answer, error) {
	id, err := a.changes(r, registry.CanShare)
	if err != nil {
		return answer{}, err
	}
	whose, err := r.id("user_id", registry.ErrShareNotFound)
	if err != nil {
		return answer{}, err
	}
	if invitation, nan := strconv.ParseInt(whose, 10, 64); nan == nil {
		err = a.Registry.WithdrawInvitation(r.Context(), r.actor, id, invitation)
	} else {
		err = a.Registry.RemoveShare(r.Context(), r.actor, id, whose)
	}
	if err != nil {
		return answer{}, err
	}
	return ok(unsharedBody{true, id})
}

// transferBody is the answer to an offer of the device itself.
type transferBody struct {
	Status       string    `json:"status"` // pending
	DeviceID     string    `json:"device_id"`
	InvitationID string    `json:"invitation_id"`
	ExpiresAt    time.Time `json:"expires_at"`
}

func (a *api) transferDevice(r *request) (answer, error) {
	id, err := a.changes(r, registry.CanShare)
	if err != nil {
		return answer{}, err
	}
	var in struct {
		UserEmail string `json:"user_email"`
	}
	if err := r.decode(&in, maxJSON); err != nil {
		return answer{}, err
	}
	if in.UserEmail == "" {
		return answer{}, account.ErrMissingFields
	}
	inv, err := a.Registry.TransferDevice(r.Context(), r.actor, id, in.UserEmail)
	if err != nil {
		return answer{}, err
	}
	return answer{http.StatusAccepted, transferBody{string(registry.SharePending), id, number(inv.ID), inv.ExpiresAt.UTC()}}, nil
}

// invitationBody is an invitation as who is invited sees it.
type invitationBody struct {
	InvitationID string     `json:"invitation_id"`
	DeviceID     string     `json:"device_id"`
	DeviceName   *string    `json:"device_name"`
	Kind         string     `json:"kind"` // share, transfer
	Role         string     `json:"role"` // admin, viewer; of a transfer owner
	From         *string    `json:"from"` // e-mail of the person who invites
	StartsAt     *time.Time `json:"starts_at"`
	EndsAt       *time.Time `json:"ends_at"`
	CreatedAt    time.Time  `json:"created_at"`
	ExpiresAt    time.Time  `json:"expires_at"`
}

func newInvitationBody(i registry.Invitation) invitationBody {
	return invitationBody{
		number(i.ID), i.DeviceID, text(i.DeviceName), string(i.Kind), string(i.Role), text(i.From),
		stamp(i.StartsAt), stamp(i.EndsAt), i.CreatedAt.UTC(), i.ExpiresAt.UTC(),
	}
}

func (a *api) listInvitations(r *request) (answer, error) {
	q, err := r.params()
	if err != nil {
		return answer{}, err
	}
	before, limit, err := q.page(listInvitations)
	if err != nil {
		return answer{}, err
	}
	rows, err := a.Registry.Invitations(r.Context(), r.actor, before, limit+1)
	if err != nil {
		return answer{}, err
	}
	rows, cursor := next(listInvitations, rows, limit, func(i registry.Invitation) int64 { return i.ID })
	return ok(struct {
		Invitations []invitationBody `json:"invitations"`
		NextCursor  string           `json:"next_cursor"`
	}{render(rows, newInvitationBody), cursor})
}

// answeredBody is the answer to who has accepted or declined.
type answeredBody struct {
	DeviceID string `json:"device_id"`
	Kind     string `json:"kind"`
	Role     string `json:"role"`
	Accepted bool   `json:"accepted"`
}

// invitationID is the id in the path. What cannot be one is answered as an absent one.
func (r *request) invitationID() (int64, error) {
	id, err := strconv.ParseInt(mux.Vars(r.Request)["id"], 10, 64)
	if err != nil {
		return 0, registry.ErrInvitationNotFound
	}
	return id, nil
}

func (a *api) acceptInvitation(r *request) (answer, error) {
	return a.answerInvitation(r, a.Registry.AcceptInvitation, true)
}

func (a *api) declineInvitation(r *request) (answer, error) {
	return a.answerInvitation(r, a.Registry.DeclineInvitation, false)
}

func (a *api) answerInvitation(r *request, with func(context.Context, registry.Actor, int64) (registry.Invitation, error), accepted bool) (answer, error) {
	if r.actor.Kind != registry.ActorUser {
		return answer{}, registry.ErrInsufficientRole
	}
	id, err := r.invitationID()
	if err != nil {
		return answer{}, err
	}
	inv, err := with(r.Context(), r.actor, id)
	if err != nil {
		return answer{}, err
	}
	return ok(answeredBody{inv.DeviceID, string(inv.Kind), string(inv.Role), accepted})
}

// releasedBody says whether anybody had the device.
type releasedBody struct {
	DeviceID string `json:"device_id"`
	Released bool   `json:"released"`
}

func (a *api) releaseDevice(r *request) (answer, error) {
	id, err := a.manages(r)
	if err != nil {
		return answer{}, err
	}
	released, err := a.Registry.ReleaseDevice(r.Context(), r.actor, id)
	if err != nil {
		return answer{}, err
	}
	return ok(releasedBody{id, released})
}
