// Package schematest gives each test a database of its own that has the whole schema. The
// migrations run once for each test binary: replaying them for each of a thousand tests is
// most of what those tests cost under the race detector.
package schematest

import (
	"context"
	"os"
	"path/filepath"
	"sync"
	"testing"

	"github.com/opticworks/devicecloud/sqlstore"
)

// migrated is the file of a database on which all migrations have run.
var migrated = sync.OnceValues(func() (file []byte, err error) {
	dir, err := os.MkdirTemp("", "schematest")
	if err != nil {
		return nil, err
	}
	defer os.RemoveAll(dir)
	path := filepath.Join(dir, "devicecloud.db")
	if err := Migrate(context.Background(), "sqlite:"+path); err != nil {
		return nil, err
	}
	return os.ReadFile(path)
})

// Migrate runs all migrations on a database and leaves it to others: on SQLite the
// write-ahead log is empty afterwards.
func Migrate(ctx context.Context, url string) error {
	db, err := sqlstore.Open(ctx, url, sqlstore.Options{})
	if err != nil {
		return err
	}
	return db.Close()
}

// SQLiteFile makes a database in a directory that goes with the test, and returns its path.
func SQLiteFile(tb testing.TB) string {
	tb.Helper()
	file, err := migrated()
	if err != nil {
		tb.Fatalf("migrate a database: %v", err)
	}
	path := filepath.Join(tb.TempDir(), "devicecloud.db")
	if err := os.WriteFile(path, file, 0o600); err != nil {
		tb.Fatal(err)
	}
	return path
}

// SQLite makes a database in a directory that goes with the test, and returns its URL.
func SQLite(tb testing.TB) string {
	tb.Helper()
	return "sqlite:" + SQLiteFile(tb)
}
