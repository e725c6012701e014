package e2e_test

import (
	"encoding/json"
	"fmt"
	"net/http"
	"os/exec"
	"strings"
	"sync"
	"testing"
	"time"
)

// commandView is a command as the API shows it.
type commandView struct {
	ID        string          `json:"commandId"`
	RequestID string          `json:"requestId"`
	Status    string          `json:"status"`
	Code      string          `json:"code"`
	Result    json.RawMessage `json:"result"`
	Duplicate bool            `json:"duplicate"`
	ExpiresAt time.Time       `json:"expiresAt"`
	Error     string          `json:"error"`
}

// send sends a command that must be taken.
func (c *Cloud) send(d Device, token, requestID, typ string, more map[string]any) (v commandView) {
	c.t.Helper()
	body := map[string]any{"requestId": requestID, "type": typ}
	for k, x := range more {
		body[k] = x
	}
	if status := c.Do(http.MethodPost, "/api/devices/"+d.ID+"/commands", token, body, &v); status != 200 && status != 202 {
		c.t.Fatalf("%s %s answered %d %+v", requestID, typ, status, v)
	}
	return v
}

// awaitCommand waits until a command has a state.
func (c *Cloud) awaitCommand(d Device, token string, v commandView, want string) commandView {
	c.t.Helper()
	Await(c.t, 30*time.Second, func() bool {
		c.Get("/api/devices/"+d.ID+"/commands/"+v.ID, token, &v)
		return v.Status == want
	}, func() string { return fmt.Sprintf("want %s; the command is %+v", want, v) })
	return v
}

// trail is the names of what was audited about a device, with the status of commands.
func (c *Cloud) trail(d Device, admin string) (names []string) {
	c.t.Helper()
	var audit struct {
		Events []struct {
			Event string
			Data  struct{ Status string }
		}
	}
	c.Get("/admin/devices/"+d.ID+"/audit?limit=200", admin, &audit)
	for _, e := range audit.Events {
		names = append(names, strings.TrimSuffix(e.Event+" "+e.Data.Status, " "))
	}
	return names
}

func count(list []string, what string) (n int) {
	for _, s := range list {
		if s == what {
			n++
		}
	}
	return n
}

// mosquittoDevice is a device that mosquitto's own clients play.
type mosquittoDevice struct {
	Device
	c       *Cloud
	version string
}

func (m mosquittoDevice) login(more ...string) []string {
	host, port := splitAddress(m.c.t, m.c.MQTTS())
	return append([]string{"-h", host, "-p", port, "--cafile", m.c.CA(), "-V", m.version, "-q", "1", "-i", m.ID, "-u", m.ID, "-P", m.Secret}, more...)
}

// receive connects, takes one command, and leaves.
func (m mosquittoDevice) receive() (got struct {
	ID      string `json:"command_id"`
	Type    string
	Attempt int
},
) {
	m.c.t.Helper()
	out := run(m.c.t, "mosquitto_sub", m.login("-t", m.Topic("command/+"), "-C", "1", "-W", "20")...)
	if err := json.Unmarshal([]byte(out), &got); err != nil {
		m.c.t.Fatalf("%q: %v", out, err)
	}
	return got
}

// answer connects, answers a command, and leaves when it was acknowledged.
func (m mosquittoDevice) answer(commandID, status string) {
	m.c.t.Helper()
	run(m.c.t, "mosquitto_pub", m.login("-t", m.Topic("command/response"), "-m", fmt.Sprintf(`{"command_id":%q,"status":%q}`, commandID, status))...)
}

func TestCommandsWithMosquitto(t *testing.T) {
	t.Parallel()
	skipWithout(t, "mosquitto_pub", haveProgram("mosquitto_pub") && haveProgram("mosquitto_sub"))
	c := Start(t, Options{})
	admin := c.AdminToken()
	for _, version := range []string{"mqttv311", "mqttv5"} {
		device := func(t *testing.T) mosquittoDevice {
			return mosquittoDevice{c.EnrollAs(admin), c.For(t), version}
		}
		t.Run("one that waited is delivered, and its first answer counts, with "+version, func(t *testing.T) {
			c, d := c.For(t), device(t)
			v := c.send(d.Device, admin, "r1", "identify", map[string]any{"ttlSec": 600})
			if got := d.receive(); got.ID != v.ID || got.Type != "identify" || got.Attempt != 1 {
				t.Errorf("got %+v", got)
			}
			c.awaitCommand(d.Device, admin, v, "delivered")
			d.answer(v.ID, "succeeded")
			c.awaitCommand(d.Device, admin, v, "succeeded")
		})
		t.Run("no answer, and a late one, with "+version, func(t *testing.T) {
			c, d := c.For(t), device(t)
			v := c.send(d.Device, admin, "r1", "identify", nil)
			d.receive()
			if v = c.awaitCommand(d.Device, admin, v, "timed_out"); v.Code != "no_answer" {
				t.Errorf("%+v", v)
			}
			d.answer(v.ID, "succeeded")
			c.awaitCommand(d.Device, admin, v, "timed_out")
			if n := count(c.trail(d.Device, admin), "late_response timed_out"); n != 1 {
				t.Errorf("%d late answers were audited", n)
			}
		})
		t.Run("delivered twice, answered twice, finished once, with "+version, func(t *testing.T) {
			c, d := c.For(t), device(t)
			v := c.send(d.Device, admin, "r1", "sing", map[string]any{"ttlSec": 600})
			for attempt := 1; attempt <= 2; attempt++ {
				if got := d.receive(); got.ID != v.ID || got.Attempt != attempt {
					t.Errorf("got %+v", got)
				}
				c.awaitCommand(d.Device, admin, v, "delivered")
			}
			for range 2 {
				d.answer(v.ID, "succeeded")
			}
			c.awaitCommand(d.Device, admin, v, "succeeded")
			trail := c.trail(d.Device, admin)
			if count(trail, "command_finished succeeded") != 1 || count(trail, "late_response succeeded") != 0 {
				t.Errorf("audited %v", trail)
			}
		})
		t.Run("another device's answer is refused, with "+version, func(t *testing.T) {
			c, d, other := c.For(t), device(t), device(t)
			v := c.send(d.Device, admin, "r1", "sing", map[string]any{"ttlSec": 600})
			d.receive()
			c.awaitCommand(d.Device, admin, v, "delivered")
			answer := fmt.Sprintf(`{"command_id":%q,"status":"succeeded"}`, v.ID)
			out, err := exec.CommandContext(t.Context(), "mosquitto_pub", other.login("-t", d.Topic("command/response"), "-m", answer)...).CombinedOutput()
			if err == nil && !strings.Contains(string(out), "ot authorized") {
				t.Errorf("it was taken: %s", out)
			}
			other.answer(v.ID, "succeeded") // on its own topic it says nothing about another's
			c.awaitCommand(d.Device, admin, v, "delivered")
		})
	}
}

// configures has a simulated device take a configuration and measure itself.
func (c *Cloud) configures(d Device, token string) {
	c.t.Helper()
	var config struct {
		Desired struct{ Version int }
		InSync  bool `json:"in_sync"`
	}
	zone := map[string]any{"id": "z1", "name": "Sofa", "type": "include", "vertices": [][2]int{{0, 0}, {2000, 0}, {2000, 1500}}, "sensitivity": 50}
	path := "/api/devices/" + d.ID + "/config"
	if status := c.Do(http.MethodPut, path, token, map[string]any{"version": 0, "zones": []any{zone}}, &config); status != 200 || config.Desired.Version != 1 {
		c.t.Fatalf("PUT config: %d %+v", status, config)
	}
	if status := c.Do(http.MethodPut, path, token, map[string]any{"version": 0, "zones": []any{}}, nil); status != http.StatusConflict {
		c.t.Errorf("PUT config of another version: %d", status)
	}
	Await(c.t, 10*time.Second, func() bool {
		c.Get(path, token, &config)
		return config.InSync
	}, func() string { return fmt.Sprintf("the device does not apply %+v", config) })
	var measured struct {
		Status      string
		Diagnostics map[string]any
	}
	c.Post("/api/devices/"+d.ID+"/diagnostics", token, map[string]any{"include": []string{"heap"}}, &measured)
	if measured.Status != "answered" || len(measured.Diagnostics) != 1 || measured.Diagnostics["heap"] == nil {
		c.t.Errorf("measured %+v", measured)
	}
}

// What the simulator's devices do with commands, over the running program.
func TestCommandsWithTheSimulator(t *testing.T) {
	t.Parallel()
	c := Start(t, Options{})
	admin := c.AdminToken()
	for i, tc := range []struct{ manner, status, code string }{
		{"prompt", "succeeded", ""},
		{"slow", "succeeded", ""},
		{"failing", "failed", "DEVICE_FAULT"},
		{"twice", "succeeded", ""},
		{"restarting", "succeeded", ""},
		{"silent", "timed_out", "no_answer"},
	} {
		t.Run(tc.manner, func(t *testing.T) {
			t.Parallel()
			c := c.For(t)
			owner := c.UserToken(tc.manner + "@example.com")
			d := c.simulated(t, owner, 100+i, "--commands", tc.manner, "--command-time", "1s", "--mqtt", []string{"3.1.1", "5"}[i%2])
			v := c.send(d, owner.Token, "r1", "identify", map[string]any{"wait": 20})
			if v.Status != tc.status || v.Code != tc.code {
				t.Errorf("%+v", v)
			}
			if tc.manner == "prompt" {
				v = c.send(d, owner.Token, "r2", "reboot", map[string]any{"wait": 25})
				if v.Status != "succeeded" {
					t.Errorf("reboot: %+v", v)
				}
				v = c.send(d, owner.Token, "r3", "fly", map[string]any{"wait": 20})
				if v.Status != "rejected" || v.Code != "UNSUPPORTED_COMMAND" {
					t.Errorf("fly: %+v", v)
				}
				if status := c.Do(http.MethodPost, "/api/devices/"+d.ID+"/commands", owner.Token, map[string]any{"requestId": "r4", "type": "fly"}, &v); status != 422 || v.Error != "unsupported_by_firmware" {
					t.Errorf("fly again: %d %+v", status, v)
				}
			}
			if tc.manner == "slow" {
				c.configures(d, owner.Token)
			}
			if n := count(c.trail(d, admin), "command_finished "+tc.status); n < 1 {
				t.Error("its end was not audited")
			}
		})
	}
}

func TestRacingRequestsMakeOneCommand(t *testing.T) {
	t.Parallel()
	c := Start(t, Options{})
	admin := c.AdminToken()
	d := c.EnrollAs(admin)
	const racers = 1000
	var wg sync.WaitGroup
	var mu sync.Mutex
	ids, fresh, begin, slots := map[string]int{}, 0, make(chan struct{}), make(chan struct{}, 100)
	for range racers {
		wg.Go(func() {
			<-begin
			slots <- struct{}{} // as many connections as a client has
			defer func() { <-slots }()
			status, text, err := c.request(http.MethodPost, "/api/devices/"+d.ID+"/commands", admin, map[string]any{"requestId": "one", "type": "identify"})
			var v commandView
			if err != nil || status != http.StatusAccepted || json.Unmarshal(text, &v) != nil {
				t.Errorf("%d %s %v", status, text, err)
				return
			}
			mu.Lock()
			defer mu.Unlock()
			if ids[v.ID]++; !v.Duplicate {
				fresh++
			}
		})
	}
	close(begin)
	wg.Wait()
	var page struct{ Commands []commandView }
	c.Get("/api/devices/"+d.ID+"/commands", admin, &page)
	if len(ids) != 1 || fresh != 1 || len(page.Commands) != 1 {
		t.Errorf("%d ids, %d fresh, %d commands", len(ids), fresh, len(page.Commands))
	}
	if n := count(c.trail(d, admin), "command_issued queued"); n != 1 {
		t.Errorf("%d were audited", n)
	}
}
