-- +goose Up
-- Who outside is told of events, and where. At most two secrets sign at a time.
CREATE TABLE webhook_endpoints (
    endpoint_no      INTEGER PRIMARY KEY,
    endpoint_id      TEXT NOT NULL UNIQUE,
    url              TEXT NOT NULL,
    description      TEXT NOT NULL DEFAULT '',
    secret           BYTEA NOT NULL,  -- 32 random bytes, sealed when a key is configured
    old_secret       BYTEA,           -- signs too, until old_secret_until
    old_secret_until BIGINT,
    disabled_at      BIGINT,          -- nothing is kept for it or sent to it
    disabled_reason  TEXT CHECK (disabled_reason IN ('by_request', 'gone', 'failing')),
    failing_since    BIGINT,          -- of the first failure after the last success
    not_before       BIGINT,          -- it asked not to be called until then
    created_by       TEXT NOT NULL,   -- the actor
    created_at       BIGINT NOT NULL,
    updated_at       BIGINT NOT NULL,
    CHECK ((old_secret IS NULL) = (old_secret_until IS NULL)),
    CHECK ((disabled_at IS NULL) = (disabled_reason IS NULL))
);

-- Which events an endpoint is told of.
CREATE TABLE webhook_subscriptions (
    event_type  TEXT NOT NULL,
    endpoint_no INTEGER NOT NULL REFERENCES webhook_endpoints (endpoint_no) ON DELETE CASCADE,
    PRIMARY KEY (event_type, endpoint_no)
);

-- The outbox: one row for each event and each endpoint that was subscribed when it
-- happened, written in the transaction of the change. A row that waits is due at
-- due_at; while it is being sent that is the end of the lease, and attempt its fence.
CREATE TABLE webhook_deliveries (
    endpoint_no   INTEGER NOT NULL REFERENCES webhook_endpoints (endpoint_no) ON DELETE CASCADE,
    event_id      BIGINT NOT NULL,
    type          TEXT NOT NULL,
    device_id     TEXT,                        -- what is about one device arrives in order
    body          TEXT NOT NULL,               -- JSON, as it is signed and sent
    status        TEXT NOT NULL CHECK (status IN ('waiting', 'delivered', 'failed')),
    attempt       INTEGER NOT NULL DEFAULT 0,  -- how often it was sent, or begun to be
    first_attempt INTEGER NOT NULL DEFAULT 0,  -- attempts before the last replay
    due_at        BIGINT NOT NULL,
    created_at    BIGINT NOT NULL,             -- when it happened
    tried_at      BIGINT,                      -- when the last attempt ended
    finished_at   BIGINT,
    answer        INTEGER,                     -- HTTP status of the last attempt
    error         TEXT,                        -- why the last attempt failed
    PRIMARY KEY (endpoint_no, event_id),
    CHECK ((finished_at IS NULL) = (status = 'waiting'))
);
CREATE INDEX idx_webhook_deliveries_due ON webhook_deliveries (endpoint_no, due_at) WHERE status = 'waiting';
CREATE INDEX idx_webhook_deliveries_order ON webhook_deliveries (endpoint_no, device_id, event_id) WHERE status = 'waiting';
CREATE INDEX idx_webhook_deliveries_status ON webhook_deliveries (endpoint_no, status, event_id);
CREATE INDEX idx_webhook_deliveries_finished ON webhook_deliveries (finished_at) WHERE finished_at IS NOT NULL;
CREATE INDEX idx_webhook_deliveries_created ON webhook_deliveries (created_at);
