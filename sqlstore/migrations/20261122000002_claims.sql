-- +goose Up
-- Shares may begin and end by themselves.
ALTER TABLE device_ownership ADD COLUMN starts_at BIGINT;
ALTER TABLE device_ownership ADD COLUMN ends_at BIGINT CHECK (ends_at IS NULL OR role <> 'owner');
CREATE INDEX idx_ownership_starts ON device_ownership (starts_at) WHERE starts_at IS NOT NULL;
CREATE INDEX idx_ownership_ends ON device_ownership (ends_at) WHERE ends_at IS NOT NULL;

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
