package e2e_test

import (
	"fmt"
	"net/http"
	"strconv"
	"strings"
	"testing"
)

// TestLimitsOfHTTPAreWired gives each limit that counts by something else than the
// address a burst of two, since loopback is exempt from those by address.
func TestLimitsOfHTTPAreWired(t *testing.T) {
	t.Parallel()
	const two = "1/h:2"
	for name, tc := range map[string]struct {
		prepare func(*Cloud) func(n int) *http.Request
		free    bool // loopback does not count
	}{
		"HTTP_RATE_PER_USER": {prepare: func(c *Cloud) func(int) *http.Request {
			user := c.UserToken("somebody@example.com")
			return func(int) *http.Request { return c.build(http.MethodGet, "/api/me", user.Token, "") }
		}},
		"LIMIT_CHANGES_PER_DEVICE": {prepare: func(c *Cloud) func(int) *http.Request {
			admin := c.AdminToken()
			d := c.EnrollAs(admin)
			return func(int) *http.Request { return c.build(http.MethodPost, "/admin/devices/"+d.ID+"/enable", admin, "") }
		}},
		"LIMIT_LOGINS_PER_INSTALL": {prepare: func(c *Cloud) func(int) *http.Request {
			return func(n int) *http.Request {
				return c.build(http.MethodPost, "/api/auth/app-token", "", fmt.Sprintf(`{"provider":"dev","id_token":"p%d@example.com","device":{"install_id":"one"}}`, n))
			}
		}},
		"LIMIT_MAGIC_LINKS_PER_EMAIL": {prepare: func(c *Cloud) func(int) *http.Request { return c.askForLink("a@example.com") }},
		"LIMIT_MAGIC_LINKS_PER_ADDRESS": {free: true, prepare: func(c *Cloud) func(int) *http.Request {
			return c.askForLink("a@example.com")
		}},
		"LIMIT_LOGINS_PER_ADDRESS": {free: true, prepare: func(c *Cloud) func(int) *http.Request {
			return func(int) *http.Request {
				return c.build(http.MethodPost, "/api/auth/app-token", "", `{"provider":"dev","id_token":"a@example.com"}`)
			}
		}},
	} {
		t.Run(name, func(t *testing.T) {
			c := Start(t, Options{Env: map[string]string{name: two}})
			ask := tc.prepare(c)
			for n := range 4 {
				res, err := c.client.Do(ask(n))
				if err != nil {
					t.Fatal(err)
				}
				_ = res.Body.Close()
				switch limited := n >= 2 && !tc.free; {
				case limited != (res.StatusCode == http.StatusTooManyRequests), !limited && res.StatusCode/100 != 2:
					t.Errorf("request %d is answered %d", n+1, res.StatusCode)
				case limited:
					if wait, err := strconv.Atoi(res.Header.Get("Retry-After")); err != nil || wait < 3500 || wait > 3600 {
						t.Errorf("Retry-After is %q", res.Header.Get("Retry-After"))
					}
				}
			}
		})
	}
}

// build makes a request; body is JSON, or nothing.
func (c *Cloud) build(method, path, token, body string) *http.Request {
	c.t.Helper()
	req, err := http.NewRequest(method, c.API()+path, strings.NewReader(body))
	if err != nil {
		c.t.Fatal(err)
	}
	if body != "" {
		req.Header.Set("Content-Type", "application/json")
	}
	if token != "" {
		req.Header.Set("Authorization", "Bearer "+token)
	}
	return req
}

// askForLink asks for a mailed link.
func (c *Cloud) askForLink(email string) func(int) *http.Request {
	return func(int) *http.Request {
		return c.build(http.MethodPost, "/api/auth/app-magic-link", "", fmt.Sprintf(
			`{"email":%q,"install_id":"5f0c1a52-6a0e-4f3a-9a51-0d7c3f1b2a10","code_challenge":"E9Melhoa2OwvFrEMTJguCHaoeK1t8URWbuGJSstw-cM"}`, email))
	}
}
