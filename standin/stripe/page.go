package stripe

import (
	"errors"
	"fmt"
	"html/template"
	"net/http"
	"strings"
	"time"
)

var page = template.Must(template.New("pay").Parse(`<!doctype html>
<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1">
<title>Stand-in for Stripe</title>
<style>body{font:1.1rem/1.5 system-ui,sans-serif;max-width:28rem;margin:3rem auto;padding:0 1rem}button{font:inherit;padding:.5rem 1rem;margin-right:.5rem}.note{background:#fff3c4;padding:.5rem 1rem}</style>
</head><body>
<p class="note"><strong>This is a stand-in for Stripe.</strong> No money moves.</p>
<h1>{{.Name}}</h1><p>{{.Price}} {{.Currency}}{{if eq .Mode "subscription"}}, again and again{{end}}</p>
<p role="status">{{.State}}</p>
{{if .Open}}<form method="post">
<button name="do" value="pay">Pay</button><button name="do" value="decline">Decline the card</button><button name="do" value="cancel">Cancel</button>
</form>{{end}}
</body></html>
`))

func (s *Server) pages(mux *http.ServeMux) {
	mux.HandleFunc("GET /pay/{id}", func(w http.ResponseWriter, r *http.Request) {
		s.show(w, r.PathValue("id"), "Nothing has been paid yet.")
	})
	mux.HandleFunc("POST /pay/{id}", func(w http.ResponseWriter, r *http.Request) {
		id := r.PathValue("id")
		next, err := s.Press(id, r.FormValue("do"))
		switch {
		case err != nil:
			http.Error(w, err.Error(), http.StatusConflict)
		case next == "":
			s.show(w, id, "The card was declined. Try another one.")
		default:
			http.Redirect(w, r, next, http.StatusSeeOther)
		}
	})
}

func (s *Server) show(w http.ResponseWriter, id, state string) {
	s.mu.Lock()
	x := s.sessions[id]
	var data struct {
		Name, Price, Currency, Mode, State string
		Open                               bool
	}
	if x != nil {
		data.Name, data.Currency, data.Mode = x.name, strings.ToUpper(x.currency), x.mode
		data.Price, data.Open, data.State = fmt.Sprintf("%d.%02d", x.amount/100, x.amount%100), x.status == "open", state
		if !data.Open {
			data.State = "This checkout is " + x.status + "."
		}
	}
	s.mu.Unlock()
	if x == nil {
		http.Error(w, "There is no such checkout at this stand-in.", http.StatusNotFound)
		return
	}
	w.Header().Set("Content-Type", "text/html; charset=utf-8")
	_ = page.Execute(w, data) // the client has gone: there is nobody to tell
}

// errOver says that the checkout is not open any more.
var errOver = errors.New("there is no such checkout, or it is over")

// Press does what a button of the payment page does: pay, decline or cancel. It returns
// where the buyer goes next, "" to the page itself.
func (s *Server) Press(sessionID, button string) (next string, err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	x := s.sessions[sessionID]
	if x == nil || x.status != "open" {
		return "", errOver
	}
	switch button {
	case "pay":
		s.pay(x)
		return strings.ReplaceAll(x.successURL, "{CHECKOUT_SESSION_ID}", x.id), nil
	case "decline":
		if x.intent == "" {
			x.intent = "pi_" + random(12)
		}
		declined := (&intent{id: x.intent, amount: x.amount, currency: x.currency, metadata: x.inner}).json()
		declined["status"], declined["amount_received"] = "requires_payment_method", 0
		s.report("payment_intent.payment_failed", declined)
		return "", nil
	case "cancel":
		// As at Stripe: leaving the page is reported when the session runs out. The
		// stand-in lets it run out at once.
		x.status = "expired"
		s.report("checkout.session.expired", x.json())
		return x.cancelURL, nil
	}
	return "", errors.New("the buttons are pay, decline and cancel")
}

// pay takes the money. The caller holds the lock.
func (s *Server) pay(x *session) {
	if x.intent == "" {
		x.intent = "pi_" + random(12)
	}
	paid := &intent{id: x.intent, charge: "ch_" + random(12), amount: x.amount, currency: x.currency, metadata: x.inner}
	s.intents[paid.id] = paid
	x.status, x.paymentStatus = "complete", "paid"
	if x.mode == "subscription" {
		x.subscription = "sub_" + random(12)
		s.subscriptions[x.subscription] = x.id
		paid.metadata = map[string]string{} // a subscription's payments carry none
		s.invoice(x, paid.id, s.opts.Now())
	} else {
		s.report("payment_intent.succeeded", paid.json())
	}
	s.report("checkout.session.completed", x.json())
}

// invoice is paid for the month that begins. The caller holds the lock.
func (s *Server) invoice(x *session, intentID string, from time.Time) {
	inv := &invoice{
		id: "in_" + random(12), subscription: x.subscription, intent: intentID, amount: x.amount, currency: x.currency, metadata: x.inner,
		start: from, end: from.AddDate(0, 1, 0),
	}
	s.invoices[inv.id] = inv
	s.report("invoice.paid", inv.json())
}

// Dispute lets the buyer's bank take a payment back, or, closed, ends that.
func (s *Server) Dispute(sessionID string, closed, won bool) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	x := s.sessions[sessionID]
	if x == nil || s.intents[x.intent] == nil {
		return errOver
	}
	paid := s.intents[x.intent]
	name, status := "charge.dispute.created", "needs_response"
	if closed {
		name, status = "charge.dispute.closed", "lost"
		if won {
			status = "won"
		}
	}
	s.report(name, map[string]any{
		"id": "dp_" + paid.id, "object": "dispute", "status": status, "amount": paid.amount, "currency": paid.currency,
		"charge": paid.charge, "payment_intent": paid.id, "metadata": map[string]string{}, "livemode": false,
	})
	return nil
}
