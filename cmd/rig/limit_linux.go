package rig

import (
	"syscall"
	"unsafe"
)

// LimitFiles lets no file of the server grow beyond size bytes any more: a disk without room. Unlimited gives the room back. The server must
// have been started with ServerConfig.Limitable.
func (s *Server) LimitFiles(size uint64) {
	s.tb.Helper()
	limit := syscall.Rlimit{Cur: size, Max: Unlimited}
	_, _, failure := syscall.RawSyscall6(syscall.SYS_PRLIMIT64, uintptr(s.PID()), syscall.RLIMIT_FSIZE, uintptr(unsafe.Pointer(&limit)), 0, 0, 0)
	if failure != 0 {
		s.tb.Fatalf("limit the files of redis-server: %v", failure)
	}
}
