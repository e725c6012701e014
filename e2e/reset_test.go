package e2e_test

import (
	"fmt"
	"os/exec"
	"path/filepath"
	"testing"
	"time"
)

// play runs a simulated device until ready; then it is switched off.
func (c *Cloud) play(t *testing.T, state string, ready func() bool, what string, more ...string) {
	t.Helper()
	sim := exec.Command(Binary(t, "firmware-sim"), append([]string{
		"--devices", "1", "--url", "mqtts://" + c.MQTTS(), "--ca", c.CA(), "--api", c.API(), "--state", state, "--interval", "500ms",
	}, more...)...)
	sim.Env = append(sim.Environ(), "ADMIN_EMAIL="+adminEmail, "ADMIN_PASSWORD="+adminPassword)
	if err := sim.Start(); err != nil {
		t.Fatal(err)
	}
	defer func() {
		_ = sim.Process.Kill()
		_ = sim.Wait()
	}()
	Await(t, 30*time.Second, ready, func() string { return what })
}

// TestAFactoryResetAtTheDevice sets a simulated device up, presses its reset button, and
// looks at who owns it: by default the same person, so that a thief frees nothing.
func TestAFactoryResetAtTheDevice(t *testing.T) {
	t.Parallel()
	for _, releases := range []bool{false, true} {
		t.Run(fmt.Sprint("releases ", releases), func(t *testing.T) {
			t.Parallel()
			c := Start(t, Options{Env: map[string]string{"RESET_RELEASES_OWNERSHIP": fmt.Sprint(releases)}})
			owner, admin, state := c.UserToken("owner@example.com"), c.AdminToken(), filepath.Join(t.TempDir(), "state")
			var d Device
			mine := func() bool {
				var answer struct {
					Devices []struct {
						ID string `json:"device_id"`
					}
				}
				c.Get("/api/devices", owner.Token, &answer)
				if len(answer.Devices) == 1 {
					d.ID = answer.Devices[0].ID
				}
				return len(answer.Devices) == 1
			}
			reported := func() bool { return d.ID != "" && count(c.trail(d, admin), "reset_reported") > 0 }
			c.play(t, state, mine, "the device does not come", "--owner", owner.Email)
			c.play(t, state, reported, "no reset is reported", "--factory-reset", "--packet-size", "4096")
			if mine() == releases {
				t.Errorf("after the reset the owner has it: %v; audit %v", !releases, c.trail(d, admin))
			}
			if n := count(c.trail(d, admin), "released"); (n == 1) != releases {
				t.Errorf("released %d times", n)
			}
			if !releases { // and the buffer that it declared counts
				v := c.send(d, owner.Token, "r1", "sing", map[string]any{"params": map[string]string{"x": fmt.Sprintf("%01000d", 0)}})
				if v.Status != "queued" && v.Status != "sent" {
					t.Errorf("a command of a kilobyte: %+v", v)
				}
			}
		})
	}
}
