package main

import (
	"bytes"
	"context"
	"encoding/json"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
	"time"
)

// asProgram makes the test's own executable the program: the program starts itself in many roles.
const asProgram = "DEVICECLOUD_BENCH_PROGRAM"

func TestMain(m *testing.M) {
	if os.Getenv(asProgram) != "" {
		main()
		return
	}
	os.Exit(m.Run())
}

func TestAShortRunFillsEveryRowOfTheTable(t *testing.T) {
	if runtime.GOOS != "linux" {
		t.Skip("the benchmarks read /proc")
	}
	t.Setenv(asProgram, "1")
	t.Setenv("GORACE", "atexit_sleep_ms=0") // with the race detector each process would sleep for a second at its end
	dir := t.TempDir()
	results := filepath.Join(dir, "results.json")
	var out, log bytes.Buffer
	if err := run(t.Context(), []string{"-short", "-json", results, "-profile", dir}, nil, &out, &log); err != nil {
		t.Fatalf("%v\n%s", err, log.String())
	}
	table := out.String()
	wanted := []string{
		"MESSAGES", "bare mochi, 50 devices", "devicecloud, 50 devices", "devicecloud, a person watching a device, 50 devices", "one UPDATE per message, 50 devices",
		"MEMORY", "bare mochi, connected TLS device", "devicecloud, connected TLS device", "bare mochi, idle TLS device, fresh", "devicecloud, idle TLS device, fresh", "devicecloud, idle TLS device, after 3 waves",
		"devicecloud, growth over 3 waves",
		"CONNECT", "bare mochi, TLS connect", "devicecloud, the same",
		"TOKEN CHECK", "a token for the first time", "a token again", "<= 60 µs CPU", "API CPU", "GET /api/devices (50), one request", "<= 1 ms CPU",
		"API P99", "GET /api/devices/{id}, idle", "GET /admin/stats, 50 devices report once a second", "GET /api/devices (50), 50 devices report without pause",
		"COMMAND P99", "POST to device to answer, 50 devices report once a second", "<= 50 ms",
		"IDLE", "devicecloud, 200 known devices",
		"<= 1.50 x", "<= 45 KB", "<= 15 %", "<= 1.25 x", "<= 3 % of a core",
		"messages of 50 devices: where the time goes", "flat%",
	}
	if _, ok := mosquittoPath(); ok {
		wanted = append(wanted, "mosquitto and a batching subscriber, 50 devices")
	}
	for _, what := range wanted {
		if !strings.Contains(table, what) {
			t.Errorf("the table lacks %q", what)
		}
	}
	if t.Failed() {
		t.Log(table)
	}
	text, err := os.ReadFile(results)
	if err != nil {
		t.Fatal(err)
	}
	var kept report
	if err := json.Unmarshal(text, &kept); err != nil {
		t.Fatal(err)
	}
	if kept.Machine.Cores == 0 || kept.Machine.Go == "" {
		t.Errorf("the results do not say on which machine: %+v", kept.Machine)
	}
	for _, line := range kept.Rows {
		if strings.HasSuffix(line.Unit, "KB") && line.Value <= 0 {
			t.Errorf("%s %s: %v KB", line.Benchmark, line.What, line.Value)
		}
	}
}

func TestOnlyTheChosenBenchmarksRun(t *testing.T) {
	chosen, err := choose("idle, messages")
	if err != nil {
		t.Fatal(err)
	}
	if len(chosen) != 2 || chosen[0].name != "idle" || chosen[1].name != "messages" {
		t.Errorf("chosen: %v", chosen)
	}
	if _, err := choose("messages,speed"); err == nil || !strings.Contains(err.Error(), `"speed"`) {
		t.Errorf("an unknown benchmark: %v", err)
	}
}

func TestAMissedTargetIsMarked(t *testing.T) {
	for _, c := range []struct {
		name string
		row  row
		want string
	}{
		{"a row without a target has no verdict", row{Value: 100}, ""},
		{"a value at its target is ok", row{Value: 45, Target: 45}, "ok"},
		{"a value above its target is missed", row{Value: 45.1, Target: 45}, "MISSED"},
		{"a ratio is judged, not the value", row{Value: 7, Against: "bare", Ratio: 1.4, Target: 1.5, Stretch: 1.35}, "ok"},
		{"a ratio above its target is missed", row{Value: 1, Against: "bare", Ratio: 1.51, Target: 1.5}, "MISSED"},
		{"a stretch target is named when it is met", row{Against: "bare", Ratio: 1.3, Target: 1.5, Stretch: 1.35}, "ok (stretch)"},
	} {
		t.Run(c.name, func(t *testing.T) {
			var r report
			missed := r.add(c.row)
			if got := r.Rows[0].Verdict; got != c.want || missed != (c.want == "MISSED") {
				t.Errorf("verdict %q, missed %t; want %q", got, missed, c.want)
			}
			var out bytes.Buffer
			r.print(&out)
			if !strings.Contains(out.String(), c.want) {
				t.Errorf("the table does not say %q:\n%s", c.want, out.String())
			}
		})
	}
}

func TestMediansAndRatiosComeFromTheMeasurements(t *testing.T) {
	if m := median([]float64{5, 1, 3}); m != 3 {
		t.Errorf("median of 5, 1, 3: %v", m)
	}
	if m := median([]float64{4, 2}); m != 3 {
		t.Errorf("median of 4, 2: %v", m)
	}
	if all := ratios([]float64{2, 9, 4}, []float64{1, 3, 0}); len(all) != 2 || all[0] != 2 || all[1] != 3 {
		t.Errorf("ratios: %v", all)
	}
	var times []time.Duration
	for i := range 1000 {
		times = append(times, time.Duration(1000-i)*time.Millisecond)
	}
	if p50, p99 := percentiles(times); p50 != 501*time.Millisecond || p99 != 990*time.Millisecond {
		t.Errorf("p50 %s, p99 %s", p50, p99)
	}
}

func TestProcFilesAreRead(t *testing.T) {
	used, err := parseStat([]byte("42 (a (b) c) S 1 2 3 4 5 6 7 8 9 10 250 50 0 0 20 0 1 0 100\n"))
	if err != nil || used != 3*time.Second {
		t.Errorf("utime 250 and stime 50 ticks: %s, %v", used, err)
	}
	if _, err := parseStat([]byte("42 (x) S 1")); err == nil {
		t.Error("a line that is too short is read")
	}
	m, err := parseSmaps([]byte("55d0-7ffe ---p 00000000 00:00 0 [rollup]\nRss:               2048 kB\nPss:               1024 kB\nPss_Dirty: 7 kB\n"))
	if err != nil || m.RSS != 2<<20 || m.PSS != 1<<20 {
		t.Errorf("smaps_rollup: %+v, %v", m, err)
	}
	if _, err := parseSmaps([]byte("Rss: 5 kB\n")); err == nil {
		t.Error("smaps_rollup without Pss is read")
	}
}

func TestStateMessagesLookLikeThoseOfADevice(t *testing.T) {
	golden, err := os.ReadFile("../testdata/wire/state.json")
	if err != nil {
		t.Fatal(err)
	}
	var want, got map[string]any
	if err := json.Unmarshal(golden, &want); err != nil {
		t.Fatal(err)
	}
	b, idAt, uptimeAt := deviceAt(7).statePacket()
	if id := renumber(b, idAt, uptimeAt, 65535); id != 1 || b[idAt] != 0 || b[idAt+1] != 1 {
		t.Errorf("message 65535 has packet id %d, bytes %x: 0 is no id", id, b[idAt:idAt+2])
	}
	if err := json.Unmarshal(b[idAt+2:], &got); err != nil {
		t.Fatalf("%v: %s", err, b[idAt+2:])
	}
	for name := range want {
		if _, ok := got[name]; !ok {
			t.Errorf("%s is missing", name)
		}
	}
	if got["uptime_sec"] != 100065535.0 {
		t.Errorf("uptime_sec of message 65535: %v", got["uptime_sec"])
	}
	if size := len(b) - 3; b[0] != 0x32 || int(b[1])&127|int(b[2])<<7 != size {
		t.Errorf("fixed header %x of a packet with %d bytes", b[:3], size)
	}
}

func TestAnswersAreReadWhateverTheirPieces(t *testing.T) {
	for _, c := range []struct {
		name   string
		pieces []string
		ok     bool
	}{
		{"a whole packet", []string{"\x40\x02\x01\x02"}, true},
		{"a packet in two pieces", []string{"\x40\x02\x01", "\x02"}, true},
		{"another packet", []string{"\x90\x03\x00\x01\x01"}, false},
		{"two packets at once", []string{"\x40\x02\x01\x02\x40\x02\x01\x03"}, false},
		{"a packet that ends early", []string{"\x40\x02\x01"}, false},
	} {
		t.Run(c.name, func(t *testing.T) {
			var parts []*strings.Reader
			for _, p := range c.pieces {
				parts = append(parts, strings.NewReader(p))
			}
			body, err := expect(&pieces{parts}, make([]byte, 64), puback)
			if (err == nil) != c.ok || c.ok && string(body) != "\x01\x02" {
				t.Errorf("%x, %v", body, err)
			}
		})
	}
}

// pieces gives what a network gives: one piece for each Read.
type pieces struct{ rest []*strings.Reader }

func (p *pieces) Read(b []byte) (int, error) {
	for len(p.rest) > 1 && p.rest[0].Len() == 0 {
		p.rest = p.rest[1:]
	}
	return p.rest[0].Read(b)
}

func TestAProcessThatCannotStartSaysWhy(t *testing.T) {
	t.Setenv(asProgram, "1")
	_, err := spawn(context.Background(), "ours", start{Dir: t.TempDir()})
	if err == nil || !strings.Contains(err.Error(), "ours") {
		t.Errorf("a server without certificate: %v", err)
	}
	if _, err := spawn(t.Context(), "nobody", start{}); err == nil || !strings.Contains(err.Error(), `no role "nobody"`) {
		t.Errorf("an unknown role: %v", err)
	}
}
