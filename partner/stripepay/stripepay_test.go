package stripepay_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stripe/stripe-go/v76/webhook"

	"github.com/opticworks/devicecloud/dataplan"
	"github.com/opticworks/devicecloud/partner/stripepay"
	"github.com/opticworks/devicecloud/registry"
	standin "github.com/opticworks/devicecloud/standin/stripe"
)

const secret = "whsec_4f1d2b9c8e7a6053f1d2b9c8e7a60531"

func purchase(mode dataplan.Mode) dataplan.Purchase {
	p := dataplan.Purchase{
		ID: "0190a0b0c0d0e0f00112233445566778", UserID: "u1", DeviceID: strings.Repeat("ab", 16), ICCID: "8900000000000000447",
		Plan: dataplan.Plan{ID: "once", Name: "1 GB", Description: "a month", Mode: mode, Amount: 990, Currency: "usd"}, ExpiresAt: time.Now().Add(2 * time.Hour),
	}
	if mode == dataplan.ModeSubscription {
		p.Plan.Interval, p.Plan.IntervalCount = "month", 1
	}
	return p
}

var pages = dataplan.Pages{Success: "https://c.example.com/checkout/success?session_id={CHECKOUT_SESSION_ID}", Cancel: "https://c.example.com/checkout/cancel"}

func start(t *testing.T, target func() string) *standin.Server {
	t.Helper()
	s, err := standin.Start(standin.Options{Target: target, Patient: 10 * time.Millisecond})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := s.Close(); err != nil {
			t.Error(err)
		}
	})
	return s
}

func client(url, key string) *stripepay.Client {
	return stripepay.New(stripepay.Options{Key: key, BaseURL: url, Timeout: 2 * time.Second})
}

// What the stand-in checks is what Stripe checks: key, price, metadata on both objects,
// idempotency.
func TestTheStandInTakesWhatWeSend(t *testing.T) {
	for _, mode := range []dataplan.Mode{dataplan.ModePayment, dataplan.ModeSubscription} {
		t.Run(string(mode), func(t *testing.T) {
			received := make(chan dataplan.Event, 16)
			var s *standin.Server
			endpoint := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				body := make([]byte, r.ContentLength)
				if _, err := readFull(r, body); err != nil {
					t.Error(err)
				}
				hook, _ := stripepay.NewWebhook(s.Secret())
				e, err := hook.Verify(body, r.Header.Get("Stripe-Signature"), time.Now())
				if err != nil {
					t.Error(err)
				}
				received <- e
			}))
			defer endpoint.Close()
			s = start(t, func() string { return endpoint.URL })
			c, p := client(s.URL(), s.Key()), purchase(mode)
			first, err := c.CreateSession(t.Context(), p, pages)
			if err != nil {
				t.Fatal(err, s.Problems())
			}
			again, err := c.CreateSession(t.Context(), p, pages)
			if err != nil || again != first {
				t.Errorf("again: %v %v, want %v", again, err, first)
			}
			if r, err := c.FetchSession(t.Context(), first.ID); err != nil || r.Kind != dataplan.SessionOpen || r.PurchaseID != p.ID {
				t.Errorf("open: %+v %v", r, err)
			}
			if _, err := s.Press(first.ID, "pay"); err != nil {
				t.Fatal(err)
			}
			r, err := c.FetchSession(t.Context(), first.ID)
			if err != nil || r.Kind != dataplan.SessionPaid || r.Amount != 990 || r.Currency != "usd" {
				t.Errorf("paid: %+v %v", r, err)
			}
			kinds := map[dataplan.ReportKind]dataplan.Report{}
			for range 2 {
				e := <-received
				full, err := c.Complete(t.Context(), e.Report)
				if err != nil || full.PurchaseID != p.ID || full.Type != dataplan.MetadataType || full.Amount != 990 {
					t.Errorf("%s: %+v %v", e.Name, full, err)
				}
				kinds[e.Kind] = full
			}
			intent := kinds[dataplan.SessionPaid].IntentID
			if mode == dataplan.ModeSubscription {
				inv := kinds[dataplan.InvoicePaid]
				if intent = inv.IntentID; inv.SubscriptionID == "" || inv.SubscriptionID != r.SubscriptionID || inv.EndsAt.Before(time.Now()) {
					t.Errorf("the invoice: %+v", inv)
				}
			}
			for range 2 { // the same key gives nothing back again
				if err := c.Refund(t.Context(), p, intent, 100, "k1"); err != nil {
					t.Fatal(err)
				}
			}
			if e := <-received; e.Kind != dataplan.ChargeRefunded || e.Refunded != 100 || e.Whole || e.IntentID != intent {
				t.Errorf("refunded: %+v", e)
			}
			if err := c.Refund(t.Context(), p, intent, 0, "k2"); err != nil {
				t.Fatal(err)
			}
			if e := <-received; e.Refunded != 990 || !e.Whole {
				t.Errorf("refunded: %+v", e)
			}
			if err := c.Refund(t.Context(), p, intent, 0, "k3"); err != nil {
				t.Errorf("what is refunded: %v", err)
			}
			if mode == dataplan.ModeSubscription {
				for range 2 {
					if err := c.CancelSubscription(t.Context(), r.SubscriptionID); err != nil {
						t.Error(err)
					}
				}
				if e := <-received; e.Kind != dataplan.SubscriptionChanged || !e.Over || e.PurchaseID != p.ID {
					t.Errorf("canceled: %+v", e)
				}
			}
			dispute := dataplan.Report{Kind: dataplan.DisputeChanged, IntentID: intent}
			if full, err := c.Complete(t.Context(), dispute); err != nil || mode == dataplan.ModePayment && full.PurchaseID != p.ID {
				t.Errorf("a dispute: %+v %v", full, err)
			}
		})
	}
}

func readFull(r *http.Request, body []byte) (n int, err error) {
	for n < len(body) && err == nil {
		var m int
		m, err = r.Body.Read(body[n:])
		n += m
	}
	if n == len(body) {
		err = nil
	}
	return n, err
}

func TestTheStandInRefuses(t *testing.T) {
	s := start(t, nil)
	for name, change := range map[string]func(*dataplan.Purchase, *dataplan.Pages){
		"no price":                 func(p *dataplan.Purchase, _ *dataplan.Pages) { p.Plan.Amount = 0 },
		"no SIM":                   func(p *dataplan.Purchase, _ *dataplan.Pages) { p.ICCID = "" },
		"a whole SIM number":       func(p *dataplan.Purchase, _ *dataplan.Pages) { p.UserID = string(p.ICCID) },
		"no place for the session": func(_ *dataplan.Purchase, g *dataplan.Pages) { g.Success = "https://c.example.com/" },
		"an end too near":          func(p *dataplan.Purchase, _ *dataplan.Pages) { p.ExpiresAt = time.Now().Add(time.Minute) },
	} {
		p, g := purchase(dataplan.ModePayment), pages
		p.ID = "0190a0b0c0d0e0f0011223344556677" + fmt.Sprint(len(name)%10)
		change(&p, &g)
		if _, err := client(s.URL(), s.Key()).CreateSession(t.Context(), p, g); !errors.Is(err, dataplan.ErrPaymentProvider) {
			t.Errorf("%s: %v", name, err)
		}
	}
	p := purchase(dataplan.ModePayment)
	if _, err := client(s.URL(), s.Key()).CreateSession(t.Context(), p, pages); err != nil {
		t.Fatal(err)
	}
	p.Plan.Amount++
	if _, err := client(s.URL(), s.Key()).CreateSession(t.Context(), p, pages); !errors.Is(err, dataplan.ErrPaymentProvider) {
		t.Errorf("the same key for another price: %v", err)
	}
}

// Neither the key nor an address is in what goes to the log, whoever fails and how.
func TestFailures(t *testing.T) {
	const key = "sk_test_canary4f1d2b9c8e7a60531"
	var calls atomic.Int64
	answer := func(status int, body string) http.HandlerFunc {
		return func(w http.ResponseWriter, _ *http.Request) {
			calls.Add(1)
			w.WriteHeader(status)
			_, _ = fmt.Fprint(w, body)
		}
	}
	slow := func(_ http.ResponseWriter, r *http.Request) {
		_, _ = io.Copy(io.Discard, r.Body) // or the server does not see the client go
		<-r.Context().Done()
	}
	for name, h := range map[string]http.HandlerFunc{
		"a refused key":   answer(401, `{"error":{"type":"invalid_request_error","message":"Invalid API Key provided: `+key+`"}}`),
		"a refused card":  answer(402, `{"error":{"type":"card_error","code":"card_declined","message":"`+key+`"}}`),
		"a defect":        answer(500, `<html>`+key),
		"nonsense":        answer(200, `nonsense `+key),
		"an empty object": answer(200, `{}`),
		"a redirect": func(w http.ResponseWriter, r *http.Request) {
			http.Redirect(w, r, "https://evil.example.com/"+key, http.StatusFound)
		},
		"an answer too late": slow,
		"a closed connection": func(w http.ResponseWriter, _ *http.Request) {
			if c, _, err := w.(http.Hijacker).Hijack(); err == nil {
				_ = c.Close()
			}
		},
	} {
		t.Run(name, func(t *testing.T) {
			server := httptest.NewServer(h)
			defer server.Close()
			c := stripepay.New(stripepay.Options{Key: key, BaseURL: server.URL, Timeout: 100 * time.Millisecond, Retries: -1})
			_, err := c.CreateSession(t.Context(), purchase(dataplan.ModePayment), pages)
			if !errors.Is(err, dataplan.ErrPaymentProvider) || registry.KindOf(err) != registry.Upstream {
				t.Fatalf("got %v", err)
			}
			for _, leak := range []string{"canary", server.URL, "evil"} {
				if strings.Contains(fmt.Sprintf("%v %+v", err, err), leak) {
					t.Errorf("%q is in %v", leak, err)
				}
			}
		})
	}
}

// An answer that was lost is asked for again under the same key: one session.
func TestALostAnswerIsAskedForAgain(t *testing.T) {
	s := start(t, nil)
	var lost atomic.Int64
	proxy := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		out, err := http.NewRequestWithContext(r.Context(), r.Method, s.URL()+r.URL.Path, r.Body)
		if err != nil {
			t.Error(err)
			return
		}
		out.Header = r.Header
		answer, err := http.DefaultClient.Do(out)
		if err != nil {
			t.Error(err)
			return
		}
		defer answer.Body.Close() //nolint:errcheck // a test
		if lost.Add(1) == 1 {
			if c, _, err := w.(http.Hijacker).Hijack(); err == nil {
				_ = c.Close()
			}
			return
		}
		var body json.RawMessage
		_ = json.NewDecoder(answer.Body).Decode(&body)
		w.WriteHeader(answer.StatusCode)
		_, _ = w.Write(body)
	}))
	defer proxy.Close()
	c := client(proxy.URL, s.Key())
	p := purchase(dataplan.ModePayment)
	first, err := c.CreateSession(t.Context(), p, pages)
	if err != nil || lost.Load() != 2 {
		t.Fatalf("%v after %d requests", err, lost.Load())
	}
	again, err := c.CreateSession(t.Context(), p, pages)
	if err != nil || again != first {
		t.Errorf("%v %v, want %v", again, err, first)
	}
}

// Stripe takes keys of at most 255 characters, and one of ours may be as long. A key that
// was used for another refund is not the provider's failure: to try again would be in vain.
func TestRefundKeys(t *testing.T) {
	keys := map[string]string{} // by what was sent
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		key := r.Header.Get("Idempotency-Key")
		form, _ := io.ReadAll(r.Body)
		switch before, used := keys[key]; {
		case len(key) > 255:
			w.WriteHeader(http.StatusBadRequest)
			_, _ = io.WriteString(w, `{"error":{"type":"invalid_request_error"}}`)
		case used && before != string(form):
			w.WriteHeader(http.StatusBadRequest)
			_, _ = io.WriteString(w, `{"error":{"type":"idempotency_error"}}`)
		default:
			keys[key] = string(form)
			_, _ = io.WriteString(w, `{"id":"re_1","object":"refund"}`)
		}
	}))
	defer server.Close()
	c, p := client(server.URL, "sk_test_x"), purchase(dataplan.ModePayment)
	long := strings.Repeat("k", 254)
	for i, key := range []string{long + "a", long + "b", long + "a", "short"} {
		if err := c.Refund(t.Context(), p, "pi_1", 100, key); err != nil {
			t.Errorf("refund %d: %v", i, err)
		}
	}
	if len(keys) != 3 {
		t.Errorf("%d keys at Stripe, want 3", len(keys))
	}
	for _, key := range []string{long + "a", "short"} {
		if err := c.Refund(t.Context(), p, "pi_1", 200, key); !errors.Is(err, dataplan.ErrKeyReused) {
			t.Errorf("another amount under the same key: %v", err)
		}
	}
}

func TestLive(t *testing.T) {
	for key, live := range map[string]bool{"sk_live_x": true, "rk_live_x": true, "sk_test_x": false, "rk_test_x": false} {
		if got := stripepay.New(stripepay.Options{Key: key}).Live(); got != live {
			t.Errorf("%s: %v", key, got)
		}
	}
}

func signed(body, key string, at time.Time, scheme string) string {
	return webhook.GenerateTestSignedPayload(&webhook.UnsignedPayload{Payload: []byte(body), Secret: key, Timestamp: at, Scheme: scheme}).Header
}

const completed = `{"id":"evt_1","object":"event","type":"checkout.session.completed","api_version":"2099-01-01.future","created":1768471200,"livemode":false,
	"data":{"object":{"id":"cs_1","object":"checkout.session","payment_status":"paid","amount_total":990,"currency":"usd","payment_intent":"pi_1",
	"metadata":{"type":"data_plan","purchase_id":"0190a0b0c0d0e0f00112233445566778"}}}}`

func TestSecrets(t *testing.T) {
	for _, bad := range []string{"", " ", "whsec_", " whsec_ ", "sk_test_x", "WHSEC_x", "x whsec_x"} {
		if _, ok := stripepay.NewWebhook(bad); ok {
			t.Errorf("%q is taken", bad)
		}
	}
	_, err := stripepay.Webhook{}.Verify([]byte(completed), signed(completed, "", time.Now(), "v1"), time.Now())
	if !errors.Is(err, dataplan.ErrWebhookNotConfigured) {
		t.Errorf("signed with nothing: %v", err)
	}
}

func TestSignatures(t *testing.T) {
	hook, _ := stripepay.NewWebhook(secret)
	now := time.Now()
	good := signed(completed, secret, now, "v1")
	for name, c := range map[string]struct {
		body, header string
		want         error
	}{
		"good":                          {completed, good, nil},
		"good beside one of an old key": {completed, good + "," + strings.Split(signed(completed, "whsec_old", now, "v1"), ",")[1], nil},
		"four minutes old":              {completed, signed(completed, secret, now.Add(-4*time.Minute), "v1"), nil},
		"four minutes ahead":            {completed, signed(completed, secret, now.Add(4*time.Minute), "v1"), nil},
		"six minutes old":               {completed, signed(completed, secret, now.Add(-6*time.Minute), "v1"), dataplan.ErrInvalidSignature},
		"six minutes ahead":             {completed, signed(completed, secret, now.Add(6*time.Minute), "v1"), dataplan.ErrInvalidSignature},
		"two days ahead":                {completed, signed(completed, secret, now.Add(48*time.Hour), "v1"), dataplan.ErrInvalidSignature},
		"two days ahead, with a plus":   {completed, strings.Replace(signed(completed, secret, now.Add(48*time.Hour), "v1"), "t=", "t=+", 1), dataplan.ErrInvalidSignature},
		"two days ahead, with a zero":   {completed, strings.Replace(signed(completed, secret, now.Add(48*time.Hour), "v1"), "t=", "t=0", 1), dataplan.ErrInvalidSignature},
		"none":                          {completed, "", dataplan.ErrInvalidSignature},
		"nonsense":                      {completed, "nonsense", dataplan.ErrInvalidSignature},
		"of another key":                {completed, signed(completed, secret+"x", now, "v1"), dataplan.ErrInvalidSignature},
		"of an empty key":               {completed, signed(completed, "", now, "v1"), dataplan.ErrInvalidSignature},
		"of the old scheme alone":       {completed, signed(completed, secret, now, "v0"), dataplan.ErrInvalidSignature},
		"of another body":               {strings.Replace(completed, "990", "991", 1), good, dataplan.ErrInvalidSignature},
		"without a time":                {completed, good[strings.Index(good, "v1="):], dataplan.ErrInvalidSignature},
		"no event":                      {`[]`, signed(`[]`, secret, now, "v1"), registry.ErrInvalidRequest},
		"no JSON":                       {`{`, signed(`{`, secret, now, "v1"), registry.ErrInvalidRequest},
		"an event without an id":        {`{"type":"x","data":{"object":{}}}`, signed(`{"type":"x","data":{"object":{}}}`, secret, now, "v1"), registry.ErrInvalidRequest},
		"an event without an object":    {`{"id":"evt_1","type":"x"}`, signed(`{"id":"evt_1","type":"x"}`, secret, now, "v1"), registry.ErrInvalidRequest},
	} {
		e, err := hook.Verify([]byte(c.body), c.header, now)
		if !errors.Is(err, c.want) || c.want == nil && err != nil {
			t.Errorf("%s: %v, want %v", name, err, c.want)
		}
		if c.want == nil && (e.ID != "evt_1" || e.Kind != dataplan.SessionPaid || e.IntentID != "pi_1" || e.Amount != 990 || e.SessionID != "cs_1" || e.APIVersion != "2099-01-01.future") {
			t.Errorf("%s: %+v", name, e)
		}
	}
}

// decoded is the report of a signed event.
func decoded(t testing.TB, name, object string) dataplan.Report {
	t.Helper()
	body := `{"id":"evt_1","type":"` + name + `","data":{"object":` + object + `}}`
	hook, _ := stripepay.NewWebhook(secret)
	e, err := hook.Verify([]byte(body), signed(body, secret, time.Now(), "v1"), time.Now())
	if err != nil {
		t.Fatal(err)
	}
	return e.Report
}

func TestDecode(t *testing.T) {
	for name, c := range map[string]struct {
		event, object string
		want          dataplan.Report
	}{
		"unpaid":                    {"checkout.session.completed", `{"id":"cs","payment_status":"unpaid","client_reference_id":"p"}`, dataplan.Report{Kind: dataplan.SessionUnpaid, SessionID: "cs", PurchaseID: "p"}},
		"free":                      {"checkout.session.completed", `{"id":"cs","payment_status":"no_payment_required","amount_total":0,"currency":"usd"}`, dataplan.Report{Kind: dataplan.SessionPaid, SessionID: "cs", Currency: "usd"}},
		"expanded objects":          {"checkout.session.completed", `{"id":"cs","payment_status":"paid","payment_intent":{"id":"pi"},"subscription":{"id":"sub"}}`, dataplan.Report{Kind: dataplan.SessionPaid, SessionID: "cs", IntentID: "pi", SubscriptionID: "sub"}},
		"a part refunded":           {"charge.refunded", `{"id":"ch","payment_intent":"pi","amount":990,"amount_refunded":100}`, dataplan.Report{Kind: dataplan.ChargeRefunded, IntentID: "pi", Refunded: 100}},
		"nothing refunded":          {"charge.refunded", `{"id":"ch","payment_intent":"pi","amount":0,"amount_refunded":0}`, dataplan.Report{Kind: dataplan.ChargeRefunded, IntentID: "pi"}},
		"an inquiry that ended":     {"charge.dispute.closed", `{"id":"dp","payment_intent":"pi","status":"warning_closed"}`, dataplan.Report{Kind: dataplan.DisputeChanged, DisputeID: "dp", IntentID: "pi", Closed: true, Won: true}},
		"a dispute that was lost":   {"charge.dispute.closed", `{"id":"dp","payment_intent":"pi","status":"lost"}`, dataplan.Report{Kind: dataplan.DisputeChanged, DisputeID: "dp", IntentID: "pi", Closed: true}},
		"an invoice of old":         {"invoice.paid", `{"id":"in","subscription":"sub","payment_intent":"pi","amount_paid":490,"currency":"eur","subscription_details":{"metadata":{"type":"data_plan","purchase_id":"p"}},"lines":{"data":[{"period":{"start":1,"end":5}},{"period":{"start":2,"end":3}}]}}`, dataplan.Report{Kind: dataplan.InvoicePaid, InvoiceID: "in", SubscriptionID: "sub", IntentID: "pi", Type: "data_plan", PurchaseID: "p", Amount: 490, Currency: "eur", StartsAt: time.Unix(1, 0).UTC(), EndsAt: time.Unix(5, 0).UTC()}},
		"an invoice of now":         {"invoice.payment_failed", `{"id":"in","currency":"eur","parent":{"subscription_details":{"subscription":"sub","metadata":{"type":"data_plan","purchase_id":"p"}}}}`, dataplan.Report{Kind: dataplan.InvoiceUnpaid, InvoiceID: "in", SubscriptionID: "sub", Type: "data_plan", PurchaseID: "p", Currency: "eur"}},
		"a subscription that ended": {"customer.subscription.updated", `{"id":"sub","status":"canceled"}`, dataplan.Report{Kind: dataplan.SubscriptionChanged, SubscriptionID: "sub", Over: true}},
		"one that goes on":          {"customer.subscription.updated", `{"id":"sub","status":"active"}`, dataplan.Report{Kind: dataplan.SubscriptionChanged, SubscriptionID: "sub"}},
		"another type":              {"account.updated", `{"id":"acct"}`, dataplan.Report{}},
		"wrong types":               {"checkout.session.completed", `{"id":5}`, dataplan.Report{}},
		"no id":                     {"checkout.session.completed", `{"payment_status":"paid"}`, dataplan.Report{}},
	} {
		if got := decoded(t, c.event, c.object); got != c.want {
			t.Errorf("%s:\n%+v, want\n%+v", name, got, c.want)
		}
	}
}

// Every name that Stripe's endpoint is subscribed to, with whatever object, never ends the
// program, and says of nothing that it was refunded whole that was not.
func FuzzWebhook(f *testing.F) {
	for _, name := range []string{"checkout.session.completed", "charge.refunded", "invoice.paid", "charge.dispute.closed", "x"} {
		f.Add(name, `{"id":"x","payment_intent":{"id":"pi"},"amount":1,"amount_refunded":1,"lines":{"data":[{}]}}`, "t=1,v1=00")
	}
	hook, _ := stripepay.NewWebhook(secret)
	f.Fuzz(func(t *testing.T, name, object, header string) {
		text, err := json.Marshal(name)
		if err != nil {
			t.Fatal(err)
		}
		body := fmt.Sprintf(`{"id":"evt_1","type":%s,"data":{"object":%s}}`, text, object)
		if _, err := hook.Verify([]byte(body), header, time.Now()); err == nil {
			t.Errorf("a signature was guessed: %q", header)
		}
		e, err := hook.Verify([]byte(body), signed(body, secret, time.Now(), "v1"), time.Now())
		if err == nil && e.Whole && e.Refunded <= 0 {
			t.Errorf("%+v", e.Report)
		}
	})
}

// stripe-mock answers by Stripe's own description of its interface: what it takes, Stripe
// knows.
func TestStripeMock(t *testing.T) {
	program, err := exec.LookPath("../../.tools/bin/stripe-mock")
	if err != nil {
		if os.Getenv("CI") == "true" {
			t.Fatal("stripe-mock is missing: scripts/test-deps.sh")
		}
		t.Skip("stripe-mock is not installed: scripts/test-deps.sh")
	}
	port := freePort(t)
	ctx, stop := context.WithCancel(t.Context())
	defer stop()
	cmd := exec.CommandContext(ctx, program, "-http-addr", "127.0.0.1:"+port)
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	defer func() { stop(); _ = cmd.Wait() }()
	url := "http://127.0.0.1:" + port
	c := client(url, "sk_test_123")
	deadline := time.Now().Add(30 * time.Second)
	for {
		_, err := c.CreateSession(t.Context(), purchase(dataplan.ModePayment), pages)
		if err == nil || strings.Contains(err.Error(), "no id or no url") { // its sample has no url
			break
		}
		if strings.Contains(err.Error(), "status ") || time.Now().After(deadline) {
			t.Fatal(err)
		}
		time.Sleep(50 * time.Millisecond) // until it listens
	}
	if _, err := c.CreateSession(t.Context(), purchase(dataplan.ModeSubscription), pages); err != nil && !strings.Contains(err.Error(), "no id or no url") {
		t.Error(err)
	}
	if _, err := c.FetchSession(t.Context(), "cs_test_1"); err != nil {
		t.Error(err)
	}
	if err := c.Refund(t.Context(), purchase(dataplan.ModePayment), "pi_1", 100, "k"); err != nil {
		t.Error(err)
	}
	if err := c.CancelSubscription(t.Context(), "sub_1"); err != nil {
		t.Error(err)
	}
	for _, r := range []dataplan.Report{{Kind: dataplan.InvoicePaid, InvoiceID: "in_1"}, {Kind: dataplan.DisputeChanged, IntentID: "pi_1"}} {
		if _, err := c.Complete(t.Context(), r); err != nil {
			t.Errorf("%+v: %v", r, err)
		}
	}
}

// freePort is a port that nobody listens on now.
func freePort(t *testing.T) string {
	t.Helper()
	s := httptest.NewServer(http.NotFoundHandler())
	defer s.Close()
	return s.URL[strings.LastIndex(s.URL, ":")+1:]
}
