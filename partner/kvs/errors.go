package kvs

import (
	"context"
	"errors"
	"net/http"

	awshttp "github.com/aws/aws-sdk-go-v2/aws/transport/http"
	"github.com/aws/smithy-go"
	"github.com/opticworks/devicecloud/media"
	"github.com/opticworks/devicecloud/registry"
)

// known are the exceptions of AWS that mean something to whoever asked. [contracts A.4]
var known = map[string]*registry.Error{
	"ResourceNotFoundException":           media.ErrNoMedia,
	"InvalidArgumentException":            media.ErrRange,
	"ClientLimitExceededException":        media.ErrBusy,
	"AccountStreamLimitExceededException": media.ErrBusy,
	"Throttling":                          media.ErrBusy,
	"ThrottlingException":                 media.ErrBusy,
	"TooManyRequestsException":            media.ErrBusy,
	"LimitExceededException":              media.ErrBusy,
	"RequestLimitExceeded":                media.ErrBusy,
	"NoDataRetentionException":            media.ErrNoRetention,
	"UnsupportedStreamMediaTypeException": media.ErrUnsupported,
	"MissingCodecPrivateDataException":    media.ErrUnsupported,
	"InvalidCodecPrivateDataException":    media.ErrUnsupported,
	"InvalidMediaFrameException":          media.ErrUnsupported,
	"SessionExpiredException":             media.ErrUnavailable,
}

// translate makes an error of the SDK one of package media. Any other refusal is our own
// configuration's fault and never the caller's: a wrong role, a policy that AWS does not
// take, a key that was withdrawn.
func translate(err error) error {
	if err == nil {
		return nil
	}
	var domain *registry.Error
	if errors.As(err, &domain) {
		return err
	}
	if errors.Is(err, context.Canceled) {
		return media.ErrUnavailable.With(err)
	}
	var api smithy.APIError
	if errors.As(err, &api) {
		if e, ok := known[api.ErrorCode()]; ok {
			return e.With(err)
		}
		status := http.StatusBadRequest
		var response *awshttp.ResponseError
		if errors.As(err, &response) {
			status = response.HTTPStatusCode()
		}
		switch {
		case status == http.StatusTooManyRequests:
			return media.ErrBusy.With(err)
		case status >= http.StatusBadRequest && status < http.StatusInternalServerError:
			return media.ErrDenied.With(err)
		}
	}
	return media.ErrUnavailable.With(err)
}

// refused reports whether AWS refused what a stale memory of a name may have caused.
func refused(err error) bool {
	return errors.Is(err, media.ErrDenied) || errors.Is(err, media.ErrNoMedia)
}
