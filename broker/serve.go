package broker

import (
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"os"
	"runtime"
	"runtime/debug"
	"time"
)

// transport is how a connection came in; its text is mochi's listener id and a metric label.
type transport string

const (
	overTLS       transport = "tls"
	overPlain     transport = "plain"
	overWebSocket transport = "websocket"
)

// newConn makes the connection for what was accepted or hijacked. Nothing is known of it but its address.
func (b *Broker) newConn(nc net.Conn, via transport, remote net.Addr) *Conn {
	c := &Conn{
		sock:      newSocket(nc, b.limits, b.metrics.slowReader),
		transport: via,
		remote:    remote,
	}
	c.stream = c.sock
	c.guard.before, c.guard.after = b.limits.MaxPreAuthPacket, b.limits.MaxPacket
	return c
}

// serve is the life of an admitted connection, on its own goroutine.
func (b *Broker) serve(c *Conn, begun time.Time) {
	defer b.roster.leave(c)
	b.metrics.opened(c.transport)
	defer b.metrics.closed(c.transport)
	err := b.protect(func() error { return b.establish(c, begun) })
	if failed := c.sock.failure(); errors.Is(failed, ErrSlowReader) {
		err = failed // mochi saw only that the connection was closed
	}
	b.account(c, err)
	_ = b.protect(func() error { b.guard.ConnClosed(c, err); return nil })
	c.finish(err)
}

// establish brings up TLS and hands the connection to mochi until it ends.
func (b *Broker) establish(c *Conn, begun time.Time) error {
	if b.limits.ConnectTimeout > 0 {
		c.expire(begun.Add(b.limits.ConnectTimeout))
	}
	if c.transport == overTLS {
		if err := b.handshake(c, begun); err != nil {
			return fmt.Errorf("%w: %w", ErrHandshake, err)
		}
	}
	c.guard.src = c.stream
	return b.srv.EstablishConnection(string(c.transport), c)
}

// handshake is the TLS handshake.
func (b *Broker) handshake(c *Conn, begun time.Time) error {
	var expires time.Time
	if b.limits.TLSHandshakeTimeout > 0 {
		expires = begun.Add(b.limits.TLSHandshakeTimeout)
	}
	own := b.limits.TLSHandshakeTimeout != b.limits.ConnectTimeout // a deadline of its own, not that of CONNECT
	if own && !expires.IsZero() {
		c.expire(expires)
	}
	if b.gate != nil {
		c.sock.gate, c.sock.expires = b.gate, expires
		defer func() {
			c.sock.leaveGate()
			c.sock.gate = nil
		}()
	}
	t := tls.Server(c.sock, b.tls)
	c.stream, c.secure = t, true
	if err := t.Handshake(); err != nil {
		c.stream = c.sock // nothing can be said over it
		return err
	}
	c.peer = t.ConnectionState().PeerCertificates
	switch {
	case !own:
	case b.limits.ConnectTimeout > 0:
		c.expire(begun.Add(b.limits.ConnectTimeout))
	default:
		c.expire(time.Time{})
	}
	return nil
}

// account counts how a connection ended.
func (b *Broker) account(c *Conn, err error) {
	code, kind := CloseReason(err)
	switch {
	case errors.Is(err, ErrHandshake):
		b.metrics.refuse(refusedHandshake)
	case kind == KeepaliveTimeout && c.ProtocolVersion() == 0:
		b.metrics.refuse(refusedTimeout)
	case kind == ProtocolError && code != 0 && !errors.Is(err, ErrPanic):
		b.metrics.refusePacket(code)
	}
	b.log.Debug("connection ended", "remote", c.remote.String(), "listener", string(c.transport), "reason", kind, "code", int(code))
}

// protect runs f and turns a panic into ErrPanic: mochi has no recover at all, so any panic would end the process.
func (b *Broker) protect(f func() error) (err error) {
	defer func() {
		if r := recover(); r != nil {
			b.metrics.panicked()
			b.log.Error("panic while serving a connection", "panic", panicText(r), "stack", string(debug.Stack()))
			err = ErrPanic
		}
	}()
	return f()
}

// panicText describes a panic without repeating its value, which may hold a secret. What the runtime itself says is
// free of data.
func panicText(r any) string {
	if e, ok := r.(runtime.Error); ok {
		return e.Error()
	}
	return fmt.Sprintf("value of type %T", r)
}

// accept lets connections in until the listener is closed. It survives every error: mochi's own listener ends for ever
// when the process first runs out of descriptors.
func (b *Broker) accept(ln net.Listener, via transport) {
	const least, most = 5 * time.Millisecond, time.Second
	wait := least
	for {
		for via == overTLS && b.gate.crowded() {
			if !b.pause(crowdStep) {
				return
			}
		}
		nc, err := ln.Accept()
		if err != nil {
			if b.drain.Err() != nil {
				return
			}
			b.metrics.acceptFailed()
			if wait == least {
				b.log.Warn("accept failed; trying again", "listener", string(via), "error", acceptErrorText(err))
			}
			if !b.pause(wait) {
				return
			}
			wait = min(2*wait, most)
			continue
		}
		wait = least
		b.admit(nc, via)
	}
}

// acceptErrorText is the part of the error that an operator can act on.
func acceptErrorText(err error) string {
	var sys *os.SyscallError
	if errors.As(err, &sys) {
		return sys.Error()
	}
	return err.Error()
}

// pause waits for d; false when the broker drains first.
func (b *Broker) pause(d time.Duration) bool {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return true
	case <-b.drain.Done():
		return false
	}
}

// admit serves an accepted connection, or closes it. An address that has too many costs nothing of the accept rate;
// then the rate makes the accept queue wait.
func (b *Broker) admit(nc net.Conn, via transport) {
	remote := nc.RemoteAddr()
	why := b.roster.full(remote)
	if why == "" && b.rate != nil && b.rate.Wait(b.drain) != nil {
		why = refusedDraining
	}
	if why == "" {
		begun := time.Now()
		c := b.newConn(nc, via, remote)
		if why = b.roster.enter(c); why == "" {
			go b.serve(c, begun)
			return
		}
	}
	b.metrics.refuse(why)
	_ = nc.Close()
}
