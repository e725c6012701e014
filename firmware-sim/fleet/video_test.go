package fleet_test

import (
	"fmt"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/opticworks/devicecloud/firmware-sim/fleet"
)

// videoAsk is what a device asks about video.
type videoAsk struct {
	RequestID string `json:"request_id"`
	Purpose   string
}

// filming runs the test on a device with a camera that says little else.
func filming(t *testing.T, do func(t *testing.T, b *bench, p *peer)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		b := newBench(t, fleet.Behaviour{Video: true, Interval: 10 * time.Hour, KeepAlive: 10 * time.Hour})
		defer b.stop()
		do(t, b, b.up())
	})
}

// asked is the next request on a topic, its answer in testdata/wire that fits it.
func asked(t *testing.T, p *peer, topic, answer string) (videoAsk, string) {
	t.Helper()
	packet := p.message(topic)
	if packet.QoS != 1 || packet.Retain {
		t.Errorf("%s QoS %d retain %t", topic, packet.QoS, packet.Retain)
	}
	ask := decode[videoAsk](t, packet)
	return ask, strings.Replace(string(golden(t, answer)), "9f1c2d3e4b5a", ask.RequestID, 1)
}

// unconfigured answers that AWS IoT gives no credentials.
func unconfigured(t *testing.T, p *peer) {
	t.Helper()
	ask, _ := asked(t, p, "kvs/config/request", "kvs-config-response")
	p.order("kvs/config/response", fmt.Sprintf(`{"request_id":%q,"status":"error","error":"feature_disabled"}`, ask.RequestID))
}

func TestVideoIsInTestdata(t *testing.T) {
	filming(t, func(t *testing.T, b *bench, p *peer) {
		packet := p.message("kvs/config/request")
		first := decode[videoAsk](t, packet)
		packet.Payload = []byte(strings.Replace(string(packet.Payload), first.RequestID, "9f1c2d3e4b5a", 1))
		same(t, "kvs-config.request", packet)
		p.order("kvs/config/response", `{"request_id":"of another","status":"error","error":"feature_disabled"}`)
		p.order("kvs/config/response", strings.Replace(string(golden(t, "kvs-config-response")), "9f1c2d3e4b5a", first.RequestID, 1))
		p.order("command/end-viewer", string(golden(t, "command.end-viewer")))
		if got := decode[response](t, p.message("command/response")); got != (response{"01JHMZQ0000000000000000003", "succeeded", ""}) {
			t.Errorf("got %+v", got)
		}
		if got := ask(t, p, "end-viewer", "e2", `,"params":{}`); got.Code != "INVALID_PARAMS" {
			t.Errorf("without a client id: %+v", got)
		}
		synctest.Wait()
		if b.stats.Located.Load() != 1 || b.stats.Ended.Load() != 1 || b.stats.Lent.Load() != 0 || b.stats.ErrorCount() != 0 {
			t.Errorf("located %d, ended %d, lent %d, %d errors", b.stats.Located.Load(), b.stats.Ended.Load(), b.stats.Lent.Load(), b.stats.ErrorCount())
		}
	})
}

func TestADeviceBorrowsCredentials(t *testing.T) {
	filming(t, func(t *testing.T, b *bench, p *peer) {
		unconfigured(t, p)
		packet := p.message("kvs/credentials/request")
		first := decode[videoAsk](t, packet)
		packet.Payload = []byte(strings.Replace(string(packet.Payload), first.RequestID, "9f1c2d3e4b5a", 1))
		same(t, "kvs-credentials.request", packet)

		// It waits as long as it is told, and asks under another name.
		began := time.Now()
		p.order("kvs/credentials/response", strings.Replace(string(golden(t, "kvs-credentials-response.refused")), "9f1c2d3e4b5a", first.RequestID, 1))
		unconfigured(t, p)
		again, lent := asked(t, p, "kvs/credentials/request", "kvs-credentials-response")
		if waited := time.Since(began); waited < time.Minute || waited > 90*time.Second || again.RequestID == first.RequestID || again.Purpose != "webrtc" {
			t.Errorf("after %s it asks %+v", waited, again)
		}

		// The file's credentials last an hour from a time of its own; these do from now.
		until := time.Now().Add(time.Hour).Truncate(time.Second)
		p.order("kvs/credentials/response", strings.Replace(lent, "2026-01-15T11:00:00Z", until.UTC().Format(time.RFC3339), 1))
		synctest.Wait()
		if b.stats.Lent.Load() != 1 {
			t.Errorf("%d were lent", b.stats.Lent.Load())
		}
		// A new connection goes on with what it has, until five minutes before the end.
		_ = p.conn.Close()
		p = <-b.dials
		p.accept()
		unconfigured(t, p)
		if left := time.Until(until); left > 5*time.Minute || left < 4*time.Minute {
			t.Errorf("it asks again %s before the end", left)
		}
		counts, _ := b.stats.Errors()
		if counts["video refused: rate_limited"] != 1 || counts["message from the cloud above what the firmware takes"] != 0 {
			t.Errorf("errors %v", counts)
		}
	})
}

func TestADeviceWaitsUntilItsVideoHasAName(t *testing.T) {
	filming(t, func(t *testing.T, b *bench, p *peer) {
		for range 3 {
			began := time.Now()
			unconfigured(t, p)
			ask, _ := asked(t, p, "kvs/credentials/request", "kvs-credentials-response")
			p.order("kvs/credentials/response", fmt.Sprintf(`{"request_id":%q,"status":"error","error":"not_provisioned"}`, ask.RequestID))
			if waited := time.Since(began); waited > 90*time.Second {
				t.Errorf("it waited %s", waited)
			}
		}
		synctest.Wait()
		if n := b.stats.ErrorCount(); n != 0 {
			t.Errorf("%d errors", n)
		}
	})
}

func TestADeviceWithoutACameraHasNoVideo(t *testing.T) {
	reporting(t, func(t *testing.T, _ *bench, p *peer) {
		if got := ask(t, p, "end-viewer", "e1", `,"params":{"client_id":"u1"}`); got.Code != "UNSUPPORTED_COMMAND" {
			t.Errorf("got %+v", got)
		}
	})
}
