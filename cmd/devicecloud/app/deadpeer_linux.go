package app

import (
	"syscall"
	"time"
)

// deadPeer is how long bytes to an HTTP client may go without an acknowledgement. An
// event stream writes a little every 15 seconds, which a socket takes for a quarter of an
// hour after the client has gone without a word: the deadlines of writes do not see that.
const deadPeer = 45 * time.Second

// tcpUserTimeout is TCP_USER_TIMEOUT, in milliseconds. [tcp(7), RFC 5482]
const tcpUserTimeout = 0x12

// limitDeadPeers makes connections that a listener accepts end when their client is dead:
// they inherit the option.
func limitDeadPeers(_, _ string, conn syscall.RawConn) error {
	var failed error
	err := conn.Control(func(fd uintptr) {
		failed = syscall.SetsockoptInt(int(fd), syscall.IPPROTO_TCP, tcpUserTimeout, int(deadPeer/time.Millisecond))
	})
	if err != nil {
		return err
	}
	return failed
}
