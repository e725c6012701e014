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

// Access is how AWS is reached, for every package that does. The zero value is the SDK's
// own way: region, credentials and endpoints from the environment, the files of the AWS
// command line, or the machine.
type Access struct {
	Region   string
	Endpoint string // of every service; "": AWS itself, or what AWS_ENDPOINT_URL and its sisters say
	// Keys that the program's own calls are signed with; empty: the SDK finds them.
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
	load := []func(*config.LoadOptions) error{
		config.WithRegion(a.Region), config.WithHTTPClient(client), config.WithRetryMaxAttempts(maxAttempts),
	}
	if a.AccessKeyID != "" {
		load = append(load, config.WithCredentialsProvider(credentials.NewStaticCredentialsProvider(a.AccessKeyID, a.SecretAccessKey.Reveal(), "")))
	}
	c, err := config.LoadDefaultConfig(ctx, load...)
	if err == nil && a.Endpoint != "" {
		c.BaseEndpoint = aws.String(a.Endpoint)
	}
	return c, err
}
