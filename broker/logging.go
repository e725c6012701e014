package broker

import (
	"context"
	"errors"
	"fmt"
	"log/slog"

	"github.com/mochi-mqtt/server/v2/packets"
	"golang.org/x/time/rate"
)

const (
	// Clients can make mochi warn as often as they like; above this rate its lines are dropped.
	linesPerSecond = 10
	linesBurst     = 50
	// maxLogged is the longest text that passes, in bytes: a client chooses its own id.
	maxLogged = 128
)

// redactor stands between mochi and the logger. mochi logs whole packets, passwords and payloads among them, so no
// attribute passes but simple values under known keys; an error passes as its class.
type redactor struct {
	next slog.Handler
	rate *rate.Limiter
}

func newRedactor(next slog.Handler) slog.Handler {
	return &redactor{next: next, rate: rate.NewLimiter(linesPerSecond, linesBurst)}
}

// Enabled implements slog.Handler.
func (r *redactor) Enabled(ctx context.Context, level slog.Level) bool {
	return r.next.Enabled(ctx, level)
}

// Handle implements slog.Handler.
func (r *redactor) Handle(ctx context.Context, rec slog.Record) error {
	if rec.Level >= slog.LevelWarn && !r.rate.Allow() {
		return nil
	}
	clean := slog.NewRecord(rec.Time, rec.Level, rec.Message, rec.PC)
	rec.Attrs(func(a slog.Attr) bool {
		if safe, ok := redact(a); ok {
			clean.AddAttrs(safe)
		}
		return true
	})
	return r.next.Handle(ctx, clean)
}

// WithAttrs implements slog.Handler.
func (r *redactor) WithAttrs(attrs []slog.Attr) slog.Handler {
	var safe []slog.Attr
	for _, a := range attrs {
		if a, ok := redact(a); ok {
			safe = append(safe, a)
		}
	}
	return &redactor{next: r.next.WithAttrs(safe), rate: r.rate}
}

// WithGroup implements slog.Handler.
func (r *redactor) WithGroup(name string) slog.Handler {
	return &redactor{next: r.next.WithGroup(name), rate: r.rate}
}

// redact returns what may pass of an attribute, false when nothing may.
func redact(a slog.Attr) (slog.Attr, bool) {
	switch a.Key {
	case "client", "listener", "hook", "remote", "old_remote", "new_remote", "id", "protocol", "address", "version",
		"keepalive", "recommended", "len":
	case "error":
		if err, ok := a.Value.Any().(error); ok {
			return slog.String("error", errorClass(err)), true
		}
		return a, false
	default:
		return a, false
	}
	switch a.Value.Kind() {
	case slog.KindString:
		if s := a.Value.String(); len(s) > maxLogged {
			return slog.String(a.Key, s[:maxLogged]+"..."), true
		}
		return a, true
	case slog.KindInt64, slog.KindUint64, slog.KindBool, slog.KindFloat64, slog.KindDuration, slog.KindTime:
		return a, true
	}
	return a, false
}

// errorClass describes an error in words that are constants of a library, never of a client.
func errorClass(err error) string {
	var guard *GuardError
	var code packets.Code
	switch {
	case errors.As(err, &guard):
		return guard.Error()
	case errors.As(err, &code):
		return fmt.Sprintf("0x%02x", code.Code)
	}
	_, kind := CloseReason(err)
	return kind
}
