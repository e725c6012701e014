package main

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"time"
)

// mosquittoPath finds the broker, which Debian installs outside a user's search path.
func mosquittoPath() (string, bool) {
	for _, name := range []string{"mosquitto", "/usr/sbin/mosquitto", "/usr/local/sbin/mosquitto"} {
		if path, err := exec.LookPath(name); err == nil {
			return path, true
		}
	}
	return "", false
}

// newMosquitto starts mosquitto without persistence and waits until it listens. The number of messages that it has on
// the way to the subscriber is not limited, or the subscriber could not batch.
func newMosquitto(ctx context.Context, dir string) (*process, error) {
	path, ok := mosquittoPath()
	if !ok {
		return nil, errors.New("mosquitto is not installed")
	}
	addr, err := freeAddress()
	if err != nil {
		return nil, err
	}
	_, port, err := net.SplitHostPort(addr)
	if err != nil {
		return nil, err
	}
	config := fmt.Sprintf("listener %s 127.0.0.1\nallow_anonymous true\npersistence false\nlog_type error\n"+
		"max_inflight_messages 0\nmax_queued_messages 0\n", port)
	if os.Getuid() == 0 {
		config += "user root\n" // it would otherwise become a user that may not enter its directory
	}
	file := filepath.Join(dir, "mosquitto.conf")
	if err := os.WriteFile(file, []byte(config), 0o600); err != nil {
		return nil, err
	}
	p := &process{name: "mosquitto", cmd: exec.CommandContext(ctx, path, "-c", file), errors: &tail{}}
	p.cmd.Stderr = p.errors
	if err := p.cmd.Start(); err != nil {
		return nil, err
	}
	p.hello.Plain = addr
	for range 200 {
		conn, err := net.Dial("tcp", addr)
		if err == nil {
			return p, conn.Close()
		}
		if err := pause(ctx, 25*time.Millisecond); err != nil {
			return nil, errors.Join(err, p.stop())
		}
	}
	return nil, errors.Join(errors.New("mosquitto does not listen"), p.stop())
}

// freeAddress is a loopback address on which nobody listens; for programs that cannot choose one themselves.
func freeAddress() (string, error) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return "", err
	}
	return l.Addr().String(), l.Close()
}
