package kvs_test

import (
	"context"
	"errors"
	"io"
	"net/http"
	"net/http/httptrace"
	"net/url"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/gorilla/websocket"

	"github.com/opticworks/devicecloud/media"
	"github.com/opticworks/devicecloud/partner/kvs"
	"github.com/opticworks/devicecloud/standin/aws"
)

// world is AWS with two devices.
type world struct {
	*aws.Server
	cloud                *kvs.Cloud
	playback, viewer     string // ARNs of roles
	device               string
	first, second        media.Video
	clock                *clock
	stream, channel      string
	otherStream, otherCh string
}

type clock struct{ shift time.Duration }

func (c *clock) Now() time.Time { return time.Now().Add(c.shift) }

func newWorld(t *testing.T, change func(*kvs.Options)) *world {
	t.Helper()
	w := &world{Server: aws.New(aws.Options{}), clock: &clock{}}
	if err := w.Start("127.0.0.1:0"); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := w.Close(); err != nil {
			t.Error(err)
		}
	})
	w.playback, w.viewer, w.device = w.AddRole("playback", aws.Role{}), w.AddRole("viewer", aws.Role{}), w.AddRole("device", aws.Role{})
	w.stream, w.channel = w.AddStream("cam-1"), w.AddChannel("cam-1")
	w.otherStream, w.otherCh = w.AddStream("cam-2"), w.AddChannel("cam-2")
	w.first = media.Video{StreamName: "cam-1", ChannelName: "cam-1"}
	w.second = media.Video{StreamARN: w.otherStream, ChannelARN: w.otherCh}
	opts := kvs.Options{
		Access:       kvs.Access{Region: w.Region(), Endpoint: w.URL(), AccessKeyID: w.AccessKeyID, SecretAccessKey: media.Secret(w.SecretAccessKey)},
		PlaybackRole: w.playback, ViewerRole: w.viewer, DeviceRole: w.device,
		IdentityPool: "us-east-1:00000000-0000-0000-0000-000000000000", Provider: "devicecloud", Now: w.clock.Now,
	}
	if change != nil {
		change(&opts)
	}
	var err error
	if w.cloud, err = kvs.New(t.Context(), opts); err != nil {
		t.Fatal(err)
	}
	return w
}

var ann = media.Holder{UserID: "01a20234-6e85-7aaf-98b6-af4a4d15cedb", DeviceID: "a81eaf01853585964842a74570b534f7"}

var day = time.Date(2026, 1, 15, 10, 0, 0, 0, time.UTC)

func TestPlaybackOfEachKind(t *testing.T) {
	w := newWorld(t, nil)
	for _, p := range []media.Playing{
		{Protocol: media.HLS, Mode: media.Live, Life: 300 * time.Second},
		{Protocol: media.DASH, Mode: media.Live, Life: 300 * time.Second},
		{Protocol: media.HLS, Mode: media.OnDemand, Start: day, End: day.Add(time.Hour), Life: time.Hour},
		{Protocol: media.DASH, Mode: media.OnDemand, Start: day, End: day.Add(time.Hour), Life: time.Hour},
		{Protocol: media.HLS, Mode: media.LiveReplay, Start: day, Life: 300 * time.Second},
		{Protocol: media.DASH, Mode: media.LiveReplay, Start: day, Life: 300 * time.Second},
	} {
		before := time.Now()
		address, expires, err := w.cloud.Play(t.Context(), ann, w.first, p)
		if err != nil {
			t.Fatalf("%s %s: %v", p.Protocol, p.Mode, err)
		}
		if expires.Before(before.Add(p.Life-time.Second)) || expires.After(time.Now().Add(p.Life)) {
			t.Errorf("%s %s expires at %s", p.Protocol, p.Mode, expires)
		}
		answer, err := http.Get(address.Reveal())
		if err != nil || answer.StatusCode != http.StatusOK {
			t.Errorf("%s %s does not play: %v", p.Protocol, p.Mode, err)
		}
		_ = answer.Body.Close()
		if strings.Contains(address.Reveal(), "cam-1") || strings.Contains(address.String(), "Session") {
			t.Errorf("the address names the stream, or shows itself")
		}
	}
}

func TestClipIsStreamed(t *testing.T) {
	w := newWorld(t, nil)
	body, err := w.cloud.Clip(t.Context(), ann, w.first, day, day.Add(5*time.Second))
	if err != nil {
		t.Fatal(err)
	}
	file, err := io.ReadAll(body)
	if err != nil || len(file) < 5*4<<10 || string(file[4:8]) != "ftyp" {
		t.Errorf("the clip is %d bytes: %v", len(file), err)
	}
	if err := body.Close(); err != nil {
		t.Error(err)
	}
}

func TestImageIsJPEG(t *testing.T) {
	w := newWorld(t, nil)
	picture, err := w.cloud.Image(t.Context(), ann, w.second, day)
	if err != nil || len(picture) < 100 || picture[0] != 0xff || picture[1] != 0xd8 {
		t.Errorf("the image is %d bytes: %v", len(picture), err)
	}
}

// TestSessionsAreNarrow reads what was asked of STS: one session a request, of the role's
// own, for fifteen minutes, with the policy of contracts A.4 letter for letter.
func TestSessionsAreNarrow(t *testing.T) {
	w := newWorld(t, nil)
	if _, _, err := w.cloud.Play(t.Context(), ann, w.first, media.Playing{Protocol: media.HLS, Mode: media.Live, Life: 300 * time.Second}); err != nil {
		t.Fatal(err)
	}
	if _, err := w.cloud.View(t.Context(), ann, w.first, "u1", false); err != nil {
		t.Fatal(err)
	}
	if _, err := w.cloud.Lend(t.Context(), media.Holder{DeviceID: ann.DeviceID}, w.first, time.Hour); err != nil {
		t.Fatal(err)
	}
	got := w.Assumed()
	if len(got) != 3 {
		t.Fatalf("%d sessions for 3 requests", len(got))
	}
	for i, want := range []aws.Assumed{
		{RoleARN: w.playback, SessionName: "u-4d15cedb-d-a81eaf01", Duration: 15 * time.Minute, Policy: `{"Version":"2012-10-17","Statement":[{"Effect":"Allow","Action":["kinesisvideo:GetDataEndpoint","kinesisvideo:GetHLSStreamingSessionURL","kinesisvideo:GetDASHStreamingSessionURL","kinesisvideo:GetClip","kinesisvideo:GetImages"],"Resource":"` + w.stream + `"}]}`},
		{RoleARN: w.viewer, SessionName: "u-4d15cedb-d-a81eaf01", Duration: 15 * time.Minute, Policy: `{"Version":"2012-10-17","Statement":[{"Effect":"Allow","Action":["kinesisvideo:GetSignalingChannelEndpoint","kinesisvideo:GetIceServerConfig","kinesisvideo:ConnectAsViewer"],"Resource":"` + w.channel + `"}]}`},
		{RoleARN: w.device, SessionName: "d-a81eaf01", Duration: time.Hour, Policy: `{"Version":"2012-10-17","Statement":[{"Effect":"Allow","Action":["kinesisvideo:DescribeStream","kinesisvideo:GetDataEndpoint","kinesisvideo:PutMedia"],"Resource":"` + w.stream + `"},{"Effect":"Allow","Action":["kinesisvideo:DescribeSignalingChannel","kinesisvideo:GetSignalingChannelEndpoint","kinesisvideo:GetIceServerConfig","kinesisvideo:ConnectAsMaster"],"Resource":"` + w.channel + `"}]}`},
	} {
		if got[i] != want {
			t.Errorf("session %d\n got %+v\nwant %+v", i, got[i], want)
		}
	}
}

func TestSourceIdentityIsTheUser(t *testing.T) {
	w := newWorld(t, func(o *kvs.Options) { o.SourceIdentity = true })
	p := media.Playing{Protocol: media.HLS, Mode: media.Live, Life: 300 * time.Second}
	if _, _, err := w.cloud.Play(t.Context(), ann, w.first, p); !errors.Is(err, media.ErrDenied) {
		t.Errorf("a role that does not trust it: %v", err)
	}
	w.AddRole("playback", aws.Role{SourceIdentity: true})
	if _, _, err := w.cloud.Play(t.Context(), ann, w.first, p); err != nil {
		t.Fatal(err)
	}
	if got := w.Assumed(); len(got) != 1 || got[0].SourceIdentity != ann.UserID {
		t.Errorf("assumed %+v", got)
	}
}

// TestEndpointsAndNamesAreRemembered counts calls: what a name means is asked once a day,
// where a stream answers every quarter of an hour, and a session is never reused.
func TestEndpointsAndNamesAreRemembered(t *testing.T) {
	w := newWorld(t, nil)
	play := func() {
		t.Helper()
		if _, _, err := w.cloud.Play(t.Context(), ann, w.first, media.Playing{Protocol: media.HLS, Mode: media.Live, Life: 300 * time.Second}); err != nil {
			t.Fatal(err)
		}
	}
	expect := func(describe, endpoint, assume int) {
		t.Helper()
		if d, e, a := w.Calls("DescribeStream"), w.Calls("GetDataEndpoint"), w.Calls("AssumeRole"); d != describe || e != endpoint || a != assume {
			t.Errorf("described %d, endpoint %d, assumed %d; want %d %d %d", d, e, a, describe, endpoint, assume)
		}
	}
	play()
	play()
	expect(1, 1, 2)
	w.clock.shift = 15 * time.Minute
	play()
	expect(1, 2, 3)
	w.clock.shift = 24 * time.Hour
	play()
	expect(2, 3, 4)
	// A stream that was made anew is found again after one refusal.
	time.Sleep(2 * time.Millisecond) // another time of creation
	w.AddStream("cam-1")
	if _, _, err := w.cloud.Play(t.Context(), ann, w.first, media.Playing{Protocol: media.HLS, Mode: media.Live, Life: 300 * time.Second}); !errors.Is(err, media.ErrNoMedia) {
		t.Errorf("the old stream plays: %v", err)
	}
	play()
}

func TestErrorsOfAWS(t *testing.T) {
	w := newWorld(t, nil)
	play := func() error {
		_, _, err := w.cloud.Play(t.Context(), ann, w.second, media.Playing{Protocol: media.HLS, Mode: media.Live, Life: 300 * time.Second})
		return err
	}
	dash := func() error {
		_, _, err := w.cloud.Play(t.Context(), ann, w.second, media.Playing{Protocol: media.DASH, Mode: media.Live, Life: 300 * time.Second})
		return err
	}
	clip := func() error {
		body, err := w.cloud.Clip(t.Context(), ann, w.second, day, day.Add(time.Second))
		if err == nil {
			_ = body.Close()
		}
		return err
	}
	view := func() error { _, err := w.cloud.View(t.Context(), ann, w.second, "u1", false); return err }
	lend := func() error { _, err := w.cloud.Lend(t.Context(), ann, w.second, time.Hour); return err }
	identify := func() error { _, err := w.cloud.Identify(t.Context(), ann); return err }
	for _, c := range []struct {
		operation string
		fault     aws.Fault
		do        func() error
		want      error
	}{
		{"GetSignalingChannelEndpoint", aws.Fault{Status: 404, Code: "ResourceNotFoundException"}, view, media.ErrNoMedia}, // before the endpoint is remembered
		{"GetHLSStreamingSessionURL", aws.Fault{Status: 404, Code: "ResourceNotFoundException"}, play, media.ErrNoMedia},
		{"GetHLSStreamingSessionURL", aws.Fault{Status: 400, Code: "InvalidArgumentException"}, play, media.ErrRange},
		{"GetHLSStreamingSessionURL", aws.Fault{Status: 400, Code: "ClientLimitExceededException"}, play, media.ErrBusy},
		{"GetHLSStreamingSessionURL", aws.Fault{Status: 400, Code: "NoDataRetentionException"}, play, media.ErrNoRetention},
		{"GetHLSStreamingSessionURL", aws.Fault{Status: 400, Code: "UnsupportedStreamMediaTypeException"}, play, media.ErrUnsupported},
		{"GetHLSStreamingSessionURL", aws.Fault{Status: 400, Code: "MissingCodecPrivateDataException"}, play, media.ErrUnsupported},
		{"GetHLSStreamingSessionURL", aws.Fault{Status: 400, Code: "InvalidCodecPrivateDataException"}, play, media.ErrUnsupported},
		{"GetHLSStreamingSessionURL", aws.Fault{Status: 401, Code: "NotAuthorizedException"}, play, media.ErrDenied},
		{"GetHLSStreamingSessionURL", aws.Fault{Status: 503, Code: "ServiceUnavailable"}, play, media.ErrUnavailable},
		{"GetHLSStreamingSessionURL", aws.Fault{}, play, media.ErrUnavailable},
		{"GetDASHStreamingSessionURL", aws.Fault{Status: 404, Code: "ResourceNotFoundException"}, dash, media.ErrNoMedia},
		{"GetDataEndpoint", aws.Fault{Status: 401, Code: "NotAuthorizedException"}, clip, media.ErrDenied},
		{"GetClip", aws.Fault{Status: 404, Code: "ResourceNotFoundException"}, clip, media.ErrNoMedia},
		{"GetClip", aws.Fault{Status: 400, Code: "InvalidMediaFrameException"}, clip, media.ErrUnsupported},
		{"GetClip", aws.Fault{Status: 429, Code: "SomethingElse"}, clip, media.ErrBusy},
		{"GetClip", aws.Fault{Status: 500, Code: "InternalFailure"}, clip, media.ErrUnavailable},
		{"AssumeRole", aws.Fault{Status: 403, Code: "AccessDenied"}, play, media.ErrDenied},
		{"AssumeRole", aws.Fault{Status: 403, Code: "ExpiredToken"}, view, media.ErrDenied},
		{"AssumeRole", aws.Fault{Status: 400, Code: "PackedPolicyTooLarge"}, lend, media.ErrDenied},
		{"AssumeRole", aws.Fault{Status: 400, Code: "Throttling"}, lend, media.ErrBusy},
		{"AssumeRole", aws.Fault{Status: 500, Code: "InternalFailure"}, lend, media.ErrUnavailable},
		{"GetIceServerConfig", aws.Fault{Status: 400, Code: "ClientLimitExceededException"}, view, media.ErrBusy},
		{"GetIceServerConfig", aws.Fault{Status: 400, Code: "InvalidClientException"}, view, media.ErrDenied},
		{"GetIceServerConfig", aws.Fault{Status: 403, Code: "NotAuthorizedException"}, view, media.ErrDenied},
		{"GetIceServerConfig", aws.Fault{Status: 504, Code: ""}, view, media.ErrUnavailable},
		{"GetOpenIdTokenForDeveloperIdentity", aws.Fault{Status: 400, Code: "NotAuthorizedException"}, identify, media.ErrDenied},
		{"GetOpenIdTokenForDeveloperIdentity", aws.Fault{Status: 400, Code: "TooManyRequestsException"}, identify, media.ErrBusy},
	} {
		w.Fail(c.operation, c.fault)
		if err := c.do(); !errors.Is(err, c.want) {
			t.Errorf("%s fails with %d %s: got %v, want %v", c.operation, c.fault.Status, c.fault.Code, err, c.want)
		}
		w.Heal()
		if err := c.do(); err != nil {
			t.Errorf("%s healed: %v", c.operation, err)
		}
	}
}

// TestCredentialsOfOneDeviceFailOnAnother is the isolation: what is lent for one device
// opens nothing of another, by its ARN or by its name.
func TestCredentialsOfOneDeviceFailOnAnother(t *testing.T) {
	w := newWorld(t, nil)
	loan, err := w.cloud.Lend(t.Context(), media.Holder{DeviceID: ann.DeviceID}, w.first, time.Hour)
	if err != nil {
		t.Fatal(err)
	}
	if loan.ChannelARN != w.channel {
		t.Errorf("the channel is %s", loan.ChannelARN)
	}
	own, other := deviceClient(t, w, loan.Keys), deviceClient(t, w, loan.Keys)
	if err := own.stream(w.stream, ""); err != nil {
		t.Errorf("the device's own stream: %v", err)
	}
	if err := own.stream("", "cam-1"); err != nil {
		t.Errorf("the device's own stream by name: %v", err)
	}
	if err := own.master(w.channel); err != nil {
		t.Errorf("the device's own channel: %v", err)
	}
	for name, do := range map[string]func() error{
		"stream by ARN":            func() error { return other.stream(w.otherStream, "") },
		"stream by name":           func() error { return other.stream("", "cam-2") },
		"channel":                  func() error { return other.master(w.otherCh) },
		"its own, as a viewer":     func() error { return other.viewer(w.channel) },
		"its own stream, playback": func() error { return other.play(w.stream) },
	} {
		if err := do(); err == nil || !strings.Contains(err.Error(), "AccessDenied") && !strings.Contains(err.Error(), "403") {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// TestViewerAddressIsForOneChannelAndOneViewer tampers with everything that an address
// says.
func TestViewerAddressIsForOneChannelAndOneViewer(t *testing.T) {
	w := newWorld(t, nil)
	v, err := w.cloud.View(t.Context(), ann, w.first, "u4d15cedb-X", false)
	if err != nil {
		t.Fatal(err)
	}
	if len(v.ICE) != 2 || v.ICE[0].URLs[0] != "stun:stun.kinesisvideo.us-east-1.amazonaws.com:443" || len(v.ICE[1].URLs) != 3 || v.ICE[1].Credential.Reveal() == "" {
		t.Errorf("the ICE servers are %d", len(v.ICE))
	}
	if left := time.Until(v.Expires); left > 299*time.Second || left < 290*time.Second || !v.Keys.None() || v.ChannelARN != "" {
		t.Errorf("it expires in %s", left)
	}
	dial := func(change func(url.Values)) error {
		u, err := url.Parse(v.URL.Reveal())
		if err != nil {
			return err
		}
		q := u.Query()
		change(q)
		u.RawQuery = q.Encode()
		conn, answer, err := websocket.DefaultDialer.DialContext(t.Context(), u.String(), nil)
		if err != nil {
			if answer == nil || answer.StatusCode != http.StatusForbidden {
				t.Errorf("refused otherwise: %v", err)
			}
			return err
		}
		return conn.Close()
	}
	if err := dial(func(url.Values) {}); err != nil {
		t.Fatalf("the address does not open: %v", err)
	}
	for name, change := range map[string]func(url.Values){
		"another channel": func(q url.Values) { q.Set("X-Amz-ChannelARN", w.otherCh) },
		"another viewer":  func(q url.Values) { q.Set("X-Amz-ClientId", "somebody") },
		"as the master":   func(q url.Values) { q.Del("X-Amz-ClientId") },
		"longer":          func(q url.Values) { q.Set("X-Amz-Expires", "3600") },
		"another time":    func(q url.Values) { q.Set("X-Amz-Date", "20260115T100000Z") },
		"without a token": func(q url.Values) { q.Del("X-Amz-Security-Token") },
		"another's key": func(q url.Values) {
			q.Set("X-Amz-Credential", "AKIDEXAMPLE/20260115/us-east-1/kinesisvideo/aws4_request")
		},
		"half a signature": func(q url.Values) { q.Set("X-Amz-Signature", q.Get("X-Amz-Signature")[:32]) },
	} {
		if dial(change) == nil {
			t.Errorf("%s opens", name)
		}
	}
}

func TestAnExpiredAddressDoesNotOpen(t *testing.T) {
	w := newWorld(t, nil)
	w.clock.shift = -299*time.Second - time.Second // it was signed then
	v, err := w.cloud.View(t.Context(), ann, w.first, "u1", false)
	if err != nil {
		t.Fatal(err)
	}
	if _, _, err := websocket.DefaultDialer.DialContext(t.Context(), v.URL.Reveal(), nil); err == nil {
		t.Error("it opens")
	}
}

func TestCredentialsModeLetsTheAppSign(t *testing.T) {
	w := newWorld(t, nil)
	v, err := w.cloud.View(t.Context(), ann, w.first, "u1", true)
	if err != nil {
		t.Fatal(err)
	}
	if v.Keys.None() || v.ChannelARN != w.channel || strings.Contains(v.URL.Reveal(), "X-Amz") || !v.Expires.Equal(v.Keys.Expires) {
		t.Fatalf("the viewer has no keys, or an address that is signed")
	}
	app := deviceClient(t, w, v.Keys)
	if err := app.viewer(w.channel); err != nil {
		t.Errorf("its own channel: %v", err)
	}
	for name, do := range map[string]func() error{
		"another channel":       func() error { return app.viewer(w.otherCh) },
		"its own as the master": func() error { return app.master(w.channel) },
		"the device's stream":   func() error { return app.play(w.stream) },
	} {
		if do() == nil {
			t.Errorf("%s opens", name)
		}
	}
}

func TestIdentity(t *testing.T) {
	w := newWorld(t, nil)
	got, err := w.cloud.Identify(context.Background(), ann)
	if err != nil || got.IdentityID == "" || got.Token.Reveal() == "" || got.Life != 15*time.Minute {
		t.Errorf("got %+v, %v", got, err)
	}
}

func TestWhatIsNotConfiguredIsNotOffered(t *testing.T) {
	w := newWorld(t, func(o *kvs.Options) { o.ViewerRole, o.DeviceRole, o.IdentityPool = "", "", "" })
	for f, want := range map[media.Feature]bool{media.Playback: true, media.Viewing: false, media.DeviceVending: false, media.Identity: false} {
		if got := w.cloud.Offers(f); got != want {
			t.Errorf("feature %d: %v", f, got)
		}
	}
	if n := w.Calls(""); n != 0 {
		t.Errorf("%d calls before anything was asked", n)
	}
}

// TestTheSDKsOwnEnvironment configures nothing but a region and roles: keys and endpoints
// are found where the SDK of AWS looks.
func TestTheSDKsOwnEnvironment(t *testing.T) {
	w := newWorld(t, nil)
	t.Setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:1") // nobody
	t.Setenv("AWS_ENDPOINT_URL_STS", w.URL())
	t.Setenv("AWS_ENDPOINT_URL_KINESIS_VIDEO", w.URL())
	t.Setenv("AWS_ACCESS_KEY_ID", w.AccessKeyID)
	t.Setenv("AWS_SECRET_ACCESS_KEY", w.SecretAccessKey)
	cloud, err := kvs.New(t.Context(), kvs.Options{Access: kvs.Access{Region: w.Region()}, PlaybackRole: w.playback, ViewerRole: w.viewer})
	if err != nil {
		t.Fatal(err)
	}
	if _, _, err := cloud.Play(t.Context(), ann, w.first, media.Playing{Protocol: media.HLS, Mode: media.Live, Life: 300 * time.Second}); err != nil {
		t.Error(err)
	}
	if _, err := cloud.View(t.Context(), ann, w.first, "u1", false); err != nil {
		t.Error(err)
	}
	t.Setenv("AWS_ENDPOINT_URL_STS", "")
	if cloud, err = kvs.New(t.Context(), kvs.Options{Access: kvs.Access{Region: w.Region()}, PlaybackRole: w.playback}); err != nil {
		t.Fatal(err)
	}
	if _, _, err := cloud.Play(t.Context(), ann, w.first, media.Playing{Protocol: media.HLS, Mode: media.Live, Life: 300 * time.Second}); !errors.Is(err, media.ErrUnavailable) {
		t.Errorf("where nobody answers: %v", err)
	}
}

// TestAStandInNeedsNothingOfTheEnvironment lets somebody who uses AWS have it set up in a
// way that is broken, or that leads elsewhere.
func TestAStandInNeedsNothingOfTheEnvironment(t *testing.T) {
	w := newWorld(t, nil)
	t.Setenv("AWS_PROFILE", "absent")
	t.Setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:1") // nobody
	t.Setenv("AWS_ENDPOINT_URL_STS", "http://127.0.0.1:1")
	t.Setenv("AWS_SESSION_TOKEN", "of another")
	cloud, err := kvs.New(t.Context(), kvs.Options{
		Access:       kvs.Access{Region: w.Region(), Endpoint: w.URL(), AccessKeyID: w.AccessKeyID, SecretAccessKey: media.Secret(w.SecretAccessKey)},
		PlaybackRole: w.playback,
	})
	if err != nil {
		t.Fatal(err)
	}
	if _, _, err := cloud.Play(t.Context(), ann, w.first, media.Playing{Protocol: media.HLS, Mode: media.Live, Life: 300 * time.Second}); err != nil {
		t.Error(err)
	}
}

// TestRequestsAreNotTakenForBroken holds that net/http sends every request to its end: else
// it closes the connection under the answer, and clips end early.
func TestRequestsAreNotTakenForBroken(t *testing.T) {
	w := newWorld(t, nil)
	var broken atomic.Int64
	ctx := httptrace.WithClientTrace(t.Context(), &httptrace.ClientTrace{WroteRequest: func(info httptrace.WroteRequestInfo) {
		if info.Err != nil {
			broken.Add(1)
		}
	}})
	from := time.Now().Add(-time.Hour)
	for range 50 {
		body, err := w.cloud.Clip(ctx, ann, w.first, from, from.Add(20*time.Second))
		if err != nil {
			t.Fatal(err)
		}
		if n, err := io.Copy(io.Discard, body); err != nil || n < 20*4<<10 {
			t.Errorf("a clip ends after %d bytes: %v", n, err)
		}
		_ = body.Close()
	}
	if n := broken.Load(); n != 0 {
		t.Errorf("%d requests were broken off", n)
	}
}
