package e2e_test

import (
	"bufio"
	"crypto/rand"
	"crypto/rsa"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"io"
	"math/big"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/golang-jwt/jwt/v5"
)

// issuer is an OpenID issuer and a WeChat on this machine, which say in every refusal
// what they were shown: whoever logs what a provider answers, logs secrets.
type issuer struct {
	*httptest.Server
	v    *voyage
	key  *rsa.PrivateKey
	mu   sync.Mutex
	mood string // "": well; else what goes wrong
	last string // nonce of the latest authorization
}

func newIssuer(t *testing.T) *issuer {
	t.Helper()
	key, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		t.Fatal(err)
	}
	i := &issuer{key: key}
	mux := http.NewServeMux()
	mux.HandleFunc("/.well-known/openid-configuration", func(w http.ResponseWriter, _ *http.Request) {
		_ = json.NewEncoder(w).Encode(object{
			"issuer": i.URL, "jwks_uri": i.URL + "/keys", "authorization_endpoint": i.URL + "/authorize", "token_endpoint": i.URL + "/token",
			"id_token_signing_alg_values_supported": []string{"RS256"},
		})
	})
	mux.HandleFunc("/keys", func(w http.ResponseWriter, _ *http.Request) {
		b64 := base64.RawURLEncoding.EncodeToString
		_ = json.NewEncoder(w).Encode(object{"keys": []object{{
			"kty": "RSA", "use": "sig", "alg": "RS256", "kid": "k", "n": b64(key.N.Bytes()), "e": b64(big.NewInt(int64(key.E)).Bytes()),
		}}})
	})
	mux.HandleFunc("/token", i.trade)
	mux.HandleFunc("/sns/jscode2session", i.weChat)
	i.Server = httptest.NewServer(mux)
	t.Cleanup(i.Close)
	return i
}

// be makes it go well or wrong.
func (i *issuer) be(mood string) {
	i.mu.Lock()
	defer i.mu.Unlock()
	i.mood = mood
}

// wrong answers as the mood has it; false when all is well.
func (i *issuer) wrong(w http.ResponseWriter, r *http.Request) bool {
	i.mu.Lock()
	mood := i.mood
	i.mu.Unlock()
	form, _ := io.ReadAll(r.Body)
	user, password, _ := r.BasicAuth()
	echo := fmt.Sprint(r.URL, " ", string(form), " ", user, " ", password, " ", r.Header)
	switch mood {
	case "":
		r.Body = io.NopCloser(strings.NewReader(string(form)))
		return false
	case "refuses":
		w.Header().Set("Content-Type", "application/json")
		w.WriteHeader(http.StatusBadRequest)
		_ = json.NewEncoder(w).Encode(object{"error": "invalid_grant", "error_description": echo, "errcode": 40029, "errmsg": echo})
	case "fails":
		w.WriteHeader(http.StatusInternalServerError)
		fmt.Fprint(w, echo)
	case "raves":
		fmt.Fprint(w, "{"+echo)
	case "hangs up":
		conn, _, _ := http.NewResponseController(w).Hijack()
		_ = conn.Close()
	case "leads astray":
		http.Redirect(w, r, "http://127.0.0.1:1/?"+url.QueryEscape(echo), http.StatusTemporaryRedirect)
	}
	return true
}

// moods are the ways in which a provider goes wrong.
var moods = []string{"refuses", "fails", "raves", "hangs up", "leads astray"}

// idToken signs an ID token; its signature is a canary.
func (i *issuer) idToken(claims object) string {
	all := jwt.MapClaims{"iss": i.URL, "aud": "client-1", "sub": rand.Text(), "iat": time.Now().Unix(), "exp": time.Now().Add(5 * time.Minute).Unix(), "email_verified": true}
	for k, v := range claims {
		all[k] = v
	}
	token := jwt.NewWithClaims(jwt.SigningMethodRS256, all)
	token.Header["kid"] = "k"
	text := must2(token.SignedString(i.key))
	i.v.plant("ID token "+rand.Text(), text[strings.LastIndexByte(text, '.')+1:])
	return text
}

// trade gives staff's ID token for a code.
func (i *issuer) trade(w http.ResponseWriter, r *http.Request) {
	if i.wrong(w, r) {
		return
	}
	i.mu.Lock()
	nonce := i.last
	i.mu.Unlock()
	w.Header().Set("Content-Type", "application/json")
	_ = json.NewEncoder(w).Encode(object{
		"access_token": i.v.plant("the provider's access token "+rand.Text(), "at-"+rand.Text()), "token_type": "Bearer",
		"id_token": i.idToken(object{"nonce": nonce, "email": "oidc-staff@example.com", "groups": []string{"cloud-admins"}}),
	})
}

// weChat gives a session for a code.
func (i *issuer) weChat(w http.ResponseWriter, r *http.Request) {
	if i.wrong(w, r) {
		return
	}
	_ = json.NewEncoder(w).Encode(object{
		"openid": "openid-" + rand.Text(), "session_key": i.v.plant("a session_key of WeChat "+rand.Text(), base64.StdEncoding.EncodeToString([]byte(rand.Text()[:16]))),
	})
}

// settings are those of a cloud that asks this issuer for everything.
func (i *issuer) settings(s *canaries) map[string]string {
	return map[string]string{
		"OIDC_GOOGLE_CLIENT_IDS": "client-1", "OIDC_GOOGLE_ISSUER": i.URL, "PUBLIC_URL": "http://127.0.0.1:1",
		"WECHAT_APPID": "wx-1", "WECHAT_SECRET": s.plant("WECHAT_SECRET", "wechat"+rand.Text()), "WECHAT_BASE_URL": i.URL,
		"EIOTCLUB_APP_KEY": "app-1", "EIOTCLUB_SECRET": s.plant("EIOTCLUB_SECRET", "carrier"+rand.Text()), "EIOTCLUB_BASE_URL": i.URL,
		"EIOTCLUB_WEBHOOK_SECRET": s.plant("EIOTCLUB_WEBHOOK_SECRET", "notice"+rand.Text()),
		"ADMIN_OIDC_ISSUER":       i.URL, "ADMIN_OIDC_CLIENT_ID": "client-1", "ADMIN_OIDC_CLIENT_SECRET": s.plant("ADMIN_OIDC_CLIENT_SECRET", "oidc+/"+rand.Text()), "ADMIN_OIDC_ADMIN_GROUP": "cloud-admins",
	}
}

// providersVouch lets people in by a provider, in all its moods.
func (v *voyage) providersVouch() {
	code := func() string { return v.plant("a WeChat code "+rand.Text(), "code"+rand.Text()) }
	in := v.send("POST", "/api/auth/app-token", "", object{"provider": "google", "id_token": v.issuer.idToken(object{"email": "google@example.com", "nonce": "n-1"}), "nonce": "n-1"})
	v.token(in)
	v.token(v.send("POST", "/api/auth/app-token", "", object{"provider": "wechat_miniprogram", "code": code()}))
	used := v.issuer.idToken(object{"email": "used@example.com"})
	for range 2 {
		v.send("POST", "/api/auth/app-token", "", object{"provider": "google", "id_token": used})
	}
	for _, claims := range []object{{"aud": "somebody"}, {"exp": 1}, {"iss": "https://accounts.example"}, {"iat": time.Now().Add(time.Hour).Unix()}, {"email": "x@example.com", "email_verified": false}, {"email": "google@example.com"}, {"sub": ""}} {
		v.send("POST", "/api/auth/app-token", "", object{"provider": "google", "id_token": v.issuer.idToken(claims)})
	}
	v.send("POST", "/api/auth/app-token", "", object{"provider": "google", "id_token": v.issuer.idToken(nil) + "x"})
	v.send("POST", "/api/me/identities", v.token(in), object{"provider": "wechat_miniprogram", "code": code()})
	for _, mood := range moods {
		v.issuer.be(mood)
		v.send("POST", "/api/auth/app-token", "", object{"provider": "wechat_miniprogram", "code": code()})
		v.send("POST", "/api/me/identities", v.token(in), object{"provider": "wechat_miniprogram", "code": code()})
	}
	v.issuer.be("")
}

// staffComeByProvider walks the browser's way for staff, in all moods of the provider.
func (v *voyage) staffComeByProvider() {
	for _, mood := range append([]string{""}, moods...) {
		v.issuer.be(mood)
		req := must2(http.NewRequest(http.MethodGet, v.API()+"/admin/auth/oidc", nil))
		res, err := http.DefaultTransport.RoundTrip(req) // follows nothing
		if err != nil {
			v.t.Fatal(err)
		}
		_ = res.Body.Close()
		to, err := url.Parse(res.Header.Get("Location"))
		if err != nil || res.StatusCode != http.StatusFound || len(res.Cookies()) != 1 {
			v.t.Fatalf("%d %v, %v", res.StatusCode, res.Header, err)
		}
		v.issuer.mu.Lock()
		v.issuer.last = to.Query().Get("nonce")
		v.issuer.mu.Unlock()
		v.plant("the cookie of a sign-in "+mood, res.Cookies()[0].Value)
		code := v.plant("the code of a sign-in "+mood, "code+"+rand.Text())
		path := "/admin/auth/oidc/callback?" + url.Values{"code": {code}, "state": {to.Query().Get("state")}}.Encode()
		back := must2(http.NewRequest(http.MethodGet, v.API()+path, nil))
		back.AddCookie(res.Cookies()[0])
		res, err = v.client.Do(back)
		if err != nil {
			v.t.Fatal(err)
		}
		text, _ := io.ReadAll(res.Body)
		_ = res.Body.Close()
		r := v.hear("GET /admin/auth/oidc/callback", reply{res.StatusCode, res.Header, string(text)})
		if (r.status == http.StatusOK) != (mood == "") {
			v.t.Errorf("a provider that %s: %d %s", mood, r.status, r.body)
		}
		v.send("GET", path, "", nil) // without the cookie
		v.send("GET", strings.Replace(path, "state=", "state=x", 1), "", nil)
	}
	v.issuer.be("")
}

// linksAreMailed walks the mailed links, whose tokens lie in the outbox.
func (v *voyage) linksAreMailed() {
	proof := v.plant("the verifier of a link", rand.Text()+rand.Text())
	ask := func(email string) string {
		v.send("POST", "/api/auth/app-magic-link", "", object{"email": email, "install_id": "i1", "code_challenge": challengeOf(proof)})
		return v.plant("the token of a link to "+email, v.inOutbox(v.t, email))
	}
	first := ask("mailed@example.com")
	v.send("GET", "/auth/magic?token="+first, "", nil)
	v.send("HEAD", "/auth/magic?token="+first, "", nil)
	v.send("POST", "/api/auth/app-magic-link/verify", "", object{"token": first, "install_id": "i1", "code_verifier": proof + "x"})
	v.send("POST", "/api/auth/app-magic-link/verify", "", object{"token": first, "install_id": "i2", "code_verifier": proof})
	second := ask("mailed2@example.com")
	for range 2 {
		v.send("POST", "/api/auth/app-magic-link/verify", "", object{"token": second, "install_id": "i1", "code_verifier": proof, "device": object{"platform": "ios", "name": "Phone"}})
	}
	v.bodies("/api/auth/app-magic-link/verify", "", ask("mailed3@example.com"), "token", "code_verifier", "install_id")
	v.bodies("/api/auth/app-magic-link", "", proof, "code_challenge", "email", "install_id")
}

// staffManage hires, arms and dismisses staff, and employs programs.
func (v *voyage) staffManage() {
	password := v.plant("the password of a new member", "member+"+rand.Text())
	body := object{"email": "new-member@example.com", "password": password, "role": "admin"}
	v.bodies("/admin/staff", v.admin, password, "password", "email", "role")
	id := v.text(v.send("POST", "/admin/staff", v.admin, body), "admin_id")
	v.send("POST", "/admin/staff", v.admin, body)
	member := v.token(v.send("POST", "/admin/auth/login", "", object{"email": "new-member@example.com", "password": password}))
	secret := v.text(v.send("POST", "/admin/auth/totp", member, nil), "secret")
	v.plant("the bytes of a TOTP secret", string(must2(decode32(secret))))
	code := authenticator(v.t, secret, -1)
	v.send("POST", "/admin/auth/totp/confirm", member, object{"code": "000000"})
	v.send("POST", "/admin/auth/totp/confirm", member, object{"code": secret})
	v.send("POST", "/admin/auth/totp/confirm", member, object{"code": code})
	login := object{"email": "new-member@example.com", "password": password}
	v.send("POST", "/admin/auth/login", "", login)
	for _, totp := range []string{"000000", secret, code, authenticator(v.t, secret, 0), authenticator(v.t, secret, 0)} {
		login["totp"] = totp
		v.send("POST", "/admin/auth/login", "", login)
	}
	v.send("GET", "/admin/staff", v.admin, nil)
	v.send("DELETE", "/admin/staff/"+id+"/totp", v.admin, nil)
	v.send("PATCH", "/admin/staff/"+id, v.admin, object{"disabled": true})

	made := v.send("POST", "/admin/service-accounts", v.admin, object{"name": "factory", "scopes": []string{"device:enroll", "device:read"}})
	client, clientSecret := v.text(made, "client_id"), v.text(made, "client_secret")
	key := v.send("POST", "/admin/service-accounts/"+client+"/keys", v.admin, object{"name": "line 1"})
	apiKey := v.text(key, "api_key")
	wrong := v.plant("a client secret that is none", rand.Text()+rand.Text()[:17])
	form := func(values url.Values, change func(*http.Request)) {
		req := must2(http.NewRequest(http.MethodPost, v.API()+"/oauth/token", strings.NewReader(values.Encode())))
		req.Header.Set("Content-Type", "application/x-www-form-urlencoded")
		if change != nil {
			change(req)
		}
		res, err := v.client.Do(req)
		if err != nil {
			v.t.Fatal(err)
		}
		text, _ := io.ReadAll(res.Body)
		_ = res.Body.Close()
		v.hear("POST /oauth/token", reply{res.StatusCode, res.Header, string(text)})
	}
	grant := url.Values{"grant_type": {"client_credentials"}}
	basic := func(id, secret string) func(*http.Request) {
		return func(r *http.Request) { r.SetBasicAuth(id, secret) }
	}
	form(grant, basic(client, clientSecret))
	form(grant, basic(client, wrong))
	form(grant, basic(clientSecret, client))
	form(url.Values{"grant_type": {"client_credentials"}, "client_id": {client}, "client_secret": {clientSecret}}, basic(client, clientSecret))
	form(url.Values{"grant_type": {clientSecret}, "scope": {clientSecret}, "client_id": {clientSecret}, "client_secret": {clientSecret}}, nil)
	form(url.Values{"grant_type": {"password"}, "username": {"x"}, "password": {wrong}}, nil)
	v.bodies("/oauth/token", "", clientSecret, "client_secret", "client_id")
	v.send("GET", "/api/devices", apiKey, nil)
	v.send("GET", "/api/devices", apiKey+"x", nil)
	v.send("GET", "/api/devices", "bk_"+wrong, nil)
	for _, path := range []string{"", "/" + client, "/" + client + "/keys"} {
		v.send("GET", "/admin/service-accounts"+path, v.admin, nil)
	}
	v.send("POST", "/admin/service-accounts/"+client+"/secret", v.admin, nil)
	v.send("DELETE", "/admin/service-accounts/"+client+"/keys/"+v.text(key, "key_id"), v.admin, nil)
	v.send("GET", "/api/devices", apiKey, nil)
	v.send("GET", "/admin/users?q="+url.QueryEscape(apiKey), v.admin, nil)
	v.send("DELETE", "/admin/service-accounts/"+client+"/keys/"+apiKey, v.admin, nil) // pasted where its id belongs
	v.send("GET", "/admin/service-accounts/"+clientSecret, v.admin, nil)
}

// echoingMailServer is a mail server that says in every refusal what it was told.
type echoingMailServer struct {
	net.Listener
	mu    sync.Mutex
	heard strings.Builder
	takes bool // mails; else it refuses each step in turn
	turn  int
}

func newEchoingMailServer(t *testing.T) *echoingMailServer {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	p := &echoingMailServer{Listener: l, takes: true}
	t.Cleanup(func() { _ = l.Close() })
	go func() {
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			go p.serve(conn)
		}
	}()
	return p
}

func (p *echoingMailServer) serve(conn net.Conn) {
	defer conn.Close()
	p.mu.Lock()
	refuse := ""
	if !p.takes {
		refuse = []string{"AUTH", "MAIL", "RCPT", "DATA", "."}[p.turn%5]
		p.turn++
	}
	p.mu.Unlock()
	fmt.Fprint(conn, "220 here\r\n")
	inMail := false
	for lines := bufio.NewScanner(conn); lines.Scan(); {
		line := lines.Text()
		p.mu.Lock()
		p.heard.WriteString(line + "\n")
		p.mu.Unlock()
		verb, _, _ := strings.Cut(strings.ToUpper(line), " ")
		switch {
		case inMail && line != ".":
		case refuse != "" && verb == refuse:
			fmt.Fprintf(conn, "554 5.7.1 no, not %s\r\n", line)
			inMail = false
		case inMail:
			inMail = false
			fmt.Fprint(conn, "250 taken\r\n")
		case verb == "EHLO":
			fmt.Fprint(conn, "250-here\r\n250 AUTH PLAIN LOGIN\r\n")
		case verb == "AUTH":
			fmt.Fprint(conn, "235 welcome\r\n")
		case verb == "DATA":
			inMail = true
			fmt.Fprint(conn, "354 go on\r\n")
		case verb == "QUIT":
			fmt.Fprint(conn, "221 bye\r\n")
			return
		default:
			fmt.Fprint(conn, "250 yes\r\n")
		}
	}
}

func (p *echoingMailServer) letters() string {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.heard.String()
}

// TestNoSecretLeavesThroughMail walks the mailed links with a mail server that takes,
// refuses and repeats what it is told.
func TestNoSecretLeavesThroughMail(t *testing.T) {
	t.Parallel()
	office, secrets := newEchoingMailServer(t), newCanaries()
	password := secrets.plant("the password of SMTP_URL", "smtp+/"+rand.Text())
	secrets.plant("the login of SMTP_URL", base64.StdEncoding.EncodeToString([]byte("\x00cloud\x00"+password)))
	mail := url.URL{Scheme: "smtp", User: url.UserPassword("cloud", password), Host: office.Addr().String()}
	c := Start(t, Options{Env: map[string]string{"SMTP_URL": mail.String(), "MAIL_FROM": "cloud@example.com"}})
	ask := func(email string) {
		secrets.record(t, c, request{method: "POST", path: "/api/auth/app-magic-link", body: string(must2(json.Marshal(object{
			"email": email, "install_id": "i1", "code_challenge": challengeOf(secrets.plant("a verifier for "+email, rand.Text()+rand.Text())),
		})))})
	}
	learn := func(n int) {
		Await(t, 30*time.Second, func() bool {
			return len(mailedToken.FindAllString(plain(office.letters()), -1)) >= n
		}, func() string { return "mails are missing:\n" + office.letters() })
		for i, found := range mailedToken.FindAllStringSubmatch(plain(office.letters()), -1) {
			secrets.plant(fmt.Sprintf("the token of mail %d", i), found[1])
		}
	}
	ask("taken@example.com")
	learn(1)
	if !strings.Contains(office.letters(), base64.StdEncoding.EncodeToString([]byte("\x00cloud\x00"+password))) {
		t.Errorf("the password did not go there:\n%s", office.letters())
	}
	office.mu.Lock()
	office.takes = false
	office.mu.Unlock()
	for i := range 5 {
		ask(fmt.Sprintf("refused-%d@example.com", i))
	}
	learn(2) // of what was refused after the mail itself
	Await(t, 60*time.Second, func() bool {
		office.mu.Lock()
		defer office.mu.Unlock()
		return office.turn >= 5
	}, func() string { return "the mails are not tried" })
	_ = office.Close()
	ask("nobody-there@example.com")
	c.Stop() // what is under way is given up, and logged
	c.Restart()
	for _, f := range secrets.sweep(t, c) {
		t.Error(f)
	}
	if !strings.Contains(c.Log(), "mail") {
		t.Error("the log says nothing of mails")
	}
}

// TestNoSecretLeavesOnPostgreSQL keeps the registry where the password of DATABASE_URL
// is needed, and then where it is of no use.
func TestNoSecretLeavesOnPostgreSQL(t *testing.T) {
	t.Parallel()
	secrets := newCanaries()
	at, err := url.Parse(postgres.URL(t))
	if err != nil {
		t.Fatal(err)
	}
	at.User = url.UserPassword(at.User.Username(), secrets.plant("the password of DATABASE_URL", "postgres+/"+rand.Text()))
	v := &voyage{t: t, canaries: secrets, password: adminPassword}
	v.Cloud = Start(t, Options{Env: map[string]string{"DATABASE_URL": at.String()}})
	v.admin = v.token(v.send("POST", "/admin/auth/login", "", object{"email": adminEmail, "password": adminPassword}))
	v.staffSignsIn()
	v.devicesComeIn()
	v.staffLooks()
	elsewhere := *at
	elsewhere.Path = "/no_such_database"
	v.badStart(map[string]string{"DATABASE_URL": elsewhere.String()})
	elsewhere = *at
	elsewhere.User = url.UserPassword("nobody_"+rand.Text()[:8], secrets.plant("another password", "nobody+"+rand.Text()))
	v.badStart(map[string]string{"DATABASE_URL": elsewhere.String()})
	for _, f := range secrets.sweep(t, v.Cloud) {
		t.Error(f)
	}
}

// plain undoes the line breaks and the escapes of quoted-printable.
func plain(mail string) string {
	return strings.NewReplacer("=\r\n", "", "=\n", "", "=3D", "=").Replace(mail)
}
