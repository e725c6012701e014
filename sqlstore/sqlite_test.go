package sqlstore_test

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/opticworks/devicecloud/account"
	"github.com/opticworks/devicecloud/registry"
	"github.com/opticworks/devicecloud/sqlstore"
)

// integrity checks a SQLite file as a whole.
func integrity(t testing.TB, url string) {
	t.Helper()
	db := raw(t, url)
	equal(t, "integrity", texts(t, db, `PRAGMA integrity_check`), []string{"ok"})
	equal(t, "dangling references", texts(t, db, `PRAGMA foreign_key_check`), nil)
}

func TestSQLiteFile(t *testing.T) {
	t.Run("is readable by its owner alone, with its companions", func(t *testing.T) {
		s := open(t, engines["sqlite"](t), sqlstore.Options{})
		s.enrol(1)
		path := strings.TrimPrefix(s.url, "sqlite:")
		for _, suffix := range []string{"", "-wal", "-shm"} {
			info, err := os.Stat(path + suffix)
			if err != nil {
				t.Fatal(err)
			}
			equal(t, suffix+" mode", info.Mode().Perm(), 0o600)
		}
	})
	t.Run("may have any name", func(t *testing.T) {
		for _, name := range []string{"a b.db", "50%.db", "what?.db", "hash#.db", "ümlaut&x=y.db"} {
			path := filepath.Join(t.TempDir(), name)
			open(t, "sqlite:"+path, sqlstore.Options{}).enrol(1)
			if _, err := os.Stat(path); err != nil {
				t.Error(err)
			}
		}
	})
	t.Run("must be given, and be a file", func(t *testing.T) {
		for _, url := range []string{"sqlite:", "sqlite::memory:", "sqlite:" + t.TempDir(), "sqlite:" + filepath.Join(t.TempDir(), "no", "such", "folder.db")} {
			if db, err := sqlstore.Open(t.Context(), url, sqlstore.Options{}); err == nil {
				t.Errorf("%s was opened", url)
				_ = db.Close()
			}
		}
	})
	t.Run("that is no database is refused and left alone", func(t *testing.T) {
		path := filepath.Join(t.TempDir(), "x.db")
		text := strings.Repeat("this is not a database\n", 100)
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		_, err := sqlstore.Open(t.Context(), "sqlite:"+path, sqlstore.Options{})
		if err == nil || errors.Is(err, registry.ErrUnavailable) {
			t.Errorf("%v", err)
		}
		got, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		equal(t, "contents", string(got), text)
	})
	t.Run("keeps a bounded log under a stream of batches", func(t *testing.T) {
		if testing.Short() {
			t.Skip("writes some hundred megabytes")
		}
		s := open(t, engines["sqlite"](t), sqlstore.Options{})
		fleet(t, s, 200)
		payload := strings.Repeat("x", 4000) // a page each, and one more as an event
		var longest, written int64
		for round := range int64(50) {
			b := &registry.Batch{}
			for no := range int64(200) {
				b.Reports = append(b.Reports, &registry.ReportWrite{DeviceNo: no + 1, Epoch: 1, At: t0, Kind: 4, Payload: payload, EventID: round*1000 + no + 1, Keep: 2})
				written += 2 * int64(len(payload))
			}
			s.commit(b)
			info, err := os.Stat(strings.TrimPrefix(s.url, "sqlite:") + "-wal")
			if err != nil {
				t.Fatal(err)
			}
			longest = max(longest, info.Size())
		}
		if longest < 16<<20 || written < 2*longest {
			t.Fatalf("the test wrote %d MiB, and the log grew to %d MiB only", written>>20, longest>>20)
		}
		if longest > 80<<20 {
			t.Errorf("the log grew to %d MiB", longest>>20)
		}
	})
}

func TestSQLiteLockedByAnother(t *testing.T) {
	s := open(t, engines["sqlite"](t), sqlstore.Options{LockWait: 300 * time.Millisecond})
	no := s.enrol(1)
	epoch := s.connect(no, 101, t0)
	batch := &registry.Batch{States: []*registry.StateWrite{{DeviceNo: no, Epoch: epoch, At: after(1), State: full()}}}

	other, err := raw(t, s.url).Conn(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = other.Close() }()
	if _, err := other.ExecContext(t.Context(), `BEGIN IMMEDIATE`); err != nil {
		t.Fatal(err)
	}
	within := func(t *testing.T, limit time.Duration, f func() error) {
		t.Helper()
		start := time.Now()
		is(t, "write", f(), registry.ErrUnavailable)
		if took := time.Since(start); took > limit {
			t.Errorf("took %v", took)
		}
	}
	t.Run("fails a commit within its context", func(t *testing.T) {
		within(t, 2*time.Second, func() error {
			ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
			defer cancel()
			return s.Registry().Commit(ctx, batch)
		})
	})
	t.Run("fails a transaction within the time that is set", func(t *testing.T) {
		within(t, 5*time.Second, func() error {
			return s.try(func(ctx context.Context, tx account.Tx) error { return tx.SetDeviceName(ctx, no, "x", t0) })
		})
	})
	t.Run("does not keep readers out", func(t *testing.T) { equal(t, "name", s.device(1).Name, "") })
	t.Run("recovers by itself", func(t *testing.T) {
		if _, err := other.ExecContext(t.Context(), `ROLLBACK`); err != nil {
			t.Fatal(err)
		}
		s.commit(batch)
		equal(t, "state", s.device(1).State, stored(full()))
	})
}

func TestSQLiteWaitsForItsOwnWriter(t *testing.T) {
	s := open(t, engines["sqlite"](t), sqlstore.Options{})
	no := s.enrol(1)
	inside, release := make(chan struct{}), make(chan struct{})
	done := make(chan error, 1)
	go func() {
		done <- s.Registry().InTx(t.Context(), func(registry.Tx) error { close(inside); <-release; return nil })
	}()
	<-inside
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	err := s.Registry().Commit(ctx, &registry.Batch{Work: []*registry.Work{{Do: func(tx registry.Tx) error { return tx.SetDeviceName(ctx, no, "x", t0) }}}})
	is(t, "a commit behind a long transaction", err, registry.ErrUnavailable)
	close(release)
	if err := <-done; err != nil {
		t.Error(err)
	}
}

// childTask names the environment variable that makes the test binary a child
// which writes into a database until something happens to it.
const childTask = "SQLSTORE_TEST_CHILD"

// spawn starts the test binary as a child with a task.
func spawn(t *testing.T, task, path string) (*exec.Cmd, *bufio.Scanner) {
	t.Helper()
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.CommandContext(t.Context(), self)
	cmd.Env = append(os.Environ(), childTask+"="+task+":"+path)
	cmd.Stderr = os.Stderr
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	return cmd, bufio.NewScanner(out)
}

// runChild is the child's main.
func runChild(task string) int {
	task, path, _ := strings.Cut(task, ":")
	ctx := context.Background()
	db, err := sqlstore.Open(ctx, "sqlite:"+path, sqlstore.Options{})
	if err == nil {
		switch task {
		case "write":
			err = writeForEver(ctx, db)
		case "fill":
			err = fillTheDisk(ctx, db)
		}
		err = errors.Join(err, db.Close())
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "child:", err)
		return 1
	}
	return 0
}

// childBatch is a batch that writes the same number into every row of a fleet.
func childBatch(n int64) *registry.Batch {
	b := &registry.Batch{}
	for no := range int64(200) {
		s := registry.State{UptimeSec: &n, WifiRSSI: ptr(int64(-50))}
		b.States = append(b.States, &registry.StateWrite{DeviceNo: no + 1, Epoch: 1, At: after(int(n)), State: s})
		b.Reports = append(b.Reports, &registry.ReportWrite{DeviceNo: no + 1, Epoch: 1, At: after(int(n)), Kind: 4, Payload: strings.Repeat("x", 500), EventID: n*1000 + no, Keep: 3})
	}
	return b
}

// writeForEver commits batch after batch and says each number once it is durable.
func writeForEver(ctx context.Context, db *sqlstore.DB) error {
	for n := int64(1); ; n++ {
		if err := db.Registry().Commit(ctx, childBatch(n)); err != nil {
			return err
		}
		fmt.Println(n)
	}
}

// fillTheDisk commits until no file may grow any more, checks how that fails, and
// that it heals.
func fillTheDisk(ctx context.Context, db *sqlstore.DB) error {
	signal.Ignore(syscall.SIGXFSZ)
	var before syscall.Rlimit
	if err := syscall.Getrlimit(syscall.RLIMIT_FSIZE, &before); err != nil {
		return err
	}
	full := syscall.Rlimit{Cur: 4 << 20, Max: before.Max}
	if err := syscall.Setrlimit(syscall.RLIMIT_FSIZE, &full); err != nil {
		return err
	}
	last := int64(0)
	for n := int64(1); ; n++ {
		err := db.Registry().Commit(ctx, childBatch(n))
		if errors.Is(err, registry.ErrUnavailable) {
			break
		}
		if err != nil || n > 1000 {
			return fmt.Errorf("batch %d on a full disk: %w", n, err)
		}
		last = n
	}
	if err := db.Ping(ctx); err != nil {
		return fmt.Errorf("reading on a full disk: %w", err)
	}
	if err := db.Registry().Commit(ctx, childBatch(last+1)); !errors.Is(err, registry.ErrUnavailable) {
		return fmt.Errorf("a second commit on a full disk: %w", err)
	}
	if err := syscall.Setrlimit(syscall.RLIMIT_FSIZE, &before); err != nil {
		return err
	}
	if err := db.Registry().Commit(ctx, childBatch(last+2)); err != nil {
		return fmt.Errorf("after there is space again: %w", err)
	}
	fmt.Println(last + 2)
	return nil
}

// uptimes reads what the child has written: one number, in every row.
func uptimes(t *testing.T, s *store) []string {
	t.Helper()
	return texts(t, raw(t, s.url), `SELECT DISTINCT COALESCE(uptime_sec, 0) FROM device_presence`)
}

func TestSQLiteKilled(t *testing.T) {
	const rounds = 3
	s := open(t, engines["sqlite"](t), sqlstore.Options{})
	fleet(t, s, 200)
	path := strings.TrimPrefix(s.url, "sqlite:")
	for round := range rounds {
		if _, err := raw(t, s.url).Exec(`DELETE FROM device_events`); err != nil {
			t.Fatal(err)
		}
		cmd, out := spawn(t, "write", path)
		acknowledged := int64(0)
		for out.Scan() {
			n, err := strconv.ParseInt(out.Text(), 10, 64)
			if err != nil {
				break // the last line may be cut
			}
			acknowledged = n
			if n == int64(5+7*round) {
				if err := cmd.Process.Kill(); err != nil {
					t.Fatal(err)
				}
			}
		}
		_ = cmd.Wait() // it was killed
		got := uptimes(t, s)
		if len(got) != 1 {
			t.Fatalf("a batch is half there: %v", got)
		}
		if n, err := strconv.ParseInt(got[0], 10, 64); err != nil || n < acknowledged || n > acknowledged+1 {
			t.Errorf("acknowledged %d, found %s", acknowledged, got[0])
		}
		integrity(t, s.url)
	}
}

func TestSQLiteDiskFull(t *testing.T) {
	s := open(t, engines["sqlite"](t), sqlstore.Options{})
	fleet(t, s, 200)
	cmd, out := spawn(t, "fill", strings.TrimPrefix(s.url, "sqlite:"))
	last := ""
	for out.Scan() {
		last = out.Text()
	}
	if err := cmd.Wait(); err != nil {
		t.Fatal(err)
	}
	equal(t, "last batch", uptimes(t, s), []string{last})
	integrity(t, s.url)
}
