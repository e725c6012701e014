package httpapi

import (
	"bytes"
	"encoding/json"
	"errors"
	"io"
	"mime"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"unicode"
	"unicode/utf8"

	"github.com/gorilla/mux"
	"github.com/opticworks/devicecloud/account"
	"github.com/opticworks/devicecloud/registry"
	"github.com/opticworks/devicecloud/topic"
)

const (
	maxJSON  = 64 << 10
	maxLogin = 16 << 10 // [contracts C.1]
	maxCSV   = 10 << 20
	// maxParam bounds a query parameter, in bytes.
	maxParam = 256
)

// endpoint is one route's work: decode, one call of a domain, encode.
type endpoint func(*request) (answer, error)

// request is what an endpoint sees.
type request struct {
	*http.Request
	w     http.ResponseWriter
	actor registry.Actor // who asks; without kind and id on public routes
}

// answer is what an endpoint gives: a status and a response struct.
type answer struct {
	status int
	body   any
}

// answered says that the endpoint has written its own answer.
func answered() (answer, error) { return answer{}, nil }

func ok(body any) (answer, error) { return answer{http.StatusOK, body}, nil }

// handle wraps an endpoint with the question who asks.
func (a *api) handle(rt route) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		actor, err := a.identify(r, rt.who)
		if err != nil {
			a.fail(w, r, err)
			return
		}
		if rt.who != anybody {
			if err := a.limits.user(actor); err != nil {
				a.fail(w, r, err)
				return
			}
		}
		ans, err := rt.serve(&request{Request: r, w: w, actor: actor})
		if err != nil {
			a.fail(w, r, err)
			return
		}
		if ans.status != 0 {
			a.write(w, r, ans)
		}
	}
}

// identify makes the actor of a request, and refuses whom the route does not
// answer, before anything of the body is looked at.
func (a *api) identify(r *http.Request, audience who) (registry.Actor, error) {
	x := exchangeOf(r)
	var actor registry.Actor
	if audience != anybody {
		token, ok := bearer(r)
		if !ok {
			return actor, account.ErrInvalidToken
		}
		var err error
		if actor, x.expires, err = a.Accounts.ActorByToken(r.Context(), token); err != nil {
			return actor, err
		}
		x.actor = actor.String()
	}
	actor.RequestID, actor.IP, actor.UserAgent = x.id, x.address.String(), clean(r.UserAgent())
	actor.ClientType = clientType(r, actor.Kind)
	if !audience.answers(actor.Kind) {
		return actor, registry.ErrInsufficientRole
	}
	return actor, nil
}

// answers reports whether a route for the audience answers a kind of actor at all.
func (w who) answers(kind registry.ActorKind) bool {
	switch w {
	case admin:
		return kind == registry.ActorAdmin
	case staff:
		return kind == registry.ActorAdmin || kind == registry.ActorSupport
	case factory:
		return kind == registry.ActorAdmin || kind == registry.ActorService
	}
	return true
}

// bearer is the token of the Authorization header. [RFC 6750 2.1]
func bearer(r *http.Request) (string, bool) {
	values := r.Header.Values("Authorization")
	if len(values) != 1 {
		return "", false
	}
	scheme, token, ok := strings.Cut(values[0], " ")
	if !ok || !strings.EqualFold(scheme, "Bearer") {
		return "", false
	}
	token = strings.Trim(token, " ")
	return token, token != ""
}

// clientType is the kind of program that asks, as it says itself in
// X-Client-Type, for the audit trail. [seed 004 7]
func clientType(r *http.Request, kind registry.ActorKind) string {
	switch t := r.Header.Get("X-Client-Type"); t {
	case "admin-web", "miniapp", "app", "service", "cli":
		return t
	}
	switch kind {
	case registry.ActorAdmin, registry.ActorSupport:
		return "admin-web"
	case registry.ActorUser:
		return "app"
	case registry.ActorService:
		return "service"
	}
	return ""
}

// clean makes a header's text fit for a database: valid, printable, at most
// maxParam bytes.
func clean(s string) string {
	s = strings.Map(func(r rune) rune {
		if unicode.IsPrint(r) {
			return r
		}
		return -1
	}, strings.ToValidUTF8(s[:min(len(s), maxParam)], ""))
	return s
}

// deviceID is the id in the path. What cannot be an id is answered as an absent one.
func (r *request) deviceID() (string, error) {
	id := mux.Vars(r.Request)["id"]
	if !topic.ValidDeviceID(id) {
		return "", registry.ErrDeviceNotFound
	}
	return id, nil
}

// id is the id of something else than a device in the path, by its name there; absent is
// the answer to what cannot be an id.
func (r *request) id(name string, absent error) (string, error) {
	id := mux.Vars(r.Request)[name]
	if !saneID(id) {
		return "", absent
	}
	return id, nil
}

// changes is deviceID for a change that the actor may make by the capability, and
// charges it to the device.
func (a *api) changes(r *request, c registry.Capability) (string, error) {
	id, err := r.deviceID()
	if err != nil {
		return "", err
	}
	// Before the body too: a stranger learns nothing of it.
	if _, err := a.Registry.Access(r.Context(), r.actor, id, c); err != nil {
		return "", err
	}
	return id, a.limits.device(id)
}

// manages is changes for the routes that only staff have, whatever the device.
func (a *api) manages(r *request) (string, error) {
	id, err := r.deviceID()
	if err != nil {
		return "", err
	}
	return id, a.limits.device(id)
}

// body reads the whole body when it is of the media type and at most limit bytes.
func (r *request) body(mediaType string, limit int64) ([]byte, error) {
	for _, e := range r.Header.Values("Content-Encoding") {
		if e != "" && !strings.EqualFold(e, "identity") {
			return nil, errEncoding
		}
	}
	got, params, err := mime.ParseMediaType(r.Header.Get("Content-Type"))
	if charset := params["charset"]; err != nil || got != mediaType || charset != "" && !strings.EqualFold(charset, "utf-8") {
		return nil, errMediaType
	}
	if r.ContentLength > limit {
		return nil, errTooLarge
	}
	b, err := io.ReadAll(http.MaxBytesReader(r.w, r.Body, limit))
	var tooLarge *http.MaxBytesError
	switch {
	case errors.As(err, &tooLarge):
		return nil, errTooLarge
	case err != nil:
		return nil, errCut
	}
	return b, nil
}

// decode reads a JSON object into v. Unknown members are ignored; wrong types,
// trailing text and broken UTF-8 are not. [contracts, HTTP route table]
func (r *request) decode(v any, limit int64) error {
	b, err := r.body("application/json", limit)
	if err != nil {
		return err
	}
	if !utf8.Valid(b) {
		return invalid("The body is not valid UTF-8.")
	}
	if t := bytes.TrimLeft(b, " \t\r\n"); len(t) == 0 || t[0] != '{' {
		return invalid("The body is not a JSON object.")
	}
	err = json.Unmarshal(b, v) // refuses trailing text too
	var wrong *json.UnmarshalTypeError
	switch {
	case errors.As(err, &wrong) && wrong.Field != "":
		return invalid("The field " + wrong.Field + " has the wrong type.")
	case err != nil:
		return invalid("The body is not valid JSON.")
	}
	return nil
}

// decodeOptional is decode for a body that may be absent.
func (r *request) decodeOptional(v any) error {
	if r.Body == nil || r.Body == http.NoBody || r.ContentLength == 0 {
		return nil
	}
	return r.decode(v, maxLogin)
}

// params are the query parameters that a route knows; others are ignored.
func (r *request) params() (params, error) {
	q, err := url.ParseQuery(r.URL.RawQuery)
	if err != nil {
		return params{}, invalid("The query is not well-formed.")
	}
	return params{q}, nil
}

type params struct{ url.Values }

// text is a parameter's text; "" when it is absent. It is short and printable, so
// that it can be handed to a database and quoted in a message.
func (p params) text(name string) (string, error) {
	s := p.Get(name)
	if len(s) > maxParam || clean(s) != s {
		return "", invalid(name + " must be at most 256 bytes of printable text.")
	}
	return s, nil
}

// number is a whole number from low to high; absent: the fallback.
func (p params) number(name string, fallback, low, high int) (int, error) {
	s := p.Get(name)
	if s == "" {
		return fallback, nil
	}
	n, err := strconv.Atoi(s)
	if err != nil || n < low || n > high {
		return 0, invalid(name + " must be a whole number from " + strconv.Itoa(low) + " to " + strconv.Itoa(high) + ".")
	}
	return n, nil
}

// flag is true or false; absent: false.
func (p params) flag(name string) (bool, error) {
	switch p.Get(name) {
	case "", "false":
		return false, nil
	case "true":
		return true, nil
	}
	return false, invalid(name + " must be true or false.")
}
