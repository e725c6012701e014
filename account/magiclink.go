package account

import (
	"context"
	"crypto/rand"
	"crypto/sha256"
	"crypto/subtle"
	"encoding/base64"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/opticworks/devicecloud/registry"
)

// ProviderEmail is the provider of people who have proven their mailbox to us.
const ProviderEmail = "email"

// LinkLife is how long a mailed link works. [contracts C.2]
const LinkLife = 10 * time.Minute

// MagicLink is a mailed link as the database knows it: its token by hash alone.
type MagicLink struct {
	TokenHash     []byte // SHA-256 of the token's text
	Email         string // normalised
	InstallID     string
	CodeChallenge string
	CreatedAt     time.Time
	ExpiresAt     time.Time
}

// MagicLinkTx reads and writes mailed links.
type MagicLinkTx interface {
	// InsertMagicLink writes a link, and makes the older ones of its e-mail useless.
	InsertMagicLink(ctx context.Context, l MagicLink) error
	// UseMagicLink uses a link, only when it exists, is neither used nor expired, and
	// was asked for by this installation with this challenge; ok says whether it did.
	// Of all who try, one does.
	UseMagicLink(ctx context.Context, tokenHash []byte, installID, codeChallenge string, now time.Time) (email string, ok bool, err error)
	// UserOfEmail finds the person whose verified e-mail this is, also a disabled one;
	// ErrUserNotFound.
	UserOfEmail(ctx context.Context, email string) (User, error)
}

// MagicLinkRequest asks for a link. [contracts C.2]
type MagicLinkRequest struct {
	Email         string
	InstallID     string // of the app that asks, which alone can use the link
	CodeChallenge string // base64url of the SHA-256 of the app's verifier [RFC 7636 4.2]
}

// SendMagicLink mails a link that signs its reader in. Whether the address is
// anybody's is not looked at, so that neither the answer nor its time tells. The
// mail leaves after the link is committed, and later than the answer.
//
// registry.ErrFeatureDisabled without a mailer, ErrMissingFields, ErrInvalidEmail,
// registry.ErrInvalidRequest, ErrMailBusy, registry.ErrUnavailable.
func (s *Service) SendMagicLink(ctx context.Context, req MagicLinkRequest) error {
	if s.mail == nil {
		return registry.ErrFeatureDisabled
	}
	if req.Email == "" || req.InstallID == "" || req.CodeChallenge == "" {
		return ErrMissingFields
	}
	email, err := registry.NormalizeEmail(req.Email)
	if err != nil {
		return ErrInvalidEmail.With(err)
	}
	if err := (Device{InstallID: req.InstallID}).check(); err != nil {
		return err
	}
	if !validChallenge(req.CodeChallenge) {
		return registry.E(registry.Invalid, registry.ErrInvalidRequest.Code, "code_challenge must be the SHA-256 of the verifier in base64url, 43 characters.")
	}
	slot, ok := s.mail.reserve(0)
	if !ok {
		return ErrMailBusy
	}
	defer slot.giveBack()
	token := newLinkToken()
	now := s.now()
	link := MagicLink{
		TokenHash: token.hash(), Email: email, InstallID: req.InstallID, CodeChallenge: req.CodeChallenge,
		CreatedAt: now, ExpiresAt: now.Add(LinkLife),
	}
	if err := s.store.InTx(ctx, func(tx Tx) error { return tx.InsertMagicLink(ctx, link) }); err != nil {
		return err
	}
	slot.post(linkMail(email, s.opts.LinkPage, token), LinkLife)
	return nil
}

// MagicLinkProof is what an app shows to sign in by a link. [contracts C.2]
type MagicLinkProof struct {
	Token        string
	CodeVerifier string
	Device       Device // its InstallID asked for the link
}

// VerifyMagicLink signs in who can show a link's token on the device that asked for
// it. The link proves the mailbox: the person whose verified e-mail it is signs in,
// and has "email" as a way to sign in from then on; nobody's e-mail makes a new
// person.
//
// registry.ErrFeatureDisabled without a mailer, ErrMissingFields,
// registry.ErrInvalidRequest for the device, ErrInvalidToken for a link that is
// unknown, expired, used, of another device or shown without its verifier, all by
// the same one statement; ErrAccountDisabled, registry.ErrUnavailable.
func (s *Service) VerifyMagicLink(ctx context.Context, req MagicLinkProof, from registry.Actor) (Tokens, User, error) {
	if s.mail == nil {
		return Tokens{}, User{}, registry.ErrFeatureDisabled
	}
	if req.Token == "" || req.Device.InstallID == "" || req.CodeVerifier == "" {
		return Tokens{}, User{}, ErrMissingFields
	}
	if err := req.Device.check(); err != nil {
		return Tokens{}, User{}, err
	}
	hash, challenge := linkToken{req.Token}.hash(), challengeOf(req.CodeVerifier)
	var tokens Tokens
	var u User
	var then afterwards
	err := s.store.InTx(ctx, func(tx Tx) error {
		then = nil
		email, ok, err := tx.UseMagicLink(ctx, hash, req.Device.InstallID, challenge, s.now())
		if err != nil {
			return err
		}
		if !ok {
			return ErrInvalidToken.With(errNoLink)
		}
		if u, err = s.personOfEmail(ctx, tx, email, from, &then); err != nil {
			return err
		}
		tokens, err = s.open(ctx, tx, opening{
			audience: AudienceApp, subject: u.ID, method: ProviderEmail, scopes: personScopes(), device: req.Device, from: from,
		})
		return err
	})
	if err != nil {
		return Tokens{}, User{}, s.refuseLogin(ctx, from, ProviderEmail, err)
	}
	then.run()
	return tokens, u, nil
}

var errNoLink = errors.New("account: no link that this could use")

// personOfEmail finds or makes the person of a mailbox that was proven just now.
func (s *Service) personOfEmail(ctx context.Context, tx Tx, email string, from registry.Actor, then *afterwards) (User, error) {
	u, err := tx.UserOfEmail(ctx, email)
	switch {
	case errors.Is(err, ErrUserNotFound):
		return s.person(ctx, tx, ProviderEmail, Identity{Subjects: []string{email}, Email: email, EmailVerified: true}, from, then)
	case err != nil:
		return User{}, err
	case !u.DisabledAt.IsZero():
		return User{}, ErrAccountDisabled
	}
	now := s.now()
	err = tx.InsertIdentity(ctx, ProviderEmail, email, u.ID, now)
	if errors.Is(err, ErrIdentityTaken) { // linked before
		return u, nil
	}
	if err != nil {
		return User{}, err
	}
	from.Kind, from.ID = registry.ActorUser, u.ID
	return u, s.audit(ctx, tx, from, "identity_linked", now, map[string]any{"provider": ProviderEmail})
}

// linkToken is what a link carries: 32 random bytes in base64url. It redacts itself
// in every format.
type linkToken struct{ text string }

func newLinkToken() linkToken {
	var b [32]byte
	_, _ = rand.Read(b[:]) // never fails, see its documentation
	return linkToken{base64.RawURLEncoding.EncodeToString(b[:])}
}

// Format redacts.
func (linkToken) Format(f fmt.State, _ rune) { _, _ = f.Write([]byte("[redacted]")) }

// hash is of the text as it is shown: no two texts are one token.
func (t linkToken) hash() []byte {
	sum := sha256.Sum256([]byte(t.text))
	return sum[:]
}

// validChallenge accepts what S256 makes. [RFC 7636 4.2]
func validChallenge(s string) bool {
	if len(s) != base64.RawURLEncoding.EncodedLen(sha256.Size) || strings.ContainsAny(s, "\r\n") {
		return false
	}
	_, err := base64.RawURLEncoding.Strict().DecodeString(s)
	return err == nil
}

// challengeOf is the S256 challenge of a verifier. What cannot be a verifier gets one
// that no link has, so that it is refused like any other that is wrong.
// [RFC 7636 4.1, 4.6]
func challengeOf(verifier string) string {
	sum := sha256.Sum256([]byte(verifier))
	challenge := base64.RawURLEncoding.EncodeToString(sum[:])
	fits := subtle.ConstantTimeLessOrEq(43, len(verifier)) & subtle.ConstantTimeLessOrEq(len(verifier), 128)
	if fits == 0 || strings.ContainsFunc(verifier, reserved) {
		return "!" + challenge[1:]
	}
	return challenge
}

// reserved reports what RFC 3986 does not call unreserved.
func reserved(r rune) bool {
	return (r < 'a' || r > 'z') && (r < 'A' || r > 'Z') && (r < '0' || r > '9') && !strings.ContainsRune("-._~", r)
}

// linkMail is the mail with a link. The token is in the fragment: a browser does not
// send it, so that it is in no access log of ours or of a proxy, in no Referer, and
// a mail scanner that opens the page gets nothing to use. The text is ASCII in short
// lines, so that no encoding cuts the link.
func linkMail(to, page string, token linkToken) Mail {
	return Mail{To: to, Subject: "Your link to sign in", Text: `Somebody, you as we hope, asked to sign in with this e-mail address.
Open this link on the device on which you asked:

` + page + "#token=" + token.text + `

It works once, for 10 minutes, and on that device only. If you did not
ask for it, ignore this mail: nobody can sign in without the link.
`}
}
