package rig

import (
	"context"
	"io"
	"net"
	"sync"
	"sync/atomic"
	"time"
)

// link is one connection through a wire.
type link struct {
	wire   *Wire
	ctx    context.Context // ends with the link
	cancel context.CancelFunc
	lossy  atomic.Bool // bytes of it were lost

	mu    sync.Mutex
	conns []*net.TCPConn // those of them that are open
	ended bool
}

// serve carries one accepted connection to its end.
func (w *Wire) serve(client *net.TCPConn) {
	l := &link{wire: w}
	l.ctx, l.cancel = context.WithCancel(w.ctx)
	defer l.cancel()
	l.own(client)
	if !w.add(l) {
		return
	}
	defer w.remove(l)
	defer l.end(false)
	if !l.await(func(r rule) bool { return !r.hold }) {
		return
	}
	server, err := new(net.Dialer).DialContext(l.ctx, "tcp", w.goesTo())
	if err != nil {
		l.end(true)
		return
	}
	l.own(server.(*net.TCPConn))
	var both sync.WaitGroup
	both.Go(func() { l.carry(ToServer, client, server.(*net.TCPConn)) })
	both.Go(func() { l.carry(ToClient, server.(*net.TCPConn), client) })
	both.Wait()
}

// own has a connection end with the link.
func (l *link) own(c *net.TCPConn) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.ended {
		_ = c.Close()
		return
	}
	l.conns = append(l.conns, c)
}

// end closes both connections: by RST, or in good order.
func (l *link) end(reset bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.cancel()
	l.ended = true
	for _, c := range l.conns {
		if reset {
			_ = c.SetLinger(0)
		}
		_ = c.Close()
	}
	l.conns = nil
}

// await waits until the wire's rule is one that will do; false when the link ended first.
func (l *link) await(will func(rule) bool) bool {
	for {
		r, changed := l.wire.now()
		if l.ctx.Err() != nil {
			return false
		}
		if will(r) {
			return true
		}
		select {
		case <-l.ctx.Done():
			return false
		case <-changed:
		}
	}
}

// chunk is what was read at once, and when it may go on.
type chunk struct {
	bytes []byte
	due   time.Time
}

// carry reads from one side and writes to the other until either ends. An end is passed on as one: the other way stays open.
func (l *link) carry(d Direction, from, to *net.TCPConn) {
	chunks := make(chan chunk, 256)
	l.wire.owned.Go(func() {
		defer close(chunks)
		l.read(d, from, chunks)
	})
	for c := range chunks {
		if !l.write(d, to, c) {
			l.end(true)
		}
	}
	if l.await(func(r rule) bool { return !r.hold && !r.swallow[d] }) {
		_ = to.CloseWrite()
	}
}

// read hands on what arrives, each with its time; it leaves everything where it is while the wire holds.
func (l *link) read(d Direction, from *net.TCPConn, chunks chan<- chunk) {
	for l.await(func(r rule) bool { return !r.hold }) {
		buffer := make([]byte, 32<<10)
		n, err := from.Read(buffer)
		r, _ := l.wire.now()
		switch {
		case n == 0:
		case r.swallow[d]:
			l.lossy.Store(true)
		default:
			select {
			case chunks <- chunk{buffer[:n], time.Now().Add(r.delay)}:
			case <-l.ctx.Done():
				return
			}
		}
		if err != nil {
			if err != io.EOF {
				l.end(true)
			}
			return
		}
	}
}

// write passes a chunk on in its time, unless it is to be lost by then; false when the peer has gone.
func (l *link) write(d Direction, to *net.TCPConn, c chunk) bool {
	if wait := time.Until(c.due); wait > 0 {
		select {
		case <-time.After(wait):
		case <-l.ctx.Done():
			return false
		}
	}
	if !l.await(func(r rule) bool { return !r.hold }) {
		return false
	}
	if r, _ := l.wire.now(); r.swallow[d] {
		l.lossy.Store(true)
		return true
	}
	_, err := to.Write(c.bytes)
	return err == nil
}
