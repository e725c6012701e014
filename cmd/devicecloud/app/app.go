package app

import (
	"context"
	"crypto/tls"
	"errors"
	"log/slog"
	"net"
	"net/http"
	"sync"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/opticworks/devicecloud/account"
	"github.com/opticworks/devicecloud/broker"
	"github.com/opticworks/devicecloud/dataplan"
	"github.com/opticworks/devicecloud/media"
	"github.com/opticworks/devicecloud/registry"
	"github.com/opticworks/devicecloud/rollout"
	"github.com/opticworks/devicecloud/sqlstore"
	"github.com/opticworks/devicecloud/webhook"
)

const (
	// drainTime bounds the end of the MQTT sessions, the paced DISCONNECTs and the
	// presence they write included.
	drainTime = 25 * time.Second
	// httpGrace is how long HTTP requests may take after that.
	httpGrace = 3 * time.Second
	// mailGrace is how long mails that wait may take at the very end.
	mailGrace = 2 * time.Second
)

// App is the whole program. New, then Run once, then Close.
type App struct {
	config     Config
	log        *slog.Logger
	metrics    *prometheus.Registry
	caFile     string
	db         *sqlstore.DB
	broker     *broker.Broker
	registry   *registry.Registry
	accounts   *account.Service
	plans      *dataplan.Service
	standins   *standins
	media      *media.Service
	ingestor   *media.Ingestor
	rollouts   *rollout.Service
	classifier *media.Classifier
	webhooks   *webhook.Service
	handler    http.Handler
	tls        *tls.Config

	ready     chan struct{}
	draining  atomic.Bool
	addresses Addresses
	closeOnce sync.Once
	closeErr  error
}

// Addresses is where the program listens, with real ports; "" where it does not.
type Addresses struct {
	HTTP, HTTPS, Metrics, MQTTTLS, MQTT string
}

// New wires the program from a configuration that [Config.Prepare] has accepted. It
// opens the database, which migrates it, and no listener.
func New(ctx context.Context, c Config, log *slog.Logger) (*App, error) {
	if err := c.makeDataDir(); err != nil {
		return nil, err
	}
	a := &App{log: log, metrics: prometheus.NewRegistry(), ready: make(chan struct{})}
	var err error
	if a.standins, err = c.startStandins(a.listensAt); err != nil {
		return nil, err
	}
	a.config = c
	if err := a.build(ctx, c); err != nil {
		return nil, errors.Join(err, a.standins.Close())
	}
	return a, nil
}

// Ready is closed when every listener is open.
func (a *App) Ready() <-chan struct{} { return a.ready }

// Addresses is where the program listens. It is valid once Ready is closed.
func (a *App) Addresses() Addresses { return a.addresses }

// listensAt is where the program listens for HTTP; "" while it does not.
func (a *App) listensAt() string {
	select {
	case <-a.ready:
		return a.addresses.HTTP
	default:
		return ""
	}
}

// CAFile is the CA that the server's certificate is from in dev mode; "" outside.
func (a *App) CAFile() string { return a.caFile }

var (
	errStarting = errors.New("the program is starting")
	errDraining = errors.New("the program is shutting down")
)

// readiness says why the program should get no new clients; nil when it should.
func (a *App) readiness() error {
	switch {
	case a.draining.Load():
		return errDraining
	case !a.broker.Ready():
		return errStarting
	}
	return nil
}

// Run serves until ctx ends, then ends in order: no new clients, every session told
// and its presence written, every commit done. It returns nil after such an end.
func (a *App) Run(ctx context.Context) error {
	// What a former life of this node left online is settled before anybody may
	// connect.
	if err := a.registry.Boot(ctx); err != nil {
		return err
	}
	if err := a.accounts.Boot(ctx); err != nil { // who has signed out stays signed out
		return err
	}
	servers, err := a.listen()
	if err != nil {
		return err
	}
	if err := a.broker.Start(); err != nil {
		for _, s := range servers {
			err = errors.Join(err, s.listener.Close())
		}
		return inUse("MQTT_TLS_ADDR or MQTT_ADDR", err)
	}
	a.addresses.MQTTTLS, a.addresses.MQTT = text(a.broker.TLSAddr()), text(a.broker.PlainAddr())

	work, stopWork := context.WithCancel(context.WithoutCancel(ctx))
	defer stopWork()
	var background sync.WaitGroup
	background.Go(func() {
		if err := a.registry.Run(work); err != nil {
			a.log.Error("the registry's recurring work ended", "error", err)
		}
	})
	background.Go(func() { a.accounts.Run(work) })
	background.Go(func() { a.plans.RunFulfilment(work) })
	background.Go(func() { a.plans.Run(work) })
	background.Go(func() { a.ingestor.Run(work) })
	background.Go(func() { a.rollouts.Run(work) })
	background.Go(func() { a.classifier.Run(work) })
	background.Go(func() { a.media.Run(work) })
	background.Go(func() { a.webhooks.Run(work) })
	failed := make(chan error, len(servers))
	for _, s := range servers {
		background.Go(func() {
			if err := s.serve(); err != nil {
				failed <- err
			}
		})
	}
	close(a.ready)
	a.log.Info("ready", "http", a.addresses.HTTP, "https", a.addresses.HTTPS, "metrics", a.addresses.Metrics,
		"mqtt_tls", a.addresses.MQTTTLS, "mqtt", a.addresses.MQTT, "dev", a.config.Dev)

	select {
	case <-ctx.Done():
	case err = <-failed:
		a.log.Error("a listener failed; shutting down", "error", err)
	}
	err = errors.Join(err, a.drain(servers))
	stopWork()
	background.Wait()
	return err
}

// drain ends the sessions, then the servers: while devices are being told to go,
// /readyz says 503 and requests still work.
func (a *App) drain(servers []*server) error {
	began := time.Now()
	a.draining.Store(true)
	a.log.Info("shutting down")
	a.registry.CloseFeed() // no stream holds up the end
	ctx, cancel := context.WithTimeout(context.Background(), drainTime)
	err := a.broker.Shutdown(ctx)
	cancel()
	ctx, cancel = context.WithTimeout(context.Background(), httpGrace)
	defer cancel()
	for _, s := range servers {
		err = errors.Join(err, s.shutdown(ctx))
	}
	a.log.Info("shut down", "took", time.Since(began), "error", err)
	return err
}

// Close sends and commits what waits and closes the database. After Run it always succeeds
// in giving everything back; it may be called again.
func (a *App) Close() error {
	a.closeOnce.Do(func() {
		if a.accounts != nil {
			ctx, cancel := context.WithTimeout(context.Background(), mailGrace)
			defer cancel()
			a.accounts.CloseMail(ctx)
		}
		a.registry.Close()
		a.closeErr = errors.Join(a.standins.Close(), a.db.Close())
	})
	return a.closeErr
}

func text(addr net.Addr) string {
	if addr == nil {
		return ""
	}
	return addr.String()
}
