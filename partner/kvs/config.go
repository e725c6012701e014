package kvs

import (
	"context"
	"errors"
	"net"
	"net/http"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	awshttp "github.com/aws/aws-sdk-go-v2/aws/transport/http"
	"github.com/aws/aws-sdk-go-v2/config"
	"github.com/aws/aws-sdk-go-v2/credentials"

	"github.com/opticworks/devicecloud/media"
)

// Access is how AWS is reached, for every package that does. Without an endpoint it is the
// SDK's own way: credentials and endpoints from the environment, the files of the AWS
// command line, or the machine. With one, nothing of these is read: what somebody has set
// up for AWS neither disturbs a stand-in nor is sent to it.
type Access struct {
	Region   string
	Endpoint string // of every service; "": AWS itself, or what AWS_ENDPOINT_URL and its sisters say
	// Keys that the program's own calls are signed with, at an endpoint.
	AccessKeyID     string
	SecretAccessKey media.Secret
}

// The limits of a call. A person waits for it, and so does a device.
const (
	dialTimeout = 3 * time.Second
	callTimeout = 10 * time.Second // with its repetitions
	maxAttempts = 2
)

// LoadConfig is the configuration of the SDK for an access. It makes no call.
func LoadConfig(ctx context.Context, a Access) (aws.Config, error) {
	if a.Region == "" {
		return aws.Config{}, errors.New("kvs: a region is needed")
	}
	client := awshttp.NewBuildableClient().WithDialerOptions(func(d *net.Dialer) { d.Timeout = dialTimeout }).
		WithTransportOptions(func(t *http.Transport) { t.ResponseHeaderTimeout = callTimeout })
	if a.Endpoint != "" {
		return aws.Config{
			Region: a.Region, HTTPClient: transport{client}, RetryMaxAttempts: maxAttempts, BaseEndpoint: aws.String(a.Endpoint),
			Credentials: credentials.NewStaticCredentialsProvider(a.AccessKeyID, a.SecretAccessKey.Reveal(), ""),
		}, nil
	}
	c, err := config.LoadDefaultConfig(ctx, config.WithRegion(a.Region), config.WithHTTPClient(client), config.WithRetryMaxAttempts(maxAttempts))
	if b, ok := c.HTTPClient.(*awshttp.BuildableClient); ok { // with AWS_CA_BUNDLE another one than ours
		c.HTTPClient = transport{b}
	}
	return c, err
}
