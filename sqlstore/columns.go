package sqlstore

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"math"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/opticworks/devicecloud/account"
	"github.com/opticworks/devicecloud/media"
)

// querier is what a transaction runs statements on.
type querier interface {
	ExecContext(ctx context.Context, query string, args ...any) (sql.Result, error)
	QueryContext(ctx context.Context, query string, args ...any) (*sql.Rows, error)
}

// tx is one transaction over every table. Its methods are in the file of their noun.
type tx struct {
	querier querier
	engine  engine
	// broken is the failure after which the transaction may be over without anybody
	// having ended it: SQLite rolls back by itself when the disk is full. Nothing
	// more may be run then, or it would be written outside of any transaction.
	broken error
	// host is the context of the batch that the transaction belongs to, nil when it
	// is the caller's own: then a caller's context may keep a statement from
	// beginning, but must not break everybody's connection in the middle of one.
	host context.Context
}

// begin checks that a statement may run and returns the context to run it with.
func (t *tx) begin(ctx context.Context) (context.Context, error) {
	if t.broken != nil {
		return nil, t.broken
	}
	if t.host == nil {
		return ctx, nil
	}
	return t.host, t.engine.wrap(ctx.Err())
}

// failed wraps an error of a statement.
func (t *tx) failed(err error) error {
	if err != nil && t.broken == nil && t.fatal(err) {
		t.broken = t.engine.wrap(err)
	}
	return t.engine.wrap(err)
}

// fatal says that the transaction is over, or must run again as a whole.
func (t *tx) fatal(err error) bool {
	return connectionGone(err) || t.engine.retryable(err) || t.engine.transient(err)
}

var (
	_ account.Tx = (*tx)(nil)
	_ media.Tx   = (*tx)(nil)
)

// exec runs a statement and returns how many rows it changed.
func (t *tx) exec(ctx context.Context, query string, args ...any) (int64, error) {
	ctx, err := t.begin(ctx)
	if err != nil {
		return 0, err
	}
	cleanAll(args)
	res, err := t.querier.ExecContext(ctx, query, args...)
	if err != nil {
		return 0, t.failed(err)
	}
	n, err := res.RowsAffected()
	return n, t.failed(err)
}

// changes runs a statement and reports whether it changed a row.
func (t *tx) changes(ctx context.Context, query string, args ...any) (bool, error) {
	n, err := t.exec(ctx, query, args...)
	return n > 0, err
}

// row reads the first row; [sql.ErrNoRows] when there is none.
func (t *tx) row(ctx context.Context, query string, args []any, dest ...any) error {
	found := false
	err := t.rows(ctx, query, args, func(scan scanFunc) error {
		if found {
			return nil
		}
		found = true
		return scan(dest...)
	})
	if err == nil && !found {
		return sql.ErrNoRows
	}
	return err
}

// found is row for statements that may find nothing.
func (t *tx) found(ctx context.Context, query string, args []any, dest ...any) (bool, error) {
	err := t.row(ctx, query, args, dest...)
	if errors.Is(err, sql.ErrNoRows) {
		return false, nil
	}
	return err == nil, err
}

// scanFunc reads the columns of the current row.
type scanFunc func(dest ...any) error

// rows calls each with every row.
func (t *tx) rows(ctx context.Context, query string, args []any, each func(scan scanFunc) error) (err error) {
	if ctx, err = t.begin(ctx); err != nil {
		return err
	}
	cleanAll(args)
	rows, err := t.querier.QueryContext(ctx, query, args...)
	if err != nil {
		return t.failed(err)
	}
	defer func() { err = join(err, t.failed(rows.Close())) }()
	for rows.Next() {
		if err := each(rows.Scan); err != nil {
			return t.engine.wrap(err)
		}
	}
	return t.failed(rows.Err())
}

// collect reads every row as a T.
func collect[T any](ctx context.Context, t *tx, query string, args []any, read func(scan scanFunc, v *T) error) ([]T, error) {
	var list []T
	err := t.rows(ctx, query, args, func(scan scanFunc) error {
		var v T
		if err := read(scan, &v); err != nil {
			return err
		}
		list = append(list, v)
		return nil
	})
	return list, err
}

// clean makes any bytes a text: PostgreSQL takes neither NUL nor what is not
// UTF-8, and one bad message must not fail the batch it is in.
func clean(s string) string {
	if utf8.ValidString(s) && strings.IndexByte(s, 0) < 0 {
		return s
	}
	return strings.ReplaceAll(strings.ToValidUTF8(s, "\uFFFD"), "\x00", "\uFFFD")
}

// cleanAll cleans a statement's arguments in place.
func cleanAll(args []any) {
	for i, a := range args {
		switch a := a.(type) {
		case string:
			if c := clean(a); c != a {
				args[i] = c
			}
		case []string:
			for i, s := range a {
				a[i] = clean(s)
			}
		case []*string:
			for i, s := range a {
				if s != nil && clean(*s) != *s {
					c := clean(*s)
					a[i] = &c
				}
			}
		}
	}
}

// micros is a time as it is stored: microseconds UTC, NULL for the zero time.
func micros(t time.Time) any {
	if t.IsZero() {
		return nil
	}
	return t.UnixMicro()
}

// timestamp scans a stored time; NULL is the zero time.
type timestamp time.Time

func (t *timestamp) Scan(v any) error {
	switch v := v.(type) {
	case nil:
		*t = timestamp{}
	case int64:
		*t = timestamp(time.UnixMicro(v).UTC())
	default:
		return fmt.Errorf("a time is stored as %T", v)
	}
	return nil
}

// at scans into a time.
func at(t *time.Time) *timestamp { return (*timestamp)(t) }

// text is a string as it is stored: NULL when it is empty.
func text[S ~string](s S) any {
	if s == "" {
		return nil
	}
	return string(s)
}

// positive is a number as it is stored: NULL when it is 0.
func positive(n int) any {
	if n == 0 {
		return nil
	}
	return n
}

// optionalText scans a string; NULL is "".
type optionalText[S ~string] struct{ s *S }

func (o optionalText[S]) Scan(v any) error {
	switch v := v.(type) {
	case nil:
		*o.s = ""
	case string:
		*o.s = S(v)
	default:
		return fmt.Errorf("a text is stored as %T", v)
	}
	return nil
}

// opt scans into a string.
func opt[S ~string](s *S) optionalText[S] { return optionalText[S]{s} }

// optionalInt scans a number; NULL is 0.
type optionalInt[I ~int | ~int64] struct{ n *I }

func (o optionalInt[I]) Scan(v any) error {
	switch v := v.(type) {
	case nil:
		*o.n = 0
	case int64:
		*o.n = I(v)
	default:
		return fmt.Errorf("a number is stored as %T", v)
	}
	return nil
}

// num scans into a number.
func num[I ~int | ~int64](n *I) optionalInt[I] { return optionalInt[I]{n} }

// number is an optional number as it is stored.
func number(n *int64) any {
	if n == nil {
		return nil
	}
	return *n
}

// flag is an optional truth as it is stored.
func flag(b *bool) any {
	if b == nil {
		return nil
	}
	return *b
}

// optional is an optional text as it is stored; unlike [text] it tells "" from
// absent.
func optional(s *string) any {
	if s == nil {
		return nil
	}
	return clean(*s)
}

// below is a cursor of a list that goes down: 0 starts at the top.
func below(before int64) int64 {
	if before <= 0 {
		return math.MaxInt64
	}
	return before
}

// capped is a limit of a list: 0 or less is none. It stands as LIMIT CAST($n AS
// BIGINT): SQLite plans with the value of a bare parameter there, and so plans again
// at each execution, which takes as long as reading the page.
func capped(limit int) int64 {
	if limit <= 0 {
		return math.MaxInt32
	}
	return int64(limit)
}
