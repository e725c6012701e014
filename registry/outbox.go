package registry

import (
	"context"
	"encoding/json"
	"time"
)

// The events that people outside can be told of by webhook. [contracts H]
const (
	EventProvisioned      = "device.provisioned"
	EventClaimed          = "device.claimed"
	EventReleased         = "device.released"
	EventSelfEnrolled     = "device.self_enrolled"
	EventOnline           = "device.online"
	EventOffline          = "device.offline"
	EventShared           = "device.shared"
	EventCommandCompleted = "command.completed"
	EventOTACompleted     = "ota.completed"
	EventSIMAlert         = "sim.alert"
	EventPlanActivated    = "plan.activated"
	EventPlanRefunded     = "plan.refunded"
)

// OutboxEvent is something that happened and that the outside may want to hear of.
type OutboxEvent struct {
	ID       int64          // of [Options].NextID; the receiver's key against duplicates
	Type     string         // one of the events above
	DeviceID string         // events about one device arrive in the order of their ids; "": about none
	At       time.Time      // when it happened
	Data     map[string]any // without device_id, which is added; never a secret
}

// OutboxTx writes to the outbox.
type OutboxTx interface {
	// InsertOutbox writes each event once for every endpoint that is subscribed to its
	// type, and nothing where nobody is: it asks first.
	InsertOutbox(ctx context.Context, events ...OutboxEvent) error
}

// Emit writes an event into the outbox, in the transaction of the change that it tells
// of: it is delivered if and only if that commits. With nobody subscribed it costs one
// read of a small table. Every domain calls it, from its own transaction.
func Emit(ctx context.Context, tx OutboxTx, e OutboxEvent) error { return tx.InsertOutbox(ctx, e) }

// emit is Emit with an id and for a device.
func (r *Registry) emit(ctx context.Context, tx Tx, typ, deviceID string, at time.Time, data map[string]any) error {
	return Emit(ctx, tx, OutboxEvent{ID: r.opts.NextID(), Type: typ, DeviceID: deviceID, At: at, Data: data})
}

// maxOutboxBody bounds an event's body. [Standard Webhooks: under 20 kB]
const maxOutboxBody = 19 << 10

// Body is the JSON text that is signed and sent, under 20 kB: of data that is longer the
// long members are left out and `truncated` is true.
func (e OutboxEvent) Body() (string, error) {
	type envelope struct {
		Type      string         `json:"type"`
		Timestamp time.Time      `json:"timestamp"`
		Data      map[string]any `json:"data"`
	}
	data := make(map[string]any, len(e.Data)+1)
	for name, value := range e.Data {
		data[name] = value
	}
	if e.DeviceID != "" {
		data["device_id"] = e.DeviceID
	}
	body, err := json.Marshal(envelope{e.Type, e.At.UTC(), data})
	if err != nil || len(body) <= maxOutboxBody {
		return string(body), err
	}
	const short = 256
	for name, value := range data {
		if text, err := json.Marshal(value); err != nil || len(text) > short {
			delete(data, name)
		}
	}
	data["truncated"] = true
	if body, err = json.Marshal(envelope{e.Type, e.At.UTC(), data}); err != nil || len(body) <= maxOutboxBody {
		return string(body), err
	}
	data = map[string]any{"device_id": e.DeviceID, "truncated": true} // of very many members
	body, err = json.Marshal(envelope{e.Type, e.At.UTC(), data})
	return string(body), err
}

// presenceEvent tells of a change of presence. The epoch counts a device's connections.
func presenceEvent(id int64, deviceID string, at time.Time, status Status, reason Reason, epoch int64) OutboxEvent {
	typ := EventOffline
	if status == Online {
		typ = EventOnline
	}
	return OutboxEvent{ID: id, Type: typ, DeviceID: deviceID, At: at, Data: map[string]any{
		"status": status.String(), "reason": reason.String(), "epoch": epoch,
	}}
}

// PresenceEvents are the events of a batch that was written: a device came online that
// was offline, or went offline. A connection that takes over from another is neither, and
// so is the return of a device whose node was lost: for each device, online and offline
// alternate. Stores call it within the transaction of the batch, when somebody is
// subscribed.
func (b *Batch) PresenceEvents() (list []OutboxEvent) {
	for _, d := range b.Disconnects {
		if d.Changed && d.EventID != 0 {
			list = append(list, presenceEvent(d.EventID, d.DeviceID, d.At, Offline, d.Reason, d.Epoch))
		}
	}
	for _, c := range b.Claims {
		if c.Began && c.EventID != 0 {
			list = append(list, presenceEvent(c.EventID, c.DeviceID, c.At, Online, Connected, c.Row.Presence.Epoch))
		}
	}
	return list
}
