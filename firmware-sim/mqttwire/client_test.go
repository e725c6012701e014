package mqttwire_test

import (
	"bufio"
	"errors"
	"io"
	"net"
	"os"
	"testing"
	"time"

	"github.com/opticworks/devicecloud/firmware-sim/mqttwire"
)

// pair returns the two ends of a connection over loopback; net.Pipe has no buffer, so two writers would block.
func pair(t *testing.T) (near, far net.Conn) {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	near, err = net.Dial("tcp", ln.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	far, err = ln.Accept()
	if err != nil {
		t.Fatal(err)
	}
	return near, far
}

// serve plays a server on one end of a connection: it answers each packet with what script returns, in pieces of one byte.
func serve(t *testing.T, v mqttwire.Version, script func(*mqttwire.Packet) []mqttwire.Packet) *mqttwire.Client {
	t.Helper()
	near, far := pair(t)
	done := make(chan struct{})
	go func() {
		defer close(done)
		r := bufio.NewReader(far)
		for {
			p, err := mqttwire.ReadPacket(r, v)
			if err != nil {
				return
			}
			for _, answer := range script(p) {
				b, err := answer.Append(nil, v)
				if err != nil {
					t.Errorf("script: %v", err)
					return
				}
				for i := range b {
					if _, err := far.Write(b[i : i+1]); err != nil {
						return
					}
				}
			}
		}
	}()
	t.Cleanup(func() {
		_ = near.Close()
		_ = far.Close()
		<-done
	})
	return mqttwire.NewClient(near, v)
}

func TestClient(t *testing.T) {
	t.Run("a refused CONNECT is packet and error", func(t *testing.T) {
		c := serve(t, mqttwire.V311, func(*mqttwire.Packet) []mqttwire.Packet {
			return []mqttwire.Packet{{Type: mqttwire.CONNACK, ReasonCode: mqttwire.Refused311Credential}}
		})
		ack, err := c.Connect(mqttwire.Connect{ClientID: "a"})
		var refused *mqttwire.RefusedError
		if !errors.As(err, &refused) || refused.Code != mqttwire.Refused311Credential || ack == nil {
			t.Errorf("got %+v, %v", ack, err)
		}
	})
	t.Run("messages that arrive during a request wait in the inbox", func(t *testing.T) {
		c := serve(t, mqttwire.V5, func(p *mqttwire.Packet) []mqttwire.Packet {
			if p.Type != mqttwire.PUBLISH {
				return nil
			}
			return []mqttwire.Packet{
				{Type: mqttwire.PUBLISH, Topic: "one"},
				{Type: mqttwire.PUBLISH, Topic: "two", QoS: 1, PacketID: 1},
				{Type: mqttwire.PUBACK, PacketID: p.PacketID},
			}
		})
		if _, err := c.Publish(mqttwire.Message{Topic: "x", QoS: 1}); err != nil {
			t.Fatal(err)
		}
		for _, want := range []string{"one", "two"} {
			if got, err := c.Next(time.Second); err != nil || got.Topic != want {
				t.Errorf("got %+v, %v; want %s", got, err, want)
			}
		}
	})
	t.Run("a refused PUBLISH names the code", func(t *testing.T) {
		c := serve(t, mqttwire.V5, func(p *mqttwire.Packet) []mqttwire.Packet {
			return []mqttwire.Packet{{
				Type: mqttwire.PUBACK, PacketID: p.PacketID, ReasonCode: mqttwire.NotAuthorized,
				Properties: mqttwire.Properties{mqttwire.Text(mqttwire.PropReasonString, "not yours")},
			}}
		})
		_, err := c.Publish(mqttwire.Message{Topic: "x", QoS: 1})
		if err == nil || err.Error() != "PUBLISH refused with 0x87: not yours" {
			t.Errorf("got %v", err)
		}
	})
	t.Run("a DISCONNECT ends the wait", func(t *testing.T) {
		c := serve(t, mqttwire.V5, func(*mqttwire.Packet) []mqttwire.Packet {
			return []mqttwire.Packet{{Type: mqttwire.DISCONNECT, ReasonCode: mqttwire.AdministrativeAction}}
		})
		var gone *mqttwire.DisconnectedError
		if err := c.Ping(); !errors.As(err, &gone) || gone.Code != mqttwire.AdministrativeAction {
			t.Errorf("got %v", err)
		}
	})
	t.Run("a refused filter is an error beside the SUBACK", func(t *testing.T) {
		c := serve(t, mqttwire.V311, func(p *mqttwire.Packet) []mqttwire.Packet {
			return []mqttwire.Packet{{Type: mqttwire.SUBACK, PacketID: p.PacketID, ReasonCodes: []mqttwire.ReasonCode{1, 0x80}}}
		})
		ack, err := c.Subscribe(mqttwire.Filter{Topic: "a", QoS: 1}, mqttwire.Filter{Topic: "#"})
		var refused *mqttwire.RefusedError
		if !errors.As(err, &refused) || len(ack.ReasonCodes) != 2 {
			t.Errorf("got %+v, %v", ack, err)
		}
	})
}

func TestClientAtTheEdgesOfAPacket(t *testing.T) {
	t.Run("a timeout in the middle of a packet loses nothing", func(t *testing.T) {
		near, far := pair(t)
		defer far.Close()
		c := mqttwire.NewClient(near, mqttwire.V311)
		defer c.Close()
		p := mqttwire.Packet{Type: mqttwire.PUBLISH, Topic: "half", Payload: []byte("whole")}
		b, err := p.Append(nil, mqttwire.V311)
		if err != nil {
			t.Fatal(err)
		}
		half := make(chan error, 1)
		go func() {
			_, err := far.Write(b[:5])
			half <- err
		}()
		if _, err := c.Next(50 * time.Millisecond); !errors.Is(err, os.ErrDeadlineExceeded) {
			t.Fatalf("got %v", err)
		}
		if err := <-half; err != nil {
			t.Fatal(err)
		}
		go func() {
			_, err := far.Write(b[5:])
			half <- err
		}()
		if got, err := c.Next(5 * time.Second); err != nil || string(got.Payload) != "whole" {
			t.Errorf("got %+v, %v", got, err)
		}
		if err := <-half; err != nil {
			t.Fatal(err)
		}
	})
	t.Run("the end of the connection is EOF", func(t *testing.T) {
		near, far := pair(t)
		c := mqttwire.NewClient(near, mqttwire.V311)
		defer c.Close()
		if err := far.Close(); err != nil {
			t.Fatal(err)
		}
		if _, err := c.ReadPacket(5 * time.Second); err != io.EOF {
			t.Errorf("got %v", err)
		}
	})
}

func TestParseURL(t *testing.T) {
	cases := []struct {
		url, address string
		secure, ok   bool
	}{
		{"mqtts://127.0.0.1:8883", "127.0.0.1:8883", true, true},
		{"mqtts://cloud.example.com", "cloud.example.com:8883", true, true},
		{"ssl://[::1]", "[::1]:8883", true, true},
		{"tcp://localhost", "localhost:1883", false, true},
		{"mqtt://localhost:1", "localhost:1", false, true},
		{"http://localhost", "", false, false},
		{"localhost:1883", "", false, false},
		{"mqtts://:8883", "", false, false},
	}
	for _, c := range cases {
		address, secure, err := mqttwire.ParseURL(c.url)
		if address != c.address || secure != c.secure || (err == nil) != c.ok {
			t.Errorf("%s: %q, %v, %v", c.url, address, secure, err)
		}
	}
}
