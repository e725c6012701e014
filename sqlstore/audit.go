package sqlstore

import (
	"context"
	"encoding/json"
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/opticworks/devicecloud/registry"
)

// InsertAudit implements registry.AuditTx.
func (t *tx) InsertAudit(ctx context.Context, e registry.AuditEvent) error {
	data := []byte("{}")
	if len(e.Data) > 0 {
		var err error
		if data, err = json.Marshal(e.Data); err != nil {
			return fmt.Errorf("audit data of %s: %w", e.Event, err)
		}
	}
	_, err := t.exec(ctx, `INSERT INTO device_audit
			(audit_id, domain, device_id, event_type, event_data, actor, request_id, ip, user_agent, client_type, created_at)
		VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11)`,
		e.ID, e.Domain, text(e.DeviceID), e.Event, string(data), e.Actor, text(e.RequestID), text(e.IP), text(e.UserAgent), text(e.Client), micros(e.At))
	return err
}

// Audit implements registry.AuditTx. Numbers in Data are json.Number, because an
// id does not fit a float64.
func (t *tx) Audit(ctx context.Context, f registry.AuditFilter) ([]registry.AuditEvent, error) {
	query := `SELECT audit_id, domain, device_id, event_type, event_data, actor, request_id, ip, user_agent, client_type, created_at
		FROM device_audit WHERE audit_id < $1`
	args := []any{below(f.Before), capped(f.Limit)}
	for _, c := range []struct{ condition, value string }{
		{` AND device_id = $`, f.DeviceID},
		{` AND event_type = $`, f.Event},
		{` AND actor = $`, f.Actor},
	} {
		if c.value != "" {
			args = append(args, c.value)
			query += c.condition + strconv.Itoa(len(args))
		}
	}
	return collect(ctx, t, query+` ORDER BY audit_id DESC LIMIT CAST($2 AS BIGINT)`, args, scanAudit)
}

func scanAudit(scan scanFunc, e *registry.AuditEvent) error {
	var data string
	err := scan(&e.ID, &e.Domain, opt(&e.DeviceID), &e.Event, &data, &e.Actor, opt(&e.RequestID), opt(&e.IP), opt(&e.UserAgent), opt(&e.Client), at(&e.At))
	if err != nil || data == "{}" {
		return err
	}
	dec := json.NewDecoder(strings.NewReader(data))
	dec.UseNumber()
	if err := dec.Decode(&e.Data); err != nil {
		return fmt.Errorf("audit row %d: %w", e.ID, err)
	}
	return nil
}

// DeleteAudit implements registry.AuditTx.
func (t *tx) DeleteAudit(ctx context.Context, before time.Time, limit int) (int, error) {
	n, err := t.exec(ctx, `DELETE FROM device_audit WHERE audit_id IN
		(SELECT a.audit_id FROM device_audit a WHERE a.created_at < $1 ORDER BY a.created_at LIMIT $2)`, micros(before), int64(limit))
	return int(n), err
}
