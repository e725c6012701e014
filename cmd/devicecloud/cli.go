package main

import (
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"strings"

	"github.com/alecthomas/kong"
	"github.com/mattn/go-isatty"

	"github.com/opticworks/devicecloud/cmd/devicecloud/app"
	"github.com/opticworks/devicecloud/registry"
)

// Exit codes.
const (
	exitOK     = 0
	exitFailed = 1
	exitUsage  = 2 // the command line or a setting is wrong
)

// cli is the command line. Settings are flags of every command.
type cli struct {
	app.Config `group:"Settings, also in the environment and in a --config file:"`

	ConfigFile string `name:"config" type:"path" placeholder:"FILE" help:"File of lines NAME=value."`

	Serve   serveCmd   `cmd:"" help:"Run the server."`
	Demo    demoCmd    `cmd:"" dev:"" help:"Run the server in dev mode with simulated devices, and say what to try."`
	Admin   adminCmd   `cmd:"" help:"Administrators."`
	Device  deviceCmd  `cmd:"" help:"Devices."`
	Order   orderCmd   `cmd:"" help:"Order lines: which device was sold to whom."`
	Migrate migrateCmd `cmd:"" help:"The database's schema."`
	Backup  backupCmd  `cmd:"" help:"Copy a SQLite database, also while the server runs."`
	Check   configCmd  `cmd:"" name:"config" help:"Settings."`
	Version versionCmd `cmd:"" help:"Print the version."`
}

// terminal is what a command prints to.
type terminal struct {
	out, err io.Writer
}

// logger is the program's logger, on standard error.
func (t terminal) logger(c *app.Config) (*slog.Logger, error) {
	file, ok := t.err.(*os.File)
	return app.NewLogger(t.err, ok && isatty.IsTerminal(file.Fd()), c.LogFormat, c.LogLevel)
}

// usageError is a mistake in the command line or a setting.
type usageError struct{ error }

func (e usageError) Unwrap() error { return e.error }

// run parses a command line and runs its command; it returns the exit code.
func run(args []string, lookupEnv func(string) (string, bool), stdout, stderr io.Writer) int {
	err := parseAndRun(args, lookupEnv, stdout, stderr)
	if err == nil {
		return exitOK
	}
	_, _ = fmt.Fprintf(stderr, "devicecloud: %s\n", describe(err))
	var usage usageError
	if errors.As(err, &usage) {
		return exitUsage
	}
	return exitFailed
}

func parseAndRun(args []string, lookupEnv func(string) (string, bool), stdout, stderr io.Writer) error {
	var c cli
	sources := app.NewSources(lookupEnv, environment()...)
	parser, err := kong.New(&c,
		kong.Name("devicecloud"),
		kong.Description("A device cloud for ESP32 products: MQTT broker, device registry and HTTP API in one program."),
		kong.Writers(stdout, stderr),
		kong.ConfigureHelp(kong.HelpOptions{Compact: true, NoExpandSubcommands: true}),
		kong.Resolvers(sources),
	)
	if err != nil {
		return err
	}
	ctx, err := parser.Parse(args)
	if err != nil {
		return usageError{nearestFlag(err, parser.Model)}
	}
	sources.Complete(&c.Config)
	return ctx.Run(&c.Config, terminal{stdout, stderr})
}

// environment is the names that the process's environment has.
func environment() []string {
	var names []string
	for _, variable := range os.Environ() {
		name, _, _ := strings.Cut(variable, "=")
		names = append(names, name)
	}
	return names
}

// nearestFlag adds the nearest known flag to an error about an unknown one, where
// the parser finds none near enough.
func nearestFlag(err error, model *kong.Application) error {
	const unknown = "unknown flag --"
	text := err.Error()
	if !strings.HasPrefix(text, unknown) || strings.Contains(text, "did you mean") {
		return err
	}
	var names []string
	for _, group := range model.AllFlags(true) {
		for _, flag := range group {
			names = append(names, flag.Name)
		}
	}
	return fmt.Errorf("%w, did you mean \"--%s\"?", err, app.Nearest(strings.TrimPrefix(text, unknown), names))
}

// describe is an error as an operator reads it: the sentence and the cause.
func describe(err error) string {
	var e *registry.Error
	if !errors.As(err, &e) {
		return err.Error()
	}
	text := fmt.Sprintf("%s (%s)", e.Message, e.Code)
	if e.Err != nil {
		text += ": " + e.Err.Error()
	}
	return text
}
