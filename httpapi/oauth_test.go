package httpapi_test

import (
	"encoding/base64"
	"net/http"
	"net/url"
	"strings"
	"testing"
	"unicode/utf8"

	"github.com/opticworks/devicecloud/httpapi"
)

const form = "application/x-www-form-urlencoded"

func basicOf(id, secret string) string {
	return "Basic " + base64.StdEncoding.EncodeToString([]byte(url.QueryEscape(id)+":"+url.QueryEscape(secret)))
}

// token asks the token endpoint.
func (w *world) token(t testing.TB, body, authorization string) reply {
	t.Helper()
	c := call{method: "POST", path: "/oauth/token", body: body, header: map[string]string{"Content-Type": form}}
	if authorization != "" {
		c.header["Authorization"] = authorization
	}
	return w.do(t, c)
}

func TestTokenEndpoint(t *testing.T) {
	w, _ := newStaffHouse(t)
	c := w.serviceAccount(t, "factory", `["device:enroll","device:read"]`)
	inForm := url.Values{"grant_type": {"client_credentials"}, "client_id": {c.id}, "client_secret": {c.secret}}.Encode()
	t.Run("takes the secret in the header and in the form", func(t *testing.T) {
		for _, got := range []reply{
			w.token(t, inForm, ""),
			w.token(t, "grant_type=client_credentials", basicOf(c.id, c.secret)),
			w.token(t, "grant_type=client_credentials&client_id="+c.id, strings.Replace(basicOf(c.id, c.secret), "Basic", "basic", 1)),
		} {
			got.want(t, http.StatusOK, "")
			if got.at("token_type") != "Bearer" || got.at("expires_in") != 900.0 || got.at("scope") != "device:read device:enroll" ||
				got.header.Get("Cache-Control") != "no-store" || got.body["refresh_token"] != nil {
				t.Errorf("the answer is %s", got.raw)
			}
			w.tokens["token"] = got.at("access_token").(string)
			me := w.do(t, call{method: "GET", path: "/api/me", as: "token"}).want(t, 200, "")
			if me.at("kind") != "service" || me.at("user_id") != c.id {
				t.Errorf("the token is %s", me.raw)
			}
		}
	})
	t.Run("gives the scopes that were asked for", func(t *testing.T) {
		got := w.token(t, inForm+"&scope=device%3Aenroll", "").want(t, 200, "")
		if got.at("scope") != "device:enroll" {
			t.Errorf("the answer is %s", got.raw)
		}
		w.tokens["narrow"] = got.at("access_token").(string)
		w.do(t, call{method: "GET", path: "/api/devices", as: "narrow"}).want(t, 403, "insufficient_scope")
	})
	t.Run("refuses as RFC 6749 5.2 has it", func(t *testing.T) {
		for name, x := range map[string]struct {
			body, authorization string
			status              int
			code                string
		}{
			"no grant type":               {"client_id=" + c.id + "&client_secret=" + c.secret, "", 400, "invalid_request"},
			"another grant type":          {strings.Replace(inForm, "client_credentials", "password", 1), "", 400, "unsupported_grant_type"},
			"an empty body":               {"", "", 400, "invalid_request"},
			"a parameter twice":           {inForm + "&grant_type=client_credentials", "", 400, "invalid_request"},
			"a broken escape":             {inForm + "&x=%zz", "", 400, "invalid_request"},
			"no client":                   {"grant_type=client_credentials", "", 401, "invalid_client"},
			"a client without a secret":   {"grant_type=client_credentials&client_id=" + c.id, "", 401, "invalid_client"},
			"a wrong secret":              {strings.Replace(inForm, "client_secret=", "client_secret=A", 1), "", 401, "invalid_client"},
			"an unknown client":           {"grant_type=client_credentials", basicOf("nobody", c.secret), 401, "invalid_client"},
			"a client id that is none":    {"grant_type=client_credentials", basicOf("' OR 1=1--", c.secret), 401, "invalid_client"},
			"NUL":                         {"grant_type=client_credentials", basicOf("\x00", "\x00"), 401, "invalid_client"},
			"a Basic that is no base64":   {"grant_type=client_credentials", "Basic ???", 401, "invalid_client"},
			"a Basic without a colon":     {"grant_type=client_credentials", "Basic " + base64.StdEncoding.EncodeToString([]byte("abc")), 401, "invalid_client"},
			"a Bearer":                    {"grant_type=client_credentials", "Bearer " + w.tokens["admin"], 401, "invalid_client"},
			"two ways at once":            {inForm, basicOf(c.id, c.secret), 400, "invalid_request"},
			"two clients at once":         {"grant_type=client_credentials&client_id=other", basicOf(c.id, c.secret), 400, "invalid_request"},
			"a scope that it has not":     {inForm + "&scope=order%3Awrite", "", 400, "invalid_scope"},
			"a scope that does not exist": {inForm + "&scope=root", "", 400, "invalid_scope"},
			"a scope of blanks":           {inForm + "&scope=+++", "", 400, "invalid_scope"},
			"a thousand scopes":           {inForm + "&scope=" + strings.Repeat("device%3Aread+", 1000), "", 400, "invalid_scope"},
			"a huge body":                 {inForm + "&x=" + strings.Repeat("a", 20<<10), "", 400, "invalid_request"},
		} {
			t.Run(name, func(t *testing.T) {
				got := w.token(t, x.body, x.authorization).want(t, x.status, x.code)
				if len(got.body) != 3 || got.body["error_description"] == "" || got.body["request_id"] != got.header.Get("X-Request-Id") {
					t.Errorf("the error is %s", got.raw)
				}
				if challenge := got.header.Get("WWW-Authenticate"); (x.status == 401) != strings.HasPrefix(challenge, "Basic realm=") {
					t.Errorf("WWW-Authenticate is %q", challenge)
				}
			})
		}
		got := w.do(t, call{method: "POST", path: "/oauth/token", body: `{"grant_type":"client_credentials"}`})
		got.want(t, 400, "invalid_request")
	})
	t.Run("shows no secret in the log", func(t *testing.T) {
		for _, secret := range []string{c.secret, c.key[20:], w.tokens["token"]} {
			if strings.Contains(w.logs.String(), secret) {
				t.Error("a secret is in the log")
			}
		}
	})
}

// FuzzTokenRequest: whatever is sent, what is taken for a client can be one.
func FuzzTokenRequest(f *testing.F) {
	f.Add("grant_type=client_credentials&client_id=a&client_secret=b&scope=device%3Aread", "")
	f.Add("grant_type=client_credentials", basicOf("a", "b:c"))
	f.Add("grant_type=client_credentials&client_id=%00", "Basic OjpB")
	f.Add("a=%ff;b", "Basic \xff")
	f.Fuzz(func(t *testing.T, body, authorization string) {
		var headers []string
		if authorization != "" {
			headers = []string{authorization}
		}
		id, secret, scopes, err := httpapi.ParseTokenRequest(body, headers)
		if err != nil {
			return
		}
		if id == "" || secret == "" || len(id) > 64 || len(secret) > 256 || !utf8.ValidString(id+secret) || len(scopes) > 20 {
			t.Errorf("%q, a secret of %d bytes and %d scopes are taken", id, len(secret), len(scopes))
		}
	})
}
