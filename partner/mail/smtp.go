package mail

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"net/textproto"
	"net/url"
	"strconv"
	"time"

	gomail "github.com/wneessen/go-mail"

	"github.com/opticworks/devicecloud/account"
)

// talkTime bounds each step of a conversation with the mail server; the caller's
// context bounds all of it.
const talkTime = 15 * time.Second

// server is what an SMTP URL says.
type server struct {
	host           string
	port           int
	implicitTLS    bool // smtps: TLS from the first byte [RFC 8314 3.3]
	startTLS       bool // mandatory
	user, password string
}

// errURL never quotes: the URL holds a password.
var errURL = errors.New("must be smtp://user:password@host:587 or smtps://user:password@host:465, user and password optional and percent-encoded")

// parseURL reads an SMTP URL. smtp means mandatory STARTTLS, but none to this
// machine, whose mail servers have no certificate that anybody could check.
func parseURL(text string) (server, error) {
	u, err := url.Parse(text)
	if err != nil || u.Hostname() == "" || u.Path != "" && u.Path != "/" || u.RawQuery != "" || u.Fragment != "" {
		return server{}, errURL
	}
	s := server{host: u.Hostname(), user: u.User.Username()}
	s.password, _ = u.User.Password()
	switch u.Scheme {
	case "smtp":
		s.port, s.startTLS = 587, !loopback(s.host)
	case "smtps":
		s.port, s.implicitTLS = 465, true
	default:
		return server{}, errURL
	}
	if port := u.Port(); port != "" {
		if s.port, err = strconv.Atoi(port); err != nil || s.port < 1 || s.port > 65535 {
			return server{}, errURL
		}
	}
	if (s.user == "") != (s.password == "") {
		return server{}, errURL
	}
	return s, nil
}

func loopback(host string) bool {
	if host == "localhost" {
		return true
	}
	ip, err := netip.ParseAddr(host)
	return err == nil && ip.IsLoopback()
}

// CheckURL refuses what is no SMTP URL; its error does not quote it.
func CheckURL(text string) error {
	_, err := parseURL(text)
	return err
}

// Options configures an SMTP client; its zero value is usable.
type Options struct {
	TLS  *tls.Config                                                          // whom to trust; default the system's roots
	Now  func() time.Time                                                     // default time.Now
	Dial func(ctx context.Context, network, address string) (net.Conn, error) // default a net.Dialer
}

// SMTP hands mails over to a mail server, each in a conversation of its own. It is
// safe for concurrent use.
type SMTP struct {
	server server
	from   string
	opts   Options
}

var _ account.Mailer = (*SMTP)(nil)

// NewSMTP makes the client of a mail server, without connecting: smtpURL as
// [CheckURL] takes it, from as [CheckFrom] does.
func NewSMTP(smtpURL, from string, opts Options) (*SMTP, error) {
	s, err := parseURL(smtpURL)
	if err != nil {
		return nil, fmt.Errorf("mail: the URL of the mail server %w", err)
	}
	if err := CheckFrom(from); err != nil {
		return nil, fmt.Errorf("mail: the sender is %w", err)
	}
	if opts.Now == nil {
		opts.Now = time.Now
	}
	if opts.Dial == nil {
		opts.Dial = (&net.Dialer{Timeout: talkTime}).DialContext
	}
	if opts.TLS == nil {
		opts.TLS = &tls.Config{MinVersion: tls.VersionTLS12}
	}
	opts.TLS = opts.TLS.Clone()
	opts.TLS.ServerName = s.host
	return &SMTP{server: s, from: from, opts: opts}, nil
}

// Send implements account.Mailer.
func (s *SMTP) Send(ctx context.Context, m account.Mail) error {
	msg, err := message(s.from, m, s.opts.Now())
	if err != nil {
		return err
	}
	conn, err := s.dial(ctx)
	if err != nil {
		return fmt.Errorf("mail: %w", err)
	}
	// go-mail looks at no context once it is connected, and leaves the connection open
	// where it fails before the first mail.
	cut := context.AfterFunc(ctx, func() { _ = conn.Close() })
	defer func() {
		cut()
		_ = conn.Close() // it is closed, as a rule
	}()
	client, err := s.client(conn)
	if err != nil {
		return err
	}
	err = client.DialAndSendWithContext(ctx, msg)
	if msg.IsDelivered() { // the farewell may have failed, the mail has not
		return nil
	}
	return judge(err)
}

// dial connects, with TLS where the URL is smtps.
func (s *SMTP) dial(ctx context.Context) (net.Conn, error) {
	ctx, cancel := context.WithTimeout(ctx, talkTime)
	defer cancel()
	conn, err := s.opts.Dial(ctx, "tcp", net.JoinHostPort(s.server.host, strconv.Itoa(s.server.port)))
	if err != nil || !s.server.implicitTLS {
		return conn, err
	}
	secured := tls.Client(conn, s.opts.TLS)
	if err := secured.HandshakeContext(ctx); err != nil {
		return nil, errors.Join(err, conn.Close())
	}
	return secured, nil
}

// client speaks over a connection that is open.
func (s *SMTP) client(conn net.Conn) (*gomail.Client, error) {
	options := []gomail.Option{
		gomail.WithPort(s.server.port), gomail.WithTimeout(talkTime), gomail.WithTLSConfig(s.opts.TLS),
		gomail.WithDialContextFunc(func(context.Context, string, string) (net.Conn, error) { return conn, nil }),
	}
	if s.server.startTLS {
		options = append(options, gomail.WithTLSPolicy(gomail.TLSMandatory))
	} else { // it is encrypted already, or does not leave this machine
		options = append(options, gomail.WithTLSPolicy(gomail.NoTLS))
	}
	if s.server.user != "" {
		options = append(options, gomail.WithUsername(s.server.user), gomail.WithPassword(s.server.password),
			gomail.WithOpportunisticSMTPAuth(gomail.SMTPAuthSCRAMSHA256, gomail.SMTPAuthPlain, gomail.SMTPAuthLogin))
	}
	client, err := gomail.NewClient(s.server.host, options...)
	if err != nil {
		return nil, errors.New("mail: the client's options contradict each other")
	}
	return client, nil
}

// judge says whether a failure is for good, without the addresses that go-mail
// names and without the server's own words: some repeat what they were told. A 5yz
// answer about this mail is for good; one about us, such as a wrong password, is an
// operator's to put right, and the mail may be taken then. [RFC 5321 4.2.1]
func judge(err error) error {
	var refused *gomail.SendError
	if !errors.As(err, &refused) {
		return ourselves(err)
	}
	text := fmt.Sprintf("mail: %s: %d %s", refused.Reason, refused.ErrorCode(), refused.EnhancedStatusCode())
	if refused.ErrorCode() >= 500 {
		return fmt.Errorf("%w: %s", account.ErrMailRefused, text)
	}
	return errors.New(text)
}

// ourselves is a failure before any mail: of the network, of TLS, or the server's
// answer to who we are.
func ourselves(err error) error {
	var answer *textproto.Error
	var network net.Error
	var certificate *tls.CertificateVerificationError
	switch {
	case errors.As(err, &answer):
		return fmt.Errorf("mail: the mail server answers %d", answer.Code)
	case errors.As(err, &certificate):
		return fmt.Errorf("mail: %w", certificate)
	case errors.As(err, &network):
		return fmt.Errorf("mail: %w", network)
	case errors.Is(err, io.EOF), errors.Is(err, io.ErrUnexpectedEOF):
		return errors.New("mail: the mail server hangs up")
	case errors.Is(err, gomail.ErrNoSupportedAuthDiscovered):
		return errors.New("mail: the mail server offers no way to log in that we take")
	}
	return errors.New("mail: the mail server does not speak SMTP as it should")
}
