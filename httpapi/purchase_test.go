package httpapi_test

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/stripe/stripe-go/v76/webhook"

	"github.com/opticworks/devicecloud/dataplan"
	"github.com/opticworks/devicecloud/httpapi"
	"github.com/opticworks/devicecloud/partner/stripepay"
	"github.com/opticworks/devicecloud/standin/stripe"
)

const webhookSecret = "whsec_canary_4f1d2b9c8e7a6053"

// newShop is a world that sells through the stand-in for Stripe, whose reports the test
// sends itself.
func newShop(t *testing.T) (*world, string) {
	t.Helper()
	server, err := stripe.Start(stripe.Options{Secret: webhookSecret})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = server.Close() })
	w, id := newHouse(t)
	verifier, _ := stripepay.NewWebhook(webhookSecret)
	w.plans = dataplan.New(w.db.DataPlans(), w.reg, dataplan.Options{
		Provider: stripepay.New(stripepay.Options{Key: server.Key(), BaseURL: server.URL()}), Verifier: verifier, Pages: "https://cloud.example.com",
	})
	w.Handler = httpapi.New(httpapi.Deps{Registry: w.reg, Accounts: w.accounts, DataPlans: w.plans}, httpapi.Options{Now: w.clock.Now})
	w.do(t, call{method: "POST", path: "/admin/plans", as: "admin", body: `{"plan_id":"once","name":"1 GB","amount":990,"currency":"usd","carrier_package":"P1"}`}).want(t, 201, "")
	return w, id
}

func (w *world) stripeSays(t *testing.T, body string, at time.Time) reply {
	t.Helper()
	header := webhook.GenerateTestSignedPayload(&webhook.UnsignedPayload{Payload: []byte(body), Secret: webhookSecret, Timestamp: at}).Header
	return w.do(t, call{method: "POST", path: "/api/webhooks/data-plan", body: body, header: map[string]string{"Content-Type": "application/json; charset=utf-8", "Stripe-Signature": header}})
}

func TestPurchase(t *testing.T) {
	w, id := newShop(t)
	buy := func(as, key string) reply {
		return w.do(t, call{method: "POST", path: "/api/checkout/data-plan", as: as, body: fmt.Sprintf(`{"plan_id":"once","device_id":%q}`, id), header: map[string]string{"Content-Type": "application/json", "Idempotency-Key": key}})
	}
	for as, want := range map[string]string{"stranger": "device_not_found", "viewer": "insufficient_role", "support": "insufficient_role", "admin": "insufficient_role", "": "invalid_token"} {
		if got := buy(as, "k"); got.body["error"] != want {
			t.Errorf("%s gets %s", as, got.raw)
		}
	}
	first := buy("shared", "k1")
	first.want(t, 201, "")
	purchase := first.body["purchase_id"].(string)
	again := buy("shared", "k2")
	again.want(t, 200, "")
	if again.body["checkout_url"] != first.body["checkout_url"] || again.body["purchase_id"] != purchase {
		t.Errorf("again: %s", again.raw)
	}
	buy("owner", "k3").want(t, 409, "purchase_in_progress")
	session := first.body["checkout_url"].(string)
	session = session[strings.LastIndex(session, "/")+1:]
	paid := fmt.Sprintf(`{"id":"evt_1","type":"checkout.session.completed","livemode":false,"data":{"object":{"id":%q,"payment_status":"paid","amount_total":1,
		"currency":"usd","payment_intent":"pi_1","metadata":{"type":"data_plan","purchase_id":%q}}}}`, session, purchase)
	w.stripeSays(t, paid, time.Now().Add(time.Hour)).want(t, 400, "invalid_signature")
	w.stripeSays(t, `{"id":"evt_0"}`, time.Now()).want(t, 400, "invalid_request")
	w.stripeSays(t, paid+strings.Repeat(" ", 256<<10), time.Now()).want(t, 413, "body_too_large")
	w.stripeSays(t, paid, time.Now()).want(t, 200, "")
	if got := w.stripeSays(t, paid, time.Now()); got.body["duplicate"] != true {
		t.Errorf("again: %s", got.raw)
	}
	admin := func(method, path, key, body string) reply {
		header := map[string]string{"Content-Type": "application/json"}
		if key != "" {
			header["Idempotency-Key"] = key
		}
		return w.do(t, call{method: method, path: "/admin/purchases" + path, as: "admin", body: body, header: header})
	}
	if got := admin("GET", "/"+purchase, "", ""); got.body["status"] != "HOLD" || got.body["hold_reason"] != "amount_mismatch" || strings.Contains(got.raw, "8900000000000000017") {
		t.Errorf("held: %s", got.raw)
	}
	if got := admin("GET", "?status=HOLD", "", ""); len(got.body["purchases"].([]any)) != 1 {
		t.Errorf("the list: %s", got.raw)
	}
	admin("GET", "/"+strings.Repeat("0", 32), "", "").want(t, 404, "purchase_not_found")
	admin("POST", "/"+purchase+"/resume", "", "").want(t, 200, "")
	admin("POST", "/"+purchase+"/resume", "", "").want(t, 409, "not_on_hold")
	admin("POST", "/"+purchase+"/retry", "", "").want(t, 409, "not_retriable") // the carrier has refused nothing
	admin("POST", "/"+purchase+"/refund", "", "{}").want(t, 400, "missing_fields")
	admin("POST", "/"+purchase+"/refund", "r", `{"amount":0}`).want(t, 400, "invalid_request")
	admin("POST", "/"+purchase+"/refund", "r", `{}`).want(t, 502, "payment_provider_error") // the stand-in knows no pi_1
	for as, want := range map[string]int{"shared": 1, "owner": 0, "stranger": 0, "admin": 0} {
		if got := w.do(t, call{method: "GET", path: "/api/purchases", as: as}); len(got.body["purchases"].([]any)) != want {
			t.Errorf("%s sees %s", as, got.raw)
		}
	}
	if got := w.do(t, call{method: "GET", path: "/api/checkout/sessions/" + session}); got.raw != `{"status":"paid"}` {
		t.Errorf("a guest gets %s", got.raw)
	}
	w.do(t, call{method: "GET", path: "/api/checkout/sessions/" + session, as: "owner"}).want(t, 404, "session_not_found")
	w.do(t, call{method: "PATCH", path: "/admin/plans/once", as: "admin", body: `{"amount":1090}`}).want(t, 200, "")
	w.do(t, call{method: "DELETE", path: "/admin/plans/once", as: "admin"}).want(t, 200, "")
	buy("owner", "k4").want(t, 404, "plan_not_found")
}
