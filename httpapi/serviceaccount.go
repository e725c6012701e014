package httpapi

import (
	"context"
	"net/http"
	"time"

	"github.com/opticworks/devicecloud/account"
	"github.com/opticworks/devicecloud/registry"
)

// serviceAccountBody is a service account.
type serviceAccountBody struct {
	ClientID  string    `json:"client_id"`
	Name      string    `json:"name"`
	Scopes    []string  `json:"scopes"`
	Disabled  bool      `json:"disabled"`
	CreatedBy string    `json:"created_by"` // as in the audit trail
	CreatedAt time.Time `json:"created_at"`
}

// newClientBody is a service account with its client secret, which is shown once.
type newClientBody struct {
	serviceAccountBody
	ClientSecret string `json:"client_secret"`
}

func newServiceAccountBody(s account.ServiceAccount) serviceAccountBody {
	return serviceAccountBody{s.ID, s.Name, s.Scopes, !s.DisabledAt.IsZero(), s.CreatedBy, s.CreatedAt.UTC()}
}

func (a *api) listServiceAccounts(r *request) (answer, error) {
	q, err := r.params()
	if err != nil {
		return answer{}, err
	}
	after, limit, err := q.textPage(listServices)
	if err != nil {
		return answer{}, err
	}
	rows, err := a.Accounts.ServiceAccounts(r.Context(), r.actor, after, limit+1)
	if err != nil {
		return answer{}, err
	}
	rows, cursor := nextText(listServices, rows, limit, func(s account.ServiceAccount) string { return s.ID })
	return ok(struct {
		ServiceAccounts []serviceAccountBody `json:"service_accounts"`
		NextCursor      string               `json:"next_cursor"`
	}{render(rows, newServiceAccountBody), cursor})
}

func (a *api) createServiceAccount(r *request) (answer, error) {
	var in struct {
		Name   string   `json:"name"`
		Scopes []string `json:"scopes"`
	}
	if err := r.decode(&in, maxJSON); err != nil {
		return answer{}, err
	}
	if in.Name == "" || len(in.Scopes) == 0 {
		return answer{}, account.ErrMissingFields
	}
	s, secret, err := a.Accounts.CreateServiceAccount(r.Context(), r.actor, in.Name, in.Scopes)
	if err != nil {
		return answer{}, err
	}
	return answer{http.StatusCreated, newClientBody{newServiceAccountBody(s), secret.Reveal()}}, nil
}

func (a *api) getServiceAccount(r *request) (answer, error) {
	id, err := r.id("id", account.ErrServiceAccountNotFound)
	if err != nil {
		return answer{}, err
	}
	s, err := a.Accounts.ServiceAccount(r.Context(), r.actor, id)
	if err != nil {
		return answer{}, err
	}
	return ok(newServiceAccountBody(s))
}

func (a *api) deleteServiceAccount(r *request) (answer, error) {
	id, err := r.id("id", account.ErrServiceAccountNotFound)
	if err != nil {
		return answer{}, err
	}
	if err := a.Accounts.DeleteServiceAccount(r.Context(), r.actor, id); err != nil {
		return answer{}, err
	}
	return ok(struct {
		Deleted  bool   `json:"deleted"`
		ClientID string `json:"client_id"`
	}{true, id})
}

// clientDisabledBody is the answer of disabling and enabling a service account.
type clientDisabledBody struct {
	ClientID string `json:"client_id"`
	Disabled bool   `json:"disabled"`
}

func (a *api) disableServiceAccount(r *request) (answer, error) {
	return setServiceAccountDisabled(r, true, a.Accounts.DisableServiceAccount)
}

func (a *api) enableServiceAccount(r *request) (answer, error) {
	return setServiceAccountDisabled(r, false, a.Accounts.EnableServiceAccount)
}

func setServiceAccountDisabled(r *request, disabled bool, set func(context.Context, registry.Actor, string) error) (answer, error) {
	id, err := r.id("id", account.ErrServiceAccountNotFound)
	if err != nil {
		return answer{}, err
	}
	if err := set(r.Context(), r.actor, id); err != nil {
		return answer{}, err
	}
	return ok(clientDisabledBody{id, disabled})
}

// rotateClientSecret replaces the client secret, which is shown once.
func (a *api) rotateClientSecret(r *request) (answer, error) {
	id, err := r.id("id", account.ErrServiceAccountNotFound)
	if err != nil {
		return answer{}, err
	}
	secret, err := a.Accounts.RotateClientSecret(r.Context(), r.actor, id)
	if err != nil {
		return answer{}, err
	}
	return ok(struct {
		ClientID     string `json:"client_id"`
		ClientSecret string `json:"client_secret"`
	}{id, secret.Reveal()})
}

// keyBody is an API key without its secret.
type keyBody struct {
	KeyID      string     `json:"key_id"`
	Prefix     string     `json:"prefix"` // how the key's text begins
	Name       string     `json:"name"`
	Scopes     []string   `json:"scopes"`
	CreatedAt  time.Time  `json:"created_at"`
	ExpiresAt  *time.Time `json:"expires_at"`
	LastUsedAt *time.Time `json:"last_used_at"` // exact to a minute
	RevokedAt  *time.Time `json:"revoked_at"`
}

// newKeyBody is an API key with its text, which is shown once.
type newAPIKeyBody struct {
	keyBody
	APIKey string `json:"api_key"`
}

func newKeyBody(c account.ServiceCredential) keyBody {
	return keyBody{c.ID, "bk_" + c.ID, c.Name, c.Scopes, c.CreatedAt.UTC(), stamp(c.ExpiresAt), stamp(c.LastUsedAt), stamp(c.RevokedAt)}
}

func (a *api) listAPIKeys(r *request) (answer, error) {
	id, err := r.id("id", account.ErrServiceAccountNotFound)
	if err != nil {
		return answer{}, err
	}
	list, err := a.Accounts.APIKeys(r.Context(), r.actor, id)
	if err != nil {
		return answer{}, err
	}
	return ok(struct {
		Keys []keyBody `json:"keys"`
	}{render(list, newKeyBody)})
}

func (a *api) createAPIKey(r *request) (answer, error) {
	id, err := r.id("id", account.ErrServiceAccountNotFound)
	if err != nil {
		return answer{}, err
	}
	var in struct {
		Name      string     `json:"name"`
		Scopes    []string   `json:"scopes"`
		ExpiresAt *time.Time `json:"expires_at"`
	}
	if err := r.decode(&in, maxJSON); err != nil {
		return answer{}, err
	}
	if in.Name == "" {
		return answer{}, account.ErrMissingFields
	}
	k := account.NewKey{Name: in.Name, Scopes: in.Scopes}
	if in.ExpiresAt != nil {
		k.ExpiresAt = *in.ExpiresAt
	}
	c, secret, err := a.Accounts.CreateAPIKey(r.Context(), r.actor, id, k)
	if err != nil {
		return answer{}, err
	}
	return answer{http.StatusCreated, newAPIKeyBody{newKeyBody(c), secret.Reveal()}}, nil
}

func (a *api) revokeAPIKey(r *request) (answer, error) {
	id, err := r.id("id", account.ErrServiceAccountNotFound)
	if err != nil {
		return answer{}, err
	}
	key, err := r.id("key_id", account.ErrCredentialNotFound)
	if err != nil {
		return answer{}, err
	}
	if err := a.Accounts.RevokeAPIKey(r.Context(), r.actor, id, key); err != nil {
		return answer{}, err
	}
	return ok(struct {
		Revoked bool   `json:"revoked"`
		KeyID   string `json:"key_id"`
	}{true, key})
}
