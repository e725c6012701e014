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

// String names the subject as audit rows name it: "user:01J...", "staff:01J...".
func (of Subject) String() string {
	if of.Audience == AudienceAdmin {
		return "staff:" + of.ID
	}
	return string(registry.ActorUser) + ":" + of.ID
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
	if o.from.ClientType == "" { // nobody said so before it was known who asks
		o.from.ClientType = "app"
		if o.audience == AudienceAdmin {
			o.from.ClientType = "admin-web"
		}
	}
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

// Sessions lists the caller's live sessions before the given id, "" for the newest,
// newest first. ErrInsufficientRole for an actor who has none.
func (s *Service) Sessions(ctx context.Context, a registry.Actor, before string, limit int) (list []Session, err error) {
	of, ok := subjectOf(a)
	if !ok {
		return nil, registry.ErrInsufficientRole
	}
	err = s.store.View(ctx, func(tx Tx) (err error) {
		list, err = tx.Sessions(ctx, of, s.opts.Now(), before, limit)
		return err
	})
	return list, err
}

// SignOut ends the caller's session, and the one that the refresh token belongs to if
// it is the caller's too; "" for none. Doing it again changes nothing.
func (s *Service) SignOut(ctx context.Context, a registry.Actor, refresh string) error {
	of, ok := subjectOf(a)
	if !ok {
		return registry.ErrInsufficientRole
	}
	token, known := ParseRefreshToken(refresh)
	_, err := s.revoke(ctx, a, func(tx Tx, at time.Time) (sids []string, err error) {
		sids = []string{a.SessionID}
		if known {
			record, ok, err := tx.RefreshToken(ctx, token.hash())
			if err != nil {
				return nil, err
			}
			if ok && record.SessionID != a.SessionID {
				sids = append(sids, record.SessionID)
			}
		}
		return s.revokeEach(ctx, tx, of, sids, at)
	})
	if err == nil {
		s.ended(a.SessionID) // an earlier try may have committed without anybody hearing of it
	}
	return err
}

// EndSession ends one of the caller's sessions; ErrSessionNotFound when it is not
// live, or not theirs.
func (s *Service) EndSession(ctx context.Context, a registry.Actor, sid string) error {
	of, ok := subjectOf(a)
	if !ok {
		return registry.ErrInsufficientRole
	}
	sids, err := s.revoke(ctx, a, func(tx Tx, at time.Time) ([]string, error) {
		return s.revokeEach(ctx, tx, of, []string{sid}, at)
	})
	if err == nil && len(sids) == 0 {
		err = ErrSessionNotFound
	}
	return err
}

// EndSessions ends all of the caller's sessions, or all but the one that asks; it
// returns how many.
func (s *Service) EndSessions(ctx context.Context, a registry.Actor, keepThis bool) (int, error) {
	of, ok := subjectOf(a)
	if !ok {
		return 0, registry.ErrInsufficientRole
	}
	keep := ""
	if keepThis {
		keep = a.SessionID
	}
	sids, err := s.revoke(ctx, a, func(tx Tx, at time.Time) ([]string, error) {
		return tx.RevokeSessions(ctx, of, keep, ReasonSignedOut, at)
	})
	return len(sids), err
}

func (s *Service) revokeEach(ctx context.Context, tx Tx, of Subject, sids []string, at time.Time) (ended []string, err error) {
	for _, sid := range sids {
		changed, err := tx.RevokeSession(ctx, of, sid, ReasonSignedOut, at)
		if err != nil {
			return nil, err
		}
		if changed {
			ended = append(ended, sid)
		}
	}
	return ended, nil
}

// revoke runs a revocation by the caller in one transaction with its audit row, and
// makes it felt.
func (s *Service) revoke(ctx context.Context, a registry.Actor, f func(tx Tx, at time.Time) ([]string, error)) (sids []string, err error) {
	err = s.store.InTx(ctx, func(tx Tx) (err error) {
		at := s.now()
		if sids, err = f(tx, at); err != nil || len(sids) == 0 {
			return err
		}
		return s.audit(ctx, tx, a, "session_revoked", at, map[string]any{"sids": sids, "reason": ReasonSignedOut})
	})
	if err != nil {
		return nil, err
	}
	s.ended(sids...)
	return sids, nil
}

// Why a session was revoked.
const (
	ReasonSignedOut = "signed_out" // by its subject
	ReasonReuse     = "refresh_reuse"
	ReasonErased    = "erased"
	ReasonDisabled  = "disabled"
	ReasonChanged   = "changed" // the role, the scopes or the password of a member of staff
	ReasonStaff     = "staff"   // by staff, for a person
)

// endSessions revokes every live session of a person or a member of staff in the
// caller's transaction and returns their ids. After the commit, and only then, the
// caller gives them to [Service.ended].
func (s *Service) endSessions(ctx context.Context, tx Tx, of Subject, reason string, at time.Time) (sids []string, err error) {
	return tx.RevokeSessions(ctx, of, "", reason, at)
}
