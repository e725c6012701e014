package kvs

import "encoding/json"

// statement allows actions on one resource.
type statement struct {
	Effect   string
	Action   []string
	Resource string // a full ARN with the time of creation: a name with "*" would match a stream made anew
}

// policy is a session policy. It can only narrow what the role allows. [AWS, IAM user
// guide, session policies]
type policy struct {
	Version   string
	Statement []statement
}

func policyOf(statements ...statement) string {
	text, err := json.Marshal(policy{"2012-10-17", statements})
	if err != nil {
		return "" // strings always marshal
	}
	return string(text)
}

// viewerPolicy is what a viewer may do with a channel. [contracts A.4]
func viewerPolicy(channelARN string) string {
	return policyOf(statement{"Allow", []string{
		"kinesisvideo:GetSignalingChannelEndpoint", "kinesisvideo:GetIceServerConfig", "kinesisvideo:ConnectAsViewer",
	}, channelARN})
}

// playbackPolicy is what whoever plays may do with a stream. [contracts A.4]
func playbackPolicy(streamARN string) string {
	return policyOf(statement{"Allow", []string{
		"kinesisvideo:GetDataEndpoint", "kinesisvideo:GetHLSStreamingSessionURL", "kinesisvideo:GetDASHStreamingSessionURL",
		"kinesisvideo:GetClip", "kinesisvideo:GetImages",
	}, streamARN})
}

// devicePolicy is what a device may do with its own stream and channel; "" is one that it
// does not have. [contracts A.4]
func devicePolicy(streamARN, channelARN string) string {
	var all []statement
	if streamARN != "" {
		all = append(all, statement{"Allow", []string{
			"kinesisvideo:DescribeStream", "kinesisvideo:GetDataEndpoint", "kinesisvideo:PutMedia",
		}, streamARN})
	}
	if channelARN != "" {
		all = append(all, statement{"Allow", []string{
			"kinesisvideo:DescribeSignalingChannel", "kinesisvideo:GetSignalingChannelEndpoint",
			"kinesisvideo:GetIceServerConfig", "kinesisvideo:ConnectAsMaster",
		}, channelARN})
	}
	return policyOf(all...)
}
