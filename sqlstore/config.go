package sqlstore

import (
	"context"
	"encoding/json"
	"fmt"

	"github.com/opticworks/devicecloud/registry"
)

// Config implements registry.ConfigTx.
func (t *tx) Config(ctx context.Context, deviceNo int64) (c registry.Config, ok bool, err error) {
	var zones string
	ok, err = t.found(ctx, `SELECT version, zones, updated_at FROM device_configs WHERE device_no = $1`,
		[]any{deviceNo}, &c.Version, &zones, at(&c.UpdatedAt))
	if err != nil || !ok {
		return registry.Config{}, false, err
	}
	if err := json.Unmarshal([]byte(zones), &c.Zones); err != nil {
		return registry.Config{}, false, fmt.Errorf("configuration of device %d: %w", deviceNo, err)
	}
	return c, true, nil
}

// PutConfig implements registry.ConfigTx.
func (t *tx) PutConfig(ctx context.Context, deviceNo int64, c registry.Config, replaces int64) (bool, error) {
	zones, err := json.Marshal(c.Zones)
	if err != nil {
		return false, fmt.Errorf("configuration of device %d: %w", deviceNo, err)
	}
	if replaces == 0 {
		return t.changes(ctx, `INSERT INTO device_configs (device_no, version, zones, updated_at)
			VALUES ($1, $2, $3, $4) ON CONFLICT DO NOTHING`, deviceNo, c.Version, string(zones), micros(c.UpdatedAt))
	}
	return t.changes(ctx, `UPDATE device_configs SET version = $2, zones = $3, updated_at = $4
		WHERE device_no = $1 AND version = $5`, deviceNo, c.Version, string(zones), micros(c.UpdatedAt), replaces)
}

// DeleteConfig implements registry.ConfigTx.
func (t *tx) DeleteConfig(ctx context.Context, deviceNo int64) error {
	_, err := t.exec(ctx, `DELETE FROM device_configs WHERE device_no = $1`, deviceNo)
	return err
}
