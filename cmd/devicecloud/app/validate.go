package app

import (
	"encoding/base64"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"strings"

	"github.com/opticworks/devicecloud/account"
	"github.com/opticworks/devicecloud/dataplan"
	"github.com/opticworks/devicecloud/topic"
)

// Prepare reads the NAME_FILE secrets, fills in what follows from other settings,
// and refuses what must not be served: all that is wrong, in one error.
func (c *Config) Prepare() error {
	if err := c.PrepareStore(); err != nil {
		return err
	}
	return errors.Join(
		c.checkAddresses(),
		c.checkTLS(),
		c.checkSecrets(),
		c.checkNumbers(),
		c.checkIdentity(),
		c.checkVideo(),
		c.carrier(&dataplan.Options{}),
		c.checkPlans(),
		errorOf(c.trustedProxies()),
		errorOf(c.ingestKeys()),
		c.checkBedrock(),
		errorOf(c.webhookNetworks()),
		errorOf(c.staffProvider(slog.New(slog.DiscardHandler))),
	)
}

// PrepareStore is the part of [Config.Prepare] that a command needs which only
// works on the database.
func (c *Config) PrepareStore() error {
	if err := c.readSecrets(); err != nil {
		return err
	}
	if c.DataDir == "" {
		return errors.New("DATA_DIR is empty")
	}
	if c.DatabaseURL == "" {
		c.DatabaseURL = Secret("sqlite:" + filepath.Join(c.DataDir, "devicecloud.db"))
	}
	if url := c.DatabaseURL.Reveal(); !strings.HasPrefix(url, "sqlite:") && !strings.HasPrefix(url, "postgres://") && !strings.HasPrefix(url, "postgresql://") {
		return errors.New("DATABASE_URL must start with sqlite: or postgres://")
	}
	if !topic.Root(c.TopicRoot).Valid() {
		return fmt.Errorf("TOPIC_ROOT %q cannot be the root of topics", c.TopicRoot)
	}
	_, err := c.encryptionKey()
	return err
}

func errorOf[T any](_ T, err error) error { return err }

func (c *Config) checkAddresses() error {
	var wrong []error
	for _, a := range []struct {
		name, addr string
		plain      bool // carries secrets without TLS
		allowed    bool
		switchName string
	}{
		{"HTTP_ADDR", c.HTTPAddr, true, c.AllowPlaintextHTTP, "ALLOW_PLAINTEXT_HTTP"},
		{"MQTT_ADDR", c.MQTTAddr, true, c.AllowPlaintextMQTT, "ALLOW_PLAINTEXT_MQTT"},
		{"HTTPS_ADDR", c.HTTPSAddr, false, true, ""},
		{"MQTT_TLS_ADDR", c.MQTTTLSAddr, false, true, ""},
		{"METRICS_ADDR", c.MetricsAddr, false, true, ""},
	} {
		if a.addr == "" {
			continue
		}
		host, _, err := net.SplitHostPort(a.addr)
		if err != nil {
			wrong = append(wrong, fmt.Errorf("%s %q must be host:port or :port", a.name, a.addr))
			continue
		}
		if !a.plain || loopback(host) {
			continue
		}
		switch {
		case c.Dev && !c.AllowDevOnNetwork:
			wrong = append(wrong, fmt.Errorf("%s %s is not a loopback address: --dev lets anybody log in as anybody; use 127.0.0.1, or set ALLOW_DEV_ON_NETWORK=true", a.name, a.addr))
		case !c.Dev && !a.allowed:
			wrong = append(wrong, fmt.Errorf("%s %s is not a loopback address and would carry secrets without TLS; use 127.0.0.1, or set %s=true behind a TLS proxy", a.name, a.addr, a.switchName))
		}
	}
	if c.HTTPAddr == "" && c.HTTPSAddr == "" {
		wrong = append(wrong, errors.New("HTTP_ADDR and HTTPS_ADDR are both empty"))
	}
	if c.MQTTTLSAddr == "" && c.MQTTAddr == "" {
		wrong = append(wrong, errors.New("MQTT_TLS_ADDR and MQTT_ADDR are both empty"))
	}
	return errors.Join(wrong...)
}

// loopback reports whether a listener on host is reached from this machine only.
func loopback(host string) bool {
	if host == "localhost" {
		return true
	}
	ip, err := netip.ParseAddr(host)
	return err == nil && ip.IsLoopback()
}

func (c *Config) checkTLS() error {
	if (c.TLSCertFile == "") != (c.TLSKeyFile == "") {
		return errors.New("TLS_CERT_FILE and TLS_KEY_FILE belong together: one of them is empty")
	}
	if c.TLSCertFile == "" && !c.Dev && (c.MQTTTLSAddr != "" || c.HTTPSAddr != "") {
		return errors.New("TLS_CERT_FILE and TLS_KEY_FILE are required; only --dev makes its own CA")
	}
	return nil
}

func (c *Config) checkSecrets() error {
	var wrong []error
	if c.TokenSigningKey == "" {
		if !c.Dev {
			wrong = append(wrong, errors.New("TOKEN_SIGNING_KEY is required: an Ed25519 private key, for example from `openssl genpkey -algorithm ed25519`"))
		}
	} else if _, err := c.signingKeys(); err != nil {
		wrong = append(wrong, fmt.Errorf("TOKEN_SIGNING_KEY: %w", err))
	}
	if (c.AdminEmail == "") != (c.AdminPassword == "") {
		wrong = append(wrong, errors.New("ADMIN_EMAIL and ADMIN_PASSWORD belong together: one of them is empty"))
	}
	if c.AdminPassword != "" {
		if err := weakText(c.AdminPassword.Reveal(), minAdminPassword); err != nil {
			wrong = append(wrong, fmt.Errorf("ADMIN_PASSWORD %w", err))
		}
	}
	if !c.Dev {
		wrong = append(wrong, c.checkStrength())
	}
	return errors.Join(wrong...)
}

// checkStrength refuses secrets that are there and would be guessed. Outside of dev
// mode only: on a loopback address a sample's secret harms nobody.
func (c *Config) checkStrength() error {
	var wrong []error
	for _, s := range []struct {
		name   string
		secret Secret
		weak   func(string) error
	}{
		{"DATABASE_URL", c.DatabaseURL, weakURL},
		{"SMTP_URL", c.SMTPURL, weakURL},
		{"WECHAT_SECRET", c.WeChatSecret, weakShared},
		{"EIOTCLUB_SECRET", c.EIOTClubSecret, weakShared},
		{"EIOTCLUB_WEBHOOK_SECRET", c.EIOTClubWebhookSecret, weakShared},
		{"ADMIN_OIDC_CLIENT_SECRET", c.AdminOIDCClientSecret, weakShared},
		{"STRIPE_SECRET_KEY", c.StripeSecretKey, weakPrefixed("sk_test_", "sk_live_", "rk_test_", "rk_live_")},
		{"STRIPE_DATA_PLAN_WEBHOOK_SECRET", c.StripeDataPlanWebhookSecret, weakPrefixed("whsec_")},
		{"INGEST_KEYS", c.IngestKeys, weakIngestKeys},
	} {
		if s.secret == "" {
			continue
		}
		if err := s.weak(s.secret.Reveal()); err != nil {
			wrong = append(wrong, fmt.Errorf("%s %w", s.name, err))
		}
	}
	return errors.Join(wrong...)
}

func (c *Config) checkNumbers() error {
	var wrong []error
	for _, n := range []struct {
		name          string
		value, lo, hi int
	}{
		{"OFFLINE_THRESHOLD_SEC", c.OfflineThresholdSec, 10, 86400},
		{"PAIRING_CODE_EXPIRY_SEC", c.PairingCodeExpirySec, 30, 3600},
		{"BEDROCK_DAILY_LIMIT_PER_DEVICE", c.BedrockDailyLimit, 0, 1 << 20},
		{"TRIAL_DAYS", c.TrialDays, 0, 36500},
		{"MAX_DEVICES_PER_USER", c.MaxDevicesPerUser, 1, 100000},
		{"AUDIT_RETENTION_DAYS", c.AuditRetentionDays, 1, 36500},
		{"HISTORY_RETENTION_DAYS", c.HistoryRetentionDays, 1, 36500},
		{"EIOTCLUB_TIMESTAMP_WINDOW_SEC", c.EIOTClubTimestampWindowSec, 60, 30 * 86400},
		{"LIMIT_OTA_STATUS_PER_UPDATE", c.LimitOTAStatusPerUpdate, 0, 1 << 20},
		{"MQTT_MAX_CONNECTIONS", c.MQTTMaxConnections, 0, 1 << 30},
		{"MQTT_MAX_CONNECTIONS_PER_ADDRESS", c.MQTTMaxPerAddress, 0, 1 << 30},
	} {
		if n.value < n.lo || n.value > n.hi {
			wrong = append(wrong, fmt.Errorf("%s is %d, must be %d to %d", n.name, n.value, n.lo, n.hi))
		}
	}
	if c.NodeID == "" || len(c.NodeID) > 64 {
		wrong = append(wrong, errors.New("NODE_ID must have 1 to 64 characters"))
	}
	if c.DeviceIDSalt == "" {
		wrong = append(wrong, errors.New("DEVICE_ID_SALT is empty"))
	}
	return errors.Join(wrong...)
}

// trustedProxies reads TRUSTED_PROXIES: addresses and prefixes.
func (c *Config) trustedProxies() ([]netip.Prefix, error) {
	return prefixes("TRUSTED_PROXIES", c.TrustedProxies)
}

// prefixes reads addresses and prefixes of a setting.
func prefixes(setting string, texts []string) ([]netip.Prefix, error) {
	var all []netip.Prefix
	for _, text := range texts {
		text = strings.TrimSpace(text)
		if text == "" {
			continue
		}
		if ip, err := netip.ParseAddr(text); err == nil {
			all = append(all, netip.PrefixFrom(ip, ip.BitLen()))
			continue
		}
		p, err := netip.ParsePrefix(text)
		if err != nil {
			return nil, fmt.Errorf("%s: %q is neither an address nor a prefix", setting, text)
		}
		all = append(all, p)
	}
	return all, nil
}

// encryptionKey reads SECRET_ENCRYPTION_KEY; nil when there is none.
func (c *Config) encryptionKey() ([]byte, error) {
	if c.SecretEncryptionKey == "" {
		return nil, nil
	}
	key, err := base64.StdEncoding.DecodeString(c.SecretEncryptionKey.Reveal())
	if err != nil || len(key) != 32 {
		return nil, errors.New("SECRET_ENCRYPTION_KEY must be 32 bytes in base64, for example from `openssl rand -base64 32`")
	}
	if err := weakKey(key); err != nil {
		return nil, fmt.Errorf("SECRET_ENCRYPTION_KEY %w", err)
	}
	return key, nil
}

// signingKeys are TOKEN_SIGNING_KEY, the first of which signs; in dev mode without
// any, a key that is made once in DATA_DIR. Line breaks may be written "\n", as in a
// one-line environment file.
func (c *Config) signingKeys() ([]account.SigningKey, error) {
	if c.TokenSigningKey == "" && c.Dev {
		return account.LoadOrCreateSigningKeys(filepath.Join(c.DataDir, signingKeyFile))
	}
	return c.parseSigningKeys(c.TokenSigningKey.Reveal())
}

// signingKeyFile is the name of the key file of dev mode, in DATA_DIR.
const signingKeyFile = "token-signing-key.pem"

// parseSigningKeys refuses keys that others have, or can guess, outside of dev mode.
func (c *Config) parseSigningKeys(text string) ([]account.SigningKey, error) {
	text = strings.ReplaceAll(text, `\n`, "\n")
	if !c.Dev {
		if err := weakSigningKey(text); err != nil {
			return nil, fmt.Errorf("a key %w", err)
		}
	}
	return account.ParseSigningKeys([]byte(text))
}

// reloadSigningKeys reads the file that the signing keys are in anew; nil when they
// are not in a file.
func (c *Config) reloadSigningKeys() func() ([]account.SigningKey, error) {
	file := c.TokenSigningKeyFile
	if c.TokenSigningKey == "" && c.Dev {
		file = filepath.Join(c.DataDir, signingKeyFile)
	}
	if file == "" {
		return nil
	}
	return func() ([]account.SigningKey, error) {
		text, err := os.ReadFile(file)
		if err != nil {
			return nil, err
		}
		return c.parseSigningKeys(string(text))
	}
}
