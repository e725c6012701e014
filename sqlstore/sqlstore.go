// Package sqlstore keeps the truth of every domain in SQLite or PostgreSQL: one
// implementation over database/sql of registry.Store, account.Store and dataplan.Store, one SQL
// implementation over database/sql of registry.Store, account.Store and media.Store, one SQL
// text for both engines, and the migrations that build schema.sql.
//
// A noun has the same file here as in the domain. The rest is machinery:
// sqlstore.go opens a database and runs transactions, engine.go is what the two
// engines do differently, sqlite.go and postgres.go are the drivers, columns.go
// turns values into columns and back, batch*.go is the group commit, which is the
// one hot path and the only place with a second form of a statement.
//
// Rules that hold everywhere: times are microseconds UTC and passed in, a zero
// time and an empty optional text are NULL; invariants are UNIQUE, CHECK, foreign
// keys and guarded UPDATEs; a statement that a caller may survive never fails on
// a constraint (ON CONFLICT DO NOTHING, then look), because PostgreSQL aborts a
// transaction at its first failing statement and SQLite does not.
package sqlstore

import (
	"context"
	"database/sql"
	"database/sql/driver"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"time"

	"github.com/opticworks/devicecloud/account"
	"github.com/opticworks/devicecloud/dataplan"
	"github.com/opticworks/devicecloud/media"
	"github.com/opticworks/devicecloud/registry"
)

// Options configures [Open]; its zero value is usable.
type Options struct {
	// Logger gets migrations and retries; nil discards.
	Logger *slog.Logger
	// NoMigrate refuses a database whose schema is behind, instead of migrating it.
	NoMigrate bool
	// LockWait is how long a write waits for a SQLite database that another process
	// has locked, before it fails with registry.ErrUnavailable; the context may end
	// the wait earlier. Default 5 s.
	LockWait time.Duration
	// MaxConns is the number of connections to PostgreSQL, or of concurrent readers
	// of SQLite. Default 16, and 4.
	MaxConns int
}

// DB is an open database. It is safe for concurrent use.
type DB struct {
	engine engine
	write  *sql.DB // SQLite: exactly one connection
	read   *sql.DB // PostgreSQL: the same pool as write
	opts   Options
	log    *slog.Logger
}

// Open opens "sqlite:PATH" or "postgres://...", and brings its schema up to date
// unless Options.NoMigrate is set. A schema that is newer than this program is
// refused in any case. A SQLite file that does not exist is created, readable by
// this user alone.
func Open(ctx context.Context, url string, opts Options) (*DB, error) {
	if opts.LockWait <= 0 {
		opts.LockWait = 5 * time.Second
	}
	log := opts.Logger
	if log == nil {
		log = slog.New(slog.DiscardHandler)
	}
	var db *DB
	var err error
	switch scheme, rest, _ := strings.Cut(url, ":"); scheme {
	case "sqlite":
		db, err = openSQLite(rest, opts)
	case "postgres", "postgresql":
		db, err = openPostgres(url, opts)
	default:
		// The URL may hold a password, so that only its scheme is repeated.
		return nil, fmt.Errorf("database URL: scheme %q is neither sqlite nor postgres", scheme)
	}
	if err != nil {
		return nil, fmt.Errorf("open database: %w", err)
	}
	db.opts, db.log = opts, log
	if err := db.start(ctx); err != nil {
		return nil, errors.Join(err, db.Close())
	}
	return db, nil
}

// start checks what a database must guarantee before it is used.
func (db *DB) start(ctx context.Context) error {
	if err := db.engine.check(ctx, db.write); err != nil {
		return fmt.Errorf("open database: %w", db.engine.wrap(err))
	}
	if db.opts.NoMigrate {
		return db.requireCurrent(ctx)
	}
	return db.Migrate(ctx)
}

// Ping checks that the database answers reads.
func (db *DB) Ping(ctx context.Context) error {
	return db.view(ctx, func(t *tx) error {
		var one int
		return t.row(ctx, `SELECT 1`, nil, &one)
	})
}

// Close closes every connection. On SQLite it also empties the write-ahead log
// into the database file.
func (db *DB) Close() error {
	if db.read == db.write {
		return db.write.Close()
	}
	return errors.Join(db.read.Close(), db.write.Close())
}

// Registry is the database as the domain of devices sees it.
func (db *DB) Registry() registry.Store { return registryStore{db} }

// Accounts is the database as the domain of people sees it.
func (db *DB) Accounts() account.Store { return accountStore{db} }

// DataPlans is the database as the domain of data plans sees it.
func (db *DB) DataPlans() dataplan.Store { return dataplanStore{db} }

// Media is the database as the domain of video sees it.
func (db *DB) Media() media.Store { return mediaStore{db} }

type registryStore struct{ db *DB }

func (s registryStore) View(ctx context.Context, f func(registry.Tx) error) error {
	return s.db.view(ctx, func(t *tx) error { return f(t) })
}

func (s registryStore) InTx(ctx context.Context, f func(registry.Tx) error) error {
	return s.db.inTx(ctx, func(t *tx) error { return f(t) })
}

func (s registryStore) Commit(ctx context.Context, b *registry.Batch) error {
	return s.db.commit(ctx, b)
}

type accountStore struct{ db *DB }

func (s accountStore) View(ctx context.Context, f func(account.Tx) error) error {
	return s.db.view(ctx, func(t *tx) error { return f(t) })
}

func (s accountStore) InTx(ctx context.Context, f func(account.Tx) error) error {
	return s.db.inTx(ctx, func(t *tx) error { return f(t) })
}

type dataplanStore struct{ db *DB }

func (s dataplanStore) View(ctx context.Context, f func(dataplan.Tx) error) error {
	return s.db.view(ctx, func(t *tx) error { return f(t) })
}

func (s dataplanStore) InTx(ctx context.Context, f func(dataplan.Tx) error) error {
	return s.db.inTx(ctx, func(t *tx) error { return f(t) })
}

type mediaStore struct{ db *DB }

func (s mediaStore) View(ctx context.Context, f func(media.Tx) error) error {
	return s.db.view(ctx, func(t *tx) error { return f(t) })
}

func (s mediaStore) InTx(ctx context.Context, f func(media.Tx) error) error {
	return s.db.inTx(ctx, func(t *tx) error { return f(t) })
}

// view runs f on one read-only snapshot.
func (db *DB) view(ctx context.Context, f func(*tx) error) (err error) {
	conn, err := db.read.Conn(ctx)
	if err != nil {
		return db.engine.wrap(err)
	}
	defer func() {
		if cerr := conn.Close(); cerr != nil && !errors.Is(cerr, sql.ErrConnDone) {
			err = join(err, db.engine.wrap(cerr))
		}
	}()
	// Of a quick context: the statements have their own, and database/sql would start
	// a goroutine to watch one that can end.
	sqlTx, err := conn.BeginTx(db.engine.quick(ctx), db.engine.readOptions())
	if err != nil {
		return db.engine.wrap(err)
	}
	t := &tx{querier: sqlTx, engine: db.engine}
	defer func() { err = join(err, db.rollback(sqlTx, t.broken)) }()
	return f(t)
}

// maxRetries bounds how often a transaction runs again after PostgreSQL could not
// serialise it. Each attempt lets at least one other transaction through, so that
// it is a bound on bad luck, not on work.
const maxRetries = 20

// inTx runs f in one write transaction, and again when it lost against another.
func (db *DB) inTx(ctx context.Context, f func(*tx) error) error {
	return db.retry(ctx, func() error {
		return db.transaction(ctx, true, func(_ *sql.Conn, t *tx) error { return f(t) })
	})
}

// retry runs a transaction again as long as it fails only because of another.
func (db *DB) retry(ctx context.Context, run func() error) error {
	for attempt := 1; ; attempt++ {
		err := run()
		if err == nil || !db.engine.retryable(err) || attempt == maxRetries {
			return err
		}
		db.log.DebugContext(ctx, "transaction runs again", "attempt", attempt, "cause", err)
		if werr := sleep(ctx, time.Duration(attempt)*time.Millisecond); werr != nil {
			return registry.ErrUnavailable.With(errors.Join(werr, err))
		}
	}
}

// transaction runs f in one durable write transaction on a connection of its own.
// An error of f rolls back and is returned as it is.
func (db *DB) transaction(ctx context.Context, serializable bool, f func(*sql.Conn, *tx) error) (err error) {
	conn, err := db.write.Conn(ctx)
	if err != nil {
		return db.engine.wrap(err)
	}
	defer func() {
		if cerr := conn.Close(); cerr != nil && !errors.Is(cerr, sql.ErrConnDone) {
			err = join(err, db.engine.wrap(cerr))
		}
	}()
	sqlTx, err := db.engine.begin(ctx, conn, serializable)
	if err != nil {
		return db.engine.wrap(err)
	}
	t := &tx{querier: sqlTx, engine: db.engine}
	committed := false
	defer func() {
		if committed {
			return
		}
		err = join(err, db.rollback(sqlTx, t.broken))
		if t.broken != nil {
			discard(conn)
		}
	}()
	if err := f(conn, t); err != nil {
		return err
	}
	if t.broken != nil {
		return t.broken
	}
	if err := ctx.Err(); err != nil {
		return db.engine.wrap(err)
	}
	if err := sqlTx.Commit(); err != nil {
		return t.failed(err)
	}
	committed = true
	return nil
}

// discard keeps a connection in doubt from being used again.
func discard(conn *sql.Conn) {
	// Raw gives the error back, which is how the pool is told.
	_ = conn.Raw(func(any) error { return driver.ErrBadConn })
}

// rollback ends a transaction that was not committed. One that is broken may have
// ended already, and its error is the one that the caller has.
func (db *DB) rollback(sqlTx *sql.Tx, broken error) error {
	err := sqlTx.Rollback()
	if err == nil || broken != nil || errors.Is(err, sql.ErrTxDone) || db.engine.transient(err) {
		return nil
	}
	return fmt.Errorf("roll back: %w", err)
}

// join is errors.Join that returns a lone error as it is.
func join(err, more error) error {
	if more == nil {
		return err
	}
	return errors.Join(err, more)
}

// sleep waits, or returns the context's error.
func sleep(ctx context.Context, d time.Duration) error {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-timer.C:
		return nil
	}
}
