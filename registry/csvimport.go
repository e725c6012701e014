package registry

import (
	"bufio"
	"context"
	"encoding/csv"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
)

// ImportReport tells what became of each line of a CSV import.
type ImportReport struct {
	Created  int
	Existing int // there already, with the same contents
	Failed   int
	Applied  bool // false: nothing was written
	Lines    []ImportLine
}

// ImportLine is the fate of one line. Status is "created", "existing" or "error".
type ImportLine struct {
	Line    int    // counted from 1, the header included
	ID      string // device id or order id; "" when the line could not be read
	Status  string
	Code    string // with status "error"
	Message string
}

// The fates of a line.
const (
	LineCreated  = "created"
	LineExisting = "existing"
	LineError    = "error"
)

const (
	// importChunk is how many lines one transaction of a partial import writes, so
	// that the devices' messages never wait long.
	importChunk = 250
	// maxAtomicImport is how many lines an all-or-nothing import may have, since
	// it is one transaction.
	maxAtomicImport = 5000
)

// row is one line of an import: its own error, or how to write it. write returns
// whether it was there already.
type row struct {
	ImportLine
	write func(context.Context, Tx, *links) (existing bool, err error)
}

var errRollback = errors.New("an import with a bad line is rolled back")

// ImportDevices enrols the devices of a CSV with a header line of mac_address,
// device_secret_hash and optionally claim_secret_hash and hardware, in any order. All or nothing
// (at most 5,000 lines), unless partial. A line that repeats a device with the same
// secret is "existing". Errors: Invalid when the CSV itself cannot be read.
func (r *Registry) ImportDevices(ctx context.Context, a Actor, text io.Reader, partial bool) (ImportReport, error) {
	if err := adminOrService(a, ScopeDeviceEnroll); err != nil {
		return ImportReport{}, err
	}
	seen := map[string]int{}
	rows, err := readCSV(text, []string{"mac_address", "device_secret_hash"}, []string{"claim_secret_hash", "hardware"}, func(line int, f map[string]string) (row, error) {
		e, err := r.enrollment(EnrollRequest{f["mac_address"], f["device_secret_hash"], f["claim_secret_hash"], f["hardware"]})
		if err != nil {
			return row{}, err
		}
		if first, twice := seen[e.device.ID]; twice {
			return row{}, E(Invalid, "duplicate_line", fmt.Sprintf("The device stands in line %d already.", first))
		}
		seen[e.device.ID] = line
		return row{ImportLine: ImportLine{ID: e.device.ID}, write: func(ctx context.Context, tx Tx, _ *links) (bool, error) {
			same, err := r.sameSecret(ctx, tx, e)
			switch {
			case errors.Is(err, ErrDeviceNotFound):
				_, err = r.enroll(ctx, tx, a, e)
				return false, err
			case err != nil:
				return false, err
			case !same:
				return false, ErrAlreadyEnrolled
			}
			return true, nil
		}}, nil
	})
	if err != nil {
		return ImportReport{}, err
	}
	return r.importRows(ctx, rows, partial)
}

// ImportOrders writes the order lines of a CSV with a header line of order_id,
// user_email, device_mac and optionally shipped_at; otherwise as ImportDevices.
func (r *Registry) ImportOrders(ctx context.Context, a Actor, text io.Reader, partial bool) (ImportReport, error) {
	if err := adminOrService(a, ScopeOrderWrite); err != nil {
		return ImportReport{}, err
	}
	rows, err := readCSV(text, []string{"order_id", "user_email", "device_mac"}, []string{"shipped_at"}, func(_ int, f map[string]string) (row, error) {
		o, err := OrderRequest{f["order_id"], f["user_email"], f["device_mac"], f["shipped_at"]}.order(r.now())
		if err != nil {
			return row{}, err
		}
		return row{ImportLine: ImportLine{ID: o.OrderID}, write: func(ctx context.Context, tx Tx, links *links) (bool, error) {
			created, user, err := r.putOrder(ctx, tx, a, o)
			if user != "" {
				links.add(r, o, user)
			}
			return !created, err
		}}, nil
	})
	if err != nil {
		return ImportReport{}, err
	}
	return r.importRows(ctx, rows, partial)
}

// readCSV reads a CSV with a header and turns each line into a row; a bad line
// becomes a row with an error. Only a CSV without a usable header is an error.
func readCSV(text io.Reader, required, optional []string, parse func(line int, fields map[string]string) (row, error)) ([]row, error) {
	buffered := bufio.NewReader(text)
	if bom, _ := buffered.Peek(3); string(bom) == "\xef\xbb\xbf" {
		_, _ = buffered.Discard(3) // they were peeked, so they are there
	}
	in := csv.NewReader(buffered)
	in.FieldsPerRecord = -1
	in.ReuseRecord = true
	header, err := in.Read()
	if err != nil {
		return nil, csvError(err, "The CSV has no header line.")
	}
	columns := make([]string, len(header))
	for i, name := range header {
		columns[i] = strings.ToLower(strings.TrimSpace(name))
		if !slices.Contains(required, columns[i]) && !slices.Contains(optional, columns[i]) || slices.Contains(columns[:i], columns[i]) {
			return nil, E(Invalid, "invalid_csv", fmt.Sprintf("%.40q is not a column of this import, or stands there twice.", name))
		}
	}
	for _, name := range required {
		if !slices.Contains(columns, name) {
			return nil, E(Invalid, "invalid_csv", "The column "+name+" is missing.")
		}
	}
	var rows []row
	for {
		record, err := in.Read()
		if err == io.EOF {
			return rows, nil
		}
		var syntax *csv.ParseError
		if errors.As(err, &syntax) {
			rows = append(rows, row{ImportLine: failedLine(syntax.Line, "", E(Invalid, "invalid_csv", "The line is not valid CSV."))})
			continue
		}
		if err != nil {
			return nil, csvError(err, "The CSV cannot be read.")
		}
		line, _ := in.FieldPos(0)
		fields := make(map[string]string, len(columns))
		for i, name := range columns {
			if i < len(record) {
				fields[name] = strings.TrimSpace(record[i])
			}
		}
		var parsed row
		if err = nil; len(record) > len(columns) {
			err = E(Invalid, "invalid_csv", "The line has more fields than the header.")
		} else {
			parsed, err = parse(line, fields)
		}
		if err != nil {
			parsed = row{ImportLine: failedLine(line, "", err)}
		}
		parsed.Line = line
		rows = append(rows, parsed)
	}
}

func csvError(err error, message string) error {
	var e *Error
	if errors.As(err, &e) {
		return e // from the reader: too large
	}
	return E(Invalid, "invalid_csv", message).With(err)
}

func failedLine(line int, id string, err error) ImportLine {
	l := ImportLine{Line: line, ID: id, Status: LineError, Code: "internal", Message: "The line could not be written."}
	var e *Error
	if errors.As(err, &e) {
		l.Code, l.Message = e.Code, e.Message
	}
	return l
}

func (r *Registry) importRows(ctx context.Context, rows []row, partial bool) (ImportReport, error) {
	chunk := importChunk
	if !partial {
		if len(rows) > maxAtomicImport {
			return ImportReport{}, E(TooLarge, "import_too_large",
				fmt.Sprintf("An all-or-nothing import has at most %d lines; use partial=true.", maxAtomicImport))
		}
		chunk = max(len(rows), 1)
	}
	var report ImportReport
	for part := range slices.Chunk(rows, chunk) {
		lines, err := r.importChunk(ctx, part, partial)
		if err != nil && !errors.Is(err, errRollback) {
			return report, err
		}
		report.Lines = append(report.Lines, lines...)
		report.Applied = err == nil
	}
	report.Applied = report.Applied || len(rows) == 0
	for _, l := range report.Lines {
		switch l.Status {
		case LineCreated:
			report.Created++
		case LineExisting:
			report.Existing++
		default:
			report.Failed++
		}
	}
	if !report.Applied {
		report.Created = 0
	}
	return report, nil
}

// importChunk writes some rows in one transaction. A line's own error is its fate;
// any other error fails the whole chunk. Unless partial, one bad line rolls back.
func (r *Registry) importChunk(ctx context.Context, rows []row, partial bool) (lines []ImportLine, err error) {
	var links links
	err = r.change(ctx, func(tx Tx) error {
		lines, links = lines[:0], nil
		failed := false
		for _, row := range rows {
			l := row.ImportLine
			if row.write != nil {
				existing, err := row.write(ctx, tx, &links)
				switch {
				case err == nil && existing:
					l.Status = LineExisting
				case err == nil:
					l.Status = LineCreated
				case KindOf(err) == Internal || KindOf(err) == Unavailable:
					return err
				default:
					l = failedLine(l.Line, l.ID, err)
				}
			}
			failed = failed || l.Status == LineError
			lines = append(lines, l)
		}
		if failed && !partial {
			return errRollback
		}
		return nil
	}, func() []*Change { return links.changes(r.now()) })
	if err == nil {
		r.linked(links)
	}
	return lines, err
}
