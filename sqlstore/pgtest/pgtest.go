//go:build unix

// Package pgtest starts a private PostgreSQL server for a test binary and gives
// each test a database of its own. The server listens on loopback alone, keeps nothing
// durable, and is gone with its directory when
// [Fixture.Run] returns.
package pgtest

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"os/user"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	_ "github.com/jackc/pgx/v5/stdlib" // registers the driver "pgx"
)

// Server is one private PostgreSQL server.
type Server struct {
	dir  string
	port int
	bin  string
	as   *syscall.Credential // nil: as whoever runs the test

	process *os.Process
	ended   chan struct{}

	mu        sync.Mutex
	databases int
	template  string // the name of what new databases are copies of; "" for empty ones
}

// Fixture is a test binary's access to its server, which starts at the first use.
// Its zero value is ready; keep one in a variable beside TestMain.
type Fixture struct {
	// Prepare fills a database, once: those of the tests are copies of it. nil: they are
	// empty.
	Prepare func(ctx context.Context, url string) error

	once   sync.Once
	server *Server
	err    error
}

// Run runs the tests of a binary and stops the server, if one was started. Call it
// from TestMain and exit with its result.
func (f *Fixture) Run(m *testing.M) int {
	code := m.Run()
	if f.server != nil {
		if err := f.server.Stop(); err != nil {
			fmt.Fprintln(os.Stderr, "pgtest:", err)
			return max(code, 1)
		}
	}
	return code
}

// URL creates a database for one test and returns its URL. Without
// PostgreSQL on this machine the test is skipped, or fails where CI=true.
func (f *Fixture) URL(tb testing.TB) string {
	tb.Helper()
	return f.database(tb, (*Server).NewDatabase)
}

// Empty is URL for a database in which there is nothing, whatever Prepare does.
func (f *Fixture) Empty(tb testing.TB) string {
	tb.Helper()
	return f.database(tb, func(s *Server, ctx context.Context) (string, error) { return s.create(ctx, "") })
}

func (f *Fixture) database(tb testing.TB, create func(*Server, context.Context) (string, error)) string {
	tb.Helper()
	f.once.Do(f.start)
	switch {
	case errors.Is(f.err, ErrNotInstalled) && os.Getenv("CI") != "true":
		tb.Skip("PostgreSQL is not installed")
	case f.err != nil:
		tb.Fatalf("start PostgreSQL: %v", f.err)
	}
	url, err := create(f.server, tb.Context())
	if err != nil {
		tb.Fatalf("new database: %v", err)
	}
	return url
}

// ErrNotInstalled says that there are no PostgreSQL binaries here.
var ErrNotInstalled = errors.New("neither initdb nor postgres is on PATH or in /usr/lib/postgresql")

// Start makes a cluster in a temporary directory and starts its server. PostgreSQL
// refuses to run as root; root's tests run it as "postgres" or "nobody".
func Start() (*Server, error) {
	bin, err := findBinaries()
	if err != nil {
		return nil, err
	}
	s := &Server{bin: bin}
	if s.as, err = unprivileged(); err != nil {
		return nil, err
	}
	if s.dir, err = os.MkdirTemp("", "pgtest-"); err != nil {
		return nil, err
	}
	if err := s.start(); err != nil {
		return nil, errors.Join(err, os.RemoveAll(s.dir))
	}
	return s, nil
}

func (s *Server) start() error {
	if s.as != nil {
		if err := os.Chown(s.dir, int(s.as.Uid), int(s.as.Gid)); err != nil {
			return err
		}
	}
	data := filepath.Join(s.dir, "data")
	initdb := s.command("initdb", "-D", data, "-A", "trust", "-U", "postgres", "-E", "UTF8", "--no-locale", "--no-sync")
	if out, err := initdb.CombinedOutput(); err != nil {
		return fmt.Errorf("initdb: %w: %s", err, out)
	}
	// Between the choice of a port and its use another process may take it.
	var err error
	for range 5 {
		if s.port, err = freePort(); err != nil {
			return err
		}
		if err = s.serve(data); err == nil {
			return nil
		}
	}
	return err
}

// serve runs the server until Stop, and returns when it answers.
func (s *Server) serve(data string) error {
	log, err := os.Create(filepath.Join(s.dir, "log"))
	if err != nil {
		return err
	}
	cmd := s.command("postgres", "-D", data, "-p", strconv.Itoa(s.port), "-k", s.dir,
		"-c", "listen_addresses=127.0.0.1", "-c", "fsync=off", "-c", "max_connections=200")
	cmd.Stdout, cmd.Stderr = log, log
	// A test binary that is killed takes its server with it. The signal comes when
	// the thread that started the server ends, so that thread is kept.
	dieWithParent(cmd.SysProcAttr)
	started, ended := make(chan error, 1), make(chan struct{})
	go func() {
		runtime.LockOSThread()
		defer close(ended)
		started <- cmd.Start()
		if cmd.Process != nil {
			_ = cmd.Wait() // its exit status is that of the signal which ended it
		}
	}()
	if err := errors.Join(<-started, log.Close()); err != nil {
		return err
	}
	s.process, s.ended = cmd.Process, ended
	return s.await()
}

// await waits until the server answers, at most a minute.
func (s *Server) await() error {
	db, err := sql.Open("pgx", s.url("postgres"))
	if err != nil {
		return err
	}
	defer func() { _ = db.Close() }() // nothing was written
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	for {
		if err = db.PingContext(ctx); err == nil {
			return nil
		}
		select {
		case <-s.ended:
			text, _ := os.ReadFile(filepath.Join(s.dir, "log")) // best effort: the error is what counts
			return fmt.Errorf("postgres ended: %w: %s", err, text)
		case <-ctx.Done():
			return errors.Join(err, s.process.Signal(syscall.SIGQUIT))
		case <-time.After(20 * time.Millisecond):
		}
	}
}

// Stop ends the server and removes its directory.
func (s *Server) Stop() error {
	err := s.process.Signal(syscall.SIGQUIT)
	<-s.ended
	return errors.Join(err, os.RemoveAll(s.dir))
}

// Pause stops the server's processes from running, as if the machine hung, until
// Resume. Connections stay open and nothing answers.
func (s *Server) Pause() error { return s.signal(syscall.SIGSTOP) }

// Resume ends a Pause.
func (s *Server) Resume() error { return s.signal(syscall.SIGCONT) }

// signal signals the postmaster and every process that it has started.
func (s *Server) signal(sig syscall.Signal) error {
	children, err := os.ReadFile(fmt.Sprintf("/proc/%d/task/%d/children", s.process.Pid, s.process.Pid))
	if err != nil {
		return err
	}
	errs := []error{s.process.Signal(sig)}
	for _, field := range strings.Fields(string(children)) {
		pid, err := strconv.Atoi(field)
		if err == nil {
			err = syscall.Kill(pid, sig)
		}
		if err != nil && !errors.Is(err, syscall.ESRCH) {
			errs = append(errs, err)
		}
	}
	return errors.Join(errs...)
}

// start starts the server and prepares what the databases of the tests are copies of.
func (f *Fixture) start() {
	if f.server, f.err = Start(); f.err != nil || f.Prepare == nil {
		return
	}
	ctx := context.Background()
	url, err := f.server.NewDatabase(ctx)
	if err == nil {
		err = f.Prepare(ctx, url)
	}
	if err == nil {
		f.server.template = url[strings.LastIndexByte(url, '/')+1 : strings.IndexByte(url, '?')]
	}
	f.err = err
}

// NewDatabase creates a database and returns its URL. It is a copy of what the fixture
// has prepared, or empty.
func (s *Server) NewDatabase(ctx context.Context) (url string, err error) {
	return s.create(ctx, s.template)
}

func (s *Server) create(ctx context.Context, template string) (url string, err error) {
	s.mu.Lock()
	defer s.mu.Unlock() // PostgreSQL copies a database only while nobody uses it
	s.databases++
	name := "test" + strconv.Itoa(s.databases)
	db, err := sql.Open("pgx", s.url("postgres"))
	if err != nil {
		return "", err
	}
	defer func() { err = errors.Join(err, db.Close()) }()
	create := "CREATE DATABASE " + name
	if template != "" {
		create += " TEMPLATE " + template
	}
	if _, err := db.ExecContext(ctx, create); err != nil {
		return "", err
	}
	return s.url(name), nil
}

func (s *Server) url(database string) string {
	return fmt.Sprintf("postgres://postgres@127.0.0.1:%d/%s?sslmode=disable", s.port, database)
}

// command is one of PostgreSQL's own programs, run as the server's user.
func (s *Server) command(name string, args ...string) *exec.Cmd {
	cmd := exec.Command(filepath.Join(s.bin, name), args...)
	cmd.Dir = s.dir
	cmd.Env = append(os.Environ(), "LC_ALL=C", "HOME="+s.dir)
	cmd.SysProcAttr = &syscall.SysProcAttr{Credential: s.as}
	return cmd
}

// findBinaries finds the directory that holds both initdb and postgres, the newest
// version first.
func findBinaries() (string, error) {
	var dirs []string
	if path, err := exec.LookPath("initdb"); err == nil {
		if path, err = filepath.EvalSymlinks(path); err == nil {
			dirs = append(dirs, filepath.Dir(path))
		}
	}
	installed, err := filepath.Glob("/usr/lib/postgresql/*/bin")
	if err != nil {
		return "", err
	}
	for i := len(installed) - 1; i >= 0; i-- {
		dirs = append(dirs, installed[i])
	}
	for _, dir := range dirs {
		_, initErr := os.Stat(filepath.Join(dir, "initdb"))
		_, serverErr := os.Stat(filepath.Join(dir, "postgres"))
		if initErr == nil && serverErr == nil {
			return dir, nil
		}
	}
	return "", ErrNotInstalled
}

// unprivileged is whom root runs the server as; nil for everybody else.
func unprivileged() (*syscall.Credential, error) {
	if os.Getuid() != 0 {
		return nil, nil
	}
	for _, name := range []string{"postgres", "nobody"} {
		u, err := user.Lookup(name)
		if err != nil {
			continue
		}
		uid, uidErr := strconv.ParseUint(u.Uid, 10, 32)
		gid, gidErr := strconv.ParseUint(u.Gid, 10, 32)
		if err := errors.Join(uidErr, gidErr); err != nil {
			return nil, err
		}
		return &syscall.Credential{Uid: uint32(uid), Gid: uint32(gid)}, nil
	}
	return nil, errors.New("PostgreSQL does not run as root, and there is neither a user postgres nor nobody")
}

func freePort() (int, error) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return 0, err
	}
	port := l.Addr().(*net.TCPAddr).Port
	return port, l.Close()
}
