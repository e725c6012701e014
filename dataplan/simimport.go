package dataplan

import (
	"bufio"
	"context"
	"encoding/csv"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"

	"github.com/opticworks/devicecloud/registry"
)

// maxSIMImport is how many lines an import of SIMs may have, since it is one transaction.
const maxSIMImport = 5000

// simColumns are the columns of an import of SIMs; iccid alone must be there.
var simColumns = []string{"iccid", "eid", "imsi", "msisdn", "device_id"}

// simLine is one line of an import, or what is wrong with it.
type simLine struct {
	line     int
	sim      SIM
	deviceID string
	err      error
}

// ImportSIMs writes the SIMs of a CSV with a header line of iccid and optionally eid,
// imsi, msisdn and device_id, in any order: at most 5,000 lines, all or nothing unless
// partial. A line that repeats a SIM is "existing"; its device_id is obeyed, its numbers
// are not changed. The report names SIMs masked. Errors: Invalid when the CSV itself
// cannot be read, TooLarge, and those of [Service.SIM].
func (s *Service) ImportSIMs(ctx context.Context, a registry.Actor, text io.Reader, partial bool) (registry.ImportReport, error) {
	if err := manages(a); err != nil {
		return registry.ImportReport{}, err
	}
	lines, err := readSIMs(text)
	switch {
	case err != nil:
		return registry.ImportReport{}, err
	case len(lines) > maxSIMImport:
		return registry.ImportReport{}, registry.E(registry.TooLarge, "import_too_large", fmt.Sprintf("An import of SIM cards has at most %d lines.", maxSIMImport))
	}
	var report registry.ImportReport
	err = s.store.InTx(ctx, func(tx Tx) error {
		report = registry.ImportReport{Applied: true}
		for _, l := range lines {
			fate := registry.ImportLine{Line: l.line, ID: l.sim.ICCID.Masked(), Status: registry.LineCreated}
			existing, err := false, l.err
			if err == nil {
				existing, err = s.importSIM(ctx, tx, a, l)
			}
			var e *registry.Error
			switch {
			case err == nil && existing:
				report.Existing++
				fate.Status = registry.LineExisting
			case err == nil:
				report.Created++
			case errors.As(err, &e) && e.Kind != registry.Internal && e.Kind != registry.Unavailable:
				report.Failed++
				fate.Status, fate.Code, fate.Message = registry.LineError, e.Code, e.Message
			default:
				return err
			}
			report.Lines = append(report.Lines, fate)
		}
		if report.Failed > 0 && !partial {
			return errSIMsRolledBack
		}
		return nil
	})
	if errors.Is(err, errSIMsRolledBack) {
		report.Applied, report.Created, err = false, 0, nil
	}
	if err == nil {
		s.wake()
	}
	return report, err
}

var errSIMsRolledBack = errors.New("an import with a bad line is rolled back")

// importSIM writes one line; existing means that the SIM was there.
func (s *Service) importSIM(ctx context.Context, tx Tx, a registry.Actor, l simLine) (existing bool, err error) {
	if l.deviceID != "" { // before anything is written: a line is written whole or not at all
		if _, err := tx.Device(ctx, l.deviceID); err != nil {
			return false, err
		}
		if other, has, err := tx.SIMInDevice(ctx, l.deviceID); err != nil {
			return false, err
		} else if has && other.ICCID != l.sim.ICCID {
			return false, ErrDeviceHasSIM
		}
	}
	sim, existing, err := tx.SIMByNumber(ctx, l.sim.ICCID, "")
	if err != nil {
		return existing, err
	}
	if existing && l.deviceID != "" && sim.DeviceNo != 0 && sim.DeviceID != l.deviceID {
		return existing, ErrSIMAssigned
	}
	if !existing {
		now := s.now()
		sim = l.sim
		sim.ID, sim.Status, sim.StatusAt, sim.CreatedAt = s.opts.NextID(), SIMInactive, now, now
		if _, err := tx.InsertSIM(ctx, sim); err != nil {
			return false, err
		}
		if err := s.audit(ctx, tx, a, "", "sim_added", map[string]any{"sim_id": sim.ID, "iccid": sim.ICCID}); err != nil {
			return false, err
		}
	}
	if l.deviceID == "" {
		return existing, nil
	}
	return existing, s.assign(ctx, tx, a, &sim, l.deviceID)
}

// readSIMs reads a CSV with a header; a bad line becomes a line with an error.
func readSIMs(text io.Reader) ([]simLine, error) {
	bad := func(message string) *registry.Error { return registry.E(registry.Invalid, "invalid_csv", message) }
	buffered := bufio.NewReader(text)
	if bom, _ := buffered.Peek(3); string(bom) == "\xef\xbb\xbf" {
		_, _ = buffered.Discard(3) // they were peeked, so they are there
	}
	in := csv.NewReader(buffered)
	in.FieldsPerRecord = -1
	header, err := in.Read()
	if err != nil {
		return nil, bad("The CSV has no header line.")
	}
	columns := make([]string, len(header))
	for i, name := range header {
		columns[i] = strings.ToLower(strings.TrimSpace(name))
		if !slices.Contains(simColumns, columns[i]) || slices.Contains(columns[:i], columns[i]) {
			return nil, bad(fmt.Sprintf("Column %d is not one of this import, or stands there twice.", i+1)) // not its name: it may be a number of a SIM
		}
	}
	if !slices.Contains(columns, "iccid") {
		return nil, bad("The column iccid is missing.")
	}
	seen := map[ICCID]bool{}
	var lines []simLine
	for {
		record, err := in.Read()
		if err == io.EOF {
			return lines, nil
		}
		var syntax *csv.ParseError
		if errors.As(err, &syntax) {
			lines = append(lines, simLine{line: syntax.Line, err: bad("The line is not valid CSV.")})
			continue
		}
		if err != nil {
			return nil, bad("The CSV cannot be read.")
		}
		no, _ := in.FieldPos(0)
		l := parseSIM(columns, record)
		l.line = no
		if l.err == nil && seen[l.sim.ICCID] {
			l.err = registry.E(registry.Invalid, "duplicate_line", "The SIM card stands there already.")
		}
		seen[l.sim.ICCID] = true
		lines = append(lines, l)
	}
}

func parseSIM(columns, record []string) (l simLine) {
	if len(record) > len(columns) {
		l.err = registry.E(registry.Invalid, "invalid_csv", "The line has more fields than the header.")
		return l
	}
	f := map[string]string{}
	for i, value := range record {
		f[columns[i]] = strings.TrimSpace(value)
	}
	iccid, ok := ParseICCID(f["iccid"])
	if !ok || !digits(f["eid"], 32, 32) || !digits(f["imsi"], 14, 15) || !digits(f["msisdn"], 5, 15) {
		l.err = errSIMNumbers
	}
	l.sim = SIM{ICCID: iccid, EID: Number(f["eid"]), IMSI: Number(f["imsi"]), MSISDN: Number(f["msisdn"])}
	l.deviceID = f["device_id"]
	return l
}

// digits reports whether a text is empty, or digits of a length. [ITU-T E.118, E.212,
// E.164; GSMA SGP.02]
func digits(s string, low, high int) bool {
	return s == "" || len(s) >= low && len(s) <= high && strings.Trim(s, "0123456789") == ""
}
