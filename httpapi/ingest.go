package httpapi

import (
	"errors"
	"io"
	"net/http"

	"github.com/opticworks/devicecloud/media"
)

// errIngestNotConfigured is the answer to a delivery when nothing could be verified: a
// mistake of the operator's, and the sender should keep its events and try again.
var errIngestNotConfigured = &httpError{http.StatusInternalServerError, media.ErrIngestNotConfigured.Code, media.ErrIngestNotConfigured.Message}

// rejectedBody is an event of a batch that was not taken.
type rejectedBody struct {
	Index   int    `json:"index"`
	EventID string `json:"event_id,omitempty"`
	Error   string `json:"error"`
	Message string `json:"message"`
}

// ingestEvents takes signed events of devices from outside. The signature is over the
// bytes as they came and the path as it was asked for. [contracts F]
func (a *api) ingestEvents(r *request) (answer, error) {
	body, err := io.ReadAll(http.MaxBytesReader(r.w, r.Body, media.MaxIngestBody))
	var tooLarge *http.MaxBytesError
	switch {
	case errors.As(err, &tooLarge):
		body = append(body, 0) // more than there may be
	case err != nil:
		return answer{}, errCut
	}
	h := r.Header
	done, err := a.Ingestor.Ingest(r.Context(), media.Delivery{
		Method: r.Method, Path: r.URL.EscapedPath(), Body: body, From: r.actor,
		KeyID: h.Values("X-Ingest-Key-Id"), Timestamp: h.Values("X-Ingest-Timestamp"), Signature: h.Values("X-Ingest-Signature"),
	})
	switch {
	case errors.Is(err, media.ErrIngestNotConfigured):
		return answer{}, errIngestNotConfigured
	case err != nil:
		return answer{}, err
	}
	status := http.StatusAccepted
	if done.Accepted == 0 {
		status = http.StatusOK // nothing is new, and nothing would be if it were sent again
	}
	rejected := render(done.Rejected, func(e media.RejectedEvent) rejectedBody {
		return rejectedBody{e.Index, e.EventID, e.Err.Code, e.Err.Message}
	})
	return answer{status, struct {
		Accepted   int            `json:"accepted"`
		Duplicates int            `json:"duplicates"`
		Rejected   []rejectedBody `json:"rejected"`
	}{done.Accepted, done.Duplicates, rejected}}, nil
}
