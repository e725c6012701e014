package sqlstore

import (
	"context"
	"time"

	"github.com/opticworks/devicecloud/media"
)

// Video implements media.VideoTx.
func (t *tx) Video(ctx context.Context, deviceNo int64) (v media.Video, err error) {
	_, err = t.found(ctx, `SELECT stream_name, stream_arn, channel_name, channel_arn, thing_name, updated_at
		FROM device_videos WHERE device_no = $1`, []any{deviceNo},
		opt(&v.StreamName), opt(&v.StreamARN), opt(&v.ChannelName), opt(&v.ChannelARN), opt(&v.ThingName), at(&v.UpdatedAt))
	return v, err
}

// PutVideo implements media.VideoTx.
func (t *tx) PutVideo(ctx context.Context, deviceNo int64, v media.Video, now time.Time) error {
	// The row is there before its names are, so that one statement sets them and says
	// whether it could: an upsert would fail on another device's name.
	if _, err := t.exec(ctx, `INSERT INTO device_videos (device_no, updated_at) VALUES ($1, $2) ON CONFLICT (device_no) DO NOTHING`, deviceNo, micros(now)); err != nil {
		return err
	}
	// A name and an ARN that says it are one stream, however each device has it. The other's
	// ARN holds the name where it is not the same without it: LIKE would see wildcards in
	// names, and on SQLite no letter case.
	put, err := t.changes(ctx, `UPDATE device_videos SET stream_name = $2, stream_arn = $3, channel_name = $4, channel_arn = $5, thing_name = $6, updated_at = $7
		WHERE device_no = $1 AND NOT EXISTS (SELECT 1 FROM device_videos o WHERE o.device_no <> $1
			AND (o.stream_name = $8 OR o.stream_arn = $3 OR replace(o.stream_arn, $9, '') <> o.stream_arn
				OR o.channel_name = $10 OR o.channel_arn = $5 OR replace(o.channel_arn, $11, '') <> o.channel_arn OR o.thing_name = $6))`,
		deviceNo, text(v.StreamName), text(v.StreamARN), text(v.ChannelName), text(v.ChannelARN), text(v.ThingName), micros(now),
		text(v.Stream()), withinARN("stream", v.Stream()), text(v.Channel()), withinARN("channel", v.Channel()))
	if err == nil && !put {
		err = media.ErrVideoTaken
	}
	return err
}

// withinARN is how an ARN says a name; NULL without one.
func withinARN(kind, name string) any {
	if name == "" {
		return nil
	}
	return ":" + kind + "/" + name + "/"
}

// InsertWatcher implements media.WatcherTx.
func (t *tx) InsertWatcher(ctx context.Context, w media.Watcher) error {
	_, err := t.exec(ctx, `INSERT INTO video_viewers (viewer_no, device_no, user_id, client_id, vended_at, live_until) VALUES ($1, $2, $3, $4, $5, $6)`,
		w.No, w.DeviceNo, w.UserID, w.ClientID, micros(w.VendedAt), micros(w.LiveUntil))
	return err
}

// Outsiders implements media.WatcherTx.
func (t *tx) Outsiders(ctx context.Context, now time.Time, limit int) ([]media.Watcher, error) {
	return collect(ctx, t, `SELECT v.viewer_no, v.device_no, d.device_id, v.user_id, v.client_id, v.vended_at, v.live_until
		FROM video_viewers v JOIN devices d ON d.device_no = v.device_no
		WHERE v.live_until > $1 AND NOT EXISTS (SELECT 1 FROM device_ownership o WHERE o.device_no = v.device_no AND o.user_id = v.user_id
			AND (o.starts_at IS NULL OR o.starts_at <= $1) AND (o.ends_at IS NULL OR o.ends_at > $1))
		ORDER BY v.viewer_no LIMIT CAST($2 AS BIGINT)`, []any{micros(now), capped(limit)}, func(scan scanFunc, w *media.Watcher) error {
		return scan(&w.No, &w.DeviceNo, &w.DeviceID, &w.UserID, &w.ClientID, at(&w.VendedAt), at(&w.LiveUntil))
	})
}

// DeleteWatcher implements media.WatcherTx.
func (t *tx) DeleteWatcher(ctx context.Context, no int64) error {
	_, err := t.exec(ctx, `DELETE FROM video_viewers WHERE viewer_no = $1`, no)
	return err
}

// DeleteWatchers implements media.WatcherTx.
func (t *tx) DeleteWatchers(ctx context.Context, now time.Time, limit int) (int, error) {
	n, err := t.exec(ctx, `DELETE FROM video_viewers WHERE viewer_no IN
		(SELECT v.viewer_no FROM video_viewers v WHERE v.live_until <= $1 ORDER BY v.live_until LIMIT $2)`, micros(now), int64(limit))
	return int(n), err
}

// TakeVend implements media.VendTx. The guard is in the statement: of two at once one
// finds the other's row, on SQLite because there is one writer and on PostgreSQL because
// the transactions are serializable.
func (t *tx) TakeVend(ctx context.Context, no, deviceNo int64, now, minute, day time.Time, most int) (time.Duration, error) {
	took, err := t.changes(ctx, `INSERT INTO device_vends (vend_no, device_no, vended_at)
		SELECT CAST($1 AS BIGINT), CAST($2 AS INTEGER), CAST($3 AS BIGINT)
		WHERE NOT EXISTS (SELECT 1 FROM device_vends v WHERE v.device_no = $2 AND v.vended_at > $4)
			AND (SELECT count(*) FROM device_vends v WHERE v.device_no = $2 AND v.vended_at > $5) < $6`,
		no, deviceNo, micros(now), micros(minute), micros(day), int64(most))
	if err != nil || took {
		return 0, err
	}
	// Of a day's limit there is room when the oldest that counts is a day old.
	var newest, oldest time.Time
	var count int64
	if err := t.row(ctx, `SELECT max(vended_at), min(vended_at), count(*) FROM device_vends WHERE device_no = $1 AND vended_at > $2`,
		[]any{deviceNo, micros(day)}, at(&newest), at(&oldest), &count); err != nil {
		return 0, err
	}
	wait := newest.Sub(minute)
	if count >= int64(most) {
		wait = max(wait, oldest.Sub(day))
	}
	return max(wait, time.Microsecond), nil
}

// DeleteVend implements media.VendTx.
func (t *tx) DeleteVend(ctx context.Context, no int64) error {
	_, err := t.exec(ctx, `DELETE FROM device_vends WHERE vend_no = $1`, no)
	return err
}

// DeleteVends implements media.VendTx.
func (t *tx) DeleteVends(ctx context.Context, before time.Time, limit int) (int, error) {
	n, err := t.exec(ctx, `DELETE FROM device_vends WHERE vend_no IN
		(SELECT v.vend_no FROM device_vends v WHERE v.vended_at <= $1 ORDER BY v.vended_at LIMIT $2)`, micros(before), int64(limit))
	return int(n), err
}
