package httpapi_test

import (
	"fmt"
	"net/http"
	"net/url"
	"strings"
	"testing"
	"time"

	"github.com/opticworks/devicecloud/httpapi"
)

const install = "install-1"

// signIn logs a person in from a phone, under a name.
func (w *world) signIn(t testing.TB, name, email string) (refresh string) {
	t.Helper()
	r := w.do(t, call{method: "POST", path: "/api/auth/app-token", body: `{"provider":"dev","id_token":"` + email + `","device":{"install_id":"` + install + `","platform":"ios","name":"Ann's phone"}}`})
	r.want(t, http.StatusOK, "")
	w.tokens[name] = r.at("access_token").(string)
	return r.at("refresh_token").(string)
}

func (w *world) refresh(t testing.TB, token, installID string) reply {
	t.Helper()
	return w.do(t, call{method: "POST", path: "/api/v1/auth/refresh", body: `{"refresh_token":"` + token + `","install_id":"` + installID + `"}`})
}

func TestRefresh(t *testing.T) {
	t.Run("of a person", func(t *testing.T) {
		w := newWorld(t, nil)
		first := w.signIn(t, "a", "a@example.com")
		got := w.refresh(t, first, install).want(t, 200, "")
		if got.at("expires_in") != 900.0 || got.at("refresh_expires_in") != 2592000.0 || got.at("user", "email") != "a@example.com" || got.header.Get("Cache-Control") != "no-store" {
			t.Errorf("got %s", got.raw)
		}
		w.refresh(t, first, install).want(t, 409, "refresh_in_progress")
		w.refresh(t, first, "").want(t, 401, "invalid_token")
		w.do(t, call{method: "GET", path: "/api/me", as: "a"}).want(t, 401, "invalid_token")
	})
	t.Run("of staff, at the same place", func(t *testing.T) {
		w := newWorld(t, nil)
		w.staff(t)
		login := w.do(t, call{method: "POST", path: "/admin/auth/login", body: `{"email":"` + adminEmail + `","password":"` + adminPassword + `"}`}).want(t, 200, "")
		if login.at("refresh_expires_in") != 28800.0 {
			t.Errorf("got %s", login.raw)
		}
		got := w.refresh(t, login.at("refresh_token").(string), "").want(t, 200, "")
		if got.at("user", "role") != "admin" {
			t.Errorf("got %s", got.raw)
		}
	})
}

func TestSignOut(t *testing.T) {
	for name, c := range map[string]call{
		"without a body":             {method: "DELETE", path: "/api/auth/app-token"},
		"with an empty object":       {method: "DELETE", path: "/api/v1/auth/app-token", body: `{}`},
		"with a token of nobody":     {method: "DELETE", path: "/api/auth/app-token", body: `{"refresh_token":"x"}`},
		"by logout":                  {method: "POST", path: "/api/v1/auth/logout"},
		"by logout, not of all":      {method: "POST", path: "/api/v1/auth/logout", body: `{"all":false}`},
		"by the id of one's session": {method: "DELETE", path: "/api/me/sessions/"},
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t, nil)
			w.signIn(t, "a", "a@example.com")
			w.signIn(t, "other", "a@example.com")
			if strings.HasSuffix(c.path, "/") {
				list := w.do(t, call{method: "GET", path: "/api/me/sessions", as: "a"}).want(t, 200, "")
				c.path += list.at("sessions", 1, "sid").(string)
			}
			c.as = "a"
			if got := w.do(t, c).want(t, 200, ""); got.at("revoked") != true {
				t.Errorf("got %s", got.raw)
			}
			w.do(t, call{method: "GET", path: "/api/me", as: "a"}).want(t, 401, "invalid_token")
			if again := w.do(t, c); c.path == "/api/auth/app-token" || c.path == "/api/v1/auth/app-token" {
				again.want(t, 200, "") // its app did not get the answer
			} else {
				again.want(t, 401, "invalid_token")
			}
			w.do(t, call{method: "GET", path: "/api/me", as: "other"}).want(t, 200, "")
		})
	}
	t.Run("everywhere, and everywhere else", func(t *testing.T) {
		w := newWorld(t, nil)
		for _, name := range []string{"a", "b", "c"} {
			w.signIn(t, name, "a@example.com")
		}
		w.signIn(t, "stranger", "s@example.com")
		if got := w.do(t, call{method: "DELETE", path: "/api/me/sessions", as: "a"}).want(t, 200, ""); got.at("sessions") != 2.0 {
			t.Errorf("got %s", got.raw)
		}
		w.do(t, call{method: "GET", path: "/api/me", as: "b"}).want(t, 401, "invalid_token")
		w.signIn(t, "b", "a@example.com")
		if got := w.do(t, call{method: "POST", path: "/api/auth/logout", as: "a", body: `{"all":true}`}).want(t, 200, ""); got.at("sessions") != 2.0 {
			t.Errorf("got %s", got.raw)
		}
		for name, want := range map[string]int{"a": 401, "b": 401, "c": 401, "stranger": 200} {
			if got := w.do(t, call{method: "GET", path: "/api/me", as: name}); got.status != want {
				t.Errorf("%s gets %d", name, got.status)
			}
		}
	})
}

func TestSessions(t *testing.T) {
	w := newWorld(t, nil)
	for i := range 5 {
		w.signIn(t, fmt.Sprint("a", i), "a@example.com")
		w.clock.Add(time.Second)
	}
	w.signIn(t, "stranger", "s@example.com")
	t.Run("are listed newest first, in pages, and say which one asks", func(t *testing.T) {
		var sids []string
		current := 0
		for path := "/api/me/sessions?limit=2"; path != ""; {
			got := w.do(t, call{method: "GET", path: path, as: "a3"}).want(t, 200, "")
			for i := range got.len("sessions") {
				sids = append(sids, got.at("sessions", i, "sid").(string))
				if got.at("sessions", i, "current") == true {
					current = len(sids)
				}
				if got.at("sessions", i, "device", "name") != "Ann's phone" || got.at("sessions", i, "ip") != "198.51.100.1" || got.at("sessions", i, "client_type") != "app" {
					t.Errorf("got %s", got.raw)
				}
			}
			path = ""
			if next := got.at("next_cursor").(string); next != "" {
				path = "/api/me/sessions?limit=2&cursor=" + url.QueryEscape(next)
			}
		}
		if len(sids) != 5 || current != 2 {
			t.Errorf("%d sessions, and number %d asks", len(sids), current)
		}
	})
	t.Run("of somebody else are as if they were not there", func(t *testing.T) {
		theirs := w.do(t, call{method: "GET", path: "/api/me/sessions", as: "a0"}).want(t, 200, "").at("sessions", 0, "sid").(string)
		for _, sid := range []string{theirs, "nobody", "%00", "%27%20OR%201=1--", strings.Repeat("a", 3000)} {
			w.do(t, call{method: "DELETE", path: "/api/me/sessions/" + sid, as: "stranger"}).want(t, 404, "session_not_found")
		}
		w.do(t, call{method: "GET", path: "/api/me", as: "a4"}).want(t, 200, "")
	})
	t.Run("are not listed from a cursor that is none, or with a bad limit", func(t *testing.T) {
		device := httpapi.Lists[0].Cursor(5)
		for _, query := range []string{"cursor=x", "cursor=" + device, "cursor=" + httpapi.SessionCursor("\x00"), "cursor=" + strings.Repeat("c", 2000), "limit=0", "limit=201", "limit=x", "cursor=%zz"} {
			w.do(t, call{method: "GET", path: "/api/me/sessions?" + query, as: "a0"}).want(t, 400, "invalid_request")
		}
	})
}

func TestIdentities(t *testing.T) {
	w := newWorld(t, nil)
	w.login(t, "a", "a@example.com")
	w.login(t, "b", "b@example.com")
	link := func(as, token string) reply {
		return w.do(t, call{method: "POST", path: "/api/me/identities", as: as, body: `{"provider":"dev","id_token":"` + token + `"}`})
	}
	if got := link("a", "second@example.com").want(t, 201, ""); got.at("provider") != "dev" || got.at("linked") != true {
		t.Errorf("got %s", got.raw)
	}
	link("a", "second@example.com").want(t, 200, "")
	link("b", "second@example.com").want(t, 409, "identity_taken")
	link("b", "nonsense").want(t, 401, "invalid_token")
	got := w.do(t, call{method: "GET", path: "/api/me", as: "a"}).want(t, 200, "")
	if got.len("identities") != 1 || got.at("identities", 0, "provider") != "dev" {
		t.Errorf("got %s", got.raw)
	}
	w.do(t, call{method: "DELETE", path: "/api/me/identities/dev", as: "a"}).want(t, 409, "last_identity")
	for _, provider := range []string{"google", "%00", strings.Repeat("a", 3000)} {
		w.do(t, call{method: "DELETE", path: "/api/me/identities/" + provider, as: "a"}).want(t, 404, "identity_not_found")
	}
}

func TestErase(t *testing.T) {
	w, id := newHouse(t)
	if got := w.do(t, call{method: "DELETE", path: "/api/v1/me", as: "owner"}).want(t, 200, ""); got.at("erased") != true {
		t.Errorf("got %s", got.raw)
	}
	for _, path := range []string{"/api/me", "/api/me/sessions", "/api/devices/" + id} {
		w.do(t, call{method: "GET", path: path, as: "owner"}).want(t, 401, "invalid_token")
	}
	w.do(t, call{method: "GET", path: "/api/devices/" + id, as: "viewer"}).want(t, 404, "device_not_found")
	if got := w.do(t, call{method: "GET", path: "/admin/devices/" + id, as: "admin"}).want(t, 200, ""); got.at("owner") != nil {
		t.Errorf("got %s", got.raw)
	}
}

func FuzzSessionCursor(f *testing.F) {
	f.Add(httpapi.SessionCursor("01a20236-3e98-77da-a6fa-7e143fc690f4"))
	f.Add("cw")
	f.Add("")
	f.Fuzz(func(t *testing.T, cursor string) {
		sid, err := httpapi.SessionBefore(cursor)
		if err == nil && cursor != "" && httpapi.SessionCursor(sid) != cursor {
			t.Errorf("%q was taken for %q", cursor, sid)
		}
	})
}
