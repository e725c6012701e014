//go:build !linux

package app

import "syscall"

// limitDeadPeers does nothing where the system has no such option: there TCP itself gives
// a dead client up, after a while.
func limitDeadPeers(_, _ string, _ syscall.RawConn) error { return nil }
