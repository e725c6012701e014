package sqlstore_test

import (
	"context"
	"errors"
	"testing"
	"time"

	"github.com/opticworks/devicecloud/account"
	"github.com/opticworks/devicecloud/registry"
	"github.com/opticworks/devicecloud/sqlstore"
	"github.com/opticworks/devicecloud/sqlstore/pgtest"
)

func TestPostgresThatHangs(t *testing.T) {
	server, err := pgtest.Start()
	if errors.Is(err, pgtest.ErrNotInstalled) {
		t.Skip("PostgreSQL is not installed")
	}
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := server.Stop(); err != nil {
			t.Error(err)
		}
	})
	url, err := server.NewDatabase(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	s := open(t, url, sqlstore.Options{})
	no := s.enrol(1)
	epoch := s.connect(no, 101, t0)
	batch := &registry.Batch{States: []*registry.StateWrite{{DeviceNo: no, Epoch: epoch, At: after(1), State: full()}}}

	if err := server.Pause(); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 300*time.Millisecond)
	defer cancel()
	start := time.Now()
	is(t, "commit", s.Registry().Commit(ctx, batch), registry.ErrUnavailable)
	is(t, "view", s.Registry().View(ctx, func(tx registry.Tx) error { _, err := tx.Device(ctx, deviceID(1)); return err }), registry.ErrUnavailable)
	if took := time.Since(start); took > 3*time.Second {
		t.Errorf("took %v", took)
	}
	if err := server.Resume(); err != nil {
		t.Fatal(err)
	}
	s.commit(batch)
	equal(t, "state", s.device(1).State, stored(full()))
}

func TestPostgresConnectionLost(t *testing.T) {
	s := open(t, engines["postgres"](t), sqlstore.Options{})
	no := s.enrol(1)
	db := raw(t, s.url)
	kill := func() {
		t.Helper()
		execute(t, db, `SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = 'devicecloud' AND datname = current_database()`)
	}
	t.Run("within a transaction fails it", func(t *testing.T) {
		err := s.try(func(ctx context.Context, tx account.Tx) error {
			if err := tx.SetDeviceName(ctx, no, "lost", t0); err != nil {
				return err
			}
			kill()
			return tx.SetDeviceName(ctx, no, "lost", t0)
		})
		is(t, "transaction", err, registry.ErrUnavailable)
		equal(t, "name", s.device(1).Name, "")
	})
	t.Run("fails a transaction even when it hides the error", func(t *testing.T) {
		err := s.try(func(ctx context.Context, tx account.Tx) error {
			kill()
			_ = tx.SetDeviceName(ctx, no, "hidden", t0)
			_ = tx.SetDeviceName(ctx, no, "written outside", t0)
			return nil
		})
		is(t, "transaction", err, registry.ErrUnavailable)
		equal(t, "name", s.device(1).Name, "")
	})
	t.Run("within the work of a batch fails the batch", func(t *testing.T) {
		w := &registry.Work{Do: func(tx registry.Tx) error {
			kill()
			return tx.SetDeviceName(t.Context(), no, "lost", t0)
		}}
		is(t, "batch", s.Registry().Commit(t.Context(), &registry.Batch{Work: []*registry.Work{w}}), registry.ErrUnavailable)
		equal(t, "name", s.device(1).Name, "")
	})
	t.Run("between transactions is not noticed", func(t *testing.T) {
		kill()
		s.write(func(ctx context.Context, tx account.Tx) error { return tx.SetDeviceName(ctx, no, "kept", t0) })
		equal(t, "name", s.device(1).Name, "kept")
	})
}

func TestPostgresClaimsOfTwoNodes(t *testing.T) {
	first := open(t, engines["postgres"](t), sqlstore.Options{})
	second := open(t, first.url, sqlstore.Options{})
	const devices, rounds = 20, 15
	for n := range devices {
		first.enrol(n)
	}
	done := make(chan error)
	for node, s := range []*store{first, second} {
		go func() {
			var errs []error
			for round := range rounds {
				b := &registry.Batch{}
				for i := range devices {
					no := int64(i + 1)
					if node == 1 {
						no = int64(devices - i) // the other way round: deadlocks are retried
					}
					c := claim(no, int64(node+1)*1_000_000+int64(round*devices)+no, after(round))
					c.NodeID = []string{"node-1", "node-2"}[node]
					b.Claims = append(b.Claims, c)
				}
				errs = append(errs, s.Registry().Commit(t.Context(), b))
			}
			done <- errors.Join(errs...)
		}()
	}
	for range 2 {
		if err := <-done; err != nil {
			t.Error(err)
		}
	}
	for n := range devices {
		d := first.device(n)
		equal(t, "epoch", d.Presence.Epoch, int64(2*rounds))
		seen := map[int64]bool{d.Presence.Epoch: true}
		for _, c := range first.connections(d.No) {
			seen[c.Epoch] = true
		}
		equal(t, "each epoch is one connection", len(seen), 2*rounds)
	}
}

func TestPostgresThatMayForget(t *testing.T) {
	url := engines["postgres"](t)
	_, err := sqlstore.Open(t.Context(), url+"&synchronous_commit=off", sqlstore.Options{})
	if err == nil {
		t.Error("a database that may lose what it has committed was opened")
	}
}
