package httpapi

import (
	"encoding/json"
	"net/http"
	"time"

	"github.com/opticworks/devicecloud/webhook"
)

// webhookBody is an endpoint without its secret.
type webhookBody struct {
	ID             string     `json:"id"`
	URL            string     `json:"url"`
	Description    string     `json:"description"`
	Events         []string   `json:"events"`
	Enabled        bool       `json:"enabled"`
	DisabledReason *string    `json:"disabled_reason"` // by_request, gone, failing
	DisabledAt     *time.Time `json:"disabled_at"`
	FailingSince   *time.Time `json:"failing_since"`
	OldSecretUntil *time.Time `json:"old_secret_until"`
	CreatedBy      string     `json:"created_by"` // as in the audit trail
	CreatedAt      time.Time  `json:"created_at"`
	UpdatedAt      time.Time  `json:"updated_at"`
}

// newSecretBody is an endpoint with its secret, which is shown once.
type newSecretBody struct {
	webhookBody
	Secret string `json:"secret"`
}

func newWebhookBody(e webhook.Endpoint) webhookBody {
	return webhookBody{
		e.ID, e.URL, e.Description, e.Events, e.Enabled(), text(string(e.DisabledReason)), stamp(e.DisabledAt),
		stamp(e.FailingSince), stamp(e.OldSecretUntil), e.CreatedBy, e.CreatedAt.UTC(), e.UpdatedAt.UTC(),
	}
}

// deliveryBody is a delivery with what is sent.
type deliveryBody struct {
	ID            string          `json:"id"` // the header webhook-id
	Type          string          `json:"type"`
	DeviceID      *string         `json:"device_id"`
	Status        string          `json:"status"`
	Attempts      int             `json:"attempts"`
	Answer        *int            `json:"answer"` // HTTP status of the last attempt
	Error         *string         `json:"error"`  // why the last attempt failed
	CreatedAt     time.Time       `json:"created_at"`
	TriedAt       *time.Time      `json:"tried_at"`
	NextAttemptAt *time.Time      `json:"next_attempt_at"`
	FinishedAt    *time.Time      `json:"finished_at"`
	Payload       json.RawMessage `json:"payload"`
}

func newDeliveryBody(d webhook.Delivery) deliveryBody {
	b := deliveryBody{
		ID: d.ID(), Type: d.Type, DeviceID: text(d.DeviceID), Status: string(d.Status), Attempts: d.Attempt, Error: text(d.Error),
		CreatedAt: d.CreatedAt.UTC(), TriedAt: stamp(d.TriedAt), FinishedAt: stamp(d.FinishedAt), Payload: json.RawMessage(d.Body),
	}
	if d.Answer != 0 {
		b.Answer = &d.Answer
	}
	if d.Status == webhook.Waiting {
		b.NextAttemptAt = stamp(d.DueAt)
	}
	return b
}

// webhookChange is what people set; absent stays as it is.
type webhookChange struct {
	URL         *string  `json:"url"`
	Description *string  `json:"description"`
	Events      []string `json:"events"`
	Enabled     *bool    `json:"enabled"`
}

func (a *api) listWebhooks(r *request) (answer, error) {
	q, err := r.params()
	if err != nil {
		return answer{}, err
	}
	after, limit, err := q.textPage(pageWebhooks)
	if err != nil {
		return answer{}, err
	}
	rows, err := a.Webhooks.List(r.Context(), r.actor, after, limit+1)
	if err != nil {
		return answer{}, err
	}
	rows, cursor := nextText(pageWebhooks, rows, limit, func(e webhook.Endpoint) string { return e.ID })
	return ok(struct {
		Webhooks   []webhookBody `json:"webhooks"`
		NextCursor string        `json:"next_cursor"`
	}{render(rows, newWebhookBody), cursor})
}

func (a *api) createWebhook(r *request) (answer, error) {
	var in webhookChange
	if err := r.decode(&in, maxJSON); err != nil {
		return answer{}, err
	}
	e, secret, err := a.Webhooks.Create(r.Context(), r.actor, webhook.Change(in))
	if err != nil {
		return answer{}, err
	}
	return answer{http.StatusCreated, newSecretBody{newWebhookBody(e), secret.Reveal()}}, nil
}

func (a *api) getWebhook(r *request) (answer, error) {
	id, err := r.id("id", webhook.ErrNotFound)
	if err != nil {
		return answer{}, err
	}
	e, err := a.Webhooks.Endpoint(r.Context(), r.actor, id)
	if err != nil {
		return answer{}, err
	}
	return ok(newWebhookBody(e))
}

func (a *api) changeWebhook(r *request) (answer, error) {
	id, err := r.id("id", webhook.ErrNotFound)
	if err != nil {
		return answer{}, err
	}
	var in webhookChange
	if err := r.decode(&in, maxJSON); err != nil {
		return answer{}, err
	}
	e, err := a.Webhooks.Update(r.Context(), r.actor, id, webhook.Change(in))
	if err != nil {
		return answer{}, err
	}
	return ok(newWebhookBody(e))
}

func (a *api) deleteWebhook(r *request) (answer, error) {
	id, err := r.id("id", webhook.ErrNotFound)
	if err != nil {
		return answer{}, err
	}
	if err := a.Webhooks.Delete(r.Context(), r.actor, id); err != nil {
		return answer{}, err
	}
	return ok(struct {
		Deleted bool   `json:"deleted"`
		ID      string `json:"id"`
	}{true, id})
}

// rotateWebhook replaces the secret, which is shown once.
func (a *api) rotateWebhook(r *request) (answer, error) {
	id, err := r.id("id", webhook.ErrNotFound)
	if err != nil {
		return answer{}, err
	}
	e, secret, err := a.Webhooks.Rotate(r.Context(), r.actor, id)
	if err != nil {
		return answer{}, err
	}
	return ok(newSecretBody{newWebhookBody(e), secret.Reveal()})
}

func (a *api) testWebhook(r *request) (answer, error) {
	id, err := r.id("id", webhook.ErrNotFound)
	if err != nil {
		return answer{}, err
	}
	d, err := a.Webhooks.Test(r.Context(), r.actor, id)
	if err != nil {
		return answer{}, err
	}
	return answer{http.StatusAccepted, newDeliveryBody(d)}, nil
}

func (a *api) listDeliveries(r *request) (answer, error) {
	id, err := r.id("id", webhook.ErrNotFound)
	if err != nil {
		return answer{}, err
	}
	q, err := r.params()
	if err != nil {
		return answer{}, err
	}
	status, err := q.text("status")
	if err != nil {
		return answer{}, err
	}
	before, limit, err := q.page(pageDeliveries)
	if err != nil {
		return answer{}, err
	}
	rows, err := a.Webhooks.Deliveries(r.Context(), r.actor, id, webhook.Status(status), before, limit+1)
	if err != nil {
		return answer{}, err
	}
	rows, cursor := next(pageDeliveries, rows, limit, func(d webhook.Delivery) int64 { return d.EventID })
	return ok(struct {
		Deliveries []deliveryBody `json:"deliveries"`
		NextCursor string         `json:"next_cursor"`
	}{render(rows, newDeliveryBody), cursor})
}

func (a *api) replayDelivery(r *request) (answer, error) {
	id, err := r.id("id", webhook.ErrNotFound)
	if err != nil {
		return answer{}, err
	}
	delivery, err := r.id("delivery_id", webhook.ErrDeliveryNotFound)
	if err != nil {
		return answer{}, err
	}
	d, err := a.Webhooks.Replay(r.Context(), r.actor, id, delivery)
	if err != nil {
		return answer{}, err
	}
	return answer{http.StatusAccepted, newDeliveryBody(d)}, nil
}
