package httpapi_test

import (
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/opticworks/devicecloud/httpapi"
)

func TestServiceAccountsOverHTTP(t *testing.T) {
	t.Run("an API key does what its scopes say, and nothing of staff", func(t *testing.T) {
		w, ids := newStaffHouse(t)
		id := ids["device"]
		for name, scopes := range map[string]string{"reader": `["device:read"]`, "factory": `["device:enroll"]`, "shop": `["order:write"]`, "driver": `["device:control","device:configure"]`} {
			w.serviceAccount(t, name, scopes)
		}
		mac := `{"mac_address":"02:00:00:00:00:09","device_secret_hash":"` + strings.Repeat("ab", 32) + `"}`
		order := `{"order_id":"o1","user_email":"a@example.com","device_mac":"02:00:00:00:00:09"}`
		csv := map[string]string{"Content-Type": "text/csv"}
		for _, c := range []struct {
			as     string
			call   call
			status int
			code   string
		}{
			{"reader", call{method: "GET", path: "/api/devices/" + id}, 200, ""},
			{"reader", call{method: "GET", path: "/api/devices/" + id + "/connections"}, 200, ""},
			{"reader", call{method: "GET", path: "/api/devices/" + id + "/events"}, 200, ""},
			{"reader", call{method: "GET", path: "/api/devices/" + strings.Repeat("0", 32)}, 404, "device_not_found"},
			{"reader", call{method: "GET", path: "/api/devices"}, 200, ""},
			{"reader", call{method: "PATCH", path: "/api/devices/" + id, body: `{"name":"x"}`}, 403, "insufficient_scope"},
			{"reader", call{method: "POST", path: "/admin/enroll", body: mac}, 403, "insufficient_scope"},
			{"reader", call{method: "POST", path: "/admin/devices/import", body: "mac_address,device_secret_hash\n", header: csv}, 403, "insufficient_scope"},
			{"reader", call{method: "POST", path: "/admin/orders", body: order}, 403, "insufficient_scope"},
			{"reader", call{method: "POST", path: "/admin/orders/import", body: "order_id,user_email,device_mac\n", header: csv}, 403, "insufficient_scope"},
			{"reader", call{method: "GET", path: "/admin/devices"}, 403, "insufficient_role"},
			{"reader", call{method: "GET", path: "/admin/devices/" + id}, 403, "insufficient_role"},
			{"reader", call{method: "GET", path: "/admin/audit"}, 403, "insufficient_role"},
			{"factory", call{method: "POST", path: "/admin/enroll", body: mac}, 201, ""},
			{"factory", call{method: "POST", path: "/admin/devices/import", body: "mac_address,device_secret_hash\n", header: csv}, 200, ""},
			{"factory", call{method: "POST", path: "/admin/orders", body: order}, 403, "insufficient_scope"},
			{"factory", call{method: "GET", path: "/api/devices/" + id}, 403, "insufficient_scope"},
			{"shop", call{method: "POST", path: "/admin/orders", body: order}, 201, ""},
			{"shop", call{method: "POST", path: "/admin/orders/import", body: "order_id,user_email,device_mac\n", header: csv}, 200, ""},
			{"shop", call{method: "POST", path: "/admin/enroll", body: mac}, 403, "insufficient_scope"},
			{"driver", call{method: "PATCH", path: "/api/devices/" + id, body: `{"name":"Hall"}`}, 200, ""},
			{"driver", call{method: "GET", path: "/api/devices/" + id}, 403, "insufficient_scope"},
			{"service", call{method: "DELETE", path: "/api/devices/" + id}, 403, "insufficient_role"},
			{"service", call{method: "DELETE", path: "/api/me"}, 403, "insufficient_role"},
			{"service", call{method: "GET", path: "/api/me/sessions"}, 403, "insufficient_role"},
			{"service", call{method: "POST", path: "/api/auth/logout", body: `{"all":true}`}, 403, "insufficient_role"},
		} {
			c.call.as = c.as
			got := w.do(t, c.call)
			if code, _ := got.body["error"].(string); got.status != c.status || code != c.code {
				t.Errorf("%s: %s %s answers %d %q, want %d %q", c.as, c.call.method, c.call.path, got.status, code, c.status, c.code)
			}
		}
		trail := w.do(t, call{method: "GET", path: "/admin/audit?event=enrolled&limit=1", as: "admin"})
		if by, _ := trail.at("events", 0, "by").(string); !strings.HasPrefix(by, "service:") || trail.at("events", 0, "client_type") != "service" {
			t.Errorf("the trail has %s", trail.raw)
		}
	})
	t.Run("a key's list shows everything but the key", func(t *testing.T) {
		w, _ := newStaffHouse(t)
		c := w.serviceAccount(t, "factory", `["device:read","device:enroll"]`)
		w.clock.Add(time.Second)
		expires := w.clock.Now().Add(time.Hour).Format(time.RFC3339)
		made := w.do(t, call{method: "POST", path: "/admin/service-accounts/" + c.id + "/keys", as: "admin", body: `{"name":"line 2","scopes":["device:enroll"],"expires_at":"` + expires + `"}`})
		made.want(t, http.StatusCreated, "")
		if !strings.HasPrefix(made.at("api_key").(string), made.at("prefix").(string)+"_") || made.header.Get("Cache-Control") != "no-store" {
			t.Errorf("the answer is %s", made.raw)
		}
		w.do(t, call{method: "DELETE", path: "/admin/service-accounts/" + c.id + "/keys/" + c.keyID, as: "admin"}).want(t, 200, "")
		list := w.do(t, call{method: "GET", path: "/admin/service-accounts/" + c.id + "/keys", as: "admin"}).want(t, 200, "")
		if list.len("keys") != 2 || list.at("keys", 0, "revoked_at") == nil || list.at("keys", 1, "expires_at") != expires || list.at("keys", 1, "revoked_at") != nil {
			t.Errorf("the list is %s", list.raw)
		}
		all := list.raw + w.do(t, call{method: "GET", path: "/admin/service-accounts", as: "admin"}).raw +
			w.do(t, call{method: "GET", path: "/admin/service-accounts/" + c.id, as: "admin"}).raw + w.do(t, call{method: "GET", path: "/admin/audit?limit=200", as: "admin"}).raw + w.logs.String()
		for _, secret := range []string{c.secret, c.key[20:], made.at("api_key").(string)[20:]} {
			if strings.Contains(all, secret) {
				t.Error("a secret shows")
			}
		}
	})
	t.Run("another account's key is not found", func(t *testing.T) {
		w, ids := newStaffHouse(t)
		c := w.serviceAccount(t, "factory", `["device:read"]`)
		w.do(t, call{method: "DELETE", path: "/admin/service-accounts/" + ids["account"] + "/keys/" + c.keyID, as: "admin"}).want(t, 404, "key_not_found")
		w.do(t, call{method: "GET", path: "/api/me", as: "factory"}).want(t, 200, "")
	})
	t.Run("what ends a key ends it at the next request", func(t *testing.T) {
		for what, path := range map[string][2]string{
			"revoked":  {"DELETE", "/keys/{key}"},
			"disabled": {"POST", "/disable"},
			"deleted":  {"DELETE", ""},
		} {
			w, _ := newStaffHouse(t)
			c := w.serviceAccount(t, "factory", `["device:read"]`)
			w.do(t, call{method: "GET", path: "/api/me", as: "factory"}).want(t, 200, "")
			w.do(t, call{method: path[0], path: "/admin/service-accounts/" + c.id + strings.Replace(path[1], "{key}", c.keyID, 1), as: "admin"}).want(t, 200, "")
			if got := w.do(t, call{method: "GET", path: "/api/me", as: "factory"}); got.status != 401 {
				t.Errorf("%s: %d", what, got.status)
			}
		}
	})
	t.Run("are listed page by page", func(t *testing.T) {
		w, _ := newStaffHouse(t)
		for _, name := range []string{"one", "two", "three"} {
			w.serviceAccount(t, name, `["device:read"]`)
		}
		var names []string
		for cursor := ""; ; {
			page := w.do(t, call{method: "GET", path: "/admin/service-accounts?limit=3&cursor=" + cursor, as: "admin"}).want(t, 200, "")
			for i := range page.len("service_accounts") {
				names = append(names, page.at("service_accounts", i, "name").(string))
			}
			if cursor = page.at("next_cursor").(string); cursor == "" {
				break
			}
			w.do(t, call{method: "GET", path: "/admin/staff?cursor=" + cursor, as: "admin"}).want(t, 400, "invalid_request")
		}
		if slices.Sort(names); !slices.Equal(names, []string{"one", "service", "three", "two"}) {
			t.Errorf("the pages have %v", names)
		}
		for _, cursor := range []string{"x", "%00", "dg", strings.Repeat("A", 3000)} {
			w.do(t, call{method: "GET", path: "/admin/service-accounts?cursor=" + cursor, as: "admin"}).want(t, 400, "invalid_request")
		}
	})
}

// FuzzTextCursor: what is taken for a cursor is one of this list, and names a row.
func FuzzTextCursor(f *testing.F) {
	for i, l := range httpapi.TextLists {
		f.Add(l.TextCursor("0198c2f0-0000-7000-8000-000000000001"), uint8(i))
	}
	f.Add("", uint8(0))
	f.Add("dA", uint8(0))
	f.Add("dAAA", uint8(0))
	f.Fuzz(func(t *testing.T, s string, n uint8) {
		l := httpapi.TextLists[int(n)%len(httpapi.TextLists)]
		key, err := l.ParseText(s)
		if err == nil && s != "" && (key == "" || l.TextCursor(key) != s) {
			t.Errorf("%q is taken for the cursor of %q", s, key)
		}
	})
}
