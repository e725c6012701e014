package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/signal"
	"syscall"

	"github.com/opticworks/devicecloud/cmd/devicecloud/app"
)

type serveCmd struct {
	Dev bool `help:"Development: own CA, plain MQTT on loopback, no limits, log in as anybody."`
}

func (cmd serveCmd) Run(c *app.Config, t terminal) error {
	c.Dev = cmd.Dev
	if err := c.Prepare(); err != nil {
		return usageError{err}
	}
	log, err := t.logger(c)
	if err != nil {
		return usageError{err}
	}
	ctx, stop := untilSignal()
	defer stop()
	a, err := app.New(ctx, *c, log)
	if err != nil {
		return err
	}
	first, err := a.FirstAdmin(ctx)
	if err != nil {
		return errors.Join(err, a.Close())
	}
	if first.Made {
		_, err = fmt.Fprintf(t.out, "Administrator, made just now and shown this once:\n  e-mail    %s\n  password  %s\n", first.Email, first.Password.Reveal())
	}
	if err == nil {
		err = a.Run(ctx)
	}
	return errors.Join(err, a.Close())
}

// untilSignal is a context that the first SIGINT or SIGTERM ends; the second ends
// the process at once.
func untilSignal() (context.Context, context.CancelFunc) {
	ctx, cancel := context.WithCancel(context.Background())
	signals := make(chan os.Signal, 2)
	signal.Notify(signals, os.Interrupt, syscall.SIGTERM)
	go func() {
		select {
		case <-signals:
			cancel()
		case <-ctx.Done():
			signal.Stop(signals)
			return
		}
		<-signals
		os.Exit(exitFailed)
	}()
	return ctx, cancel
}
