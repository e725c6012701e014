package sqlstore

import (
	"context"
	"encoding/json"
	"time"

	"github.com/opticworks/devicecloud/dataplan"
)

var _ dataplan.Tx = (*tx)(nil)

const selectPurchase = `SELECT purchase_id, user_id, device_id, iccid, terms, stage, status, version, idempotency_key,
		stripe_session_id, checkout_url, expires_at, closed_at, stripe_payment_intent_id, stripe_subscription_id,
		paid_at, held_at, hold_reason, resumed_at, active_at, active_until, ended_at,
		out_trade_no, carrier_order_id, created_at, updated_at
	FROM data_plan_purchases WHERE `

func (t *tx) purchases(ctx context.Context, condition string, args ...any) ([]dataplan.Purchase, error) {
	return collect(ctx, t, selectPurchase+condition, args, func(scan scanFunc, p *dataplan.Purchase) error {
		return scan(&p.ID, &p.UserID, &p.DeviceID, opt(&p.ICCID), terms{&p.Plan}, opt(&p.Stage), opt(&p.Status), &p.Version, &p.Key,
			opt(&p.SessionID), opt(&p.CheckoutURL), at(&p.ExpiresAt), at(&p.ClosedAt), opt(&p.PaymentIntentID), opt(&p.SubscriptionID),
			at(&p.PaidAt), at(&p.HeldAt), opt(&p.HoldReason), at(&p.ResumedAt), at(&p.ActiveAt), at(&p.ActiveUntil), at(&p.EndedAt),
			&p.OutTradeNo, opt(&p.CarrierOrderID), at(&p.CreatedAt), at(&p.UpdatedAt))
	})
}

// onePurchase reads at most one.
func (t *tx) onePurchase(ctx context.Context, condition string, args ...any) (dataplan.Purchase, bool, error) {
	list, err := t.purchases(ctx, condition, args...)
	if err != nil || len(list) == 0 {
		return dataplan.Purchase{}, false, err
	}
	return list[0], true, nil
}

// InsertPurchase implements dataplan.PurchaseTx.
func (t *tx) InsertPurchase(ctx context.Context, p dataplan.Purchase) (bool, error) {
	text, err := json.Marshal(p.Plan)
	if err != nil {
		return false, err
	}
	return t.changes(ctx, `INSERT INTO data_plan_purchases
			(purchase_id, user_id, device_id, iccid, plan_id, terms, amount, currency, stage, status, idempotency_key, expires_at,
			out_trade_no, created_at, updated_at)
		VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $14) ON CONFLICT DO NOTHING`,
		p.ID, p.UserID, p.DeviceID, string(p.ICCID), p.Plan.ID, string(text), p.Plan.Amount, p.Plan.Currency, string(p.Stage), string(p.Status),
		p.Key, micros(p.ExpiresAt), p.OutTradeNo, micros(p.CreatedAt))
}

// UpdatePurchase implements dataplan.PurchaseTx.
func (t *tx) UpdatePurchase(ctx context.Context, p dataplan.Purchase) (bool, error) {
	return t.changes(ctx, `UPDATE data_plan_purchases SET version = version + 1, iccid = $3, stage = $4, status = $5,
			stripe_session_id = $6, checkout_url = $7, closed_at = $8, stripe_payment_intent_id = $9, stripe_subscription_id = $10,
			paid_at = $11, held_at = $12, hold_reason = $13, resumed_at = $14, active_at = $15, active_until = $16, ended_at = $17,
			carrier_order_id = $18, updated_at = $19
		WHERE purchase_id = $1 AND version = $2`,
		p.ID, p.Version, string(p.ICCID), string(p.Stage), string(p.Status),
		text(p.SessionID), text(p.CheckoutURL), micros(p.ClosedAt), text(p.PaymentIntentID), text(p.SubscriptionID),
		micros(p.PaidAt), micros(p.HeldAt), text(p.HoldReason), micros(p.ResumedAt), micros(p.ActiveAt), micros(p.ActiveUntil), micros(p.EndedAt),
		text(p.CarrierOrderID), micros(p.UpdatedAt))
}

// Purchase implements dataplan.PurchaseTx.
func (t *tx) Purchase(ctx context.Context, purchaseID string) (dataplan.Purchase, error) {
	p, ok, err := t.onePurchase(ctx, `purchase_id = $1`, purchaseID)
	if err == nil && !ok {
		err = dataplan.ErrPurchaseNotFound
	}
	return p, err
}

// PurchaseByKey implements dataplan.PurchaseTx.
func (t *tx) PurchaseByKey(ctx context.Context, userID, key string) (dataplan.Purchase, bool, error) {
	return t.onePurchase(ctx, `user_id = $1 AND idempotency_key = $2`, userID, key)
}

// OpenPurchase implements dataplan.PurchaseTx.
func (t *tx) OpenPurchase(ctx context.Context, iccid dataplan.ICCID, planID string) (dataplan.Purchase, bool, error) {
	return t.onePurchase(ctx, `iccid = $1 AND plan_id = $2 AND closed_at IS NULL`, string(iccid), planID)
}

// PurchaseBySession implements dataplan.PurchaseTx.
func (t *tx) PurchaseBySession(ctx context.Context, sessionID string) (dataplan.Purchase, bool, error) {
	return t.onePurchase(ctx, `stripe_session_id = $1`, sessionID)
}

// PurchaseBySubscription implements dataplan.PurchaseTx.
func (t *tx) PurchaseBySubscription(ctx context.Context, subscriptionID string) (dataplan.Purchase, bool, error) {
	return t.onePurchase(ctx, `stripe_subscription_id = $1`, subscriptionID)
}

// Purchases implements dataplan.PurchaseTx.
func (t *tx) Purchases(ctx context.Context, f dataplan.PurchaseFilter) ([]dataplan.Purchase, error) {
	return t.purchases(ctx, `($1 = '' OR user_id = $1) AND ($2 = '' OR device_id = $2) AND ($3 = '' OR status = $3) AND ($4 = '' OR purchase_id < $4)
		ORDER BY purchase_id DESC LIMIT CAST($5 AS BIGINT)`, f.UserID, f.DeviceID, string(f.Status), f.Before, capped(f.Limit))
}

// WaitingPurchases implements dataplan.PurchaseTx.
func (t *tx) WaitingPurchases(ctx context.Context, after string, limit int) ([]dataplan.Purchase, error) {
	return t.purchases(ctx, `stage IN ('PAID', 'PENDING_ASSIGNMENT', 'ORDERING') AND status NOT IN ('REFUNDED', 'DISPUTED', 'HOLD')
		AND purchase_id > $1 ORDER BY purchase_id LIMIT CAST($2 AS BIGINT)`, after, capped(limit))
}

// StaleCheckouts implements dataplan.PurchaseTx.
func (t *tx) StaleCheckouts(ctx context.Context, before time.Time, limit int) ([]dataplan.Purchase, error) {
	return t.purchases(ctx, `closed_at IS NULL AND expires_at < $1 ORDER BY expires_at LIMIT CAST($2 AS BIGINT)`, micros(before), capped(limit))
}

// OrphanedSubscriptions implements dataplan.PurchaseTx.
func (t *tx) OrphanedSubscriptions(ctx context.Context, after string, limit int) ([]dataplan.Purchase, error) {
	return t.purchases(ctx, `stripe_subscription_id IS NOT NULL AND ended_at IS NULL AND purchase_id > $1
		AND NOT EXISTS (SELECT 1 FROM users u WHERE u.user_id = data_plan_purchases.user_id)
		ORDER BY purchase_id LIMIT CAST($2 AS BIGINT)`, after, capped(limit))
}

// EndedPurchases implements dataplan.PurchaseTx.
func (t *tx) EndedPurchases(ctx context.Context, before time.Time, limit int) ([]dataplan.Purchase, error) {
	return t.purchases(ctx, `stage = 'ACTIVE' AND active_until < $1 ORDER BY active_until LIMIT CAST($2 AS BIGINT)`, micros(before), capped(limit))
}

// Facts implements dataplan.PurchaseTx.
func (t *tx) Facts(ctx context.Context, purchaseID string) (f dataplan.Facts, err error) {
	err = t.row(ctx, `SELECT COUNT(*), COALESCE(SUM(CASE WHEN complete THEN 1 ELSE 0 END), 0), COALESCE(SUM(CASE WHEN refunded > 0 THEN 1 ELSE 0 END), 0)
		FROM data_plan_payments WHERE purchase_id = $1`, []any{purchaseID}, &f.Payments, &f.Complete, &f.PartRefunds)
	if err != nil {
		return f, err
	}
	err = t.row(ctx, `SELECT COUNT(*) FROM data_plan_disputes d JOIN data_plan_payments p ON p.payment_intent_id = d.payment_intent_id
		WHERE p.purchase_id = $1 AND NOT (d.closed AND d.won)`, []any{purchaseID}, &f.Disputes)
	if err != nil {
		return f, err
	}
	err = t.row(ctx, `SELECT COALESCE(SUM(CASE WHEN paid THEN 0 ELSE 1 END), 0), MAX(CASE WHEN paid THEN ends_at END)
		FROM data_plan_periods WHERE purchase_id = $1`, []any{purchaseID}, &f.Unpaid, at(&f.PaidUntil))
	if err != nil {
		return f, err
	}
	f.Withdrawn, err = t.found(ctx, `SELECT 1 FROM carrier_orders WHERE purchase_id = $1 AND refunded_at IS NOT NULL`, []any{purchaseID}, new(int))
	return f, err
}

// PutPayment implements dataplan.PurchaseTx.
func (t *tx) PutPayment(ctx context.Context, p dataplan.Payment) (purchaseID string, err error) {
	err = t.row(ctx, `INSERT INTO data_plan_payments (payment_intent_id, purchase_id, refunded, complete, created_at)
		VALUES ($1, $2, $3, $4, $5) ON CONFLICT (payment_intent_id) DO UPDATE SET
			purchase_id = COALESCE(data_plan_payments.purchase_id, excluded.purchase_id),
			refunded = CASE WHEN excluded.refunded > data_plan_payments.refunded THEN excluded.refunded ELSE data_plan_payments.refunded END,
			complete = (data_plan_payments.complete OR excluded.complete)
		RETURNING purchase_id`,
		[]any{p.IntentID, text(p.PurchaseID), p.Refunded, p.Complete, micros(p.At)}, opt(&purchaseID))
	return purchaseID, err
}

// LatestPayment implements dataplan.PurchaseTx.
func (t *tx) LatestPayment(ctx context.Context, purchaseID string) (intentID string, err error) {
	_, err = t.found(ctx, `SELECT payment_intent_id FROM data_plan_payments WHERE purchase_id = $1 AND NOT complete
		ORDER BY created_at DESC, payment_intent_id DESC LIMIT 1`, []any{purchaseID}, opt(&intentID))
	return intentID, err
}

// PutDispute implements dataplan.PurchaseTx.
func (t *tx) PutDispute(ctx context.Context, d dataplan.Dispute) error {
	_, err := t.exec(ctx, `INSERT INTO data_plan_disputes (dispute_id, payment_intent_id, closed, won, created_at)
		VALUES ($1, $2, $3, $4, $5) ON CONFLICT (dispute_id) DO UPDATE SET
			closed = (data_plan_disputes.closed OR excluded.closed), won = (data_plan_disputes.won OR excluded.won)`,
		d.ID, d.IntentID, d.Closed, d.Won, micros(d.At))
	return err
}

// PutPeriod implements dataplan.PurchaseTx.
func (t *tx) PutPeriod(ctx context.Context, p dataplan.Period) error {
	_, err := t.exec(ctx, `INSERT INTO data_plan_periods
			(invoice_id, purchase_id, stripe_subscription_id, payment_intent_id, paid, amount, currency, starts_at, ends_at, created_at)
		VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10) ON CONFLICT (invoice_id) DO UPDATE SET
			purchase_id = COALESCE(data_plan_periods.purchase_id, excluded.purchase_id),
			stripe_subscription_id = COALESCE(data_plan_periods.stripe_subscription_id, excluded.stripe_subscription_id),
			payment_intent_id = COALESCE(data_plan_periods.payment_intent_id, excluded.payment_intent_id),
			paid = (data_plan_periods.paid OR excluded.paid),
			amount = CASE WHEN excluded.paid THEN excluded.amount ELSE data_plan_periods.amount END,
			starts_at = COALESCE(data_plan_periods.starts_at, excluded.starts_at), ends_at = COALESCE(data_plan_periods.ends_at, excluded.ends_at)`,
		p.InvoiceID, text(p.PurchaseID), text(p.SubscriptionID), text(p.IntentID), p.Paid, p.Amount, p.Currency,
		micros(p.StartsAt), micros(p.EndsAt), micros(p.At))
	return err
}

// AdoptPeriods implements dataplan.PurchaseTx.
func (t *tx) AdoptPeriods(ctx context.Context, subscriptionID, purchaseID string) error {
	if _, err := t.exec(ctx, `UPDATE data_plan_periods SET purchase_id = $2 WHERE stripe_subscription_id = $1 AND purchase_id IS NULL`, subscriptionID, purchaseID); err != nil {
		return err
	}
	_, err := t.exec(ctx, `UPDATE data_plan_payments SET purchase_id = $2 WHERE purchase_id IS NULL AND payment_intent_id IN
		(SELECT p.payment_intent_id FROM data_plan_periods p WHERE p.stripe_subscription_id = $1)`, subscriptionID, purchaseID)
	return err
}

// InsertStripeEvent implements dataplan.PurchaseTx.
func (t *tx) InsertStripeEvent(ctx context.Context, e dataplan.EventRecord) (bool, error) {
	return t.changes(ctx, `INSERT INTO stripe_events (event_id, type, created, api_version, received_at, outcome)
		VALUES ($1, $2, $3, $4, $5, $6) ON CONFLICT (event_id) DO NOTHING`,
		e.ID, e.Type, micros(e.Created), text(e.APIVersion), micros(e.ReceivedAt), string(e.Outcome))
}

// DeleteStripeEvents implements dataplan.PurchaseTx.
func (t *tx) DeleteStripeEvents(ctx context.Context, before time.Time, limit int) (int, error) {
	n, err := t.exec(ctx, `DELETE FROM stripe_events WHERE event_id IN
		(SELECT e.event_id FROM stripe_events e WHERE e.received_at < $1 ORDER BY e.received_at LIMIT CAST($2 AS BIGINT))`, micros(before), int64(limit))
	if err != nil {
		return int(n), err
	}
	for _, query := range []string{
		`DELETE FROM data_plan_disputes WHERE created_at < $1 AND payment_intent_id IN
			(SELECT p.payment_intent_id FROM data_plan_payments p WHERE p.purchase_id IS NULL)`,
		`DELETE FROM data_plan_payments WHERE created_at < $1 AND purchase_id IS NULL`,
		`DELETE FROM data_plan_periods WHERE created_at < $1 AND purchase_id IS NULL`,
	} {
		if _, err := t.exec(ctx, query, micros(before)); err != nil {
			return int(n), err
		}
	}
	return int(n), nil
}

// SIMOfDevice implements dataplan.PurchaseTx.
func (t *tx) SIMOfDevice(ctx context.Context, deviceID string) (dataplan.ICCID, bool, error) {
	var iccid dataplan.ICCID
	ok, err := t.found(ctx, `SELECT s.iccid FROM sim_cards s JOIN devices d ON d.device_no = s.device_no WHERE d.device_id = $1`,
		[]any{deviceID}, opt(&iccid))
	return iccid, ok, err
}
