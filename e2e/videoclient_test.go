package e2e_test

import (
	"encoding/base64"
	"encoding/json"
	"fmt"
	"net/http"
	"net/url"
	"os/exec"
	"strings"
	"testing"
	"time"

	sdk "github.com/aws/aws-sdk-go-v2/aws"
	v4 "github.com/aws/aws-sdk-go-v2/aws/signer/v4"
	"github.com/gorilla/websocket"

	"github.com/opticworks/devicecloud/firmware-sim/mqttwire"
	"github.com/opticworks/devicecloud/standin/aws"
)

// lent is what a device gets on kvs/credentials/response.
type lent struct {
	RequestID   string `json:"request_id"`
	Status      string
	Error       string
	RetryAfter  int `json:"retry_after_sec"`
	Region      string
	StreamName  string `json:"stream_name"`
	ChannelName string `json:"channel_name"`
	ChannelARN  string `json:"channel_arn"`
	Credentials struct {
		AccessKeyID     string `json:"accessKeyId"`
		SecretAccessKey string `json:"secretAccessKey"`
		SessionToken    string `json:"sessionToken"`
		Expiration      time.Time
	}
}

// borrow asks for credentials over MQTT.
func borrow(t *testing.T, client *mqttwire.Client, d Device, request string) (l lent, raw []byte) {
	t.Helper()
	if _, err := client.Publish(mqttwire.Message{Topic: d.Topic("kvs/credentials/request"), Payload: []byte(request), QoS: 1}); err != nil {
		t.Fatal(err)
	}
	m, err := client.Next(15 * time.Second)
	if err != nil {
		t.Fatalf("no answer to %s: %v", request, err)
	}
	if err := json.Unmarshal(m.Payload, &l); err != nil || m.Topic != d.Topic("kvs/credentials/response") || m.Retain {
		t.Fatalf("%s: %s: %v", m.Topic, m.Payload, err)
	}
	return l, m.Payload
}

// master opens the device's end of its channel with what it was lent.
func (s *studio) master(t *testing.T, l lent) *websocket.Conn {
	t.Helper()
	u, err := url.Parse("ws" + strings.TrimPrefix(s.aws.URL(), "http") + "/?" + url.Values{"X-Amz-ChannelARN": {l.ChannelARN}, "X-Amz-Expires": {"60"}}.Encode())
	if err != nil {
		t.Fatal(err)
	}
	keys := sdk.Credentials{AccessKeyID: l.Credentials.AccessKeyID, SecretAccessKey: l.Credentials.SecretAccessKey, SessionToken: l.Credentials.SessionToken}
	const empty = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"
	address, _, err := v4.NewSigner().PresignHTTP(t.Context(), keys, &http.Request{Method: http.MethodGet, URL: u, Host: u.Host, Header: http.Header{}}, empty, "kinesisvideo", l.Region, time.Now())
	if err != nil {
		t.Fatal(err)
	}
	conn, _, err := websocket.DefaultDialer.DialContext(t.Context(), address, nil)
	if err != nil {
		t.Fatalf("the device's own channel does not open: %v", err)
	}
	t.Cleanup(func() { _ = conn.Close() })
	return conn
}

// TestAWSsOwnViewerMeetsTheDevice is a live view up to where media would flow: the
// address that a person is given is opened by AWS's own library, which offers; the device
// has signed for itself with what it was lent, gets the offer and answers.
func TestAWSsOwnViewerMeetsTheDevice(t *testing.T) {
	skipWithout(t, "amazon-kinesis-video-streams-webrtc", haveProgram("node") && exec.Command("node", "-e", "require('./node_modules/amazon-kinesis-video-streams-webrtc'); require('./node_modules/ws')").Run() == nil)
	t.Parallel()
	s := openStudio(t, nil)
	device := s.open(t, deviceHello(s.camera, mqttwire.V311))
	subscribe(t, device, mqttwire.Filter{Topic: s.camera.Topic("kvs/credentials/response"), QoS: 1})
	l, _ := borrow(t, device, s.camera, `{"request_id":"r1","purpose":"webrtc"}`)
	if l.Status != "ok" {
		t.Fatalf("the device is lent nothing: %s", l.Error)
	}
	conn := s.master(t, l)
	var viewer struct {
		WSS      string `json:"wss_url"`
		ClientID string `json:"client_id"`
	}
	s.Post("/api/devices/"+s.camera.ID+"/webrtc", s.viewer.Token, nil, &viewer)
	answered := make(chan error, 1)
	go func() {
		answered <- func() error {
			var offer struct{ MessageType, SenderClientID, MessagePayload string }
			if err := conn.ReadJSON(&offer); err != nil {
				return err
			}
			if offer.MessageType != "SDP_OFFER" || offer.SenderClientID != viewer.ClientID {
				return fmt.Errorf("the device gets %+v", offer)
			}
			return conn.WriteJSON(map[string]string{
				"action": "SDP_ANSWER", "recipientClientId": offer.SenderClientID,
				"messagePayload": base64.StdEncoding.EncodeToString([]byte(`{"type":"answer","sdp":"v=0"}`)),
			})
		}()
	}()
	out, err := exec.CommandContext(t.Context(), "node", "testdata/kvs_viewer.js", viewer.WSS, viewer.ClientID).CombinedOutput()
	if err != nil || strings.TrimSpace(string(out)) != `answer {"type":"answer","sdp":"v=0"}` {
		t.Errorf("AWS's viewer says %s: %v", out, err)
	}
	if err := <-answered; err != nil {
		t.Error(err)
	}
	s.quiet(t, []string{l.Credentials.SecretAccessKey, l.Credentials.SessionToken})
}

// TestBotoAcceptsTheStandin keeps the stand-in honest: AWS's own library for Python signs
// and asks, and every answer is held against its model of the service.
func TestBotoAcceptsTheStandin(t *testing.T) {
	const python = "/usr/bin/python3"
	skipWithout(t, "python3-boto3", exec.Command(python, "-c", "import boto3").Run() == nil)
	t.Parallel()
	s := aws.New(aws.Options{})
	if err := s.Start("127.0.0.1:0"); err != nil {
		t.Fatal(err)
	}
	defer func() { _ = s.Close() }()
	cmd := exec.CommandContext(t.Context(), python, "testdata/boto_kvs.py", s.URL(), s.Region(), s.AccessKeyID, s.SecretAccessKey,
		s.AddRole("boto", aws.Role{}), s.AddStream("one"), s.AddStream("two"), s.AddChannel("one"))
	cmd.Env = append(cmd.Environ(), "AWS_CONFIG_FILE=/dev/null", "AWS_SHARED_CREDENTIALS_FILE=/dev/null", "AWS_EC2_METADATA_DISABLED=true")
	if out, err := cmd.CombinedOutput(); err != nil || strings.TrimSpace(string(out)) != "done" {
		t.Errorf("boto3: %v\n%s", err, out)
	}
}
