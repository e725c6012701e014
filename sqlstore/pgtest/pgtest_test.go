package pgtest_test

import (
	"context"
	"database/sql"
	"os"
	"testing"
	"time"

	"github.com/opticworks/devicecloud/sqlstore/pgtest"
)

var fixture pgtest.Fixture

func TestMain(m *testing.M) { os.Exit(fixture.Run(m)) }

func TestFixture(t *testing.T) {
	t.Run("gives each test an empty database of its own", func(t *testing.T) {
		first, second := fixture.URL(t), fixture.URL(t)
		if first == second {
			t.Fatalf("two tests share %s", first)
		}
		for _, url := range []string{first, second} {
			db := open(t, url)
			if _, err := db.Exec(`CREATE TABLE t (n INTEGER)`); err != nil {
				t.Errorf("%s: %v", url, err)
			}
		}
	})
}

func TestServer(t *testing.T) {
	server, err := pgtest.Start()
	if err == pgtest.ErrNotInstalled {
		t.Skip("PostgreSQL is not installed")
	}
	if err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := server.Stop(); err != nil {
			t.Error(err)
		}
	}()
	t.Run("answers nothing while it is paused, and again afterwards", func(t *testing.T) {
		url, err := server.NewDatabase(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		db := open(t, url)
		if err := db.Ping(); err != nil {
			t.Fatal(err)
		}
		if err := server.Pause(); err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithTimeout(t.Context(), 200*time.Millisecond)
		defer cancel()
		if _, err := db.ExecContext(ctx, `SELECT 1`); err == nil {
			t.Error("a paused server answered")
		}
		if err := server.Resume(); err != nil {
			t.Fatal(err)
		}
		if err := db.PingContext(t.Context()); err != nil {
			t.Errorf("after Resume: %v", err)
		}
	})
}

func open(t *testing.T, url string) *sql.DB {
	t.Helper()
	db, err := sql.Open("pgx", url)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = db.Close() })
	return db
}
