package e2e_test

import (
	"context"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"syscall"
	"testing"
	"time"
)

// block is a fenced block of a page.
type block struct {
	line       int // where it begins
	kind, text string
}

// blocksOf reads the fenced blocks of a page.
func blocksOf(t *testing.T, file string) (blocks []block) {
	t.Helper()
	page, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	inside := false
	for i, line := range strings.Split(string(page), "\n") {
		kind, fence := strings.CutPrefix(line, "```")
		switch {
		case fence && !inside:
			blocks, inside = append(blocks, block{line: i + 2, kind: kind}), true
		case fence:
			inside = false
		case inside:
			blocks[len(blocks)-1].text += line + "\n"
		}
	}
	return blocks
}

// matches holds what was printed against what a page shows: <...> and ... stand for
// anything within a line, a line of ... for any lines.
func matches(printed, shown string) bool {
	var pattern strings.Builder
	for line := range strings.Lines(shown) {
		if line == "...\n" {
			pattern.WriteString(`(?:.*\n)*?`)
			continue
		}
		line = regexp.QuoteMeta(line)
		line = regexp.MustCompile(`<[^>]*>`).ReplaceAllString(line, `[^"\n]+`)
		pattern.WriteString(strings.ReplaceAll(line, `\.\.\.`, `.*`))
	}
	return regexp.MustCompile("^" + pattern.String() + "$").MatchString(printed)
}

// freePorts are ports of loopback that nobody listens on, outside the range from which
// the kernel takes those of other tests.
func freePorts(t *testing.T, n int) (ports []string) {
	t.Helper()
	for port := 15000 + os.Getpid()%8000; len(ports) < n; port++ {
		l, err := net.Listen("tcp", fmt.Sprint("127.0.0.1:", port))
		if err != nil {
			continue
		}
		defer l.Close() // so that they differ
		ports = append(ports, fmt.Sprint(port))
	}
	return ports
}

// TestTheTutorial runs docs/tutorial.md as a newcomer does: block after block in one
// bash, in a folder where `make build` gives the programs of this run. Only the two
// addresses at its top are others, so that it disturbs nobody.
func TestTheTutorial(t *testing.T) {
	t.Parallel()
	for _, program := range []string{"curl", "mosquitto_sub", "make"} {
		skipWithout(t, program, haveProgram(program))
	}
	dir := t.TempDir()
	makefile := "build:\n\t@mkdir -p bin && cp " + Binary(t, "devicecloud") + " " + Binary(t, "firmware-sim") + " bin/\n"
	if err := os.WriteFile(filepath.Join(dir, "Makefile"), []byte(makefile), 0o600); err != nil {
		t.Fatal(err)
	}
	ports := freePorts(t, 4)
	elsewhere := strings.NewReplacer("API=http://127.0.0.1:8080", "API=http://127.0.0.1:"+ports[0], "BROKER=localhost:8883", "BROKER=localhost:"+ports[1])

	const mark = "=== the end of the block at line "
	blocks := blocksOf(t, "../docs/tutorial.md")
	script := "set -euo pipefail\n"
	for _, b := range blocks {
		if b.kind == "sh" {
			script += elsewhere.Replace(b.text) + fmt.Sprintf("echo '%s%d'\n", mark, b.line)
		}
	}
	file := filepath.Join(dir, "tutorial.sh")
	if err := os.WriteFile(file, []byte(script), 0o600); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
	defer cancel()
	bash := exec.CommandContext(ctx, "bash", file)
	bash.Dir, bash.SysProcAttr = dir, &syscall.SysProcAttr{Setpgid: true}
	bash.Env = environ(map[string]string{
		"HTTP_ADDR": "127.0.0.1:" + ports[0], "MQTT_TLS_ADDR": "127.0.0.1:" + ports[1], "MQTT_ADDR": "127.0.0.1:" + ports[2], "METRICS_ADDR": "127.0.0.1:" + ports[3],
		"MAKELEVEL": "0", "MAKEFLAGS": "", // the reader's make is called by nobody
	})
	everybody := func() error { return syscall.Kill(-bash.Process.Pid, syscall.SIGKILL) } // what bash has begun too
	bash.Cancel, bash.WaitDelay = everybody, 5*time.Second
	var complaints logBuffer
	bash.Stderr = &complaints
	printed, failure := bash.Output()
	_ = everybody() // nobody may be left

	rest, ran := string(printed), 0
	for i, b := range blocks {
		if b.kind != "sh" {
			continue
		}
		said, after, done := strings.Cut(rest, fmt.Sprintf("%s%d\n", mark, b.line))
		if !done {
			log, _ := os.ReadFile(filepath.Join(dir, "tutorial", "cloud.log"))
			t.Fatalf("the block at line %d fails (%v) after it has printed\n%s\n%s\nthe cloud's log:\n%s", b.line, failure, rest, complaints.tail(20), log)
		}
		shown := ""
		if i+1 < len(blocks) && blocks[i+1].kind == "text" {
			shown = blocks[i+1].text
		}
		if !matches(said, shown) {
			t.Errorf("the block at line %d prints\n%s\nand the page shows\n%s", b.line, said, shown)
		}
		rest, ran = after, ran+1
	}
	if failure != nil || complaints.String() != "" {
		t.Errorf("it ends with %v and says\n%s", failure, complaints.String())
	}
	if ran < 15 {
		t.Errorf("only %d blocks were run", ran)
	}
	if _, err := os.Stat(filepath.Join(dir, "tutorial")); !os.IsNotExist(err) {
		t.Errorf("it leaves its data behind: %v", err)
	}
}
