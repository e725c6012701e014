package httpapi

import (
	"bufio"
	"context"
	"log/slog"
	"net"
	"net/http"
	"net/netip"
	"runtime"
	"runtime/debug"
	"strconv"
	"strings"
	"time"

	"github.com/opticworks/devicecloud/dataplan"
)

// exchange is one request and its answer, as the log and the metrics see it. It
// belongs to the request's goroutine.
type exchange struct {
	id      string
	address netip.Addr // of the client, behind trusted proxies
	secure  bool       // the client speaks TLS
	route   string     // of routes.go; "" when nothing matched
	actor   string     // for the log
	expires time.Time  // of the actor's token
}

type exchangeKey struct{}

func exchangeOf(r *http.Request) *exchange {
	if x, ok := r.Context().Value(exchangeKey{}).(*exchange); ok {
		return x
	}
	return &exchange{} // only outside of ServeHTTP
}

// ServeHTTP is what surrounds every request.
func (a *api) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	start := a.opts.Now()
	x := &exchange{id: r.Header.Get("X-Request-Id")}
	if !saneID(x.id) {
		x.id = a.opts.NewID()
	}
	x.address, x.secure = a.client(r)
	rec := &recorder{ResponseWriter: w}
	r = r.WithContext(context.WithValue(r.Context(), exchangeKey{}, x))
	defer a.finish(rec, r, start)

	securityHeaders(w.Header(), x)
	if r.URL.Path != pathMQTT {
		// Fails on writers without a connection; then there is nothing to bound.
		_ = http.NewResponseController(w).SetWriteDeadline(time.Now().Add(writeTimeout))
	}
	if err := a.limits.request(x.address); err != nil {
		a.fail(rec, r, err)
		return
	}
	a.router.ServeHTTP(rec, r)
}

// securityHeaders are on every answer; the few cacheable ones override
// Cache-Control.
func securityHeaders(h http.Header, x *exchange) {
	h.Set("X-Request-Id", x.id)
	h.Set("Cache-Control", "no-store")
	h.Set("Content-Security-Policy", "default-src 'none'; frame-ancestors 'none'")
	h.Set("X-Content-Type-Options", "nosniff")
	h.Set("Referrer-Policy", "no-referrer")
	if x.secure {
		h.Set("Strict-Transport-Security", "max-age=31536000")
	}
}

// finish recovers, logs and counts. The log holds no query string and no header:
// both may carry secrets.
func (a *api) finish(rec *recorder, r *http.Request, start time.Time) {
	x := exchangeOf(r)
	if v := recover(); v != nil {
		if v == http.ErrAbortHandler {
			panic(v) // net/http's own way to end a connection
		}
		cause := slog.String("panic", "a value that is not logged")
		if e, ok := v.(runtime.Error); ok {
			cause = slog.String("panic", e.Error())
		}
		a.log.LogAttrs(r.Context(), slog.LevelError, "panic in a handler", slog.String("request_id", x.id), slog.String("route", x.route), cause, slog.String("stack", string(debug.Stack())))
		if rec.status != 0 || rec.hijacked {
			a.observe(rec, r, start)
			panic(http.ErrAbortHandler) // half an answer must not look whole
		}
		a.fail(rec, r, errInternal)
	}
	a.observe(rec, r, start)
}

func (a *api) observe(rec *recorder, r *http.Request, start time.Time) {
	x, took := exchangeOf(r), a.opts.Now().Sub(start)
	status := rec.status
	switch {
	case rec.hijacked:
		status = http.StatusSwitchingProtocols
	case status == 0:
		status = http.StatusOK // what net/http sends for a handler that wrote nothing
	}
	a.metrics.observe(x.route, r.Method, status, took)
	level := slog.LevelInfo
	if x.route == "/livez" || x.route == "/readyz" {
		level = slog.LevelDebug
	}
	a.log.LogAttrs(r.Context(), level, "http request",
		slog.String("request_id", x.id), slog.String("method", method(r.Method)), slog.String("path", loggablePath(r.URL.Path)), slog.String("route", x.route),
		slog.Int("status", status), slog.Int64("bytes", rec.bytes), slog.Duration("took", took),
		slog.String("ip", x.address.String()), slog.String("actor", x.actor))
}

// longestID is the length of the longest id that a path names, in bytes: of a UUID.
const longestID = 36

// loggablePath is what of a path the log may hold: where an id belongs, somebody puts a
// token or a key by mistake, and those are longer than any id.
func loggablePath(path string) string {
	segments := strings.Split(clean(path), "/")
	for i, s := range segments {
		if len(s) > longestID {
			segments[i] = "(" + strconv.Itoa(len(s)) + " bytes)"
		} else if iccid, ok := dataplan.ParseICCID(s); ok && strings.HasPrefix(s, "89") { // [ITU-T E.118]
			segments[i] = iccid.Masked()
		}
	}
	return strings.Join(segments, "/")
}

// saneID accepts a request id from outside: 1 to 64 letters, digits, ".", "_", "-".
func saneID(s string) bool {
	if len(s) == 0 || len(s) > 64 {
		return false
	}
	for i := 0; i < len(s); i++ {
		c := s[i]
		if (c < 'a' || c > 'z') && (c < 'A' || c > 'Z') && (c < '0' || c > '9') && c != '.' && c != '_' && c != '-' {
			return false
		}
	}
	return true
}

// client is the address that asks, and whether it speaks TLS. Behind a trusted
// proxy that is the last address of X-Forwarded-For that is no trusted proxy
// itself: all to the left of it is the client's own word.
func (a *api) client(r *http.Request) (addr netip.Addr, secure bool) {
	secure = r.TLS != nil
	ap, err := netip.ParseAddrPort(r.RemoteAddr)
	if err != nil {
		return netip.IPv4Unspecified(), secure
	}
	addr = ap.Addr().Unmap().WithZone("")
	if !a.trusted(addr) {
		return addr, secure
	}
	if proto := r.Header.Get("X-Forwarded-Proto"); proto != "" {
		secure = strings.EqualFold(proto, "https")
	}
	hops := strings.Split(strings.Join(r.Header.Values("X-Forwarded-For"), ","), ",")
	for i := len(hops) - 1; i >= 0; i-- {
		hop, err := netip.ParseAddr(strings.TrimSpace(hops[i]))
		if err != nil {
			break
		}
		if addr = hop.Unmap().WithZone(""); !a.trusted(addr) {
			break
		}
	}
	return addr, secure
}

func (a *api) trusted(addr netip.Addr) bool {
	for _, p := range a.opts.TrustedProxies {
		if p.Contains(addr) {
			return true
		}
	}
	return false
}

// recorder remembers what was answered, and passes hijacking and flushing on.
type recorder struct {
	http.ResponseWriter
	status   int
	bytes    int64
	hijacked bool
}

// WriteHeader implements http.ResponseWriter.
func (w *recorder) WriteHeader(status int) {
	if w.status == 0 && status >= http.StatusOK {
		w.status = status
	}
	w.ResponseWriter.WriteHeader(status)
}

// Write implements http.ResponseWriter.
func (w *recorder) Write(b []byte) (int, error) {
	if w.status == 0 {
		w.status = http.StatusOK
	}
	n, err := w.ResponseWriter.Write(b)
	w.bytes += int64(n)
	return n, err
}

// Hijack implements http.Hijacker, for WebSockets.
func (w *recorder) Hijack() (net.Conn, *bufio.ReadWriter, error) {
	c, rw, err := http.NewResponseController(w.ResponseWriter).Hijack()
	w.hijacked = w.hijacked || err == nil
	return c, rw, err
}

// Unwrap lets http.ResponseController reach the writer below.
func (w *recorder) Unwrap() http.ResponseWriter { return w.ResponseWriter }
