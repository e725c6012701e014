-- The truth of both databases, SQLite and PostgreSQL, table by table.
--
-- One text for both engines: times are BIGINT microseconds since 1970 UTC passed
-- in from the program's clock; bytes are BYTEA; surrogate keys of bounded tables
-- are INTEGER PRIMARY KEY (on SQLite the row id itself), counted in `counters`;
-- append-only tables have a BIGINT PRIMARY KEY from the program's id source,
-- which grows with time. Migrations are append-only and replay to exactly this.

-- Surrogate keys, counted from 1 by a guarded UPDATE ... RETURNING.
CREATE TABLE counters (
    name  TEXT PRIMARY KEY,
    value INTEGER NOT NULL
);

-- People.
CREATE TABLE users (
    user_id        TEXT PRIMARY KEY,
    email          TEXT,  -- normalised
    email_verified BOOLEAN NOT NULL DEFAULT FALSE,
    disabled_at    BIGINT,
    created_at     BIGINT NOT NULL,
    updated_at     BIGINT NOT NULL
);
CREATE UNIQUE INDEX idx_users_verified_email ON users (email) WHERE email_verified;

-- Identity. One row for each enrolled device; a row changes when a person or the
-- factory changes something, never with each message. [seed 003 8.1]
CREATE TABLE devices (
    device_no         INTEGER PRIMARY KEY,
    device_id         TEXT NOT NULL UNIQUE CHECK (length(device_id) = 32),
    mac_address       TEXT UNIQUE,                     -- AA:BB:CC:DD:EE:FF; null until a self-enrolled device provisions
    name              TEXT,
    firmware_version  TEXT,                            -- written only when it changes
    claim_secret_hash BYTEA,                           -- SHA-256 of the label's claim secret
    self_enrolled     BOOLEAN NOT NULL DEFAULT FALSE,  -- never auto-linked until support confirms it
    ever_owned        BOOLEAN NOT NULL DEFAULT FALSE,  -- a device that was ever owned is never auto-linked again
    disabled_at       BIGINT,
    first_seen        BIGINT,
    provisioned_at    BIGINT,
    created_at        BIGINT NOT NULL,
    updated_at        BIGINT NOT NULL,
    hardware          TEXT,                            -- what it is built as, as the factory or else the device says
    reset_hash        BYTEA,                           -- of the last report of a factory reset: the same one counts once
    max_packet_size   INTEGER                          -- the largest packet that the firmware takes, as it said; null: 1024
);
CREATE INDEX idx_devices_version ON devices (firmware_version);

-- What a device proves itself with: at most two live at once, so that rotation
-- never locks a device out. secret is the SHA-256 of the password's bytes, or of
-- the certificate (DER); sealed with SECRET_ENCRYPTION_KEY when there is one.
CREATE TABLE device_credentials (
    credential_id BIGINT PRIMARY KEY,
    device_no     INTEGER NOT NULL REFERENCES devices (device_no) ON DELETE CASCADE,
    slot          INTEGER NOT NULL CHECK (slot IN (1, 2)),
    kind          TEXT NOT NULL CHECK (kind IN ('secret', 'hmac', 'x509')),
    secret        BYTEA NOT NULL,
    created_at    BIGINT NOT NULL,
    expires_at    BIGINT,
    UNIQUE (device_no, slot)
);

-- The processes that serve devices. seen_at is written by each readiness check, which
-- so proves that the database takes writes.
CREATE TABLE nodes (
    node_id TEXT PRIMARY KEY,
    boot_id BIGINT NOT NULL,
    seen_at BIGINT NOT NULL
);

-- Presence and the last reported state: the row that changes with each message.
-- Narrow, integer-keyed and without a secondary index on purpose: an update costs
-- a few microseconds, on a wide indexed table tens to hundreds. Every write but
-- the claim of a new connection carries WHERE epoch = $mine.
CREATE TABLE device_presence (
    device_no       INTEGER PRIMARY KEY REFERENCES devices (device_no) ON DELETE CASCADE,
    epoch           BIGINT NOT NULL DEFAULT 0,   -- counts accepted connections; the fence
    status          INTEGER NOT NULL DEFAULT 0,  -- 0 offline, 1 online, 2 unknown
    reason          INTEGER NOT NULL DEFAULT 0,  -- registry.Reason
    node_id         TEXT,                        -- the node of the latest connection
    boot_id         BIGINT,                      -- that node's start
    connection_id   BIGINT,
    remote          TEXT,                        -- the peer's address
    protocol        INTEGER,                     -- 4 = MQTT 3.1.1, 5 = MQTT 5
    connected_at    BIGINT,
    changed_at      BIGINT,                      -- of status
    last_seen       BIGINT,
    reported_at     BIGINT,                      -- of the latest state message
    uptime_sec      BIGINT,
    wifi_rssi       INTEGER,
    config_version  BIGINT,
    radar_connected BOOLEAN,
    zone_count      INTEGER,
    protocol_version TEXT
);

-- One row for each connection that ended; the live one is in device_presence.
CREATE TABLE device_connections (
    connection_id   BIGINT PRIMARY KEY,
    device_no       INTEGER NOT NULL REFERENCES devices (device_no) ON DELETE CASCADE,
    epoch           BIGINT NOT NULL,
    node_id         TEXT,
    remote          TEXT,
    protocol        INTEGER,
    connected_at    BIGINT NOT NULL,
    disconnected_at BIGINT NOT NULL,
    reason          INTEGER NOT NULL
);
CREATE INDEX idx_connections_device ON device_connections (device_no, connection_id);
CREATE INDEX idx_connections_ended ON device_connections (disconnected_at);

-- The latest message of each kind that is kept whole (config/status, ota/status,
-- telemetry, diag/response), as the device sent it.
CREATE TABLE device_reports (
    device_no   INTEGER NOT NULL REFERENCES devices (device_no) ON DELETE CASCADE,
    kind        INTEGER NOT NULL,  -- topic.Kind
    received_at BIGINT NOT NULL,
    payload     TEXT NOT NULL,
    PRIMARY KEY (device_no, kind)
);

-- What happened to a device, for a person who looks back: reports, rejected
-- payloads, alerts. Bounded: a number of rows for each device and type, and a
-- retention time.
CREATE TABLE device_events (
    event_id    BIGINT PRIMARY KEY,
    device_no   INTEGER NOT NULL REFERENCES devices (device_no) ON DELETE CASCADE,
    type        TEXT NOT NULL,
    occurred_at BIGINT NOT NULL,
    data        TEXT NOT NULL DEFAULT '{}'
);
CREATE INDEX idx_events_device ON device_events (device_no, type, event_id);
CREATE INDEX idx_events_occurred ON device_events (occurred_at);

-- The only truth about who may do what with a device. [seed 003 8.1]
CREATE TABLE device_ownership (
    device_no   INTEGER NOT NULL REFERENCES devices (device_no) ON DELETE CASCADE,
    user_id     TEXT NOT NULL REFERENCES users (user_id) ON DELETE CASCADE,
    role        TEXT NOT NULL DEFAULT 'viewer' CHECK (role IN ('owner', 'admin', 'viewer')),
    claimed_at  BIGINT,
    claimed_via TEXT,
    shared_at   BIGINT,
    shared_by   TEXT,
    created_at  BIGINT NOT NULL,
    updated_at  BIGINT NOT NULL,
    starts_at   BIGINT,  -- of a share; null: at once
    ends_at     BIGINT CHECK (ends_at IS NULL OR role <> 'owner'),  -- of a share; null: until revoked
    PRIMARY KEY (device_no, user_id)
);
CREATE UNIQUE INDEX idx_ownership_owner ON device_ownership (device_no) WHERE role = 'owner';
CREATE INDEX idx_ownership_user ON device_ownership (user_id, device_no);
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
    mail_at       BIGINT,         -- when its mail is to be sent, or sent again; null: it was, or none is
    UNIQUE (device_no, kind, email)
);
CREATE UNIQUE INDEX idx_invitations_transfer ON invitations (device_no) WHERE kind = 'transfer';
CREATE INDEX idx_invitations_email ON invitations (email, invitation_id);
CREATE INDEX idx_invitations_expiry ON invitations (expires_at);
CREATE INDEX idx_invitations_mail ON invitations (mail_at) WHERE mail_at IS NOT NULL;

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
    created_at     BIGINT NOT NULL,
    purchase_id    TEXT,     -- of a plan: what was bought
    suspended_at   BIGINT    -- while the money for it is in doubt
);
CREATE UNIQUE INDEX idx_entitlements_trial ON device_entitlements (device_no, capability) WHERE source = 'trial';
CREATE UNIQUE INDEX idx_entitlements_purchase ON device_entitlements (purchase_id, capability) WHERE purchase_id IS NOT NULL;
CREATE INDEX idx_entitlements_device ON device_entitlements (device_no, capability);

-- Order lines: which MAC was sold to which e-mail. A line links once. [seed 003 4.4]
CREATE TABLE orders (
    order_id       TEXT NOT NULL,
    device_mac     TEXT NOT NULL,
    user_email     TEXT NOT NULL,  -- normalised
    shipped_at     BIGINT,
    linked_at      BIGINT,
    linked_user_id TEXT,
    created_at     BIGINT NOT NULL,
    PRIMARY KEY (order_id, device_mac)
);
CREATE INDEX idx_orders_mac ON orders (device_mac);
CREATE INDEX idx_orders_email ON orders (user_email);
CREATE INDEX idx_orders_linked ON orders (linked_user_id) WHERE linked_user_id IS NOT NULL;

-- The audit trail of every domain, one row a change, written in the transaction
-- of the change. It names devices and people by value, so that it outlives them.
-- [seed 003 8.1]
CREATE TABLE device_audit (
    audit_id    BIGINT PRIMARY KEY,
    domain      TEXT NOT NULL,
    device_id   TEXT,
    event_type  TEXT NOT NULL,
    event_data  TEXT NOT NULL DEFAULT '{}',
    actor       TEXT NOT NULL,
    request_id  TEXT,
    ip          TEXT,
    user_agent  TEXT,
    client_type TEXT,
    created_at  BIGINT NOT NULL
);
CREATE INDEX idx_audit_device ON device_audit (device_id, audit_id);
CREATE INDEX idx_audit_actor ON device_audit (actor, audit_id);
CREATE INDEX idx_audit_created ON device_audit (created_at);

-- How a person gets in: the key is the provider's subject, never the e-mail.
CREATE TABLE user_identities (
    provider   TEXT NOT NULL,
    subject    TEXT NOT NULL,
    user_id    TEXT NOT NULL REFERENCES users (user_id) ON DELETE CASCADE,
    created_at BIGINT NOT NULL,
    PRIMARY KEY (provider, subject)
);
CREATE INDEX idx_identities_user ON user_identities (user_id);

-- Platform staff. password_hash is an argon2id PHC string, '' for who signs in through
-- the identity provider of staff alone. totp_secret is the shared secret of time-based
-- one-time passwords, sealed like a device's credential; totp_step is the last time
-- step that was accepted, so that no code works twice. [RFC 6238 5.2]
CREATE TABLE admins (
    admin_id          TEXT PRIMARY KEY,
    email             TEXT NOT NULL UNIQUE,  -- normalised
    password_hash     TEXT NOT NULL,
    role              TEXT NOT NULL CHECK (role IN ('admin', 'support')),
    disabled_at       BIGINT,
    created_at        BIGINT NOT NULL,
    updated_at        BIGINT NOT NULL,
    totp_secret       BYTEA,
    totp_confirmed_at BIGINT,
    totp_step         BIGINT,
    oidc_subject      TEXT,
    scopes            TEXT NOT NULL DEFAULT '' -- granted beyond those of the role, space separated
);
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

-- Rates of commands and of mails about invitations, of all nodes together: for each
-- bucket the time at which it will be full again. A row in the past says nothing.
CREATE TABLE command_rates (
    bucket  TEXT PRIMARY KEY,  -- user:..., device:..., type:..., mail:<SHA-256 of the address or of who invites>
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

-- What a device's video is called at AWS. No two devices have the same stream, channel
-- or thing: the people of one would watch the other.
CREATE TABLE device_videos (
    device_no    INTEGER PRIMARY KEY REFERENCES devices (device_no) ON DELETE CASCADE,
    stream_name  TEXT UNIQUE,
    stream_arn   TEXT UNIQUE,
    channel_name TEXT UNIQUE,
    channel_arn  TEXT UNIQUE,
    thing_name   TEXT UNIQUE,
    updated_at   BIGINT NOT NULL
);

-- The viewers that people were given an address or credentials for, for as long as one
-- may be watching: whoever loses access meanwhile is ended by a command to the device.
-- A person is named, not referred to: an erased one may be watching too.
CREATE TABLE video_viewers (
    viewer_no  BIGINT PRIMARY KEY,
    device_no  INTEGER NOT NULL REFERENCES devices (device_no) ON DELETE CASCADE,
    user_id    TEXT NOT NULL,
    client_id  TEXT NOT NULL UNIQUE,  -- of signalling
    vended_at  BIGINT NOT NULL,
    live_until BIGINT NOT NULL        -- nobody can be watching by it after
);
CREATE INDEX idx_viewers_device ON video_viewers (device_no);
CREATE INDEX idx_viewers_live ON video_viewers (live_until);

-- When devices were given credentials of AWS, for the limits of a minute and a day. The
-- credentials are kept nowhere.
CREATE TABLE device_vends (
    vend_no   BIGINT PRIMARY KEY,
    device_no INTEGER NOT NULL REFERENCES devices (device_no) ON DELETE CASCADE,
    vended_at BIGINT NOT NULL
);
CREATE INDEX idx_vends_device ON device_vends (device_no, vended_at);
CREATE INDEX idx_vends_at ON device_vends (vended_at);

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
