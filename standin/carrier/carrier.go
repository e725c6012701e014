// Package carrier stands in for the SIM carrier on a loopback address: it verifies
// signatures, lets an account ask ten times a second, sells packages, and posts signed
// notifications. It can lose answers, before and after it has done what was asked, as
// networks do. It serves tests and demonstrations; what it knows of the carrier's wire is
// written anew, so that it and our client cannot be wrong in the same way.
// [contracts E.1]
package carrier

import (
	"bytes"
	"crypto/rand"
	"crypto/sha1"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"
)

// Options configures a [Server]. The zero value is usable.
type Options struct {
	// Target is the URL that notifications are posted to; nil or "": nowhere.
	Target func() string
	// Begins makes the packages that are ordered begin at once, with the notifications
	// that tell of it; else [Server.Begin] does.
	Begins bool
	// PerSecond is how often the account may ask; default 10.
	PerSecond int
	Now       func() time.Time // default time.Now
}

// Fault is what goes wrong with a request.
type Fault int

// The faults.
const (
	None        Fault = iota
	LoseBefore        // the connection is lost before anything is done
	LoseAfter         // everything is done, and the answer is lost
	Broken            // 502 without doing anything
	BrokenAfter       // everything is done, and the answer is 502
	Refuse            // a code that is no success
	Garbled           // everything is done, and the answer is no JSON
	Late              // everything is done once the client has given up
)

// Order is an order that was taken.
type Order struct {
	ID          string
	OutTradeNo  string
	ICCID       string
	PackageCode string
	State       int // 0 waiting, 1 in use, 2 done
}

// Server is the stand-in. It is safe for concurrent use.
type Server struct {
	opts   Options
	appKey string
	secret string
	server *http.Server
	url    string
	client *http.Client
	wg     sync.WaitGroup

	mu        sync.Mutex
	faults    []Fault
	orders    []Order
	recent    []time.Time
	throttled int
	forged    int
	asked     int
	cards     map[string]Card
	notices   int
}

// Card is what the carrier says of a SIM.
type Card struct {
	Status    string // ACTIVATED_NAME, DEACTIVATED_NAME...; default ACTIVATED_NAME
	UsedMB    int64
	TotalMB   int64
	ExpiresAt time.Time
}

// Start starts a stand-in on a free port of this machine.
func Start(opts Options) (*Server, error) {
	if opts.PerSecond <= 0 {
		opts.PerSecond = 10
	}
	if opts.Now == nil {
		opts.Now = time.Now
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return nil, err
	}
	s := &Server{
		opts: opts, appKey: "standin-" + rand.Text()[:8], secret: "carrier-" + rand.Text(), url: "http://" + l.Addr().String(),
		client: &http.Client{Timeout: 10 * time.Second}, cards: map[string]Card{},
	}
	mux := http.NewServeMux()
	mux.HandleFunc("POST /api/v3/package/orderPackage", s.handle(s.order))
	mux.HandleFunc("POST /api/v3/package/packageOrderRecord", s.handle(s.record))
	mux.HandleFunc("POST /api/v3/card/getCardsInfo", s.handle(s.card))
	s.server = &http.Server{Handler: mux, ReadHeaderTimeout: 5 * time.Second}
	s.wg.Go(func() { _ = s.server.Serve(l) }) // it ends with Close
	return s, nil
}

// URL is where it answers, AppKey and Secret the account that it knows. The secret signs
// notifications too.
func (s *Server) URL() string { return s.url }

// AppKey is the account's name.
func (s *Server) AppKey() string { return s.appKey }

// Secret is the account's secret.
func (s *Server) Secret() string { return s.secret }

// Close ends it, with the notifications that are being sent.
func (s *Server) Close() error {
	err := s.server.Close()
	s.wg.Wait()
	s.client.CloseIdleConnections()
	return err
}

// Fail makes the next requests go wrong, in this order.
func (s *Server) Fail(faults ...Fault) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.faults = append(s.faults, faults...)
}

// Orders are the orders that were taken, in order.
func (s *Server) Orders() []Order {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Clone(s.orders)
}

// Asked is how many requests came with a good signature, Throttled how many of them too
// soon, Forged how many with a bad one.
func (s *Server) Asked() (asked, throttled, forged int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.asked, s.throttled, s.forged
}

// SetCard says how a SIM stands.
func (s *Server) SetCard(iccid string, c Card) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.cards[iccid] = c
}

// params are a request's parameters, all of them texts or numbers.
type params map[string]any

func (p params) text(name string) string {
	switch v := p[name].(type) {
	case string:
		return v
	case json.Number:
		return v.String()
	}
	return ""
}

// handle is what surrounds every request: signature, rate, and what is to go wrong.
func (s *Server) handle(do func(params) any) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		p := params{}
		// All of it: the server sees that a client gives up only once its request is read.
		body, err := io.ReadAll(io.LimitReader(r.Body, 1<<20))
		d := json.NewDecoder(bytes.NewReader(body))
		d.UseNumber()
		if err != nil || d.Decode(&p) != nil {
			answer(w, 400, nil)
			return
		}
		if err := s.verify(p); err != nil {
			s.mu.Lock()
			s.forged++
			s.mu.Unlock()
			answer(w, 40001, nil)
			return
		}
		fault, tooSoon := s.admit()
		switch {
		case tooSoon:
			http.Error(w, "too many requests", http.StatusTooManyRequests)
		case fault == LoseBefore:
			lose(w)
		case fault == Broken:
			http.Error(w, "bad gateway", http.StatusBadGateway)
		case fault == Refuse:
			answer(w, 50010, nil)
		default:
			if fault == Late {
				<-r.Context().Done()
			}
			data := do(p)
			switch fault {
			case LoseAfter:
				lose(w)
			case BrokenAfter:
				http.Error(w, "bad gateway", http.StatusBadGateway)
			case Garbled:
				_, _ = io.WriteString(w, `{"code":`) // the client has gone: there is nobody to tell
			default:
				answer(w, 10000, data)
			}
		}
	}
}

// lose ends the connection without an answer.
func lose(w http.ResponseWriter) {
	if conn, _, err := http.NewResponseController(w).Hijack(); err == nil {
		_ = conn.Close()
	}
}

func answer(w http.ResponseWriter, code int, data any) {
	message := "Success"
	if code != 10000 {
		message = "Failure"
	}
	w.Header().Set("Content-Type", "application/json")
	_ = json.NewEncoder(w).Encode(map[string]any{"code": code, "message": message, "data": data}) // as above
}

// admit counts a request against the rate and takes the fault that is next.
func (s *Server) admit() (fault Fault, tooSoon bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	now := time.Now() // of the wire, whatever the options say
	s.asked++
	s.recent = slices.DeleteFunc(s.recent, func(t time.Time) bool { return now.Sub(t) >= time.Second })
	if len(s.recent) >= s.opts.PerSecond {
		s.throttled++
		return None, true
	}
	s.recent = append(s.recent, now)
	if len(s.faults) > 0 {
		fault, s.faults = s.faults[0], s.faults[1:]
	}
	return fault, false
}

var errSignature = errors.New("the signature is not the account's")

// verify checks a request's signature and its system parameters.
func (s *Server) verify(p params) error {
	at, err := strconv.ParseInt(p.text("timestamp"), 10, 64)
	nonce, nonceErr := strconv.Atoi(p.text("nonce"))
	age := s.opts.Now().Unix() - at
	if err != nil || nonceErr != nil || nonce < 10000 || nonce > 99999 || age > 600 || age < -600 || p.text("appkey") != s.appKey {
		return errSignature
	}
	pairs := []string{}
	for name := range p {
		if value := p.text(name); name != "sign" && value != "" {
			pairs = append(pairs, name+"="+value)
		}
	}
	if p.text("sign") != s.sign(pairs) {
		return errSignature
	}
	return nil
}

// sign is the signature over name=value pairs.
func (s *Server) sign(pairs []string) string {
	slices.SortFunc(pairs, func(a, b string) int {
		nameA, _, _ := strings.Cut(a, "=")
		nameB, _, _ := strings.Cut(b, "=")
		return strings.Compare(nameA, nameB)
	})
	sum := sha1.Sum([]byte(strings.Join(pairs, "&") + "&secret=" + s.secret))
	return strings.ToUpper(hex.EncodeToString(sum[:]))
}

// order takes an order, also one whose outTradeNo it knows: the real one is not known to
// refuse it.
func (s *Server) order(p params) any {
	s.mu.Lock()
	o := Order{
		ID: fmt.Sprintf("EO%010d", len(s.orders)+1), OutTradeNo: p.text("outTradeNo"), ICCID: p.text("iccid"), PackageCode: p.text("packageCode"),
	}
	s.orders = append(s.orders, o)
	s.mu.Unlock()
	if s.opts.Begins {
		s.wg.Go(func() { _ = s.Begin(o.ID) }) // who does not hear of it asks
	}
	return map[string]any{"orderId": o.ID}
}

func (s *Server) record(p params) any {
	list := []map[string]any{}
	for _, o := range s.Orders() {
		if o.ICCID == p.text("iccid") && strconv.Itoa(o.State) == p.text("state") {
			list = append(list, map[string]any{"orderId": o.ID, "outTradeNo": o.OutTradeNo, "packageCode": o.PackageCode, "state": o.State})
		}
	}
	return list
}

func (s *Server) card(p params) any {
	s.mu.Lock()
	defer s.mu.Unlock()
	iccid := p.text("iccid")
	c := s.cards[iccid]
	if c.Status == "" {
		c.Status = "ACTIVATED_NAME"
	}
	data := map[string]any{"iccid": iccid, "card_status_str": c.Status, "used": c.UsedMB << 20, "total": c.TotalMB << 20}
	if !c.ExpiresAt.IsZero() {
		data["expire_timestamp"] = c.ExpiresAt.Unix()
	}
	return []any{data}
}

// Forget drops the faults that have not come to pass.
func (s *Server) Forget() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.faults = nil
}

// Rename changes what an order is called by us: "" is an order that the carrier lists
// without our name.
func (s *Server) Rename(orderID, outTradeNo string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for i := range s.orders {
		if s.orders[i].ID == orderID {
			s.orders[i].OutTradeNo = outTradeNo
		}
	}
}
