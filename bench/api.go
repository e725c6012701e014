package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strconv"
	"time"
)

// ownedDevices is how many devices the person has; the default limit is 50.
const ownedDevices = 50

// api measures the answer times of the API: idle, while devices report once a second each, and while they report as
// fast as the server acknowledges.
func (b *bench) api(ctx context.Context) (err error) {
	known := max(b.size.Devices[len(b.size.Devices)-1], b.size.APIDevices)
	s, err := b.newStart(ctx, "ours", known, true)
	if err != nil {
		return err
	}
	s.Admin = true
	server, err := spawn(ctx, "ours", s)
	if err != nil {
		return err
	}
	defer func() { err = stopAll(err, server) }()
	load, err := b.startLoad(ctx, server.hello.Plain, false)
	if err != nil {
		return err
	}
	defer func() { err = stopAll(err, load) }()
	c, err := signIn(ctx, server.hello.HTTP)
	if err != nil {
		return err
	}
	if _, err := load.ask(request{Do: "connect", Count: b.size.APIDevices}); err != nil {
		return err
	}
	for _, l := range []struct {
		name string
		rate float64
	}{
		{"idle", 0},
		{fmt.Sprintf("%d devices report once a second", b.size.APIDevices), float64(b.size.APIDevices)},
		{fmt.Sprintf("%d devices report without pause", b.size.APIDevices), 1e9},
	} {
		if l.rate > 0 {
			if _, err := load.ask(request{Do: "pace", Rate: l.rate}); err != nil {
				return err
			}
			if err := pause(ctx, time.Second); err != nil { // until all have begun
				return err
			}
		}
		if err := b.measureAPI(ctx, c, l.name); err != nil {
			return err
		}
		if l.rate > 0 {
			if _, err := load.ask(request{Do: "pace end"}); err != nil {
				return err
			}
		}
	}
	return nil
}

func (b *bench) measureAPI(ctx context.Context, c *apiClient, load string) error {
	for _, route := range []struct{ name, path, token string }{
		{"GET /api/devices/{id}", "/api/devices/" + deviceAt(0).id, c.person},
		{"GET /api/devices (" + strconv.Itoa(ownedDevices) + ")", "/api/devices", c.person},
		{"GET /admin/stats", "/admin/stats", c.admin},
	} {
		times := make([]time.Duration, b.size.Requests)
		for i := range times {
			begun := time.Now()
			if err := c.do(ctx, http.MethodGet, route.path, route.token, nil, nil); err != nil {
				return err
			}
			times[i] = time.Since(begun)
		}
		p50, p99 := percentiles(times)
		b.progress("api %s, %s: p99 %.2f ms", route.name, load, milliseconds(p99))
		b.report.add(row{
			Benchmark: "api p99", What: route.name + ", " + load, Unit: "ms", Value: milliseconds(p99),
			Note: fmt.Sprintf("p50 %.2f ms, %d requests", milliseconds(p50), len(times)),
		})
	}
	return nil
}

// apiClient is one keep-alive client with two logins.
type apiClient struct {
	base          string
	http          *http.Client
	person, admin string // access tokens
	personID      string
}

// signIn logs in the administrator, who records what a person has bought, and that person, who gets these devices with
// the first login: the first ownedDevices of the fleet.
func signIn(ctx context.Context, base string) (*apiClient, error) {
	c := &apiClient{base: base, http: &http.Client{Timeout: time.Minute}}
	return c, c.signIn(ctx)
}

func (c *apiClient) signIn(ctx context.Context) error {
	const email = "bench-person@example.com"
	var token struct {
		AccessToken string `json:"access_token"`
		User        struct {
			ID string `json:"user_id"`
		} `json:"user"`
	}
	login := map[string]string{"email": adminEmail, "password": adminPassword}
	if err := c.do(ctx, http.MethodPost, "/admin/auth/login", "", login, &token); err != nil {
		return err
	}
	c.admin = token.AccessToken
	for i := range ownedDevices {
		order := map[string]string{
			"order_id": "bench-" + strconv.Itoa(i), "user_email": email, "device_mac": string(deviceAt(i).mac), "shipped_at": "2026-01-02",
		}
		if err := c.do(ctx, http.MethodPost, "/admin/orders", c.admin, order, nil); err != nil {
			return err
		}
	}
	login = map[string]string{"provider": "dev", "id_token": email}
	if err := c.do(ctx, http.MethodPost, "/api/auth/app-token", "", login, &token); err != nil {
		return err
	}
	c.person, c.personID = token.AccessToken, token.User.ID
	var list struct {
		Devices []struct {
			ID string `json:"device_id"`
		} `json:"devices"`
	}
	if err := c.do(ctx, http.MethodGet, "/api/devices", c.person, nil, &list); err != nil {
		return err
	}
	if len(list.Devices) != ownedDevices {
		return fmt.Errorf("the person has %d devices, not %d", len(list.Devices), ownedDevices)
	}
	return nil
}

// do sends one request and reads its whole answer, into out unless it is nil.
func (c *apiClient) do(ctx context.Context, method, path, token string, in, out any) (err error) {
	var body io.Reader
	if in != nil {
		text, err := json.Marshal(in)
		if err != nil {
			return err
		}
		body = bytes.NewReader(text)
	}
	r, err := http.NewRequestWithContext(ctx, method, c.base+path, body)
	if err != nil {
		return err
	}
	r.Header.Set("Content-Type", "application/json")
	if token != "" {
		r.Header.Set("Authorization", "Bearer "+token)
	}
	answer, err := c.http.Do(r)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, answer.Body.Close()) }()
	text, err := io.ReadAll(answer.Body)
	if err != nil {
		return err
	}
	if answer.StatusCode >= 300 {
		return fmt.Errorf("%s %s: %s: %s", method, path, answer.Status, text)
	}
	if out == nil {
		return nil
	}
	return json.Unmarshal(text, out)
}
