package registry

import (
	"context"
	"encoding/json"
	"math"
	"strings"
	"time"

	"github.com/opticworks/devicecloud/topic"
)

// Report is a message that is kept whole: config/status, ota/status, telemetry,
// diag/response.
type Report struct {
	Payload    string // JSON as the device sent it
	ReceivedAt time.Time
}

// Event is something that happened to a device, for a person who looks back.
type Event struct {
	ID         int64
	DeviceNo   int64
	Type       string
	OccurredAt time.Time
	Data       string // JSON
}

// keepEvents is how many events of one type a device keeps.
const keepEvents = 100

// eventRejected is the type of the event that records a rejected payload.
const eventRejected = "payload.rejected"

// OwnEventType reports whether events of a type are the registry's own: nobody else may
// make one look like them.
func OwnEventType(typ string) bool {
	switch typ {
	case eventRejected, "provision.rejected", "device.self_enrolled", "order.device_limit_reached":
		return true
	}
	for _, k := range []topic.Kind{topic.ConfigStatus, topic.OTAStatus, topic.Telemetry, topic.DiagResponse} {
		if typ == strings.ReplaceAll(k.String(), "/", ".") {
			return true
		}
	}
	return false
}

// checkReport judges a message that is kept whole. Only what the cloud itself
// reads is judged; the rest belongs to the firmware and the app.
func checkReport(deviceID string, k topic.Kind, payload []byte) error {
	need := map[string]bool{}
	required := func(keys ...string) {
		for _, key := range keys {
			need[key] = true
		}
	}
	switch k {
	case topic.ConfigStatus:
		required("version", "status")
	case topic.OTAStatus:
		required("version", "status")
	case topic.DiagResponse:
		required("request_id")
	}
	err := eachMember(payload, func(name, v []byte) (err error) {
		key := string(name)
		delete(need, key)
		switch {
		case key == "device_id" && k == topic.Telemetry:
			if string(v) != `"`+deviceID+`"` {
				return badPayload("device_id is not the device's own.")
			}
		case key == "version" && k == topic.ConfigStatus:
			_, err = intValue(key, v, 0, math.MaxInt64)
		case key == "version":
			if k == topic.OTAStatus {
				_, err = stringValue(key, v, 1, 32)
			}
		case key == "status" && k == topic.ConfigStatus:
			err = oneOf(key, v, "applied", "rejected", "pending")
		case key == "status" && k == topic.OTAStatus:
			err = oneOf(key, v, "pending", "downloading", "verifying", "success", "failed")
		case key == "progress" && k == topic.OTAStatus && !isNull(v):
			_, err = intValue(key, v, 0, 100)
		case key == "zone_count" && k == topic.ConfigStatus && !isNull(v):
			_, err = intValue(key, v, 0, 16)
		case key == "request_id" && k == topic.DiagResponse:
			_, err = stringValue(key, v, 1, 64)
		}
		return err
	})
	if err != nil {
		return err
	}
	for key := range need {
		return badPayload("%s is missing.", key)
	}
	return nil
}

func oneOf(key string, v []byte, names ...string) error {
	for _, n := range names {
		if string(v) == `"`+n+`"` {
			return nil
		}
	}
	return badPayload("%s must be one of %v.", key, names)
}

// KeepReport keeps a message of kind config/status, ota/status, diag/response or
// telemetry whole and waits until it is committed, together with what a domain above
// makes of it: with is committed in the same transaction, or its error is returned.
// Errors as ReportState.
func (r *Registry) KeepReport(s *Session, k topic.Kind, payload []byte, with ...*Work) error {
	w, err := r.reportWrite(s, k, payload)
	if err != nil {
		return err
	}
	b, err := r.ingest.add(func(b *Batch) { b.Reports, b.Work = append(b.Reports, w), append(b.Work, with...) })
	if err != nil {
		return err
	}
	if err := b.wait(); err != nil {
		return err
	}
	if w.Stale {
		r.counters.StaleWrites.Add(1)
		return ErrStale
	}
	for _, w := range with {
		if w.Err != nil {
			return w.Err
		}
	}
	switch k {
	case topic.OTAStatus:
		r.dispatch.background(func() { r.updateEnded(s, []byte(w.Payload)) }) // not the packet's own bytes, which end with it
	case topic.ConfigStatus:
		r.dispatch.background(func() { r.configReported(s) })
	case topic.DiagResponse:
		r.diagnosed(s, payload)
	}
	return nil
}

// KeepReportLater is KeepReport for QoS 0: it never blocks, and drops the message
// with ErrUnavailable when too much waits.
func (r *Registry) KeepReportLater(s *Session, k topic.Kind, payload []byte, with ...*Work) error {
	w, err := r.reportWrite(s, k, payload)
	if err != nil {
		return err
	}
	if r.ingest.overfull() {
		r.counters.Dropped.Add(1)
		return ErrUnavailable
	}
	_, err = r.ingest.add(func(b *Batch) { b.Reports, b.Work = append(b.Reports, w), append(b.Work, with...) })
	return err
}

func (r *Registry) reportWrite(s *Session, k topic.Kind, payload []byte) (*ReportWrite, error) {
	if err := checkReport(s.DeviceID, k, payload); err != nil {
		return nil, err
	}
	return &ReportWrite{
		DeviceNo: s.DeviceNo, Epoch: s.Epoch, At: r.now(), Kind: k, Payload: string(payload), EventID: r.opts.NextID(), Keep: keepEvents,
	}, nil
}

// RejectedPayload counts a payload that was refused and keeps an event of it, so
// that the owner of the firmware can see what was wrong. It does not wait.
func (r *Registry) RejectedPayload(s *Session, k topic.Kind, cause error) {
	r.counters.RejectedPayloads.Add(1)
	if r.ingest.overfull() {
		return
	}
	message := "The payload was rejected."
	if e, ok := cause.(*Error); ok && e.Kind == Invalid {
		message = e.Message
	}
	r.eventLater(s.DeviceNo, eventRejected, map[string]any{"topic": k.String(), "message": message})
}

// eventLater keeps an event without waiting for its commit.
func (r *Registry) eventLater(deviceNo int64, typ string, data map[string]any) {
	text, err := json.Marshal(data)
	if err != nil {
		r.log.Error("an event was not kept", "type", typ, "error", err)
		return
	}
	e := Event{ID: r.opts.NextID(), DeviceNo: deviceNo, Type: typ, OccurredAt: r.now(), Data: string(text)}
	work := &Work{Do: func(tx Tx) error { return tx.InsertEvent(context.Background(), e, keepEvents) }}
	if _, err := r.ingest.add(func(b *Batch) { b.Work = append(b.Work, work) }); err != nil {
		r.log.Warn("an event was not kept", "type", typ, "error", err)
	}
}
