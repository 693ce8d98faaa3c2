package rig

import "syscall"

// attributes make the kernel kill the server when the thread that started it ends, and keep a terminal's interrupt from it.
func attributes() *syscall.SysProcAttr {
	return &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL, Setpgid: true}
}
