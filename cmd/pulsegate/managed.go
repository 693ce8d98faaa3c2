package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"time"

	"github.com/redis/go-redis/v9"
)

// The files of a managed redis-server in the data directory, beside its append-only file.
const (
	socketNote  = "redis.sock.path" // where its socket is
	startLock   = "redis.start"     // held by a gateway that is starting or joining
	runningLock = "redis.running"   // held by the redis-server itself for as long as it lives
	serverLog   = "redis.log"       // of the present redis-server
)

// managedConfig says which redis-server is wanted.
type managedConfig struct {
	server string // path of the program
	data   string
	always bool // a child has each write on its disk before it answers
	log    *slog.Logger
}

// managed is the redis-server of a data directory, as one gateway sees it: its own child, or another gateway's. It sees to it
// that there is one for as long as it runs. Safe for concurrent use.
type managed struct {
	managedConfig

	mu     sync.Mutex
	socket string
	child  *child // nil: joined

	end     context.CancelFunc
	watched chan struct{} // closed when the watch has ended
}

// openManaged joins the redis-server of a data directory, or starts one. The context bounds the opening only.
func openManaged(ctx context.Context, cfg managedConfig) (*managed, error) {
	if err := os.MkdirAll(cfg.data, 0o700); err != nil {
		return nil, fmt.Errorf("make data directory: %w", err)
	}
	var err error
	if cfg.data, err = filepath.Abs(cfg.data); err != nil {
		return nil, fmt.Errorf("find data directory: %w", err)
	}
	if err := checkServerVersion(ctx, cfg.server); err != nil {
		return nil, err
	}
	m := &managed{managedConfig: cfg, watched: make(chan struct{})}
	if err := m.ensure(ctx); err != nil {
		return nil, err
	}
	var watching context.Context
	watching, m.end = context.WithCancel(context.Background())
	go m.watch(watching)
	return m, nil
}

// describe says for people what this is.
func (m *managed) describe() string {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.child == nil {
		return "redis-server of another gateway on " + m.data
	}
	return "redis-server as a child, data in " + m.data
}

// dial opens a connection to the redis-server wherever it is at present.
func (m *managed) dial(ctx context.Context, _, _ string) (net.Conn, error) {
	m.mu.Lock()
	socket := m.socket
	m.mu.Unlock()
	var d net.Dialer
	return d.DialContext(ctx, "unix", socket)
}

// ensure joins the redis-server of the data directory if it answers, and starts one if it does not. Only one gateway does so at
// a time.
func (m *managed) ensure(ctx context.Context) error {
	lock, err := takeLock(ctx, filepath.Join(m.data, startLock))
	if err != nil {
		return fmt.Errorf("wait for another gateway that is starting on %s: %w", m.data, err)
	}
	defer func() { _ = lock.Close() }()
	socket := m.noted()
	if socket != "" && answers(ctx, socket) {
		m.set(socket, nil)
		m.log.Info("joined the redis-server of another gateway", "data", m.data)
		return nil
	}
	started, err := startChild(ctx, m.managedConfig)
	if err != nil {
		return err
	}
	if err := os.WriteFile(filepath.Join(m.data, socketNote), []byte(started.socket+"\n"), 0o600); err != nil {
		_ = started.stop(ctx)
		return fmt.Errorf("note the socket of redis-server: %w", err)
	}
	removeSocketDir(socket)
	m.set(started.socket, started)
	m.log.Info("started redis-server", "data", m.data)
	return nil
}

// set changes the redis-server that is talked to.
func (m *managed) set(socket string, c *child) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.socket, m.child = socket, c
}

// noted returns the socket that the last redis-server of the data directory listened on; empty when there was none.
func (m *managed) noted() string {
	text, err := os.ReadFile(filepath.Join(m.data, socketNote))
	if err != nil {
		return ""
	}
	return strings.TrimSpace(string(text))
}

// watch sees to it that there is a redis-server until its context ends.
func (m *managed) watch(ctx context.Context) {
	defer close(m.watched)
	for m.awaitLoss(ctx) {
		m.log.Error("redis-server is gone, starting it again on the same data", "data", m.data)
		for ctx.Err() == nil {
			err := m.ensure(ctx)
			if err == nil {
				break
			}
			if ctx.Err() == nil {
				m.log.Error("cannot start redis-server", "error", err)
			}
			pause(ctx, time.Second)
		}
	}
}

// awaitLoss returns true when the redis-server has gone, false when the context has ended.
func (m *managed) awaitLoss(ctx context.Context) bool {
	m.mu.Lock()
	own, socket := m.child, m.socket
	m.mu.Unlock()
	if own != nil {
		select {
		case <-own.exited:
			return ctx.Err() == nil
		case <-ctx.Done():
			return false
		}
	}
	for pause(ctx, 250*time.Millisecond) {
		if !reachable(ctx, socket) {
			return ctx.Err() == nil
		}
	}
	return false
}

// stop ends the watch, and then the redis-server if it is a child of this gateway. Gateways that had joined it start their own.
func (m *managed) stop(ctx context.Context) error {
	m.end()
	<-m.watched
	m.mu.Lock()
	own := m.child
	m.mu.Unlock()
	if own == nil {
		return nil
	}
	return own.stop(ctx)
}

// reachable tells whether anybody listens on a socket.
func reachable(ctx context.Context, socket string) bool {
	var d net.Dialer
	conn, err := d.DialContext(ctx, "unix", socket)
	if err != nil {
		return false
	}
	_ = conn.Close()
	return true
}

// answers waits until a redis-server on a socket answers; false when nobody listens there, or says nothing for two seconds.
func answers(ctx context.Context, socket string) bool {
	if !reachable(ctx, socket) {
		return false
	}
	options := baseOptions()
	options.Addrs = []string{socket}
	client := redis.NewUniversalClient(options)
	defer func() { _ = client.Close() }()
	return awaitAnswer(ctx, client) == nil
}

// pause waits; false when the context ended first.
func pause(ctx context.Context, d time.Duration) bool {
	select {
	case <-ctx.Done():
		return false
	case <-time.After(d):
		return true
	}
}

// takeLock waits for the exclusive lock of a file, and holds it until the file is closed here and in every process that
// inherited it.
func takeLock(ctx context.Context, path string) (*os.File, error) {
	file, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return nil, err
	}
	for {
		err := lockFile(file)
		if err == nil {
			return file, nil
		}
		if !errors.Is(err, errLocked) || !pause(ctx, 20*time.Millisecond) {
			_ = file.Close()
			return nil, errors.Join(err, ctx.Err())
		}
	}
}
