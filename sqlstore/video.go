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
	put, err := t.changes(ctx, `UPDATE device_videos SET stream_name = $2, stream_arn = $3, channel_name = $4, channel_arn = $5, thing_name = $6, updated_at = $7
		WHERE device_no = $1 AND NOT EXISTS (SELECT 1 FROM device_videos o WHERE o.device_no <> $1
			AND (o.stream_name = $2 OR o.stream_arn = $3 OR o.channel_name = $4 OR o.channel_arn = $5 OR o.thing_name = $6))`,
		deviceNo, text(v.StreamName), text(v.StreamARN), text(v.ChannelName), text(v.ChannelARN), text(v.ThingName), micros(now))
	if err == nil && !put {
		err = media.ErrVideoTaken
	}
	return err
}
