package httpapi

import (
	"encoding/json"
	"errors"
	"time"

	"github.com/opticworks/devicecloud/account"
)

// tokenBody is the answer of every login. [contracts C.1]
type tokenBody struct {
	AccessToken      string    `json:"access_token"`
	TokenType        string    `json:"token_type"`
	ExpiresIn        int64     `json:"expires_in"` // seconds
	RefreshToken     string    `json:"refresh_token"`
	RefreshExpiresIn int64     `json:"refresh_expires_in"` // seconds
	User             loginUser `json:"user"`
}

type loginUser struct {
	UserID        string  `json:"user_id"`
	Email         *string `json:"email"`
	EmailVerified bool    `json:"email_verified"`
	Role          string  `json:"role,omitempty"` // of staff
}

func newTokenBody(t account.Tokens, u loginUser) tokenBody {
	return tokenBody{
		AccessToken: t.Access.Reveal(), TokenType: "Bearer", ExpiresIn: int64(t.TTL / time.Second),
		RefreshToken: t.Refresh.Reveal(), RefreshExpiresIn: int64(t.RefreshTTL / time.Second), User: u,
	}
}

// limitLogins charges an attempt to sign in; it comes before the body is looked at.
func (a *api) limitLogins(r *request) error {
	return a.limits.login(exchangeOf(r.Request).address)
}

// loginBody is what an app shows of a provider. [contracts C.1]
type loginBody struct {
	Provider string `json:"provider"`
	IDToken  string `json:"id_token"`
	Code     string `json:"code"`
	Nonce    string `json:"nonce"`
	Device   struct {
		InstallID string `json:"install_id"`
		Platform  string `json:"platform"`
		Name      string `json:"name"`
	} `json:"device"`
}

func (b loginBody) request() account.LoginRequest {
	return account.LoginRequest{
		Provider: b.Provider, IDToken: b.IDToken, Code: b.Code, Nonce: b.Nonce,
		Device: account.Device{InstallID: b.Device.InstallID, Platform: b.Device.Platform, Name: b.Device.Name},
	}
}

// decodeLogin is decode for a body that holds a proof of who somebody is: one that is
// too large is an invalid request. [contracts C.1]
func (r *request) decodeLogin(v any) error {
	err := r.decode(v, maxLogin)
	if errors.Is(err, errTooLarge) {
		return invalid("The body is larger than 16 KiB.")
	}
	return err
}

// login lets a person in by a provider's token.
func (a *api) login(r *request) (answer, error) {
	if err := a.limitLogins(r); err != nil {
		return answer{}, err
	}
	var in loginBody
	if err := r.decodeLogin(&in); err != nil {
		return answer{}, err
	}
	if err := a.limits.install(in.Device.InstallID); err != nil {
		return answer{}, err
	}
	if in.Device.Platform == "miniapp" {
		r.actor.ClientType = in.Device.Platform
	}
	tokens, u, err := a.Accounts.Login(r.Context(), in.request(), r.actor)
	if err != nil {
		return answer{}, err
	}
	return ok(newTokenBody(tokens, loginUser{UserID: u.ID, Email: text(u.Email), EmailVerified: u.EmailVerified}))
}

// adminLogin lets a member of staff in by password.
func (a *api) adminLogin(r *request) (answer, error) {
	var in struct {
		Email    string `json:"email"`
		Password string `json:"password"`
		TOTP     string `json:"totp"`
	}
	if err := a.limitLogins(r); err != nil {
		return answer{}, err
	}
	if err := r.decode(&in, maxLogin); err != nil {
		return answer{}, err
	}
	tokens, m, err := a.Accounts.AdminLogin(r.Context(), account.AdminLogin{Email: in.Email, Password: in.Password, TOTP: in.TOTP}, r.actor)
	if err != nil {
		return answer{}, err
	}
	return ok(newTokenBody(tokens, loginUser{UserID: m.ID, Email: text(m.Email), EmailVerified: true, Role: string(m.Role)}))
}

// jwks publishes the keys that our tokens are signed with.
func (a *api) jwks(r *request) (answer, error) {
	r.w.Header().Set("Cache-Control", "public, max-age=300")
	return ok(json.RawMessage(a.Accounts.JWKS()))
}

// meBody is a signed-in person.
type meBody struct {
	UserID        string         `json:"user_id"`
	Kind          string         `json:"kind"` // user, admin, support, service
	Email         *string        `json:"email"`
	EmailVerified bool           `json:"email_verified"`
	Scopes        []string       `json:"scopes"`     // of the token
	Identities    []identityBody `json:"identities"` // the oldest first; none of staff
	CreatedAt     time.Time      `json:"created_at"`
}

// identityBody is a provider by which a person gets in.
type identityBody struct {
	Provider  string    `json:"provider"`
	CreatedAt time.Time `json:"created_at"`
}

func (a *api) me(r *request) (answer, error) {
	p, err := a.Accounts.Me(r.Context(), r.actor)
	if err != nil {
		return answer{}, err
	}
	return ok(meBody{
		UserID: p.ID, Kind: string(p.Kind), Email: text(p.Email), EmailVerified: p.EmailVerified, Scopes: append([]string{}, r.actor.Scopes...),
		Identities: render(p.Identities, func(i account.LinkedIdentity) identityBody { return identityBody{i.Provider, i.CreatedAt.UTC()} }),
		CreatedAt:  p.CreatedAt.UTC(),
	})
}
