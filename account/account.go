package account

import (
	"context"
	"crypto/rand"
	"encoding/base64"
	"errors"
	"log/slog"
	"maps"
	"runtime"
	"time"

	"github.com/google/uuid"
	"github.com/opticworks/devicecloud/registry"
)

// Devices is what the domain of people asks the domain of devices;
// [registry.Registry] implements it.
type Devices interface {
	// LinkOrders links the open order lines of a normalised, verified e-mail to the
	// person, in the caller's transaction. done is called after the commit, and tells
	// those who listen.
	LinkOrders(ctx context.Context, tx registry.Tx, userID, email string) (linked int, done func(), err error)
	// ReleaseDevices gives up everything that a person has of devices, in the caller's
	// transaction: what they own is released, shares are left. done is called after
	// the commit, and makes it felt.
	ReleaseDevices(ctx context.Context, tx registry.Tx, a registry.Actor, userID string) (done func(), err error)
	// InvitationsMoved has a value when a mail about an invitation has become due.
	InvitationsMoved() <-chan struct{}
	// TakeInvitationMails takes at most limit invitations whose mails are due, for a
	// quarter of an hour.
	TakeInvitationMails(ctx context.Context, limit int) ([]registry.Invitation, error)
	// InvitationMailed says that the mail of an invitation is sent, or refused for good.
	InvitationMailed(ctx context.Context, i registry.Invitation) error
}

// Options configures a Service. Only SigningKey has no usable zero value.
type Options struct {
	SigningKey SigningKey                   // signs, and is published
	MoreKeys   []SigningKey                 // are published and verify beside it
	ReloadKeys func() ([]SigningKey, error) // reads all of them anew, the first first; nil: they never change
	Issuer     string                       // claim iss; default "devicecloud"
	Now        func() time.Time             // default time.Now
	NewID      func() string                // ids of people and of token sessions; default UUIDs of version 7
	NextID     func() int64                 // ids of audit rows: the registry's source; default a source of its own
	Dev        bool                         // enables the login provider "dev"
	Providers  map[string]Provider          // by the name that an app gives; none needed
	Mailer     Mailer                       // sends links and invitations; nil: there are none
	LinkPage   string                       // URL of the page that a mailed link opens
	AccessTTL  time.Duration                // life of an access token; default 15 minutes
	Hash       HashParams                   // cost of a password hash; default m=19 MiB, t=2, p=1
	MaxHashes  int                          // password hashes at once; default half the CPUs, so that guessers leave some to devices
	Logger     *slog.Logger                 // default slog.Default()

	Sealer        *registry.Sealer // encrypts shared secrets at rest; nil: stored bare
	StaffProvider StaffProvider    // where staff may sign in too; nil: by password alone
	StaffGroups   StaffGroups      // which of its groups makes which role
}

// The audiences of tokens.
const (
	AudienceApp   = "app"   // people
	AudienceAdmin = "admin" // platform staff; service accounts have [AudienceService]
)

const defaultAccessTTL = 15 * time.Minute // [contracts C.3]

func (o *Options) defaults() {
	if o.Issuer == "" {
		o.Issuer = "devicecloud"
	}
	if o.Now == nil {
		o.Now = time.Now
	}
	if o.NewID == nil {
		o.NewID = func() string { return uuid.Must(uuid.NewV7()).String() }
	}
	if o.NextID == nil {
		o.NextID = registry.NewIDSource(o.Now)
	}
	if o.AccessTTL <= 0 {
		o.AccessTTL = defaultAccessTTL
	}
	if o.Hash == (HashParams{}) {
		o.Hash = HashParams{MemoryKiB: 19 << 10, Passes: 2, Lanes: 1}
	}
	if o.MaxHashes <= 0 {
		o.MaxHashes = max(1, runtime.GOMAXPROCS(0)/2)
	}
	if o.Logger == nil {
		o.Logger = slog.Default()
	}
}

// Service is the domain of people. It is safe for concurrent use.
type Service struct {
	store      Store
	devices    Devices
	opts       Options
	log        *slog.Logger
	providers  map[string]Provider
	keys       *keyring
	keyProblem string // of Run: the last that was logged
	checked    *tokenCache
	revocation *revocation
	hasher     *hasher
	lockout    *lockout
	mail       *postbox     // nil without a mailer
	dummy      PasswordHash // what an unknown address is checked against

	credentials *credentialCache // of service accounts
	flows       flowSealer       // sign-ins of staff that are under way
}

// New makes a Service. It fails without a signing key, and with hash parameters
// that argon2 does not take.
func New(store Store, devices Devices, opts Options) (*Service, error) {
	opts.defaults()
	if opts.SigningKey.key == nil {
		return nil, errors.New("account: a signing key is needed")
	}
	if err := opts.Hash.check(); err != nil {
		return nil, err
	}
	keys, err := newKeyring(append([]SigningKey{opts.SigningKey}, opts.MoreKeys...), opts.AccessTTL+skew)
	if err != nil {
		return nil, err
	}
	flows, err := newFlowSealer(opts.SigningKey)
	if err != nil {
		return nil, err
	}
	s := &Service{
		store: store, devices: devices, opts: opts, log: opts.Logger, providers: map[string]Provider{},
		credentials: newCredentialCache(), flows: flows,
		keys: keys, checked: newTokenCache(), revocation: newRevocation(opts.AccessTTL + skew), hasher: newHasher(opts.Hash, opts.MaxHashes), lockout: newLockout(),
	}
	maps.Copy(s.providers, opts.Providers)
	if opts.Mailer != nil {
		s.mail = newPostbox(opts.Mailer, opts.Logger)
	}
	if opts.Dev {
		s.providers[ProviderDev] = devProvider{}
	}
	s.dummy = opts.Hash.hash(randomText())
	return s, nil
}

// now is the time of a write, at the database's resolution of a microsecond.
func (s *Service) now() time.Time { return s.opts.Now().Truncate(time.Microsecond).UTC() }

// ttl is the life of an access token.
func (s *Service) ttl() time.Duration { return s.opts.AccessTTL }

// audit writes an audit row in the transaction of the change.
func (s *Service) audit(ctx context.Context, tx Tx, a registry.Actor, event string, at time.Time, data map[string]any) error {
	return tx.InsertAudit(ctx, registry.AuditEvent{
		ID: s.opts.NextID(), Domain: "account", Event: event, Data: data, Actor: a.String(), RequestID: a.RequestID,
		IP: a.IP, UserAgent: a.UserAgent, Client: a.ClientType, At: at,
	})
}

// Profile is what a signed-in person may see of themselves.
type Profile struct {
	Kind          registry.ActorKind // user, admin, support or service
	ID            string
	Email         string
	EmailVerified bool
	CreatedAt     time.Time
	Identities    []LinkedIdentity // of a person, the oldest first; only filled by [Service.Me]
	staffScopes   []string         // of a member of staff, for their next token
}

// Me reads the signed-in person. ErrInvalidToken when the account is gone,
// ErrAccountDisabled when it is disabled.
func (s *Service) Me(ctx context.Context, a registry.Actor) (p Profile, err error) {
	if a.Kind == registry.ActorService {
		return s.serviceProfile(ctx, a)
	}
	of, ok := subjectOf(a)
	if !ok {
		return Profile{}, ErrInvalidToken
	}
	err = s.store.View(ctx, func(tx Tx) (err error) {
		if p, err = s.profile(ctx, tx, of); err != nil || of.Audience != AudienceApp {
			return err
		}
		p.Identities, err = tx.Identities(ctx, of.ID)
		return err
	})
	return p, err
}

// profile reads a person or a member of staff. ErrInvalidToken when there is no such
// account, ErrAccountDisabled when it is disabled.
func (s *Service) profile(ctx context.Context, tx Tx, of Subject) (p Profile, err error) {
	var disabledAt time.Time
	if of.Audience == AudienceAdmin {
		var m Admin
		m, err = tx.Admin(ctx, of.ID)
		p = Profile{Kind: m.Role.actorKind(), ID: m.ID, Email: m.Email, EmailVerified: true, CreatedAt: m.CreatedAt, staffScopes: m.tokenScopes()}
		disabledAt = m.DisabledAt
	} else {
		var u User
		u, err = tx.User(ctx, of.ID)
		p = Profile{Kind: registry.ActorUser, ID: u.ID, Email: u.Email, EmailVerified: u.EmailVerified, CreatedAt: u.CreatedAt}
		disabledAt = u.DisabledAt
	}
	switch {
	case errors.Is(err, ErrUserNotFound), errors.Is(err, ErrAdminNotFound):
		return Profile{}, ErrInvalidToken.With(err)
	case err != nil:
		return Profile{}, err
	case !disabledAt.IsZero():
		return Profile{}, ErrAccountDisabled
	}
	return p, nil
}

// randomText is 128 random bits as text.
func randomText() string {
	b := make([]byte, 16)
	_, _ = rand.Read(b) // never fails, see its documentation
	return base64.RawURLEncoding.EncodeToString(b)
}

// The errors of signing in.
var (
	ErrMissingFields       = registry.E(registry.Invalid, "missing_fields", "A required field is missing or empty.")
	ErrInvalidProvider     = registry.E(registry.Invalid, "invalid_provider", "This login provider is unknown or not configured.")
	ErrInvalidToken        = registry.E(registry.Unauthenticated, "invalid_token", "The token is missing, not valid, or expired.")
	ErrInvalidCredentials  = registry.E(registry.Unauthenticated, "invalid_credentials", "The e-mail address or the password is not valid.")
	ErrRefreshInProgress   = registry.E(registry.Conflict, "refresh_in_progress", "This refresh token has just been used by the same app. Keep the tokens that it got.")
	ErrAccountDisabled     = registry.E(registry.Forbidden, "account_disabled", "This account is disabled.")
	ErrEmailNotVerified    = registry.E(registry.Forbidden, "email_not_verified", "The provider has not verified this e-mail address.")
	ErrProviderUnavailable = registry.E(registry.Unavailable, "provider_unavailable", "The login provider does not answer. Try again.")
	ErrLinkRequired        = registry.E(registry.Conflict, "account_link_required", "This e-mail address already signs in another way.")
	ErrRateLimited         = registry.E(registry.RateLimited, "RATE_LIMITED", "Too many attempts. Try again later.")
	ErrInvalidEmail        = registry.E(registry.Invalid, "invalid_email", "This is not an e-mail address.")
	ErrWeakPassword        = registry.E(registry.Invalid, "weak_password", "A password needs 12 to 256 characters, and is not one of those that are tried first.")
	ErrInvalidRole         = registry.E(registry.Invalid, "invalid_role", "The role must be admin or support.")
)
