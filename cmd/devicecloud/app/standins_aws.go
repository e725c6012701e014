package app

import (
	"github.com/opticworks/devicecloud/media"
	"github.com/opticworks/devicecloud/partner/kvs"
	standinaws "github.com/opticworks/devicecloud/standin/aws"
)

// startAWS stands in for AWS, its video and its models, unless something of the real one is
// set. A region alone is nothing: machines of people who use AWS have one in their
// environment. Every stream and channel that somebody names is there.
func (s *standins) startAWS(c *Config, _ func() string) error {
	if c.videoConfigured() || c.BedrockEnabled || c.BedrockRegion != "" {
		return nil
	}
	s.AWS = standinaws.New(standinaws.Options{Region: c.AWSRegion, Everything: true})
	if err := s.AWS.Start("127.0.0.1:0"); err != nil {
		return err
	}
	s.close = append(s.close, s.AWS.Close)
	c.AWSRegion = s.AWS.Region()
	c.AWSAccess = kvs.Access{Endpoint: s.AWS.URL(), AccessKeyID: s.AWS.AccessKeyID, SecretAccessKey: media.Secret(s.AWS.SecretAccessKey)}
	c.AWSPlaybackRole = s.AWS.AddRole("devicecloud-playback", standinaws.Role{})
	c.AWSViewerRole = s.AWS.AddRole("devicecloud-webrtc", standinaws.Role{})
	c.AWSDeviceRole = s.AWS.AddRole("devicecloud-device", standinaws.Role{})
	c.BedrockEnabled, c.BedrockRegion = true, c.AWSRegion
	return nil
}
