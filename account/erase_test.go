package account_test

import (
	"bytes"
	"context"
	"errors"
	"os"
	"strings"
	"testing"

	"github.com/opticworks/devicecloud/account"
	"github.com/opticworks/devicecloud/registry"
)

func TestErase(t *testing.T) {
	ctx := context.Background()
	const email = "canary.person@example.com"
	t.Run("nothing that names the person stays, in any table or page of the file", func(t *testing.T) {
		w := newWorld(t, withProviders)
		device := w.buy(t, "02:00:00:00:00:01", email)
		tokens := w.signIn(t, email)
		a := w.actor(t, tokens.Access)
		a.IP, a.UserAgent = "198.51.100.77", "CanaryAgent/1"
		if _, err := w.link(a, "google", "canary-subject|"+email); err != nil {
			t.Fatal(err)
		}
		if _, err := w.reg.RenameDevice(ctx, a, device, "Canary kitchen"); err != nil {
			t.Fatal(err)
		}
		unshipped := registry.OrderRequest{OrderID: "o-2", UserEmail: email, DeviceMAC: "02:00:00:00:00:02"}
		if _, _, err := w.reg.CreateOrder(ctx, registry.System(), unshipped); err != nil {
			t.Fatal(err)
		}
		shared := w.buy(t, "02:00:00:00:00:03", "friend@example.com")
		friend, _ := w.login(t, "friend@example.com")
		request := registry.ShareRequest{Email: email, Role: registry.RoleViewer}
		if _, err := w.reg.ShareDevice(ctx, w.actor(t, friend.Access), shared, request); err != nil {
			t.Fatal(err)
		}
		request.Email = "guest@example.com"
		if _, err := w.reg.ShareDevice(ctx, a, device, request); err != nil {
			t.Fatal(err)
		}
		if err := w.Erase(ctx, a, a.ID); err != nil {
			t.Fatal(err)
		}
		if w.good(tokens.Access) {
			t.Error("the token is still good")
		}
		if _, err := w.use(tokens.Refresh, install); !errors.Is(err, account.ErrInvalidToken) {
			t.Errorf("the refresh token: %v", err)
		}
		if again := w.again(t); again.good(tokens.Access) {
			t.Error("the token is good after a restart")
		}
		rows, err := w.reg.Audit(ctx, registry.System(), registry.AuditFilter{Limit: 1000})
		if err != nil {
			t.Fatal(err)
		}
		erased := false
		for _, e := range rows {
			erased = erased || e.Event == "user_erased"
			if e.Actor == a.String() && e.IP+e.UserAgent != "" {
				t.Errorf("%s keeps %s %s", e.Event, e.IP, e.UserAgent)
			}
		}
		if !erased {
			t.Error("the erasure is not in the trail")
		}
		if d, err := w.reg.AdminDevice(ctx, registry.Actor{Kind: registry.ActorAdmin}, device); err != nil || len(d.Ownerships) != 0 || d.Name != "" {
			t.Errorf("the device is %+v, %v", d, err)
		}
		w.reg.Close()
		if err := w.db.Close(); err != nil {
			t.Fatal(err)
		}
		for _, suffix := range []string{"", "-wal", "-shm"} {
			content, err := os.ReadFile(w.file + suffix)
			if errors.Is(err, os.ErrNotExist) && suffix != "" {
				continue
			}
			if err != nil {
				t.Fatal(err)
			}
			for _, trace := range []string{email, "canary", "Canary", "198.51.100.77", install, "Phone"} {
				if bytes.Contains(content, []byte(trace)) {
					t.Errorf("%q is in the file%s", trace, suffix)
				}
			}
		}
	})
	t.Run("the person may come back as somebody new, and buys anew", func(t *testing.T) {
		w := newWorld(t, nil)
		device := w.buy(t, "02:00:00:00:00:01", email)
		tokens, u := w.login(t, email)
		if err := w.Erase(ctx, w.actor(t, tokens.Access), u.ID); err != nil {
			t.Fatal(err)
		}
		tokens, again := w.login(t, email)
		if again.ID == u.ID {
			t.Error("the same person came back")
		}
		if _, err := w.reg.Device(ctx, w.actor(t, tokens.Access), device); !errors.Is(err, registry.ErrDeviceNotFound) {
			t.Errorf("the old purchase: %v", err)
		}
	})
	t.Run("is for oneself and administrators", func(t *testing.T) {
		w := newWorld(t, nil)
		tokens, u := w.login(t, "a@example.com")
		stranger, _ := w.login(t, "b@example.com")
		for _, a := range []registry.Actor{w.actor(t, stranger.Access), {Kind: registry.ActorSupport, ID: "s"}, {Kind: registry.ActorService, ID: u.ID}, {Kind: registry.ActorDevice, ID: u.ID}, {}} {
			if err := w.Erase(ctx, a, u.ID); !errors.Is(err, registry.ErrInsufficientRole) {
				t.Errorf("%s: %v", a, err)
			}
		}
		boss := registry.Actor{Kind: registry.ActorAdmin, ID: "root", IP: "192.0.2.9"}
		if err := w.Erase(ctx, boss, "nobody"); !errors.Is(err, account.ErrUserNotFound) {
			t.Errorf("nobody: %v", err)
		}
		if err := w.Erase(ctx, boss, u.ID); err != nil || w.good(tokens.Access) || !w.good(stranger.Access) {
			t.Errorf("by an administrator: %v", err)
		}
		if err := w.Erase(ctx, boss, u.ID); !errors.Is(err, account.ErrUserNotFound) {
			t.Errorf("twice: %v", err)
		}
	})
	t.Run("shares are given up, and what others own stays", func(t *testing.T) {
		w := newWorld(t, nil)
		device := w.buy(t, "02:00:00:00:00:01", "owner@example.com")
		owner, _ := w.login(t, "owner@example.com")
		guest, g := w.login(t, "guest@example.com")
		err := w.db.Accounts().InTx(ctx, func(tx account.Tx) error {
			d, err := tx.Device(ctx, device)
			if err != nil {
				return err
			}
			_, err = tx.InsertOwnership(ctx, registry.Ownership{DeviceNo: d.No, UserID: g.ID, Role: registry.RoleViewer, At: w.clock.Now()})
			return err
		})
		if err != nil {
			t.Fatal(err)
		}
		if err := w.Erase(ctx, w.actor(t, guest.Access), g.ID); err != nil {
			t.Fatal(err)
		}
		if d, err := w.reg.Device(ctx, w.actor(t, owner.Access), device); err != nil || d.Role != registry.RoleOwner {
			t.Errorf("the owner's device: %q, %v", d.Role, err)
		}
		if strings.Join(w.sids(t, registry.Actor{Kind: registry.ActorUser, ID: g.ID}), "") != "" {
			t.Error("sessions are left")
		}
	})
}
