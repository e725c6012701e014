package httpapi_test

import (
	"fmt"
	"net/http"
	"strings"
	"testing"
)

// callers asks in the order of the columns of the table below. The service account has
// every scope.
var callers = []string{"", "stranger", "support", "service", "admin"}

// staffRow is what a route for staff and service accounts answers to each of callers,
// and bodies that it refuses with 400 (or the status before a colon).
type staffRow struct {
	body  string
	want  string
	wrong []string
}

// staffAccess is who may use the routes of staff, people and service accounts.
// [contracts C.4]
var staffAccess = map[string]staffRow{
	"GET /admin/auth/oidc":                       {want: "501 501 501 501 501"},
	"GET /admin/auth/oidc/callback":              {want: "501 501 501 501 501"},
	"POST /admin/auth/totp":                      {want: "401 403 200 403 200"},
	"POST /admin/auth/totp/confirm":              {body: `{"code":"000000"}`, want: "401 403 409 403 409", wrong: []string{`{"code":5}`, `{"code":""}`, `{}`}},
	"DELETE /admin/auth/totp":                    {body: `{"code":"000000"}`, want: "401 403 409 403 409", wrong: []string{`{"code":[]}`, `{}`}},
	"POST /oauth/token":                          {body: `{}`, want: "400 400 400 400 400"},
	"GET /admin/explain":                         {want: "401 403 403 403 400"},
	"GET /admin/staff":                           {want: "401 403 403 403 200"},
	"POST /admin/staff":                          {body: `{"email":"new@example.com","password":"correct horse battery","role":"support"}`, want: "401 403 403 403 201", wrong: []string{`{"email":5}`, `{"email":"x","password":"correct horse battery","role":"support"}`, `{"email":"a@example.com","password":"short","role":"support"}`, `{"email":"a@example.com","password":"correct horse battery","role":"owner"}`, `{"email":"a@example.com"}`, `{"email":"a@example.com","password":"correct horse battery","role":"admin","scopes":"admin:sim"}`, `{"email":"a@example.com","password":"correct horse battery","role":"admin","scopes":["order:write"]}`, `{"email":"a@example.com","password":"correct horse battery","role":"support","scopes":["admin:sim"]}`, `{"email":"a@example.com","password":"` + strings.Repeat("x", 300) + `","role":"admin"}`}},
	"PATCH /admin/staff/{id}":                    {body: `{"disabled":true}`, want: "401 403 403 403 200", wrong: []string{`{}`, `{"role":5}`, `{"role":"owner"}`, `{"disabled":"yes"}`, `{"role":null}`, `{"scopes":null}`, `{"scopes":"admin:sim"}`, `{"scopes":[5]}`, `{"scopes":["device:enroll"]}`, `{"scopes":["admin:sim"]}`, `{"role":"support","scopes":["admin:sim"]}`}},
	"DELETE /admin/staff/{id}/totp":              {want: "401 403 403 403 200"},
	"GET /admin/plans":                           {want: "401 403 403 403 200"},
	"POST /admin/plans":                          {body: `{"plan_id":"basic","name":"1 GB","amount":990,"currency":"usd","carrier_package":"P100"}`, want: "401 403 403 403 201", wrong: []string{`{}`, `{"plan_id":5}`, `{"plan_id":"Basic","name":"x","amount":990,"currency":"usd","carrier_package":"P100"}`, `{"plan_id":"b","name":"x","amount":0,"currency":"usd","carrier_package":"P100"}`, `{"plan_id":"b","name":"x","amount":9.9,"currency":"usd","carrier_package":"P100"}`, `{"plan_id":"b","name":"x","amount":990,"currency":"USD","carrier_package":"P100"}`, `{"plan_id":"b","name":"x","amount":990,"currency":"usd"}`, `{"plan_id":"b","name":"x\u0000","amount":990,"currency":"usd","carrier_package":"P"}`, `{"plan_id":"b","name":"x","amount":990,"currency":"usd","carrier_package":"P","mode":"loan"}`, `{"plan_id":"b","name":"x","amount":990,"currency":"usd","carrier_package":"P","mode":"subscription"}`, `{"plan_id":"b","name":"x","amount":990,"currency":"usd","carrier_package":"P","interval":"month"}`, `{"plan_id":"b","name":"x","amount":990,"currency":"usd","carrier_package":"P","capabilities":["read"]}`, `{"plan_id":"b","name":"x","amount":990,"currency":"usd","carrier_package":"P","capabilities":"live_view"}`, `{"plan_id":"b","name":"x","amount":990,"currency":"usd","carrier_package":"P","history_days":-1}`}},
	"GET /admin/plans/{plan_id}":                 {want: "401 403 403 403 404"},
	"PATCH /admin/plans/{plan_id}":               {body: `{"retired":true}`, want: "401 403 403 403 404", wrong: []string{`{"retired":"yes"}`, `{"amount":"990"}`}},
	"DELETE /admin/plans/{plan_id}":              {want: "401 403 403 403 404"},
	"GET /admin/purchases":                       {want: "401 403 403 403 200"},
	"GET /admin/purchases/{purchase_id}":         {want: "401 403 403 403 404"},
	"POST /admin/purchases/{purchase_id}/refund": {want: "401 403 403 403 400"}, // no Idempotency-Key; see purchase_test.go
	"POST /admin/purchases/{purchase_id}/resume": {want: "401 403 403 403 404"},
	"GET /admin/users":                           {want: "401 403 200 403 200"},
	"GET /admin/users/{id}":                      {want: "401 403 200 403 200"},
	"DELETE /admin/users/{id}":                   {want: "401 403 403 403 200"},
	"POST /admin/users/{id}/disable":             {want: "401 403 403 403 200"},
	"POST /admin/users/{id}/enable":              {want: "401 403 403 403 200"},
	"POST /admin/users/{id}/sign-out":            {want: "401 403 200 403 200"},

	"GET /admin/service-accounts":                       {want: "401 403 403 403 200"},
	"POST /admin/service-accounts":                      {body: `{"name":"second","scopes":["device:read"]}`, want: "401 403 403 403 201", wrong: []string{`{"name":5}`, `{"name":"x"}`, `{"name":"x","scopes":[]}`, `{"name":"x","scopes":["root"]}`, `{"name":"x","scopes":"device:read"}`, `{"name":"x","scopes":[5]}`, `{"name":"\u0000","scopes":["device:read"]}`, `{"name":"` + strings.Repeat("x", 65) + `","scopes":["device:read"]}`}},
	"GET /admin/service-accounts/{id}":                  {want: "401 403 403 403 200"},
	"DELETE /admin/service-accounts/{id}":               {want: "401 403 403 403 200"},
	"POST /admin/service-accounts/{id}/disable":         {want: "401 403 403 403 200"},
	"POST /admin/service-accounts/{id}/enable":          {want: "401 403 403 403 200"},
	"POST /admin/service-accounts/{id}/secret":          {want: "401 403 403 403 200"},
	"GET /admin/service-accounts/{id}/keys":             {want: "401 403 403 403 200"},
	"POST /admin/service-accounts/{id}/keys":            {body: `{"name":"line 2"}`, want: "401 403 403 403 201", wrong: []string{`{}`, `{"name":5}`, `{"name":"x","scopes":["root"]}`, `{"name":"x","scopes":[]}`, `{"name":"x","scopes":"device:read"}`, `{"name":"x","expires_at":"soon"}`, `{"name":"x","expires_at":5}`, `{"name":"x","expires_at":"2020-01-01T00:00:00Z"}`}},
	"DELETE /admin/service-accounts/{id}/keys/{key_id}": {want: "401 403 403 403 200"},

	"GET /admin/webhooks": {want: "401 403 403 403 200"},
	"POST /admin/webhooks": {body: `{"url":"https://example.org/in","events":["device.online"]}`, want: "401 403 403 403 201", wrong: []string{
		`{}`, `{"url":5,"events":["device.online"]}`, `{"url":"https://example.org"}`, `{"url":"https://example.org","events":[]}`,
		`{"url":"https://example.org","events":["device.exploded"]}`, `{"url":"https://example.org","events":"device.online"}`,
		`{"url":"http://example.org","events":["device.online"]}`, `{"url":"https://10.0.0.1/","events":["device.online"]}`,
		`{"url":"https://[::ffff:127.0.0.1]/","events":["device.online"]}`, `{"url":"https://me:secret@example.org/","events":["device.online"]}`,
		`{"url":"https://example.org/#x","events":["device.online"]}`, `{"url":"/in","events":["device.online"]}`, `{"url":"ftp://example.org/","events":["device.online"]}`,
		`{"url":"https://example.org:0/","events":["device.online"]}`, `{"url":"https://example.org/` + strings.Repeat("x", 2048) + `","events":["device.online"]}`,
		`{"url":"https://example.org","events":["device.online"],"description":"` + strings.Repeat("x", 257) + `"}`,
		`{"url":"https://example.org","events":["device.online"],"description":"a\u0000b"}`, `{"url":"https://example.org","events":["device.online"],"enabled":"yes"}`,
	}},
	"GET /admin/webhooks/{id}": {want: "401 403 403 403 200"},
	"PATCH /admin/webhooks/{id}": {body: `{"enabled":false}`, want: "401 403 403 403 200", wrong: []string{
		`{"url":"https://127.0.0.1"}`, `{"url":5}`, `{"events":[]}`, `{"events":["*"]}`, `{"enabled":1}`, `{"description":[]}`,
	}},
	"DELETE /admin/webhooks/{id}":                               {want: "401 403 403 403 200"},
	"POST /admin/webhooks/{id}/rotate":                          {want: "401 403 403 403 200"},
	"POST /admin/webhooks/{id}/test":                            {want: "401 403 403 403 202"},
	"GET /admin/webhooks/{id}/deliveries":                       {want: "401 403 403 403 200"},
	"POST /admin/webhooks/{id}/deliveries/{delivery_id}/replay": {want: "401 403 403 403 409"},
}

// staffHouse is a house with a service account of every scope.
func newStaffHouse(t testing.TB) (w *world, ids map[string]string) {
	t.Helper()
	w, device := newHouse(t)
	ids = map[string]string{"device": device}
	client := w.serviceAccount(t, "service", `["device:read","device:control","device:configure","config:write","device:enroll","order:write"]`)
	ids["account"], ids["key"] = client.id, client.keyID
	ids["user"] = w.do(t, call{method: "GET", path: "/api/me", as: "stranger"}).at("user_id").(string)
	ids["support"] = w.do(t, call{method: "GET", path: "/api/me", as: "support"}).at("user_id").(string)
	hook := w.do(t, call{method: "POST", path: "/admin/webhooks", as: "admin", body: `{"url":"https://example.org/in","events":["device.online"]}`})
	hook.want(t, http.StatusCreated, "")
	ids["webhook"] = hook.at("id").(string)
	ids["delivery"] = w.do(t, call{method: "POST", path: "/admin/webhooks/" + ids["webhook"] + "/test", as: "admin"}).at("id").(string)
	return w, ids
}

// client is a service account with an API key, which is its token in world.tokens.
type client struct{ id, secret, keyID, key string }

func (w *world) serviceAccount(t testing.TB, name, scopes string) client {
	t.Helper()
	r := w.do(t, call{method: "POST", path: "/admin/service-accounts", as: "admin", body: `{"name":"` + name + `","scopes":` + scopes + `}`})
	r.want(t, http.StatusCreated, "")
	c := client{id: r.at("client_id").(string), secret: r.at("client_secret").(string)}
	k := w.do(t, call{method: "POST", path: "/admin/service-accounts/" + c.id + "/keys", as: "admin", body: `{"name":"line 1"}`})
	k.want(t, http.StatusCreated, "")
	c.keyID, c.key = k.at("key_id").(string), k.at("api_key").(string)
	w.tokens[name] = c.key
	return c
}

// fill puts real ids into a template.
func fill(template string, ids map[string]string) string {
	name := "device"
	switch {
	case strings.HasPrefix(template, "/admin/users"):
		name = "user"
	case strings.HasPrefix(template, "/admin/staff"):
		name = "support"
	case strings.HasPrefix(template, "/admin/service-accounts"):
		name = "account"
	case strings.HasPrefix(template, "/admin/webhooks"):
		name = "webhook"
	}
	return strings.NewReplacer("{id}", ids[name], "{key_id}", ids["key"], "{delivery_id}", ids["delivery"]).Replace(template)
}

func TestStaffAccess(t *testing.T) {
	for canonical, row := range staffAccess {
		if row.want == "" {
			continue
		}
		method, template, _ := strings.Cut(canonical, " ")
		t.Run(canonical, func(t *testing.T) {
			w, ids := newStaffHouse(t)
			for i, want := range strings.Fields(row.want) { // whoever may do most comes last
				got := w.do(t, call{method: method, path: fill(template, ids), as: callers[i], body: row.body})
				if fmt.Sprint(got.status) != want {
					t.Errorf("%q gets %d, want %s: %s", callers[i], got.status, want, got.raw)
				}
				checkRefusal(t, got)
			}
		})
	}
}

// Who may not use a route learns nothing of what it thinks of a body.
func TestStaffRoutesJudgeTheCallerBeforeTheBody(t *testing.T) {
	w, ids := newStaffHouse(t)
	for canonical, row := range staffAccess {
		method, template, _ := strings.Cut(canonical, " ")
		if row.body == "" || template == "/oauth/token" {
			continue
		}
		for _, body := range append([]string{"not JSON", "[]", `{"a":` + strings.Repeat("[", 11000)}, row.wrong...) {
			got := w.do(t, call{method: method, path: fill(template, ids), as: "stranger", body: body})
			got.want(t, http.StatusForbidden, "insufficient_role")
		}
	}
}

func TestStaffRoutesRefuseBadBodies(t *testing.T) {
	w, ids := newStaffHouse(t)
	for canonical, row := range staffAccess {
		method, template, _ := strings.Cut(canonical, " ")
		if row.body == "" || template == "/oauth/token" {
			continue
		}
		if len(row.wrong) == 0 {
			t.Errorf("%s has no bodies of wrong types", canonical)
		}
		for _, body := range append([]string{"{", " ", "null", "[]", `"x"`, `{} x`, "{\"name\":\"\xff\"}"}, row.wrong...) {
			t.Run(canonical+" refuses "+body[:min(len(body), 60)], func(t *testing.T) {
				got := w.do(t, call{method: method, path: fill(template, ids), as: "admin", body: body})
				if got.status != http.StatusBadRequest {
					t.Errorf("got %d: %s", got.status, got.raw)
				}
				checkRefusal(t, got)
			})
		}
		t.Run(canonical+" refuses a huge body and another media type", func(t *testing.T) {
			huge := `{"x":"` + strings.Repeat("a", 100<<10) + `"}`
			w.do(t, call{method: method, path: fill(template, ids), as: "admin", body: huge}).want(t, 413, "body_too_large")
			w.do(t, call{method: method, path: fill(template, ids), as: "admin", body: row.body, header: map[string]string{"Content-Type": "text/plain"}}).want(t, 415, "unsupported_media_type")
		})
	}
}

func TestStaffRoutesOfWhatIsAbsent(t *testing.T) {
	w, ids := newStaffHouse(t)
	codes := map[string]string{"/admin/users": "user_not_found", "/admin/staff": "admin_not_found", "/admin/service-accounts": "service_account_not_found", "/admin/webhooks": "webhook_not_found"}
	for canonical, row := range staffAccess {
		method, template, _ := strings.Cut(canonical, " ")
		if !strings.Contains(template, "{id}") {
			continue
		}
		prefix := template[:strings.Index(template, "/{id}")]
		for _, id := range []string{"nobody", "%27%20OR%201=1--", "%00", strings.Repeat("a", 3000)} {
			path := strings.NewReplacer("{id}", id, "{key_id}", ids["key"], "{delivery_id}", ids["delivery"]).Replace(template)
			t.Run(canonical+" of "+id[:min(len(id), 32)], func(t *testing.T) {
				w.do(t, call{method: method, path: path, as: "admin", body: row.body}).want(t, 404, codes[prefix])
			})
		}
	}
	w.do(t, call{method: "DELETE", path: "/admin/service-accounts/" + ids["account"] + "/keys/0123456789abcdef", as: "admin"}).want(t, 404, "key_not_found")
}
