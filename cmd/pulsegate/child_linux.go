package main

import "syscall"

// childAttributes make the kernel end the child, by a signal on which it writes its files out, when the thread that started it
// ends. They also keep a terminal's interrupt from it: the gateway stops it in its turn.
func childAttributes() *syscall.SysProcAttr {
	return &syscall.SysProcAttr{Pdeathsig: syscall.SIGTERM, Setpgid: true}
}
