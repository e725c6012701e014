package broker

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"sync/atomic"
	"time"
)

// checkEvery is how often, at most, a handshake looks whether the certificate's files have changed.
const checkEvery = 2 * time.Second

// NewTLSConfig makes the TLS configuration of a server from PEM files: TLS 1.2 and 1.3, session tickets, and the ALPN
// protocol "mqtt", which a client may leave out but not replace.
//
// When the files change, handshakes use the new certificate within seconds and established connections stay. A new
// pair that cannot be loaded is logged once and the old one stays.
//
// Clients may present a certificate. It is not verified here, since a device may be known by its fingerprint as well as
// by its chain: the guard hook does that from Conn.PeerCertificates. deviceCAFile, when not empty, becomes ClientCAs, the pool
// to verify against; a Broker does not hint clients at it.
//
// It fails when a file cannot be read, holds no certificate, or when key and certificate do not belong together.
// log may be nil.
func NewTLSConfig(certFile, keyFile, deviceCAFile string, log *slog.Logger) (*tls.Config, error) {
	if log == nil {
		log = slog.New(slog.DiscardHandler)
	}
	cert := &certificate{certFile: certFile, keyFile: keyFile, log: log, now: time.Now}
	if err := cert.load(); err != nil {
		return nil, err
	}
	cert.checked.Store(cert.now().UnixNano())
	config := &tls.Config{
		MinVersion:     tls.VersionTLS12,
		NextProtos:     []string{"mqtt"},
		GetCertificate: cert.get,
		ClientAuth:     tls.RequestClientCert,
	}
	if deviceCAFile != "" {
		pem, err := os.ReadFile(deviceCAFile)
		if err != nil {
			return nil, fmt.Errorf("broker: device CA: %w", err)
		}
		config.ClientCAs = x509.NewCertPool()
		if !config.ClientCAs.AppendCertsFromPEM(pem) {
			return nil, fmt.Errorf("broker: device CA: no certificate in %s", deviceCAFile)
		}
	}
	return config, nil
}

// certificate is a key pair that follows its files.
type certificate struct {
	certFile, keyFile string
	log               *slog.Logger
	now               func() time.Time

	pair    atomic.Pointer[tls.Certificate]
	checked atomic.Int64 // when the files were last looked at; who moves it may use what follows
	loaded  stamp
	broken  stamp // the last state of the files that was logged as broken
}

// stamp tells two states of the files apart.
type stamp struct {
	certTime, keyTime time.Time
	certSize, keySize int64
}

// get implements tls.Config.GetCertificate.
func (c *certificate) get(*tls.ClientHelloInfo) (*tls.Certificate, error) {
	now, last := c.now().UnixNano(), c.checked.Load()
	if now-last > int64(checkEvery) && c.checked.CompareAndSwap(last, now) {
		c.refresh()
	}
	return c.pair.Load(), nil
}

// refresh loads the files again when they changed.
func (c *certificate) refresh() {
	at, err := c.stamp()
	if err == nil && at == c.loaded {
		return
	}
	if err == nil {
		if err = c.load(); err == nil {
			c.log.Info("tls certificate reloaded", "file", c.certFile, "not_after", c.pair.Load().Leaf.NotAfter)
			return
		}
	}
	if at != c.broken || at == (stamp{}) {
		c.log.Error("tls certificate cannot be reloaded; the old one stays", "file", c.certFile, "error", err)
		c.broken = at
	}
}

// load replaces the pair, or keeps it and says why.
func (c *certificate) load() error {
	at, err := c.stamp() // before reading, so that a change in between is seen next time
	if err != nil {
		return fmt.Errorf("broker: tls certificate: %w", err)
	}
	pair, err := tls.LoadX509KeyPair(c.certFile, c.keyFile)
	if err != nil {
		return fmt.Errorf("broker: tls certificate: %w", err)
	}
	if c.now().After(pair.Leaf.NotAfter) {
		c.log.Warn("tls certificate has expired", "file", c.certFile, "not_after", pair.Leaf.NotAfter)
	}
	c.pair.Store(&pair)
	c.loaded = at
	return nil
}

func (c *certificate) stamp() (stamp, error) {
	cert, err1 := os.Stat(c.certFile)
	key, err2 := os.Stat(c.keyFile)
	if err := errors.Join(err1, err2); err != nil {
		return stamp{}, err
	}
	return stamp{cert.ModTime(), key.ModTime(), cert.Size(), key.Size()}, nil
}
