package main

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"path/filepath"
	"strconv"
	"syscall"
	"time"

	"github.com/opticworks/devicecloud/account"
	"github.com/opticworks/devicecloud/registry"
	"github.com/opticworks/devicecloud/sqlstore"
)

// request measures what a request of a signed-in person costs the server's processors: the check of the token, the
// first time and again, and the list of as many devices as a person may own.
func (b *bench) request(ctx context.Context) error {
	if err := b.tokens(ctx); err != nil {
		return err
	}
	return b.list(ctx)
}

// tokens measures the check of access tokens, in this process: a server does nothing else with them.
func (b *bench) tokens(ctx context.Context) (err error) {
	db, err := sqlstore.Open(ctx, "sqlite:"+filepath.Join(b.dir, "tokens.db"), sqlstore.Options{})
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, db.Close()) }()
	key, _, err := account.NewSigningKey()
	if err != nil {
		return err
	}
	devices := registry.New(db.Registry(), nil, registry.Options{}) // no device connects
	defer devices.Close()
	// Each one has checked no token yet.
	fresh := func() (*account.Service, error) {
		return account.New(db.Accounts(), devices, account.Options{
			SigningKey: key, Dev: true, AccessTTL: time.Hour, Hash: account.HashParams{MemoryKiB: 64, Passes: 1, Lanes: 1},
		})
	}
	accounts, err := fresh()
	if err != nil {
		return err
	}
	var tokens []string
	for i := range b.size.Tokens {
		login := account.LoginRequest{Provider: account.ProviderDev, IDToken: fmt.Sprintf("person-%d@example.com", i)}
		t, _, err := accounts.Login(ctx, login, registry.Actor{})
		if err != nil {
			return err
		}
		tokens = append(tokens, t.Access.Reveal())
	}
	const again = 20 // as often as it is measured that each token is checked
	var first, later []float64
	for range b.size.Turns {
		if accounts, err = fresh(); err != nil {
			return err
		}
		for round, into := range []*[]float64{&first, &later} {
			times := 1 + round*(again-1)
			used, err := checkTokens(ctx, accounts, tokens, times)
			if err != nil {
				return err
			}
			*into = append(*into, used.Seconds()*1e6/float64(times*len(tokens)))
		}
	}
	for _, r := range []struct {
		what    string
		samples []float64
	}{{"a token for the first time", first}, {"a token again", later}} {
		b.report.add(row{
			Benchmark: "token check", What: r.what, Unit: "µs CPU", Samples: r.samples, Target: 60,
			Note: fmt.Sprintf("%d tokens", len(tokens)),
		})
	}
	b.progress("token check: %s µs, again %s µs", number(median(first)), number(median(later)))
	return nil
}

// checkTokens is the processor time that it takes to check each token some times.
func checkTokens(ctx context.Context, accounts *account.Service, tokens []string, times int) (time.Duration, error) {
	begun, err := ownCPU()
	if err != nil {
		return 0, err
	}
	for range times {
		for _, t := range tokens {
			if _, _, err := accounts.ActorByToken(ctx, t); err != nil {
				return 0, err
			}
		}
	}
	ended, err := ownCPU()
	return ended - begun, err
}

// ownCPU is the processor time that this process has used.
func ownCPU() (time.Duration, error) {
	var r syscall.Rusage
	err := syscall.Getrusage(syscall.RUSAGE_SELF, &r)
	return time.Duration(r.Utime.Nano() + r.Stime.Nano()), err
}

// list measures GET /api/devices of a person with ownedDevices devices.
func (b *bench) list(ctx context.Context) (err error) {
	s, err := b.newStart(ctx, "ours", max(b.size.APIDevices, ownedDevices), true)
	if err != nil {
		return err
	}
	s.Admin = true
	server, err := spawn(ctx, "ours", s)
	if err != nil {
		return err
	}
	defer func() { err = stopAll(err, server) }()
	c, err := signIn(ctx, server.hello.HTTP)
	if err != nil {
		return err
	}
	ask := func(n int) error {
		for range n {
			if err := c.do(ctx, http.MethodGet, "/api/devices", c.person, nil, nil); err != nil {
				return err
			}
		}
		return nil
	}
	var samples []float64
	for range b.size.Turns {
		before, err := settledCPU(ctx, server)
		if err != nil {
			return err
		}
		if err := ask(b.size.Requests); err != nil {
			return err
		}
		after, err := settledCPU(ctx, server)
		if err != nil {
			return err
		}
		samples = append(samples, milliseconds(after-before)/float64(b.size.Requests))
	}
	missed := b.report.add(row{
		Benchmark: "api cpu", What: "GET /api/devices (" + strconv.Itoa(ownedDevices) + "), one request", Unit: "ms CPU", Samples: samples, Target: 1,
		Note: fmt.Sprintf("%d requests a turn, one at a time", b.size.Requests),
	})
	b.progress("GET /api/devices: %s ms CPU", number(median(samples)))
	file, wanted := b.profileFile("list", missed)
	if !wanted {
		return nil
	}
	if _, err := server.ask(request{Do: "profile", File: file}); err != nil {
		return err
	}
	if err := ask(b.size.Requests); err != nil {
		return err
	}
	if _, err := server.ask(request{Do: "profile end"}); err != nil {
		return err
	}
	return b.explain(ctx, "GET /api/devices: where the time goes", file)
}
