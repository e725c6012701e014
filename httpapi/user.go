package httpapi

import (
	"context"
	"time"

	"github.com/opticworks/devicecloud/account"
	"github.com/opticworks/devicecloud/registry"
)

// userBody is a person as staff see them.
type userBody struct {
	UserID        string     `json:"user_id"`
	Email         *string    `json:"email"`
	EmailVerified bool       `json:"email_verified"`
	Disabled      bool       `json:"disabled"`
	DisabledAt    *time.Time `json:"disabled_at"`
	CreatedAt     time.Time  `json:"created_at"`
}

// userDetailBody is one person with everything that staff may know.
type userDetailBody struct {
	userBody
	Devices    []userDeviceBody `json:"devices"`
	Identities []identityBody   `json:"identities"`
	Sessions   int              `json:"sessions"` // that are live
}

type userDeviceBody struct {
	DeviceID string  `json:"device_id"`
	Name     *string `json:"name"`
	Role     string  `json:"role"` // owner, admin, viewer
	Status   string  `json:"status"`
}

func newUserBody(u account.User) userBody {
	return userBody{u.ID, text(u.Email), u.EmailVerified, !u.DisabledAt.IsZero(), stamp(u.DisabledAt), u.CreatedAt.UTC()}
}

func newUserDeviceBody(d registry.OwnedDevice) userDeviceBody {
	return userDeviceBody{d.ID, text(d.Name), string(d.Role), d.Presence.Status.String()}
}

func (a *api) listUsers(r *request) (answer, error) {
	q, err := r.params()
	if err != nil {
		return answer{}, err
	}
	query, err := q.text("q")
	if err != nil {
		return answer{}, err
	}
	after, limit, err := q.textPage(listUsers)
	if err != nil {
		return answer{}, err
	}
	rows, err := a.Accounts.Users(r.Context(), r.actor, account.UserFilter{Query: query, After: after, Limit: limit + 1})
	if err != nil {
		return answer{}, err
	}
	rows, cursor := nextText(listUsers, rows, limit, func(u account.User) string { return u.ID })
	return ok(struct {
		Users      []userBody `json:"users"`
		NextCursor string     `json:"next_cursor"`
	}{render(rows, newUserBody), cursor})
}

func (a *api) getUser(r *request) (answer, error) {
	id, err := r.id("id", account.ErrUserNotFound)
	if err != nil {
		return answer{}, err
	}
	d, err := a.Accounts.UserDetail(r.Context(), r.actor, id)
	if err != nil {
		return answer{}, err
	}
	identities := render(d.Identities, func(i account.LinkedIdentity) identityBody { return identityBody{i.Provider, i.CreatedAt.UTC()} })
	return ok(userDetailBody{newUserBody(d.User), render(d.Devices, newUserDeviceBody), identities, d.Sessions})
}

// userDisabledBody is the answer of disabling and enabling a person.
type userDisabledBody struct {
	UserID   string `json:"user_id"`
	Disabled bool   `json:"disabled"`
}

func (a *api) disableUser(r *request) (answer, error) {
	return setUserDisabled(r, true, a.Accounts.DisableUser)
}

func (a *api) enableUser(r *request) (answer, error) {
	return setUserDisabled(r, false, a.Accounts.EnableUser)
}

func setUserDisabled(r *request, disabled bool, set func(context.Context, registry.Actor, string) error) (answer, error) {
	id, err := r.id("id", account.ErrUserNotFound)
	if err != nil {
		return answer{}, err
	}
	if err := set(r.Context(), r.actor, id); err != nil {
		return answer{}, err
	}
	return ok(userDisabledBody{id, disabled})
}

// signOutUser ends all sessions of a person.
func (a *api) signOutUser(r *request) (answer, error) {
	id, err := r.id("id", account.ErrUserNotFound)
	if err != nil {
		return answer{}, err
	}
	n, err := a.Accounts.SignOutUser(r.Context(), r.actor, id)
	if err != nil {
		return answer{}, err
	}
	return ok(revokedBody{Revoked: true, Sessions: &n})
}

func (a *api) eraseUser(r *request) (answer, error) {
	id, err := r.id("id", account.ErrUserNotFound)
	if err != nil {
		return answer{}, err
	}
	if err := a.Accounts.Erase(r.Context(), r.actor, id); err != nil {
		return answer{}, err
	}
	return ok(erasedBody{true})
}
