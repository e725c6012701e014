package e2e_test

import (
	"bytes"
	"crypto/rand"
	"fmt"
	"io"
	"math/big"
	"net/http"
	"regexp"
	"sync"
)

// inFull is a SIM card's number that is not masked. [contracts E.4]
var inFull = regexp.MustCompile(`\b89\d{17,18}\b`)

// newICCID makes the number of a SIM card that nobody has.
func newICCID() string {
	n, _ := rand.Int(rand.Reader, big.NewInt(1e12))
	return fmt.Sprintf("89000000%012d", n)
}

// scanner looks for numbers of SIM cards in every answer of a cloud, streams included.
// Only a token that was let may be answered with one.
type scanner struct {
	mu    sync.Mutex
	let   map[string]bool // Authorization headers
	leaks []string
}

// allow lets a token see numbers in full: it has the scope admin:sim.
func (s *scanner) allow(token string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.let == nil {
		s.let = map[string]bool{}
	}
	s.let["Bearer "+token] = true
}

// found lists where a number was.
func (s *scanner) found() []string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.leaks
}

// RoundTrip implements http.RoundTripper.
func (s *scanner) RoundTrip(req *http.Request) (*http.Response, error) {
	res, err := http.DefaultTransport.RoundTrip(req)
	if err == nil {
		s.watch(req, res)
	}
	return res, err
}

// watch looks at an answer, at its body as it is read.
func (s *scanner) watch(req *http.Request, res *http.Response) {
	s.mu.Lock()
	let := s.let[req.Header.Get("Authorization")]
	s.mu.Unlock()
	if !let {
		res.Body = &scanned{ReadCloser: res.Body, of: s, what: req.Method + " " + req.URL.Path}
		for name, values := range res.Header {
			if inFull.MatchString(fmt.Sprint(values)) {
				s.leak(req.Method + " " + req.URL.Path + ", header " + name)
			}
		}
	}
}

// CloseIdleConnections is what http.Client asks its transport for.
func (s *scanner) CloseIdleConnections() {
	http.DefaultTransport.(interface{ CloseIdleConnections() }).CloseIdleConnections()
}

func (s *scanner) leak(where string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.leaks = append(s.leaks, where)
}

// scanned is a body that is looked at while it is read.
type scanned struct {
	io.ReadCloser
	of   *scanner
	what string
	tail []byte // a number may lie across two reads
}

func (b *scanned) Read(p []byte) (int, error) {
	n, err := b.ReadCloser.Read(p)
	text := append(b.tail, p[:n]...)
	if err != nil || len(text) > 64 {
		// What may go on is looked at with the next read.
		looked := text
		if err == nil {
			looked = text[:len(text)-32]
		}
		if inFull.Match(looked) {
			b.of.leak(b.what)
		}
	}
	if len(text) > 64 {
		text = text[len(text)-64:]
	}
	b.tail = bytes.Clone(text)
	return n, err
}
