//go:build unix && !linux

package rig

// LimitFiles lets no file of the server grow beyond size bytes any more, which only Linux can do to a process that runs.
func (s *Server) LimitFiles(uint64) {
	s.tb.Helper()
	s.tb.Fatalf("limit the files of redis-server: that takes Linux")
}
