package account

import (
	"context"
	"errors"
	"strings"

	"github.com/opticworks/devicecloud/registry"
)

// ActorNamed is the actor behind a reference ("user:<id>", "admin:<id>",
// "support:<id>", "service:<id>" or "email:<address>", a person's verified one), with
// the scopes that their tokens carry, for an administrator who asks what they may do.
// Errors: registry.ErrInvalidRequest, ErrUserNotFound, ErrAdminNotFound,
// ErrServiceAccountNotFound, Forbidden; ErrAccountDisabled comes with the actor.
func (s *Service) ActorNamed(ctx context.Context, a registry.Actor, reference string) (named registry.Actor, err error) {
	if err := adminOnly(a); err != nil {
		return registry.Actor{}, err
	}
	kind, id, ok := strings.Cut(reference, ":")
	if !ok || id == "" {
		return registry.Actor{}, errReference
	}
	err = s.store.View(ctx, func(tx Tx) error {
		switch kind {
		case "user", "email":
			return namedUser(ctx, tx, kind, id, &named)
		case "admin", "support":
			m, err := tx.Admin(ctx, id)
			if err == nil && m.Role.actorKind() != registry.ActorKind(kind) {
				err = ErrAdminNotFound
			}
			if err == nil && !m.DisabledAt.IsZero() {
				err = ErrAccountDisabled
			}
			named = registry.Actor{Kind: m.Role.actorKind(), ID: m.ID, Scopes: m.tokenScopes()}
			return err
		case "service":
			account, err := tx.ServiceAccount(ctx, id)
			if err == nil && !account.DisabledAt.IsZero() {
				err = ErrAccountDisabled
			}
			named = registry.Actor{Kind: registry.ActorService, ID: account.ID, Scopes: account.Scopes}
			return err
		}
		return errReference
	})
	if err != nil && !errors.Is(err, ErrAccountDisabled) {
		return registry.Actor{}, err
	}
	return named, err
}

func namedUser(ctx context.Context, tx Tx, kind, id string, named *registry.Actor) error {
	var u User
	var err error
	if kind == "email" {
		address, err := registry.NormalizeEmail(id)
		if err != nil {
			return ErrInvalidEmail.With(err)
		}
		u, err = tx.VerifiedUser(ctx, address)
		if err != nil {
			return err
		}
	} else if u, err = tx.User(ctx, id); err != nil {
		return err
	}
	*named = registry.Actor{Kind: registry.ActorUser, ID: u.ID, Scopes: personScopes()}
	if !u.DisabledAt.IsZero() {
		return ErrAccountDisabled
	}
	return nil
}

var errReference = registry.E(registry.Invalid, registry.ErrInvalidRequest.Code, "actor must be user:<id>, admin:<id>, support:<id>, service:<id> or email:<address>.")
