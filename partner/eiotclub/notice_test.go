package eiotclub_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/opticworks/devicecloud/dataplan"
	"github.com/opticworks/devicecloud/partner/eiotclub"
	"github.com/opticworks/devicecloud/registry"
	"github.com/opticworks/devicecloud/sqlstore/schematest"
	"github.com/opticworks/devicecloud/standin/carrier"
)

func field(name string, value any) carrier.Field { return carrier.Field{Name: name, Value: value} }

// running is a device whose plan runs, with its SIM and purchase.
func (w *world) running() (device string, sim dataplan.SIM, id string) {
	w.t.Helper()
	device = w.device()
	sim = w.sim(device)
	id = w.paid(device, sim.ICCID)
	_ = w.Fulfil(w.t.Context())
	w.take(w.carrier.Notice("PkgEffective", "", field("iccid", string(sim.ICCID))))
	if p := w.purchase(id); p.Stage != dataplan.Active {
		w.t.Fatalf("the plan is %s", p.Stage)
	}
	w.pass(time.Minute)
	return device, w.simOf(sim), id
}

// Each event 200 times at once: it does what it does once. [contracts E.3]
func TestEachNoticeHasOneEffect(t *testing.T) {
	const times = 200
	eachEngine(t, func(t *testing.T, w *world) {
		device, sim, id := w.running()
		waiting := w.device()
		other := w.sim(waiting)
		next := w.paid(waiting, other.ICCID)
		_ = w.Fulfil(t.Context())
		order := w.carrier.Orders()[1]
		for _, n := range []struct {
			name  string
			body  []byte
			trail string // the event in the audit trail that it leaves once
			check func() bool
		}{
			{
				"an alert", w.carrier.Notice("FlowAlert", "alert", field("iccid", string(sim.ICCID)), field("alert_type", 1), field("alert_value", "80")), "sim_alert",
				func() bool { return w.simOf(sim).UsedMB == 920 && len(w.heard()) == 1 },
			},
			{
				"a package that begins", w.carrier.Notice("PkgEffective", "effective", field("iccid", string(other.ICCID)), field("data", json.RawMessage(`{"packageCode":"P100","orderId":"`+order.ID+`"}`))),
				"purchase_transition", func() bool { return w.purchase(next).Stage == dataplan.Active && w.entitled(waiting) },
			},
			{
				"a SIM that is stopped", w.carrier.Notice("CardStopped", "stopped", field("iccid", string(other.ICCID))), "sim_alert",
				func() bool {
					return w.purchase(next).Stage == dataplan.Expired && w.simOf(other).Status == dataplan.SIMSuspended && !w.entitled(waiting)
				},
			},
			{
				"a refund", w.carrier.Notice("Refund", "refund", field("outTradeNo", id), field("orderAmount", "9.90"), field("refundAmount", "9.90")), "purchase_transition",
				func() bool { return w.purchase(id).Status == dataplan.Refunded && !w.entitled(device) },
			},
		} {
			before := w.audits(n.trail)
			var fresh, failed atomic.Int64
			var all sync.WaitGroup
			for range times {
				all.Go(func() {
					duplicate, err := w.TakeNotice(context.WithoutCancel(t.Context()), registry.Actor{}, somewhere, n.body)
					switch {
					case err != nil:
						failed.Add(1)
					case !duplicate:
						fresh.Add(1)
					}
				})
			}
			all.Wait()
			if fresh.Load() != 1 || failed.Load() != 0 || w.audits(n.trail) != before+1 || !n.check() {
				t.Errorf("%s: %d taken as new, %d failed, %d audit rows, as it should be: %t", n.name, fresh.Load(), failed.Load(), w.audits(n.trail)-before, n.check())
			}
		}
	})
}

// The same thing said under several ids happens once too.
func TestNoticesThatSayTheSame(t *testing.T) {
	eachEngine(t, func(t *testing.T, w *world) {
		_, sim, id := w.running()
		again := w.carrier.Notice("PkgEffective", "again", field("iccid", string(sim.ICCID)), field("data", json.RawMessage(`{"outTradeNo":"`+id+`"}`)))
		w.take(again)
		if o := w.outcome("again"); o != dataplan.OutcomeRepeated {
			t.Errorf("a second beginning is %s", o)
		}
		for i, want := range []dataplan.NoticeOutcome{dataplan.OutcomeHandled, dataplan.OutcomeRepeated} {
			name := fmt.Sprintf("refund-%d", i)
			w.take(w.carrier.Notice("Refund", name, field("outTradeNo", id), field("refundAmount", "9.90")))
			if o := w.outcome(name); o != want {
				t.Errorf("refund %d is %s", i, o)
			}
		}
		if w.audits("purchase_transition") != 3 { // ordering, active, refunded
			t.Errorf("%d transitions", w.audits("purchase_transition"))
		}
	})
}

func TestPackageMayBeginBeforeItsOrderIsKnown(t *testing.T) {
	eachEngine(t, func(t *testing.T, w *world) {
		device := w.device()
		sim := w.sim(device)
		id := w.paid(device, sim.ICCID)
		w.take(w.carrier.Notice("PkgEffective", "e", field("iccid", string(sim.ICCID)), field("data", json.RawMessage(`{"packageCode":"P100"}`))))
		if p := w.purchase(id); p.Stage != dataplan.Active || !w.entitled(device) {
			t.Errorf("it is %s", p.Stage)
		}
		_ = w.Fulfil(t.Context())
		if n := len(w.carrier.Orders()); n != 0 {
			t.Errorf("it was ordered %d times after it had begun", n)
		}
	})
}

func TestNoticesOfTheTimeBefore(t *testing.T) {
	eachEngine(t, func(t *testing.T, w *world) {
		device := w.device()
		sim := w.sim(device)
		id := w.paid(device, sim.ICCID)
		_ = w.Fulfil(t.Context())
		w.pass(time.Minute)
		stopped := w.carrier.Notice("CardStopped", "stopped", field("iccid", string(sim.ICCID)))
		alert := w.carrier.Notice("FlowAlert", "alert", field("iccid", string(sim.ICCID)), field("alert_type", 1), field("alert_value", "0"))
		w.pass(time.Minute)
		w.take(w.carrier.Notice("PkgEffective", "effective", field("iccid", string(sim.ICCID))))
		w.take(stopped)
		w.take(alert)
		if p := w.purchase(id); p.Stage != dataplan.Active || w.simOf(sim).Status != dataplan.SIMActive || w.outcome("stopped") != dataplan.OutcomeStale || w.outcome("alert") != dataplan.OutcomeStale {
			t.Errorf("%s, %s, %s, %s", p.Stage, w.simOf(sim).Status, w.outcome("stopped"), w.outcome("alert"))
		}
	})
}

func TestNoticesThatNothingMatchesAreTriedAgain(t *testing.T) {
	eachEngine(t, func(t *testing.T, w *world) {
		device := w.device()
		sim := w.sim(device)
		w.n++
		id := fmt.Sprintf("%032x", w.n+1) // of the purchase that will be
		w.take(w.carrier.Notice("SomethingNew", "new", field("x", "y")))
		w.take(w.carrier.Notice("FlowAlert", "nobody", field("iccid", "8900000099999999999"), field("alert_type", 1), field("alert_value", "5")))
		w.take(w.carrier.Notice("PkgEffective", "early", field("iccid", string(sim.ICCID)), field("data", json.RawMessage(`{"outTradeNo":"`+id+`"}`))))
		for name, want := range map[string]dataplan.NoticeOutcome{"new": dataplan.OutcomeIgnored, "nobody": dataplan.OutcomeUnmatched, "early": dataplan.OutcomeUnmatched} {
			if o := w.outcome(name); o != want {
				t.Errorf("%s is %s", name, o)
			}
		}
		if got := w.paid(device, sim.ICCID); got != id {
			t.Fatalf("the purchase is %s", got)
		}
		if err := w.ReconcileCarrier(t.Context()); err != nil {
			t.Fatal(err)
		}
		if p := w.purchase(id); p.Stage != dataplan.Active || w.outcome("early") != dataplan.OutcomeHandled || w.outcome("nobody") != dataplan.OutcomeUnmatched {
			t.Errorf("it is %s, %s", p.Stage, w.outcome("early"))
		}
	})
}

func TestNoticeThatFailsComesAgain(t *testing.T) {
	w := newWorld(t, schematest.SQLite(t))
	device, sim, _ := w.running()
	body := w.carrier.Notice("CardStopped", "stopped", field("iccid", string(sim.ICCID)))
	w.restart(&death{step: 1})
	if _, err := w.TakeNotice(t.Context(), registry.Actor{}, somewhere, body); err == nil {
		t.Fatal("it was taken")
	}
	w.restart(nil)
	if w.outcome("stopped") != "" || !w.entitled(device) {
		t.Error("what failed has left a trace")
	}
	if w.take(body) || w.entitled(device) {
		t.Error("the repetition did nothing")
	}
}

// The order of the checks, and what each refuses. [contracts E.3]
func TestNoticesThatAreRefused(t *testing.T) {
	w := newWorld(t, schematest.SQLite(t))
	_, sim, _ := w.running()
	good := string(w.carrier.Notice("CardStopped", "good-1", field("iccid", string(sim.ICCID))))
	w.pass(48 * time.Hour)
	fresh := string(w.carrier.Notice("NothingToUs", "id-1", field("iccid", string(sim.ICCID))))
	other := string(w.carrier.Notice("NothingToUs", "id-1", field("iccid", "8900000000000000777")))
	w.take([]byte(fresh))
	reader, err := eiotclub.NewReader(eiotclub.Secret(w.carrier.Secret()), eiotclub.Signer{})
	if err != nil {
		t.Fatal(err)
	}
	walled := dataplan.New(w.db.DataPlans(), w, dataplan.Options{
		Now: w.clock, Notices: reader, NoticeAddresses: []netip.Prefix{netip.MustParsePrefix("203.0.113.0/24")}, Logger: slog.New(slog.DiscardHandler),
	})
	unguarded := dataplan.New(w.db.DataPlans(), w, dataplan.Options{Logger: slog.New(slog.DiscardHandler)})
	for name, c := range map[string]struct {
		service *dataplan.Service
		body    string
		want    error
	}{
		"without a secret, whatever it is":       {unguarded, `no JSON`, dataplan.ErrWebhookNotConfigured},
		"from another address, whatever it is":   {walled, `no JSON`, dataplan.ErrNoticeAddress},
		"no JSON":                                {w.Service, `no JSON`, dataplan.ErrNoticePayload},
		"no object":                              {w.Service, `[1]`, dataplan.ErrNoticePayload},
		"a name twice":                           {w.Service, strings.Replace(fresh, `{`, `{"id":"x",`, 1), dataplan.ErrNoticePayload},
		"no signature":                           {w.Service, `{"id":"x"}`, dataplan.ErrNoticeSignature},
		"an empty signature":                     {w.Service, `{"id":"x","sign":""}`, dataplan.ErrNoticeSignature},
		"a signature of another length":          {w.Service, strings.Replace(fresh, `"sign":"`, `"sign":"0`, 1), dataplan.ErrNoticeSignature},
		"a byte that was changed":                {w.Service, strings.Replace(fresh, `NothingToUs`, `NothingTous`, 1), dataplan.ErrNoticeSignature},
		"signed two days ago":                    {w.Service, good, dataplan.ErrNoticeStale},
		"the id of another":                      {w.Service, other, dataplan.ErrNoticeReused},
		"without an id":                          {w.Service, string(w.carrier.Signed(field("event", "CardStopped"), field("timestamp", int(w.clock().Unix())), field("nonce", 12345))), dataplan.ErrNoticePayload},
		"without a nonce":                        {w.Service, string(w.carrier.Signed(field("event", "X"), field("id", "a"), field("timestamp", int(w.clock().Unix())))), dataplan.ErrNoticePayload},
		"an id that has swallowed a parameter":   {w.Service, string(w.carrier.Notice("X", "a&nonce=12345")), dataplan.ErrNoticePayload},
		"a name that has swallowed a parameter":  {w.Service, string(w.carrier.Notice("X", "a", field("b=1&c", "2"))), dataplan.ErrNoticePayload},
		"an ICCID that has swallowed something":  {w.Service, string(w.carrier.Notice("CardStopped", "a", field("iccid", string(sim.ICCID)+"&id=b"))), dataplan.ErrNoticePayload},
		"data that is a list of numbers":         {w.Service, string(w.carrier.Notice("SubPkgList", "a", field("data", json.RawMessage(`[1,2]`)))), dataplan.ErrNoticePayload},
		"an order's name that is something else": {w.Service, string(w.carrier.Notice("Refund", "a", field("outTradeNo", "x y"))), dataplan.ErrNoticePayload},
	} {
		t.Run(name, func(t *testing.T) {
			_, err := c.service.TakeNotice(t.Context(), registry.Actor{}, somewhere, []byte(c.body))
			if !errors.Is(err, c.want) {
				t.Errorf("got %v, want %v", err, c.want)
			}
			if err != nil && (strings.Contains(err.Error(), w.carrier.Secret()) || strings.Contains(err.Error(), "secret=")) {
				t.Errorf("the error tells the secret: %v", err)
			}
		})
	}
	if n := w.audits("id_reuse"); n != 1 {
		t.Errorf("%d audit rows of an id that was used again", n)
	}
	if _, err := walled.TakeNotice(t.Context(), registry.Actor{}, netip.MustParseAddr("::ffff:203.0.113.9"), w.carrier.Notice("X", "walled")); err != nil {
		t.Errorf("from an address that is allowed: %v", err)
	}
	// Signed anew, it is the same: only the time differs, and the nonce.
	w.pass(time.Hour)
	if !w.take(w.carrier.Notice("NothingToUs", "id-1", field("iccid", string(sim.ICCID)))) {
		t.Error("a repetition that was signed anew is taken for a new one")
	}
}

// FuzzNotice reads whatever arrives: with a good signature or without, it is a
// notification or an error, and what it names has the form that it must have.
func FuzzNotice(f *testing.F) {
	f.Add(`{"event":"FlowAlert","iccid":"89000000000000000447","id":"e","nonce":90082,"timestamp":1746050702,"alert_type":1,"alert_value":"80"}`)
	f.Add(`{"event":"SubPkgList","id":"e","nonce":90082,"timestamp":"1746050702","data":[{"outTradeNo":"x","orderId":5}]}`)
	f.Add(`{"event":"PkgEffective","id":"e","nonce":90082,"timestamp":1746050702,"data":{"state":true}}`)
	reader, err := eiotclub.NewReader(testSecret, eiotclub.Signer{})
	if err != nil {
		f.Fatal(err)
	}
	signer := eiotclub.Signer{Secret: testSecret, Exclude: []string{"appkey"}}
	f.Fuzz(func(t *testing.T, body string) {
		if _, err := reader.Read([]byte(body)); err == nil {
			t.Fatalf("%q was taken without a signature", body)
		}
		p, err := eiotclub.ParseParams([]byte(body))
		if err != nil {
			return
		}
		p["sign"], _ = json.Marshal(signer.Sign(p))
		signed, err := json.Marshal(p)
		if err != nil {
			return
		}
		n, err := reader.Read(signed)
		if err != nil {
			return
		}
		if n.ID == "" || strings.ContainsAny(n.ID+n.Event+string(n.ICCID)+n.OutTradeNo, "&=") || len(n.Hash) != 32 {
			t.Fatalf("%q was read as %+v", body, n)
		}
	})
}
