package account

import (
	"context"
	"time"

	"github.com/opticworks/devicecloud/registry"
)

// ProviderDev believes an e-mail address. It exists only with Options.Dev.
const ProviderDev = "dev"

// Provider vouches for people: it turns what the app got from it into an identity.
type Provider interface {
	// Verify checks the request's token or code. Errors: ErrMissingFields when the one
	// that the provider needs is empty, ErrInvalidToken when it is not good,
	// ErrAccountDisabled, ErrRateLimited, ErrProviderUnavailable. It may be called for
	// the same token at once and again: that each signs in once is not its affair.
	Verify(ctx context.Context, req LoginRequest) (Identity, error)
}

// Identity is who a provider says this is.
type Identity struct {
	// Subjects are stable ids at the provider, never an e-mail of a real one. The
	// first is the key, further ones are other names for it; at least one.
	Subjects      []string
	Email         string // "" when the provider gives none
	EmailVerified bool
	Expires       time.Time // until when the token or the code could be shown again
	// Proof is what works once, where the text that was shown is not the only one that
	// would be taken for it; "" is that text.
	Proof string
}

// devProvider takes an e-mail address as the token, and counts it as verified, so
// that a demonstration needs no mail server and no contract with anybody. Its tokens
// work again and again.
type devProvider struct{}

func (devProvider) Verify(_ context.Context, req LoginRequest) (Identity, error) {
	if req.IDToken == "" {
		return Identity{}, ErrMissingFields
	}
	email, err := registry.NormalizeEmail(req.IDToken)
	if err != nil {
		return Identity{}, ErrInvalidToken.With(err)
	}
	return Identity{Subjects: []string{email}, Email: email, EmailVerified: true}, nil
}
