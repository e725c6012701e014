package kvs

import (
	"context"
	"net/http"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	v4 "github.com/aws/aws-sdk-go-v2/aws/signer/v4"
	"github.com/aws/aws-sdk-go-v2/credentials"
	"github.com/aws/aws-sdk-go-v2/service/cognitoidentity"
	"github.com/aws/aws-sdk-go-v2/service/kinesisvideo"
	"github.com/aws/aws-sdk-go-v2/service/sts"
	"github.com/opticworks/devicecloud/media"
)

// Options configures a Cloud.
type Options struct {
	Access
	PlaybackRole   string           // ARN of the role of streams; "": no playback
	ViewerRole     string           // ARN of the role of viewers; "": no live view
	DeviceRole     string           // ARN of the role of devices; "": none get credentials
	SourceIdentity bool             // name the person to AWS; the roles' trust policies must allow sts:SetSourceIdentity
	IdentityPool   string           // of Amazon Cognito; "": none
	Provider       string           // our name as developer provider in the pool
	Now            func() time.Time // default time.Now
}

// Cloud is Kinesis Video Streams. It is safe for concurrent use.
type Cloud struct {
	opts     Options
	config   aws.Config
	base     *kinesisvideo.Client // of the program's own credentials: looks names up
	sts      *sts.Client
	cognito  *cognitoidentity.Client
	signer   *v4.Signer
	arns     *cache // by name
	endpoint *cache // by ARN and operation
}

var _ media.Cloud = (*Cloud)(nil)

// New makes a Cloud. It calls nobody.
func New(ctx context.Context, opts Options) (*Cloud, error) {
	if opts.Now == nil {
		opts.Now = time.Now
	}
	c, err := LoadConfig(ctx, opts.Access)
	if err != nil {
		return nil, err
	}
	return &Cloud{
		opts: opts, config: c, base: kinesisvideo.NewFromConfig(c), sts: sts.NewFromConfig(c), cognito: cognitoidentity.NewFromConfig(c),
		signer: v4.NewSigner(), arns: newCache(arnLife, opts.Now), endpoint: newCache(endpointLife, opts.Now),
	}, nil
}

// How long what AWS says of a stream is believed. [contracts A.4]
const (
	arnLife      = 24 * time.Hour
	endpointLife = 15 * time.Minute
)

// sessionLife is the life of a person's session at AWS, the shortest that there is. [AWS,
// STS API reference, AssumeRole]
const sessionLife = 15 * time.Minute

// Offers implements media.Cloud.
func (c *Cloud) Offers(f media.Feature) bool {
	switch f {
	case media.Playback:
		return c.opts.PlaybackRole != ""
	case media.Viewing:
		return c.opts.ViewerRole != ""
	case media.DeviceVending:
		return c.opts.DeviceRole != ""
	case media.Identity:
		return c.opts.IdentityPool != ""
	}
	return false
}

// Region implements media.Cloud.
func (c *Cloud) Region() string { return c.opts.Region }

// assume asks for a session of a role, narrowed to a policy.
func (c *Cloud) assume(ctx context.Context, role string, h media.Holder, policy string, life time.Duration) (aws.Credentials, error) {
	in := &sts.AssumeRoleInput{
		RoleArn: aws.String(role), RoleSessionName: aws.String(h.SessionName()), Policy: aws.String(policy),
		DurationSeconds: aws.Int32(int32(life / time.Second)),
	}
	if c.opts.SourceIdentity && h.UserID != "" {
		in.SourceIdentity = aws.String(h.UserID)
	}
	out, err := c.sts.AssumeRole(ctx, in)
	if err != nil {
		return aws.Credentials{}, err
	}
	k := out.Credentials
	return aws.Credentials{
		AccessKeyID: aws.ToString(k.AccessKeyId), SecretAccessKey: aws.ToString(k.SecretAccessKey), SessionToken: aws.ToString(k.SessionToken),
		CanExpire: true, Expires: aws.ToTime(k.Expiration),
	}, nil
}

// as is the configuration of the SDK for a session. A region's endpoint that
// AWS_ENDPOINT_URL names stays.
func (c *Cloud) as(k aws.Credentials) aws.Config {
	config := c.config.Copy()
	config.Credentials = credentials.StaticCredentialsProvider{Value: k}
	return config
}

// presign signs a GET of an address, which is valid for its X-Amz-Expires.
func (c *Cloud) presign(ctx context.Context, k aws.Credentials, r *http.Request, at time.Time) (string, error) {
	address, _, err := c.signer.PresignHTTP(ctx, k, r, emptyHash, "kinesisvideo", c.opts.Region, at)
	return address, err
}

// emptyHash is the SHA-256 of no body.
const emptyHash = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"
