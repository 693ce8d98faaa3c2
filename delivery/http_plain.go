package delivery

import (
	"bufio"
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"math"
	"net"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"

	"golang.org/x/net/http/httpguts"
)

// maxPlainBody is an event that goes into the buffers of the two systems as a whole, whether the bot reads it or not.
const maxPlainBody = 16 << 10

var (
	errHeaderTooLong = errors.New("the header of the answer is longer than 16 KB")
	errStale         = errors.New("the bot has closed the connection")
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
	used  bool  // for a try before this one
	limit int64 // bytes that may still be read
	idle  time.Time
	stop  func() bool // ends the watch over the try's context
}

// speaksPlainly says whether plain makes a try: what it leaves to http.Transport is rare, and better in its hands.
func (p call) speaksPlainly() bool {
	if p.to.Scheme != "http" || p.fresh || len(p.body) > maxPlainBody || strings.HasSuffix(p.to.Host, ":") {
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
	buf, ok := h.requests.Get().(*[]byte)
	if !ok {
		buf = new([]byte)
	}
	defer h.requests.Put(buf)
	request, err := p.appendRequest((*buf)[:0])
	*buf = request
	if err != nil {
		return nil, err
	}
	deadline := time.Now().Add(p.timeout)
	for {
		c, err := h.connection(ctx, p.to, deadline)
		if err != nil {
			return nil, err
		}
		res, err := c.exchange(ctx, request, deadline)
		if err == nil {
			return res, nil
		}
		if c.drop(); !errors.Is(err, errStale) {
			return nil, err
		}
	}
}

// connection is one that is kept, or a new one, to be used until the deadline.
func (h *plain) connection(ctx context.Context, to *url.URL, deadline time.Time) (*plainConn, error) {
	host := to.Host
	if to.Port() == "" {
		host = net.JoinHostPort(to.Hostname(), "80")
	}
	if c := h.take(host); c != nil {
		return c, nil
	}
	ctx, cancel := context.WithDeadline(ctx, deadline)
	defer cancel()
	conn, err := h.dial(ctx, "tcp", host)
	if err != nil {
		return nil, err
	}
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
	c.idle, c.used = time.Now(), true
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

// sweep closes what has been idle for long.
func (h *plain) sweep() {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.dropIdle(h.idleTime)
	if h.sweeps = nil; len(h.kept) > 0 {
		h.sweeps = time.AfterFunc(h.idleTime/4, h.sweep)
	}
}

// shed closes all that is idle.
func (h *plain) shed() {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.dropIdle(0)
}

// dropIdle closes what has been idle for so long: of each host's connections the first, since the last are used first.
func (h *plain) dropIdle(since time.Duration) {
	for host, list := range h.kept {
		old := 0
		for old < len(list) && time.Since(list[old].idle) >= since {
			_ = list[old].Close()
			old++
		}
		if h.kept[host] = slices.Delete(list, 0, old); old == len(list) {
			delete(h.kept, host)
		}
	}
}

// close closes what is kept. Tries under way finish.
func (h *plain) close() {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.closed = true
	if h.sweeps != nil {
		h.sweeps.Stop()
	}
	h.dropIdle(0)
}

// silent says that there is nothing to read: the bot has neither closed the connection nor said anything unasked.
func silent(fd uintptr) bool {
	var one [1]byte
	_, err := syscall.Read(int(fd), one[:])
	return errors.Is(err, syscall.EAGAIN)
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

// exchange sends the request and reads the header of the answer. Its error is errStale where nothing was sent, because the bot is done with the connection.
func (c *plainConn) exchange(ctx context.Context, request []byte, deadline time.Time) (*http.Response, error) {
	_ = c.SetDeadline(deadline) // that of the last try may be over. An error of a connection shows when it is used
	c.stop = context.AfterFunc(ctx, c.abort)
	if err := ctx.Err(); err != nil {
		return nil, err // nothing may be sent: somebody else may be delivering already
	}
	sending := c.send(request)
	if errors.Is(sending, errStale) {
		return nil, sending
	}
	res, err := c.answer() // also when not all was sent: a bot may answer before it has read everything, and close
	if err != nil {
		return nil, cmp.Or(sending, err)
	}
	body := &plainBody{ReadCloser: res.Body, conn: c, usable: sending == nil && !res.Close && res.StatusCode != http.StatusSwitchingProtocols}
	if res.Body == http.NoBody {
		body.end()
	} else if end := time.Now().Add(drainTime); end.Before(deadline) {
		if _ = c.SetReadDeadline(end); ctx.Err() != nil {
			c.abort() // what it did may have been undone
		}
	}
	res.Body = body
	return res, nil
}

// send writes the request. On a connection that was used before it looks first whether the bot has closed it or said something unasked, and waits
// for the answer to begin: all in one go, because there was nothing to read, and so whoever waits for something from then on misses nothing.
func (c *plainConn) send(request []byte) (err error) {
	if !c.used {
		_, err = c.Write(request)
		return err
	}
	sent := false
	waiting := c.raw.Read(func(fd uintptr) bool {
		if sent {
			return true
		}
		if !silent(fd) {
			err = errStale
			return true
		}
		sent = true
		_, err = c.Write(request)
		return err != nil
	})
	return cmp.Or(err, waiting)
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
