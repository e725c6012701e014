package e2e_test

import (
	"bufio"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/opticworks/devicecloud/cmd/devicecloud/app"
	"github.com/opticworks/devicecloud/sqlstore/pgtest"
)

// built is a set of the programs, built when a test first asks.
type built struct {
	once sync.Once
	dir  string
	err  error
}

// binaries are built as the tests are, shipped always without the race detector.
// TestMain removes both.
var binaries, shipped built

// postgres is the PostgreSQL server of this run, started when a test first asks.
var postgres pgtest.Fixture

func TestMain(m *testing.M) {
	code := postgres.Run(m)
	for _, b := range []*built{&binaries, &shipped} {
		if b.dir == "" {
			continue
		}
		if err := os.RemoveAll(b.dir); err != nil && code == 0 {
			code = 1
		}
	}
	os.Exit(code)
}

// Binary is the path of a program of this module, devicecloud or firmware-sim,
// built as the tests are.
func Binary(t *testing.T, name string) string {
	t.Helper()
	return binaries.program(t, name, raceDetector)
}

// Shipped is Binary without the race detector.
func Shipped(t *testing.T, name string) string {
	t.Helper()
	return shipped.program(t, name, false)
}

func (b *built) program(t *testing.T, name string, race bool) string {
	t.Helper()
	b.once.Do(func() {
		if b.dir, b.err = os.MkdirTemp("", "devicecloud-e2e-*"); b.err != nil {
			return
		}
		args := []string{"build", "-o", b.dir + "/"}
		if race {
			args = append(args, "-race")
		}
		cmd := exec.Command("go", append(args, "./cmd/devicecloud", "./firmware-sim")...)
		cmd.Dir = ".."
		if out, err := cmd.CombinedOutput(); err != nil {
			b.err = fmt.Errorf("%w\n%s", err, out)
		}
	})
	if b.err != nil {
		t.Fatalf("building the programs: %v", b.err)
	}
	return filepath.Join(b.dir, name)
}

// environ is this process's environment, without settings of a devicecloud that
// somebody runs here, and with settings on top.
func environ(settings map[string]string) []string {
	env := slices.DeleteFunc(os.Environ(), func(entry string) bool {
		name, _, _ := strings.Cut(entry, "=")
		return slices.ContainsFunc(new(app.Config).Settings(), func(s app.Setting) bool { return s.Name == name })
	})
	for name, value := range settings {
		env = append(env, name+"="+value)
	}
	return env
}

// process is `devicecloud serve --dev` as a process.
type process struct {
	cmd   *exec.Cmd
	ended chan struct{}
	err   error // of Wait, once ended is closed
}

func startProcess(t *testing.T, opts Options, env map[string]string, log io.Writer) (runner, app.Addresses, error) {
	t.Helper()
	program := Binary
	if opts.Shipped {
		program = Shipped
	}
	cmd := exec.Command(program(t, "devicecloud"), "serve", "--dev")
	if opts.Descriptors > 0 {
		limited := fmt.Sprintf("ulimit -n %d; exec \"$0\" serve --dev", opts.Descriptors)
		cmd = exec.Command("bash", "-c", limited, cmd.Path)
	}
	cmd.Env = environ(env)
	stderr, err := cmd.StderrPipe()
	if err != nil {
		return nil, app.Addresses{}, err
	}
	if err := cmd.Start(); err != nil {
		return nil, app.Addresses{}, err
	}
	p := &process{cmd: cmd, ended: make(chan struct{})}
	ready := make(chan app.Addresses, 1)
	go func() {
		defer close(p.ended)
		lines := bufio.NewScanner(stderr)
		lines.Buffer(nil, 1<<20)
		for lines.Scan() {
			_, _ = log.Write(append(lines.Bytes(), '\n'))
			var line struct {
				Msg     string `json:"msg"`
				HTTP    string `json:"http"`
				HTTPS   string `json:"https"`
				Metrics string `json:"metrics"`
				MQTTTLS string `json:"mqtt_tls"`
				MQTT    string `json:"mqtt"`
			}
			if json.Unmarshal(lines.Bytes(), &line) == nil && line.Msg == "ready" {
				ready <- app.Addresses{HTTP: line.HTTP, HTTPS: line.HTTPS, Metrics: line.Metrics, MQTTTLS: line.MQTTTLS, MQTT: line.MQTT}
			}
		}
		p.err = cmd.Wait()
	}()
	select {
	case addresses := <-ready:
		return p, addresses, nil
	case <-p.ended:
		return nil, app.Addresses{}, fmt.Errorf("the process ended: %w", p.err)
	case <-time.After(60 * time.Second):
		return nil, app.Addresses{}, errors.Join(errors.New("not ready after 60 s"), p.kill())
	}
}

func (p *process) stop() (int, error) {
	if err := p.cmd.Process.Signal(syscall.SIGTERM); err != nil && !errors.Is(err, os.ErrProcessDone) {
		return 0, err
	}
	select {
	case <-p.ended:
		return p.cmd.ProcessState.ExitCode(), nil
	case <-time.After(40 * time.Second):
		return 0, errors.Join(errors.New("it still runs 40 s after SIGTERM"), p.kill())
	}
}

func (p *process) kill() error {
	if err := p.cmd.Process.Kill(); err != nil && !errors.Is(err, os.ErrProcessDone) {
		return err
	}
	<-p.ended
	return nil
}
