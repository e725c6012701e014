package fleet_test

import (
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/opticworks/devicecloud/firmware-sim/fleet"
	"github.com/opticworks/devicecloud/firmware-sim/mqttwire"
)

type state struct {
	UptimeSec int `json:"uptime_sec"`
}

func TestFirstWords(t *testing.T) {
	for _, v := range []mqttwire.Version{mqttwire.V311, mqttwire.V5} {
		t.Run("version "+v.String(), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				b := newBench(t, fleet.Behaviour{Version: v})
				defer b.stop()
				p := <-b.dials
				connect, subscribe := p.accept()
				id := goldenDevice()
				c := connect.Connect
				if c.Version != v || c.ClientID != id.DeviceID || c.Username != id.DeviceID || string(c.Password) != id.Secret || c.KeepAlive != 60 || c.Resume {
					t.Errorf("CONNECT %+v", c)
				}
				if size, ok := connect.Properties.Number(mqttwire.PropMaximumPacketSize); ok != (v == mqttwire.V5) || ok && size != 1024 {
					t.Errorf("maximum packet size %d, %t", size, ok)
				}
				root := "opticworks/" + id.DeviceID + "/"
				if c.Will.Topic != root+"state" {
					t.Errorf("will to %s", c.Will.Topic)
				}
				var suffixes []string
				for _, f := range subscribe.Filters {
					suffixes = append(suffixes, strings.TrimPrefix(f.Topic, root))
				}
				want := []string{"provision/response", "config/update", "ota/trigger", "diag/request", "command/+", "claim/response", "claim/challenge"}
				if !slices.Equal(suffixes, want) {
					t.Errorf("subscribes to %q", suffixes)
				}
				p.register()
				p.message("state")
				synctest.Wait()
				if b.stats.Online.Load() != 1 || b.stats.Provisioned.Load() != 1 || !b.device.Live() || b.device.Sessions() != 1 {
					t.Errorf("online %d, provisioned %d, live %t", b.stats.Online.Load(), b.stats.Provisioned.Load(), b.device.Live())
				}
				b.off()
				p.want(mqttwire.DISCONNECT)
				if p.next() != nil {
					t.Error("says something after DISCONNECT")
				}
			})
		})
	}
}

func TestReportsComeWithJitter(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBench(t, fleet.Behaviour{Interval: 10 * time.Second, TelemetryInterval: 60 * time.Second})
		defer b.stop()
		p := b.up()
		p.message("state")
		last, differs := time.Now(), map[time.Duration]bool{}
		for range 50 {
			p.message("state")
			gap := time.Since(last)
			last = time.Now()
			differs[gap] = true
			if gap < 8*time.Second || gap > 12*time.Second {
				t.Fatalf("state after %s", gap)
			}
		}
		if len(differs) < 40 {
			t.Errorf("only %d different intervals", len(differs))
		}
	})
}

func TestUptimeTellsReportsApart(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBench(t, fleet.Behaviour{Interval: 100 * time.Millisecond})
		defer b.stop()
		p := b.up()
		last := -1
		for range 30 {
			s := decode[state](t, p.message("state"))
			if s.UptimeSec <= last {
				t.Fatalf("uptime %d after %d", s.UptimeSec, last)
			}
			last = s.UptimeSec
		}
	})
}

func TestKeepAlive(t *testing.T) {
	t.Run("a ping every half keep-alive, the server's word for it in MQTT 5", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			b := newBench(t, fleet.Behaviour{Version: mqttwire.V5, Interval: time.Hour})
			defer b.stop()
			p := <-b.dials
			p.want(mqttwire.CONNECT)
			p.send(mqttwire.Packet{Type: mqttwire.CONNACK, Properties: mqttwire.Properties{mqttwire.Number(mqttwire.PropServerKeepAlive, 20)}})
			for range 3 {
				for packet := p.next(); packet.Type != mqttwire.PINGREQ; packet = p.next() {
				}
				p.send(mqttwire.Packet{Type: mqttwire.PINGRESP})
			}
			if took := time.Since(p.opened); took != 30*time.Second {
				t.Errorf("three pings took %s", took)
			}
		})
	})
	t.Run("a server that does not answer is left", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			b := newBench(t, fleet.Behaviour{Interval: time.Hour})
			defer b.stop()
			p := b.up()
			for p.next() != nil {
			}
			if took := time.Since(p.opened); took != 60*time.Second {
				t.Errorf("left after %s", took)
			}
			<-b.dials
			if counts, _ := b.stats.Errors(); counts["no PINGRESP"] != 1 {
				t.Errorf("errors %v", counts)
			}
		})
	})
}

func TestReconnecting(t *testing.T) {
	// refuse lets the device fail n times and returns the pauses between its attempts.
	refuse := func(t *testing.T, life fleet.Behaviour, n int) []time.Duration {
		b := newBench(t, life)
		defer b.stop()
		var pauses []time.Duration
		last := time.Time{}
		for range n {
			p := <-b.dials
			p.want(mqttwire.CONNECT)
			p.send(mqttwire.Packet{Type: mqttwire.CONNACK, ReasonCode: mqttwire.Refused311Unavailable})
			if !last.IsZero() {
				pauses = append(pauses, time.Since(last))
			}
			last = time.Now()
		}
		return pauses
	}
	t.Run("full jitter under a ceiling that doubles up to the cap", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			ceiling, longest := time.Second, time.Duration(0)
			for i, p := range refuse(t, fleet.Behaviour{}, 40) {
				if p > ceiling {
					t.Errorf("pause %d is %s, above %s", i, p, ceiling)
				}
				longest = max(longest, p)
				ceiling = min(2*ceiling, time.Minute)
			}
			if longest < 30*time.Second {
				t.Errorf("the longest pause was %s", longest)
			}
		})
	})
	t.Run("esp-mqtt waits ten seconds, always", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			for _, p := range refuse(t, fleet.Behaviour{ESPIDF: true}, 5) {
				if p != 10*time.Second {
					t.Errorf("pause %s", p)
				}
			}
		})
	})
	t.Run("a device that was provisioned does not ask again, and its uptime goes on", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			b := newBench(t, fleet.Behaviour{})
			defer b.stop()
			p := b.up()
			p.message("state")
			before := decode[state](t, p.message("state")).UptimeSec
			_ = p.conn.Close()
			p = <-b.dials
			p.accept()
			first := p.want(mqttwire.PUBLISH)
			if !strings.HasSuffix(first.Topic, "/state") || decode[state](t, first).UptimeSec <= before {
				t.Errorf("first %s %s, uptime before %d", first.Topic, first.Payload, before)
			}
			if b.stats.Reconnects.Load() != 1 {
				t.Errorf("%d reconnects", b.stats.Reconnects.Load())
			}
		})
	})
	t.Run("the server's DISCONNECT is counted by its code", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			b := newBench(t, fleet.Behaviour{Version: mqttwire.V5})
			defer b.stop()
			p := b.up()
			p.send(mqttwire.Packet{Type: mqttwire.DISCONNECT, ReasonCode: mqttwire.SessionTakenOver})
			<-b.dials
			if counts, _ := b.stats.Errors(); counts["DISCONNECT 0x8E"] != 1 {
				t.Errorf("errors %v", counts)
			}
		})
	})
	t.Run("a silent server is left after the connect timeout", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			b := newBench(t, fleet.Behaviour{})
			defer b.stop()
			p := <-b.dials
			p.want(mqttwire.CONNECT)
			if p.next() != nil || time.Since(p.opened) != 20*time.Second {
				t.Errorf("left after %s", time.Since(p.opened))
			}
		})
	})
	t.Run("switching off does not wait for a silent server", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			b := newBench(t, fleet.Behaviour{})
			p := <-b.dials
			p.want(mqttwire.CONNECT)
			b.stop()
			if time.Since(p.opened) > time.Second {
				t.Errorf("took %s", time.Since(p.opened))
			}
		})
	})
}

func TestUnansweredMessages(t *testing.T) {
	t.Run("esp-mqtt resends with DUP after a second", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			b := newBench(t, fleet.Behaviour{ESPIDF: true, Interval: time.Hour})
			defer b.stop()
			p := <-b.dials
			p.accept()
			first := p.want(mqttwire.PUBLISH)
			again := p.want(mqttwire.PUBLISH)
			if first.Dup || !again.Dup || again.PacketID != first.PacketID || string(again.Payload) != string(first.Payload) {
				t.Errorf("first %+v, then %+v", first, again)
			}
			if took := time.Since(p.opened); took != time.Second {
				t.Errorf("after %s", took)
			}
		})
	})
	t.Run("others wait, and count what never came", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			b := newBench(t, fleet.Behaviour{Interval: time.Hour, KeepAlive: 10 * time.Hour})
			defer b.stop()
			p := <-b.dials
			p.accept()
			for range 2 { // the provisioning is asked again every 10 s
				if packet := p.want(mqttwire.PUBLISH); packet.Dup {
					t.Errorf("resent: %+v", packet)
				}
			}
			time.Sleep(25 * time.Second)
			if counts, _ := b.stats.Errors(); counts["no PUBACK"] != 1 {
				t.Errorf("errors %v", counts)
			}
		})
	})
	t.Run("a refused PUBLISH is counted and the device goes on", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			b := newBench(t, fleet.Behaviour{Version: mqttwire.V5})
			defer b.stop()
			p := <-b.dials
			p.accept()
			request := p.want(mqttwire.PUBLISH)
			p.send(mqttwire.Packet{Type: mqttwire.PUBACK, PacketID: request.PacketID, ReasonCode: mqttwire.NotAuthorized})
			p.message("state")
			if counts, _ := b.stats.Errors(); counts["PUBLISH refused 0x87"] != 1 || b.stats.Acked.Load() >= b.stats.Published.Load() {
				t.Errorf("errors %v", counts)
			}
		})
	})
	t.Run("a rejected provisioning is counted and not repeated", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			b := newBench(t, fleet.Behaviour{Interval: time.Hour, KeepAlive: 10 * time.Hour})
			defer b.stop()
			p := <-b.dials
			p.accept()
			p.message("provision")
			p.order("provision/response", string(golden(t, "provision-response.rejected")))
			p.message("state")
			time.Sleep(time.Minute)
			synctest.Wait()
			if counts, _ := b.stats.Errors(); counts["provisioning rejected: mac_mismatch"] != 1 || len(p.packets) != 0 {
				t.Errorf("errors %v, %d packets more", counts, len(p.packets))
			}
		})
	})
}

type response struct {
	CommandID string `json:"command_id"`
	Status    string
	Code      string
}

// ask sends a command and returns the answer.
func ask(t *testing.T, p *peer, kind, id, rest string) response {
	t.Helper()
	p.order("command/"+kind, fmt.Sprintf(`{"command_id":%q,"type":%q%s}`, id, kind, rest))
	return decode[response](t, p.message("command/response"))
}

// reporting runs the test on a device that is up and says little of its own accord.
func reporting(t *testing.T, do func(t *testing.T, b *bench, p *peer)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		b := newBench(t, fleet.Behaviour{Interval: time.Hour, KeepAlive: 10 * time.Hour})
		defer b.stop()
		do(t, b, b.up())
	})
}

func TestCommands(t *testing.T) {
	t.Run("answers", func(t *testing.T) {
		reporting(t, func(t *testing.T, b *bench, p *peer) {
			past, future := `"`+time.Now().Add(-time.Second).Format(time.RFC3339)+`"`, `"`+time.Now().Add(time.Minute).Format(time.RFC3339)+`"`
			for i, c := range []struct{ kind, rest, status, code string }{
				{"identify", "", "succeeded", ""},
				{"identify", `,"expires_at":` + future, "succeeded", ""},
				{"identify", `,"expires_at":` + past, "rejected", "COMMAND_EXPIRED"},
				{"set-config", `,"params":{"version":7,"zones":[{}]}`, "succeeded", ""},
				{"set-config", `,"params":[]`, "rejected", "INVALID_PARAMS"},
				{"fly", "", "rejected", "UNSUPPORTED_COMMAND"},
			} {
				id := fmt.Sprint("c", i)
				if got := ask(t, p, c.kind, id, c.rest); got != (response{id, c.status, c.code}) {
					t.Errorf("%s%s: %+v", c.kind, c.rest, got)
				}
			}
		})
	})
	t.Run("a repeated command is answered again and done once", func(t *testing.T) {
		reporting(t, func(t *testing.T, b *bench, p *peer) {
			ask(t, p, "set-config", "same", `,"params":{"version":7,"zones":[{}]}`)
			p.order("config/update", `{"version":8,"zones":[]}`)
			if got := ask(t, p, "set-config", "same", `,"params":{"version":7,"zones":[{}]}`); got.Status != "succeeded" {
				t.Errorf("got %+v", got)
			}
			_ = p.conn.Close()
			p = <-b.dials
			p.accept()
			if got := decode[map[string]any](t, p.message("state")); got["config_version"] != 8.0 {
				t.Errorf("the second delivery had an effect: %v", got)
			}
		})
	})
}

func TestCommandsThatRestartOrGoOn(t *testing.T) {
	t.Run("reboot answers, ends the connection and begins the uptime anew", func(t *testing.T) {
		reporting(t, func(t *testing.T, b *bench, p *peer) {
			p.message("state")
			time.Sleep(time.Minute)
			if got := ask(t, p, "reboot", "r1", ""); got.Status != "accepted" {
				t.Errorf("got %+v", got)
			}
			if packet := p.next(); packet != nil {
				t.Errorf("says %+v before it restarts", packet)
			}
			ended := time.Now()
			p = <-b.dials
			if pause := p.opened.Sub(ended); pause != time.Second {
				t.Errorf("boots for %s", pause)
			}
			p.accept()
			if s := decode[state](t, p.message("state")); s.UptimeSec != 0 {
				t.Errorf("uptime %d", s.UptimeSec)
			}
		})
	})
	t.Run("a factory reset provisions again", func(t *testing.T) {
		reporting(t, func(t *testing.T, b *bench, p *peer) {
			ask(t, p, "factory-reset", "f1", "")
			p = <-b.dials
			p.accept()
			p.register()
		})
	})
	t.Run("ota by command is accepted and plays the update", func(t *testing.T) {
		reporting(t, func(t *testing.T, b *bench, p *peer) {
			params, err := json.Marshal(json.RawMessage(golden(t, "ota-trigger")))
			if err != nil {
				t.Fatal(err)
			}
			if got := ask(t, p, "ota", "o1", `,"params":`+string(params)); got.Status != "accepted" {
				t.Errorf("got %+v", got)
			}
			p.message("ota/status")
		})
	})
	t.Run("targets stream until they are switched off", func(t *testing.T) {
		reporting(t, func(t *testing.T, b *bench, p *peer) {
			p.order("command/targets", `{"on":true}`)
			start := time.Now()
			for range 11 {
				if packet := p.message("targets/stream"); packet.QoS != 0 || packet.Retain {
					t.Errorf("targets %+v", packet)
				}
			}
			if took := time.Since(start); took != time.Second {
				t.Errorf("eleven reports in %s", took)
			}
			ask(t, p, "targets", "t1", `,"params":{"on":false}`)
			for len(p.packets) > 0 {
				<-p.packets
			}
			time.Sleep(10 * time.Second)
			synctest.Wait()
			if len(p.packets) != 0 {
				t.Errorf("%d packets after it was switched off", len(p.packets))
			}
		})
	})
}

func TestOrdersThatCannotBeObeyed(t *testing.T) {
	t.Run("what cannot be read is counted and ignored", func(t *testing.T) {
		reporting(t, func(t *testing.T, b *bench, p *peer) {
			p.order("command/identify", `{"command_id":`)
			p.order("config/update", `[]`)
			p.order("nothing/of/ours", `{}`)
			p.order("diag/request", `{"request_id":"`+strings.Repeat("x", 1100)+`"}`)
			p.message("diag/response")
			counts, _ := b.stats.Errors()
			if counts["unreadable message from the cloud"] != 2 || counts["message on a topic nobody asked for"] != 1 || counts["message from the cloud above what the firmware takes"] != 1 {
				t.Errorf("errors %v", counts)
			}
		})
	})
	t.Run("too many zones are rejected", func(t *testing.T) {
		reporting(t, func(t *testing.T, b *bench, p *peer) {
			p.order("config/update", `{"version":4,"zones":[`+strings.Repeat("{},", 16)+`{}]}`)
			same(t, "config-status.rejected", withZones(p.message("config/status")))
		})
	})
}

// withZones lets the rejected example, whose device has two zones, match a device that has none.
func withZones(p *mqttwire.Packet) *mqttwire.Packet {
	p.Payload = []byte(strings.Replace(string(p.Payload), `"zone_count":0`, `"zone_count":2`, 1))
	return p
}
