package httpapi

import (
	"bytes"
	"context"
	"io"
	"net/http"
	"time"

	"github.com/opticworks/devicecloud/account"
	"github.com/opticworks/devicecloud/registry"
)

// enrolledBody is the answer of an enrolment. [seed 003 4.1]
type enrolledBody struct {
	DeviceID   string    `json:"device_id"`
	EnrolledAt time.Time `json:"enrolled_at"`
}

func (a *api) enroll(r *request) (answer, error) {
	var in struct {
		MACAddress       string `json:"mac_address"`
		DeviceSecretHash string `json:"device_secret_hash"`
		ClaimSecretHash  string `json:"claim_secret_hash"`
		Hardware         string `json:"hardware"`
	}
	if err := r.decode(&in, maxJSON); err != nil {
		return answer{}, err
	}
	if in.MACAddress == "" || in.DeviceSecretHash == "" {
		return answer{}, account.ErrMissingFields
	}
	d, err := a.Registry.Enroll(r.Context(), r.actor, registry.EnrollRequest{MACAddress: in.MACAddress, DeviceSecretHash: in.DeviceSecretHash, ClaimSecretHash: in.ClaimSecretHash, Hardware: in.Hardware})
	if err != nil {
		return answer{}, err
	}
	return answer{http.StatusCreated, enrolledBody{d.ID, d.CreatedAt.UTC()}}, nil
}

// importBody is the answer of a CSV import: what became of each line.
type importBody[L any] struct {
	Created  int  `json:"created"`
	Existing int  `json:"existing"`
	Failed   int  `json:"failed"`
	Applied  bool `json:"applied"` // false: nothing was written
	Lines    []L  `json:"lines"`
}

type importLine struct {
	Line    int    `json:"line"`
	Status  string `json:"status"` // created, already_enrolled, exists, error
	Error   string `json:"error,omitempty"`
	Message string `json:"message,omitempty"`
}

type deviceLine struct {
	importLine
	DeviceID string `json:"device_id,omitempty"`
}

type orderLine struct {
	importLine
	OrderID string `json:"order_id,omitempty"`
}

// newImportLine spells "there already" as the route's own code for it.
func newImportLine(l registry.ImportLine, existing string) importLine {
	if l.Status == registry.LineExisting {
		l.Status = existing
	}
	return importLine{l.Line, l.Status, l.Code, l.Message}
}

func newDeviceLine(l registry.ImportLine) deviceLine {
	return deviceLine{newImportLine(l, registry.ErrAlreadyEnrolled.Code), l.ID}
}

func newOrderLine(l registry.ImportLine) orderLine {
	return orderLine{newImportLine(l, "exists"), l.ID}
}

// importer is the shape of the two imports of the registry.
type importer func(ctx context.Context, a registry.Actor, csv io.Reader, partial bool) (registry.ImportReport, error)

// importCSV runs an import over the body. 422: a line failed and nothing was
// written, because ?partial=true was not asked for.
func importCSV[L any](r *request, run importer, line func(registry.ImportLine) L) (answer, error) {
	q, err := r.params()
	if err != nil {
		return answer{}, err
	}
	partial, err := q.flag("partial")
	if err != nil {
		return answer{}, err
	}
	// The whole text first: a body that is cut or too large must not be half applied.
	text, err := r.body("text/csv", maxCSV)
	if err != nil {
		return answer{}, err
	}
	rep, err := run(r.Context(), r.actor, bytes.NewReader(text), partial)
	if err != nil {
		return answer{}, err
	}
	status := http.StatusOK
	if !rep.Applied && rep.Failed > 0 {
		status = http.StatusUnprocessableEntity
	}
	return answer{status, importBody[L]{rep.Created, rep.Existing, rep.Failed, rep.Applied, render(rep.Lines, line)}}, nil
}

func (a *api) importDevices(r *request) (answer, error) {
	return importCSV(r, a.Registry.ImportDevices, newDeviceLine)
}

func (a *api) importOrders(r *request) (answer, error) {
	return importCSV(r, a.Registry.ImportOrders, newOrderLine)
}
