package app

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"

	"github.com/alecthomas/kong"
)

// Sources resolves settings that no flag gives: environment over --config file over
// default of dev mode, which is --dev or a command with the tag `dev`, over default.
// (Kong's own order lets a file beat the environment, and ignores names
// in the file that it does not know.) It reads the flags --config and --dev from the
// command line itself.
type Sources struct {
	lookupEnv   func(name string) (string, bool)
	environment []string          // names in the environment that may be settings without a fixed name
	names       map[string]string // flag -> NAME
	file        map[string]string // NAME -> value, of the file `from`
	from        string
}

var _ kong.Resolver = (*Sources)(nil)

// NewSources resolves with the given environment, os.LookupEnv as a rule. names are
// all that the environment has; without them, settings whose names are not fixed are
// not found there.
func NewSources(lookupEnv func(name string) (string, bool), names ...string) *Sources {
	s := &Sources{lookupEnv: lookupEnv, environment: names, names: map[string]string{}}
	for _, setting := range new(Config).Settings() {
		s.names[setting.Flag] = setting.Name
	}
	return s
}

// Validate is part of kong.Resolver.
func (s *Sources) Validate(*kong.Application) error { return nil }

// Resolve is part of kong.Resolver; nil leaves the flag at its default.
func (s *Sources) Resolve(ctx *kong.Context, _ *kong.Path, flag *kong.Flag) (any, error) {
	name, ok := s.names[flag.Name]
	if !ok {
		return nil, nil
	}
	if value, ok := s.lookupEnv(name); ok {
		return value, nil
	}
	if path, _ := given(ctx, "config").(string); path != s.from {
		file, err := readConfigFile(path)
		if err != nil {
			return nil, err
		}
		s.file, s.from = file, path
	}
	if value, ok := s.file[name]; ok {
		return value, nil
	}
	if flag.Tag.Has("dev") && devMode(ctx) {
		return flag.Tag.Get("dev"), nil
	}
	return nil, nil
}

// devMode reports whether --dev is given, or the command has the tag `dev` itself.
func devMode(ctx *kong.Context) bool {
	for _, p := range ctx.Path {
		if p.Command != nil && p.Command.Tag.Has("dev") {
			return true
		}
	}
	dev, _ := given(ctx, "dev").(bool)
	return dev
}

// given is the value that the command line gives a flag, nil when it gives none.
func given(ctx *kong.Context, flag string) any {
	for _, p := range ctx.Path {
		if p.Flag != nil && p.Flag.Name == flag {
			return ctx.FlagValue(p.Flag)
		}
	}
	return nil
}

func readConfigFile(path string) (map[string]string, error) {
	text, err := os.ReadFile(path)
	if err != nil {
		return nil, fmt.Errorf("--config: %w", err)
	}
	values, err := ParseConfigFile(text)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	return values, nil
}

// ParseConfigFile reads lines NAME=value. Empty lines and lines that start with "#"
// do not count; white space around name and value does not either. A name that is
// no setting, or is there twice, is an error.
func ParseConfigFile(text []byte) (map[string]string, error) {
	var known []string
	for _, setting := range new(Config).Settings() {
		known = append(known, setting.Name)
	}
	values := map[string]string{}
	lines := bufio.NewScanner(bytes.NewReader(text))
	for n := 1; lines.Scan(); n++ {
		line := strings.TrimSpace(lines.Text())
		if line == "" || strings.HasPrefix(line, "#") {
			continue
		}
		name, value, ok := strings.Cut(line, "=")
		name = strings.TrimSpace(name)
		switch {
		case !ok:
			return nil, fmt.Errorf("line %d: must be NAME=value", n) // the text may be a secret
		case !slices.Contains(known, name) && !issuerSetting.MatchString(name):
			return nil, fmt.Errorf("line %d: unknown setting %.64q, did you mean %s?", n, name, Nearest(name, known))
		}
		if _, twice := values[name]; twice {
			return nil, fmt.Errorf("line %d: %s is set twice", n, name)
		}
		values[name] = strings.TrimSpace(value)
	}
	if err := lines.Err(); err != nil {
		if errors.Is(err, bufio.ErrTooLong) {
			return nil, errors.New("a line is longer than 64 KiB")
		}
		return nil, err
	}
	return values, nil
}

// Nearest is the candidate with the fewest single-character edits away from name,
// letter case aside; the first of equals.
func Nearest(name string, candidates []string) string {
	if len(name) > 64 {
		name = name[:64]
	}
	best, fewest := "", int(^uint(0)>>1)
	for _, c := range candidates {
		if d := edits(strings.ToUpper(name), strings.ToUpper(c)); d < fewest {
			best, fewest = c, d
		}
	}
	return best
}

// edits is the Levenshtein distance of two texts, in bytes.
func edits(a, b string) int {
	row := make([]int, len(b)+1)
	for j := range row {
		row[j] = j
	}
	for i := 1; i <= len(a); i++ {
		diagonal := row[0]
		row[0] = i
		for j := 1; j <= len(b); j++ {
			change := diagonal
			if a[i-1] != b[j-1] {
				change++
			}
			diagonal = row[j]
			row[j] = min(row[j]+1, row[j-1]+1, change)
		}
	}
	return row[len(b)]
}

// FromEnvironment is the configuration of an environment and of no flag and no file;
// the arguments are those of [NewSources].
func FromEnvironment(dev bool, lookupEnv func(name string) (string, bool), names ...string) (Config, error) {
	var cli struct {
		Config
		DevFlag bool `name:"dev"`
	}
	sources := NewSources(lookupEnv, names...)
	parser, err := kong.New(&cli, kong.Resolvers(sources))
	if err != nil {
		return Config{}, err
	}
	var args []string
	if dev {
		args = []string{"--dev"}
	}
	if _, err := parser.Parse(args); err != nil {
		return Config{}, err
	}
	cli.Dev = dev
	sources.Complete(&cli.Config)
	return cli.Config, nil
}
