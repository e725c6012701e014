-- +goose Up
-- Shares may begin and end by themselves.
ALTER TABLE device_ownership ADD COLUMN starts_at BIGINT;
ALTER TABLE device_ownership ADD COLUMN ends_at BIGINT CHECK (ends_at IS NULL OR role <> 'owner');
CREATE INDEX idx_ownership_starts ON device_ownership (starts_at) WHERE starts_at IS NOT NULL;
CREATE INDEX idx_ownership_ends ON device_ownership (ends_at) WHERE ends_at IS NOT NULL;

-- A person's list comes in the order of this index, so that nothing is sorted.
DROP INDEX idx_ownership_user;
CREATE INDEX idx_ownership_user ON device_ownership (user_id, device_no);

-- Open offers of a device, or of a role on it, to whoever has a verified e-mail. What
-- is answered, withdrawn or expired is deleted; the audit trail has it.
CREATE TABLE invitations (
    invitation_id BIGINT PRIMARY KEY,
    device_no     INTEGER NOT NULL REFERENCES devices (device_no) ON DELETE CASCADE,
    kind          TEXT NOT NULL CHECK (kind IN ('share', 'transfer')),
    email         TEXT NOT NULL,  -- normalised
    role          TEXT NOT NULL CHECK ((role = 'owner') = (kind = 'transfer') AND role IN ('owner', 'admin', 'viewer')),
    starts_at     BIGINT,         -- of the share
    ends_at       BIGINT,
    invited_by    TEXT NOT NULL,  -- id of a person or of staff
    created_at    BIGINT NOT NULL,
    expires_at    BIGINT NOT NULL,
    UNIQUE (device_no, kind, email)
);
CREATE UNIQUE INDEX idx_invitations_transfer ON invitations (device_no) WHERE kind = 'transfer';
CREATE INDEX idx_invitations_email ON invitations (email, invitation_id);
CREATE INDEX idx_invitations_expiry ON invitations (expires_at);

-- Claims that wait for their device, by SHA-256 of the pairing code or the challenge.
-- Rows are deleted an hour after they have expired.
CREATE TABLE claims (
    claim_id   TEXT PRIMARY KEY,
    user_id    TEXT NOT NULL REFERENCES users (user_id) ON DELETE CASCADE,
    via        TEXT NOT NULL CHECK (via IN ('pairing_code', 'button')),
    hash       BYTEA NOT NULL UNIQUE,
    device_no  INTEGER REFERENCES devices (device_no) ON DELETE CASCADE,
    status     TEXT NOT NULL CHECK (status IN ('pending', 'claimed', 'rejected')),
    error      TEXT,  -- why it was rejected
    created_at BIGINT NOT NULL,
    expires_at BIGINT NOT NULL
);
CREATE INDEX idx_claims_user ON claims (user_id);
CREATE INDEX idx_claims_device ON claims (device_no);
CREATE INDEX idx_claims_expiry ON claims (expires_at);

-- Tries to claim a device that failed in the last hour, of a device or of a person.
CREATE TABLE claim_tries (
    try_id   BIGINT PRIMARY KEY,
    subject  TEXT NOT NULL,  -- device:<id> or user:<id>
    tried_at BIGINT NOT NULL
);
CREATE INDEX idx_claim_tries_subject ON claim_tries (subject, tried_at);
CREATE INDEX idx_claim_tries_time ON claim_tries (tried_at);

-- Rights of devices to services, for a time. A device has one trial of a service, from
-- its first activation.
CREATE TABLE device_entitlements (
    entitlement_id BIGINT PRIMARY KEY,
    device_no      INTEGER NOT NULL REFERENCES devices (device_no) ON DELETE CASCADE,
    capability     TEXT NOT NULL CHECK (capability IN ('live_view', 'cloud_playback', 'clip_download', 'ai_summary')),
    source         TEXT NOT NULL CHECK (source IN ('trial', 'plan', 'grant')),
    starts_at      BIGINT NOT NULL,
    ends_at        BIGINT,   -- null: never
    history_days   INTEGER,  -- how far back a recording may be played; null: no limit
    granted_by     TEXT,     -- the actor of a grant
    created_at     BIGINT NOT NULL
);
CREATE UNIQUE INDEX idx_entitlements_trial ON device_entitlements (device_no, capability) WHERE source = 'trial';
CREATE INDEX idx_entitlements_device ON device_entitlements (device_no, capability);
