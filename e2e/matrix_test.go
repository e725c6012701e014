package e2e_test

import (
	"cmp"
	"encoding/json"
	"fmt"
	"maps"
	"net/http"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"

	gocmp "github.com/google/go-cmp/cmp"
)

// cast is who asks, in the order of the columns of the matrix: nobody; people who are
// nothing, a viewer, a shared admin and the owner of the house; staff; a service account
// with every scope, and one that may only read, by its API key.
var cast = []string{"anonymous", "stranger", "viewer", "shared", "owner", "support", "admin", "service", "reader"}

// rule is one row of the matrix: what a route answers to each of the cast about the
// house, or about what exists.
//
//	ok     2xx
//	401    401 invalid_token
//	404    404, with the code of what the path names
//	role   403 insufficient_role
//	scope  403 insufficient_scope
//	418    that status, whatever the code
//
// What they are answered about anything else follows, see [rule.expect].
type rule struct {
	route  string
	want   string
	body   string // that is taken; "csv:" and "form:" before it say that it is no JSON. $MAC and the like: see [stage.fill]
	query  string
	absent string // what staff are answered about what does not exist, where it does not follow
	// as gives the token and the body where they need more than [stage.token] and fill.
	as func(s *stage, t *testing.T, actor string) (token, body string)
}

// matrix is who may do what. [seed 003 9.1] [contracts, decisions 6 and 15, C.4, C.5]
var matrix = []rule{
	//                                                               anonymous stranger viewer shared owner support admin service reader
	{route: "GET /livez", want: "                                        ok     ok     ok     ok     ok     ok     ok     ok     ok"},
	{route: "GET /readyz", want: "                                       ok     ok     ok     ok     ok     ok     ok     ok     ok"},
	{route: "GET /openapi.yaml", want: "                                 ok     ok     ok     ok     ok     ok     ok     ok     ok"},
	{route: "GET /asyncapi.yaml", want: "                                ok     ok     ok     ok     ok     ok     ok     ok     ok"},
	{route: "GET /.well-known/jwks.json", want: "                        ok     ok     ok     ok     ok     ok     ok     ok     ok"},
	{route: "GET /auth/magic", want: "                                   ok     ok     ok     ok     ok     ok     ok     ok     ok"},
	{route: "GET /mqtt", want: "                                         400    400    400    400    400    400    400    400    400"}, // no upgrade is asked for

	{route: "POST /api/auth/app-token", want: "                          ok     ok     ok     ok     ok     ok     ok     ok     ok", body: `{"provider":"dev","id_token":"$NEW@example.com"}`},
	{route: "POST /api/auth/app-magic-link", want: "                     ok     ok     ok     ok     ok     ok     ok     ok     ok", body: `{"email":"$NEW@example.com","install_id":"install-1","code_challenge":"$CHALLENGE"}`},
	{route: "POST /api/auth/app-magic-link/verify", want: "              ok     ok     ok     ok     ok     ok     ok     ok     ok", body: `{"token":"$LINK","install_id":"install-1","code_verifier":"$VERIFIER"}`},
	{route: "POST /api/auth/refresh", want: "                            ok     ok     ok     ok     ok     ok     ok     ok     ok", body: `{"refresh_token":"$REFRESH"}`},
	{route: "POST /admin/auth/login", want: "                            ok     ok     ok     ok     ok     ok     ok     ok     ok", body: `{"email":"` + adminEmail + `","password":"` + adminPassword + `"}`},
	{route: "GET /admin/auth/oidc", want: "                              501    501    501    501    501    501    501    501    501"}, // not configured
	{route: "GET /admin/auth/oidc/callback", want: "                     501    501    501    501    501    501    501    501    501"},
	{route: "POST /oauth/token", want: "                                 ok     400    400    400    400    400    400    400    400", body: "form:grant_type=client_credentials&client_id=$CLIENT&client_secret=$SECRET"}, // two ways to prove oneself at once

	// No token but a signature lets in, and here there is no key that could be signed with.
	{route: "POST /api/internal/aws/iot-event", want: "                  500    500    500    500    500    500    500    500    500", body: `{}`},
	{route: "POST /api/ingest/iot-events", want: "                       500    500    500    500    500    500    500    500    500", body: `{}`},

	{route: "DELETE /api/auth/app-token", want: "                        401    ok     ok     ok     ok     ok     ok     role   role"},
	{route: "POST /api/auth/logout", want: "                             401    ok     ok     ok     ok     ok     ok     role   role", body: `{"all":true}`},
	{route: "POST /admin/auth/totp", want: "                             401    role   role   role   role   ok     ok     role   role"},
	{route: "POST /admin/auth/totp/confirm", want: "                     401    role   role   role   role   ok     ok     role   role", as: newHand},
	{route: "DELETE /admin/auth/totp", want: "                           401    role   role   role   role   ok     ok     role   role", as: handWithCode},
	{route: "GET /api/me", want: "                                       401    ok     ok     ok     ok     ok     ok     ok     ok"},
	{route: "DELETE /api/me", want: "                                    401    ok     ok     ok     ok     role   role   role   role"},
	{route: "GET /api/me/sessions", want: "                              401    ok     ok     ok     ok     ok     ok     role   role"},
	{route: "DELETE /api/me/sessions", want: "                           401    ok     ok     ok     ok     ok     ok     role   role"},
	{route: "DELETE /api/me/sessions/{sid}", want: "                     401    ok     ok     ok     ok     ok     ok     role   role"},
	{route: "POST /api/me/identities", want: "                           401    ok     ok     ok     ok     role   role   role   role", body: `{"provider":"dev","id_token":"$NEW@example.com"}`},
	{route: "DELETE /api/me/identities/{provider}", want: "              401    ok     ok     ok     ok     role   role   role   role"},

	{route: "GET /api/events/stream", want: "                            401    404    ok     ok     ok     ok     ok     ok     ok", query: "device_id=$DEVICE"},
	{route: "GET /api/devices", want: "                                  401    ok     ok     ok     ok     ok     ok     ok     ok"},
	{route: "POST /api/devices/activate", want: "                       401    ok     ok     ok     ok     role   role   role   role", as: newLabel},
	{route: "POST /api/devices/claims", want: "                         401    ok     ok     ok     ok     role   role   role   role", body: `{}`},
	{route: "GET /api/devices/claims/{claim_id}", want: "               401    ok     ok     ok     ok     role   role   role   role"},
	{route: "GET /api/devices/{id}", want: "                             401    404    ok     ok     ok     ok     ok     ok     ok"},
	{route: "PATCH /api/devices/{id}", want: "                           401    404    role   ok     ok     role   ok     ok     scope", body: `{"name":"Kitchen"}`},
	{route: "DELETE /api/devices/{id}", want: "                          401    404    ok     ok     ok     role   ok     role   role"},
	{route: "GET /api/devices/{id}/connections", want: "                 401    404    ok     ok     ok     ok     ok     ok     ok"},
	{route: "GET /api/devices/{id}/config", want: "                      401    404    ok     ok     ok     ok     ok     ok     ok"},
	{route: "PUT /api/devices/{id}/config", want: "                      401    404    role   ok     ok     role   ok     ok     scope", body: `{"version":0,"zones":[]}`},
	{route: "POST /api/devices/{id}/diagnostics", want: "                401    404    role   409    409    role   409    409    scope", body: `{"wait":0}`}, // it is not connected
	{route: "POST /api/devices/{id}/commands", want: "                   401    404    role   ok     ok     role   ok     ok     scope", body: `{"requestId":"$NEW","type":"identify"}`},
	{route: "GET /api/devices/{id}/commands", want: "                    401    404    role   ok     ok     role   ok     ok     scope"},
	{route: "GET /api/devices/{id}/commands/{command_id}", want: "       401    404    role   ok     ok     role   ok     ok     scope"},
	{route: "DELETE /api/devices/{id}/commands/{command_id}", want: "    401    404    role   ok     ok     role   ok     ok     scope"},
	{route: "POST /api/devices/{id}/stream", want: "                     401    404    403    403    403    404    404    404    404", body: `{}`}, // of no plan
	{route: "GET /api/devices/{id}/stream", want: "                      401    404    403    403    403    404    404    404    404"},
	{route: "GET /api/devices/{id}/clip", want: "                        401    404    role   403    403    404    404    404    404", query: "start=2026-01-15T10:00:00Z&end=2026-01-15T10:01:00Z"}, // of no plan
	{route: "POST /api/devices/{id}/webrtc", want: "                     401    404    403    403    403    404    404    404    404", body: `{}`},
	{route: "POST /api/devices/{id}/aws-identity", want: "               401    404    403    403    403    404    404    404    404"},
	{route: "GET /api/device/kvs-credentials", want: "                   401    401    401    401    401    401    401    401    401"}, // a client certificate it takes
	{route: "GET /api/devices/{id}/events", want: "                      401    404    ok     ok     ok     ok     ok     ok     ok"},
	{route: "POST /api/devices/{id}/events/{event_id}/classify", want: " 401    404    role   403    403    404    404    404    404"}, // no device here is entitled to it
	{route: "POST /api/devices/{id}/claim-challenge", want: "           401    404    403    403    409    role   role   role   role"},
	{route: "POST /api/devices/{id}/share", want: "                     401    404    role   role   ok     role   ok     role   role", body: `{"user_email":"$NEW@example.com","role":"viewer"}`},
	{route: "GET /api/devices/{id}/shares", want: "                     401    404    role   role   ok     role   ok     role   role"},
	{route: "DELETE /api/devices/{id}/shares/{user_id}", want: "        401    404    role   role   ok     role   ok     role   role"},
	{route: "POST /api/devices/{id}/transfer", want: "                  401    404    role   role   ok     role   ok     role   role", body: `{"user_email":"$NEW@example.com"}`},
	{route: "GET /api/invitations", want: "                             401    ok     ok     ok     ok     role   role   role   role"},
	{route: "POST /api/invitations/{id}/accept", want: "                401    ok     ok     ok     ok     role   role   role   role"},
	{route: "POST /api/invitations/{id}/decline", want: "               401    ok     ok     ok     ok     role   role   role   role"},

	{route: "GET /api/data-plans", want: "                                  401    ok     ok     ok     ok     ok     ok     ok     ok"},
	{route: "POST /api/checkout/data-plan", want: "                         401    400    400    400    400    role   role   role   role", body: `{"plan_id":"basic","device_id":"$DEVICE"}`}, // no Idempotency-Key; TestBuyingADataPlan has the rest
	{route: "GET /api/checkout/sessions/{session_id}", want: "              404    404    404    404    404    404    404    404    404"},                                                     // TestBuyingADataPlan has those that there are
	{route: "GET /api/purchases", want: "                                   401    ok     ok     ok     ok     ok     ok     ok     ok"},
	{route: "POST /api/webhooks/data-plan", want: "                         500    500    500    500    500    500    500    500    500", body: `{}`}, // not configured
	{route: "GET /checkout/success", want: "                                ok     ok     ok     ok     ok     ok     ok     ok     ok"},
	{route: "GET /checkout/cancel", want: "                                 ok     ok     ok     ok     ok     ok     ok     ok     ok"},
	{route: "GET /admin/plans", want: "                                     401    role   role   role   role   role   ok     role   role"},
	{route: "POST /admin/plans", want: "                                    401    role   role   role   role   role   ok     role   role", body: `{"plan_id":"plan-$NEW","name":"1 GB","amount":990,"currency":"usd","carrier_package":"P100"}`},
	{route: "GET /admin/plans/{plan_id}", want: "                           401    role   role   role   role   role   ok     role   role"},
	{route: "PATCH /admin/plans/{plan_id}", want: "                         401    role   role   role   role   role   ok     role   role", body: `{"amount":1090}`},
	{route: "DELETE /admin/plans/{plan_id}", want: "                        401    role   role   role   role   role   ok     role   role"},
	{route: "GET /admin/purchases", want: "                                 401    role   role   role   role   role   ok     role   role"},
	{route: "GET /admin/purchases/{purchase_id}", want: "                   401    role   role   role   role   role   ok     role   role"},
	{route: "POST /admin/purchases/{purchase_id}/refund", want: "           401    role   role   role   role   role   400    role   role"}, // no Idempotency-Key
	{route: "POST /admin/purchases/{purchase_id}/resume", want: "           401    role   role   role   role   role   ok     role   role"},
	{route: "POST /admin/purchases/{purchase_id}/retry", want: "            401    role   role   role   role   role   ok     role   role"},
	{route: "GET /api/devices/{id}/sim", want: "                         401    404    role   ok     ok     ok     ok     ok     ok"},
	{route: "POST /api/webhooks/eiotclub", want: "                       500    500    500    500    500    500    500    500    500"}, // not configured
	{route: "GET /admin/sims", want: "                                   401    role   role   role   role   role   ok     ok     scope"},
	{route: "POST /admin/sims/import", want: "                           401    role   role   role   role   role   ok     ok     scope", body: "csv:iccid\n$SIM\n"},
	{route: "GET /admin/sims/{sim_id}", want: "                          401    role   role   role   role   role   ok     ok     scope"},
	{route: "POST /admin/sims/{sim_id}/assign", want: "                  401    role   role   role   role   role   ok     ok     scope", body: `{"device_id":"$DEVICE"}`},
	{route: "POST /admin/sims/{sim_id}/unassign", want: "                401    role   role   role   role   role   ok     ok     scope"},
	{route: "POST /admin/sims/{sim_id}/refresh", want: "                 401    role   role   role   role   role   501    501    scope"}, // no carrier is configured

	{route: "POST /admin/enroll", want: "                                401    role   role   role   role   role   ok     ok     scope", body: `{"mac_address":"$MAC","device_secret_hash":"$HASH"}`},
	{route: "POST /admin/devices/import", want: "                        401    role   role   role   role   role   ok     ok     scope", body: "csv:mac_address,device_secret_hash\n$MAC,$HASH\n"},
	{route: "POST /admin/orders", want: "                                401    role   role   role   role   role   ok     ok     scope", body: `{"order_id":"$NEW","user_email":"$NEW@example.com","device_mac":"$MAC"}`},
	{route: "POST /admin/orders/import", want: "                         401    role   role   role   role   role   ok     ok     scope", body: "csv:order_id,user_email,device_mac\n$NEW,$NEW@example.com,$MAC\n"},

	{route: "GET /admin/devices", want: "                                401    role   role   role   role   ok     ok     role   role"},
	{route: "POST /admin/devices/claim", want: "                        401    role   role   role   role   ok     ok     role   role", as: nobodysDevice},
	{route: "GET /admin/devices/{id}", want: "                           401    role   role   role   role   ok     ok     role   role"},
	{route: "DELETE /admin/devices/{id}", want: "                        401    role   role   role   role   role   ok     role   role"},
	{route: "PATCH /admin/devices/{id}", want: "                         401    role   role   role   role   role   ok     role   role", body: `{"video":{"thing_name":"$NEW"}}`},
	{route: "GET /admin/devices/{id}/audit", want: "                     401    role   role   role   role   ok     ok     role   role", absent: "ok"}, // a trail outlives its device
	{route: "GET /admin/devices/{id}/connections", want: "               401    role   role   role   role   ok     ok     role   role"},
	{route: "POST /admin/devices/{id}/disable", want: "                  401    role   role   role   role   ok     ok     role   role"},
	{route: "POST /admin/devices/{id}/enable", want: "                   401    role   role   role   role   ok     ok     role   role"},
	{route: "POST /admin/devices/{id}/disconnect", want: "               401    role   role   role   role   ok     ok     role   role"},
	{route: "POST /admin/devices/{id}/entitlements", want: "            401    role   role   role   role   role   ok     role   role", body: `{"capability":"live_view"}`},
	{route: "DELETE /admin/devices/{id}/entitlements", want: "          401    role   role   role   role   role   ok     role   role", query: "capability=live_view"},
	{route: "POST /admin/devices/{id}/release", want: "                 401    role   role   role   role   ok     ok     role   role"},
	{route: "POST /admin/devices/{id}/credentials", want: "              401    role   role   role   role   role   ok     role   role", body: `{"kind":"secret","secret_hash":"$HASH"}`},
	{route: "GET /admin/audit", want: "                                  401    role   role   role   role   role   ok     role   role"},
	{route: "GET /admin/explain", want: "                                401    role   role   role   role   role   ok     role   role", query: "actor=user:$USER&device_id=$DEVICE&capability=read"},
	{route: "GET /admin/stats", want: "                                  401    role   role   role   role   role   ok     role   role"},

	{route: "GET /admin/releases", want: "                              401    role   role   role   role   role   ok     role   role"},
	{route: "POST /admin/releases", want: "                             401    role   role   role   role   role   ok     role   role", body: `{"version":"$NEW","url":"https://updates.example.com/x.bin","sha256":"$HASH"}`},
	{route: "GET /admin/releases/{id}", want: "                         401    role   role   role   role   role   ok     role   role"},
	{route: "DELETE /admin/releases/{id}", want: "                      401    role   role   role   role   role   ok     role   role"},
	{route: "GET /admin/rollouts", want: "                              401    role   role   role   role   role   ok     role   role"},
	{route: "POST /admin/rollouts", want: "                             401    role   role   role   role   role   ok     role   role", as: newRelease},
	{route: "GET /admin/rollouts/{id}", want: "                         401    role   role   role   role   role   ok     role   role"},
	{route: "PATCH /admin/rollouts/{id}", want: "                       401    role   role   role   role   role   ok     role   role", body: `{"rate_per_minute":5}`},
	{route: "POST /admin/rollouts/{id}/pause", want: "                  401    role   role   role   role   role   ok     role   role"},
	{route: "POST /admin/rollouts/{id}/resume", want: "                 401    role   role   role   role   role   ok     role   role"},
	{route: "POST /admin/rollouts/{id}/cancel", want: "                 401    role   role   role   role   role   ok     role   role"},
	{route: "GET /admin/rollouts/{id}/devices", want: "                 401    role   role   role   role   role   ok     role   role"},

	{route: "GET /admin/staff", want: "                                  401    role   role   role   role   role   ok     role   role"},
	{route: "POST /admin/staff", want: "                                 401    role   role   role   role   role   ok     role   role", body: `{"email":"$NEW@example.com","password":"` + adminPassword + `","role":"support"}`},
	{route: "PATCH /admin/staff/{id}", want: "                           401    role   role   role   role   role   ok     role   role", body: `{"role":"admin"}`},
	{route: "DELETE /admin/staff/{id}/totp", want: "                     401    role   role   role   role   role   ok     role   role"},
	{route: "GET /admin/users", want: "                                  401    role   role   role   role   ok     ok     role   role"},
	{route: "GET /admin/users/{id}", want: "                             401    role   role   role   role   ok     ok     role   role"},
	{route: "DELETE /admin/users/{id}", want: "                          401    role   role   role   role   role   ok     role   role"},
	{route: "POST /admin/users/{id}/disable", want: "                    401    role   role   role   role   role   ok     role   role"},
	{route: "POST /admin/users/{id}/enable", want: "                     401    role   role   role   role   role   ok     role   role"},
	{route: "POST /admin/users/{id}/sign-out", want: "                   401    role   role   role   role   ok     ok     role   role"},
	{route: "GET /admin/service-accounts", want: "                       401    role   role   role   role   role   ok     role   role"},
	{route: "POST /admin/service-accounts", want: "                      401    role   role   role   role   role   ok     role   role", body: `{"name":"$NEW","scopes":["device:read"]}`},
	{route: "GET /admin/service-accounts/{id}", want: "                  401    role   role   role   role   role   ok     role   role"},
	{route: "DELETE /admin/service-accounts/{id}", want: "               401    role   role   role   role   role   ok     role   role"},
	{route: "POST /admin/service-accounts/{id}/disable", want: "         401    role   role   role   role   role   ok     role   role"},
	{route: "POST /admin/service-accounts/{id}/enable", want: "          401    role   role   role   role   role   ok     role   role"},
	{route: "POST /admin/service-accounts/{id}/secret", want: "          401    role   role   role   role   role   ok     role   role"},
	{route: "GET /admin/service-accounts/{id}/keys", want: "             401    role   role   role   role   role   ok     role   role"},
	{route: "POST /admin/service-accounts/{id}/keys", want: "            401    role   role   role   role   role   ok     role   role", body: `{"name":"$NEW"}`},
	{route: "DELETE /admin/service-accounts/{id}/keys/{key_id}", want: " 401    role   role   role   role   role   ok     role   role"},
}

// verdict is an expected answer.
type verdict struct {
	status int // 200 is any 2xx
	code   string
}

func (v verdict) allowed() bool { return v.status == http.StatusOK }

func (v verdict) String() string {
	if v.allowed() {
		return "2xx"
	}
	return fmt.Sprintf("%d %s", v.status, v.code)
}

// read is the verdict that a cell of the table spells.
func (r rule) read(t *testing.T, cell string, n noun) verdict {
	t.Helper()
	switch cell {
	case "ok":
		return verdict{status: http.StatusOK}
	case "401":
		return verdict{http.StatusUnauthorized, "invalid_token"}
	case "404":
		return verdict{http.StatusNotFound, cmp.Or(n.notFound, "device_not_found")}
	case "role":
		return verdict{http.StatusForbidden, "insufficient_role"}
	case "scope":
		return verdict{http.StatusForbidden, "insufficient_scope"}
	}
	status, err := strconv.Atoi(cell)
	if err != nil {
		t.Fatalf("%s: %q is no verdict", r.route, cell)
	}
	return verdict{status: status}
}

// expect is what the route answers to one of the cast about a target. A person is the
// owner of a device that they own, and a stranger to what is foreign or absent. To
// staff every device is alike, and what is absent is not found where they would have
// been let in; under /api/ they learn that first.
func (r rule) expect(t *testing.T, actor, target string, n noun) verdict {
	t.Helper()
	cells := strings.Fields(r.want)
	if len(cells) != len(cast) {
		t.Fatalf("the row of %s has %d columns, the cast %d", r.route, len(cells), len(cast))
	}
	cell := cells[slices.Index(cast, actor)]
	elsewhere := target == "absent" || target == "foreign" && !slices.Contains(n.targets, "shared")
	if slices.Contains(n.targets, "shared") && slices.Contains(persons, actor) {
		switch target {
		case "own":
			cell = cells[slices.Index(cast, "owner")]
		case "foreign", "absent":
			cell = cells[slices.Index(cast, "stranger")]
		}
		elsewhere = false
	}
	switch {
	case !elsewhere || actor == "anonymous":
		return r.read(t, cell, n)
	case r.absent != "" && cell == "ok":
		return r.read(t, r.absent, n)
	case cell == "ok" || slices.Contains(n.targets, "shared") && strings.Contains(r.route, " /api/"):
		return r.read(t, "404", n)
	}
	return r.read(t, cell, n)
}

// variables are the variables of a path.
var variables = regexp.MustCompile(`\{[^}]+\}`)

// ask sends what the rule is about, as one of the cast, about a target. want says
// whether the database is to be held against what it was.
func (s *stage) ask(t *testing.T, r rule, path, actor, target string, want verdict) reply {
	t.Helper()
	method, _, _ := strings.Cut(r.route, " ")
	if n, named := nounOf(t, canonical(path)); named {
		values := n.values(s, t, actor, target, want)
		path = variables.ReplaceAllStringFunc(path, func(string) (value string) {
			value, values = values[0], values[1:]
			return value
		})
	}
	if r.query != "" {
		path += "?" + s.fill(t, r.query)
	}
	body := s.fill(t, r.body)
	token := ""
	if r.as != nil {
		token, body = r.as(s, t, actor)
	} else {
		token = s.token(t, actor)
	}
	contentType := ""
	for prefix, of := range map[string]string{"csv:": "text/csv", "form:": "application/x-www-form-urlencoded"} {
		if rest, ok := strings.CutPrefix(body, prefix); ok {
			body, contentType = rest, of
		}
	}
	if !want.allowed() {
		s.records.mark(t)
	}
	return s.exchange(t, request{method, path, token, contentType, body})
}

// check holds an answer against the verdict, and, where it is a refusal, the database
// against what it was before.
func (s *stage) check(t *testing.T, got reply, want verdict, actor, target string) {
	t.Helper()
	var problem struct {
		Error     string `json:"error"`
		RequestID string `json:"request_id"`
	}
	right := want.allowed() && got.status/100 == 2 || got.status == want.status
	if !want.allowed() && want.code != "" {
		if err := json.Unmarshal([]byte(got.body), &problem); err != nil || problem.Error != want.code || problem.RequestID != got.header.Get("X-Request-Id") {
			right = false
		}
	}
	if !right {
		t.Errorf("%s on %s: got %d %s, want %s", actor, target, got.status, got.body, want)
	}
	if !want.allowed() {
		for _, change := range s.records.changes(t) {
			t.Errorf("%s on %s: the refusal changed the database: %s", actor, target, change)
		}
	}
}

// sameButForTheRequest compares two answers byte by byte, but for what names the
// request.
func sameButForTheRequest(a, b reply) string {
	for _, r := range []*reply{&a, &b} {
		r.body = strings.ReplaceAll(r.body, r.header.Get("X-Request-Id"), "REQUEST")
		r.header = maps.Clone(r.header)
		r.header.Del("X-Request-Id")
		r.header.Del("Date")
	}
	return gocmp.Diff([]any{a.status, a.header, a.body}, []any{b.status, b.header, b.body})
}

// TestEveryRouteAnswersByTheMatrix asks every route of the running program as each of
// the cast about each target. A route without a row fails it, and a row without a
// route. Whoever may do a thing has it done; whoever may not gets the exact refusal,
// and the database stays as it was; what is foreign looks as if it were absent.
func TestEveryRouteAnswersByTheMatrix(t *testing.T) {
	t.Parallel()
	th := openTheatre(t)
	served := th.routes(t)
	rows := map[string]rule{}
	for _, r := range slices.Concat(matrix, webhookRules) {
		if _, twice := rows[r.route]; twice {
			t.Errorf("%s has two rows", r.route)
		}
		rows[r.route] = r
		if !slices.Contains(served, r.route) && !slices.Contains(served, strings.Replace(r.route, " /api/", " /api/v1/", 1)) {
			t.Errorf("there is no route %s", r.route)
		}
	}
	// Each refusal is held against the whole database, which grows with each stage: so
	// nobody plays in one theatre for long, and a few play at once.
	const theatres, season = 3, 40
	free := make(chan *theatre, theatres)
	free <- th
	for range theatres - 1 {
		free <- nil
	}
	var played, cells, stages atomic.Int64
	t.Cleanup(func() {
		t.Logf("%d of %d routes, %d cells, %d stages", played.Load(), len(served), cells.Load(), stages.Load())
		if cells.Load() < 10*played.Load() {
			t.Errorf("only %d cells for %d routes", cells.Load(), played.Load())
		}
	})
	for _, route := range served {
		r, ok := rows[canonical(route)]
		if !ok {
			t.Errorf("%s has no row in the matrix", route)
			continue
		}
		t.Run(route, func(sub *testing.T) {
			sub.Parallel()
			th := <-free
			defer func() { free <- th }()
			if th == nil || th.stages > season {
				th = openTheatre(t)
			}
			th.Cloud = th.For(sub)
			if th.common == nil {
				th.common = th.build(sub)
			}
			before := th.stages
			cells.Add(int64(th.play(sub, r, route, th.common)))
			stages.Add(int64(th.stages - before))
			played.Add(1)
		})
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

// play asks one route about everything: the refusals first, on a stage that they must
// leave as it is, then what is allowed, each on a stage of its own where it changes
// something.
func (th *theatre) play(t *testing.T, r rule, route string, common *stage) (cells int) {
	method, path, _ := strings.Cut(route, " ")
	_, canonical, _ := strings.Cut(r.route, " ")
	n, _ := nounOf(t, canonical)
	for _, actor := range cast {
		refused := map[string]reply{}
		for _, target := range n.targets {
			want := r.expect(t, actor, target, n)
			if want.allowed() {
				continue
			}
			cells++
			refused[target] = common.ask(t, r, path, actor, target, want)
			common.check(t, refused[target], want, actor, target)
		}
		foreign, ok := refused["foreign"]
		if absent, also := refused["absent"]; ok && also && (actor == "anonymous" || slices.Contains(persons, actor)) {
			if diff := sameButForTheRequest(foreign, absent); diff != "" {
				t.Errorf("%s can tell what is foreign from what is absent:\n%s", actor, diff)
			}
		}
	}
	for _, actor := range cast {
		for _, target := range n.targets {
			want := r.expect(t, actor, target, n)
			if !want.allowed() {
				continue
			}
			cells++
			s := common
			if method != http.MethodGet && canonical != "/admin/auth/login" && r.as == nil {
				s = th.build(t)
			}
			s.check(t, s.ask(t, r, path, actor, target, want), want, actor, target)
		}
	}
	return cells
}
