//go:build !unix

package broker

import (
	"net"
	"syscall"
)

// directWriter is nil where a write cannot be tried: there everything goes through the queue.
func directWriter(syscall.RawConn) func([]byte) (int, error) { return nil }

// hungUp is never known where a read cannot be tried.
func hungUp(net.Conn) bool { return false }
