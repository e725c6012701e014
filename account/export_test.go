package account

import "context"

// Tick is one round of what Run does for the signing keys.
func (s *Service) Tick(ctx context.Context) error { return s.followKeys(ctx) }

// FollowRevocations is one round of what Run does for sessions that others have ended.
func (s *Service) FollowRevocations(ctx context.Context) error {
	return s.readRevoked(ctx, s.opts.Now().Add(-lookBack))
}

// ParseAPIKey is parseAPIKey, for the fuzz target.
var ParseAPIKey = parseAPIKey

// Code is the password of a time step, as an authenticator shows it.
func (t TOTPSecret) Code(step int64) string { return t.code(step) }

// TOTPSecretOf makes a secret of its bytes.
func TOTPSecretOf(b []byte) TOTPSecret { return TOTPSecret{b} }

// OpenFlow is what the service makes of what a browser has kept.
func (s *Service) OpenFlow(kept string) (StaffFlow, bool) { return s.flows.open(kept, s.opts.Now()) }

// MailDue is mailDue.
func MailDue(ctx context.Context, s *Service) error { return s.mailDue(ctx) }
