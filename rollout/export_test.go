package rollout

import (
	"context"
	"time"
)

// Trigger is the message to a device.
func (r Release) Trigger(rolloutID string, at time.Time) ([]byte, error) {
	return r.payload(rolloutID, at)
}

// Step looks at the rollouts once, as Run does.
func (s *Service) Step(ctx context.Context) error { return s.step(ctx) }

// Chosen reports whether a device is in the share of a rollout.
func (r Rollout) Chosen(deviceID string) bool { return r.chosen(deviceID) }

// CancelIn has so many devices cancelled in one transaction.
func CancelIn(s *Service, n int) { s.cancels = n }
