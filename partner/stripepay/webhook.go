package stripepay

import (
	"strconv"
	"strings"
	"time"

	"github.com/stripe/stripe-go/v76/webhook"

	"github.com/opticworks/devicecloud/dataplan"
	"github.com/opticworks/devicecloud/registry"
)

const (
	// tolerance is how far the time of a signature may be from ours, either way.
	tolerance = 300 * time.Second
	// secretPrefix begins every secret of an endpoint.
	secretPrefix = "whsec_"
)

// Webhook checks reports with the secret of the endpoint.
type Webhook struct{ secret string }

var _ dataplan.Verifier = Webhook{}

// NewWebhook refuses, with ok false, what cannot be the secret of an endpoint: Stripe's
// library takes an empty one, and with it every forged report. [contracts D.1]
func NewWebhook(secret string) (w Webhook, ok bool) {
	secret = strings.TrimSpace(secret)
	if !strings.HasPrefix(secret, secretPrefix) || len(secret) == len(secretPrefix) {
		return Webhook{}, false
	}
	return Webhook{secret}, true
}

// Verify implements dataplan.Verifier.
func (w Webhook) Verify(body []byte, signature string, now time.Time) (dataplan.Event, error) {
	if w.secret == "" {
		return dataplan.Event{}, dataplan.ErrWebhookNotConfigured
	}
	// A mismatch of API versions is no error: what is read is the same in all of them.
	e, err := webhook.ConstructEventWithOptions(body, signature, w.secret, webhook.ConstructEventOptions{Tolerance: tolerance, IgnoreAPIVersionMismatch: true})
	if err != nil {
		if webhook.ValidatePayload(body, signature, w.secret) == nil {
			return dataplan.Event{}, registry.E(registry.Invalid, registry.ErrInvalidRequest.Code, "The body is not an event.").With(err)
		}
		return dataplan.Event{}, dataplan.ErrInvalidSignature.With(err)
	}
	if signedAt(signature).Sub(now) > tolerance { // the library only checks the age
		return dataplan.Event{}, dataplan.ErrInvalidSignature
	}
	if e.ID == "" || e.Type == "" || e.Data == nil || len(e.ID) > 255 || len(e.Type) > 255 {
		return dataplan.Event{}, registry.E(registry.Invalid, registry.ErrInvalidRequest.Code, "The body is not an event.")
	}
	out := dataplan.Event{ID: e.ID, Name: string(e.Type), APIVersion: e.APIVersion, Livemode: e.Livemode}
	if e.Created > 0 {
		out.Created = time.Unix(e.Created, 0).UTC()
	}
	out.Report = decode(string(e.Type), e.Data.Raw)
	return out, nil
}

// signedAt is the time in the header of a signature that was found good.
func signedAt(header string) time.Time {
	var at time.Time
	for part := range strings.SplitSeq(header, ",") {
		if text, ok := strings.CutPrefix(part, "t="); ok { // the last one counts, as in the library
			// As the library reads it: another reading would be another time.
			if seconds, err := strconv.ParseInt(text, 10, 64); err == nil {
				at = time.Unix(seconds, 0)
			}
		}
	}
	return at
}
