package e2e_test

import (
	"errors"
	"fmt"
	"net"
	"os"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/opticworks/devicecloud/firmware-sim/mqttwire"
)

// memoryLimit is what the process may have resident at most, in bytes.
const memoryLimit = 400 << 20

// TestHostileClients lets strangers and devices do their worst to one process,
// while a bystander pings and a device reports.
func TestHostileClients(t *testing.T) {
	c := Start(t, Options{Process: true, Shipped: true, Env: map[string]string{"LOG_LEVEL": "info"}})
	admin := c.AdminToken()
	for _, attack := range []struct {
		name string
		run  func(*testing.T, *Cloud, string)
	}{
		{"a SUBSCRIBE of ten bytes without its options byte", tenByteSubscribe},
		{"every packet type, cut at every byte", cutPackets},
		{"packets that announce 256 MB", hugeAnnouncements},
		{"server-only packets, second CONNECTs and bad flags", packetsThatNobodyMaySend},
		{"3,000 sockets that say nothing, or a byte a second", silentSockets},
		{"a subscriber that stops reading", stalledReader},
		{"a subscriber with a small Receive Maximum under eight publishers", smallReceiveMaximum},
		{"packet ids that collide", collidingIDs},
		{"65,000 user properties in a CONNECT", manyUserProperties},
		{"QoS 2 messages that are never released", unreleasedQoS2},
	} {
		t.Run(attack.name, func(t *testing.T) {
			w := c.watch(t, admin)
			began := time.Now()
			attack.run(t, c, admin)
			w.pass(5)
			w.done()
			t.Logf("took %v; resident %d MB, at most %d MB so far", time.Since(began).Round(time.Millisecond), c.memory(t, "VmRSS")>>20, c.peakMemory(t)>>20)
		})
		if !c.alive(t) {
			t.Fatal("the process died")
		}
	}
	if peak := c.peakMemory(t); peak > memoryLimit {
		t.Errorf("%d MB were resident, want less than %d", peak>>20, memoryLimit>>20)
	}
	if n := c.Metric("mqtt_panics_total"); n != 0 {
		t.Errorf("%v panics", n)
	}
	for _, secret := range []string{adminPassword, admin, "eyJ"} { // the last begins every token
		if reportedIn(c, secret) {
			t.Errorf("the log holds a secret: %.8s...", secret)
		}
	}
}

func tenByteSubscribe(t *testing.T, c *Cloud, admin string) {
	raw := map[mqttwire.Version][]byte{
		mqttwire.V311: {0x82, 8, 0, 1, 0, 4, 'a', '/', 'b', 'c'},
		mqttwire.V5:   {0x82, 8, 0, 1, 0, 0, 3, 'a', '/', 'b'},
	}
	for v, bytes := range raw {
		for _, pieces := range [][][]byte{{bytes}, {bytes[:1], bytes[1:5], bytes[5:]}} {
			client := c.open(t, deviceHello(c.EnrollAs(admin), v))
			for _, piece := range pieces {
				if err := client.WriteRaw(piece); err != nil {
					t.Fatal(err)
				}
			}
			code, closed := closedWithin(client, stretch*time.Second)
			if !closed || v == mqttwire.V5 && code != mqttwire.MalformedPacket {
				t.Errorf("MQTT %s: closed %t with %v, want 0x81", v, closed, code)
			}
		}
	}
}

// samples is a good packet of each of the fifteen types.
func samples(d Device, v mqttwire.Version) []*mqttwire.Packet {
	hello := deviceHello(d, v)
	hello.Will = &mqttwire.Will{Topic: d.Topic("state"), Payload: []byte(`{"online":false}`), QoS: 1, Retain: true}
	p := []*mqttwire.Packet{
		{Type: mqttwire.CONNECT, Connect: &hello},
		{Type: mqttwire.CONNACK},
		{Type: mqttwire.PUBLISH, QoS: 1, PacketID: 9, Topic: d.Topic("state"), Payload: statePayload(1)},
		{Type: mqttwire.PUBACK, PacketID: 9},
		{Type: mqttwire.PUBREC, PacketID: 9},
		{Type: mqttwire.PUBREL, PacketID: 9},
		{Type: mqttwire.PUBCOMP, PacketID: 9},
		{Type: mqttwire.SUBSCRIBE, PacketID: 9, Filters: []mqttwire.Filter{{Topic: d.Topic("provision/response"), QoS: 1}, {Topic: d.Topic("command/+")}}},
		{Type: mqttwire.SUBACK, PacketID: 9, ReasonCodes: []mqttwire.ReasonCode{0}},
		{Type: mqttwire.UNSUBSCRIBE, PacketID: 9, Filters: []mqttwire.Filter{{Topic: d.Topic("provision/response")}}},
		{Type: mqttwire.UNSUBACK, PacketID: 9, ReasonCodes: []mqttwire.ReasonCode{0}},
		{Type: mqttwire.PINGREQ},
		{Type: mqttwire.PINGRESP},
		{Type: mqttwire.DISCONNECT},
	}
	if v == mqttwire.V5 {
		p[0].Properties = mqttwire.Properties{mqttwire.Number(mqttwire.PropSessionExpiry, 60), mqttwire.User("a", "b")}
		p[2].Properties = mqttwire.Properties{mqttwire.Text(mqttwire.PropContentType, "application/json"), mqttwire.User("a", "b")}
		p[13] = &mqttwire.Packet{Type: mqttwire.DISCONNECT, ReasonCode: 4, Properties: mqttwire.Properties{mqttwire.User("a", "b")}}
		p = append(p, &mqttwire.Packet{Type: mqttwire.AUTH, ReasonCode: 0x18, Properties: mqttwire.Properties{mqttwire.Text(mqttwire.PropAuthMethod, "x")}})
	}
	return p
}

func cutPackets(t *testing.T, c *Cloud, admin string) {
	const workers = 8
	type cut struct {
		v     mqttwire.Version
		known bool // said after a good CONNECT
		bytes []byte
		name  string
	}
	devices := c.enrollMany(t, admin, workers)
	var cuts []cut
	for _, v := range bothVersions {
		for _, p := range samples(devices[0], v) {
			whole, err := p.Append(nil, v)
			if err != nil {
				t.Fatal(err)
			}
			for n := 1; n < len(whole); n++ {
				name := fmt.Sprintf("MQTT %s %s of %d bytes cut to %d", v, p.Type, len(whole), n)
				cuts = append(cuts, cut{v, false, whole[:n], name}, cut{v, true, whole[:n], name})
				if n > 2 && len(whole) < 128 { // with a header that fits: nothing is missing, it seems
					fitting := slices.Clone(whole[:n])
					fitting[1] = byte(n - 2)
					cuts = append(cuts, cut{v, false, fitting, name + ", length corrected"}, cut{v, true, fitting, name + ", length corrected"})
				}
			}
		}
	}
	var next atomic.Int64
	inParallel(workers, workers, func(worker int) {
		for {
			i := int(next.Add(1)) - 1
			if i >= len(cuts) {
				return
			}
			k := cuts[i]
			client, err := c.dialWire()
			if err == nil && k.known {
				_, err = client.Connect(deviceHello(devices[worker], k.v))
			}
			if err != nil {
				t.Errorf("before %s: %v", k.name, err)
				continue
			}
			// The server may have closed already: then nobody reads the rest.
			_ = client.WriteRaw(k.bytes)
			if tcp, ok := client.Conn().(*net.TCPConn); ok {
				_ = tcp.CloseWrite()
			}
			if _, closed := closedWithin(client, 2*stretch*time.Second); !closed {
				t.Errorf("%s: still open 10 s after its end", k.name)
			}
			_ = client.Close()
		}
	})
	t.Logf("%d cuts", len(cuts))
}

func hugeAnnouncements(t *testing.T, c *Cloud, admin string) {
	before := c.memory(t, "VmRSS")
	chunk := make([]byte, 64<<10)
	devices := c.enrollMany(t, admin, 15)
	inParallel(15*2*4, 30, func(i int) {
		kind, known := byte(i%15+1), i/15%2 == 0
		header := []byte{kind << 4, 0xFF, 0xFF, 0xFF, 0x7F}
		switch mqttwire.PacketType(kind) {
		case mqttwire.PUBREL, mqttwire.SUBSCRIBE, mqttwire.UNSUBSCRIBE:
			header[0] |= 2
		}
		client, err := c.dialWire()
		if err == nil && known {
			_, err = client.Connect(deviceHello(devices[i%15], mqttwire.V311))
		}
		if err != nil {
			if !known {
				t.Error(err)
			}
			return // taken over by another one of these
		}
		defer client.Close()
		_ = client.WriteRaw(header)
		began := time.Now()
		sent, err := flood(client.Conn(), chunk, 2*stretch*time.Second)
		if errors.Is(err, os.ErrDeadlineExceeded) || sent > 16<<20 {
			t.Errorf("type %d, known %t: the server took %d bytes in %v", kind, known, sent, time.Since(began))
		}
	})
	if grown := c.memory(t, "VmRSS") - before; grown > 64<<20 {
		t.Errorf("the memory grew by %d MB", grown>>20)
	}
}

func packetsThatNobodyMaySend(t *testing.T, c *Cloud, admin string) {
	for _, v := range bothVersions {
		for _, tc := range []struct {
			name  string
			bytes []byte
			code  mqttwire.ReasonCode
		}{
			{"packet type 0", []byte{0x00, 0}, mqttwire.MalformedPacket},
			{"CONNACK", []byte{0x20, 2, 0, 0}, mqttwire.ProtocolError},
			{"SUBACK", []byte{0x90, 3, 0, 1, 0}, mqttwire.ProtocolError},
			{"UNSUBACK", []byte{0xB0, 2, 0, 1}, mqttwire.ProtocolError},
			{"PINGRESP", []byte{0xD0, 0}, mqttwire.ProtocolError},
			{"a second CONNECT", must(t, samples(c.EnrollAs(admin), v)[0], v), mqttwire.ProtocolError},
			{"PUBLISH with QoS 3", []byte{0x36, 5, 0, 1, 'a', 0, 1}, mqttwire.MalformedPacket},
			{"SUBSCRIBE with bad flags", []byte{0x80, 6, 0, 1, 0, 1, 'a', 0}, mqttwire.MalformedPacket},
			{"a length of five bytes", []byte{0x30, 0xFF, 0xFF, 0xFF, 0xFF, 0x7F}, mqttwire.MalformedPacket},
		} {
			client := c.open(t, deviceHello(c.EnrollAs(admin), v))
			if err := client.WriteRaw(tc.bytes); err != nil {
				t.Fatal(err)
			}
			code, closed := closedWithin(client, stretch*time.Second)
			if !closed || v == mqttwire.V5 && code != tc.code || v == mqttwire.V311 && code != 0 {
				t.Errorf("MQTT %s, %s: closed %t with %v, want %v", v, tc.name, closed, code, tc.code)
			}
		}
		// An acknowledgement of something that was never sent harms nobody.
		client := c.open(t, deviceHello(c.EnrollAs(admin), v))
		if err := client.WriteRaw([]byte{0x40, 2, 0x12, 0x34}); err != nil {
			t.Fatal(err)
		}
		if err := client.Ping(); err != nil {
			t.Errorf("MQTT %s: a PUBACK too many ended the connection: %v", v, err)
		}
	}
}

func must(t *testing.T, p *mqttwire.Packet, v mqttwire.Version) []byte {
	t.Helper()
	b, err := p.Append(nil, v)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func silentSockets(t *testing.T, c *Cloud, admin string) {
	const silent, slow = 2000, 1000
	hello := must(t, samples(NewDevice(), mqttwire.V311)[0], mqttwire.V311)
	conns := make([]net.Conn, silent+slow)
	var failed atomic.Int64
	inParallel(len(conns), 32, func(i int) {
		address := c.MQTT()
		if i%2 == 0 {
			address = c.MQTTS()
		}
		conn, err := net.DialTimeout("tcp", address, 10*time.Second)
		if err != nil {
			failed.Add(1)
			return
		}
		conns[i] = conn
	})
	opened := time.Now()
	defer func() {
		for _, conn := range conns {
			if conn != nil {
				_ = conn.Close()
			}
		}
	}()
	if n := failed.Load(); n > 0 {
		t.Fatalf("%d sockets could not be opened", n)
	}
	stop := make(chan struct{})
	var group sync.WaitGroup
	group.Go(func() { // a byte a second each
		tick := time.NewTicker(time.Second)
		defer tick.Stop()
		for n := 0; n < len(hello); n++ {
			for _, conn := range conns[silent:] {
				_, _ = conn.Write(hello[n : n+1]) // the server may have closed it
			}
			select {
			case <-stop:
				return
			case <-tick.C:
			}
		}
	})
	var connects durations
	for time.Since(opened) < 3*time.Second {
		began := time.Now()
		client, err := mqttwire.Dial(t.Context(), "mqtts://"+c.MQTTS(), c.TLS())
		if err == nil {
			_, err = client.Connect(deviceHello(c.EnrollAs(admin), mqttwire.V311))
		}
		if err != nil {
			t.Fatalf("a good device is not let in: %v", err)
		}
		connects = append(connects, time.Since(began))
		_ = client.Close()
	}
	if p99 := connects.percentile(.99); p99 > stretch*500*time.Millisecond {
		t.Errorf("p99 of a good CONNECT is %v, want 500 ms", p99)
	}
	// The last one is dropped 5 s after it was accepted.
	limit := opened.Add(6*time.Second + 5*time.Second)
	open := 0
	for _, conn := range conns {
		_ = conn.SetReadDeadline(limit)
		if _, err := conn.Read(make([]byte, 16)); errors.Is(err, os.ErrDeadlineExceeded) {
			open++
		}
	}
	t.Logf("all gone %v after they were opened; a good CONNECT over TLS took %v (p50) to %v", time.Since(opened).Round(time.Millisecond), connects.percentile(.5), connects.percentile(1))
	if open > 0 {
		t.Errorf("%d sockets that said nothing are still open after %v", open, time.Since(opened))
	}
	close(stop)
	group.Wait()
}

func stalledReader(t *testing.T, c *Cloud, admin string) {
	d := c.EnrollAs(admin)
	user := c.owned(t, admin, "stalled@example.com", d)
	for i, v := range []mqttwire.Version{mqttwire.V311, mqttwire.V5, mqttwire.V311, mqttwire.V5} {
		qos := byte(i / 2)
		conn, err := net.Dial("tcp", c.MQTT())
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close()
		if err := conn.(*net.TCPConn).SetReadBuffer(4 << 10); err != nil {
			t.Fatal(err)
		}
		stalled := mqttwire.NewClient(conn, v)
		if _, err := stalled.Connect(personHello(user, "stalled"+v.String(), v)); err != nil {
			t.Fatal(err)
		}
		subscribe(t, stalled, mqttwire.Filter{Topic: d.Topic("telemetry"), QoS: qos})
		reading := c.open(t, personHello(user, "reading", v))
		subscribe(t, reading, mqttwire.Filter{Topic: d.Topic("telemetry"), QoS: qos})
		publisher := c.open(t, deviceHello(d, mqttwire.V311))
		payload := fmt.Appendf(nil, `{"device_id":%q,"timestamp":"2026-01-15T10:00:00Z","metrics":{},"logs":["%012000d"]}`, d.ID, 1)
		slow := c.Metric("mqtt_slow_writers_total")
		var acks durations
		for len(acks) < 4000 && (len(acks)%50 != 49 || c.Metric("mqtt_slow_writers_total") == slow) {
			began := time.Now()
			if _, err := publisher.Publish(mqttwire.Message{Topic: d.Topic("telemetry"), Payload: payload, QoS: 1}); err != nil {
				t.Fatalf("the publisher suffers: %v", err)
			}
			acks = append(acks, time.Since(began))
			if _, err := reading.Next(stretch * time.Second); err != nil {
				t.Fatalf("another subscriber suffers: %v", err)
			}
		}
		if p99 := acks.percentile(.99); p99 > stretch*250*time.Millisecond {
			t.Errorf("MQTT %s, QoS %d: p99 of the publisher's PUBACK is %v, want 250 ms", v, qos, p99)
		}
		t.Logf("MQTT %s, QoS %d: %d messages of 12 KB until the stalled reader was cut off; p99 of a PUBACK %v", v, qos, len(acks), acks.percentile(.99))
		if c.Metric("mqtt_slow_writers_total") == slow {
			t.Errorf("MQTT %s, QoS %d: the stalled reader is still connected", v, qos)
		}
	}
}

func smallReceiveMaximum(t *testing.T, c *Cloud, admin string) {
	const publishers, each = 8, 40
	const email = "window@example.com"
	devices := c.enrollMany(t, admin, publishers)
	var user User
	for _, d := range devices {
		user = c.owned(t, admin, email, d)
	}
	app := c.open(t, personHello(user, "window", mqttwire.V5), mqttwire.Number(mqttwire.PropReceiveMaximum, 1))
	app.ManualAck = true
	if _, err := app.Subscribe(mqttwire.Filter{Topic: topicRoot + "/+/telemetry", QoS: 1}); err != nil {
		t.Fatal(err)
	}
	var publishing sync.WaitGroup
	var acks durations
	var mu sync.Mutex
	for _, d := range devices {
		client := c.open(t, deviceHello(d, mqttwire.V311))
		publishing.Go(func() {
			for n := range each {
				began := time.Now()
				_, err := client.Publish(mqttwire.Message{
					Topic: d.Topic("telemetry"), QoS: 1,
					Payload: fmt.Appendf(nil, `{"device_id":%q,"timestamp":"2026-01-15T10:00:00Z","metrics":{"n":%d}}`, d.ID, n),
				})
				if err != nil {
					t.Errorf("publisher: %v", err)
					return
				}
				mu.Lock()
				acks = append(acks, time.Since(began))
				mu.Unlock()
			}
		})
	}
	// Every message waits for the PUBACK of the one before; none comes early.
	got := 0
	for {
		p, err := app.ReadPacket(3 * time.Second)
		if errors.Is(err, os.ErrDeadlineExceeded) {
			break
		}
		if err != nil {
			t.Fatalf("after %d messages: %v", got, err)
		}
		if p.Type != mqttwire.PUBLISH || p.QoS == 0 {
			continue
		}
		got++
		if got <= 20 { // is there really only one in flight?
			if early, err := app.ReadPacket(20 * time.Millisecond); err == nil && early.Type == mqttwire.PUBLISH && early.QoS > 0 {
				t.Fatal("a second message is in flight, and the Receive Maximum is 1 [MQTT-3.3.4-9]")
			}
		}
		if err := app.Write(&mqttwire.Packet{Type: mqttwire.PUBACK, PacketID: p.PacketID}); err != nil {
			t.Fatal(err)
		}
	}
	publishing.Wait()
	if p99 := acks.percentile(.99); p99 > stretch*250*time.Millisecond {
		t.Errorf("p99 of the publishers' PUBACK is %v, want 250 ms", p99)
	}
	if err := app.Ping(); err != nil {
		t.Errorf("the subscriber: %v", err)
	}
	t.Logf("%d of %d messages came, one at a time; p99 of a PUBACK %v", got, publishers*each, acks.percentile(.99))
	if got < publishers*each/2 {
		t.Errorf("only %d of %d messages came", got, publishers*each)
	}
}

func collidingIDs(t *testing.T, c *Cloud, admin string) {
	d := c.EnrollAs(admin)
	user := c.owned(t, admin, "collide@example.com", d)
	for _, v := range bothVersions {
		// A device that counts from 1, as the server does, with the server's message
		// unacknowledged.
		device := c.open(t, deviceHello(d, v))
		device.ManualAck = true
		if _, err := device.Subscribe(mqttwire.Filter{Topic: d.Topic("provision/response"), QoS: 1}); err != nil {
			t.Fatal(err)
		}
		var unacked []uint16
		for id := uint16(1); id <= 10; id++ {
			if _, err := device.Publish(mqttwire.Message{Topic: d.Topic("provision"), Payload: provisionPayload(d), QoS: 1, PacketID: id}); err != nil {
				t.Fatalf("MQTT %s: provision with id %d: %v", v, id, err)
			}
			answer, err := device.Next(5 * time.Second)
			if err != nil {
				t.Fatalf("MQTT %s: the answer to id %d: %v", v, id, err)
			}
			unacked = append(unacked, answer.PacketID)
			for _, used := range unacked { // each id of the server's is one of the device's now
				if _, err := device.Publish(mqttwire.Message{Topic: d.Topic("state"), Payload: statePayload(int(id)), QoS: 1, PacketID: used}); err != nil {
					t.Fatalf("MQTT %s: state with the id %d of a message in flight: %v", v, used, err)
				}
			}
			if slices.Contains(unacked[:len(unacked)-1], answer.PacketID) {
				t.Errorf("MQTT %s: the server used id %d twice", v, answer.PacketID)
			}
		}
		for _, id := range unacked {
			if err := device.Write(&mqttwire.Packet{Type: mqttwire.PUBACK, PacketID: id}); err != nil {
				t.Fatal(err)
			}
		}
		// An app with the messages of the fan-out in flight.
		app := c.open(t, personHello(user, "ids"+v.String(), v))
		app.ManualAck = true
		if _, err := app.Subscribe(mqttwire.Filter{Topic: d.Topic("state"), QoS: 1}); err != nil {
			t.Fatal(err)
		}
		if _, err := app.Next(5 * time.Second); err != nil {
			t.Fatalf("the retained state: %v", err)
		}
		for n := range 10 {
			if err := report(device, d, 100+n); err != nil {
				t.Fatal(err)
			}
			m, err := app.Next(5 * time.Second)
			if err != nil {
				t.Fatal(err)
			}
			for _, p := range []*mqttwire.Packet{
				{Type: mqttwire.SUBSCRIBE, PacketID: m.PacketID, Filters: []mqttwire.Filter{{Topic: d.Topic("telemetry"), QoS: 1}}},
				{Type: mqttwire.UNSUBSCRIBE, PacketID: m.PacketID, Filters: []mqttwire.Filter{{Topic: d.Topic("telemetry")}}},
			} {
				if err := app.Write(p); err != nil {
					t.Fatal(err)
				}
				answer, err := app.ReadPacket(5 * time.Second)
				if err != nil || answer.Type != p.Type+1 || answer.PacketID != m.PacketID || slices.ContainsFunc(answer.ReasonCodes, mqttwire.ReasonCode.Failed) {
					t.Fatalf("MQTT %s: %s with the id %d of a message in flight is answered %+v, %v", v, p.Type, m.PacketID, answer, err)
				}
			}
		}
		_ = app.Disconnect()
		_ = device.Disconnect()
	}
}

func manyUserProperties(t *testing.T, c *Cloud, admin string) {
	d := c.EnrollAs(admin)
	var props []mqttwire.Property
	for range 65000 {
		props = append(props, mqttwire.User("", ""))
	}
	client, err := c.dialWire()
	if err != nil {
		t.Fatal(err)
	}
	defer client.Close()
	client.Timeout = stretch * time.Second
	began := time.Now()
	ack, err := client.Connect(deviceHello(d, mqttwire.V5), props...)
	if err == nil || errors.Is(err, os.ErrDeadlineExceeded) {
		t.Errorf("it is answered %+v, %v after %v", ack, err, time.Since(began))
	}
}

func unreleasedQoS2(t *testing.T, c *Cloud, admin string) {
	d := c.EnrollAs(admin)
	before := c.memory(t, "VmRSS")
	client := c.open(t, deviceHello(d, mqttwire.V311))
	raw := must(t, &mqttwire.Packet{
		Type: mqttwire.PUBLISH, QoS: 2, PacketID: 5, Topic: d.Topic("telemetry"),
		Payload: fmt.Appendf(nil, `{"device_id":%q,"timestamp":"2026-01-15T10:00:00Z","metrics":{}}`, d.ID),
	}, mqttwire.V311)
	const repeats = 20000
	writing := make(chan error, 1)
	go func() {
		for range repeats {
			if err := client.WriteRaw(raw); err != nil {
				writing <- err
				return
			}
		}
		writing <- nil
	}()
	for n := range repeats {
		p, err := client.ReadPacket(stretch * time.Second)
		if err != nil || p.Type != mqttwire.PUBREC || p.ReasonCode.Failed() {
			t.Fatalf("PUBLISH %d with the same id is answered %+v, %v", n, p, err)
		}
	}
	if err := <-writing; err != nil {
		t.Fatal(err)
	}
	if grown := c.memory(t, "VmRSS") - before; grown > 64<<20 {
		t.Errorf("the memory grew by %d MB", grown>>20)
	}
}
