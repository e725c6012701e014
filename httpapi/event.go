package httpapi

import (
	"encoding/json"
	"time"

	"github.com/opticworks/devicecloud/registry"
)

// eventBody is one thing that happened to a device.
type eventBody struct {
	EventID string          `json:"event_id"`
	Type    string          `json:"type"`
	At      time.Time       `json:"at"`
	Data    json.RawMessage `json:"data"`

	Classification *verdictBody `json:"classification,omitempty"` // for who may know
}

func newEventBody(e registry.Event) eventBody {
	data := json.RawMessage(e.Data)
	if !json.Valid(data) {
		data = json.RawMessage("{}")
	}
	return eventBody{EventID: number(e.ID), Type: e.Type, At: e.OccurredAt.UTC(), Data: data}
}

func (a *api) listEvents(r *request) (answer, error) {
	id, err := r.deviceID()
	if err != nil {
		return answer{}, err
	}
	q, err := r.params()
	if err != nil {
		return answer{}, err
	}
	before, limit, err := q.page(listEvents)
	if err != nil {
		return answer{}, err
	}
	typ, err := q.text("type")
	if err != nil {
		return answer{}, err
	}
	rows, err := a.Registry.Events(r.Context(), r.actor, id, typ, before, limit+1)
	if err != nil {
		return answer{}, err
	}
	rows, cursor := next(listEvents, rows, limit, func(e registry.Event) int64 { return e.ID })
	events := render(rows, newEventBody)
	if err := a.classified(r, id, rows, events); err != nil {
		return answer{}, err
	}
	return ok(struct {
		Events     []eventBody `json:"events"`
		NextCursor string      `json:"next_cursor"`
	}{events, cursor})
}

// deviceEvent is device.event of a stream.
type deviceEvent struct {
	eventHead
	Event eventBody `json:"event"`
}
