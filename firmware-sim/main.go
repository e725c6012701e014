// Command firmware-sim simulates RS-1 devices against a devicecloud. It shares no code with the cloud: it has its own
// MQTT codec (mqttwire) and its own idea of a device (fleet), and both sides are held to testdata/wire.
//
// Exit codes: 0 the verdict is good, 1 it is not or there was an error, 2 usage.
package main

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"os/signal"
	"syscall"

	"golang.org/x/term"

	"github.com/opticworks/devicecloud/firmware-sim/fleet"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	// The first signal asks for the verdict; after it a second one kills.
	context.AfterFunc(ctx, stop)
	p := program{
		args: os.Args[1:], getenv: os.Getenv, stdout: os.Stdout, stderr: os.Stderr,
		terminal: term.IsTerminal(int(os.Stderr.Fd())),
	}
	os.Exit(p.run(ctx))
}

// program is a run of the command with everything that it touches, so that tests can run it whole.
type program struct {
	args           []string
	getenv         func(string) string
	stdout, stderr io.Writer
	terminal       bool // stderr is one
}

func (p program) run(ctx context.Context) int {
	var flags flags
	done, err := flags.parse(p.args, p.stdout)
	if done {
		return 0
	}
	if err != nil {
		return p.fail(2, err)
	}
	options, err := flags.options(p.getenv)
	if err != nil {
		return p.fail(2, err)
	}
	options.Display = fleet.NewDisplay(p.stderr, p.terminal)
	if options.API != nil {
		defer options.API.Close()
	}
	report, err := fleet.Run(ctx, options)
	if err != nil {
		return p.fail(1, err)
	}
	if flags.JSON {
		encoder := json.NewEncoder(p.stdout)
		encoder.SetIndent("", "  ")
		err = encoder.Encode(report)
	} else {
		err = report.Print(p.stdout)
	}
	if err != nil {
		return p.fail(1, err)
	}
	if !report.Verdict.OK {
		return 1
	}
	return 0
}

func (p program) fail(code int, err error) int {
	// There is nowhere else to say it.
	_, _ = fmt.Fprintln(p.stderr, "firmware-sim:", err)
	return code
}
