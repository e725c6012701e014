package httpapi

import (
	"net/http"
	"time"

	"github.com/opticworks/devicecloud/account"
	"github.com/opticworks/devicecloud/registry"
)

// claimedBody is the answer to who has got a device, or had it already.
type claimedBody struct {
	DeviceID   string    `json:"device_id"`
	Role       string    `json:"role"` // owner
	ClaimedAt  time.Time `json:"claimed_at"`
	ClaimedVia string    `json:"claimed_via"`
}

// claimed is 201 for what is new to its owner, else 200.
func claimed(c registry.Claimed, body any) (answer, error) {
	if c.New {
		return answer{http.StatusCreated, body}, nil
	}
	return ok(body)
}

func newClaimedBody(c registry.Claimed) claimedBody {
	return claimedBody{c.DeviceID, string(registry.RoleOwner), c.ClaimedAt.UTC(), c.Via}
}

func (a *api) activateDevice(r *request) (answer, error) {
	if r.actor.Kind != registry.ActorUser {
		return answer{}, registry.ErrInsufficientRole
	}
	var in struct {
		DeviceID    string `json:"device_id"`
		MAC         string `json:"mac"`
		ClaimSecret string `json:"claim_secret"`
	}
	if err := r.decode(&in, maxJSON); err != nil {
		return answer{}, err
	}
	switch {
	case in.DeviceID == "" && in.MAC == "" || in.ClaimSecret == "":
		return answer{}, account.ErrMissingFields
	case len(in.DeviceID) > maxParam || clean(in.DeviceID) != in.DeviceID || len(in.ClaimSecret) > maxParam:
		return answer{}, invalid("device_id and claim_secret are at most 256 bytes of printable text.")
	}
	c, err := a.Registry.ActivateDevice(r.Context(), r.actor, registry.ActivateRequest{
		DeviceID: in.DeviceID, MAC: in.MAC, Secret: registry.ClaimSecret(in.ClaimSecret),
	})
	if err != nil {
		return answer{}, err
	}
	return claimed(c, newClaimedBody(c))
}

// startedBody is the answer to a claim that waits for a device.
type startedBody struct {
	ClaimID   string `json:"claim_id"`
	Code      string `json:"code,omitempty"` // to hand to the device; told once
	ExpiresIn int    `json:"expires_in"`     // seconds
}

func newStartedBody(p registry.Pairing, code registry.PairingCode) startedBody {
	return startedBody{p.ID, string(code), int(p.ExpiresAt.Sub(p.CreatedAt) / time.Second)}
}

func (a *api) startClaim(r *request) (answer, error) {
	if r.actor.Kind != registry.ActorUser {
		return answer{}, registry.ErrInsufficientRole
	}
	if err := r.decodeOptional(&struct{}{}); err != nil {
		return answer{}, err
	}
	p, code, err := a.Registry.StartClaim(r.Context(), r.actor)
	if err != nil {
		return answer{}, err
	}
	r.w.Header().Set("Cache-Control", "no-store")
	return answer{http.StatusCreated, newStartedBody(p, code)}, nil
}

func (a *api) challengeDevice(r *request) (answer, error) {
	id, err := r.deviceID()
	if err != nil {
		return answer{}, err
	}
	p, err := a.Registry.ChallengeDevice(r.Context(), r.actor, id)
	if err != nil {
		return answer{}, err
	}
	return answer{http.StatusAccepted, newStartedBody(p, "")}, nil
}

// claimBody is a claim as who made it sees it.
type claimBody struct {
	ClaimID   string    `json:"claim_id"`
	Status    string    `json:"status"` // pending, claimed, expired, rejected
	Via       string    `json:"via"`    // pairing_code, button
	DeviceID  *string   `json:"device_id"`
	Error     *string   `json:"error"`
	ExpiresAt time.Time `json:"expires_at"`
}

func (a *api) getClaim(r *request) (answer, error) {
	id, err := r.id("claim_id", registry.ErrClaimNotFound)
	if err != nil && r.actor.Kind == registry.ActorUser {
		return answer{}, err
	}
	p, err := a.Registry.ClaimStatus(r.Context(), r.actor, id)
	if err != nil {
		return answer{}, err
	}
	b := claimBody{p.ID, string(p.Status), p.Via, nil, text(p.Error), p.ExpiresAt.UTC()}
	if p.Status == registry.ClaimClaimed || p.Via == "button" { // whose claim was rejected does not learn whose device it was
		b.DeviceID = text(p.DeviceID)
	}
	return ok(b)
}

// supportClaimedBody is claimedBody with whose the device is.
type supportClaimedBody struct {
	claimedBody
	UserID string `json:"user_id"`
}

func (a *api) supportClaim(r *request) (answer, error) {
	var in struct {
		DeviceID  string `json:"device_id"`
		UserEmail string `json:"user_email"`
		UserID    string `json:"user_id"`
		Proof     string `json:"proof"`
	}
	if err := r.decode(&in, maxJSON); err != nil {
		return answer{}, err
	}
	switch {
	case in.DeviceID == "" || in.UserEmail == "" && in.UserID == "":
		return answer{}, account.ErrMissingFields
	case clean(in.DeviceID) != in.DeviceID:
		return answer{}, registry.ErrDeviceNotFound
	case in.UserID != "" && !saneID(in.UserID):
		return answer{}, registry.ErrNoSuchUser
	}
	c, err := a.Registry.SupportClaim(r.Context(), r.actor, registry.SupportClaimRequest{
		DeviceID: in.DeviceID, UserID: in.UserID, Email: in.UserEmail, Proof: in.Proof != "",
	})
	if err != nil {
		return answer{}, err
	}
	return claimed(c, supportClaimedBody{newClaimedBody(c), c.UserID})
}
