package main

import (
	"net"
	"sync"
)

// roomyPipe is a connection whose writes never wait for the other side to read: the in-process store answers each command of a pipeline
// before it reads the next, so over a plain pipe both sides would wait for each other. Its goroutine ends with Close.
type roomyPipe struct {
	net.Conn
	mu      sync.Mutex
	pending []byte
	err     error // of the write that failed
	wake    chan struct{}
	closing chan struct{}
	once    sync.Once
	ended   chan struct{}
}

func newRoomyPipe(c net.Conn) *roomyPipe {
	p := &roomyPipe{Conn: c, wake: make(chan struct{}, 1), closing: make(chan struct{}), ended: make(chan struct{})}
	go p.pump()
	return p
}

// Write takes the bytes and returns; an error of an earlier write is returned by the next.
func (p *roomyPipe) Write(b []byte) (int, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.err != nil {
		return 0, p.err
	}
	p.pending = append(p.pending, b...)
	select {
	case p.wake <- struct{}{}:
	default:
	}
	return len(b), nil
}

func (p *roomyPipe) pump() {
	defer close(p.ended)
	for {
		select {
		case <-p.wake:
		case <-p.closing:
			return
		}
		p.mu.Lock()
		b := p.pending
		p.pending = nil
		p.mu.Unlock()
		if _, err := p.Conn.Write(b); err != nil {
			p.mu.Lock()
			p.err = err
			p.mu.Unlock()
			return
		}
	}
}

// Close closes the connection and waits for its goroutine.
func (p *roomyPipe) Close() error {
	p.once.Do(func() { close(p.closing) })
	err := p.Conn.Close()
	<-p.ended
	return err
}
