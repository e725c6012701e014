package eiotclub_test

import (
	"errors"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/opticworks/devicecloud/dataplan"
	"github.com/opticworks/devicecloud/partner/eiotclub"
	"github.com/opticworks/devicecloud/standin/carrier"
)

// answering is a client of a carrier that answers everything alike.
func answering(t testing.TB, status int, header http.Header, body string) *eiotclub.Client {
	t.Helper()
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		for name, values := range header {
			w.Header()[name] = values
		}
		w.WriteHeader(status)
		_, _ = io.WriteString(w, body)
	}))
	t.Cleanup(server.Close)
	c, err := eiotclub.NewClient(eiotclub.Options{AppKey: "a", Secret: testSecret, BaseURL: server.URL, Between: time.Microsecond})
	if err != nil {
		t.Fatal(err)
	}
	return c
}

const iccid = dataplan.ICCID("8900000000000000447")

func TestAnswersOfTheCarrier(t *testing.T) {
	for name, c := range map[string]struct {
		status int
		body   string
		want   error
	}{
		"success as the SDK knows it":  {200, `{"code":"200","data":{"orderId":"E1"}}`, nil},
		"success as it was seen":       {200, `{"code":10000,"message":"Success","data":{"orderId":"E1"}}`, nil},
		"another name of the order":    {200, `{"code":200,"data":{"orderNumber":"E1"}}`, nil},
		"a code that is no success":    {200, `{"code":50010,"message":"8900000000000000447 has no money"}`, dataplan.ErrCarrierRefused},
		"a code that is a text":        {200, `{"code":"no 8900000000000000447"}`, dataplan.ErrCarrierRefused},
		"no code":                      {200, `{"data":{"orderId":"E1"}}`, dataplan.ErrCarrierUnavailable},
		"no JSON":                      {200, `<html>`, dataplan.ErrCarrierUnavailable},
		"data that is something else":  {200, `{"code":200,"data":"x"}`, dataplan.ErrCarrierUnavailable},
		"too many requests":            {429, `{"code":200}`, dataplan.ErrCarrierUnavailable},
		"an error of the server":       {500, `{"code":200}`, dataplan.ErrCarrierUnavailable},
		"an error of the request":      {400, `{"code":200}`, dataplan.ErrCarrierUnavailable},
		"more than anybody would read": {200, strings.Repeat(" ", 2<<20), dataplan.ErrCarrierUnavailable},
	} {
		t.Run(name, func(t *testing.T) {
			id, err := answering(t, c.status, nil, c.body).Order(t.Context(), dataplan.CarrierOrder{ICCID: iccid, PackageCode: "P", OutTradeNo: "o"})
			if !errors.Is(err, c.want) || c.want == nil && (err != nil || id != "E1") {
				t.Fatalf("got %q, %v, want %v", id, err, c.want)
			}
			if err != nil && (strings.Contains(err.Error(), string(iccid)) || strings.Contains(err.Error(), testSecret)) {
				t.Errorf("the error tells too much: %v", err)
			}
		})
	}
}

func TestNoOrderFollowsARedirect(t *testing.T) {
	asked := make(chan string, 10)
	elsewhere := httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) { asked <- r.URL.Path }))
	t.Cleanup(elsewhere.Close)
	for _, status := range []int{301, 302, 307, 308} {
		c := answering(t, status, http.Header{"Location": {elsewhere.URL}}, "")
		if _, err := c.Order(t.Context(), dataplan.CarrierOrder{ICCID: iccid}); !errors.Is(err, dataplan.ErrCarrierUnavailable) {
			t.Errorf("%d: %v", status, err)
		}
	}
	if len(asked) > 0 {
		t.Error("an order was sent to where an answer said")
	}
}

func TestCards(t *testing.T) {
	for name, c := range map[string]struct {
		data string
		want dataplan.Card
	}{
		"alone, numbers":        {`{"iccid":"8900000000000000447","card_status_str":"ACTIVATED_NAME","used":104857600,"total":1048576000,"expire_timestamp":1767225600}`, dataplan.Card{Status: dataplan.SIMActive, UsedMB: 100, TotalMB: 1000, ExpiresAt: time.Unix(1767225600, 0).UTC()}},
		"in a list, texts":      {`[{"iccid":8900000000000000447,"status":"DEACTIVATED_NAME","used":"104857600.0","total":"1048576000","expire_timestamp":"1767225600000"}]`, dataplan.Card{Status: dataplan.SIMSuspended, UsedMB: 100, TotalMB: 1000, ExpiresAt: time.Unix(1767225600, 0).UTC()}},
		"what we do not know":   {`{"iccid":"8900000000000000447","status":7,"card_status_str":"?","used":"a lot","total":-1}`, dataplan.Card{UsedMB: -1}},
		"it was never active":   {`{"iccid":"8900000000000000447","status":"ACTIVATION_READY_NAME"}`, dataplan.Card{Status: dataplan.SIMInactive, UsedMB: -1}},
		"it is gone for good":   {`{"iccid":"8900000000000000447","status":"RETIRED_NAME"}`, dataplan.Card{Status: dataplan.SIMRetired, UsedMB: -1}},
		"among those of others": {`[{"iccid":"8900000000000000448","used":1},{"iccid":"8900000000000000447","status":"NON_ACTIVATED_NAME"}]`, dataplan.Card{Status: dataplan.SIMInactive, UsedMB: -1}},
	} {
		t.Run(name, func(t *testing.T) {
			card, err := answering(t, 200, nil, `{"code":10000,"data":`+c.data+`}`).Card(t.Context(), iccid)
			if err != nil || card != c.want {
				t.Errorf("got %+v, %v, want %+v", card, err, c.want)
			}
		})
	}
	if _, err := answering(t, 200, nil, `{"code":200,"data":[{"iccid":"8900000000000000448"}]}`).Card(t.Context(), iccid); !errors.Is(err, dataplan.ErrCarrierRefused) {
		t.Errorf("another SIM's numbers: %v", err)
	}
}

// The carrier lets an account ask ten times a second, in any second. [contracts E.1]
func TestTheRateIsKept(t *testing.T) {
	s, err := carrier.Start(carrier.Options{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = s.Close() })
	c, err := eiotclub.NewClient(eiotclub.Options{AppKey: s.AppKey(), Secret: eiotclub.Secret(s.Secret()), BaseURL: s.URL()})
	if err != nil {
		t.Fatal(err)
	}
	began := time.Now()
	var all sync.WaitGroup
	for range 25 {
		all.Go(func() { _, _ = c.Card(t.Context(), iccid) })
	}
	all.Wait()
	asked, throttled, forged := s.Asked()
	if asked != 25 || forged != 0 || time.Since(began) < 2*time.Second {
		t.Errorf("%d asked, %d forged, in %s", asked, forged, time.Since(began))
	}
	if throttled > 1 { // a busy machine may hold requests up and let them go at once
		t.Errorf("%d of 25 requests came too soon", throttled)
	}
}

func TestAccountsThatCannotBe(t *testing.T) {
	for name, o := range map[string]eiotclub.Options{
		"no key": {Secret: "s"}, "no secret": {AppKey: "a"}, "in the clear": {AppKey: "a", Secret: "s", BaseURL: "http://carrier.example"},
		"with a query": {AppKey: "a", Secret: "s", BaseURL: "https://carrier.example/?x=1"}, "with a user": {AppKey: "a", Secret: "s", BaseURL: "https://u@carrier.example"},
	} {
		if _, err := eiotclub.NewClient(o); err == nil {
			t.Errorf("%s is taken", name)
		}
	}
	if _, err := eiotclub.NewReader("", eiotclub.Signer{}); err == nil {
		t.Error("notifications would be read without a secret")
	}
}

// FuzzAnswer reads whatever the carrier answers.
func FuzzAnswer(f *testing.F) {
	f.Add(`{"code":10000,"data":[{"iccid":"8900000000000000447","used":1e300,"total":"-0"}]}`)
	f.Add(`{"code":null,"data":{}}`)
	var mu sync.Mutex
	body := ""
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		mu.Lock()
		defer mu.Unlock()
		_, _ = io.WriteString(w, body)
	}))
	f.Cleanup(server.Close)
	c, err := eiotclub.NewClient(eiotclub.Options{AppKey: "a", Secret: testSecret, BaseURL: server.URL, Between: time.Microsecond})
	if err != nil {
		f.Fatal(err)
	}
	f.Fuzz(func(t *testing.T, text string) {
		mu.Lock()
		body = text
		mu.Unlock()
		card, err := c.Card(t.Context(), iccid)
		if err == nil && (card.UsedMB < -1 || card.TotalMB < 0) {
			t.Fatalf("%q was read as %+v", text, card)
		}
		if err != nil && !errors.Is(err, dataplan.ErrCarrierRefused) && !errors.Is(err, dataplan.ErrCarrierUnavailable) {
			t.Fatalf("%q: %v", text, err)
		}
	})
}
