package e2e_test

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/opticworks/devicecloud/dataplan"
	"github.com/opticworks/devicecloud/sqlstore"
	"github.com/opticworks/devicecloud/standin/carrier"
)

// carried is a cloud whose SIM carrier is a stand-in that verifies what it is sent.
func carried(t *testing.T, opts carrier.Options) (*Cloud, *carrier.Server) {
	t.Helper()
	var c *Cloud
	opts.Target = func() string { return c.API() + "/api/webhooks/eiotclub" }
	s, err := carrier.Start(opts)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = s.Close() })
	c = Start(t, Options{Env: map[string]string{
		"EIOTCLUB_APP_KEY": s.AppKey(), "EIOTCLUB_SECRET": s.Secret(), "EIOTCLUB_BASE_URL": s.URL(), "EIOTCLUB_WEBHOOK_SECRET": s.Secret(),
	}})
	t.Cleanup(func() {
		for _, form := range []string{s.Secret(), "secret="} {
			if strings.Contains(c.Log(), form) {
				t.Errorf("the log has %q", form)
			}
		}
	})
	return c, s
}

// pay writes a purchase as it is once its payment was reported.
func (c *Cloud) pay(t *testing.T, u User, d Device, id string) {
	t.Helper()
	ctx := context.Background()
	db, err := sqlstore.Open(ctx, "sqlite:"+filepath.Join(c.DataDir(), "devicecloud.db"), sqlstore.Options{NoMigrate: true})
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = db.Close() }()
	now := time.Now()
	err = db.DataPlans().InTx(ctx, func(tx dataplan.Tx) error {
		p := dataplan.Purchase{
			ID: id, UserID: u.ID, DeviceID: d.ID, Stage: dataplan.Paid, Status: dataplan.Paid, Key: id, ExpiresAt: now, OutTradeNo: id, CreatedAt: now, UpdatedAt: now,
			Plan: dataplan.Plan{ID: "p", Name: "1 GB", Mode: dataplan.ModePayment, Amount: 990, Currency: "usd", Days: 30, DataMB: 1000, CarrierPackage: "P100", Capabilities: []string{"clip_download"}},
		}
		if _, err := tx.InsertPurchase(ctx, p); err != nil {
			return err
		}
		p.PaidAt, p.ClosedAt = now, now
		_, err := tx.UpdatePurchase(ctx, p)
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
}

// simView is a SIM card as an answer has it.
type simView struct {
	ID           string  `json:"sim_id"`
	ICCID        string  `json:"iccid"`
	IMSI         *string `json:"imsi"`
	DeviceID     *string `json:"device_id"`
	Status       string  `json:"status"`
	UsageMB      *int64  `json:"usage_mb"`
	Plan         *string `json:"plan"`
	Connectivity *struct {
		Kind, Status string
	} `json:"connectivity"`
}

// detail is a device as its owner reads it.
type detail struct {
	Online       bool   `json:"online"`
	Status       string `json:"status"`
	Entitlements []struct{ Capability, Source string }
	Connectivity *struct {
		Kind, Status string
		Since        time.Time
	}
}

// A SIM card's life: it is added and put into a device, a paid plan is ordered for it and
// begins, its people hear when little is left, and when it is stopped the device says
// why it is offline. Nobody but who has the scope sees a number in full.
func TestSIMJourney(t *testing.T) {
	t.Parallel()
	c, s := carried(t, carrier.Options{Begins: true})
	admin := c.AdminToken()
	d := c.Enroll()
	owner, viewer := c.UserToken("owner@example.com"), c.UserToken("viewer@example.com")
	c.Post("/admin/devices/claim", admin, object{"device_id": d.ID, "user_email": owner.Email}, nil)
	iccid := newICCID()
	if r := c.exchange(t, request{"POST", "/admin/sims/import", admin, "text/csv", "iccid,imsi\n" + iccid + ",901000000000447\n"}); r.status != http.StatusOK || !strings.Contains(r.body, `"8900…`) {
		t.Fatalf("the import: %d %s", r.status, r.body)
	}
	var list struct{ SIMs []simView }
	c.Get("/admin/sims?assigned=false&q="+iccid[len(iccid)-4:], admin, &list)
	if len(list.SIMs) != 1 || list.SIMs[0].ICCID == iccid || *list.SIMs[0].IMSI != "9010…0447" {
		t.Fatalf("staff see %+v", list.SIMs)
	}
	sim := list.SIMs[0]

	// Paid before the device has a SIM: it waits, and goes on.
	const purchase = "0123456789abcdef0123456789abcdef"
	c.pay(t, owner, d, purchase)
	stream := c.stream(t, owner.Token, "", "")
	Await(t, 30*time.Second, func() bool { return c.purchaseStatus(t, admin, purchase) == "PENDING_ASSIGNMENT" },
		func() string { return "the purchase is " + c.purchaseStatus(t, admin, purchase) })
	if n := len(s.Orders()); n != 0 {
		t.Fatalf("%d orders for no SIM", n)
	}
	c.Post("/admin/sims/"+sim.ID+"/assign", admin, object{"device_id": d.ID}, &sim)
	var device detail
	Await(t, 30*time.Second, func() bool {
		device = detail{}
		c.Get("/api/devices/"+d.ID, owner.Token, &device)
		for _, e := range device.Entitlements {
			if e.Capability == "clip_download" && e.Source == "plan" {
				return true
			}
		}
		return false
	}, func() string { return fmt.Sprintf("the device is %+v", device) })
	if device.Connectivity != nil || len(s.Orders()) != 1 || s.Orders()[0].OutTradeNo != purchase || s.Orders()[0].ICCID != iccid {
		t.Errorf("with a plan: %+v, orders %+v", device.Connectivity, s.Orders())
	}

	// Little is left: the owner hears of it, masked.
	if err := s.Alert(iccid, 1, "80"); err != nil {
		t.Fatal(err)
	}
	for e := stream.next(); ; e = stream.next() {
		if e.Kind == "sim.alert" {
			if e.deviceID() != d.ID || e.Data["alert"] != "data_low" || e.Data["left"] != "80" || e.Data["iccid"] != iccid[:4]+"…"+iccid[len(iccid)-4:] {
				t.Errorf("heard %v", e.Data)
			}
			break
		}
	}
	c.Get("/api/devices/"+d.ID+"/sim", owner.Token, &sim)
	if sim.ICCID == iccid || *sim.UsageMB != 920 || *sim.Plan != "1 GB" || sim.Status != "active" {
		t.Errorf("the owner sees %+v", sim)
	}

	// Who may see it in full, and who may not see it at all.
	desk := c.serviceAccount(admin, "sim desk", "admin:sim")
	c.scan.allow(desk.key)
	var full struct{ SIMs []simView }
	c.Get("/admin/sims?device_id="+d.ID, desk.key, &full)
	if len(full.SIMs) != 1 || full.SIMs[0].ICCID != iccid || *full.SIMs[0].IMSI != "901000000000447" {
		t.Errorf("who has the scope sees %+v", full.SIMs)
	}
	if got := c.Do("GET", "/api/devices/"+d.ID+"/sim", viewer.Token, nil, nil); got != http.StatusNotFound {
		t.Errorf("a stranger gets %d", got)
	}
	c.permitted(t, admin, d.ID, iccid)

	// A number in a path is no id, and the log masks it.
	if got := c.Do("GET", "/admin/sims/"+iccid, admin, nil, nil); got != http.StatusNotFound {
		t.Errorf("a number as an id gets %d", got)
	}

	// It is stopped: the device is offline as ever, and says why.
	if err := s.Stop(iccid); err != nil {
		t.Fatal(err)
	}
	device = detail{}
	c.Get("/api/devices/"+d.ID, owner.Token, &device)
	if device.Status != "offline" || device.Online || device.Connectivity == nil || device.Connectivity.Kind != "sim" || device.Connectivity.Status != "suspended" || device.Connectivity.Since.IsZero() {
		t.Errorf("the stopped device is %+v", device)
	}
	for _, e := range device.Entitlements {
		if e.Source == "plan" {
			t.Error("its plan goes on")
		}
	}
	if err := s.Refund(s.Orders()[0].ID); err != nil {
		t.Fatal(err)
	}
	if got := c.purchaseStatus(t, admin, purchase); got != "REFUNDED" {
		t.Errorf("after the refund it is %s", got)
	}
	if asked, throttled, forged := s.Asked(); asked == 0 || throttled != 0 || forged != 0 {
		t.Errorf("the carrier was asked %d times, %d of them too soon, %d forged", asked, throttled, forged)
	}
	var trail struct {
		Events []struct{ Event string }
	}
	c.Get("/admin/devices/"+d.ID+"/audit", admin, &trail)
	seen := map[string]bool{}
	for _, e := range trail.Events {
		seen[e.Event] = true
	}
	for _, want := range []string{"sim_assigned", "carrier_ordered", "sim_alert", "purchase_transition"} {
		if !seen[want] {
			t.Errorf("%s is not in the trail: %v", want, seen)
		}
	}
}

// permitted is the way of an administrator who needs the numbers of SIM cards: another one
// grants it, it counts from the next sign-in, and each time is in the trail.
func (c *Cloud) permitted(t *testing.T, admin, deviceID, iccid string) {
	t.Helper()
	c = c.For(t)
	m := c.newStaff(admin, "sims@example.com", "admin")
	number := func(token string) string {
		var list struct{ SIMs []simView }
		c.Get("/admin/sims?device_id="+deviceID, token, &list)
		if len(list.SIMs) != 1 {
			t.Fatalf("the list has %+v", list.SIMs)
		}
		return list.SIMs[0].ICCID
	}
	if got := number(m.Token); got == iccid {
		t.Error("an administrator sees the number without a grant")
	}
	page, grant := "/admin/staff/"+m.ID, object{"scopes": []string{"admin:sim"}}
	if got := c.Do(http.MethodPatch, page, m.Token, grant, nil); got != http.StatusForbidden {
		t.Errorf("a grant to oneself gets %d", got)
	}
	if got := c.Do(http.MethodPatch, page, admin, grant, nil); got != http.StatusOK {
		t.Fatalf("the grant gets %d", got)
	}
	if got := c.Do(http.MethodGet, "/admin/sims", m.Token, nil, nil); got != http.StatusUnauthorized {
		t.Errorf("the token from before gets %d", got)
	}
	m = c.staffLogin(t, m.Email, staffPassword)
	c.scan.allow(m.Token)
	if got := number(m.Token); got != iccid {
		t.Errorf("who was permitted sees %s", got)
	}
	if got := number(admin); got == iccid {
		t.Error("who permitted sees the number")
	}
	r := c.exchange(t, request{"GET", "/admin/audit?event=sim_numbers_read&actor=admin:" + m.ID, admin, "", ""})
	if strings.Count(r.body, `"sim_numbers_read"`) != 1 || strings.Contains(r.body, iccid) {
		t.Errorf("the trail has %s", r.body)
	}
}

func (c *Cloud) purchaseStatus(t *testing.T, admin, id string) string {
	t.Helper()
	var answer struct{ Status string }
	c.For(t).Get("/admin/purchases/"+id, admin, &answer)
	return answer.Status
}

// What the webhook answers, over HTTP as the carrier would. [contracts E.3]
func TestCarrierWebhook(t *testing.T) {
	t.Parallel()
	c, s := carried(t, carrier.Options{})
	good := s.Notice("SomethingNew", "evt-1", carrier.Field{Name: "iccid", Value: newICCID()})
	other := s.Notice("SomethingNew", "evt-1", carrier.Field{Name: "iccid", Value: newICCID()})
	changed := strings.Replace(string(good), "SomethingNew", "SomethingOld", 1)
	for _, step := range []struct {
		name, path, body string
		status           int
		says             string
	}{
		{"no JSON", "/api/webhooks/eiotclub", "{", 400, "invalid_payload"},
		{"no signature", "/api/webhooks/eiotclub", `{"id":"x"}`, 401, "invalid_signature"},
		{"a byte that was changed", "/api/webhooks/eiotclub", changed, 401, "invalid_signature"},
		{"a signature cut short", "/api/webhooks/eiotclub", string(good[:len(good)-4]) + `"}`, 401, "invalid_signature"},
		{"good", "/api/webhooks/eiotclub", string(good), 200, "success"},
		{"again, under the other path", "/api/v1/webhooks/eiotclub", string(good), 200, "duplicate"},
		{"the id of another", "/api/webhooks/eiotclub", string(other), 409, "id_reuse"},
		{"too large", "/api/webhooks/eiotclub", `{"x":"` + strings.Repeat("a", 70<<10) + `"}`, 413, "body_too_large"},
	} {
		r := c.exchange(t, request{"POST", step.path, "", "text/plain", step.body})
		var answer struct {
			Code           any
			Error, Message string
		}
		if err := json.Unmarshal([]byte(r.body), &answer); err != nil {
			t.Fatal(err)
		}
		if r.status != step.status || answer.Error != step.says && answer.Message != step.says {
			t.Errorf("%s: %d %s", step.name, r.status, r.body)
		}
	}
	if !strings.Contains(c.Log(), "the signature begins with") {
		t.Error("the log does not tell of a signature that was refused")
	}
}
