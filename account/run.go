package account

import (
	"context"
	"errors"
	"sync"
	"time"
)

const (
	// lookInterval is how often the signing keys are looked at, and what others have
	// revoked; lookBack is how far back, for clocks that differ and commits that take
	// long. purgeInterval is how often what has expired is deleted, at most purgeBatch
	// rows in one transaction so that nobody waits for it.
	lookInterval  = 5 * time.Second
	lookBack      = time.Minute
	purgeInterval = time.Minute
	purgeBatch    = 500
	// linkRetention is how long mailed links are kept. [contracts C.2]
	linkRetention = 24 * time.Hour
)

// Run does the recurring work of the domain until ctx ends: it mails invitations, follows
// the signing keys and what other processes revoke, deletes what has expired, and forgets
// revocations that are not needed any more. It returns when the followers that were
// called have returned too.
func (s *Service) Run(ctx context.Context) {
	look, purge := time.NewTicker(lookInterval), time.NewTicker(purgeInterval)
	defer look.Stop()
	defer purge.Stop()
	defer s.revocation.wait()
	if s.mail != nil {
		var mails sync.WaitGroup
		defer mails.Wait()
		mails.Go(func() { s.mailInvitations(ctx) })
	}
	for {
		var err error
		select {
		case <-ctx.Done():
			return
		case <-look.C:
			err = errors.Join(s.readRevoked(ctx, s.opts.Now().Add(-lookBack)), s.followKeys(ctx))
		case <-purge.C:
			s.revocation.forget(s.opts.Now())
			err = s.purge(ctx)
		}
		if err != nil && ctx.Err() == nil {
			s.log.Warn("recurring work on accounts failed; it will be tried again", "error", err)
		}
	}
}

// followKeys reads the signing keys anew and lets a published one begin to sign. A
// list that cannot be read leaves the old one in use, and is logged once.
func (s *Service) followKeys(ctx context.Context) error {
	if s.opts.ReloadKeys != nil {
		keys, err := s.opts.ReloadKeys()
		if err == nil {
			err = s.ReplaceSigningKeys(keys)
		}
		problem := ""
		if err != nil {
			problem = err.Error()
		}
		if problem != s.keyProblem && problem != "" {
			s.log.Error("the signing keys cannot be read anew; the old ones stay", "error", err)
		}
		s.keyProblem = problem
	}
	return s.advanceKeys(ctx)
}

// purge deletes sessions that have ended for good, with their refresh tokens, used
// tokens of providers that have expired, and mailed links of yesterday.
func (s *Service) purge(ctx context.Context) error {
	now := s.now()
	for _, remove := range []func(tx Tx) (int, error){
		func(tx Tx) (int, error) { return tx.DeleteSessions(ctx, now, purgeBatch) },
		func(tx Tx) (int, error) { return tx.DeleteUsedTokens(ctx, now, purgeBatch) },
		func(tx Tx) (int, error) { return tx.DeleteMagicLinks(ctx, now.Add(-linkRetention), purgeBatch) },
	} {
		for n := purgeBatch; n == purgeBatch; {
			err := s.store.InTx(ctx, func(tx Tx) (err error) {
				n, err = remove(tx)
				return err
			})
			if err != nil {
				return err
			}
		}
	}
	return nil
}
