// Program bench measures what devicecloud costs, against what one would use instead, and prints a table.
//
// It starts every server as a process of its own and reads from /proc what it used, so that neither the load
// generator nor the Go benchmark machinery is part of a number. Servers that are compared run in turn, turn by
// turn (A B C D A B C D ...), and medians and ratios are printed: on a shared machine a ratio means more than a
// second. It runs on Linux.
//
// The program is all of its own processes: with -role it is a server, the load generator or mosquitto's subscriber,
// obeying one JSON request a line (control.go). Layout: messages.go, memory.go, connect.go, request.go, api.go, command.go and
// idle.go are the seven benchmarks; serve.go, naive.go, ours.go and subscriber.go the servers; fleet.go the load and
// watcher.go a person; report.go the table.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/signal"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"
)

// suites are the benchmarks by name, in the order in which they run.
func suites() []suite {
	return []suite{
		{"messages", (*bench).messages},
		{"memory", (*bench).memory},
		{"connect", (*bench).connect},
		{"request", (*bench).request},
		{"api", (*bench).api},
		{"commands", (*bench).commands},
		{"idle", (*bench).idle},
	}
}

type suite struct {
	name string
	run  func(*bench, context.Context) error
}

// bench is one run of the program.
type bench struct {
	out     io.Writer // the report
	log     io.Writer // progress
	dir     string    // for databases and certificates; removed at the end
	profile string    // where profiles of every benchmark go; "": only of those that missed their target
	servers []string  // of the message benchmark; nil: all that are there
	size    size
	short   bool
	report  report
	stores  map[string]string // what newStore made, to be copied for each server
}

// size is how much is measured.
type size struct {
	Devices       []int // fleets of the message benchmark
	Messages      int   // of one turn
	NaiveMessages int   // of one turn of the naive server, which needs a disk flush for each
	Turns         int
	IdleDevices   int // connections of the memory benchmark
	Waves         int
	Settle        time.Duration // until a server's memory counts
	Connects      int           // of one measurement of the connect benchmark
	Requests      int           // of one API route and load
	Tokens        int           // that are checked
	APIDevices    int           // devices that report meanwhile
	Commands      int           // of the command benchmark
	Known         int           // devices in the registry of the idle benchmark
	IdleSeconds   int
}

// maxDevices leaves a server and a load generator some of the 20,000 files that a process may often have open.
const maxDevices = 19_000

func fullSize() size {
	return size{
		Devices: []int{1000, 10000}, Messages: 20_000, NaiveMessages: 2000, Turns: 11,
		IdleDevices: 3000, Waves: 3, Settle: 3 * time.Second, Connects: 1000, Requests: 3000, Tokens: 300, APIDevices: 1000, Commands: 1000, Known: 100_000, IdleSeconds: 60,
	}
}

// shortSize shows that everything works; its numbers mean little.
func shortSize() size {
	return size{
		Devices: []int{50}, Messages: 1000, NaiveMessages: 100, Turns: 2,
		IdleDevices: 60, Waves: 3, Settle: 50 * time.Millisecond, Connects: 40, Requests: 20, Tokens: 5, APIDevices: 50, Commands: 30, Known: 200, IdleSeconds: 1,
	}
}

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	err := run(ctx, os.Args[1:], os.Stdin, os.Stdout, os.Stderr)
	stop()
	if err != nil && !errors.Is(err, flag.ErrHelp) {
		fmt.Fprintln(os.Stderr, "bench:", err)
		os.Exit(1)
	}
}

// run is main with everything passed in. A missed target is no error: the program reports.
func run(ctx context.Context, args []string, in io.Reader, out, log io.Writer) error {
	flags := flag.NewFlagSet("bench", flag.ContinueOnError)
	flags.SetOutput(log)
	short := flags.Bool("short", false, "a few seconds in all: shows that everything works")
	only := flags.String("only", "", "benchmarks to run, separated by commas: messages,memory,connect,request,api,commands,idle")
	jsonFile := flags.String("json", "", "also write the results to this `file`")
	profile := flags.String("profile", "", "write a CPU profile of every benchmark to this `directory` (default: only of a missed target, to the temporary one)")
	turns := flags.Int("turns", 0, "measurements of each CPU number (default 11)")
	seconds := flags.Int("idle-seconds", 0, "length of the idle measurement (default 60)")
	servers := flags.String("servers", "", "servers of the message benchmark, separated by commas: bare,ours,watched,naive,mosquitto")
	devices := flags.String("devices", "", "fleets of the message benchmark, separated by commas (default 1000,10000)")
	role := flags.String("role", "", "used by the program itself")
	if err := flags.Parse(args); err != nil {
		return err
	}
	if *role != "" {
		return serveRole(ctx, *role, in, out)
	}
	b := &bench{out: out, log: log, profile: *profile, size: fullSize(), stores: map[string]string{}}
	if b.short = *short; b.short {
		b.size = shortSize()
	}
	if *turns > 0 {
		b.size.Turns = *turns
	}
	if *seconds > 0 {
		b.size.IdleSeconds = *seconds
	}
	chosen, err := choose(*only)
	if err != nil {
		return err
	}
	if *servers != "" {
		b.servers = strings.Split(*servers, ",")
	}
	if *devices != "" {
		b.size.Devices = nil
		for _, text := range strings.Split(*devices, ",") {
			n, err := strconv.Atoi(text)
			if err != nil || n < 1 || n > maxDevices {
				return fmt.Errorf("-devices: %q is not a number from 1 to %d", text, maxDevices)
			}
			b.size.Devices = append(b.size.Devices, n)
		}
	}
	return b.runAll(ctx, chosen, *jsonFile)
}

func choose(only string) ([]suite, error) {
	if only == "" {
		return suites(), nil
	}
	var chosen []suite
	for _, name := range strings.Split(only, ",") {
		i := slices.IndexFunc(suites(), func(s suite) bool { return s.name == strings.TrimSpace(name) })
		if i < 0 {
			return nil, fmt.Errorf("-only: there is no benchmark %q", name)
		}
		chosen = append(chosen, suites()[i])
	}
	return chosen, nil
}

func (b *bench) runAll(ctx context.Context, chosen []suite, jsonFile string) (err error) {
	if b.dir, err = os.MkdirTemp("", "devicecloud-bench-"); err != nil {
		return err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(b.dir)) }()
	if b.profile != "" {
		if err := os.MkdirAll(b.profile, 0o755); err != nil {
			return err
		}
	}
	b.report.Machine = describeMachine(ctx)
	fmt.Fprintln(b.out, b.report.Machine)
	for _, s := range chosen {
		if err := s.run(b, ctx); err != nil {
			return fmt.Errorf("%s: %w", s.name, err)
		}
	}
	if b.short {
		fmt.Fprintln(b.out, "A short run: it shows that everything works, its numbers mean little.")
	}
	b.report.print(b.out)
	if jsonFile == "" {
		return nil
	}
	return b.report.writeJSON(jsonFile)
}

func (b *bench) progress(format string, args ...any) {
	fmt.Fprintf(b.log, format+"\n", args...)
}
