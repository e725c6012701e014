package e2e_test

import (
	"encoding/json"
	"io"
	"net/http"
	"net/http/cookiejar"
	"net/url"
	"strings"
	"testing"
	"time"

	"github.com/opticworks/devicecloud/firmware-sim/mqttwire"
)

// postForm posts a form and decodes the answer.
func (c *Cloud) postForm(path string, form url.Values, into any) int {
	c.t.Helper()
	res, err := c.client.PostForm(c.API()+path, form)
	if err != nil {
		c.t.Fatal(err)
	}
	defer res.Body.Close()
	if err := json.NewDecoder(res.Body).Decode(into); err != nil {
		c.t.Fatal(err)
	}
	return res.StatusCode
}

// staffPassword is that of every member whom a test makes.
const staffPassword = "correct horse battery"

// newStaff makes a member of staff and logs them in.
func (c *Cloud) newStaff(admin, email, role string) User {
	c.t.Helper()
	c.Post("/admin/staff", admin, map[string]string{"email": email, "password": staffPassword, "role": role}, nil)
	return c.staffLogin(c.t, email, staffPassword)
}

func TestAChangeEndsTheSessionsOfStaff(t *testing.T) {
	t.Parallel()
	c := Start(t, Options{})
	admin := c.AdminToken()
	for _, step := range []struct {
		role   string
		change object
	}{{"support", object{"role": "admin"}}, {"support", object{"disabled": true}}, {"admin", object{"scopes": []string{"admin:sim"}}}} {
		change := step.change
		m := c.newStaff(admin, "help-"+strings.ToLower(NewDevice().ID[:6])+"@example.com", step.role)
		ear := c.open(t, mqttwire.Connect{Version: mqttwire.V5, ClientID: "a:" + m.ID + ":console", Username: "a:" + m.ID, Password: []byte(m.Token), KeepAlive: 60})
		if got := c.Do(http.MethodPatch, "/admin/staff/"+m.ID, admin, change, nil); got != 200 {
			t.Fatalf("%v answers %d", change, got)
		}
		if got := c.Do(http.MethodGet, "/admin/devices", m.Token, nil, nil); got != http.StatusUnauthorized {
			t.Errorf("%v: the access token gets %d", change, got)
		}
		if got := c.Do(http.MethodPost, "/api/v1/auth/refresh", "", map[string]string{"refresh_token": m.Refresh}, nil); got != http.StatusUnauthorized {
			t.Errorf("%v: the refresh token gets %d", change, got)
		}
		if code, closed := closedWithin(ear, time.Second); !closed || code != mqttwire.NotAuthorized {
			t.Errorf("%v: the MQTT session is closed %t with %v", change, closed, code)
		}
	}
}

// browser is what a member of staff signs in with.
type browser struct {
	c      *Cloud
	cookie string // of the cloud
}

// signIn walks from the cloud to the provider and back, and gives the answer of the
// callback. who is subject|e-mail|true or false|groups.
func (b *browser) signIn(t *testing.T, who string) (int, identity) {
	t.Helper()
	code, state := b.visit(t, who)
	return b.back(t, code, state)
}

// visit is the part of the way until the provider has sent the browser back.
func (b *browser) visit(t *testing.T, who string) (code, state string) {
	t.Helper()
	jar, err := cookiejar.New(nil)
	if err != nil {
		t.Fatal(err)
	}
	var callback *url.URL
	client := &http.Client{Jar: jar, Timeout: 30 * time.Second, CheckRedirect: func(req *http.Request, via []*http.Request) error {
		if req.URL.Host == "cloud.example.com" {
			callback = req.URL
			return http.ErrUseLastResponse
		}
		if len(via) == 1 { // the step from the cloud to the provider
			return http.ErrUseLastResponse
		}
		return nil
	}}
	defer client.CloseIdleConnections()
	res, err := client.Get(b.c.API() + "/admin/auth/oidc")
	if err != nil {
		t.Fatal(err)
	}
	_ = res.Body.Close()
	if res.StatusCode != http.StatusFound || len(res.Cookies()) != 1 {
		t.Fatalf("the sign-in begins with %d and %v", res.StatusCode, res.Cookies())
	}
	b.cookie = res.Cookies()[0].Name + "=" + res.Cookies()[0].Value
	client.CheckRedirect = func(req *http.Request, _ []*http.Request) error {
		if req.URL.Host == "cloud.example.com" {
			callback = req.URL
			return http.ErrUseLastResponse
		}
		return nil
	}
	res, err = client.Get(res.Header.Get("Location") + "&login_hint=" + url.QueryEscape(who))
	if err != nil {
		t.Fatal(err)
	}
	text, err := io.ReadAll(res.Body)
	_ = res.Body.Close()
	if err != nil || callback == nil || callback.Query().Get("code") == "" || callback.Path != "/admin/auth/oidc/callback" {
		t.Fatalf("the provider did not come back to the cloud: %d %s, %v", res.StatusCode, text, err)
	}
	return callback.Query().Get("code"), callback.Query().Get("state")
}

func (b *browser) back(t *testing.T, code, state string) (int, identity) {
	t.Helper()
	req, err := http.NewRequest(http.MethodGet, b.c.API()+"/admin/auth/oidc/callback?"+url.Values{"code": {code}, "state": {state}}.Encode(), nil)
	if err != nil {
		t.Fatal(err)
	}
	req.Header.Set("Cookie", b.cookie)
	res, err := b.c.client.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer res.Body.Close()
	var in identity
	if err := json.NewDecoder(res.Body).Decode(&in); err != nil {
		t.Fatal(err)
	}
	return res.StatusCode, in
}

func TestStaffSignInByAnOpenIDProvider(t *testing.T) {
	t.Parallel()
	p := startOpenID(t)
	c := Start(t, Options{Env: map[string]string{
		"ADMIN_OIDC_ISSUER": p.issuer, "ADMIN_OIDC_CLIENT_ID": "console", "ADMIN_OIDC_ADMIN_GROUP": "ops", "ADMIN_OIDC_SUPPORT_GROUP": "help",
		"PUBLIC_URL": "https://cloud.example.com",
	}})
	b := &browser{c: c}
	status, ann := b.signIn(t, "s1|ann@corp.example.com|true|all,ops")
	if status != http.StatusOK || ann.User.Email != "ann@corp.example.com" {
		t.Fatalf("got %d %+v", status, ann)
	}
	c.Get("/admin/stats", ann.Token, nil)
	if status, again := b.signIn(t, "s1|ann@corp.example.com|true|ops"); status != http.StatusOK || again.User.ID != ann.User.ID {
		t.Errorf("the second time it is %d %+v", status, again)
	}
	status, demoted := b.signIn(t, "s1|ann@corp.example.com|true|help")
	if status != http.StatusOK || c.Do(http.MethodGet, "/admin/stats", demoted.Token, nil, nil) != http.StatusForbidden {
		t.Errorf("with another group it is %d %+v", status, demoted)
	}
	if got := c.Do(http.MethodGet, "/admin/stats", ann.Token, nil, nil); got != http.StatusUnauthorized {
		t.Errorf("the session of the former role gets %d", got)
	}
	for name, tc := range map[string]struct {
		who    string
		status int
		code   string
	}{
		"in no group that counts":      {"s2|bob@corp.example.com|true|all", 403, "insufficient_role"},
		"in no group at all":           {"s3|cat@corp.example.com|true|", 403, "insufficient_role"},
		"with an e-mail of a member's": {"s4|" + adminEmail + "|true|ops", 409, "account_link_required"},
		"without an e-mail":            {"s5||true|ops", 401, "invalid_token"},
		"e-mail not verified":          {"s6|dan@corp.example.com|false|ops", 403, "email_not_verified"},
	} {
		t.Run(name, func(t *testing.T) {
			if status, in := (&browser{c: c.For(t)}).signIn(t, tc.who); status != tc.status || in.Error != tc.code || in.Token != "" {
				t.Errorf("got %d %+v, want %d %s", status, in, tc.status, tc.code)
			}
		})
	}
	code, state := b.visit(t, "s1|ann@corp.example.com|true|ops")
	thief := &browser{c: c}
	thief.visit(t, "s1|ann@corp.example.com|true|ops")
	if status, in := thief.back(t, code, state); status != 401 || in.Error != "invalid_state" {
		t.Errorf("in another browser: %d %+v", status, in)
	}
	if status, _ := b.back(t, code, state); status != http.StatusOK {
		t.Errorf("in its own browser: %d", status)
	}
	if status, in := b.back(t, code, state); status != 401 || in.Error != "invalid_token" {
		t.Errorf("a second time: %d %+v", status, in)
	}
	p.rotate()
	// The new key is looked for 10 s after the last time at the latest.
	Await(t, stretch*12*time.Second, func() bool {
		status, _ := b.signIn(t, "s1|ann@corp.example.com|true|ops")
		return status == http.StatusOK
	}, func() string { return "nobody signs in with the new keys" })
	if log := c.Log(); strings.Contains(log, code) || strings.Contains(log, b.cookie) || strings.Contains(log, ann.Token) {
		t.Error("a code, a cookie or a token is in the log")
	}
}
