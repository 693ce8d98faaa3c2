package main

import (
	"syscall"
	"time"
)

// sleepUntil waits in the kernel, which wakes up to a twentieth of a millisecond late: Go's own timers are up to a whole one late in a
// process that has nothing else to do.
func sleepUntil(at time.Time) {
	for left := time.Until(at); left > 0; left = time.Until(at) {
		wait := syscall.NsecToTimespec(int64(left))
		_ = syscall.Nanosleep(&wait, nil) // interrupted: again
	}
}
