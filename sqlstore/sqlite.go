package sqlstore

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"io/fs"
	"net/url"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"github.com/pressly/goose/v3"
	"modernc.org/sqlite"
	sqlite3 "modernc.org/sqlite/lib"
)

// sqliteEngine is SQLite in WAL mode: one writer, which never waits for readers.
type sqliteEngine struct {
	path     string
	lockWait time.Duration
}

// lockPoll is how long SQLite itself waits for a lock, in milliseconds: it does
// not look at a context while it waits, so that it waits in short pieces.
const lockPoll = 50

// openSQLite opens the two pools of a file: one writing connection, and readers.
func openSQLite(path string, opts Options) (*DB, error) {
	if path == "" || strings.HasPrefix(path, ":memory:") {
		return nil, errors.New("sqlite needs a file: sqlite:PATH")
	}
	path = filepath.Clean(path)
	// The file holds what is worth a password; SQLite gives its companions (-wal,
	// -shm) the same mode.
	f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return nil, err
	}
	if err := f.Close(); err != nil {
		return nil, err
	}
	e := &sqliteEngine{path: path, lockWait: opts.LockWait}
	write, err := newSQLiteConnector(e.dsn(writerParameters()), false)
	if err != nil {
		return nil, err
	}
	read, err := newSQLiteConnector(e.dsn(readerParameters()), true)
	if err != nil {
		return nil, err
	}
	db := &DB{engine: e, write: sql.OpenDB(write), read: sql.OpenDB(read)}
	db.write.SetMaxOpenConns(1)
	readers := opts.MaxConns
	if readers <= 0 {
		readers = 4
	}
	db.read.SetMaxOpenConns(readers)
	db.read.SetMaxIdleConns(readers)
	return db, nil
}

// writerParameters configure the writing connection. The log is copied into the
// database by the commit that makes it longer than 32 MiB, which takes some 30 ms:
// the longer the log, the more often a hot page is in it, and is copied only once.
// It is cut back to 64 MiB after a long reader has let it grow.
func writerParameters() url.Values {
	return url.Values{
		"_busy_timeout": {strconv.Itoa(lockPoll)},
		"_journal_mode": {"WAL"},
		"_synchronous":  {"FULL"}, // a commit is on disk when it returns
		"_foreign_keys": {"ON"},
		"_txlock":       {"immediate"},
		"_pragma": {
			"cache_size(-65536)",       // KiB: the hot table of some 500,000 devices
			"wal_autocheckpoint(8000)", // pages of 4 KiB
			"journal_size_limit(67108864)",
			"secure_delete(1)", // what is deleted is overwritten: a person who is erased is not left in free pages
		},
	}
}

func readerParameters() url.Values {
	return url.Values{
		"_busy_timeout": {"1000"}, // only recovery after a crash ever locks readers out
		"_pragma":       {"cache_size(-16384)", "temp_store(MEMORY)"},
		"_query_only":   {"1"},
	}
}

func (e *sqliteEngine) dsn(parameters url.Values) string {
	return "file:" + strings.NewReplacer("%", "%25", "?", "%3f", "#", "%23").Replace(e.path) + "?" + parameters.Encode()
}

func (e *sqliteEngine) check(ctx context.Context, db *sql.DB) error {
	var mode string
	if err := db.QueryRowContext(ctx, `PRAGMA journal_mode`).Scan(&mode); err != nil {
		return err
	}
	if mode != "wal" {
		return fmt.Errorf("%s: journal mode is %s, not wal: the file system cannot share memory", e.path, mode)
	}
	return nil
}

// begin takes the write lock. Another process may hold it: SQLite waits in short
// pieces, and between them the context is asked.
func (e *sqliteEngine) begin(ctx context.Context, conn *sql.Conn, _ bool) (*sql.Tx, error) {
	deadline := time.Now().Add(e.lockWait)
	for {
		if err := ctx.Err(); err != nil {
			return nil, err
		}
		// Detached from the context: database/sql would otherwise roll back by itself
		// when it ends, between two statements of a batch.
		tx, err := conn.BeginTx(context.WithoutCancel(ctx), nil)
		if err == nil || sqliteCode(err)&0xff != sqlite3.SQLITE_BUSY || time.Now().After(deadline) {
			return tx, err
		}
	}
}

// quick is a context that never ends: a read by key takes microseconds, and the
// driver starts a goroutine for each statement whose context can end.
func (e *sqliteEngine) quick(ctx context.Context) context.Context { return context.WithoutCancel(ctx) }

func (e *sqliteEngine) readOptions() *sql.TxOptions { return &sql.TxOptions{ReadOnly: true} }

// sqliteCode is the extended result code of an error; 0 when it is not SQLite's.
func sqliteCode(err error) int {
	if e := (*sqlite.Error)(nil); errors.As(err, &e) {
		return e.Code()
	}
	return 0
}

func (e *sqliteEngine) transient(err error) bool {
	switch sqliteCode(err) & 0xff {
	case sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED, sqlite3.SQLITE_NOMEM, sqlite3.SQLITE_INTERRUPT, sqlite3.SQLITE_IOERR,
		sqlite3.SQLITE_FULL, sqlite3.SQLITE_CANTOPEN, sqlite3.SQLITE_PROTOCOL:
		return true
	}
	return false
}

// retryable is never: there is one writer, and waiting for the lock is begin's.
func (e *sqliteEngine) retryable(error) bool { return false }

func (e *sqliteEngine) violation(err error) violation {
	switch code := sqliteCode(err); {
	case code&0xff != sqlite3.SQLITE_CONSTRAINT:
		return noViolation
	case code == sqlite3.SQLITE_CONSTRAINT_UNIQUE, code == sqlite3.SQLITE_CONSTRAINT_PRIMARYKEY, code == sqlite3.SQLITE_CONSTRAINT_ROWID:
		return uniqueViolation
	case code == sqlite3.SQLITE_CONSTRAINT_FOREIGNKEY:
		return foreignKeyViolation
	}
	return otherViolation
}

func (e *sqliteEngine) wrap(err error) error { return wrapError(err, e.transient) }

// migrations runs on a connection of its own, without cached statements.
func (e *sqliteEngine) migrations(_ context.Context, _ *sql.DB, files fs.FS, opts ...goose.ProviderOption) (*goose.Provider, func() error, error) {
	parameters := writerParameters()
	parameters.Set("_busy_timeout", strconv.FormatInt(e.lockWait.Milliseconds(), 10))
	db, err := sql.Open("sqlite", e.dsn(parameters))
	if err != nil {
		return nil, nil, err
	}
	db.SetMaxOpenConns(1)
	p, err := goose.NewProvider(goose.DialectSQLite3, db, files, opts...)
	if err != nil {
		return nil, nil, errors.Join(err, db.Close())
	}
	return p, db.Close, nil
}

// backup copies the database with VACUUM INTO, which reads one snapshot and does
// not hold up the writer.
func (e *sqliteEngine) backup(ctx context.Context, file string) (err error) {
	// O_EXCL refuses to overwrite and fixes the mode; VACUUM INTO accepts an empty file.
	out, err := os.OpenFile(file, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return err
	}
	defer func() {
		err = errors.Join(err, out.Close())
		if err != nil {
			err = errors.Join(err, os.Remove(file))
		}
	}()
	db, err := sql.Open("sqlite", e.dsn(url.Values{"_busy_timeout": {"1000"}}))
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, db.Close()) }()
	if _, err := db.ExecContext(ctx, `VACUUM INTO $1`, file); err != nil {
		return e.wrap(err)
	}
	return out.Sync() // VACUUM INTO does not
}
