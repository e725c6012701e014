// Package stripe is a stand-in for Stripe, for demonstrations and tests: a server on a
// loopback address that takes what our client sends, checks of it what Stripe checks,
// shows a payment page, and reports by signed webhooks. No money moves.
//
// api.go answers our client, page.go is what the buyer sees, report.go is what it sends.
package stripe

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"fmt"
	"net"
	"net/http"
	"net/url"
	"sync"
	"time"
)

// Options configures a Server. The zero value of each field is usable.
type Options struct {
	Addr    string           // to listen on; default 127.0.0.1:0
	Key     string           // the secret key that our client must show; default a random sk_test_...
	Secret  string           // what reports are signed with; default a random whsec_...
	Target  func() string    // URL that reports are sent to; nil or "": nowhere
	Now     func() time.Time // default time.Now
	Patient time.Duration    // between the tries of a report that was not taken; default 1 s
}

// Server is the stand-in. It is safe for concurrent use.
type Server struct {
	opts     Options
	listener net.Listener
	http     *http.Server
	client   *http.Client
	ctx      context.Context // of the reports that are under way
	stop     context.CancelFunc
	reports  sync.WaitGroup

	mu            sync.Mutex
	sessions      map[string]*session
	intents       map[string]*intent
	invoices      map[string]*invoice
	subscriptions map[string]string       // id -> id of the session
	answers       map[string]cachedAnswer // by idempotency key
	problems      []string
	sent          []Sent
}

type session struct {
	id, mode, status, paymentStatus, successURL, cancelURL, name string
	clientReference                                              string
	amount                                                       int64
	currency                                                     string
	metadata, inner                                              map[string]string // inner: of the payment or subscription
	expiresAt                                                    time.Time
	intent, subscription                                         string
}

type intent struct {
	id, charge, currency string
	amount, refunded     int64
	metadata             map[string]string
}

type invoice struct {
	id, subscription, intent, currency string
	amount                             int64
	metadata                           map[string]string
	start, end                         time.Time
}

type cachedAnswer struct {
	request string
	status  int
	body    []byte
}

// Sent is a report that was sent.
type Sent struct {
	Type   string
	Body   []byte
	Status int // of the last try; 0: nobody answered
}

// Start listens and serves until Close.
func Start(o Options) (*Server, error) {
	if o.Addr == "" {
		o.Addr = "127.0.0.1:0"
	}
	if o.Key == "" {
		o.Key = "sk_test_" + random(24)
	}
	if o.Secret == "" {
		o.Secret = "whsec_" + random(24)
	}
	if o.Now == nil {
		o.Now = time.Now
	}
	if o.Patient <= 0 {
		o.Patient = time.Second
	}
	listener, err := net.Listen("tcp", o.Addr)
	if err != nil {
		return nil, fmt.Errorf("stand-in for Stripe: %w", err)
	}
	s := &Server{
		opts: o, listener: listener, client: &http.Client{Timeout: 10 * time.Second},
		sessions: map[string]*session{}, intents: map[string]*intent{}, invoices: map[string]*invoice{},
		subscriptions: map[string]string{}, answers: map[string]cachedAnswer{},
	}
	s.ctx, s.stop = context.WithCancel(context.Background())
	mux := http.NewServeMux()
	s.api(mux)
	s.pages(mux)
	s.http = &http.Server{Handler: mux, ReadHeaderTimeout: 5 * time.Second}
	go func() { _ = s.http.Serve(listener) }() // ends with Close
	return s, nil
}

// URL is where it answers.
func (s *Server) URL() string { return "http://" + s.listener.Addr().String() }

// Key is the secret key that it takes.
func (s *Server) Key() string { return s.opts.Key }

// Secret is what its reports are signed with.
func (s *Server) Secret() string { return s.opts.Secret }

// Close ends it, and gives up reports that are not taken.
func (s *Server) Close() error {
	s.stop()
	err := s.http.Close()
	s.reports.Wait()
	return err
}

// Problems lists what our client did wrong.
func (s *Server) Problems() []string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return append([]string(nil), s.problems...)
}

// Sent lists the reports that were sent, in the order in which they were taken or given up.
func (s *Server) Sent() []Sent {
	s.mu.Lock()
	defer s.mu.Unlock()
	return append([]Sent(nil), s.sent...)
}

// SessionOf is the id in the address of a payment page.
func SessionOf(checkoutURL string) string {
	u, err := url.Parse(checkoutURL)
	if err != nil || len(u.Path) < len("/pay/") {
		return ""
	}
	return u.Path[len("/pay/"):]
}

func random(bytes int) string {
	b := make([]byte, bytes)
	_, _ = rand.Read(b) // never fails, see its documentation
	return hex.EncodeToString(b)
}
