package stripe

import (
	"bytes"
	"crypto/subtle"
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"net/http"
	"net/url"
	"regexp"
	"strconv"
	"strings"
	"time"
)

// fullSIM is the number of a SIM, which never belongs at Stripe.
var fullSIM = regexp.MustCompile(`\b\d{18,22}\b`)

// apiError is an error as Stripe answers it.
type apiError struct {
	status              int
	kind, code, message string
}

func (e *apiError) body() []byte {
	b, _ := json.Marshal(map[string]any{"error": map[string]any{"type": e.kind, "code": e.code, "message": e.message}})
	return b
}

func invalid(format string, args ...any) *apiError {
	return &apiError{http.StatusBadRequest, "invalid_request_error", "parameter_invalid", fmt.Sprintf(format, args...)}
}

var missing = &apiError{http.StatusNotFound, "invalid_request_error", "resource_missing", "No such object."}

func (s *Server) api(mux *http.ServeMux) {
	mux.HandleFunc("POST /v1/checkout/sessions", s.post(s.createSession))
	mux.HandleFunc("POST /v1/refunds", s.post(s.refund))
	mux.HandleFunc("GET /v1/checkout/sessions/{id}", s.get(func(id string) any {
		if x := s.sessions[id]; x != nil {
			return x.json()
		}
		return nil
	}))
	mux.HandleFunc("GET /v1/payment_intents/{id}", s.get(func(id string) any {
		if x := s.intents[id]; x != nil {
			return x.json()
		}
		return nil
	}))
	mux.HandleFunc("GET /v1/invoices/{id}", s.get(func(id string) any {
		if x := s.invoices[id]; x != nil {
			return x.json()
		}
		return nil
	}))
	mux.HandleFunc("DELETE /v1/subscriptions/{id}", s.get(s.cancelSubscription))
}

// authorized checks the key as Stripe does.
func (s *Server) authorized(w http.ResponseWriter, r *http.Request) bool {
	if subtle.ConstantTimeCompare([]byte(r.Header.Get("Authorization")), []byte("Bearer "+s.opts.Key)) == 1 {
		return true
	}
	e := &apiError{http.StatusUnauthorized, "invalid_request_error", "", "Invalid API Key provided."}
	s.answer(w, e.status, e.body())
	return false
}

func (s *Server) answer(w http.ResponseWriter, status int, body []byte) {
	w.Header().Set("Content-Type", "application/json")
	w.Header().Set("Request-Id", "req_"+random(8))
	w.WriteHeader(status)
	_, _ = w.Write(body)
}

func (s *Server) get(find func(id string) any) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		if !s.authorized(w, r) {
			return
		}
		s.mu.Lock()
		found := find(r.PathValue("id"))
		s.mu.Unlock()
		if found == nil {
			s.answer(w, missing.status, missing.body())
			return
		}
		body, err := json.Marshal(found)
		if err != nil {
			s.answer(w, http.StatusInternalServerError, nil)
			return
		}
		s.answer(w, http.StatusOK, body)
	}
}

// post is a POST under an idempotency key: the same key and the same parameters get the
// same answer; the same key with others is refused.
func (s *Server) post(do func(url.Values) (any, *apiError)) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		if !s.authorized(w, r) {
			return
		}
		text, err := io.ReadAll(io.LimitReader(r.Body, 1<<20))
		form, perr := url.ParseQuery(string(text))
		if err != nil || perr != nil {
			e := invalid("The body is no form.")
			s.answer(w, e.status, e.body())
			return
		}
		key := r.Header.Get("Idempotency-Key")
		s.mu.Lock()
		status, body := s.once(key, r.URL.Path+"?"+form.Encode(), func() (any, *apiError) {
			if key == "" {
				return nil, invalid("This stand-in wants an Idempotency-Key with everything that costs money.")
			}
			if fullSIM.MatchString(string(text)) {
				return nil, invalid("The number of a SIM does not belong at Stripe.")
			}
			return do(form)
		})
		s.mu.Unlock()
		s.answer(w, status, body)
	}
}

// once runs do unless its answer is known. The caller holds the lock.
func (s *Server) once(key, request string, do func() (any, *apiError)) (int, []byte) {
	if old, ok := s.answers[key]; ok && key != "" {
		if old.request != request {
			e := &apiError{http.StatusBadRequest, "idempotency_error", "", "Keys for idempotent requests can only be used with the same parameters they were first used with."}
			s.problems = append(s.problems, e.message)
			return e.status, e.body()
		}
		return old.status, old.body
	}
	made, problem := do()
	if problem != nil { // a refusal is not remembered: nothing was done
		s.problems = append(s.problems, problem.message)
		return problem.status, problem.body()
	}
	body, err := json.Marshal(made)
	if err != nil {
		return http.StatusInternalServerError, nil
	}
	s.answers[key] = cachedAnswer{request, http.StatusOK, body}
	return http.StatusOK, bytes.Clone(body)
}

// nested reads form values name[key].
func nested(form url.Values, name string) map[string]string {
	out := map[string]string{}
	for k, v := range form {
		if rest, ok := strings.CutPrefix(k, name+"["); ok && strings.HasSuffix(rest, "]") && !strings.Contains(rest, "[") {
			out[strings.TrimSuffix(rest, "]")] = v[0]
		}
	}
	return out
}

func (s *Server) createSession(form url.Values) (any, *apiError) {
	const price = "line_items[0][price_data]"
	x := &session{
		id: "cs_test_" + random(16), mode: form.Get("mode"), status: "open", paymentStatus: "unpaid",
		successURL: form.Get("success_url"), cancelURL: form.Get("cancel_url"), name: form.Get(price + "[product_data][name]"),
		clientReference: form.Get("client_reference_id"), currency: form.Get(price + "[currency]"), metadata: nested(form, "metadata"),
	}
	var err error
	if x.amount, err = strconv.ParseInt(form.Get(price+"[unit_amount]"), 10, 64); err != nil || x.amount < 1 {
		return nil, invalid("unit_amount must be a positive whole number.")
	}
	expires, err := strconv.ParseInt(form.Get("expires_at"), 10, 64)
	x.expiresAt = time.Unix(expires, 0)
	switch left := x.expiresAt.Sub(s.opts.Now()); {
	case err != nil || left < 30*time.Minute || left > 24*time.Hour:
		return nil, invalid("expires_at must be 30 minutes to 24 hours from now.")
	case len(x.currency) != 3 || x.name == "" || form.Get("line_items[0][quantity]") != "1":
		return nil, invalid("The line item needs a currency, a product name and quantity 1.")
	case !strings.Contains(x.successURL, "{CHECKOUT_SESSION_ID}") || !strings.HasPrefix(x.cancelURL, "http"):
		return nil, invalid("success_url must hold {CHECKOUT_SESSION_ID}, and cancel_url must be a URL.")
	}
	switch x.mode {
	case "payment":
		x.inner = nested(form, "payment_intent_data[metadata]")
	case "subscription":
		x.inner = nested(form, "subscription_data[metadata]")
		if form.Get(price+"[recurring][interval]") == "" {
			return nil, invalid("A subscription needs an interval.")
		}
	default:
		return nil, invalid("mode must be payment or subscription.")
	}
	for _, name := range []string{"type", "purchase_id", "user_id", "device_id", "plan_id", "iccid_last4"} {
		if x.metadata[name] == "" {
			return nil, invalid("metadata has no %s.", name)
		}
	}
	if !maps.Equal(x.metadata, x.inner) || x.metadata["type"] != "data_plan" || x.clientReference != x.metadata["purchase_id"] || len(x.metadata["iccid_last4"]) != 4 {
		return nil, invalid("metadata must be the same on both objects, of type data_plan, and name the purchase.")
	}
	s.sessions[x.id] = x
	out := x.json()
	out["url"] = s.URL() + "/pay/" + x.id
	return out, nil
}

func (x *session) json() map[string]any {
	out := map[string]any{
		"id": x.id, "object": "checkout.session", "mode": x.mode, "status": x.status, "payment_status": x.paymentStatus,
		"amount_total": x.amount, "currency": x.currency, "metadata": x.metadata, "client_reference_id": x.clientReference,
		"expires_at": x.expiresAt.Unix(), "livemode": false, "payment_intent": nil, "subscription": nil,
	}
	if x.intent != "" && x.mode == "payment" {
		out["payment_intent"] = x.intent
	}
	if x.subscription != "" {
		out["subscription"] = x.subscription
	}
	return out
}

func (x *intent) json() map[string]any {
	return map[string]any{
		"id": x.id, "object": "payment_intent", "status": "succeeded", "amount": x.amount, "amount_received": x.amount,
		"currency": x.currency, "metadata": x.metadata, "livemode": false,
	}
}

func (x *intent) chargeJSON() map[string]any {
	return map[string]any{
		"id": x.charge, "object": "charge", "status": "succeeded", "amount": x.amount, "amount_refunded": x.refunded,
		"refunded": x.refunded == x.amount, "currency": x.currency, "payment_intent": x.id, "metadata": x.metadata, "livemode": false,
	}
}

func (x *invoice) json() map[string]any {
	return map[string]any{
		"id": x.id, "object": "invoice", "status": "paid", "amount_paid": x.amount, "currency": x.currency, "subscription": x.subscription,
		"payment_intent": x.intent, "metadata": map[string]string{}, "livemode": false,
		"subscription_details": map[string]any{"metadata": x.metadata},
		"lines": map[string]any{"object": "list", "data": []any{map[string]any{
			"id": "il_" + x.id, "object": "line_item", "period": map[string]any{"start": x.start.Unix(), "end": x.end.Unix()},
		}}},
	}
}

func (s *Server) refund(form url.Values) (any, *apiError) {
	x := s.intents[form.Get("payment_intent")]
	if x == nil {
		return nil, missing
	}
	amount := x.amount - x.refunded
	if text := form.Get("amount"); text != "" {
		n, err := strconv.ParseInt(text, 10, 64)
		if err != nil || n < 1 {
			return nil, invalid("amount must be a positive whole number.")
		}
		amount = n
	}
	switch {
	case x.refunded == x.amount:
		return nil, &apiError{http.StatusBadRequest, "invalid_request_error", "charge_already_refunded", "The charge has already been refunded."}
	case amount > x.amount-x.refunded:
		return nil, invalid("The refund is larger than what is left.")
	}
	x.refunded += amount
	s.report("charge.refunded", x.chargeJSON())
	return map[string]any{
		"id": "re_" + random(12), "object": "refund", "amount": amount, "currency": x.currency, "payment_intent": x.id,
		"charge": x.charge, "status": "succeeded", "metadata": nested(form, "metadata"),
	}, nil
}

// cancelSubscription ends a subscription. The caller holds the lock.
func (s *Server) cancelSubscription(id string) any {
	x := s.sessions[s.subscriptions[id]]
	if x == nil {
		return nil
	}
	delete(s.subscriptions, id)
	body := map[string]any{"id": id, "object": "subscription", "status": "canceled", "metadata": x.inner, "livemode": false}
	s.report("customer.subscription.deleted", body)
	return body
}
