package mqttwire_test

import (
	"bufio"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/opticworks/devicecloud/firmware-sim/mqttwire"
)

// startMosquitto runs somebody else's broker, so that our idea of MQTT is not only our own, and returns its URL.
func startMosquitto(t *testing.T) string {
	t.Helper()
	binary := "/usr/sbin/mosquitto"
	if _, err := os.Stat(binary); err != nil {
		t.Skip("mosquitto is not installed")
	}
	probe, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	port := probe.Addr().(*net.TCPAddr).Port
	if err := probe.Close(); err != nil {
		t.Fatal(err)
	}
	config := filepath.Join(t.TempDir(), "mosquitto.conf")
	text := fmt.Sprintf("listener %d 127.0.0.1\nallow_anonymous true\nlog_dest stderr\n", port)
	if err := os.WriteFile(config, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(binary, "-c", config)
	stderr, err := cmd.StderrPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	running := make(chan bool, 1)
	drained := make(chan struct{})
	go func() {
		defer close(drained)
		lines := bufio.NewScanner(stderr)
		for lines.Scan() {
			if strings.Contains(lines.Text(), "running") {
				running <- true
			}
		}
	}()
	t.Cleanup(func() {
		_ = cmd.Process.Kill()
		<-drained
		_ = cmd.Wait()
	})
	select {
	case <-running:
	case <-drained:
		t.Fatal("mosquitto ended at once")
	case <-time.After(10 * time.Second):
		t.Fatal("mosquitto does not start")
	}
	return fmt.Sprintf("mqtt://127.0.0.1:%d", port)
}

func open(t *testing.T, url string, hello mqttwire.Connect, props ...mqttwire.Property) *mqttwire.Client {
	t.Helper()
	c, err := mqttwire.Dial(t.Context(), url, nil)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = c.Close() })
	if _, err := c.Connect(hello, props...); err != nil {
		t.Fatal(err)
	}
	return c
}

func TestAgainstMosquitto(t *testing.T) {
	url := startMosquitto(t)
	for _, v := range []mqttwire.Version{mqttwire.V311, mqttwire.V5} {
		t.Run("version "+v.String(), func(t *testing.T) {
			name := "fleet" + v.String()
			listener := open(t, url, mqttwire.Connect{Version: v, ClientID: name + "listener", KeepAlive: 60})
			ack, err := listener.Subscribe(mqttwire.Filter{Topic: name + "/#", QoS: 2})
			if err != nil || len(ack.ReasonCodes) != 1 || ack.ReasonCodes[0] != 2 {
				t.Fatalf("subscribe: %+v, %v", ack, err)
			}
			device := open(t, url, mqttwire.Connect{
				Version: v, ClientID: name + "device", KeepAlive: 60, Username: "u",
				Password: []byte("p"), Will: &mqttwire.Will{Topic: name + "/will", Payload: []byte("gone"), QoS: 1},
			})
			for qos := range byte(3) {
				message := mqttwire.Message{Topic: fmt.Sprintf("%s/%d", name, qos), Payload: []byte("hello"), QoS: qos}
				if v == mqttwire.V5 {
					message.Properties = mqttwire.Properties{mqttwire.User("k", "v"), mqttwire.Number(mqttwire.PropMessageExpiry, 60)}
				}
				if _, err := device.Publish(message); err != nil {
					t.Fatalf("publish QoS %d: %v", qos, err)
				}
				got, err := listener.Next(5 * time.Second)
				if err != nil || got.Topic != message.Topic || string(got.Payload) != "hello" || got.QoS != qos {
					t.Fatalf("QoS %d arrived as %+v, %v", qos, got, err)
				}
				if v == mqttwire.V5 && got.Properties.Text(mqttwire.PropUserProperty) != "v" {
					t.Errorf("user property lost: %+v", got.Properties)
				}
			}
			if err := device.Ping(); err != nil {
				t.Errorf("ping: %v", err)
			}
			if err := device.Close(); err != nil {
				t.Fatal(err)
			}
			if got, err := listener.Next(5 * time.Second); err != nil || string(got.Payload) != "gone" {
				t.Errorf("will: %+v, %v", got, err)
			}
			if _, err := listener.Unsubscribe(name + "/#"); err != nil {
				t.Errorf("unsubscribe: %v", err)
			}
			if _, err := listener.Next(time.Millisecond); !errors.Is(err, os.ErrDeadlineExceeded) {
				t.Errorf("after unsubscribing: %v", err)
			}
			if err := listener.Disconnect(); err != nil {
				t.Errorf("disconnect: %v", err)
			}
		})
	}
	t.Run("takeover closes the old client", func(t *testing.T) {
		first := open(t, url, mqttwire.Connect{Version: mqttwire.V5, ClientID: "same"})
		open(t, url, mqttwire.Connect{Version: mqttwire.V5, ClientID: "same"})
		// Mosquitto 2.0.11 closes without the DISCONNECT 0x8E that the specification only recommends.
		if packets, err := first.Drain(5 * time.Second); errors.Is(err, os.ErrDeadlineExceeded) {
			t.Errorf("still open after %+v", packets)
		}
	})
	t.Run("raw bytes go out as they are", func(t *testing.T) {
		c := open(t, url, mqttwire.Connect{Version: mqttwire.V311, ClientID: "raw"})
		if err := c.WriteRaw([]byte{0xC0, 0x00}); err != nil {
			t.Fatal(err)
		}
		if p, err := c.ReadPacket(5 * time.Second); err != nil || p.Type != mqttwire.PINGRESP {
			t.Errorf("got %+v, %v", p, err)
		}
	})
}
