package app_test

import (
	"crypto/ed25519"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/alecthomas/kong"
	"github.com/google/go-cmp/cmp"

	"github.com/opticworks/devicecloud/cmd/devicecloud/app"
)

// load reads settings as the program does, from a command line, an environment and
// the text of a --config file.
func load(t *testing.T, args []string, env map[string]string, file string) (app.Config, error) {
	t.Helper()
	var cli struct {
		app.Config
		ConfigFile string `name:"config"`
		DevMode    bool   `name:"dev"`
	}
	if file != "" {
		path := filepath.Join(t.TempDir(), "devicecloud.conf")
		if err := os.WriteFile(path, []byte(file), 0o600); err != nil {
			t.Fatal(err)
		}
		args = append([]string{"--config", path}, args...)
	}
	parser, err := kong.New(&cli, kong.Resolvers(app.NewSources(func(name string) (string, bool) {
		v, ok := env[name]
		return v, ok
	})))
	if err != nil {
		t.Fatal(err)
	}
	_, err = parser.Parse(args)
	cli.Dev = cli.DevMode
	return cli.Config, err
}

func TestSettingsPrecedence(t *testing.T) {
	const file = "# comment\n\n HTTP_ADDR = 127.0.0.1:3 \nNODE_ID=from-file\n"
	env := map[string]string{"HTTP_ADDR": "127.0.0.1:2"}
	for _, tc := range []struct {
		name string
		args []string
		env  map[string]string
		file string
		want string
	}{
		{"the default holds when nothing is set", nil, nil, "", "127.0.0.1:8080"},
		{"the file beats the default", nil, nil, file, "127.0.0.1:3"},
		{"the environment beats the file", nil, env, file, "127.0.0.1:2"},
		{"a flag beats the environment", []string{"--http-addr", "127.0.0.1:1"}, env, file, "127.0.0.1:1"},
		{"an empty environment variable is a value", nil, map[string]string{"HTTP_ADDR": ""}, file, ""},
	} {
		t.Run(tc.name, func(t *testing.T) {
			c, err := load(t, tc.args, tc.env, tc.file)
			if err != nil {
				t.Fatal(err)
			}
			if c.HTTPAddr != tc.want {
				t.Errorf("HTTP_ADDR is %q, want %q", c.HTTPAddr, tc.want)
			}
			if tc.file != "" && c.NodeID != "from-file" {
				t.Errorf("NODE_ID is %q: a setting that only the file gives was lost", c.NodeID)
			}
		})
	}
}

func TestDevModeTurnsLimitsOff(t *testing.T) {
	c, err := load(t, []string{"--dev"}, map[string]string{"HTTP_RATE_PER_ADDRESS": "3/s:7"}, "")
	if err != nil {
		t.Fatal(err)
	}
	if c.LimitStatePerDevice != (app.Rate{}) || c.MQTTMaxConnections != 0 || c.MQTTAddr != "127.0.0.1:1883" {
		t.Errorf("dev defaults: %+v", c)
	}
	if want := (app.Rate{Count: 3, Per: time.Second, Burst: 7}); c.HTTPRatePerAddress != want {
		t.Errorf("a limit that was asked for is %v, want %v", c.HTTPRatePerAddress, want)
	}
	for _, s := range c.Settings() {
		limit := strings.HasPrefix(s.Name, "LIMIT_") || strings.Contains(s.Name, "_RATE") || strings.HasPrefix(s.Name, "MQTT_MAX_")
		if limit && (s.DevDefault != "0" || s.Default == "0" || s.Name != "HTTP_RATE_PER_ADDRESS" && s.Value != "0") {
			t.Errorf("%s has the default %q, in dev mode %q, and is %s", s.Name, s.Default, s.DevDefault, s.Value)
		}
	}
	c, err = load(t, nil, map[string]string{"LIMIT_MAGIC_LINKS_PER_EMAIL": "7/h:3"}, "")
	if want := (app.Rate{Count: 7, Per: time.Hour, Burst: 3}); err != nil || c.LimitLinksPerEmail != want {
		t.Errorf("links to an e-mail: %v, %v", c.LimitLinksPerEmail, err)
	}
	if c, err = load(t, nil, nil, ""); err != nil || c.LimitStatePerDevice.Count != 1 || c.MQTTAddr != "" {
		t.Errorf("outside dev: %+v, %v", c, err)
	}
}

func TestConfigFileMistakesAreNamed(t *testing.T) {
	for _, tc := range []struct{ name, file, want string }{
		{"an unknown name names the nearest", "HTTP_ADR=x", `line 1: unknown setting "HTTP_ADR", did you mean HTTP_ADDR?`},
		{"a name far from all still gets one", "\n\nMQTT_SECURE_ADDRESS=:1", "line 3: unknown setting \"MQTT_SECURE_ADDRESS\", did you mean "},
		{"a flag is no name", "http-addr=x", "did you mean HTTP_ADDR?"},
		{"a name twice is refused", "NODE_ID=a\nNODE_ID=b", "line 2: NODE_ID is set twice"},
		{"a line without = is refused and not shown", "hunter2hunter2", "line 1: must be NAME=value"},
		{"a wrong value names the setting", "LIMIT_STATE_PER_DEVICE=often", "limit-state-per-device"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			_, err := load(t, nil, nil, tc.file)
			if err == nil || !strings.Contains(err.Error(), tc.want) {
				t.Errorf("error %v, want %q", err, tc.want)
			}
			if err != nil && strings.Contains(err.Error(), "hunter2") {
				t.Errorf("the error shows the line: %v", err)
			}
		})
	}
	if _, err := load(t, []string{"--config", filepath.Join(t.TempDir(), "absent")}, nil, ""); err == nil {
		t.Error("a missing --config file passed")
	}
}

func TestFurtherIssuersComeFromEnvironmentAndFile(t *testing.T) {
	env := map[string]string{
		"OIDC_ACME_ISSUER": "https://environment.example", "OIDC_GOOGLE_CLIENT_IDS": "a,b", "OIDC_EMPTY_ISSUER": "", "OIDC_ACME": "x", "ADMIN_OIDC_ISSUER": "x",
	}
	var names []string
	for name := range env {
		names = append(names, name)
	}
	path := filepath.Join(t.TempDir(), "devicecloud.conf")
	if err := os.WriteFile(path, []byte("OIDC_ACME_ISSUER=https://file.example\nOIDC_ACME_CLIENT_IDS = ios, android,\nOIDC_MY_CORP_2_ISSUER=https://corp.example\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	sources := app.NewSources(func(name string) (string, bool) { v, ok := env[name]; return v, ok }, names...)
	var cli struct {
		app.Config
		ConfigFile string `name:"config"`
	}
	parser, err := kong.New(&cli, kong.Resolvers(sources))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := parser.Parse([]string{"--config", path}); err != nil {
		t.Fatal(err)
	}
	sources.Complete(&cli.Config)
	want := map[string]app.Issuer{
		"acme":      {URL: "https://environment.example", ClientIDs: []string{"ios", "android"}},
		"my_corp_2": {URL: "https://corp.example"},
	}
	if diff := cmp.Diff(want, cli.Issuers); diff != "" {
		t.Errorf("the issuers differ (-want +got):\n%s", diff)
	}
	if !slices.Equal(cli.OIDCGoogleClientIDs, []string{"a", "b"}) {
		t.Errorf("Google's client ids: %v", cli.OIDCGoogleClientIDs)
	}
	if shown := fmt.Sprint(cli.Settings()); !strings.Contains(shown, "OIDC_MY_CORP_2_ISSUER") || !strings.Contains(shown, "https://corp.example") {
		t.Error("the settings do not list the further issuers")
	}
	for _, name := range []string{"OIDC__ISSUER", "OIDC_ISSUER", "OIDC_acme_ISSUER", "OIDC_ACME__X_ISSUER", "OIDC_ACME_ISSUERS", "XOIDC_ACME_ISSUER"} {
		if _, err := app.ParseConfigFile([]byte(name + "=x")); err == nil || !strings.Contains(err.Error(), "did you mean") {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// served is a configuration that Prepare accepts outside dev mode.
func served(t *testing.T) app.Config {
	t.Helper()
	c, err := app.FromEnvironment(false, func(string) (string, bool) { return "", false })
	if err != nil {
		t.Fatal(err)
	}
	_, key, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	c.DataDir = t.TempDir()
	c.TokenSigningKey = app.Secret(pemOf(t, key))
	c.TLSCertFile, c.TLSKeyFile = "cert.pem", "key.pem"
	if err := c.Prepare(); err != nil {
		t.Fatalf("a good configuration: %v", err)
	}
	return c
}

func pemOf(t *testing.T, key any) string {
	t.Helper()
	der, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	return string(pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der}))
}

func TestPrepareRefusesWhatMustNotBeServed(t *testing.T) {
	rsaKey, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		t.Fatal(err)
	}
	for _, tc := range []struct {
		name   string
		change func(*app.Config)
		want   string // "" when it is allowed
	}{
		{"plain HTTP on the network", func(c *app.Config) { c.HTTPAddr = "0.0.0.0:8080" }, "ALLOW_PLAINTEXT_HTTP=true"},
		{"plain HTTP on every address", func(c *app.Config) { c.HTTPAddr = ":8080" }, "ALLOW_PLAINTEXT_HTTP=true"},
		{"plain HTTP on the network, allowed", func(c *app.Config) { c.HTTPAddr, c.AllowPlaintextHTTP = ":8080", true }, ""},
		{"plain HTTP on IPv6 loopback", func(c *app.Config) { c.HTTPAddr = "[::1]:8080" }, ""},
		{"plain MQTT on the network", func(c *app.Config) { c.MQTTAddr = "192.0.2.1:1883" }, "ALLOW_PLAINTEXT_MQTT=true"},
		{"plain MQTT on the network, allowed", func(c *app.Config) { c.MQTTAddr, c.AllowPlaintextMQTT = "192.0.2.1:1883", true }, ""},
		{"dev on the network", func(c *app.Config) { c.Dev, c.HTTPAddr = true, ":8080" }, "ALLOW_DEV_ON_NETWORK=true"},
		{"dev on the network although plain HTTP is allowed", func(c *app.Config) { c.Dev, c.HTTPAddr, c.AllowPlaintextHTTP = true, ":8080", true }, "ALLOW_DEV_ON_NETWORK=true"},
		{"dev with plain MQTT on the network", func(c *app.Config) { c.Dev, c.MQTTAddr = true, ":1883" }, "ALLOW_DEV_ON_NETWORK=true"},
		{"dev on the network, allowed", func(c *app.Config) { c.Dev, c.HTTPAddr, c.AllowDevOnNetwork = true, ":8080", true }, ""},
		{"an address without a port", func(c *app.Config) { c.HTTPAddr = "127.0.0.1" }, "HTTP_ADDR"},
		{"no certificate", func(c *app.Config) { c.TLSCertFile, c.TLSKeyFile = "", "" }, "TLS_CERT_FILE"},
		{"no certificate in dev", func(c *app.Config) { c.Dev, c.TLSCertFile, c.TLSKeyFile = true, "", "" }, ""},
		{"half a certificate", func(c *app.Config) { c.TLSKeyFile = "" }, "TLS_KEY_FILE"},
		{"no signing key", func(c *app.Config) { c.TokenSigningKey = "" }, "TOKEN_SIGNING_KEY is required"},
		{"no signing key in dev", func(c *app.Config) { c.Dev, c.TokenSigningKey = true, "" }, ""},
		{"a signing key that is no PEM", func(c *app.Config) { c.TokenSigningKey = "secret" }, "TOKEN_SIGNING_KEY: "},
		{"a signing key of another kind", func(c *app.Config) { c.TokenSigningKey = app.Secret(pemOf(t, rsaKey)) }, "is not Ed25519"},
		{"a signing key on one line", func(c *app.Config) {
			c.TokenSigningKey = app.Secret(strings.ReplaceAll(c.TokenSigningKey.Reveal(), "\n", `\n`))
		}, ""},
		{"a short administrator password", func(c *app.Config) { c.AdminEmail, c.AdminPassword = "a@example.com", "short" }, "ADMIN_PASSWORD is shorter"},
		{"a default administrator password", func(c *app.Config) { c.AdminEmail, c.AdminPassword = "a@example.com", "Password1234" }, "tried first"},
		{"a repeated password", func(c *app.Config) { c.AdminEmail, c.AdminPassword = "a@example.com", "xxxxxxxxxxxxxxxx" }, "repeated"},
		{"a good administrator password", func(c *app.Config) { c.AdminEmail, c.AdminPassword = "a@example.com", "lake-Copper-41-moss" }, ""},
		{"an administrator without a password", func(c *app.Config) { c.AdminEmail = "a@example.com" }, "ADMIN_PASSWORD"},
		{"a short encryption key", func(c *app.Config) { c.SecretEncryptionKey = "c2hvcnQ=" }, "SECRET_ENCRYPTION_KEY must be 32 bytes"},
		{"an encryption key of zeros", func(c *app.Config) {
			c.SecretEncryptionKey = app.Secret(base64.StdEncoding.EncodeToString(make([]byte, 32)))
		}, "SECRET_ENCRYPTION_KEY is one byte"},
		{"a wildcard as topic root", func(c *app.Config) { c.TopicRoot = "a/#" }, "TOPIC_ROOT"},
		{"an unknown database", func(c *app.Config) { c.DatabaseURL = "mysql://user:hunter2@host/db" }, "DATABASE_URL must start with"},
		{"a proxy that is no address", func(c *app.Config) { c.TrustedProxies = []string{"proxy"} }, "TRUSTED_PROXIES"},
		{"proxies", func(c *app.Config) { c.TrustedProxies = []string{"192.0.2.1", "2001:db8::/32"} }, ""},
		{"a network that is none", func(c *app.Config) { c.WebhookAllowedNetworks = []string{"10.0.0.0/33"} }, "WEBHOOK_ALLOWED_NETWORKS"},
		{"networks", func(c *app.Config) { c.WebhookAllowedNetworks = []string{"10.1.0.0/16", "fd00::1"} }, ""},
		{"Google", func(c *app.Config) { c.OIDCGoogleClientIDs = []string{"ios", "web"} }, ""},
		{"Google with another issuer in its place", func(c *app.Config) {
			c.OIDCGoogleClientIDs, c.OIDCGoogleIssuer = []string{"ios"}, "http://127.0.0.1:9000"
		}, ""},
		{"an issuer in Google's place without client ids", func(c *app.Config) { c.OIDCGoogleIssuer = "https://issuer.example" }, "OIDC_GOOGLE_CLIENT_IDS"},
		{"an empty client id", func(c *app.Config) { c.OIDCAppleClientIDs = []string{"ios", ""} }, "OIDC_APPLE_CLIENT_IDS"},
		{"an issuer in the clear", func(c *app.Config) {
			c.OIDCAppleClientIDs, c.OIDCAppleIssuer = []string{"ios"}, "http://issuer.example"
		}, "OIDC_APPLE_ISSUER is neither https"},
		{"a further issuer", func(c *app.Config) {
			c.Issuers = map[string]app.Issuer{"acme": {URL: "https://issuer.example/realm", ClientIDs: []string{"ios"}}}
		}, ""},
		{"a further issuer without client ids", func(c *app.Config) { c.Issuers = map[string]app.Issuer{"acme": {URL: "https://issuer.example"}} }, "OIDC_ACME_CLIENT_IDS"},
		{"a further issuer that is a slip of the pen", func(c *app.Config) { c.Issuers = map[string]app.Issuer{"gogle": {ClientIDs: []string{"ios"}}} }, "did you mean OIDC_GOOGLE_CLIENT_IDS?"},
		{"a further issuer with a name that is taken", func(c *app.Config) {
			c.Issuers = map[string]app.Issuer{"dev": {URL: "https://issuer.example", ClientIDs: []string{"ios"}}}
		}, "the name dev is taken"},
		{"WeChat", func(c *app.Config) { c.WeChatAppID, c.WeChatSecret = "wx1", "8c1f04e2b97d5a63e0f2716b4d9a385c" }, ""},
		{"WeChat without its secret", func(c *app.Config) { c.WeChatAppID = "wx1" }, "WECHAT_SECRET"},
		{"WeChat with a short secret", func(c *app.Config) { c.WeChatAppID, c.WeChatSecret = "wx1", "hunter2" }, "WECHAT_SECRET is not an AppSecret"},
		{"WeChat with a secret of zeros", func(c *app.Config) { c.WeChatAppID, c.WeChatSecret = "wx1", "00000000000000000000000000000000" }, "WECHAT_SECRET is not an AppSecret"},
		{"the carrier without its secret", func(c *app.Config) { c.EIOTClubAppKey = "key" }, "EIOTCLUB_APP_KEY and EIOTCLUB_SECRET belong together"},
		{"the carrier in the clear", func(c *app.Config) { c.EIOTClubBaseURL = "http://carrier.example" }, "EIOTCLUB_BASE_URL"},
		{"the carrier from a name", func(c *app.Config) { c.EIOTClubAllowedIPs = []string{"carrier.example"} }, "EIOTCLUB_ALLOWED_IPS"},
		{"a carrier's window of a second", func(c *app.Config) { c.EIOTClubTimestampWindowSec = 1 }, "EIOTCLUB_TIMESTAMP_WINDOW_SEC"},
		{"WeChat in the clear", func(c *app.Config) { c.WeChatBaseURL = "http://api.example" }, "WECHAT_BASE_URL"},
		{"mail", func(c *app.Config) {
			c.SMTPURL, c.MailFrom, c.PublicURL = "smtp://u:lake-Copper-41-moss@mail.example.com", "Devices <no-reply@example.com>", "https://cloud.example.com"
		}, ""},
		{"mail without a sender", func(c *app.Config) { c.SMTPURL, c.PublicURL = "smtp://localhost", "https://cloud.example.com" }, "MAIL_FROM is required"},
		{"mail without a public URL", func(c *app.Config) { c.SMTPURL, c.MailFrom = "smtp://localhost", "a@example.com" }, "PUBLIC_URL is required"},
		{"mail without a public URL in dev", func(c *app.Config) { c.Dev, c.SMTPURL, c.MailFrom = true, "smtp://localhost", "a@example.com" }, ""},
		{"a mail server that is none", func(c *app.Config) {
			c.SMTPURL, c.MailFrom, c.PublicURL = "https://u:hunter2@mail.example.com", "a@example.com", "https://cloud.example.com"
		}, "SMTP_URL must be smtp://"},
		{"a sender that is none", func(c *app.Config) { c.MailFrom = "nobody" }, "MAIL_FROM"},
		{"a public URL in the clear", func(c *app.Config) { c.PublicURL = "http://cloud.example.com" }, "PUBLIC_URL"},
		{"a public URL with a query", func(c *app.Config) { c.PublicURL = "https://cloud.example.com/?a=b" }, "PUBLIC_URL"},
		{"a public URL for a telephone in the same network", func(c *app.Config) { c.Dev, c.AllowDevOnNetwork, c.PublicURL = true, true, "http://192.0.2.1:8080" }, ""},
		{"an identity provider of staff", func(c *app.Config) {
			c.AdminOIDCIssuer, c.AdminOIDCClientID, c.AdminOIDCAdminGroup, c.PublicURL = "https://idp.example.com", "console", "ops", "https://cloud.example.com/"
		}, ""},
		{"an identity provider of staff in dev", func(c *app.Config) {
			c.Dev, c.AdminOIDCIssuer, c.AdminOIDCClientID, c.AdminOIDCSupportGroup = true, "http://127.0.0.1:1", "console", "help"
		}, ""},
		{"an identity provider of staff without a client id", func(c *app.Config) { c.AdminOIDCIssuer = "https://idp.example.com" }, "ADMIN_OIDC_CLIENT_ID"},
		{"a client id without an identity provider of staff", func(c *app.Config) { c.AdminOIDCClientID = "console" }, "ADMIN_OIDC_ISSUER"},
		{"an identity provider of staff without a way back", func(c *app.Config) {
			c.AdminOIDCIssuer, c.AdminOIDCClientID, c.AdminOIDCAdminGroup = "https://idp.example.com", "console", "ops"
		}, "needs PUBLIC_URL"},
		{"an identity provider of staff that lets nobody in", func(c *app.Config) {
			c.AdminOIDCIssuer, c.AdminOIDCClientID, c.PublicURL = "https://idp.example.com", "console", "https://cloud.example.com"
		}, "nobody could sign in"},
		{"an identity provider of staff in the clear", func(c *app.Config) {
			c.AdminOIDCIssuer, c.AdminOIDCClientID, c.AdminOIDCAdminGroup, c.PublicURL = "http://idp.example.com", "console", "ops", "https://cloud.example.com"
		}, "neither https"},
		{"an identity provider of staff without a claim of groups", func(c *app.Config) {
			c.AdminOIDCIssuer, c.AdminOIDCClientID, c.AdminOIDCAdminGroup, c.PublicURL = "https://idp.example.com", "console", "ops", "https://cloud.example.com"
			c.AdminOIDCGroupsClaim = ""
		}, "claim of the groups"},
		{"a script as app link", func(c *app.Config) { c.AppLinkURL = "javascript://x/%0aalert(1)" }, "APP_LINK_URL must have the scheme"},
		{"an app link with a fragment", func(c *app.Config) { c.AppLinkURL = "devicecloud://auth#" }, "APP_LINK_URL"},
		{"no app link", func(c *app.Config) { c.AppLinkURL = "" }, "APP_LINK_URL"},
		{"an app link that the platform gives to the app", func(c *app.Config) { c.AppLinkURL = "https://app.example.com/auth" }, ""},
		{"stand-ins outside of dev mode", func(c *app.Config) { c.DevStandins = true }, "DEV_STANDINS is for development"},
		{"stand-ins in dev", func(c *app.Config) { c.Dev, c.DevStandins = true, true }, ""},
		{"a threshold of nothing", func(c *app.Config) { c.OfflineThresholdSec = 0 }, "OFFLINE_THRESHOLD_SEC"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			c := served(t)
			tc.change(&c)
			err := c.Prepare()
			switch {
			case tc.want == "" && err != nil:
				t.Errorf("refused: %v", err)
			case tc.want != "" && (err == nil || !strings.Contains(err.Error(), tc.want)):
				t.Errorf("error %v, want %q", err, tc.want)
			}
			if err != nil && strings.Contains(err.Error(), "hunter2") {
				t.Errorf("the error shows a secret: %v", err)
			}
		})
	}
}

func TestSecretsFromFiles(t *testing.T) {
	path := filepath.Join(t.TempDir(), "password")
	if err := os.WriteFile(path, []byte("lake-Copper-41-moss\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	t.Run("a file gives the secret without its line break", func(t *testing.T) {
		c := served(t)
		c.AdminEmail, c.AdminPasswordFile = "a@example.com", path
		if err := c.Prepare(); err != nil {
			t.Fatal(err)
		}
		if c.AdminPassword.Reveal() != "lake-Copper-41-moss" {
			t.Error("the password is not the file's")
		}
	})
	t.Run("both ways at once are refused", func(t *testing.T) {
		c := served(t)
		c.AdminEmail, c.AdminPassword, c.AdminPasswordFile = "a@example.com", "lake-Copper-41-moss", path
		if err := c.Prepare(); err == nil || !strings.Contains(err.Error(), "ADMIN_PASSWORD and ADMIN_PASSWORD_FILE") {
			t.Errorf("error %v", err)
		}
	})
	t.Run("a missing file is named", func(t *testing.T) {
		c := served(t)
		c.AdminEmail, c.AdminPasswordFile = "a@example.com", path+".absent"
		if err := c.Prepare(); err == nil || !strings.Contains(err.Error(), "ADMIN_PASSWORD_FILE") {
			t.Errorf("error %v", err)
		}
	})
}

func TestSecretsRedactThemselves(t *testing.T) {
	c := served(t)
	c.DatabaseURL, c.AdminPassword = "postgres://u:hunter2@h/d", "hunter2hunter2"
	c.WeChatSecret, c.SMTPURL = "hunter2hunter2hunter2", "smtp://u:hunter2@h"
	marshalled, err := json.Marshal(c)
	if err != nil {
		t.Fatal(err)
	}
	for _, text := range []string{fmt.Sprintf("%v %+v %#v %s %q %d %x %b", c, c, c, c.AdminPassword, c.AdminPassword, c.AdminPassword, c.AdminPassword, c.AdminPassword), string(marshalled), fmt.Sprint(c.Settings())} {
		if strings.Contains(text, "hunter2") || strings.Contains(text, fmt.Sprintf("%x", "hunter2")) || strings.Contains(text, "PRIVATE KEY") {
			t.Errorf("a secret in %s", text)
		}
	}
}

func TestEnvExampleListsEverySettingWithItsDefault(t *testing.T) {
	text, err := os.ReadFile("../../../.env.example")
	if err != nil {
		t.Fatal(err)
	}
	listed, err := app.ParseConfigFile(text) // refuses names that are no settings
	if err != nil {
		t.Fatal(err)
	}
	for _, s := range new(app.Config).Settings() {
		value, ok := listed[s.Name]
		want := s.Default
		if want == "" && value == "false" {
			want = "false" // the zero value of a switch
		}
		if !ok || value != want {
			t.Errorf("%s is %q (listed: %t), the default is %q", s.Name, value, ok, s.Default)
		}
	}
}

func TestOperationsPageExplainsEverySetting(t *testing.T) {
	text, err := os.ReadFile("../../../docs/operations.md")
	if err != nil {
		t.Fatal(err)
	}
	for _, s := range new(app.Config).Settings() {
		if !strings.Contains(string(text), "`"+s.Name+"`") {
			t.Errorf("docs/operations.md does not explain %s", s.Name)
		}
	}
}

func TestRate(t *testing.T) {
	for text, want := range map[string]app.Rate{
		"6/m:20":  {Count: 6, Per: time.Minute, Burst: 20},
		"2000/s":  {Count: 2000, Per: time.Second, Burst: 2000},
		"1/h:3":   {Count: 1, Per: time.Hour, Burst: 3},
		"0":       {},
		" 1/s:1 ": {Count: 1, Per: time.Second, Burst: 1},
	} {
		got, err := app.ParseRate(text)
		if err != nil || got != want {
			t.Errorf("%q is %v, %v; want %v", text, got, err, want)
		}
	}
	for _, text := range []string{"", "6", "6/", "/m", "6/d", "6/m:", "6/m:0", "0/m", "-1/s", "6/m:20:3", "1e9/s", "99999999999/s", "+6/m"} {
		if r, err := app.ParseRate(text); err == nil {
			t.Errorf("%q passed as %v", text, r)
		}
	}
}

func FuzzParseRate(f *testing.F) {
	f.Add("6/m:20")
	f.Add("0")
	f.Fuzz(func(t *testing.T, text string) {
		r, err := app.ParseRate(text)
		if err != nil {
			return
		}
		if r.Count < 0 || (r.Count > 0) != (r.Burst > 0) || (r.Count > 0) != (r.PerSecond() > 0) {
			t.Errorf("%q is %+v", text, r)
		}
		again, err := app.ParseRate(r.String())
		if err != nil || again != r {
			t.Errorf("%q is %v, which reads as %v, %v", text, r, again, err)
		}
	})
}

func FuzzParseConfigFile(f *testing.F) {
	f.Add([]byte("HTTP_ADDR=:1\n# c\n\nNODE_ID = x"))
	f.Add([]byte("NOPE"))
	f.Fuzz(func(t *testing.T, text []byte) {
		values, err := app.ParseConfigFile(text)
		if err != nil {
			return
		}
		for name, value := range values {
			if !strings.Contains(string(text), name) || strings.TrimSpace(value) != value {
				t.Errorf("%q=%q from %q", name, value, text)
			}
		}
	})
}
