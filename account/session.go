package account

import (
	"context"
	"time"
	"unicode"
	"unicode/utf8"

	"github.com/opticworks/devicecloud/registry"
)

// How long a session lives without a refresh, and in all. [contracts C.3, C.4]
const (
	personIdle     = 30 * 24 * time.Hour
	personAbsolute = 90 * 24 * time.Hour
	staffIdle      = 8 * time.Hour
	staffAbsolute  = 8 * time.Hour
)

// Subject is whose a session is: a person (AudienceApp) or a member of staff
// (AudienceAdmin).
type Subject struct {
	Audience string
	ID       string
}

// subjectOf is the subject of an actor; ok is false for anybody who has no sessions.
func subjectOf(a registry.Actor) (of Subject, ok bool) {
	switch a.Kind {
	case registry.ActorUser:
		return Subject{AudienceApp, a.ID}, true
	case registry.ActorAdmin, registry.ActorSupport:
		return Subject{AudienceAdmin, a.ID}, true
	}
	return Subject{}, false
}

// Device is the app's installation that signs in, as it describes itself. Each text
// may be empty. [contracts C.1]
type Device struct {
	InstallID string // at most 64 bytes
	Platform  string // ios, android, miniapp, or another word of at most 32 bytes
	Name      string // at most 64 characters
}

// check refuses what is too long or not printable, with registry.ErrInvalidRequest.
func (d Device) check() error {
	for _, f := range []struct {
		name, text string
		most       int
	}{{"install_id", d.InstallID, 64}, {"platform", d.Platform, 32}, {"name", d.Name, 256}} {
		if len(f.text) > f.most || !printable(f.text) {
			return registry.E(registry.Invalid, registry.ErrInvalidRequest.Code, "device."+f.name+" is too long, or not printable.")
		}
	}
	if utf8.RuneCountInString(d.Name) > 64 {
		return registry.E(registry.Invalid, registry.ErrInvalidRequest.Code, "device.name has more than 64 characters.")
	}
	return nil
}

func printable(s string) bool {
	for _, r := range s {
		if r == utf8.RuneError || !unicode.IsPrint(r) {
			return false
		}
	}
	return true
}

// Session is one sign-in: a family of refresh tokens, and the access tokens that
// carry its id.
type Session struct {
	ID                string // claim sid; grows with time
	Of                Subject
	Scopes            []string
	Method            string // claim amr
	Device            Device
	ClientType        string
	IP                string
	UserAgent         string
	CreatedAt         time.Time // claim auth_time
	LastUsedAt        time.Time
	ExpiresAt         time.Time // slides with each refresh
	AbsoluteExpiresAt time.Time
	RevokedAt         time.Time
	RevokeReason      string
}

// live reports whether the session may still be used.
func (x Session) live(now time.Time) bool {
	return x.RevokedAt.IsZero() && now.Before(x.ExpiresAt) && now.Before(x.AbsoluteExpiresAt)
}

// opening is a sign-in that has been proven.
type opening struct {
	audience string         // AudienceApp or AudienceAdmin
	subject  string         // user id or administrator id
	role     string         // of staff, "" for people
	method   string         // claim amr: the provider's name, "email", "password", "password+totp", "oidc"
	scopes   []string       // that its access tokens carry
	device   Device         // checked
	from     registry.Actor // request id, ip, user agent, client type
}

// actor is who has signed in, for audit rows.
func (o opening) actor() registry.Actor {
	a := o.from
	a.ID, a.Kind = o.subject, registry.ActorUser
	if o.audience == AudienceAdmin {
		a.Kind = AdminRole(o.role).actorKind()
	}
	return a
}

// open starts a session in the caller's transaction: the session, its first refresh
// token, and audit login_succeeded. The tokens may be handed out once it has
// committed. The caller has read, in the same transaction, that the subject exists
// and is not disabled: then no session outlives a disabling.
func (s *Service) open(ctx context.Context, tx Tx, o opening) (Tokens, error) {
	now := s.now()
	idle, absolute := lifetime(o.audience)
	x := Session{
		ID: s.opts.NewID(), Of: Subject{o.audience, o.subject}, Scopes: o.scopes, Method: o.method, Device: o.device,
		ClientType: o.from.ClientType, IP: o.from.IP, UserAgent: o.from.UserAgent,
		CreatedAt: now, LastUsedAt: now, ExpiresAt: now.Add(idle), AbsoluteExpiresAt: now.Add(absolute),
	}
	if err := tx.InsertSession(ctx, x); err != nil {
		return Tokens{}, err
	}
	a := o.actor()
	if err := s.audit(ctx, tx, a, "login_succeeded", now, map[string]any{"method": o.method, "sid": x.ID}); err != nil {
		return Tokens{}, err
	}
	return s.hand(ctx, tx, x, o.role, now)
}

// hand issues the next pair of tokens of a session.
func (s *Service) hand(ctx context.Context, tx Tx, x Session, role string, now time.Time) (Tokens, error) {
	refresh := newRefreshToken()
	if err := tx.InsertRefreshToken(ctx, refresh.hash(), x.ID, now); err != nil {
		return Tokens{}, err
	}
	access, ttl, err := s.issue(x, role, now)
	if err != nil {
		return Tokens{}, err
	}
	return Tokens{Access: access, TTL: ttl, Refresh: refresh, RefreshTTL: x.ExpiresAt.Sub(now)}, nil
}

func lifetime(audience string) (idle, absolute time.Duration) {
	if audience == AudienceAdmin {
		return staffIdle, staffAbsolute
	}
	return personIdle, personAbsolute
}

// Why a session was revoked.
const (
	ReasonSignedOut = "signed_out" // by its subject
	ReasonReuse     = "refresh_reuse"
	ReasonErased    = "erased"
	ReasonDisabled  = "disabled"
	ReasonChanged   = "changed" // the role or the password of a member of staff
	ReasonStaff     = "staff"   // by staff, for a person
)

// endSessions revokes every live session of a person or a member of staff in the
// caller's transaction and returns their ids. After the commit, and only then, the
// caller gives them to [Service.ended].
func (s *Service) endSessions(ctx context.Context, tx Tx, of Subject, reason string, at time.Time) (sids []string, err error) {
	return tx.RevokeSessions(ctx, of, "", reason, at)
}
