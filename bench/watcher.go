package main

import (
	"context"
	"errors"
	"io"
	"net"
	"time"
)

// watcher is a person's app that watches one device over MQTT. What it is sent it reads and drops.
type watcher struct {
	conn  net.Conn
	ended chan struct{}
}

// watch signs a person in and subscribes to the state of the first device of the fleet.
func watch(ctx context.Context, server reply) (*watcher, error) {
	c, err := signIn(ctx, server.HTTP)
	if err != nil {
		return nil, err
	}
	conn, err := net.Dial("tcp", server.Plain)
	if err != nil {
		return nil, err
	}
	l := link{conn: conn}
	const userName, password, clean, keepAlive = 0x80, 0x40, 0x02, 60
	name := "u:" + c.personID
	body := append(appendString(nil, "MQTT"), 4, userName|password|clean, 0, keepAlive)
	for _, field := range []string{name + ":bench", name, c.person} {
		body = appendString(body, field)
	}
	answer, err := l.exchange(packet(1<<4, body), connack)
	if err != nil || answer[1] != 0 {
		return nil, errors.Join(errRefused, err, conn.Close())
	}
	if _, err = conn.Write(packet(8<<4|2, append(appendString([]byte{0, 1}, deviceAt(0).topic("state")), 0))); err == nil {
		answer, err = expect(io.LimitReader(conn, 5), l.buf[:], suback) // and no byte of the state, which follows at once
	}
	if err != nil || answer[2] != 0 {
		return nil, errors.Join(errRefused, err, conn.Close())
	}
	w := &watcher{conn: conn, ended: make(chan struct{})}
	go w.drop()
	return w, nil
}

// drop reads what comes, the answers to its own pings too, until the connection ends.
func (w *watcher) drop() {
	defer close(w.ended)
	pings := time.NewTicker(pingEvery)
	defer pings.Stop()
	read := make(chan error, 1)
	go func() {
		_, err := io.Copy(io.Discard, w.conn)
		read <- err
	}()
	for {
		select {
		case <-read:
			return
		case <-pings.C:
			if _, err := w.conn.Write([]byte{12 << 4, 0}); err != nil {
				_ = w.conn.Close()
			}
		}
	}
}

func (w *watcher) close() error {
	if w == nil {
		return nil
	}
	err := w.conn.Close()
	<-w.ended
	return err
}
