package app

import (
	"net"
	"syscall"
	"testing"
	"time"
)

// TestConnectionsToDeadClientsEnd looks at the option on a connection as the servers get
// it.
func TestConnectionsToDeadClientsEnd(t *testing.T) {
	listener, err := listenHTTP("127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer listener.Close()
	client, err := net.Dial("tcp", listener.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer client.Close()
	conn, err := listener.Accept()
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	raw, err := conn.(*net.TCPConn).SyscallConn()
	if err != nil {
		t.Fatal(err)
	}
	var limit int
	if cerr := raw.Control(func(fd uintptr) { limit, err = syscall.GetsockoptInt(int(fd), syscall.IPPROTO_TCP, tcpUserTimeout) }); cerr != nil || err != nil {
		t.Fatal(cerr, err)
	}
	if got := time.Duration(limit) * time.Millisecond; got != deadPeer {
		t.Errorf("bytes to a dead client wait for %v", got)
	}
}
