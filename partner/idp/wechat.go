package idp

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"strings"
	"time"

	"github.com/opticworks/devicecloud/account"
)

// WeChatURL is where WeChat answers.
const WeChatURL = "https://api.weixin.qq.com"

const (
	// maxCode bounds a login code, in bytes; WeChat's have 32.
	maxCode = 512
	// codeMemory is for how long a used code is remembered. WeChat's live 5 minutes.
	codeMemory = 10 * time.Minute
	// maxWeChatID bounds an openid or unionid, in bytes; WeChat's have 28.
	maxWeChatID = 128
)

// WeChatApp is a mini program at WeChat.
type WeChatApp struct {
	ID      string // AppID
	Secret  Secret // AppSecret
	BaseURL string // default WeChatURL; for tests
}

// Secret is a text that redacts itself in every format.
type Secret string

// Format redacts.
func (Secret) Format(f fmt.State, _ rune) { _, _ = f.Write([]byte("[redacted]")) }

// MarshalText redacts.
func (Secret) MarshalText() ([]byte, error) { return []byte("[redacted]"), nil }

// WeChat is the login provider of a mini program: a code that wx.login gave the app
// becomes the person's id. It is safe for concurrent use.
type WeChat struct {
	app    WeChatApp
	client *http.Client
	now    func() time.Time
}

var _ account.Provider = (*WeChat)(nil)

// NewWeChat makes the provider of a mini program, without asking WeChat anything.
func NewWeChat(app WeChatApp, opts Options) (*WeChat, error) {
	opts.defaults()
	if app.BaseURL == "" {
		app.BaseURL = WeChatURL
	}
	if err := CheckURL(app.BaseURL); err != nil {
		return nil, fmt.Errorf("idp: WeChat's base URL is %w", err)
	}
	if app.ID == "" || app.Secret == "" {
		return nil, errors.New("idp: a mini program needs its id and its secret")
	}
	return &WeChat{app: app, client: newClient(), now: opts.Now}, nil
}

// Verify implements account.Provider. A code works once, which WeChat sees to too.
//
// account.ErrMissingFields without a code, account.ErrInvalidToken for a code that
// WeChat does not know or has seen, account.ErrRateLimited and
// account.ErrAccountDisabled when WeChat says so of the person,
// account.ErrProviderUnavailable when it says nothing. [contracts C.1]
func (w *WeChat) Verify(ctx context.Context, req account.LoginRequest) (account.Identity, error) {
	if req.Code == "" {
		return account.Identity{}, account.ErrMissingFields
	}
	if len(req.Code) > maxCode || strings.ContainsFunc(req.Code, unprintable) {
		return account.Identity{}, account.ErrInvalidToken
	}
	query := url.Values{
		"appid": {w.app.ID}, "secret": {string(w.app.Secret)}, "js_code": {req.Code}, "grant_type": {"authorization_code"},
	}
	text, err := get(ctx, w.client, strings.TrimSuffix(w.app.BaseURL, "/")+"/sns/jscode2session?"+query.Encode())
	if err != nil {
		return account.Identity{}, account.ErrProviderUnavailable.With(fmt.Errorf("jscode2session: %w", err))
	}
	subjects, err := parseSession(text)
	if err != nil {
		return account.Identity{}, err
	}
	return account.Identity{Subjects: subjects, Expires: w.now().Add(codeMemory), Proof: req.Code}, nil
}

// parseSession reads the answer of jscode2session. It has no field for session_key,
// which nobody here needs. [contracts C.1]
func parseSession(text []byte) ([]string, error) {
	var in struct {
		Code    int    `json:"errcode"`
		OpenID  string `json:"openid"`
		UnionID string `json:"unionid"`
	}
	if json.Unmarshal(text, &in) != nil {
		return nil, account.ErrProviderUnavailable.With(errors.New("jscode2session: not the JSON that was agreed on"))
	}
	if in.Code != 0 {
		return nil, refusal(in.Code)
	}
	if !weChatID(in.OpenID) || in.UnionID != "" && !weChatID(in.UnionID) {
		return nil, account.ErrProviderUnavailable.With(errors.New("jscode2session: an answer without an openid"))
	}
	subjects := []string{"openid:" + in.OpenID}
	if in.UnionID != "" { // the same person in the operator's other apps
		subjects = []string{"unionid:" + in.UnionID, subjects[0]}
	}
	return subjects, nil
}

func weChatID(s string) bool {
	return s != "" && len(s) <= maxWeChatID && !strings.ContainsFunc(s, func(r rune) bool { return r <= ' ' || r > '~' })
}

// refusal is WeChat's errcode in our words. The codes about us, a wrong AppSecret
// among them, are the operator's to read in the log.
func refusal(code int) error {
	cause := fmt.Errorf("jscode2session: errcode %d", code)
	switch code {
	case 40029, 40163: // unknown or expired, used
		return account.ErrInvalidToken.With(cause)
	case 40226: // a person whom WeChat's risk control has blocked
		return account.ErrAccountDisabled.With(cause)
	case 45011: // 100 a minute for each person
		limited := account.ErrRateLimited.With(cause)
		limited.RetryAfter = time.Minute
		return limited
	}
	return account.ErrProviderUnavailable.With(cause) // -1: busy
}
