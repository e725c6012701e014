// Package fleet simulates many RS-1 devices against one cloud and compares what they know with what its registry says.
//
// A Device (device.go) boots, connects, provisions, reports and obeys; one connection of it is a session (session.go),
// which a single goroutine drives; what the cloud orders is in obey.go, what a camera asks for in video.go, and the shapes
// of the messages are in payload.go.
// A Fleet (this file) holds the devices of a run, and a scenario (scenario.go, storm.go, takeover.go, crashcheck.go)
// decides what happens to them and ends with a Verdict. api.go is the administrator's side.
//
// Goroutines: one for each device, which owns the device; one that paces the first connects; one that draws; in the
// takeover scenario one for each id and one for each of its connections. All of them end before Run returns.
package fleet

import (
	"context"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"net"
	"slices"
	"strings"
	"sync"
	"syscall"
	"time"
)

// Options say what to run. Zero values are replaced as the comments say.
type Options struct {
	Behaviour

	URL      string // mqtt:// or mqtts://
	Roots    *x509.CertPool
	Devices  int           // 0 = 25
	Scenario string        // "" = steady
	Duration time.Duration // 0 = the scenario's own; steady then runs until the context ends
	Seed     uint16
	Salt     string // "" = opticworks-rs1
	State    string // file of identities, "" = none

	ConnectRate float64 // first connects a second; 0 = 500

	API      *API // nil: no enrolment, and verdicts rest on the devices' own view
	NoEnrol  bool
	Owner    string        // e-mail of the person who bought the devices, "" = nobody
	Settle   time.Duration // how long the registry may take to agree; 0 = 15 s
	BackTime time.Duration // how long a fleet may take to come (back); 0 = 120 s

	Waves     int    // storm; 0 = 3
	Takeovers int    // takeover; 0 = 2000
	Ledger    string // crash-check
	Verify    bool   // crash-check: only compare an existing ledger

	Display *Display
}

// Complete fills in the defaults and refuses what makes no sense. Run does it too; a program calls it to tell a wrong
// option from a failed run.
func (o *Options) Complete() error {
	o.Behaviour.fillDefaults()
	setDefault(&o.Devices, 25)
	setDefault(&o.Scenario, "steady")
	setDefault(&o.Salt, "opticworks-rs1")
	setDefault(&o.ConnectRate, 500)
	setDefault(&o.Settle, 15*time.Second)
	setDefault(&o.BackTime, 120*time.Second)
	setDefault(&o.Waves, 3)
	setDefault(&o.Takeovers, 2000)
	if o.Display == nil {
		o.Display = NewDisplay(io.Discard, false)
	}
	switch {
	case o.Devices < 1 || o.Devices > maxDevices:
		return fmt.Errorf("%d devices: want 1 to %d", o.Devices, maxDevices)
	case !slices.Contains(Scenarios(), o.Scenario):
		return fmt.Errorf("scenario %q: want one of %s", o.Scenario, strings.Join(Scenarios(), ", "))
	case o.ConnectRate < 0 || o.Waves < 0 || o.Takeovers < 0:
		return errors.New("connect rate, waves and takeovers cannot be negative")
	case o.UpdateFailures < 0 || o.UpdateLies < 0 || o.UpdateFailures+o.UpdateLies > 1:
		return errors.New("the shares of updates that fail and that lie must be from 0 to 1 together")
	case o.Scenario == "crash-check" && o.Ledger == "":
		return errors.New("crash-check needs a ledger file")
	case (o.Verify || o.Owner != "") && o.API == nil:
		return errors.New("to verify or to set an owner the API's address is needed")
	}
	return nil
}

// Fleet is the devices of one run.
type Fleet struct {
	Options
	stats   Stats
	ids     []Identity
	devices []*Device
	faults  *faults // flaky only
	notes   []string

	group sync.WaitGroup
	off   context.CancelFunc // switches all devices off
}

// Scenarios lists the names of the scenarios.
func Scenarios() []string { return []string{"steady", "storm", "takeover", "flaky", "crash-check"} }

// Run enrols the fleet, plays the scenario and returns the report. When ctx ends, the scenario comes to its verdict
// at once. An error means that there is no verdict: a file, the enrolment, or a wrong option.
func Run(ctx context.Context, o Options) (Report, error) {
	if err := o.Complete(); err != nil {
		return Report{}, err
	}
	f := &Fleet{Options: o}
	start := time.Now()
	if !o.Verify {
		if err := f.prepare(ctx); err != nil {
			return Report{}, err
		}
	}
	verdict, err := f.play(ctx)
	f.stop()
	if err != nil {
		return Report{}, err
	}
	return f.report(verdict, time.Since(start)), nil
}

// play runs the scenario that Complete has checked.
func (f *Fleet) play(ctx context.Context) (Verdict, error) {
	switch f.Scenario {
	case "storm":
		return storm(ctx, f)
	case "takeover":
		return takeover(ctx, f)
	case "flaky":
		return flaky(ctx, f)
	case "crash-check":
		return crashCheck(ctx, f)
	}
	return steady(ctx, f)
}

// prepare makes the devices and enrols them.
func (f *Fleet) prepare(ctx context.Context) error {
	if err := checkFiles(f.Devices, f.Scenario); err != nil {
		return err
	}
	var err error
	f.ids, err = LoadIdentities(f.State, f.Seed, f.Devices, f.Salt)
	if err != nil {
		return err
	}
	var wrap func(int, net.Conn) net.Conn
	if f.Scenario == "flaky" {
		f.faults = newFaults(f.Seed)
		wrap = f.faults.wrap
	}
	dial, err := NewDialer(f.URL, f.Roots, f.Devices, wrap)
	if err != nil {
		return err
	}
	for i, id := range f.ids {
		f.devices = append(f.devices, NewDevice(id, i, f.Seed, &f.Behaviour, dial, &f.stats))
	}
	if f.API == nil || f.NoEnrol {
		return nil
	}
	return f.enrol(ctx)
}

func (f *Fleet) enrol(ctx context.Context) error {
	set, finish := f.Display.Bar("enrol", len(f.ids))
	result, err := f.API.Enrol(ctx, f.ids, set)
	finish()
	if err != nil {
		return fmt.Errorf("enrol: %w", err)
	}
	if result.Failed > 0 {
		return fmt.Errorf("enrol: %d devices failed, the first: %s", result.Failed, result.Sample)
	}
	f.Display.Say("enrolled %d devices, %d were already", result.Created, result.Already)
	if f.Owner == "" {
		return nil
	}
	orders, err := f.API.Order(ctx, f.ids, f.Owner, time.Now())
	if err != nil {
		return fmt.Errorf("orders: %w", err)
	}
	if orders.Failed > 0 {
		f.Display.Say("orders: %d were refused (an earlier run may have made them), the first: %s", orders.Failed, orders.Sample)
	}
	return nil
}

// start switches the devices on, at most ConnectRate a second. They live until stop, whatever happens to the caller's
// context: the verdict needs them alive.
func (f *Fleet) start() {
	ctx, off := context.WithCancel(context.Background())
	f.off = off
	f.group.Go(func() {
		begin := time.Now()
		for i, d := range f.devices {
			slot := begin.Add(time.Duration(float64(i) / f.ConnectRate * float64(time.Second)))
			// Sleeping for each of 15,000 devices would cost more than the pace is worth.
			if wait := time.Until(slot); wait > time.Millisecond && !pause(ctx, wait) {
				return
			}
			f.group.Go(func() { d.Run(ctx) })
		}
	})
}

// stop switches the devices off and waits for the last word of each.
func (f *Fleet) stop() {
	if f.off != nil {
		f.off()
	}
	f.group.Wait()
}

// note adds a line to the report and shows it.
func (f *Fleet) note(format string, args ...any) {
	line := fmt.Sprintf(format, args...)
	f.notes = append(f.notes, line)
	f.Display.Say("%s", line)
}

// live counts the devices that are connected and acknowledged.
func (f *Fleet) live() int {
	n := 0
	for _, d := range f.devices {
		if d.Live() {
			n++
		}
	}
	return n
}

// counters is the line that the display shows during a run.
func (f *Fleet) counters() string {
	s := &f.stats
	return fmt.Sprintf("online %d/%d  published %d  acked %d  reconnects %d  ack p50 %s p99 %s  errors %d",
		s.Online.Load(), f.Devices, s.Published.Load(), s.Acked.Load(), s.Reconnects.Load(),
		s.Ack.Quantile(0.5).Round(10*time.Microsecond), s.Ack.Quantile(0.99).Round(10*time.Microsecond), s.ErrorCount())
}

func (f *Fleet) report(v Verdict, took time.Duration) Report {
	s := &f.stats
	counts, samples := s.Errors()
	var video *VideoReport
	if f.Video {
		video = &VideoReport{s.Lent.Load(), s.Located.Load(), s.Ended.Load()}
	}
	return Report{
		Video: video, Scenario: f.Scenario, Devices: f.Devices, Seconds: took.Round(time.Millisecond).Seconds(),
		Connected: s.Connected.Load(), Provisioned: s.Provisioned.Load(),
		ConnectLatency: latencyOf(&s.Connect), AckLatency: latencyOf(&s.Ack),
		Published: s.Published.Load(), Acked: s.Acked.Load(), Commands: s.Commands.Load(), Reconnects: s.Reconnects.Load(),
		Errors: counts, ErrorSamples: samples, Notes: slices.Clone(f.notes), Verdict: v,
	}
}

// checkFiles says early that the machine cannot hold so many connections, instead of failing thousands of dials.
func checkFiles(devices int, scenario string) error {
	need := uint64(devices) + 64
	if scenario == "takeover" {
		need = uint64(devices)*(burstMost+1) + 64
	}
	var limit syscall.Rlimit
	if err := syscall.Getrlimit(syscall.RLIMIT_NOFILE, &limit); err != nil {
		return fmt.Errorf("read the limit of open files: %w", err)
	}
	// Go has raised the soft limit to the hard one already.
	if limit.Max < need {
		return fmt.Errorf("%d devices need %d open files, the limit is %d: raise it (ulimit -Hn)", devices, need, limit.Max)
	}
	return nil
}
