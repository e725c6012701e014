package e2e_test

import (
	"context"
	"fmt"
	"net/http"
	"testing"
	"time"

	"github.com/opticworks/devicecloud/dataplan"
	"github.com/opticworks/devicecloud/standin/carrier"
)

// invoicePaid is what Stripe would send of a paid period of a subscription.
func invoicePaid(purchase string, n int, starts time.Time) string {
	return fmt.Sprintf(`{"id":"evt_in_%[1]d_%[5]d","object":"event","type":"invoice.paid","api_version":"2023-10-16","created":%[2]d,"livemode":false,"data":{"object":{
		"id":"in_%[1]d","object":"invoice","amount_paid":490,"currency":"eur","payment_intent":"pi_%[1]d","subscription":"sub_%[3]s",
		"lines":{"data":[{"period":{"start":%[2]d,"end":%[4]d}}]}}}}`, n, starts.Unix(), purchase[24:], starts.AddDate(0, 1, 0).Unix(), time.Now().UnixNano())
}

// A subscription is renewed: what is paid is ordered, each period once, whatever order
// Stripe reports it in. What the carrier refuses is heard by administrators, who let it
// be ordered again.
func TestRenewalJourney(t *testing.T) {
	t.Parallel()
	c, s := carried(t, carrier.Options{Begins: true})
	admin, store := c.AdminToken(), c.dataplans(t)
	d := c.Enroll()
	c.insertSIM(t, store, d, newICCID())
	const id = "00000000000000000000000000000e2e"
	now := time.Now()
	err := store.InTx(context.Background(), func(tx dataplan.Tx) error {
		_, err := tx.InsertPurchase(context.Background(), dataplan.Purchase{
			ID: id, UserID: "u", DeviceID: d.ID, Stage: dataplan.Pending, Status: dataplan.Pending, Key: id, ExpiresAt: now.Add(time.Hour), OutTradeNo: id,
			CreatedAt: now, UpdatedAt: now, Plan: dataplan.Plan{
				ID: "m", Name: "Monthly", Mode: dataplan.ModeSubscription, Amount: 490, Currency: "eur", Interval: "month", CarrierPackage: "PM",
			},
		})
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	say := func(body string) {
		t.Helper()
		if status, text := c.stripeSays(t, body, signature(body, stripeSecret)); status != http.StatusOK {
			t.Fatalf("%d %s", status, text)
		}
	}
	first, second := now.AddDate(0, -1, 0), now.Add(-time.Minute)
	say(invoicePaid(id, 2, second))
	say(invoicePaid(id, 1, first))
	say(fmt.Sprintf(`{"id":"evt_c","object":"event","type":"checkout.session.completed","api_version":"2023-10-16","created":%d,"livemode":false,"data":{"object":{
		"id":"cs_1","object":"checkout.session","payment_status":"paid","amount_total":490,"currency":"eur","subscription":"sub_%s",
		"metadata":{"type":"data_plan","purchase_id":%q}}}}`, now.Unix(), id[24:], id))
	say(invoicePaid(id, 2, second))
	Await(t, 40*time.Second, func() bool { return len(s.Orders()) == 2 }, func() string { return fmt.Sprintf("the carrier has %+v", s.Orders()) })
	c.awaitPurchase(t, admin, id, "ACTIVE")
	if o := s.Orders(); o[0].OutTradeNo != id || o[1].OutTradeNo == id || len(o[1].OutTradeNo) > 32 {
		t.Errorf("the orders are %+v", o)
	}
	if status := c.Do(http.MethodPost, "/admin/purchases/"+id+"/retry", admin, nil, nil); status != http.StatusConflict {
		t.Errorf("a retry of what was not refused: %d", status)
	}

	stream := c.stream(t, admin, "", "")
	s.Fail(carrier.Refuse)
	say(invoicePaid(id, 3, now))
	c.awaitPurchase(t, admin, id, "FAILED")
	for e := stream.next(); ; e = stream.next() {
		if e.Kind == "purchase.failed" {
			if e.Data["purchase_id"] != id {
				t.Errorf("heard %v", e.Data)
			}
			break
		}
	}
	c.Post("/admin/purchases/"+id+"/retry", admin, nil, nil)
	c.awaitPurchase(t, admin, id, "ACTIVE") // it waits for the carrier, three minutes after the refusal
	if n := len(s.Orders()); n != 2 {
		t.Errorf("%d orders", n)
	}
}
