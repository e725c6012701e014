-- +goose Up
-- When the mail about an invitation is to be sent, or sent again; null: it was, or none
-- is. Which report of a factory reset was the last to count, and the largest packet that
-- the firmware takes.
ALTER TABLE invitations ADD COLUMN mail_at BIGINT;
CREATE INDEX idx_invitations_mail ON invitations (mail_at) WHERE mail_at IS NOT NULL;
ALTER TABLE devices ADD COLUMN reset_hash BYTEA;
ALTER TABLE devices ADD COLUMN max_packet_size INTEGER;
