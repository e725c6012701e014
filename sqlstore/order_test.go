package sqlstore_test

import (
	"context"
	"testing"

	"github.com/opticworks/devicecloud/account"
	"github.com/opticworks/devicecloud/registry"
)

func TestOrders(t *testing.T) {
	eachEngine(t, func(t *testing.T, s *store) {
		insert := func(o registry.Order) (created bool, err error) {
			err = s.try(func(ctx context.Context, tx account.Tx) (err error) {
				created, err = tx.InsertOrder(ctx, o)
				return err
			})
			return created, err
		}
		open := func(m registry.MAC) (o registry.Order, ok bool) {
			s.read(func(ctx context.Context, tx account.Tx) (err error) {
				o, ok, err = tx.OpenOrder(ctx, m)
				return err
			})
			return o, ok
		}
		line := registry.Order{OrderID: "o-1", DeviceMAC: mac(1), UserEmail: "a@example.com", CreatedAt: t0}
		t.Run("are written once", func(t *testing.T) {
			for _, want := range []bool{true, false} {
				created, err := insert(line)
				equal(t, "insert", []any{created, err}, []any{want, nil})
			}
			other := line
			other.UserEmail = "b@example.com"
			_, err := insert(other)
			is(t, "the same line for another person", err, registry.ErrOrderExists)
		})
		t.Run("are open only when shipped; a repeated line fills in the date, once", func(t *testing.T) {
			_, ok := open(mac(1))
			equal(t, "open before shipping", ok, false)
			line.ShippedAt = after(1)
			if _, err := insert(line); err != nil {
				t.Fatal(err)
			}
			again := line
			again.ShippedAt = after(2)
			if _, err := insert(again); err != nil {
				t.Fatal(err)
			}
			got, ok := open(mac(1))
			equal(t, "open", ok, true)
			equal(t, "order", got, line)
		})
		t.Run("are found oldest first, and by e-mail", func(t *testing.T) {
			older := registry.Order{OrderID: "o-0", DeviceMAC: mac(1), UserEmail: "c@example.com", ShippedAt: t0, CreatedAt: t0.Add(-1e9)}
			second := registry.Order{OrderID: "o-1", DeviceMAC: mac(2), UserEmail: "a@example.com", ShippedAt: t0, CreatedAt: after(5)}
			for _, o := range []registry.Order{older, second} {
				if _, err := insert(o); err != nil {
					t.Fatal(err)
				}
			}
			got, _ := open(mac(1))
			equal(t, "oldest", got, older)
			s.read(func(ctx context.Context, tx account.Tx) error {
				list, err := tx.OpenOrdersFor(ctx, "a@example.com")
				equal(t, "for the e-mail", list, []registry.Order{line, second})
				return err
			})
		})
		t.Run("link once", func(t *testing.T) {
			s.write(func(ctx context.Context, tx account.Tx) error {
				for _, want := range []bool{true, false} {
					changed, err := tx.LinkOrder(ctx, "o-0", mac(1), "u1", after(9))
					equal(t, "link", []any{changed, err}, []any{want, nil})
				}
				return nil
			})
			got, ok := open(mac(1))
			equal(t, "the next open one", []any{got, ok}, []any{line, true})
		})
	})
}
