package account

import (
	"context"
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha1" //nolint:gosec // RFC 6238's default, and the only one that every authenticator app knows
	"crypto/subtle"
	"encoding/base32"
	"encoding/binary"
	"fmt"
	"net/url"
	"time"

	"github.com/opticworks/devicecloud/registry"
)

const (
	// totpSize is the shared secret's length: that of the hash. [RFC 4226 4]
	totpSize   = sha1.Size
	totpDigits = 6
	totpPeriod = 30 * time.Second // [RFC 6238 5.2]
	// totpDrift is how many steps a phone's clock may be off, each way.
	totpDrift = 1
)

// TOTPSecret is the shared secret of time-based one-time passwords. It redacts itself
// in every format; only [TOTPSecret.Reveal] gives its text.
type TOTPSecret struct{ bytes []byte }

func newTOTPSecret() TOTPSecret {
	b := make([]byte, totpSize)
	_, _ = rand.Read(b) // never fails, see its documentation
	return TOTPSecret{b}
}

// Reveal is the secret in base32, as a person types it into an authenticator.
func (t TOTPSecret) Reveal() string {
	return base32.StdEncoding.WithPadding(base32.NoPadding).EncodeToString(t.bytes)
}

// URL is the otpauth address that authenticators read from a QR code. It holds the
// secret.
func (t TOTPSecret) URL(issuer, name string) string {
	q := url.Values{"secret": {t.Reveal()}, "issuer": {issuer}, "algorithm": {"SHA1"}, "digits": {"6"}, "period": {"30"}}
	u := url.URL{Scheme: "otpauth", Host: "totp", Path: "/" + issuer + ":" + name, RawQuery: q.Encode()}
	return u.String()
}

// Format redacts.
func (TOTPSecret) Format(f fmt.State, _ rune) { _, _ = f.Write([]byte("[redacted]")) }

// MarshalText redacts.
func (TOTPSecret) MarshalText() ([]byte, error) { return []byte("[redacted]"), nil }

// code is the password of a time step. [RFC 4226 5.3]
func (t TOTPSecret) code(step int64) string {
	mac := hmac.New(sha1.New, t.bytes)
	var counter [8]byte
	binary.BigEndian.PutUint64(counter[:], uint64(step))
	mac.Write(counter[:])
	sum := mac.Sum(nil)
	offset := sum[len(sum)-1] & 0x0f
	number := binary.BigEndian.Uint32(sum[offset:]) & 0x7fffffff
	return fmt.Sprintf("%0*d", totpDigits, number%1_000_000)
}

// match is the time step that a code is the password of, among those that are
// accepted at a time. It looks at all of them whatever the outcome.
func (t TOTPSecret) match(code string, now time.Time) (step int64, ok bool) {
	current := now.Unix() / int64(totpPeriod/time.Second)
	for s := current - totpDrift; s <= current+totpDrift; s++ {
		if subtle.ConstantTimeCompare([]byte(t.code(s)), []byte(code)) == 1 {
			step, ok = s, true
		}
	}
	return step, ok
}

// totpOwner names whose a sealed secret is.
func totpOwner(adminID string) string { return "totp:" + adminID }

// totp is a member's shared secret.
func (s *Service) totp(a Admin) (TOTPSecret, error) {
	b, err := s.opts.Sealer.Open(totpOwner(a.ID), a.TOTPSecret, totpSize)
	return TOTPSecret{b}, err
}

// StartTOTP gives a signed-in member of staff a new shared secret, which counts for
// nothing until [Service.ConfirmTOTP]. name is what the authenticator calls it. Errors:
// ErrTOTPEnabled, Forbidden, ErrUnavailable.
func (s *Service) StartTOTP(ctx context.Context, a registry.Actor) (secret TOTPSecret, otpauth string, err error) {
	secret = newTOTPSecret()
	var m Admin
	err = s.store.InTx(ctx, func(tx Tx) (err error) {
		if m, err = s.member(ctx, tx, a); err != nil {
			return err
		}
		changed, err := tx.SetPendingTOTP(ctx, m.ID, s.opts.Sealer.Seal(totpOwner(m.ID), secret.bytes), s.now())
		if err == nil && !changed {
			err = ErrTOTPEnabled
		}
		return err
	})
	if err != nil {
		return TOTPSecret{}, "", err
	}
	return secret, secret.URL(s.opts.Issuer, m.Email), nil
}

// ConfirmTOTP turns the second proof on: from now on a login needs it. Errors:
// ErrMissingFields, ErrTOTPEnabled, ErrTOTPDisabled when none was started, ErrInvalidTOTP,
// ErrRateLimited after five wrong codes, Forbidden, ErrUnavailable.
func (s *Service) ConfirmTOTP(ctx context.Context, a registry.Actor, code string) error {
	return s.changeTOTP(ctx, a, code, func(ctx context.Context, tx Tx, m Admin, step int64, at time.Time) error {
		changed, err := tx.ConfirmTOTP(ctx, m.ID, step, at)
		if err == nil && !changed {
			err = ErrTOTPEnabled
		}
		if err != nil {
			return err
		}
		return s.audit(ctx, tx, a, "totp_enabled", at, nil)
	})
}

// DisableTOTP turns the second proof off, for who still has it. Errors as of
// [Service.ConfirmTOTP].
func (s *Service) DisableTOTP(ctx context.Context, a registry.Actor, code string) error {
	return s.changeTOTP(ctx, a, code, func(ctx context.Context, tx Tx, m Admin, step int64, at time.Time) error {
		if m.TOTPConfirmedAt.IsZero() {
			return ErrTOTPDisabled
		}
		fresh, err := tx.UseTOTPStep(ctx, m.ID, step, at)
		if err == nil && !fresh {
			err = ErrInvalidTOTP
		}
		if err != nil {
			return err
		}
		if _, err := tx.ClearTOTP(ctx, m.ID, at); err != nil {
			return err
		}
		return s.audit(ctx, tx, a, "totp_disabled", at, nil)
	})
}

// changeTOTP checks the code of a signed-in member and runs change in the same
// transaction. Wrong codes count in the lock-out, like wrong passwords.
func (s *Service) changeTOTP(ctx context.Context, a registry.Actor, code string, change func(ctx context.Context, tx Tx, m Admin, step int64, at time.Time) error) error {
	if code == "" {
		return ErrMissingFields
	}
	name := "totp:" + a.ID // not the e-mail: wrong codes must not lock out the password
	if wait, _ := s.lockout.attempt(name, a.IP, s.opts.Now()); wait > 0 {
		return limited(wait)
	}
	at := s.now()
	err := s.store.InTx(ctx, func(tx Tx) error {
		m, err := s.member(ctx, tx, a)
		if err != nil {
			return err
		}
		if len(m.TOTPSecret) == 0 {
			return ErrTOTPDisabled
		}
		secret, err := s.totp(m)
		if err != nil {
			return err
		}
		step, ok := secret.match(code, at)
		if !ok {
			return ErrInvalidTOTP
		}
		return change(ctx, tx, m, step, at)
	})
	switch {
	case err == nil:
		s.lockout.succeeded(name, a.IP)
	case registry.KindOf(err) != registry.Invalid: // it said nothing about the code
		s.lockout.refund(name, a.IP)
	}
	return err
}

// secondProof is the time step of the code of a login whose password is right; 0 for
// an account without a second proof. The caller uses the step up in the transaction of
// the login. No code at all is ErrTOTPRequired, a wrong one ErrInvalidCredentials.
func (s *Service) secondProof(a Admin, code string) (step int64, err error) {
	switch {
	case a.TOTPConfirmedAt.IsZero():
		return 0, nil
	case code == "":
		return 0, ErrTOTPRequired
	}
	secret, err := s.totp(a)
	if err != nil {
		return 0, err
	}
	step, ok := secret.match(code, s.now())
	if !ok {
		return 0, ErrInvalidCredentials
	}
	return step, nil
}

// limited is ErrRateLimited with the time to wait.
func limited(wait time.Duration) error {
	e := *ErrRateLimited
	e.RetryAfter = wait
	return &e
}

// SealedTOTP is a shared secret as it is stored. It redacts itself in every format.
type SealedTOTP []byte

// Format redacts.
func (SealedTOTP) Format(f fmt.State, _ rune) { _, _ = f.Write([]byte("[redacted]")) }

// MarshalText redacts.
func (SealedTOTP) MarshalText() ([]byte, error) { return []byte("[redacted]"), nil }

// The errors of the second proof.
var (
	ErrTOTPRequired = registry.E(registry.Unauthenticated, "totp_required", "This account also needs a code of its authenticator.")
	ErrTOTPEnabled  = registry.E(registry.Conflict, "totp_enabled", "This account has an authenticator already.")
	ErrTOTPDisabled = registry.E(registry.Conflict, "totp_disabled", "This account has no authenticator.")
	ErrInvalidTOTP  = registry.E(registry.Invalid, "invalid_totp", "The code is not valid.")
)
