package sqlstore

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/stdlib"
	"github.com/pressly/goose/v3"
	"github.com/pressly/goose/v3/lock"
)

// postgresEngine is PostgreSQL through pgx.
type postgresEngine struct{}

func openPostgres(url string, opts Options) (*DB, error) {
	cfg, err := pgx.ParseConfig(url)
	if err != nil {
		return nil, errors.New("the PostgreSQL URL is not valid") // pgx's error repeats parts of it
	}
	if cfg.RuntimeParams["application_name"] == "" {
		cfg.RuntimeParams["application_name"] = "devicecloud"
	}
	if cfg.ConnectTimeout == 0 {
		cfg.ConnectTimeout = 5 * time.Second
	}
	db := stdlib.OpenDB(*cfg)
	conns := opts.MaxConns
	if conns <= 0 {
		conns = 16
	}
	db.SetMaxOpenConns(conns)
	db.SetMaxIdleConns(conns)
	db.SetConnMaxIdleTime(5 * time.Minute)
	return &DB{engine: postgresEngine{}, write: db, read: db}, nil
}

func (postgresEngine) check(ctx context.Context, db *sql.DB) error {
	var mode string
	if err := db.QueryRowContext(ctx, `SHOW synchronous_commit`).Scan(&mode); err != nil {
		return err
	}
	if mode == "off" {
		return errors.New("PostgreSQL runs with synchronous_commit = off: what was acknowledged could be lost")
	}
	return nil
}

func (postgresEngine) begin(ctx context.Context, conn *sql.Conn, serializable bool) (*sql.Tx, error) {
	level := sql.LevelReadCommitted
	if serializable {
		level = sql.LevelSerializable
	}
	return conn.BeginTx(ctx, &sql.TxOptions{Isolation: level})
}

// quick is the caller's context: the database is a network away.
func (postgresEngine) quick(ctx context.Context) context.Context { return ctx }

func (postgresEngine) readOptions() *sql.TxOptions {
	return &sql.TxOptions{Isolation: sql.LevelRepeatableRead, ReadOnly: true}
}

// sqlState is the SQLSTATE of an error; "" when it is not the server's.
func sqlState(err error) string {
	if e := (*pgconn.PgError)(nil); errors.As(err, &e) {
		return e.Code
	}
	return ""
}

func (e postgresEngine) transient(err error) bool {
	if code := sqlState(err); len(code) == 5 {
		switch code[:2] {
		case "08", "40", "53", "57", "58": // connection, rollback, resources, operator, system
			return true
		}
		return code == "55P03" // lock not available
	}
	var netErr net.Error
	var connectErr *pgconn.ConnectError
	return errors.As(err, &netErr) || errors.As(err, &connectErr) || errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) ||
		errors.Is(err, net.ErrClosed) || pgconn.SafeToRetry(err) || pgconn.Timeout(err)
}

func (postgresEngine) retryable(err error) bool {
	code := sqlState(err)
	return code == "40001" || code == "40P01" || errors.Is(err, errLostRace) // serialisation failure, deadlock
}

func (postgresEngine) violation(err error) violation {
	switch code := sqlState(err); code {
	case "23505":
		return uniqueViolation
	case "23503":
		return foreignKeyViolation
	default:
		if len(code) == 5 && code[:2] == "23" {
			return otherViolation
		}
		return noViolation
	}
}

func (e postgresEngine) wrap(err error) error { return wrapError(err, e.transient) }

// migrations holds an advisory lock, so that of several nodes that start at once
// one migrates.
func (postgresEngine) migrations(_ context.Context, db *sql.DB, files fs.FS, opts ...goose.ProviderOption) (*goose.Provider, func() error, error) {
	locker, err := lock.NewPostgresSessionLocker(lock.WithLockTimeout(1, 120))
	if err != nil {
		return nil, nil, err
	}
	p, err := goose.NewProvider(goose.DialectPostgres, db, files, append(opts, goose.WithSessionLocker(locker))...)
	return p, func() error { return nil }, err
}

func (postgresEngine) backup(context.Context, string) error {
	return fmt.Errorf("a PostgreSQL database is backed up with pg_dump, for example: pg_dump --format=custom --file=FILE \"$DATABASE_URL\"")
}
