package httpapi

import (
	"net/http"

	"github.com/gorilla/mux"
)

// Router lets the tests walk the routes of a handler of New.
func Router(h http.Handler) *mux.Router { return h.(*api).router }

// Cursors of the lists, for tests of their decoder.
var Lists = []list{listDevices, listAdminDevices, listConnections, listEvents, listAudit}

// Cursor and Parse are the two directions of a cursor.
func (l list) Cursor(key int64) string       { return l.cursor(key) }
func (l list) Parse(s string) (int64, error) { return l.parse(s) }

// ParseTokenRequest is parseTokenRequest, for the fuzz target.
func ParseTokenRequest(form string, authorization []string) (id, secret string, scopes []string, err error) {
	t, err := parseTokenRequest(form, authorization)
	return t.clientID, t.clientSecret, t.scopes, err
}
