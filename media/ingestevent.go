package media

import (
	"bytes"
	"crypto/sha256"
	"encoding/json"
	"fmt"
	"io"
	"slices"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/opticworks/devicecloud/registry"
	"github.com/opticworks/devicecloud/topic"
)

const (
	// maxEventID and maxEventType are in bytes.
	maxEventID   = 64
	maxEventType = 64
	// maxEventDepth is how deep an event's data may be nested.
	maxEventDepth = 32
	// maxEventAhead is how far a sender's clock may be ahead of ours. An event of the far
	// future would outlive every retention.
	maxEventAhead = 24 * time.Hour
)

// sentEvent is one event as its sender describes it.
type sentEvent struct {
	EventID    string
	DeviceID   string
	Type       string
	OccurredAt time.Time
	Data       []byte // canonical JSON of an object

	err *registry.Error // what is wrong with it, in a batch
}

// dedupKey is what two deliveries of one event share: its id, or what it says of
// itself when the sender gives it none. Ids are one space for all devices and keys: a
// sender that changes its key in between is known again. [contracts F]
func (e sentEvent) dedupKey() []byte {
	if e.EventID != "" {
		sum := sha256.Sum256([]byte("id|" + e.EventID))
		return sum[:]
	}
	sum := sha256.Sum256([]byte("event|" + e.canonical()))
	return sum[:]
}

// bodyHash is what two deliveries of the same event share, however it is spelled.
func (e sentEvent) bodyHash() []byte {
	sum := sha256.Sum256([]byte(e.canonical()))
	return sum[:]
}

// canonical has no separator in its parts but the last: ids are hex, types plain.
func (e sentEvent) canonical() string {
	return e.DeviceID + "|" + e.Type + "|" + e.OccurredAt.UTC().Format(time.RFC3339Nano) + "|" + string(e.Data)
}

func badEvent(format string, args ...any) *registry.Error {
	return registry.E(registry.Invalid, registry.ErrBadPayload.Code, fmt.Sprintf(format, args...))
}

// decodeDelivery reads the events of a body: one, or a list under "events". What is
// wrong with one of a list is in that event, what is wrong with the body an error.
// Unknown members are ignored; keys are not matched in any letter case, and a key that
// appears twice is an error, because two readers could take different ones.
func decodeDelivery(body []byte, now time.Time) (events []sentEvent, batch bool, err error) {
	if !utf8.Valid(body) {
		return nil, false, badEvent("The body is not valid UTF-8.")
	}
	if _, err := canonicalJSON(body); err != nil {
		return nil, false, err
	}
	members := map[string]json.RawMessage{}
	if json.Unmarshal(body, &members) != nil || members == nil {
		return nil, false, badEvent("The body is not a JSON object.")
	}
	text, batch := members["events"]
	if !batch {
		e := decodeEvent(members, now)
		if e.err != nil {
			return nil, false, e.err
		}
		return []sentEvent{e}, false, nil
	}
	var list []json.RawMessage
	if json.Unmarshal(text, &list) != nil || len(list) == 0 || len(list) > maxIngestBatch {
		return nil, true, badEvent("events must be a list of 1 to %d events.", maxIngestBatch)
	}
	for _, text := range list {
		members := map[string]json.RawMessage{}
		if json.Unmarshal(text, &members) != nil || members == nil {
			events = append(events, sentEvent{err: badEvent("An event is not a JSON object.")})
			continue
		}
		events = append(events, decodeEvent(members, now))
	}
	return events, true, nil
}

// decodeEvent judges one event.
func decodeEvent(members map[string]json.RawMessage, now time.Time) sentEvent {
	var e sentEvent
	var at string
	fail := func(format string, args ...any) sentEvent {
		e.err = badEvent(format, args...)
		return e
	}
	for _, m := range []struct {
		name     string
		into     *string
		required bool
		most     int
	}{
		{"event_id", &e.EventID, false, maxEventID}, {"device_id", &e.DeviceID, true, 32}, {"type", &e.Type, true, maxEventType}, {"occurred_at", &at, true, 64},
	} {
		raw, there := members[m.name]
		if !there || !m.required && string(raw) == "null" {
			if m.required {
				return fail("%s is missing.", m.name)
			}
			continue
		}
		var s *string
		if json.Unmarshal(raw, &s) != nil || s == nil || *s == "" || len(*s) > m.most {
			return fail("%s must be a text of 1 to %d bytes.", m.name, m.most)
		}
		*m.into = *s
	}
	if e.EventID != "" && strings.ContainsFunc(e.EventID, func(r rune) bool { return r <= ' ' || r > '~' }) {
		e.EventID = ""
		return fail("event_id must be printable ASCII without spaces.")
	}
	if !topic.ValidDeviceID(e.DeviceID) {
		e.DeviceID = ""
		return fail("device_id must be 32 hex digits in lower case.")
	}
	if !plainType(e.Type) {
		return fail("type must be letters, digits and -_.: and begin with a letter or digit.")
	}
	if registry.OwnEventType(e.Type) {
		return fail("Events of this type are made by this server alone.")
	}
	var err error
	if e.OccurredAt, err = time.Parse(time.RFC3339, at); err != nil {
		return fail("occurred_at must be an RFC 3339 time.")
	}
	if e.OccurredAt.Year() < 2000 || e.OccurredAt.After(now.Add(maxEventAhead)) {
		return fail("occurred_at must be after the year 2000 and not in the future.")
	}
	e.Data = []byte("{}")
	if raw, there := members["data"]; there && string(raw) != "null" {
		if raw[0] != '{' {
			return fail("data must be an object.")
		}
		if e.Data, err = canonicalJSON(raw); err != nil {
			return fail("data is not valid JSON.")
		}
	}
	return e
}

// plainType accepts the name of a type of events.
func plainType(s string) bool {
	for i := range len(s) {
		c := s[i]
		word := 'a' <= c|0x20 && c|0x20 <= 'z' || '0' <= c && c <= '9'
		if !word && (i == 0 || strings.IndexByte("-_.:", c) < 0) {
			return false
		}
	}
	return s != ""
}

// canonicalJSON writes a JSON value in the one way in which it is compared: members
// in order of their keys, no white space, texts escaped alike, numbers as they were.
// It refuses keys that appear twice and nesting beyond maxEventDepth.
func canonicalJSON(text []byte) ([]byte, error) {
	d := json.NewDecoder(bytes.NewReader(text))
	d.UseNumber()
	out, err := canonicalValue(d, nil, 0)
	if err != nil {
		return nil, err
	}
	if _, err := d.Token(); err != io.EOF {
		return nil, badEvent("The body is not valid JSON.")
	}
	return out, nil
}

func canonicalValue(d *json.Decoder, out []byte, depth int) ([]byte, error) {
	t, err := d.Token()
	if err != nil {
		return nil, badEvent("The body is not valid JSON.")
	}
	switch t {
	case json.Delim('{'):
		return canonicalObject(d, out, depth+1)
	case json.Delim('['):
		return canonicalList(d, out, depth+1)
	}
	text, err := json.Marshal(t)
	if err != nil {
		return nil, badEvent("The body is not valid JSON.")
	}
	return append(out, text...), nil
}

func canonicalList(d *json.Decoder, out []byte, depth int) ([]byte, error) {
	if depth > maxEventDepth {
		return nil, badEvent("The body is nested too deep.")
	}
	out = append(out, '[')
	var err error
	for n := 0; d.More(); n++ {
		if n > 0 {
			out = append(out, ',')
		}
		if out, err = canonicalValue(d, out, depth); err != nil {
			return nil, err
		}
	}
	if _, err := d.Token(); err != nil {
		return nil, badEvent("The body is not valid JSON.")
	}
	return append(out, ']'), nil
}

func canonicalObject(d *json.Decoder, out []byte, depth int) ([]byte, error) {
	if depth > maxEventDepth {
		return nil, badEvent("The body is nested too deep.")
	}
	members := map[string][]byte{}
	for d.More() {
		t, err := d.Token()
		key, ok := t.(string)
		if err != nil || !ok {
			return nil, badEvent("The body is not valid JSON.")
		}
		if _, twice := members[key]; twice {
			return nil, badEvent("%.40q appears twice.", key)
		}
		if members[key], err = canonicalValue(d, nil, depth); err != nil {
			return nil, err
		}
	}
	if _, err := d.Token(); err != nil {
		return nil, badEvent("The body is not valid JSON.")
	}
	keys := make([]string, 0, len(members))
	for key := range members {
		keys = append(keys, key)
	}
	slices.Sort(keys)
	out = append(out, '{')
	for i, key := range keys {
		if i > 0 {
			out = append(out, ',')
		}
		name, err := json.Marshal(key)
		if err != nil {
			return nil, badEvent("The body is not valid JSON.")
		}
		out = append(append(append(out, name...), ':'), members[key]...)
	}
	return append(out, '}'), nil
}
