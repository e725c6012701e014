package kvs

import (
	"context"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/kinesisvideo"
	"github.com/aws/aws-sdk-go-v2/service/kinesisvideo/types"
	"github.com/opticworks/devicecloud/media"
)

// streamARN is the ARN of a device's stream, with the time of its creation: as the
// operator gave it, or as AWS says of the name.
func (c *Cloud) streamARN(ctx context.Context, v media.Video) (string, error) {
	if v.StreamARN != "" {
		return v.StreamARN, nil
	}
	key := "stream/" + v.StreamName
	if arn, ok := c.arns.get(key); ok {
		return arn, nil
	}
	out, err := c.base.DescribeStream(ctx, &kinesisvideo.DescribeStreamInput{StreamName: aws.String(v.StreamName)})
	if err != nil {
		return "", err
	}
	arn := aws.ToString(out.StreamInfo.StreamARN)
	c.arns.put(key, arn)
	return arn, nil
}

// channelARN is the ARN of a device's signalling channel.
func (c *Cloud) channelARN(ctx context.Context, v media.Video) (string, error) {
	if v.ChannelARN != "" {
		return v.ChannelARN, nil
	}
	key := "channel/" + v.ChannelName
	if arn, ok := c.arns.get(key); ok {
		return arn, nil
	}
	out, err := c.base.DescribeSignalingChannel(ctx, &kinesisvideo.DescribeSignalingChannelInput{ChannelName: aws.String(v.ChannelName)})
	if err != nil {
		return "", err
	}
	arn := aws.ToString(out.ChannelInfo.ChannelARN)
	c.arns.put(key, arn)
	return arn, nil
}

// forget makes everything that is remembered of a device's video be asked for again,
// after AWS refused it: the stream may have been made anew.
func (c *Cloud) forget(v media.Video, arn string) {
	c.arns.forget("stream/" + v.StreamName)
	c.arns.forget("channel/" + v.ChannelName)
	for _, name := range append(types.APIName("").Values(), "WSS", "HTTPS") {
		c.endpoint.forget(arn + " " + string(name))
	}
}

// dataEndpoint is where a stream answers an operation.
func (c *Cloud) dataEndpoint(ctx context.Context, k aws.Credentials, arn string, name types.APIName) (string, error) {
	key := arn + " " + string(name)
	if at, ok := c.endpoint.get(key); ok {
		return at, nil
	}
	out, err := kinesisvideo.NewFromConfig(c.as(k)).GetDataEndpoint(ctx, &kinesisvideo.GetDataEndpointInput{StreamARN: aws.String(arn), APIName: name})
	if err != nil {
		return "", err
	}
	at := aws.ToString(out.DataEndpoint)
	c.endpoint.put(key, at)
	return at, nil
}

// channelEndpoints is where a channel answers viewers.
func (c *Cloud) channelEndpoints(ctx context.Context, k aws.Credentials, arn string) (wss, https string, err error) {
	wss, ok := c.endpoint.get(arn + " WSS")
	https, also := c.endpoint.get(arn + " HTTPS")
	if ok && also {
		return wss, https, nil
	}
	out, err := kinesisvideo.NewFromConfig(c.as(k)).GetSignalingChannelEndpoint(ctx, &kinesisvideo.GetSignalingChannelEndpointInput{
		ChannelARN: aws.String(arn),
		SingleMasterChannelEndpointConfiguration: &types.SingleMasterChannelEndpointConfiguration{
			Protocols: []types.ChannelProtocol{types.ChannelProtocolWss, types.ChannelProtocolHttps}, Role: types.ChannelRoleViewer,
		},
	})
	if err != nil {
		return "", "", err
	}
	for _, e := range out.ResourceEndpointList {
		switch e.Protocol {
		case types.ChannelProtocolWss:
			wss = aws.ToString(e.ResourceEndpoint)
		case types.ChannelProtocolHttps:
			https = aws.ToString(e.ResourceEndpoint)
		}
	}
	c.endpoint.put(arn+" WSS", wss)
	c.endpoint.put(arn+" HTTPS", https)
	return wss, https, nil
}
