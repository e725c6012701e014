package app

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"regexp"

	"github.com/opticworks/devicecloud/media"
	"github.com/opticworks/devicecloud/partner/kvs"
	"github.com/opticworks/devicecloud/registry"
)

var (
	awsRegion = regexp.MustCompile(`^[a-z]{2}(-[a-z]+)+-[0-9]+$`)
	roleARN   = regexp.MustCompile(`^arn:aws[a-z0-9-]*:iam::[0-9]{12}:role/[\w+=,.@/-]{1,512}$`)
	iotHost   = regexp.MustCompile(`^[a-zA-Z0-9.-]{1,253}$`)
	iotAlias  = regexp.MustCompile(`^[\w=,@-]{1,128}$`)
	poolID    = regexp.MustCompile(`^[\w-]{1,55}:[0-9a-f-]{1,55}$`)
)

// videoConfigured reports whether anything of video at AWS is.
func (c *Config) videoConfigured() bool {
	return c.AWSPlaybackRole != "" || c.AWSViewerRole != "" || c.AWSDeviceRole != "" || c.AWSIoTEndpoint != "" || c.AWSIdentityPool != ""
}

// checkVideo refuses settings of AWS that AWS would refuse at the first request.
func (c *Config) checkVideo() error {
	var wrong []error
	for _, s := range []struct {
		name, value string
		form        *regexp.Regexp
		example     string
	}{
		{"AWS_REGION", c.AWSRegion, awsRegion, "us-east-1"},
		{"AWS_KVS_PLAYBACK_ROLE_ARN", c.AWSPlaybackRole, roleARN, "arn:aws:iam::123456789012:role/NAME"},
		{"AWS_KVS_WEBRTC_ROLE_ARN", c.AWSViewerRole, roleARN, "arn:aws:iam::123456789012:role/NAME"},
		{"AWS_KVS_DEVICE_ROLE_ARN", c.AWSDeviceRole, roleARN, "arn:aws:iam::123456789012:role/NAME"},
		{"AWS_IOT_CREDENTIAL_PROVIDER_ENDPOINT", c.AWSIoTEndpoint, iotHost, "a host without https://"},
		{"AWS_IOT_ROLE_ALIAS", c.AWSIoTRoleAlias, iotAlias, "a name"},
		{"AWS_COGNITO_IDENTITY_POOL_ID", c.AWSIdentityPool, poolID, "us-east-1:GUID"},
	} {
		if s.value != "" && !s.form.MatchString(s.value) {
			wrong = append(wrong, fmt.Errorf("%s must be like %s", s.name, s.example))
		}
	}
	if (c.AWSIoTEndpoint == "") != (c.AWSIoTRoleAlias == "") {
		wrong = append(wrong, errors.New("AWS_IOT_CREDENTIAL_PROVIDER_ENDPOINT and AWS_IOT_ROLE_ALIAS belong together: one of them is empty"))
	}
	if c.videoConfigured() && c.AWSRegion == "" {
		wrong = append(wrong, errors.New("AWS_REGION is required with the other settings of AWS"))
	}
	if c.AWSIdentityPool != "" && c.AWSDeveloperProvider == "" {
		wrong = append(wrong, errors.New("AWS_COGNITO_DEVELOPER_PROVIDER is required with AWS_COGNITO_IDENTITY_POOL_ID: our name in the pool"))
	}
	return errors.Join(wrong...)
}

// awsAccess is how AWS is reached: as the SDK finds it, or at a stand-in.
func (c *Config) awsAccess() kvs.Access {
	a := c.AWSAccess
	a.Region = c.AWSRegion
	return a
}

// cloud is Kinesis Video Streams; nil when nothing of it is configured. It is asked
// nothing yet.
func (c *Config) cloud(ctx context.Context) (media.Cloud, error) {
	if !c.videoConfigured() {
		return nil, nil
	}
	cloud, err := kvs.New(ctx, kvs.Options{
		Access: c.awsAccess(), PlaybackRole: c.AWSPlaybackRole, ViewerRole: c.AWSViewerRole, DeviceRole: c.AWSDeviceRole,
		SourceIdentity: c.AWSSourceIdentity, IdentityPool: c.AWSIdentityPool, Provider: c.AWSDeveloperProvider,
	})
	if err != nil {
		return nil, fmt.Errorf("the settings of AWS: %w", err)
	}
	return cloud, nil
}

// mediaOptions are the options of video; ids are the registry's.
func (c *Config) mediaOptions(ctx context.Context, reg registry.Options, log *slog.Logger) (media.Options, error) {
	cloud, err := c.cloud(ctx)
	return media.Options{
		Cloud: cloud, IoT: media.IoT{Endpoint: c.AWSIoTEndpoint, RoleAlias: c.AWSIoTRoleAlias}, OwnCredentials: c.AWSOwnCredentials,
		NextID: reg.NextID, Logger: log,
	}, err
}
