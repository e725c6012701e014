package fleet_test

import (
	"bytes"
	"context"
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/opticworks/devicecloud/firmware-sim/fleet"
	"github.com/opticworks/devicecloud/firmware-sim/mqttwire"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// options are those of a quick run of a small fleet against that cloud.
func options(t *testing.T, c *fakeCloud, scenario string) fleet.Options {
	t.Helper()
	api := fleet.NewAPI(c.api, "admin@example.com", "correct horse", nil)
	t.Cleanup(api.Close)
	return fleet.Options{
		Behaviour: fleet.Behaviour{Mixed: true, Interval: 50 * time.Millisecond, BackoffBase: 50 * time.Millisecond, BackoffCap: 200 * time.Millisecond},
		URL:       c.url, Devices: 8, Scenario: scenario, Seed: 1, API: api, Settle: 3 * time.Second, BackTime: 20 * time.Second,
	}
}

func run(t *testing.T, o fleet.Options) fleet.Report {
	t.Helper()
	report, err := fleet.Run(t.Context(), o)
	if err != nil {
		t.Fatal(err)
	}
	return report
}

func expect(t *testing.T, r fleet.Report, ok bool, line string) {
	t.Helper()
	if r.Verdict.OK != ok || !strings.Contains(r.Verdict.Line, line) {
		t.Errorf("verdict %+v, want ok %t and %q; errors %v, notes %q", r.Verdict, ok, line, r.Errors, r.Notes)
	}
}

func TestSteady(t *testing.T) {
	t.Parallel()
	t.Run("all devices are online in the registry", func(t *testing.T) {
		c := startCloud(t, func(c *fakeCloud) { c.expired = true })
		o := options(t, c, "steady")
		o.Duration, o.Owner, o.TelemetryInterval = time.Second, "someone@example.com", 100*time.Millisecond
		r := run(t, o)
		expect(t, r, true, "online in registry: 8/8")
		if r.Connected != 8 || r.Provisioned != 8 || r.Acked < 8 || len(r.Errors) != 0 || r.AckLatency.Max <= 0 || r.ConnectLatency.P50 <= 0 {
			t.Errorf("report %+v", r)
		}
		if c.count("telemetry") == 0 || c.count("provision") != 8 {
			t.Errorf("topics %v", c.topics)
		}
		for id, d := range c.devices {
			if d.owner != "someone@example.com" {
				t.Errorf("%s belongs to %q", id, d.owner)
			}
		}
		if c.logins != 2 {
			t.Errorf("%d logins, want one and another after the 401", c.logins)
		}
	})
	t.Run("the end of the context ends it with a verdict", func(t *testing.T) {
		o := options(t, startCloud(t, nil), "steady")
		ctx, cancel := context.WithTimeout(t.Context(), 700*time.Millisecond)
		defer cancel()
		r, err := fleet.Run(ctx, o)
		if err != nil {
			t.Fatal(err)
		}
		expect(t, r, true, "online in registry: 8/8")
	})
	t.Run("a device that may not connect is a failed verdict with its reason", func(t *testing.T) {
		c := startCloud(t, nil)
		o := options(t, c, "steady")
		o.NoEnrol, o.Duration, o.Settle = true, 300*time.Millisecond, time.Millisecond
		r := run(t, o)
		expect(t, r, false, "online in registry: 0/8")
		if r.Errors["CONNECT refused 0x04"] == 0 {
			t.Errorf("errors %v", r.Errors)
		}
	})
	t.Run("without an API the devices' own view decides", func(t *testing.T) {
		c := startCloud(t, nil)
		o := options(t, c, "steady")
		if _, err := o.API.Enrol(t.Context(), identities(8), func(int) {}); err != nil {
			t.Fatal(err)
		}
		o.API, o.Duration = nil, 500*time.Millisecond
		expect(t, run(t, o), true, "connected: 8/8")
	})
	t.Run("a wrong password of the administrator is said and not repeated", func(t *testing.T) {
		c := startCloud(t, nil)
		o := options(t, c, "steady")
		o.API = fleet.NewAPI(c.api, "admin@example.com", "wrong", nil)
		t.Cleanup(o.API.Close)
		if _, err := fleet.Run(t.Context(), o); err == nil || !strings.Contains(err.Error(), "log in as admin@example.com: HTTP 401") {
			t.Errorf("got %v", err)
		}
	})
}

func identities(n int) []fleet.Identity {
	ids, err := fleet.LoadIdentities("", 1, n, "opticworks-rs1")
	if err != nil {
		return nil
	}
	return ids
}

func TestStorm(t *testing.T) {
	t.Parallel()
	t.Run("everybody comes back and every flag is right", func(t *testing.T) {
		o := options(t, startCloud(t, nil), "storm")
		o.Waves = 2
		r := run(t, o)
		expect(t, r, true, "wrong presence flags: 0")
		if r.Reconnects < 16 || len(r.Notes) != 2 {
			t.Errorf("reconnects %d, notes %q", r.Reconnects, r.Notes)
		}
	})
	t.Run("a fleet that does not come up fails", func(t *testing.T) {
		o := options(t, startCloud(t, func(c *fakeCloud) { c.refuses = mqttwire.Refused311Unavailable }), "storm")
		o.BackTime = 200 * time.Millisecond
		expect(t, run(t, o), false, "only 0/8 devices came up")
	})
}

func TestFlaky(t *testing.T) {
	t.Parallel()
	o := options(t, startCloud(t, nil), "flaky")
	o.Duration = 2 * time.Second
	r := run(t, o)
	expect(t, r, true, "wrong presence flags: 0")
	if r.Reconnects == 0 {
		t.Errorf("nothing was cut: %+v", r)
	}
}

func TestTakeover(t *testing.T) {
	t.Parallel()
	play := func(t *testing.T, fault func(*fakeCloud)) fleet.Report {
		o := options(t, startCloud(t, fault), "takeover")
		o.Takeovers, o.Settle = 60, 500*time.Millisecond
		return run(t, o)
	}
	t.Run("a good cloud passes", func(t *testing.T) {
		r := play(t, nil)
		expect(t, r, true, "wrong presence flags: 0")
		if strings.Contains(r.Verdict.Line, ",") || r.Acked == 0 {
			t.Errorf("report %+v", r)
		}
	})
	t.Run("a late offline of an old connection is found", func(t *testing.T) {
		r := play(t, func(c *fakeCloud) { c.lateOffline = true })
		if r.Verdict.OK || strings.HasPrefix(r.Verdict.Line, "wrong presence flags: 0") {
			t.Errorf("verdict %+v", r.Verdict)
		}
	})
	t.Run("two live connections of one id are found", func(t *testing.T) {
		if testing.Short() {
			t.Skip("waits five seconds for the surplus to be closed")
		}
		t.Parallel()
		o := options(t, startCloud(t, func(c *fakeCloud) { c.twins = true }), "takeover")
		o.Takeovers = 8
		expect(t, run(t, o), false, "bursts with two live connections")
	})
	t.Run("connections that end for nothing are found", func(t *testing.T) {
		expect(t, play(t, func(c *fakeCloud) { c.closes = true }), false, "bursts without a survivor")
	})
	t.Run("a deaf survivor is found", func(t *testing.T) {
		if testing.Short() {
			t.Skip("waits fifteen seconds for the answer")
		}
		t.Parallel()
		o := options(t, startCloud(t, func(c *fakeCloud) { c.deaf = true }), "takeover")
		o.Takeovers = 8
		expect(t, run(t, o), false, "deaf survivors")
	})
	t.Run("a cloud that accepts nobody fails", func(t *testing.T) {
		o := options(t, startCloud(t, func(c *fakeCloud) { c.refuses = mqttwire.Refused311Unavailable }), "takeover")
		o.Duration = 300 * time.Millisecond
		expect(t, run(t, o), false, "no takeover was accepted")
	})
}

func TestCrashCheck(t *testing.T) {
	t.Parallel()
	t.Run("what was acknowledged is there, also after the connections died", func(t *testing.T) {
		c := startCloud(t, func(c *fakeCloud) { c.brief = true })
		o := options(t, c, "crash-check")
		o.Duration, o.Ledger = 1500*time.Millisecond, filepath.Join(t.TempDir(), "ledger")
		kill := time.AfterFunc(700*time.Millisecond, c.dropAll)
		defer kill.Stop()
		r := run(t, o)
		expect(t, r, true, "acked messages missing from the registry: 0")
		if r.Reconnects == 0 || r.Acked < 16 {
			t.Errorf("report %+v", r)
		}
		raw, err := os.ReadFile(o.Ledger)
		if err != nil || int64(bytes.Count(raw, []byte("\n"))) != r.Acked {
			t.Errorf("ledger has %d lines for %d acks, %v", bytes.Count(raw, []byte("\n")), r.Acked, err)
		}
		// A second run goes on above the first one's marks; --verify alone agrees.
		o.Duration = 300 * time.Millisecond
		expect(t, run(t, o), true, "missing from the registry: 0")
		o.Verify = true
		expect(t, run(t, o), true, "missing from the registry: 0")
	})
	t.Run("a cloud that acknowledges and forgets is found", func(t *testing.T) {
		o := options(t, startCloud(t, func(c *fakeCloud) { c.forgets = true }), "crash-check")
		o.Duration, o.Ledger = 500*time.Millisecond, filepath.Join(t.TempDir(), "ledger")
		expect(t, run(t, o), false, "missing from the registry: 16")
	})
	t.Run("half a line at the end of the ledger does not count", func(t *testing.T) {
		c := startCloud(t, nil)
		o := options(t, c, "crash-check")
		o.Ledger, o.Verify = filepath.Join(t.TempDir(), "ledger"), true
		id := identities(1)
		if _, err := o.API.Enrol(t.Context(), id, func(int) {}); err != nil {
			t.Fatal(err)
		}
		text := "state " + id[0].DeviceID + " 0\nstate " + id[0].DeviceID + " 99"
		if err := os.WriteFile(o.Ledger, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		expect(t, run(t, o), true, "missing from the registry: 0")
		if err := os.WriteFile(o.Ledger, []byte(text+"\n"), 0o600); err != nil {
			t.Fatal(err)
		}
		expect(t, run(t, o), false, "missing from the registry: 1")
	})
	t.Run("an empty ledger proves nothing", func(t *testing.T) {
		o := options(t, startCloud(t, nil), "crash-check")
		o.Ledger, o.Verify = filepath.Join(t.TempDir(), "none"), true
		expect(t, run(t, o), false, "the ledger is empty")
	})
}

func TestWrongOptionsAreRefused(t *testing.T) {
	for name, o := range map[string]fleet.Options{
		"unknown scenario":            {Scenario: "holiday"},
		"negative devices":            {Devices: -1},
		"crash-check without ledger":  {Scenario: "crash-check"},
		"verify without an API":       {Scenario: "crash-check", Ledger: "x", Verify: true},
		"an owner without an API":     {Owner: "a@example.com"},
		"a rate that cannot be":       {ConnectRate: -1},
		"an address without a scheme": {URL: "localhost"},
		"an unreadable state file":    {URL: "mqtt://localhost", State: "/dev/null/x"},
		"more than there are numbers": {Devices: 1 << 25},
	} {
		if _, err := fleet.Run(t.Context(), o); err == nil {
			t.Errorf("%s: accepted", name)
		}
	}
}

func TestReportForPeopleAndPrograms(t *testing.T) {
	r := fleet.Report{
		Scenario: "steady", Devices: 2, Errors: map[string]int64{"timeout": 3}, ErrorSamples: map[string]string{"timeout": "i/o timeout"},
		Notes: []string{"a figure"}, Verdict: fleet.Verdict{OK: false, Line: "online in registry: 1/2"},
	}
	var text bytes.Buffer
	if err := r.Print(&text); err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{"3 x timeout (i/o timeout)", "a figure", "FAILED  online in registry: 1/2\n"} {
		if !strings.Contains(text.String(), want) {
			t.Errorf("%q is missing in\n%s", want, text.String())
		}
	}
	raw, err := json.Marshal(r)
	if err != nil {
		t.Fatal(err)
	}
	for _, key := range []string{"scenario", "connect_latency_ms", "ack_latency_ms", "p99", "errors", "verdict", "line"} {
		if !strings.Contains(string(raw), `"`+key+`"`) {
			t.Errorf("%q is missing in %s", key, raw)
		}
	}
}
