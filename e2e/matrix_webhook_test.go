package e2e_test

import (
	"context"
	"net/http"
	"testing"
	"time"

	"github.com/opticworks/devicecloud/registry"
	"github.com/opticworks/devicecloud/webhook"
)

// webhookRules are the rows of webhooks.
var webhookRules = []rule{
	//                                                                              anonymous stranger viewer shared owner support admin service reader
	{route: "GET /admin/webhooks", want: "                                              401    role   role   role   role   role   ok     role   role"},
	{route: "POST /admin/webhooks", want: "                                             401    role   role   role   role   role   ok     role   role", body: `{"url":"https://hooks.example.com/$NEW","events":["plan.refunded"]}`},
	{route: "GET /admin/webhooks/{id}", want: "                                         401    role   role   role   role   role   ok     role   role"},
	{route: "PATCH /admin/webhooks/{id}", want: "                                       401    role   role   role   role   role   ok     role   role", body: `{"description":"ours"}`},
	{route: "DELETE /admin/webhooks/{id}", want: "                                      401    role   role   role   role   role   ok     role   role"},
	{route: "POST /admin/webhooks/{id}/rotate", want: "                                 401    role   role   role   role   role   ok     role   role"},
	{route: "POST /admin/webhooks/{id}/test", want: "                                   401    role   role   role   role   role   ok     role   role"},
	{route: "GET /admin/webhooks/{id}/deliveries", want: "                              401    role   role   role   role   role   ok     role   role"},
	{route: "POST /admin/webhooks/{id}/deliveries/{delivery_id}/replay", want: "        401    role   role   role   role   role   ok     role   role"},
}

// webhookOf is a webhook that is not called for now, so that nothing moves by itself: one
// for all who are refused, a new one for who is not.
func webhookOf(s *stage, t *testing.T, _, target string, want verdict) []string {
	if target == "absent" {
		return []string{nobody}
	}
	if !want.allowed() && s.hook != "" {
		return []string{s.hook}
	}
	var answer struct{ ID string }
	body := object{"url": "https://hooks.example.com/", "events": []string{"plan.refunded"}}
	if status := s.For(t).Do(http.MethodPost, "/admin/webhooks", s.staffToken(t, "admin"), body, &answer); status != http.StatusCreated {
		t.Fatalf("a webhook: %d", status)
	}
	s.hooks(t, answer.ID, func(ctx context.Context, tx webhook.Tx, no int64) error {
		return tx.SetNotBefore(ctx, no, time.Now().Add(24*time.Hour))
	})
	if !want.allowed() { // who is allowed may delete it
		s.hook = answer.ID
	}
	return []string{answer.ID}
}

// deliveryOf is a delivery that has ended.
func deliveryOf(s *stage, t *testing.T, actor, target string, want verdict) []string {
	id := webhookOf(s, t, actor, "present", want)[0]
	d := webhook.Delivery{EventID: 1 << 50}
	if target == "absent" {
		return []string{id, d.ID()}
	}
	d.EventID = time.Now().UnixNano()
	s.hooks(t, id, func(ctx context.Context, tx webhook.Tx, no int64) error {
		err := tx.InsertDelivery(ctx, no, registry.OutboxEvent{ID: d.EventID, Type: registry.EventPlanRefunded, At: time.Now()})
		if err != nil {
			return err
		}
		if d, err = tx.Delivery(ctx, no, d.EventID); err != nil {
			return err
		}
		d.Status, d.FinishedAt = webhook.Delivered, time.Now()
		_, err = tx.FinishDelivery(ctx, d)
		return err
	})
	return []string{id, d.ID()}
}

// hooks works on a webhook through the store.
func (th *theatre) hooks(t *testing.T, id string, f func(ctx context.Context, tx webhook.Tx, no int64) error) {
	t.Helper()
	ctx := t.Context()
	err := th.db.Webhooks().InTx(ctx, func(tx webhook.Tx) error {
		e, err := tx.Endpoint(ctx, id)
		if err != nil {
			return err
		}
		return f(ctx, tx, e.No)
	})
	if err != nil {
		t.Fatal(err)
	}
}
