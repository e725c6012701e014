package main

import (
	"bufio"
	"context"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"strconv"
	"sync"
	"time"
)

// obedientDevices is how many devices take commands, one after another: so many that each has its rest between two.
const obedientDevices = 30

// commands measures how long a command takes from the POST, with wait, over the device to the answer of the POST,
// while devices report once a second each.
func (b *bench) commands(ctx context.Context) (err error) {
	s, err := b.newStart(ctx, "ours", max(b.size.APIDevices+obedientDevices, ownedDevices), true)
	if err != nil {
		return err
	}
	s.Admin = true
	server, err := spawn(ctx, "ours", s)
	if err != nil {
		return err
	}
	defer func() { err = stopAll(err, server) }()
	load, err := b.startLoad(ctx, server.hello.Plain, false)
	if err != nil {
		return err
	}
	defer func() { err = stopAll(err, load) }()
	c, err := signIn(ctx, server.hello.HTTP)
	if err != nil {
		return err
	}
	var devices []*obedient
	var lives sync.WaitGroup
	defer func() {
		for _, d := range devices {
			_ = d.conn.Close() // which ends its life
		}
		lives.Wait()
	}()
	for i := range obedientDevices {
		d, err := newObedient(ctx, server.hello.Plain, deviceAt(b.size.APIDevices+i))
		if err != nil {
			return err
		}
		devices = append(devices, d)
		lives.Go(d.live)
	}
	if _, err := load.ask(request{Do: "connect", Count: b.size.APIDevices}); err != nil {
		return err
	}
	if _, err := load.ask(request{Do: "pace", Rate: float64(b.size.APIDevices)}); err != nil {
		return err
	}
	if err := pause(ctx, time.Second); err != nil { // until all have begun
		return err
	}
	times := make([]time.Duration, b.size.Commands)
	for i := range times {
		if times[i], err = c.command(ctx, devices[i%len(devices)].device, i); err != nil {
			return err
		}
	}
	p50, p99 := percentiles(times)
	b.progress("commands, %d devices report once a second: p99 %.1f ms", b.size.APIDevices, milliseconds(p99))
	b.report.add(row{
		Benchmark: "command p99", What: fmt.Sprintf("POST to device to answer, %d devices report once a second", b.size.APIDevices), Unit: "ms",
		Value: milliseconds(p99), Target: 50, Note: fmt.Sprintf("p50 %.1f ms, %d commands", milliseconds(p50), len(times)),
	})
	_, err = load.ask(request{Do: "pace end"})
	return err
}

// command sends a command and waits until it has succeeded.
func (c *apiClient) command(ctx context.Context, d device, n int) (time.Duration, error) {
	var done struct{ Status string }
	body := map[string]any{"requestId": strconv.Itoa(n), "type": "identify", "wait": 20}
	begun := time.Now()
	err := c.do(ctx, http.MethodPost, "/api/devices/"+d.id+"/commands", c.admin, body, &done)
	took := time.Since(begun)
	if err == nil && done.Status != "succeeded" {
		err = fmt.Errorf("command %d to device %s is %s", n, d.id, done.Status)
	}
	return took, err
}

// obedient is a device that does every command at once.
type obedient struct {
	device
	conn net.Conn
	r    *bufio.Reader
}

func newObedient(ctx context.Context, addr string, d device) (*obedient, error) {
	var dialer net.Dialer
	conn, err := dialer.DialContext(ctx, "tcp", addr)
	if err != nil {
		return nil, err
	}
	l := &link{device: d, conn: conn}
	if err = l.connect(); err == nil {
		err = l.subscribe()
	}
	if err != nil {
		return nil, errors.Join(err, conn.Close())
	}
	return &obedient{d, conn, bufio.NewReader(conn)}, nil
}

// live answers commands until the connection ends.
func (o *obedient) live() {
	for id := uint16(1); ; id++ {
		first, body, err := o.read()
		if err != nil {
			return
		}
		if first&0xf0 != 3<<4 || len(body) < 2 {
			continue
		}
		// A PUBLISH of QoS 1: topic, packet id, payload. [MQTT-3.3.2]
		end := 2 + int(binary.BigEndian.Uint16(body))
		var got struct {
			ID string `json:"command_id"`
		}
		if len(body) < end+2 || json.Unmarshal(body[end+2:], &got) != nil {
			continue
		}
		answer := appendString(nil, o.topic("command/response"))
		answer = binary.BigEndian.AppendUint16(answer, id)
		answer = fmt.Appendf(answer, `{"command_id":%q,"status":"succeeded"}`, got.ID)
		ack := []byte{puback, 2, body[end], body[end+1]}
		if _, err := o.conn.Write(append(ack, packet(3<<4|2, answer)...)); err != nil {
			return
		}
	}
}

// read reads one packet.
func (o *obedient) read() (first byte, body []byte, err error) {
	if first, err = o.r.ReadByte(); err != nil {
		return 0, nil, err
	}
	size, err := binary.ReadUvarint(o.r) // the same as MQTT's [MQTT-2.1.4]
	if err != nil {
		return 0, nil, err
	}
	body = make([]byte, size)
	_, err = io.ReadFull(o.r, body)
	return first, body, err
}
