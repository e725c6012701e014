package httpapi

import (
	"time"

	"github.com/opticworks/devicecloud/account"
	"github.com/opticworks/devicecloud/media"
)

// videoBody is what a device's video is called at AWS, as staff see it.
type videoBody struct {
	StreamName  *string    `json:"stream_name"`
	StreamARN   *string    `json:"stream_arn"`
	ChannelName *string    `json:"channel_name"`
	ChannelARN  *string    `json:"channel_arn"`
	ThingName   *string    `json:"thing_name"`
	UpdatedAt   *time.Time `json:"updated_at"`
}

func newVideoBody(v media.Video) videoBody {
	return videoBody{text(v.StreamName), text(v.StreamARN), text(v.ChannelName), text(v.ChannelARN), text(v.ThingName), stamp(v.UpdatedAt)}
}

// changedDeviceBody is the answer to a change of what staff say of a device.
type changedDeviceBody struct {
	DeviceID string    `json:"device_id"`
	Video    videoBody `json:"video"`
}

// changeDevice sets what a device's video is called. A name that is absent stays, one
// that is "" is taken away. [contracts, HTTP route table]
func (a *api) changeDevice(r *request) (answer, error) {
	id, err := a.manages(r)
	if err != nil {
		return answer{}, err
	}
	var in struct {
		Video *struct {
			StreamName  *string `json:"stream_name"`
			StreamARN   *string `json:"stream_arn"`
			ChannelName *string `json:"channel_name"`
			ChannelARN  *string `json:"channel_arn"`
			ThingName   *string `json:"thing_name"`
		} `json:"video"`
	}
	if err := r.decode(&in, maxJSON); err != nil {
		return answer{}, err
	}
	if in.Video == nil {
		return answer{}, account.ErrMissingFields
	}
	v, err := a.Media.SetVideo(r.Context(), r.actor, id, media.VideoNames(*in.Video))
	if err != nil {
		return answer{}, err
	}
	return ok(changedDeviceBody{id, newVideoBody(v)})
}
