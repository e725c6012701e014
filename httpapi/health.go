package httpapi

import (
	"context"
	"fmt"
	"net/http"
	"time"
)

// probeTimeout bounds the write check: a probe wants an answer, not patience.
const probeTimeout = 2 * time.Second

type healthBody struct {
	Status string `json:"status"`
}

// livez says that the process answers, and nothing about what it stands on: a
// restart does not heal a database.
func (a *api) livez(*request) (answer, error) { return ok(healthBody{"ok"}) }

// readyz says whether requests should come here: not while the program starts or
// drains, nor while the registry cannot write.
func (a *api) readyz(r *request) (answer, error) {
	if a.Ready != nil {
		if err := a.Ready(); err != nil {
			return answer{}, fmt.Errorf("%w: %w", errNotReady, err)
		}
	}
	ctx, cancel := context.WithTimeout(r.Context(), probeTimeout)
	defer cancel()
	if err := a.Registry.Health(ctx); err != nil {
		return answer{}, fmt.Errorf("%w: %w", errNotReady, err)
	}
	return ok(healthBody{"ready"})
}

// document serves a text that changes only with the program.
func document(text []byte) http.HandlerFunc {
	return func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "application/yaml; charset=utf-8")
		w.Header().Set("Cache-Control", "public, max-age=300")
		_, _ = w.Write(text) // the client has gone: there is nobody to tell
	}
}
