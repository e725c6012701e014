package main

import (
	"encoding/json"
	"fmt"
	"io"
	"os"
	"slices"
	"strings"
	"text/tabwriter"
)

// report is everything that a run found.
type report struct {
	Machine  machine
	Rows     []row
	Profiles []profile
}

// row is one line of the table.
type row struct {
	Benchmark string
	What      string
	Unit      string
	Value     float64   // the median
	Samples   []float64 // each measurement
	Against   string    // what Ratio compares with
	Ratio     float64   // 0: none
	Target    float64   // at most; of Ratio when there is one, else of Value; 0: none
	Stretch   float64   // what the target would like to be
	Verdict   string    // "", "ok", "ok (stretch)" or "MISSED"
	Note      string
}

// profile says where the time of a server went.
type profile struct {
	Why  string
	File string
	Top  string // of go tool pprof
}

// missed reports whether the row has a target and does not meet it.
func (r row) missed() bool { return r.Target > 0 && r.judged() > r.Target }

func (r row) judged() float64 {
	if r.Against != "" {
		return r.Ratio
	}
	return r.Value
}

func (r row) verdict() string {
	switch {
	case r.Target == 0:
		return ""
	case r.missed():
		return "MISSED"
	case r.Stretch > 0 && r.judged() <= r.Stretch:
		return "ok (stretch)"
	}
	return "ok"
}

func (r row) target() string {
	switch {
	case r.Target == 0:
		return ""
	case r.Against != "":
		return fmt.Sprintf("<= %.2f x", r.Target)
	}
	return fmt.Sprintf("<= %g %s", r.Target, r.Unit)
}

func (r row) ratio() string {
	if r.Against == "" {
		return ""
	}
	return fmt.Sprintf("%.2f x %s", r.Ratio, r.Against)
}

func (r row) spread() string {
	if len(r.Samples) < 2 {
		return ""
	}
	return fmt.Sprintf("%s-%s", number(slices.Min(r.Samples)), number(slices.Max(r.Samples)))
}

// number is v with three significant digits or so.
func number(v float64) string {
	switch {
	case v >= 100 || v <= -100:
		return fmt.Sprintf("%.0f", v)
	case v >= 10 || v <= -10:
		return fmt.Sprintf("%.1f", v)
	}
	return fmt.Sprintf("%.2f", v)
}

// add puts a row into the report, and returns whether it misses its target. The value of measurements is their median.
func (r *report) add(line row) (missed bool) {
	if len(line.Samples) > 0 {
		line.Value = median(line.Samples)
	}
	line.Verdict = line.verdict()
	r.Rows = append(r.Rows, line)
	return line.missed()
}

func median(samples []float64) float64 {
	sorted := slices.Sorted(slices.Values(samples))
	if len(sorted) == 0 {
		return 0
	}
	if n := len(sorted); n%2 == 0 {
		return (sorted[n/2-1] + sorted[n/2]) / 2
	}
	return sorted[len(sorted)/2]
}

// ratios are the quotients of measurements that were made in turn.
func ratios(ours, theirs []float64) []float64 {
	var all []float64
	for i := range min(len(ours), len(theirs)) {
		if theirs[i] > 0 {
			all = append(all, ours[i]/theirs[i])
		}
	}
	return all
}

func (r *report) print(out io.Writer) {
	w := tabwriter.NewWriter(out, 0, 0, 2, ' ', 0)
	benchmark := ""
	for _, line := range r.Rows {
		if line.Benchmark != benchmark {
			benchmark = line.Benchmark
			fmt.Fprintf(w, "\n%s\tmedian\tlowest-highest\tratio\ttarget\t\n", strings.ToUpper(benchmark))
		}
		note := strings.TrimSpace(line.Verdict + "  " + line.Note)
		fmt.Fprintf(w, "%s\t%s %s\t%s\t%s\t%s\t%s\n", line.What, number(line.Value), line.Unit, line.spread(), line.ratio(), line.target(), note)
	}
	_ = w.Flush()
	for _, p := range r.Profiles {
		fmt.Fprintf(out, "\n%s: %s\n%s", p.Why, p.File, p.Top)
	}
}

func (r *report) writeJSON(file string) error {
	text, err := json.MarshalIndent(r, "", "  ")
	if err != nil {
		return err
	}
	return os.WriteFile(file, append(text, '\n'), 0o644)
}
