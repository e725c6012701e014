package main

import (
	"context"
	"errors"
	"log/slog"
	"os"

	"github.com/opticworks/devicecloud/cmd/devicecloud/app"
)

// The administrator of the measured server.
const (
	adminEmail    = "bench-admin@example.com"
	adminPassword = "measure twice, cut once"
)

// ours is the whole program as it is shipped, in dev mode: no rate limits, and a login for the API benchmark.
type ours struct {
	probe
	app   *app.App
	stop  context.CancelFunc
	ended chan error
}

func newOurs(ctx context.Context, s start) (*ours, reply, error) {
	// No setting comes from the environment: every run measures the same.
	c, err := app.FromEnvironment(true, func(string) (string, bool) { return "", false })
	if err != nil {
		return nil, reply{}, err
	}
	c.DataDir, c.DatabaseURL = s.Dir, app.Secret("sqlite:"+s.Database)
	c.HTTPAddr, c.MetricsAddr, c.MQTTTLSAddr, c.MQTTAddr = "127.0.0.1:0", "127.0.0.1:0", "127.0.0.1:0", "127.0.0.1:0"
	c.TLSCertFile, c.TLSKeyFile = s.Cert, s.Key
	c.AdminEmail, c.AdminPassword = adminEmail, adminPassword
	if err := c.Prepare(); err != nil {
		return nil, reply{}, err
	}
	a, err := app.New(ctx, c, slog.New(slog.NewTextHandler(os.Stderr, &slog.HandlerOptions{Level: slog.LevelError})))
	if err != nil {
		return nil, reply{}, err
	}
	if s.Admin { // the hash of the password alone takes 38 MB
		if _, err := a.FirstAdmin(ctx); err != nil {
			return nil, reply{}, errors.Join(err, a.Close())
		}
	}
	o := &ours{app: a, ended: make(chan error, 1)}
	ctx, o.stop = context.WithCancel(ctx)
	go func() { o.ended <- a.Run(ctx) }()
	select {
	case <-a.Ready():
	case err := <-o.ended:
		return nil, reply{}, errors.Join(errors.New("the server did not start"), err, a.Close())
	}
	where := a.Addresses()
	return o, reply{Plain: where.MQTT, TLS: where.MQTTTLS, HTTP: "http://" + where.HTTP}, nil
}

func (o *ours) close() error {
	o.stop()
	return errors.Join(<-o.ended, o.app.Close())
}
