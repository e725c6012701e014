package mail_test

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"math/big"
	"net"
	netmail "net/mail"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/emersion/go-sasl"
	"github.com/emersion/go-smtp"
	"go.uber.org/goleak"

	"github.com/opticworks/devicecloud/account"
	"github.com/opticworks/devicecloud/partner/mail"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const (
	mailHost = "mail.example.com"
	mailUser = "cloud@example.com"
	mailPass = "p@ss/word:1"
	from     = "Devices <no-reply@example.com>"
)

// received is a mail as the server took it.
type received struct {
	from, to, user string
	secure         bool
	text           string
}

// mailServer is a real SMTP server on this machine.
type mailServer struct {
	t       *testing.T
	address string
	roots   *x509.CertPool
	server  *smtp.Server

	mu    sync.Mutex
	mails []received
	// refuse answers a command, by name, instead of taking it.
	refuse map[string]*smtp.SMTPError
	hang   chan struct{} // closed: DATA goes on; nil: it never waits
}

func startServer(t *testing.T, withTLS, implicit bool) *mailServer {
	t.Helper()
	m := &mailServer{t: t, refuse: map[string]*smtp.SMTPError{}}
	m.server = smtp.NewServer(m)
	m.server.Domain, m.server.ReadTimeout, m.server.WriteTimeout = mailHost, 10*time.Second, 10*time.Second
	m.server.AllowInsecureAuth = !withTLS
	m.server.ErrorLog = silent{}
	certificate, roots := newCertificate(t)
	m.roots = roots
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	m.address = listener.Addr().String()
	config := &tls.Config{Certificates: []tls.Certificate{certificate}, MinVersion: tls.VersionTLS12}
	switch {
	case implicit:
		listener = tls.NewListener(listener, config)
	case withTLS:
		m.server.TLSConfig = config
	}
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		_ = m.server.Serve(listener) // ends with the listener
	}()
	t.Cleanup(func() {
		_ = listener.Close() // Server.Close closes only one that Serve has begun with
		_ = m.server.Close()
		<-ended
	})
	return m
}

type silent struct{}

func (silent) Printf(string, ...any) {}
func (silent) Println(...any)        {}

func newCertificate(t *testing.T) (tls.Certificate, *x509.CertPool) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{SerialNumber: big.NewInt(1), NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour), DNSNames: []string{mailHost}, IsCA: true, BasicConstraintsValid: true}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	certificate, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	pool := x509.NewCertPool()
	pool.AddCert(certificate)
	return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key}, pool
}

// dial connects to the server whatever the name.
func (m *mailServer) dial(ctx context.Context, network, _ string) (net.Conn, error) {
	return (&net.Dialer{}).DialContext(ctx, network, m.address)
}

func (m *mailServer) answer(command string) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	if e := m.refuse[command]; e != nil {
		return e
	}
	return nil
}

func (m *mailServer) all() []received {
	m.mu.Lock()
	defer m.mu.Unlock()
	return append([]received{}, m.mails...)
}

// NewSession implements smtp.Backend.
func (m *mailServer) NewSession(c *smtp.Conn) (smtp.Session, error) {
	return &session{server: m, conn: c}, m.answer("EHLO")
}

type session struct {
	server *mailServer
	conn   *smtp.Conn
	mail   received
	user   string
}

func (s *session) Reset()                   { s.mail = received{} }
func (s *session) Logout() error            { return nil }
func (s *session) AuthMechanisms() []string { return []string{sasl.Plain} }

func (s *session) Auth(string) (sasl.Server, error) {
	return sasl.NewPlainServer(func(_, user, password string) error {
		if user != mailUser || password != mailPass {
			return smtp.ErrAuthFailed
		}
		s.user = user
		return nil
	}), nil
}

func (s *session) Mail(from string, _ *smtp.MailOptions) error {
	s.mail.from = from
	return s.server.answer("MAIL")
}

func (s *session) Rcpt(to string, _ *smtp.RcptOptions) error {
	s.mail.to = to
	return s.server.answer("RCPT")
}

func (s *session) Data(r io.Reader) error {
	text, err := io.ReadAll(r)
	if err != nil {
		return err
	}
	if s.server.hang != nil {
		<-s.server.hang
	}
	if err := s.server.answer("DATA"); err != nil {
		return err
	}
	_, secure := s.conn.TLSConnectionState()
	s.mail.text, s.mail.user, s.mail.secure = string(text), s.user, secure
	s.server.mu.Lock()
	defer s.server.mu.Unlock()
	s.server.mails = append(s.server.mails, s.mail)
	return nil
}

const link = "https://cloud.example.com/auth/magic#token=AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA"

// letter has a link in a line that a mail program would cut or encode.
func letter() account.Mail {
	return account.Mail{To: "ann@example.com", Subject: "Your link to sign in", Text: "Open this:\n\n" + link + "\n\n.\nEnd.\n"}
}

func newSMTP(t *testing.T, m *mailServer, url string) *mail.SMTP {
	t.Helper()
	s, err := mail.NewSMTP(url, from, mail.Options{TLS: &tls.Config{RootCAs: m.roots, MinVersion: tls.VersionTLS12}, Dial: m.dial})
	if err != nil {
		t.Fatal(err)
	}
	return s
}

const withAccount = "cloud%40example.com:p%40ss%2Fword%3A1@"

func TestMailsArriveAsTheyWereWritten(t *testing.T) {
	for name, tc := range map[string]struct {
		url          string
		tls, implied bool
	}{
		"with STARTTLS and a password":            {"smtp://" + withAccount + mailHost, true, false},
		"with TLS from the first byte":            {"smtps://" + withAccount + mailHost, true, true},
		"in the clear, to this machine":           {"smtp://" + withAccount + "127.0.0.1:25", false, false},
		"in the clear, without a password":        {"smtp://localhost:25", false, false},
		"with STARTTLS and nothing to sign in by": {"smtp://" + mailHost + ":2525/", true, false},
	} {
		t.Run(name, func(t *testing.T) {
			m := startServer(t, tc.tls, tc.implied)
			if err := newSMTP(t, m, tc.url).Send(t.Context(), letter()); err != nil {
				t.Fatal(err)
			}
			all := m.all()
			if len(all) != 1 {
				t.Fatalf("%d mails arrived", len(all))
			}
			got := all[0]
			if got.from != "no-reply@example.com" || got.to != "ann@example.com" || got.secure != tc.tls || strings.Contains(tc.url, withAccount) != (got.user == mailUser) {
				t.Errorf("arrived as %+v", got)
			}
			checkLetter(t, []byte(got.text))
		})
	}
}

// checkLetter reads a mail as a mail program does.
func checkLetter(t *testing.T, text []byte) {
	t.Helper()
	msg, err := netmail.ReadMessage(bytes.NewReader(text))
	if err != nil {
		t.Fatal(err)
	}
	body, err := io.ReadAll(msg.Body)
	if err != nil {
		t.Fatal(err)
	}
	if got := strings.ReplaceAll(string(body), "\r\n", "\n"); !strings.Contains(got, "\n"+link+"\n") || !strings.Contains(got, "\n.\nEnd.\n") {
		t.Errorf("the text is %q", got)
	}
	for header, want := range map[string]string{
		"From": `"Devices" <no-reply@example.com>`, "To": "<ann@example.com>", "Subject": "Your link to sign in", "Auto-Submitted": "auto-generated",
		"Content-Transfer-Encoding": "8bit",
	} {
		if got := msg.Header.Get(header); got != want {
			t.Errorf("%s is %q, want %q", header, got, want)
		}
	}
	if id := msg.Header.Get("Message-ID"); !strings.HasSuffix(id, "@example.com>") || len(id) < 30 {
		t.Errorf("Message-ID is %q", id)
	}
	if _, err := msg.Header.Date(); err != nil {
		t.Errorf("Date: %v", err)
	}
}

func TestMailIsNeverSentInTheClearToAnotherMachine(t *testing.T) {
	m := startServer(t, false, false) // offers no STARTTLS
	err := newSMTP(t, m, "smtp://"+withAccount+mailHost).Send(t.Context(), letter())
	if err == nil || errors.Is(err, account.ErrMailRefused) || len(m.all()) != 0 {
		t.Errorf("got %v, %d mails", err, len(m.all()))
	}
	for _, url := range []string{"smtp://" + mailHost, "smtps://" + mailHost} {
		m := startServer(t, true, strings.HasPrefix(url, "smtps"))
		other := startServer(t, true, false)
		m.roots = other.roots // nobody knows this server's certificate
		if err := newSMTP(t, m, url).Send(t.Context(), letter()); err == nil || len(m.all()) != 0 {
			t.Errorf("%s with a certificate of nobody: %v, %d mails", url, err, len(m.all()))
		}
	}
}

func TestRefusalsAreForGoodOrNot(t *testing.T) {
	permanent := &smtp.SMTPError{Code: 550, EnhancedCode: smtp.EnhancedCode{5, 1, 1}, Message: "<ann@example.com> is unknown"}
	later := &smtp.SMTPError{Code: 451, EnhancedCode: smtp.EnhancedCode{4, 7, 1}, Message: "<ann@example.com> is greylisted"}
	for _, tc := range []struct {
		command string
		answer  *smtp.SMTPError
		refused bool
	}{
		{"MAIL", permanent, true},
		{"RCPT", permanent, true},
		{"DATA", permanent, true},
		{"MAIL", later, false},
		{"RCPT", later, false},
		{"DATA", later, false},
		{"EHLO", permanent, false}, // it is us whom it does not want
	} {
		t.Run(fmt.Sprintf("%s %d", tc.command, tc.answer.Code), func(t *testing.T) {
			m := startServer(t, false, false)
			m.refuse[tc.command] = tc.answer
			err := newSMTP(t, m, "smtp://127.0.0.1:25").Send(t.Context(), letter())
			if err == nil || errors.Is(err, account.ErrMailRefused) != tc.refused {
				t.Errorf("got %v", err)
			}
			if err != nil && strings.Contains(err.Error(), "ann") && tc.command != "EHLO" {
				t.Errorf("the error names the recipient: %v", err)
			}
			if len(m.all()) != 0 {
				t.Error("the mail arrived")
			}
		})
	}
	t.Run("a wrong password", func(t *testing.T) {
		m := startServer(t, true, false)
		err := newSMTP(t, m, "smtp://cloud%40example.com:wrong-secret@"+mailHost).Send(t.Context(), letter())
		if err == nil || errors.Is(err, account.ErrMailRefused) || strings.Contains(err.Error(), "wrong-secret") {
			t.Errorf("got %v", err)
		}
	})
	t.Run("nobody listens", func(t *testing.T) {
		m := startServer(t, false, false)
		m.address = "127.0.0.1:1"
		if err := newSMTP(t, m, "smtp://127.0.0.1:25").Send(t.Context(), letter()); err == nil || errors.Is(err, account.ErrMailRefused) {
			t.Errorf("got %v", err)
		}
	})
	t.Run("a recipient that is none", func(t *testing.T) {
		m := startServer(t, false, false)
		for _, to := range []string{"", "ann", "ann@example.com\r\nBcc: bob@example.com", "ann@example.com>\r\nRCPT TO:<bob@example.com"} {
			l := letter()
			l.To = to
			if err := newSMTP(t, m, "smtp://127.0.0.1:25").Send(t.Context(), l); !errors.Is(err, account.ErrMailRefused) {
				t.Errorf("%q: %v", to, err)
			}
		}
		if len(m.all()) != 0 {
			t.Error("a mail arrived")
		}
	})
}

func TestAConversationEndsWithItsContext(t *testing.T) {
	m := startServer(t, false, false)
	m.hang = make(chan struct{})
	defer close(m.hang)
	ctx, cancel := context.WithTimeout(t.Context(), 200*time.Millisecond)
	defer cancel()
	began := time.Now()
	if err := newSMTP(t, m, "smtp://127.0.0.1:25").Send(ctx, letter()); err == nil {
		t.Error("it succeeded")
	}
	if took := time.Since(began); took > 5*time.Second {
		t.Errorf("it took %v", took)
	}
}

func TestURLsThatCannotBeRightAreRefused(t *testing.T) {
	for _, url := range []string{
		"", "mail.example.com", "http://mail.example.com", "smtp://", "smtp://user@mail.example.com", "smtp://:hunter2@mail.example.com",
		"smtp://user:hunter2@mail.example.com:0", "smtp://user:hunter2@mail.example.com:70000", "smtp://user:hunter2@mail.example.com/path",
		"smtp://user:hunter2@mail.example.com?tls=off", "smtp://user:hunter2%@mail.example.com", "SMTP+STARTTLS://user:hunter2@mail.example.com",
	} {
		if err := mail.CheckURL(url); err == nil || strings.Contains(err.Error(), "hunter2") {
			t.Errorf("%q: %v", url, err)
		}
	}
	for _, sender := range []string{"", "example.com", "a@example.com\r\nBcc: b@example.com", "a@example.com, b@example.com"} {
		if _, err := mail.NewSMTP("smtp://localhost", sender, mail.Options{}); err == nil {
			t.Errorf("the sender %q is taken", sender)
		}
	}
}

func TestTextsThatWouldBeChangedOnTheirWayAreRefused(t *testing.T) {
	m := startServer(t, false, false)
	for _, text := range []string{strings.Repeat("a", 999), "a\rb", "a\x00b"} {
		l := letter()
		l.Text = text
		if err := newSMTP(t, m, "smtp://127.0.0.1:25").Send(t.Context(), l); err == nil {
			t.Errorf("%.20q was sent", text)
		}
	}
}
