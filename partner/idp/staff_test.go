package idp_test

import (
	"context"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"maps"
	"net/http"
	"net/http/httptest"
	"net/url"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/opticworks/devicecloud/account"
	"github.com/opticworks/devicecloud/partner/idp"
)

const (
	staffClient   = "devicecloud-console"
	staffRedirect = "https://cloud.example.com/admin/auth/oidc/callback"
)

// staffIssuer is an issuer with the authorization code flow: it holds the client to
// PKCE, to its redirect address and to codes that work once.
type staffIssuer struct {
	*fakeIssuer
	t      *testing.T
	secret string // of the client; "" for a public one

	mu     sync.Mutex
	grants map[string]url.Values // code -> what was asked for
	claims map[string]any        // changes to what the ID token says
	answer func(w http.ResponseWriter)
}

func newStaffIssuer(t *testing.T, scopes ...string) *staffIssuer {
	t.Helper()
	s := &staffIssuer{fakeIssuer: newIssuer(t), t: t, grants: map[string]url.Values{}}
	tokens := httptest.NewServer(http.HandlerFunc(s.token))
	t.Cleanup(tokens.Close)
	s.answerDiscovery(func(w http.ResponseWriter, _ *http.Request) {
		_ = json.NewEncoder(w).Encode(map[string]any{
			"issuer": s.url(), "jwks_uri": s.url() + "/keys", "authorization_endpoint": "https://idp.example.com/authorize",
			"token_endpoint": tokens.URL + "/token", "scopes_supported": append([]string{"openid", "email"}, scopes...),
			"token_endpoint_auth_methods_supported": []string{"client_secret_basic", "none"},
		})
	})
	return s
}

func (s *staffIssuer) provider(t *testing.T) *idp.Staff {
	t.Helper()
	return s.providerAt(t, time.Now)
}

func (s *staffIssuer) providerAt(t *testing.T, now func() time.Time) *idp.Staff {
	t.Helper()
	p, err := idp.NewStaff(idp.StaffClient{Issuer: s.url(), ClientID: staffClient, ClientSecret: s.secret, RedirectURL: staffRedirect, GroupsClaim: "groups"}, idp.Options{Now: now})
	if err != nil {
		t.Fatal(err)
	}
	return p
}

// authorize is a person who signs in at the address that the browser was sent to.
func (s *staffIssuer) authorize(address string) (code string) {
	s.t.Helper()
	u, err := url.Parse(address)
	if err != nil {
		s.t.Fatal(err)
	}
	q := u.Query()
	if u.Host != "idp.example.com" || q.Get("response_type") != "code" || q.Get("client_id") != staffClient || q.Get("redirect_uri") != staffRedirect ||
		q.Get("code_challenge_method") != "S256" || q.Get("code_challenge") == "" || q.Get("nonce") == "" || q.Get("state") == "" {
		s.t.Errorf("the browser is sent to %s", address)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	code = "code-" + q.Get("state")
	s.grants[code] = q
	return code
}

func (s *staffIssuer) token(w http.ResponseWriter, r *http.Request) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.answer != nil {
		s.answer(w)
		return
	}
	asked, known := s.grants[r.FormValue("code")]
	delete(s.grants, r.FormValue("code"))
	sum := sha256.Sum256([]byte(r.FormValue("code_verifier")))
	id, secret, basic := r.BasicAuth()
	if !basic {
		id = r.FormValue("client_id")
	}
	w.Header().Set("Content-Type", "application/json")
	if !known || r.FormValue("grant_type") != "authorization_code" || b64(sum[:]) != asked.Get("code_challenge") ||
		r.FormValue("redirect_uri") != staffRedirect || id != staffClient || secret != s.secret {
		w.WriteHeader(http.StatusBadRequest)
		_ = json.NewEncoder(w).Encode(map[string]string{"error": "invalid_grant", "error_description": "canary-of-the-provider"})
		return
	}
	changes := map[string]any{"aud": staffClient, "nonce": asked.Get("nonce"), "groups": []string{"ops", "all"}}
	maps.Copy(changes, s.claims)
	_ = json.NewEncoder(w).Encode(map[string]any{
		"access_token": "opaque", "token_type": "Bearer", "id_token": s.fakeIssuer.token(s.t, s.fakeIssuer.claims(time.Now(), changes)),
	})
}

func (s *staffIssuer) say(claims map[string]any) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.claims = claims
}

var flow = account.StaffFlow{State: "state-1", Nonce: "nonce-1", Verifier: strings.Repeat("v", 43)}

func TestStaffSignIn(t *testing.T) {
	ctx := context.Background()
	signIn := func(t *testing.T, s *staffIssuer) (account.StaffIdentity, error) {
		t.Helper()
		p := s.provider(t)
		address, err := p.AuthURL(ctx, flow)
		if err != nil {
			t.Fatal(err)
		}
		return p.Exchange(ctx, s.authorize(address), flow)
	}
	t.Run("says who it is and in which groups, as a public client and with a secret", func(t *testing.T) {
		for _, secret := range []string{"", "client-secret"} {
			s := newStaffIssuer(t)
			s.secret = secret
			who, err := signIn(t, s)
			if err != nil {
				t.Fatal(err)
			}
			if who.Subject != "subject-1" || who.Email != "ann@example.com" || !who.EmailVerified || !slices.Equal(who.Groups, []string{"ops", "all"}) {
				t.Errorf("%+v", who)
			}
		}
	})
	t.Run("a company's directory need not say that an e-mail is verified, but may say that it is not", func(t *testing.T) {
		s := newStaffIssuer(t)
		s.say(map[string]any{"email_verified": nil})
		if who, err := signIn(t, s); err != nil || !who.EmailVerified {
			t.Errorf("%+v, %v", who, err)
		}
		s.say(map[string]any{"email_verified": false})
		if who, err := signIn(t, s); err != nil || who.EmailVerified {
			t.Errorf("%+v, %v", who, err)
		}
	})
	t.Run("groups may be one text, or missing, and nothing else", func(t *testing.T) {
		for name, c := range map[string]struct {
			groups any
			want   []string
			err    error
		}{
			"one text":       {"ops", []string{"ops"}, nil},
			"missing":        {nil, nil, nil},
			"a number":       {5, nil, account.ErrInvalidToken},
			"mixed":          {[]any{"ops", 5}, nil, account.ErrInvalidToken},
			"an object":      {map[string]any{"ops": true}, nil, account.ErrInvalidToken},
			"more than 1000": {slices.Repeat([]string{"g"}, 1001), nil, account.ErrInvalidToken},
		} {
			t.Run(name, func(t *testing.T) {
				s := newStaffIssuer(t)
				s.say(map[string]any{"groups": c.groups})
				who, err := signIn(t, s)
				if !errors.Is(err, c.err) || !slices.Equal(who.Groups, c.want) {
					t.Errorf("%v, %v", who.Groups, err)
				}
			})
		}
	})
	t.Run("asks for the groups where the provider has a scope for them", func(t *testing.T) {
		for scope, want := range map[string]string{"groups": "openid email groups", "profile": "openid email"} {
			address, err := newStaffIssuer(t, scope).provider(t).AuthURL(ctx, flow)
			u, _ := url.Parse(address)
			if err != nil || u.Query().Get("scope") != want {
				t.Errorf("%s, %v", address, err)
			}
		}
	})
	t.Run("refuses what is not good", func(t *testing.T) {
		other := newStaffIssuer(t)
		for name, claims := range map[string]map[string]any{
			"another nonce":    {"nonce": "other"},
			"no nonce":         {"nonce": nil},
			"another audience": {"aud": clientIOS},
			"another issuer":   {"iss": other.url()},
			"expired":          {"exp": time.Now().Add(-time.Hour).Unix(), "iat": time.Now().Add(-2 * time.Hour).Unix()},
			"no subject":       {"sub": nil},
		} {
			t.Run(name, func(t *testing.T) {
				s := newStaffIssuer(t)
				s.say(claims)
				if who, err := signIn(t, s); !errors.Is(err, account.ErrInvalidToken) {
					t.Errorf("%+v, %v", who, err)
				}
			})
		}
		s := newStaffIssuer(t)
		p := s.provider(t)
		address, err := p.AuthURL(ctx, flow)
		if err != nil {
			t.Fatal(err)
		}
		code := s.authorize(address)
		thief := flow
		thief.Verifier = strings.Repeat("w", 43)
		if _, err := p.Exchange(ctx, code, thief); !errors.Is(err, account.ErrInvalidToken) || strings.Contains(err.Error(), "canary") {
			t.Errorf("another verifier: %v", err)
		}
		if _, err := p.Exchange(ctx, code, flow); !errors.Is(err, account.ErrInvalidToken) {
			t.Errorf("a used code: %v", err)
		}
		code = s.authorize(address)
		s.rotate("second", testKeys()[1])
		if _, err := p.Exchange(ctx, code, flow); err != nil {
			t.Errorf("after a change of keys: %v", err)
		}
	})
	t.Run("a provider that is away is said to be away, and asked again", func(t *testing.T) {
		s := newStaffIssuer(t)
		good := s.discoveryNow()
		s.answerDiscovery(func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusBadGateway) })
		now := time.Now()
		p := s.providerAt(t, func() time.Time { return now })
		if _, err := p.AuthURL(ctx, flow); !errors.Is(err, account.ErrProviderUnavailable) {
			t.Error(err)
		}
		s.answerDiscovery(good)
		if _, err := p.AuthURL(ctx, flow); !errors.Is(err, account.ErrProviderUnavailable) {
			t.Error("it is asked again at once: anybody could make us hammer it", err)
		}
		now = now.Add(10 * time.Second)
		address, err := p.AuthURL(ctx, flow)
		if err != nil {
			t.Fatal(err)
		}
		code := s.authorize(address)
		s.mu.Lock()
		s.answer = func(w http.ResponseWriter) { w.WriteHeader(http.StatusBadGateway) }
		s.mu.Unlock()
		if _, err := p.Exchange(ctx, code, flow); !errors.Is(err, account.ErrProviderUnavailable) {
			t.Error(err)
		}
		for name, answer := range map[string]string{"no ID token": `{"access_token":"x","token_type":"Bearer"}`, "an ID token of another type": `{"access_token":"x","token_type":"Bearer","id_token":5}`} {
			s.mu.Lock()
			s.answer = func(w http.ResponseWriter) {
				w.Header().Set("Content-Type", "application/json")
				_, _ = w.Write([]byte(answer))
			}
			s.mu.Unlock()
			if _, err := p.Exchange(ctx, code, flow); !errors.Is(err, account.ErrInvalidToken) {
				t.Errorf("%s: %v", name, err)
			}
		}
	})
	t.Run("an issuer that names another, or no address for browsers, is not used", func(t *testing.T) {
		for _, document := range []map[string]any{
			{"issuer": "https://evil.example.com", "authorization_endpoint": "https://a.example.com/", "token_endpoint": "https://a.example.com/", "jwks_uri": "https://a.example.com/"},
			{"authorization_endpoint": "javascript:alert(1)"},
			{"authorization_endpoint": "http://idp.example.com/"},
			{},
		} {
			s := newStaffIssuer(t)
			s.answerDiscovery(func(w http.ResponseWriter, _ *http.Request) {
				d := map[string]any{"issuer": s.url(), "jwks_uri": s.url() + "/keys", "token_endpoint": s.url() + "/token"}
				maps.Copy(d, document)
				_ = json.NewEncoder(w).Encode(d)
			})
			if address, err := s.provider(t).AuthURL(ctx, flow); !errors.Is(err, account.ErrProviderUnavailable) {
				t.Errorf("%s, %v", address, err)
			}
		}
	})
}

// discoveryNow is what answers for the discovery document.
func (f *fakeIssuer) discoveryNow() func(w http.ResponseWriter, r *http.Request) {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.discovery
}

func TestNewStaffRefusesWhatCannotBeRight(t *testing.T) {
	good := idp.StaffClient{Issuer: "https://idp.example.com", ClientID: "c", RedirectURL: staffRedirect, GroupsClaim: "groups"}
	if _, err := idp.NewStaff(good, idp.Options{}); err != nil {
		t.Fatal(err)
	}
	for name, change := range map[string]func(*idp.StaffClient){
		"no issuer":                 func(c *idp.StaffClient) { c.Issuer = "" },
		"an issuer in the clear":    func(c *idp.StaffClient) { c.Issuer = "http://idp.example.com" },
		"no client id":              func(c *idp.StaffClient) { c.ClientID = "" },
		"no address to come back":   func(c *idp.StaffClient) { c.RedirectURL = "" },
		"to come back in the clear": func(c *idp.StaffClient) { c.RedirectURL = "http://cloud.example.com/x" },
		"no claim":                  func(c *idp.StaffClient) { c.GroupsClaim = "" },
	} {
		t.Run(name, func(t *testing.T) {
			c := good
			change(&c)
			if _, err := idp.NewStaff(c, idp.Options{}); err == nil {
				t.Error("it is taken")
			}
		})
	}
}
