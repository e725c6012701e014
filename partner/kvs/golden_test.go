package kvs

import (
	"net/url"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
)

// TestViewerAddressGolden is the golden vector of the signer. [contracts A.4]
func TestViewerAddressGolden(t *testing.T) {
	c, err := New(t.Context(), Options{Access: Access{Region: "us-west-2"}})
	if err != nil {
		t.Fatal(err)
	}
	keys := aws.Credentials{AccessKeyID: "AKIDEXAMPLE", SecretAccessKey: "SECRETEXAMPLE", SessionToken: "TOKENEXAMPLE"}
	address, err := c.address(t.Context(), keys, "wss://v-abc123.kinesisvideo.us-west-2.amazonaws.com",
		"arn:aws:kinesisvideo:us-west-2:123456789012:channel/dev-a1b2/1700000000000", "app-01HZX", time.Date(2026, 1, 15, 10, 0, 0, 0, time.UTC))
	if err != nil {
		t.Fatal(err)
	}
	u, err := url.Parse(address)
	if err != nil {
		t.Fatal(err)
	}
	const want = "ada7d543ae7735af736766fa513d7f23ec9decfe787b4be54cface642d8120c0"
	if got := u.Query().Get("X-Amz-Signature"); got != want || u.Scheme != "wss" || u.Path != "/" || u.Query().Get("X-Amz-Expires") != "299" {
		t.Errorf("the signature is %s, want %s; %s", got, want, address)
	}
	if _, err := c.address(t.Context(), keys, "https://example.com", "a", "b", time.Now()); err == nil {
		t.Error("an endpoint that is no WebSocket's is taken")
	}
}

// TestPolicySizes holds the sizes that were measured; AWS takes 2,048 characters.
func TestPolicySizes(t *testing.T) {
	stream := "arn:aws:kinesisvideo:us-east-1:123456789012:stream/" + "0123456789abcdef0123456789abcdef" + "/1700000000000"
	channel := "arn:aws:kinesisvideo:us-east-1:123456789012:channel/" + "0123456789abcdef0123456789abcdef" + "/1700000000000"
	for name, policy := range map[string]string{"viewer": viewerPolicy(channel), "playback": playbackPolicy(stream), "device": devicePolicy(stream, channel)} {
		if len(policy) > 700 || len(policy) < 200 {
			t.Errorf("%s: %d characters", name, len(policy))
		}
	}
}
