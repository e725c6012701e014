package e2e_test

import (
	"encoding/json"
	"fmt"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/opticworks/devicecloud/firmware-sim/mqttwire"
	"github.com/opticworks/devicecloud/standin/aws"
)

// TestNoSecretOfVideoLeavesTheProgram runs the program as a machine at AWS does, with keys
// and a session token in its environment, and lets people and a device have all that is
// given: then the log, the metrics, the trail and all bytes of the database are searched for
// those keys, for every secret that AWS has issued and for what was made of them.
func TestNoSecretOfVideoLeavesTheProgram(t *testing.T) {
	t.Parallel()
	for _, own := range []bool{false, true} { // whether viewers sign for themselves
		t.Run(fmt.Sprint("KVS_WEBRTC_CREDENTIALS_MODE=", own), func(t *testing.T) {
			t.Parallel()
			video := aws.New(aws.Options{Everything: true})
			if err := video.Start("127.0.0.1:0"); err != nil {
				t.Fatal(err)
			}
			t.Cleanup(func() { _ = video.Close() })
			v := &voyage{t: t, canaries: newCanaries()}
			id, secret, session := video.Borrow()
			v.plant("AWS_SECRET_ACCESS_KEY", secret)
			v.plant("AWS_SESSION_TOKEN", session)
			v.Cloud = Start(t, Options{Process: true, Env: map[string]string{
				"AWS_ACCESS_KEY_ID": id, "AWS_SECRET_ACCESS_KEY": secret, "AWS_SESSION_TOKEN": session, "AWS_ENDPOINT_URL": video.URL(), "AWS_REGION": video.Region(),
				"AWS_CONFIG_FILE": "/dev/null", "AWS_SHARED_CREDENTIALS_FILE": "/dev/null", "AWS_EC2_METADATA_DISABLED": "true",
				"AWS_KVS_PLAYBACK_ROLE_ARN": video.AddRole("play", aws.Role{}), "AWS_KVS_WEBRTC_ROLE_ARN": video.AddRole("view", aws.Role{}),
				"AWS_KVS_DEVICE_ROLE_ARN": video.AddRole("device", aws.Role{}), "AWS_COGNITO_IDENTITY_POOL_ID": "us-east-1:00000000-0000-0000-0000-000000000000",
				"KVS_WEBRTC_CREDENTIALS_MODE": fmt.Sprint(own), "BEDROCK_ENABLED": "true", "BEDROCK_REGION": video.Region(), "INGEST_KEYS": "k1:" + ingestSecret,
			}})
			v.admin = v.AdminToken()
			d := v.everythingIsVended(video)
			for i, secret := range video.Issued() {
				if secret != session {
					v.plant(fmt.Sprint("what AWS has issued, number ", i), secret)
				}
			}
			for _, path := range []string{"/admin/devices/" + d.ID, "/admin/devices/" + d.ID + "/audit?limit=200", "/admin/audit?limit=200", "/admin/devices/" + d.ID + "/connections"} {
				if r := v.send("GET", path, v.admin, nil); r.status != http.StatusOK {
					t.Errorf("%s: %d", path, r.status)
				}
			}
			for _, f := range v.sweep(t, v.Cloud) {
				t.Errorf("%s", f)
			}
			for _, word := range []string{"X-Amz-Signature", "X-Amz-Security-Token", "SessionToken=", "secretAccessKey"} {
				if strings.Contains(v.Log(), word) {
					t.Errorf("the log has %s", word)
				}
			}
			if n := count(v.trail(d, v.admin), "video_vended"); n < 4 || len(v.values) < 12 || !strings.Contains(v.Log(), "upstream_denied") {
				t.Errorf("%d vends, %d secrets: it did not go where they are", n, len(v.values))
			}
		})
	}
}

// everythingIsVended lets a person and their device have all of video, and AWS refuse and
// break off. What was made of secrets is planted; answers that refuse are kept.
func (v *voyage) everythingIsVended(video *aws.Server) Device {
	v.t.Helper()
	owner := v.UserToken("filmed@example.com")
	d := v.EnrollAs(v.admin)
	v.Post("/admin/devices/claim", v.admin, object{"device_id": d.ID, "user_id": owner.ID}, nil)
	v.longAgo(v.t, d)
	for _, c := range []string{"live_view", "cloud_playback", "clip_download", "ai_summary"} {
		v.Post("/admin/devices/"+d.ID+"/entitlements", v.admin, object{"capability": c}, nil)
	}
	if r := v.send("PATCH", "/admin/devices/"+d.ID, v.admin, object{"video": object{"stream_name": "canary", "channel_name": "canary"}}); r.status != http.StatusOK {
		v.t.Fatalf("the names: %d %s", r.status, r.body)
	}
	from := time.Now().Add(-time.Hour).UTC()
	clip := "/clip?" + url.Values{"start": {from.Format(time.RFC3339)}, "end": {from.Add(2 * time.Second).Format(time.RFC3339)}}.Encode()
	routes := [][2]string{{"POST", "/stream"}, {"GET", "/stream"}, {"GET", clip}, {"POST", "/webrtc"}, {"POST", "/aws-identity"}, {"POST", "/events/e1/classify"}}
	v.deliver(v.t, ingestRoute, strings.Replace(motion(d, "e1"), "motion", "door", 1))

	ask := func(route [2]string) reply {
		r := request{method: route[0], path: "/api/devices/" + d.ID + route[1], token: owner.Token}
		if route == routes[0] {
			r.body = `{"protocol":"dash"}`
		}
		return v.exchange(v.t, r)
	}
	// What fails says why in the log, and the causes know addresses and tokens.
	refused, broken := aws.Fault{Status: 403, Code: "AccessDeniedException", Message: "The token is not allowed."}, aws.Fault{}
	for _, c := range []struct {
		operation string
		route     int
		fault     aws.Fault
	}{
		{"AssumeRole", 0, refused},
		{"AssumeRole", 3, broken},
		{"GetDataEndpoint", 2, refused},
		{"GetDASHStreamingSessionURL", 0, broken},
		{"GetHLSStreamingSessionURL", 1, refused},
		{"GetClip", 2, broken},
		{"GetSignalingChannelEndpoint", 3, refused},
		{"GetIceServerConfig", 3, broken},
		{"GetOpenIdTokenForDeveloperIdentity", 4, broken},
		{"GetImages", 5, broken},
		{"Converse", 5, broken},
		{"Converse", 5, refused},
	} {
		video.Fail(c.operation, c.fault)
		r := ask(routes[c.route])
		video.Heal()
		if v.hear(routes[c.route][1], r); r.status < 500 {
			v.t.Errorf("%s without %s: %d %s", routes[c.route][1], c.operation, r.status, r.body)
		}
	}
	for _, route := range routes {
		r := ask(route)
		if r.status != http.StatusOK {
			v.t.Errorf("%s: %d %s", route[1], r.status, r.body)
		}
		v.learn(r.body)
	}

	client := v.open(v.t, deviceHello(d, mqttwire.V311))
	subscribe(v.t, client, mqttwire.Filter{Topic: d.Topic("kvs/credentials/response"), QoS: 1})
	video.Fail("AssumeRole", aws.Fault{})
	if l, raw := borrow(v.t, client, d, `{"request_id":"r1","purpose":"webrtc"}`); l.Error != "upstream_unavailable" {
		v.t.Errorf("without AWS the device gets %s", raw)
	}
	video.Heal()
	l, raw := borrow(v.t, client, d, `{"request_id":"r2","purpose":"webrtc"}`)
	if l.Status != "ok" {
		v.t.Fatalf("the device gets %s", raw)
	}
	if !slices.Contains(video.Issued(), l.Credentials.SessionToken) {
		v.t.Error("AWS does not know what it has issued")
	}
	return d
}

// learn plants the secrets that are in an answer about video.
func (v *voyage) learn(body string) {
	v.t.Helper()
	var answer struct {
		URL         string
		WSS         string `json:"wss_url"`
		Token       string `json:"open_id_token"`
		Credentials struct {
			Secret  string `json:"secretAccessKey"`
			Session string `json:"sessionToken"`
		}
		ICE []struct{ Username, Credential string } `json:"ice_servers"`
	}
	if json.Unmarshal([]byte(body), &answer) != nil {
		return // a clip
	}
	plant := func(name, value string) {
		if value != "" {
			v.plant(fmt.Sprint(name, " ", len(v.values)), value)
		}
	}
	for _, address := range []string{answer.URL, answer.WSS} {
		u, err := url.Parse(address)
		if err != nil {
			v.t.Fatal(err)
		}
		for _, name := range []string{"SessionToken", "X-Amz-Signature", "X-Amz-Security-Token"} {
			plant(name, u.Query().Get(name))
		}
	}
	plant("open_id_token", answer.Token)
	plant("secretAccessKey", answer.Credentials.Secret)
	plant("sessionToken", answer.Credentials.Session)
	for _, s := range answer.ICE {
		plant("username", s.Username)
		plant("credential", s.Credential)
	}
}
