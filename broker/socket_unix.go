//go:build unix

package broker

import (
	"errors"
	"net"
	"syscall"
)

// attempt is one write that takes what the kernel takes now and never waits.
type attempt struct {
	raw  syscall.RawConn
	p    []byte
	n    int
	err  error
	once func(fd uintptr) bool // made once: a closure per write would be an allocation per packet
}

// directWriter returns a function that writes without waiting and says how much. It is for one caller at a time.
func directWriter(raw syscall.RawConn) func([]byte) (int, error) {
	a := &attempt{raw: raw}
	a.once = a.try
	return a.write
}

func (a *attempt) write(p []byte) (int, error) {
	a.p, a.n, a.err = p, 0, nil
	err := a.raw.Write(a.once)
	a.p = nil
	if err == nil {
		err = a.err
	}
	if err != nil {
		return 0, err
	}
	return a.n, nil
}

// try reports that it is done even when the kernel took nothing: false would make RawConn wait until it does.
func (a *attempt) try(fd uintptr) bool {
	for {
		n, err := syscall.Write(int(fd), a.p)
		switch {
		case err == nil:
			a.n = n
		case errors.Is(err, syscall.EINTR):
			continue
		case !errors.Is(err, syscall.EAGAIN):
			a.err = err
		}
		return true
	}
}

// hungUp reports whether the peer has closed the connection and nothing of what it sent is left to be read.
func hungUp(nc net.Conn) bool {
	c, ok := nc.(syscall.Conn)
	if !ok {
		return false
	}
	raw, err := c.SyscallConn()
	if err != nil {
		return false
	}
	gone := false
	err = raw.Control(func(fd uintptr) {
		var b [1]byte
		n, _, err := syscall.Recvfrom(int(fd), b[:], syscall.MSG_PEEK|syscall.MSG_DONTWAIT)
		gone = err == nil && n == 0 || errors.Is(err, syscall.ECONNRESET)
	})
	return gone && err == nil
}
