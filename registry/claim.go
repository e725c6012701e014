package registry

import (
	"context"
	"crypto/rand"
	"crypto/sha256"
	"crypto/subtle"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/opticworks/devicecloud/topic"
)

// How a device came to its owner, beside a purchase and a transfer. [contracts I]
const (
	viaQR          = "qr"           // the secret on its label
	viaPairingCode = "pairing_code" // a code that the app handed to it
	viaButton      = "button"       // somebody pressed its button
	viaSupport     = "support"
)

const (
	// activationWindow is how long after its provisioning an online device can be had
	// by its label's secret.
	activationWindow = 15 * time.Minute
	// challengeLife is how long somebody has to press the button.
	challengeLife = time.Minute
	// maxOpenClaims is how many claims of one person may wait for a device.
	maxOpenClaims = 5
	// Within tryWindow a device and a person have this many tries that fail.
	tryWindow         = time.Hour
	maxTriesPerDevice = 5
	maxTriesPerUser   = 10
	// claimMemory is how long a claim can be asked about once it is over.
	claimMemory = time.Hour
)

// The refusals of claims.
var (
	ErrWindowClosed  = E(Conflict, "activation_window_closed", "The device must be online and have been set up within the last 15 minutes.")
	ErrTooManyClaims = E(Conflict, "too_many_claims", "Too many claims wait for a device.")
	ErrClaimNotFound = E(NotFound, "claim_not_found", "There is no such claim.")
	ErrAlreadyOwned  = E(Conflict, "already_owned", "The device has an owner.")
	ErrNoSuchUser    = E(NotFound, "user_not_found", "There is no such person.")
	ErrTooManyTries  = E(RateLimited, "RATE_LIMITED", "Too many attempts have failed.")
	errCodeInvalid   = E(Invalid, "code_invalid", "The code or its proof is wrong.")
	errCodeExpired   = E(Invalid, "code_expired", "The code has expired or has been used.")
)

// ClaimSecret is the secret on a device's label. It redacts itself.
type ClaimSecret string

// Format redacts, for every verb.
func (ClaimSecret) Format(f fmt.State, _ rune) { _, _ = f.Write([]byte(redacted)) }

// PairingCode is what an app hands to a device: 8 characters of Crockford's base 32,
// 40 random bits. It redacts itself.
type PairingCode string

// Format redacts, for every verb.
func (PairingCode) Format(f fmt.State, _ rune) { _, _ = f.Write([]byte(redacted)) }

// crockford is the alphabet of a pairing code: no letter looks like a digit.
const crockford = "0123456789ABCDEFGHJKMNPQRSTVWXYZ"

func newPairingCode() PairingCode {
	var b [8]byte
	_, _ = rand.Read(b[:]) // never fails, see its documentation
	for i, x := range b {
		b[i] = crockford[x&31]
	}
	return PairingCode(b[:])
}

// hash is what is stored of a code, however it was typed.
func (c PairingCode) hash() []byte {
	s := strings.NewReplacer("-", "", " ", "", "O", "0", "I", "1", "L", "1").Replace(strings.ToUpper(string(c)))
	sum := sha256.Sum256([]byte(s))
	return sum[:]
}

// ClaimStatus is what has become of a claim.
type ClaimStatus string

// The states of a claim.
const (
	ClaimPending  ClaimStatus = "pending"
	ClaimClaimed  ClaimStatus = "claimed"
	ClaimExpired  ClaimStatus = "expired"
	ClaimRejected ClaimStatus = "rejected"
)

// Pairing is a person's claim that waits for the device itself, by a code or by its
// button.
type Pairing struct {
	ID        string
	UserID    string
	Via       string // pairing_code or button
	Hash      []byte // SHA-256 of the code, or of the challenge
	DeviceNo  int64  // 0: not known yet
	DeviceID  string // filled by reads
	Status    ClaimStatus
	Error     string // why it was rejected
	CreatedAt time.Time
	ExpiresAt time.Time
}

// at is the pairing as it is at a time.
func (p Pairing) at(now time.Time) Pairing {
	if p.Status == ClaimPending && !p.ExpiresAt.After(now) {
		p.Status = ClaimExpired
	}
	return p
}

// Claimed says what somebody has got.
type Claimed struct {
	DeviceID  string
	UserID    string
	ClaimedAt time.Time
	Via       string
	New       bool // it was not theirs before
}

// claimant lets people pass whose token may configure devices.
func claimant(a Actor) error {
	switch {
	case a.Kind != ActorUser:
		return ErrInsufficientRole
	case !a.Has(ScopeDeviceConfigure):
		return ErrInsufficientScope
	}
	return nil
}

// try is one attempt to bind a device. A refusal of bind is committed too: it is in
// the audit trail, and what was guessed wrong is charged to the device and the person.
type try struct {
	actor    Actor
	deviceID string // as it was named: there need not be such a device
	via      string
	charge   []charge
	bind     func(tx Tx, now time.Time) (Claimed, error)
}

// charge is whom a failed try counts against.
type charge struct {
	subject string
	most    int
}

func (r *Registry) chargeDevice(id string) charge { return charge{"device:" + id, maxTriesPerDevice} }
func (r *Registry) chargeUser(id string) charge   { return charge{"user:" + id, maxTriesPerUser} }

// attempt runs a try, and tells the world when it has bound a device.
func (r *Registry) attempt(ctx context.Context, t try) (c Claimed, err error) {
	var refusal error
	now := r.now()
	err = r.change(ctx, func(tx Tx) (err error) {
		refusal = r.spent(ctx, tx, t.charge, now)
		if refusal == nil {
			c, refusal = t.bind(tx, now)
		}
		switch KindOf(refusal) {
		case Internal, Unavailable:
			if refusal != nil {
				return refusal
			}
			return nil
		case Conflict:
			if errors.Is(refusal, ErrStale) {
				return refusal
			}
		}
		if errors.Is(refusal, ErrDeviceNotFound) || errors.Is(refusal, errCodeInvalid) {
			if err := r.spend(ctx, tx, t.charge, now); err != nil {
				return err
			}
		}
		var e *Error
		errors.As(refusal, &e)
		about := t.deviceID
		if !topic.ValidDeviceID(about) {
			about = "" // it may be anything, a secret in the wrong field too
		}
		return r.audit(ctx, tx, t.actor, about, "claim_refused", map[string]any{"via": t.via, "error": e.Code})
	}, func() []*Change {
		if refusal != nil || !c.New {
			return nil
		}
		return []*Change{claimedChange(c.DeviceID, c.UserID, c.Via, now)}
	})
	if err == nil {
		err = refusal
	}
	if err != nil {
		return Claimed{}, err
	}
	if c.New {
		r.counters.Claims.Add(1)
		r.AccessChanged(c.UserID)
	}
	return c, nil
}

// spent refuses who has no failed try left, with when there is one again.
func (r *Registry) spent(ctx context.Context, tx Tx, charges []charge, now time.Time) error {
	if r.opts.NoClaimLimits {
		return nil
	}
	for _, c := range charges {
		n, oldest, err := tx.CountTries(ctx, c.subject, now.Add(-tryWindow))
		if err != nil {
			return err
		}
		if n >= c.most {
			limited := *ErrTooManyTries
			limited.RetryAfter = max(time.Second, oldest.Add(tryWindow).Sub(now))
			return &limited
		}
	}
	return nil
}

// spend charges a failed try.
func (r *Registry) spend(ctx context.Context, tx Tx, charges []charge, now time.Time) error {
	for _, c := range charges {
		if err := tx.InsertTry(ctx, r.opts.NextID(), c.subject, now); err != nil {
			return err
		}
	}
	return nil
}

// owner is a device's owner row; ok is false when it has none.
func owner(ctx context.Context, tx Tx, deviceNo int64) (o Ownership, ok bool, err error) {
	rows, err := tx.Ownerships(ctx, deviceNo)
	if err != nil || len(rows) == 0 || rows[0].Role != RoleOwner {
		return Ownership{}, false, err
	}
	return rows[0], true, nil
}

// take makes a person the owner of a device that is nobody's. To its owner it says so
// again. Errors: ErrOwnedByOther, ErrDeviceLimit.
func (r *Registry) take(ctx context.Context, tx Tx, a Actor, d Device, userID, via string, now time.Time) (Claimed, error) {
	o, owned, err := owner(ctx, tx, d.No)
	switch {
	case err != nil:
		return Claimed{}, err
	case owned && o.UserID == userID:
		return Claimed{DeviceID: d.ID, UserID: userID, ClaimedAt: o.ClaimedAt, Via: o.ClaimedVia}, nil
	case owned:
		return Claimed{}, ErrOwnedByOther
	}
	if err := r.bind(ctx, tx, a, d, userID, via, now); err != nil {
		return Claimed{}, err
	}
	return Claimed{DeviceID: d.ID, UserID: userID, ClaimedAt: now, Via: via, New: true}, nil
}

// ActivateRequest names a device by id or MAC, and proves that the label was seen.
type ActivateRequest struct {
	DeviceID string
	MAC      string
	Secret   ClaimSecret
}

// ActivateDevice makes a person the owner of a device whose label they have. A wrong
// secret looks like an absent device. Errors: ErrDeviceNotFound, ErrOwnedByOther,
// ErrWindowClosed, ErrDeviceLimit, ErrTooManyTries, Invalid, ErrInsufficientRole,
// ErrInsufficientScope. [contracts I, flow 1]
func (r *Registry) ActivateDevice(ctx context.Context, a Actor, req ActivateRequest) (Claimed, error) {
	if err := claimant(a); err != nil {
		return Claimed{}, err
	}
	id := req.DeviceID
	if req.MAC != "" {
		mac, err := ParseMAC(req.MAC)
		if err != nil {
			return Claimed{}, E(Invalid, errBadMAC.Code, "mac must be six hex pairs, like AA:BB:CC:DD:EE:FF.")
		}
		if id = mac.DeviceID(r.opts.Salt); req.DeviceID != "" && req.DeviceID != id {
			return Claimed{}, E(Invalid, ErrInvalidRequest.Code, "device_id and mac name different devices.")
		}
	}
	charges := []charge{r.chargeUser(a.ID), r.chargeDevice(id)}
	if !topic.ValidDeviceID(id) {
		charges = charges[:1]
	}
	return r.attempt(ctx, try{
		actor: a, deviceID: id, via: viaQR, charge: charges,
		bind: func(tx Tx, now time.Time) (Claimed, error) { return r.activate(ctx, tx, a, id, req.Secret, now) },
	})
}

func (r *Registry) activate(ctx context.Context, tx Tx, a Actor, id string, secret ClaimSecret, now time.Time) (Claimed, error) {
	d, err := tx.Device(ctx, id)
	if err != nil {
		return Claimed{}, err
	}
	o, owned, err := owner(ctx, tx, d.No)
	if err != nil {
		return Claimed{}, err
	}
	if !owned || o.UserID != a.ID { // its owner proves nothing by it
		want, err := tx.ClaimSecretHash(ctx, d.No)
		if err != nil {
			return Claimed{}, err
		}
		sum := sha256.Sum256([]byte(secret))
		if subtle.ConstantTimeCompare(sum[:], want) != 1 {
			return Claimed{}, ErrDeviceNotFound
		}
	}
	if !owned && (d.Presence.Status != Online || d.ProvisionedAt.IsZero() || now.Sub(d.ProvisionedAt) >= activationWindow) {
		return Claimed{}, ErrWindowClosed
	}
	return r.take(ctx, tx, a, d, a.ID, viaQR, now)
}

// SupportClaimRequest names a device and a person by id or verified e-mail.
type SupportClaimRequest struct {
	DeviceID string
	UserID   string
	Email    string
	Proof    bool // the person has proven to support that the device is theirs
}

// SupportClaim makes a person the owner of a device that is nobody's, at the word of
// staff. Errors: ErrDeviceNotFound, ErrNoSuchUser, ErrAlreadyOwned, ErrDeviceLimit,
// Invalid, ErrInsufficientRole. [seed 003 6.2]
func (r *Registry) SupportClaim(ctx context.Context, a Actor, req SupportClaimRequest) (Claimed, error) {
	if err := staffOnly(a, ActorAdmin, ActorSupport); err != nil {
		return Claimed{}, err
	}
	email := ""
	if req.Email != "" {
		var err error
		if email, err = NormalizeEmail(req.Email); err != nil {
			return Claimed{}, err
		}
	}
	return r.attempt(ctx, try{
		actor: a, deviceID: req.DeviceID, via: viaSupport,
		bind: func(tx Tx, now time.Time) (Claimed, error) {
			d, err := tx.Device(ctx, req.DeviceID)
			if err != nil {
				return Claimed{}, err
			}
			user, ok := req.UserID, false
			if email != "" {
				user, ok, err = tx.UserByVerifiedEmail(ctx, email)
				ok = ok && (req.UserID == "" || req.UserID == user)
			} else {
				ok, err = tx.ActorEnabled(ctx, ActorUser, user)
			}
			if err != nil {
				return Claimed{}, err
			}
			if !ok {
				return Claimed{}, ErrNoSuchUser
			}
			c, err := r.take(ctx, tx, a, d, user, viaSupport, now)
			if errors.Is(err, ErrOwnedByOther) {
				err = ErrAlreadyOwned
			}
			if err != nil || !c.New {
				return c, err
			}
			return c, r.audit(ctx, tx, a, d.ID, "support_claim", map[string]any{"user_id": user, "proof": req.Proof})
		},
	})
}
