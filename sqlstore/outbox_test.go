package sqlstore_test

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/opticworks/devicecloud/account"
	"github.com/opticworks/devicecloud/registry"
)

// subscribe writes an endpoint past the domain.
func (s *store) subscribe(no int, disabled bool, types ...string) {
	s.t.Helper()
	db := raw(s.t, s.url)
	execute(s.t, db, `INSERT INTO webhook_endpoints (endpoint_no, endpoint_id, url, secret, created_by, created_at, updated_at)
		VALUES ($1, $2, 'https://example.com', $3, 'admin:1', 1, 1)`, no, fmt.Sprint("wh_", no), []byte{1})
	if disabled {
		execute(s.t, db, `UPDATE webhook_endpoints SET disabled_at = 1, disabled_reason = 'gone' WHERE endpoint_no = $1`, no)
	}
	for _, typ := range types {
		execute(s.t, db, `INSERT INTO webhook_subscriptions (event_type, endpoint_no) VALUES ($1, $2)`, typ, no)
	}
}

// outbox reads every row: endpoint, event, type, device and body.
func (s *store) outbox() []string {
	s.t.Helper()
	return texts(s.t, raw(s.t, s.url), `SELECT CAST(endpoint_no AS TEXT) || ' ' || CAST(event_id AS TEXT) || ' ' || type || ' ' || COALESCE(device_id, '-') || ' ' || body
		FROM webhook_deliveries ORDER BY endpoint_no, event_id`)
}

func TestTheOutboxIsWrittenInTheTransactionOfTheChange(t *testing.T) {
	eachEngine(t, func(t *testing.T, s *store) {
		event := func(id int64, typ string) registry.OutboxEvent {
			return registry.OutboxEvent{ID: id, Type: typ, DeviceID: deviceID(1), At: t0, Data: map[string]any{"via": "qr"}}
		}
		emit := func(events ...registry.OutboxEvent) {
			t.Helper()
			s.write(func(ctx context.Context, tx account.Tx) error { return tx.InsertOutbox(ctx, events...) })
		}
		emit(event(1, registry.EventClaimed))
		equal(t, "rows that nobody wants", s.outbox(), nil)

		s.subscribe(1, false, registry.EventClaimed, registry.EventShared)
		s.subscribe(2, false, registry.EventClaimed)
		s.subscribe(3, true, registry.EventClaimed)
		no := registry.OutboxEvent{ID: 5, Type: registry.EventClaimed, At: t0}
		emit(event(2, registry.EventClaimed), event(3, registry.EventReleased), event(4, registry.EventShared), no)
		body := func(typ string) string {
			return `{"type":"` + typ + `","timestamp":"2026-01-22T10:00:00.123456Z","data":{"device_id":"` + deviceID(1) + `","via":"qr"}}`
		}
		claimed := "2 device.claimed " + deviceID(1) + " " + body("device.claimed")
		none := `5 device.claimed - {"type":"device.claimed","timestamp":"2026-01-22T10:00:00.123456Z","data":{}}`
		equal(t, "rows", s.outbox(), []string{"1 " + claimed, "1 4 device.shared " + deviceID(1) + " " + body("device.shared"), "1 " + none, "2 " + claimed, "2 " + none})

		undo := errors.New("undo")
		before := s.outbox()
		is(t, "a transaction that fails", s.try(func(ctx context.Context, tx account.Tx) error {
			if err := tx.InsertOutbox(ctx, event(9, registry.EventClaimed)); err != nil {
				return err
			}
			return undo
		}), undo)
		equal(t, "rows after a roll back", s.outbox(), before)
	})
}

func TestPresenceIsToldWhereItChanges(t *testing.T) {
	eachEngine(t, func(t *testing.T, s *store) {
		s.subscribe(1, false, registry.EventOnline, registry.EventOffline)
		one, two := s.enrol(1), s.enrol(2)
		ids := map[int64]string{one: deviceID(1), two: deviceID(2)}
		next := int64(100)
		id := func() int64 { next++; return next }
		on := func(no int64) *registry.Claim {
			c := claim(no, id(), t0)
			c.DeviceID, c.EventID = ids[no], id()
			return c
		}
		off := func(no, epoch int64) *registry.Disconnect {
			return &registry.Disconnect{DeviceNo: no, DeviceID: ids[no], Epoch: epoch, At: t0, Reason: registry.NetworkError, EventID: id()}
		}
		told := func() (list []string) {
			for _, line := range s.outbox() {
				f := strings.Fields(line)
				list = append(list, fmt.Sprint(f[2], " ", slices.Index([]string{"", deviceID(1), deviceID(2)}, f[3])))
			}
			return list
		}
		s.commit(&registry.Batch{Claims: []*registry.Claim{on(one), on(two)}})
		s.commit(&registry.Batch{Claims: []*registry.Claim{on(one)}})                                        // takes over
		s.commit(&registry.Batch{Disconnects: []*registry.Disconnect{off(one, 1)}})                          // a stale one
		s.commit(&registry.Batch{Disconnects: []*registry.Disconnect{off(one, 2), off(two, 1)}})             // both end
		s.commit(&registry.Batch{Claims: []*registry.Claim{on(two)}, Disconnects: []*registry.Disconnect{}}) // one returns
		execute(t, raw(t, s.url), `UPDATE device_presence SET status = 2 WHERE device_no = $1`, two)         // its node was lost
		s.commit(&registry.Batch{Claims: []*registry.Claim{on(two)}})                                        // and it is back
		equal(t, "events", told(), []string{
			"device.online 1", "device.online 2", "device.offline 1", "device.offline 2", "device.online 2",
		})
		equal(t, "body", s.outbox()[2], "1 "+strings.Fields(s.outbox()[2])[1]+" device.offline "+deviceID(1)+
			` {"type":"device.offline","timestamp":"2026-01-22T10:00:00.123456Z","data":{"device_id":"`+deviceID(1)+`","epoch":2,"reason":"network_error","status":"offline"}}`)
	})
}
