package sqlstore

import (
	"context"
	"time"

	"github.com/opticworks/devicecloud/registry"
)

const orderColumns = `order_id, device_mac, user_email, shipped_at, linked_at, linked_user_id, created_at`

func scanOrder(scan scanFunc, o *registry.Order) error {
	return scan(&o.OrderID, opt(&o.DeviceMAC), &o.UserEmail, at(&o.ShippedAt), at(&o.LinkedAt), opt(&o.LinkedUserID), at(&o.CreatedAt))
}

// InsertOrder implements registry.OrderTx.
func (t *tx) InsertOrder(ctx context.Context, o registry.Order) (bool, error) {
	created, err := t.changes(ctx, `INSERT INTO orders (order_id, device_mac, user_email, shipped_at, created_at)
		VALUES ($1, $2, $3, $4, $5) ON CONFLICT (order_id, device_mac) DO NOTHING`,
		o.OrderID, string(o.DeviceMAC), o.UserEmail, micros(o.ShippedAt), micros(o.CreatedAt))
	if err != nil || created {
		return created, err
	}
	var email string
	err = t.row(ctx, `SELECT user_email FROM orders WHERE order_id = $1 AND device_mac = $2`, []any{o.OrderID, string(o.DeviceMAC)}, &email)
	if err != nil {
		return false, err
	}
	if email == "" { // of somebody who was erased, and stays so
		return false, nil
	}
	if email != o.UserEmail {
		return false, registry.ErrOrderExists
	}
	if o.ShippedAt.IsZero() {
		return false, nil
	}
	_, err = t.exec(ctx, `UPDATE orders SET shipped_at = $3 WHERE order_id = $1 AND device_mac = $2 AND shipped_at IS NULL`,
		o.OrderID, string(o.DeviceMAC), micros(o.ShippedAt))
	return false, err
}

// OpenOrder implements registry.OrderTx.
func (t *tx) OpenOrder(ctx context.Context, mac registry.MAC) (o registry.Order, ok bool, err error) {
	list, err := collect(ctx, t, `SELECT `+orderColumns+` FROM orders
		WHERE device_mac = $1 AND linked_at IS NULL AND shipped_at IS NOT NULL ORDER BY created_at, order_id LIMIT 1`,
		[]any{string(mac)}, scanOrder)
	if err != nil || len(list) == 0 {
		return registry.Order{}, false, err
	}
	return list[0], true, nil
}

// OpenOrdersFor implements registry.OrderTx; oldest first.
func (t *tx) OpenOrdersFor(ctx context.Context, email string) ([]registry.Order, error) {
	return collect(ctx, t, `SELECT `+orderColumns+` FROM orders
		WHERE user_email = $1 AND linked_at IS NULL AND shipped_at IS NOT NULL ORDER BY created_at, order_id, device_mac`,
		[]any{email}, scanOrder)
}

// LinkOrder implements registry.OrderTx.
func (t *tx) LinkOrder(ctx context.Context, orderID string, mac registry.MAC, userID string, now time.Time) (bool, error) {
	return t.changes(ctx, `UPDATE orders SET linked_at = $4, linked_user_id = $3
		WHERE order_id = $1 AND device_mac = $2 AND linked_at IS NULL`, orderID, string(mac), userID, micros(now))
}
