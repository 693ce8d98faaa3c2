package main

import (
	"context"
	"net"
	"net/netip"
	"slices"
	"sync"

	"github.com/redis/go-redis/v9"
)

// peers are the addresses that a client of the store has connected to: behind Sentinel or in a cluster they are not those that it was given, and they
// change. Safe for concurrent use.
type peers struct {
	mu  sync.Mutex
	met []netip.AddrPort
}

// through makes a client note whom it connects to.
func (p *peers) through(options *redis.UniversalOptions) {
	dial := redis.NewDialer(&redis.Options{DialTimeout: options.DialTimeout, TLSConfig: options.TLSConfig})
	options.Dialer = func(ctx context.Context, network, address string) (net.Conn, error) {
		conn, err := dial(ctx, network, address)
		if err == nil {
			p.note(conn.RemoteAddr())
		}
		return conn, err
	}
}

func (p *peers) note(address net.Addr) {
	tcp, ok := address.(*net.TCPAddr)
	if !ok {
		return
	}
	at := netip.AddrPortFrom(tcp.AddrPort().Addr().Unmap(), tcp.AddrPort().Port())
	p.mu.Lock()
	defer p.mu.Unlock()
	if !slices.Contains(p.met, at) {
		p.met = append(p.met, at)
	}
}

// list is all of them so far.
func (p *peers) list() []netip.AddrPort {
	p.mu.Lock()
	defer p.mu.Unlock()
	return slices.Clone(p.met)
}
