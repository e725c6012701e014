package idp

import (
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/coreos/go-oidc/v3/oidc"
	"golang.org/x/oauth2"

	"github.com/opticworks/devicecloud/account"
)

// maxGroups bounds the groups that are looked at.
const maxGroups = 1000

// StaffClient is our registration at the identity provider of staff.
type StaffClient struct {
	Issuer       string // https, or http to this machine
	ClientID     string
	ClientSecret string // "" for a public client, which PKCE protects
	RedirectURL  string // where the provider sends the browser back
	GroupsClaim  string // of the ID token: a list of texts, or one text
}

// Staff is the identity provider of staff: the authorization code flow with PKCE. It
// is safe for concurrent use. [OpenID Connect Core 1.0 3.1] [RFC 7636]
type Staff struct {
	client StaffClient
	tokens *OIDC // checks ID tokens
	http   *http.Client
	now    func() time.Time

	mu     sync.Mutex
	config *oauth2.Config // nil until the issuer has told its addresses
	tried  time.Time      // when it was asked last; zero: never
	failed error          // what came of that
}

var _ account.StaffProvider = (*Staff)(nil)

// NewStaff makes the provider, without asking it anything. It fails when a field
// cannot be right.
func NewStaff(c StaffClient, opts Options) (*Staff, error) {
	tokens, err := NewOIDC(Other(c.Issuer, []string{c.ClientID}), opts)
	if err != nil {
		return nil, err
	}
	if err := CheckURL(c.RedirectURL); err != nil {
		return nil, fmt.Errorf("idp: the address to come back to is %w", err)
	}
	if c.GroupsClaim == "" {
		return nil, errors.New("idp: the claim of the groups has no name")
	}
	opts.defaults()
	return &Staff{client: c, tokens: tokens, http: newClient(), now: opts.Now}, nil
}

// AuthURL implements account.StaffProvider.
func (s *Staff) AuthURL(ctx context.Context, f account.StaffFlow) (string, error) {
	config, err := s.discover(ctx)
	if err != nil {
		return "", err
	}
	return config.AuthCodeURL(f.State, oidc.Nonce(f.Nonce), oauth2.S256ChallengeOption(f.Verifier)), nil
}

// Exchange implements account.StaffProvider.
func (s *Staff) Exchange(ctx context.Context, code string, f account.StaffFlow) (account.StaffIdentity, error) {
	var none account.StaffIdentity
	config, err := s.discover(ctx)
	if err != nil {
		return none, err
	}
	token, err := config.Exchange(oidc.ClientContext(ctx, s.http), code, oauth2.VerifierOption(f.Verifier))
	var refused *oauth2.RetrieveError
	switch {
	case errors.As(err, &refused) && refused.Response != nil && refused.Response.StatusCode < http.StatusInternalServerError:
		return none, account.ErrInvalidToken.With(fmt.Errorf("the provider refuses the code: %.40q", refused.ErrorCode))
	case err != nil:
		return none, account.ErrProviderUnavailable.With(errors.New("the provider does not trade the code"))
	}
	text, _ := token.Extra("id_token").(string)
	who, err := s.tokens.verify(ctx, text, f.Nonce)
	var away *unreachable
	switch {
	case errors.As(err, &away), err != nil && ctx.Err() != nil:
		return none, account.ErrProviderUnavailable.With(err)
	case err != nil:
		return none, account.ErrInvalidToken.With(err)
	}
	id := account.StaffIdentity{Subject: who.Subjects[0], Email: who.Email, EmailVerified: who.EmailVerified}
	if err := s.readClaims(text, &id); err != nil {
		return none, account.ErrInvalidToken.With(err)
	}
	return id, nil
}

// readClaims reads what is special to staff from an ID token that has been verified.
func (s *Staff) readClaims(token string, id *account.StaffIdentity) error {
	payload, err := base64.RawURLEncoding.DecodeString(strings.Split(token, ".")[1])
	if err != nil {
		return errors.New("the payload is not base64")
	}
	var claims map[string]json.RawMessage
	if json.Unmarshal(payload, &claims) != nil {
		return errors.New("the payload is not JSON")
	}
	if _, told := claims["email_verified"]; !told { // a company's own directory need not say it
		id.EmailVerified = true
	}
	groups, told := claims[s.client.GroupsClaim]
	if !told {
		return nil
	}
	var one string
	if json.Unmarshal(groups, &one) == nil {
		id.Groups = []string{one}
		return nil
	}
	if json.Unmarshal(groups, &id.Groups) != nil {
		return errors.New("the groups are not a list of texts")
	}
	if len(id.Groups) > maxGroups {
		return errors.New("too many groups")
	}
	return nil
}

// discover asks the issuer for its addresses, once it has answered never again.
// [OpenID Connect Discovery 1.0 4]
func (s *Staff) discover(ctx context.Context) (*oauth2.Config, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	now := s.now()
	if s.config != nil || !s.tried.IsZero() && now.Sub(s.tried) < fetchPause { // whoever opens the page must not make us hammer the issuer
		return s.config, s.failed
	}
	s.tried = now
	s.config, s.failed = s.ask(ctx)
	return s.config, s.failed
}

// ask reads the issuer's addresses. It is called with mu held.
func (s *Staff) ask(ctx context.Context) (*oauth2.Config, error) {
	// Others wait for the answer too: it does not depend on who asked first.
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), fetchTime)
	defer cancel()
	p, err := oidc.NewProvider(oidc.ClientContext(ctx, s.http), s.client.Issuer)
	if err != nil {
		return nil, account.ErrProviderUnavailable.With(brief(withoutURL(err)))
	}
	endpoint := p.Endpoint()
	if u, err := url.Parse(endpoint.AuthURL); err != nil || u.Host == "" || checkURL(u) != nil {
		return nil, account.ErrProviderUnavailable.With(errors.New("the provider's authorization endpoint is no https address"))
	}
	var known struct {
		Scopes []string `json:"scopes_supported"`
	}
	if err := p.Claims(&known); err != nil {
		return nil, account.ErrProviderUnavailable.With(brief(err))
	}
	scopes := []string{oidc.ScopeOpenID, "email"}
	if slices.Contains(known.Scopes, s.client.GroupsClaim) { // some give the groups only to who asks
		scopes = append(scopes, s.client.GroupsClaim)
	}
	return &oauth2.Config{
		ClientID: s.client.ClientID, ClientSecret: s.client.ClientSecret, Endpoint: endpoint, RedirectURL: s.client.RedirectURL, Scopes: scopes,
	}, nil
}
