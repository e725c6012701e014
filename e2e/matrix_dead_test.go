package e2e_test

import (
	"net/http"
	"slices"
	"strings"
	"testing"

	"github.com/opticworks/devicecloud/account"
)

// TestDeadTokensAreNobodysEverywhere shows tokens whose sign-in, key or account has
// ended to every route that asks who it is: each answers as to nobody, byte by byte,
// and does nothing.
func TestDeadTokensAreNobodysEverywhere(t *testing.T) {
	t.Parallel()
	th := openTheatre(t)
	s := th.build(t)
	admin := th.staffToken(t, "admin")
	must := func(method, path, token string, body any) {
		t.Helper()
		if status := s.Do(method, path, token, body, nil); status/100 != 2 {
			t.Fatalf("%s %s answered %d", method, path, status)
		}
	}
	dead := map[string]string{}
	dead["signed out"] = s.token(t, "viewer")
	must(http.MethodDelete, "/api/auth/app-token", dead["signed out"], nil)
	dead["signed out by staff"] = s.token(t, "shared")
	must(http.MethodPost, "/admin/users/"+s.users["shared"].ID+"/sign-out", admin, nil)
	dead["disabled"] = s.token(t, "owner")
	must(http.MethodPost, "/admin/users/"+s.users["owner"].ID+"/disable", admin, nil)
	dead["erased"] = s.token(t, "other")
	must(http.MethodDelete, "/api/me", dead["erased"], nil)
	member := th.hire(t, "leaves@example.com", account.AdminRoleAdmin)
	dead["staff that was disabled"] = th.staffLogin(t, "leaves@example.com", adminPassword).Token
	must(http.MethodPatch, "/admin/staff/"+member.ID, admin, object{"disabled": true})
	member = th.hire(t, "sinks@example.com", account.AdminRoleAdmin)
	dead["staff with another role now"] = th.staffLogin(t, "sinks@example.com", adminPassword).Token
	must(http.MethodPatch, "/admin/staff/"+member.ID, admin, object{"role": "support"})
	program := th.employ(t, `["device:read","device:control","device:configure","config:write","device:enroll","order:write"]`)
	dead["an account that was disabled"], dead["its key"] = program.token, program.key
	must(http.MethodPost, "/admin/service-accounts/"+program.id+"/disable", admin, nil)

	asked := 0
	s.records.mark(t)
	for _, route := range th.routes(t) {
		method, path, _ := strings.Cut(route, " ")
		canonical := canonical(route)
		i := slices.IndexFunc(matrix, func(r rule) bool { return r.route == canonical })
		if i < 0 || strings.Fields(matrix[i].want)[0] != "401" {
			continue // without a row TestEveryRouteAnswersByTheMatrix fails
		}
		if canonical == "DELETE /api/auth/app-token" {
			continue // signing out twice is signing out [contracts C.3]
		}
		path = variables.ReplaceAllString(path, s.house.ID)
		body := ""
		if matrix[i].body != "" && method != http.MethodGet {
			body = `{}`
		}
		bare := s.exchange(t, request{method: method, path: path, body: body})
		for what, token := range dead {
			asked++
			if diff := sameButForTheRequest(bare, s.exchange(t, request{method: method, path: path, token: token, body: body})); diff != "" {
				t.Errorf("%s knows who is %s:\n%s", route, what, diff)
			}
		}
	}
	for _, change := range s.records.changes(t) {
		t.Errorf("something was done: %s", change)
	}
	if asked < 300 {
		t.Errorf("only %d questions", asked)
	}
}
