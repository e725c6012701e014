-- +goose Up
-- Commands to devices, from the request until long after their end: the queue, the
-- memory of request ids, and what people look at. finished_at is set exactly when the
-- status is final, and due_at is when the timer of the status runs out.
CREATE TABLE device_commands (
    command_no   BIGINT PRIMARY KEY,
    command_id   TEXT NOT NULL UNIQUE,            -- a ULID
    device_no    INTEGER NOT NULL REFERENCES devices (device_no) ON DELETE CASCADE,
    issuer       TEXT NOT NULL,                   -- the actor: user:..., admin:..., service:...
    request_id   TEXT NOT NULL,                   -- the issuer's own: the same one twice is one command
    body_hash    BYTEA NOT NULL,                  -- SHA-256 of what was asked for
    type         TEXT NOT NULL,
    params       TEXT NOT NULL DEFAULT '{}',
    queueable    BOOLEAN NOT NULL DEFAULT TRUE,   -- false: now or never
    status       TEXT NOT NULL CHECK (status IN ('queued', 'sent', 'delivered', 'in_progress',
        'succeeded', 'failed', 'rejected', 'timed_out', 'expired', 'cancelled')),
    code         TEXT,                            -- why it failed, ours in lower case or the device's
    message      TEXT,
    result       TEXT,                            -- JSON, the device's
    attempt      INTEGER NOT NULL DEFAULT 0,      -- how often it was handed to a session
    epoch        BIGINT NOT NULL DEFAULT 0,       -- of the connection that it was handed to last
    firmware     TEXT,                            -- version that answered
    issued_at    BIGINT NOT NULL,
    sent_at      BIGINT,
    delivered_at BIGINT,
    finished_at  BIGINT,
    late_at      BIGINT,                          -- of the first answer that came after the end
    expires_at   BIGINT NOT NULL,
    due_at       BIGINT NOT NULL,
    UNIQUE (device_no, issuer, request_id),
    CHECK ((finished_at IS NULL) = (status IN ('queued', 'sent', 'delivered', 'in_progress')))
);
CREATE INDEX idx_commands_device ON device_commands (device_no, command_no);
CREATE INDEX idx_commands_open ON device_commands (device_no, command_no) WHERE finished_at IS NULL;
CREATE INDEX idx_commands_due ON device_commands (due_at) WHERE finished_at IS NULL;
CREATE INDEX idx_commands_finished ON device_commands (finished_at) WHERE finished_at IS NOT NULL;
CREATE INDEX idx_commands_issuer ON device_commands (issuer);

-- Rates of commands, of all nodes together: for each bucket the time at which it will
-- be full again. A row in the past says nothing.
CREATE TABLE command_rates (
    bucket  TEXT PRIMARY KEY,  -- user:..., device:..., type:...
    full_at BIGINT NOT NULL
);
CREATE INDEX idx_command_rates_full ON command_rates (full_at);

-- The configuration that people want a device to have. What the device has is in
-- device_reports (config/status).
CREATE TABLE device_configs (
    device_no  INTEGER PRIMARY KEY REFERENCES devices (device_no) ON DELETE CASCADE,
    version    BIGINT NOT NULL,
    zones      TEXT NOT NULL,  -- a JSON list
    updated_at BIGINT NOT NULL
);
