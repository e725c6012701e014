package app_test

import (
	"crypto/ed25519"
	"encoding/base64"
	"encoding/hex"
	"io/fs"
	"net/url"
	"os"
	"path/filepath"
	"reflect"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/opticworks/devicecloud/cmd/devicecloud/app"
)

// guessable are secrets that somebody pastes, types, or forgets to replace.
var guessable = []string{
	"changeme", "changeme1234", "CHANGE-ME-CHANGE-ME", "change_me_please"[:9], "secret", "secretsecret", "my-secret-key", "your-secret-here", "YourSuperSecretPassword",
	"password", "Password1234", "passw0rd-passw0rd", "default", "defaultdefault", "example-password", "placeholder", "replace-me", "<password>", "<your secret here>",
	"${SECRET}", "$(cat file)", "{{ secret }}", "%SECRET%", "...", "***", "xxxxxxxxxxxxxxxx", "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa", "abababababababababab", "01230123012301230123",
	"123456789012", "abcdefghijklmnop", "administrator", "adminadmin", "letmein-letmein", "hunter2hunter2", "qwertyuiop", "correcthorsebatterystaple", "short", "a", "devicecloud", "test-secret", "todo",
}

// withPassword is a URL with a password, written as it has to be there.
func withPassword(scheme, password string) app.Secret {
	u := url.URL{Scheme: scheme, User: url.UserPassword("cloud", password), Host: "host.example.com", Path: "x"}
	if scheme != "postgres" {
		u.Path = ""
	}
	return app.Secret(u.String())
}

// seedPEM is the private key of a seed.
func seedPEM(t *testing.T, seed []byte) string {
	t.Helper()
	return pemOf(t, ed25519.NewKeyFromSeed(seed))
}

func counting(from byte) []byte {
	b := make([]byte, 32)
	for i := range b {
		b[i] = from + byte(i)
	}
	return b
}

// weakKeys are 32 bytes that are no keys.
func weakKeys() map[string][]byte {
	return map[string][]byte{
		"zeros":              make([]byte, 32),
		"ones":               slices.Repeat([]byte{0xff}, 32),
		"a repeated word":    slices.Repeat([]byte{0xde, 0xad, 0xbe, 0xef}, 8),
		"counting":           counting(0),
		"counting from 0xf0": counting(0xf0),
		"text":               []byte("this is a secret key of 32 bytes"),
		"hex digits":         []byte("0123456789abcdef0123456789abcdef"),
		"half of it twice":   slices.Repeat(counting(0x80)[:16], 2),
		"few different":      append(make([]byte, 20), 7, 200, 31, 4, 9, 11, 250, 99, 1, 2, 3, 77),
	}
}

// refusals are, for each setting that holds a secret, values that must not be served.
// set writes one into a configuration.
func refusals(t *testing.T) map[string]struct {
	set    func(c *app.Config, value string)
	values []string
	dev    bool // refused under --dev too
} {
	type row = struct {
		set    func(c *app.Config, value string)
		values []string
		dev    bool
	}
	signing, sealing := []string{"", "changeme", "secret", seedPEM(t, make([]byte, 32))[:40]}, []string{"c2hvcnQ=", "changeme", base64.StdEncoding.EncodeToString(make([]byte, 16))}
	for _, key := range weakKeys() {
		signing = append(signing, seedPEM(t, key))
		sealing = append(sealing, base64.StdEncoding.EncodeToString(key))
	}
	for _, seed := range []string{ // of RFC 8032 and of RFC 8410, where everybody finds them
		"9d61b19deffd5a60ba844af492ec2cc44449c5697b326919703bac031cae7f60", "4ccd089b28ff96da9db6c346ec114e0f5b8a319f35aba624da8cf6ed4fb8a6fb",
		"c5aa8df43f9f837bedb7442f31dcb7b166d38535076f094b85ce3a2e0b4458f7", "d4ee72dbf913584ad5b6d8f1f769f8ad3afe7c28cbf1d4fbe097a88f44755842",
	} {
		raw, err := hex.DecodeString(seed)
		if err != nil {
			t.Fatal(err)
		}
		signing = append(signing, seedPEM(t, raw))
	}
	return map[string]row{
		"ADMIN_PASSWORD": {func(c *app.Config, v string) { c.AdminEmail, c.AdminPassword = "a@example.com", app.Secret(v) }, guessable, true},
		"DATABASE_URL":   {func(c *app.Config, v string) { c.DatabaseURL = withPassword("postgres", v) }, append([]string{"cloud"}, guessable...), false},
		"SMTP_URL": {func(c *app.Config, v string) {
			c.SMTPURL, c.MailFrom, c.PublicURL = withPassword("smtps", v), "cloud@example.com", "https://cloud.example.com"
		}, append([]string{"cloud"}, guessable...), false},
		"WECHAT_SECRET":           {func(c *app.Config, v string) { c.WeChatAppID, c.WeChatSecret = "wx1", app.Secret(v) }, guessable, false},
		"EIOTCLUB_SECRET":         {func(c *app.Config, v string) { c.EIOTClubAppKey, c.EIOTClubSecret = "key", app.Secret(v) }, guessable, false},
		"EIOTCLUB_WEBHOOK_SECRET": {func(c *app.Config, v string) { c.EIOTClubWebhookSecret = app.Secret(v) }, guessable, false},
		"ADMIN_OIDC_CLIENT_SECRET": {func(c *app.Config, v string) {
			c.AdminOIDCIssuer, c.AdminOIDCClientID, c.AdminOIDCClientSecret = "https://login.example.com", "cloud", app.Secret(v)
			c.AdminOIDCAdminGroup, c.PublicURL = "admins", "https://cloud.example.com"
		}, guessable, false},
		"INGEST_KEYS": {func(c *app.Config, v string) { c.IngestKeys = app.Secret(v) }, ingestKeys(), false},
		"STRIPE_SECRET_KEY": {func(c *app.Config, v string) {
			c.StripeSecretKey, c.PublicURL = app.Secret("sk_live_"+v), "https://cloud.example.com"
		}, guessable, false},
		"STRIPE_DATA_PLAN_WEBHOOK_SECRET": {func(c *app.Config, v string) { c.StripeDataPlanWebhookSecret = app.Secret("whsec_" + v) }, guessable, false},
		"TOKEN_SIGNING_KEY":               {func(c *app.Config, v string) { c.TokenSigningKey = app.Secret(v) }, signing, false},
		"SECRET_ENCRYPTION_KEY":           {func(c *app.Config, v string) { c.SecretEncryptionKey = app.Secret(v) }, sealing, true},
	}
}

// ingestKeys are values of INGEST_KEYS with a guessable secret, or that are none.
func ingestKeys() []string {
	all := []string{"", "k1", "k1:", ":" + strong, "k 1:" + strong, "k1:" + strong + ",k1:" + strong + "x", "k1:" + strong + ",", strong, "k1:" + strong[:23], "k1:" + strong + ",k2:changeme"}[1:]
	for _, secret := range guessable {
		if !strings.Contains(secret, ",") {
			all = append(all, "k1:"+secret)
		}
	}
	return all
}

// strong is a secret that is taken.
const strong = "lake-Copper-41-moss-9Kq2vB7m"

func TestIngestKeysThatAreTaken(t *testing.T) {
	for _, keys := range []string{"k1:" + strong, "k1:" + strong + ", k2:" + strong + ":with:colons", "Aws_lambda-2026:" + strong} {
		c := served(t)
		c.IngestKeys = app.Secret(keys)
		if err := c.Prepare(); err != nil {
			t.Errorf("%s: %v", keys, err)
		}
	}
}

func TestGuessableSecretsAreNotServed(t *testing.T) {
	rows := refusals(t)
	settings := reflect.TypeFor[app.Config]()
	for i := range settings.NumField() {
		f := settings.Field(i)
		name := strings.ToUpper(strings.ReplaceAll(f.Tag.Get("name"), "-", "_"))
		if _, ok := rows[name]; f.Type == reflect.TypeFor[app.Secret]() && !ok {
			t.Errorf("nobody says which values of %s are refused", name)
		}
	}
	for name, row := range rows {
		for _, value := range row.values {
			t.Run(name+"="+value[:min(len(value), 20)], func(t *testing.T) {
				c := served(t)
				row.set(&c, value)
				err := c.Prepare()
				if err == nil || !strings.Contains(err.Error(), name+" ") && !strings.Contains(err.Error(), name+":") {
					t.Fatalf("error %v, want a sentence about %s", err, name)
				}
				if len(value) > 8 && strings.Contains(err.Error(), value) || strings.Contains(err.Error(), "@host.example.com") {
					t.Errorf("the error shows the value: %v", err)
				}
				c.Dev = true
				if err := c.Prepare(); row.dev && err == nil {
					t.Error("--dev takes it")
				}
			})
		}
	}
}

func TestStrongSecretsAreServed(t *testing.T) {
	for _, password := range []string{"lake-Copper-41-moss", "kT9xq2vB7m", "password-of-lake-Copper", "Zß4-öäü-9Kq", "a1b2c3d4e5f6g7"} {
		c := served(t)
		c.DatabaseURL = withPassword("postgres", password)
		if err := c.Prepare(); err != nil {
			t.Errorf("DATABASE_URL with %q: %v", password, err)
		}
	}
	for _, url := range []string{"postgres://cloud@db.example.com/devicecloud", "postgres:///devicecloud?host=/run/postgresql", "sqlite:/tmp/100%/d.db"} {
		c := served(t)
		c.DatabaseURL = app.Secret(url)
		if err := c.Prepare(); err != nil {
			t.Errorf("%s: %v", url, err)
		}
	}
}

// pasted finds NAME=value and NAME: value in a text.
var pasted = regexp.MustCompile("(?m)\\b([A-Z][A-Z0-9_]{3,})(?:=|: )[\"'`]?([^\\s\"'`]+)")

// credentials finds URLs with a password in a text.
var credentials = regexp.MustCompile("(?:postgres|postgresql|smtps?)://[^\\s`)]+:[^\\s@`]+@[^\\s`),]+")

// What the documents show as an example is no secret: pasted as it stands, it is
// refused.
func TestNoExampleOfTheDocumentsIsServed(t *testing.T) {
	rows := refusals(t)
	documents, err := filepath.Glob("../../../docs/*.md")
	if err != nil {
		t.Fatal(err)
	}
	for _, path := range append(documents, "../../../.env.example", "../../../README.md", "../../../CONTRIBUTING.md") {
		text, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		for _, found := range pasted.FindAllStringSubmatch(string(text), -1) {
			row, ok := rows[found[1]]
			if !ok || strings.HasPrefix(found[2], "sqlite:") {
				continue
			}
			c := served(t)
			switch row.set(&c, found[2]); found[1] {
			case "DATABASE_URL":
				c.DatabaseURL = app.Secret(found[2])
			case "SMTP_URL":
				c.SMTPURL = app.Secret(found[2])
			}
			if c.Prepare() == nil {
				t.Errorf("%s shows %s=%s, and the program takes it", path, found[1], found[2])
			}
		}
		for _, found := range credentials.FindAllString(string(text), -1) {
			c := served(t)
			c.MailFrom, c.PublicURL = "cloud@example.com", "https://cloud.example.com"
			if strings.HasPrefix(found, "postgres") {
				c.DatabaseURL = app.Secret(found)
			} else {
				c.SMTPURL = app.Secret(found)
			}
			if c.Prepare() == nil {
				t.Errorf("%s shows %s, and the program takes it", path, found)
			}
		}
	}
}

// keys finds what could be 32 bytes in base64, or a private key. What follows "v1," is
// the signature of a webhook.
var keys = regexp.MustCompile(`-----BEGIN PRIVATE KEY-----[^-]+-----END PRIVATE KEY-----|(?:v1,)?[A-Za-z0-9+/]{43}=`)

// A key that lies in the repository is nobody's secret. The tests make theirs anew.
func TestNoKeyOfTheRepositoryIsServed(t *testing.T) {
	files := 0
	err := filepath.WalkDir("../../..", func(path string, d fs.DirEntry, err error) error {
		switch name := d.Name(); {
		case err != nil:
			return err
		case d.IsDir() && (name == ".git" || name == ".tools" || name == "bin" || name == "data" || name == "node_modules"):
			return filepath.SkipDir
		case d.IsDir() || name == "go.sum" || name == ".git":
			return nil
		}
		text, err := os.ReadFile(path)
		if err != nil {
			return err
		}
		files++
		for _, found := range keys.FindAllString(string(text), -1) {
			if strings.HasPrefix(found, "v1,") {
				continue
			}
			for _, name := range []string{"TOKEN_SIGNING_KEY", "SECRET_ENCRYPTION_KEY"} {
				c := served(t)
				refusals(t)[name].set(&c, found)
				if c.Prepare() == nil {
					t.Errorf("%s holds a key that the program takes as %s", path, name)
				}
			}
		}
		return nil
	})
	if err != nil || files < 100 {
		t.Errorf("%d files, %v", files, err)
	}
}

// Random bytes that begin and end like a placeholder are a key all the same.
func TestRandomKeysAreServed(t *testing.T) {
	key := []byte("<\x9a\x01\xfe\x7c\x10\xd3\x44\x8b\xe0\x5f\x21\xc7\x96\x0d\xb2\x68\xf5\x33\xaa\x1e\x4d\x87\x02\xcb\x59\xe6\x70\x14\xbd\x2f>")
	c := served(t)
	c.SecretEncryptionKey = app.Secret(base64.StdEncoding.EncodeToString(key))
	if err := c.Prepare(); err != nil {
		t.Error(err)
	}
}
