package sqlstore_test

import (
	"context"
	"testing"
	"time"

	"github.com/opticworks/devicecloud/account"
	"github.com/opticworks/devicecloud/registry"
)

func TestCommitClaims(t *testing.T) {
	eachEngine(t, func(t *testing.T, s *store) {
		no := s.enrol(1)
		t.Run("takes the next epoch and tells what is true now", func(t *testing.T) {
			c := claim(no, 101, after(1))
			s.commit(&registry.Batch{Claims: []*registry.Claim{c}})
			want := registry.Presence{
				Epoch: 1, Status: registry.Online, Reason: registry.Connected, NodeID: "node-1", ConnectionID: 101, Remote: "192.0.2.1", Protocol: 4,
				ConnectedAt: after(1), ChangedAt: after(1), LastSeen: after(1),
			}
			equal(t, "row", c.Row, registry.Row{Presence: want})
			equal(t, "presence", s.device(1).Presence, want)
			equal(t, "history", s.connections(no), nil)
		})
		t.Run("carries the last report and the firmware version", func(t *testing.T) {
			s.commit(&registry.Batch{States: []*registry.StateWrite{{DeviceNo: no, Epoch: 1, At: after(2), State: full(), Firmware: true}}})
			c := claim(no, 102, after(3))
			s.commit(&registry.Batch{Claims: []*registry.Claim{c}})
			equal(t, "state", c.Row.State, stored(full()))
			equal(t, "firmware", c.Row.FirmwareVersion, "1.2.0")
			equal(t, "reported at", c.Row.ReportedAt, after(2))
		})
		t.Run("ends the connection before it", func(t *testing.T) {
			equal(t, "history", s.connections(no), []registry.Connection{{
				ID: 101, Epoch: 1, NodeID: "node-1", Remote: "192.0.2.1", Protocol: 4, ConnectedAt: after(1), DisconnectedAt: after(3), Reason: registry.Takeover,
			}})
		})
		t.Run("of one device twice in a batch lets the second win", func(t *testing.T) {
			first, second := claim(no, 103, after(4)), claim(no, 104, after(5))
			s.commit(&registry.Batch{Claims: []*registry.Claim{first, second}})
			equal(t, "epochs", []int64{first.Row.Presence.Epoch, second.Row.Presence.Epoch}, []int64{3, 4})
			equal(t, "live connection", s.device(1).Presence.ConnectionID, int64(104))
			last := s.connections(no)[0]
			equal(t, "ended", []any{last.ID, last.DisconnectedAt, last.Reason}, []any{int64(103), after(5), registry.Takeover})
		})
		t.Run("after a crash of the node calls the old connection lost", func(t *testing.T) {
			c := claim(no, 105, after(6))
			c.BootID++
			s.commit(&registry.Batch{Claims: []*registry.Claim{c}})
			equal(t, "reason", s.connections(no)[0].Reason, registry.NodeLost)
		})
		t.Run("from another node is a takeover", func(t *testing.T) {
			c := claim(no, 106, after(7))
			c.NodeID, c.BootID = "node-2", 99
			s.commit(&registry.Batch{Claims: []*registry.Claim{c}})
			equal(t, "reason", s.connections(no)[0].Reason, registry.Takeover)
		})
		t.Run("after an orderly end writes no history", func(t *testing.T) {
			epoch := s.device(1).Presence.Epoch
			s.commit(&registry.Batch{Disconnects: []*registry.Disconnect{{DeviceNo: no, Epoch: epoch, At: after(8), LastSeen: after(8), Reason: registry.ClientDisconnect}}})
			n := len(s.connections(no))
			s.connect(no, 107, after(9))
			equal(t, "rows of history", len(s.connections(no)), n)
		})
		t.Run("is refused to a device that is disabled or not there", func(t *testing.T) {
			s.write(func(ctx context.Context, tx account.Tx) error {
				_, err := tx.SetDeviceDisabled(ctx, no, t0, t0)
				return err
			})
			before := s.device(1)
			disabled, absent := claim(no, 108, after(10)), claim(999_999, 109, after(10))
			s.commit(&registry.Batch{Claims: []*registry.Claim{disabled, absent}})
			equal(t, "refused", []bool{disabled.Refused, absent.Refused}, []bool{true, true})
			equal(t, "device", s.device(1), before)
		})
	})
}

func TestCommitClaimsByCredential(t *testing.T) {
	eachEngine(t, func(t *testing.T, s *store) {
		no, other := s.enrol(1), s.enrol(2)
		s.write(func(ctx context.Context, tx account.Tx) error {
			for _, c := range []registry.Credential{
				{ID: 11, Slot: 1, Kind: registry.CredentialSecret, Secret: registry.Digest{1}, CreatedAt: t0},
				{ID: 12, Slot: 2, Kind: registry.CredentialHMAC, Secret: registry.Digest{2}, CreatedAt: t0, ExpiresAt: after(5)},
			} {
				if err := tx.PutCredential(ctx, no, c); err != nil {
					return err
				}
			}
			return tx.PutCredential(ctx, other, registry.Credential{ID: 21, Slot: 1, Kind: registry.CredentialSecret, Secret: registry.Digest{3}, CreatedAt: t0})
		})
		for _, test := range []struct {
			name       string
			credential int64
			at         time.Time
			refused    bool
		}{
			{"accepts a credential that never expires", 11, after(100), false},
			{"accepts a credential that has not expired yet", 12, after(4), false},
			{"refuses a credential at the moment it expires", 12, after(5), true},
			{"refuses a credential that is gone", 13, after(1), true},
			{"refuses another device's credential", 21, after(1), true},
			{"asks for none when the device CA vouched", 0, after(100), false},
		} {
			t.Run(test.name, func(t *testing.T) {
				c := claim(no, 1000+int64(s.device(1).Presence.Epoch), test.at)
				c.CredentialID = test.credential
				s.commit(&registry.Batch{Claims: []*registry.Claim{c}})
				equal(t, "refused", c.Refused, test.refused)
			})
		}
	})
}

func TestCommitDisconnects(t *testing.T) {
	eachEngine(t, func(t *testing.T, s *store) {
		no := s.enrol(1)
		first := s.connect(no, 101, after(1))
		second := s.connect(no, 102, after(2))
		s.commit(&registry.Batch{States: []*registry.StateWrite{{DeviceNo: no, Epoch: second, At: after(3), State: full(), Firmware: true}}})
		end := func(epoch int64, at int, reason registry.Reason) *registry.Disconnect {
			d := &registry.Disconnect{DeviceNo: no, Epoch: epoch, Tell: true, At: after(at), LastSeen: after(at - 1), Reason: reason}
			s.commit(&registry.Batch{Disconnects: []*registry.Disconnect{d}})
			return d
		}
		t.Run("of a connection that was taken over changes nothing", func(t *testing.T) {
			before := s.device(1)
			d := end(first, 5, registry.NetworkError)
			equal(t, "changed", d.Changed, false)
			equal(t, "device", s.device(1), before)
			equal(t, "rows of history", len(s.connections(no)), 1)
		})
		t.Run("of the live connection writes presence and history", func(t *testing.T) {
			d := end(second, 6, registry.KeepaliveTimeout)
			equal(t, "changed", d.Changed, true)
			got := s.device(1)
			want := registry.Presence{
				Epoch: second, Status: registry.Offline, Reason: registry.KeepaliveTimeout, NodeID: "node-1", ConnectionID: 102, Remote: "192.0.2.1", Protocol: 4,
				ConnectedAt: after(2), ChangedAt: after(6), LastSeen: after(5),
			}
			equal(t, "presence", got.Presence, want)
			equal(t, "row", d.Row, registry.Row{Presence: want, State: stored(full()), FirmwareVersion: "1.2.0", ReportedAt: after(3)})
			equal(t, "history", s.connections(no)[0], registry.Connection{
				ID: 102, Epoch: second, NodeID: "node-1", Remote: "192.0.2.1", Protocol: 4, ConnectedAt: after(2), DisconnectedAt: after(6), Reason: registry.KeepaliveTimeout,
			})
		})
		t.Run("twice changes nothing the second time", func(t *testing.T) {
			before := s.device(1)
			equal(t, "changed", end(second, 7, registry.Kicked).Changed, false)
			equal(t, "device", s.device(1), before)
		})
		t.Run("and a claim in one batch leave the new connection live", func(t *testing.T) {
			epoch := s.connect(no, 103, after(8))
			d := &registry.Disconnect{DeviceNo: no, Epoch: epoch, Tell: true, At: after(9), Reason: registry.NetworkError}
			c := claim(no, 104, after(9))
			s.commit(&registry.Batch{Disconnects: []*registry.Disconnect{d}, Claims: []*registry.Claim{c}})
			equal(t, "changed", d.Changed, true)
			equal(t, "last seen without a word on it", d.Row.Presence.LastSeen, after(8))
			p := s.device(1).Presence
			equal(t, "presence", []any{p.Status, p.ConnectionID, p.Epoch}, []any{registry.Online, int64(104), epoch + 1})
			equal(t, "newest history", s.connections(no)[0].ID, int64(103))
		})
		t.Run("of many devices at once finds each its own", func(t *testing.T) {
			var ends []*registry.Disconnect
			for n := 10; n < 30; n++ {
				no := s.enrol(n)
				ends = append(ends, &registry.Disconnect{DeviceNo: no, Epoch: s.connect(no, int64(1000+n), after(n)), Tell: true, At: after(100), LastSeen: after(n), Reason: registry.NodeShutdown})
			}
			s.commit(&registry.Batch{Disconnects: ends})
			for i, d := range ends {
				equal(t, "connection", []any{d.Changed, d.Row.Presence.ConnectionID, d.Row.Presence.LastSeen}, []any{true, int64(1010 + i), after(10 + i)})
			}
		})
	})
}

func TestBeat(t *testing.T) {
	eachEngine(t, func(t *testing.T, s *store) {
		for range 2 {
			s.write(func(ctx context.Context, tx account.Tx) error { return tx.Beat(ctx, "node-1", 8, after(1)) })
		}
	})
}

func TestSettleBoot(t *testing.T) {
	eachEngine(t, func(t *testing.T, s *store) {
		crashed, live, elsewhere, idle := s.enrol(1), s.enrol(2), s.enrol(3), s.enrol(4)
		old, fresh, remote := claim(crashed, 101, after(1)), claim(live, 102, after(2)), claim(elsewhere, 103, after(2))
		fresh.BootID, remote.NodeID = 8, "node-2"
		s.commit(&registry.Batch{Claims: []*registry.Claim{old, fresh, remote}})
		settle := func() (n int) {
			s.write(func(ctx context.Context, tx account.Tx) (err error) {
				n, err = tx.SettleBoot(ctx, "node-1", 8, after(10))
				return err
			})
			return n
		}
		presence := func(tx account.Tx, ctx context.Context) ([]registry.Live, error) {
			return tx.LivePresence(ctx, "node-1")
		}

		t.Run("turns what a former boot left online to unknown, with history", func(t *testing.T) {
			equal(t, "settled", settle(), 1)
			p := s.device(1).Presence
			equal(t, "presence", []any{p.Status, p.Reason, p.ChangedAt, p.Epoch}, []any{registry.StatusUnknown, registry.NodeLost, after(10), int64(1)})
			equal(t, "history", s.connections(crashed), []registry.Connection{{
				ID: 101, Epoch: 1, NodeID: "node-1", Remote: "192.0.2.1", Protocol: 4, ConnectedAt: after(1), DisconnectedAt: after(10), Reason: registry.NodeLost,
			}})
			equal(t, "settled again", settle(), 0)
		})
		t.Run("leaves this boot, other nodes and offline devices alone", func(t *testing.T) {
			equal(t, "statuses", []registry.Status{s.device(2).Presence.Status, s.device(3).Presence.Status, s.device(4).Presence.Status},
				[]registry.Status{registry.Online, registry.Online, registry.Offline})
			equal(t, "history", len(s.connections(idle))+len(s.connections(live)), 0)
			s.read(func(ctx context.Context, tx account.Tx) error {
				got, err := presence(tx, ctx)
				equal(t, "live at the node", got, []registry.Live{{DeviceNo: live, DeviceID: deviceID(2), Epoch: 1}})
				return err
			})
		})
		t.Run("does not keep a device from coming back, nor record its end twice", func(t *testing.T) {
			c := claim(crashed, 104, after(11))
			c.BootID = 8
			s.commit(&registry.Batch{Claims: []*registry.Claim{c}})
			equal(t, "epoch", c.Row.Presence.Epoch, int64(2))
			equal(t, "history", len(s.connections(crashed)), 1)
		})
	})
}

func TestExpireUnknown(t *testing.T) {
	eachEngine(t, func(t *testing.T, s *store) {
		s.connect(s.enrol(1), 101, after(1))
		s.connect(s.enrol(2), 102, after(1))
		expire := func(before time.Time) (list []registry.Live) {
			s.write(func(ctx context.Context, tx account.Tx) (err error) {
				list, err = tx.ExpireUnknown(ctx, "node-1", before, after(200))
				return err
			})
			return list
		}
		s.write(func(ctx context.Context, tx account.Tx) error {
			_, err := tx.SettleBoot(ctx, "node-1", 8, after(10))
			return err
		})
		s.connect(2, 103, after(20))
		t.Run("waits until the time is over", func(t *testing.T) { equal(t, "expired", expire(after(10)), nil) })
		t.Run("turns what is still unknown to offline and keeps the reason", func(t *testing.T) {
			equal(t, "expired", expire(after(11)), []registry.Live{{DeviceNo: 1, DeviceID: deviceID(1), Epoch: 1}})
			p := s.device(1).Presence
			equal(t, "presence", []any{p.Status, p.Reason, p.ChangedAt}, []any{registry.Offline, registry.NodeLost, after(200)})
			equal(t, "the one that came back", s.device(2).Presence.Status, registry.Online)
			equal(t, "expired again", expire(after(11)), nil)
		})
	})
}

func TestConnections(t *testing.T) {
	eachEngine(t, func(t *testing.T, s *store) {
		no := s.enrol(1)
		for id := int64(101); id <= 106; id++ {
			s.connect(no, id, after(int(id)))
		}
		page := func(before int64, limit int) (ids []int64) {
			s.read(func(ctx context.Context, tx account.Tx) error {
				list, err := tx.Connections(ctx, no, before, limit)
				for _, c := range list {
					ids = append(ids, c.ID)
				}
				return err
			})
			return ids
		}
		t.Run("are listed newest first, page by page", func(t *testing.T) {
			equal(t, "first page", page(0, 2), []int64{105, 104})
			equal(t, "second page", page(104, 2), []int64{103, 102})
			equal(t, "third page", page(102, 2), []int64{101})
		})
	})
}
