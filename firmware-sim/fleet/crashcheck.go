package fleet

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"strconv"
	"strings"
	"sync"
	"time"
)

// crashDefault is how long crash-check reports when nobody says otherwise.
const crashDefault = 60 * time.Second

// LedgerFile notes every acknowledged message, a line each: "state DEVICE_ID UPTIME" or "provision DEVICE_ID". A line
// is handed to the operating system before the acknowledgement is counted, so the file never knows less than the
// report; that the server's machine dies is its own affair, ours keeps running.
type LedgerFile struct {
	mu   sync.Mutex
	file *os.File
}

// OpenLedger opens the file for appending.
func OpenLedger(path string) (*LedgerFile, error) {
	file, err := os.OpenFile(path, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o644)
	if err != nil {
		return nil, err
	}
	return &LedgerFile{file: file}, nil
}

// State notes an acknowledged state by its uptime, which grows with every state of a device.
func (l *LedgerFile) State(deviceID string, uptime uint32) error {
	return l.append(fmt.Sprintf("state %s %d\n", deviceID, uptime))
}

// Provision notes an acknowledged provisioning.
func (l *LedgerFile) Provision(deviceID string) error {
	return l.append("provision " + deviceID + "\n")
}

func (l *LedgerFile) append(line string) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	_, err := l.file.WriteString(line)
	return err
}

// Close closes the file.
func (l *LedgerFile) Close() error { return l.file.Close() }

// ledgerEntry is the last that was acknowledged to a device.
type ledgerEntry struct {
	uptime      int64 // -1 for no state
	provisioned bool
}

// readLedger returns the last entry of each device; no file is an empty ledger. A last line without its end, from a
// simulator that was killed, does not count.
func readLedger(path string) (map[string]ledgerEntry, int, error) {
	entries := map[string]ledgerEntry{}
	raw, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		return entries, 0, nil
	}
	if err != nil {
		return nil, 0, err
	}
	whole := raw[:strings.LastIndexByte(string(raw), '\n')+1]
	lines := 0
	for scanner := bufio.NewScanner(strings.NewReader(string(whole))); scanner.Scan(); {
		lines++
		fields := strings.Fields(scanner.Text())
		entry, known := ledgerEntry{uptime: -1}, false
		if len(fields) > 1 {
			if entry, known = entries[fields[1]]; !known {
				entry.uptime = -1
			}
		}
		switch {
		case len(fields) == 3 && fields[0] == "state":
			uptime, err := strconv.ParseInt(fields[2], 10, 64)
			if err != nil {
				return nil, 0, fmt.Errorf("ledger %s line %d: %w", path, lines, err)
			}
			entry.uptime = max(entry.uptime, uptime)
		case len(fields) == 2 && fields[0] == "provision":
			entry.provisioned = true
		default:
			return nil, 0, fmt.Errorf("ledger %s line %d: %q", path, lines, scanner.Text())
		}
		entries[fields[1]] = entry
	}
	return entries, lines, nil
}

// crashCheck lets the devices report into a ledger while somebody kills and restarts the cloud, and finally asks
// whether the registry has everything that was acknowledged.
func crashCheck(ctx context.Context, f *Fleet) (Verdict, error) {
	if f.Verify {
		return f.verifyLedger(ctx)
	}
	earlier, _, err := readLedger(f.Ledger)
	if err != nil {
		return Verdict{}, err
	}
	ledger, err := OpenLedger(f.Ledger)
	if err != nil {
		return Verdict{}, err
	}
	for _, d := range f.devices {
		d.ledger = ledger
		if entry, ok := earlier[d.Identity.DeviceID]; ok {
			// Above what an earlier run had acknowledged, or an old report would pass for a new one.
			d.baseMark = entry.uptime + 1
		}
	}
	f.start()
	setDefault(&f.Duration, crashDefault)
	f.during(ctx, f.Duration)
	// Everybody back means that the cloud is up again and that its answer is worth asking for.
	back, stopWaiting := context.WithTimeout(context.WithoutCancel(ctx), f.BackTime)
	defer stopWaiting()
	everybody := waitFor(back, func() bool { return f.live() == f.Devices })
	f.stop()
	if err := ledger.Close(); err != nil {
		return Verdict{}, err
	}
	if !everybody {
		f.note("not all devices came back before the comparison")
	}
	if f.API == nil {
		return Verdict{OK: true, Line: "acked messages missing from the registry: unknown (no --api to compare with)"}, nil
	}
	return f.verifyLedger(ctx)
}

// verifyLedger compares the ledger with the registry. It asks until the registry can be read.
func (f *Fleet) verifyLedger(ctx context.Context) (Verdict, error) {
	ctx, cancel := f.verdictContext(ctx)
	defer cancel()
	entries, lines, err := readLedger(f.Ledger)
	if err != nil {
		return Verdict{}, err
	}
	if lines == 0 {
		return Verdict{Line: "acked messages missing from the registry: unknown, the ledger is empty"}, nil
	}
	if f.Verify {
		f.Devices = len(entries) // for the report: nobody was started
	}
	registry, err := f.readRegistry(ctx, entries)
	if err != nil {
		return Verdict{Line: fmt.Sprintf("acked messages missing from the registry: unknown, it cannot be read: %v", err)}, nil
	}
	missing := 0
	for id, acked := range entries {
		got := registry[id]
		before := missing
		if acked.uptime >= 0 && (got.UptimeSec == nil || *got.UptimeSec < acked.uptime) {
			missing++
		}
		if acked.provisioned && got.ProvisionedAt == nil {
			missing++
		}
		if before == 0 && missing > 0 {
			f.note("first missing: %s acked uptime %d and provisioning %t, registry has %s and provisioning %t",
				id, acked.uptime, acked.provisioned, uptimeText(got.UptimeSec), got.ProvisionedAt != nil)
		}
	}
	f.note("ledger: %d acknowledged messages of %d devices", lines, len(entries))
	return Verdict{OK: missing == 0, Line: fmt.Sprintf("acked messages missing from the registry: %d", missing)}, nil
}

// readRegistry returns what the registry knows of the ledger's devices. It tries again for a while when the registry
// cannot be read, but does not wait for agreement: what was acknowledged must be there at once.
func (f *Fleet) readRegistry(ctx context.Context, entries map[string]ledgerEntry) (map[string]RegistryDevice, error) {
	deadline := time.Now().Add(f.Settle)
	for {
		registry, err := f.API.Devices(ctx)
		if err == nil {
			err = f.readStates(ctx, entries, registry)
		}
		if err == nil || time.Now().After(deadline) || !pause(ctx, presencePoll) {
			return registry, err
		}
	}
}

// detailReaders is how many devices are read at once.
const detailReaders = 8

// readStates completes the rows of a list that leaves the uptime out.
func (f *Fleet) readStates(ctx context.Context, entries map[string]ledgerEntry, registry map[string]RegistryDevice) error {
	var incomplete []string
	for id, acked := range entries {
		if row, known := registry[id]; known && row.UptimeSec == nil && acked.uptime >= 0 {
			incomplete = append(incomplete, id)
		}
	}
	ids := make(chan string)
	var mu sync.Mutex
	var failures []error
	var group sync.WaitGroup
	for range detailReaders {
		group.Go(func() {
			for id := range ids {
				device, err := f.API.Device(ctx, id)
				mu.Lock()
				if err != nil {
					failures = append(failures, err)
				} else {
					registry[id] = device
				}
				mu.Unlock()
			}
		})
	}
	for _, id := range incomplete {
		ids <- id
	}
	close(ids)
	group.Wait()
	return errors.Join(failures...)
}

func uptimeText(uptime *int64) string {
	if uptime == nil {
		return "no uptime"
	}
	return fmt.Sprintf("uptime %d", *uptime)
}
