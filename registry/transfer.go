package registry

import (
	"context"
	"time"
)

// viaTransfer is how a device came to its owner.
const viaTransfer = "transfer"

// TransferDevice offers a device to the person whose verified e-mail this is, in place
// of an earlier offer. Nothing changes until they accept; then the device is theirs as
// if it had been released first: every share goes, and what it had kept of the former
// owner. Errors: those of [Registry.Access] with CanShare, Invalid, ErrAlreadyOwner.
func (r *Registry) TransferDevice(ctx context.Context, a Actor, id, email string) (inv Invitation, err error) {
	now := r.now()
	err = r.write(ctx, func(tx Tx) error {
		d, err := r.access(ctx, tx, a, id, CanShare)
		if err != nil {
			return err
		}
		to, err := NormalizeEmail(email)
		if err != nil {
			return err
		}
		if _, err := sharee(ctx, tx, d.No, to, now); err != nil {
			return err
		}
		inv = Invitation{
			ID: r.opts.NextID(), DeviceNo: d.No, DeviceID: id, Kind: InviteTransfer, Email: to, Role: RoleOwner,
			InvitedBy: a.ID, CreatedAt: now, ExpiresAt: now.Add(invitationLife),
		}
		if _, err := r.invite(ctx, tx, a, inv); err != nil {
			return err
		}
		return r.audit(ctx, tx, a, id, "transfer_offered", map[string]any{"invitation_id": inv.ID})
	})
	if err == nil {
		signal(r.inviteMoved)
	}
	return inv, err
}

// transfer makes the person who accepted the owner.
func (r *Registry) transfer(ctx context.Context, tx Tx, a Actor, inv Invitation, now time.Time) (gone freed, err error) {
	d, err := tx.Device(ctx, inv.DeviceID)
	if err != nil {
		return freed{}, err
	}
	if gone, err = r.release(ctx, tx, a, d, ""); err != nil {
		return freed{}, err
	}
	return gone, r.bind(ctx, tx, a, d, a.ID, viaTransfer, now)
}
