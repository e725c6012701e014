package sqlstore_test

import (
	"context"
	"errors"
	"strings"
	"testing"

	"github.com/opticworks/devicecloud/account"
	"github.com/opticworks/devicecloud/registry"
	"github.com/opticworks/devicecloud/topic"
)

// full is a report that names every field.
func full() registry.State {
	return registry.State{
		Online: true, FirmwareVersion: "1.2.0", UptimeSec: ptr(int64(86400)), WifiRSSI: ptr(int64(-55)), ConfigVersion: ptr(int64(3)),
		RadarConnected: ptr(true), ZoneCount: ptr(int64(4)), ProtocolVersion: ptr("1.0"),
	}
}

// stored is how a report comes back: the firmware version is the device's, and the
// device's word on being online is not kept.
func stored(s registry.State) registry.State {
	s.FirmwareVersion, s.Online = "", false
	return s
}

func TestCommitStates(t *testing.T) {
	eachEngine(t, func(t *testing.T, s *store) {
		no, other := s.enrol(1), s.enrol(2)
		epoch, otherEpoch := s.connect(no, 101, t0), s.connect(other, 102, t0)

		t.Run("writes a report with the times, and the firmware version only when told", func(t *testing.T) {
			w := &registry.StateWrite{DeviceNo: no, Epoch: epoch, At: after(1), State: full()}
			s.commit(&registry.Batch{States: []*registry.StateWrite{w}})
			d := s.device(1)
			equal(t, "stale", w.Stale, false)
			equal(t, "state", d.State, stored(full()))
			equal(t, "reported at", d.ReportedAt, after(1))
			equal(t, "last seen", d.Presence.LastSeen, after(1))
			equal(t, "firmware", d.FirmwareVersion, "")
			w.Firmware, w.At = true, after(2)
			s.commit(&registry.Batch{States: []*registry.StateWrite{w}})
			d = s.device(1)
			equal(t, "firmware", d.FirmwareVersion, "1.2.0")
			equal(t, "updated at", d.UpdatedAt, after(2))
		})
		t.Run("keeps what a report leaves out", func(t *testing.T) {
			bare := registry.State{FirmwareVersion: "1.2.0", UptimeSec: ptr(int64(1)), WifiRSSI: ptr(int64(-60)), RadarConnected: ptr(false)}
			s.commit(&registry.Batch{States: []*registry.StateWrite{{DeviceNo: no, Epoch: epoch, At: after(3), State: bare}}})
			want := stored(full())
			want.UptimeSec, want.WifiRSSI, want.RadarConnected = bare.UptimeSec, bare.WifiRSSI, bare.RadarConnected
			equal(t, "state", s.device(1).State, want)
		})
		t.Run("leaves stale reports out, wherever they are in the batch", func(t *testing.T) {
			before := s.device(1)
			late := registry.State{FirmwareVersion: "9.9.9", UptimeSec: ptr(int64(9)), WifiRSSI: ptr(int64(-9))}
			batch := []*registry.StateWrite{
				{DeviceNo: no, Epoch: epoch - 1, At: after(9), State: late, Firmware: true},
				{DeviceNo: other, Epoch: otherEpoch, At: after(4), State: full()},
				{DeviceNo: no, Epoch: epoch + 1, At: after(9), State: late, Firmware: true},
				{DeviceNo: 999_999, Epoch: 1, At: after(9), State: late},
			}
			s.commit(&registry.Batch{States: batch})
			var stale []bool
			for _, w := range batch {
				stale = append(stale, w.Stale)
			}
			equal(t, "stale", stale, []bool{true, false, true, true})
			equal(t, "the fenced device", s.device(1), before)
			equal(t, "the other device", s.device(2).State, stored(full()))
		})
		t.Run("applies two reports of one device in their order", func(t *testing.T) {
			first, second := full(), registry.State{UptimeSec: ptr(int64(2)), WifiRSSI: ptr(int64(-2))}
			first.ZoneCount = ptr(int64(16))
			batch := []*registry.StateWrite{
				{DeviceNo: no, Epoch: epoch, At: after(5), State: first},
				{DeviceNo: no, Epoch: epoch - 1, At: after(5), State: full()},
				{DeviceNo: no, Epoch: epoch, At: after(6), State: second},
			}
			s.commit(&registry.Batch{States: batch})
			got := s.device(1)
			equal(t, "uptime of the second", got.State.UptimeSec, second.UptimeSec)
			equal(t, "zones of the first", got.State.ZoneCount, first.ZoneCount)
			equal(t, "reported at", got.ReportedAt, after(6))
			equal(t, "stale in between", batch[1].Stale, true)
		})
		t.Run("of no items does nothing", func(t *testing.T) { s.commit(&registry.Batch{}) })
	})
}

func TestCommitReports(t *testing.T) {
	eachEngine(t, func(t *testing.T, s *store) {
		no := s.enrol(1)
		epoch := s.connect(no, 101, t0)
		report := func(kind topic.Kind, id int64, at int, payload string) *registry.ReportWrite {
			return &registry.ReportWrite{DeviceNo: no, Epoch: epoch, At: after(at), Kind: kind, Payload: payload, EventID: id, Keep: 3}
		}
		events := func(typ string) (data []string) {
			s.read(func(ctx context.Context, tx account.Tx) error {
				list, err := tx.Events(ctx, no, typ, 0, 0)
				for _, e := range list {
					data = append(data, e.Type+" "+e.Data)
				}
				return err
			})
			return data
		}
		t.Run("keeps the newest of a kind, and moves last_seen", func(t *testing.T) {
			s.commit(&registry.Batch{Reports: []*registry.ReportWrite{
				report(topic.ConfigStatus, 0, 1, `{"v":1}`), report(topic.Telemetry, 0, 2, `{"t":1}`), report(topic.ConfigStatus, 0, 3, `{"v":2}`),
			}})
			s.read(func(ctx context.Context, tx account.Tx) error {
				got, err := tx.Reports(ctx, no)
				equal(t, "reports", got, map[topic.Kind]registry.Report{
					topic.ConfigStatus: {Payload: `{"v":2}`, ReceivedAt: after(3)}, topic.Telemetry: {Payload: `{"t":1}`, ReceivedAt: after(2)},
				})
				return err
			})
			equal(t, "last seen", s.device(1).Presence.LastSeen, after(3))
			equal(t, "events without an id", events(""), nil)
		})
		t.Run("makes events named after the kind, and keeps so many of each", func(t *testing.T) {
			var batch []*registry.ReportWrite
			for i := range int64(5) {
				batch = append(batch, report(topic.ConfigStatus, 1000+i, 4, strings.Repeat("c", int(i))), report(topic.Telemetry, 2000+i, 4, "t"))
			}
			s.commit(&registry.Batch{Reports: batch})
			equal(t, "config.status", events("config.status"), []string{"config.status cccc", "config.status ccc", "config.status cc"})
			equal(t, "all", len(events("")), 6)
		})
		t.Run("leaves stale reports and their events out", func(t *testing.T) {
			stale := report(topic.OTAStatus, 3000, 5, "late")
			stale.Epoch--
			live := report(topic.DiagResponse, 3001, 5, "live")
			s.commit(&registry.Batch{Reports: []*registry.ReportWrite{stale, live}})
			equal(t, "stale", []bool{stale.Stale, live.Stale}, []bool{true, false})
			equal(t, "ota.status", events("ota.status"), nil)
			equal(t, "diag.response", events("diag.response"), []string{"diag.response live"})
			s.read(func(ctx context.Context, tx account.Tx) error {
				_, ok, err := tx.Report(ctx, no, topic.OTAStatus)
				equal(t, "a report of it", ok, false)
				return err
			})
		})
		t.Run("cannot be spoilt by bytes that are no text", func(t *testing.T) {
			hostile, good := report(topic.Telemetry, 4000, 6, "a\x00b\xff"), report(topic.OTAStatus, 4001, 6, "good")
			s.commit(&registry.Batch{Reports: []*registry.ReportWrite{hostile, good}})
			equal(t, "the good one", events("ota.status"), []string{"ota.status good"})
		})
	})
}

func TestCommitWork(t *testing.T) {
	eachEngine(t, func(t *testing.T, s *store) {
		no := s.enrol(1)
		epoch := s.connect(no, 101, t0)
		rename := func(name string) *registry.Work {
			return &registry.Work{Do: func(tx registry.Tx) error { return tx.SetDeviceName(t.Context(), no, name, t0) }}
		}
		t.Run("undoes failing work alone", func(t *testing.T) {
			mine := errors.New("mine")
			first, last := rename("first"), &registry.Work{Do: func(tx registry.Tx) error {
				return tx.InsertAudit(t.Context(), registry.AuditEvent{ID: 1, Domain: "registry", Event: "kept", Actor: "system", At: t0})
			}}
			failing := &registry.Work{Do: func(tx registry.Tx) error {
				if err := tx.SetDeviceName(t.Context(), no, "undone", t0); err != nil {
					return err
				}
				return mine
			}}
			state := &registry.StateWrite{DeviceNo: no, Epoch: epoch, At: after(1), State: full()}
			s.commit(&registry.Batch{States: []*registry.StateWrite{state}, Work: []*registry.Work{first, failing, last}})
			if failing.Err != mine || first.Err != nil || last.Err != nil {
				t.Errorf("errors: %v, %v, %v", first.Err, failing.Err, last.Err)
			}
			d := s.device(1)
			equal(t, "name", d.Name, "first")
			equal(t, "reported at", d.ReportedAt, after(1))
		})
		t.Run("undoes work whose statement broke a constraint", func(t *testing.T) {
			bad := &registry.Work{Do: func(tx registry.Tx) error {
				return tx.InsertEvent(t.Context(), registry.Event{ID: 1, DeviceNo: 999_999, Type: "x", OccurredAt: t0}, 1)
			}}
			ok := rename("after the bad one")
			s.commit(&registry.Batch{Work: []*registry.Work{bad, ok}})
			is(t, "bad", bad.Err, registry.ErrDeviceNotFound)
			equal(t, "ok", ok.Err, nil)
			equal(t, "name", s.device(1).Name, "after the bad one")
		})
		t.Run("that hides a failed statement does not spoil the rest", func(t *testing.T) {
			hiding := &registry.Work{Do: func(tx registry.Tx) error {
				_ = tx.InsertEvent(t.Context(), registry.Event{ID: 1, DeviceNo: 999_999, Type: "x", OccurredAt: t0}, 1)
				return nil
			}}
			s.commit(&registry.Batch{Work: []*registry.Work{rename("before"), hiding, rename("after the hidden one")}})
			equal(t, "name", s.device(1).Name, "after the hidden one")
		})
		t.Run("sees what the work before it wrote, and states before it", func(t *testing.T) {
			var saw registry.Device
			look := &registry.Work{Do: func(tx registry.Tx) (err error) {
				saw, err = tx.Device(t.Context(), deviceID(1))
				return err
			}}
			state := &registry.StateWrite{DeviceNo: no, Epoch: epoch, At: after(7), State: full()}
			s.commit(&registry.Batch{States: []*registry.StateWrite{state}, Work: []*registry.Work{rename("seen"), look}})
			equal(t, "name", saw.Name, "seen")
			equal(t, "reported at", saw.ReportedAt, after(7))
		})
		t.Run("of a caller who has gone fails alone", func(t *testing.T) {
			ctx, cancel := context.WithDeadline(t.Context(), t0.AddDate(-1, 0, 0))
			defer cancel()
			gone := &registry.Work{Do: func(tx registry.Tx) error { return tx.SetDeviceName(ctx, no, "gone", t0) }}
			ok := rename("stayed")
			s.commit(&registry.Batch{Work: []*registry.Work{gone, ok}})
			is(t, "gone", gone.Err, registry.ErrUnavailable)
			equal(t, "name", s.device(1).Name, "stayed")
		})
		t.Run("runs again beside other transactions until it commits", func(t *testing.T) {
			s.write(func(ctx context.Context, tx account.Tx) error { return tx.SetDeviceName(ctx, no, "n", t0) })
			lengthen := func(ctx context.Context, tx registry.Tx) error {
				d, err := tx.Device(ctx, deviceID(1))
				if err != nil {
					return err
				}
				return tx.SetDeviceName(ctx, no, d.Name+"n", t0)
			}
			const each = 20
			done := make(chan error)
			go func() {
				var errs []error
				for range each {
					errs = append(errs, s.try(func(ctx context.Context, tx account.Tx) error { return lengthen(ctx, tx) }))
				}
				done <- errors.Join(errs...)
			}()
			for range each {
				w := &registry.Work{Do: func(tx registry.Tx) error { return lengthen(t.Context(), tx) }}
				if err := s.Registry().Commit(t.Context(), &registry.Batch{Work: []*registry.Work{w}}); err != nil || w.Err != nil {
					t.Errorf("commit: %v, work: %v", err, w.Err)
				}
			}
			if err := <-done; err != nil {
				t.Error(err)
			}
			equal(t, "length of the name", len(s.device(1).Name), 1+2*each)
		})
	})
}

func TestCommitFailsWhole(t *testing.T) {
	eachEngine(t, func(t *testing.T, s *store) {
		no := s.enrol(1)
		epoch := s.connect(no, 101, t0)
		before := s.device(1)
		ctx, cancel := context.WithCancel(t.Context())
		b := &registry.Batch{
			States: []*registry.StateWrite{{DeviceNo: no, Epoch: epoch, At: after(1), State: full()}},
			Work:   []*registry.Work{{Do: func(registry.Tx) error { cancel(); return nil }}},
		}
		err := s.Registry().Commit(ctx, b)
		is(t, "a commit whose context ended", err, registry.ErrUnavailable)
		equal(t, "device", s.device(1), before)
		s.commit(&registry.Batch{States: b.States}) // the writer is free again
	})
}
