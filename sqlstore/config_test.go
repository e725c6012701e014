package sqlstore_test

import (
	"context"
	"testing"

	"github.com/opticworks/devicecloud/account"
	"github.com/opticworks/devicecloud/registry"
)

func TestConfigs(t *testing.T) {
	eachEngine(t, func(t *testing.T, s *store) {
		no := s.enrol(1)
		zones := []registry.Zone{{ID: "z1", Name: "Sofa", Type: "include", Vertices: [][2]int32{{0, 0}, {2000, -5}, {7, 9}}, Sensitivity: 50}}
		first := registry.Config{Version: 1, Zones: zones, UpdatedAt: after(1)}
		second := registry.Config{Version: 5, Zones: []registry.Zone{}, UpdatedAt: after(2)}
		put := func(c registry.Config, replaces int64) (changed bool) {
			s.write(func(ctx context.Context, tx account.Tx) (err error) {
				changed, err = tx.PutConfig(ctx, no, c, replaces)
				return err
			})
			return changed
		}
		get := func() (c registry.Config, ok bool) {
			s.read(func(ctx context.Context, tx account.Tx) (err error) {
				c, ok, err = tx.Config(ctx, no)
				return err
			})
			return c, ok
		}
		_, ok := get()
		equal(t, "at first", ok, false)
		equal(t, "replacing what is not there", put(first, 3), false)
		equal(t, "the first", put(first, 0), true)
		equal(t, "the first again", put(second, 0), false)
		c, ok := get()
		equal(t, "what is there", []any{c, ok}, []any{first, true})
		equal(t, "the second", put(second, 1), true)
		equal(t, "the second again", put(second, 1), false)
		c, _ = get()
		equal(t, "what is there", c, second)
		s.write(func(ctx context.Context, tx account.Tx) error { return tx.DeleteConfig(ctx, no) })
		_, ok = get()
		equal(t, "after it was deleted", ok, false)
	})
}
