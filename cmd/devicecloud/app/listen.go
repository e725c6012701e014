package app

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"path/filepath"
	"syscall"

	"github.com/opticworks/devicecloud/broker"
	"github.com/opticworks/devicecloud/httpapi"
)

// loadTLS reads the certificate; in dev mode without one it makes a CA in DATA_DIR.
func (a *App) loadTLS() error {
	c := a.config
	if c.MQTTTLSAddr == "" && c.HTTPSAddr == "" {
		return nil
	}
	cert, key := c.TLSCertFile, c.TLSKeyFile
	if cert == "" {
		var err error
		if cert, key, a.caFile, err = broker.DevCA(c.DataDir); err != nil {
			return fmt.Errorf("the development CA in %s: %w", filepath.Clean(c.DataDir), err)
		}
	}
	var err error
	if a.tls, err = broker.NewTLSConfig(cert, key, c.DeviceCAFile, a.log); err != nil {
		return fmt.Errorf("TLS_CERT_FILE, TLS_KEY_FILE, DEVICE_CA_FILE: %w", err)
	}
	return nil
}

// CheckCertificates loads the certificates that c names, as New does.
func (c *Config) CheckCertificates(log *slog.Logger) error {
	if c.TLSCertFile == "" {
		return nil // dev mode makes its own
	}
	return (&App{config: *c, log: log}).loadTLS()
}

// deviceCAs is the pool of DEVICE_CA_FILE; nil without one.
func (a *App) deviceCAs() *x509.CertPool {
	if a.tls == nil {
		return nil
	}
	return a.tls.ClientCAs
}

// server is one HTTP listener and what serves it.
type server struct {
	name     string
	listener net.Listener
	http     *http.Server
}

func (s *server) serve() error {
	if err := s.http.Serve(s.listener); !errors.Is(err, http.ErrServerClosed) {
		return fmt.Errorf("%s: %w", s.name, err)
	}
	return nil
}

// shutdown lets running requests end, and cuts them when ctx does.
func (s *server) shutdown(ctx context.Context) error {
	err := s.http.Shutdown(ctx)
	if errors.Is(err, context.DeadlineExceeded) {
		return s.http.Close()
	}
	return err
}

// listen opens the HTTP listeners: all of them, or none.
func (a *App) listen() (servers []*server, err error) {
	c := a.config
	for _, l := range []struct {
		name, addr string
		handler    http.Handler
		tls        bool
		into       *string
	}{
		{"HTTP_ADDR", c.HTTPAddr, a.handler, false, &a.addresses.HTTP},
		{"HTTPS_ADDR", c.HTTPSAddr, a.handler, true, &a.addresses.HTTPS},
		{"METRICS_ADDR", c.MetricsAddr, httpapi.Metrics(a.metrics), false, &a.addresses.Metrics},
	} {
		if l.addr == "" {
			continue
		}
		listener, err := listenHTTP(l.addr)
		if err != nil {
			for _, s := range servers {
				err = errors.Join(err, s.listener.Close())
			}
			return nil, inUse(l.name, err)
		}
		*l.into = listener.Addr().String()
		if l.tls {
			listener = tls.NewListener(listener, a.httpsConfig())
		}
		servers = append(servers, &server{l.name, listener, httpapi.Server(l.handler, a.log)})
	}
	return servers, nil
}

// listenHTTP opens a listener whose connections end when their client is dead.
func listenHTTP(address string) (net.Listener, error) {
	config := net.ListenConfig{Control: limitDeadPeers}
	return config.Listen(context.Background(), "tcp", address)
}

// httpsConfig is the TLS configuration without the protocol name of MQTT.
func (a *App) httpsConfig() *tls.Config {
	c := a.tls.Clone()
	c.NextProtos = []string{"http/1.1"} // a WebSocket needs HTTP/1.1
	return c
}

// inUse says in plain words that a port is taken.
func inUse(name string, err error) error {
	if errors.Is(err, syscall.EADDRINUSE) {
		return fmt.Errorf("%s: another program uses this port: %w; stop it, or choose another address", name, err)
	}
	return fmt.Errorf("%s: %w", name, err)
}
