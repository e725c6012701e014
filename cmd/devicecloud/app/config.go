package app

import (
	"fmt"
	"reflect"
	"strings"
	"time"

	"github.com/opticworks/devicecloud/partner/kvs"
)

// Config is every setting that something in the program obeys. A field's flag is
// in its tag; its name in the environment and in a --config file is the flag in
// upper snake case: --http-addr is HTTP_ADDR. The tag `dev` holds the default
// under --dev where it differs. docs/operations.md explains each at length.
type Config struct {
	// Dev is --dev: a development CA, loopback plain MQTT, no rate limits and the
	// login provider "dev". None of it exists without.
	Dev bool `kong:"-"`
	// AccessTTL is the life of an access token, 0 for the usual one. It is no setting:
	// the demonstration prints a token that has to last for an afternoon.
	AccessTTL time.Duration `kong:"-"`

	DataDir         string `name:"data-dir" default:"./data" help:"SQLite file, and in dev mode CA and keys"`
	DatabaseURL     Secret `name:"database-url" help:"sqlite:PATH or postgres://...; default sqlite:DATA_DIR/devicecloud.db"`
	DatabaseURLFile string `name:"database-url-file" help:"file that holds DATABASE_URL"`

	HTTPAddr                string   `name:"http-addr" default:"127.0.0.1:8080" help:"API, /livez, /readyz, MQTT over WebSocket at /mqtt"`
	AllowPlaintextHTTP      bool     `name:"allow-plaintext-http" help:"plain HTTP on another address than loopback, behind a TLS proxy"`
	HTTPSAddr               string   `name:"https-addr" help:"the same API with TLS"`
	MetricsAddr             string   `name:"metrics-addr" default:"127.0.0.1:9090" help:"/metrics; empty: none"`
	TrustedProxies          []string `name:"trusted-proxies" help:"addresses or prefixes whose X-Forwarded-For counts"`
	MQTTTLSAddr             string   `name:"mqtt-tls-addr" default:":8883" help:"devices and apps; empty: none"`
	MQTTAddr                string   `name:"mqtt-addr" dev:"127.0.0.1:1883" help:"plain MQTT; empty: none"`
	AllowPlaintextMQTT      bool     `name:"allow-plaintext-mqtt" help:"plain MQTT on another address than loopback"`
	AllowDevOnNetwork       bool     `name:"allow-dev-on-network" help:"--dev on another address than loopback"`
	TLSCertFile             string   `name:"tls-cert-file" help:"server certificate chain, PEM; reloaded when it changes"`
	TLSKeyFile              string   `name:"tls-key-file" help:"its private key, PEM"`
	DeviceCAFile            string   `name:"device-ca-file" help:"CA that signs client certificates of devices, PEM"`
	TopicRoot               string   `name:"topic-root" default:"opticworks" help:"first level of every topic"`
	DeviceIDSalt            string   `name:"device-id-salt" default:"opticworks-rs1" help:"salt of the device ids; never change it on a fleet"`
	NodeID                  string   `name:"node-id" default:"node-1" help:"name of this node in presence and history"`
	SelfEnroll              bool     `name:"self-enroll" help:"an unknown device enrols itself with its first password"`
	OfflineThresholdSec     int      `name:"offline-threshold-sec" default:"120" help:"longest silence of a device, seconds"`
	PairingCodeExpirySec    int      `name:"pairing-code-expiry-sec" default:"300" help:"seconds for which a pairing code can be presented"`
	TrialDays               int      `name:"trial-days" default:"30" help:"days of video services from a device's first activation; 0 is none"`
	ResetReleasesOwnership  bool     `name:"reset-releases-ownership" help:"a factory reset that a device reports frees it from its owner"`
	MaxDevicesPerUser       int      `name:"max-devices-per-user" default:"50" help:"devices that one person may own"`
	AuditRetentionDays      int      `name:"audit-retention-days" default:"90" help:"age at which audit rows are deleted"`
	HistoryRetentionDays    int      `name:"history-retention-days" default:"90" help:"age at which connections and events are deleted"`
	AdminEmail              string   `name:"admin-email" help:"first administrator, made only when there is none"`
	AdminPassword           Secret   `name:"admin-password" help:"password of the first administrator, at least 12 characters"`
	AdminPasswordFile       string   `name:"admin-password-file" help:"file that holds ADMIN_PASSWORD"`
	TokenSigningKey         Secret   `name:"token-signing-key" help:"Ed25519 private keys, PEM (PKCS 8): the first signs, all verify"`
	TokenSigningKeyFile     string   `name:"token-signing-key-file" help:"file that holds TOKEN_SIGNING_KEY; reloaded when it changes"`
	SecretEncryptionKey     Secret   `name:"secret-encryption-key" help:"32 bytes, base64: seals credentials at rest"`
	SecretEncryptionKeyFile string   `name:"secret-encryption-key-file" help:"file that holds SECRET_ENCRYPTION_KEY"`

	WebhookAllowedNetworks []string `name:"webhook-allowed-networks" help:"addresses or prefixes that webhooks may call although they are not public"`

	OIDCGoogleClientIDs []string `name:"oidc-google-client-ids" help:"our apps at Google; empty: no login by Google"`
	OIDCGoogleIssuer    string   `name:"oidc-google-issuer" help:"another issuer in Google's place, for tests"`
	OIDCAppleClientIDs  []string `name:"oidc-apple-client-ids" help:"our apps at Apple; empty: no login by Apple"`
	OIDCAppleIssuer     string   `name:"oidc-apple-issuer" help:"another issuer in Apple's place, for tests"`
	// Issuers are further issuers of ID tokens, by the name of the provider; see
	// [Sources.Complete].
	Issuers                   map[string]Issuer `kong:"-"`
	WeChatAppID               string            `name:"wechat-appid" help:"AppID of our mini program; empty: no login by WeChat"`
	WeChatSecret              Secret            `name:"wechat-secret" help:"its AppSecret"`
	WeChatSecretFile          string            `name:"wechat-secret-file" help:"file that holds WECHAT_SECRET"`
	WeChatBaseURL             string            `name:"wechat-base-url" default:"https://api.weixin.qq.com" help:"where WeChat answers, for tests"`
	SMTPURL                   Secret            `name:"smtp-url" help:"smtp://user:password@host:587 or smtps://...:465; empty: no mailed links and invitations, in dev mode files in DATA_DIR/outbox"`
	SMTPURLFile               string            `name:"smtp-url-file" help:"file that holds SMTP_URL"`
	MailFrom                  string            `name:"mail-from" help:"sender of mails"`
	PublicURL                 string            `name:"public-url" help:"where people reach this server, https"`
	AppLinkURL                string            `name:"app-link-url" default:"devicecloud://auth/magic" help:"opens the app with a mailed link"`
	AdminOIDCIssuer           string            `name:"admin-oidc-issuer" help:"OpenID issuer through which staff may sign in; empty: by password alone"`
	AdminOIDCClientID         string            `name:"admin-oidc-client-id" help:"our client id there"`
	AdminOIDCClientSecret     Secret            `name:"admin-oidc-client-secret" help:"our client secret there; empty: a public client"`
	AdminOIDCClientSecretFile string            `name:"admin-oidc-client-secret-file" help:"file that holds ADMIN_OIDC_CLIENT_SECRET"`
	AdminOIDCGroupsClaim      string            `name:"admin-oidc-groups-claim" default:"groups" help:"claim of the ID token that lists a member's groups"`
	AdminOIDCAdminGroup       string            `name:"admin-oidc-admin-group" help:"whose members are administrators"`
	AdminOIDCSupportGroup     string            `name:"admin-oidc-support-group" help:"whose members are support staff"`

	// AWSAccess is how AWS is reached. It is no setting: the SDK has its own, and a
	// stand-in sets this.
	AWSAccess            kvs.Access `kong:"-"`
	AWSRegion            string     `name:"aws-region" help:"region of all streams and channels"`
	AWSPlaybackRole      string     `name:"aws-kvs-playback-role-arn" help:"role that plays streams; empty: no playback"`
	AWSViewerRole        string     `name:"aws-kvs-webrtc-role-arn" help:"role of viewers; empty: no live view over WebRTC"`
	AWSDeviceRole        string     `name:"aws-kvs-device-role-arn" help:"role of devices; empty: none get credentials here"`
	AWSSourceIdentity    bool       `name:"aws-kvs-source-identity" help:"name the person to AWS; the roles must trust sts:SetSourceIdentity"`
	AWSOwnCredentials    bool       `name:"kvs-webrtc-credentials-mode" help:"viewers get credentials and sign for themselves"`
	AWSIoTEndpoint       string     `name:"aws-iot-credential-provider-endpoint" help:"host where devices with a certificate of AWS IoT get credentials"`
	AWSIoTRoleAlias      string     `name:"aws-iot-role-alias" help:"role alias there"`
	AWSIdentityPool      string     `name:"aws-cognito-identity-pool-id" help:"identity pool of people; empty: none"`
	AWSDeveloperProvider string     `name:"aws-cognito-developer-provider" default:"devicecloud" help:"our name as developer provider in the pool"`
	AWSUserPool          string     `name:"aws-cognito-user-pool-id" help:"accepted and not used: people sign in here"`
	AWSUserPoolClient    string     `name:"aws-cognito-client-id" help:"accepted and not used"`

	EIOTClubAppKey             string   `name:"eiotclub-app-key" help:"our account at the SIM carrier; empty: nothing is ordered there"`
	EIOTClubSecret             Secret   `name:"eiotclub-secret" help:"its secret"`
	EIOTClubSecretFile         string   `name:"eiotclub-secret-file" help:"file that holds EIOTCLUB_SECRET"`
	EIOTClubBaseURL            string   `name:"eiotclub-base-url" help:"where the carrier answers; empty: https://oapi.eiotclub.com"`
	EIOTClubWebhookSecret      Secret   `name:"eiotclub-webhook-secret" help:"signs the carrier's notifications, may be EIOTCLUB_SECRET; empty: none are taken"`
	EIOTClubWebhookSecretFile  string   `name:"eiotclub-webhook-secret-file" help:"file that holds EIOTCLUB_WEBHOOK_SECRET"`
	EIOTClubTimestampWindowSec int      `name:"eiotclub-timestamp-window-sec" default:"86400" help:"how far from now a notification may be signed, seconds"`
	EIOTClubAllowedIPs         []string `name:"eiotclub-allowed-ips" help:"addresses or prefixes from which notifications are taken; empty: any"`

	DataPlansFile                   string `name:"data-plans-file" help:"data plans that are sold, JSON; empty: those that administrators make"`
	StripeSecretKey                 Secret `name:"stripe-secret-key" help:"takes payments for data plans; empty: none are sold"`
	StripeSecretKeyFile             string `name:"stripe-secret-key-file" help:"file that holds STRIPE_SECRET_KEY"`
	StripeDataPlanWebhookSecret     Secret `name:"stripe-data-plan-webhook-secret" help:"of the Stripe endpoint /api/webhooks/data-plan, whsec_..."`
	StripeDataPlanWebhookSecretFile string `name:"stripe-data-plan-webhook-secret-file" help:"file that holds STRIPE_DATA_PLAN_WEBHOOK_SECRET"`
	StripeBaseURL                   string `name:"stripe-base-url" default:"https://api.stripe.com" help:"where Stripe answers, for tests"`
	DevStandins                     bool   `name:"dev-standins" help:"with --dev: stand-ins for the partners that are not configured; devicecloud demo has them"`
	IngestKeys                      Secret `name:"ingest-keys" help:"k1:secret,k2:secret of who signs events that it sends; empty: none are taken"`
	IngestKeysFile                  string `name:"ingest-keys-file" help:"file that holds INGEST_KEYS"`

	BedrockEnabled    bool   `name:"bedrock-enabled" help:"a model of Amazon Bedrock says what is to be seen in the pictures of events"`
	BedrockModelID    string `name:"bedrock-model-id" default:"us.amazon.nova-lite-v1:0" help:"model or inference profile"`
	BedrockRegion     string `name:"bedrock-region" help:"AWS region where the model is asked; empty: no classification"`
	BedrockDailyLimit int    `name:"bedrock-daily-limit-per-device" default:"50" help:"pictures of one device that the model is shown on a day (UTC); 0: no limit"`

	LimitConnectsPerDevice  Rate `name:"limit-connects-per-device" default:"6/m:20" dev:"0" help:"MQTT connections of one device"`
	LimitStatePerDevice     Rate `name:"limit-state-per-device" default:"1/s:10" dev:"0" help:"state messages of one device"`
	LimitTelemetryPerDevice Rate `name:"limit-telemetry-per-device" default:"1/m:5" dev:"0" help:"telemetry messages of one device"`
	LimitTargetsPerDevice   Rate `name:"limit-targets-per-device" default:"15/s" dev:"0" help:"messages of one device on targets/stream"`
	LimitOTAStatusPerUpdate int  `name:"limit-ota-status-per-update" default:"10" dev:"0" help:"progress reports of one update"`
	LimitLoginsPerAddress   Rate `name:"limit-logins-per-address" default:"20/m:20" dev:"0" help:"logins from one address"`
	LimitLoginsPerInstall   Rate `name:"limit-logins-per-install" default:"10/m:10" dev:"0" help:"logins of one installation of an app"`
	LimitLinksPerEmail      Rate `name:"limit-magic-links-per-email" default:"5/h:5" dev:"0" help:"login links mailed to one address"`
	LimitLinksPerAddress    Rate `name:"limit-magic-links-per-address" default:"20/h:20" dev:"0" help:"login links that one address asks for"`
	LimitInvitesPerEmail    Rate `name:"limit-invitation-mails-per-email" default:"5/h:5" dev:"0" help:"mails about invitations to one address"`
	LimitInvitesPerUser     Rate `name:"limit-invitation-mails-per-user" default:"20/h:20" dev:"0" help:"mails about invitations of one person"`
	LimitChangesPerDevice   Rate `name:"limit-changes-per-device" default:"20/m:20" dev:"0" help:"changes of one device over HTTP"`
	LimitCommandsPerUser    Rate `name:"limit-commands-per-user" default:"30/m" dev:"0" help:"commands of one person, member of staff or service account"`
	LimitCommandsPerDevice  Rate `name:"limit-commands-per-device" default:"10/m:5" dev:"0" help:"commands to one device"`
	LimitIngestPerKey       Rate `name:"limit-ingest-per-key" default:"100/s:500" dev:"0" help:"deliveries of events that are signed with one key"`
	HTTPRatePerAddress      Rate `name:"http-rate-per-address" default:"50/s:200" dev:"0" help:"HTTP requests from one address"`
	HTTPRatePerUser         Rate `name:"http-rate-per-user" default:"20/s:100" dev:"0" help:"HTTP requests of one person, member of staff or service account"`
	MQTTAcceptRate          Rate `name:"mqtt-accept-rate" default:"2000/s:200" dev:"0" help:"MQTT connections accepted in all"`
	MQTTMaxConnections      int  `name:"mqtt-max-connections" default:"100000" dev:"0" help:"MQTT connections at once"`
	MQTTMaxPerAddress       int  `name:"mqtt-max-connections-per-address" default:"200" dev:"0" help:"MQTT connections at once from one address"`

	LogFormat string `name:"log-format" default:"auto" enum:"auto,text,json" help:"auto: text on a terminal, else json"`
	LogLevel  string `name:"log-level" default:"info" enum:"debug,info,warn,error" help:"least level that is logged"`
}

// Setting is one setting as the outside names it.
type Setting struct {
	Name       string // HTTP_ADDR
	Flag       string // http-addr
	Default    string
	DevDefault string // "" when it is Default
	Help       string
	Value      string // of the Config asked; secrets redacted
}

// Settings lists every setting of c, in the order of the struct, and then the
// further issuers that it has.
func (c *Config) Settings() []Setting {
	v := reflect.ValueOf(c).Elem()
	var all []Setting
	for i := range v.NumField() {
		tag := v.Type().Field(i).Tag
		flag, ok := tag.Lookup("name")
		if !ok {
			continue
		}
		all = append(all, Setting{
			Name: settingName(flag), Flag: flag,
			Default: tag.Get("default"), DevDefault: tag.Get("dev"),
			Help: tag.Get("help"), Value: show(v.Field(i)),
		})
	}
	return append(all, c.issuerSettings()...)
}

func settingName(flag string) string {
	return strings.ToUpper(strings.ReplaceAll(flag, "-", "_"))
}

func show(v reflect.Value) string {
	switch x := v.Interface().(type) {
	case []string:
		return strings.Join(x, ",")
	case interface{ String() string }:
		return x.String()
	default:
		return fmt.Sprint(x)
	}
}
