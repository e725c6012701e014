package sqlstore_test

import (
	"context"
	"errors"
	"fmt"
	"testing"
	"time"

	"github.com/opticworks/devicecloud/account"
	"github.com/opticworks/devicecloud/registry"
)

func TestShares(t *testing.T) {
	eachEngine(t, func(t *testing.T, s *store) {
		no := s.enrol(1)
		for _, id := range []string{"owner", "u1", "u2"} {
			s.user(id, id+"@example.com")
		}
		s.own(no, "owner", registry.RoleOwner)
		put := func(user string, role registry.Role, starts, ends time.Time) (changed bool) {
			s.write(func(ctx context.Context, tx account.Tx) (err error) {
				changed, err = tx.PutShare(ctx, registry.Ownership{
					DeviceNo: no, UserID: user, Role: role, SharedAt: after(1), SharedBy: "owner", StartsAt: starts, EndsAt: ends, At: after(1),
				})
				return err
			})
			return changed
		}
		t.Run("never touch an owner's row", func(t *testing.T) {
			equal(t, "put", put("owner", registry.RoleViewer, time.Time{}, time.Time{}), false)
			s.write(func(ctx context.Context, tx account.Tx) error {
				changed, err := tx.DeleteShare(ctx, no, "owner")
				equal(t, "delete", changed, false)
				return err
			})
			err := s.try(func(ctx context.Context, tx account.Tx) error {
				_, err := tx.InsertOwnership(ctx, registry.Ownership{DeviceNo: s.enrolIn(ctx, tx, 2), UserID: "u1", Role: registry.RoleOwner, EndsAt: after(9), At: t0})
				return err
			})
			if err == nil {
				t.Error("an owner's row has an end")
			}
		})
		t.Run("hold between their times", func(t *testing.T) {
			equal(t, "first", put("u1", registry.RoleViewer, after(10), after(20)), true)
			equal(t, "again", put("u1", registry.RoleAdmin, after(10), after(20)), true)
			for at, want := range map[int]string{9: "0 0 device_not_found", 10: "1 1 admin", 19: "1 1 admin", 20: "0 0 device_not_found"} {
				s.read(func(ctx context.Context, tx account.Tx) error {
					ids, err := tx.ReadableIDs(ctx, "u1", after(at))
					if err != nil {
						return err
					}
					list, err := tx.OwnedDevices(ctx, "u1", after(at), 0, 10)
					if err != nil {
						return err
					}
					d, err := tx.OwnedDevice(ctx, "u1", deviceID(1), after(at))
					role := string(d.Role)
					if errors.Is(err, registry.ErrDeviceNotFound) {
						role = registry.ErrDeviceNotFound.Code
					}
					equal(t, fmt.Sprint("at ", at), fmt.Sprint(len(ids), len(list), " ", role), want)
					return nil
				})
			}
			s.read(func(ctx context.Context, tx account.Tx) error {
				list, err := tx.OwnedDevices(ctx, "u1", time.Time{}, 0, 10)
				equal(t, "whenever", len(list), 1)
				return err
			})
		})
		t.Run("say when they begin and end", func(t *testing.T) {
			put("u2", registry.RoleViewer, time.Time{}, after(15))
			one := registry.Crossing{DeviceID: deviceID(1), Ownership: registry.Ownership{DeviceNo: no, UserID: "u1", Role: registry.RoleAdmin, StartsAt: after(10), EndsAt: after(20)}}
			two := registry.Crossing{DeviceID: deviceID(1), Ownership: registry.Ownership{DeviceNo: no, UserID: "u2", Role: registry.RoleViewer, EndsAt: after(15)}}
			s.read(func(ctx context.Context, tx account.Tx) error {
				for _, c := range []struct {
					from, to int
					want     []registry.Crossing
				}{{0, 9, nil}, {9, 10, []registry.Crossing{one}}, {10, 14, nil}, {14, 15, []registry.Crossing{two}}, {0, 30, []registry.Crossing{one, two}}, {20, 30, nil}} {
					got, err := tx.CrossedShares(ctx, after(c.from), after(c.to))
					if err != nil {
						return err
					}
					equal(t, fmt.Sprint(c.from, " to ", c.to), got, c.want)
				}
				for from, want := range map[int][2]time.Time{0: {after(10)}, 10: {after(15)}, 15: {after(20), after(15)}, 20: {{}, after(15)}} {
					next, ended, err := tx.NextCrossing(ctx, after(from))
					if err != nil {
						return err
					}
					equal(t, fmt.Sprint("next after ", from), [2]time.Time{next, ended}, want)
				}
				return nil
			})
			s.write(func(ctx context.Context, tx account.Tx) error {
				gone, err := tx.DeleteEndedShares(ctx, after(20), 10)
				equal(t, "deleted", gone, []registry.Crossing{two})
				if err != nil {
					return err
				}
				list, err := tx.Ownerships(ctx, no)
				equal(t, "left", len(list), 2)
				return err
			})
		})
	})
}

// enrolIn enrols the n-th device in a transaction.
func (s *store) enrolIn(ctx context.Context, tx account.Tx, n int) int64 {
	s.t.Helper()
	no, err := tx.InsertDevice(ctx, registry.NewDevice{ID: deviceID(n), MAC: mac(n), At: t0})
	if err != nil {
		s.t.Error(err)
	}
	return no
}

func TestInvitations(t *testing.T) {
	eachEngine(t, func(t *testing.T, s *store) {
		no := s.enrol(1)
		s.user("owner", "owner@example.com")
		s.own(no, "owner", registry.RoleOwner)
		invite := func(id int64, kind registry.InvitationKind, email string, limit int) (put bool) {
			role := registry.RoleViewer
			if kind == registry.InviteTransfer {
				role = registry.RoleOwner
			}
			s.write(func(ctx context.Context, tx account.Tx) (err error) {
				put, err = tx.PutInvitation(ctx, registry.Invitation{
					ID: id, DeviceNo: no, Kind: kind, Email: email, Role: role, InvitedBy: "owner", CreatedAt: t0, ExpiresAt: after(100),
				}, limit)
				return err
			})
			return put
		}
		open := func(at int) string {
			var ids []int64
			s.read(func(ctx context.Context, tx account.Tx) error {
				list, err := tx.InvitationsOf(ctx, no, after(at))
				for _, i := range list {
					ids = append(ids, i.ID)
				}
				return err
			})
			return fmt.Sprint(ids)
		}
		t.Run("are one for each address, and stop at the limit", func(t *testing.T) {
			equal(t, "put", []bool{
				invite(1, registry.InviteShare, "a@example.com", 2), invite(2, registry.InviteShare, "b@example.com", 2),
				invite(3, registry.InviteShare, "c@example.com", 2), invite(4, registry.InviteShare, "a@example.com", 2),
				invite(5, registry.InviteTransfer, "a@example.com", 2), invite(6, registry.InviteTransfer, "b@example.com", 2),
			}, []bool{true, true, false, true, true, true})
			equal(t, "open", open(0), "[2 4 6]")
			equal(t, "later", open(100), "[]")
		})
		t.Run("are read by their address alone", func(t *testing.T) {
			s.read(func(ctx context.Context, tx account.Tx) error {
				i, err := tx.Invitation(ctx, 4, "a@example.com", t0)
				equal(t, "one", i, registry.Invitation{
					ID: 4, DeviceNo: no, DeviceID: deviceID(1), From: "owner@example.com", Kind: registry.InviteShare, Email: "a@example.com",
					Role: registry.RoleViewer, InvitedBy: "owner", CreatedAt: t0, ExpiresAt: after(100),
				})
				if err != nil {
					return err
				}
				for name, f := range map[string]func() error{
					"another address": func() error { _, err := tx.Invitation(ctx, 4, "b@example.com", t0); return err },
					"expired":         func() error { _, err := tx.Invitation(ctx, 4, "a@example.com", after(100)); return err },
				} {
					is(t, name, f(), registry.ErrInvitationNotFound)
				}
				list, err := tx.InvitationsTo(ctx, "b@example.com", t0, 0, 1)
				if err != nil || len(list) != 1 || list[0].ID != 6 {
					t.Errorf("first page %v, %v", list, err)
				}
				list, err = tx.InvitationsTo(ctx, "b@example.com", t0, 6, 10)
				if len(list) != 1 || list[0].ID != 2 {
					t.Errorf("second page %v", list)
				}
				return err
			})
		})
		t.Run("are mailed by one of those who try, and again if they do not say that it is done", func(t *testing.T) {
			s.write(func(ctx context.Context, tx account.Tx) error {
				for n, at := range []time.Time{after(20), after(10), {}, after(60)} {
					_, err := tx.PutInvitation(ctx, registry.Invitation{
						ID: int64(20 + n), DeviceNo: no, Kind: registry.InviteShare, Email: fmt.Sprint("m", n, "@example.com"), Role: registry.RoleViewer,
						InvitedBy: "owner", CreatedAt: t0, ExpiresAt: after(100), MailAt: at,
					}, 100)
					if err != nil {
						return err
					}
				}
				return nil
			})
			due := func(seconds int) (ids []int64) {
				s.read(func(ctx context.Context, tx account.Tx) error {
					list, err := tx.InvitationsToMail(ctx, after(seconds), 10)
					for _, i := range list {
						ids = append(ids, i.ID)
					}
					return err
				})
				return ids
			}
			equal(t, "before", due(9), []int64(nil))
			equal(t, "in order", due(30), []int64{21, 20})
			equal(t, "all", due(60), []int64{21, 20, 23})
			equal(t, "of those that are open", due(100), []int64(nil))
			set := func(id int64, from, to time.Time) (changed bool) {
				s.write(func(ctx context.Context, tx account.Tx) (err error) {
					changed, err = tx.SetInvitationMail(ctx, id, from, to)
					return err
				})
				return changed
			}
			equal(t, "one takes it", []bool{set(21, after(10), after(50)), set(21, after(10), after(50))}, []bool{true, false})
			equal(t, "while it is sent", due(30), []int64{20})
			equal(t, "it is sent", []bool{set(21, after(10), time.Time{}), set(21, after(50), time.Time{}), set(21, after(50), time.Time{})}, []bool{false, true, false})
			equal(t, "then", due(60), []int64{20, 23})
			again := func(at time.Time) {
				s.write(func(ctx context.Context, tx account.Tx) error {
					_, err := tx.PutInvitation(ctx, registry.Invitation{
						ID: 30, DeviceNo: no, Kind: registry.InviteShare, Email: "m0@example.com", Role: registry.RoleViewer, InvitedBy: "owner",
						CreatedAt: t0, ExpiresAt: after(100), MailAt: at,
					}, 100)
					return err
				})
			}
			again(time.Time{})
			equal(t, "one that is written anew without a mail keeps the one that is due", due(30), []int64{30})
			again(after(40))
			equal(t, "and with one gets a new one", due(30), []int64(nil))
			s.write(func(ctx context.Context, tx account.Tx) error {
				for _, id := range []int64{21, 22, 23, 30} {
					if _, err := tx.DeleteInvitation(ctx, id); err != nil {
						return err
					}
				}
				return nil
			})
		})
		t.Run("go once they are answered, expired, or the device is released", func(t *testing.T) {
			s.write(func(ctx context.Context, tx account.Tx) error {
				for _, want := range []bool{true, false} {
					changed, err := tx.DeleteInvitation(ctx, 4)
					equal(t, "delete", []any{changed, err}, []any{want, nil})
				}
				n, err := tx.DeleteExpiredInvitations(ctx, after(101), 1)
				equal(t, "expired", n, 1)
				if err != nil {
					return err
				}
				return tx.DeleteInvitations(ctx, no)
			})
			equal(t, "open", open(0), "[]")
		})
	})
}

func TestVerifiedEmail(t *testing.T) {
	eachEngine(t, func(t *testing.T, s *store) {
		s.user("u1", "a@example.com")
		s.user("u2", "")
		s.read(func(ctx context.Context, tx account.Tx) error {
			for id, want := range map[string]string{"u1": "a@example.com", "u2": "", "u3": ""} {
				got, err := tx.VerifiedEmail(ctx, id)
				equal(t, id, []any{got, err}, []any{want, nil})
			}
			return nil
		})
	})
}
