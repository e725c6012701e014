package account

import (
	"context"
	"errors"

	"github.com/opticworks/devicecloud/registry"
)

// LinkIdentity gives a signed-in person another way in: from now on, what the
// provider vouches for by this token is the same person. A person without an e-mail
// gets the identity's verified one when nobody has it, and with it what was bought
// under it. created is false when it was theirs before.
//
// ErrInsufficientRole for anybody but a person; ErrIdentityTaken when it is somebody
// else's way in; else as [Service.Login].
func (s *Service) LinkIdentity(ctx context.Context, a registry.Actor, req LoginRequest) (created bool, err error) {
	if a.Kind != registry.ActorUser {
		return false, registry.ErrInsufficientRole
	}
	who, err := s.verify(ctx, req)
	if err != nil {
		return false, err
	}
	var then afterwards
	err = s.store.InTx(ctx, func(tx Tx) (err error) {
		then = nil
		if err := s.useOnce(ctx, tx, req, who); err != nil {
			return err
		}
		created, err = s.link(ctx, tx, a, req.Provider, who, &then)
		return err
	})
	if err == nil {
		then.run() // who is signed in already listens
	}
	return created, err
}

// link binds a proven identity to the person a, in the caller's transaction.
func (s *Service) link(ctx context.Context, tx Tx, a registry.Actor, provider string, who Identity, then *afterwards) (created bool, err error) {
	p, err := s.profile(ctx, tx, Subject{AudienceApp, a.ID})
	if err != nil {
		return false, err
	}
	switch u, err := userOf(ctx, tx, provider, who); {
	case errors.Is(err, ErrUserNotFound):
		created = true
	case err != nil:
		return false, err
	case u.ID != a.ID:
		return false, ErrIdentityTaken
	}
	if err := s.nameAll(ctx, tx, provider, who, a.ID); err != nil || !created {
		return false, err
	}
	linked := 0
	if p.Email == "" && who.Email != "" && who.EmailVerified {
		took, err := tx.SetUserEmail(ctx, a.ID, who.Email, s.now())
		if err == nil && took {
			linked, err = s.linkOrders(ctx, tx, a.ID, who.Email, then)
		}
		if err != nil {
			return false, err
		}
	}
	return true, s.audit(ctx, tx, a, "identity_linked", s.now(), map[string]any{"provider": provider, "orders_linked": linked})
}

// UnlinkIdentity takes a way in from the signed-in person. Sessions that began by it
// go on. ErrIdentityNotFound; ErrLastIdentity when there is no other;
// ErrInsufficientRole for anybody but a person.
func (s *Service) UnlinkIdentity(ctx context.Context, a registry.Actor, provider string) error {
	if a.Kind != registry.ActorUser {
		return registry.ErrInsufficientRole
	}
	return s.store.InTx(ctx, func(tx Tx) error {
		changed, err := tx.DeleteIdentities(ctx, a.ID, provider)
		if err != nil {
			return err
		}
		if changed {
			return s.audit(ctx, tx, a, "identity_unlinked", s.now(), map[string]any{"provider": provider})
		}
		list, err := tx.Identities(ctx, a.ID)
		if err != nil {
			return err
		}
		for _, i := range list {
			if i.Provider == provider {
				return ErrLastIdentity
			}
		}
		return ErrIdentityNotFound
	})
}
