package httpapi

import (
	"net/http"
	"net/netip"
	"time"

	"github.com/gorilla/mux"
	"github.com/opticworks/devicecloud/registry"
)

// Router lets the tests walk the routes of a handler of New.
func Router(h http.Handler) *mux.Router { return h.(*api).router }

// Cursors of the lists, for tests of their decoder.
var Lists = []list{listDevices, listAdminDevices, listConnections, listEvents, listAudit}

// Cursor and Parse are the two directions of a cursor.
func (l list) Cursor(key int64) string       { return l.cursor(key) }
func (l list) Parse(s string) (int64, error) { return l.parse(s) }

// TextLists are the lists whose rows have a text for a key; TextCursor and ParseText are
// the two directions of their cursors.
var TextLists = []list{listStaff, listUsers, listServices}

func (l list) TextCursor(key string) string               { return l.textCursor(key) }
func (l list) ParseText(s string) (key string, err error) { return l.parseText(s) }

// ParseTokenRequest is parseTokenRequest, for the fuzz target.
func ParseTokenRequest(form string, authorization []string) (id, secret string, scopes []string, err error) {
	t, err := parseTokenRequest(form, authorization)
	return t.clientID, t.clientSecret, t.scopes, err
}

// Throttle is the limiters as the tests reach them.
type Throttle struct{ *limits }

// NewThrottle makes the limiters of Limits.
func NewThrottle(l Limits, now func() time.Time) Throttle { return Throttle{newLimits(l, now)} }

// Request, User, Login, Install, MagicLink and Device charge one request each.
func (t Throttle) Request(from netip.Addr) error             { return t.request(from) }
func (t Throttle) User(a registry.Actor) error               { return t.user(a) }
func (t Throttle) Login(from netip.Addr) error               { return t.login(from) }
func (t Throttle) Install(id string) error                   { return t.install(id) }
func (t Throttle) MagicLink(from netip.Addr, e string) error { return t.magicLink(from, e) }
func (t Throttle) Device(id string) error                    { return t.device(id) }

// Buckets is how many buckets the limiter for installations holds.
func (t Throttle) Buckets() int {
	t.installs.mu.Lock()
	defer t.installs.mu.Unlock()
	return len(t.installs.young) + len(t.installs.old)
}

// MaxBuckets is the most that it may hold.
const MaxBuckets = 2 * maxBuckets

// SessionBefore and SessionCursor are the two directions of a cursor of sessions.
func SessionBefore(cursor string) (sid string, err error) { return sessionBefore(cursor) }
func SessionCursor(sid string) string                     { return sessionCursor(sid) }
