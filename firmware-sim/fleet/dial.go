package fleet

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"syscall"

	"github.com/opticworks/devicecloud/firmware-sim/mqttwire"
)

// Link is a device's connection: the one to talk over, and the bare one underneath, which scenarios cut.
type Link struct {
	net.Conn
	Bare net.Conn
}

// Cut ends the connection below TLS, so that the server hears no farewell: by FIN, or by RST where that is possible.
func (l Link) Cut(reset bool) {
	type lingerer interface{ SetLinger(sec int) error }
	if tcp, ok := l.Bare.(lingerer); ok && reset {
		// Fails only on a connection that is already gone, which is what we want.
		_ = tcp.SetLinger(0)
	}
	_ = l.Bare.Close()
}

// Dialer opens the connection of the device with that index.
type Dialer func(ctx context.Context, index int) (Link, error)

// perAddress is how many connections share a loopback source address. One address has about 28,000 ports.
const perAddress = 20_000

// NewDialer returns a Dialer to an MQTT URL. roots may be nil for the system's. wrap, when given, gets between TCP and
// TLS; the flaky scenario breaks connections there.
func NewDialer(rawURL string, roots *x509.CertPool, devices int, wrap func(index int, bare net.Conn) net.Conn) (Dialer, error) {
	address, secure, err := mqttwire.ParseURL(rawURL)
	if err != nil {
		return nil, err
	}
	host, _, err := net.SplitHostPort(address)
	if err != nil {
		return nil, err
	}
	// No session cache: esp-mqtt does not resume sessions either, so each reconnect costs the server a full handshake.
	// Nor does mbedTLS offer the large post-quantum key share that Go would.
	tlsConfig := &tls.Config{
		RootCAs: roots, ServerName: host, MinVersion: tls.VersionTLS12,
		CurvePreferences: []tls.CurveID{tls.CurveP256, tls.X25519},
	}
	spread := devices > perAddress && isLoopback(host)
	return func(ctx context.Context, index int) (Link, error) {
		var dialer net.Dialer
		if spread {
			dialer.LocalAddr = &net.TCPAddr{IP: net.IPv4(127, 0, 0, byte(1+index/perAddress))}
		}
		bare, err := dialer.DialContext(ctx, "tcp", address)
		if err != nil {
			return Link{}, err
		}
		if wrap != nil {
			bare = wrap(index, bare)
		}
		if !secure {
			return Link{Conn: bare, Bare: bare}, nil
		}
		conn := tls.Client(bare, tlsConfig)
		if err := conn.HandshakeContext(ctx); err != nil {
			return Link{}, errors.Join(&tlsError{err}, bare.Close())
		}
		return Link{Conn: conn, Bare: bare}, nil
	}, nil
}

// isLoopback also answers for names: only an IPv4 loopback target can be reached from 127.0.0.x.
func isLoopback(host string) bool {
	if host == "localhost" {
		return true
	}
	ip := net.ParseIP(host)
	return ip != nil && ip.To4() != nil && ip.IsLoopback()
}

// ReadRoots loads a PEM file of certification authorities; "" means the system's and gives nil.
func ReadRoots(path string) (*x509.CertPool, error) {
	if path == "" {
		return nil, nil
	}
	pem, err := os.ReadFile(path)
	if err != nil {
		return nil, err
	}
	pool := x509.NewCertPool()
	if !pool.AppendCertsFromPEM(pem) {
		return nil, fmt.Errorf("%s holds no PEM certificate", path)
	}
	return pool, nil
}

// tlsError marks what failed in the handshake.
type tlsError struct{ err error }

func (e *tlsError) Error() string { return "TLS handshake: " + e.err.Error() }
func (e *tlsError) Unwrap() error { return e.err }

// failureKind names an error for the report's counters.
func failureKind(err error) string {
	var refused *mqttwire.RefusedError
	var gone *mqttwire.DisconnectedError
	var handshake *tlsError
	switch {
	case errors.As(err, &refused):
		return fmt.Sprintf("%s refused %s", refused.Request, refused.Code)
	case errors.As(err, &gone):
		return fmt.Sprintf("DISCONNECT %s", gone.Code)
	case errors.Is(err, mqttwire.ErrMalformed), errors.Is(err, mqttwire.ErrTooLarge):
		return "malformed packet from the server"
	case errors.Is(err, errPingTimeout), errors.Is(err, errNoAnswer):
		return err.Error()
	case errors.Is(err, context.DeadlineExceeded), errors.Is(err, os.ErrDeadlineExceeded):
		return "timeout"
	case errors.Is(err, syscall.ECONNREFUSED):
		return "connection refused"
	case errors.Is(err, syscall.EMFILE), errors.Is(err, syscall.ENFILE), errors.Is(err, syscall.EADDRNOTAVAIL):
		return "this machine is out of files or ports"
	case errors.Is(err, syscall.ECONNRESET), errors.Is(err, syscall.EPIPE):
		return "connection reset"
	case errors.As(err, &handshake):
		return "TLS handshake"
	case errors.Is(err, io.EOF), errors.Is(err, io.ErrUnexpectedEOF), errors.Is(err, io.ErrClosedPipe):
		return "connection closed by the server"
	}
	return "other"
}
