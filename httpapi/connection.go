package httpapi

import (
	"time"

	"github.com/opticworks/devicecloud/registry"
)

// connectionBody is one connection of a device, as its people see it: without
// the address, which a viewer has no business to know.
type connectionBody struct {
	ConnectionID   string     `json:"connection_id"`
	Protocol       *string    `json:"protocol"` // 3.1.1 or 5
	ConnectedAt    time.Time  `json:"connected_at"`
	DisconnectedAt *time.Time `json:"disconnected_at"` // null: it is live
	Reason         *string    `json:"reason"`          // why it ended
}

// adminConnectionBody is one connection as staff see it.
type adminConnectionBody struct {
	connectionBody
	Epoch  int64   `json:"epoch"`
	NodeID *string `json:"node_id"`
	Remote *string `json:"remote"`
}

func newConnectionBody(c registry.Connection) connectionBody {
	b := connectionBody{ConnectionID: number(c.ID), Protocol: protocol(c.Protocol), ConnectedAt: c.ConnectedAt.UTC(), DisconnectedAt: stamp(c.DisconnectedAt)}
	if b.DisconnectedAt != nil {
		b.Reason = text(c.Reason.String())
	}
	return b
}

func newAdminConnectionBody(c registry.Connection) adminConnectionBody {
	return adminConnectionBody{newConnectionBody(c), c.Epoch, text(c.NodeID), text(c.Remote)}
}

// protocol is MQTT's name for a protocol level.
func protocol(level int) *string {
	switch level {
	case 4:
		return text("3.1.1")
	case 5:
		return text("5")
	}
	return nil
}

// connections reads one page of a device's connections, newest first.
func (a *api) connections(r *request) (rows []registry.Connection, cursor string, err error) {
	id, err := r.deviceID()
	if err != nil {
		return nil, "", err
	}
	q, err := r.params()
	if err != nil {
		return nil, "", err
	}
	before, limit, err := q.page(listConnections)
	if err != nil {
		return nil, "", err
	}
	rows, err = a.Registry.Connections(r.Context(), r.actor, id, before, limit+1)
	if err != nil {
		return nil, "", err
	}
	rows, cursor = next(listConnections, rows, limit, func(c registry.Connection) int64 { return c.ID })
	return rows, cursor, nil
}

func (a *api) listConnections(r *request) (answer, error) {
	rows, cursor, err := a.connections(r)
	if err != nil {
		return answer{}, err
	}
	return ok(struct {
		Connections []connectionBody `json:"connections"`
		NextCursor  string           `json:"next_cursor"`
	}{render(rows, newConnectionBody), cursor})
}

func (a *api) adminListConnections(r *request) (answer, error) {
	rows, cursor, err := a.connections(r)
	if err != nil {
		return answer{}, err
	}
	return ok(struct {
		Connections []adminConnectionBody `json:"connections"`
		NextCursor  string                `json:"next_cursor"`
	}{render(rows, newAdminConnectionBody), cursor})
}
