package e2e_test

import (
	"net/http"
	"strings"
)

// plansAreSold lets the payment provider fail, and somebody who is not it report.
func (v *voyage) plansAreSold() {
	v.t.Helper()
	v.send("POST", "/admin/plans", v.admin, object{"plan_id": "canary", "name": "1 GB", "amount": 990, "currency": "usd", "carrier_package": "P1"})
	buyer := v.UserToken("canary-buyer@example.com")
	d := v.EnrollAs(v.admin)
	v.Post("/admin/devices/claim", v.admin, map[string]string{"device_id": d.ID, "user_id": buyer.ID}, nil)
	const sim = "8988000000000000025" // the database has it, the log must not
	status, text, _ := v.ask(v.t, http.MethodPost, "/admin/sims/import", v.admin, "iccid,device_id\n"+sim+","+d.ID+"\n", map[string]string{"Content-Type": "text/csv"})
	if status/100 != 2 {
		v.t.Fatalf("the SIM: %d %s", status, text)
	}
	status, text, _ = v.ask(v.t, http.MethodPost, "/api/checkout/data-plan", buyer.Token, `{"plan_id":"canary","device_id":"`+d.ID+`"}`, map[string]string{"Idempotency-Key": "k"})
	if status != http.StatusBadGateway || !strings.Contains(text, "payment_provider_error") {
		v.t.Errorf("without Stripe: %d %s", status, text)
	}
	v.send("GET", "/api/purchases", buyer.Token, nil)
	v.send("GET", "/admin/purchases", v.admin, nil)
	body := stripeEvent("evt_canary", "checkout.session.completed", strings.Repeat("0", 32), "")
	if status, text := v.stripeSays(v.t, body, signature(body, "whsec_mistaken")); status != http.StatusBadRequest {
		v.t.Errorf("a forged report: %d %s", status, text)
	}
	if strings.Contains(v.Log(), sim) {
		v.t.Error("the whole number of a SIM is in the log")
	}
}
