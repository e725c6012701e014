package sqlstore_test

import (
	"context"
	"fmt"
	"testing"
	"time"

	"github.com/opticworks/devicecloud/account"
	"github.com/opticworks/devicecloud/registry"
)

// command is the n-th command of a test to a device, queued at after(n).
func command(no int64, n int) registry.Command {
	return registry.Command{
		No: int64(n), ID: fmt.Sprintf("cmd-%d", n), DeviceNo: no, DeviceID: deviceID(1), Issuer: "user:u1", RequestID: fmt.Sprintf("r%d", n),
		BodyHash: []byte{1, 2}, Type: "identify", Params: `{"n":1}`, Queueable: true, Status: registry.CommandQueued,
		IssuedAt: after(n), ExpiresAt: after(n + 60), DueAt: after(n + 60),
	}
}

func (s *store) insertCommand(c registry.Command) (created bool) {
	s.t.Helper()
	s.write(func(ctx context.Context, tx account.Tx) (err error) {
		created, err = tx.InsertCommand(ctx, c)
		return err
	})
	return created
}

func TestCommands(t *testing.T) {
	eachEngine(t, func(t *testing.T, s *store) {
		no := s.enrol(1)
		other := s.enrol(2)
		first, second := command(no, 1), command(no, 2)
		t.Run("are written once for each request id of an issuer and a device", func(t *testing.T) {
			again, elsewhere, byOther := first, first, first
			again.No, again.ID = 11, "again"
			elsewhere.No, elsewhere.ID, elsewhere.DeviceNo = 12, "elsewhere", other
			byOther.No, byOther.ID, byOther.Issuer = 13, "by-other", "user:u2"
			for i, want := range []bool{true, true, false, true, true} {
				c := []registry.Command{first, second, again, elsewhere, byOther}[i]
				equal(t, "created "+c.ID, s.insertCommand(c), want)
			}
		})
		t.Run("are read as they were written", func(t *testing.T) {
			s.read(func(ctx context.Context, tx account.Tx) error {
				c, err := tx.Command(ctx, no, first.ID)
				equal(t, "by id", c, first)
				is(t, "by id", err, nil)
				c, ok, err := tx.CommandByRequest(ctx, no, first.Issuer, "r2")
				equal(t, "by request", []any{c.ID, ok, err}, []any{second.ID, true, nil})
				_, ok, err = tx.CommandByRequest(ctx, no, first.Issuer, "r3")
				equal(t, "by another request", []any{ok, err}, []any{false, nil})
				_, err = tx.Command(ctx, other, first.ID)
				is(t, "of another device", err, registry.ErrCommandNotFound)
				list, err := tx.Commands(ctx, no, 0, 2)
				equal(t, "newest first", []any{len(list), list[0].ID, list[1].ID, err}, []any{2, "by-other", second.ID, nil})
				list, err = tx.Commands(ctx, no, second.No, 5)
				equal(t, "before", []any{len(list), err}, []any{1, nil})
				return nil
			})
		})
		t.Run("advance only from the state that they are in", func(t *testing.T) {
			sent := first
			sent.Status, sent.Attempt, sent.Epoch, sent.SentAt, sent.DueAt = registry.CommandSent, 1, 7, after(3), after(90)
			advance := func(c registry.Command, from registry.CommandStatus) (changed bool) {
				s.write(func(ctx context.Context, tx account.Tx) (err error) {
					changed, err = tx.AdvanceCommand(ctx, c, from)
					return err
				})
				return changed
			}
			equal(t, "from queued", advance(sent, registry.CommandQueued), true)
			equal(t, "from queued again", advance(sent, registry.CommandQueued), false)
			done := sent
			done.Status, done.DeliveredAt, done.FinishedAt, done.DueAt = registry.CommandRejected, after(4), after(5), after(5)
			done.Code, done.Message, done.Result, done.Firmware = registry.CodeUnsupported, "no", `{"a":1}`, "1.2.0"
			equal(t, "to the end", advance(done, registry.CommandSent), true)
			s.read(func(ctx context.Context, tx account.Tx) error {
				c, err := tx.Command(ctx, no, first.ID)
				equal(t, "the command", []any{c, err}, []any{done, nil})
				open, err := tx.OpenCommands(ctx, no)
				equal(t, "open", []any{len(open), open[0].ID, err}, []any{2, second.ID, nil})
				for firmware, want := range map[string]bool{"1.2.0": true, "1.3.0": false} {
					unknown, err := tx.CommandUnsupported(ctx, no, "identify", firmware)
					equal(t, "unsupported by "+firmware, []any{unknown, err}, []any{want, nil})
				}
				return nil
			})
		})
		t.Run("cannot be final without an end", func(t *testing.T) {
			if err := s.try(func(ctx context.Context, tx account.Tx) error {
				bad := second
				bad.Status = registry.CommandSucceeded
				_, err := tx.AdvanceCommand(ctx, bad, registry.CommandQueued)
				return err
			}); err == nil {
				t.Error("it was written")
			}
		})
		t.Run("are found when their timer has run out", func(t *testing.T) {
			s.read(func(ctx context.Context, tx account.Tx) error {
				list, err := tx.DueCommands(ctx, after(61), 10)
				equal(t, "early", []any{len(list), err}, []any{2, nil}) // elsewhere and by-other
				list, err = tx.DueCommands(ctx, after(62), 10)
				equal(t, "due", []any{len(list), err}, []any{3, nil})
				return nil
			})
		})
		t.Run("are marked late once", func(t *testing.T) {
			for _, want := range []bool{true, false} {
				s.write(func(ctx context.Context, tx account.Tx) error {
					changed, err := tx.SetCommandLate(ctx, first.No, after(9))
					equal(t, "late", changed, want)
					return err
				})
			}
		})
		t.Run("are deleted when they have ended long ago", func(t *testing.T) {
			s.write(func(ctx context.Context, tx account.Tx) error {
				n, err := tx.DeleteFinishedCommands(ctx, after(5), 10)
				equal(t, "too early", n, 0)
				is(t, "too early", err, nil)
				n, err = tx.DeleteFinishedCommands(ctx, after(6), 10)
				equal(t, "deleted", n, 1)
				return err
			})
		})
		t.Run("of a device go all at once", func(t *testing.T) {
			s.write(func(ctx context.Context, tx account.Tx) error { return tx.DeleteCommands(ctx, no) })
			s.read(func(ctx context.Context, tx account.Tx) error {
				mine, err := tx.Commands(ctx, no, 0, 0)
				equal(t, "its own", []any{len(mine), err}, []any{0, nil})
				others, err := tx.Commands(ctx, other, 0, 0)
				equal(t, "another's", []any{len(others), err}, []any{1, nil})
				return nil
			})
		})
		t.Run("go with their device", func(t *testing.T) {
			s.write(func(ctx context.Context, tx account.Tx) error { return tx.DeleteDevice(ctx, other) })
		})
	})
}

func TestCommandRates(t *testing.T) {
	eachEngine(t, func(t *testing.T, s *store) {
		take := func(bucket string, at time.Time) (wait time.Duration) {
			s.write(func(ctx context.Context, tx account.Tx) (err error) {
				wait, err = tx.TakeCommandToken(ctx, bucket, at, 6*time.Second, 5)
				return err
			})
			return wait
		}
		t.Run("allow a burst, and then one at each interval", func(t *testing.T) {
			for i := range 5 {
				equal(t, fmt.Sprint("token ", i), take("b", after(0)), 0)
			}
			equal(t, "the sixth waits", take("b", after(0)), 6*time.Second)
			equal(t, "and costs nothing", take("b", after(2)), 4*time.Second)
			equal(t, "until there is one", take("b", after(6)), 0)
			equal(t, "and no other", take("b", after(6)), 6*time.Second)
			equal(t, "another bucket is full", take("c", after(0)), 0)
		})
		t.Run("never hold more than the burst", func(t *testing.T) {
			for i := range 5 {
				equal(t, fmt.Sprint("token ", i), take("b", after(1000)), 0)
			}
			if take("b", after(1000)) == 0 {
				t.Error("a sixth")
			}
		})
		t.Run("are forgotten when they are full", func(t *testing.T) {
			s.write(func(ctx context.Context, tx account.Tx) error {
				n, err := tx.DeleteCommandRates(ctx, after(1000), 10)
				equal(t, "deleted", n, 1)
				return err
			})
		})
	})
}

func TestActorEnabled(t *testing.T) {
	eachEngine(t, func(t *testing.T, s *store) {
		s.user("u1", "a@example.com")
		s.write(func(ctx context.Context, tx account.Tx) error {
			return tx.InsertAdmin(ctx, account.Admin{ID: "a1", Email: "root@example.com", Role: account.AdminRoleAdmin, CreatedAt: t0})
		})
		s.read(func(ctx context.Context, tx account.Tx) error {
			for _, tc := range []struct {
				kind registry.ActorKind
				id   string
				want bool
			}{
				{registry.ActorUser, "u1", true},
				{registry.ActorUser, "u2", false},
				{registry.ActorAdmin, "a1", true},
				{registry.ActorAdmin, "u1", false},
				{registry.ActorService, "s1", false},
				{registry.ActorDevice, "u1", false},
			} {
				got, err := tx.ActorEnabled(ctx, tc.kind, tc.id)
				equal(t, string(tc.kind)+":"+tc.id, []any{got, err}, []any{tc.want, nil})
			}
			return nil
		})
	})
}

func TestErasureScrubsCommands(t *testing.T) {
	eachEngine(t, func(t *testing.T, s *store) {
		no := s.enrol(1)
		s.user("u1", "a@example.com")
		s.insertCommand(command(no, 1))
		s.write(func(ctx context.Context, tx account.Tx) error {
			err := tx.InsertAudit(ctx, registry.AuditEvent{ID: 1, Domain: "registry", Event: "command_issued", Actor: "user:u1", Data: map[string]any{"params": "x"}, At: t0})
			if err != nil {
				return err
			}
			return tx.EraseUser(ctx, "u1", "a@example.com", after(9))
		})
		s.read(func(ctx context.Context, tx account.Tx) error {
			c, err := tx.Command(ctx, no, "cmd-1")
			equal(t, "params", []any{c.Params, err}, []any{"{}", nil})
			trail, err := tx.Audit(ctx, registry.AuditFilter{Actor: "user:u1"})
			equal(t, "audit", []any{len(trail), len(trail[0].Data), err}, []any{1, 0, nil})
			return nil
		})
	})
}
