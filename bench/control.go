package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"slices"
	"strings"
	"time"
)

// request is one line to a process of ours. Which fields count depends on Do.
type request struct {
	Do    string
	Count int     `json:",omitempty"`
	Rate  float64 `json:",omitempty"` // messages a second, all devices together
	File  string  `json:",omitempty"`
	Start *start  `json:",omitempty"`
}

// start is the first request of every process.
type start struct {
	Dir      string // its working directory
	Database string // SQLite file
	Cert     string // server certificate, PEM
	Key      string // its key, PEM
	Addr     string // load and subscriber: where the server is
	TLS      bool   // load: speak TLS to it
	CA       string // load: whom to trust, PEM
	Devices  int
	Admin    bool // ours: make an administrator
}

// reply answers a request.
type reply struct {
	Error   string  `json:",omitempty"`
	Plain   string  `json:",omitempty"` // address of MQTT
	TLS     string  `json:",omitempty"` // address of MQTT over TLS
	HTTP    string  `json:",omitempty"` // base URL of the API
	Seconds float64 `json:",omitempty"`
	P50     float64 `json:",omitempty"` // milliseconds from PUBLISH to PUBACK
	P99     float64 `json:",omitempty"`
	Retries int     `json:",omitempty"` // connections that had to be tried again
	Heap    int64   `json:",omitempty"` // bytes of live objects
	Stack   int64   `json:",omitempty"` // bytes of goroutine stacks
}

// actor is what a process of ours does with requests, one at a time.
type actor interface {
	do(ctx context.Context, r request) (reply, error)
	close() error
}

// serveRole is the life of a process of ours: it ends when its input does.
func serveRole(ctx context.Context, role string, in io.Reader, out io.Writer) (err error) {
	requests, replies := json.NewDecoder(in), json.NewEncoder(out)
	var first request
	if err := requests.Decode(&first); err != nil || first.Start == nil {
		return errors.Join(errors.New("the first request must be a start"), err)
	}
	a, hello, err := newActor(ctx, role, *first.Start)
	if err != nil {
		return errors.Join(replies.Encode(reply{Error: err.Error()}), err)
	}
	defer func() { err = errors.Join(err, a.close()) }()
	if err := replies.Encode(hello); err != nil {
		return err
	}
	for {
		var r request
		if err := requests.Decode(&r); errors.Is(err, io.EOF) {
			return nil
		} else if err != nil {
			return err
		}
		answer, err := a.do(ctx, r)
		if err != nil {
			answer.Error = err.Error()
		}
		if err := replies.Encode(answer); err != nil {
			return err
		}
	}
}

func newActor(ctx context.Context, role string, s start) (actor, reply, error) {
	switch role {
	case "bare":
		return newMochi(s, nil)
	case "naive":
		return newNaive(s)
	case "ours":
		return newOurs(ctx, s)
	case "subscriber":
		return newSubscriber(ctx, s)
	case "load":
		return newFleet(s)
	}
	return nil, reply{}, fmt.Errorf("there is no role %q", role)
}

// process is a process of ours, or another program, that is measured or helps to measure.
type process struct {
	name     string
	cmd      *exec.Cmd
	in       io.WriteCloser
	requests *json.Encoder
	replies  *json.Decoder
	errors   *tail
	hello    reply
}

// spawn starts this program in a role and waits until it is ready.
func spawn(ctx context.Context, role string, s start) (*process, error) {
	self, err := os.Executable()
	if err != nil {
		return nil, err
	}
	cmd := exec.CommandContext(ctx, self, "-role", role)
	in, err := cmd.StdinPipe()
	if err != nil {
		return nil, err
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		return nil, err
	}
	p := &process{name: role, cmd: cmd, in: in, requests: json.NewEncoder(in), replies: json.NewDecoder(out), errors: &tail{}}
	cmd.Stderr = p.errors
	cmd.WaitDelay = 10 * time.Second
	if err := cmd.Start(); err != nil {
		return nil, err
	}
	if p.hello, err = p.ask(request{Do: "start", Start: &s}); err != nil {
		return nil, errors.Join(err, p.stop())
	}
	return p, nil
}

// ask sends a request and waits for its answer.
func (p *process) ask(r request) (reply, error) {
	if err := p.requests.Encode(r); err != nil {
		return reply{}, fmt.Errorf("%s: %w: %s", p.name, err, p.errors)
	}
	var answer reply
	if err := p.replies.Decode(&answer); err != nil {
		return reply{}, fmt.Errorf("%s ended: %w: %s", p.name, err, p.errors)
	}
	if answer.Error != "" {
		return answer, fmt.Errorf("%s: %s: %s", p.name, r.Do, answer.Error)
	}
	return answer, nil
}

// stop ends the process and waits for it.
func (p *process) stop() error {
	if p == nil {
		return nil
	}
	if p.in == nil { // not one of ours
		if err := p.cmd.Process.Signal(os.Interrupt); err != nil {
			return err
		}
		_ = p.cmd.Wait() // a signal is how it is meant to end
		return nil
	}
	_ = p.in.Close()
	if err := p.cmd.Wait(); err != nil {
		return fmt.Errorf("%s: %w: %s", p.name, err, p.errors)
	}
	return nil
}

// stopAll stops what was started, also after an error: the last first.
func stopAll(err error, all ...*process) error {
	for _, p := range slices.Backward(all) {
		err = errors.Join(err, p.stop())
	}
	return err
}

// tail keeps the end of what a process says.
type tail struct{ text []byte }

// Write implements io.Writer; os/exec calls it from one goroutine, which has ended when the text is read.
func (t *tail) Write(b []byte) (int, error) {
	const keep = 4 << 10
	t.text = append(t.text, b...)
	if len(t.text) > keep {
		t.text = t.text[len(t.text)-keep:]
	}
	return len(b), nil
}

func (t *tail) String() string { return strings.TrimSpace(string(t.text)) }
