package kvs_test

import (
	"net/http"
	"net/url"
	"testing"
	"time"

	sdk "github.com/aws/aws-sdk-go-v2/aws"
	v4 "github.com/aws/aws-sdk-go-v2/aws/signer/v4"
	"github.com/aws/aws-sdk-go-v2/credentials"
	"github.com/aws/aws-sdk-go-v2/service/kinesisvideo"
	"github.com/aws/aws-sdk-go-v2/service/kinesisvideoarchivedmedia"
	"github.com/gorilla/websocket"

	"github.com/opticworks/devicecloud/media"
)

// client uses temporary credentials, as a device or an app does.
type client struct {
	t    *testing.T
	w    *world
	keys sdk.Credentials
}

func deviceClient(t *testing.T, w *world, k media.Keys) client {
	return client{t, w, sdk.Credentials{AccessKeyID: k.AccessKeyID.Reveal(), SecretAccessKey: k.SecretAccessKey.Reveal(), SessionToken: k.SessionToken.Reveal()}}
}

func (c client) config() sdk.Config {
	return sdk.Config{
		Region: c.w.Region(), BaseEndpoint: sdk.String(c.w.URL()), Credentials: credentials.StaticCredentialsProvider{Value: c.keys}, RetryMaxAttempts: 1,
	}
}

// stream asks where a stream takes media.
func (c client) stream(arn, name string) error {
	in := &kinesisvideo.GetDataEndpointInput{APIName: "PUT_MEDIA"}
	if arn != "" {
		in.StreamARN = sdk.String(arn)
	} else {
		in.StreamName = sdk.String(name)
	}
	_, err := kinesisvideo.NewFromConfig(c.config()).GetDataEndpoint(c.t.Context(), in)
	return err
}

func (c client) play(arn string) error {
	_, err := kinesisvideoarchivedmedia.NewFromConfig(c.config()).GetHLSStreamingSessionURL(c.t.Context(), &kinesisvideoarchivedmedia.GetHLSStreamingSessionURLInput{StreamARN: sdk.String(arn)})
	return err
}

func (c client) master(arn string) error { return c.connect(url.Values{"X-Amz-ChannelARN": {arn}}) }

func (c client) viewer(arn string) error {
	return c.connect(url.Values{"X-Amz-ChannelARN": {arn}, "X-Amz-ClientId": {"me"}})
}

// connect signs an address of signalling and opens it.
func (c client) connect(q url.Values) error {
	q.Set("X-Amz-Expires", "60")
	u, err := url.Parse("ws" + c.w.URL()[len("http"):] + "/?" + q.Encode())
	if err != nil {
		return err
	}
	const empty = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"
	address, _, err := v4.NewSigner().PresignHTTP(c.t.Context(), c.keys, &http.Request{Method: http.MethodGet, URL: u, Host: u.Host, Header: http.Header{}}, empty, "kinesisvideo", c.w.Region(), time.Now())
	if err != nil {
		return err
	}
	conn, answer, err := websocket.DefaultDialer.DialContext(c.t.Context(), address, nil)
	if err != nil {
		if answer != nil && answer.StatusCode == http.StatusForbidden {
			return errForbidden
		}
		return err
	}
	return conn.Close()
}

type forbidden struct{}

func (forbidden) Error() string { return "403" }

var errForbidden error = forbidden{}
