-- +goose Up
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
