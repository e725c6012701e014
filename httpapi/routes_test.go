package httpapi_test

import (
	"fmt"
	"net/http"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/gorilla/mux"
	"github.com/opticworks/devicecloud/httpapi"
)

// served lists every route of the router as "METHOD /path".
func served(t *testing.T, h http.Handler) []string {
	t.Helper()
	var all []string
	err := httpapi.Router(h).Walk(func(r *mux.Route, _ *mux.Router, _ []*mux.Route) error {
		path, err := r.GetPathTemplate()
		if err != nil {
			return err
		}
		methods, err := r.GetMethods()
		if err != nil {
			return err
		}
		for _, m := range methods {
			if m != http.MethodHead {
				all = append(all, m+" "+path)
			}
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	slices.Sort(all)
	return all
}

func TestEveryRouteIsInTheContract(t *testing.T) {
	w := newWorld(t, func(d *httpapi.Deps, _ *httpapi.Options) { d.WebSocket = http.NotFoundHandler() })
	var routes, aliases, bare []string
	for _, r := range served(t, w.Handler) {
		switch {
		case strings.Contains(r, " /api/v1/"):
			aliases = append(aliases, canonical(r))
		case canonical(r) != r:
			bare = append(bare, canonical(r))
		default:
			routes = append(routes, r)
		}
	}
	var written []string
	for path, item := range document(t).Paths.Map() {
		for method := range item.Operations() {
			written = append(written, method+" "+path)
		}
	}
	slices.Sort(written)
	if diff := cmp.Diff(written, routes); diff != "" {
		t.Errorf("openapi.yaml (-) and the router (+) differ:\n%s", diff)
	}
	var api []string
	for _, r := range routes {
		if strings.Contains(r, " /api/") {
			api = append(api, r)
		}
	}
	if diff := cmp.Diff(api, aliases); diff != "" {
		t.Errorf("/api/ (-) and /api/v1/ (+) differ:\n%s", diff)
	}
	var commands []string
	for _, r := range api {
		if strings.Contains(r, "/commands") {
			commands = append(commands, r)
		}
	}
	if diff := cmp.Diff(commands, bare); diff != "" {
		t.Errorf("the routes of commands (-) and those without /api (+) differ:\n%s", diff)
	}
}

// canonical is the route of which one is an alias, both as "METHOD /path" or as a path.
func canonical(route string) string {
	method, path, _ := strings.Cut(route, "/")
	if rest, ok := strings.CutPrefix(path, "api/v1/"); ok {
		path = "api/" + rest
	}
	if strings.HasPrefix(path, "devices/") {
		path = "api/" + path
	}
	return method + "/" + path
}

// who asks, in the order of the columns of the table below.
var people = []string{"", "stranger", "viewer", "shared", "owner", "support", "admin"}

// refusal is what a route answers to each of the people with a body that is
// allowed, and what of a bad body it can see.
type refusal struct {
	body string // of JSON; "" when the route takes none
	csv  bool
	want string // a status for each of people
}

// access is who may do what. {id} is a device with an owner, a shared admin and a
// viewer. [seed 003 9.1, contracts C.5]
var access = map[string]refusal{
	"POST /api/auth/app-token":                          {body: `{"provider":"dev","id_token":"new@example.com"}`, want: "200 200 200 200 200 200 200"},
	"DELETE /api/auth/app-token":                        {want: "401 200 200 200 200 200 200"},
	"POST /api/auth/refresh":                            {body: `{"refresh_token":"` + strings.Repeat("A", 43) + `"}`, want: "401 401 401 401 401 401 401"},
	"POST /api/auth/logout":                             {body: `{"all":true}`, want: "401 200 200 200 200 200 200"},
	"POST /admin/auth/login":                            {body: `{"email":"root@example.com","password":"canary-admin-password"}`, want: "200 200 200 200 200 200 200"},
	"POST /api/auth/app-magic-link":                     {body: `{"email":"new@example.com","install_id":"i","code_challenge":"` + strings.Repeat("A", 43) + `"}`, want: "202 202 202 202 202 202 202"},
	"POST /api/auth/app-magic-link/verify":              {body: `{"token":"t","install_id":"i","code_verifier":"v"}`, want: "401 401 401 401 401 401 401"},
	"GET /auth/magic":                                   {want: "200 200 200 200 200 200 200"},
	"GET /.well-known/jwks.json":                        {want: "200 200 200 200 200 200 200"},
	"GET /livez":                                        {want: "200 200 200 200 200 200 200"},
	"GET /readyz":                                       {want: "200 200 200 200 200 200 200"},
	"GET /openapi.yaml":                                 {want: "200 200 200 200 200 200 200"},
	"GET /asyncapi.yaml":                                {want: "200 200 200 200 200 200 200"},
	"GET /api/me":                                       {want: "401 200 200 200 200 200 200"},
	"GET /api/events/stream":                            {want: "401 200 200 200 200 200 200"},
	"DELETE /api/me":                                    {want: "401 200 200 200 200 403 403"},
	"GET /api/me/sessions":                              {want: "401 200 200 200 200 200 200"},
	"DELETE /api/me/sessions":                           {want: "401 200 200 200 200 200 200"},
	"DELETE /api/me/sessions/{sid}":                     {want: "401 404 404 404 404 404 404"},
	"POST /api/me/identities":                           {body: `{"provider":"dev","id_token":"owner@example.com"}`, want: "401 409 409 409 200 403 403"},
	"DELETE /api/me/identities/{provider}":              {want: "401 404 404 404 404 403 403"},
	"GET /api/devices":                                  {want: "401 200 200 200 200 200 200"},
	"GET /api/devices/{id}":                             {want: "401 404 200 200 200 200 200"},
	"GET /api/devices/{id}/connections":                 {want: "401 404 200 200 200 200 200"},
	"GET /api/devices/{id}/events":                      {want: "401 404 200 200 200 200 200"},
	"PATCH /api/devices/{id}":                           {body: `{"name":"Kitchen"}`, want: "401 404 403 200 200 403 200"},
	"DELETE /api/devices/{id}":                          {want: "401 404 200 200 200 403 200"},
	"POST /api/devices/activate":                        {body: `{"device_id":"x","claim_secret":"y"}`, want: "401 404 404 404 404 403 403"},
	"POST /api/devices/claims":                          {body: `{}`, want: "401 201 201 201 201 403 403"},
	"GET /api/devices/claims/{claim_id}":                {want: "401 404 404 404 404 403 403"},
	"POST /api/devices/{id}/claim-challenge":            {want: "401 404 403 403 409 403 403"},
	"POST /admin/devices/claim":                         {body: `{"device_id":"x","user_id":"y"}`, want: "401 403 403 403 403 404 404"},
	"POST /api/devices/{id}/share":                      {body: `{"user_email":"friend@example.com","role":"viewer"}`, want: "401 404 403 403 202 403 202"},
	"GET /api/devices/{id}/shares":                      {want: "401 404 403 403 200 403 200"},
	"DELETE /api/devices/{id}/shares/{user_id}":         {want: "401 404 403 403 404 403 404"}, // of nobody
	"POST /api/devices/{id}/transfer":                   {body: `{"user_email":"friend@example.com"}`, want: "401 404 403 403 202 403 202"},
	"GET /api/invitations":                              {want: "401 200 200 200 200 403 403"},
	"POST /api/invitations/{id}/accept":                 {want: "401 404 404 404 404 403 403"},
	"POST /api/invitations/{id}/decline":                {want: "401 404 404 404 404 403 403"},
	"GET /api/data-plans":                               {want: "401 200 200 200 200 200 200"},
	"GET /api/checkout/sessions/{session_id}":           {want: "404 404 404 404 404 404 404"},
	"GET /api/purchases":                                {want: "401 200 200 200 200 200 200"},
	"POST /api/webhooks/data-plan":                      {want: "500 500 500 500 500 500 500"}, // no secret here; see purchase_test.go
	"GET /checkout/success":                             {want: "200 200 200 200 200 200 200"},
	"GET /checkout/cancel":                              {want: "200 200 200 200 200 200 200"},
	"POST /api/checkout/data-plan":                      {body: `{"plan_id":"basic","device_id":"00000000000000000000000000000000"}`, want: "401 400 400 400 400 403 403"}, // no Idempotency-Key
	"POST /admin/enroll":                                {body: `{"mac_address":"02:00:00:00:00:09","device_secret_hash":"` + strings.Repeat("ab", 32) + `"}`, want: "401 403 403 403 403 403 201"},
	"POST /admin/devices/import":                        {csv: true, body: "mac_address,device_secret_hash\n", want: "401 403 403 403 403 403 200"},
	"POST /admin/orders":                                {body: `{"order_id":"o1","user_email":"a@example.com","device_mac":"02:00:00:00:00:09"}`, want: "401 403 403 403 403 403 201"},
	"POST /admin/orders/import":                         {csv: true, body: "order_id,user_email,device_mac\n", want: "401 403 403 403 403 403 200"},
	"GET /admin/devices":                                {want: "401 403 403 403 403 200 200"},
	"GET /admin/devices/{id}":                           {want: "401 403 403 403 403 200 200"},
	"DELETE /admin/devices/{id}":                        {want: "401 403 403 403 403 403 200"},
	"GET /admin/devices/{id}/audit":                     {want: "401 403 403 403 403 200 200"},
	"GET /admin/devices/{id}/connections":               {want: "401 403 403 403 403 200 200"},
	"POST /admin/devices/{id}/disable":                  {want: "401 403 403 403 403 200 200"},
	"POST /admin/devices/{id}/enable":                   {want: "401 403 403 403 403 200 200"},
	"PATCH /admin/devices/{id}":                         {body: `{"video":{"stream_name":"cam-1"}}`, want: "401 403 403 403 403 403 200"},
	"POST /admin/devices/{id}/disconnect":               {want: "401 403 403 403 403 200 200"},
	"POST /admin/devices/{id}/entitlements":             {body: `{"capability":"live_view"}`, want: "401 403 403 403 403 403 201"},
	"DELETE /admin/devices/{id}/entitlements":           {want: "401 403 403 403 403 403 400"},
	"POST /admin/devices/{id}/release":                  {want: "401 403 403 403 403 200 200"},
	"POST /admin/devices/{id}/credentials":              {body: `{"kind":"secret","secret_hash":"` + strings.Repeat("cd", 32) + `"}`, want: "401 403 403 403 403 403 201"},
	"GET /admin/audit":                                  {want: "401 403 403 403 403 403 200"},
	"GET /admin/stats":                                  {want: "401 403 403 403 403 403 200"},
	"POST /api/internal/aws/iot-event":                  {want: "401 401 401 401 401 401 401"}, // a signature, and no token, is what lets in
	"POST /api/ingest/iot-events":                       {want: "401 401 401 401 401 401 401"},
	"POST /api/devices/{id}/events/{event_id}/classify": {want: "401 404 403 403 403 404 404"},             // the device is entitled to nothing
	"POST /api/devices/{id}/stream":                     {body: `{}`, want: "401 404 403 403 403 404 404"}, // of no plan
	"GET /api/devices/{id}/stream":                      {want: "401 404 403 403 403 404 404"},
	"GET /api/devices/{id}/clip":                        {want: "401 404 400 400 400 404 404"},
	"POST /api/devices/{id}/webrtc":                     {body: `{}`, want: "401 404 403 403 403 404 404"},
	"POST /api/devices/{id}/aws-identity":               {want: "401 404 403 403 403 404 404"},
	"GET /api/device/kvs-credentials":                   {want: "401 401 401 401 401 401 401"},
	"GET /api/devices/{id}/config":                      {want: "401 404 200 200 200 200 200"},
	"PUT /api/devices/{id}/config":                      {body: `{"version":0,"zones":[]}`, want: "401 404 403 200 409 403 409"},
	"POST /api/devices/{id}/diagnostics":                {body: `{"include":["heap"],"wait":0}`, want: "401 404 403 409 409 403 409"},
	"POST /api/devices/{id}/commands":                   {body: `{"requestId":"r1","type":"identify"}`, want: "401 404 403 202 202 403 202"},
	"GET /api/devices/{id}/commands":                    {want: "401 404 403 200 200 403 200"},
	"GET /api/devices/{id}/commands/{command_id}":       {want: "401 404 403 404 404 403 404"},
	"DELETE /api/devices/{id}/commands/{command_id}":    {want: "401 404 403 404 404 403 404"},
	"GET /api/devices/{id}/sim":                         {want: "401 404 403 200 200 200 200"},
	"POST /api/webhooks/eiotclub":                       {want: "500 500 500 500 500 500 500"}, // not configured
	"GET /admin/sims":                                   {want: "401 403 403 403 403 403 200"},
	"POST /admin/sims/import":                           {csv: true, body: "iccid,device_id\n", want: "401 403 403 403 403 403 200"},
	"GET /admin/sims/{sim_id}":                          {want: "401 403 403 403 403 403 404"},
	"POST /admin/sims/{sim_id}/assign":                  {body: `{"device_id":"x"}`, want: "401 403 403 403 403 403 404"},
	"POST /admin/sims/{sim_id}/unassign":                {want: "401 403 403 403 403 403 404"},
	"POST /admin/sims/{sim_id}/refresh":                 {want: "401 403 403 403 403 403 404"},

	"GET /admin/releases":              {want: "401 403 403 403 403 403 200"},
	"POST /admin/releases":             {body: `{"version":"1.3.0","url":"https://updates.example.com/1.bin","sha256":"` + strings.Repeat("ab", 32) + `"}`, want: "401 403 403 403 403 403 201"},
	"GET /admin/releases/{id}":         {want: "401 403 403 403 403 403 404"},
	"DELETE /admin/releases/{id}":      {want: "401 403 403 403 403 403 404"},
	"GET /admin/rollouts":              {want: "401 403 403 403 403 403 200"},
	"POST /admin/rollouts":             {body: `{"release_id":"rel_x"}`, want: "401 403 403 403 403 403 404"},
	"GET /admin/rollouts/{id}":         {want: "401 403 403 403 403 403 404"},
	"PATCH /admin/rollouts/{id}":       {body: `{"percent":50}`, want: "401 403 403 403 403 403 404"},
	"POST /admin/rollouts/{id}/pause":  {want: "401 403 403 403 403 403 404"},
	"POST /admin/rollouts/{id}/resume": {want: "401 403 403 403 403 403 404"},
	"POST /admin/rollouts/{id}/cancel": {want: "401 403 403 403 403 403 404"},
	"GET /admin/rollouts/{id}/devices": {want: "401 403 403 403 403 403 404"},
}

func TestAccess(t *testing.T) {
	for _, rt := range served(t, newWorld(t, nil).Handler) {
		if _, ok := staffAccess[canonical(rt)]; ok {
			continue
		}
		row, ok := access[canonical(rt)]
		if !ok {
			t.Errorf("%s is not in the table of access", rt)
			continue
		}
		method, template, _ := strings.Cut(rt, " ")
		t.Run(rt, func(t *testing.T) {
			w, id := newHouse(t)
			for i, want := range strings.Fields(row.want) { // whoever may do most comes last
				c := call{method: method, path: strings.Replace(template, "{id}", id, 1), as: people[i], body: row.body}
				if row.csv {
					c.header = map[string]string{"Content-Type": "text/csv"}
				}
				got := w.do(t, c)
				if fmt.Sprint(got.status) != want {
					t.Errorf("%q gets %d, want %s: %s", people[i], got.status, want, got.raw)
				}
				checkRefusal(t, got)
			}
		})
	}
}

// checkRefusal checks what every refusal has.
func checkRefusal(t *testing.T, got reply) {
	t.Helper()
	switch got.status {
	case http.StatusUnauthorized:
		if got.body["error"] == "invalid_token" && got.header.Get("WWW-Authenticate") != `Bearer error="invalid_token"` {
			t.Errorf("WWW-Authenticate is %q", got.header.Get("WWW-Authenticate"))
		}
	case http.StatusTooManyRequests, http.StatusServiceUnavailable:
		if got.header.Get("Retry-After") == "" {
			t.Error("Retry-After is missing")
		}
	}
	if got.status >= 400 {
		if got.body["request_id"] != got.header.Get("X-Request-Id") || got.body["message"] == "" || len(got.body) != 3 {
			t.Errorf("the error is %s", got.raw)
		}
	}
}

// What is absent and what is somebody else's must not be told apart.
func TestForeignAndAbsentAreAlike(t *testing.T) {
	w, id := newHouse(t)
	absent := strings.Repeat("0", 32)
	for canonical, row := range access {
		method, template, _ := strings.Cut(canonical, " ")
		if !strings.HasPrefix(template, "/api/devices/{id}") {
			continue
		}
		for _, body := range []string{row.body, `{"name":5}`, `not JSON`, ``} {
			t.Run(fmt.Sprintf("%s with %q", canonical, body), func(t *testing.T) {
				var answers []reply
				for _, device := range []string{id, absent, "nonsense", strings.ToUpper(id), "%00", "%ff", "..%2f" + id} {
					got := w.do(t, call{method: method, path: strings.Replace(template, "{id}", device, 1), as: "stranger", body: body})
					if got.body["error"] == "not_found" { // an id with a slash is another path
						continue
					}
					got.want(t, http.StatusNotFound, "device_not_found")
					got.raw = strings.Replace(got.raw, got.header.Get("X-Request-Id"), "X", 1)
					got.header.Del("X-Request-Id")
					answers = append(answers, got)
				}
				for _, a := range answers[1:] {
					if a.raw != answers[0].raw {
						t.Errorf("%s and %s", a.raw, answers[0].raw)
					}
					if diff := cmp.Diff(answers[0].header, a.header); diff != "" {
						t.Error(diff)
					}
				}
			})
		}
	}
}

func TestBadBodies(t *testing.T) {
	w, id := newHouse(t)
	type bad struct {
		name, body string
		header     map[string]string
		status     int
		code       string
	}
	huge := `{"x":"` + strings.Repeat("a", 11<<20) + `"}`
	always := []bad{
		{"a huge body", huge, nil, 413, "body_too_large"},
		{"another media type", `x`, map[string]string{"Content-Type": "application/xml"}, 415, "unsupported_media_type"},
		{"a form", `a=b`, map[string]string{"Content-Type": "application/x-www-form-urlencoded"}, 415, "unsupported_media_type"},
		{"no media type", `{}`, map[string]string{"Content-Type": ""}, 415, "unsupported_media_type"},
		{"another charset", `{}`, map[string]string{"Content-Type": "application/json; charset=utf-16"}, 415, "unsupported_media_type"},
		{"a compressed body", `x`, map[string]string{"Content-Encoding": "gzip"}, 415, "unsupported_encoding"},
	}
	ofJSON := []bad{
		{"no JSON", `{`, nil, 400, "invalid_request"},
		{"an empty body", ` `, nil, 400, "invalid_request"},
		{"null", `null`, nil, 400, "invalid_request"},
		{"a list", `[]`, nil, 400, "invalid_request"},
		{"a text", `"x"`, nil, 400, "invalid_request"},
		{"text behind the object", `{} x`, nil, 400, "invalid_request"},
		{"two objects", `{}{}`, nil, 400, "invalid_request"},
		{"broken UTF-8", "{\"name\":\"\xff\"}", nil, 400, "invalid_request"},
		{"endless nesting", `{"a":` + strings.Repeat("[", 11000), nil, 400, "invalid_request"},
	}
	for canonical, row := range access {
		if row.body == "" {
			continue
		}
		method, template, _ := strings.Cut(canonical, " ")
		list := always
		if !row.csv {
			list = append(list[:len(list):len(list)], ofJSON...)
		}
		for _, b := range list {
			t.Run(canonical+" refuses "+b.name, func(t *testing.T) {
				header := b.header
				if row.csv && header == nil {
					header = map[string]string{"Content-Type": "text/csv"}
				}
				status, code := b.status, b.code
				switch canonical {
				case "POST /api/auth/app-token", "POST /api/auth/refresh", "POST /api/me/identities", "POST /api/auth/app-magic-link", "POST /api/auth/app-magic-link/verify":
					if status == 413 {
						status, code = 400, "invalid_request" // [contracts C.1]
					}
				}
				got := w.do(t, call{method: method, path: strings.Replace(template, "{id}", id, 1), as: taker(canonical), body: b.body, header: header})
				got.want(t, status, code)
				checkRefusal(t, got)
			})
		}
	}
	wrongTypes := map[string][]string{
		"POST /api/checkout/data-plan": {`{}`, `{"plan_id":5}`, `{"plan_id":"x","device_id":[]}`, `{"plan_id":"","device_id":"x"}`, `{"plan_id":"x"}`, `{"plan_id":"x","device_id":"y","iccid":5}`},
		"PUT /api/devices/{id}/config": {
			`{}`, `{"version":0}`, `{"zones":[]}`, `{"version":"0","zones":[]}`, `{"version":1.5,"zones":[]}`, `{"version":0,"zones":{}}`, `{"version":0,"zones":null}`,
			`{"version":0,"zones":[5]}`, `{"version":0,"zones":[{"id":"z"}]}`,
			`{"version":0,"zones":[{"id":"z 1","name":"","type":"include","vertices":[[0,0],[1,0],[1,1]],"sensitivity":5}]}`,
			`{"version":0,"zones":[{"id":"z1","name":"","type":"maybe","vertices":[[0,0],[1,0],[1,1]],"sensitivity":5}]}`,
			`{"version":0,"zones":[{"id":"z1","name":"","type":"include","vertices":[[0,0],[1,0]],"sensitivity":5}]}`,
			`{"version":0,"zones":[{"id":"z1","name":"","type":"include","vertices":[[0,0],[1,0],[1.5,1]],"sensitivity":5}]}`,
			`{"version":0,"zones":[{"id":"z1","name":"","type":"include","vertices":[[0,0],[1,0],[1,1]],"sensitivity":101}]}`,
			`{"version":0,"zones":[` + strings.Repeat("0,", 16) + `0]}`,
		},
		"POST /api/devices/{id}/diagnostics": {
			`{"include":"heap"}`, `{"include":[5]}`, `{"include":["HEAP"]}`, `{"include":["` + strings.Repeat("x", 17) + `"]}`,
			`{"include":["a","b","c","d","e","f","g","h","i"]}`, `{"wait":26}`, `{"wait":-1}`, `{"wait":"5"}`,
		},
		"POST /api/devices/{id}/commands": {
			`{}`, `{"requestId":"r"}`, `{"type":"identify"}`, `{"requestId":5,"type":"identify"}`, `{"requestId":"r","type":["x"]}`,
			`{"requestId":"r","type":"Reboot"}`, `{"requestId":"r","type":"response"}`, `{"requestId":"r","type":"a/b"}`, `{"requestId":"r","type":"+"}`,
			`{"requestId":"` + strings.Repeat("x", 65) + `","type":"identify"}`, `{"requestId":"a b","type":"identify"}`, `{"requestId":"\u0000","type":"identify"}`,
			`{"requestId":"r","type":"identify","params":[]}`, `{"requestId":"r","type":"identify","params":"x"}`, `{"requestId":"r","type":"identify","params":{"a":1,"a":2}}`,
			`{"requestId":"r","type":"identify","ttlSec":-1}`, `{"requestId":"r","type":"identify","ttlSec":604801}`, `{"requestId":"r","type":"identify","ttlSec":1.5}`,
			`{"requestId":"r","type":"identify","ttlSec":9223372036854775807}`, `{"requestId":"r","type":"identify","ttlSec":"60"}`,
			`{"requestId":"r","type":"identify","wait":26}`, `{"requestId":"r","type":"identify","wait":-1}`, `{"requestId":"r","type":"identify","wait":true}`,
			`{"requestId":"r","type":"unlock","ttlSec":61}`, `{"requestId":"r","type":"factory-reset","params":{"now":true}}`, `{"requestId":"r","type":"set-config"}`,
			`{"requestId":"r","type":"set-config","params":{"zones":[{}]}}`, `{"requestId":"r","type":"ota","params":{"version":"1","url":"http://x/","sha256":"` + strings.Repeat("a", 64) + `"}}`,
		},
		"POST /admin/sims/{sim_id}/assign": {`{}`, `{"device_id":5}`, `{"device_id":["x"]}`, `{"device_id":""}`},
		"POST /admin/releases": {
			`{}`, `{"version":"1"}`, `{"version":5,"url":"https://x/","sha256":"y"}`, `{"version":"1","url":"http://x/","sha256":"` + strings.Repeat("ab", 32) + `"}`,
			`{"version":"1","url":"https://x/","sha256":"` + strings.Repeat("AB", 32) + `"}`, `{"version":"1","url":"https://x/","sha256":"` + strings.Repeat("ab", 32) + `","hardware":"rs1"}`,
			`{"version":"1","url":"https://x/","sha256":"` + strings.Repeat("ab", 32) + `","hardware":["a b"]}`, `{"version":"1","url":"https://x/","sha256":"` + strings.Repeat("ab", 32) + `","min_rssi":1}`,
			`{"version":"1\u0000","url":"https://x/","sha256":"` + strings.Repeat("ab", 32) + `"}`,
		},
		"POST /admin/rollouts": {
			`{}`, `{"release_id":5}`, `{"release_id":"x","percent":0}`, `{"release_id":"x","percent":101}`, `{"release_id":"x","percent":"50"}`, `{"release_id":"x","rate_per_minute":0}`,
			`{"release_id":"x","max_attempts":11}`, `{"release_id":"x","timeout_sec":1}`, `{"release_id":"x","timeout_sec":9223372036854775807}`, `{"release_id":"x","halt_percent":-1}`, `{"release_id":"x","halt_after":0}`,
			`{"release_id":"x","cohort":[]}`, `{"release_id":"x","cohort":{"versions":[5]}}`, `{"release_id":"x","cohort":{"versions":[""]}}`, `{"release_id":"x","cohort":{"hardware":["a/b"]}}`,
			`{"release_id":"x","devices":"all"}`, `{"release_id":"x","devices":[]}`, `{"release_id":"x","devices":["y"],"percent":10}`, `{"release_id":"x","paused":"yes"}`,
		},
		"PATCH /admin/rollouts/{id}":            {`{}`, `{"percent":"50"}`, `{"percent":1.5}`, `{"rate_per_minute":[]}`, `{"other":1}`},
		"POST /api/auth/app-token":              {`{"provider":5}`, `{"provider":"dev","id_token":[]}`, `{"device":"x"}`, `{"provider":"dev","id_token":"a@example.com","device":{"install_id":"` + strings.Repeat("x", 65) + `"}}`, `{"provider":"dev","id_token":"a@example.com","device":{"name":"a\nb"}}`, `{"provider":"dev","id_token":"a@example.com","device":{"name":"\u0000"}}`},
		"POST /api/auth/refresh":                {`{"refresh_token":5}`, `{"refresh_token":["x"]}`, `{"refresh_token":"x","install_id":5}`, `{}`, `{"refresh_token":""}`, `{"refresh_token":null}`},
		"POST /api/auth/logout":                 {`{"all":"true"}`, `{"all":1}`, `{"refresh_token":{}}`},
		"POST /api/me/identities":               {`{"provider":5}`, `{"provider":"dev"}`, `{"provider":"nobody","id_token":"x"}`, `{"provider":"dev","id_token":5}`},
		"POST /api/auth/app-magic-link":         {`{}`, `{"email":5}`, `{"email":"a@example.com","install_id":[]}`, `{"email":"no address","install_id":"x","code_challenge":"x"}`, `{"email":"a@example.com","install_id":"x","code_challenge":"short"}`},
		"POST /api/auth/app-magic-link/verify":  {`{"token":5}`, `{"token":"x","install_id":{}}`, `{"token":"x","install_id":"y","code_verifier":["z"]}`},
		"POST /admin/auth/login":                {`{"email":5}`, `{"email":"a","password":{}}`},
		"PATCH /api/devices/{id}":               {`{"name":5}`, `{"name":["x"]}`, `{"name":""}`, `{"name":"\u0000"}`, `{"name":"` + strings.Repeat("x", 65) + `"}`, `{"name":"a\nb"}`},
		"POST /api/devices/activate":            {`{}`, `{"device_id":5}`, `{"mac":"x","claim_secret":"y"}`, `{"device_id":"x"}`, `{"claim_secret":"x"}`, `{"device_id":"x","claim_secret":[]}`, `{"device_id":"x\u0000","claim_secret":"y"}`, `{"device_id":"x","mac":"02:00:00:00:00:01","claim_secret":"y"}`, `{"device_id":"x","claim_secret":"` + strings.Repeat("y", 300) + `"}`},
		"POST /api/devices/claims":              {`[]`},
		"POST /admin/devices/{id}/entitlements": {`{}`, `{"capability":5}`, `{"capability":"read"}`, `{"capability":"live_view","ends_at":"soon"}`, `{"capability":"live_view","ends_at":"2020-01-01T00:00:00Z"}`, `{"capability":"live_view","history_days":-1}`, `{"capability":"live_view","history_days":"7"}`},
		"PATCH /admin/devices/{id}":             {`{}`, `{"video":5}`, `{"video":{"stream_name":5}}`, `{"video":{"stream_name":"a b"}}`, `{"video":{"stream_arn":"cam-1"}}`, `{"video":{"channel_arn":"arn:aws:kinesisvideo:us-east-1:123456789012:stream/cam/1"}}`, `{"video":{"channel_name":"a","channel_arn":"arn:aws:kinesisvideo:us-east-1:123456789012:channel/b/1"}}`, `{"video":{"thing_name":"` + strings.Repeat("y", 300) + `"}}`},
		"POST /api/devices/{id}/stream":         {`{"protocol":5}`, `{"protocol":"rtsp"}`, `{"mode":"yesterday"}`, `{"mode":"on_demand"}`, `{"mode":"on_demand","start":"soon"}`, `{"mode":"live","start":"2026-01-15T10:00:00Z"}`, `{"mode":"on_demand","start":"2026-01-15T10:00:00Z","end":"2026-01-15T09:00:00Z"}`, `{"mode":"on_demand","start":"2026-01-15T10:00:00Z","end":"2026-01-17T10:00:00Z"}`, `{"expires_in":"300"}`},
		"POST /api/devices/{id}/webrtc":         {`{"client_id":5}`, `[]`},
		"POST /admin/devices/claim":             {`{}`, `{"device_id":5}`, `{"device_id":"x"}`, `{"user_id":"x"}`, `{"device_id":"x","user_email":"nobody"}`, `{"device_id":"x","user_id":"y","proof":5}`},
		"POST /api/devices/{id}/share":          {`{}`, `{"user_email":5,"role":"viewer"}`, `{"user_email":"a@example.com"}`, `{"user_email":"a@example.com","role":"owner"}`, `{"user_email":"a@example.com","role":[]}`, `{"user_email":"nobody","role":"viewer"}`, `{"user_email":"a@example.com","role":"viewer","ends_at":"soon"}`, `{"user_email":"a@example.com","role":"viewer","ends_at":"2020-01-01T00:00:00Z"}`, `{"user_email":"a@example.com","role":"viewer","starts_at":"2027-02-01T00:00:00Z","ends_at":"2027-01-01T00:00:00Z"}`},
		"POST /api/devices/{id}/transfer":       {`{}`, `{"user_email":[]}`, `{"user_email":"nobody"}`, `{"user_email":"a@example.com\u0000"}`},
		"POST /admin/enroll":                    {`{"mac_address":5}`, `{"mac_address":"02:00:00:00:00:08","device_secret_hash":"short"}`, `{"mac_address":"02:00:00:00:00:08","device_secret_hash":1}`},
		"POST /admin/orders":                    {`{"order_id":5}`, `{"order_id":"\u0000","user_email":"a@example.com","device_mac":"02:00:00:00:00:08"}`, `{"order_id":"x","user_email":"a@example.com","device_mac":"02:00:00:00:00:08","shipped_at":"soon"}`},
		"POST /admin/devices/{id}/credentials":  {`{"kind":5}`, `{"kind":"password","secret_hash":"x"}`, `{"kind":"secret","secret_hash":"x","retire_old_after_sec":"1"}`, `{"kind":"secret","secret_hash":"` + strings.Repeat("ab", 32) + `","retire_old_after_sec":-1}`, `{"kind":"secret","secret_hash":"` + strings.Repeat("ab", 32) + `","retire_old_after_sec":9223372036854775807}`, `{"kind":"x509","certificate_pem":"x"}`},
	}
	for canonical, row := range access {
		if row.body == "" || row.csv {
			continue
		}
		method, template, _ := strings.Cut(canonical, " ")
		if len(wrongTypes[canonical]) == 0 {
			t.Errorf("%s has no bodies of wrong types", canonical)
		}
		for _, body := range wrongTypes[canonical] {
			t.Run(canonical+" refuses "+body[:min(len(body), 60)], func(t *testing.T) {
				got := w.do(t, call{method: method, path: strings.Replace(template, "{id}", id, 1), as: taker(canonical), body: body})
				if got.status != 400 {
					t.Errorf("got %d: %s", got.status, got.raw)
				}
				checkRefusal(t, got)
			})
		}
	}
}

// taker is somebody whose body the route looks at.
func taker(canonical string) string {
	switch canonical {
	case "POST /api/me/identities", "POST /api/devices/activate", "POST /api/devices/claims", "POST /api/checkout/data-plan",
		"POST /api/devices/{id}/stream", "POST /api/devices/{id}/webrtc": // staff see no video
		return "owner"
	}
	return "admin"
}

func TestUnknownDevices(t *testing.T) {
	w, _ := newHouse(t)
	for canonical, row := range access {
		method, template, _ := strings.Cut(canonical, " ")
		if !strings.Contains(template, "/devices/{id}") || template == "/admin/devices/{id}/audit" { // a trail outlives its device
			continue
		}
		for _, id := range []string{strings.Repeat("0", 32), "x", "%27%20OR%201=1--", strings.Repeat("a", 3000)} {
			t.Run(canonical+" of "+id[:min(len(id), 32)], func(t *testing.T) {
				w.do(t, call{method: method, path: strings.Replace(template, "{id}", id, 1), as: "admin", body: row.body}).want(t, 404, "device_not_found")
			})
		}
	}
}

func TestUnknownMembersAreIgnored(t *testing.T) {
	w, id := newHouse(t)
	w.do(t, call{method: "PATCH", path: "/api/devices/" + id, as: "owner", body: `{"name":"Hall","role":"owner","device_id":"x","future":{"a":[1]}}`}).want(t, 200, "")
}
