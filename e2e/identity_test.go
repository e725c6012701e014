package e2e_test

import (
	"bufio"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/http/cookiejar"
	"net/http/httptest"
	"net/url"
	"os/exec"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"
)

// helper is a program of testdata that ends with its standard input.
type helper struct {
	t     *testing.T
	stdin io.WriteCloser
	lines chan string // of its standard output
}

func startHelper(t *testing.T, program ...string) *helper {
	t.Helper()
	cmd := exec.Command(program[0], program[1:]...)
	stdin, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	stdout, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	h := &helper{t, stdin, make(chan string, 1000)}
	go func() {
		defer close(h.lines)
		for lines := bufio.NewScanner(stdout); lines.Scan(); {
			h.lines <- lines.Text()
		}
	}()
	t.Cleanup(func() {
		h.stop()
		kill := time.AfterFunc(10*time.Second, func() { _ = cmd.Process.Kill() })
		defer kill.Stop()
		for range h.lines { // until it has ended
		}
		_ = cmd.Wait() // how it ends does not matter
	})
	return h
}

// stop may be called again.
func (h *helper) stop() { _ = h.stdin.Close() }

func (h *helper) line() string {
	h.t.Helper()
	select {
	case line, ok := <-h.lines:
		if !ok {
			h.t.Fatal("the program has ended")
		}
		return line
	case <-time.After(stretch * 5 * time.Second):
		h.t.Fatal("the program says nothing")
	}
	return ""
}

// openID is node-oidc-provider, a certified implementation, as a process.
type openID struct {
	*helper
	issuer string
}

func startOpenID(t *testing.T) *openID {
	t.Helper()
	skipWithout(t, "oidc-provider", haveProgram("node") && exec.Command("node", "-e", "import('./node_modules/oidc-provider/lib/index.js').catch(() => process.exit(1))").Run() == nil)
	p := &openID{helper: startHelper(t, "node", "testdata/oidc_provider.mjs")}
	p.issuer = p.line()
	return p
}

// rotate replaces the provider's keys.
func (p *openID) rotate() {
	p.t.Helper()
	if _, err := io.WriteString(p.stdin, "rotate\n"); err != nil {
		p.t.Fatal(err)
	}
	if line := p.line(); line != "rotated" {
		p.t.Fatalf("the provider says %q", line)
	}
}

const appCallback = "https://app.example.com/callback"

// signIn is what an app does: the authorization code flow with PKCE, at whose end it
// has an ID token. who is subject|e-mail|true or false.
func (p *openID) signIn(clientID, who, nonce string) (idToken string) {
	p.t.Helper()
	jar, err := cookiejar.New(nil)
	if err != nil {
		p.t.Fatal(err)
	}
	var callback *url.URL
	client := &http.Client{Jar: jar, Timeout: 30 * time.Second, CheckRedirect: func(req *http.Request, _ []*http.Request) error {
		if strings.HasPrefix(req.URL.String(), appCallback) {
			callback = req.URL
			return http.ErrUseLastResponse
		}
		return nil
	}}
	defer client.CloseIdleConnections()
	verifier := rand.Text() + rand.Text()
	sum := sha256.Sum256([]byte(verifier))
	query := url.Values{
		"client_id": {clientID}, "response_type": {"code"}, "redirect_uri": {appCallback}, "scope": {"openid email"}, "login_hint": {who}, "state": {"s"},
		"code_challenge": {base64.RawURLEncoding.EncodeToString(sum[:])}, "code_challenge_method": {"S256"},
	}
	if nonce == "" {
		nonce = rand.Text() // or two tokens of one second would be the same
	}
	query.Set("nonce", nonce)
	res, err := client.Get(p.issuer + "/auth?" + query.Encode())
	if err != nil {
		p.t.Fatal(err)
	}
	text, err := io.ReadAll(res.Body)
	_ = res.Body.Close()
	if err != nil || callback == nil || callback.Query().Get("code") == "" {
		p.t.Fatalf("the provider did not come back to the app: %d %s, %v", res.StatusCode, text, err)
	}
	res, err = client.PostForm(p.issuer+"/token", url.Values{
		"grant_type": {"authorization_code"}, "client_id": {clientID}, "redirect_uri": {appCallback}, "code": {callback.Query().Get("code")}, "code_verifier": {verifier},
	})
	if err != nil {
		p.t.Fatal(err)
	}
	defer res.Body.Close()
	var answer struct {
		IDToken string `json:"id_token"`
	}
	if err := json.NewDecoder(res.Body).Decode(&answer); err != nil || answer.IDToken == "" {
		p.t.Fatalf("the provider gave no ID token: %d, %v", res.StatusCode, err)
	}
	return answer.IDToken
}

// identity is the answer to a login.
type identity struct {
	Token string `json:"access_token"`
	Error string `json:"error"`
	User  struct {
		ID       string `json:"user_id"`
		Email    string `json:"email"`
		Verified bool   `json:"email_verified"`
	} `json:"user"`
}

// signIn shows the cloud what a provider gave.
func (c *Cloud) signIn(body map[string]string) (int, identity) {
	c.t.Helper()
	var in identity
	status := c.Do(http.MethodPost, "/api/auth/app-token", "", body, &in)
	return status, in
}

// once is how many of 100 at once win with the same body; the others get 401
// invalid_token.
func (c *Cloud) once(path string, body map[string]string) int64 {
	c.t.Helper()
	var won atomic.Int64
	inParallel(100, 20, func(int) {
		status, text, err := c.request(http.MethodPost, path, "", body)
		switch {
		case err != nil:
			c.t.Error(err)
		case status == http.StatusOK:
			won.Add(1)
		case status != http.StatusUnauthorized || !strings.Contains(string(text), `"invalid_token"`):
			c.t.Errorf("a loser gets %d %s", status, text)
		}
	})
	return won.Load()
}

func TestLoginByAnOpenIDProvider(t *testing.T) {
	t.Parallel()
	p := startOpenID(t)
	c := Start(t, Options{Env: map[string]string{
		"OIDC_GOOGLE_ISSUER": p.issuer, "OIDC_GOOGLE_CLIENT_IDS": "app.android,app.ios", "OIDC_APPLE_ISSUER": p.issuer, "OIDC_APPLE_CLIENT_IDS": "app.ios",
		"OIDC_ACME_ISSUER": p.issuer, "OIDC_ACME_CLIENT_IDS": "app.acme", "OIDC_DOWN_ISSUER": "http://127.0.0.1:1", "OIDC_DOWN_CLIENT_IDS": "app.ios",
	}})
	const ann = "s1|ann@example.com|true"
	token := p.signIn("app.ios", ann, "")
	status, in := c.signIn(map[string]string{"provider": "google", "id_token": token})
	if status != http.StatusOK || in.User.Email != "ann@example.com" || !in.User.Verified {
		t.Fatalf("got %d %+v", status, in)
	}
	c.Get("/api/me", in.Token, nil)
	if status, again := c.signIn(map[string]string{"provider": "google", "id_token": p.signIn("app.ios", ann, "")}); status != http.StatusOK || again.User.ID != in.User.ID {
		t.Errorf("the second time it is %d %+v", status, again)
	}
	if status, acme := c.signIn(map[string]string{"provider": "acme", "id_token": p.signIn("app.acme", "s2|bob@example.com|true", "")}); status != http.StatusOK || acme.User.Email != "bob@example.com" {
		t.Errorf("a further issuer, with ES256: %d %+v", status, acme)
	}
	sum := sha256.Sum256([]byte("raw"))
	if status, apple := c.signIn(map[string]string{"provider": "apple", "id_token": p.signIn("app.ios", "s3||", hex.EncodeToString(sum[:])), "nonce": "raw"}); status != http.StatusOK || apple.User.Email != "" {
		t.Errorf("with a nonce and without an e-mail: %d %+v", status, apple)
	}

	fresh := p.signIn("app.ios", "s4|cat@example.com|true", "n")
	parts := strings.Split(fresh, ".")
	none := base64.RawURLEncoding.EncodeToString([]byte(`{"alg":"none"}`)) + "." + parts[1] + "."
	for name, tc := range map[string]struct {
		body   map[string]string
		status int
		code   string
	}{
		"a token that has signed in before":    {map[string]string{"provider": "google", "id_token": token}, 401, "invalid_token"},
		"another nonce":                        {map[string]string{"provider": "google", "id_token": fresh, "nonce": "m"}, 401, "invalid_token"},
		"no nonce for Apple":                   {map[string]string{"provider": "apple", "id_token": fresh}, 401, "invalid_token"},
		"another app's token":                  {map[string]string{"provider": "google", "id_token": p.signIn("app.stranger", ann, "")}, 401, "invalid_token"},
		"one issuer's provider by another":     {map[string]string{"provider": "acme", "id_token": fresh}, 401, "invalid_token"},
		"another algorithm than Google's":      {map[string]string{"provider": "google", "id_token": p.signIn("app.acme", ann, "")}, 401, "invalid_token"},
		"another payload":                      {map[string]string{"provider": "google", "id_token": parts[0] + "." + strings.Split(token, ".")[1] + "." + parts[2]}, 401, "invalid_token"},
		"no signature":                         {map[string]string{"provider": "google", "id_token": none}, 401, "invalid_token"},
		"a token cut short":                    {map[string]string{"provider": "google", "id_token": fresh[:len(fresh)-9]}, 401, "invalid_token"},
		"a token that is none":                 {map[string]string{"provider": "google", "id_token": "ann@example.com"}, 401, "invalid_token"},
		"a huge token":                         {map[string]string{"provider": "google", "id_token": strings.Repeat("a", 14<<10)}, 401, "invalid_token"},
		"a body that is too large":             {map[string]string{"provider": "google", "id_token": strings.Repeat("a", 17<<10)}, 400, "invalid_request"},
		"an address that is not verified":      {map[string]string{"provider": "google", "id_token": p.signIn("app.ios", "s5|eve@example.com|false", "")}, 403, "email_not_verified"},
		"an address that is another's":         {map[string]string{"provider": "google", "id_token": p.signIn("app.ios", "s6|ann@example.com|true", "")}, 409, "account_link_required"},
		"a provider that cannot be reached":    {map[string]string{"provider": "down", "id_token": fresh}, 503, "provider_unavailable"},
		"a provider that is not configured":    {map[string]string{"provider": "wechat_miniprogram", "code": "c"}, 400, "invalid_provider"},
		"an unknown provider":                  {map[string]string{"provider": "facebook", "id_token": fresh}, 400, "invalid_provider"},
		"no token":                             {map[string]string{"provider": "google"}, 400, "missing_fields"},
		"a code where a token is asked for":    {map[string]string{"provider": "google", "code": "c"}, 400, "missing_fields"},
		"no provider":                          {map[string]string{"id_token": fresh}, 400, "missing_fields"},
		"an unknown provider without a token":  {map[string]string{"provider": "facebook"}, 400, "missing_fields"},
		"the address as for the dev provider":  {map[string]string{"provider": "acme", "id_token": "ann@example.com"}, 401, "invalid_token"},
		"a refused token, with a replayed one": {map[string]string{"provider": "google", "id_token": token, "nonce": "x"}, 401, "invalid_token"},
	} {
		t.Run(name, func(t *testing.T) {
			if status, in := c.For(t).signIn(tc.body); status != tc.status || in.Error != tc.code || in.Token != "" {
				t.Errorf("got %d %+v, want %d %s", status, in, tc.status, tc.code)
			}
		})
	}
	if status, in := c.signIn(map[string]string{"provider": "google", "id_token": fresh, "nonce": "n"}); status != http.StatusOK {
		t.Errorf("the token itself, after it was refused in other forms: %d %+v", status, in)
	}
	if won := c.once("/api/auth/app-token", map[string]string{"provider": "google", "id_token": p.signIn("app.ios", ann, "")}); won != 1 {
		t.Errorf("%d of 100 won with one token", won)
	}
	if log := c.Log(); strings.Contains(log, parts[2]) || strings.Contains(log, in.Token) {
		t.Error("a token is in the log")
	}
}

func TestKeysOfAnOpenIDProviderChange(t *testing.T) {
	t.Parallel()
	p := startOpenID(t)
	c := Start(t, Options{Env: map[string]string{"OIDC_GOOGLE_ISSUER": p.issuer, "OIDC_GOOGLE_CLIENT_IDS": "app.ios"}})
	login := func(token string) int {
		t.Helper()
		status, _ := c.signIn(map[string]string{"provider": "google", "id_token": token})
		return status
	}
	const ann = "s1|ann@example.com|true"
	if status := login(p.signIn("app.ios", ann, "")); status != http.StatusOK {
		t.Fatalf("before: %d", status)
	}
	old := p.signIn("app.ios", ann, "")
	p.rotate()
	if status := login(old); status != http.StatusOK {
		t.Errorf("a token from just before the change: %d", status)
	}
	// The new key is looked for 10 s after the last time at the latest. A refused token
	// was not used.
	token := p.signIn("app.ios", ann, "")
	Await(t, stretch*12*time.Second, func() bool { return login(token) == http.StatusOK }, func() string { return "no token of the new keys is taken" })
	last := p.signIn("app.ios", ann, "")
	p.stop()
	for range p.lines { // until it has ended
	}
	if status := login(last); status != http.StatusOK {
		t.Errorf("with a known key while the provider is gone: %d", status)
	}
}

func TestLoginByWeChat(t *testing.T) {
	t.Parallel()
	const secret = "0123456789abcdef-the-app-secret"
	var mu sync.Mutex
	used := map[string]bool{}
	answers := map[string]string{
		"busy": `{"errcode":-1,"errmsg":"system error"}`, "often": `{"errcode":45011,"errmsg":"api minute-quota reach limit"}`,
		"blocked": `{"errcode":40226,"errmsg":"code blocked"}`, "broken": `<html>`,
		"first":  `{"openid":"o-ann","session_key":"HyVFkGl5F5OQWJZZaNzBBg=="}`,
		"second": `{"openid":"o-ann","unionid":"u-ann","session_key":"HyVFkGl5F5OQWJZZaNzBBg=="}`,
		"third":  `{"openid":"o-ann-elsewhere","unionid":"u-ann","session_key":"HyVFkGl5F5OQWJZZaNzBBg=="}`,
		"race":   `{"openid":"o-race","session_key":"HyVFkGl5F5OQWJZZaNzBBg=="}`,
	}
	// WeChat's words, in its media type. "race" is taken again and again, so that it is
	// we who let one win.
	weChat := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		q := r.URL.Query()
		w.Header().Set("Content-Type", "text/plain")
		mu.Lock()
		defer mu.Unlock()
		code := q.Get("js_code")
		answer, known := answers[code]
		switch {
		case r.URL.Path != "/sns/jscode2session" || q.Get("appid") != "wx123" || q.Get("secret") != secret || q.Get("grant_type") != "authorization_code":
			answer = `{"errcode":40125,"errmsg":"invalid appsecret"}`
		case !known:
			answer = `{"errcode":40029,"errmsg":"invalid code"}`
		case used[code] && code != "race":
			answer = `{"errcode":40163,"errmsg":"code been used"}`
		}
		used[code] = true
		_, _ = io.WriteString(w, answer)
	}))
	defer weChat.Close()
	c := Start(t, Options{Env: map[string]string{"WECHAT_APPID": "wx123", "WECHAT_SECRET": secret, "WECHAT_BASE_URL": weChat.URL}})
	ids := map[string]string{}
	for _, tc := range []struct {
		code   string
		status int
		error  string
	}{
		{"first", 200, ""},
		{"second", 200, ""},
		{"third", 200, ""},
		{"first", 401, "invalid_token"},
		{"unknown", 401, "invalid_token"},
		{"blocked", 403, "account_disabled"},
		{"often", 429, "RATE_LIMITED"},
		{"busy", 503, "provider_unavailable"},
		{"broken", 503, "provider_unavailable"},
		{"", 400, "missing_fields"},
	} {
		status, in := c.signIn(map[string]string{"provider": "wechat_miniprogram", "code": tc.code})
		if status != tc.status || in.Error != tc.error {
			t.Errorf("%q: %d %+v, want %d %s", tc.code, status, in, tc.status, tc.error)
		}
		if status == http.StatusOK {
			ids[in.User.ID] = tc.code
		}
	}
	if len(ids) != 1 {
		t.Errorf("one person, first known by an openid, then by a unionid too, then in another app, is %v", ids)
	}
	if won := c.once("/api/auth/app-token", map[string]string{"provider": "wechat_miniprogram", "code": "race"}); won != 1 {
		t.Errorf("%d of 100 won with one code", won)
	}
	weChat.Close()
	if status, in := c.signIn(map[string]string{"provider": "wechat_miniprogram", "code": "later"}); status != http.StatusServiceUnavailable {
		t.Errorf("WeChat is gone: %d %+v", status, in)
	}
	for _, word := range []string{secret, url.QueryEscape(secret), "HyVFkGl5F5OQWJZZaNzBBg", "js_code"} {
		if strings.Contains(c.Log(), word) {
			t.Errorf("the log holds %s", fmt.Sprintf("%.12q", word))
		}
	}
}
