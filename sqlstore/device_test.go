package sqlstore_test

import (
	"context"
	"fmt"
	"strings"
	"testing"

	"github.com/opticworks/devicecloud/account"
	"github.com/opticworks/devicecloud/registry"
	"github.com/opticworks/devicecloud/sqlstore"
)

func TestInsertDevice(t *testing.T) {
	eachEngine(t, func(t *testing.T, s *store) {
		t.Run("counts devices from 1 and reads back what was written", func(t *testing.T) {
			equal(t, "first number", s.enrol(1), int64(1))
			equal(t, "second number", s.enrol(2), int64(2))
			want := registry.Device{No: 1, ID: deviceID(1), MAC: mac(1), CreatedAt: t0, UpdatedAt: t0}
			equal(t, "by id", s.device(1), want)
			s.read(func(ctx context.Context, tx account.Tx) error {
				got, err := tx.DeviceByMAC(ctx, mac(1))
				equal(t, "by MAC", got, want)
				return err
			})
		})
		t.Run("refuses an id or a MAC that is taken, and uses up no number", func(t *testing.T) {
			s.write(func(ctx context.Context, tx account.Tx) error {
				_, err := tx.InsertDevice(ctx, registry.NewDevice{ID: deviceID(1), At: t0})
				is(t, "same id", err, registry.ErrAlreadyEnrolled)
				_, err = tx.InsertDevice(ctx, registry.NewDevice{ID: deviceID(9), MAC: mac(1), At: t0})
				is(t, "same MAC", err, registry.ErrAlreadyEnrolled)
				return nil
			})
			equal(t, "next number", s.enrol(3), int64(3))
		})
		t.Run("lets several self-enrolled devices have no MAC yet", func(t *testing.T) {
			s.write(func(ctx context.Context, tx account.Tx) error {
				for n := 4; n <= 5; n++ {
					if _, err := tx.InsertDevice(ctx, registry.NewDevice{ID: deviceID(n), SelfEnrolled: true, ClaimSecretHash: []byte{1, 2}, At: t0}); err != nil {
						return err
					}
				}
				return nil
			})
			equal(t, "self-enrolled", []any{s.device(4).SelfEnrolled, s.device(4).MAC}, []any{true, registry.MAC("")})
		})
		t.Run("refuses an id that is not 32 characters", func(t *testing.T) {
			err := s.try(func(ctx context.Context, tx account.Tx) error {
				_, err := tx.InsertDevice(ctx, registry.NewDevice{ID: "short", At: t0})
				return err
			})
			if err == nil {
				t.Error("enrolled")
			}
		})
		t.Run("of one device by many at once enrols it once", func(t *testing.T) {
			const n = 8
			results := make(chan error, n)
			for range n {
				go func() {
					results <- s.try(func(ctx context.Context, tx account.Tx) error {
						_, err := tx.InsertDevice(ctx, registry.NewDevice{ID: deviceID(50), MAC: mac(50), At: t0})
						return err
					})
				}()
			}
			enrolled := 0
			for range n {
				if err := <-results; err == nil {
					enrolled++
				} else {
					is(t, "loser", err, registry.ErrAlreadyEnrolled)
				}
			}
			equal(t, "enrolled", enrolled, 1)
		})
	})
}

func TestDeviceNotFound(t *testing.T) {
	eachEngine(t, func(t *testing.T, s *store) {
		for name, f := range map[string]func(ctx context.Context, tx account.Tx) error{
			"Device":      func(ctx context.Context, tx account.Tx) error { _, err := tx.Device(ctx, deviceID(1)); return err },
			"DeviceByMAC": func(ctx context.Context, tx account.Tx) error { _, err := tx.DeviceByMAC(ctx, mac(1)); return err },
			"Credentialed": func(ctx context.Context, tx account.Tx) error {
				_, err := tx.Credentialed(ctx, deviceID(1))
				return err
			},
			"OwnedDevice": func(ctx context.Context, tx account.Tx) error {
				_, err := tx.OwnedDevice(ctx, "u", deviceID(1), t0)
				return err
			},
			"SetDeviceName": func(ctx context.Context, tx account.Tx) error { return tx.SetDeviceName(ctx, 1, "x", t0) },
			"DeleteDevice":  func(ctx context.Context, tx account.Tx) error { return tx.DeleteDevice(ctx, 1) },
			"PutCredential": func(ctx context.Context, tx account.Tx) error {
				return tx.PutCredential(ctx, 1, registry.Credential{ID: 1, Slot: 1, Kind: registry.CredentialSecret, Secret: registry.Digest{1}, CreatedAt: t0})
			},
			"InsertEvent": func(ctx context.Context, tx account.Tx) error {
				return tx.InsertEvent(ctx, registry.Event{ID: 1, DeviceNo: 1, Type: "x", OccurredAt: t0}, 1)
			},
			"an id that is no text": func(ctx context.Context, tx account.Tx) error { _, err := tx.Device(ctx, "a\x00\xff"); return err },
		} {
			t.Run(name, func(t *testing.T) { is(t, name, s.try(f), registry.ErrDeviceNotFound) })
		}
	})
}

func TestDeviceUpdates(t *testing.T) {
	eachEngine(t, func(t *testing.T, s *store) {
		no := s.enrol(1)
		s.write(func(ctx context.Context, tx account.Tx) error {
			_, err := tx.InsertDevice(ctx, registry.NewDevice{ID: deviceID(2), SelfEnrolled: true, At: t0})
			return err
		})
		changed := func(f func(ctx context.Context, tx account.Tx) (bool, error)) (ok bool) {
			s.write(func(ctx context.Context, tx account.Tx) (err error) {
				ok, err = f(ctx, tx)
				return err
			})
			return ok
		}
		t.Run("SetDeviceName renames in any script and touches updated_at", func(t *testing.T) {
			s.write(func(ctx context.Context, tx account.Tx) error {
				return tx.SetDeviceName(ctx, no, "Küche 厨房 🛋", after(1))
			})
			equal(t, "name", s.device(1).Name, "Küche 厨房 🛋")
			equal(t, "updated at", s.device(1).UpdatedAt, after(1))
		})
		t.Run("SetDeviceMAC fills in a missing MAC once", func(t *testing.T) {
			set := func(no int64, m registry.MAC) (bool, error) {
				var ok bool
				err := s.try(func(ctx context.Context, tx account.Tx) (err error) {
					ok, err = tx.SetDeviceMAC(ctx, no, m, after(2))
					return err
				})
				return ok, err
			}
			_, err := set(2, mac(1))
			is(t, "a MAC that is taken", err, registry.ErrAlreadyEnrolled)
			ok, err := set(2, mac(2))
			equal(t, "first", []any{ok, err}, []any{true, nil})
			ok, err = set(2, mac(3))
			equal(t, "again", []any{ok, err}, []any{false, nil})
			equal(t, "MAC", s.device(2).MAC, mac(2))
		})
		t.Run("SetDeviceDisabled tells whether it changed anything", func(t *testing.T) {
			disable := func(ctx context.Context, tx account.Tx) (bool, error) {
				return tx.SetDeviceDisabled(ctx, no, after(3), after(3))
			}
			enable := func(ctx context.Context, tx account.Tx) (bool, error) {
				return tx.SetDeviceDisabled(ctx, no, registry.Device{}.DisabledAt, after(4))
			}
			equal(t, "enable, disable, disable", []bool{changed(enable), changed(disable), changed(disable)}, []bool{false, true, false})
			equal(t, "disabled at", s.device(1).DisabledAt, after(3))
			equal(t, "enable", changed(enable), true)
			equal(t, "enabled", s.device(1).DisabledAt.IsZero(), true)
		})
		t.Run("SetFirstSeen records the first connection alone", func(t *testing.T) {
			first := changed(func(ctx context.Context, tx account.Tx) (bool, error) { return tx.SetFirstSeen(ctx, 2, after(5)) })
			second := changed(func(ctx context.Context, tx account.Tx) (bool, error) { return tx.SetFirstSeen(ctx, 2, after(6)) })
			equal(t, "changed", []bool{first, second}, []bool{true, false})
			equal(t, "first seen", s.device(2).FirstSeen, after(5))
		})
		t.Run("SetProvisioned writes under the session's fence", func(t *testing.T) {
			epoch := s.connect(no, 101, t0)
			provision := func(epoch int64, firmware string, at int) bool {
				return changed(func(ctx context.Context, tx account.Tx) (bool, error) {
					return tx.SetProvisioned(ctx, no, epoch, firmware, at, after(at))
				})
			}
			before := s.device(1)
			equal(t, "stale", provision(epoch-1, "0.0.1", 7), true)
			equal(t, "device after the stale one", s.device(1), before)
			equal(t, "stale", provision(epoch, "1.2.0", 8), false)
			equal(t, "stale", provision(epoch, "1.3.0", 9), false)
			d := s.device(1)
			equal(t, "provisioned", []any{d.FirmwareVersion, d.ProvisionedAt, d.FirstSeen, d.MaxPacket}, []any{"1.3.0", after(9), after(8), 9})
			equal(t, "stale", provision(epoch, "1.3.0", 0), false)
			equal(t, "what it does not say any more", s.device(1).MaxPacket, 0)
		})
		t.Run("SetReset knows the last report, under the session's fence", func(t *testing.T) {
			epoch := s.connect(no, 102, t0)
			reset := func(epoch int64, report string) bool {
				return changed(func(ctx context.Context, tx account.Tx) (bool, error) {
					return tx.SetReset(ctx, no, epoch, []byte(report))
				})
			}
			equal(t, "first", []bool{
				reset(epoch-1, "a"), reset(epoch, "a"), reset(epoch, "a"), reset(epoch-1, "b"), reset(epoch, "b"),
			}, []bool{false, true, false, false, true})
		})
	})
}

func TestDeleteDevice(t *testing.T) {
	eachEngine(t, func(t *testing.T, s *store) {
		no := s.enrol(1)
		s.user("u1", "a@example.com")
		s.own(no, "u1", registry.RoleOwner)
		epoch := s.connect(no, 101, t0)
		s.connect(no, 102, t0)
		s.write(func(ctx context.Context, tx account.Tx) error {
			if err := tx.PutCredential(ctx, no, registry.Credential{ID: 1, Slot: 1, Kind: registry.CredentialSecret, Secret: registry.Digest{1}, CreatedAt: t0}); err != nil {
				return err
			}
			return tx.InsertAudit(ctx, registry.AuditEvent{ID: 1, Domain: "registry", DeviceID: deviceID(1), Event: "enrolled", Actor: "system", At: t0})
		})
		s.commit(&registry.Batch{Reports: []*registry.ReportWrite{{DeviceNo: no, Epoch: epoch + 1, At: t0, Kind: 4, Payload: "{}", EventID: 1, Keep: 1}}})
		s.write(func(ctx context.Context, tx account.Tx) error { return tx.DeleteDevice(ctx, no) })
		s.read(func(ctx context.Context, tx account.Tx) error {
			_, err := tx.Device(ctx, deviceID(1))
			is(t, "device", err, registry.ErrDeviceNotFound)
			ids, err := tx.ReadableIDs(ctx, "u1", t0)
			equal(t, "readable", ids, nil)
			if err != nil {
				return err
			}
			history, err := tx.Connections(ctx, no, 0, 0)
			equal(t, "history", history, nil)
			if err != nil {
				return err
			}
			trail, err := tx.Audit(ctx, registry.AuditFilter{DeviceID: deviceID(1)})
			equal(t, "rows of audit that outlive it", len(trail), 1)
			return err
		})
		equal(t, "the number is not used again", s.enrol(2), no+1)
	})
}

func TestDevices(t *testing.T) {
	eachEngine(t, func(t *testing.T, s *store) {
		s.user("u1", "ann_b@example.com")
		s.user("u2", "annxb@example.com")
		for n := 1; n <= 6; n++ {
			no := s.enrol(n)
			s.connect(no, int64(100+n), t0)
		}
		s.own(1, "u1", registry.RoleOwner)
		s.own(2, "u2", registry.RoleOwner)
		s.own(3, "u1", registry.RoleViewer)
		s.commit(&registry.Batch{
			States:      []*registry.StateWrite{{DeviceNo: 4, Epoch: 1, At: t0, State: full(), Firmware: true}},
			Disconnects: []*registry.Disconnect{{DeviceNo: 5, Epoch: 1, At: t0, LastSeen: t0, Reason: registry.Kicked}},
		})
		s.write(func(ctx context.Context, tx account.Tx) error {
			for no, name := range map[int64]string{1: `100% "Wool"`, 2: `100x Wool`, 3: `a_b\c`, 4: `aXb\c`, 6: `Élan`} {
				if err := tx.SetDeviceName(ctx, no, name, t0); err != nil {
					return err
				}
			}
			return nil
		})
		list := func(f registry.DeviceFilter) (got string) {
			s.read(func(ctx context.Context, tx account.Tx) error {
				devices, total, err := tx.Devices(ctx, f)
				var nos []string
				for _, d := range devices {
					nos = append(nos, fmt.Sprint(d.No))
				}
				got = fmt.Sprintf("%s of %d", strings.Join(nos, " "), total)
				return err
			})
			return got
		}
		for _, test := range []struct {
			name   string
			filter registry.DeviceFilter
			want   string
		}{
			{"without a filter are all", registry.DeviceFilter{}, "1 2 3 4 5 6 of 6"},
			{"are paged by cursor with the total of all", registry.DeviceFilter{After: 2, Limit: 2}, "3 4 of 6"},
			{"are paged by number", registry.DeviceFilter{Offset: 4, Limit: 4}, "5 6 of 6"},
			{"beyond the end are none of all", registry.DeviceFilter{Offset: 10, Limit: 4}, " of 6"},
			{"are filtered by status", registry.DeviceFilter{Status: ptr(registry.Offline)}, "5 of 1"},
			{"are filtered by status online, paged", registry.DeviceFilter{Status: ptr(registry.Online), After: 2, Limit: 2}, "3 4 of 5"},
			{"are filtered by version", registry.DeviceFilter{Version: "1.2.0"}, "4 of 1"},
			{"are filtered by the owner's id, not by viewers", registry.DeviceFilter{Owner: "u1"}, "1 of 1"},
			{"are filtered by the owner's e-mail", registry.DeviceFilter{Owner: "annxb@example.com"}, "2 of 1"},
			{"are found by part of the id", registry.DeviceFilter{Query: strings.ToUpper(deviceID(4)[5:20])}, "4 of 1"},
			{"are found by part of the MAC", registry.DeviceFilter{Query: "cc:00:00:03"}, "3 of 1"},
			{"are found by name in any letter case", registry.DeviceFilter{Query: "wOOl"}, "1 2 of 2"},
			{"are found by a name that is not ASCII", registry.DeviceFilter{Query: "Éla"}, "6 of 1"},
			{"take a percent sign for itself", registry.DeviceFilter{Query: "100%"}, "1 of 1"},
			{"take an underscore for itself", registry.DeviceFilter{Query: "a_b"}, "3 of 1"},
			{"take a backslash for itself", registry.DeviceFilter{Query: `b\c`}, "3 4 of 2"},
			{"take an underscore in an e-mail for itself", registry.DeviceFilter{Query: "ann_b@"}, "1 of 1"},
			{"take quotes and comments for themselves", registry.DeviceFilter{Query: `' OR 1=1 --`}, " of 0"},
			{"take a dollar for itself", registry.DeviceFilter{Query: `$1`}, " of 0"},
			{"survive bytes that are no text", registry.DeviceFilter{Query: "\x00\xff", Version: "\xff"}, " of 0"},
			{"survive an absurd search", registry.DeviceFilter{Query: strings.Repeat("%", 100_000)}, " of 0"},
			{"combine filters", registry.DeviceFilter{Status: ptr(registry.Online), Owner: "u2", Query: "example.com"}, "2 of 1"},
		} {
			t.Run(test.name, func(t *testing.T) { equal(t, "devices", list(test.filter), test.want) })
		}
		t.Run("name their owners", func(t *testing.T) {
			s.read(func(ctx context.Context, tx account.Tx) error {
				devices, _, err := tx.Devices(ctx, registry.DeviceFilter{After: 1, Limit: 2})
				if err != nil {
					return err
				}
				equal(t, "owned", devices[0], registry.AdminDevice{Device: s.device(2), OwnerID: "u2", OwnerEmail: "annxb@example.com"})
				equal(t, "not owned", devices[1], registry.AdminDevice{Device: s.device(3)})
				return nil
			})
		})
	})
}

// FuzzSearch holds the search against names that people may choose: a device is
// found by its whole name, and by nothing that its name does not hold.
func FuzzSearch(f *testing.F) {
	for _, name := range []string{"Kitchen", `100%`, `a_b`, `\`, `\%`, "Élan", "İstanbul", "a\x00b", "\xff", "' OR 1=1 --", "$1", "0a:b"} {
		f.Add(name)
	}
	shared := open(f, engines["sqlite"](f), sqlstore.Options{})
	no := shared.enrol(1)
	shared.enrol(2)
	f.Fuzz(func(t *testing.T, name string) {
		if name == "" || len(name) > 300 {
			t.Skip("no name")
		}
		s := &store{shared.DB, t, shared.url}
		s.write(func(ctx context.Context, tx account.Tx) error { return tx.SetDeviceName(ctx, no, name, t0) })
		s.read(func(ctx context.Context, tx account.Tx) error {
			list, total, err := tx.Devices(ctx, registry.DeviceFilter{Query: name, Limit: 1})
			if err == nil && (total < 1 || list[0].No != no) {
				t.Errorf("%q does not find itself", name)
			}
			if err != nil {
				return err
			}
			_, total, err = tx.Devices(ctx, registry.DeviceFilter{Query: name + "\u2603"})
			equal(t, "devices whose name holds more", total, 0)
			return err
		})
	})
}
