package e2e_test

import (
	"bytes"
	"database/sql"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/gorilla/websocket"

	"github.com/opticworks/devicecloud/cmd/devicecloud/app"
	"github.com/opticworks/devicecloud/firmware-sim/mqttwire"
	"github.com/opticworks/devicecloud/media"
	"github.com/opticworks/devicecloud/partner/kvs"
	"github.com/opticworks/devicecloud/standin/aws"
)

// studio is a cloud with video: a stand-in of AWS behind it, a camera that is entitled
// and provisioned, and the people around it.
type studio struct {
	*Cloud
	aws      *aws.Server
	ca       *authority
	admin    string
	camera   Device
	owner    User
	shared   User // admin
	viewer   User
	stranger User
}

// openStudio starts one; change may alter its settings.
func openStudio(t *testing.T, change func(*app.Config)) *studio {
	t.Helper()
	s := &studio{aws: aws.New(aws.Options{}), ca: newAuthority(t, "device CA")}
	if err := s.aws.Start("127.0.0.1:0"); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = s.aws.Close() })
	caFile := filepath.Join(t.TempDir(), "device-ca.pem")
	if err := os.WriteFile(caFile, s.ca.pem, 0o600); err != nil {
		t.Fatal(err)
	}
	s.Cloud = Start(t, Options{
		Env: map[string]string{"TRIAL_DAYS": "0", "HTTPS_ADDR": "127.0.0.1:0", "DEVICE_CA_FILE": caFile, "AWS_REGION": s.aws.Region()},
		Configure: func(c *app.Config) {
			c.AWSAccess = kvs.Access{Endpoint: s.aws.URL(), AccessKeyID: s.aws.AccessKeyID, SecretAccessKey: media.Secret(s.aws.SecretAccessKey)}
			c.AWSPlaybackRole, c.AWSViewerRole, c.AWSDeviceRole = s.aws.AddRole("play", aws.Role{}), s.aws.AddRole("view", aws.Role{}), s.aws.AddRole("device", aws.Role{})
			c.AWSIoTEndpoint, c.AWSIoTRoleAlias = "c1example.credentials.iot.us-east-1.amazonaws.com", "camera"
			c.AWSIdentityPool = "us-east-1:00000000-0000-0000-0000-000000000000"
			if change != nil {
				change(c)
			}
		},
	})
	s.admin = s.AdminToken()
	s.camera = s.newCamera(t, "ann@example.com", true)
	s.owner, s.stranger = s.UserToken("ann@example.com"), s.UserToken("eve@example.com")
	s.shared, s.viewer = s.share(t, s.camera, "bob@example.com", "admin"), s.share(t, s.camera, "cid@example.com", "viewer")
	return s
}

// newCamera makes a device of a person, entitled to everything, with or without names at
// AWS.
func (s *studio) newCamera(t *testing.T, email string, provisioned bool) Device {
	t.Helper()
	d := s.EnrollAs(s.admin)
	s.owned(t, s.admin, email, d)
	s.longAgo(t, d)
	s.entitle(t, d, 0)
	if provisioned {
		name := "cam-" + d.ID[:8]
		s.aws.AddStream(name)
		s.aws.AddChannel(name)
		s.provision(t, d, name)
	}
	return d
}

// longAgo makes a device its owner's for a week: what they play is theirs.
func (c *Cloud) longAgo(t *testing.T, d Device) {
	t.Helper()
	db, err := sql.Open("sqlite", "file:"+filepath.Join(c.DataDir(), "devicecloud.db")+"?_busy_timeout=10000")
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	done, err := db.ExecContext(t.Context(), `UPDATE device_ownership SET claimed_at = $2 WHERE role = 'owner' AND device_no = (SELECT device_no FROM devices WHERE device_id = $1)`,
		d.ID, time.Now().Add(-7*24*time.Hour).UnixMicro())
	if err != nil {
		t.Fatal(err)
	}
	if n, err := done.RowsAffected(); err != nil || n != 1 {
		t.Fatalf("%d owners were changed: %v", n, err)
	}
}

func (s *studio) entitle(t *testing.T, d Device, days int) {
	t.Helper()
	for _, capability := range []string{"live_view", "cloud_playback", "clip_download"} {
		s.For(t).Post("/admin/devices/"+d.ID+"/entitlements", s.admin, map[string]any{"capability": capability, "history_days": days}, nil)
	}
}

func (s *studio) provision(t *testing.T, d Device, name string) {
	t.Helper()
	var answer map[string]any
	if status := s.Do(http.MethodPatch, "/admin/devices/"+d.ID, s.admin, map[string]any{"video": map[string]string{"stream_name": name, "channel_name": name}}, &answer); status != http.StatusOK {
		t.Fatalf("the names answer %d %v", status, answer)
	}
}

// share shares a device with a person, who accepts.
func (s *studio) share(t *testing.T, d Device, email, role string) User {
	t.Helper()
	u := s.UserToken(email)
	owner := s.UserToken(s.Look(d, s.admin).Owner.Email)
	s.For(t).Post("/api/devices/"+d.ID+"/share", owner.Token, map[string]string{"user_email": email, "role": role}, nil)
	if s.roleOf(t, u, d) == "" {
		s.accept(t, u)
	}
	return u
}

// ask asks a route of the camera and gives status, code of the error, header and body.
func (s *studio) ask(t *testing.T, method, path, token string, body any) (status int, code string, h http.Header, text []byte) {
	t.Helper()
	var reader io.Reader
	if body != nil {
		b, err := json.Marshal(body)
		if err != nil {
			t.Fatal(err)
		}
		reader = bytes.NewReader(b)
	}
	r, err := http.NewRequestWithContext(t.Context(), method, s.API()+path, reader)
	if err != nil {
		t.Fatal(err)
	}
	if body != nil {
		r.Header.Set("Content-Type", "application/json")
	}
	r.Header.Set("Authorization", "Bearer "+token)
	answer, err := http.DefaultClient.Do(r)
	if err != nil {
		t.Fatal(err)
	}
	defer answer.Body.Close()
	if text, err = io.ReadAll(answer.Body); err != nil {
		t.Fatal(err)
	}
	var problem struct{ Error string }
	if answer.StatusCode >= 300 {
		_ = json.Unmarshal(text, &problem) // what is no problem has no code
	}
	return answer.StatusCode, problem.Error, answer.Header, text
}

// mediaRoute is a route about video, with a request that is taken.
type mediaRoute struct {
	method, path string
	body         any
	admins       bool // viewers may not
	days         bool // of a recording, a day old
	feature      string
}

func mediaRoutes() []mediaRoute {
	day := time.Now().Add(-25 * time.Hour).UTC().Truncate(time.Second)
	from, to := day.Format(time.RFC3339), day.Add(time.Minute).Format(time.RFC3339)
	return []mediaRoute{
		{method: "POST", path: "/stream", body: map[string]any{}, feature: "playback"},
		{method: "GET", path: "/stream", feature: "playback"},
		{method: "POST", path: "/stream", body: map[string]any{"protocol": "dash"}, feature: "playback"},
		{method: "POST", path: "/stream", body: map[string]any{"mode": "on_demand", "start": from, "end": to}, days: true, feature: "playback"},
		{method: "POST", path: "/stream", body: map[string]any{"mode": "live_replay", "protocol": "dash", "start": from}, days: true, feature: "playback"},
		{method: "GET", path: "/clip?" + url.Values{"start": {from}, "end": {to}}.Encode(), admins: true, days: true, feature: "playback"},
		{method: "POST", path: "/webrtc", body: map[string]any{}, feature: "viewing"},
		{method: "POST", path: "/aws-identity", feature: "identity"},
	}
}

// TestEveryVideoRouteInEveryState is the gate of contracts A.3: each route, each asker,
// each state of the device and of the operator's configuration, in the order of refusals.
func TestEveryVideoRouteInEveryState(t *testing.T) {
	t.Parallel()
	s := openStudio(t, nil)
	bare := openStudio(t, func(c *app.Config) {
		c.AWSAccess, c.AWSPlaybackRole, c.AWSViewerRole, c.AWSDeviceRole, c.AWSIoTEndpoint, c.AWSIoTRoleAlias, c.AWSIdentityPool = kvs.Access{}, "", "", "", "", "", ""
	})
	unprovisioned := s.newCamera(t, "ann@example.com", false)
	unpaid := s.EnrollAs(s.admin)
	s.owned(t, s.admin, "ann@example.com", unpaid)
	s.longAgo(t, unpaid)
	fresh := s.newCamera(t, "ann@example.com", true)
	s.For(t).Post("/admin/devices/"+fresh.ID+"/release", s.admin, nil, nil)
	s.For(t).Post("/admin/devices/claim", s.admin, map[string]string{"device_id": fresh.ID, "user_email": "ann@example.com"}, nil)
	s.aws.AddStream("unpaid")
	s.provision(t, unpaid, "unpaid")
	shortly := s.EnrollAs(s.admin)
	s.owned(t, s.admin, "ann@example.com", shortly)
	s.longAgo(t, shortly)
	s.entitle(t, shortly, 0)
	for _, capability := range []string{"cloud_playback", "clip_download"} {
		if status := s.Do(http.MethodDelete, "/admin/devices/"+shortly.ID+"/entitlements?capability="+capability, s.admin, nil, nil); status != 200 {
			t.Fatal(status)
		}
		s.Post("/admin/devices/"+shortly.ID+"/entitlements", s.admin, map[string]any{"capability": capability, "history_days": 1}, nil)
	}
	absent := NewDevice()
	before := s.aws.Calls("")
	for _, r := range mediaRoutes() {
		for _, c := range []struct {
			state  string
			s      *studio
			device Device
			token  string
			want   string
		}{
			{"absent", s, absent, s.owner.Token, "404 device_not_found"},
			{"a stranger", s, s.camera, s.stranger.Token, "404 device_not_found"},
			{"an administrator", s, s.camera, s.admin, "404 device_not_found"},
			{"a viewer", s, s.camera, s.viewer.Token, map[bool]string{false: "200 ", true: "403 insufficient_role"}[r.admins]},
			{"no plan", s, unpaid, s.owner.Token, "403 entitlement_required"},
			{"a plan of a day", s, shortly, s.owner.Token, map[bool]string{false: "", true: "403 entitlement_range_exceeded"}[r.days]},
			{"a device that changed hands", s, fresh, s.owner.Token, map[bool]string{false: "200 ", true: "403 entitlement_range_exceeded"}[r.days]},
			{"no video yet", s, unprovisioned, s.owner.Token, map[bool]string{false: "409 video_not_provisioned", true: "200 "}[r.feature == "identity"]},
			{"not configured", bare, bare.camera, bare.owner.Token, "501 feature_disabled"},
			{"not configured, a stranger", bare, bare.camera, bare.stranger.Token, "404 device_not_found"},
			{"a shared admin", s, s.camera, s.shared.Token, "200 "},
			{"the owner", s, s.camera, s.owner.Token, "200 "},
		} {
			if c.want == "" {
				continue
			}
			for _, prefix := range []string{"/api/devices/", "/api/v1/devices/"} {
				status, code, h, text := c.s.ask(t, r.method, prefix+c.device.ID+r.path, c.token, r.body)
				if got := fmt.Sprintf("%d %s", status, code); got != c.want {
					t.Errorf("%s %s %v, %s: got %s, want %s\n%.300s", r.method, r.path, r.body, c.state, got, c.want, text)
				}
				if h.Get("Cache-Control") != "no-store" {
					t.Errorf("%s %s, %s: Cache-Control is %q", r.method, r.path, c.state, h.Get("Cache-Control"))
				}
			}
		}
	}
	if n := bare.aws.Calls(""); n != 0 {
		t.Errorf("%d calls to AWS although nothing is configured", n)
	}
	if s.aws.Calls("") == before {
		t.Error("nothing was asked of AWS")
	}
}

// TestAPersonWatches is the journey of the owner: everything that is vended works at AWS,
// nothing names stream or account, everything is audited, and no secret is in the log.
func TestAPersonWatches(t *testing.T) {
	t.Parallel()
	s := openStudio(t, nil)
	name := "cam-" + s.camera.ID[:8]
	var secrets []string
	var player struct {
		Protocol, URL, Mode string
		Expires             time.Time `json:"expires_at"`
	}
	s.Post("/api/devices/"+s.camera.ID+"/stream", s.owner.Token, map[string]any{"expires_in": 900}, &player)
	if left := time.Until(player.Expires); player.Protocol != "hls" || player.Mode != "live" || left < 890*time.Second || left > 900*time.Second {
		t.Errorf("the player is %s %s until %s", player.Protocol, player.Mode, player.Expires)
	}
	u, err := url.Parse(player.URL)
	if err != nil || strings.Contains(player.URL, name) || strings.Contains(player.URL, "arn:") {
		t.Errorf("the address says what it plays: %v", err)
	}
	secrets = append(secrets, u.Query().Get("SessionToken"))
	answer, err := http.Get(player.URL)
	if err != nil || answer.StatusCode != http.StatusOK {
		t.Fatalf("it does not play: %v", err)
	}
	_ = answer.Body.Close()

	t.Run("a clip is streamed", func(t *testing.T) {
		from := time.Now().Add(-time.Hour).UTC().Truncate(time.Second)
		clip := func(seconds time.Duration) string {
			return "/api/devices/" + s.camera.ID + "/clip?" + url.Values{"start": {from.Format(time.RFC3339)}, "end": {from.Add(seconds * time.Second).Format(time.RFC3339)}}.Encode()
		}
		status, _, h, text := s.ask(t, "GET", clip(300), s.owner.Token, nil)
		if status != 200 || h.Get("Content-Type") != "video/mp4" || !strings.HasPrefix(h.Get("Content-Disposition"), "attachment;") || h.Get("Content-Length") != "" || len(text) < 300*4<<10 || string(text[4:8]) != "ftyp" {
			t.Errorf("the clip is %d %v, %d bytes", status, h, len(text))
		}
		for _, c := range []struct {
			path, want string
		}{{clip(301), "400 invalid_range"}, {clip(0), "400 invalid_range"}, {clip(-1), "400 invalid_range"}} {
			if status, code, _, _ := s.ask(t, "GET", c.path, s.owner.Token, nil); fmt.Sprint(status, " ", code) != c.want {
				t.Errorf("%s: %d %s, want %s", c.path, status, code, c.want)
			}
		}
	})

	var viewer struct {
		Mode     string
		WSS      string `json:"wss_url"`
		ClientID string `json:"client_id"`
		Region   string
		ICE      []struct {
			URLs                 []string
			Username, Credential string
			TTL                  int
		} `json:"ice_servers"`
		Expires time.Time `json:"expires_at"`
	}
	t.Run("a viewer opens the channel, under an id of the server's", func(t *testing.T) {
		status, _, _, text := s.ask(t, "POST", "/api/devices/"+s.camera.ID+"/webrtc", s.viewer.Token, map[string]any{"client_id": "victim"})
		if err := json.Unmarshal(text, &viewer); err != nil || status != 200 {
			t.Fatalf("%d %v", status, err)
		}
		if viewer.Mode != "url" || viewer.ClientID == "victim" || viewer.ClientID == "" || len(viewer.ICE) != 2 || viewer.Region != "us-east-1" || time.Until(viewer.Expires) > 299*time.Second {
			t.Errorf("the viewer is %s %s, %d servers, until %s", viewer.Mode, viewer.ClientID, len(viewer.ICE), viewer.Expires)
		}
		for _, word := range []string{`"channel_arn"`, `"stream_name"`, `"credentials"`, "secretAccessKey"} {
			if bytes.Contains(text, []byte(word)) {
				t.Errorf("the answer has %s", word)
			}
		}
		conn, _, err := websocket.DefaultDialer.DialContext(t.Context(), viewer.WSS, nil)
		if err != nil {
			t.Fatalf("the address does not open: %v", err)
		}
		_ = conn.Close()
		q, err := url.Parse(viewer.WSS)
		if err != nil {
			t.Fatal(err)
		}
		secrets = append(secrets, q.Query().Get("X-Amz-Signature"), q.Query().Get("X-Amz-Security-Token"), viewer.ICE[1].Credential, viewer.ICE[1].Username)
	})
	var identity struct {
		ID    string `json:"identity_id"`
		Token string `json:"open_id_token"`
		Life  int    `json:"expires_in"`
	}
	s.Post("/api/devices/"+s.camera.ID+"/aws-identity", s.owner.Token, nil, &identity)
	if identity.Life != 900 || identity.ID == "" {
		t.Errorf("the identity is %+v", identity)
	}
	secrets = append(secrets, identity.Token)

	t.Run("every vend is audited, without what was vended", func(t *testing.T) {
		_, _, _, text := s.ask(t, "GET", "/admin/devices/"+s.camera.ID+"/audit?limit=200", s.admin, nil)
		if n := bytes.Count(text, []byte(`"video_vended"`)); n != 4 {
			t.Errorf("%d vends are audited, want 4: %s", n, text)
		}
		for _, secret := range secrets {
			if secret == "" || bytes.Contains(text, []byte(secret)) {
				t.Errorf("a secret is in the trail, or there was none")
			}
		}
	})
	s.quiet(t, secrets)
}

// quiet fails when a secret of video is in the log, by its value or by its name.
func (s *studio) quiet(t *testing.T, secrets []string) {
	t.Helper()
	log := s.Log()
	for _, secret := range secrets {
		if secret == "" || strings.Contains(log, secret) {
			t.Error("a secret is in the log, or there was none")
		}
	}
	for _, word := range []string{"SessionToken=", "X-Amz-Signature", "X-Amz-Security-Token", "secretAccessKey", "sessionToken"} {
		if strings.Contains(log, word) {
			t.Errorf("the log has %s", word)
		}
	}
}

// TestErrorsOfAWSBecomeAnswers injects what AWS answers into every route.
func TestErrorsOfAWSBecomeAnswers(t *testing.T) {
	t.Parallel()
	s := openStudio(t, nil)
	from := time.Now().Add(-time.Hour).UTC()
	clip := "/clip?" + url.Values{"start": {from.Format(time.RFC3339)}, "end": {from.Add(time.Minute).Format(time.RFC3339)}}.Encode()
	for _, c := range []struct {
		method, path, operation string
		fault                   aws.Fault
		want                    string
	}{
		{"POST", "/stream", "GetHLSStreamingSessionURL", aws.Fault{Status: 404, Code: "ResourceNotFoundException"}, "404 no_media"},
		{"POST", "/stream", "GetHLSStreamingSessionURL", aws.Fault{Status: 400, Code: "InvalidArgumentException"}, "400 invalid_range"},
		{"POST", "/stream", "GetHLSStreamingSessionURL", aws.Fault{Status: 400, Code: "ClientLimitExceededException"}, "429 RATE_LIMITED"},
		{"POST", "/stream", "GetHLSStreamingSessionURL", aws.Fault{Status: 400, Code: "NoDataRetentionException"}, "409 retention_disabled"},
		{"POST", "/stream", "GetHLSStreamingSessionURL", aws.Fault{Status: 400, Code: "MissingCodecPrivateDataException"}, "422 unsupported_media"},
		{"POST", "/stream", "AssumeRole", aws.Fault{Status: 403, Code: "AccessDenied"}, "502 upstream_denied"},
		{"POST", "/stream", "GetHLSStreamingSessionURL", aws.Fault{}, "503 upstream_unavailable"},
		{"GET", clip, "GetClip", aws.Fault{Status: 404, Code: "ResourceNotFoundException"}, "404 no_media"},
		{"GET", clip, "GetClip", aws.Fault{Status: 400, Code: "InvalidMediaFrameException"}, "422 unsupported_media"},
		{"GET", clip, "GetClip", aws.Fault{Status: 500, Code: "InternalFailure"}, "503 upstream_unavailable"},
		{"POST", "/webrtc", "GetIceServerConfig", aws.Fault{Status: 403, Code: "NotAuthorizedException"}, "502 upstream_denied"},
		{"POST", "/webrtc", "GetSignalingChannelEndpoint", aws.Fault{Status: 404, Code: "ResourceNotFoundException"}, "404 no_media"},
		{"POST", "/aws-identity", "GetOpenIdTokenForDeveloperIdentity", aws.Fault{Status: 400, Code: "NotAuthorizedException"}, "502 upstream_denied"},
	} {
		s.aws.Fail(c.operation, c.fault)
		status, code, h, text := s.ask(t, c.method, "/api/devices/"+s.camera.ID+c.path, s.owner.Token, nil)
		if got := fmt.Sprintf("%d %s", status, code); got != c.want {
			t.Errorf("%s %s with %s %s: got %s, want %s\n%s", c.method, c.path, c.operation, c.fault.Code, got, c.want, text)
		}
		if (status == 429 || status == 503) && h.Get("Retry-After") == "" {
			t.Errorf("%s: no Retry-After", code)
		}
		s.aws.Heal()
	}
	if n := count(s.trail(s.camera, s.admin), "video_vended"); n != 0 {
		t.Errorf("%d vends are audited although nothing was vended", n)
	}
	if !strings.Contains(s.Log(), "upstream_denied") {
		t.Error("nobody is told of a role that AWS refuses")
	}
}

// TestUnsharingEndsAViewer takes a share away while its person may be watching: the device
// is told to end them, once, and nobody else; also when it comes back later.
func TestUnsharingEndsAViewer(t *testing.T) {
	t.Parallel()
	s := openStudio(t, nil)
	watch := func(u User) string {
		var v struct {
			ClientID string `json:"client_id"`
		}
		s.For(t).Post("/api/devices/"+s.camera.ID+"/webrtc", u.Token, nil, &v)
		return v.ClientID
	}
	client := s.open(t, deviceHello(s.camera, mqttwire.V311))
	subscribe(t, client, mqttwire.Filter{Topic: s.camera.Topic("command/+"), QoS: 1})
	ended := func(want string) {
		t.Helper()
		m, err := client.Next(5 * time.Second)
		if err != nil {
			t.Fatalf("no command comes: %v", err)
		}
		var c struct {
			ID     string `json:"command_id"`
			Type   string
			Params map[string]string
		}
		if err := json.Unmarshal(m.Payload, &c); err != nil || m.Topic != s.camera.Topic("command/end-viewer") || c.Type != "end-viewer" || c.Params["client_id"] != want || len(c.Params) != 1 {
			t.Fatalf("%s %s, want the end of %s", m.Topic, m.Payload, want)
		}
		if _, err := client.Publish(mqttwire.Message{Topic: s.camera.Topic("command/response"), QoS: 1, Payload: fmt.Appendf(nil, `{"command_id":%q,"status":"succeeded"}`, c.ID)}); err != nil {
			t.Fatal(err)
		}
	}
	bob, cid, ann := watch(s.shared), watch(s.viewer), watch(s.owner)
	if bob == cid || bob == ann {
		t.Fatal("two viewers have one id")
	}
	began := time.Now()
	if status := s.Do(http.MethodDelete, "/api/devices/"+s.camera.ID+"/shares/"+s.shared.ID, s.owner.Token, nil, nil); status/100 != 2 {
		t.Fatalf("unsharing answers %d", status)
	}
	ended(bob)
	if took := time.Since(began); took > 3*time.Second {
		t.Errorf("it took %s", took)
	}
	if status := s.Do(http.MethodDelete, "/api/devices/"+s.camera.ID, s.viewer.Token, nil, nil); status/100 != 2 {
		t.Fatalf("leaving answers %d", status)
	}
	ended(cid)
	// The device is away while it changes hands.
	if err := client.Disconnect(); err != nil {
		t.Fatal(err)
	}
	s.AwaitDevice(s.camera, s.admin, "gone", func(v DeviceView) bool { return v.Status == "offline" })
	s.Post("/admin/devices/"+s.camera.ID+"/release", s.admin, nil, nil)
	Await(t, 5*time.Second, func() bool { return count(s.trail(s.camera, s.admin), "command_issued queued") == 1 }, func() string { return "no command waits" })
	client = s.open(t, deviceHello(s.camera, mqttwire.V311))
	subscribe(t, client, mqttwire.Filter{Topic: s.camera.Topic("command/+"), QoS: 1})
	ended(ann)
	if m, err := client.Next(1500 * time.Millisecond); err == nil {
		t.Errorf("another message comes: %s", m.Payload)
	}
	if n := count(s.trail(s.camera, s.admin), "command_finished succeeded"); n != 3 {
		t.Errorf("%d commands came to a good end, want 3", n)
	}
}

// TestAtMostTwoClipsAtOnce holds two clips open and asks for a third.
func TestAtMostTwoClipsAtOnce(t *testing.T) {
	t.Parallel()
	s := openStudio(t, nil)
	from := time.Now().Add(-time.Hour).UTC()
	path := s.API() + "/api/devices/" + s.camera.ID + "/clip?" + url.Values{"start": {from.Format(time.RFC3339)}, "end": {from.Add(300 * time.Second).Format(time.RFC3339)}}.Encode()
	gate := make(chan struct{})
	release := sync.OnceFunc(func() { close(gate) })
	defer release()
	s.aws.Slow("GetClip", gate)
	open := func(u User) *http.Response {
		r, err := http.NewRequestWithContext(t.Context(), http.MethodGet, path, nil)
		if err != nil {
			t.Fatal(err)
		}
		r.Header.Set("Authorization", "Bearer "+u.Token)
		answer, err := http.DefaultClient.Do(r)
		if err != nil {
			t.Fatal(err)
		}
		return answer
	}
	var held []*http.Response
	for range 2 {
		held = append(held, open(s.owner))
	}
	if third := open(s.owner); third.StatusCode != http.StatusTooManyRequests || third.Header.Get("Retry-After") == "" {
		t.Errorf("the third answers %d", third.StatusCode)
	} else {
		_ = third.Body.Close()
	}
	held = append(held, open(s.shared)) // another person
	release()
	for _, answer := range held {
		if n, err := io.Copy(io.Discard, answer.Body); answer.StatusCode != 200 || err != nil || n < 300*4<<10 {
			t.Errorf("a clip is %d, %d bytes: %v", answer.StatusCode, n, err)
		}
		_ = answer.Body.Close()
	}
	again := open(s.owner)
	if again.StatusCode != http.StatusOK {
		t.Errorf("after them: %d", again.StatusCode)
	}
	_ = again.Body.Close()
}
