package dataplan

import (
	"context"
	"time"

	"github.com/opticworks/devicecloud/registry"
)

// Activate is what the carrier's confirmation does to a purchase.
func Activate(ctx context.Context, s *Service, tx Tx, purchaseID string, at, until time.Time) error {
	p, err := tx.Purchase(ctx, purchaseID)
	if err != nil {
		return err
	}
	p.ActiveAt, p.ActiveUntil = at, until
	_, err = s.advance(ctx, tx, registry.System(), &p, Active, "test")
	return err
}

// Stages is the table of the machine.
var Stages = stages
