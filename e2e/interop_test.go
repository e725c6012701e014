package e2e_test

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"net"
	"os/exec"
	"strings"
	"testing"
	"time"
)

// The clients of this file are nobody's here: mosquitto's, paho's and mqtt.js.

func haveProgram(name string) bool {
	_, err := exec.LookPath(name)
	return err == nil
}

func splitAddress(t *testing.T, address string) (host, port string) {
	t.Helper()
	_, port, err := net.SplitHostPort(address)
	if err != nil {
		t.Fatal(err)
	}
	return "localhost", port // the name in the certificate
}

const (
	provisionOf = `{"device_id":%q,"mac_address":%q,"firmware_version":"3.1.4","timestamp":"2026-01-15T10:00:00Z"}`
	stateReport = `{"online":true,"firmware_version":"3.1.4","uptime_sec":42,"wifi_rssi":-61}`
)

// run runs a program that must succeed, and returns what it prints.
func run(t *testing.T, name string, args ...string) string {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	out, err := exec.CommandContext(ctx, name, args...).CombinedOutput()
	if err != nil {
		t.Fatalf("%s %s: %v\n%s", name, strings.Join(args, " "), err, out)
	}
	return string(out)
}

func TestMosquittoClients(t *testing.T) {
	t.Parallel()
	skipWithout(t, "mosquitto_pub", haveProgram("mosquitto_pub") && haveProgram("mosquitto_sub") && haveProgram("mosquitto_rr"))
	c := Start(t, Options{})
	admin := c.AdminToken()
	host, port := splitAddress(t, c.MQTTS())
	for _, version := range []string{"mqttv311", "mqttv5"} {
		t.Run("a device provisions and reports over TLS with "+version, func(t *testing.T) {
			c := c.For(t)
			d := c.EnrollAs(admin)
			const owner = "mosquitto@example.com"
			user := c.UserToken(owner)
			c.Sell(d, owner)
			login := func(more ...string) []string {
				return append([]string{"-h", host, "-p", port, "--cafile", c.CA(), "-V", version, "-q", "1", "-i", d.ID, "-u", d.ID, "-P", d.Secret}, more...)
			}
			answer := run(t, "mosquitto_rr", login("-t", d.Topic("provision"), "-e", d.Topic("provision/response"),
				"-m", fmt.Sprintf(provisionOf, d.ID, d.MAC), "-W", "15")...)
			var provisioned struct{ Status, Owner string }
			if err := json.Unmarshal([]byte(answer), &provisioned); err != nil || provisioned.Status != "registered" || provisioned.Owner != user.ID {
				t.Fatalf("provision/response is %q (%v), want registered and owner %s", answer, err, user.ID)
			}

			// Live and retained state, as the buyer's app sees it.
			watch := exec.CommandContext(t.Context(), "mosquitto_sub", "-h", host, "-p", port, "--cafile", c.CA(), "-V", version, "-q", "1",
				"-i", "u:"+user.ID+":app", "-u", "u:"+user.ID, "-P", user.Token, "-t", d.Topic("state"), "-W", "20")
			lines, err := watch.StdoutPipe()
			if err != nil {
				t.Fatal(err)
			}
			if err := watch.Start(); err != nil {
				t.Fatal(err)
			}
			defer func() {
				_ = watch.Process.Kill()
				_ = watch.Wait()
			}()
			seen := bufio.NewScanner(lines)
			next := func(what string, ok func(online bool, uptime int) bool) {
				for seen.Scan() {
					var s struct {
						Online bool `json:"online"`
						Uptime int  `json:"uptime_sec"`
					}
					if err := json.Unmarshal(seen.Bytes(), &s); err != nil {
						t.Fatalf("state %q: %v", seen.Text(), err)
					}
					if ok(s.Online, s.Uptime) {
						return
					}
				}
				t.Fatalf("mosquitto_sub never saw %s", what)
			}
			next("the retained state of a device that is offline", func(online bool, _ int) bool { return !online })

			run(t, "mosquitto_pub", login("-t", d.Topic("state"), "-m", stateReport, "-r")...)
			next("the report", func(online bool, uptime int) bool { return online && uptime == 42 })
			next("the device going offline", func(online bool, _ int) bool { return !online })

			v := c.AwaitDevice(d, admin, "the report is there and the device has gone", func(v DeviceView) bool { return v.Status == "offline" })
			if v.UptimeSec == nil || *v.UptimeSec != 42 || v.WifiRSSI == nil || *v.WifiRSSI != -61 || v.Firmware != "3.1.4" {
				t.Errorf("the registry has %+v", v)
			}
			if v.StatusReason != "client_disconnect" || v.Provisioned == nil || v.Owner == nil || v.Owner.Email != owner {
				t.Errorf("the registry has %+v", v)
			}
		})
	}
	t.Run("a wrong password is refused", func(t *testing.T) {
		c := c.For(t)
		d := c.EnrollAs(admin)
		out, err := exec.CommandContext(t.Context(), "mosquitto_pub", "-h", host, "-p", port, "--cafile", c.CA(), "-V", "mqttv311", "-q", "1",
			"-i", d.ID, "-u", d.ID, "-P", "wrong", "-t", d.Topic("state"), "-m", stateReport).CombinedOutput()
		if err == nil || !strings.Contains(string(out), "Connection Refused: bad user name or password") && !strings.Contains(string(out), "not authorised") {
			t.Errorf("mosquitto_pub: %v, %s", err, out)
		}
		if v := c.Look(d, admin); v.Epoch != 0 || v.Firmware != "" {
			t.Errorf("the registry took something: %+v", v)
		}
	})
	t.Run("the server's certificate is checked against the development CA", func(t *testing.T) {
		c := c.For(t)
		d := c.EnrollAs(admin)
		out, err := exec.CommandContext(t.Context(), "mosquitto_pub", "-h", "127.0.0.2", "-p", port, "--cafile", c.CA(),
			"-i", d.ID, "-u", d.ID, "-P", d.Secret, "-t", d.Topic("state"), "-m", stateReport).CombinedOutput()
		if err == nil {
			t.Errorf("a name that is not in the certificate passed: %s", out)
		}
	})
}

// script is a client in another language that says "reported" and then stays until
// its standard input ends.
func script(t *testing.T, c *Cloud, d Device, admin, name string, args ...string) {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), name, args...)
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	stdin, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	stdout, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	line, _ := bufio.NewReader(stdout).ReadString('\n') // empty when it died; Wait says how
	if line != "reported\n" {
		_ = stdin.Close()
		t.Fatalf("%s said %q (%v)\n%s", name, line, cmd.Wait(), stderr.String())
	}
	v := c.Look(d, admin) // no waiting: the PUBACK was the commit's receipt
	if !v.Online || v.Firmware != "3.1.4" || v.UptimeSec == nil || *v.UptimeSec != 42 || v.WifiRSSI == nil || *v.WifiRSSI != -61 || v.Provisioned == nil {
		t.Errorf("while it is connected the registry has %+v", v)
	}
	if err := stdin.Close(); err != nil {
		t.Error(err)
	}
	if err := cmd.Wait(); err != nil {
		t.Errorf("%s: %v\n%s", name, err, stderr.String())
	}
	c.AwaitDevice(d, admin, "offline because the client said so", func(v DeviceView) bool {
		return v.Status == "offline" && v.StatusReason == "client_disconnect"
	})
}

func TestPythonPaho(t *testing.T) {
	t.Parallel()
	// Debian's interpreter: paho is a package of it.
	const python = "/usr/bin/python3"
	skipWithout(t, "python3-paho-mqtt", exec.Command(python, "-c", "import paho.mqtt.client").Run() == nil)
	c := Start(t, Options{})
	admin := c.AdminToken()
	host, port := splitAddress(t, c.MQTTS())
	for _, version := range []string{"4", "5"} {
		t.Run("a device provisions and reports over TLS, protocol level "+version, func(t *testing.T) {
			c := c.For(t)
			d := c.EnrollAs(admin)
			script(t, c, d, admin, python, "testdata/paho_device.py", host, port, c.CA(), d.ID, d.MAC, d.Secret, version)
		})
	}
}

func TestMQTTjsOverWebSocket(t *testing.T) {
	t.Parallel()
	skipWithout(t, "mqtt.js", haveProgram("node") && exec.Command("node", "-e", "require('./node_modules/mqtt')").Run() == nil)
	c := Start(t, Options{})
	admin := c.AdminToken()
	for _, version := range []string{"4", "5"} {
		t.Run("a device provisions and reports, protocol level "+version, func(t *testing.T) {
			c := c.For(t)
			d := c.EnrollAs(admin)
			script(t, c, d, admin, "node", "testdata/mqttjs_device.js", c.WebSocket(), d.ID, d.MAC, d.Secret, version)
		})
	}
}
