package sqlstore_test

import (
	"context"
	"errors"
	"fmt"
	"testing"

	"github.com/opticworks/devicecloud/account"
	"github.com/opticworks/devicecloud/registry"
)

func TestOwnership(t *testing.T) {
	eachEngine(t, func(t *testing.T, s *store) {
		no, second := s.enrol(1), s.enrol(2)
		s.user("u1", "a@example.com")
		s.user("u2", "b@example.com")
		s.user("u3", "")
		insert := func(o registry.Ownership) (changed bool, err error) {
			err = s.try(func(ctx context.Context, tx account.Tx) (err error) {
				changed, err = tx.InsertOwnership(ctx, o)
				return err
			})
			return changed, err
		}
		owner := registry.Ownership{DeviceNo: no, UserID: "u1", Role: registry.RoleOwner, ClaimedAt: after(1), ClaimedVia: "purchase", At: after(1)}
		viewer := registry.Ownership{DeviceNo: no, UserID: "u2", Role: registry.RoleViewer, SharedAt: after(2), SharedBy: "u1", At: after(2)}
		t.Run("is written once", func(t *testing.T) {
			for _, want := range []bool{true, false} {
				changed, err := insert(owner)
				equal(t, "insert", []any{changed, err}, []any{want, nil})
			}
			if _, err := insert(viewer); err != nil {
				t.Fatal(err)
			}
		})
		t.Run("cannot make a second owner", func(t *testing.T) {
			other := owner
			other.UserID = "u3"
			_, err := insert(other)
			is(t, "a stranger", err, registry.ErrOwnedByOther)
			other.UserID = "u2"
			changed, err := insert(other)
			equal(t, "somebody with a row already", []any{changed, err}, []any{false, nil})
		})
		t.Run("is listed with e-mails, the owner first", func(t *testing.T) {
			s.read(func(ctx context.Context, tx account.Tx) error {
				list, err := tx.Ownerships(ctx, no)
				first, then := owner, viewer
				first.Email, then.Email = "a@example.com", "b@example.com"
				equal(t, "list", list, []registry.Ownership{first, then})
				return err
			})
		})
		t.Run("decides what a person sees", func(t *testing.T) {
			s.own(second, "u2", registry.RoleOwner)
			s.read(func(ctx context.Context, tx account.Tx) error {
				got, err := tx.OwnedDevice(ctx, "u2", deviceID(1), after(3))
				equal(t, "shared", got, registry.OwnedDevice{Device: s.device(1), Role: registry.RoleViewer})
				if err != nil {
					return err
				}
				_, err = tx.OwnedDevice(ctx, "u3", deviceID(1), after(3))
				is(t, "not theirs", err, registry.ErrDeviceNotFound)
				list, err := tx.OwnedDevices(ctx, "u2", after(3), 0, 10)
				equal(t, "devices", list, []registry.OwnedDevice{{Device: s.device(1), Role: registry.RoleViewer}, {Device: s.device(2), Role: registry.RoleOwner}})
				if err != nil {
					return err
				}
				list, err = tx.OwnedDevices(ctx, "u2", after(3), no, 10)
				equal(t, "after the first", len(list), 1)
				if err != nil {
					return err
				}
				list, err = tx.OwnedDevices(ctx, "u2", after(3), 0, 1)
				equal(t, "limited", len(list), 1)
				if err != nil {
					return err
				}
				ids, err := tx.ReadableIDs(ctx, "u2", after(3))
				equal(t, "readable", ids, []string{deviceID(1), deviceID(2)})
				return err
			})
		})
		t.Run("is given up row by row, or all at once", func(t *testing.T) {
			s.write(func(ctx context.Context, tx account.Tx) error {
				changed, err := tx.DeleteShare(ctx, second, "u2")
				equal(t, "an owner's row as a share", []any{changed, err}, []any{false, nil})
				users, err := tx.DeleteOwnerships(ctx, no)
				equal(t, "whose rows went", fmt.Sprint(len(users), users[0] != users[1]), "2 true")
				return err
			})
		})
		t.Run("leaves its mark on the device", func(t *testing.T) {
			s.write(func(ctx context.Context, tx account.Tx) error { return tx.SetEverOwned(ctx, no) })
			equal(t, "ever owned", []bool{s.device(1).EverOwned, s.device(2).EverOwned}, []bool{true, false})
		})
	})
}

func TestTwoOwnersAreImpossible(t *testing.T) {
	eachEngine(t, func(t *testing.T, s *store) {
		no := s.enrol(1)
		const n = 8
		for i := range n {
			s.user(fmt.Sprint("u", i), fmt.Sprintf("u%d@example.com", i))
		}
		results := make(chan error, n)
		for i := range n {
			go func() {
				results <- s.try(func(ctx context.Context, tx account.Tx) error {
					_, err := tx.InsertOwnership(ctx, registry.Ownership{DeviceNo: no, UserID: fmt.Sprint("u", i), Role: registry.RoleOwner, At: t0})
					return err
				})
			}()
		}
		owners := 0
		for range n {
			if err := <-results; err == nil {
				owners++
			} else {
				is(t, "loser", err, registry.ErrOwnedByOther)
			}
		}
		equal(t, "owners", owners, 1)
	})
}

func TestTheLimitOfDevicesHolds(t *testing.T) {
	eachEngine(t, func(t *testing.T, s *store) {
		const n, limit = 60, 50
		s.user("u1", "a@example.com")
		for i := range n {
			s.enrol(i)
		}
		results := make(chan error, n)
		for i := range n {
			go func() {
				// As the domain does it: group commits of several at once.
				w := &registry.Work{Do: func(tx registry.Tx) error {
					_, err := tx.InsertOwner(context.Background(), registry.Ownership{DeviceNo: int64(i + 1), UserID: "u1", Role: registry.RoleOwner, ClaimedAt: t0, At: t0}, limit)
					return err
				}}
				if err := s.Registry().Commit(context.Background(), &registry.Batch{Work: []*registry.Work{w}}); err != nil {
					results <- err
					return
				}
				results <- w.Err
			}()
		}
		owned, refused := 0, 0
		for range n {
			switch err := <-results; {
			case err == nil:
				owned++
			case errors.Is(err, registry.ErrDeviceLimit):
				refused++
			default:
				t.Error(err)
			}
		}
		equal(t, "claims", []int{owned, refused}, []int{limit, n - limit})
		s.read(func(ctx context.Context, tx account.Tx) error {
			list, err := tx.OwnedDevices(ctx, "u1", t0, 0, 0)
			equal(t, "owned", len(list), limit)
			return err
		})
	})
}
