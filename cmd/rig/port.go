package rig

import (
	"math/rand/v2"
	"net"
	"strconv"
)

// Ports are drawn from lowestPort on; a cluster's nodes use that and the one busOffset above it. All lie below the range that Linux
// gives to outgoing connections.
const (
	lowestPort = 11_000
	ports      = 10_000
	busOffset  = ports
)

// FreeAddress draws a host:port of 127.0.0.1 that nobody listens on at present.
func FreeAddress(tb TB) string {
	tb.Helper()
	return loopback(freePort(tb))
}

// freePort draws a port that nobody listens on at present, neither there nor busOffset above.
func freePort(tb TB) int {
	tb.Helper()
	for range 100 {
		port := lowestPort + rand.IntN(ports)
		if free(port) && free(port+busOffset) {
			return port
		}
	}
	tb.Fatalf("find a free port of 127.0.0.1 from %d on: all are taken", lowestPort)
	return 0
}

func free(port int) bool {
	listener, err := net.Listen("tcp", loopback(port))
	if err != nil {
		return false
	}
	_ = listener.Close()
	return true
}

func loopback(port int) string { return net.JoinHostPort("127.0.0.1", strconv.Itoa(port)) }
