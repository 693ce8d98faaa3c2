package delivery_test

import (
	"net"
	"sync"
)

// roomyPipe is a connection whose writes never wait for the other side to read, like one with buffers in the kernel: else a long pipeline
// and its answers wait for each other.
type roomyPipe struct {
	net.Conn
	mu      sync.Mutex
	pending []byte
	wake    chan struct{}
	closing chan struct{}
	once    sync.Once
	ended   chan struct{}
}

func roomy(c net.Conn, err error) (net.Conn, error) {
	if err != nil {
		return nil, err
	}
	p := &roomyPipe{Conn: c, wake: make(chan struct{}, 1), closing: make(chan struct{}), ended: make(chan struct{})}
	go p.pump()
	return p, nil
}

func (p *roomyPipe) Write(b []byte) (int, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
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
			return
		}
	}
}

func (p *roomyPipe) Close() error {
	p.once.Do(func() { close(p.closing) })
	err := p.Conn.Close()
	<-p.ended
	return err
}
