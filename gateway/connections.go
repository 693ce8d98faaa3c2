package gateway

import (
	fifo "container/list"
	"net"
	"net/http"
	"sync"
	"sync/atomic"
)

// Connections bounds how many connections a server has. When there are too many, the one is closed that has waited longest for a request
// to be complete: so a flood of slow senders, or of those who send nothing, closes its own connections and not those of requests. Only
// when every connection has a request under way, the new one is refused. Safe for concurrent use.
type Connections struct {
	limit int

	mu      sync.Mutex
	open    int
	waiting fifo.List // of *connection: those without a whole request, the longest first
	closed  int64
}

// NewConnections returns Connections of at most limit, which must be positive.
func NewConnections(limit int) *Connections { return &Connections{limit: limit} }

// Guard returns the listener that server must be started with in place of l. When the server is shut down, connections that nothing has come
// over are closed: it would wait five seconds for each to say something.
func (c *Connections) Guard(server *http.Server, l net.Listener) net.Listener {
	server.ConnState = c.note
	server.RegisterOnShutdown(c.closeSilent)
	return &guarded{Listener: l, all: c}
}

// Closed is how many connections were closed or refused because there were too many.
func (c *Connections) Closed() int64 {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.closed
}

// guarded is a listener whose connections are counted.
type guarded struct {
	net.Listener
	all *Connections
}

// Accept implements net.Listener.
func (g *guarded) Accept() (net.Conn, error) {
	for {
		conn, err := g.Listener.Accept()
		if err != nil {
			return nil, err
		}
		if mine := g.all.admit(conn); mine != nil {
			return mine, nil
		}
		_ = conn.Close()
	}
}

// connection is a connection that is counted until it is closed.
type connection struct {
	net.Conn
	all   *Connections
	place *fifo.Element // among those that wait; nil: a request is under way
	gone  bool
	heard atomic.Bool // something has come over it
}

// Read implements net.Conn.
func (c *connection) Read(p []byte) (int, error) {
	n, err := c.Conn.Read(p)
	if n > 0 && !c.heard.Load() {
		c.heard.Store(true)
	}
	return n, err
}

// closeSilent closes the connections that nothing has come over.
func (c *Connections) closeSilent() {
	c.mu.Lock()
	defer c.mu.Unlock()
	for e := c.waiting.Front(); e != nil; e = e.Next() {
		if silent := e.Value.(*connection); !silent.heard.Load() {
			_ = silent.Conn.Close() // its goroutine sees that, ends, and forgets it
		}
	}
}

// Close implements net.Conn.
func (c *connection) Close() error {
	c.all.forget(c)
	return c.Conn.Close()
}

// admit counts a new connection, and closes the one that has waited longest if there are too many; nil: there is none, and the new one
// must go.
func (c *Connections) admit(conn net.Conn) *connection {
	c.mu.Lock()
	var victim *connection
	if c.open >= c.limit {
		c.closed++
		first := c.waiting.Front()
		if first == nil {
			c.mu.Unlock()
			return nil
		}
		victim = first.Value.(*connection)
		c.drop(victim)
	}
	mine := &connection{Conn: conn, all: c}
	mine.place = c.waiting.PushBack(mine)
	c.open++
	c.mu.Unlock()
	if victim != nil {
		_ = victim.Conn.Close() // its goroutine sees that and ends
	}
	return mine
}

// forget counts a connection no more.
func (c *Connections) forget(conn *connection) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.drop(conn)
}

// drop is forget under c.mu.
func (c *Connections) drop(conn *connection) {
	if conn.gone {
		return
	}
	conn.gone = true
	c.open--
	c.leave(conn)
}

// leave takes a connection out of those that wait.
func (c *Connections) leave(conn *connection) {
	if conn.place != nil {
		c.waiting.Remove(conn.place)
		conn.place = nil
	}
}

// note hears from the server what becomes of a connection: active is one whose request has been read as far as its header goes.
func (c *Connections) note(conn net.Conn, state http.ConnState) {
	if inner, ok := conn.(interface{ NetConn() net.Conn }); ok {
		conn = inner.NetConn() // that of TLS
	}
	mine, ok := conn.(*connection)
	if !ok {
		return
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	switch {
	case mine.gone:
	case state == http.StateActive:
		c.leave(mine)
	case state == http.StateIdle && mine.place == nil:
		mine.place = c.waiting.PushBack(mine)
	}
}
