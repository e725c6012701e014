package httpapi

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"log/slog"
	"math"
	"net/http"
	"strconv"
	"time"

	"github.com/opticworks/devicecloud/account"
	"github.com/opticworks/devicecloud/registry"
)

// httpError is an error of HTTP itself, which no domain knows.
type httpError struct {
	status  int
	code    string
	message string
}

func (e *httpError) Error() string { return e.code + ": " + e.message }

var (
	errNoRoute          = &httpError{http.StatusNotFound, "not_found", "There is no such route."}
	errMethodNotAllowed = &httpError{http.StatusMethodNotAllowed, "method_not_allowed", "This route does not have this method."}
	errMediaType        = &httpError{http.StatusUnsupportedMediaType, "unsupported_media_type", "The body's Content-Type is not what this route takes."}
	errEncoding         = &httpError{http.StatusUnsupportedMediaType, "unsupported_encoding", "A body with a Content-Encoding is not taken."}
	errTooLarge         = &httpError{http.StatusRequestEntityTooLarge, "body_too_large", "The body is larger than this route takes."}
	errNotReady         = &httpError{http.StatusServiceUnavailable, "not_ready", "The program is starting, draining, or cannot write."}
	errInternal         = &httpError{http.StatusInternalServerError, "internal_error", "Something went wrong on our side. The request id helps to find out what."}
	errFeatureDisabled  = &httpError{http.StatusNotImplemented, "feature_disabled", "This feature is not configured here."}
	errCut              = &httpError{http.StatusBadRequest, "invalid_request", "The body ended early."}
)

// statuses is the only place where a kind of error becomes a status.
var statuses = map[registry.Kind]int{
	registry.Internal:        http.StatusInternalServerError,
	registry.Invalid:         http.StatusBadRequest,
	registry.Unauthenticated: http.StatusUnauthorized,
	registry.Forbidden:       http.StatusForbidden,
	registry.NotFound:        http.StatusNotFound,
	registry.Conflict:        http.StatusConflict,
	registry.TooLarge:        http.StatusRequestEntityTooLarge,
	registry.RateLimited:     http.StatusTooManyRequests,
	registry.Unavailable:     http.StatusServiceUnavailable,
	registry.NotConfigured:   http.StatusNotImplemented,
	registry.Unsupported:     http.StatusUnprocessableEntity,
	registry.Upstream:        http.StatusBadGateway,
}

// problem is the one shape of an error answer. [contracts, decision 8]
type problem struct {
	Error     string `json:"error"`
	Message   string `json:"message"`
	RequestID string `json:"request_id"`

	// Of a limit that is one of several: whose it is, and the seconds until there is room.
	Scope         string `json:"scope,omitempty"`
	RetryAfterSec int    `json:"retry_after_sec,omitempty"`
}

// invalid is a request that is wrong and will stay wrong.
func invalid(message string) error {
	return registry.E(registry.Invalid, registry.ErrInvalidRequest.Code, message)
}

// sentence is what an error of the domain says to a person.
func sentence(err error) string {
	var e *registry.Error
	if errors.As(err, &e) {
		return e.Message
	}
	return registry.ErrInvalidRequest.Message
}

// fail answers with an error. Whoever asks sees a code and a sentence; the cause
// goes to the log when it is ours.
func (a *api) fail(w http.ResponseWriter, r *http.Request, err error) {
	x := exchangeOf(r)
	status, p := http.StatusInternalServerError, problem{Error: errInternal.code, Message: errInternal.message, RequestID: x.id}
	var own *httpError
	var domain *registry.Error
	var retry time.Duration
	switch {
	case errors.As(err, &own):
		status, p.Error, p.Message = own.status, own.code, own.message
	case errors.As(err, &domain) && domain.Kind != registry.Internal:
		status, p.Error, p.Message, retry = statuses[domain.Kind], domain.Code, domain.Message, domain.RetryAfter
		if domain.Scope != "" {
			p.Scope, p.RetryAfterSec = domain.Scope, wholeSeconds(retry)
		}
	case errors.Is(err, context.Canceled) && r.Context().Err() != nil:
		// Nobody reads the answer any more; a status for the log and the metrics.
		status, p.Error, p.Message = http.StatusServiceUnavailable, registry.ErrUnavailable.Code, registry.ErrUnavailable.Message
	}
	var token oauthError
	oauth := errors.As(err, &token)
	h := w.Header()
	switch status {
	case http.StatusUnauthorized:
		h.Set("WWW-Authenticate", `Bearer error="`+account.ErrInvalidToken.Code+`"`) // [RFC 9110 11.6.1]
		if oauth {
			h.Set("WWW-Authenticate", `Basic realm="devicecloud", charset="UTF-8"`) // [RFC 6749 5.2]
		}
	case http.StatusTooManyRequests, http.StatusServiceUnavailable:
		h.Set("Retry-After", strconv.Itoa(wholeSeconds(retry)))
	}
	if status >= http.StatusInternalServerError && status != http.StatusNotImplemented && r.Context().Err() == nil {
		a.log.LogAttrs(r.Context(), slog.LevelError, "request failed", slog.String("request_id", x.id), slog.String("route", x.route), slog.Any("error", err))
	}
	if oauth {
		a.write(w, r, answer{status, oauthProblem{p.Error, p.Message, p.RequestID}})
		return
	}
	a.write(w, r, answer{status: status, body: p})
}

// wholeSeconds is a wait in whole seconds, at least one.
func wholeSeconds(wait time.Duration) int { return max(1, int(math.Ceil(wait.Seconds()))) }

// encode is JSON in one line. Characters of HTML stay what they are: a signed URL that is
// copied out of an answer has to work, and no browser takes an answer for a page.
func encode(v any) ([]byte, error) {
	var b bytes.Buffer
	e := json.NewEncoder(&b)
	e.SetEscapeHTML(false)
	err := e.Encode(v)
	return bytes.TrimSuffix(b.Bytes(), []byte("\n")), err
}

// write encodes an answer. The body is built before the status is sent, so that a
// failure to encode is a clean 500.
func (a *api) write(w http.ResponseWriter, r *http.Request, ans answer) {
	body, err := encode(ans.body)
	if err != nil {
		a.log.Error("an answer could not be encoded", "request_id", exchangeOf(r).id, "error", err)
		ans.status, body = errInternal.status, []byte(`{"error":"`+errInternal.code+`","message":"`+errInternal.message+`","request_id":"`+exchangeOf(r).id+`"}`)
	}
	h := w.Header()
	h.Set("Content-Type", "application/json; charset=utf-8")
	h.Set("Content-Length", strconv.Itoa(len(body)))
	w.WriteHeader(ans.status)
	_, _ = w.Write(body) // the client has gone: there is nobody to tell
}
