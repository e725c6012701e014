package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"time"

	"github.com/opticworks/devicecloud/cmd/devicecloud/app"
)

type demoCmd struct {
	Sim     bool          `default:"true" negatable:"" env:"SIM" help:"Start firmware-sim, which lies beside this program."`
	Devices int           `default:"25" help:"Simulated devices."`
	Wait    time.Duration `default:"2m" help:"How long the devices may take to come online."`
}

const (
	demoUser = "demo@example.com"
	// demoInterval is how often a simulated device reports its state.
	demoInterval = "5s"
	// demoTokens is how long its access tokens live, so that what it prints works for an
	// afternoon.
	demoTokens = 12 * time.Hour
)

func (cmd demoCmd) Run(c *app.Config, t terminal) error {
	c.Dev, c.AccessTTL, c.DevStandins = true, demoTokens, true
	if err := c.Prepare(); err != nil {
		return usageError{err}
	}
	var simulator string
	if cmd.Sim {
		var err error
		if simulator, err = besides("firmware-sim"); err != nil {
			return err
		}
	}
	ctx, stop := untilSignal()
	defer stop()
	if err := os.MkdirAll(c.DataDir, 0o700); err != nil {
		return err
	}
	ingestKey, err := makeIngestKey(c)
	if err != nil {
		return err
	}
	logPath := filepath.Join(c.DataDir, "demo.log")
	logFile, err := os.Create(logPath)
	if err != nil {
		return err
	}
	defer logFile.Close() //nolint:errcheck // a log that nobody waits for
	log, err := app.NewLogger(logFile, true, c.LogFormat, c.LogLevel)
	if err != nil {
		return usageError{err}
	}
	a, err := app.New(ctx, *c, log)
	if err != nil {
		return err
	}
	ended := make(chan error, 1)
	cloud, stopCloud := context.WithCancel(ctx)
	defer stopCloud()
	go func() { ended <- a.Run(cloud) }()
	finish := func(err error) error {
		stopCloud()
		return errors.Join(err, <-ended, a.Close())
	}
	select {
	case <-a.Ready():
	case err := <-ended:
		return errors.Join(err, a.Close())
	}
	d := &demo{cmd: cmd, config: c, app: a, terminal: t, logPath: logPath, simulator: simulator, ingestKey: ingestKey}
	return finish(d.run(ctx))
}

// besides is the path of a program that lies beside this one.
func besides(name string) (string, error) {
	self, err := os.Executable()
	if err != nil {
		return "", err
	}
	path := filepath.Join(filepath.Dir(self), name)
	if info, err := os.Stat(path); err != nil || info.IsDir() {
		return "", fmt.Errorf("there is no %s beside %s: build both (make build), or run without devices (--no-sim)", name, self)
	}
	return path, nil
}

// demo is one run of the demonstration, on a cloud that is ready.
type demo struct {
	cmd       demoCmd
	config    *app.Config
	app       *app.App
	terminal  terminal
	logPath   string
	simulator string
	ingestKey string // file of the secret that signs events; "" when the settings have keys
	admin     app.DemoAdmin
	client    demoClient
}

func (d *demo) run(ctx context.Context) error {
	var err error
	if d.admin, err = d.app.DemoAdmin(ctx); err != nil {
		return err
	}
	d.client = demoClient{base: "http://" + reachable(d.app.Addresses().HTTP)}
	adminToken, _, err := d.client.login(ctx, "/admin/auth/login", map[string]string{"email": d.admin.Email, "password": d.admin.Password.Reveal()})
	if err != nil {
		return fmt.Errorf("logging in as %s: %w", d.admin.Email, err)
	}
	userToken, userID, err := d.client.login(ctx, "/api/auth/app-token", map[string]string{"provider": "dev", "id_token": demoUser})
	if err != nil {
		return fmt.Errorf("logging in as %s: %w", demoUser, err)
	}
	g := guide{demo: d, userToken: userToken, adminToken: adminToken, userID: userID}
	if d.simulator == "" {
		return d.holdOpen(ctx, nil, g)
	}
	began := time.Now()
	sim, err := d.startSimulator(ctx)
	if err != nil {
		return err
	}
	defer sim.stop()
	wait, cancel := context.WithTimeout(ctx, d.cmd.Wait)
	defer cancel()
	deviceIDs, err := d.awaitFleet(wait, sim, adminToken, userToken)
	if err != nil {
		if ctx.Err() != nil {
			return nil // stopped by hand
		}
		return err
	}
	g.took = time.Since(began)
	slices.Sort(deviceIDs) // the next demo on the same data has the same device first
	if g.stage, err = d.setStage(ctx, adminToken, deviceIDs); err != nil {
		if ctx.Err() != nil {
			return nil
		}
		return err
	}
	return d.holdOpen(ctx, sim, g)
}

// holdOpen prints the guide and waits for the end.
func (d *demo) holdOpen(ctx context.Context, sim *simulator, g guide) error {
	if err := g.print(d.terminal.out); err != nil {
		return err
	}
	var died <-chan struct{}
	if sim != nil {
		died = sim.ended
	}
	select {
	case <-ctx.Done():
		return nil
	case <-died:
	}
	if ctx.Err() != nil {
		return nil
	}
	if _, err := fmt.Fprintf(d.terminal.err, "devicecloud: the simulator died (%v); the cloud goes on, without devices. Ctrl-C stops it.\n", sim.err); err != nil {
		return err
	}
	<-ctx.Done()
	return nil
}

// reachable is an address to connect to where a listener may have every address.
func reachable(listener string) string {
	host, port, err := net.SplitHostPort(listener)
	if ip := net.ParseIP(host); err == nil && ip != nil && ip.IsUnspecified() {
		return net.JoinHostPort("localhost", port)
	}
	return listener
}

// simulator is the running firmware-sim.
type simulator struct {
	cmd   *exec.Cmd
	ended chan struct{} // closed when it has ended
	err   error         // how; read after ended
}

func (d *demo) startSimulator(ctx context.Context) (*simulator, error) {
	addresses := d.app.Addresses()
	_, port, err := net.SplitHostPort(addresses.MQTTTLS)
	if err != nil {
		return nil, errors.New("the demo needs MQTT_TLS_ADDR")
	}
	cmd := exec.CommandContext(ctx, d.simulator,
		"--devices", fmt.Sprint(d.cmd.Devices), "--url", "mqtts://localhost:"+port, "--ca", d.app.CAFile(),
		"--api", d.client.base, "--owner", demoUser, "--interval", demoInterval, "--video",
		"--state", filepath.Join(d.config.DataDir, "fleet.json"))
	cmd.Env = append(os.Environ(), "ADMIN_EMAIL="+d.admin.Email, "ADMIN_PASSWORD="+d.admin.Password.Reveal())
	cmd.Stdout, cmd.Stderr = d.terminal.err, d.terminal.err
	cmd.Cancel = func() error { return cmd.Process.Signal(syscall.SIGTERM) }
	cmd.WaitDelay = 5 * time.Second
	if err := cmd.Start(); err != nil {
		return nil, fmt.Errorf("starting the simulator: %w", err)
	}
	s := &simulator{cmd: cmd, ended: make(chan struct{})}
	go func() {
		s.err = cmd.Wait()
		if s.err == nil {
			s.err = errors.New("exit status 0")
		}
		close(s.ended)
	}()
	return s, nil
}

// stop ends the simulator and waits until it is gone.
func (s *simulator) stop() {
	select {
	case <-s.ended:
		return
	default:
	}
	_ = s.cmd.Process.Signal(syscall.SIGTERM) // it may just have ended by itself
	select {
	case <-s.ended:
	case <-time.After(5 * time.Second):
		_ = s.cmd.Process.Kill()
		<-s.ended
	}
}

// fleetView is what the API says of the fleet.
type fleetView struct {
	online   int      // devices that are online
	complete []string // those of them that belong to the demo user and have reported their state
}

// awaitFleet waits until every device is online, belongs to the demo user by its
// purchase and has reported its state; it returns their ids.
func (d *demo) awaitFleet(ctx context.Context, sim *simulator, adminToken, userToken string) ([]string, error) {
	tick := time.NewTicker(200 * time.Millisecond)
	defer tick.Stop()
	var seen fleetView
	for {
		now, err := d.look(ctx, adminToken, userToken)
		switch {
		case err == nil:
			seen = now
		case ctx.Err() == nil:
			return nil, err
		}
		if seen.online >= d.cmd.Devices && len(seen.complete) >= min(d.cmd.Devices, d.config.MaxDevicesPerUser) {
			return seen.complete, nil
		}
		select {
		case <-tick.C:
		case <-sim.ended:
			return nil, fmt.Errorf("the simulator died: %w; the cloud's log is %s", sim.err, d.logPath)
		case <-ctx.Done():
			return nil, fmt.Errorf("after %v only %d of %d devices are online, and %d of those belong to %s and report; the cloud's log is %s",
				d.cmd.Wait, seen.online, d.cmd.Devices, len(seen.complete), demoUser, d.logPath)
		}
	}
}

func (d *demo) look(ctx context.Context, adminToken, userToken string) (v fleetView, err error) {
	var stats struct {
		Online int `json:"online_devices"`
	}
	if err := d.client.get(ctx, "/admin/stats", adminToken, &stats); err != nil {
		return v, err
	}
	v.online = stats.Online
	if v.online < d.cmd.Devices {
		return v, nil
	}
	var page struct {
		Devices []struct {
			ID     string `json:"device_id"`
			Status string `json:"status"`
		} `json:"devices"`
	}
	if err := d.client.get(ctx, "/api/devices?limit=200", userToken, &page); err != nil {
		return v, err
	}
	for _, device := range page.Devices {
		if device.Status != "online" {
			continue
		}
		var detail struct {
			ReportedAt *time.Time `json:"reported_at"`
		}
		if err := d.client.get(ctx, "/api/devices/"+device.ID, userToken, &detail); err != nil {
			return v, err
		}
		if detail.ReportedAt != nil {
			v.complete = append(v.complete, device.ID)
		}
	}
	return v, nil
}

// demoClient talks to the cloud as everybody else does.
type demoClient struct{ base string }

func (c demoClient) login(ctx context.Context, path string, body map[string]string) (token, userID string, err error) {
	var answer struct {
		AccessToken string `json:"access_token"`
		User        struct {
			ID string `json:"user_id"`
		} `json:"user"`
	}
	err = c.send(ctx, http.MethodPost, path, "", body, &answer)
	return answer.AccessToken, answer.User.ID, err
}

func (c demoClient) get(ctx context.Context, path, token string, into any) error {
	return c.exchange(ctx, http.MethodGet, path, token, "", nil, into)
}

func (c demoClient) exchange(ctx context.Context, method, path, token, mediaType string, body io.Reader, into any) error {
	req, err := http.NewRequestWithContext(ctx, method, c.base+path, body)
	if err != nil {
		return err
	}
	if body != nil {
		req.Header.Set("Content-Type", mediaType)
	}
	if token != "" {
		req.Header.Set("Authorization", "Bearer "+token)
	}
	res, err := http.DefaultClient.Do(req)
	if err != nil {
		return err
	}
	defer res.Body.Close() //nolint:errcheck // only read from
	text, err := io.ReadAll(io.LimitReader(res.Body, 4<<20))
	if err != nil {
		return err
	}
	if res.StatusCode/100 != 2 {
		return fmt.Errorf("%s %s answered %d: %s", method, path, res.StatusCode, strings.TrimSpace(string(text)))
	}
	if into == nil {
		return nil
	}
	return json.Unmarshal(text, into)
}
