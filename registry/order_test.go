package registry_test

import (
	"testing"

	"github.com/opticworks/devicecloud/account"
	"github.com/opticworks/devicecloud/registry"
)

// TestStaffHearOfTheFirstLoginOfABuyer: support follows a device whose buyer signs in for
// the first time, and hears that it is theirs.
func TestStaffHearOfTheFirstLoginOfABuyer(t *testing.T) {
	h := open(t, registry.Options{})
	d := h.enroll(1)
	if _, _, err := h.CreateOrder(ctx, admin, registry.OrderRequest{OrderID: "o1", UserEmail: "new@example.com", DeviceMAC: d.mac, ShippedAt: "2026-01-10"}); err != nil {
		t.Fatal(err)
	}
	h.provision(h.connect(d), d)
	l := h.listen(t, admin, registry.ListenOptions{Devices: []string{d.id}})
	wantWords(t, hear(t, l), "snapshot", "+"+d.id)
	h.user("usr_1", "new@example.com")
	var done func()
	err := h.db.Accounts().InTx(ctx, func(tx account.Tx) (err error) {
		_, done, err = h.LinkOrders(ctx, tx, "usr_1", "new@example.com")
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	done()
	wantWords(t, hear(t, l), "device.claimed "+d.id)
	if _, err := h.ReleaseDevice(ctx, registry.Actor{Kind: registry.ActorAdmin, ID: "root", Scopes: admin.Scopes}, d.id); err != nil {
		t.Fatal(err)
	}
	wantWords(t, hear(t, l), "device.released "+d.id)
}
