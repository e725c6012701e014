package media

import (
	"context"
	"regexp"
	"strings"
	"time"

	"github.com/opticworks/devicecloud/registry"
)

// Video is what a device's video is called at AWS. A name without an ARN is looked up
// when it is needed.
type Video struct {
	StreamName  string // of Kinesis Video Streams
	StreamARN   string // with the time of its creation
	ChannelName string // of signalling
	ChannelARN  string // with the time of its creation
	ThingName   string // of AWS IoT
	UpdatedAt   time.Time
}

// has reports whether the device has what a feature is about.
func (v Video) has(f Feature) bool {
	if f.channel() {
		return v.ChannelName != "" || v.ChannelARN != ""
	}
	return v.StreamName != "" || v.StreamARN != "" || f == Identity || f == Uploads
}

// VideoNames are the names that are set; nil keeps one, "" takes it away.
type VideoNames struct {
	StreamName, StreamARN, ChannelName, ChannelARN, ThingName *string
}

// The forms of names at AWS. An ARN carries the time of creation, so that a stream that
// is deleted and made anew is another one. [AWS, kinesisvideo API reference, StreamInfo]
var (
	validName   = regexp.MustCompile(`^[a-zA-Z0-9_.-]{1,256}$`)
	validThing  = regexp.MustCompile(`^[a-zA-Z0-9:_-]{1,128}$`)
	validStream = regexp.MustCompile(`^arn:aws[a-z0-9-]*:kinesisvideo:[a-z0-9-]+:[0-9]{12}:stream/[a-zA-Z0-9_.-]{1,256}/[0-9]{1,20}$`)
	validChan   = regexp.MustCompile(`^arn:aws[a-z0-9-]*:kinesisvideo:[a-z0-9-]+:[0-9]{12}:channel/[a-zA-Z0-9_.-]{1,256}/[0-9]{1,20}$`)
)

// Video reads what a device's video is called, for staff. ErrDeviceNotFound.
func (s *Service) Video(ctx context.Context, a registry.Actor, deviceID string) (v Video, err error) {
	err = s.store.View(ctx, func(tx Tx) error {
		d, err := s.devices.AccessTx(ctx, tx, a, deviceID, registry.CanRead)
		if err != nil {
			return err
		}
		if a.Kind != registry.ActorAdmin && a.Kind != registry.ActorSupport {
			return registry.ErrInsufficientRole
		}
		v, err = tx.Video(ctx, d.No)
		return err
	})
	return v, err
}

// SetVideo sets what a device's video is called at AWS. Only administrators with
// config:write may. Errors: ErrInsufficientRole, ErrInsufficientScope, ErrDeviceNotFound,
// Invalid, [ErrVideoTaken].
func (s *Service) SetVideo(ctx context.Context, a registry.Actor, deviceID string, names VideoNames) (v Video, err error) {
	switch {
	case a.Kind != registry.ActorAdmin:
		return Video{}, registry.ErrInsufficientRole
	case !a.Has(registry.ScopeConfigWrite):
		return Video{}, registry.ErrInsufficientScope
	}
	err = s.store.InTx(ctx, func(tx Tx) error {
		d, err := tx.Device(ctx, deviceID)
		if err != nil {
			return err
		}
		if v, err = tx.Video(ctx, d.No); err != nil {
			return err
		}
		if err := names.onto(&v); err != nil {
			return err
		}
		v.UpdatedAt = s.now()
		if err := tx.PutVideo(ctx, d.No, v, v.UpdatedAt); err != nil {
			return err
		}
		return s.audit(ctx, tx, a, deviceID, "video_set", map[string]any{
			"stream_name": v.StreamName, "stream_arn": v.StreamARN, "channel_name": v.ChannelName, "channel_arn": v.ChannelARN, "thing_name": v.ThingName,
		})
	})
	return v, err
}

// onto sets the names, and checks that each is one and that ARN and name agree.
func (n VideoNames) onto(v *Video) error {
	for _, f := range []struct {
		name  string
		from  *string
		to    *string
		valid *regexp.Regexp
	}{
		{"stream_name", n.StreamName, &v.StreamName, validName},
		{"stream_arn", n.StreamARN, &v.StreamARN, validStream},
		{"channel_name", n.ChannelName, &v.ChannelName, validName},
		{"channel_arn", n.ChannelARN, &v.ChannelARN, validChan},
		{"thing_name", n.ThingName, &v.ThingName, validThing},
	} {
		if f.from == nil {
			continue
		}
		if *f.from != "" && !f.valid.MatchString(*f.from) {
			return registry.E(registry.Invalid, registry.ErrInvalidRequest.Code, f.name+" is not of the form that AWS gives it.")
		}
		*f.to = *f.from
	}
	for _, p := range []struct{ what, arn, name string }{{"stream", v.StreamARN, v.StreamName}, {"channel", v.ChannelARN, v.ChannelName}} {
		if p.arn != "" && p.name != "" && nameOf(p.arn) != p.name {
			return registry.E(registry.Invalid, registry.ErrInvalidRequest.Code, p.what+"_arn is not of the "+p.what+" called "+p.what+"_name.")
		}
	}
	return nil
}

// nameOf is the name in an ARN of a stream or a channel.
func nameOf(arn string) string {
	parts := strings.Split(arn, "/")
	if len(parts) != 3 {
		return ""
	}
	return parts[1]
}

// Stream is what the stream is called: its name, or what its ARN says.
func (v Video) Stream() string { return called(v.StreamName, v.StreamARN) }

// Channel is what the signalling channel is called.
func (v Video) Channel() string { return called(v.ChannelName, v.ChannelARN) }

func called(name, arn string) string {
	if name != "" || arn == "" {
		return name
	}
	return nameOf(arn)
}
