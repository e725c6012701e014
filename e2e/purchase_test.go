package e2e_test

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"net/url"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/stripe/stripe-go/v76/webhook"

	"github.com/opticworks/devicecloud/dataplan"
	"github.com/opticworks/devicecloud/registry"
	"github.com/opticworks/devicecloud/sqlstore"
)

const (
	stripeSecret = "whsec_e2e_4f1d2b9c8e7a6053f1d2b9c8"
	canaryICCID  = "8988100000000000447"
)

// startShop is a cloud that sells, with the stand-in for Stripe.
func startShop(t *testing.T, opts Options) *Cloud {
	t.Helper()
	if opts.Env == nil {
		opts.Env = map[string]string{}
	}
	opts.Env["DEV_STANDINS"], opts.Env["STRIPE_DATA_PLAN_WEBHOOK_SECRET"] = "true", stripeSecret
	c := Start(t, opts)
	c.Post("/admin/plans", c.AdminToken(), map[string]any{
		"plan_id": "once", "name": "1 GB", "amount": 990, "currency": "usd", "carrier_package": "P100", "days": 30, "capabilities": []string{"live_view"},
	}, nil)
	return c
}

// dataplans is the store of the cloud, from outside.
func (c *Cloud) dataplans(t *testing.T) dataplan.Store {
	t.Helper()
	db, err := sqlstore.Open(context.Background(), "sqlite:"+filepath.Join(c.DataDir(), "devicecloud.db"), sqlstore.Options{NoMigrate: true})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = db.Close() })
	return db.DataPlans()
}

// insertSIM puts a SIM into a device.
func (c *Cloud) insertSIM(t *testing.T, store dataplan.Store, d Device, iccid string) {
	t.Helper()
	ctx, now := context.Background(), time.Now()
	err := store.InTx(ctx, func(tx dataplan.Tx) error {
		device, err := tx.Device(ctx, d.ID)
		if err != nil {
			return err
		}
		sim := dataplan.SIM{ID: now.UnixNano(), ICCID: dataplan.ICCID(iccid), Status: dataplan.SIMInactive, StatusAt: now, CreatedAt: now, UpdatedAt: now}
		if _, err := tx.InsertSIM(ctx, sim); err != nil {
			return err
		}
		_, err = tx.AssignSIM(ctx, sim.ID, device.No, now)
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
}

// ask sends a request with headers of its own and returns status, body and Location.
func (c *Cloud) ask(t *testing.T, method, address, token, body string, header map[string]string) (int, string, string) {
	t.Helper()
	if strings.HasPrefix(address, "/") {
		address = c.API() + address
	}
	r, err := http.NewRequestWithContext(context.Background(), method, address, strings.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	if body != "" {
		r.Header.Set("Content-Type", "application/json")
	}
	if token != "" {
		r.Header.Set("Authorization", "Bearer "+token)
	}
	for name, value := range header {
		r.Header.Set(name, value)
	}
	client := &http.Client{Timeout: 20 * time.Second, CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }}
	answer, err := client.Do(r)
	if err != nil {
		return 0, err.Error(), ""
	}
	defer answer.Body.Close() //nolint:errcheck // it was read
	text, err := io.ReadAll(answer.Body)
	if err != nil {
		return 0, err.Error(), ""
	}
	return answer.StatusCode, string(text), answer.Header.Get("Location")
}

// bought is the answer to a checkout.
type bought struct {
	PurchaseID  string `json:"purchase_id"`
	CheckoutURL string `json:"checkout_url"`
}

func (c *Cloud) checkout(t *testing.T, token string, d Device, key string) (int, bought, string) {
	t.Helper()
	status, text, _ := c.ask(t, http.MethodPost, "/api/checkout/data-plan", token, fmt.Sprintf(`{"plan_id":"once","device_id":%q}`, d.ID), map[string]string{"Idempotency-Key": key})
	var b bought
	_ = json.Unmarshal([]byte(text), &b) // of a refusal nothing is there
	return status, b, text
}

// press presses a button of the payment page.
func (c *Cloud) press(t *testing.T, checkoutURL, button string) (location string) {
	t.Helper()
	status, text, location := c.ask(t, http.MethodPost, checkoutURL, "", url.Values{"do": {button}}.Encode(), map[string]string{"Content-Type": "application/x-www-form-urlencoded"})
	if status != http.StatusSeeOther && status != http.StatusOK {
		t.Fatalf("%s: %d %s", button, status, text)
	}
	return location
}

// awaitPurchase waits until an administrator sees a purchase in a status.
func (c *Cloud) awaitPurchase(t *testing.T, admin, id, want string) {
	t.Helper()
	var p struct{ Status string }
	Await(t, 20*time.Second, func() bool {
		c.Do(http.MethodGet, "/admin/purchases/"+id, admin, nil, &p)
		return p.Status == want
	}, func() string { return "the purchase is " + p.Status + ", want " + want })
}

// A person buys a plan for the SIM of a device, pays, and sees it; nobody else does.
func TestBuyingADataPlan(t *testing.T) {
	t.Parallel()
	c := startShop(t, Options{})
	admin, store := c.AdminToken(), c.dataplans(t)
	owner, viewer, stranger := c.UserToken("buyer@example.com"), c.UserToken("viewer@example.com"), c.UserToken("b@example.com")
	d, bare := c.EnrollAs(admin), c.EnrollAs(admin)
	for _, x := range []Device{d, bare} {
		c.Post("/admin/devices/claim", admin, map[string]string{"device_id": x.ID, "user_id": owner.ID}, nil)
	}
	c.insertSIM(t, store, d, canaryICCID)
	c.Post("/api/devices/"+d.ID+"/share", owner.Token, map[string]string{"user_email": viewer.Email, "role": "viewer"}, nil)
	var invitations struct {
		Invitations []struct {
			ID string `json:"invitation_id"`
		} `json:"invitations"`
	}
	c.Get("/api/invitations", viewer.Token, &invitations)
	for _, i := range invitations.Invitations {
		c.Post("/api/invitations/"+i.ID+"/accept", viewer.Token, nil, nil)
	}

	for name, r := range map[string]struct {
		token, body, key string
		status           int
		code             string
	}{
		"nobody":         {"", `{}`, "k", 401, "invalid_token"},
		"no key":         {owner.Token, fmt.Sprintf(`{"plan_id":"once","device_id":%q}`, d.ID), "", 400, "missing_fields"},
		"no plan":        {owner.Token, fmt.Sprintf(`{"device_id":%q}`, d.ID), "k", 400, "missing_fields"},
		"unknown plan":   {owner.Token, fmt.Sprintf(`{"plan_id":"none","device_id":%q}`, d.ID), "k", 404, "plan_not_found"},
		"unknown device": {owner.Token, `{"plan_id":"once","device_id":"` + strings.Repeat("0", 32) + `"}`, "k", 404, "device_not_found"},
		"no device id":   {owner.Token, `{"plan_id":"once","device_id":"x"}`, "k", 404, "device_not_found"},
		"a stranger":     {stranger.Token, fmt.Sprintf(`{"plan_id":"once","device_id":%q}`, d.ID), "k", 404, "device_not_found"},
		"a viewer":       {viewer.Token, fmt.Sprintf(`{"plan_id":"once","device_id":%q}`, d.ID), "k", 403, "insufficient_role"},
		"staff":          {admin, fmt.Sprintf(`{"plan_id":"once","device_id":%q}`, d.ID), "k", 403, "insufficient_role"},
		"no SIM":         {owner.Token, fmt.Sprintf(`{"plan_id":"once","device_id":%q}`, bare.ID), "k", 409, "no_sim"},
		"another SIM":    {owner.Token, fmt.Sprintf(`{"plan_id":"once","device_id":%q,"iccid":"8988100000000000999"}`, d.ID), "k", 409, "no_sim"},
	} {
		header := map[string]string{}
		if r.key != "" {
			header["Idempotency-Key"] = r.key
		}
		status, text, _ := c.ask(t, http.MethodPost, "/api/checkout/data-plan", r.token, r.body, header)
		if status != r.status || !strings.Contains(text, `"`+r.code+`"`) {
			t.Errorf("%s: %d %s, want %d %s", name, status, text, r.status, r.code)
		}
	}

	status, first, text := c.checkout(t, owner.Token, d, "key-1")
	if status != http.StatusCreated || first.CheckoutURL == "" {
		t.Fatalf("checkout: %d %s", status, text)
	}
	for _, key := range []string{"key-1", "key-2"} { // the same request, and another for the same SIM and plan
		if status, again, text := c.checkout(t, owner.Token, d, key); status != http.StatusOK || again != first {
			t.Errorf("%s again: %d %s", key, status, text)
		}
	}
	_, page, _ := c.ask(t, http.MethodGet, first.CheckoutURL, "", "", nil)
	if !strings.Contains(page, "This is a stand-in for Stripe") || !strings.Contains(page, "9.90") {
		t.Errorf("the payment page is %s", page)
	}
	session := first.CheckoutURL[strings.LastIndex(first.CheckoutURL, "/")+1:]
	if status, text, _ := c.ask(t, http.MethodGet, "/api/checkout/sessions/"+session, "", "", nil); status != 200 || text != `{"status":"processing"}` {
		t.Errorf("a guest before: %d %s", status, text)
	}
	c.press(t, first.CheckoutURL, "decline")
	c.awaitPurchase(t, admin, first.PurchaseID, "FAILED")
	back := c.press(t, first.CheckoutURL, "pay")
	if !strings.HasSuffix(back, "/checkout/success?session_id="+session) {
		t.Errorf("the buyer is sent to %s", back)
	}
	if status, text, _ := c.ask(t, http.MethodGet, back[strings.Index(back, "/checkout/"):], "", "", nil); status != 200 || strings.Contains(text, session) {
		t.Errorf("the success page: %d %s", status, text)
	}
	// Paid, ordered at the carrier's stand-in, and begun: the device is entitled now.
	c.awaitPurchase(t, admin, first.PurchaseID, "ACTIVE")

	// A guest learns the status alone; the buyer sees the purchase; A's is nothing to B.
	for _, path := range []string{"/api/checkout/sessions/", "/api/v1/checkout/sessions/"} {
		if status, text, _ := c.ask(t, http.MethodGet, path+session, "", "", nil); status != 200 || text != `{"status":"paid"}` {
			t.Errorf("a guest: %d %s", status, text)
		}
		if status, text, _ := c.ask(t, http.MethodGet, path+session, owner.Token, "", nil); status != 200 || !strings.Contains(text, first.PurchaseID) || !strings.Contains(text, "8988…0447") {
			t.Errorf("the buyer: %d %s", status, text)
		}
		for name, token := range map[string]string{"B": stranger.Token, "who shares the device": viewer.Token, "staff": admin} {
			if status, text, _ := c.ask(t, http.MethodGet, path+session, token, "", nil); status != 404 || !strings.Contains(text, "session_not_found") {
				t.Errorf("%s: %d %s", name, status, text)
			}
		}
		if status, _, _ := c.ask(t, http.MethodGet, path+session, "nonsense", "", nil); status != 401 {
			t.Errorf("a token that is none: %d", status)
		}
		if status, _, _ := c.ask(t, http.MethodGet, path+"cs_none", "", "", nil); status != 404 {
			t.Errorf("an unknown session: %d", status)
		}
	}
	for token, want := range map[string]int{owner.Token: 1, stranger.Token: 0, viewer.Token: 0} {
		var list struct {
			Purchases []map[string]any `json:"purchases"`
		}
		c.Get("/api/purchases", token, &list)
		if len(list.Purchases) != want {
			t.Errorf("%d purchases, want %d: %v", len(list.Purchases), want, list.Purchases)
		}
	}

	// Staff give the money back; Stripe's report of it ends the purchase.
	refund := func(token, key, body string) int {
		status, _, _ := c.ask(t, http.MethodPost, "/admin/purchases/"+first.PurchaseID+"/refund", token, body, map[string]string{"Idempotency-Key": key})
		return status
	}
	if got := []int{refund(owner.Token, "r", ""), refund(admin, "", ""), refund(admin, "r1", `{"amount":100}`), refund(admin, "r1", `{"amount":100}`)}; fmt.Sprint(got) != "[403 400 202 202]" {
		t.Errorf("refunds: %v", got)
	}
	c.awaitPurchase(t, admin, first.PurchaseID, "PARTIALLY_REFUNDED")
	if got := refund(admin, "r2", ""); got != 202 {
		t.Errorf("the rest: %d", got)
	}
	c.awaitPurchase(t, admin, first.PurchaseID, "REFUNDED")
	if got := refund(admin, "r3", ""); got != 409 {
		t.Errorf("nothing is left: %d", got)
	}
	if log := c.Log(); strings.Contains(log, canaryICCID) || strings.Contains(log, "sk_test_") || strings.Contains(log, stripeSecret) {
		t.Error("a secret or a whole SIM number is in the log")
	}
}

// stripeEvent is what Stripe would send of a purchase.
func stripeEvent(id, name, purchase string, more string) string {
	return fmt.Sprintf(`{"id":%q,"object":"event","type":%q,"api_version":"2023-10-16","created":%d,"livemode":false,"data":{"object":{"id":"cs_%s","object":"checkout.session",
		"payment_status":"paid","amount_total":990,"currency":"usd","payment_intent":"pi_%s","metadata":{"type":"data_plan","purchase_id":%q}%s}}}`,
		id, name, time.Now().Unix(), purchase[24:], purchase[24:], purchase, more)
}

func signature(body, secret string) string {
	return webhook.GenerateTestSignedPayload(&webhook.UnsignedPayload{Payload: []byte(body), Secret: secret}).Header
}

func (c *Cloud) stripeSays(t *testing.T, body, header string) (int, string) {
	t.Helper()
	status, text, _ := c.ask(t, http.MethodPost, "/api/webhooks/data-plan", "", body, map[string]string{"Stripe-Signature": header, "Content-Type": "application/json; charset=utf-8"})
	return status, text
}

// pendingPurchase is a purchase that waits for its payment.
func pendingPurchase(t *testing.T, store dataplan.Store, n int) string {
	t.Helper()
	id, now := fmt.Sprintf("%032x", n), time.Now()
	plan := dataplan.Plan{ID: "once", Name: "1 GB", Mode: dataplan.ModePayment, Amount: 990, Currency: "usd", CarrierPackage: "P100"}
	err := store.InTx(context.Background(), func(tx dataplan.Tx) error {
		_, err := tx.InsertPurchase(context.Background(), dataplan.Purchase{
			ID: id, UserID: "u", DeviceID: strings.Repeat("0", 32), ICCID: dataplan.ICCID(fmt.Sprintf("8900000000%09d", n)), Plan: plan, Stage: dataplan.Pending,
			Status: dataplan.Pending, Key: id, ExpiresAt: now.Add(time.Hour), OutTradeNo: id, CreatedAt: now, UpdatedAt: now,
		})
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return id
}

func TestReportsOfStripe(t *testing.T) {
	t.Parallel()
	c := startShop(t, Options{})
	store := c.dataplans(t)
	id := pendingPurchase(t, store, 1)
	good := stripeEvent("evt_1", "checkout.session.completed", id, "")
	for name, forged := range map[string][2]string{
		"no signature":           {good, ""},
		"another secret":         {good, signature(good, "whsec_another")},
		"an empty secret":        {good, signature(good, "")},
		"a byte changed":         {strings.Replace(good, "990", "991", 1), signature(good, stripeSecret)},
		"the old scheme alone":   {good, strings.Replace(signature(good, stripeSecret), "v1=", "v0=", 1)},
		"ten minutes from now":   {good, webhook.GenerateTestSignedPayload(&webhook.UnsignedPayload{Payload: []byte(good), Secret: stripeSecret, Timestamp: time.Now().Add(10 * time.Minute)}).Header},
		"ten minutes ago":        {good, webhook.GenerateTestSignedPayload(&webhook.UnsignedPayload{Payload: []byte(good), Secret: stripeSecret, Timestamp: time.Now().Add(-10 * time.Minute)}).Header},
		"a time that is no time": {good, "t=x,v1=00"},
	} {
		if status, text := c.stripeSays(t, forged[0], forged[1]); status != 400 || !strings.Contains(text, "invalid_signature") {
			t.Errorf("%s: %d %s", name, status, text)
		}
	}
	if status, text := c.stripeSays(t, good+strings.Repeat(" ", 257<<10), signature(good, stripeSecret)); status != 413 {
		t.Errorf("a huge body: %d %s", status, text)
	}
	for _, want := range []string{`{"received":true}`, `{"received":true,"duplicate":true}`} {
		if status, text := c.stripeSays(t, good, signature(good, stripeSecret)); status != 200 || text != want {
			t.Errorf("%d %s, want %s", status, text, want)
		}
	}
	shop := strings.Replace(stripeEvent("evt_2", "checkout.session.completed", id, ""), "data_plan", "order", 1)
	if status, text := c.stripeSays(t, shop, signature(shop, stripeSecret)); status != 200 || text != `{"received":true,"ignored":true}` {
		t.Errorf("the shop's: %d %s", status, text)
	}
	live := strings.Replace(stripeEvent("evt_3", "checkout.session.completed", id, ""), `"livemode":false`, `"livemode":true`, 1)
	if status, text := c.stripeSays(t, live, signature(live, stripeSecret)); status != 200 || text != `{"received":true,"ignored":true}` {
		t.Errorf("of the other mode: %d %s", status, text)
	}
	c.awaitPurchase(t, c.AdminToken(), id, "PENDING_ASSIGNMENT") // paid; the device has no SIM

	t.Run("signed by Stripe's own library in JavaScript", func(t *testing.T) {
		skipWithout(t, "stripe for node", haveProgram("node") && exec.Command("node", "-e", "require('./node_modules/stripe')").Run() == nil)
		second := pendingPurchase(t, store, 2)
		body := stripeEvent("evt_4", "checkout.session.completed", second, "")
		sign := func(secret string) string {
			line, err := json.Marshal(map[string]any{"payload": body, "secret": secret})
			if err != nil {
				t.Fatal(err)
			}
			cmd := exec.CommandContext(t.Context(), "node", "testdata/stripe_sign.js")
			cmd.Stdin = bytes.NewReader(append(line, '\n'))
			out, err := cmd.Output()
			if err != nil {
				t.Fatal(err)
			}
			return strings.TrimSpace(string(out))
		}
		if status, text := c.stripeSays(t, body, sign("whsec_another")); status != 400 {
			t.Errorf("another secret: %d %s", status, text)
		}
		if status, text := c.stripeSays(t, body, sign(stripeSecret)); status != 200 || text != `{"received":true}` {
			t.Errorf("%d %s", status, text)
		}
		c.awaitPurchase(t, c.AdminToken(), second, "PENDING_ASSIGNMENT") // paid; the device has no SIM
	})
}

// Without a secret, or with something else in its place, a report is refused so that it
// comes again, whatever it is signed with.
func TestReportsWithoutASecret(t *testing.T) {
	t.Parallel()
	for _, secret := range []string{"", " ", "sk_test_1234567890abcdef"} {
		c := Start(t, Options{Env: map[string]string{"STRIPE_DATA_PLAN_WEBHOOK_SECRET": secret}})
		body := stripeEvent("evt_1", "checkout.session.completed", strings.Repeat("0", 32), "")
		for _, with := range []string{"", secret} {
			if status, text := c.stripeSays(t, body, signature(body, with)); status != 500 || !strings.Contains(text, "webhook_not_configured") {
				t.Errorf("secret %q, signed with %q: %d %s", secret, with, status, text)
			}
		}
		user := c.UserToken("u@example.com")
		status, _, text := c.checkout(t, user.Token, NewDevice(), "k")
		if status != http.StatusNotImplemented || !strings.Contains(text, "feature_disabled") {
			t.Errorf("checkout: %d %s", status, text)
		}
	}
}

// The process dies at any moment while a report is taken; sent again, it has its effect
// once. Deaths at a certain place of the transaction are in dataplan/kill_test.go.
func TestReportsSurviveKill(t *testing.T) {
	t.Parallel()
	c := startShop(t, Options{Process: true})
	for n := 1; n <= 2; n++ {
		id := pendingPurchase(t, c.dataplans(t), n)
		body := stripeEvent(fmt.Sprintf("evt_%d", n), "checkout.session.completed", id, "")
		sent := make(chan struct{})
		go func() {
			defer close(sent)
			_, _ = c.stripeSays(t, body, signature(body, stripeSecret))
		}()
		time.Sleep(time.Duration(rand.IntN(6)) * time.Millisecond) // anywhere in its life
		c.Kill()
		<-sent
		c.Restart()
		for range 2 {
			if status, text := c.stripeSays(t, body, signature(body, stripeSecret)); status != 200 {
				t.Errorf("again: %d %s", status, text)
			}
		}
		c.awaitPurchase(t, c.AdminToken(), id, "PENDING_ASSIGNMENT") // paid; the device has no SIM
		transitions := 0
		err := c.dataplans(t).View(context.Background(), func(tx dataplan.Tx) error {
			rows, err := tx.Audit(context.Background(), registry.AuditFilter{Event: "purchase_transition", Limit: 100})
			for _, row := range rows {
				if row.Data["purchase_id"] == id && row.Data["to"] == "PAID" {
					transitions++
				}
			}
			return err
		})
		if err != nil || transitions != 1 {
			t.Errorf("round %d: %d transitions, %v", n, transitions, err)
		}
	}
}
