package fleet

import (
	"fmt"
	"io"
	"maps"
	"slices"
	"time"
)

// Report is what a run leaves behind; --json prints it as it is.
type Report struct {
	Scenario       string            `json:"scenario"`
	Devices        int               `json:"devices"`
	Seconds        float64           `json:"seconds"`
	Connected      int64             `json:"connected"`
	Provisioned    int64             `json:"provisioned"`
	ConnectLatency Latency           `json:"connect_latency_ms"`
	AckLatency     Latency           `json:"ack_latency_ms"`
	Published      int64             `json:"published"`
	Acked          int64             `json:"acked"`
	Commands       int64             `json:"commands"`
	Reconnects     int64             `json:"reconnects"`
	Video          *VideoReport      `json:"video,omitempty"` // of devices with a camera
	Errors         map[string]int64  `json:"errors"`
	ErrorSamples   map[string]string `json:"error_samples,omitempty"`
	Notes          []string          `json:"notes,omitempty"` // figures of the scenario, a line each
	Verdict        Verdict           `json:"verdict"`
}

// VideoReport counts what devices with a camera were given and told.
type VideoReport struct {
	Lent    int64 `json:"credentials"`
	Located int64 `json:"referred_to_iot"`
	Ended   int64 `json:"viewers_ended"`
}

// Latency is a distribution in milliseconds.
type Latency struct {
	P50 float64 `json:"p50"`
	P99 float64 `json:"p99"`
	Max float64 `json:"max"`
}

// Verdict is the one line that decides the exit code.
type Verdict struct {
	OK   bool   `json:"ok"`
	Line string `json:"line"`
}

func latencyOf(h *Histogram) Latency {
	return Latency{P50: ms(h.Quantile(0.5)), P99: ms(h.Quantile(0.99)), Max: ms(h.Max())}
}

func ms(d time.Duration) float64 { return float64(d.Microseconds()) / 1000 }

// Print writes the report for a person. The verdict is the last line.
func (r Report) Print(w io.Writer) error {
	lines := []string{
		fmt.Sprintf("%s: %d devices for %.1f s", r.Scenario, r.Devices, r.Seconds),
		fmt.Sprintf("  connected %d, provisioned %d, reconnects %d", r.Connected, r.Provisioned, r.Reconnects),
		fmt.Sprintf("  published %d, acknowledged %d, orders of the cloud %d", r.Published, r.Acked, r.Commands),
		fmt.Sprintf("  connect p50 %.1f ms, p99 %.1f ms, max %.1f ms", r.ConnectLatency.P50, r.ConnectLatency.P99, r.ConnectLatency.Max),
		fmt.Sprintf("  ack     p50 %.1f ms, p99 %.1f ms, max %.1f ms", r.AckLatency.P50, r.AckLatency.P99, r.AckLatency.Max),
	}
	if v := r.Video; v != nil {
		lines = append(lines, fmt.Sprintf("  video credentials %d, referred to AWS IoT %d, viewers ended %d", v.Lent, v.Located, v.Ended))
	}
	for _, kind := range slices.Sorted(maps.Keys(r.Errors)) {
		line := fmt.Sprintf("  error %6d x %s", r.Errors[kind], kind)
		if sample := r.ErrorSamples[kind]; sample != "" && sample != kind {
			line += " (" + sample + ")"
		}
		lines = append(lines, line)
	}
	for _, note := range r.Notes {
		lines = append(lines, "  "+note)
	}
	word := "ok"
	if !r.Verdict.OK {
		word = "FAILED"
	}
	lines = append(lines, word+"  "+r.Verdict.Line)
	for _, line := range lines {
		if _, err := fmt.Fprintln(w, line); err != nil {
			return err
		}
	}
	return nil
}
