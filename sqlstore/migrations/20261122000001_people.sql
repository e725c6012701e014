-- +goose Up
-- A second proof of staff: the shared secret of time-based one-time passwords, sealed
-- like a device's credential, and the last time step that was accepted, so that no
-- code works twice. [RFC 6238 5.2]
ALTER TABLE admins ADD COLUMN totp_secret BYTEA;
ALTER TABLE admins ADD COLUMN totp_confirmed_at BIGINT;
ALTER TABLE admins ADD COLUMN totp_step BIGINT;
ALTER TABLE admins ADD COLUMN oidc_subject TEXT;
CREATE UNIQUE INDEX idx_admins_oidc ON admins (oidc_subject) WHERE oidc_subject IS NOT NULL;

-- One sign-in of a person or of staff: a family of refresh tokens, and the access
-- tokens that carry its id as sid. Exactly one of user_id and admin_id is set, by value:
-- the revoked session of an erased person stays until the last of its tokens is dead.
CREATE TABLE auth_sessions (
    sid                 TEXT PRIMARY KEY,
    user_id             TEXT,
    admin_id            TEXT,
    scopes              TEXT NOT NULL,           -- space separated
    method              TEXT NOT NULL,           -- claim amr: how they proved themselves
    install_id          TEXT,                    -- of the app
    device_name         TEXT,                    -- of the phone, as it says
    platform            TEXT,
    client_type         TEXT,
    ip                  TEXT,
    user_agent          TEXT,
    created_at          BIGINT NOT NULL,         -- claim auth_time
    last_used_at        BIGINT NOT NULL,
    expires_at          BIGINT NOT NULL,         -- slides with each refresh
    absolute_expires_at BIGINT NOT NULL,
    revoked_at          BIGINT,
    revoke_reason       TEXT,
    CHECK ((user_id IS NULL) <> (admin_id IS NULL))
);
CREATE INDEX idx_auth_sessions_user ON auth_sessions (user_id, sid);
CREATE INDEX idx_auth_sessions_admin ON auth_sessions (admin_id, sid);
CREATE INDEX idx_auth_sessions_revoked ON auth_sessions (revoked_at) WHERE revoked_at IS NOT NULL;
CREATE INDEX idx_auth_sessions_end ON auth_sessions (absolute_expires_at);

-- The refresh tokens of a session, by SHA-256. Retired ones stay for as long as the
-- session could live, so that whoever shows an old one is recognised. [RFC 9700 4.14.2]
CREATE TABLE refresh_tokens (
    hash       BYTEA PRIMARY KEY,
    sid        TEXT NOT NULL REFERENCES auth_sessions (sid) ON DELETE CASCADE,
    issued_at  BIGINT NOT NULL,
    retired_at BIGINT
);
CREATE INDEX idx_refresh_tokens_session ON refresh_tokens (sid);

-- Mailed links, by SHA-256 of the token. Rows are deleted after a day.
CREATE TABLE magic_links (
    token_hash     BYTEA PRIMARY KEY,
    email          TEXT NOT NULL,  -- normalised
    install_id     TEXT NOT NULL,
    code_challenge TEXT NOT NULL,  -- base64url of the verifier's SHA-256 [RFC 7636 4.2]
    created_at     BIGINT NOT NULL,
    expires_at     BIGINT NOT NULL,
    used_at        BIGINT          -- of the login, or of the newer link that replaced it
);
CREATE INDEX idx_magic_links_email ON magic_links (email) WHERE used_at IS NULL;
CREATE INDEX idx_magic_links_created ON magic_links (created_at);

-- Tokens and codes of providers that have signed somebody in, by SHA-256, until they
-- expire: each works once.
CREATE TABLE used_tokens (
    hash       BYTEA PRIMARY KEY,
    expires_at BIGINT NOT NULL
);
CREATE INDEX idx_used_tokens_expiry ON used_tokens (expires_at);

-- Programs that call us: a factory, a back end.
CREATE TABLE service_accounts (
    account_id  TEXT PRIMARY KEY,
    name        TEXT NOT NULL UNIQUE,
    scopes      TEXT NOT NULL,  -- space separated: the most that its credentials may have
    disabled_at BIGINT,
    created_by  TEXT NOT NULL,  -- the actor
    created_at  BIGINT NOT NULL,
    updated_at  BIGINT NOT NULL
);

-- What a service account proves itself with: a client secret [RFC 6749 2.3.1] or an
-- API key. hash is the SHA-256 of the secret's 32 random bytes.
CREATE TABLE service_credentials (
    credential_id TEXT PRIMARY KEY,
    account_id    TEXT NOT NULL REFERENCES service_accounts (account_id) ON DELETE CASCADE,
    kind          TEXT NOT NULL CHECK (kind IN ('client_secret', 'api_key')),
    name          TEXT NOT NULL DEFAULT '',
    hash          BYTEA NOT NULL,
    scopes        TEXT NOT NULL,
    created_at    BIGINT NOT NULL,
    expires_at    BIGINT,
    last_used_at  BIGINT,
    revoked_at    BIGINT
);
CREATE INDEX idx_service_credentials_account ON service_credentials (account_id, credential_id);

-- What an erasure looks for, so that it does not read whole tables while devices wait.
CREATE INDEX idx_orders_linked ON orders (linked_user_id) WHERE linked_user_id IS NOT NULL;
CREATE INDEX idx_audit_actor ON device_audit (actor, audit_id);
