package sqlstore

import (
	"context"
	"errors"
	"time"

	"github.com/opticworks/devicecloud/dataplan"
)

const selectCarrierOrder = `SELECT purchase_id, iccid, attempts, sent_at, due_at, lease_until, taken_at, refunded_at, problem FROM carrier_orders WHERE `

// CarrierOrder implements dataplan.FulfilmentTx.
func (t *tx) CarrierOrder(ctx context.Context, purchaseID string) (dataplan.OrderAttempt, bool, error) {
	var o dataplan.OrderAttempt
	ok, err := t.found(ctx, selectCarrierOrder+`purchase_id = $1`, []any{purchaseID},
		&o.PurchaseID, opt(&o.ICCID), &o.Attempts, at(&o.SentAt), at(&o.DueAt), at(&o.LeaseUntil), at(&o.TakenAt), at(&o.RefundedAt), opt(&o.Problem))
	return o, ok, err
}

// LeaseCarrierOrder implements dataplan.FulfilmentTx.
func (t *tx) LeaseCarrierOrder(ctx context.Context, purchaseID string, iccid dataplan.ICCID, now, until time.Time) (bool, error) {
	return t.changes(ctx, `INSERT INTO carrier_orders (purchase_id, iccid, due_at, lease_until) VALUES ($1, $2, $3, $4)
		ON CONFLICT (purchase_id) DO UPDATE SET lease_until = $4 WHERE carrier_orders.lease_until <= $3 AND carrier_orders.due_at <= $3`,
		purchaseID, string(iccid), micros(now), micros(until))
}

// PutCarrierOrder implements dataplan.FulfilmentTx.
func (t *tx) PutCarrierOrder(ctx context.Context, o dataplan.OrderAttempt) error {
	_, err := t.exec(ctx, `INSERT INTO carrier_orders (purchase_id, iccid, attempts, sent_at, due_at, lease_until, taken_at, refunded_at, problem)
		VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9) ON CONFLICT (purchase_id) DO UPDATE SET
			iccid = $2, attempts = $3, sent_at = $4, due_at = $5, lease_until = $6, taken_at = $7, refunded_at = $8, problem = $9`,
		o.PurchaseID, string(o.ICCID), o.Attempts, micros(o.SentAt), micros(o.DueAt), micros(o.LeaseUntil), micros(o.TakenAt), micros(o.RefundedAt), text(o.Problem))
	return err
}

// PurchaseByOrder implements dataplan.FulfilmentTx.
func (t *tx) PurchaseByOrder(ctx context.Context, outTradeNo, orderID string) (dataplan.Purchase, bool, error) {
	if outTradeNo != "" {
		return t.onePurchase(ctx, `out_trade_no = $1`, outTradeNo)
	}
	if orderID == "" {
		return dataplan.Purchase{}, false, nil
	}
	return t.onePurchase(ctx, `carrier_order_id = $1 ORDER BY purchase_id LIMIT 1`, orderID)
}

// PurchasesOfSIM implements dataplan.FulfilmentTx.
func (t *tx) PurchasesOfSIM(ctx context.Context, iccid dataplan.ICCID) ([]dataplan.Purchase, error) {
	return t.purchases(ctx, `iccid = $1 AND stage IN ('PAID', 'PENDING_ASSIGNMENT', 'ORDERING', 'ACTIVE') ORDER BY purchase_id`, string(iccid))
}

// CarrierEvent implements dataplan.FulfilmentTx.
func (t *tx) CarrierEvent(ctx context.Context, provider, eventID string) (e dataplan.CarrierEvent, ok bool, err error) {
	ok, err = t.found(ctx, `SELECT provider, event_id, event, iccid, payload_sha256, outcome, notice, received_at, processed_at
		FROM carrier_events WHERE provider = $1 AND event_id = $2`, []any{provider, eventID}, carrierEvent(&e)...)
	return e, ok, err
}

func carrierEvent(e *dataplan.CarrierEvent) []any {
	return []any{&e.Provider, &e.ID, &e.Event, opt(&e.ICCID), &e.Hash, opt(&e.Outcome), opt(&e.Notice), at(&e.ReceivedAt), at(&e.ProcessedAt)}
}

var errEventGone = errors.New("a carrier event vanished within its transaction")

// InsertCarrierEvent implements dataplan.FulfilmentTx.
func (t *tx) InsertCarrierEvent(ctx context.Context, e dataplan.CarrierEvent) (bool, error) {
	return t.changes(ctx, `INSERT INTO carrier_events (provider, event_id, event, iccid, payload_sha256, outcome, notice, received_at, processed_at)
		VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9) ON CONFLICT (provider, event_id) DO NOTHING`,
		e.Provider, e.ID, e.Event, text(e.ICCID), e.Hash, string(e.Outcome), text(e.Notice), micros(e.ReceivedAt), micros(e.ProcessedAt))
}

// TakeCarrierEffect implements dataplan.FulfilmentTx.
func (t *tx) TakeCarrierEffect(ctx context.Context, effect, eventID string, at time.Time) (bool, error) {
	return t.changes(ctx, `INSERT INTO carrier_effects (effect, event_id, taken_at) VALUES ($1, $2, $3) ON CONFLICT (effect) DO NOTHING`,
		effect, eventID, micros(at))
}

// SettleCarrierEvent implements dataplan.FulfilmentTx.
func (t *tx) SettleCarrierEvent(ctx context.Context, e dataplan.CarrierEvent) error {
	changed, err := t.changes(ctx, `UPDATE carrier_events SET outcome = $3, notice = $4, processed_at = $5 WHERE provider = $1 AND event_id = $2`,
		e.Provider, e.ID, string(e.Outcome), text(e.Notice), micros(e.ProcessedAt))
	if err == nil && !changed {
		err = errEventGone
	}
	return err
}

// UnmatchedCarrierEvents implements dataplan.FulfilmentTx.
func (t *tx) UnmatchedCarrierEvents(ctx context.Context, after time.Time, limit int) ([]dataplan.CarrierEvent, error) {
	return collect(ctx, t, `SELECT provider, event_id, event, iccid, payload_sha256, outcome, notice, received_at, processed_at
		FROM carrier_events WHERE outcome = 'unmatched' AND received_at > $1 ORDER BY received_at LIMIT CAST($2 AS BIGINT)`,
		[]any{micros(after), capped(limit)}, func(scan scanFunc, e *dataplan.CarrierEvent) error { return scan(carrierEvent(e)...) })
}

// DeleteCarrierEvents implements dataplan.FulfilmentTx.
func (t *tx) DeleteCarrierEvents(ctx context.Context, before time.Time, limit int) (int, error) {
	n, err := t.exec(ctx, `DELETE FROM carrier_events WHERE received_at < $1 AND event_id IN
		(SELECT e.event_id FROM carrier_events e WHERE e.received_at < $1 ORDER BY e.received_at LIMIT CAST($2 AS BIGINT))`, micros(before), int64(limit))
	return int(n), err
}
