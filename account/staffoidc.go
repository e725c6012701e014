package account

import (
	"context"
	"crypto/aes"
	"crypto/cipher"
	"crypto/hkdf"
	"crypto/rand"
	"crypto/sha256"
	"crypto/subtle"
	"encoding/base64"
	"encoding/binary"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/opticworks/devicecloud/registry"
)

// StaffFlowTTL is how long a member of staff may take at the identity provider.
const StaffFlowTTL = 10 * time.Minute

const methodOIDC = "oidc"

// StaffProvider is the identity provider of staff: the authorization code flow with
// PKCE. [RFC 7636]
type StaffProvider interface {
	// AuthURL is the address at the provider that the browser is sent to.
	// ErrProviderUnavailable.
	AuthURL(ctx context.Context, f StaffFlow) (string, error)
	// Exchange trades the code that the browser brought back for who this is.
	// ErrInvalidToken when the code, the verifier or the nonce is not good,
	// ErrProviderUnavailable.
	Exchange(ctx context.Context, code string, f StaffFlow) (StaffIdentity, error)
}

// StaffFlow is what binds a sign-in at the provider to the browser that began it. It
// redacts itself in every format.
type StaffFlow struct {
	State    string // comes back with the code
	Nonce    string // comes back in the ID token
	Verifier string // of PKCE; goes to the provider with the code
	expires  time.Time
}

// Format redacts.
func (StaffFlow) Format(f fmt.State, _ rune) { _, _ = f.Write([]byte("[redacted]")) }

// StaffIdentity is who the identity provider of staff says this is.
type StaffIdentity struct {
	Subject       string // stable at the provider
	Email         string
	EmailVerified bool // true also when the provider says nothing
	Groups        []string
}

// StaffGroups says which group at the provider makes which role; "" is none. Who is in
// both is an administrator.
type StaffGroups struct {
	Admin   string
	Support string
}

func (g StaffGroups) role(groups []string) (AdminRole, bool) {
	switch {
	case g.Admin != "" && slices.Contains(groups, g.Admin):
		return AdminRoleAdmin, true
	case g.Support != "" && slices.Contains(groups, g.Support):
		return AdminRoleSupport, true
	}
	return "", false
}

// flowSealer encrypts flows for the browser's keeping. Its key comes from the signing
// key, so that every node can finish what another has begun.
type flowSealer struct{ aead cipher.AEAD }

func newFlowSealer(k SigningKey) (flowSealer, error) {
	key, err := hkdf.Key(sha256.New, k.key().Seed(), nil, "devicecloud: sign-in of staff", 32)
	if err != nil {
		return flowSealer{}, fmt.Errorf("account: deriving a key: %w", err)
	}
	block, err := aes.NewCipher(key)
	if err != nil {
		return flowSealer{}, fmt.Errorf("account: deriving a key: %w", err)
	}
	aead, err := cipher.NewGCMWithRandomNonce(block)
	return flowSealer{aead}, err
}

// flowLen is the length of a flow: expiry, state, nonce and verifier.
const flowLen = 8 + 3*secretLen

func (s flowSealer) seal(raw []byte) string {
	return base64.RawURLEncoding.EncodeToString(s.aead.Seal(nil, nil, raw, nil))
}

// open is the flow of what seal made; ok is false for anything else, and for a flow
// that took too long.
func (s flowSealer) open(sealed string, now time.Time) (f StaffFlow, ok bool) {
	b, err := base64.RawURLEncoding.Strict().DecodeString(sealed)
	if err != nil {
		return StaffFlow{}, false
	}
	raw, err := s.aead.Open(nil, nil, b, nil)
	if err != nil || len(raw) != flowLen {
		return StaffFlow{}, false
	}
	f = newStaffFlow(raw)
	return f, now.Before(f.expires)
}

func newStaffFlow(raw []byte) StaffFlow {
	part := func(i int) string {
		return base64.RawURLEncoding.EncodeToString(raw[8+i*secretLen : 8+(i+1)*secretLen])
	}
	return StaffFlow{
		State: part(0), Nonce: part(1), Verifier: part(2),
		expires: time.UnixMicro(int64(binary.BigEndian.Uint64(raw))),
	}
}

// StaffOIDC reports whether staff may sign in through an identity provider.
func (s *Service) StaffOIDC() bool { return s.opts.StaffProvider != nil }

// BeginStaffLogin begins a sign-in at the identity provider of staff: where to send the
// browser, and what it keeps until it comes back, for at most [StaffFlowTTL].
// ErrInvalidProvider when there is none, ErrProviderUnavailable.
func (s *Service) BeginStaffLogin(ctx context.Context) (address, kept string, err error) {
	if s.opts.StaffProvider == nil {
		return "", "", ErrInvalidProvider
	}
	raw := make([]byte, flowLen)
	_, _ = rand.Read(raw) // never fails, see its documentation
	binary.BigEndian.PutUint64(raw, uint64(s.opts.Now().Add(StaffFlowTTL).UnixMicro()))
	if address, err = s.opts.StaffProvider.AuthURL(ctx, newStaffFlow(raw)); err != nil {
		return "", "", err
	}
	return address, s.flows.seal(raw), nil
}

// StaffReturn is what the browser brings back from the identity provider.
type StaffReturn struct {
	Kept  string // from BeginStaffLogin
	State string
	Code  string
}

// FinishStaffLogin lets in a member of staff whom the identity provider vouches for,
// and makes them at the first time. Their groups there decide the role at each sign-in;
// another role than before ends their other sessions and the scopes that were granted.
// Errors: ErrInvalidProvider, ErrInvalidState when the browser did not begin this or took
// too long, ErrInvalidToken, ErrEmailNotVerified, registry.ErrInsufficientRole for nobody's
// group, ErrLinkRequired when the e-mail is that of another member, ErrAccountDisabled,
// ErrProviderUnavailable, ErrUnavailable.
func (s *Service) FinishStaffLogin(ctx context.Context, back StaffReturn, from registry.Actor) (Tokens, Admin, error) {
	if s.opts.StaffProvider == nil {
		return Tokens{}, Admin{}, ErrInvalidProvider
	}
	who, role, err := s.staffIdentity(ctx, back)
	if err != nil {
		return Tokens{}, Admin{}, s.refuseLogin(ctx, from, methodOIDC, err)
	}
	var tokens Tokens
	var m Admin
	var sids []string
	err = s.store.InTx(ctx, func(tx Tx) (err error) {
		m, sids, err = s.staffMember(ctx, tx, who, role, from)
		switch {
		case err != nil:
			return err
		case !m.DisabledAt.IsZero():
			return ErrAccountDisabled
		}
		tokens, err = s.open(ctx, tx, opening{
			audience: AudienceAdmin, subject: m.ID, role: string(m.Role), method: methodOIDC, scopes: m.tokenScopes(), from: from,
		})
		return err
	})
	if err != nil {
		if m.ID != "" {
			from.Kind, from.ID = m.Role.actorKind(), m.ID
		}
		return Tokens{}, Admin{}, s.refuseLogin(ctx, from, methodOIDC, err)
	}
	s.ended(sids...)
	return tokens, m, nil
}

// staffIdentity is who came back, and the role of their groups.
func (s *Service) staffIdentity(ctx context.Context, back StaffReturn) (StaffIdentity, AdminRole, error) {
	flow, ok := s.flows.open(back.Kept, s.opts.Now())
	if !ok || subtle.ConstantTimeCompare([]byte(flow.State), []byte(back.State)) != 1 {
		return StaffIdentity{}, "", ErrInvalidState
	}
	if back.Code == "" {
		return StaffIdentity{}, "", ErrInvalidToken.With(errNoCode)
	}
	who, err := s.opts.StaffProvider.Exchange(ctx, back.Code, flow)
	if err != nil {
		return StaffIdentity{}, "", err
	}
	if who.Subject == "" {
		return StaffIdentity{}, "", ErrInvalidToken.With(errNoSubject)
	}
	if who.Email, err = registry.NormalizeEmail(who.Email); err != nil {
		return StaffIdentity{}, "", ErrInvalidToken.With(err)
	}
	if !who.EmailVerified {
		return StaffIdentity{}, "", ErrEmailNotVerified
	}
	role, ok := s.opts.StaffGroups.role(who.Groups)
	if !ok {
		return StaffIdentity{}, "", registry.ErrInsufficientRole
	}
	return who, role, nil
}

// staffMember finds the member of an identity by its subject, never by e-mail, or makes
// one, and brings role and e-mail up to date. It returns the sessions that another role
// has ended.
func (s *Service) staffMember(ctx context.Context, tx Tx, who StaffIdentity, role AdminRole, from registry.Actor) (m Admin, sids []string, err error) {
	at := s.now()
	m, err = tx.AdminByOIDC(ctx, who.Subject)
	if errors.Is(err, ErrAdminNotFound) {
		m = Admin{ID: s.opts.NewID(), Email: who.Email, Role: role, OIDCSubject: who.Subject, CreatedAt: at}
		from.Kind, from.ID = role.actorKind(), m.ID
		if err = s.insertAdmin(ctx, tx, from, m); errors.Is(err, ErrEmailTaken) {
			return Admin{}, nil, ErrLinkRequired.With(err)
		}
		return m, nil, err
	}
	if err != nil || !m.DisabledAt.IsZero() {
		return m, nil, err
	}
	if m.Email != who.Email {
		if err := tx.SetAdminEmail(ctx, m.ID, who.Email, at); errors.Is(err, ErrEmailTaken) {
			return m, nil, ErrLinkRequired.With(err)
		} else if err != nil {
			return m, nil, err
		}
		m.Email = who.Email
	}
	// The provider decides even about the last administrator: it can make another.
	changed, err := tx.SetAdminRole(ctx, m.ID, role, true, at)
	if err != nil || !changed {
		return m, nil, err
	}
	if sids, err = s.endSessions(ctx, tx, Subject{AudienceAdmin, m.ID}, ReasonChanged, at); err != nil {
		return m, nil, err
	}
	from.Kind, from.ID = role.actorKind(), m.ID
	err = s.auditRole(ctx, tx, from, m, role, at)
	m.Role, m.Scopes = role, nil
	return m, sids, err
}

var errNoCode = errors.New("account: the identity provider of staff sent no code")

// ErrInvalidState is a return from the identity provider that this browser did not
// begin, or not within [StaffFlowTTL].
var ErrInvalidState = registry.E(registry.Unauthenticated, "invalid_state", "This sign-in was not begun here, or took too long. Begin again.")
