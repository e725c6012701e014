package e2e_test

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/opticworks/devicecloud/firmware-sim/mqttwire"
)

// simulated starts a simulated device of a person and waits until it is online.
func (c *Cloud) simulated(t *testing.T, owner User, seed int, more ...string) (d Device) {
	t.Helper()
	sim := exec.Command(Binary(t, "firmware-sim"), append([]string{
		"--devices", "1", "--url", "mqtts://" + c.MQTTS(), "--ca", c.CA(), "--api", c.API(),
		"--owner", owner.Email, "--seed", fmt.Sprint(seed), "--interval", "500ms", "--state", filepath.Join(t.TempDir(), "state"),
	}, more...)...)
	sim.Env = append(sim.Environ(), "ADMIN_EMAIL="+adminEmail, "ADMIN_PASSWORD="+adminPassword)
	if err := sim.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = sim.Process.Kill()
		_ = sim.Wait()
	})
	Await(t, 30*time.Second, func() bool {
		var mine struct {
			Devices []struct {
				ID     string `json:"device_id"`
				Online bool
			}
		}
		c.Get("/api/devices", owner.Token, &mine)
		if len(mine.Devices) == 1 && mine.Devices[0].Online {
			d.ID = mine.Devices[0].ID
		}
		return d.ID != ""
	}, func() string { return "the simulated device does not come" })
	return d
}

// TestLivePositionsOnDemand looks at a simulated device with mosquitto_sub, as somebody
// on the map of an app does. A member of staff who hears everything does not turn it on.
func TestLivePositionsOnDemand(t *testing.T) {
	skipWithout(t, "mosquitto_sub", haveProgram("mosquitto_sub"))
	t.Parallel()
	c := Start(t, Options{})
	owner := c.UserToken("map@example.com")
	d := c.simulated(t, owner, 7)
	a := c.staffLogin(t, adminEmail, adminPassword)
	ear := c.open(t, mqttwire.Connect{Version: mqttwire.V5, KeepAlive: 60, ClientID: "a:" + a.ID + ":ear", Username: "a:" + a.ID, Password: []byte(a.Token)})
	subscribe(t, ear, mqttwire.Filter{Topic: "#"})
	positions := func(span time.Duration) (n int) {
		for until := time.Now().Add(span); time.Now().Before(until); {
			p, err := ear.Next(time.Until(until))
			switch {
			case errors.Is(err, os.ErrDeadlineExceeded):
			case err != nil:
				t.Fatal(err)
			case strings.HasSuffix(p.Topic, "/targets/stream"):
				n++
			}
		}
		return n
	}
	if n := positions(time.Second); n != 0 {
		t.Fatalf("%d positions, and nobody looks", n)
	}
	host, port := splitAddress(t, c.MQTTS())
	began := time.Now()
	out := run(t, "mosquitto_sub", "-h", host, "-p", port, "--cafile", c.CA(), "-i", "u:"+owner.ID+":map", "-u", "u:"+owner.ID, "-P", owner.Token,
		"-t", d.Topic("targets/stream"), "-C", "20", "-W", "30")
	if lines := strings.Count(out, `"targets"`); lines != 20 {
		t.Errorf("it hears %d positions: %s", lines, out)
	}
	if took := time.Since(began); took < 1500*time.Millisecond {
		t.Errorf("20 positions in %v: a device sends ten a second", took)
	}
	positions(3 * time.Second) // on their way: it is told "off" three seconds after "on" at the earliest
	if n := positions(time.Second); n != 0 {
		t.Errorf("%d positions after the last look", n)
	}
	var commands struct{ Commands []struct{ Type string } }
	c.Get("/api/devices/"+d.ID+"/commands", owner.Token, &commands)
	if len(commands.Commands) != 0 {
		t.Errorf("the owner has sent %v", commands.Commands)
	}
}
