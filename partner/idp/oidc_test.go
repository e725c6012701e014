package idp_test

import (
	"crypto/sha256"
	"crypto/x509"
	"encoding/hex"
	"encoding/json"
	"errors"
	"log/slog"
	"maps"
	"net/http"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"go.uber.org/goleak"

	"github.com/opticworks/devicecloud/account"
	"github.com/opticworks/devicecloud/partner/idp"
)

func TestMain(m *testing.M) {
	goleak.VerifyTestMain(m, goleak.IgnoreAnyFunction("net/http/httptest.(*Server).goServe.func1"))
}

// clock is a time that tests move.
type clock struct{ micros atomic.Int64 }

func newClock() *clock {
	c := &clock{}
	c.micros.Store(time.Date(2026, 3, 4, 5, 6, 7, 0, time.UTC).UnixMicro())
	return c
}

func (c *clock) now() time.Time          { return time.UnixMicro(c.micros.Load()).UTC() }
func (c *clock) advance(d time.Duration) { c.micros.Add(d.Microseconds()) }

func newProvider(t *testing.T, issuer idp.Issuer, c *clock) *idp.OIDC {
	t.Helper()
	p, err := idp.NewOIDC(issuer, idp.Options{Now: c.now, Logger: slog.New(slog.DiscardHandler)})
	if err != nil {
		t.Fatal(err)
	}
	return p
}

func both() []string { return []string{clientIOS, clientAndroid} }

func TestGoodTokensSayWhoItIs(t *testing.T) {
	f, c := newIssuer(t), newClock()
	google := newProvider(t, idp.Google(f.url(), both()), c)
	who, err := google.Verify(t.Context(), account.LoginRequest{IDToken: f.token(t, f.claims(c.now(), nil))})
	if err != nil {
		t.Fatal(err)
	}
	who.Proof = ""
	want := account.Identity{Subjects: []string{"subject-1"}, Email: "ann@example.com", EmailVerified: true, Expires: c.now().Add(time.Hour).Truncate(time.Second)}
	if diff := cmp.Diff(want, who, cmp.Comparer(time.Time.Equal)); diff != "" {
		t.Errorf("the identity differs (-want +got):\n%s", diff)
	}
	for name, tc := range map[string]struct {
		change   map[string]any
		email    string
		verified bool
	}{
		"of the second client id":                   {map[string]any{"aud": clientAndroid}, "ann@example.com", true},
		"of a list of audiences that are all ours":  {map[string]any{"aud": []string{clientIOS, clientAndroid}, "azp": clientAndroid}, "ann@example.com", true},
		"with email_verified as a text":             {map[string]any{"email_verified": "true"}, "ann@example.com", true},
		"with email_verified false as a text":       {map[string]any{"email_verified": "false"}, "ann@example.com", false},
		"without email_verified":                    {map[string]any{"email_verified": nil}, "ann@example.com", false},
		"without an e-mail address":                 {map[string]any{"email": nil}, "", false},
		"with something that is no e-mail address":  {map[string]any{"email": "ann"}, "", false},
		"of a clock that is 59 s ahead":             {map[string]any{"iat": c.now().Add(59 * time.Second).Unix()}, "ann@example.com", true},
		"issued almost 10 minutes ago":              {map[string]any{"iat": c.now().Add(-599 * time.Second).Unix()}, "ann@example.com", true},
		"with a nonce although the login has none":  {map[string]any{"nonce": "n"}, "ann@example.com", true},
		"with claims that nobody has asked about":   {map[string]any{"hd": "example.com", "_claim_names": map[string]string{}}, "ann@example.com", true},
		"that expires in a thousand years and more": {map[string]any{"exp": int64(1) << 40}, "ann@example.com", true},
	} {
		t.Run("a token "+name, func(t *testing.T) {
			who, err := google.Verify(t.Context(), account.LoginRequest{IDToken: f.token(t, f.claims(c.now(), tc.change))})
			if err != nil || who.Email != tc.email || who.EmailVerified != tc.verified {
				t.Errorf("got %+v, %v", who, err)
			}
			if who.Expires.After(c.now().Add(24 * time.Hour)) {
				t.Errorf("it would be remembered until %v", who.Expires)
			}
		})
	}
}

func TestAppleTakesTheNonceInBothForms(t *testing.T) {
	f, c := newIssuer(t), newClock()
	apple := newProvider(t, idp.Apple(f.url(), both()), c)
	google := newProvider(t, idp.Google(f.url(), both()), c)
	sum := sha256.Sum256([]byte("raw nonce"))
	hashed := hex.EncodeToString(sum[:])
	for name, tc := range map[string]struct {
		provider       account.Provider
		claim, request string
		ok             bool
	}{
		"Apple, hashed":                      {apple, hashed, "raw nonce", true},
		"Apple, hashed in upper case":        {apple, strings.ToUpper(hashed), "raw nonce", true},
		"Apple, as it is":                    {apple, "raw nonce", "raw nonce", true},
		"Apple, another":                     {apple, "another", "raw nonce", false},
		"Apple, none in the token":           {apple, "", "raw nonce", false},
		"Apple, none in the login":           {apple, hashed, "", false},
		"Apple, the hash in both is no hash": {apple, "RAW NONCE", "raw nonce", false},
		"Google, as it is":                   {google, "raw nonce", "raw nonce", true},
		"Google, hashed":                     {google, hashed, "raw nonce", false},
		"Google, none in the token":          {google, "", "raw nonce", false},
	} {
		t.Run(name, func(t *testing.T) {
			claims := f.claims(c.now(), map[string]any{"nonce": tc.claim})
			_, err := tc.provider.Verify(t.Context(), account.LoginRequest{IDToken: f.token(t, claims), Nonce: tc.request})
			if (err == nil) != tc.ok || err != nil && !errors.Is(err, account.ErrInvalidToken) {
				t.Errorf("got %v, want success %v", err, tc.ok)
			}
		})
	}
}

// TestTamperedTokensAreInvalid is everything that is done to a token that is good as
// it is.
func TestTamperedTokensAreInvalid(t *testing.T) {
	f, c := newIssuer(t), newClock()
	p := newProvider(t, idp.Google(f.url(), both()), c)
	now := c.now()
	good := f.token(t, f.claims(now, nil))
	parts := strings.Split(good, ".")
	der, err := x509.MarshalPKIXPublicKey(testKeys()[0].Public())
	if err != nil {
		t.Fatal(err)
	}
	stranger := newIssuer(t)
	stranger.rotate("first", testKeys()[1])
	head := map[string]any{"alg": "RS256", "kid": "first", "typ": "JWT"}
	with := func(changes map[string]any) string { return f.token(t, f.claims(now, changes)) }
	headed := func(changes map[string]any) string {
		h := maps.Clone(head)
		maps.Copy(h, changes)
		return signRSA(t, testKeys()[0], h, f.claims(now, nil))
	}
	forms := map[string]string{
		"alg none":                               unsigned(t, map[string]any{"alg": "none"}, f.claims(now, nil)) + ".",
		"alg none with the signature":            unsigned(t, map[string]any{"alg": "none", "kid": "first"}, f.claims(now, nil)) + "." + parts[2],
		"HS256 with the public key":              signHMAC(t, der, map[string]any{"alg": "HS256", "kid": "first"}, f.claims(now, nil)),
		"HS256 with the key's modulus":           signHMAC(t, testKeys()[0].N.Bytes(), map[string]any{"alg": "HS256", "kid": "first"}, f.claims(now, nil)),
		"an algorithm that is not this issuer's": headed(map[string]any{"alg": "PS256"}),
		"a stranger's signature, our key id":     signRSA(t, testKeys()[1], head, f.claims(now, nil)),
		"a key in the header":                    signRSA(t, testKeys()[1], map[string]any{"alg": "RS256", "kid": "first", "jwk": publicRSA("first", testKeys()[1])}, f.claims(now, nil)),
		"a key set in the header":                signRSA(t, testKeys()[1], map[string]any{"alg": "RS256", "kid": "other", "jku": stranger.url() + "/keys"}, f.claims(now, nil)),
		"an unknown key id":                      headed(map[string]any{"kid": "../first"}),
		"an extension that must be understood":   headed(map[string]any{"crit": []string{"exp"}}),
		"an access token":                        headed(map[string]any{"typ": "at+jwt"}),
		"a logout token":                         headed(map[string]any{"typ": "logout+jwt"}),
		"another issuer":                         with(map[string]any{"iss": "https://issuer.example"}),
		"the issuer with a slash":                with(map[string]any{"iss": f.url() + "/"}),
		"no issuer":                              with(map[string]any{"iss": nil}),
		"Google's name, of another issuer":       with(map[string]any{"iss": "accounts.google.com"}),
		"another audience":                       with(map[string]any{"aud": "app.other.example"}),
		"no audience":                            with(map[string]any{"aud": nil}),
		"an empty list of audiences":             with(map[string]any{"aud": []string{}}),
		"an audience of our name and a stranger": with(map[string]any{"aud": []string{clientIOS, "app.other.example"}}),
		"an audience that is a number":           with(map[string]any{"aud": 7}),
		"another authorized party":               with(map[string]any{"azp": "app.other.example"}),
		"expired":                                with(map[string]any{"exp": now.Add(-time.Second).Unix()}),
		"no expiry":                              with(map[string]any{"exp": nil}),
		"an expiry that is a word":               with(map[string]any{"exp": "never"}),
		"issued in the future":                   with(map[string]any{"iat": now.Add(61 * time.Second).Unix()}),
		"issued too long ago":                    with(map[string]any{"iat": now.Add(-601 * time.Second).Unix()}),
		"issued at no time":                      with(map[string]any{"iat": nil}),
		"issued at 0":                            with(map[string]any{"iat": 0}),
		"not valid before tomorrow":              with(map[string]any{"nbf": now.Add(24 * time.Hour).Unix()}),
		"no subject":                             with(map[string]any{"sub": nil}),
		"a subject that is too long":             with(map[string]any{"sub": strings.Repeat("s", 256)}),
		"a subject with a NUL":                   with(map[string]any{"sub": "a\x00b"}),
		"a subject that is a number":             with(map[string]any{"sub": 7}),
		"email_verified as a number":             with(map[string]any{"email_verified": 1}),
		"another payload":                        parts[0] + "." + b64([]byte(`{"sub":"x"}`)) + "." + parts[2],
		"the signature cut":                      good[:len(good)-4],
		"no signature":                           parts[0] + "." + parts[1] + ".",
		"two parts":                              parts[0] + "." + parts[1],
		"four parts":                             good + "." + parts[2],
		"stray bits at the end":                  stray(good),
		"a line break":                           good[:100] + "\n" + good[100:],
		"a space in front":                       " " + good,
		"padding":                                good + "=",
		"JSON serialisation":                     `{"payload":"` + parts[1] + `","protected":"` + parts[0] + `","signature":"` + parts[2] + `"}`,
		"huge":                                   with(map[string]any{"email": strings.Repeat("x", 16<<10)}),
		"huge without sense":                     strings.Repeat("a", 16<<10),
		"one dot":                                ".",
		"two dots":                               "..",
		"a header that is a list":                b64([]byte(`[]`)) + "." + parts[1] + "." + parts[2],
		"an e-mail address as for the dev login": "ann@example.com",
	}
	for name, token := range forms {
		t.Run(name, func(t *testing.T) {
			who, err := p.Verify(t.Context(), account.LoginRequest{IDToken: token})
			if !errors.Is(err, account.ErrInvalidToken) {
				t.Errorf("got %+v, %v", who, err)
			}
			if len(err.Error()) > 400 {
				t.Errorf("the error quotes at length: %d bytes", len(err.Error()))
			}
		})
	}
	if _, err := p.Verify(t.Context(), account.LoginRequest{IDToken: good}); err != nil {
		t.Fatalf("the token itself is not good: %v", err)
	}
	if _, err := p.Verify(t.Context(), account.LoginRequest{Code: good}); !errors.Is(err, account.ErrMissingFields) {
		t.Errorf("a login without an ID token: %v", err)
	}
	if n := stranger.fetches.Load(); n != 0 {
		t.Errorf("a key set that the token names was fetched %d times", n)
	}
}

// stray changes the last character of a token in the bits that no byte is made of.
func stray(token string) string {
	const alphabet = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_"
	last := len(token) - 1
	return token[:last] + string(alphabet[strings.IndexByte(alphabet, token[last])^1])
}

// TestTheProofIsOneWhateverTheSignature: an ECDSA signature has a mirror that
// verifies as well, so that the text of a token does not say whether it was used.
func TestTheProofIsOneWhateverTheSignature(t *testing.T) {
	f, c := newIssuer(t), newClock()
	ec := newECSigner(t)
	f.publish(ec.public(t))
	p := newProvider(t, idp.Other(f.url(), both()), c)
	one, two := ec.sign(t, f.claims(c.now(), nil))
	first, err := p.Verify(t.Context(), account.LoginRequest{IDToken: one})
	if err != nil {
		t.Fatal(err)
	}
	second, err := p.Verify(t.Context(), account.LoginRequest{IDToken: two})
	if err != nil {
		t.Fatalf("the mirror does not verify, so that this test shows nothing: %v", err)
	}
	if one == two || first.Proof == "" || first.Proof != second.Proof {
		t.Errorf("proofs %q and %q", first.Proof, second.Proof)
	}
	other, _ := ec.sign(t, f.claims(c.now(), map[string]any{"sub": "subject-2"}))
	if third, err := p.Verify(t.Context(), account.LoginRequest{IDToken: other}); err != nil || third.Proof == first.Proof {
		t.Errorf("another token: %+v, %v", third, err)
	}
	// The same key must not verify for an issuer whose algorithm it is not.
	if _, err := newProvider(t, idp.Google(f.url(), both()), c).Verify(t.Context(), account.LoginRequest{IDToken: one}); !errors.Is(err, account.ErrInvalidToken) {
		t.Errorf("ES256 for Google: %v", err)
	}
}

func TestIssuersThatCannotBeRightAreRefused(t *testing.T) {
	for name, issuer := range map[string]idp.Issuer{
		"plain HTTP":              idp.Other("http://issuer.example", both()),
		"no URL":                  idp.Other("issuer.example", both()),
		"a query":                 idp.Other("https://issuer.example/?a=b", both()),
		"a password":              idp.Other("https://a:b@issuer.example", both()),
		"no client ids":           idp.Other("https://issuer.example", nil),
		"an empty client id":      idp.Other("https://issuer.example", []string{""}),
		"symmetric signatures":    {URL: "https://issuer.example", ClientIDs: both(), Algorithms: []string{"HS256"}},
		"no signatures":           {URL: "https://issuer.example", ClientIDs: both(), Algorithms: []string{"none"}},
		"another scheme":          idp.Other("file:///etc/passwd", both()),
		"a name like this host's": idp.Other("http://127.0.0.1.example", both()),
	} {
		t.Run(name, func(t *testing.T) {
			if _, err := idp.NewOIDC(issuer, idp.Options{}); err == nil {
				t.Error("accepted")
			}
		})
	}
	for _, issuer := range []idp.Issuer{idp.Google("", both()), idp.Apple("", both()), idp.Other("https://issuer.example/realms/one", both())} {
		if _, err := idp.NewOIDC(issuer, idp.Options{}); err != nil {
			t.Errorf("%s: %v", issuer.URL, err)
		}
	}
}

func TestGoogleHasTwoNamesOnlyAsItself(t *testing.T) {
	if i := idp.Google("", both()); i.URL != idp.GoogleIssuer || !slices.Contains(i.AlsoKnownAs, "accounts.google.com") {
		t.Errorf("%+v", i)
	}
	if i := idp.Google("https://issuer.example", both()); len(i.AlsoKnownAs) != 0 {
		t.Errorf("%+v", i)
	}
	// Both names, at an issuer that stands in for Google.
	f, c := newIssuer(t), newClock()
	issuer := idp.Google(f.url(), both())
	issuer.AlsoKnownAs = []string{"accounts.google.com"}
	p := newProvider(t, issuer, c)
	if _, err := p.Verify(t.Context(), account.LoginRequest{IDToken: f.token(t, f.claims(c.now(), map[string]any{"iss": "accounts.google.com"}))}); err != nil {
		t.Errorf("Google's old name: %v", err)
	}
}

func TestKeysAreFetchedWhenATokenNeedsThem(t *testing.T) {
	f, c := newIssuer(t), newClock()
	p := newProvider(t, idp.Google(f.url(), both()), c)
	login := func() error {
		_, err := p.Verify(t.Context(), account.LoginRequest{IDToken: f.token(t, f.claims(c.now(), nil))})
		return err
	}
	steps := []struct {
		name    string
		do      func()
		fetches int64
		err     error
	}{
		{"the first token fetches", func() {}, 1, nil},
		{"the second does not", func() {}, 1, nil},
		{"a new key id is not looked for within 10 s", func() { f.rotate("second", testKeys()[1]) }, 1, account.ErrInvalidToken},
		{"a new key id is looked for after them", func() { c.advance(10 * time.Second) }, 2, nil},
		{"old keys are fetched anew", func() { c.advance(time.Hour) }, 3, nil},
		{"keys that cannot be fetched anew still serve", func() {
			f.answer(func(w http.ResponseWriter, _ *http.Request) { http.Error(w, "no", http.StatusBadGateway) })
			c.advance(time.Hour)
		}, 4, nil},
		{"and are not asked for at each login", func() {}, 4, nil},
		{"but not an unknown key id", func() { f.rotate("third", testKeys()[2]) }, 4, account.ErrProviderUnavailable},
		{"nor one after a further try", func() { c.advance(10 * time.Second) }, 5, account.ErrProviderUnavailable},
		{"the first fetch that works is the cure", func() { f.answer(nil); c.advance(10 * time.Second) }, 6, nil},
		{"after a day without the provider keys are too old", func() {
			f.answer(func(w http.ResponseWriter, _ *http.Request) { http.Error(w, "no", http.StatusBadGateway) })
			c.advance(24 * time.Hour)
		}, 7, account.ErrProviderUnavailable},
	}
	for _, s := range steps {
		s.do()
		if err := login(); !errors.Is(err, s.err) {
			t.Errorf("%s: %v, want %v", s.name, err, s.err)
		}
		if n := f.fetches.Load(); n != s.fetches {
			t.Errorf("%s: %d fetches, want %d", s.name, n, s.fetches)
		}
	}
}

func TestUnknownKeyIDsDoNotHammerTheProvider(t *testing.T) {
	f, c := newIssuer(t), newClock()
	p := newProvider(t, idp.Google(f.url(), both()), c)
	tokens := make([]string, 200)
	for i := range tokens {
		tokens[i] = signRSA(t, testKeys()[1], map[string]any{"alg": "RS256", "kid": "unknown"}, f.claims(c.now(), nil))
	}
	good := f.token(t, f.claims(c.now(), nil))
	var wg sync.WaitGroup
	for _, token := range tokens {
		wg.Go(func() {
			if _, err := p.Verify(t.Context(), account.LoginRequest{IDToken: token}); !errors.Is(err, account.ErrInvalidToken) {
				t.Errorf("an unknown key id: %v", err)
			}
		})
	}
	wg.Wait()
	if _, err := p.Verify(t.Context(), account.LoginRequest{IDToken: good}); err != nil {
		t.Errorf("a good token meanwhile: %v", err)
	}
	if n := f.fetches.Load(); n != 1 {
		t.Errorf("%d fetches", n)
	}
}

func TestProvidersThatMisbehaveAreUnavailable(t *testing.T) {
	elsewhere := newIssuer(t)
	for name, answer := range map[string]struct{ discovery, keys http.HandlerFunc }{
		"an error": {nil, func(w http.ResponseWriter, _ *http.Request) { http.Error(w, "no", http.StatusInternalServerError) }},
		"no JSON":  {nil, func(w http.ResponseWriter, _ *http.Request) { _, _ = w.Write([]byte("<html>")) }},
		"no keys":  {nil, func(w http.ResponseWriter, _ *http.Request) { _, _ = w.Write([]byte(`{"keys":[]}`)) }},
		"too many keys": {nil, func(w http.ResponseWriter, _ *http.Request) {
			_, _ = w.Write([]byte(`{"keys":[` + strings.Repeat("{},", 64) + `{}]}`))
		}},
		"a key set that is too large": {nil, func(w http.ResponseWriter, _ *http.Request) { _, _ = w.Write([]byte(strings.Repeat(" ", 300<<10))) }},
		"a redirect to another host": {nil, func(w http.ResponseWriter, r *http.Request) {
			http.Redirect(w, r, elsewhere.url()+"/keys", http.StatusFound)
		}},
		"a redirect to itself":         {nil, func(w http.ResponseWriter, r *http.Request) { http.Redirect(w, r, r.URL.Path, http.StatusFound) }},
		"keys on plain HTTP elsewhere": {discovered("", "http://keys.example/keys"), nil},
		"keys in a file":               {discovered("", "file:///etc/passwd"), nil},
		"another issuer in discovery":  {discovered("https://issuer.example", ""), nil},
		"discovery of something else":  {func(w http.ResponseWriter, _ *http.Request) { _, _ = w.Write([]byte(`"text"`)) }, nil},
		"a connection that is cut":     {nil, func(http.ResponseWriter, *http.Request) { panic(http.ErrAbortHandler) }},
		"a symmetric key and a weak one": {nil, func(w http.ResponseWriter, _ *http.Request) {
			_, _ = w.Write([]byte(`{"keys":[{"kty":"oct","kid":"first","k":"c2VjcmV0"},{"kty":"RSA","kid":"first","n":"wQ","e":"AQAB"}]}`))
		}},
	} {
		t.Run(name, func(t *testing.T) {
			f, c := newIssuer(t), newClock()
			f.answer(answer.keys)
			if answer.discovery != nil {
				f.answerDiscovery(func(w http.ResponseWriter, r *http.Request) {
					r.Header.Set("Issuer", f.url())
					answer.discovery(w, r)
				})
			}
			p := newProvider(t, idp.Google(f.url(), both()), c)
			token := f.token(t, f.claims(c.now(), nil))
			for range 3 { // also when the failure is remembered
				if _, err := p.Verify(t.Context(), account.LoginRequest{IDToken: token}); !errors.Is(err, account.ErrProviderUnavailable) {
					t.Errorf("got %v", err)
				}
			}
			f.answer(nil)
			f.answerDiscovery(nil)
			c.advance(10 * time.Second)
			if _, err := p.Verify(t.Context(), account.LoginRequest{IDToken: token}); err != nil {
				t.Errorf("after it came to its senses: %v", err)
			}
		})
	}
	if n := elsewhere.fetches.Load(); n != 0 {
		t.Errorf("a redirect to another host was followed %d times", n)
	}
}

// discovered answers discovery; an empty issuer is the one that is asked.
func discovered(issuer, keys string) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		self := r.Header.Get("Issuer")
		if issuer == "" {
			issuer = self
		}
		if keys == "" {
			keys = self + "/keys"
		}
		_ = json.NewEncoder(w).Encode(map[string]string{"issuer": issuer, "jwks_uri": keys})
	}
}

func TestKeysThatCannotBeUsedDoNotSpoilTheOthers(t *testing.T) {
	f, c := newIssuer(t), newClock()
	f.publish(map[string]any{"kty": "OKP", "crv": "X448", "kid": "x", "x": "AAAA"})
	f.publish(map[string]any{"kty": "RSA", "kid": "enc", "use": "enc", "n": b64(testKeys()[1].N.Bytes()), "e": "AQAB"})
	f.publish("no key")
	p := newProvider(t, idp.Google(f.url(), both()), c)
	if _, err := p.Verify(t.Context(), account.LoginRequest{IDToken: f.token(t, f.claims(c.now(), nil))}); err != nil {
		t.Errorf("a good token: %v", err)
	}
	forEncryption := signRSA(t, testKeys()[1], map[string]any{"alg": "RS256", "kid": "enc"}, f.claims(c.now(), nil))
	if _, err := p.Verify(t.Context(), account.LoginRequest{IDToken: forEncryption}); !errors.Is(err, account.ErrInvalidToken) {
		t.Errorf("signed with a key for encryption: %v", err)
	}
}

func FuzzIDToken(f *testing.F) {
	server := newIssuer(f)
	c := newClock()
	p, err := idp.NewOIDC(idp.Google(server.url(), both()), idp.Options{Now: c.now, Logger: slog.New(slog.DiscardHandler)})
	if err != nil {
		f.Fatal(err)
	}
	good := server.token(f, server.claims(c.now(), nil))
	f.Add(good)
	f.Add(stray(good))
	f.Add("..")
	f.Add("eyJhbGciOiJub25lIn0.e30.")
	f.Fuzz(func(t *testing.T, token string) {
		_, err := p.Verify(t.Context(), account.LoginRequest{IDToken: token})
		switch {
		case token == "":
			if !errors.Is(err, account.ErrMissingFields) {
				t.Errorf("no token: %v", err)
			}
		case token == good:
			if err != nil {
				t.Errorf("the good token: %v", err)
			}
		case !errors.Is(err, account.ErrInvalidToken):
			t.Errorf("%q: %v", token, err)
		}
	})
}
