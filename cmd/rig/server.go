package rig

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/redis/go-redis/v9"
	"github.com/redis/go-redis/v9/maintnotifications"
)

// ServerConfig says how a redis-server runs. The zero value keeps nothing over a restart.
type ServerConfig struct {
	Args      []string // settings as on its command line: "--maxmemory", "10mb"
	Limitable bool     // that a file may not grow is an error to it, as on a full disk, and not its end: for LimitFiles

	file string   // a configuration file that comes first
	mode []string // how it runs: --sentinel
}

// Unlimited is the size that LimitFiles takes for none.
const Unlimited = ^uint64(0)

// AppendOnly are the settings of a server that survives the end of its process: the tier `process`.
func AppendOnly() []string { return []string{"--appendonly", "yes", "--appendfsync", "everysec"} }

// AppendAlways are the settings of a server that has each write on its disk before it answers: the tier `disk`.
func AppendAlways() []string { return []string{"--appendonly", "yes", "--appendfsync", "always"} }

// Server is a redis-server of its TB's own.
type Server struct {
	Addr string // host:port
	URL  string // redis://host:port
	Dir  string // of its files

	tb      TB
	port    int
	cfg     ServerConfig
	client  *redis.Client
	process *process
}

// StartServer starts a redis-server on a free port of 127.0.0.1 and waits until it answers.
func StartServer(tb TB, cfg ServerConfig) *Server {
	tb.Helper()
	s := launch(tb, cfg)
	s.AwaitAnswer()
	return s
}

// StartReplica starts a server with the settings of primary that follows it, and waits until it has caught up.
func StartReplica(tb TB, primary *Server) *Server {
	tb.Helper()
	return StartReplicaAt(tb, primary, primary.Addr)
}

// StartReplicaAt is StartReplica for one that reaches its primary at another address: that of a wire.
func StartReplicaAt(tb TB, primary *Server, addr string) *Server {
	tb.Helper()
	cfg := primary.cfg
	cfg.Args = append(append([]string(nil), cfg.Args...), "--replicaof", strings.Replace(addr, ":", " ", 1))
	s := StartServer(tb, cfg)
	s.AwaitLink()
	return s
}

// launch starts a server and does not wait until it answers. One whose port was taken meanwhile is started again on another.
func launch(tb TB, cfg ServerConfig) *Server {
	tb.Helper()
	s := &Server{Dir: tb.TempDir(), tb: tb, cfg: cfg}
	for range 10 {
		s.port = freePort(tb)
		s.Addr, s.URL = loopback(s.port), "redis://"+loopback(s.port)
		s.Launch()
		if s.bound() {
			break
		}
	}
	s.client = newClient(s.Addr)
	tb.Cleanup(func() {
		_ = s.client.Close()
		s.process.kill()
	})
	return s
}

// bound waits until the server listens, which tells that the port is its own, and is false when it has ended because it was not.
func (s *Server) bound() bool {
	for deadline := time.Now().Add(startTimeout); time.Now().Before(deadline); {
		log := s.Log()
		if !s.process.running() {
			if bytes.Contains(log, []byte("Address already in use")) {
				_ = os.Remove(s.logPath())
				return false
			}
			s.tb.Fatalf("redis-server does not start: %s", log)
		}
		if bytes.Contains(log, []byte("Server initialized")) || bytes.Contains(log, []byte("Sentinel ID is")) {
			return true
		}
		<-time.After(2 * time.Millisecond)
	}
	s.tb.Fatalf("redis-server does not start within %v: %s", startTimeout, s.Log())
	return false
}

func newClient(addr string) *redis.Client {
	return redis.NewClient(&redis.Options{
		Addr: addr, MaxRetries: -1, DialerRetries: 1, ContextTimeoutEnabled: true, DisableIdentity: true, DialTimeout: 2 * time.Second,
		ReadTimeout: 10 * time.Second, MaintNotificationsConfig: &maintnotifications.Config{Mode: maintnotifications.ModeDisabled},
	})
}

// Launch starts the server again after Kill, on the same port and files, and does not wait until it answers.
func (s *Server) Launch() {
	s.tb.Helper()
	args := s.cfg.mode
	if s.cfg.file != "" {
		args = append([]string{s.cfg.file}, args...)
	}
	args = append(args, "--port", strconv.Itoa(s.port), "--bind", "127.0.0.1", "--dir", s.Dir, "--logfile", "", "--daemonize", "no")
	if len(s.cfg.mode) == 0 {
		args = append(args, "--save", "", "--repl-diskless-sync-delay", "0")
	}
	p, err := startProcess(s.logPath(), s.program(), append(args, s.cfg.Args...)...)
	if err != nil {
		s.tb.Fatalf("%v", err)
	}
	s.process = p
}

// program is what runs a server, before its arguments.
func (s *Server) program() []string {
	if s.cfg.Limitable {
		return []string{"sh", "-c", `trap "" XFSZ; exec redis-server "$@"`, "redis-server"}
	}
	return []string{"redis-server"}
}

// Restart kills the server if it runs, starts it again on the same port and files, and waits until it answers.
func (s *Server) Restart() {
	s.tb.Helper()
	s.Kill()
	s.Launch()
	s.AwaitAnswer()
}

// AwaitAnswer waits until the server answers, which it does when it has loaded its data.
func (s *Server) AwaitAnswer() {
	s.tb.Helper()
	await(s.tb, "redis-server", func(ctx context.Context) error {
		if !s.process.running() {
			return fmt.Errorf("it has ended: %s", s.Log())
		}
		return s.client.Ping(ctx).Err()
	})
}

// AwaitLink waits until the server is a replica that has its primary's data.
func (s *Server) AwaitLink() {
	s.tb.Helper()
	await(s.tb, "replica", func(ctx context.Context) error {
		info, err := s.client.Info(ctx, "replication").Result()
		if err == nil && !strings.Contains(info, "master_link_status:up") {
			err = errors.New("it has no link to its primary")
		}
		return err
	})
}

// Promote makes a replica a primary.
func (s *Server) Promote() {
	s.tb.Helper()
	await(s.tb, "promotion", func(ctx context.Context) error { return s.client.Do(ctx, "REPLICAOF", "NO", "ONE").Err() })
}

// Kill ends the server by SIGKILL, even one that is paused, and waits for its end.
func (s *Server) Kill() { s.process.kill() }

// Pause stops the server by SIGSTOP: connections stay, and nothing is answered.
func (s *Server) Pause() { s.process.signal(syscall.SIGSTOP) }

// Resume lets a paused server go on.
func (s *Server) Resume() { s.process.signal(syscall.SIGCONT) }

// Client is a client of this server, without retries, that is closed with the TB.
func (s *Server) Client() *redis.Client { return s.client }

// PID is the process id of the server.
func (s *Server) PID() int { return s.process.command.Process.Pid }

// Log is what the server has printed.
func (s *Server) Log() []byte {
	text, err := os.ReadFile(s.logPath())
	if err != nil {
		return nil
	}
	return text
}

func (s *Server) logPath() string { return filepath.Join(s.Dir, "log") }
