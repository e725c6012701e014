package sqlstore

import (
	"context"
	"database/sql"
	"errors"
	"strconv"
	"strings"
	"time"
	"unicode"

	"github.com/opticworks/devicecloud/registry"
)

// deviceColumns are the columns that scanDevice reads, of devices d and
// device_presence p.
const deviceColumns = `d.device_no, d.device_id, d.mac_address, d.name, d.firmware_version, d.hardware,
	d.self_enrolled, d.ever_owned, d.disabled_at, d.first_seen, d.provisioned_at, d.created_at, d.updated_at, d.max_packet_size,
	p.epoch, p.status, p.reason, p.node_id, p.connection_id, p.remote, p.protocol,
	p.connected_at, p.changed_at, p.last_seen,
	p.uptime_sec, p.wifi_rssi, p.config_version, p.radar_connected, p.zone_count, p.protocol_version, p.reported_at`

const fromDevices = ` FROM devices d JOIN device_presence p ON p.device_no = d.device_no`

// scanDevice reads deviceColumns, and what follows them into rest.
func scanDevice(scan scanFunc, d *registry.Device, rest ...any) error {
	p, s := &d.Presence, &d.State
	dest := make([]any, 0, 37)
	dest = append(dest, &d.No, &d.ID, opt(&d.MAC), opt(&d.Name), opt(&d.FirmwareVersion), opt(&d.Hardware),
		&d.SelfEnrolled, &d.EverOwned, at(&d.DisabledAt), at(&d.FirstSeen), at(&d.ProvisionedAt), at(&d.CreatedAt), at(&d.UpdatedAt), num(&d.MaxPacket),
		&p.Epoch, &p.Status, &p.Reason, opt(&p.NodeID), num(&p.ConnectionID), opt(&p.Remote), num(&p.Protocol),
		at(&p.ConnectedAt), at(&p.ChangedAt), at(&p.LastSeen),
		&s.UptimeSec, &s.WifiRSSI, &s.ConfigVersion, &s.RadarConnected, &s.ZoneCount, &s.ProtocolVersion, at(&d.ReportedAt))
	return scan(append(dest, rest...)...)
}

// InsertDevice implements registry.DeviceTx.
func (t *tx) InsertDevice(ctx context.Context, d registry.NewDevice) (int64, error) {
	// Looking first keeps a repeated import from using up numbers; the constraint
	// decides.
	taken, err := t.found(ctx, `SELECT 1 FROM devices WHERE device_id = $1 OR mac_address = $2`,
		[]any{d.ID, text(d.MAC)}, new(int))
	if err != nil {
		return 0, err
	}
	if taken {
		return 0, registry.ErrAlreadyEnrolled
	}
	no, err := t.nextNumber(ctx, "devices")
	if err != nil {
		return 0, err
	}
	inserted, err := t.changes(ctx, `INSERT INTO devices (device_no, device_id, mac_address, claim_secret_hash, self_enrolled, hardware, created_at, updated_at)
		VALUES ($1, $2, $3, $4, $5, $7, $6, $6) ON CONFLICT DO NOTHING`,
		no, d.ID, text(d.MAC), blob(d.ClaimSecretHash), d.SelfEnrolled, micros(d.At), text(d.Hardware))
	if err != nil {
		return 0, err
	}
	if !inserted {
		return 0, registry.ErrAlreadyEnrolled
	}
	_, err = t.exec(ctx, `INSERT INTO device_presence (device_no) VALUES ($1)`, no)
	return no, err
}

// nextNumber counts a surrogate key. The guard keeps it within the 32 bits of an
// INTEGER on PostgreSQL.
func (t *tx) nextNumber(ctx context.Context, counter string) (no int64, err error) {
	err = t.row(ctx, `INSERT INTO counters (name, value) VALUES ($1, 1)
		ON CONFLICT (name) DO UPDATE SET value = counters.value + 1 WHERE counters.value < 2147483647
		RETURNING value`, []any{counter}, &no)
	if errors.Is(err, sql.ErrNoRows) {
		return 0, errors.New("database: the numbers of " + counter + " are used up")
	}
	return no, err
}

// blob is optional bytes as they are stored.
func blob(b []byte) any {
	if len(b) == 0 {
		return nil
	}
	return b
}

// Device implements registry.DeviceTx.
func (t *tx) Device(ctx context.Context, id string) (registry.Device, error) {
	return t.device(ctx, `SELECT `+deviceColumns+fromDevices+` WHERE d.device_id = $1`, id)
}

// DeviceByMAC implements registry.DeviceTx.
func (t *tx) DeviceByMAC(ctx context.Context, mac registry.MAC) (registry.Device, error) {
	return t.device(ctx, `SELECT `+deviceColumns+fromDevices+` WHERE d.mac_address = $1`, string(mac))
}

func (t *tx) device(ctx context.Context, query string, args ...any) (registry.Device, error) {
	list, err := collect(ctx, t, query, args, func(scan scanFunc, d *registry.Device) error { return scanDevice(scan, d) })
	if err != nil {
		return registry.Device{}, err
	}
	if len(list) == 0 {
		return registry.Device{}, registry.ErrDeviceNotFound
	}
	return list[0], nil
}

// maxQuery is the longest search text that can match anything: no searched column
// is longer. SQLite refuses longer patterns at 50,000 bytes.
const maxQuery = 1024

// Devices implements registry.DeviceTx.
func (t *tx) Devices(ctx context.Context, f registry.DeviceFilter) ([]registry.AdminDevice, int, error) {
	if len(f.Query) > maxQuery {
		return nil, 0, nil
	}
	var where conditions
	where.filter(f)
	// The matching numbers are found once, for the page and for the total: a search
	// has to look at every device.
	match := `WITH found AS MATERIALIZED (SELECT d.device_no` + fromDevices + where.text() + `) `
	total, matches := 0, where.args
	page := match + `SELECT ` + deviceColumns + `, o.user_id, u.email, (SELECT count(*) FROM found)
		FROM found JOIN devices d ON d.device_no = found.device_no JOIN device_presence p ON p.device_no = d.device_no
		LEFT JOIN device_ownership o ON o.device_no = d.device_no AND o.role = 'owner'
		LEFT JOIN users u ON u.user_id = o.user_id`
	if where.none() {
		// Without a filter every device matches, and is counted without being read.
		match = ``
		page = `SELECT ` + deviceColumns + `, o.user_id, u.email, (SELECT count(*) FROM devices)` + fromDevices + `
		LEFT JOIN device_ownership o ON o.device_no = d.device_no AND o.role = 'owner'
		LEFT JOIN users u ON u.user_id = o.user_id`
	}
	args := append(matches[:len(matches):len(matches)], f.After, capped(f.Limit), max(f.Offset, 0))
	n := len(matches)
	page += ` WHERE d.device_no > $` + strconv.Itoa(n+1) + ` ORDER BY d.device_no LIMIT CAST($` + strconv.Itoa(n+2) + ` AS BIGINT) OFFSET $` + strconv.Itoa(n+3)
	list, err := collect(ctx, t, page, args, func(scan scanFunc, d *registry.AdminDevice) error {
		return scanDevice(scan, &d.Device, opt(&d.OwnerID), opt(&d.OwnerEmail), &total)
	})
	if err != nil || len(list) > 0 {
		return list, total, err
	}
	count := match + `SELECT count(*) FROM found`
	if where.none() {
		count = `SELECT count(*) FROM devices`
	}
	err = t.row(ctx, count, matches, &total)
	return nil, total, err
}

// conditions puts a WHERE together of constant texts; only the numbers of the
// parameters vary.
type conditions struct {
	terms []string
	args  []any
}

// and adds a condition whose parameters are written $a, $b.
func (c *conditions) and(term string, values ...any) {
	for i, v := range values {
		c.args = append(c.args, v)
		term = strings.ReplaceAll(term, "$"+string(rune('a'+i)), "$"+strconv.Itoa(len(c.args)))
	}
	c.terms = append(c.terms, term)
}

func (c *conditions) none() bool { return len(c.terms) == 0 }

func (c *conditions) text() string {
	if c.none() {
		return ""
	}
	return ` WHERE ` + strings.Join(c.terms, ` AND `)
}

// filter adds the conditions on devices d and device_presence p.
func (c *conditions) filter(f registry.DeviceFilter) {
	if f.Status != nil {
		c.and(`p.status = $a`, int64(*f.Status))
	}
	if f.Version != "" {
		c.and(`d.firmware_version = $a`, f.Version)
	}
	if f.Owner != "" {
		c.and(`d.device_no IN (SELECT s.device_no FROM device_ownership s JOIN users v ON v.user_id = s.user_id
			WHERE s.role = 'owner' AND (v.user_id = $a OR v.email = $b))`, f.Owner, f.Owner)
	}
	if f.Query == "" {
		return
	}
	// Each comparison runs for every device, so that those which cannot match are
	// left out.
	lower := strings.ToLower(f.Query)
	term := `(lower(d.name) LIKE $a ESCAPE '\' OR d.device_no IN (SELECT s.device_no FROM device_ownership s JOIN users v ON v.user_id = s.user_id
		WHERE s.role = 'owner' AND lower(v.email) LIKE $a ESCAPE '\')`
	if strings.Trim(lower, "0123456789abcdef") == "" {
		term += ` OR d.device_id LIKE $a ESCAPE '\'`
	}
	if strings.Trim(lower, "0123456789abcdef:") == "" {
		term += ` OR lower(d.mac_address) LIKE $a ESCAPE '\'`
	}
	if strings.IndexFunc(f.Query, func(r rune) bool { return r > unicode.MaxASCII }) < 0 {
		c.and(term+`)`, contains(lower))
		return
	}
	// lower() knows ASCII alone on SQLite: other letters also match as they were typed.
	c.and(term+` OR d.name LIKE $b ESCAPE '\')`, contains(lower), contains(f.Query))
}

// contains is a LIKE pattern, for ESCAPE '\', that matches a text anywhere.
func contains(s string) string {
	return "%" + strings.NewReplacer(`\`, `\\`, `%`, `\%`, `_`, `\_`).Replace(s) + "%"
}

// SetDeviceName implements registry.DeviceTx; ErrDeviceNotFound when there is none.
func (t *tx) SetDeviceName(ctx context.Context, no int64, name string, now time.Time) error {
	changed, err := t.changes(ctx, `UPDATE devices SET name = $2, updated_at = $3 WHERE device_no = $1`, no, text(name), micros(now))
	if err == nil && !changed {
		err = registry.ErrDeviceNotFound
	}
	return err
}

// SetDeviceMAC implements registry.DeviceTx.
func (t *tx) SetDeviceMAC(ctx context.Context, no int64, mac registry.MAC, now time.Time) (bool, error) {
	changed, err := t.changes(ctx, `UPDATE devices SET mac_address = $2, updated_at = $3
		WHERE device_no = $1 AND mac_address IS NULL AND NOT EXISTS (SELECT 1 FROM devices o WHERE o.mac_address = $2)`,
		no, string(mac), micros(now))
	if t.engine.violation(err) == uniqueViolation {
		return false, registry.ErrAlreadyEnrolled
	}
	if err != nil || changed {
		return changed, err
	}
	taken, err := t.found(ctx, `SELECT 1 FROM devices o JOIN devices d ON d.device_no = $1
		WHERE o.mac_address = $2 AND o.device_no <> $1 AND d.mac_address IS NULL`, []any{no, string(mac)}, new(int))
	if err == nil && taken {
		err = registry.ErrAlreadyEnrolled
	}
	return false, err
}

// SetDeviceHardware implements registry.DeviceTx.
func (t *tx) SetDeviceHardware(ctx context.Context, no int64, hardware string, now time.Time) (bool, error) {
	return t.changes(ctx, `UPDATE devices SET hardware = $2, updated_at = $3 WHERE device_no = $1 AND hardware IS NULL`, no, text(hardware), micros(now))
}

// SetDeviceDisabled implements registry.DeviceTx.
func (t *tx) SetDeviceDisabled(ctx context.Context, no int64, disabledAt, now time.Time) (bool, error) {
	if disabledAt.IsZero() {
		return t.changes(ctx, `UPDATE devices SET disabled_at = NULL, updated_at = $2
			WHERE device_no = $1 AND disabled_at IS NOT NULL`, no, micros(now))
	}
	return t.changes(ctx, `UPDATE devices SET disabled_at = $2, updated_at = $3
		WHERE device_no = $1 AND disabled_at IS NULL`, no, micros(disabledAt), micros(now))
}

// SetProvisioned implements registry.DeviceTx.
func (t *tx) SetProvisioned(ctx context.Context, no, epoch int64, firmware string, maxPacket int, now time.Time) (bool, error) {
	changed, err := t.changes(ctx, `UPDATE devices SET firmware_version = $3, max_packet_size = CAST($5 AS INTEGER), provisioned_at = $4,
			first_seen = COALESCE(first_seen, $4), updated_at = $4
		WHERE device_no = $1 AND EXISTS (SELECT 1 FROM device_presence p WHERE p.device_no = $1 AND p.epoch = $2)`,
		no, epoch, text(firmware), micros(now), positive(maxPacket))
	return !changed && err == nil, err
}

// SetReset implements registry.DeviceTx.
func (t *tx) SetReset(ctx context.Context, no, epoch int64, report []byte) (bool, error) {
	return t.changes(ctx, `UPDATE devices SET reset_hash = $3
		WHERE device_no = $1 AND (reset_hash IS NULL OR reset_hash <> $3)
			AND EXISTS (SELECT 1 FROM device_presence p WHERE p.device_no = $1 AND p.epoch = $2)`, no, epoch, report)
}

// SetFirstSeen implements registry.DeviceTx.
func (t *tx) SetFirstSeen(ctx context.Context, no int64, now time.Time) (bool, error) {
	return t.changes(ctx, `UPDATE devices SET first_seen = $2, updated_at = $2 WHERE device_no = $1 AND first_seen IS NULL`, no, micros(now))
}

// DeleteDevice implements registry.DeviceTx; ErrDeviceNotFound when there is none.
func (t *tx) DeleteDevice(ctx context.Context, no int64) error {
	changed, err := t.changes(ctx, `DELETE FROM devices WHERE device_no = $1`, no)
	if err == nil && !changed {
		err = registry.ErrDeviceNotFound
	}
	return err
}
