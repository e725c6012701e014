package httpapi

import (
	"encoding/base64"
	"errors"
	"net/http"
	"net/url"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/opticworks/devicecloud/account"
)

// The errors of the token endpoint, beside account.ErrInvalidClient and
// account.ErrInvalidScope. [RFC 6749 5.2]
var (
	errGrantType = &httpError{http.StatusBadRequest, "unsupported_grant_type", "The grant_type must be client_credentials."}
	errForm      = &httpError{http.StatusBadRequest, "invalid_request", "The request is not a well-formed token request."}
)

// oauthError is an error of the token endpoint, whose answers are shaped as RFC 6749
// has them.
type oauthError struct{ error }

func (e oauthError) Unwrap() error { return e.error }

// oauthProblem is the shape of the token endpoint's errors. [RFC 6749 5.2]
type oauthProblem struct {
	Error       string `json:"error"`
	Description string `json:"error_description"`
	RequestID   string `json:"request_id"`
}

// tokenRequest is a request for a token.
type tokenRequest struct {
	clientID, clientSecret string
	scopes                 []string
}

// clientCredentials gives a service account an access token. [RFC 6749 4.4]
func (a *api) clientCredentials(r *request) (answer, error) {
	ans, err := a.serviceToken(r)
	if err != nil {
		return answer{}, oauthError{err}
	}
	return ans, nil
}

func (a *api) serviceToken(r *request) (answer, error) {
	if err := a.limitLogins(r); err != nil {
		return answer{}, err
	}
	body, err := r.body("application/x-www-form-urlencoded", maxLogin)
	var own *httpError
	switch {
	case errors.As(err, &own):
		return answer{}, &httpError{http.StatusBadRequest, errForm.code, own.message}
	case err != nil:
		return answer{}, err
	}
	req, err := parseTokenRequest(string(body), r.Header.Values("Authorization"))
	if err != nil {
		return answer{}, err
	}
	tokens, scopes, err := a.Accounts.ClientCredentials(r.Context(), req.clientID, req.clientSecret, req.scopes, r.actor)
	if err != nil {
		return answer{}, err
	}
	r.w.Header().Set("Pragma", "no-cache") // [RFC 6749 5.1]
	return ok(struct {
		AccessToken string `json:"access_token"`
		TokenType   string `json:"token_type"`
		ExpiresIn   int64  `json:"expires_in"` // seconds
		Scope       string `json:"scope"`      // space-separated
	}{tokens.Access.Reveal(), "Bearer", int64(tokens.TTL / time.Second), strings.Join(scopes, " ")})
}

// parseTokenRequest reads the form and the Authorization header of a token request. A
// parameter that stands twice, and two ways of authentication at once, are wrong.
// [RFC 6749 2.3, 3.2]
func parseTokenRequest(form string, authorization []string) (t tokenRequest, err error) {
	q, err := url.ParseQuery(form)
	if err != nil {
		return t, errForm
	}
	for name, values := range q {
		if len(values) > 1 || !utf8.ValidString(name) || !utf8.ValidString(values[0]) {
			return t, errForm
		}
	}
	switch grant := q.Get("grant_type"); grant {
	case "client_credentials":
	case "":
		return t, errForm
	default:
		return t, errGrantType
	}
	if t.clientID, t.clientSecret, err = clientOf(q, authorization); err != nil {
		return t, err
	}
	// What cannot be a client is none: no text from outside goes further.
	if !saneID(t.clientID) || len(t.clientSecret) > maxParam {
		return t, account.ErrInvalidClient
	}
	if q.Get("scope") != "" {
		t.scopes = strings.Fields(q.Get("scope"))
		if len(t.scopes) == 0 || len(t.scopes) > 20 {
			return t, account.ErrInvalidScope
		}
	}
	return t, nil
}

// clientOf is the client's id and secret, from the header or from the form.
func clientOf(q url.Values, authorization []string) (id, secret string, err error) {
	if len(authorization) == 0 {
		if q.Get("client_id") == "" || q.Get("client_secret") == "" {
			return "", "", account.ErrInvalidClient
		}
		return q.Get("client_id"), q.Get("client_secret"), nil
	}
	if len(authorization) > 1 || q.Has("client_secret") {
		return "", "", errForm
	}
	id, secret, ok := basic(authorization[0])
	if !ok {
		return "", "", account.ErrInvalidClient
	}
	if q.Has("client_id") && q.Get("client_id") != id {
		return "", "", errForm
	}
	return id, secret, nil
}

// basic takes HTTP Basic credentials apart; both are form-encoded. [RFC 6749 2.3.1]
func basic(header string) (id, secret string, ok bool) {
	scheme, encoded, ok := strings.Cut(header, " ")
	if !ok || !strings.EqualFold(scheme, "Basic") {
		return "", "", false
	}
	b, err := base64.StdEncoding.DecodeString(strings.Trim(encoded, " "))
	if err != nil || !utf8.Valid(b) {
		return "", "", false
	}
	if id, secret, ok = strings.Cut(string(b), ":"); !ok {
		return "", "", false
	}
	if id, err = url.QueryUnescape(id); err != nil {
		return "", "", false
	}
	if secret, err = url.QueryUnescape(secret); err != nil {
		return "", "", false
	}
	return id, secret, id != "" && secret != ""
}
