package main

import (
	"context"
	"fmt"
	"log/slog"
	"net"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"time"

	"github.com/redis/go-redis/v9"
)

// benchRoom is what the runs of a bench share.
type benchRoom struct {
	benchCommand
	*benchStore // nil: each stack has one of its own

	streams streams
	log     *slog.Logger
	plan    benchPlan
}

// newBenchRoom makes a room without a store.
func newBenchRoom(b benchCommand, s streams, log *slog.Logger) *benchRoom {
	terminal := isTerminal(s.err)
	if _, file := s.err.(*os.File); !file {
		s.err = &sharedWriter{to: s.err}
	}
	if b.Backlog == 0 {
		b.Backlog = 200_000
		if b.Full {
			b.Backlog = 1_000_000
		}
	}
	if quiet, err := newLog(s.err, "warn"); err == nil {
		log = quiet // a redis-server for each run is no news
	}
	return &benchRoom{benchCommand: b, streams: s, log: log, plan: benchPlan{began: time.Now(), terminal: terminal}}
}

// openBench makes a room with a store in it.
func openBench(ctx context.Context, b benchCommand, s streams, log *slog.Logger) (*benchRoom, error) {
	room := newBenchRoom(b, s, log)
	var err error
	room.benchStore, err = openBenchStore(ctx, log)
	return room, err
}

// benchStore is a redis-server on a data directory of its own, and the key that a gateway on it knows.
type benchStore struct {
	data   string
	token  string
	redis  *managed
	client redis.UniversalClient
}

// openBenchStore makes a data directory and starts a redis-server on it.
func openBenchStore(ctx context.Context, log *slog.Logger) (*benchStore, error) {
	server, err := exec.LookPath("redis-server")
	if err != nil {
		return nil, fmt.Errorf("bench needs a redis-server on the PATH: install redis-server 6.2 or newer")
	}
	data, err := os.MkdirTemp("", "pulsegate-bench-")
	if err != nil {
		return nil, fmt.Errorf("make data directory: %w", err)
	}
	b := &benchStore{data: data}
	if b.token, err = benchToken(data); err == nil {
		b.redis, err = openManaged(ctx, managedConfig{server: server, data: data, log: log})
	}
	if err != nil {
		_ = os.RemoveAll(data)
		return nil, err
	}
	options := baseOptions()
	options.Addrs = []string{"redis-server.child:0"}
	options.Dialer = func(ctx context.Context, network, address string) (net.Conn, error) {
		return b.redis.dial(ctx, network, address) // wherever it is by then
	}
	b.client = redis.NewUniversalClient(options)
	return b, nil
}

// close stops the redis-server and removes its files.
func (b *benchStore) close() {
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	_ = b.client.Close()
	_ = b.redis.stop(ctx)
	_ = os.RemoveAll(b.data)
}

// redisCPU is the CPU time that redis-server has used so far; 0 when it does not say.
func (b *benchStore) redisCPU(ctx context.Context) time.Duration {
	text, err := b.client.Info(ctx, "cpu").Result()
	if err != nil {
		return 0
	}
	var sum float64
	for line := range strings.Lines(text) {
		name, value, _ := strings.Cut(strings.TrimSpace(line), ":")
		switch name {
		case "used_cpu_sys", "used_cpu_user", "used_cpu_sys_children", "used_cpu_user_children":
			seconds, _ := strconv.ParseFloat(value, 64)
			sum += seconds
		}
	}
	return time.Duration(sum * float64(time.Second))
}

// redisPeak is the most memory that redis-server has had, in bytes; 0 when it does not say.
func (b *benchStore) redisPeak(ctx context.Context) int64 {
	text, err := b.client.Info(ctx, "memory").Result()
	if err != nil {
		return 0
	}
	return infoNumber(text, "used_memory_peak")
}

// await asks the bots until so many events have come in all, or nothing more comes.
func (r *benchRoom) await(ctx context.Context, bots *part, events int64) (botsReport, error) {
	var report botsReport
	moved := time.Now()
	for {
		before := report.Distinct
		if err := bots.ask(&report); err != nil {
			return report, err
		}
		if report.Distinct > before {
			moved = time.Now()
		}
		if report.Distinct >= events || time.Since(moved) > benchPatience {
			return report, nil
		}
		if !pause(ctx, 20*time.Millisecond) {
			return report, ctx.Err()
		}
	}
}
