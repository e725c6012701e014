package account_test

import (
	"context"
	"crypto/ed25519"
	"crypto/rand"
	"encoding/base64"
	"encoding/json"
	"errors"
	"maps"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/golang-jwt/jwt/v5"
	"github.com/opticworks/devicecloud/account"
	"github.com/opticworks/devicecloud/registry"
)

// parts are what a token says, for a test that changes one thing.
type parts struct {
	header map[string]any
	claims jwt.MapClaims
}

func (w *world) genuine(t testing.TB) parts {
	t.Helper()
	tokens, _ := w.login(t, "a@example.com")
	claims := jwt.MapClaims{}
	token, _, err := jwt.NewParser().ParseUnverified(tokens.Access.Reveal(), claims)
	if err != nil {
		t.Fatal(err)
	}
	return parts{token.Header, claims}
}

func (p parts) sign(t testing.TB, method jwt.SigningMethod, key any) string {
	t.Helper()
	token := jwt.NewWithClaims(method, p.claims)
	for k, v := range p.header {
		if k != "alg" {
			token.Header[k] = v
		}
	}
	text, err := token.SignedString(key)
	if err != nil {
		t.Fatal(err)
	}
	return text
}

func TestTokenClaims(t *testing.T) {
	w := newWorld(t, nil)
	p := w.genuine(t)
	if p.header["alg"] != "EdDSA" || p.header["typ"] != "at+jwt" || p.header["kid"] == "" {
		t.Errorf("the header is %v", p.header)
	}
	for _, name := range []string{"iss", "aud", "sub", "sid", "jti", "iat", "exp", "scope", "amr"} { // [contracts C.3]
		if p.claims[name] == nil {
			t.Errorf("%s is missing", name)
		}
	}
	for name := range p.claims {
		if name == "email" || name == "name" {
			t.Errorf("the token tells the %s to whoever holds it", name)
		}
	}
}

func TestActorByToken(t *testing.T) {
	ctx := context.Background()
	w := newWorld(t, nil)
	now := w.clock.Now()
	_, stranger, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	public := w.key.Public().(ed25519.PublicKey)

	forged := map[string]string{}
	change := func(name string, f func(p parts)) {
		p := w.genuine(t)
		p.claims, p.header = maps.Clone(p.claims), maps.Clone(p.header)
		f(p)
		forged[name] = p.sign(t, jwt.SigningMethodEdDSA, w.key)
	}
	claim := func(name, key string, v any) {
		change(name, func(p parts) {
			if p.claims[key] = v; v == nil {
				delete(p.claims, key)
			}
		})
	}
	claim("another issuer", "iss", "somebody")
	claim("no issuer", "iss", nil)
	claim("another audience", "aud", "other")
	claim("two audiences", "aud", []string{"app", "admin"})
	claim("no audience", "aud", nil)
	claim("the audience of staff without a role", "aud", "admin")
	claim("a role of staff for an app", "role", "admin")
	claim("expired", "exp", now.Unix())
	claim("no expiry", "exp", nil)
	claim("an expiry that is no number", "exp", "tomorrow")
	claim("issued in the future", "iat", now.Add(2*time.Minute).Unix())
	claim("issued at no time", "iat", nil)
	claim("not valid yet", "nbf", now.Add(time.Minute).Unix())
	claim("no subject", "sub", nil)
	claim("no session", "sid", nil)
	claim("no id", "jti", nil)
	change("another type", func(p parts) { p.header["typ"] = "JWT" })
	change("no type", func(p parts) { delete(p.header, "typ"); p.header["typ"] = nil })
	change("an unknown key id", func(p parts) { p.header["kid"] = "k2" })
	change("a key id that is a path", func(p parts) { p.header["kid"] = "../../../../dev/null" })
	change("a critical extension", func(p parts) { p.header["crit"] = []string{"x"} })
	change("an embedded key", func(p parts) { p.header["jwk"] = map[string]any{"kty": "OKP"} })
	change("a key id that is a list", func(p parts) { p.header["kid"] = []any{p.header["kid"]} })
	p := w.genuine(t)
	good := p.sign(t, jwt.SigningMethodEdDSA, w.key)
	segments := strings.Split(good, ".")
	forged["another key"] = p.sign(t, jwt.SigningMethodEdDSA, stranger)
	forged["no signature method"] = p.sign(t, jwt.SigningMethodNone, jwt.UnsafeAllowNoneSignatureType)
	forged["HMAC with the public key"] = p.sign(t, jwt.SigningMethodHS256, []byte(public))
	forged["no signature"] = segments[0] + "." + segments[1] + "."
	forged["a cut signature"] = good[:len(good)-4]
	forged["a line break in the signature"] = good[:len(good)-4] + "\n" + good[len(good)-4:]
	forged["a fourth part"] = good + ".x"
	forged["two parts"] = segments[0] + "." + segments[1]
	forged["one part"] = segments[0]
	forged["one part and a dot"] = segments[0] + "."
	forged["one part and two dots"] = segments[0] + ".."
	forged["a space behind"] = good + " "
	forged["padding behind"] = good + "="
	forged["nothing"] = ""
	forged["dots"] = ".."
	forged["endless"] = strings.Repeat("a", 1<<20)
	forged["nested claims"] = segments[0] + "." + base64.RawURLEncoding.EncodeToString([]byte(strings.Repeat("[", 3000))) + "." + segments[2]

	t.Run("the genuine one is good", func(t *testing.T) {
		if a, _, err := w.ActorByToken(ctx, good); err != nil || a.Kind != registry.ActorUser {
			t.Error(a, err)
		}
	})
	for name, token := range forged {
		t.Run(name+" is refused", func(t *testing.T) {
			a, until, err := w.ActorByToken(ctx, token)
			var e *registry.Error
			if !errors.As(err, &e) || e.Code != "invalid_token" || e.Message != account.ErrInvalidToken.Message {
				t.Errorf("got %v", err)
			}
			if a.ID != "" || a.Kind != "" || !until.IsZero() {
				t.Errorf("got %+v", a)
			}
			if len(token) > 20 && strings.Contains(err.Error(), token[:20]) {
				t.Errorf("the error quotes the token: %v", err)
			}
		})
	}
	t.Run("it ends when it says", func(t *testing.T) {
		w.clock.Add(15*time.Minute - time.Second)
		if _, _, err := w.ActorByToken(ctx, good); err != nil {
			t.Error(err)
		}
		w.clock.Add(time.Second)
		if _, _, err := w.ActorByToken(ctx, good); !errors.Is(err, account.ErrInvalidToken) {
			t.Error(err)
		}
	})
}

func TestJWKS(t *testing.T) {
	w := newWorld(t, nil)
	var set struct{ Keys []map[string]string }
	if err := json.Unmarshal(w.JWKS(), &set); err != nil || len(set.Keys) != 1 {
		t.Fatal(set, err)
	}
	k := set.Keys[0]
	x, err := base64.RawURLEncoding.DecodeString(k["x"])
	if err != nil || !w.key.Public().(ed25519.PublicKey).Equal(ed25519.PublicKey(x)) {
		t.Errorf("the published key is another one, %v", err)
	}
	if k["kid"] != w.genuine(t).header["kid"] || k["kty"] != "OKP" || k["crv"] != "Ed25519" || k["alg"] != "EdDSA" || k["use"] != "sig" || len(k) != 6 {
		t.Errorf("the key is %v", k)
	}
}

func FuzzActorByToken(f *testing.F) {
	w := newWorld(f, nil)
	genuine := w.genuine(f).sign(f, jwt.SigningMethodEdDSA, w.key)
	f.Add(genuine)
	header, _, _ := strings.Cut(genuine, ".")
	f.Add(header)
	f.Add(header + "..")
	f.Add("eyJhbGciOiJub25lIn0.e30.")
	f.Add("..")
	f.Fuzz(func(t *testing.T, token string) {
		a, _, err := w.ActorByToken(context.Background(), token)
		if err == nil && token != genuine {
			t.Errorf("%q is taken as %v", token, a)
		}
		if err != nil && !errors.Is(err, account.ErrInvalidToken) {
			t.Error(err)
		}
	})
}

func BenchmarkActorByToken(b *testing.B) {
	for _, c := range []struct {
		name   string
		tokens int // 40,000 are more than are remembered
	}{{"seen before", 1}, {"new", 40000}} {
		b.Run(c.name, func(b *testing.B) {
			w := newWorld(b, nil)
			p := w.genuine(b)
			tokens := make([]string, c.tokens)
			for i := range tokens {
				p.claims["jti"] = strconv.Itoa(i)
				tokens[i] = p.sign(b, jwt.SigningMethodEdDSA, w.key)
			}
			b.ReportAllocs()
			i := 0
			for b.Loop() {
				if _, _, err := w.ActorByToken(context.Background(), tokens[i%len(tokens)]); err != nil {
					b.Fatal(err)
				}
				i++
			}
		})
	}
}
