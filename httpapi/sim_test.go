package httpapi_test

import (
	"strings"
	"testing"

	"github.com/opticworks/devicecloud/account"
)

// The numbers of the house's SIM card are shown in full to an administrator who was
// permitted, and each time is in the trail, without them.
func TestNumbersOfSIMsForPermittedStaff(t *testing.T) {
	numbers := []string{"8900000000000000017", "89000000000000000000000000000017", "901000000000017", "882000000017"}
	w, device := newHouse(t)
	const email = "desk@example.com"
	login := func(t *testing.T) {
		t.Helper()
		r := w.do(t, call{method: "POST", path: "/admin/auth/login", body: `{"email":"` + email + `","password":"` + adminPassword + `"}`}).want(t, 200, "")
		w.tokens[permitted] = r.at("access_token").(string)
	}
	made := w.do(t, call{method: "POST", path: "/admin/staff", as: "admin", body: `{"email":"` + email + `","password":"` + adminPassword + `","role":"admin"}`}).want(t, 201, "")
	if made.len("scopes") != 0 {
		t.Errorf("made with %s", made.raw)
	}
	desk := made.at("admin_id").(string)
	grant := func(t *testing.T, body string) reply {
		t.Helper()
		return w.do(t, call{method: "PATCH", path: "/admin/staff/" + desk, as: "admin", body: body})
	}
	trail := func(t *testing.T) reply {
		t.Helper()
		return w.do(t, call{method: "GET", path: "/admin/audit?event=sim_numbers_read", as: "admin"}).want(t, 200, "")
	}
	shows := func(t *testing.T, r reply, want bool) {
		t.Helper()
		for _, n := range numbers {
			if strings.Contains(r.raw, `"`+n+`"`) != want {
				t.Errorf("%s in full: %t, in %s", n, !want, r.raw)
			}
		}
	}
	login(t)
	list := w.do(t, call{method: "GET", path: "/admin/sims", as: permitted}).want(t, 200, "")
	shows(t, list, false)
	sim := "/admin/sims/" + list.at("sims", 0, "sim_id").(string)

	t.Run("masked until it is granted, and again once it is withdrawn", func(t *testing.T) {
		for _, step := range []struct {
			body string
			full bool
		}{{`{"scopes":["admin:sim"]}`, true}, {`{"scopes":[]}`, false}, {`{"scopes":["admin:sim"]}`, true}} {
			got := grant(t, step.body).want(t, 200, "")
			w.do(t, call{method: "GET", path: "/admin/sims", as: permitted}).want(t, 401, "invalid_token")
			login(t)
			me := w.do(t, call{method: "GET", path: "/api/me", as: permitted}).want(t, 200, "")
			if (got.len("scopes") == 1) != step.full || strings.Contains(me.raw, `"admin:sim"`) != step.full {
				t.Errorf("after %s: %s %s", step.body, got.raw, me.raw)
			}
			shows(t, w.do(t, call{method: "GET", path: "/admin/sims", as: permitted}).want(t, 200, ""), step.full)
		}
		if list := w.do(t, call{method: "GET", path: "/admin/staff", as: "admin"}).want(t, 200, ""); strings.Count(list.raw, `"admin:sim"`) != 1 {
			t.Errorf("the list is %s", list.raw)
		}
	})
	t.Run("each answer that shows numbers is one row, with the ids of the cards", func(t *testing.T) {
		rows := trail(t).len("events")
		for _, c := range []struct {
			call   call
			status int
			rows   int
		}{
			{call{method: "GET", path: "/admin/sims?q=" + numbers[0]}, 200, 1},
			{call{method: "GET", path: "/admin/sims?status=retired"}, 200, 0}, // no card, no number
			{call{method: "GET", path: sim}, 200, 1},
			{call{method: "GET", path: "/admin/sims/1"}, 404, 0},
			{call{method: "POST", path: sim + "/unassign"}, 200, 1},
			{call{method: "POST", path: sim + "/unassign"}, 409, 0},
			{call{method: "POST", path: sim + "/assign", body: `{"device_id":"` + device + `"}`}, 200, 1},
			{call{method: "GET", path: "/api/devices/" + device + "/sim"}, 200, 0}, // masked for everybody
		} {
			c.call.as = permitted
			got := w.do(t, c.call)
			if got.status != c.status {
				t.Fatalf("%s answers %d: %s", c.call.path, got.status, got.raw)
			}
			if c.rows > 0 {
				shows(t, got, true)
			}
			rows += c.rows
			events := trail(t)
			if events.len("events") != rows {
				t.Fatalf("after %s %s: %d rows, want %d", c.call.method, c.call.path, events.len("events"), rows)
			}
			if c.rows > 0 && (events.at("events", 0, "by") != "admin:"+desk || !strings.Contains(events.raw, strings.TrimPrefix(sim, "/admin/sims/"))) {
				t.Errorf("the row of %s is %v", c.call.path, events.at("events", 0))
			}
		}
		all := w.do(t, call{method: "GET", path: "/admin/audit?limit=200", as: "admin"}).want(t, 200, "")
		shows(t, all, false)
		for _, n := range numbers {
			if strings.Contains(all.raw, n) || strings.Contains(w.logs.String(), n) {
				t.Errorf("%s is in the trail or the log", n)
			}
		}
		if one := w.do(t, call{method: "GET", path: "/admin/devices/" + device + "/audit", as: "admin"}); !strings.Contains(one.raw, "sim_numbers_read") {
			t.Error("the device's trail does not have it")
		}
	})
	t.Run("others see it masked, and nobody grants it to themselves", func(t *testing.T) {
		shows(t, w.do(t, call{method: "GET", path: sim, as: "admin"}).want(t, 200, ""), false)
		w.do(t, call{method: "GET", path: sim, as: "support"}).want(t, 403, "insufficient_role")
		me := w.do(t, call{method: "GET", path: "/api/me", as: "admin"}).at("user_id").(string)
		w.do(t, call{method: "PATCH", path: "/admin/staff/" + me, as: "admin", body: `{"scopes":["admin:sim"]}`}).want(t, 403, account.ErrOwnScopes.Code)
		grant(t, `{"scopes":["device:enroll"]}`).want(t, 400, account.ErrStaffScope.Code)
	})
	t.Run("support staff never have it", func(t *testing.T) {
		if got := grant(t, `{"role":"support"}`).want(t, 200, ""); got.len("scopes") != 0 {
			t.Errorf("got %s", got.raw)
		}
		login(t)
		w.do(t, call{method: "GET", path: sim, as: permitted}).want(t, 403, "insufficient_role")
		grant(t, `{"scopes":["admin:sim"]}`).want(t, 400, account.ErrStaffScope.Code)
	})
}
