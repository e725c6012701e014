package app

import (
	"fmt"
	"net/netip"
	"net/url"
	"reflect"
	"strings"
	"testing"
)

// development is what `serve --dev` runs with, and nothing else is set.
func development(t *testing.T) Config {
	t.Helper()
	c, err := FromEnvironment(true, func(string) (string, bool) { return "", false })
	if err != nil {
		t.Fatal(err)
	}
	c.DataDir = t.TempDir()
	if err := c.Prepare(); err != nil {
		t.Fatal(err)
	}
	return c
}

func nowhere() string { return "" }

func TestDevAloneHasNoPartners(t *testing.T) {
	c := development(t)
	before := c
	s, err := c.startStandins(nowhere)
	if err != nil {
		t.Fatal(err)
	}
	if !reflect.DeepEqual(c, before) || s.Stripe != nil || s.Carrier != nil || s.AWS != nil || len(s.close) > 0 {
		t.Error("something stands in although nobody asked for it")
	}
	cloud, err := c.cloud(t.Context())
	if err != nil || cloud != nil {
		t.Errorf("video is %v, %v", cloud, err)
	}
	model, err := c.model(t.Context())
	if err != nil || model != nil {
		t.Errorf("the model is %v, %v", model, err)
	}
	if c.StripeSecretKey != "" || c.StripeDataPlanWebhookSecret != "" || c.EIOTClubAppKey != "" || c.EIOTClubWebhookSecret != "" || c.AWSAccess.Endpoint != "" || c.IngestKeys != "" {
		t.Error("a partner is configured")
	}
}

func TestStandInsFillWhatIsEmpty(t *testing.T) {
	start := func(t *testing.T, change func(*Config)) (*App, Config) {
		t.Helper()
		c := development(t)
		c.DevStandins = true
		change(&c)
		if err := c.Prepare(); err != nil {
			t.Fatal(err)
		}
		s, err := c.startStandins(nowhere)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() {
			if err := s.Close(); err != nil {
				t.Error(err)
			}
		})
		// The settings that follow are as good as an operator's.
		if err := c.Prepare(); err != nil {
			t.Error(err)
		}
		return &App{standins: s}, c
	}
	t.Run("all of it", func(t *testing.T) {
		a, c := start(t, func(*Config) {})
		if len(a.StandIns()) != 3 || !a.Shop() || !a.Film() {
			t.Errorf("there are %v", a.StandIns())
		}
		for _, s := range a.StandIns() {
			u, err := url.Parse(s.URL)
			if err != nil {
				t.Fatal(err)
			}
			if ip, err := netip.ParseAddr(u.Hostname()); err != nil || !ip.IsLoopback() {
				t.Errorf("%s is at %s", s.Partner, s.URL)
			}
		}
		if !c.videoConfigured() || !c.BedrockEnabled || c.BedrockRegion != "us-east-1" || c.AWSRegion != "us-east-1" {
			t.Errorf("video %t, Bedrock %t in %q, region %q", c.videoConfigured(), c.BedrockEnabled, c.BedrockRegion, c.AWSRegion)
		}
		for _, format := range []string{"%v", "%+v", "%#v"} {
			for _, secret := range []string{a.standins.AWS.SecretAccessKey, a.standins.Stripe.Key(), a.standins.Carrier.Secret()} {
				if strings.Contains(fmt.Sprintf(format, c), secret) {
					t.Errorf("%s shows a secret of a stand-in", format)
				}
			}
		}
		if model, err := c.model(t.Context()); err != nil || model == nil {
			t.Errorf("the model is %v, %v", model, err)
		}
		if cloud, err := c.cloud(t.Context()); err != nil || cloud == nil {
			t.Errorf("video is %v, %v", cloud, err)
		}
	})
	t.Run("a region alone is no account", func(t *testing.T) {
		a, c := start(t, func(c *Config) { c.AWSRegion = "eu-west-1" })
		if !a.Film() || c.AWSRegion != "eu-west-1" || c.BedrockRegion != "eu-west-1" || a.standins.AWS.Region() != "eu-west-1" {
			t.Errorf("film %t, region %q, Bedrock's %q", a.Film(), c.AWSRegion, c.BedrockRegion)
		}
	})
	for name, change := range map[string]func(*Config){
		"of video":   func(c *Config) { c.AWSRegion, c.AWSPlaybackRole = "us-east-1", "arn:aws:iam::123456789012:role/mine" },
		"of Bedrock": func(c *Config) { c.BedrockEnabled, c.BedrockRegion = true, "us-east-1" },
	} {
		t.Run("what is set "+name+" stays", func(t *testing.T) {
			a, c := start(t, change)
			if a.Film() || c.AWSAccess.Endpoint != "" || !a.Shop() {
				t.Errorf("AWS is at %q", c.AWSAccess.Endpoint)
			}
		})
	}
}
