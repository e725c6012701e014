package idp

import (
	"context"
	"crypto/sha256"
	"crypto/subtle"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"time"

	"github.com/coreos/go-oidc/v3/oidc"
	"github.com/go-jose/go-jose/v4"

	"github.com/opticworks/devicecloud/account"
	"github.com/opticworks/devicecloud/registry"
)

// The issuers that have rules of their own.
const (
	GoogleIssuer = "https://accounts.google.com"
	AppleIssuer  = "https://appleid.apple.com"
	// googleOldIssuer is what some of Google's tokens say.
	googleOldIssuer = "accounts.google.com"
)

const (
	// maxToken bounds an ID token, in bytes; Google's and Apple's have about 1,200.
	maxToken = 12 << 10
	// skew is how far a token's iat may lie in the future. [contracts C.1]
	skew = time.Minute
	// maxAge is how old a token may be: it is for signing in now. [contracts C.1]
	maxAge = 10 * time.Minute
	// maxMemory bounds for how long a used token is remembered, whatever its exp: it
	// is too old to be used again long before.
	maxMemory = 24 * time.Hour
	// maxSubject is in bytes. [OpenID Connect Core 1.0 2: sub]
	maxSubject = 255
)

// Issuer is an issuer of ID tokens and what is expected of them.
type Issuer struct {
	// URL is the issuer as its tokens name it: https, or http to this machine.
	URL string
	// AlsoKnownAs are further values of the claim iss.
	AlsoKnownAs []string
	// ClientIDs are our apps at the issuer: of iOS, Android and the web. A token must
	// be for one of them. At least one.
	ClientIDs []string
	// Algorithms are the signatures that are taken. Never none, never a symmetric one.
	Algorithms []string
	// NonceRequired refuses a login without a nonce.
	NonceRequired bool
	// NonceHashed takes a token that holds the SHA-256 of the login's nonce, as hex.
	NonceHashed bool
}

// Google is Google's issuer, or another in its place, for tests; "" is Google.
func Google(issuer string, clientIDs []string) Issuer {
	i := Issuer{URL: issuer, ClientIDs: clientIDs, Algorithms: []string{oidc.RS256}}
	if issuer == "" || issuer == GoogleIssuer {
		i.URL, i.AlsoKnownAs = GoogleIssuer, []string{googleOldIssuer}
	}
	return i
}

// Apple is Apple's issuer, or another in its place, for tests; "" is Apple. The app
// gives the nonce to Apple as its SHA-256 in hex, as Apple's documentation shows, or
// as it is, which some libraries do; to us as it is.
func Apple(issuer string, clientIDs []string) Issuer {
	if issuer == "" {
		issuer = AppleIssuer
	}
	return Issuer{URL: issuer, ClientIDs: clientIDs, Algorithms: []string{oidc.RS256}, NonceRequired: true, NonceHashed: true}
}

// Other is any further issuer.
func Other(issuer string, clientIDs []string) Issuer {
	return Issuer{URL: issuer, ClientIDs: clientIDs, Algorithms: []string{oidc.RS256, oidc.PS256, oidc.ES256, oidc.EdDSA}}
}

// Options configures a provider; its zero value is usable.
type Options struct {
	Now    func() time.Time // default time.Now
	Logger *slog.Logger     // default slog.Default()
}

func (o *Options) defaults() {
	if o.Now == nil {
		o.Now = time.Now
	}
	if o.Logger == nil {
		o.Logger = slog.Default()
	}
}

// OIDC is a login provider that takes the ID tokens of one issuer. It asks the
// issuer for nothing but its keys. It is safe for concurrent use.
type OIDC struct {
	issuer Issuer
	keys   *keySet
	now    func() time.Time
}

var _ account.Provider = (*OIDC)(nil)

// NewOIDC makes the provider of an issuer, without asking it anything. It fails
// when the issuer's URL, client ids or algorithms cannot be right.
func NewOIDC(issuer Issuer, opts Options) (*OIDC, error) {
	opts.defaults()
	if err := CheckURL(issuer.URL); err != nil {
		return nil, fmt.Errorf("idp: the issuer is %w", err)
	}
	if len(issuer.ClientIDs) == 0 || slices.Contains(issuer.ClientIDs, "") {
		return nil, errors.New("idp: an issuer needs client ids, none of them empty")
	}
	for _, a := range issuer.Algorithms {
		if a == "none" || strings.HasPrefix(a, "HS") {
			return nil, fmt.Errorf("idp: %s proves nothing about who signed", a)
		}
	}
	keys := &keySet{issuer: issuer.URL, client: newClient(), now: opts.Now, log: opts.Logger}
	return &OIDC{issuer: issuer, keys: keys, now: opts.Now}, nil
}

// Verify implements account.Provider: account.ErrMissingFields without an ID token,
// account.ErrProviderUnavailable when the issuer's keys are neither known nor to be
// had, account.ErrInvalidToken for anything else that is wrong.
func (p *OIDC) Verify(ctx context.Context, req account.LoginRequest) (account.Identity, error) {
	if req.IDToken == "" {
		return account.Identity{}, account.ErrMissingFields
	}
	who, err := p.verify(ctx, req.IDToken, req.Nonce)
	var away *unreachable
	switch {
	case err == nil:
		return who, nil
	case errors.As(err, &away), ctx.Err() != nil:
		return account.Identity{}, account.ErrProviderUnavailable.With(err)
	}
	return account.Identity{}, account.ErrInvalidToken.With(err)
}

func (p *OIDC) verify(ctx context.Context, token, nonce string) (account.Identity, error) {
	var none account.Identity
	head, err := split(token)
	if err != nil {
		return none, err
	}
	attempt := &attempt{keys: p.keys, head: head}
	verifier := oidc.NewVerifier(p.issuer.URL, attempt, &oidc.Config{
		SupportedSigningAlgs: p.issuer.Algorithms, Now: p.now,
		SkipIssuerCheck: true, SkipClientIDCheck: true, // check does both: there may be several of each
	})
	t, err := verifier.Verify(ctx, token)
	switch {
	case attempt.failure != nil:
		return none, attempt.failure
	case err != nil:
		return none, brief(err)
	}
	var c claims
	if t.Claims(&c) != nil {
		return none, errors.New("a claim has the wrong type")
	}
	if err := p.check(t, c, nonce); err != nil {
		return none, err
	}
	who := account.Identity{Subjects: []string{t.Subject}, EmailVerified: bool(c.EmailVerified), Expires: t.Expiry, Proof: head.signed}
	if last := p.now().Add(maxMemory); who.Expires.After(last) {
		who.Expires = last
	}
	if email, err := registry.NormalizeEmail(c.Email); err == nil {
		who.Email = email
	} else {
		who.EmailVerified = false
	}
	return who, nil
}

// claims are those that go-oidc does not read.
type claims struct {
	AuthorizedParty string `json:"azp"`
	Email           string `json:"email"`
	EmailVerified   truth  `json:"email_verified"`
}

// truth is a boolean, which Apple writes as a string too.
type truth bool

// UnmarshalJSON takes true, false and their strings.
func (t *truth) UnmarshalJSON(b []byte) error {
	switch string(b) {
	case "true", `"true"`:
		*t = true
	case "false", `"false"`, "null":
		*t = false
	default:
		return errors.New("email_verified is no boolean")
	}
	return nil
}

// check is what is asked of a token that its issuer has signed and that has not
// expired. [OpenID Connect Core 1.0 3.1.3.7]
func (p *OIDC) check(t *oidc.IDToken, c claims, nonce string) error {
	if t.Issuer != p.issuer.URL && !slices.Contains(p.issuer.AlsoKnownAs, t.Issuer) {
		return errors.New("another issuer")
	}
	if len(t.Audience) == 0 {
		return errors.New("no audience")
	}
	for _, a := range t.Audience { // of several, none may be a stranger
		if !slices.Contains(p.issuer.ClientIDs, a) {
			return errors.New("another audience")
		}
	}
	if c.AuthorizedParty != "" && !slices.Contains(p.issuer.ClientIDs, c.AuthorizedParty) {
		return errors.New("another authorized party")
	}
	now := p.now()
	switch {
	case t.IssuedAt.IsZero() || t.IssuedAt.Unix() <= 0:
		return errors.New("no time of issue")
	case t.IssuedAt.After(now.Add(skew)):
		return errors.New("issued in the future")
	case now.Sub(t.IssuedAt) > maxAge:
		return errors.New("issued too long ago")
	}
	if t.Subject == "" || len(t.Subject) > maxSubject || strings.ContainsFunc(t.Subject, unprintable) {
		return errors.New("no subject that could be kept")
	}
	return p.checkNonce(t.Nonce, nonce)
}

func unprintable(r rune) bool { return r < ' ' || r > '~' }

// checkNonce compares the token's nonce with the login's, when the login has one or
// must have one.
func (p *OIDC) checkNonce(got, want string) error {
	if want == "" {
		if p.issuer.NonceRequired {
			return errors.New("the login has no nonce")
		}
		return nil
	}
	if subtle.ConstantTimeCompare([]byte(got), []byte(want)) == 1 {
		return nil
	}
	if sum := sha256.Sum256([]byte(want)); p.issuer.NonceHashed && subtle.ConstantTimeCompare([]byte(strings.ToLower(got)), []byte(hex.EncodeToString(sum[:]))) == 1 {
		return nil
	}
	return errors.New("another nonce")
}

// header is what a token says of its signature, not believed yet.
type header struct {
	ID        string `json:"kid"`
	Algorithm string `json:"alg"`
	Type      string `json:"typ"`
	signed    string // header and payload, as they were signed
}

// split takes a token apart. Each part must be written in the one canonical way:
// base64 that ends in stray bits, or has a line break in it, decodes to the same
// token, and would be a second text for what may be used once.
func split(token string) (header, error) {
	if len(token) > maxToken {
		return header{}, errors.New("longer than 12 KiB")
	}
	parts := strings.Split(token, ".")
	if len(parts) != 3 || strings.ContainsAny(token, "\r\n") {
		return header{}, errors.New("not three parts")
	}
	var decoded [3][]byte
	for i, part := range parts {
		var err error
		if decoded[i], err = base64.RawURLEncoding.Strict().DecodeString(part); err != nil {
			return header{}, errors.New("not base64")
		}
	}
	h := header{signed: parts[0] + "." + parts[1]}
	if json.Unmarshal(decoded[0], &h) != nil {
		return header{}, errors.New("the header is not JSON")
	}
	if h.Type != "" && !strings.EqualFold(h.Type, "JWT") { // an access token, a logout token
		return header{}, errors.New("another type of token")
	}
	return h, nil
}

// attempt is the key set of one verification. It keeps the failure to get keys,
// which go-oidc would turn into text.
type attempt struct {
	keys    *keySet
	head    header
	failure error
}

// VerifySignature implements oidc.KeySet; go-oidc has checked the algorithm.
func (a *attempt) VerifySignature(ctx context.Context, token string) ([]byte, error) {
	keys, err := a.keys.find(ctx, a.head.ID, a.head.Algorithm)
	if err != nil {
		a.failure = err
		return nil, err
	}
	signed, err := jose.ParseSignedCompact(token, []jose.SignatureAlgorithm{jose.SignatureAlgorithm(a.head.Algorithm)})
	if err != nil {
		return nil, err
	}
	for _, k := range keys {
		if payload, err := signed.Verify(k.Key); err == nil {
			return payload, nil
		}
	}
	return nil, errors.New("the signature does not fit")
}

// brief cuts an error of a library, which may quote the token.
func brief(err error) error {
	const most = 120
	text := err.Error()
	if len(text) > most {
		text = text[:most]
	}
	return errors.New(text)
}
