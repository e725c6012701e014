package sqlstore

import (
	"context"
	"database/sql/driver"
	"errors"
	"io"

	"modernc.org/sqlite"
)

// sqliteConnector opens connections that keep their prepared statements: SQLite
// compiles a statement in 10 to 40 microseconds and runs it in 3.
type sqliteConnector struct {
	driver.Connector
	interruptible bool
}

func newSQLiteConnector(dsn string, interruptible bool) (driver.Connector, error) {
	c, err := sqlite.NewConnector(dsn)
	if err != nil {
		return nil, err
	}
	return sqliteConnector{c, interruptible}, nil
}

// Connect implements driver.Connector.
func (c sqliteConnector) Connect(ctx context.Context) (driver.Conn, error) {
	conn, err := c.Connector.Connect(ctx)
	if err != nil {
		return nil, err
	}
	raw, ok := conn.(rawConn)
	if !ok {
		return nil, errors.Join(errors.New("sqlite driver: an expected method is missing"), conn.Close())
	}
	return &sqliteConn{rawConn: raw, interruptible: c.interruptible, cache: make(map[string]rawStmt)}, nil
}

// rawConn is what the SQLite driver's connection can do.
type rawConn interface {
	driver.Conn
	driver.ConnBeginTx
	driver.ConnPrepareContext
	driver.SessionResetter
	driver.Validator
}

// rawStmt is what the SQLite driver's statement can do.
type rawStmt interface {
	driver.Stmt
	driver.StmtExecContext
	driver.StmtQueryContext
}

// sqliteConn is a connection with its prepared statements. database/sql hands it
// to one goroutine at a time.
type sqliteConn struct {
	rawConn
	// interruptible says that a context may end a statement in its middle. Where
	// statements write it may not: SQLite would roll back the whole transaction, and
	// what follows would be written outside of any.
	interruptible bool
	// cache holds the idle statements by text; one that is in use is not in it, so
	// that a query within the rows of the same query gets a statement of its own.
	cache map[string]rawStmt
}

// maxStatements bounds the cache. The program has some hundred texts.
const maxStatements = 256

// take takes a prepared statement out of the cache, or prepares one.
func (c *sqliteConn) take(ctx context.Context, query string) (rawStmt, error) {
	if s, ok := c.cache[query]; ok {
		delete(c.cache, query)
		return s, nil
	}
	s, err := c.PrepareContext(ctx, query)
	if err != nil {
		return nil, err
	}
	raw, ok := s.(rawStmt)
	if !ok {
		return nil, errors.Join(errors.New("sqlite driver: an expected method is missing"), s.Close())
	}
	return raw, nil
}

// give puts a statement back.
func (c *sqliteConn) give(query string, s rawStmt) error {
	if _, ok := c.cache[query]; ok || len(c.cache) >= maxStatements {
		return s.Close()
	}
	c.cache[query] = s
	return nil
}

// prepared is a statement in use with its arguments, for many rows.
type prepared struct {
	stmt rawStmt
	args []driver.NamedValue
}

// prepared takes statements out of the cache for as long as f runs.
func (c *sqliteConn) prepared(ctx context.Context, f func([]*prepared) error, queries ...string) (err error) {
	all := make([]*prepared, 0, len(queries))
	defer func() {
		for i, p := range all {
			err = errors.Join(err, c.give(queries[i], p.stmt))
		}
	}()
	for _, query := range queries {
		s, err := c.take(ctx, query)
		if err != nil {
			return err
		}
		all = append(all, &prepared{stmt: s})
	}
	return f(all)
}

// bind sets the arguments.
func (p *prepared) bind(values []any) []driver.NamedValue {
	for len(p.args) < len(values) {
		p.args = append(p.args, driver.NamedValue{Ordinal: len(p.args) + 1})
	}
	for i, v := range values {
		p.args[i].Value = v
	}
	return p.args[:len(values)]
}

// exec runs the statement and returns how many rows it changed. It takes no context:
// watching one costs more than a statement that changes a row by its key.
func (p *prepared) exec(values ...any) (int64, error) {
	res, err := p.stmt.ExecContext(context.Background(), p.bind(values))
	if err != nil {
		return 0, err
	}
	return res.RowsAffected()
}

// row runs the statement and reads its first row, if there is one; dest has the
// length of a row. As for exec, without a context.
func (p *prepared) row(dest []driver.Value, values ...any) (found bool, err error) {
	rows, err := p.stmt.QueryContext(context.Background(), p.bind(values))
	if err != nil {
		return false, err
	}
	defer func() { err = errors.Join(err, rows.Close()) }()
	if err := rows.Next(dest); err != nil {
		if errors.Is(err, io.EOF) {
			err = nil
		}
		return false, err
	}
	return true, nil
}

// BeginTx implements driver.ConnBeginTx. What begins and ends a transaction is
// prepared like every statement; the driver would compile it each time.
func (c *sqliteConn) BeginTx(ctx context.Context, opts driver.TxOptions) (driver.Tx, error) {
	begin := `BEGIN IMMEDIATE`
	if opts.ReadOnly {
		begin = `BEGIN`
	}
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	if _, err := c.ExecContext(context.WithoutCancel(ctx), begin, nil); err != nil {
		return nil, err
	}
	return sqliteTx{c}, nil
}

// sqliteTx is the transaction of a connection.
type sqliteTx struct{ conn *sqliteConn }

// Commit implements driver.Tx: after it no transaction is open, also when it failed.
func (t sqliteTx) Commit() error {
	_, err := t.conn.ExecContext(context.Background(), `COMMIT`, nil)
	if err != nil {
		_ = t.Rollback() // fails when SQLite has done it already
	}
	return err
}

// Rollback implements driver.Tx.
func (t sqliteTx) Rollback() error {
	_, err := t.conn.ExecContext(context.Background(), `ROLLBACK`, nil)
	return err
}

// begin checks the context of a statement and returns the one to run it with.
func (c *sqliteConn) begin(ctx context.Context) (context.Context, error) {
	if err := ctx.Err(); err != nil || c.interruptible {
		return ctx, err
	}
	return context.WithoutCancel(ctx), nil
}

// ExecContext implements driver.ExecerContext.
func (c *sqliteConn) ExecContext(ctx context.Context, query string, args []driver.NamedValue) (driver.Result, error) {
	ctx, err := c.begin(ctx)
	if err != nil {
		return nil, err
	}
	s, err := c.take(ctx, query)
	if err != nil {
		return nil, err
	}
	res, err := s.ExecContext(ctx, args)
	return res, errors.Join(err, c.give(query, s))
}

// QueryContext implements driver.QueryerContext.
func (c *sqliteConn) QueryContext(ctx context.Context, query string, args []driver.NamedValue) (driver.Rows, error) {
	ctx, err := c.begin(ctx)
	if err != nil {
		return nil, err
	}
	s, err := c.take(ctx, query)
	if err != nil {
		return nil, err
	}
	rows, err := s.QueryContext(ctx, args)
	if err != nil {
		return nil, errors.Join(err, c.give(query, s))
	}
	return &sqliteRows{Rows: rows, conn: c, query: query, stmt: s}, nil
}

// Close implements driver.Conn.
func (c *sqliteConn) Close() error {
	var errs []error
	for _, s := range c.cache {
		errs = append(errs, s.Close())
	}
	clear(c.cache)
	return errors.Join(append(errs, c.rawConn.Close())...)
}

// sqliteRows gives its statement back when it is closed.
type sqliteRows struct {
	driver.Rows
	conn  *sqliteConn
	query string
	stmt  rawStmt
}

// Close implements driver.Rows.
func (r *sqliteRows) Close() error {
	if r.stmt == nil {
		return nil
	}
	s := r.stmt
	r.stmt = nil
	return errors.Join(r.Rows.Close(), r.conn.give(r.query, s))
}
