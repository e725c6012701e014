package sqlstore

import (
	"context"
	"database/sql"
	"database/sql/driver"
	"errors"
	"io/fs"

	"github.com/opticworks/devicecloud/registry"
	"github.com/pressly/goose/v3"
)

// violation is which constraint a statement broke.
type violation int

const (
	noViolation violation = iota
	uniqueViolation
	foreignKeyViolation
	otherViolation
)

// engine is what SQLite and PostgreSQL do differently. Everything else is one text.
type engine interface {
	// check fails when the database does not guarantee what an acknowledgement
	// promises.
	check(ctx context.Context, db *sql.DB) error
	// begin opens a write transaction; serializable makes it behave as if it ran
	// alone, otherwise only its guarded UPDATEs do.
	begin(ctx context.Context, conn *sql.Conn, serializable bool) (*sql.Tx, error)
	// readOptions opens a read-only snapshot.
	readOptions() *sql.TxOptions
	// quick is the context for a statement that reads a few rows by their key, where
	// watching the caller's would cost more than it saves.
	quick(ctx context.Context) context.Context
	// batch writes the parts of a batch in the transaction t, which runs on conn.
	batch(conn *sql.Conn, t *tx) batchWriter
	// insertDeliveries writes what was made of events, for each endpoint that wants it.
	insertDeliveries(ctx context.Context, t *tx, list []delivery) error
	// transient says that the same statement may succeed later.
	transient(err error) bool
	// retryable says that the transaction lost against another and should run again.
	retryable(err error) bool
	// violation says which constraint a statement broke, by the driver's code.
	violation(err error) violation
	// wrap turns a transient failure into registry.ErrUnavailable, and leaves the
	// domain's own errors alone.
	wrap(err error) error
	// migrations opens what migrates the schema.
	migrations(ctx context.Context, db *sql.DB, files fs.FS, opts ...goose.ProviderOption) (*goose.Provider, func() error, error)
	// backup writes a consistent copy of the database.
	backup(ctx context.Context, file string) error
}

// wrapError is the part of wrap that does not depend on the engine.
func wrapError(err error, transient func(error) bool) error {
	if err == nil {
		return nil
	}
	if e := (*registry.Error)(nil); errors.As(err, &e) {
		return err
	}
	if e := (*databaseError)(nil); errors.As(err, &e) {
		return err
	}
	if errors.Is(err, context.Canceled) || errors.Is(err, context.DeadlineExceeded) || connectionGone(err) || transient(err) {
		return registry.ErrUnavailable.With(err)
	}
	return &databaseError{err}
}

// databaseError is a failure that a retry does not heal: a defect, or a broken
// database.
type databaseError struct{ cause error }

func (e *databaseError) Error() string { return "database: " + e.cause.Error() }

func (e *databaseError) Unwrap() error { return e.cause }

// connectionGone says that database/sql knows the connection or the transaction
// to be over.
func connectionGone(err error) bool {
	return errors.Is(err, driver.ErrBadConn) || errors.Is(err, sql.ErrConnDone) || errors.Is(err, sql.ErrTxDone)
}
