package e2e_test

import (
	"context"
	"database/sql"
	"fmt"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// ledger is the database as a connection from outside sees it: what was committed,
// and whether anything was since.
type ledger struct {
	conn    *sql.Conn
	version int64               // PRAGMA data_version of rows: it changes with every commit of another connection
	rows    map[string][]string // table -> its rows as text, sorted
}

// unaudited are tables that the program writes to by itself at any time.
var unaudited = []string{"nodes"}

// unhurried are columns that are written some time after what they tell of: the use of a
// key, the posting of a mail.
var unhurried = []string{"service_credentials.last_used_at", "invitations.mail_at"}

// openLedger looks into the SQLite file of a cloud.
func (c *Cloud) openLedger(t *testing.T) *ledger {
	t.Helper()
	db, err := sql.Open("sqlite", "file:"+filepath.Join(c.DataDir(), "devicecloud.db")+"?_query_only=1&_busy_timeout=5000")
	if err != nil {
		t.Fatal(err)
	}
	conn, err := db.Conn(context.Background())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _, _ = conn.Close(), db.Close() })
	return &ledger{conn: conn, version: -1}
}

func (l *ledger) now(t *testing.T) (version int64) {
	t.Helper()
	if err := l.conn.QueryRowContext(context.Background(), `PRAGMA data_version`).Scan(&version); err != nil {
		t.Fatal(err)
	}
	return version
}

// mark remembers what is there now, to compare with later.
func (l *ledger) mark(t *testing.T) {
	t.Helper()
	for l.version != l.now(t) {
		l.version = l.now(t)
		l.rows = l.read(t)
	}
}

// changes lists the rows that came or went since mark.
func (l *ledger) changes(t *testing.T) (list []string) {
	t.Helper()
	if l.version == l.now(t) {
		return nil
	}
	before := l.rows
	l.mark(t)
	for table, rows := range l.rows {
		for _, row := range rows {
			if table == "device_audit" && strings.Contains(row, "command_denied") {
				continue // a refused command leaves a trace where its device is the asker's [contracts G.2]
			}
			if _, had := slices.BinarySearch(before[table], row); !had {
				list = append(list, "+ "+table+" "+row)
			}
		}
	}
	for table, rows := range before {
		for _, row := range rows {
			if _, has := slices.BinarySearch(l.rows[table], row); !has {
				list = append(list, "- "+table+" "+row)
			}
		}
	}
	return list
}

func (l *ledger) read(t *testing.T) map[string][]string {
	t.Helper()
	all := map[string][]string{}
	for _, table := range l.column(t, `SELECT name FROM sqlite_master WHERE type = 'table' AND name NOT LIKE 'sqlite%'`) {
		if !slices.Contains(unaudited, table) {
			all[table] = l.table(t, table)
		}
	}
	if len(all) < 10 {
		t.Fatalf("the database has only %d tables", len(all))
	}
	return all
}

func (l *ledger) column(t *testing.T, query string) (list []string) {
	t.Helper()
	rows, err := l.conn.QueryContext(context.Background(), query)
	if err != nil {
		t.Fatal(err)
	}
	defer rows.Close()
	for rows.Next() {
		var s string
		if err := rows.Scan(&s); err != nil {
			t.Fatal(err)
		}
		list = append(list, s)
	}
	if err := rows.Err(); err != nil {
		t.Fatal(err)
	}
	return list
}

func (l *ledger) table(t *testing.T, name string) (list []string) {
	t.Helper()
	rows, err := l.conn.QueryContext(context.Background(), `SELECT * FROM "`+name+`"`)
	if err != nil {
		t.Fatal(err)
	}
	defer rows.Close()
	columns, err := rows.Columns()
	if err != nil {
		t.Fatal(err)
	}
	values, into := make([]any, len(columns)), make([]any, len(columns))
	for i := range values {
		into[i] = &values[i]
	}
	for rows.Next() {
		if err := rows.Scan(into...); err != nil {
			t.Fatal(err)
		}
		var text strings.Builder
		for i, column := range columns {
			if slices.Contains(unhurried, name+"."+column) {
				continue
			}
			fmt.Fprintf(&text, "%s=%v ", column, values[i])
		}
		list = append(list, text.String())
	}
	if err := rows.Err(); err != nil {
		t.Fatal(err)
	}
	slices.Sort(list)
	return list
}

func TestTheLedgerSeesWhatIsCommitted(t *testing.T) {
	t.Parallel()
	c := Start(t, Options{Env: map[string]string{"LOG_LEVEL": "warn"}})
	l := c.openLedger(t)
	l.mark(t)
	if changes := l.changes(t); len(changes) > 0 {
		t.Errorf("nothing happened, and it sees %q", changes)
	}
	u := c.UserToken("someone@example.com")
	if changes := strings.Join(l.changes(t), "\n"); !strings.Contains(changes, "+ users user_id="+u.ID) {
		t.Errorf("somebody registered, and it sees %q", changes)
	}
}
