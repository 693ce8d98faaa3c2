// Package rig makes faults: real redis-servers on loopback that are killed, paused and failed over, and a TCP proxy that delays, drops and
// resets what passes through it. Tests use it, and whatever else measures the gateway on servers of its own.
//
//	s := rig.StartServer(t, rig.ServerConfig{Args: rig.AppendOnly()})
//	w := rig.NewWire(t, s.Addr)   // connect to w.Addr() instead of s.Addr
//	w.Drop()                      // the server is there, but nothing gets through
//	w.Pass()
//	s.Kill()
//	s.Restart()                   // with the same address, on the same files
//
// # Concepts
//
//	Server     one redis-server: kill, restart, pause, resume
//	Cluster    masters and replicas, one server each
//	Sentinels  processes that watch a master and promote its replica
//	Wire       a TCP proxy with faults
//
// # Ownership
//
// Everything ends with the TB that it was started for. What cannot be started fails that TB. A redis-server does not outlive its process, even
// one that is killed: on Linux the kernel ends it with the thread that started it, and that thread lives as long as the server. Elsewhere
// a test process that is killed leaves its servers behind.
//
// # Concurrency
//
// A Wire may be used by several goroutines; Kill, Restart, Pause and Resume of one Server by one at a time.
//
// # Decisions
//
//   - The package imports no room, so that every room's tests can use it.
//   - Ports lie below those that systems give to outgoing connections, and are drawn at random: a server that was killed finds its port
//     free again, and test processes that run at the same time rarely meet. One that does is started again on another port.
//   - A wire that swallowed bytes of a connection resets it at the next change, because TCP never loses a part of a stream: what the
//     peers would see next could not happen on a network. HalfOpen loses nothing, so connections survive it.
package rig
