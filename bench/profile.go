package main

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
)

// profileFile is where the CPU profile of a benchmark goes, and whether one is wanted: when its target was missed, or
// when a directory for profiles was given.
func (b *bench) profileFile(name string, missed bool) (file string, wanted bool) {
	dir := b.profile
	if dir == "" {
		dir = os.TempDir()
	}
	return filepath.Join(dir, "devicecloud-"+name+".pprof"), missed || b.profile != ""
}

// besideFile is where the profile of bare mochi goes: the difference is what is ours, see pprof -diff_base.
func besideFile(file string) string { return strings.TrimSuffix(file, ".pprof") + "-bare.pprof" }

// explain puts the fifteen most expensive functions of a CPU profile into the report. The go command must be there.
func (b *bench) explain(ctx context.Context, why, file string) error {
	self, err := os.Executable()
	if err != nil {
		return err
	}
	top, err := exec.CommandContext(ctx, "go", "tool", "pprof", "-top", "-nodecount=15", self, file).CombinedOutput()
	if err != nil {
		return fmt.Errorf("go tool pprof: %w: %s", err, top)
	}
	b.report.Profiles = append(b.report.Profiles, profile{Why: why, File: file, Top: string(top)})
	return nil
}
