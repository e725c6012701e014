package registry_test

import (
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/opticworks/devicecloud/registry"
)

// services are what a person may have of a device's services.
func (h *house) services(user string, d device) string {
	h.t.Helper()
	var words []string
	for _, c := range registry.Services() {
		_, err := h.Access(ctx, person(user), d.id, c)
		verdict := "ok"
		var e *registry.Error
		if errors.As(err, &e) {
			verdict = e.Code
		}
		words = append(words, verdict)
	}
	return strings.Join(words, " ")
}

func TestEntitlements(t *testing.T) {
	clock := newClock()
	h := open(t, registry.Options{Now: clock.now})
	for _, name := range []string{"owner", "viewer", "stranger", "next"} {
		h.user(name, name+"@example.com")
	}
	d := h.enroll(1)
	if _, err := h.SupportClaim(ctx, admin, registry.SupportClaimRequest{DeviceID: d.id, UserID: "owner"}); err != nil {
		t.Fatal(err)
	}
	h.share(d, "viewer")
	manager := admin
	manager.Scopes = append([]string{registry.ScopeConfigWrite}, admin.Scopes...)
	want := func(user, verdicts string) {
		t.Helper()
		verdicts = strings.NewReplacer("pay", "entitlement_required", "role", "insufficient_role", "404", "device_not_found").Replace(verdicts)
		if got := h.services(user, d); got != verdicts {
			t.Errorf("%s gets %s, want %s", user, got, verdicts)
		}
	}
	t.Run("a trial of two services begins with the first activation", func(t *testing.T) {
		want("owner", "ok ok pay pay")
		want("viewer", "ok ok role role") // the role first
		want("stranger", "404 404 404 404")
		list, err := h.Entitlements(ctx, person("viewer"), d.id)
		if err != nil || len(list) != 2 || list[0].Source != registry.EntitledByTrial || list[0].EndsAt.Sub(list[0].StartsAt) != 30*24*time.Hour {
			t.Errorf("%+v, %v", list, err)
		}
		if _, err := h.Access(ctx, manager, d.id, registry.CanLiveView); !errors.Is(err, registry.ErrInsufficientRole) {
			t.Errorf("staff: %v", err)
		}
		weak := person("owner")
		weak.Scopes = nil
		if _, err := h.Access(ctx, weak, d.id, registry.CanClipDownload); !errors.Is(err, registry.ErrInsufficientScope) {
			t.Errorf("the scope comes before what is paid: %v", err)
		}
	})
	t.Run("it ends, and comes only once", func(t *testing.T) {
		clock.add(30 * 24 * time.Hour)
		want("owner", "pay pay pay pay")
		if _, err := h.ReleaseDevice(ctx, admin, d.id); err != nil {
			t.Fatal(err)
		}
		if _, err := h.SupportClaim(ctx, admin, registry.SupportClaimRequest{DeviceID: d.id, UserID: "owner"}); err != nil {
			t.Fatal(err)
		}
		want("owner", "pay pay pay pay")
	})
	t.Run("administrators grant and take back", func(t *testing.T) {
		begin := clock.now().Add(time.Hour)
		if _, err := h.GrantEntitlement(ctx, manager, d.id, registry.Entitlement{Capability: registry.CanClipDownload, StartsAt: begin, EndsAt: begin.Add(time.Hour), HistoryDays: 7}); err != nil {
			t.Fatal(err)
		}
		want("owner", "pay pay pay pay")
		clock.add(time.Hour)
		want("owner", "pay pay ok pay")
		x, err := h.Explain(ctx, admin, person("owner"), d.id, registry.CanAISummary)
		if err != nil || x.Allowed || x.Refusal.Code != "entitlement_required" || !strings.Contains(x.Reason, "ai_summary") {
			t.Errorf("%+v, %v", x, err)
		}
		if n, err := h.RevokeEntitlements(ctx, manager, d.id, registry.CanClipDownload); err != nil || n != 1 {
			t.Errorf("%d, %v", n, err)
		}
		want("owner", "pay pay pay pay")
		if got := strings.Join(h.audit(d.id), " "); !strings.HasSuffix(got, "entitlement_granted entitlement_revoked") {
			t.Errorf("audit %s", got)
		}
	})
	t.Run("others may not, and nonsense is refused", func(t *testing.T) {
		for _, a := range []struct {
			actor registry.Actor
			want  error
		}{{person("owner"), registry.ErrInsufficientRole}, {readOnly, registry.ErrInsufficientRole}, {admin, registry.ErrInsufficientScope}} {
			_, err := h.GrantEntitlement(ctx, a.actor, d.id, registry.Entitlement{Capability: registry.CanLiveView})
			wantErr(t, "grant", err, a.want)
			_, err = h.RevokeEntitlements(ctx, a.actor, d.id, registry.CanLiveView)
			wantErr(t, "revoke", err, a.want)
		}
		_, err := h.GrantEntitlement(ctx, manager, newDevice(9).id, registry.Entitlement{Capability: registry.CanLiveView})
		wantErr(t, "an absent device", err, registry.ErrDeviceNotFound)
		now := clock.now()
		for _, e := range []registry.Entitlement{
			{},
			{Capability: registry.CanRead},
			{Capability: registry.CanLiveView, EndsAt: now},
			{Capability: registry.CanLiveView, StartsAt: now.Add(2), EndsAt: now.Add(1)},
			{Capability: registry.CanLiveView, HistoryDays: -1},
			{Capability: registry.CanLiveView, HistoryDays: 3651},
			{Capability: registry.CanLiveView, StartsAt: time.Date(10000, 1, 1, 0, 0, 0, 0, time.UTC)},
		} {
			if _, err := h.GrantEntitlement(ctx, manager, d.id, e); registry.KindOf(err) != registry.Invalid {
				t.Errorf("%+v: %v", e, err)
			}
		}
	})
	t.Run("every capability has a name", func(t *testing.T) {
		for _, c := range registry.Services() {
			if got, ok := registry.ParseCapability(fmt.Sprint(c)); !ok || got != c {
				t.Errorf("%v", c)
			}
		}
	})
}

func TestNoTrialWhenItIsOff(t *testing.T) {
	h := open(t, registry.Options{Trial: -1})
	h.user("owner", "owner@example.com")
	d := h.enroll(1)
	if _, err := h.SupportClaim(ctx, admin, registry.SupportClaimRequest{DeviceID: d.id, UserID: "owner"}); err != nil {
		t.Fatal(err)
	}
	if got := h.services("owner", d); got != strings.TrimSpace(strings.Repeat("entitlement_required ", 4)) {
		t.Error(got)
	}
}
