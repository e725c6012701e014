package sqlstore_test

import (
	"context"
	"database/sql"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	devicecloud "github.com/opticworks/devicecloud"
	"github.com/opticworks/devicecloud/account"
	"github.com/opticworks/devicecloud/registry"
	"github.com/opticworks/devicecloud/sqlstore"
)

// raw opens a database past the store, as another program would.
func raw(t testing.TB, url string) *sql.DB {
	t.Helper()
	driver, source := "pgx", url
	if path, ok := strings.CutPrefix(url, "sqlite:"); ok {
		driver, source = "sqlite", path+"?_busy_timeout=5000"
	}
	db, err := sql.Open(driver, source)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := db.Close(); err != nil {
			t.Errorf("close: %v", err)
		}
	})
	return db
}

func execute(t testing.TB, db *sql.DB, query string, args ...any) {
	t.Helper()
	if _, err := db.ExecContext(t.Context(), query, args...); err != nil {
		t.Fatalf("%v: %s", err, query)
	}
}

// texts reads rows as lines of text.
func texts(t testing.TB, db *sql.DB, query string, args ...any) (lines []string) {
	t.Helper()
	rows, err := db.QueryContext(t.Context(), query, args...)
	if err != nil {
		t.Fatalf("%v: %s", err, query)
	}
	defer func() { _ = rows.Close() }()
	columns, err := rows.Columns()
	if err != nil {
		t.Fatal(err)
	}
	for rows.Next() {
		values, dest := make([]any, len(columns)), make([]any, len(columns))
		for i := range values {
			dest[i] = &values[i]
		}
		if err := rows.Scan(dest...); err != nil {
			t.Fatal(err)
		}
		lines = append(lines, fmt.Sprint(values...))
	}
	if err := rows.Err(); err != nil {
		t.Fatal(err)
	}
	return lines
}

// catalogue describes every table of a database, in words that do not depend on
// how it came to be: by schema.sql, or by migrations that altered it.
func catalogue(t testing.TB, url string) (lines []string) {
	t.Helper()
	db := raw(t, url)
	if strings.HasPrefix(url, "sqlite:") {
		return sqliteCatalogue(t, db)
	}
	for _, q := range []string{
		`SELECT 'column', table_name, column_name, data_type, is_nullable, COALESCE(column_default, '') FROM information_schema.columns WHERE table_schema = 'public' AND table_name NOT LIKE 'goose%'`,
		`SELECT 'constraint', conrelid::regclass::text, conname, pg_get_constraintdef(oid) FROM pg_constraint WHERE connamespace = 'public'::regnamespace AND conrelid::regclass::text NOT LIKE 'goose%'`,
		`SELECT 'index', indexdef FROM pg_indexes WHERE schemaname = 'public' AND tablename NOT LIKE 'goose%'`,
	} {
		lines = append(lines, texts(t, db, q)...)
	}
	slices.Sort(lines)
	return lines
}

var (
	comment    = regexp.MustCompile(`--[^\n]*`)
	whitespace = regexp.MustCompile(`\s+`)
	check      = regexp.MustCompile(`CHECK \((?:[^()]|\((?:[^()]|\([^()]*\))*\))*\)`)
	partial    = regexp.MustCompile(`(?i)\) (WHERE .*)$`)
)

func sqliteCatalogue(t testing.TB, db *sql.DB) (lines []string) {
	t.Helper()
	for _, table := range texts(t, db, `SELECT name FROM sqlite_schema WHERE type = 'table' AND name NOT LIKE 'sqlite_%' AND name NOT LIKE 'goose%'`) {
		add := func(what string, rows []string) {
			for _, row := range rows {
				lines = append(lines, strings.TrimSpace(table+" "+what+" "+row))
			}
		}
		add("column", texts(t, db, `SELECT name, type, "notnull", COALESCE(dflt_value, ''), pk FROM pragma_table_info($1)`, table))
		add("reference", texts(t, db, `SELECT "from", "table", "to", on_update, on_delete FROM pragma_foreign_key_list($1)`, table))
		text := strings.Join(texts(t, db, `SELECT sql FROM sqlite_schema WHERE type = 'table' AND name = $1`, table), "")
		add("check", check.FindAllString(whitespace.ReplaceAllString(comment.ReplaceAllString(text, " "), " "), -1))
		for _, index := range texts(t, db, `SELECT name FROM pragma_index_list($1)`, table) {
			name := index
			if strings.HasPrefix(index, "sqlite_autoindex_") {
				name = "auto" // their numbers follow the order of the constraints
			}
			about := fmt.Sprint(texts(t, db, `SELECT "unique", origin, partial FROM pragma_index_list($1) WHERE name = $2`, table, index),
				texts(t, db, `SELECT COALESCE(name, ''), "desc", coll FROM pragma_index_xinfo($1) WHERE key = 1 ORDER BY seqno`, index))
			text := strings.Join(texts(t, db, `SELECT COALESCE(sql, '') FROM sqlite_schema WHERE type = 'index' AND name = $1`, index), "")
			add("index "+name, []string{about + strings.Join(partial.FindStringSubmatch(whitespace.ReplaceAllString(text, " ")), " ")})
		}
	}
	slices.Sort(lines)
	return lines
}

func TestMigrationsReplayToTheSchema(t *testing.T) {
	for name, url := range nothing {
		t.Run(name, func(t *testing.T) {
			migrated := url(t)
			open(t, migrated, sqlstore.Options{})
			written := url(t)
			execute(t, raw(t, written), devicecloud.Schema)
			want := catalogue(t, written)
			if len(want) < 100 {
				t.Fatalf("the catalogue has %d lines", len(want))
			}
			equal(t, "catalogue", catalogue(t, migrated), want)
		})
	}
}

func TestMigrationStatus(t *testing.T) {
	eachEngine(t, func(t *testing.T, s *store) {
		list, err := s.MigrationStatus(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		files, err := os.ReadDir("migrations")
		if err != nil {
			t.Fatal(err)
		}
		if len(list) != len(files) {
			t.Fatalf("%d migrations, %d files", len(list), len(files))
		}
		for i, m := range list {
			equal(t, "name", m.Name, files[i].Name())
			if age := time.Since(m.AppliedAt); age < -time.Minute || age > time.Hour {
				t.Errorf("%s was applied %v ago", m.Name, age)
			}
		}
		t.Run("a second Migrate does nothing", func(t *testing.T) {
			if err := s.Migrate(t.Context()); err != nil {
				t.Error(err)
			}
		})
	})
}

// nothing are the engines with databases on which no migration has run.
var nothing = map[string]func(t testing.TB) string{
	"sqlite":   func(t testing.TB) string { return "sqlite:" + filepath.Join(t.TempDir(), "devicecloud.db") },
	"postgres": func(t testing.TB) string { return postgres.Empty(t) },
}

func TestASchemaThatIsNotOurs(t *testing.T) {
	for name, url := range nothing {
		t.Run(name, func(t *testing.T) {
			t.Run("is refused when it is behind and must not be migrated", func(t *testing.T) {
				url := url(t)
				_, err := sqlstore.Open(t.Context(), url, sqlstore.Options{NoMigrate: true})
				if err == nil || !strings.Contains(err.Error(), "devicecloud migrate up") {
					t.Errorf("%v", err)
				}
				equal(t, "tables", len(catalogue(t, url)), 0)
			})
			t.Run("is refused when it is newer", func(t *testing.T) {
				url := url(t)
				open(t, url, sqlstore.Options{})
				execute(t, raw(t, url), `INSERT INTO goose_db_version (version_id, is_applied) VALUES (29990101000000, TRUE)`)
				for _, noMigrate := range []bool{false, true} {
					_, err := sqlstore.Open(t.Context(), url, sqlstore.Options{NoMigrate: noMigrate})
					if err == nil || !strings.Contains(err.Error(), "newer than this program") {
						t.Errorf("%v", err)
					}
				}
			})
			t.Run("may have columns that this program does not know", func(t *testing.T) {
				s := open(t, url(t), sqlstore.Options{})
				db := raw(t, s.url)
				for _, table := range []string{"devices", "device_presence", "device_credentials", "device_connections", "device_events", "device_audit", "users", "orders"} {
					execute(t, db, `ALTER TABLE `+table+` ADD COLUMN of_the_future INTEGER DEFAULT 1`)
				}
				no := s.enrol(1)
				epoch := s.connect(no, 101, t0)
				s.connect(no, 102, t0)
				s.user("u1", "a@example.com")
				s.own(no, "u1", registry.RoleOwner)
				s.commit(&registry.Batch{States: []*registry.StateWrite{{DeviceNo: no, Epoch: epoch + 1, At: t0, State: full(), Firmware: true}}})
				equal(t, "state", s.device(1).State, stored(full()))
				equal(t, "history", len(s.connections(no)), 1)
				s.read(func(ctx context.Context, tx account.Tx) error {
					list, total, err := tx.Devices(ctx, registry.DeviceFilter{})
					equal(t, "devices", []int{len(list), total}, []int{1, 1})
					return err
				})
			})
		})
	}
}

func TestBackup(t *testing.T) {
	s := open(t, nothing["sqlite"](t), sqlstore.Options{})
	no := s.enrol(1)
	file := filepath.Join(t.TempDir(), "backup.db")
	t.Run("is a database that opens with everything in it", func(t *testing.T) {
		if err := s.Backup(t.Context(), file); err != nil {
			t.Fatal(err)
		}
		s.enrol(2)
		copied := open(t, "sqlite:"+file, sqlstore.Options{NoMigrate: true})
		equal(t, "device", copied.device(1).No, no)
		copied.read(func(ctx context.Context, tx account.Tx) error {
			total, _, err := tx.CountDevices(ctx)
			equal(t, "devices", total, 1)
			return err
		})
	})
	t.Run("is readable by its owner alone", func(t *testing.T) {
		info, err := os.Stat(file)
		if err != nil {
			t.Fatal(err)
		}
		equal(t, "mode", info.Mode().Perm(), 0o600)
	})
	t.Run("does not overwrite", func(t *testing.T) {
		before, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		if err := s.Backup(t.Context(), file); err == nil {
			t.Error("a file was overwritten")
		}
		after, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		equal(t, "same bytes", string(after) == string(before), true)
	})
	t.Run("of PostgreSQL is another program's work", func(t *testing.T) {
		s := open(t, nothing["postgres"](t), sqlstore.Options{})
		if err := s.Backup(t.Context(), file); err == nil || !strings.Contains(err.Error(), "pg_dump") {
			t.Errorf("%v", err)
		}
	})
}
