package kvs

import (
	"context"
	"encoding/base64"
	"io"
	"strings"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	kvtypes "github.com/aws/aws-sdk-go-v2/service/kinesisvideo/types"
	"github.com/aws/aws-sdk-go-v2/service/kinesisvideoarchivedmedia"
	"github.com/aws/aws-sdk-go-v2/service/kinesisvideoarchivedmedia/types"
	"github.com/opticworks/devicecloud/media"
)

// archive opens a session of a stream, and a client where it answers an operation.
func (c *Cloud) archive(ctx context.Context, h media.Holder, v media.Video, name kvtypes.APIName) (client *kinesisvideoarchivedmedia.Client, arn string, err error) {
	if arn, err = c.streamARN(ctx, v); err != nil {
		return nil, "", err
	}
	k, err := c.assume(ctx, c.opts.PlaybackRole, h, playbackPolicy(arn), sessionLife)
	if err != nil {
		return nil, arn, err
	}
	at, err := c.dataEndpoint(ctx, k, arn, name)
	if err != nil {
		return nil, arn, err
	}
	return kinesisvideoarchivedmedia.NewFromConfig(c.as(k), func(o *kinesisvideoarchivedmedia.Options) { o.BaseEndpoint = aws.String(at) }), arn, nil
}

// failed translates an error, and forgets what may have caused it.
func (c *Cloud) failed(v media.Video, arn string, err error) error {
	if err = translate(err); refused(err) {
		c.forget(v, arn)
	}
	return err
}

// Play implements media.Cloud.
func (c *Cloud) Play(ctx context.Context, h media.Holder, v media.Video, p media.Playing) (media.Secret, time.Time, error) {
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	name := kvtypes.APINameGetHlsStreamingSessionUrl
	if p.Protocol == media.DASH {
		name = kvtypes.APINameGetDashStreamingSessionUrl
	}
	client, arn, err := c.archive(ctx, h, v, name)
	if err != nil {
		return "", time.Time{}, c.failed(v, arn, err)
	}
	expires := c.opts.Now().Add(p.Life)
	var address *string
	if p.Protocol == media.DASH {
		address, err = playDASH(ctx, client, arn, p)
	} else {
		address, err = playHLS(ctx, client, arn, p)
	}
	if err != nil {
		return "", time.Time{}, c.failed(v, arn, err)
	}
	return media.Secret(aws.ToString(address)), expires, nil
}

// mode is a mode of playback as AWS spells it.
func mode(p media.Playing) string { return strings.ToUpper(p.Mode) }

func playHLS(ctx context.Context, client *kinesisvideoarchivedmedia.Client, arn string, p media.Playing) (*string, error) {
	in := &kinesisvideoarchivedmedia.GetHLSStreamingSessionURLInput{
		StreamARN: aws.String(arn), PlaybackMode: types.HLSPlaybackMode(mode(p)), Expires: aws.Int32(int32(p.Life / time.Second)),
	}
	if p.Mode != media.Live {
		in.HLSFragmentSelector = &types.HLSFragmentSelector{
			FragmentSelectorType: types.HLSFragmentSelectorTypeServerTimestamp,
			TimestampRange:       &types.HLSTimestampRange{StartTimestamp: optional(p.Start), EndTimestamp: optional(p.End)},
		}
	}
	out, err := client.GetHLSStreamingSessionURL(ctx, in)
	if err != nil {
		return nil, err
	}
	return out.HLSStreamingSessionURL, nil
}

func playDASH(ctx context.Context, client *kinesisvideoarchivedmedia.Client, arn string, p media.Playing) (*string, error) {
	in := &kinesisvideoarchivedmedia.GetDASHStreamingSessionURLInput{
		StreamARN: aws.String(arn), PlaybackMode: types.DASHPlaybackMode(mode(p)), Expires: aws.Int32(int32(p.Life / time.Second)),
	}
	if p.Mode != media.Live {
		in.DASHFragmentSelector = &types.DASHFragmentSelector{
			FragmentSelectorType: types.DASHFragmentSelectorTypeServerTimestamp,
			TimestampRange:       &types.DASHTimestampRange{StartTimestamp: optional(p.Start), EndTimestamp: optional(p.End)},
		}
	}
	out, err := client.GetDASHStreamingSessionURL(ctx, in)
	if err != nil {
		return nil, err
	}
	return out.DASHStreamingSessionURL, nil
}

// optional is a time that may be absent.
func optional(t time.Time) *time.Time {
	if t.IsZero() {
		return nil
	}
	return aws.Time(t)
}

// Clip implements media.Cloud. AWS has to begin within the time of a call; after that a
// stall of the same length ends the file.
func (c *Cloud) Clip(ctx context.Context, h media.Holder, v media.Video, from, to time.Time) (io.ReadCloser, error) {
	ctx, cancel := context.WithCancel(ctx)
	patience := time.AfterFunc(callTimeout, cancel)
	client, arn, err := c.archive(ctx, h, v, kvtypes.APINameGetClip)
	if err == nil {
		var out *kinesisvideoarchivedmedia.GetClipOutput
		out, err = client.GetClip(ctx, &kinesisvideoarchivedmedia.GetClipInput{
			StreamARN: aws.String(arn), ClipFragmentSelector: &types.ClipFragmentSelector{
				FragmentSelectorType: types.ClipFragmentSelectorTypeServerTimestamp,
				TimestampRange:       &types.ClipTimestampRange{StartTimestamp: aws.Time(from), EndTimestamp: aws.Time(to)},
			},
		})
		if err == nil {
			return &clip{out.Payload, patience, cancel}, nil
		}
	}
	patience.Stop()
	cancel()
	return nil, c.failed(v, arn, err)
}

// clip is a file that is being received.
type clip struct {
	body     io.ReadCloser
	patience *time.Timer
	cancel   context.CancelFunc
}

func (c *clip) Read(p []byte) (int, error) {
	c.patience.Reset(callTimeout)
	n, err := c.body.Read(p)
	if err != nil && err != io.EOF {
		err = translate(err)
	}
	return n, err
}

func (c *clip) Close() error {
	c.patience.Stop()
	c.cancel()
	return c.body.Close()
}

// imageSpan is how far after a time an image may be.
const imageSpan = 10 * time.Second

// Image implements media.Cloud.
func (c *Cloud) Image(ctx context.Context, h media.Holder, v media.Video, at time.Time) ([]byte, error) {
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	client, arn, err := c.archive(ctx, h, v, kvtypes.APINameGetImages)
	if err != nil {
		return nil, c.failed(v, arn, err)
	}
	out, err := client.GetImages(ctx, &kinesisvideoarchivedmedia.GetImagesInput{
		StreamARN: aws.String(arn), StartTimestamp: aws.Time(at), EndTimestamp: aws.Time(at.Add(imageSpan)),
		Format: types.FormatJpeg, ImageSelectorType: types.ImageSelectorTypeServerTimestamp, MaxResults: aws.Int64(1),
		SamplingInterval: aws.Int32(3000), // the default, in milliseconds; older models of the service require it
	})
	if err != nil {
		return nil, c.failed(v, arn, err)
	}
	for _, i := range out.Images {
		if i.ImageContent != nil {
			picture, err := base64.StdEncoding.DecodeString(*i.ImageContent)
			if err != nil {
				return nil, media.ErrUnavailable.With(err)
			}
			return picture, nil
		}
	}
	return nil, media.ErrNoMedia
}
