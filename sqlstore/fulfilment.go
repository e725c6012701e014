package sqlstore

import (
	"context"
	"errors"
	"time"

	"github.com/opticworks/devicecloud/dataplan"
)

const selectOrder = `SELECT o.out_trade_no, o.purchase_id, o.invoice_id, o.starts_at, o.iccid, o.carrier_order_id, o.attempts, o.sent_at, o.due_at,
		o.lease_until, o.taken_at, o.began_at, o.failed_at, o.refunded_at, o.problem
	FROM package_orders o `

func (t *tx) orders(ctx context.Context, rest string, args ...any) ([]dataplan.OrderAttempt, error) {
	return collect(ctx, t, selectOrder+rest, args, func(scan scanFunc, o *dataplan.OrderAttempt) error {
		return scan(&o.OutTradeNo, &o.PurchaseID, opt(&o.InvoiceID), at(&o.StartsAt), opt(&o.ICCID), opt(&o.OrderID), &o.Attempts, at(&o.SentAt), at(&o.DueAt),
			at(&o.LeaseUntil), at(&o.TakenAt), at(&o.BeganAt), at(&o.FailedAt), at(&o.RefundedAt), opt(&o.Problem))
	})
}

func (t *tx) oneOrder(ctx context.Context, rest string, args ...any) (dataplan.OrderAttempt, bool, error) {
	list, err := t.orders(ctx, rest, args...)
	if err != nil || len(list) == 0 {
		return dataplan.OrderAttempt{}, false, err
	}
	return list[0], true, nil
}

// CarrierOrder implements dataplan.FulfilmentTx.
func (t *tx) CarrierOrder(ctx context.Context, outTradeNo string) (dataplan.OrderAttempt, bool, error) {
	return t.oneOrder(ctx, `WHERE o.out_trade_no = $1`, outTradeNo)
}

// CarrierOrders implements dataplan.FulfilmentTx.
func (t *tx) CarrierOrders(ctx context.Context, purchaseID string) ([]dataplan.OrderAttempt, error) {
	return t.orders(ctx, `WHERE o.purchase_id = $1 ORDER BY o.starts_at, o.out_trade_no`, purchaseID)
}

// LeaseCarrierOrder implements dataplan.FulfilmentTx.
func (t *tx) LeaseCarrierOrder(ctx context.Context, o dataplan.OrderAttempt, now, until time.Time) (bool, error) {
	return t.changes(ctx, `INSERT INTO package_orders (out_trade_no, purchase_id, iccid, due_at, lease_until) VALUES ($1, $2, $3, $4, $5)
		ON CONFLICT (out_trade_no) DO UPDATE SET lease_until = $5 WHERE package_orders.lease_until <= $4 AND package_orders.due_at <= $4`,
		o.OutTradeNo, o.PurchaseID, string(o.ICCID), micros(now), micros(until))
}

// PutCarrierOrder implements dataplan.FulfilmentTx.
func (t *tx) PutCarrierOrder(ctx context.Context, o dataplan.OrderAttempt) error {
	_, err := t.exec(ctx, `INSERT INTO package_orders
			(out_trade_no, purchase_id, iccid, carrier_order_id, attempts, sent_at, due_at, lease_until, taken_at, began_at, failed_at, refunded_at, problem)
		VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13) ON CONFLICT (out_trade_no) DO UPDATE SET
			iccid = $3, carrier_order_id = $4, attempts = $5, sent_at = $6, due_at = $7, lease_until = $8, taken_at = $9, began_at = $10, failed_at = $11,
			refunded_at = $12, problem = $13`,
		o.OutTradeNo, o.PurchaseID, string(o.ICCID), text(o.OrderID), o.Attempts, micros(o.SentAt), micros(o.DueAt), micros(o.LeaseUntil), micros(o.TakenAt),
		micros(o.BeganAt), micros(o.FailedAt), micros(o.RefundedAt), text(o.Problem))
	return err
}

// UnplannedPeriods implements dataplan.FulfilmentTx.
func (t *tx) UnplannedPeriods(ctx context.Context, purchaseID string) ([]dataplan.Period, error) {
	return collect(ctx, t, `SELECT d.invoice_id, d.starts_at FROM data_plan_periods d
		WHERE d.purchase_id = $1 AND d.paid AND d.starts_at IS NOT NULL
			AND EXISTS (SELECT 1 FROM data_plan_periods e WHERE e.purchase_id = $1 AND e.paid
				AND (e.starts_at < d.starts_at OR e.starts_at = d.starts_at AND e.invoice_id < d.invoice_id))
			AND NOT EXISTS (SELECT 1 FROM package_orders o WHERE o.invoice_id = d.invoice_id)`,
		[]any{purchaseID}, func(scan scanFunc, p *dataplan.Period) error { return scan(&p.InvoiceID, at(&p.StartsAt)) })
}

// PlanRenewal implements dataplan.FulfilmentTx.
func (t *tx) PlanRenewal(ctx context.Context, o dataplan.OrderAttempt) error {
	_, err := t.exec(ctx, `INSERT INTO package_orders (out_trade_no, purchase_id, invoice_id, starts_at, iccid, due_at, lease_until)
		VALUES ($1, $2, $3, $4, '', $4, 0) ON CONFLICT DO NOTHING`, o.OutTradeNo, o.PurchaseID, o.InvoiceID, micros(o.StartsAt))
	return err
}

// DueRenewals implements dataplan.FulfilmentTx.
func (t *tx) DueRenewals(ctx context.Context, only, after string, now time.Time, limit int) ([]dataplan.OrderAttempt, error) {
	return t.orders(ctx, `JOIN data_plan_purchases p ON p.purchase_id = o.purchase_id
		LEFT JOIN data_plan_periods d ON d.invoice_id = o.invoice_id
		LEFT JOIN data_plan_payments y ON y.payment_intent_id = d.payment_intent_id
		WHERE o.invoice_id IS NOT NULL AND o.began_at IS NULL AND o.failed_at IS NULL AND o.refunded_at IS NULL
			AND o.due_at <= $1 AND o.lease_until <= $1 AND ($2 = '' OR o.out_trade_no = $2) AND o.out_trade_no > $3
			AND p.stage IN ('ACTIVE', 'EXPIRED') AND p.status NOT IN ('REFUNDED', 'DISPUTED', 'HOLD')
			AND (y.complete IS NULL OR NOT y.complete)
		ORDER BY o.out_trade_no LIMIT CAST($4 AS BIGINT)`, micros(now), only, after, capped(limit))
}

// OrderByName implements dataplan.FulfilmentTx.
func (t *tx) OrderByName(ctx context.Context, outTradeNo, orderID string) (dataplan.OrderAttempt, bool, error) {
	if outTradeNo == "" {
		if orderID == "" {
			return dataplan.OrderAttempt{}, false, nil
		}
		return t.oneOrder(ctx, `WHERE o.carrier_order_id = $1 ORDER BY o.out_trade_no LIMIT 1`, orderID)
	}
	o, ok, err := t.CarrierOrder(ctx, outTradeNo)
	if err != nil || ok {
		return o, ok, err
	}
	p, ok, err := t.onePurchase(ctx, `out_trade_no = $1`, outTradeNo)
	return dataplan.OrderAttempt{OutTradeNo: p.OutTradeNo, PurchaseID: p.ID}, ok, err
}

// OpenRenewals implements dataplan.FulfilmentTx.
func (t *tx) OpenRenewals(ctx context.Context, iccid dataplan.ICCID) ([]dataplan.OrderAttempt, error) {
	return t.orders(ctx, `JOIN data_plan_purchases p ON p.purchase_id = o.purchase_id
		WHERE p.iccid = $1 AND p.stage IN ('ACTIVE', 'EXPIRED') AND o.invoice_id IS NOT NULL AND o.began_at IS NULL AND o.refunded_at IS NULL
		ORDER BY o.starts_at, o.out_trade_no`, string(iccid))
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
