package registry

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/json"
	"time"
)

// reasonReset is why a device was released, in the audit.
const reasonReset = "factory_reset"

// resetOf names the report of a factory reset: by its reset_id, else by the whole
// payload. A message that comes again is the same report.
func (p ProvisionRequest) resetOf(payload []byte) []byte {
	if p.ResetID != "" {
		payload = []byte("reset_id:" + p.ResetID)
	}
	sum := sha256.Sum256(bytes.TrimSpace(payload))
	return sum[:]
}

// factoryReset takes a device's report that somebody has reset it by hand. With
// RESET_RELEASES_OWNERSHIP it is released, else the report is recorded alone: whoever
// holds a device can reset it, and a thief must not free it. [contracts I]
//
// It frees nobody that it does not mean. The same report counts once, so that a message
// that is sent again frees no later owner; and it frees only an owner from before this
// connection, since a reset restarts the device: so also one that firmware words anew
// each time frees nobody who has claimed the device over it.
func (r *Registry) factoryReset(ctx context.Context, tx Tx, a Actor, s *Session, d Device, owner Ownership, report []byte, now time.Time) (gone freed, released bool, err error) {
	first, err := tx.SetReset(ctx, d.No, s.Epoch, report)
	if err != nil || !first {
		return freed{}, false, err
	}
	released = r.opts.ResetReleases && owner.UserID != "" && owner.ClaimedAt.Before(s.ConnectedAt)
	if released {
		if gone, err = r.release(ctx, tx, a, d, reasonReset); err != nil {
			return freed{}, false, err
		}
	} else if owner.UserID != "" {
		data, err := json.Marshal(map[string]any{"released": false})
		if err != nil {
			return freed{}, false, err
		}
		e := Event{ID: r.opts.NextID(), DeviceNo: d.No, Type: "device.factory_reset", OccurredAt: now, Data: string(data)}
		if err := tx.InsertEvent(ctx, e, keepEvents); err != nil {
			return freed{}, false, err
		}
	}
	return gone, released, r.audit(ctx, tx, a, d.ID, "reset_reported", map[string]any{"released": released})
}
