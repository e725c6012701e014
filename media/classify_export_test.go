package media

import (
	"encoding/json"
	"time"
)

// Judge is judge.
func Judge(answer []byte) (Label, int64, string, error) {
	v, err := judge(answer)
	return v.label, v.thousandths, v.summary, err
}

// ParseSignatures is parseSignatures.
func ParseSignatures(values []string) [][]byte { return parseSignatures(values) }

// DecodeDelivery is decodeDelivery: the events as JSON, nil for one that is not taken.
func DecodeDelivery(body []byte, now time.Time) ([][]byte, error) {
	events, _, err := decodeDelivery(body, now)
	var all [][]byte
	for _, e := range events {
		if e.err != nil {
			all = append(all, nil)
			continue
		}
		members := map[string]any{"device_id": e.DeviceID, "type": e.Type, "occurred_at": e.OccurredAt.UTC().Format(time.RFC3339Nano), "data": json.RawMessage(e.Data)}
		if e.EventID != "" {
			members["event_id"] = e.EventID
		}
		text, merr := json.Marshal(members)
		if merr != nil {
			panic(merr)
		}
		all = append(all, text)
	}
	return all, err
}
