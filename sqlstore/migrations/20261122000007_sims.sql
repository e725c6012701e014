-- +goose Up
-- SIM cards. The numbers are a person's data: they leave in full for the scope admin:sim
-- alone. [contracts E]
CREATE TABLE sim_cards (
    sim_id       BIGINT PRIMARY KEY,
    iccid        TEXT NOT NULL UNIQUE,
    eid          TEXT,
    imsi         TEXT,
    msisdn       TEXT,
    device_no    INTEGER UNIQUE REFERENCES devices (device_no) ON DELETE SET NULL,
    status       TEXT NOT NULL CHECK (status IN ('inactive', 'active', 'suspended', 'exhausted', 'expired', 'retired')),
    status_at    BIGINT NOT NULL,  -- when the carrier said so: what it said before changes nothing
    used_mb      BIGINT,           -- of the running package; null: not known
    total_mb     BIGINT,           -- of the running package; null: not known, or no limit
    usage_at     BIGINT,
    plan         TEXT,             -- name of the plan whose package runs, or ran last
    plan_ends_at BIGINT,
    alert_type   INTEGER,          -- the last alert of the carrier since the package began
    alert_value  TEXT,
    alert_at     BIGINT,
    refreshed_at BIGINT,           -- when the carrier was asked last
    created_at   BIGINT NOT NULL,
    updated_at   BIGINT NOT NULL
);
CREATE UNIQUE INDEX idx_sims_eid ON sim_cards (eid) WHERE eid IS NOT NULL;
CREATE UNIQUE INDEX idx_sims_imsi ON sim_cards (imsi) WHERE imsi IS NOT NULL;
CREATE INDEX idx_sims_refreshed ON sim_cards (refreshed_at) WHERE device_no IS NOT NULL;

-- Orders at the carrier, one for each purchase. A request that may have arrived has
-- sent_at: before another one the carrier is asked what it has. [contracts E.4]
CREATE TABLE carrier_orders (
    purchase_id TEXT PRIMARY KEY REFERENCES data_plan_purchases (purchase_id),
    iccid       TEXT NOT NULL,
    attempts    INTEGER NOT NULL DEFAULT 0,  -- requests that were sent, or may have been
    sent_at     BIGINT,                      -- of the last of them
    due_at      BIGINT NOT NULL,             -- when it is looked at next
    lease_until BIGINT NOT NULL,             -- somebody works on it until then
    taken_at    BIGINT,                      -- the carrier has the order
    refunded_at BIGINT,                      -- the carrier gave the money back
    problem     TEXT                         -- what went wrong last
);

-- The carrier's notifications that were taken, so that a duplicate has no effect.
-- [contracts E.3]
CREATE TABLE carrier_events (
    provider       TEXT NOT NULL,
    event_id       TEXT NOT NULL,
    event          TEXT NOT NULL,
    iccid          TEXT,
    payload_sha256 BYTEA NOT NULL,    -- without what a repetition signs anew
    outcome        TEXT NOT NULL CHECK (outcome IN ('handled', 'repeated', 'stale', 'refused', 'ignored', 'unmatched')),
    notice         TEXT,              -- of one that nothing matched yet, JSON
    received_at    BIGINT NOT NULL,
    processed_at   BIGINT NOT NULL,
    PRIMARY KEY (provider, event_id)
);
CREATE INDEX idx_carrier_events_unmatched ON carrier_events (received_at) WHERE outcome = 'unmatched';
CREATE INDEX idx_carrier_events_received ON carrier_events (received_at);

-- What notifications have done: another one that would do the same does nothing.
CREATE TABLE carrier_effects (
    effect   TEXT PRIMARY KEY,  -- refund:ORDER, effective:ICCID:ORDER
    event_id TEXT NOT NULL,
    taken_at BIGINT NOT NULL
);
