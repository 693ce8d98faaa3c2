package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"runtime"
	"strings"
	"syscall"
	"time"
)

// child is a redis-server that this process started.
type child struct {
	socket  string
	process *os.Process
	exited  chan struct{} // closed when it has exited
}

// checkServerVersion refuses a redis-server older than 6.2.
func checkServerVersion(ctx context.Context, server string) error {
	ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	text, err := exec.CommandContext(ctx, server, "--version").CombinedOutput()
	if err != nil {
		return fmt.Errorf("%s does not run (%s): repair it, or name a Redis with --redis", server, firstOf(lastLine(text), err.Error()))
	}
	match := regexp.MustCompile(`\bv=(\d+\.\d+[0-9.]*)`).FindSubmatch(text)
	if match == nil {
		return fmt.Errorf("%s does not say its version (%s): repair it, or name a Redis with --redis", server, lastLine(text))
	}
	if version := string(match[1]); !versionEnough(version) {
		return fmt.Errorf("%s is version %s, too old: install 6.2 or newer, or name a Redis with --redis", server, version)
	}
	return nil
}

// startChild starts a redis-server on the files in cfg.data and waits until it answers. It waits first for one that is on its way
// out, so that never two write the same files.
func startChild(ctx context.Context, cfg managedConfig) (*child, error) {
	server, data := cfg.server, cfg.data
	fsync := "everysec"
	if cfg.always {
		fsync = "always"
	}
	waiting, cancel := context.WithTimeout(ctx, 15*time.Second)
	defer cancel()
	running, err := takeLock(waiting, filepath.Join(data, runningLock))
	if errors.Is(err, errLocked) {
		return nil, fmt.Errorf("a redis-server holds the files in %s but does not answer: stop it, or choose another --data", data)
	} else if err != nil {
		return nil, fmt.Errorf("lock data directory: %w", err)
	}
	defer func() { _ = running.Close() }() // the child holds it from here on
	socket, err := makeSocketDir()
	if err != nil {
		return nil, err
	}
	log, err := os.OpenFile(filepath.Join(data, serverLog), os.O_CREATE|os.O_TRUNC|os.O_WRONLY, 0o600)
	if err != nil {
		return nil, fmt.Errorf("open log of redis-server: %w", err)
	}
	defer func() { _ = log.Close() }()
	command := exec.Command(server, "--port", "0", "--unixsocket", socket, "--unixsocketperm", "700", "--dir", data,
		"--appendonly", "yes", "--appendfsync", fsync, "--auto-aof-rewrite-min-size", rewriteSize, "--save", "", "--maxmemory-policy", "noeviction",
		"--daemonize", "no", "--logfile", "")
	command.Stdout, command.Stderr = log, log
	command.ExtraFiles = []*os.File{running}
	command.SysProcAttr = childAttributes()
	c := &child{socket: socket, exited: make(chan struct{})}
	if err := c.start(command); err != nil {
		removeSocketDir(socket)
		return nil, fmt.Errorf("start %s: %w", server, err)
	}
	if err := c.awaitStart(ctx, data); err != nil {
		_ = c.stop(context.WithoutCancel(ctx))
		return nil, err
	}
	return c, nil
}

// rewriteSize is how long the append-only file gets before it is written anew. At full load the server's own bound is reached every two seconds,
// and a fifth of its time went into that; a file of this length is read again in a few seconds.
const rewriteSize = "256mb"

// start runs the command on a thread that lives exactly as long as the child: the child is tied to that thread.
func (c *child) start(command *exec.Cmd) error {
	started := make(chan error)
	go func() {
		runtime.LockOSThread()
		defer runtime.UnlockOSThread()
		defer close(c.exited)
		err := command.Start()
		if err == nil {
			c.process = command.Process
		}
		started <- err
		if err == nil {
			_ = command.Wait()
		}
	}()
	return <-started
}

// awaitStart waits until the child answers. A child with much to load may take its time; one that says nothing may not.
func (c *child) awaitStart(ctx context.Context, data string) error {
	silent := time.Now().Add(15 * time.Second)
	for !answers(ctx, c.socket) {
		select {
		case <-c.exited:
			text, _ := os.ReadFile(filepath.Join(data, serverLog))
			return fmt.Errorf("redis-server does not start on %s: %s", data, firstOf(lastLine(text), "it says nothing"))
		case <-ctx.Done():
			return fmt.Errorf("wait for redis-server: %w", ctx.Err())
		case <-time.After(10 * time.Millisecond):
		}
		if time.Now().After(silent) {
			return fmt.Errorf("redis-server on %s does not answer; its log is %s", data, filepath.Join(data, serverLog))
		}
	}
	return nil
}

// stop ends the child by a signal on which it writes its files out, and waits for it; by force when the context ends first.
func (c *child) stop(ctx context.Context) error {
	defer removeSocketDir(c.socket)
	_ = c.process.Signal(syscall.SIGTERM) // fails only when it has exited already
	select {
	case <-c.exited:
		return nil
	case <-ctx.Done():
		_ = c.process.Kill()
		<-c.exited
		return fmt.Errorf("redis-server had to be killed: %w", ctx.Err())
	}
}

// socketDirPrefix begins the name of every directory that holds a child's socket.
const socketDirPrefix = "pulsegate-redis-"

// makeSocketDir makes a private directory and returns the path of a socket in it, short enough for any system.
func makeSocketDir() (string, error) {
	for _, parent := range []string{os.TempDir(), "/tmp"} {
		dir, err := os.MkdirTemp(parent, socketDirPrefix)
		if err != nil {
			return "", fmt.Errorf("make directory for the socket of redis-server: %w", err)
		}
		if socket := filepath.Join(dir, "redis.sock"); len(socket) <= 100 {
			return socket, nil
		}
		_ = os.Remove(dir)
	}
	return "", fmt.Errorf("no directory for temporary files has a short enough path for a socket")
}

// removeSocketDir removes the directory of a child's socket, and nothing else whatever the path.
func removeSocketDir(socket string) {
	if dir := filepath.Dir(socket); strings.HasPrefix(filepath.Base(dir), socketDirPrefix) {
		_ = os.Remove(socket)
		_ = os.Remove(dir)
	}
}

// lastLine returns the last line of a log that says something.
func lastLine(text []byte) string {
	lines := bytes.Split(bytes.TrimSpace(text), []byte("\n"))
	return strings.TrimSpace(string(lines[len(lines)-1]))
}

// firstOf returns the first text that is not empty.
func firstOf(texts ...string) string {
	for _, text := range texts {
		if text != "" {
			return text
		}
	}
	return ""
}
