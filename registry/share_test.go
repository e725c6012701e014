package registry_test

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/opticworks/devicecloud/registry"
	"github.com/opticworks/devicecloud/topic"
)

// clock is a time that only the test moves.
type clock struct {
	mu sync.Mutex
	at time.Time
}

func newClock() *clock { return &clock{at: time.Date(2026, 1, 22, 10, 0, 0, 0, time.UTC)} }

func (c *clock) now() time.Time {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.at
}

func (c *clock) add(d time.Duration) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.at = c.at.Add(d)
}

// household is a device with its owner, and people who have nothing yet.
func household(t *testing.T, opts registry.Options) (*house, device) {
	t.Helper()
	h := open(t, opts)
	for _, name := range []string{"owner", "guest", "other"} {
		h.user(name, name+"@example.com")
	}
	d := h.enroll(1)
	h.give(d, "owner")
	return h, d
}

// offer shares a device and returns what has become of it.
func (h *house) offer(d device, email string, role registry.Role) registry.ShareStatus {
	h.t.Helper()
	status, err := h.ShareDevice(ctx, person("owner"), d.id, registry.ShareRequest{Email: email, Role: role})
	if err != nil {
		h.t.Fatal(err)
	}
	return status
}

// invitations are the open invitations to a person.
func (h *house) invitations(user string) []registry.Invitation {
	h.t.Helper()
	list, err := h.Invitations(ctx, person(user), 0, 50)
	if err != nil {
		h.t.Fatal(err)
	}
	return list
}

// accept accepts a person's newest invitation.
func (h *house) accept(user string) {
	h.t.Helper()
	if _, err := h.AcceptInvitation(ctx, person(user), h.invitations(user)[0].ID); err != nil {
		h.t.Fatal(err)
	}
}

// roleOf is what a person is to a device, "" for nothing.
func (h *house) roleOf(d device, user string) registry.Role {
	h.t.Helper()
	got, err := h.Device(ctx, person(user), d.id)
	if err != nil && !errors.Is(err, registry.ErrDeviceNotFound) {
		h.t.Fatal(err)
	}
	return got.Role
}

func wantErr(t *testing.T, what string, got, want error) {
	t.Helper()
	if !errors.Is(got, want) {
		t.Errorf("%s: got %v, want %v", what, got, want)
	}
}

func TestSharing(t *testing.T) {
	t.Run("gives a role once the invited person has accepted", func(t *testing.T) {
		h, d := household(t, registry.Options{})
		l := h.listen(t, person("guest"), registry.ListenOptions{})
		wantWords(t, hear(t, l), "snapshot")
		if s := h.offer(d, " Guest@Example.com ", registry.RoleViewer); s != registry.SharePending {
			t.Errorf("it is %q", s)
		}
		if r := h.roleOf(d, "guest"); r != "" {
			t.Errorf("before they accepted they are %q", r)
		}
		i := h.invitations("guest")
		if len(i) != 1 || i[0].DeviceID != d.id || i[0].From != "owner@example.com" || i[0].Role != registry.RoleViewer {
			t.Fatalf("invited to %+v", i)
		}
		h.accept("guest")
		if r := h.roleOf(d, "guest"); r != registry.RoleViewer {
			t.Errorf("they are %q", r)
		}
		if !slices.Contains(h.courier.changed, "guest") {
			t.Error("their sessions were not told")
		}
		wantWords(t, hear(t, l), "+"+d.id, "device.shared "+d.id)
		if got := strings.Join(h.audit(d.id), " "); got != "enrolled share_invited shared" {
			t.Errorf("audit %s", got)
		}
		if _, err := h.AcceptInvitation(ctx, person("guest"), i[0].ID); !errors.Is(err, registry.ErrInvitationNotFound) {
			t.Errorf("a second time: %v", err)
		}
	})
	t.Run("answers alike whether the address has an account or not", func(t *testing.T) {
		h, d := household(t, registry.Options{})
		known, unknown := h.offer(d, "guest@example.com", registry.RoleViewer), h.offer(d, "nobody@example.com", registry.RoleViewer)
		if known != unknown || known != registry.SharePending {
			t.Errorf("%q and %q", known, unknown)
		}
		h.user("late", "nobody@example.com")
		h.accept("late")
		if r := h.roleOf(d, "late"); r != registry.RoleViewer {
			t.Errorf("who came later is %q", r)
		}
	})
	t.Run("changes the role of who has the device at once", func(t *testing.T) {
		h, d := household(t, registry.Options{})
		h.share(d, "guest")
		if s := h.offer(d, "guest@example.com", registry.RoleAdmin); s != registry.ShareActive {
			t.Errorf("it is %q", s)
		}
		if r := h.roleOf(d, "guest"); r != registry.RoleAdmin {
			t.Errorf("they are %q", r)
		}
	})
	t.Run("neither makes nor touches an owner", func(t *testing.T) {
		h, d := household(t, registry.Options{})
		_, err := h.ShareDevice(ctx, person("owner"), d.id, registry.ShareRequest{Email: "guest@example.com", Role: registry.RoleOwner})
		wantErr(t, "role owner", err, registry.ErrInvalidRole)
		for _, role := range []registry.Role{registry.RoleAdmin, registry.RoleViewer} {
			for _, who := range []registry.Actor{person("owner"), admin} {
				_, err = h.ShareDevice(ctx, who, d.id, registry.ShareRequest{Email: "owner@example.com", Role: role})
				wantErr(t, "with the owner", err, registry.ErrAlreadyOwner)
			}
		}
		wantErr(t, "the owner's share", h.RemoveShare(ctx, person("owner"), d.id, "owner"), registry.ErrShareNotFound)
		wantErr(t, "by staff", h.RemoveShare(ctx, admin, d.id, "owner"), registry.ErrShareNotFound)
		if r := h.roleOf(d, "owner"); r != registry.RoleOwner {
			t.Errorf("the owner is %q", r)
		}
	})
	t.Run("is the owner's alone", func(t *testing.T) {
		h, d := household(t, registry.Options{})
		h.role(d, "guest", registry.RoleAdmin)
		for who, want := range map[string]error{"guest": registry.ErrInsufficientRole, "other": registry.ErrDeviceNotFound} {
			_, err := h.ShareDevice(ctx, person(who), d.id, registry.ShareRequest{Email: "x@example.com", Role: "nonsense"})
			wantErr(t, who+" shares", err, want)
			_, err = h.Shares(ctx, person(who), d.id)
			wantErr(t, who+" lists", err, want)
			wantErr(t, who+" revokes", h.RemoveShare(ctx, person(who), d.id, "guest"), want)
			wantErr(t, who+" withdraws", h.WithdrawInvitation(ctx, person(who), d.id, 1), want)
			_, err = h.TransferDevice(ctx, person(who), d.id, "x@example.com")
			wantErr(t, who+" transfers", err, want)
		}
	})
	t.Run("has an end of twenty", func(t *testing.T) {
		h, d := household(t, registry.Options{})
		h.share(d, "guest")
		for n := range 19 {
			h.offer(d, fmt.Sprintf("p%d@example.com", n), registry.RoleViewer)
		}
		_, err := h.ShareDevice(ctx, person("owner"), d.id, registry.ShareRequest{Email: "more@example.com", Role: registry.RoleViewer})
		wantErr(t, "the 21st", err, registry.ErrShareLimit)
		h.offer(d, "p3@example.com", registry.RoleAdmin)    // again
		h.offer(d, "guest@example.com", registry.RoleAdmin) // has it
		list, err := h.Shares(ctx, person("owner"), d.id)
		if err != nil || len(list) != 20 {
			t.Errorf("%d shares, %v", len(list), err)
		}
	})
	t.Run("is taken back, before and after it was accepted", func(t *testing.T) {
		h, d := household(t, registry.Options{})
		h.offer(d, "guest@example.com", registry.RoleViewer)
		i := h.invitations("guest")[0]
		if err := h.WithdrawInvitation(ctx, person("owner"), d.id, i.ID); err != nil {
			t.Fatal(err)
		}
		_, err := h.AcceptInvitation(ctx, person("guest"), i.ID)
		wantErr(t, "withdrawn", err, registry.ErrInvitationNotFound)
		wantErr(t, "again", h.WithdrawInvitation(ctx, person("owner"), d.id, i.ID), registry.ErrShareNotFound)
		h.offer(d, "guest@example.com", registry.RoleViewer)
		h.accept("guest")
		h.courier.changed = nil
		if err := h.RemoveShare(ctx, person("owner"), d.id, "guest"); err != nil {
			t.Fatal(err)
		}
		if r := h.roleOf(d, "guest"); r != "" || !slices.Equal(h.courier.changed, []string{"guest"}) {
			t.Errorf("they are %q; told were %v", r, h.courier.changed)
		}
		wantErr(t, "again", h.RemoveShare(ctx, person("owner"), d.id, "guest"), registry.ErrShareNotFound)
	})
}

func TestInvitationsAreBoundToTheirAddress(t *testing.T) {
	clock := newClock()
	h, d := household(t, registry.Options{Now: clock.now})
	h.offer(d, "guest@example.com", registry.RoleViewer)
	i := h.invitations("guest")[0]
	if list := h.invitations("other"); len(list) != 0 {
		t.Errorf("somebody else sees %v", list)
	}
	_, err := h.AcceptInvitation(ctx, person("other"), i.ID)
	wantErr(t, "somebody else", err, registry.ErrInvitationNotFound)
	_, err = h.DeclineInvitation(ctx, person("other"), i.ID)
	wantErr(t, "somebody else declines", err, registry.ErrInvitationNotFound)
	_, err = h.AcceptInvitation(ctx, admin, i.ID)
	wantErr(t, "staff", err, registry.ErrInsufficientRole)
	weak := person("guest")
	weak.Scopes = []string{registry.ScopeDeviceRead}
	_, err = h.AcceptInvitation(ctx, weak, i.ID)
	wantErr(t, "a token to read", err, registry.ErrInsufficientScope)
	clock.add(7 * 24 * time.Hour)
	_, err = h.AcceptInvitation(ctx, person("guest"), i.ID)
	wantErr(t, "after a week", err, registry.ErrInvitationNotFound)
	if list := h.invitations("guest"); len(list) != 0 {
		t.Errorf("after a week there is %v", list)
	}
}

func TestSharesBeginAndEndByThemselves(t *testing.T) {
	clock := newClock()
	h, d := household(t, registry.Options{Now: clock.now})
	begin, end := clock.now().Add(time.Hour), clock.now().Add(2*time.Hour)
	for _, bad := range []registry.ShareRequest{
		{EndsAt: clock.now()}, {EndsAt: begin, StartsAt: end}, {EndsAt: begin, StartsAt: begin}, {StartsAt: time.Date(10000, 1, 1, 0, 0, 0, 0, time.UTC)},
	} {
		bad.Email, bad.Role = "guest@example.com", registry.RoleViewer
		if _, err := h.ShareDevice(ctx, person("owner"), d.id, bad); registry.KindOf(err) != registry.Invalid {
			t.Errorf("%v to %v: %v", bad.StartsAt, bad.EndsAt, err)
		}
	}
	_, err := h.ShareDevice(ctx, person("owner"), d.id, registry.ShareRequest{Email: "guest@example.com", Role: registry.RoleViewer, StartsAt: begin, EndsAt: end})
	if err != nil {
		t.Fatal(err)
	}
	h.accept("guest")
	readable := func() string {
		ids, err := h.ReadableIDs(ctx, person("guest"))
		if err != nil {
			t.Fatal(err)
		}
		list, err := h.Devices(ctx, person("guest"), 0, 10)
		if err != nil || len(list) != len(ids) {
			t.Errorf("the list has %d devices, %v", len(list), err)
		}
		return fmt.Sprint(len(ids), h.roleOf(d, "guest"))
	}
	status := func() string {
		list, err := h.Shares(ctx, person("owner"), d.id)
		if err != nil {
			t.Fatal(err)
		}
		if len(list) == 0 {
			return ""
		}
		return string(list[0].Status)
	}
	l := h.listen(t, person("guest"), registry.ListenOptions{})
	wantWords(t, hear(t, l), "snapshot")
	last := clock.now()
	step := func(d time.Duration) (wait time.Duration) {
		clock.add(d)
		next, err := h.CrossShares(ctx, last, clock.now())
		if err != nil {
			t.Fatal(err)
		}
		last = clock.now()
		return next.Sub(last)
	}
	if got, wait := readable()+status(), step(0); got != "0scheduled" || wait != time.Hour {
		t.Errorf("before: %s, next in %v", got, wait)
	}
	h.courier.changed = nil
	if wait := step(time.Hour); wait != time.Hour || readable()+status() != "1vieweractive" {
		t.Errorf("begun: %s, next in %v", readable()+status(), wait)
	}
	wantWords(t, hear(t, l), "+"+d.id, "device.shared "+d.id)
	step(time.Hour)
	if got := readable() + status(); got != "0" {
		t.Errorf("ended: %s", got)
	}
	wantWords(t, hear(t, l), "device.released "+d.id)
	if !slices.Equal(h.courier.changed, []string{"guest", "guest"}) {
		t.Errorf("told were %v", h.courier.changed)
	}
	step(2 * time.Minute)
	if got := strings.Join(h.audit(d.id), " "); !strings.HasSuffix(got, "shared share_ended") {
		t.Errorf("audit %s", got)
	}
	if s := h.offer(d, "guest@example.com", registry.RoleViewer); s != registry.SharePending {
		t.Errorf("shared again it is %q", s)
	}
}

func TestTransfer(t *testing.T) {
	t.Run("moves the device with nothing of the former owner on it", func(t *testing.T) {
		h, d := household(t, registry.Options{})
		h.share(d, "other")
		h.share(d, "guest") // the new owner had it shared
		h.offer(d, "nobody@example.com", registry.RoleViewer)
		s := h.connect(d)
		if err := h.KeepReport(s, topic.ConfigStatus, []byte(`{"version":3,"status":"applied"}`)); err != nil {
			t.Fatal(err)
		}
		if _, err := h.RenameDevice(ctx, person("owner"), d.id, "Bedroom of the owner"); err != nil {
			t.Fatal(err)
		}
		if _, err := h.TransferDevice(ctx, person("owner"), d.id, "guest@example.com"); err != nil {
			t.Fatal(err)
		}
		if r := h.roleOf(d, "guest"); r != registry.RoleViewer {
			t.Errorf("before they accepted they are %q", r)
		}
		l := h.listen(t, person("owner"), registry.ListenOptions{})
		hear(t, l)
		h.courier.changed = nil
		h.accept("guest")
		for who, want := range map[string]registry.Role{"owner": "", "other": "", "guest": registry.RoleOwner} {
			if got := h.roleOf(d, who); got != want {
				t.Errorf("%s is %q, want %q", who, got, want)
			}
		}
		wantWords(t, hear(t, l), "device.released "+d.id)
		slices.Sort(h.courier.changed)
		if got := slices.Compact(h.courier.changed); !slices.Equal(got, []string{"guest", "other", "owner"}) {
			t.Errorf("told were %v", got)
		}
		detail, err := h.AdminDevice(ctx, admin, d.id)
		if err != nil {
			t.Fatal(err)
		}
		events, err := h.Events(ctx, admin, d.id, "", 0, 10)
		if err != nil {
			t.Fatal(err)
		}
		if o := detail.Ownerships; detail.Name != "" || len(detail.Reports)+len(events) != 0 || len(o) != 1 || o[0].ClaimedVia != "transfer" {
			t.Errorf("left are %q, %v, %v, %v", detail.Name, detail.Reports, events, o)
		}
		h.user("late", "nobody@example.com")
		if list := h.invitations("late"); len(list) != 0 {
			t.Errorf("an invitation of the former owner is open: %v", list)
		}
	})
	t.Run("stops at the new owner's limit and changes nothing", func(t *testing.T) {
		h, d := household(t, registry.Options{MaxDevicesPerUser: 1})
		h.give(h.enroll(2), "guest")
		if _, err := h.TransferDevice(ctx, person("owner"), d.id, "guest@example.com"); err != nil {
			t.Fatal(err)
		}
		_, err := h.AcceptInvitation(ctx, person("guest"), h.invitations("guest")[0].ID)
		wantErr(t, "at the limit", err, registry.ErrDeviceLimit)
		if h.roleOf(d, "owner") != registry.RoleOwner || len(h.invitations("guest")) != 1 {
			t.Error("the refusal changed something")
		}
	})
	t.Run("has one offer at a time", func(t *testing.T) {
		h, d := household(t, registry.Options{})
		for _, to := range []string{"guest@example.com", "other@example.com"} {
			if _, err := h.TransferDevice(ctx, person("owner"), d.id, to); err != nil {
				t.Fatal(err)
			}
		}
		if a, b := len(h.invitations("guest")), len(h.invitations("other")); a != 0 || b != 1 {
			t.Errorf("%d and %d are open", a, b)
		}
		_, err := h.TransferDevice(ctx, person("owner"), d.id, "owner@example.com")
		wantErr(t, "to oneself", err, registry.ErrAlreadyOwner)
		if _, err := h.TransferDevice(ctx, person("owner"), d.id, "nonsense"); registry.KindOf(err) != registry.Invalid {
			t.Errorf("to nonsense: %v", err)
		}
		if _, err := h.DeclineInvitation(ctx, person("other"), h.invitations("other")[0].ID); err != nil {
			t.Fatal(err)
		}
		if r := h.roleOf(d, "owner"); r != registry.RoleOwner {
			t.Errorf("after it was declined the owner is %q", r)
		}
	})
}

func TestReleaseByStaff(t *testing.T) {
	h, d := household(t, registry.Options{})
	h.share(d, "guest")
	h.offer(d, "other@example.com", registry.RoleViewer)
	for _, who := range []registry.Actor{person("owner"), {Kind: registry.ActorService, ID: "s"}} {
		_, err := h.ReleaseDevice(ctx, who, d.id)
		wantErr(t, who.String(), err, registry.ErrInsufficientRole)
	}
	if was, err := h.ReleaseDevice(ctx, readOnly, d.id); err != nil || !was {
		t.Fatalf("%v, %v", was, err)
	}
	if h.roleOf(d, "owner") != "" || h.roleOf(d, "guest") != "" || len(h.invitations("other")) != 0 {
		t.Error("somebody has it still")
	}
	if was, err := h.ReleaseDevice(ctx, readOnly, d.id); err != nil || was {
		t.Errorf("again: %v, %v", was, err)
	}
	_, err := h.ReleaseDevice(ctx, readOnly, newDevice(9).id)
	wantErr(t, "an absent device", err, registry.ErrDeviceNotFound)
}

// Whatever people do at once, a device keeps exactly one owner as long as nobody gives
// it up.
func TestTheOwnerNeverVanishesInARace(t *testing.T) {
	h, d := household(t, registry.Options{})
	h.role(d, "guest", registry.RoleAdmin)
	for range 10 {
		if _, err := h.TransferDevice(ctx, person("owner"), d.id, "guest@example.com"); err != nil {
			t.Fatal(err)
		}
		offer := h.invitations("guest")[0].ID
		var wg sync.WaitGroup
		for _, f := range []func(){
			func() { _, _ = h.AcceptInvitation(ctx, person("guest"), offer) },
			func() { _, _ = h.AcceptInvitation(ctx, person("guest"), offer) },
			func() { _ = h.RemoveShare(ctx, person("owner"), d.id, "guest") },
			func() {
				_, _ = h.ShareDevice(ctx, person("owner"), d.id, registry.ShareRequest{Email: "guest@example.com", Role: registry.RoleViewer})
			},
			func() {
				_, _ = h.ShareDevice(ctx, person("guest"), d.id, registry.ShareRequest{Email: "owner@example.com", Role: registry.RoleViewer})
			},
		} {
			wg.Go(f)
		}
		wg.Wait()
		detail, err := h.AdminDevice(ctx, admin, d.id)
		if err != nil {
			t.Fatal(err)
		}
		owners := 0
		for _, o := range detail.Ownerships {
			if o.Role == registry.RoleOwner {
				owners++
			}
		}
		if owners != 1 {
			t.Fatalf("the device has %d owners: %v", owners, detail.Ownerships)
		}
		if _, err := h.ReleaseDevice(ctx, admin, d.id); err != nil {
			t.Fatal(err)
		}
		h.give(d, "owner")
		h.role(d, "guest", registry.RoleAdmin)
	}
}
