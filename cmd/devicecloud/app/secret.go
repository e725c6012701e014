package app

import (
	"fmt"
	"log/slog"
	"os"
	"strings"
)

const redacted = "[redacted]"

// Secret is a setting that no log, answer or error may show. Every format of it is
// redacted; [Secret.Reveal] is the one way to its text.
type Secret string

// String redacts, but lets an empty secret be seen as empty.
func (s Secret) String() string {
	if s == "" {
		return ""
	}
	return redacted
}

// Format redacts, for every verb; a String method alone would not for %d.
func (s Secret) Format(f fmt.State, _ rune) { _, _ = f.Write([]byte(s.String())) }

// LogValue redacts.
func (s Secret) LogValue() slog.Value { return slog.StringValue(s.String()) }

// MarshalText redacts.
func (s Secret) MarshalText() ([]byte, error) { return []byte(s.String()), nil }

// Reveal is the text of the secret.
func (s Secret) Reveal() string { return string(s) }

// readSecrets fills each secret whose NAME_FILE is given from that file. Both at
// once is an error: it would be unclear which one holds.
func (c *Config) readSecrets() error {
	for _, s := range []struct {
		name string
		into *Secret
		file string
	}{
		{"DATABASE_URL", &c.DatabaseURL, c.DatabaseURLFile},
		{"ADMIN_PASSWORD", &c.AdminPassword, c.AdminPasswordFile},
		{"TOKEN_SIGNING_KEY", &c.TokenSigningKey, c.TokenSigningKeyFile},
		{"SECRET_ENCRYPTION_KEY", &c.SecretEncryptionKey, c.SecretEncryptionKeyFile},
		{"WECHAT_SECRET", &c.WeChatSecret, c.WeChatSecretFile},
		{"EIOTCLUB_SECRET", &c.EIOTClubSecret, c.EIOTClubSecretFile},
		{"EIOTCLUB_WEBHOOK_SECRET", &c.EIOTClubWebhookSecret, c.EIOTClubWebhookSecretFile},
		{"SMTP_URL", &c.SMTPURL, c.SMTPURLFile},
		{"STRIPE_SECRET_KEY", &c.StripeSecretKey, c.StripeSecretKeyFile},
		{"STRIPE_DATA_PLAN_WEBHOOK_SECRET", &c.StripeDataPlanWebhookSecret, c.StripeDataPlanWebhookSecretFile},
		{"INGEST_KEYS", &c.IngestKeys, c.IngestKeysFile},
		{"ADMIN_OIDC_CLIENT_SECRET", &c.AdminOIDCClientSecret, c.AdminOIDCClientSecretFile},
	} {
		if s.file == "" {
			continue
		}
		if *s.into != "" {
			return fmt.Errorf("%s and %s_FILE are both set: give one of them", s.name, s.name)
		}
		text, err := os.ReadFile(s.file)
		if err != nil {
			return fmt.Errorf("%s_FILE: %w", s.name, err)
		}
		value := strings.TrimSpace(string(text))
		if value == "" {
			return fmt.Errorf("%s_FILE: %s is empty", s.name, s.file)
		}
		*s.into = Secret(value)
	}
	return nil
}
