package app

import (
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"net"
	"net/netip"
	"net/url"
	"path/filepath"
	"regexp"
	"slices"
	"strings"

	"github.com/opticworks/devicecloud/account"
	"github.com/opticworks/devicecloud/partner/idp"
	"github.com/opticworks/devicecloud/partner/mail"
	"github.com/opticworks/devicecloud/registry"
)

// The names of providers as an app gives them. [contracts C.1]
const (
	providerGoogle = "google"
	providerApple  = "apple"
	providerWeChat = "wechat_miniprogram"
)

// minWeChatSecret is in characters; WeChat's have 32.
const minWeChatSecret = 16

// outboxFrom is the sender of mails that nobody sends.
const outboxFrom = "devicecloud <no-reply@localhost>"

// Issuer is a further issuer of ID tokens: OIDC_<NAME>_ISSUER and
// OIDC_<NAME>_CLIENT_IDS.
type Issuer struct {
	URL       string
	ClientIDs []string
}

// issuerSetting is the name of a setting of a further issuer.
var issuerSetting = regexp.MustCompile(`^OIDC_([A-Z][A-Z0-9]*(?:_[A-Z0-9]+)*)_(ISSUER|CLIENT_IDS)$`)

// Complete adds the settings whose names are not fixed to a configuration that was
// parsed with these sources: those of the further issuers, from the environment and
// the --config file. They are no flags.
func (s *Sources) Complete(c *Config) {
	known := slices.Collect(maps.Values(s.names))
	c.Issuers = map[string]Issuer{}
	for _, name := range slices.Concat(s.environment, slices.Collect(maps.Keys(s.file))) {
		found := issuerSetting.FindStringSubmatch(name)
		if found == nil || slices.Contains(known, name) {
			continue
		}
		value, ok := s.lookupEnv(name)
		if !ok {
			value = s.file[name]
		}
		if value = strings.TrimSpace(value); value == "" {
			continue
		}
		provider := strings.ToLower(found[1])
		issuer := c.Issuers[provider]
		if found[2] == "ISSUER" {
			issuer.URL = value
		} else {
			issuer.ClientIDs = fields(value)
		}
		c.Issuers[provider] = issuer
	}
}

// fields are the parts of a list that is separated by commas, without empty ones.
func fields(list string) []string {
	var all []string
	for part := range strings.SplitSeq(list, ",") {
		if part = strings.TrimSpace(part); part != "" {
			all = append(all, part)
		}
	}
	return all
}

// issuerSettings lists the further issuers as settings.
func (c *Config) issuerSettings() []Setting {
	var all []Setting
	for _, name := range slices.Sorted(maps.Keys(c.Issuers)) {
		prefix := "OIDC_" + strings.ToUpper(name)
		all = append(all,
			Setting{Name: prefix + "_ISSUER", Value: c.Issuers[name].URL},
			Setting{Name: prefix + "_CLIENT_IDS", Value: strings.Join(c.Issuers[name].ClientIDs, ",")})
	}
	return all
}

// checkIdentity refuses settings of providers and of mail that cannot be right.
func (c *Config) checkIdentity() error {
	wrong := []error{
		checkIssuer("OIDC_GOOGLE", Issuer{c.OIDCGoogleIssuer, c.OIDCGoogleClientIDs}, idp.GoogleIssuer),
		checkIssuer("OIDC_APPLE", Issuer{c.OIDCAppleIssuer, c.OIDCAppleClientIDs}, idp.AppleIssuer),
		c.checkWeChat(), c.checkMail(), c.checkAppLink(),
	}
	for _, name := range slices.Sorted(maps.Keys(c.Issuers)) {
		prefix, issuer := "OIDC_"+strings.ToUpper(name), c.Issuers[name]
		switch {
		case slices.Contains([]string{account.ProviderDev, account.ProviderEmail, "password", providerWeChat}, name):
			wrong = append(wrong, fmt.Errorf("%s_ISSUER: the name %s is taken", prefix, name))
		case issuer.URL == "":
			var fixed []string
			for _, s := range new(Config).Settings() {
				fixed = append(fixed, s.Name)
			}
			wrong = append(wrong, fmt.Errorf("%s_CLIENT_IDS needs %s_ISSUER; did you mean %s?", prefix, prefix, Nearest(prefix+"_CLIENT_IDS", fixed)))
		default:
			wrong = append(wrong, checkIssuer(prefix, issuer, ""))
		}
	}
	return errors.Join(wrong...)
}

// checkIssuer looks at the two settings of an issuer; usual is its URL when none is
// given, "" when it needs one.
func checkIssuer(prefix string, i Issuer, usual string) error {
	switch {
	case i.URL == "" && len(i.ClientIDs) == 0:
		return nil // switched off
	case len(i.ClientIDs) == 0 || slices.Contains(i.ClientIDs, ""):
		return fmt.Errorf("%s_CLIENT_IDS must name the apps at this issuer, none of them empty", prefix)
	case i.URL == "" && usual != "":
		return nil
	}
	if err := idp.CheckURL(i.URL); err != nil {
		return fmt.Errorf("%s_ISSUER is %w", prefix, err)
	}
	return nil
}

func (c *Config) checkWeChat() error {
	if (c.WeChatAppID == "") != (c.WeChatSecret == "") {
		return errors.New("WECHAT_APPID and WECHAT_SECRET belong together: one of them is empty")
	}
	if secret := c.WeChatSecret.Reveal(); secret != "" && (len(secret) < minWeChatSecret || strings.Count(secret, secret[:1]) == len(secret)) {
		return fmt.Errorf("WECHAT_SECRET is not an AppSecret: it is shorter than %d characters, or one repeated", minWeChatSecret)
	}
	if err := idp.CheckURL(c.WeChatBaseURL); err != nil {
		return fmt.Errorf("WECHAT_BASE_URL is %w", err)
	}
	return nil
}

func (c *Config) checkMail() error {
	var wrong []error
	if c.MailFrom != "" {
		if err := mail.CheckFrom(c.MailFrom); err != nil {
			wrong = append(wrong, fmt.Errorf("MAIL_FROM is %w", err))
		}
	}
	if c.SMTPURL != "" {
		if err := mail.CheckURL(c.SMTPURL.Reveal()); err != nil {
			wrong = append(wrong, fmt.Errorf("SMTP_URL %w", err))
		}
		if c.MailFrom == "" {
			wrong = append(wrong, errors.New("MAIL_FROM is required with SMTP_URL: the sender of mails"))
		}
		if c.PublicURL == "" && !c.Dev {
			wrong = append(wrong, errors.New("PUBLIC_URL is required with SMTP_URL: mailed links point there"))
		}
	}
	if c.PublicURL != "" {
		err := idp.CheckURL(c.PublicURL)
		if c.Dev && c.AllowDevOnNetwork && strings.HasPrefix(c.PublicURL, "http://") {
			err = nil // a telephone in the same network
		}
		if err != nil {
			wrong = append(wrong, fmt.Errorf("PUBLIC_URL is %w", err))
		}
	}
	return errors.Join(wrong...)
}

// checkAppLink refuses what a browser would run, or show, instead of opening an app.
func (c *Config) checkAppLink() error {
	u, err := url.Parse(c.AppLinkURL)
	if err != nil || u.Scheme == "" || u.Opaque != "" || u.User != nil || u.Fragment != "" || strings.Contains(c.AppLinkURL, "#") {
		return errors.New("APP_LINK_URL must be a URL like devicecloud://auth/magic, without a fragment")
	}
	if slices.Contains([]string{"javascript", "data", "vbscript", "file", "blob", "about", "http", "ws", "wss", "ftp"}, u.Scheme) {
		return errors.New("APP_LINK_URL must have the scheme of an app, or https")
	}
	return nil
}

// providers are the login providers that are configured.
func (c *Config) providers(log *slog.Logger) (map[string]account.Provider, error) {
	opts := idp.Options{Logger: log}
	issuers := map[string]idp.Issuer{}
	if len(c.OIDCGoogleClientIDs) > 0 {
		issuers[providerGoogle] = idp.Google(c.OIDCGoogleIssuer, c.OIDCGoogleClientIDs)
	}
	if len(c.OIDCAppleClientIDs) > 0 {
		issuers[providerApple] = idp.Apple(c.OIDCAppleIssuer, c.OIDCAppleClientIDs)
	}
	for name, i := range c.Issuers {
		issuers[name] = idp.Other(i.URL, i.ClientIDs)
	}
	all := map[string]account.Provider{}
	for name, i := range issuers {
		p, err := idp.NewOIDC(i, opts)
		if err != nil {
			return nil, err
		}
		all[name] = p
	}
	if c.WeChatAppID != "" {
		p, err := idp.NewWeChat(idp.WeChatApp{ID: c.WeChatAppID, Secret: idp.Secret(c.WeChatSecret.Reveal()), BaseURL: c.WeChatBaseURL}, opts)
		if err != nil {
			return nil, err
		}
		all[providerWeChat] = p
	}
	return all, nil
}

// mailer sends mailed links; nil when mail is not configured. In dev mode mails are
// files then.
func (c *Config) mailer() (account.Mailer, error) {
	switch {
	case c.SMTPURL != "":
		return mail.NewSMTP(c.SMTPURL.Reveal(), c.MailFrom, mail.Options{})
	case c.Dev:
		from := c.MailFrom
		if from == "" {
			from = outboxFrom
		}
		return mail.NewOutbox(filepath.Join(c.DataDir, "outbox"), from, nil)
	}
	return nil, nil
}

// accountOptions are the options of accounts; ids and the key are the registry's.
func (c *Config) accountOptions(reg registry.Options, log *slog.Logger) (account.Options, error) {
	keys, err := c.signingKeys()
	if err != nil {
		return account.Options{}, err
	}
	o := account.Options{
		SigningKey: keys[0], MoreKeys: keys[1:], ReloadKeys: c.reloadSigningKeys(), NextID: reg.NextID, Dev: c.Dev,
		AccessTTL: c.AccessTTL, LinkPage: c.linkPage(), Logger: log, Sealer: reg.Sealer, StaffGroups: c.staffGroups(),
	}
	if o.StaffProvider, err = c.staffProvider(log); err != nil {
		return account.Options{}, err
	}
	if o.Providers, err = c.providers(log); err != nil {
		return account.Options{}, err
	}
	o.Mailer, err = c.mailer()
	return o, err
}

// linkPage is the page that a mailed link opens.
func (c *Config) linkPage() string {
	return c.publicURL() + "/auth/magic"
}

// publicURL is where people reach this server, without a slash at the end.
func (c *Config) publicURL() string {
	base := c.PublicURL
	if base == "" { // dev
		base = "http://" + dialable(c.HTTPAddr)
	}
	return strings.TrimSuffix(base, "/")
}

// dialable is a listener's address as this machine reaches it.
func dialable(listener string) string {
	host, port, err := net.SplitHostPort(listener)
	if err != nil {
		return listener
	}
	if ip, err := netip.ParseAddr(host); host == "" || err == nil && ip.IsUnspecified() {
		host = "localhost"
	}
	return net.JoinHostPort(host, port)
}
