package account

import "context"

// Tick is one round of what Run does for the signing keys.
func (s *Service) Tick(ctx context.Context) error { return s.followKeys(ctx) }
