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

// SessionBefore and SessionCursor are the two directions of a cursor of sessions.
func SessionBefore(cursor string) (sid string, err error) { return sessionBefore(cursor) }
func SessionCursor(sid string) string                     { return sessionCursor(sid) }
