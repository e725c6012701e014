package registry_test

import (
	"errors"
	"fmt"
	"testing"
	"time"

	"github.com/opticworks/devicecloud/registry"
)

// mails takes the mails that are due, by address.
func (h *house) mails() (to []registry.Invitation) {
	h.t.Helper()
	to, err := h.TakeInvitationMails(ctx, 10)
	if err != nil {
		h.t.Fatal(err)
	}
	return to
}

func addresses(list []registry.Invitation) (to []string) {
	for _, i := range list {
		to = append(to, i.Email)
	}
	return to
}

func TestInvitationsAreMailed(t *testing.T) {
	on := registry.InvitationMails{On: true}
	t.Run("to known and unknown addresses alike, a share as a transfer", func(t *testing.T) {
		h, d := household(t, registry.Options{InvitationMails: on})
		select {
		case <-h.InvitationsMoved():
			t.Error("something moved before anybody was invited")
		default:
		}
		h.offer(d, "Guest@example.com", registry.RoleViewer)
		h.offer(d, "nobody@example.com", registry.RoleAdmin)
		if _, err := h.TransferDevice(ctx, person("owner"), d.id, "heir@example.com"); err != nil {
			t.Fatal(err)
		}
		select {
		case <-h.InvitationsMoved():
		default:
			t.Error("nobody was told")
		}
		got := h.mails()
		equal(t, "due", addresses(got), []string{"guest@example.com", "nobody@example.com", "heir@example.com"})
		for _, i := range got {
			if i.From != "owner@example.com" || i.DeviceID != d.id || i.ExpiresAt.IsZero() {
				t.Errorf("it says %+v", i)
			}
		}
		equal(t, "taken once", addresses(h.mails()), []string{})
	})
	t.Run("again until they are sent, and not after the invitation is answered or expired", func(t *testing.T) {
		clock := newClock()
		h, d := household(t, registry.Options{InvitationMails: on, Now: clock.now})
		for _, to := range []string{"sent@example.com", "guest@example.com", "lost@example.com"} {
			h.offer(d, to, registry.RoleViewer)
		}
		if err := h.InvitationMailed(ctx, h.mails()[0]); err != nil {
			t.Fatal(err)
		}
		clock.add(14 * time.Minute)
		equal(t, "while they are being sent", addresses(h.mails()), []string{})
		h.accept("guest")
		clock.add(time.Minute)
		equal(t, "after the lease", addresses(h.mails()), []string{"lost@example.com"})
		clock.add(7 * 24 * time.Hour)
		equal(t, "after a week", addresses(h.mails()), []string{})
	})
	t.Run("not without a mail server, and the share works", func(t *testing.T) {
		h, d := household(t, registry.Options{})
		h.offer(d, "guest@example.com", registry.RoleViewer)
		equal(t, "due", addresses(h.mails()), []string{})
		h.accept("guest")
		if r := h.roleOf(d, "guest"); r != registry.RoleViewer {
			t.Errorf("they are %q", r)
		}
	})
	t.Run("within limits, of which who invites hears nothing", func(t *testing.T) {
		clock := newClock()
		h, d := household(t, registry.Options{Now: clock.now, InvitationMails: registry.InvitationMails{
			On: true, PerAddress: registry.Rate{Interval: time.Hour, Burst: 2}, PerInviter: registry.Rate{Interval: time.Minute, Burst: 4},
		}})
		sent := func(to string) []string {
			t.Helper()
			if s := h.offer(d, to, registry.RoleViewer); s != registry.SharePending {
				t.Errorf("the answer is %q", s)
			}
			list := h.mails()
			for _, i := range list {
				if err := h.InvitationMailed(ctx, i); err != nil {
					t.Fatal(err)
				}
			}
			return addresses(list)
		}
		for n, want := range [][]string{{"a@example.com"}, {"a@example.com"}, nil} {
			equal(t, "to one address", sent("a@example.com"), want)
			if n == 2 {
				equal(t, "the invitation stands", len(h.openTo(d, "a@example.com")), 1)
			}
		}
		equal(t, "another", sent("b@example.com"), []string{"b@example.com"})
		equal(t, "a third", sent("c@example.com"), []string{"c@example.com"})
		equal(t, "of one person", sent("d@example.com"), []string{})
		clock.add(time.Hour)
		equal(t, "an hour later", sent("a@example.com"), []string{"a@example.com"})
	})
	t.Run("not for a change of a share that is accepted", func(t *testing.T) {
		h, d := household(t, registry.Options{InvitationMails: on})
		h.offer(d, "guest@example.com", registry.RoleViewer)
		h.mails()
		h.accept("guest")
		if s := h.offer(d, "guest@example.com", registry.RoleAdmin); s != registry.ShareActive {
			t.Errorf("it is %q", s)
		}
		equal(t, "due", addresses(h.mails()), []string{})
	})
	t.Run("not when it is refused", func(t *testing.T) {
		h, d := household(t, registry.Options{InvitationMails: on})
		_, err := h.ShareDevice(ctx, person("guest"), d.id, registry.ShareRequest{Email: "x@example.com", Role: registry.RoleViewer})
		if !errors.Is(err, registry.ErrDeviceNotFound) {
			t.Error(err)
		}
		equal(t, "due", addresses(h.mails()), []string{})
	})
}

// openTo lists the open invitations of a device to an address.
func (h *house) openTo(d device, email string) (list []registry.Share) {
	h.t.Helper()
	all, err := h.Shares(ctx, person("owner"), d.id)
	if err != nil {
		h.t.Fatal(err)
	}
	for _, s := range all {
		if s.Email == email && s.Status == registry.SharePending {
			list = append(list, s)
		}
	}
	return list
}

// equal compares what two things print.
func equal(t *testing.T, what string, got, want any) {
	t.Helper()
	if g, w := fmt.Sprint(got), fmt.Sprint(want); g != w {
		t.Errorf("%s: got %s, want %s", what, g, w)
	}
}
