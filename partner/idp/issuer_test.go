package idp_test

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/hmac"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"maps"
	"math/big"
	"net/http"
	"net/http/httptest"
	"sync"
	"sync/atomic"
	"testing"
	"time"
)

const (
	clientIOS     = "app.ios.example"
	clientAndroid = "app.android.example"
)

// fakeIssuer is an issuer of ID tokens on this machine, with everything about it
// open to change.
type fakeIssuer struct {
	server  *httptest.Server
	fetches atomic.Int64 // of the key set

	mu        sync.Mutex
	id        string
	key       *rsa.PrivateKey
	published []any
	discovery func(w http.ResponseWriter, r *http.Request) // nil: as it should be
	keys      func(w http.ResponseWriter, r *http.Request)
}

// testKeys are made once: RSA keys cost.
var testKeys = sync.OnceValue(func() [3]*rsa.PrivateKey {
	var all [3]*rsa.PrivateKey
	for i := range all {
		all[i], _ = rsa.GenerateKey(rand.Reader, 2048) // fails never, see its documentation
	}
	return all
})

func newIssuer(t testing.TB) *fakeIssuer {
	t.Helper()
	f := &fakeIssuer{}
	f.rotate("first", testKeys()[0])
	mux := http.NewServeMux()
	mux.HandleFunc("/.well-known/openid-configuration", func(w http.ResponseWriter, r *http.Request) {
		f.mu.Lock()
		instead := f.discovery
		f.mu.Unlock()
		if instead != nil {
			instead(w, r)
			return
		}
		_ = json.NewEncoder(w).Encode(map[string]any{"issuer": f.url(), "jwks_uri": f.url() + "/keys"})
	})
	mux.HandleFunc("/keys", func(w http.ResponseWriter, r *http.Request) {
		f.fetches.Add(1)
		f.mu.Lock()
		instead, published := f.keys, f.published
		f.mu.Unlock()
		if instead != nil {
			instead(w, r)
			return
		}
		_ = json.NewEncoder(w).Encode(map[string]any{"keys": published})
	})
	f.server = httptest.NewServer(mux)
	t.Cleanup(f.server.Close)
	return f
}

func (f *fakeIssuer) url() string { return f.server.URL }

// rotate publishes a key and signs with it from now on; the former keys are gone.
func (f *fakeIssuer) rotate(id string, key *rsa.PrivateKey) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.id, f.key, f.published = id, key, []any{publicRSA(id, key)}
}

// publish adds something to the key set.
func (f *fakeIssuer) publish(key any) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.published = append(f.published, key)
}

// answer replaces what the key set's address answers; nil: the keys again.
func (f *fakeIssuer) answer(h func(w http.ResponseWriter, r *http.Request)) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.keys = h
}

func (f *fakeIssuer) answerDiscovery(h func(w http.ResponseWriter, r *http.Request)) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.discovery = h
}

func publicRSA(id string, key *rsa.PrivateKey) map[string]any {
	return map[string]any{
		"kty": "RSA", "use": "sig", "alg": "RS256", "kid": id,
		"n": b64(key.N.Bytes()), "e": b64(big.NewInt(int64(key.E)).Bytes()),
	}
}

// claims of a token that is good at the time, with changes; nil leaves a claim out.
func (f *fakeIssuer) claims(now time.Time, changes map[string]any) map[string]any {
	c := map[string]any{
		"iss": f.url(), "aud": clientIOS, "sub": "subject-1", "iat": now.Unix(), "exp": now.Add(time.Hour).Unix(),
		"email": "Ann@Example.com", "email_verified": true,
	}
	maps.Copy(c, changes)
	maps.DeleteFunc(c, func(_ string, v any) bool { return v == nil })
	return c
}

// token signs claims as the issuer does.
func (f *fakeIssuer) token(t testing.TB, claims map[string]any) string {
	t.Helper()
	f.mu.Lock()
	id, key := f.id, f.key
	f.mu.Unlock()
	return signRSA(t, key, map[string]any{"alg": "RS256", "kid": id, "typ": "JWT"}, claims)
}

func b64(b []byte) string { return base64.RawURLEncoding.EncodeToString(b) }

// unsigned is header and payload as they are signed.
func unsigned(t testing.TB, header, claims map[string]any) string {
	t.Helper()
	h, err := json.Marshal(header)
	if err != nil {
		t.Fatal(err)
	}
	c, err := json.Marshal(claims)
	if err != nil {
		t.Fatal(err)
	}
	return b64(h) + "." + b64(c)
}

func signRSA(t testing.TB, key *rsa.PrivateKey, header, claims map[string]any) string {
	t.Helper()
	text := unsigned(t, header, claims)
	sum := sha256.Sum256([]byte(text))
	sig, err := rsa.SignPKCS1v15(rand.Reader, key, crypto.SHA256, sum[:])
	if err != nil {
		t.Fatal(err)
	}
	return text + "." + b64(sig)
}

func signHMAC(t testing.TB, secret []byte, header, claims map[string]any) string {
	t.Helper()
	text := unsigned(t, header, claims)
	mac := hmac.New(sha256.New, secret)
	mac.Write([]byte(text))
	return text + "." + b64(mac.Sum(nil))
}

// ecSigner is an ES256 key with its entry of a key set.
type ecSigner struct{ key *ecdsa.PrivateKey }

func newECSigner(t *testing.T) ecSigner {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return ecSigner{key}
}

func (s ecSigner) public(t *testing.T) map[string]any {
	t.Helper()
	point, err := s.key.PublicKey.Bytes() // 4, X, Y
	if err != nil {
		t.Fatal(err)
	}
	return map[string]any{"kty": "EC", "crv": "P-256", "kid": "ec", "x": b64(point[1:33]), "y": b64(point[33:])}
}

// sign signs twice over: the same signature (r, s), and its mirror (r, n-s), which
// verifies as well.
func (s ecSigner) sign(t *testing.T, claims map[string]any) (token, mirror string) {
	t.Helper()
	text := unsigned(t, map[string]any{"alg": "ES256", "kid": "ec"}, claims)
	sum := sha256.Sum256([]byte(text))
	r, v, err := ecdsa.Sign(rand.Reader, s.key, sum[:])
	if err != nil {
		t.Fatal(err)
	}
	form := func(v *big.Int) string {
		var sig [64]byte
		r.FillBytes(sig[:32])
		v.FillBytes(sig[32:])
		return text + "." + b64(sig[:])
	}
	return form(v), form(new(big.Int).Sub(s.key.Params().N, v))
}
