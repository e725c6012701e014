-- +goose Up
-- Data plans: what is sold for the SIM card of a device. terms is the plan as JSON.
CREATE TABLE data_plans (
    plan_id    TEXT PRIMARY KEY,
    terms      TEXT NOT NULL,
    from_file  BOOLEAN NOT NULL DEFAULT FALSE,  -- of DATA_PLANS_FILE: only the file changes it
    retired    BOOLEAN NOT NULL DEFAULT FALSE,  -- not sold any more
    created_at BIGINT NOT NULL,
    updated_at BIGINT NOT NULL
);

-- One plan bought for one SIM. It names device and person by value and outlives both.
-- stage moves along one table; status is what follows from it and from the facts beside:
-- payments, disputes, periods, hold. [contracts E.4]
CREATE TABLE data_plan_purchases (
    purchase_id              TEXT PRIMARY KEY CHECK (length(purchase_id) = 32),
    user_id                  TEXT NOT NULL,
    device_id                TEXT NOT NULL,
    iccid                    TEXT NOT NULL,
    plan_id                  TEXT NOT NULL,
    terms                    TEXT NOT NULL,    -- the plan as it was bought, JSON
    amount                   BIGINT NOT NULL,  -- the price, in the currency's smallest unit
    currency                 TEXT NOT NULL,
    stage                    TEXT NOT NULL CHECK (stage IN ('PENDING', 'CANCELED', 'FAILED', 'PAID',
        'PENDING_ASSIGNMENT', 'ORDERING', 'ACTIVE', 'EXPIRED')),
    status                   TEXT NOT NULL,
    version                  BIGINT NOT NULL DEFAULT 0,
    idempotency_key          TEXT NOT NULL,
    stripe_session_id        TEXT UNIQUE,
    checkout_url             TEXT,
    expires_at               BIGINT NOT NULL,  -- of the checkout
    closed_at                BIGINT,           -- of the checkout; null: it may be paid
    stripe_payment_intent_id TEXT UNIQUE,
    stripe_subscription_id   TEXT UNIQUE,
    paid_at                  BIGINT,
    held_at                  BIGINT,
    hold_reason              TEXT,
    resumed_at               BIGINT,
    active_at                BIGINT,           -- when the carrier's package began
    active_until             BIGINT,
    ended_at                 BIGINT,           -- of a subscription: it will not be renewed
    out_trade_no             TEXT NOT NULL UNIQUE CHECK (length(out_trade_no) <= 32),
    carrier_order_id         TEXT,
    created_at               BIGINT NOT NULL,
    updated_at               BIGINT NOT NULL,
    UNIQUE (user_id, idempotency_key)
);
CREATE UNIQUE INDEX idx_purchases_open ON data_plan_purchases (iccid, plan_id) WHERE closed_at IS NULL;
CREATE INDEX idx_purchases_user ON data_plan_purchases (user_id, purchase_id);
CREATE INDEX idx_purchases_device ON data_plan_purchases (device_id, purchase_id);
CREATE INDEX idx_purchases_status ON data_plan_purchases (status, purchase_id);
CREATE INDEX idx_purchases_stage ON data_plan_purchases (stage, purchase_id);

-- What is known of payments at the provider, also of those whose purchase is not known
-- yet: a refund may be reported before the payment.
CREATE TABLE data_plan_payments (
    payment_intent_id TEXT PRIMARY KEY,
    purchase_id       TEXT,
    refunded          BIGINT NOT NULL DEFAULT 0,
    complete          BOOLEAN NOT NULL DEFAULT FALSE,  -- all of it was refunded
    created_at        BIGINT NOT NULL
);
CREATE INDEX idx_payments_purchase ON data_plan_payments (purchase_id);
CREATE INDEX idx_payments_unmatched ON data_plan_payments (created_at) WHERE purchase_id IS NULL;

-- Payments that the buyer's bank takes back, or tries to.
CREATE TABLE data_plan_disputes (
    dispute_id        TEXT PRIMARY KEY,
    payment_intent_id TEXT NOT NULL,
    closed            BOOLEAN NOT NULL DEFAULT FALSE,
    won               BOOLEAN NOT NULL DEFAULT FALSE,
    created_at        BIGINT NOT NULL
);
CREATE INDEX idx_disputes_payment ON data_plan_disputes (payment_intent_id);

-- The periods of subscriptions, one for each invoice.
CREATE TABLE data_plan_periods (
    invoice_id             TEXT PRIMARY KEY,
    purchase_id            TEXT,
    stripe_subscription_id TEXT,
    payment_intent_id      TEXT,
    paid                   BOOLEAN NOT NULL,
    amount                 BIGINT NOT NULL,
    currency               TEXT NOT NULL,
    starts_at              BIGINT,
    ends_at                BIGINT,
    created_at             BIGINT NOT NULL
);
CREATE INDEX idx_periods_purchase ON data_plan_periods (purchase_id);
CREATE INDEX idx_periods_subscription ON data_plan_periods (stripe_subscription_id);

-- The payment provider's events that were taken, so that a duplicate has no effect.
CREATE TABLE stripe_events (
    event_id    TEXT PRIMARY KEY,
    type        TEXT NOT NULL,
    created     BIGINT NOT NULL,
    api_version TEXT,
    received_at BIGINT NOT NULL,
    outcome     TEXT NOT NULL
);
CREATE INDEX idx_stripe_events_received ON stripe_events (received_at);

ALTER TABLE device_entitlements ADD COLUMN purchase_id TEXT;     -- of a plan: what was bought
ALTER TABLE device_entitlements ADD COLUMN suspended_at BIGINT;  -- while the money for it is in doubt
CREATE UNIQUE INDEX idx_entitlements_purchase ON device_entitlements (purchase_id, capability) WHERE purchase_id IS NOT NULL;
