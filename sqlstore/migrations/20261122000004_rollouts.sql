-- +goose Up
-- What a device is built as, so that it gets no firmware for another board.
ALTER TABLE devices ADD COLUMN hardware TEXT;

-- Firmware that devices may be updated to. A release never changes: what is wrong is
-- withdrawn, and made anew.
CREATE TABLE releases (
    release_no   INTEGER PRIMARY KEY,
    release_id   TEXT NOT NULL UNIQUE,
    version      TEXT NOT NULL,             -- as devices report it
    hardware     TEXT NOT NULL DEFAULT '',  -- space separated: what it is for; '': any
    url          TEXT NOT NULL,
    sha256       TEXT NOT NULL CHECK (length(sha256) = 64),
    min_rssi     INTEGER,                   -- dBm; null: any
    notes        TEXT NOT NULL DEFAULT '',
    withdrawn_at BIGINT,
    created_by   TEXT NOT NULL,             -- the actor
    created_at   BIGINT NOT NULL
);
CREATE UNIQUE INDEX idx_releases_live ON releases (version, hardware) WHERE withdrawn_at IS NULL;

-- The bringing of a release to devices. Who is in it is decided while the fleet is
-- walked, in order of device_no, as far as planned_after. succeeded and failed count
-- results since the rollout began, the base_ columns those before it was last resumed
-- from a halt: the failure threshold looks at the difference.
CREATE TABLE rollouts (
    rollout_no      INTEGER PRIMARY KEY,
    rollout_id      TEXT NOT NULL UNIQUE,
    release_no      INTEGER NOT NULL REFERENCES releases (release_no),
    status          TEXT NOT NULL CHECK (status IN ('running', 'paused', 'halted', 'cancelled', 'finished')),
    percent         INTEGER NOT NULL CHECK (percent BETWEEN 1 AND 100),
    versions        TEXT NOT NULL DEFAULT '',        -- a JSON list: only devices that run one of them; '': any
    hardware        TEXT NOT NULL DEFAULT '',        -- a JSON list, likewise
    listed          BOOLEAN NOT NULL DEFAULT FALSE,  -- the devices were named: the fleet is not walked
    rate_per_minute INTEGER NOT NULL,
    max_attempts    INTEGER NOT NULL,
    timeout_sec     INTEGER NOT NULL,
    halt_percent    INTEGER NOT NULL,                -- 0: never
    halt_after      INTEGER NOT NULL,                -- results
    planned_after   INTEGER NOT NULL DEFAULT 0,
    paced_until     BIGINT,                          -- the triggers sent so far use up the rate until then
    succeeded       INTEGER NOT NULL DEFAULT 0,
    failed          INTEGER NOT NULL DEFAULT 0,
    base_succeeded  INTEGER NOT NULL DEFAULT 0,
    base_failed     INTEGER NOT NULL DEFAULT 0,
    created_by      TEXT NOT NULL,
    created_at      BIGINT NOT NULL,
    updated_at      BIGINT NOT NULL,
    finished_at     BIGINT                           -- of finished and cancelled
);
CREATE INDEX idx_rollouts_release ON rollouts (release_no);
CREATE INDEX idx_rollouts_running ON rollouts (rollout_no) WHERE status = 'running';

-- How far each device of a rollout is. A device has at most one live update.
CREATE TABLE rollout_devices (
    rollout_no   INTEGER NOT NULL REFERENCES rollouts (rollout_no) ON DELETE CASCADE,
    device_no    INTEGER NOT NULL REFERENCES devices (device_no) ON DELETE CASCADE,
    state        TEXT NOT NULL CHECK (state IN ('pending', 'waiting', 'sent', 'accepted', 'downloading', 'verifying',
        'confirming', 'succeeded', 'failed', 'skipped', 'cancelled')),
    reason       TEXT,                         -- why it waits, was skipped or has failed
    progress     INTEGER NOT NULL DEFAULT 0,   -- percent, as the device says
    attempt      INTEGER NOT NULL DEFAULT 0,   -- counted from 1
    sends        INTEGER NOT NULL DEFAULT 0,   -- how often the trigger was handed to a session in this attempt
    epoch        BIGINT NOT NULL DEFAULT 0,    -- of the connection that it was handed to, or that spoke last
    from_version TEXT,                         -- what it ran before
    not_before   BIGINT,                       -- of a waiting one
    triggered_at BIGINT,                       -- of this attempt
    said_at      BIGINT,                       -- when the device said that it succeeded
    due_at       BIGINT,                       -- of a live one: then it has failed
    finished_at  BIGINT,
    updated_at   BIGINT NOT NULL,
    PRIMARY KEY (rollout_no, device_no),
    CHECK ((finished_at IS NULL) = (state NOT IN ('succeeded', 'failed', 'skipped', 'cancelled')))
);
CREATE UNIQUE INDEX idx_rollout_devices_live ON rollout_devices (device_no)
    WHERE state IN ('sent', 'accepted', 'downloading', 'verifying', 'confirming');
CREATE INDEX idx_rollout_devices_told ON rollout_devices (rollout_no)
    WHERE state IN ('sent', 'accepted', 'downloading', 'verifying', 'confirming');
CREATE INDEX idx_rollout_devices_open ON rollout_devices (rollout_no, device_no) WHERE finished_at IS NULL;
CREATE INDEX idx_rollout_devices_device ON rollout_devices (device_no, rollout_no);
