package bedrock_test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"strings"
	"testing"
	"time"

	sdk "github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/credentials"
	"github.com/opticworks/devicecloud/media"
	"github.com/opticworks/devicecloud/partner/bedrock"
	"github.com/opticworks/devicecloud/registry"
	"github.com/opticworks/devicecloud/standin/aws"
)

const modelID = "us.amazon.nova-lite-v1:0"

var picture = media.Picture{Format: "jpeg", Bytes: []byte("\xff\xd8\xff\xe0 a picture")}

func start(t *testing.T) *aws.Server {
	t.Helper()
	s := aws.New(aws.Options{})
	if err := s.Start("127.0.0.1:0"); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := s.Close(); err != nil {
			t.Error(err)
		}
	})
	return s
}

func model(s *aws.Server, keyID, secret string) *bedrock.Model {
	return bedrock.New(sdk.Config{
		Region: s.Region(), BaseEndpoint: sdk.String(s.URL()), Credentials: credentials.NewStaticCredentialsProvider(keyID, secret, ""),
	}, modelID)
}

func TestSee(t *testing.T) {
	s := start(t)
	m := model(s, s.AccessKeyID, s.SecretAccessKey)
	answer, err := m.See(t.Context(), picture)
	if err != nil {
		t.Fatal(err)
	}
	var said map[string]any
	if err := json.Unmarshal(answer, &said); err != nil || said["label"] != "person" || said["confidence"] != 0.93 || said["summary"] != "A person walks towards the door." {
		t.Errorf("%s, %v", answer, err)
	}
	if !bytes.Equal(s.Shown(), picture.Bytes) {
		t.Errorf("the model was shown %q", s.Shown())
	}
	for format, b := range map[string]string{"png": "\x89PNG\r\n\x1a\n", "gif": "GIF89a", "webp": "RIFF\x00\x00\x00\x00WEBP"} {
		if _, err := m.See(t.Context(), media.Picture{Format: format, Bytes: []byte(b)}); err != nil {
			t.Errorf("%s: %v", format, err)
		}
	}
}

func TestAnswersThatCannotBeUsed(t *testing.T) {
	s := start(t)
	m := model(s, s.AccessKeyID, s.SecretAccessKey)
	for name, sight := range map[string]aws.Sight{
		"words":         {Words: true},
		"cut":           {Cut: true},
		"no JSON":       {Raw: "<html>"},
		"another shape": {Raw: `{"output":[1,2]}`},
		"no output":     {Raw: `{}`},
		"no message":    {Raw: `{"output":{}}`},
		"no content":    {Raw: `{"output":{"message":{"role":"assistant","content":[]}},"stopReason":"tool_use"}`},
		"another tool":  {Raw: `{"output":{"message":{"role":"assistant","content":[{"toolUse":{"toolUseId":"x","name":"open_the_door","input":{}}}]}},"stopReason":"tool_use"}`},
		"two tools":     {Raw: `{"output":{"message":{"role":"assistant","content":[{"toolUse":{"toolUseId":"x","name":"report_what_is_seen","input":{}}},{"toolUse":{"toolUseId":"y","name":"report_what_is_seen","input":{}}}]}},"stopReason":"tool_use"}`},
	} {
		t.Run(name, func(t *testing.T) {
			s.Sees(sight)
			if answer, err := m.See(t.Context(), picture); !errors.Is(err, media.ErrModelBadOutput) {
				t.Errorf("%s, %v", answer, err)
			}
		})
	}
}

// Every error of Bedrock, once: what is paid for is not repeated. [contracts B]
func TestErrors(t *testing.T) {
	for code, c := range map[string]struct {
		status  int
		message string
		want    *registry.Error
	}{
		"ThrottlingException":           {429, "", media.ErrModelBusy},
		"ServiceQuotaExceededException": {400, "", media.ErrModelBusy},
		"ModelNotReadyException":        {429, "", media.ErrModelBusy},
		"ModelTimeoutException":         {408, "", media.ErrModelTimeout},
		"ModelErrorException":           {424, "", media.ErrUnavailable},
		"ServiceUnavailableException":   {503, "", media.ErrUnavailable},
		"InternalServerException":       {500, "", media.ErrUnavailable},
		"AccessDeniedException":         {403, "", media.ErrDenied},
		"ResourceNotFoundException":     {404, "", media.ErrDenied},
		"ValidationException":           {400, "The provided model identifier is invalid.", media.ErrDenied},
		"NewException":                  {418, "", media.ErrDenied},
		"OtherException":                {500, "", media.ErrUnavailable},
	} {
		t.Run(code, func(t *testing.T) {
			s := start(t)
			s.Fail("Converse", aws.Fault{Status: c.status, Code: code, Message: c.message})
			_, err := model(s, s.AccessKeyID, s.SecretAccessKey).See(t.Context(), picture)
			if !errors.Is(err, c.want) || s.Calls("Converse") != 1 {
				t.Errorf("%v after %d calls, want %v", err, s.Calls("Converse"), c.want)
			}
			if err != nil && strings.Contains(err.Error(), s.SecretAccessKey) {
				t.Error("the error holds the key")
			}
		})
	}
	s := start(t)
	_, err := model(s, s.AccessKeyID, s.SecretAccessKey).See(t.Context(), media.Picture{Format: "png", Bytes: picture.Bytes})
	if !errors.Is(err, media.ErrUnsupportedImage) {
		t.Errorf("a broken image: %v", err)
	}
	s.Fail("Converse", aws.Fault{}) // the connection ends
	if _, err := model(s, s.AccessKeyID, s.SecretAccessKey).See(t.Context(), picture); !errors.Is(err, media.ErrUnavailable) {
		t.Errorf("a broken connection: %v", err)
	}
	if _, err := model(s, s.AccessKeyID, "wrong"+s.SecretAccessKey).See(t.Context(), picture); !errors.Is(err, media.ErrUnavailable) { // it never gets so far as to be judged
		t.Errorf("a broken connection with a wrong key: %v", err)
	}
	s.Heal()
	if _, err := model(s, s.AccessKeyID, "wrong"+s.SecretAccessKey).See(t.Context(), picture); !errors.Is(err, media.ErrDenied) {
		t.Errorf("a wrong key: %v", err)
	}
}

func TestSlowModel(t *testing.T) {
	s := start(t)
	s.Sees(aws.Sight{Delay: time.Minute})
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	if _, err := model(s, s.AccessKeyID, s.SecretAccessKey).See(ctx, picture); !errors.Is(err, media.ErrModelTimeout) {
		t.Error(err)
	}
}

// Without keys nobody is called.
func TestWithoutCredentials(t *testing.T) {
	s := start(t)
	for name, keys := range map[string]sdk.CredentialsProvider{"none": nil, "empty": credentials.NewStaticCredentialsProvider("", "", "")} {
		m := bedrock.New(sdk.Config{Region: s.Region(), BaseEndpoint: sdk.String(s.URL()), Credentials: keys}, modelID)
		if _, err := m.See(t.Context(), picture); !errors.Is(err, registry.ErrFeatureDisabled) {
			t.Errorf("%s: %v", name, err)
		}
	}
	if n := s.Calls(""); n != 0 {
		t.Errorf("%d calls", n)
	}
}
