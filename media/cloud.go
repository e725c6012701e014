package media

import (
	"context"
	"io"
	"time"
)

// Cloud is AWS as this package needs it; partner/kvs implements it. Each method asks for
// new temporary credentials, of the one stream or channel that it is about, and returns
// the errors of this package: [ErrNoMedia], [ErrRange], [ErrBusy], [ErrNoRetention],
// [ErrUnsupported], [ErrDenied], [ErrUnavailable].
type Cloud interface {
	// Offers reports whether the operator has configured a feature.
	Offers(f Feature) bool
	// Region is the AWS region of all streams and channels.
	Region() string
	// Play opens a playback session of a stream, and says where and until when.
	Play(ctx context.Context, h Holder, v Video, p Playing) (address Secret, expires time.Time, err error)
	// Clip opens an MP4 file of a stream from one time to another. The caller closes it.
	Clip(ctx context.Context, h Holder, v Video, from, to time.Time) (io.ReadCloser, error)
	// Image is one JPEG image of a stream, of a time or shortly after.
	Image(ctx context.Context, h Holder, v Video, at time.Time) ([]byte, error)
	// View lets a person watch a signalling channel under a client id. With credentials
	// they sign for themselves.
	View(ctx context.Context, h Holder, v Video, clientID string, credentials bool) (Viewer, error)
	// Lend gives a device credentials of its own stream and channel.
	Lend(ctx context.Context, h Holder, v Video, life time.Duration) (Loan, error)
	// Identify gives a person an OpenID token of the identity pool.
	Identify(ctx context.Context, h Holder) (Identified, error)
}
