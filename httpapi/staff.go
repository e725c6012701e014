package httpapi

import (
	"encoding/json"
	"net/http"
	"time"

	"github.com/opticworks/devicecloud/account"
)

// staffBody is a member of staff.
type staffBody struct {
	AdminID   string    `json:"admin_id"`
	Email     string    `json:"email"`
	Role      string    `json:"role"`   // admin, support
	Scopes    []string  `json:"scopes"` // granted beyond those of the role
	Disabled  bool      `json:"disabled"`
	TOTP      bool      `json:"totp"` // a login needs the code of an authenticator
	OIDC      bool      `json:"oidc"` // signs in through the identity provider of staff
	CreatedAt time.Time `json:"created_at"`
}

func newStaffBody(m account.Admin) staffBody {
	return staffBody{
		AdminID: m.ID, Email: m.Email, Role: string(m.Role), Scopes: append([]string{}, m.Scopes...), Disabled: !m.DisabledAt.IsZero(), TOTP: !m.TOTPConfirmedAt.IsZero(),
		OIDC: m.OIDCSubject != "", CreatedAt: m.CreatedAt.UTC(),
	}
}

func (a *api) listStaff(r *request) (answer, error) {
	q, err := r.params()
	if err != nil {
		return answer{}, err
	}
	after, limit, err := q.textPage(listStaff)
	if err != nil {
		return answer{}, err
	}
	rows, err := a.Accounts.Staff(r.Context(), r.actor, after, limit+1)
	if err != nil {
		return answer{}, err
	}
	rows, cursor := nextText(listStaff, rows, limit, func(m account.Admin) string { return m.ID })
	return ok(struct {
		Staff      []staffBody `json:"staff"`
		NextCursor string      `json:"next_cursor"`
	}{render(rows, newStaffBody), cursor})
}

func (a *api) createStaff(r *request) (answer, error) {
	var in struct {
		Email    string   `json:"email"`
		Password string   `json:"password"`
		Role     string   `json:"role"`
		Scopes   []string `json:"scopes"`
	}
	if err := r.decode(&in, maxJSON); err != nil {
		return answer{}, err
	}
	if in.Email == "" || in.Password == "" || in.Role == "" {
		return answer{}, account.ErrMissingFields
	}
	m, err := a.Accounts.CreateStaff(r.Context(), r.actor, in.Email, in.Password, account.AdminRole(in.Role), in.Scopes)
	if err != nil {
		return answer{}, err
	}
	return answer{http.StatusCreated, newStaffBody(m)}, nil
}

func (a *api) changeStaff(r *request) (answer, error) {
	id, err := r.id("id", account.ErrAdminNotFound)
	if err != nil {
		return answer{}, err
	}
	var in struct {
		Role     *string   `json:"role"`
		Scopes   *[]string `json:"scopes"`
		Disabled *bool     `json:"disabled"`
	}
	if err := r.decode(&in, maxJSON); err != nil {
		return answer{}, err
	}
	if in.Role == nil && in.Scopes == nil && in.Disabled == nil {
		return answer{}, account.ErrMissingFields
	}
	change := account.StaffChange{Role: (*account.AdminRole)(in.Role), Scopes: in.Scopes, Disabled: in.Disabled}
	m, err := a.Accounts.ChangeStaff(r.Context(), r.actor, id, change)
	if err != nil {
		return answer{}, err
	}
	return ok(newStaffBody(m))
}

// totpBody says whether a login needs the code of an authenticator.
type totpBody struct {
	Enabled bool `json:"enabled"`
}

// resetTOTP takes the second proof from a member who has lost it.
func (a *api) resetTOTP(r *request) (answer, error) {
	id, err := r.id("id", account.ErrAdminNotFound)
	if err != nil {
		return answer{}, err
	}
	if err := a.Accounts.ResetTOTP(r.Context(), r.actor, id); err != nil {
		return answer{}, err
	}
	return ok(totpBody{false})
}

// startTOTP gives the member who asks a new shared secret, which counts once it is
// confirmed.
func (a *api) startTOTP(r *request) (answer, error) {
	secret, address, err := a.Accounts.StartTOTP(r.Context(), r.actor)
	if err != nil {
		return answer{}, err
	}
	return ok(struct {
		Secret     string `json:"secret"` // base32
		OtpauthURL string `json:"otpauth_url"`
	}{secret.Reveal(), address})
}

func (a *api) confirmTOTP(r *request) (answer, error) {
	code, err := r.code()
	if err != nil {
		return answer{}, err
	}
	if err := a.Accounts.ConfirmTOTP(r.Context(), r.actor, code); err != nil {
		return answer{}, err
	}
	return ok(totpBody{true})
}

func (a *api) disableTOTP(r *request) (answer, error) {
	code, err := r.code()
	if err != nil {
		return answer{}, err
	}
	if err := a.Accounts.DisableTOTP(r.Context(), r.actor, code); err != nil {
		return answer{}, err
	}
	return ok(totpBody{false})
}

// code is the code of an authenticator in a body.
func (r *request) code() (string, error) {
	var in struct {
		Code string `json:"code"`
	}
	err := r.decode(&in, maxLogin)
	return in.Code, err
}

// staffCookie keeps a sign-in at the identity provider of staff in the browser, sealed.
const (
	staffCookie     = "devicecloud_staff_login"
	staffCookiePath = "/admin/auth/oidc"
)

// beginStaffLogin sends the browser to the identity provider of staff.
func (a *api) beginStaffLogin(r *request) (answer, error) {
	if !a.Accounts.StaffOIDC() {
		return answer{}, errFeatureDisabled
	}
	if err := a.limitLogins(r); err != nil {
		return answer{}, err
	}
	address, kept, err := a.Accounts.BeginStaffLogin(r.Context())
	if err != nil {
		return answer{}, err
	}
	a.setStaffCookie(r, kept, int(account.StaffFlowTTL/time.Second))
	r.w.Header().Set("Location", address)
	return answer{http.StatusFound, json.RawMessage(`{}`)}, nil
}

// finishStaffLogin is where the provider sends the browser back; it answers as the
// login by password does.
func (a *api) finishStaffLogin(r *request) (answer, error) {
	if !a.Accounts.StaffOIDC() {
		return answer{}, errFeatureDisabled
	}
	if err := a.limitLogins(r); err != nil {
		return answer{}, err
	}
	q, err := r.params()
	if err != nil {
		return answer{}, err
	}
	back := account.StaffReturn{State: q.Get("state"), Code: q.Get("code")}
	if c, err := r.Cookie(staffCookie); err == nil {
		back.Kept = c.Value
	}
	a.setStaffCookie(r, "", -1)
	tokens, m, err := a.Accounts.FinishStaffLogin(r.Context(), back, r.actor)
	if err != nil {
		return answer{}, err
	}
	return ok(newTokenBody(tokens, loginUser{UserID: m.ID, Email: text(m.Email), EmailVerified: true, Role: string(m.Role)}))
}

func (a *api) setStaffCookie(r *request, value string, maxAge int) {
	http.SetCookie(r.w, &http.Cookie{
		Name: staffCookie, Value: value, Path: staffCookiePath, MaxAge: maxAge,
		Secure: exchangeOf(r.Request).secure, HttpOnly: true, SameSite: http.SameSiteLaxMode,
	})
}
