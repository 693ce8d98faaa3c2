package delivery

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"math"
	"net"
	"net/http"
	"net/url"
	"strconv"
	"sync"
	"syscall"
	"time"

	"golang.org/x/net/http/httpguts"
)

// maxPlainBody is an event that goes into the buffers of the two systems as a whole, whether the bot reads it or not.
const maxPlainBody = 16 << 10

var (
	errHeaderTooLong = errors.New("the header of the answer is longer than 16 KB")
	errHeaderValue   = errors.New("a header of the request has bytes that may not stand there")
)

// plain makes tries by HTTP/1.1 without TLS. The goroutine that makes a try writes the request and reads the answer itself, where http.Transport has two
// more for each connection and hands everything from one to the other: that costs more than the rest of a try. Answers are read by net/http all the same.
// Safe for concurrent use.
type plain struct {
	dial     dialFunc
	most     int           // connections to one host that are kept
	idleTime time.Duration // for so long

	mu     sync.Mutex
	kept   map[string][]*plainConn // by host and port; the one that was used last comes last, and is used first
	sweeps *time.Timer             // closes what has been idle for long; nil: nothing is kept
	closed bool

	requests sync.Pool // of *[]byte
}

// plainConn is a connection to a bot. One try at a time uses it.
type plainConn struct {
	net.Conn
	of    *plain
	host  string
	raw   syscall.RawConn // nil: it cannot be looked at, and is not kept
	in    *bufio.Reader
	limit int64 // bytes that may still be read
	idle  time.Time
	stop  func() bool // ends the watch over the try's context
}

// speaksPlainly says whether plain makes a try: what it leaves to http.Transport is rare, and better in its hands.
func (p call) speaksPlainly() bool {
	if p.to.Scheme != "http" || p.fresh || len(p.body) > maxPlainBody {
		return false
	}
	for i := range len(p.to.Host) {
		if b := p.to.Host[i]; b >= 0x80 || b == '%' {
			return false // to be written in another way first
		}
	}
	return true
}

// post sends the request. It returns when the header of the answer is there. The body must be closed.
func (h *plain) post(ctx context.Context, p call) (*http.Response, error) {
	deadline := time.Now().Add(p.timeout)
	c, err := h.connection(ctx, p.to, deadline)
	if err != nil {
		return nil, err
	}
	c.stop = context.AfterFunc(ctx, c.abort)
	res, whole, err := c.exchange(p)
	if err != nil {
		c.drop()
		return nil, err
	}
	body := &plainBody{ReadCloser: res.Body, conn: c, usable: whole && !res.Close && res.StatusCode != http.StatusSwitchingProtocols}
	if res.Body == http.NoBody {
		body.end()
	} else if end := time.Now().Add(drainTime); end.Before(deadline) {
		_ = c.SetReadDeadline(end)
	}
	res.Body = body
	return res, nil
}

// connection is one that is kept, or a new one, to be used until the deadline.
func (h *plain) connection(ctx context.Context, to *url.URL, deadline time.Time) (*plainConn, error) {
	host := to.Host
	if to.Port() == "" {
		host = net.JoinHostPort(to.Hostname(), "80")
	}
	for c := h.take(host); c != nil; c = h.take(host) {
		if c.alive(deadline) {
			return c, nil
		}
		_ = c.Close()
	}
	ctx, cancel := context.WithDeadline(ctx, deadline)
	defer cancel()
	conn, err := h.dial(ctx, "tcp", host)
	if err != nil {
		return nil, err
	}
	_ = conn.SetDeadline(deadline) // an error of a connection shows when it is used
	c := &plainConn{Conn: conn, of: h, host: host}
	if s, ok := conn.(syscall.Conn); ok {
		c.raw, _ = s.SyscallConn()
	}
	c.in = bufio.NewReaderSize(c, 1<<10) // ten thousand tries in flight have ten thousand of these
	return c, nil
}

func (h *plain) take(host string) *plainConn {
	h.mu.Lock()
	defer h.mu.Unlock()
	list := h.kept[host]
	if len(list) == 0 {
		return nil
	}
	c := list[len(list)-1]
	list[len(list)-1] = nil
	h.kept[host] = list[:len(list)-1]
	return c
}

// keep keeps a connection for the next try.
func (h *plain) keep(c *plainConn) {
	c.idle = time.Now()
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.closed || len(h.kept[c.host]) >= h.most {
		_ = c.Close()
		return
	}
	if h.kept == nil {
		h.kept = map[string][]*plainConn{}
	}
	h.kept[c.host] = append(h.kept[c.host], c)
	if h.sweeps == nil {
		h.sweeps = time.AfterFunc(h.idleTime/4, h.sweep)
	}
}

// sweep closes what has been idle for long, or was closed by the bot.
func (h *plain) sweep() {
	h.mu.Lock()
	defer h.mu.Unlock()
	for host, list := range h.kept {
		stay := list[:0]
		for _, c := range list {
			if !h.closed && time.Since(c.idle) < h.idleTime && c.alive(time.Time{}) {
				stay = append(stay, c)
			} else {
				_ = c.Close()
			}
		}
		clear(list[len(stay):])
		if h.kept[host] = stay; len(stay) == 0 {
			delete(h.kept, host)
		}
	}
	if h.sweeps = nil; len(h.kept) > 0 {
		h.sweeps = time.AfterFunc(h.idleTime/4, h.sweep)
	}
}

// close closes what is kept. Tries under way finish.
func (h *plain) close() {
	h.mu.Lock()
	h.closed = true
	if h.sweeps != nil {
		h.sweeps.Stop()
	}
	h.mu.Unlock()
	h.sweep()
}

// alive says whether an idle connection may be used, until the deadline from now on: the bot has neither closed it nor said anything unasked.
func (c *plainConn) alive(deadline time.Time) bool {
	_ = c.SetDeadline(deadline) // that of the last try may be over
	var (
		one [1]byte
		err error
	)
	looked := c.raw.Read(func(fd uintptr) bool {
		_, err = syscall.Read(int(fd), one[:])
		return true
	})
	return looked == nil && (errors.Is(err, syscall.EAGAIN) || errors.Is(err, syscall.EINTR))
}

// abort ends a try whose context ended.
func (c *plainConn) abort() { _ = c.SetDeadline(time.Unix(1, 0)) }

// drop ends the use of a connection that must not be used again.
func (c *plainConn) drop() {
	c.stop()
	_ = c.Close()
}

// Read reads no more than the limit.
func (c *plainConn) Read(b []byte) (int, error) {
	if c.limit <= 0 {
		return 0, errHeaderTooLong
	}
	n, err := c.Conn.Read(b[:min(int64(len(b)), c.limit)])
	c.limit -= int64(n)
	return n, err
}

// exchange sends the request and reads the header of the answer. A bot may answer before it has read everything, and close: then what was sent is not
// the whole.
func (c *plainConn) exchange(p call) (res *http.Response, whole bool, err error) {
	buf, ok := c.of.requests.Get().(*[]byte)
	if !ok {
		buf = new([]byte)
	}
	request, err := p.appendRequest((*buf)[:0])
	*buf = request
	if err == nil {
		_, writing := c.Write(request)
		whole = writing == nil
		if res, err = c.answer(); err != nil && !whole {
			err = writing
		}
	}
	c.of.requests.Put(buf)
	return res, whole, err
}

// answer reads the header of the answer, and those that only announce it.
func (c *plainConn) answer() (*http.Response, error) {
	c.limit = maxAnswerHeader
	for {
		res, err := http.ReadResponse(c.in, nil)
		if err != nil {
			return nil, err
		}
		if res.StatusCode >= 200 || res.StatusCode == http.StatusSwitchingProtocols {
			c.limit = math.MaxInt64
			return res, nil
		}
	}
}

// appendRequest writes the request as it goes over the wire.
func (p call) appendRequest(b []byte) ([]byte, error) {
	b = append(b, "POST "...)
	b = append(b, p.to.RequestURI()...)
	b = append(b, " HTTP/1.1\r\nHost: "...)
	b = append(b, p.to.Host...)
	b = append(b, "\r\nContent-Length: "...)
	b = strconv.AppendInt(b, int64(len(p.body)), 10)
	for name, value := range p.headers() {
		if !httpguts.ValidHeaderFieldValue(value) {
			return b, fmt.Errorf("%w: %s", errHeaderValue, name)
		}
		b = append(b, "\r\n"...)
		b = append(b, name...)
		b = append(b, ": "...)
		b = append(b, value...)
	}
	b = append(b, "\r\n\r\n"...)
	return append(b, p.body...), nil
}

// plainBody is the body of an answer. When it has been read to its end the connection may be used again.
type plainBody struct {
	io.ReadCloser
	conn   *plainConn
	usable bool
	ended  bool
}

func (b *plainBody) Read(to []byte) (int, error) {
	if b.ended {
		return 0, io.EOF
	}
	n, err := b.ReadCloser.Read(to)
	if err == io.EOF {
		b.end()
	}
	return n, err
}

// Close ends the use of the connection. What of the body was not read stays unread.
func (b *plainBody) Close() error {
	b.usable = false
	b.end()
	return nil
}

func (b *plainBody) end() {
	if b.ended {
		return
	}
	b.ended = true
	if c := b.conn; b.usable && c.raw != nil && c.in.Buffered() == 0 && c.stop() {
		c.of.keep(c)
	} else {
		c.drop()
	}
}
