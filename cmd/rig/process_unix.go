//go:build unix && !linux

package rig

import "syscall"

// attributes leave a terminal's interrupt to reach the server, because nothing else would end it with a process that is killed.
func attributes() *syscall.SysProcAttr { return nil }
