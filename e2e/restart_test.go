package e2e_test

import (
	"encoding/binary"
	"io"
	"net"
	"net/http"
	"strings"
	"testing"
	"time"
)

func TestRestartKeepsEverything(t *testing.T) {
	t.Parallel()
	t.Run("on SQLite", func(t *testing.T) { restartKeepsEverything(t, nil) })
	t.Run("on PostgreSQL", func(t *testing.T) {
		restartKeepsEverything(t, map[string]string{"DATABASE_URL": postgres.URL(t)})
	})
}

func restartKeepsEverything(t *testing.T, env map[string]string) {
	c := Start(t, Options{Process: true, Env: env})
	admin := c.AdminToken()
	const owner = "keeper@example.com"
	d := c.EnrollAs(admin)
	c.Sell(d, owner)
	user := c.UserToken(owner)
	device := c.Connect(d)
	if err := Provision(device, d); err != nil {
		t.Fatal(err)
	}
	if err := Report(device, d, 77); err != nil {
		t.Fatal(err)
	}
	c.AwaitDevice(d, admin, "online with its owner", func(v DeviceView) bool { return v.Online && v.Owner != nil })

	began := time.Now()
	if code := c.Stop(); code != 0 {
		t.Errorf("SIGTERM ended the program with exit code %d", code)
	}
	if took := time.Since(began); took > 10*time.Second {
		t.Errorf("the end took %v", took)
	}
	if strings.Contains(c.Log(), "DATA RACE") {
		t.Error("the race detector found something")
	}
	c.Restart()

	v := c.Look(d, admin) // the token outlives the restart, too
	if v.Status != "offline" || v.StatusReason != "node_shutdown" {
		t.Errorf("after an orderly end the device is %s because of %s, want offline because of node_shutdown", v.Status, v.StatusReason)
	}
	if v.UptimeSec == nil || *v.UptimeSec != 77 || v.Owner == nil || v.Owner.UserID != user.ID || v.Provisioned == nil {
		t.Errorf("after the restart the registry has %+v", v)
	}
	var list struct {
		Devices []struct {
			ID string `json:"device_id"`
		} `json:"devices"`
	}
	c.Get("/api/devices", user.Token, &list)
	if len(list.Devices) != 1 || list.Devices[0].ID != d.ID {
		t.Errorf("the owner sees %+v", list)
	}
	again := c.Connect(d)
	if err := Report(again, d, 3); err != nil {
		t.Error(err)
	}
	if v := c.Look(d, admin); !v.Online || *v.UptimeSec != 3 || v.Epoch != 2 {
		t.Errorf("after it came back the registry has %+v", v)
	}
}

func TestReadyzSaysNoWhileTheProgramEnds(t *testing.T) {
	c := Start(t, Options{Process: true})
	if status := c.Do(http.MethodGet, "/readyz", "", nil, nil); status != http.StatusOK {
		t.Fatalf("/readyz answers %d", status)
	}
	// A device that keeps its side open makes the program wait for a moment.
	d := c.Enroll()
	stubborn, err := net.Dial("tcp", c.MQTT())
	if err != nil {
		t.Fatal(err)
	}
	defer stubborn.Close()
	if _, err := stubborn.Write(connectPacket(d)); err != nil {
		t.Fatal(err)
	}
	connack := make([]byte, 4)
	if _, err := io.ReadFull(stubborn, connack); err != nil || connack[3] != 0 {
		t.Fatalf("CONNACK %x, %v", connack, err)
	}
	ended := make(chan int, 1)
	stop := c.runner
	go func() {
		code, _ := stop.stop()
		ended <- code
	}()
	var saw int
	for deadline := time.Now().Add(20 * time.Second); time.Now().Before(deadline); {
		status, _, err := c.request(http.MethodGet, "/readyz", "", nil)
		if err != nil {
			break // it has ended
		}
		if status != http.StatusOK {
			saw = status
		}
	}
	if code := <-ended; code != 0 {
		t.Errorf("exit code %d", code)
	}
	c.runner = nil
	if saw != http.StatusServiceUnavailable {
		t.Errorf("while it ended /readyz never said 503 (last other answer %d)", saw)
	}
	for _, line := range strings.Split(c.Log(), "\n") {
		if strings.Contains(line, "panic") || strings.Contains(line, "DATA RACE") {
			t.Errorf("in the log: %s", line)
		}
	}
}

// connectPacket is a CONNECT of MQTT 3.1.1 with a keep-alive of 60 s.
func connectPacket(d Device) []byte {
	text := func(b []byte, s string) []byte {
		return append(binary.BigEndian.AppendUint16(b, uint16(len(s))), s...)
	}
	body := append(text(nil, "MQTT"), 4, 0xc2, 0, 60) // user name, password, clean session
	body = text(text(text(body, d.ID), d.ID), d.Secret)
	return append([]byte{0x10, byte(len(body))}, body...) // below 128 bytes
}
