package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"runtime"
	"strconv"
	"strings"
	"time"
)

// tick is the unit of utime and stime in /proc/PID/stat: USER_HZ, which is 100 on every Linux.
const tick = 10 * time.Millisecond

// cpu is the processor time that processes have used so far, user and system, to 10 ms.
func cpu(all ...*process) (time.Duration, error) {
	var sum time.Duration
	for _, p := range all {
		if p == nil {
			continue
		}
		text, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", p.cmd.Process.Pid))
		if err != nil {
			return 0, fmt.Errorf("CPU time of %s: %w", p.name, err)
		}
		used, err := parseStat(text)
		if err != nil {
			return 0, err
		}
		sum += used
	}
	return sum, nil
}

// parseStat reads utime and stime, fields 14 and 15. The program's name, field 2, may hold blanks and parentheses.
func parseStat(text []byte) (time.Duration, error) {
	fields := bytes.Fields(text[bytes.LastIndexByte(text, ')')+1:])
	if len(fields) < 13 {
		return 0, errors.New("/proc/PID/stat is too short")
	}
	var sum time.Duration
	for _, f := range fields[11:13] {
		n, err := strconv.ParseInt(string(f), 10, 64)
		if err != nil {
			return 0, fmt.Errorf("/proc/PID/stat: %w", err)
		}
		sum += time.Duration(n) * tick
	}
	return sum, nil
}

// settledCPU is cpu once the processes have come to rest: they used next to nothing for 200 ms, or 10 s are over.
func settledCPU(ctx context.Context, all ...*process) (time.Duration, error) {
	last, err := cpu(all...)
	for i := 0; err == nil && i < 50; i++ {
		if err := pause(ctx, 200*time.Millisecond); err != nil {
			return 0, err
		}
		var now time.Duration
		if now, err = cpu(all...); now-last <= tick {
			return now, err
		}
		last = now
	}
	return last, err
}

func pause(ctx context.Context, d time.Duration) error {
	select {
	case <-time.After(d):
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// memory is what a process holds, in bytes.
type memory struct{ RSS, PSS int64 }

func memoryOf(p *process) (memory, error) {
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/smaps_rollup", p.cmd.Process.Pid))
	if err != nil {
		return memory{}, fmt.Errorf("memory of %s: %w", p.name, err)
	}
	return parseSmaps(text)
}

func parseSmaps(text []byte) (m memory, err error) {
	for line := range strings.Lines(string(text)) {
		name, value, _ := strings.Cut(line, ":")
		field := map[string]*int64{"Rss": &m.RSS, "Pss": &m.PSS}[name]
		if field == nil {
			continue
		}
		kib, err := strconv.ParseInt(strings.TrimSuffix(strings.TrimSpace(value), " kB"), 10, 64)
		if err != nil {
			return m, fmt.Errorf("/proc/PID/smaps_rollup: %w", err)
		}
		*field = kib << 10
	}
	if m.RSS == 0 || m.PSS == 0 {
		return m, errors.New("/proc/PID/smaps_rollup says nothing of Rss or Pss")
	}
	return m, nil
}

// machine is what the numbers were measured on.
type machine struct {
	CPU       string
	Cores     int
	Go        string
	Kernel    string
	Mosquitto string // version, "" when it is not installed
}

func (m machine) String() string {
	other := "no mosquitto"
	if m.Mosquitto != "" {
		other = "mosquitto " + m.Mosquitto
	}
	return fmt.Sprintf("devicecloud bench: %s, %d cores, Linux %s, %s, %s", m.CPU, m.Cores, m.Kernel, m.Go, other)
}

func describeMachine(ctx context.Context) machine {
	m := machine{CPU: "unknown CPU", Cores: runtime.NumCPU(), Go: runtime.Version(), Kernel: "?"}
	if text, err := os.ReadFile("/proc/sys/kernel/osrelease"); err == nil {
		m.Kernel = strings.TrimSpace(string(text))
	}
	if text, err := os.ReadFile("/proc/cpuinfo"); err == nil {
		for line := range strings.Lines(string(text)) {
			if name, value, ok := strings.Cut(line, ":"); ok && strings.TrimSpace(name) == "model name" {
				m.CPU = strings.TrimSpace(value)
				break
			}
		}
	}
	if path, ok := mosquittoPath(); ok {
		// It says its version when asked for help, and exits with an error.
		text, _ := exec.CommandContext(ctx, path, "-h").CombinedOutput()
		line, _, _ := strings.Cut(string(text), "\n")
		m.Mosquitto = strings.TrimPrefix(strings.TrimSpace(line), "mosquitto version ")
	}
	return m
}
