package e2e_test

import (
	"crypto/ed25519"
	"crypto/rand"
	"crypto/x509"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"maps"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/golang-jwt/jwt/v5"
	"github.com/opticworks/devicecloud/firmware-sim/mqttwire"
)

// mint makes access tokens of the cloud under test, good ones and others.
type mint struct {
	t      *testing.T
	key    ed25519.PrivateKey // the cloud's own
	text   string             // a genuine token
	header map[string]any
	claims jwt.MapClaims
}

// startWithKey starts a cloud whose signing key the test knows.
func startWithKey(t *testing.T) (*Cloud, ed25519.PrivateKey) {
	t.Helper()
	_, key, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	der, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(t.TempDir(), "token-key.pem")
	if err := os.WriteFile(file, pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der}), 0o600); err != nil {
		t.Fatal(err)
	}
	return Start(t, Options{Env: map[string]string{"TOKEN_SIGNING_KEY_FILE": file}}), key
}

func newMint(t *testing.T, key ed25519.PrivateKey, genuine string) mint {
	t.Helper()
	claims := jwt.MapClaims{}
	token, _, err := jwt.NewParser().ParseUnverified(genuine, claims)
	if err != nil {
		t.Fatal(err)
	}
	return mint{t, key, genuine, token.Header, claims}
}

// sign makes a token of changed parts; a claim or header that is changed to nil is
// left out.
func (m mint) sign(method jwt.SigningMethod, key any, header, claims map[string]any) string {
	m.t.Helper()
	token := jwt.NewWithClaims(method, maps.Clone(m.claims))
	alg := token.Header["alg"]
	maps.Copy(token.Header, m.header)
	token.Header["alg"] = alg
	for into, changes := range map[*map[string]any]map[string]any{&token.Header: header, ptr(map[string]any(token.Claims.(jwt.MapClaims))): claims} {
		for k, v := range changes {
			if (*into)[k] = v; v == nil {
				delete(*into, k)
			}
		}
	}
	text, err := token.SignedString(key)
	if err != nil {
		m.t.Fatal(err)
	}
	return text
}

// with is a token that the cloud's own key signs, with one claim changed.
func (m mint) with(claim string, v any) string {
	return m.sign(jwt.SigningMethodEdDSA, m.key, nil, map[string]any{claim: v})
}

// headed is a token that the cloud's own key signs, with one header changed.
func (m mint) headed(name string, v any) string {
	return m.sign(jwt.SigningMethodEdDSA, m.key, map[string]any{name: v}, nil)
}

// forgeries are tokens that nobody may be let in by. other is a genuine token of
// somebody else, for splicing.
func (m mint) forgeries(other string) map[string]string {
	public := m.key.Public().(ed25519.PublicKey)
	der, err := x509.MarshalPKIXPublicKey(public)
	if err != nil {
		m.t.Fatal(err)
	}
	jwk, _ := json.Marshal(map[string]string{"kty": "OKP", "crv": "Ed25519", "x": base64.RawURLEncoding.EncodeToString(public)})
	_, stranger, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		m.t.Fatal(err)
	}
	strangers := base64.RawURLEncoding.EncodeToString(stranger.Public().(ed25519.PublicKey))
	now := time.Now()
	all := map[string]string{
		"nothing signs it":                                 m.sign(jwt.SigningMethodNone, jwt.UnsafeAllowNoneSignatureType, nil, nil),
		"a stranger signs":                                 m.sign(jwt.SigningMethodEdDSA, stranger, nil, nil),
		"a stranger signs and brings the key along":        m.sign(jwt.SigningMethodEdDSA, stranger, map[string]any{"jwk": map[string]string{"kty": "OKP", "crv": "Ed25519", "x": strangers}}, nil),
		"a stranger signs and says where the key is":       m.sign(jwt.SigningMethodEdDSA, stranger, map[string]any{"jku": "http://127.0.0.1:1/jwks.json", "x5u": "http://127.0.0.1:1/"}, nil),
		"a stranger signs under a key id of theirs":        m.sign(jwt.SigningMethodEdDSA, stranger, map[string]any{"kid": "k2"}, nil),
		"an empty key signs under a path that reads empty": m.sign(jwt.SigningMethodHS256, []byte{}, map[string]any{"kid": "../../../../../../dev/null"}, nil),
		"a key id that is a path":                          m.headed("kid", "../../../../etc/passwd"),
		"a key id that is SQL":                             m.headed("kid", "' UNION SELECT 'x' --"),
		"a key id that nobody has":                         m.headed("kid", "2026-01a"),
		"an empty key id":                                  m.headed("kid", ""),
		"no key id":                                        m.headed("kid", nil),
		"a key id that is a number":                        m.headed("kid", 1),
		"a type of another kind of token":                  m.headed("typ", "JWT"),
		"the type of a refresh token":                      m.headed("typ", "rt+jwt"),
		"the type of an ID token":                          m.headed("typ", "id+jwt"),
		"no type":                                          m.headed("typ", nil),
		"a critical header":                                m.headed("crit", []string{"exp"}),
		"another issuer":                                   m.with("iss", "https://accounts.google.com"),
		"the issuer with a slash":                          m.with("iss", fmt.Sprint(m.claims["iss"])+"/"),
		"no issuer":                                        m.with("iss", nil),
		"another audience":                                 m.with("aud", "other"),
		"two audiences":                                    m.with("aud", []string{"app", "admin", "service"}),
		"no audience":                                      m.with("aud", nil),
		"expired a second ago":                             m.with("exp", now.Add(-time.Second).Unix()),
		"expired just now":                                 m.with("exp", now.Unix()),
		"expired a year ago":                               m.with("exp", now.AddDate(-1, 0, 0).Unix()),
		"an expiry of 0":                                   m.with("exp", 0),
		"an expiry before all time":                        m.with("exp", -1),
		"an expiry that is text":                           m.with("exp", "tomorrow"),
		"an expiry that is no number":                      m.with("exp", map[string]any{}),
		"no expiry":                                        m.with("exp", nil),
		"not valid before the next minute":                 m.with("nbf", now.Add(time.Minute).Unix()),
		"issued in ten minutes":                            m.with("iat", now.Add(10*time.Minute).Unix()),
		"issued never":                                     m.with("iat", nil),
		"no subject":                                       m.with("sub", nil),
		"an empty subject":                                 m.with("sub", ""),
		"no session":                                       m.with("sid", nil),
		"an empty session":                                 m.with("sid", ""),
		"nothing":                                          "x",
		"three empty parts":                                "..",
		"a refresh token":                                  base64.RawURLEncoding.EncodeToString(public),
		"an API key":                                       "bk_abc_" + strangers,
		"an HMAC password of a device":                     "v1.1700000000.AAAA",
		"the key set":                                      string(jwk),
		"longer than any":                                  m.text + strings.Repeat("A", 9000),
		"a space in the middle":                            strings.Replace(m.text, ".", ". ", 1),
		"standard base64":                                  strings.NewReplacer("-", "+", "_", "/").Replace(m.text) + "=",
		"one part":                                         strings.Split(m.text, ".")[0],
		"a fourth part":                                    m.text + ".e30",
		"the role of an administrator":                     m.with("role", "admin"),
		"the audience of staff and the role of nobody there": m.sign(jwt.SigningMethodEdDSA, m.key, nil, map[string]any{"aud": "admin", "role": "root"}),
	}
	for name, secret := range map[string][]byte{
		"the raw bytes": public, "the text": []byte(strangers), "DER": der, "PEM": pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: der}), "the key set's entry": jwk, "nothing": {},
	} {
		for _, method := range []jwt.SigningMethod{jwt.SigningMethodHS256, jwt.SigningMethodHS512} {
			all[method.Alg()+" with the public key: "+name] = m.sign(method, secret, nil, nil)
		}
	}
	parts, theirs := strings.Split(m.text, "."), strings.Split(other, ".")
	for _, alg := range []string{"none", "None", "NONE", "nOnE", "", "EDDSA", "HS256", "ES256", "RS256"} {
		header, _ := json.Marshal(map[string]any{"alg": alg, "typ": m.header["typ"], "kid": m.header["kid"]})
		for kind, signature := range map[string]string{"no signature": "", "the signature": parts[2]} {
			all["alg "+alg+" and "+kind] = base64.RawURLEncoding.EncodeToString(header) + "." + parts[1] + "." + signature
		}
	}
	all["somebody else's claims"] = parts[0] + "." + theirs[1] + "." + parts[2]
	all["somebody else's signature"] = parts[0] + "." + parts[1] + "." + theirs[2]
	all["another session's id"] = parts[0] + "." + m.spliced(parts[1], "sid", newMint(m.t, m.key, other).claims["sid"]) + "." + parts[2]
	all["another person's id"] = parts[0] + "." + m.spliced(parts[1], "sub", newMint(m.t, m.key, other).claims["sub"]) + "." + parts[2]
	all["an hour more"] = parts[0] + "." + m.spliced(parts[1], "exp", m.claims["exp"].(float64)+3600) + "." + parts[2]
	for n := range len(parts[2]) {
		all[fmt.Sprintf("%d characters of the signature", n)] = parts[0] + "." + parts[1] + "." + parts[2][:n]
	}
	signature, err := base64.RawURLEncoding.DecodeString(parts[2])
	if err != nil {
		m.t.Fatal(err)
	}
	for i := range signature {
		bent := []byte(string(signature))
		bent[i] ^= 1
		all[fmt.Sprintf("byte %d of the signature", i)] = parts[0] + "." + parts[1] + "." + base64.RawURLEncoding.EncodeToString(bent)
	}
	return all
}

// spliced changes a claim in an encoded part, whose signature then is no longer one.
func (m mint) spliced(part, claim string, v any) string {
	m.t.Helper()
	text, err := base64.RawURLEncoding.DecodeString(part)
	claims := map[string]any{}
	if err == nil {
		err = json.Unmarshal(text, &claims)
	}
	if err != nil {
		m.t.Fatal(err)
	}
	claims[claim] = v
	text, err = json.Marshal(claims)
	if err != nil {
		m.t.Fatal(err)
	}
	return base64.RawURLEncoding.EncodeToString(text)
}

// TestForgedTokensAreRefusedAlike shows every kind of forged token to HTTP and to
// MQTT. All are answered like no token at all, byte by byte.
func TestForgedTokensAreRefusedAlike(t *testing.T) {
	t.Parallel()
	c, key := startWithKey(t)
	one, two, staff := c.UserToken("one@example.com"), c.UserToken("two@example.com"), c.staff(t)
	th := &theatre{Cloud: c, staff: map[string]User{}}
	program := th.employ(t, `["device:read"]`)
	for _, who := range []struct {
		name  string
		user  User
		hello func(User, string, mqttwire.Version) mqttwire.Connect
		path  string
	}{{"a person", one, personHello, "/api/me"}, {"an administrator", staff, staffHello, "/admin/stats"}, {"a service account", User{ID: program.id, Token: program.token}, serviceHello, "/api/devices"}} {
		m := newMint(t, key, who.user.Token)
		t.Run(who.name+" gets in by the genuine token and by what is as good", func(t *testing.T) {
			now := time.Now()
			for name, token := range map[string]string{
				"genuine": m.text, "signed again": m.with("jti", "another"), "still good for a while": m.with("exp", now.Add(20*time.Second).Unix()),
				"valid since now": m.with("nbf", now.Unix()), "issued by a clock that is ahead": m.with("iat", now.Add(30*time.Second).Unix()),
			} {
				if r := c.exchange(t, request{method: http.MethodGet, path: who.path, token: token}); r.status != http.StatusOK {
					t.Errorf("%s: %d %s", name, r.status, r.body)
				}
				user := who.user
				user.Token = token
				c.open(t, who.hello(user, name[:5], mqttwire.V5))
			}
		})
		forged := m.forgeries(two.Token)
		forged["a refresh token"], forged["an API key without its last letter"], forged["a client secret"] = one.Refresh, program.key[:len(program.key)-1], program.secret
		switch who.name {
		case "an administrator": // what makes a person's token a forgery is theirs by right
			delete(forged, "the role of an administrator")
			forged["the role of nobody"] = m.with("role", "root")
			forged["no role"] = m.with("role", nil)
			forged["the audience of people"] = m.with("aud", "app")
			forged["the audience of services"] = m.with("aud", "service")
		case "a person":
			forged["the audience of staff"] = m.with("aud", "admin")
		case "a service account":
			forged["the audience of staff"] = m.with("aud", "admin")
		}
		t.Logf("%d forgeries of %s", len(forged), who.name)
		t.Run(who.name+" gets in by none of the forgeries over HTTP", func(t *testing.T) {
			bare := c.exchange(t, request{method: http.MethodGet, path: who.path})
			for name, token := range forged {
				got := c.exchange(t, request{method: http.MethodGet, path: who.path, token: token})
				if got.status != http.StatusUnauthorized || !strings.Contains(got.body, `"invalid_token"`) || got.header.Get("WWW-Authenticate") != `Bearer error="invalid_token"` {
					t.Errorf("%s: %d %v %s", name, got.status, got.header, got.body)
				}
				if diff := sameButForTheRequest(bare, got); diff != "" {
					t.Errorf("%s is told apart:\n%s", name, diff)
				}
			}
		})
		t.Run(who.name+" gets in by none of the forgeries over MQTT", func(t *testing.T) {
			for _, v := range bothVersions {
				answers := map[string]string{}
				for name, token := range forged {
					user := who.user
					user.Token = token
					hello := who.hello(user, "forged", v)
					answer, _, err := c.rawConnect(must(t, &mqttwire.Packet{Type: mqttwire.CONNECT, Connect: &hello}, v))
					if err != nil && len(token) < 4096 {
						t.Errorf("MQTT %s: %s: %v", v, name, err)
					}
					if len(token) < 4096 { // longer ones are cut off by the wire guard before they are read
						answers[string(answer)] = name
					}
				}
				want := map[mqttwire.Version]mqttwire.ReasonCode{mqttwire.V311: mqttwire.Refused311Credential, mqttwire.V5: mqttwire.BadUserNameOrPassword}[v]
				for answer, name := range answers {
					p, err := mqttwire.Decode([]byte(answer), v)
					if err != nil || p.Type != mqttwire.CONNACK || p.ReasonCode != want {
						t.Errorf("MQTT %s: %s is answered % x: %+v, %v", v, name, answer, p, err)
					}
				}
				if len(answers) != 1 {
					t.Errorf("MQTT %s: the answers differ: %q", v, answers)
				}
			}
		})
	}
}

// TestAPublishedKeyIsNotTakenWhileRunning puts keys that anybody could have into the
// key file of a running program, and signs with them.
func TestAPublishedKeyIsNotTakenWhileRunning(t *testing.T) {
	t.Parallel()
	here := newSite(t)
	env := here.settings(t)
	c := Start(t, Options{Production: true, Env: env, TLS: here.client()})
	genuine := c.staff(t)
	const complaint = "the signing keys cannot be read anew"
	for name, seed := range map[string]string{
		"a key of RFC 8410": "d4ee72dbf913584ad5b6d8f1f769f8ad3afe7c28cbf1d4fbe097a88f44755842", "a key of zeros": strings.Repeat("00", 32), "a key of text": hex.EncodeToString([]byte("this is a secret key of 32 bytes")),
	} {
		raw, err := hex.DecodeString(seed)
		if err != nil {
			t.Fatal(err)
		}
		key := ed25519.NewKeyFromSeed(raw)
		der, err := x509.MarshalPKCS8PrivateKey(key)
		if err != nil {
			t.Fatal(err)
		}
		before := strings.Count(c.Log(), complaint)
		if err := os.WriteFile(env["TOKEN_SIGNING_KEY_FILE"], pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der}), 0o600); err != nil {
			t.Fatal(err)
		}
		Await(t, 15*time.Second, func() bool { return strings.Count(c.Log(), complaint) > before }, func() string { return "nobody complains of " + name })
		var set struct{ Keys []struct{ X string } }
		c.Get("/.well-known/jwks.json", "", &set)
		if len(set.Keys) != 1 || set.Keys[0].X == base64.RawURLEncoding.EncodeToString(key.Public().(ed25519.PublicKey)) {
			t.Errorf("%s is published: %v", name, set)
		}
		if r := c.exchange(t, request{method: http.MethodGet, path: "/admin/stats", token: newMint(t, key, genuine.Token).sign(jwt.SigningMethodEdDSA, key, nil, nil)}); r.status != http.StatusUnauthorized {
			t.Errorf("%s signs somebody in: %d", name, r.status)
		}
		if r := c.exchange(t, request{method: http.MethodGet, path: "/admin/stats", token: genuine.Token}); r.status != http.StatusOK {
			t.Errorf("after %s a genuine token gets %d", name, r.status)
		}
	}
}

// serviceHello is the CONNECT of a service account.
func serviceHello(u User, client string, v mqttwire.Version) mqttwire.Connect {
	hello := personHello(u, client, v)
	hello.ClientID, hello.Username = "s:"+u.ID+":"+client, "s:"+u.ID
	return hello
}

// TestCredentialsOfServicesEndWhenTheyAreTakenBack shows keys and tokens of service
// accounts after each way to take them back, and keys that were never given out.
func TestCredentialsOfServicesEndWhenTheyAreTakenBack(t *testing.T) {
	t.Parallel()
	c, _ := startWithKey(t)
	th := &theatre{Cloud: c, staff: map[string]User{}}
	admin := th.staffToken(t, "admin")
	other := th.employ(t, `["device:read"]`)
	bare := c.exchange(t, request{method: http.MethodGet, path: "/api/devices"})
	refused := func(t *testing.T, name, id, token string) {
		t.Helper()
		if diff := sameButForTheRequest(bare, c.exchange(t, request{method: http.MethodGet, path: "/api/devices", token: token})); diff != "" {
			t.Errorf("%s is told apart:\n%s", name, diff)
		}
		client, _, err := c.try(serviceHello(User{ID: id, Token: token}, "x", mqttwire.V5))
		if err == nil {
			_ = client.Close()
		}
		if refusalCode(err) != mqttwire.BadUserNameOrPassword {
			t.Errorf("%s over MQTT: %v", name, err)
		}
	}
	t.Run("what was never given out", func(t *testing.T) {
		p := th.employ(t, `["device:read"]`)
		secret := strings.SplitN(p.key, "_", 3)[2] // which may hold a _ too
		bent := []byte(secret)
		bent[3] ^= 3
		for name, key := range map[string]string{
			"another's id with one's own secret": "bk_" + other.keyID + "_" + secret, "an id that nobody has": "bk_0123456789abcdef_" + secret, "a bent secret": "bk_" + p.keyID + "_" + string(bent),
			"no secret": "bk_" + p.keyID + "_", "no id": "bk__" + secret, "the secret alone": secret, "the id alone": p.keyID, "an upper-case id": "bk_" + strings.ToUpper(p.keyID) + "_" + secret,
			"an upper-case prefix": "BK_" + p.keyID + "_" + secret, "half a secret": p.key[:len(p.key)-20], "one letter more": p.key + "A", "padding": p.key + "=", "the client secret as a key": "bk_" + p.keyID + "_" + p.secret,
			"the client secret": p.secret, "a key twice": p.key + p.key, "SQL as id": "bk_' OR 1=1 --____" + secret, "a wildcard as id": "bk_%%%%%%%%%%%%%%%%_" + secret,
		} {
			refused(t, name, p.id, key)
		}
		if got := c.exchange(t, request{method: http.MethodGet, path: "/api/devices", token: p.key}); got.status != http.StatusOK {
			t.Errorf("the key itself gets %d", got.status)
		}
	})
	for name, take := range map[string]struct {
		back       func(p client) int
		key, token bool // ends with it
	}{
		"its key is revoked": {func(p client) int {
			return c.Do(http.MethodDelete, "/admin/service-accounts/"+p.id+"/keys/"+p.keyID, admin, nil, nil)
		}, true, false},
		"its secret is replaced": {func(p client) int {
			return c.Do(http.MethodPost, "/admin/service-accounts/"+p.id+"/secret", admin, nil, nil)
		}, false, true},
		"the account is disabled": {func(p client) int {
			return c.Do(http.MethodPost, "/admin/service-accounts/"+p.id+"/disable", admin, nil, nil)
		}, true, true},
		"the account is deleted": {func(p client) int { return c.Do(http.MethodDelete, "/admin/service-accounts/"+p.id, admin, nil, nil) }, true, true},
	} {
		t.Run("when "+name, func(t *testing.T) {
			p := th.employ(t, `["device:read"]`)
			open := map[string]*mqttwire.Client{}
			for what, token := range map[string]string{"the key": p.key, "the token": p.token} {
				open[what] = c.open(t, serviceHello(User{ID: p.id, Token: token}, what[4:], mqttwire.V5))
			}
			if status := take.back(p); status != http.StatusOK {
				t.Fatalf("answered %d", status)
			}
			for what, ends := range map[string]bool{"the key": take.key, "the token": take.token} {
				token := map[string]string{"the key": p.key, "the token": p.token}[what]
				if !ends {
					if got := c.exchange(t, request{method: http.MethodGet, path: "/api/devices", token: token}); got.status != http.StatusOK || open[what].Ping() != nil {
						t.Errorf("%s gets %d %s", what, got.status, got.body)
					}
					continue
				}
				refused(t, what, p.id, token)
				if _, closed := closedWithin(open[what], time.Second*stretch); !closed {
					t.Errorf("the connection of %s stays open", what)
				}
			}
			if !take.token {
				return
			}
			r := c.exchange(t, request{http.MethodPost, "/oauth/token", "", "application/x-www-form-urlencoded", "grant_type=client_credentials&client_id=" + p.id + "&client_secret=" + p.secret})
			if r.status != http.StatusUnauthorized || !strings.Contains(r.body, "invalid_client") {
				t.Errorf("the secret gets %d %s", r.status, r.body)
			}
		})
	}
}

// TestTokensWorkOnlyWhereTheyBelong carries genuine tokens to the wrong places.
func TestTokensWorkOnlyWhereTheyBelong(t *testing.T) {
	t.Parallel()
	c, _ := startWithKey(t)
	one, two, staff := c.UserToken("one@example.com"), c.UserToken("two@example.com"), c.staff(t)
	d := c.Enroll()
	t.Run("HTTP takes them from one Authorization header", func(t *testing.T) {
		for name, change := range map[string]func(*http.Request){
			"in the query":             func(r *http.Request) { r.URL.RawQuery = "access_token=" + one.Token },
			"in a cookie":              func(r *http.Request) { r.Header.Set("Cookie", "access_token="+one.Token) },
			"as the password of Basic": func(r *http.Request) { r.SetBasicAuth("u:"+one.ID, one.Token) },
			"under another scheme":     func(r *http.Request) { r.Header.Set("Authorization", "Token "+one.Token) },
			"without a scheme":         func(r *http.Request) { r.Header.Set("Authorization", one.Token) },
			"in quotes":                func(r *http.Request) { r.Header.Set("Authorization", `Bearer "`+one.Token+`"`) },
			"two of them": func(r *http.Request) {
				r.Header["Authorization"] = []string{"Bearer " + one.Token, "Bearer " + staff.Token}
			},
			"two in one header":              func(r *http.Request) { r.Header.Set("Authorization", "Bearer "+one.Token+", Bearer "+staff.Token) },
			"in X-Forwarded-Authorization":   func(r *http.Request) { r.Header.Set("X-Forwarded-Authorization", "Bearer "+one.Token) },
			"a device's id and secret":       func(r *http.Request) { r.SetBasicAuth(d.ID, d.Secret) },
			"a device's secret as the token": func(r *http.Request) { r.Header.Set("Authorization", "Bearer "+d.Secret) },
		} {
			req, err := http.NewRequest(http.MethodGet, c.API()+"/api/me", nil)
			if err != nil {
				t.Fatal(err)
			}
			change(req)
			res, err := c.client.Do(req)
			if err != nil {
				t.Fatal(err)
			}
			_ = res.Body.Close()
			if res.StatusCode != http.StatusUnauthorized {
				t.Errorf("%s: %d", name, res.StatusCode)
			}
		}
	})
	t.Run("MQTT takes them under their own name", func(t *testing.T) {
		for name, hello := range map[string]mqttwire.Connect{
			"another person's token":      personHello(User{ID: two.ID, Token: one.Token}, "x", mqttwire.V5),
			"staff's token of a person":   personHello(User{ID: one.ID, Token: staff.Token}, "x", mqttwire.V5),
			"staff's token as a person":   personHello(staff, "x", mqttwire.V5),
			"a person's token as staff":   staffHello(one, "x", mqttwire.V5),
			"a person's token as service": {Version: mqttwire.V5, ClientID: "s:" + one.ID + ":x", Username: "s:" + one.ID, Password: []byte(one.Token)},
			"a person's token as device":  {Version: mqttwire.V5, ClientID: d.ID, Username: d.ID, Password: []byte(one.Token)},
			"a device's secret as person": personHello(User{ID: one.ID, Token: d.Secret}, "x", mqttwire.V5),
			"a token behind Bearer":       personHello(User{ID: one.ID, Token: "Bearer " + one.Token}, "x", mqttwire.V5),
			"a token and a line break":    personHello(User{ID: one.ID, Token: one.Token + "\n"}, "x", mqttwire.V5),
			"a token and a zero byte":     personHello(User{ID: one.ID, Token: one.Token + "\x00"}, "x", mqttwire.V5),
			"a token as the name":         {Version: mqttwire.V5, ClientID: one.Token, Username: one.Token},
		} {
			client, _, err := c.try(hello)
			if err == nil {
				_ = client.Close()
			}
			if code := refusalCode(err); code != mqttwire.BadUserNameOrPassword && code != mqttwire.ClientIdentifierNotValid {
				t.Errorf("%s: %v", name, err)
			}
		}
	})
}
