//go:build unix && !linux

package main

import "syscall"

// childAttributes keep a terminal's interrupt from the child: the gateway stops it in its turn. There is no way here to tie it
// to the life of its parent; a child whose gateway was killed goes on and is joined at the next start.
func childAttributes() *syscall.SysProcAttr {
	return &syscall.SysProcAttr{Setpgid: true}
}
