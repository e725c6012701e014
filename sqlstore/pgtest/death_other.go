//go:build unix && !linux

package pgtest

import "syscall"

// dieWithParent does nothing: only Linux can tie a process to its parent's life.
func dieWithParent(*syscall.SysProcAttr) {}
