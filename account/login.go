package account

import (
	"context"
	"crypto/sha256"
	"errors"
	"time"

	"github.com/opticworks/devicecloud/registry"
)

// LoginRequest is a login by a provider's token or code. [contracts C.1]
type LoginRequest struct {
	Provider string
	IDToken  string
	Code     string
	Nonce    string
	Device   Device
}

// proof is the token or the code, and says whether there is one.
func (r LoginRequest) proof() (text string, ok bool) {
	if r.IDToken != "" {
		return r.IDToken, true
	}
	return r.Code, r.Code != ""
}

// Login lets a person in by what a provider says of them, and makes the user at
// the first time. With a verified e-mail the first login also links the order
// lines of that e-mail, in the same transaction. from says where the request
// comes from.
//
// In this order: ErrMissingFields, ErrInvalidProvider, registry.ErrInvalidRequest
// for the device, ErrInvalidToken, ErrEmailNotVerified, ErrLinkRequired,
// ErrAccountDisabled; and ErrUnavailable. [contracts C.1]
func (s *Service) Login(ctx context.Context, req LoginRequest, from registry.Actor) (Tokens, User, error) {
	who, err := s.verify(ctx, req)
	if err != nil {
		return Tokens{}, User{}, s.refuseLogin(ctx, from, req.Provider, err)
	}
	var tokens Tokens
	var u User
	var then afterwards
	err = s.store.InTx(ctx, func(tx Tx) (err error) {
		then = nil
		if err := s.useOnce(ctx, tx, req, who); err != nil {
			return err
		}
		if u, err = s.person(ctx, tx, req.Provider, who, from, &then); err != nil {
			return err
		}
		tokens, err = s.open(ctx, tx, opening{
			audience: AudienceApp, subject: u.ID, method: req.Provider, scopes: personScopes(), device: req.Device, from: from,
		})
		return err
	})
	if err != nil {
		return Tokens{}, User{}, s.refuseLogin(ctx, from, req.Provider, err)
	}
	then.run()
	return tokens, u, nil
}

// afterwards is what is to be done once a transaction has committed.
type afterwards []func()

func (a afterwards) run() {
	for _, f := range a {
		f()
	}
}

// linkOrders gives a person what they have bought, and tells of it afterwards.
func (s *Service) linkOrders(ctx context.Context, tx Tx, userID, email string, then *afterwards) (linked int, err error) {
	linked, done, err := s.devices.LinkOrders(ctx, tx, userID, email)
	if err == nil && linked > 0 {
		*then = append(*then, done)
	}
	return linked, err
}

// personScopes is what the tokens of people carry.
func personScopes() []string {
	return []string{registry.ScopeDeviceRead, registry.ScopeDeviceControl, registry.ScopeDeviceConfigure}
}

// verify asks the provider of a request.
func (s *Service) verify(ctx context.Context, req LoginRequest) (Identity, error) {
	if _, ok := req.proof(); !ok || req.Provider == "" {
		return Identity{}, ErrMissingFields
	}
	p, ok := s.providers[req.Provider]
	if !ok {
		return Identity{}, ErrInvalidProvider
	}
	if err := req.Device.check(); err != nil {
		return Identity{}, err
	}
	who, err := p.Verify(ctx, req)
	if err != nil {
		return Identity{}, err
	}
	if len(who.Subjects) == 0 {
		return Identity{}, ErrInvalidToken.With(errNoSubject)
	}
	for _, subject := range who.Subjects { // or two of them could be one in the database
		if subject == "" || len(subject) > maxSubject || !printable(subject) {
			return Identity{}, ErrInvalidToken.With(errNoSubject)
		}
	}
	if who.Email != "" {
		if who.Email, err = registry.NormalizeEmail(who.Email); err != nil {
			return Identity{}, ErrInvalidToken.With(err)
		}
	}
	return who, nil
}

// maxSubject bounds a subject, in bytes. [OpenID Connect Core 2]
const maxSubject = 255

var errNoSubject = errors.New("account: the provider names nobody, or in a way that cannot be kept")

// useOnce makes a provider's token or code work once: of all who show it, one wins.
// [contracts C.1]
func (s *Service) useOnce(ctx context.Context, tx Tx, req LoginRequest, who Identity) error {
	if req.Provider == ProviderDev {
		return nil
	}
	proof, _ := req.proof()
	if who.Proof != "" {
		proof = who.Proof
	}
	sum := sha256.Sum256([]byte(req.Provider + "\x00" + proof))
	expires := who.Expires
	if expires.IsZero() { // the provider does not say
		expires = s.now().Add(unknownExpiry)
	}
	if earliest := s.now().Add(skew); expires.Before(earliest) { // a clock that is behind the provider's
		expires = earliest
	}
	fresh, err := tx.UseToken(ctx, sum[:], expires.Truncate(time.Microsecond))
	if err == nil && !fresh {
		err = ErrInvalidToken.With(errUsedToken)
	}
	return err
}

// unknownExpiry is how long a token is remembered whose end nobody knows.
const unknownExpiry = 24 * time.Hour

var errUsedToken = errors.New("account: the provider's token has been used before")

// person finds the user of an identity, or makes one; a user who is disabled is
// refused.
func (s *Service) person(ctx context.Context, tx Tx, provider string, who Identity, from registry.Actor, then *afterwards) (User, error) {
	u, err := userOf(ctx, tx, provider, who)
	switch {
	case errors.Is(err, ErrUserNotFound):
		return s.register(ctx, tx, provider, who, from, then)
	case err != nil:
		return User{}, err
	case !u.DisabledAt.IsZero():
		return User{}, ErrAccountDisabled
	}
	return u, s.nameAll(ctx, tx, provider, who, u.ID)
}

// userOf finds the user of an identity by any of its names; ErrUserNotFound.
func userOf(ctx context.Context, tx Tx, provider string, who Identity) (User, error) {
	for _, subject := range who.Subjects {
		u, err := tx.UserByIdentity(ctx, provider, subject)
		if !errors.Is(err, ErrUserNotFound) {
			return u, err
		}
	}
	return User{}, ErrUserNotFound
}

// nameAll writes the names of an identity that are not known yet. A further name
// that is somebody else's stays theirs: the first that is known has decided.
func (s *Service) nameAll(ctx context.Context, tx Tx, provider string, who Identity, userID string) error {
	for _, subject := range who.Subjects {
		if err := tx.InsertIdentity(ctx, provider, subject, userID, s.now()); err != nil && !errors.Is(err, ErrIdentityTaken) {
			return err
		}
	}
	return nil
}

// register makes the user of an identity that nobody has.
func (s *Service) register(ctx context.Context, tx Tx, provider string, who Identity, from registry.Actor, then *afterwards) (User, error) {
	if who.Email != "" && !who.EmailVerified {
		return User{}, ErrEmailNotVerified
	}
	fresh := User{ID: s.opts.NewID(), Email: who.Email, EmailVerified: who.Email != "", CreatedAt: s.now()}
	if err := tx.InsertUser(ctx, fresh); errors.Is(err, ErrEmailTaken) {
		return User{}, ErrLinkRequired.With(err)
	} else if err != nil {
		return User{}, err
	}
	if err := s.nameAll(ctx, tx, provider, who, fresh.ID); err != nil {
		return User{}, err
	}
	linked := 0
	if fresh.EmailVerified {
		var err error
		if linked, err = s.linkOrders(ctx, tx, fresh.ID, fresh.Email, then); err != nil {
			return User{}, err
		}
	}
	from.Kind, from.ID = registry.ActorUser, fresh.ID
	return fresh, s.audit(ctx, tx, from, "user_registered", fresh.CreatedAt, map[string]any{"provider": provider, "orders_linked": linked})
}

// refuseLogin records a login that was refused, also when the caller has hung up
// meanwhile, and returns why it was. What was typed is not recorded.
func (s *Service) refuseLogin(ctx context.Context, from registry.Actor, method string, refused error) error {
	var e *registry.Error
	if !errors.As(refused, &e) {
		return refused
	}
	switch e.Kind {
	case registry.Unauthenticated, registry.Forbidden, registry.Conflict:
	default:
		return refused
	}
	if from.ID == "" {
		from.Kind = "anonymous"
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), registry.CommitTimeout)
	defer cancel()
	err := s.store.InTx(ctx, func(tx Tx) error {
		return s.audit(ctx, tx, from, "login_failed", s.now(), map[string]any{"method": method, "code": e.Code})
	})
	if err != nil {
		return err
	}
	return refused
}
