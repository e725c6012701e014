package httpapi

import (
	"encoding/json"
	"net/http"
	"time"

	"github.com/gorilla/mux"
	"github.com/opticworks/devicecloud/account"
	"github.com/opticworks/devicecloud/registry"
)

// maxWait is the longest that a request may wait for a device, in seconds.
const maxWait = 25

// errBrokerUnavailable is the answer to a command while devices are being told to go.
var errBrokerUnavailable = &httpError{http.StatusServiceUnavailable, "broker_unavailable", "No command can be sent at the moment. Try again."}

// commandBody is a command as it is read. [contracts, HTTP route table]
type commandBody struct {
	CommandID   string           `json:"commandId"`
	RequestID   string           `json:"requestId"`
	DeviceID    string           `json:"deviceId"`
	Type        string           `json:"type"`
	Params      json.RawMessage  `json:"params"` // without secrets
	Status      string           `json:"status"`
	Code        *string          `json:"code,omitempty"`
	Message     *string          `json:"message,omitempty"`
	Result      *json.RawMessage `json:"result,omitempty"`
	IssuedBy    string           `json:"issuedBy"`
	IssuedAt    time.Time        `json:"issuedAt"`
	SentAt      *time.Time       `json:"sentAt,omitempty"`
	DeliveredAt *time.Time       `json:"deliveredAt,omitempty"`
	FinishedAt  *time.Time       `json:"finishedAt,omitempty"`
	ExpiresAt   time.Time        `json:"expiresAt"`
	Duplicate   bool             `json:"duplicate,omitempty"`
}

// acceptedBody is the answer while a command is not final.
type acceptedBody struct {
	CommandID string    `json:"commandId"`
	RequestID string    `json:"requestId"`
	Status    string    `json:"status"`
	ExpiresAt time.Time `json:"expiresAt"`
	Duplicate bool      `json:"duplicate,omitempty"`
}

func newCommandBody(c registry.Command) commandBody {
	b := commandBody{
		CommandID: c.ID, RequestID: c.RequestID, DeviceID: c.DeviceID, Type: c.Type, Params: json.RawMessage(c.Shown()), Status: string(c.Status),
		Code: text(c.Code), Message: text(c.Message), IssuedBy: c.Issuer, IssuedAt: c.IssuedAt.UTC(), SentAt: stamp(c.SentAt),
		DeliveredAt: stamp(c.DeliveredAt), FinishedAt: stamp(c.FinishedAt), ExpiresAt: c.ExpiresAt.UTC(),
	}
	if result := json.RawMessage(c.Result); json.Valid(result) {
		b.Result = &result
	}
	return b
}

// sendCommand sends a command to a device, and may wait for what becomes of it.
// [contracts G.2] [seed 004 6.2]
func (a *api) sendCommand(r *request) (answer, error) {
	id, err := r.deviceID()
	if err != nil {
		return answer{}, err
	}
	// Before the body: a stranger learns nothing of it.
	if _, err := a.Registry.MayCommand(r.Context(), r.actor, id); err != nil {
		return answer{}, err
	}
	var in struct {
		RequestID string          `json:"requestId"`
		Type      string          `json:"type"`
		Params    json.RawMessage `json:"params"`
		TTLSec    *int64          `json:"ttlSec"`
		Wait      int64           `json:"wait"`
	}
	if err := r.decode(&in, maxJSON); err != nil {
		return answer{}, err
	}
	if in.RequestID == "" || in.Type == "" {
		return answer{}, account.ErrMissingFields
	}
	if in.Wait < 0 || in.Wait > maxWait {
		return answer{}, registry.E(registry.Invalid, registry.ErrInvalidCommand.Code, "wait must be from 0 to 25 seconds.")
	}
	req := registry.CommandRequest{RequestID: in.RequestID, Type: in.Type}
	if string(in.Params) != "null" {
		req.Params = in.Params
	}
	if in.TTLSec != nil {
		const more = 1 << 30 // than is allowed, and less than a Duration holds
		ttl := time.Duration(max(-1, min(*in.TTLSec, more))) * time.Second
		req.TTL = &ttl
	}
	if a.Ready != nil && a.Ready() != nil {
		return answer{}, errBrokerUnavailable
	}
	c, duplicate, err := a.Registry.SendCommand(r.Context(), r.actor, id, req)
	if err == nil {
		c, err = a.Registry.AwaitCommand(r.Context(), c, time.Duration(in.Wait)*time.Second)
	}
	if err != nil {
		return answer{}, err
	}
	if !c.Status.Final() {
		return answer{http.StatusAccepted, acceptedBody{c.ID, c.RequestID, string(c.Status), c.ExpiresAt.UTC(), duplicate}}, nil
	}
	body := newCommandBody(c)
	body.Duplicate = duplicate
	return ok(body)
}

// command reads the ids in the path of one command.
func (r *request) command() (deviceID, commandID string, err error) {
	if deviceID, err = r.deviceID(); err != nil {
		return "", "", err
	}
	if commandID = mux.Vars(r.Request)["command_id"]; !saneID(commandID) {
		commandID = "" // there is none of that name
	}
	return deviceID, commandID, nil
}

func (a *api) getCommand(r *request) (answer, error) {
	deviceID, commandID, err := r.command()
	if err != nil {
		return answer{}, err
	}
	c, err := a.Registry.Command(r.Context(), r.actor, deviceID, commandID)
	if err != nil {
		return answer{}, err
	}
	return ok(newCommandBody(c))
}

// cancelCommand takes a command out of the queue.
func (a *api) cancelCommand(r *request) (answer, error) {
	deviceID, commandID, err := r.command()
	if err != nil {
		return answer{}, err
	}
	c, err := a.Registry.CancelCommand(r.Context(), r.actor, deviceID, commandID)
	if err != nil {
		return answer{}, err
	}
	return ok(newCommandBody(c))
}

func (a *api) listCommands(r *request) (answer, error) {
	id, err := r.deviceID()
	if err != nil {
		return answer{}, err
	}
	q, err := r.params()
	if err != nil {
		return answer{}, err
	}
	before, limit, err := q.page(listCommands)
	if err != nil {
		return answer{}, err
	}
	rows, err := a.Registry.Commands(r.Context(), r.actor, id, before, limit+1)
	if err != nil {
		return answer{}, err
	}
	rows, cursor := next(listCommands, rows, limit, func(c registry.Command) int64 { return c.No })
	return ok(struct {
		Commands   []commandBody `json:"commands"`
		NextCursor string        `json:"next_cursor"`
	}{render(rows, newCommandBody), cursor})
}

// commandEvent is command.updated of a stream.
type commandEvent struct {
	eventHead
	commandBody
}
