-- +goose Up
-- Events of devices that the outside has sent, to know each again. What happened is in
-- device_events under the same id, for as long as that is kept.
CREATE TABLE iot_events (
    event_id    BIGINT PRIMARY KEY,
    device_no   INTEGER NOT NULL REFERENCES devices (device_no) ON DELETE CASCADE,
    sender_id   TEXT,                  -- event_id, as the sender calls it
    type        TEXT NOT NULL,
    occurred_at BIGINT NOT NULL,
    received_at BIGINT NOT NULL,
    dedup_key   BYTEA NOT NULL UNIQUE, -- SHA-256 of sender_id, or of the event itself
    body_hash   BYTEA NOT NULL,        -- SHA-256 of the event itself
    source      TEXT NOT NULL          -- id of the key that signed it
);
CREATE INDEX idx_iot_events_device ON iot_events (device_no, sender_id);
CREATE INDEX idx_iot_events_received ON iot_events (received_at);

-- The minutes in which a key, or whoever claimed to have it, has an audit row of a
-- reason: one is enough. Rows are deleted after an hour.
CREATE TABLE ingest_audits (
    key_id TEXT NOT NULL,
    reason TEXT NOT NULL,
    minute BIGINT NOT NULL,  -- since 1970
    PRIMARY KEY (key_id, reason, minute)
);
CREATE INDEX idx_ingest_audits_minute ON ingest_audits (minute);

-- What a model has seen in the picture of an event, and the queue of those it is still to
-- look at. A claim is taken before the model is asked, so that it is paid once.
CREATE TABLE event_classifications (
    event_id      BIGINT NOT NULL REFERENCES device_events (event_id) ON DELETE CASCADE,
    model_id      TEXT NOT NULL,
    device_no     INTEGER NOT NULL REFERENCES devices (device_no) ON DELETE CASCADE,
    status        TEXT NOT NULL CHECK (status IN ('waiting', 'running', 'done', 'failed')),
    attempts      INTEGER NOT NULL DEFAULT 0,
    claim         BIGINT NOT NULL DEFAULT 0,  -- of who is at it; the fence of its end
    due_at        BIGINT,                     -- waiting: when to begin; running: when the claim lapses
    label         TEXT,
    confidence    INTEGER,                    -- thousandths
    summary       TEXT,
    error         TEXT,                       -- why it failed
    created_at    BIGINT NOT NULL,
    classified_at BIGINT,
    PRIMARY KEY (event_id, model_id),
    CHECK ((due_at IS NULL) = (status IN ('done', 'failed'))),
    CHECK ((classified_at IS NULL) = (status <> 'done'))
);
CREATE INDEX idx_classifications_due ON event_classifications (due_at) WHERE due_at IS NOT NULL;
CREATE INDEX idx_classifications_device ON event_classifications (device_no, event_id);

-- How often a model was asked about a device on a day (UTC).
CREATE TABLE classification_days (
    device_no INTEGER NOT NULL REFERENCES devices (device_no) ON DELETE CASCADE,
    day       INTEGER NOT NULL,  -- since 1970
    calls     INTEGER NOT NULL,
    PRIMARY KEY (device_no, day)
);
CREATE INDEX idx_classification_days_day ON classification_days (day);
