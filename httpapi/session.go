package httpapi

import (
	"encoding/base64"
	"errors"
	"net/http"
	"time"

	"github.com/gorilla/mux"
	"github.com/opticworks/devicecloud/account"
	"github.com/opticworks/devicecloud/registry"
)

// sessionBody is one of the caller's sign-ins.
type sessionBody struct {
	SID        string      `json:"sid"`
	Current    bool        `json:"current"` // the one that asks
	Device     sessionFrom `json:"device"`
	ClientType *string     `json:"client_type"`
	Method     string      `json:"method"`
	IP         *string     `json:"ip"`         // of the latest refresh
	UserAgent  *string     `json:"user_agent"` // of the latest refresh
	CreatedAt  time.Time   `json:"created_at"`
	LastUsedAt time.Time   `json:"last_used_at"`
	ExpiresAt  time.Time   `json:"expires_at"` // unless it is refreshed
}

type sessionFrom struct {
	Platform *string `json:"platform"`
	Name     *string `json:"name"`
}

func newSessionBody(x account.Session, current string) sessionBody {
	return sessionBody{
		SID: x.ID, Current: x.ID == current, Device: sessionFrom{text(x.Device.Platform), text(x.Device.Name)},
		ClientType: text(x.ClientType), Method: x.Method, IP: text(x.IP), UserAgent: text(x.UserAgent),
		CreatedAt: x.CreatedAt.UTC(), LastUsedAt: x.LastUsedAt.UTC(), ExpiresAt: x.ExpiresAt.UTC(),
	}
}

// revokedBody says that sessions have ended.
type revokedBody struct {
	Revoked  bool `json:"revoked"`
	Sessions *int `json:"sessions,omitempty"` // how many, where it may be more than the one that asks
}

// refresh gives the next pair of tokens, to people and staff. [contracts C.3]
func (a *api) refresh(r *request) (answer, error) {
	var in struct {
		RefreshToken string `json:"refresh_token"`
		InstallID    string `json:"install_id"`
	}
	if err := r.decodeLogin(&in); err != nil {
		return answer{}, err
	}
	tokens, p, err := a.Accounts.Refresh(r.Context(), in.RefreshToken, in.InstallID, r.actor)
	if err != nil {
		return answer{}, err
	}
	u := loginUser{UserID: p.ID, Email: text(p.Email), EmailVerified: p.EmailVerified}
	if p.Kind != registry.ActorUser {
		u.Role = string(p.Kind)
	}
	return ok(newTokenBody(tokens, u))
}

// signOut ends the session that asks, and the one of a refresh token in the body. An
// app that did not get the answer asks again, with a token that is dead by then.
// [contracts C.3]
func (a *api) signOut(r *request) (answer, error) {
	actor, err := a.identify(r.Request, person)
	if errors.Is(err, account.ErrSessionEnded) {
		return ok(revokedBody{Revoked: true})
	}
	if err == nil {
		err = a.limits.user(actor)
	}
	if err != nil {
		return answer{}, err
	}
	var in struct {
		RefreshToken string `json:"refresh_token"`
	}
	if err := r.decodeOptional(&in); err != nil {
		return answer{}, err
	}
	if err := a.Accounts.SignOut(r.Context(), actor, in.RefreshToken); err != nil {
		return answer{}, err
	}
	return ok(revokedBody{Revoked: true})
}

// logout ends the session that asks, or all of the caller's.
func (a *api) logout(r *request) (answer, error) {
	var in struct {
		All          bool   `json:"all"`
		RefreshToken string `json:"refresh_token"`
	}
	if err := r.decodeOptional(&in); err != nil {
		return answer{}, err
	}
	if !in.All {
		if err := a.Accounts.SignOut(r.Context(), r.actor, in.RefreshToken); err != nil {
			return answer{}, err
		}
		return ok(revokedBody{Revoked: true})
	}
	return a.endSessions(r, false)
}

// endOtherSessions ends all of the caller's sessions but the one that asks.
func (a *api) endOtherSessions(r *request) (answer, error) { return a.endSessions(r, true) }

func (a *api) endSessions(r *request, keepThis bool) (answer, error) {
	n, err := a.Accounts.EndSessions(r.Context(), r.actor, keepThis)
	if err != nil {
		return answer{}, err
	}
	return ok(revokedBody{Revoked: true, Sessions: &n})
}

// endSession ends one of the caller's sessions.
func (a *api) endSession(r *request) (answer, error) {
	sid := mux.Vars(r.Request)["sid"]
	if len(sid) > maxParam || clean(sid) != sid { // it can be nobody's
		return answer{}, account.ErrSessionNotFound
	}
	if err := a.Accounts.EndSession(r.Context(), r.actor, sid); err != nil {
		return answer{}, err
	}
	return ok(revokedBody{Revoked: true})
}

// listSessions lists the caller's live sessions, the newest first.
func (a *api) listSessions(r *request) (answer, error) {
	p, err := r.params()
	if err != nil {
		return answer{}, err
	}
	limit, err := p.number("limit", defaultLimit, 1, maxLimit)
	if err != nil {
		return answer{}, err
	}
	before, err := sessionBefore(p.Get("cursor"))
	if err != nil {
		return answer{}, err
	}
	list, err := a.Accounts.Sessions(r.Context(), r.actor, before, limit+1)
	if err != nil {
		return answer{}, err
	}
	cursor := ""
	if len(list) > limit {
		list = list[:limit]
		cursor = sessionCursor(list[limit-1].ID)
	}
	return ok(struct {
		Sessions   []sessionBody `json:"sessions"`
		NextCursor string        `json:"next_cursor"`
	}{render(list, func(x account.Session) sessionBody { return newSessionBody(x, r.actor.SessionID) }), cursor})
}

// A cursor of sessions holds a session's id, which is a text.
func sessionCursor(sid string) string {
	return base64.RawURLEncoding.EncodeToString([]byte(string(listSessions) + sid))
}

func sessionBefore(cursor string) (sid string, err error) {
	if cursor == "" {
		return "", nil
	}
	b, err := base64.RawURLEncoding.Strict().DecodeString(cursor)
	if sid = string(b); err != nil || len(b) < 2 || len(b) > maxParam || b[0] != byte(listSessions) || clean(sid) != sid {
		return "", invalid("cursor is not a cursor of this list.")
	}
	return sid[1:], nil
}

// erasedBody is the answer of an erasure.
type erasedBody struct {
	Erased bool `json:"erased"`
}

// erase removes the person who asks. [contracts, HTTP route table]
func (a *api) erase(r *request) (answer, error) {
	if r.actor.Kind != registry.ActorUser {
		return answer{}, registry.ErrInsufficientRole
	}
	if err := a.Accounts.Erase(r.Context(), r.actor, r.actor.ID); err != nil {
		return answer{}, err
	}
	return ok(erasedBody{true})
}

// linkIdentity gives the person who asks another way in.
func (a *api) linkIdentity(r *request) (answer, error) {
	if r.actor.Kind != registry.ActorUser { // before anybody is asked
		return answer{}, registry.ErrInsufficientRole
	}
	if err := a.limitLogins(r); err != nil {
		return answer{}, err
	}
	var in loginBody
	if err := r.decodeLogin(&in); err != nil {
		return answer{}, err
	}
	created, err := a.Accounts.LinkIdentity(r.Context(), r.actor, in.request())
	if err != nil {
		return answer{}, err
	}
	status := http.StatusOK
	if created {
		status = http.StatusCreated
	}
	return answer{status, struct {
		Provider string `json:"provider"`
		Linked   bool   `json:"linked"`
	}{in.Provider, true}}, nil
}

// unlinkIdentity takes a way in from the person who asks.
func (a *api) unlinkIdentity(r *request) (answer, error) {
	provider := mux.Vars(r.Request)["provider"]
	if len(provider) > maxParam || clean(provider) != provider {
		return answer{}, account.ErrIdentityNotFound
	}
	if err := a.Accounts.UnlinkIdentity(r.Context(), r.actor, provider); err != nil {
		return answer{}, err
	}
	return ok(struct {
		Provider string `json:"provider"`
		Linked   bool   `json:"linked"`
	}{provider, false})
}
