package account

import (
	"context"
	"errors"

	"github.com/opticworks/devicecloud/registry"
)

// LoginRequest is a login by a provider's token or code. [contracts C.1]
type LoginRequest struct {
	Provider string
	IDToken  string
	Code     string
	Nonce    string
}

// Login lets a person in by what a provider says of them, and makes the user at
// the first time. With a verified e-mail the first login also links the order
// lines of that e-mail, in the same transaction. from says where the request
// comes from.
//
// In this order: ErrMissingFields, ErrInvalidProvider, ErrInvalidToken,
// ErrAccountDisabled, ErrLinkRequired; and ErrUnavailable. [contracts C.1]
func (s *Service) Login(ctx context.Context, req LoginRequest, from registry.Actor) (Tokens, User, error) {
	if req.Provider == "" || req.IDToken == "" && req.Code == "" {
		return Tokens{}, User{}, ErrMissingFields
	}
	p, ok := s.providers[req.Provider]
	if !ok {
		return Tokens{}, User{}, ErrInvalidProvider
	}
	who, err := p.verify(ctx, req)
	if err != nil {
		return Tokens{}, User{}, err
	}
	var u User
	err = s.store.View(ctx, func(tx Tx) (err error) {
		u, err = tx.UserByIdentity(ctx, req.Provider, who.subject)
		return err
	})
	if errors.Is(err, ErrUserNotFound) {
		u, err = s.register(ctx, req.Provider, who, from)
	}
	if err != nil {
		return Tokens{}, User{}, err
	}
	if !u.DisabledAt.IsZero() {
		return Tokens{}, User{}, ErrAccountDisabled
	}
	scopes := []string{registry.ScopeDeviceRead, registry.ScopeDeviceControl, registry.ScopeDeviceConfigure}
	tokens, err := s.issue(AudienceApp, u.ID, "", req.Provider, scopes)
	if err != nil {
		return Tokens{}, User{}, err
	}
	return tokens, u, nil
}

// register makes the user of an identity. Of two first logins at once the slower
// one gets the faster one's user.
func (s *Service) register(ctx context.Context, providerName string, who identity, from registry.Actor) (User, error) {
	fresh := User{ID: s.opts.NewID(), Email: who.email, EmailVerified: who.emailVerified, CreatedAt: s.now()}
	err := s.store.InTx(ctx, func(tx Tx) error {
		if err := tx.InsertUser(ctx, fresh); err != nil {
			return err
		}
		if err := tx.InsertIdentity(ctx, providerName, who.subject, fresh.ID, fresh.CreatedAt); err != nil {
			return err
		}
		linked := 0
		if who.emailVerified && who.email != "" {
			var err error
			if linked, err = s.orders.LinkOrders(ctx, tx, fresh.ID, who.email); err != nil {
				return err
			}
		}
		from.Kind, from.ID = registry.ActorUser, fresh.ID
		return s.audit(ctx, tx, from, "user_registered", fresh.CreatedAt, map[string]any{"provider": providerName, "orders_linked": linked})
	})
	if !errors.Is(err, ErrIdentityTaken) && !errors.Is(err, ErrEmailTaken) {
		return fresh, err
	}
	var u User
	viewErr := s.store.View(ctx, func(tx Tx) (err error) {
		u, err = tx.UserByIdentity(ctx, providerName, who.subject)
		return err
	})
	if errors.Is(viewErr, ErrUserNotFound) { // the e-mail is taken, and not by this identity
		return User{}, ErrLinkRequired.With(err)
	}
	return u, viewErr
}
