package kvs

import (
	"context"
	"fmt"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/cognitoidentity"
	"github.com/aws/aws-sdk-go-v2/service/kinesisvideosignaling"
	"github.com/opticworks/devicecloud/media"
)

// addressLife is for how long a viewer's address opens a connection. It is what AWS's own
// library signs for. [contracts A.1]
const addressLife = 299 * time.Second

// View implements media.Cloud.
func (c *Cloud) View(ctx context.Context, h media.Holder, v media.Video, clientID string, own bool) (media.Viewer, error) {
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	arn, err := c.channelARN(ctx, v)
	if err != nil {
		return media.Viewer{}, c.failed(v, arn, err)
	}
	out, err := c.view(ctx, h, arn, clientID, own)
	if err != nil {
		return media.Viewer{}, c.failed(v, arn, err)
	}
	return out, nil
}

func (c *Cloud) view(ctx context.Context, h media.Holder, arn, clientID string, own bool) (out media.Viewer, err error) {
	k, err := c.assume(ctx, c.opts.ViewerRole, h, viewerPolicy(arn), sessionLife)
	if err != nil {
		return out, err
	}
	wss, https, err := c.channelEndpoints(ctx, k, arn)
	if err != nil {
		return out, err
	}
	client := kinesisvideosignaling.NewFromConfig(c.as(k), func(o *kinesisvideosignaling.Options) { o.BaseEndpoint = aws.String(https) })
	ice, err := client.GetIceServerConfig(ctx, &kinesisvideosignaling.GetIceServerConfigInput{
		ChannelARN: aws.String(arn), ClientId: aws.String(clientID), Service: "TURN",
	})
	if err != nil {
		return out, err
	}
	now := c.opts.Now()
	out.Expires = earliest(now.Add(addressLife), k.Expires)
	out.ICE = []media.ICEServer{{URLs: []string{"stun:stun.kinesisvideo." + c.opts.Region + "." + domain(c.opts.Region) + ":443"}}}
	for _, s := range ice.IceServerList {
		turn := media.ICEServer{
			URLs: s.Uris, Username: media.Secret(aws.ToString(s.Username)), Credential: media.Secret(aws.ToString(s.Password)),
			TTL: time.Duration(aws.ToInt32(s.Ttl)) * time.Second,
		}
		out.ICE, out.Expires = append(out.ICE, turn), earliest(out.Expires, now.Add(turn.TTL))
	}
	if own {
		out.Keys, out.ChannelARN, out.HTTPSEndpoint, out.URL = keys(k), arn, https, media.Secret(wss)
		out.Expires = k.Expires // the rest they renew by themselves
		return out, nil
	}
	address, err := c.address(ctx, k, wss, arn, clientID, now)
	out.URL = media.Secret(address)
	return out, err
}

// address is where a viewer opens its connection to a channel: everything is in the
// query, and signed. [AWS, ConnectAsViewer] [contracts A.4, golden vector]
func (c *Cloud) address(ctx context.Context, k aws.Credentials, endpoint, arn, clientID string, at time.Time) (string, error) {
	u, err := url.Parse(endpoint)
	if err != nil || u.Host == "" || u.Scheme != "wss" && u.Scheme != "ws" {
		return "", fmt.Errorf("the channel's endpoint is not a WebSocket's: %w", err)
	}
	u.Path = "/"
	u.RawQuery = url.Values{
		"X-Amz-ChannelARN": {arn}, "X-Amz-ClientId": {clientID}, "X-Amz-Expires": {strconv.Itoa(int(addressLife / time.Second))},
	}.Encode()
	return c.presign(ctx, k, &http.Request{Method: http.MethodGet, URL: u, Host: u.Host, Header: http.Header{}}, at)
}

// domain is the domain of AWS in a region.
func domain(region string) string {
	if strings.HasPrefix(region, "cn-") {
		return "amazonaws.com.cn"
	}
	return "amazonaws.com"
}

func earliest(a, b time.Time) time.Time {
	if b.Before(a) {
		return b
	}
	return a
}

func keys(k aws.Credentials) media.Keys {
	return media.Keys{
		AccessKeyID: media.Secret(k.AccessKeyID), SecretAccessKey: media.Secret(k.SecretAccessKey),
		SessionToken: media.Secret(k.SessionToken), Expires: k.Expires,
	}
}

// Lend implements media.Cloud.
func (c *Cloud) Lend(ctx context.Context, h media.Holder, v media.Video, life time.Duration) (loan media.Loan, err error) {
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	var stream string
	if v.Stream() != "" {
		if stream, err = c.streamARN(ctx, v); err != nil {
			return loan, c.failed(v, "", err)
		}
	}
	if v.Channel() != "" {
		if loan.ChannelARN, err = c.channelARN(ctx, v); err != nil {
			return media.Loan{}, c.failed(v, stream, err)
		}
	}
	k, err := c.assume(ctx, c.opts.DeviceRole, h, devicePolicy(stream, loan.ChannelARN), life)
	if err != nil {
		return media.Loan{}, c.failed(v, stream, err)
	}
	loan.Keys = keys(k)
	return loan, nil
}

// identityLife is the life of an OpenID token of Amazon Cognito. [contracts A.5]
const identityLife = 15 * time.Minute

// Identify implements media.Cloud.
func (c *Cloud) Identify(ctx context.Context, h media.Holder) (media.Identified, error) {
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	out, err := c.cognito.GetOpenIdTokenForDeveloperIdentity(ctx, &cognitoidentity.GetOpenIdTokenForDeveloperIdentityInput{
		IdentityPoolId: aws.String(c.opts.IdentityPool), Logins: map[string]string{c.opts.Provider: h.UserID},
		PrincipalTags: map[string]string{"device_id": h.DeviceID}, TokenDuration: aws.Int64(int64(identityLife / time.Second)),
	})
	if err != nil {
		return media.Identified{}, translate(err)
	}
	return media.Identified{IdentityID: aws.ToString(out.IdentityId), Token: media.Secret(aws.ToString(out.Token)), Life: identityLife}, nil
}
