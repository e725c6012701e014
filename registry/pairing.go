package registry

import (
	"context"
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"strings"
	"time"

	"github.com/opticworks/devicecloud/topic"
)

// newPairing is a claim of a person that waits.
func (r *Registry) newPairing(a Actor, via string, life time.Duration) Pairing {
	now := r.now()
	return Pairing{
		ID: "clm_" + strings.ToLower(rand.Text()), UserID: a.ID, Via: via, Status: ClaimPending, CreatedAt: now, ExpiresAt: now.Add(life),
	}
}

// StartClaim gives a person a code to hand to a device. The code is told once. Errors:
// ErrTooManyClaims, ErrInsufficientRole, ErrInsufficientScope. [contracts I, flow 2]
func (r *Registry) StartClaim(ctx context.Context, a Actor) (Pairing, PairingCode, error) {
	if err := claimant(a); err != nil {
		return Pairing{}, "", err
	}
	p, code := r.newPairing(a, viaPairingCode, r.opts.PairingCodeLife), newPairingCode()
	p.Hash = code.hash()
	err := r.write(ctx, func(tx Tx) error {
		if err := r.putPairing(ctx, tx, p); err != nil {
			return err
		}
		return r.audit(ctx, tx, a, "", "claim_started", map[string]any{"claim_id": p.ID, "via": p.Via})
	})
	return p, code, err
}

func (r *Registry) putPairing(ctx context.Context, tx Tx, p Pairing) error {
	put, err := tx.InsertPairing(ctx, p, maxOpenClaims)
	if err == nil && !put {
		err = ErrTooManyClaims
	}
	return err
}

// ClaimStatus reads a claim of one's own, up to an hour after it is over. Errors:
// ErrClaimNotFound, ErrInsufficientRole, ErrInsufficientScope.
func (r *Registry) ClaimStatus(ctx context.Context, a Actor, id string) (p Pairing, err error) {
	if err := claimant(a); err != nil {
		return Pairing{}, err
	}
	err = r.store.View(ctx, func(tx Tx) (err error) {
		if p, err = tx.Pairing(ctx, id); err == nil && p.UserID != a.ID {
			err = ErrClaimNotFound
		}
		return err
	})
	return p.at(r.now()), err
}

// challengeMessage asks a device for its button.
type challengeMessage struct {
	ClaimID   string `json:"claim_id"`
	Challenge string `json:"challenge"` // 32 hex digits
	ExpiresAt string `json:"expires_at"`
}

// ChallengeDevice asks a device that is nobody's to have its button pressed. Each
// challenge counts as a try of the person and of the device. Errors: ErrDeviceNotFound
// also for somebody else's, ErrOwnedByOther to who has it shared, ErrAlreadyOwner,
// ErrOffline, ErrTooManyClaims, ErrTooManyTries, ErrInsufficientRole,
// ErrInsufficientScope. [contracts I, flow 3]
func (r *Registry) ChallengeDevice(ctx context.Context, a Actor, id string) (Pairing, error) {
	var raw [16]byte
	_, _ = rand.Read(raw[:]) // never fails, see its documentation
	challenge := hex.EncodeToString(raw[:])
	p := r.newPairing(a, viaButton, challengeLife)
	hash := sha256.Sum256([]byte(challenge))
	p.Hash, p.DeviceID = hash[:], id
	charges := []charge{r.chargeUser(a.ID), r.chargeDevice(id)}
	err := r.write(ctx, func(tx Tx) error {
		d, err := r.claimable(ctx, tx, a, id)
		if err != nil {
			return err
		}
		if err := r.spent(ctx, tx, charges, p.CreatedAt); err != nil {
			return err
		}
		p.DeviceNo = d.No
		if err := r.putPairing(ctx, tx, p); err != nil {
			return err
		}
		if err := r.spend(ctx, tx, charges, p.CreatedAt); err != nil {
			return err
		}
		return r.audit(ctx, tx, a, id, "claim_started", map[string]any{"claim_id": p.ID, "via": p.Via})
	})
	if err != nil {
		return Pairing{}, err
	}
	message, err := json.Marshal(challengeMessage{p.ID, challenge, p.ExpiresAt.Format(time.RFC3339)})
	if err == nil {
		err = r.courier.Deliver(id, topic.ClaimChallenge, message)
	}
	if err == nil {
		return p, nil
	}
	offline := ErrOffline.With(err)
	err = r.write(ctx, func(tx Tx) error {
		_, err := tx.SettlePairing(ctx, p.ID, ClaimRejected, p.DeviceNo, ErrOffline.Code)
		return err
	})
	if err != nil {
		return Pairing{}, err
	}
	return Pairing{}, offline
}

// claimable reads a device that is nobody's, for a person who would have it.
func (r *Registry) claimable(ctx context.Context, tx Tx, a Actor, id string) (Device, error) {
	mine, err := r.related(ctx, tx, a, id)
	switch {
	case err == nil && a.Kind != ActorUser:
		return Device{}, ErrInsufficientRole
	case err == nil && mine.Role == RoleOwner:
		return Device{}, ErrAlreadyOwner
	case err == nil:
		return Device{}, ErrOwnedByOther
	case !errors.Is(err, ErrDeviceNotFound) || a.Kind != ActorUser:
		return Device{}, err
	}
	d, err := tx.Device(ctx, id)
	if err != nil {
		return Device{}, err
	}
	_, owned, err := owner(ctx, tx, d.No)
	switch {
	case err != nil:
		return Device{}, err
	case owned:
		return Device{}, ErrDeviceNotFound
	}
	return d, claimant(a)
}

// CodeClaim is what a device publishes with a pairing code.
type CodeClaim struct {
	Code  PairingCode
	Nonce string
	Proof string // hex; "" from a session by certificate
}

// DecodeCodeClaim reads a device's claim: code and nonce are required.
func DecodeCodeClaim(payload []byte) (c CodeClaim, err error) {
	code := ""
	err = texts(payload, []textField{{"code", &code, 4, 16, true}, {"nonce", &c.Nonce, 1, 64, true}, {"proof", &c.Proof, 64, 64, false}})
	c.Code = PairingCode(code)
	return c, err
}

// ButtonClaim is what a device publishes once its button was pressed.
type ButtonClaim struct {
	ClaimID   string
	Challenge string
	Proof     string // hex; "" from a session by certificate
}

// DecodeButtonClaim reads a device's confirmation: claim_id and challenge are required.
func DecodeButtonClaim(payload []byte) (c ButtonClaim, err error) {
	err = texts(payload, []textField{{"claim_id", &c.ClaimID, 1, 64, true}, {"challenge", &c.Challenge, 32, 32, true}, {"proof", &c.Proof, 64, 64, false}})
	return c, err
}

// textField is a member of a payload that is a text of low to high characters.
type textField struct {
	name      string
	to        *string
	low, high int
	required  bool
}

func texts(payload []byte, fields []textField) error {
	got := make([]bool, len(fields))
	err := eachMember(payload, func(name, v []byte) (err error) {
		for i, f := range fields {
			if string(name) == f.name {
				got[i] = true
				*f.to, err = stringValue(f.name, v, f.low, f.high)
			}
		}
		return err
	})
	if err != nil {
		return err
	}
	for i, f := range fields {
		if f.required && !got[i] {
			return badPayload("%s is missing.", f.name)
		}
	}
	return nil
}

// claimResponse is what a device gets back.
type claimResponse struct {
	Status string `json:"status"` // claimed or rejected
	Error  string `json:"error,omitempty"`
}

// ClaimByCode binds a device to the person whose pairing code it presents, and returns
// the response to send it, also when it is refused. A resend of what has been done is
// answered as before. Errors: Invalid for what is no claim, ErrStale, ErrUnavailable.
func (r *Registry) ClaimByCode(ctx context.Context, s *Session, payload []byte) ([]byte, error) {
	c, err := DecodeCodeClaim(payload)
	if err != nil {
		return r.noClaim(s, topic.Claim, err)
	}
	return r.pair(ctx, s, viaPairingCode, string(c.Code)+":"+c.Nonce, c.Proof, func(tx Tx) (Pairing, error) {
		return tx.PairingByHash(ctx, c.Code.hash())
	})
}

// ConfirmClaim binds a device whose button was pressed, as [Registry.ClaimByCode] does.
func (r *Registry) ConfirmClaim(ctx context.Context, s *Session, payload []byte) ([]byte, error) {
	c, err := DecodeButtonClaim(payload)
	if err != nil {
		return r.noClaim(s, topic.ClaimConfirm, err)
	}
	hash := sha256.Sum256([]byte(c.Challenge))
	return r.pair(ctx, s, viaButton, c.ClaimID+":"+c.Challenge, c.Proof, func(tx Tx) (Pairing, error) {
		p, err := tx.PairingByHash(ctx, hash[:])
		if err == nil && (p.ID != c.ClaimID || p.DeviceNo != s.DeviceNo) {
			err = ErrClaimNotFound
		}
		return p, err
	})
}

// noClaim answers a payload that is no claim, and keeps what is wrong with it.
func (r *Registry) noClaim(s *Session, k topic.Kind, cause error) ([]byte, error) {
	r.RejectedPayload(s, k, cause)
	return json.Marshal(claimResponse{"rejected", errCodeInvalid.Code})
}

// pair settles a claim by what a device has proven about it.
func (r *Registry) pair(ctx context.Context, s *Session, via, about, proof string, find func(Tx) (Pairing, error)) ([]byte, error) {
	a := Actor{Kind: ActorDevice, ID: s.DeviceID, ClientType: "device"}
	_, err := r.attempt(ctx, try{
		actor: a, deviceID: s.DeviceID, via: via, charge: []charge{r.chargeDevice(s.DeviceID)},
		bind: func(tx Tx, now time.Time) (Claimed, error) {
			d, err := tx.Device(ctx, s.DeviceID)
			switch {
			case err != nil:
				return Claimed{}, err
			case d.Presence.Epoch != s.Epoch:
				return Claimed{}, ErrStale
			}
			p, err := find(tx)
			if errors.Is(err, ErrClaimNotFound) || err == nil && p.Via != via {
				return Claimed{}, errCodeInvalid
			}
			if err != nil {
				return Claimed{}, err
			}
			proven, err := r.proven(ctx, tx, s, "bind:v1:"+s.DeviceID+":"+about, proof)
			if err != nil {
				return Claimed{}, err
			}
			if !proven {
				return Claimed{}, errCodeInvalid
			}
			return r.settle(ctx, tx, a, d, p.at(now), now)
		},
	})
	res := claimResponse{Status: "claimed"}
	var e *Error
	switch {
	case err == nil:
	case errors.Is(err, ErrStale) || KindOf(err) == Internal || KindOf(err) == Unavailable || !errors.As(err, &e):
		return nil, err
	default:
		res = claimResponse{"rejected", e.Code}
		switch e.Code {
		case ErrOwnedByOther.Code:
			res.Error = ErrAlreadyOwned.Code
		case ErrTooManyTries.Code:
			res.Error = "rate_limited"
		}
	}
	return json.Marshal(res)
}

// settle binds the device of a claim to its person, or rejects the claim for good.
func (r *Registry) settle(ctx context.Context, tx Tx, a Actor, d Device, p Pairing, now time.Time) (Claimed, error) {
	if p.Status == ClaimClaimed && p.DeviceNo == d.No {
		return r.take(ctx, tx, a, d, p.UserID, p.Via, now) // a resend
	}
	if p.Status != ClaimPending {
		return Claimed{}, errCodeExpired
	}
	c, err := r.take(ctx, tx, a, d, p.UserID, p.Via, now)
	status, why := ClaimClaimed, ""
	switch {
	case errors.Is(err, ErrOwnedByOther):
		status, why = ClaimRejected, ErrAlreadyOwned.Code
	case errors.Is(err, ErrDeviceLimit):
		status, why = ClaimRejected, ErrDeviceLimit.Code
	case err != nil:
		return Claimed{}, err
	}
	settled, serr := tx.SettlePairing(ctx, p.ID, status, d.No, why)
	if serr == nil && !settled {
		serr = errCodeExpired
	}
	if serr != nil {
		return Claimed{}, serr
	}
	return c, err
}

// proven reports whether a proof over a message was made with the secret that opened
// the session. A session by certificate has proven itself. [contracts I]
func (r *Registry) proven(ctx context.Context, tx Tx, s *Session, message, proof string) (bool, error) {
	if s.CredentialID == 0 {
		return true, nil
	}
	creds, err := tx.Credentials(ctx, s.DeviceNo)
	if err != nil {
		return false, err
	}
	for _, c := range creds {
		switch {
		case c.ID != s.CredentialID:
			continue
		case c.Kind == CredentialX509:
			return true, nil
		}
		key, err := r.opts.Sealer.open(s.DeviceID, c.Secret)
		if err != nil {
			return false, err
		}
		got, err := hex.DecodeString(proof)
		return err == nil && hmac.Equal(bindingProof(key, message), got), nil
	}
	return false, nil
}

// bindingProof is what the holder of a device's secret makes of a message; key is the
// secret's SHA-256. [contracts I]
func bindingProof(key []byte, message string) []byte {
	mac := hmac.New(sha256.New, key)
	mac.Write([]byte(message))
	return mac.Sum(nil)
}
