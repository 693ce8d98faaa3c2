package rig

import (
	"context"
	"net"
	"sync"
	"time"
)

// Direction is one of the two ways of a wire.
type Direction int

// The two ways, as seen from whoever connects.
const (
	ToServer Direction = iota
	ToClient
)

// rule says what a wire does.
type rule struct {
	delay   time.Duration // of everything, each way
	swallow [2]bool       // by Direction: bytes are read and lost
	hold    bool          // nothing is read, nothing is lost
	reset   bool          // connections end by RST
	refuse  bool          // nobody listens
}

// Wire is a TCP proxy to one address. What it is told applies to the connections that it has and to those that come. Close ends it; so does its TB.
type Wire struct {
	tb     TB
	addr   string
	ctx    context.Context // ends with Close
	cancel context.CancelFunc
	owned  sync.WaitGroup // every goroutine

	mu       sync.Mutex
	target   string
	rule     rule
	changed  chan struct{} // closed at the next change
	listener net.Listener  // nil: it refuses
	links    map[*link]bool
}

// NewWire starts a proxy to target (host:port) that passes everything.
func NewWire(tb TB, target string) *Wire {
	tb.Helper()
	w := &Wire{tb: tb, target: target, addr: loopback(freePort(tb)), changed: make(chan struct{}), links: map[*link]bool{}}
	w.ctx, w.cancel = context.WithCancel(context.Background())
	if err := w.listen(); err != nil {
		tb.Fatalf("start wire: %v", err)
	}
	tb.Cleanup(w.Close)
	return w
}

// Addr is the host:port to connect to.
func (w *Wire) Addr() string { return w.addr }

// Pass passes everything on.
func (w *Wire) Pass() { w.set(rule{}) }

// Drop reads and loses what comes from either side.
func (w *Wire) Drop() { w.set(rule{swallow: [2]bool{true, true}}) }

// Cut reads and loses what goes one way, and passes what goes the other.
func (w *Wire) Cut(d Direction) {
	var r rule
	r.swallow[d] = true
	w.set(r)
}

// Delay passes everything d later, each way, without making less of it.
func (w *Wire) Delay(d time.Duration) { w.set(rule{delay: d}) }

// HalfOpen accepts connections and neither passes nor answers anything. What was sent meanwhile arrives after the next change.
func (w *Wire) HalfOpen() { w.set(rule{hold: true}) }

// Reset ends each connection by RST, new ones as soon as they are accepted.
func (w *Wire) Reset() { w.set(rule{reset: true}) }

// Refuse ends all connections by RST and stops listening: new ones are refused.
func (w *Wire) Refuse() { w.set(rule{refuse: true}) }

// To has new connections go to another address, and ends those that there are by RST: the address of a service has moved.
func (w *Wire) To(target string) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.target = target
	for l := range w.links {
		l.end(true)
	}
}

// Close ends all connections and waits for every goroutine.
func (w *Wire) Close() {
	w.cancel()
	w.set(rule{refuse: true})
	w.owned.Wait()
}

// set makes a rule the present one.
func (w *Wire) set(r rule) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.rule = r
	close(w.changed)
	w.changed = make(chan struct{})
	for l := range w.links {
		if r.reset || r.refuse || l.lossy.Load() {
			l.end(true)
		}
	}
	if r.refuse && w.listener != nil {
		_ = w.listener.Close()
		w.listener = nil
	}
	if !r.refuse && w.listener == nil {
		if err := w.listenAgain(); err != nil {
			w.tb.Fatalf("listen again on %s: %v", w.addr, err)
		}
	}
}

// goesTo is the address that a new connection goes to.
func (w *Wire) goesTo() string {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.target
}

// now returns the present rule, and a channel that is closed when it changes.
func (w *Wire) now() (rule, <-chan struct{}) {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.rule, w.changed
}

// listen starts to accept on the wire's address; the caller holds mu or is alone.
func (w *Wire) listen() error {
	listener, err := net.Listen("tcp", w.addr)
	if err != nil {
		return err
	}
	w.listener = listener
	w.owned.Go(func() { w.accept(listener) })
	return nil
}

// listenAgain is listen, with some patience for the port.
func (w *Wire) listenAgain() (err error) {
	for range 100 {
		if err = w.listen(); err == nil {
			return nil
		}
		<-time.After(20 * time.Millisecond)
	}
	return err
}

func (w *Wire) accept(listener net.Listener) {
	for {
		client, err := listener.Accept()
		if err != nil {
			return
		}
		w.owned.Go(func() { w.serve(client.(*net.TCPConn)) })
	}
}

// add notes a link; false: it ended at once, because no connection is wanted.
func (w *Wire) add(l *link) bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.rule.reset || w.rule.refuse || w.ctx.Err() != nil {
		l.end(true)
		return false
	}
	w.links[l] = true
	return true
}

func (w *Wire) remove(l *link) {
	w.mu.Lock()
	defer w.mu.Unlock()
	delete(w.links, l)
}
