package account

import (
	"context"

	"github.com/opticworks/devicecloud/registry"
)

// ProviderDev believes an e-mail address. It exists only with Options.Dev.
const ProviderDev = "dev"

// provider vouches for people: it turns what the app got from it into an identity.
type provider interface {
	// verify checks the request's token or code. ErrMissingFields when the one that
	// the provider needs is empty, ErrInvalidToken when it is not good.
	verify(ctx context.Context, req LoginRequest) (identity, error)
}

// identity is who a provider says this is.
type identity struct {
	subject       string // stable at the provider; never the e-mail of a real one
	email         string // normalised; "" when the provider gives none
	emailVerified bool
}

// devProvider takes an e-mail address as the token, and counts it as verified, so
// that a demonstration needs no mail server and no contract with anybody.
type devProvider struct{}

func (devProvider) verify(_ context.Context, req LoginRequest) (identity, error) {
	if req.IDToken == "" {
		return identity{}, ErrMissingFields
	}
	email, err := registry.NormalizeEmail(req.IDToken)
	if err != nil {
		return identity{}, ErrInvalidToken.With(err)
	}
	return identity{subject: email, email: email, emailVerified: true}, nil
}
