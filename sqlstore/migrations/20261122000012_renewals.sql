-- +goose Up
-- Orders at the carrier, one for each payment: a purchase's own, and one for each further
-- period of a subscription. A request that may have arrived has sent_at: before another
-- one the carrier is asked what it has. [contracts E.4]
CREATE TABLE package_orders (
    out_trade_no     TEXT PRIMARY KEY CHECK (length(out_trade_no) <= 32),  -- what the carrier calls it
    purchase_id      TEXT NOT NULL REFERENCES data_plan_purchases (purchase_id),
    invoice_id       TEXT UNIQUE,                 -- of the period; null: the purchase's own
    starts_at        BIGINT NOT NULL DEFAULT 0,   -- of the period; 0: the purchase's own
    iccid            TEXT NOT NULL,               -- "": not ordered yet
    carrier_order_id TEXT,
    attempts         INTEGER NOT NULL DEFAULT 0,  -- requests that were sent, or may have been
    sent_at          BIGINT,                      -- of the last of them
    due_at           BIGINT NOT NULL,             -- when it is looked at next
    lease_until      BIGINT NOT NULL,             -- somebody works on it until then
    taken_at         BIGINT,                      -- the carrier has the order
    began_at         BIGINT,                      -- the carrier's package runs since
    failed_at        BIGINT,                      -- the carrier refused the order
    refunded_at      BIGINT,                      -- the carrier gave the money back
    problem          TEXT                         -- what went wrong last
);
CREATE INDEX idx_package_orders_purchase ON package_orders (purchase_id);
CREATE INDEX idx_package_orders_carrier ON package_orders (carrier_order_id);
CREATE INDEX idx_package_orders_renewals ON package_orders (due_at) WHERE invoice_id IS NOT NULL AND began_at IS NULL AND failed_at IS NULL;

INSERT INTO package_orders (out_trade_no, purchase_id, iccid, carrier_order_id, attempts, sent_at, due_at, lease_until, taken_at, began_at, refunded_at, problem)
SELECT p.out_trade_no, p.purchase_id, o.iccid, p.carrier_order_id, o.attempts, o.sent_at, o.due_at, o.lease_until, o.taken_at, p.active_at, o.refunded_at, o.problem
FROM carrier_orders o JOIN data_plan_purchases p ON p.purchase_id = o.purchase_id;
DROP TABLE carrier_orders;

-- A card that was stopped before is known by its status alone.
ALTER TABLE sim_cards ADD COLUMN stopped_at BIGINT;  -- when the carrier last stopped it
UPDATE sim_cards SET stopped_at = status_at WHERE status = 'suspended';
