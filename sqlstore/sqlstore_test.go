package sqlstore_test

import (
	"context"
	"errors"
	"fmt"
	"os"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/opticworks/devicecloud/account"
	"github.com/opticworks/devicecloud/registry"
	"github.com/opticworks/devicecloud/sqlstore"
	"github.com/opticworks/devicecloud/sqlstore/pgtest"
	"github.com/opticworks/devicecloud/sqlstore/schematest"
)

var postgres = pgtest.Fixture{Prepare: schematest.Migrate}

func TestMain(m *testing.M) {
	if task := os.Getenv(childTask); task != "" {
		os.Exit(runChild(task))
	}
	os.Exit(postgres.Run(m))
}

// t0 is the time of the first write in every test; stores keep microseconds.
var t0 = time.Date(2026, 1, 22, 10, 0, 0, 123_456_000, time.UTC)

// after is t0 and some seconds.
func after(seconds int) time.Time { return t0.Add(time.Duration(seconds) * time.Second) }

// engines are the databases that every test of the suite runs on.
var engines = map[string]func(t testing.TB) string{
	"sqlite":   schematest.SQLite,
	"postgres": func(t testing.TB) string { return postgres.URL(t) },
}

// eachEngine runs a test on a fresh database of each engine.
func eachEngine(t *testing.T, test func(t *testing.T, s *store)) {
	t.Helper()
	for name, url := range engines {
		t.Run(name, func(t *testing.T) { test(t, open(t, url(t), sqlstore.Options{})) })
	}
}

// store is a database under test, with what tests do over and over.
type store struct {
	*sqlstore.DB
	t   testing.TB
	url string
}

func open(t testing.TB, url string, opts sqlstore.Options) *store {
	t.Helper()
	db, err := sqlstore.Open(t.Context(), url, opts)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := db.Close(); err != nil {
			t.Errorf("close: %v", err)
		}
	})
	return &store{db, t, url}
}

// write runs f in a transaction that must commit.
func (s *store) write(f func(ctx context.Context, tx account.Tx) error) {
	s.t.Helper()
	if err := s.try(f); err != nil {
		s.t.Fatal(err)
	}
}

// try runs f in a transaction and returns what it returns.
func (s *store) try(f func(ctx context.Context, tx account.Tx) error) error {
	ctx := s.t.Context()
	return s.Accounts().InTx(ctx, func(tx account.Tx) error { return f(ctx, tx) })
}

// read runs f on a snapshot.
func (s *store) read(f func(ctx context.Context, tx account.Tx) error) {
	s.t.Helper()
	ctx := s.t.Context()
	if err := s.Accounts().View(ctx, func(tx account.Tx) error { return f(ctx, tx) }); err != nil {
		s.t.Fatal(err)
	}
}

// commit commits a batch that must succeed.
func (s *store) commit(b *registry.Batch) {
	s.t.Helper()
	if err := s.Registry().Commit(s.t.Context(), b); err != nil {
		s.t.Fatal(err)
	}
}

// mac and deviceID are those of the n-th device of a test.
func mac(n int) registry.MAC {
	return registry.MAC(fmt.Sprintf("AA:BB:CC:%02X:%02X:%02X", n>>16&255, n>>8&255, n&255))
}

func deviceID(n int) string { return mac(n).DeviceID("salt") }

// enrol enrols the n-th device and returns its number.
func (s *store) enrol(n int) (no int64) {
	s.t.Helper()
	s.write(func(ctx context.Context, tx account.Tx) (err error) {
		no, err = tx.InsertDevice(ctx, registry.NewDevice{ID: deviceID(n), MAC: mac(n), At: t0})
		return err
	})
	return no
}

// user writes a person with a verified e-mail.
func (s *store) user(id, email string) {
	s.t.Helper()
	s.write(func(ctx context.Context, tx account.Tx) error {
		return tx.InsertUser(ctx, account.User{ID: id, Email: email, EmailVerified: email != "", CreatedAt: t0})
	})
}

// own writes an ownership row.
func (s *store) own(no int64, userID string, role registry.Role) {
	s.t.Helper()
	s.write(func(ctx context.Context, tx account.Tx) error {
		changed, err := tx.InsertOwnership(ctx, registry.Ownership{DeviceNo: no, UserID: userID, Role: role, At: t0})
		if err == nil && !changed {
			err = errors.New("the row was there already")
		}
		return err
	})
}

// device reads the n-th device.
func (s *store) device(n int) (d registry.Device) {
	s.t.Helper()
	s.read(func(ctx context.Context, tx account.Tx) (err error) {
		d, err = tx.Device(ctx, deviceID(n))
		return err
	})
	return d
}

// connections reads a device's whole history.
func (s *store) connections(no int64) (list []registry.Connection) {
	s.t.Helper()
	s.read(func(ctx context.Context, tx account.Tx) (err error) {
		list, err = tx.Connections(ctx, no, 0, 0)
		return err
	})
	return list
}

// claim is a claim that is allowed to a device without credential.
func claim(no, connectionID int64, at time.Time) *registry.Claim {
	return &registry.Claim{DeviceNo: no, ConnectionID: connectionID, NodeID: "node-1", BootID: 7, Remote: "192.0.2.1", Protocol: 4, At: at, Tell: true}
}

// connect claims a connection and returns its epoch.
func (s *store) connect(no, connectionID int64, at time.Time) int64 {
	s.t.Helper()
	c := claim(no, connectionID, at)
	s.commit(&registry.Batch{Claims: []*registry.Claim{c}})
	if c.Refused {
		s.t.Fatalf("device %d was refused", no)
	}
	return c.Row.Presence.Epoch
}

// equal fails when two values differ.
func equal[T any](t testing.TB, what string, got, want T) {
	t.Helper()
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("%s (-want +got):\n%s", what, diff)
	}
}

// is fails when an error is not the wanted one.
func is(t testing.TB, what string, err, want error) {
	t.Helper()
	if !errors.Is(err, want) {
		t.Errorf("%s: %v, want %v", what, err, want)
	}
}

func ptr[T any](v T) *T { return &v }

func TestOpen(t *testing.T) {
	eachEngine(t, func(t *testing.T, s *store) {
		t.Run("answers a ping", func(t *testing.T) {
			if err := s.Ping(t.Context()); err != nil {
				t.Error(err)
			}
		})
		t.Run("opens again what it has written", func(t *testing.T) {
			no := s.enrol(1)
			again := open(t, s.url, sqlstore.Options{NoMigrate: true})
			if got := again.device(1).No; got != no {
				t.Errorf("device number %d, want %d", got, no)
			}
		})
	})
	t.Run("names the scheme it does not know, and nothing else of the URL", func(t *testing.T) {
		_, err := sqlstore.Open(t.Context(), "mysql://root:hunter2@db/x", sqlstore.Options{})
		if err == nil || err.Error() != `database URL: scheme "mysql" is neither sqlite nor postgres` {
			t.Errorf("%v", err)
		}
	})
	t.Run("does not repeat the password of a PostgreSQL URL that is malformed", func(t *testing.T) {
		_, err := sqlstore.Open(t.Context(), "postgres://u:hunter2@db:notaport/x", sqlstore.Options{})
		if err == nil || len(err.Error()) > 100 {
			t.Errorf("%v", err)
		}
	})
	t.Run("fails with ErrUnavailable when PostgreSQL is not there", func(t *testing.T) {
		_, err := sqlstore.Open(t.Context(), "postgres://u:hunter2@127.0.0.1:1/x?sslmode=disable", sqlstore.Options{})
		is(t, "open", err, registry.ErrUnavailable)
	})
}

func TestView(t *testing.T) {
	eachEngine(t, func(t *testing.T, s *store) {
		no := s.enrol(1)
		t.Run("refuses writes", func(t *testing.T) {
			err := s.Registry().View(t.Context(), func(tx registry.Tx) error { return tx.SetDeviceName(t.Context(), no, "x", t0) })
			if err == nil || errors.Is(err, registry.ErrUnavailable) {
				t.Errorf("a write through a view: %v", err)
			}
			if name := s.device(1).Name; name != "" {
				t.Errorf("the name is %q", name)
			}
		})
		t.Run("sees one snapshot however often it reads", func(t *testing.T) {
			s.read(func(ctx context.Context, tx account.Tx) error {
				before, err := tx.Device(ctx, deviceID(1))
				if err != nil {
					return err
				}
				s.write(func(ctx context.Context, tx account.Tx) error { return tx.SetDeviceName(ctx, no, "renamed", after(1)) })
				again, err := tx.Device(ctx, deviceID(1))
				equal(t, "second read", again, before)
				return err
			})
			equal(t, "name after the view", s.device(1).Name, "renamed")
		})
		t.Run("returns the error of f as it is", func(t *testing.T) {
			mine := errors.New("mine")
			if err := s.Registry().View(t.Context(), func(registry.Tx) error { return mine }); err != mine {
				t.Errorf("%v", err)
			}
		})
	})
}

func TestInTx(t *testing.T) {
	eachEngine(t, func(t *testing.T, s *store) {
		no := s.enrol(1)
		t.Run("rolls back on an error and returns it as it is", func(t *testing.T) {
			mine := errors.New("mine")
			err := s.try(func(ctx context.Context, tx account.Tx) error {
				if err := tx.SetDeviceName(ctx, no, "x", t0); err != nil {
					return err
				}
				return mine
			})
			if err != mine {
				t.Errorf("%v", err)
			}
			equal(t, "name", s.device(1).Name, "")
		})
		t.Run("goes on after an error of the domain", func(t *testing.T) {
			s.write(func(ctx context.Context, tx account.Tx) error {
				_, err := tx.InsertDevice(ctx, registry.NewDevice{ID: deviceID(1), MAC: mac(1), At: t0})
				is(t, "second enrolment", err, registry.ErrAlreadyEnrolled)
				return tx.SetDeviceName(ctx, no, "still here", t0)
			})
			equal(t, "name", s.device(1).Name, "still here")
		})
		t.Run("does not commit for a caller who has gone", func(t *testing.T) {
			ctx, cancel := context.WithCancel(t.Context())
			err := s.Registry().InTx(ctx, func(tx registry.Tx) error {
				defer cancel()
				return tx.SetDeviceName(ctx, no, "gone", t0)
			})
			is(t, "commit", err, registry.ErrUnavailable)
			is(t, "commit", err, context.Canceled)
			equal(t, "name", s.device(1).Name, "still here")
		})
		t.Run("of many at once loses none", func(t *testing.T) {
			// Each reads the name and writes it back one longer: a lost update shows.
			const writers, each = 8, 10
			s.write(func(ctx context.Context, tx account.Tx) error { return tx.SetDeviceName(ctx, no, "n", t0) })
			var wg sync.WaitGroup
			for range writers {
				wg.Go(func() {
					for range each {
						err := s.try(func(ctx context.Context, tx account.Tx) error {
							d, err := tx.Device(ctx, deviceID(1))
							if err != nil {
								return err
							}
							return tx.SetDeviceName(ctx, no, d.Name+"n", t0)
						})
						if err != nil {
							t.Error(err)
						}
					}
				})
			}
			wg.Wait()
			equal(t, "length of the name", len(s.device(1).Name), 1+writers*each)
		})
	})
}
