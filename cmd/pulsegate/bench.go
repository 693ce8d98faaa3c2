package main

import (
	"context"
	"fmt"
	"log/slog"
	"net"
	"os"
	"os/exec"
	"runtime"
	"strconv"
	"strings"
	"time"

	"github.com/redis/go-redis/v9"
)

// benchCommand measures the gateway beside a bare relay on this machine: each part a process of its own, all on loopback.
type benchCommand struct {
	Events        int64   `help:"Events of one run." default:"50000"`
	Connections   int     `help:"Connections of the generator." default:"64"`
	Registrations []int64 `help:"Registrations that the events are for; several values, several tables." default:"1,1000"`
	Alternations  int     `help:"How often each part takes its turn." default:"3"`
	Size          int     `help:"Bytes of one event." default:"1024"`
	OwnIDs        bool    `help:"Give every event an id of its own, so that it is accepted once." name:"own-ids" default:"true" negatable:""`
	JSON          bool    `help:"Print the figures as JSON." name:"json"`
}

// Validate refuses settings that cannot be kept.
func (b benchCommand) Validate() error {
	switch {
	case b.Events < 1 || b.Events > 100_000_000:
		return wrongSetting("--events %d: must be from 1 to 100000000", b.Events)
	case b.Connections < 1 || b.Connections > 10_000:
		return wrongSetting("--connections %d: must be from 1 to 10000", b.Connections)
	case b.Alternations < 1:
		return wrongSetting("--alternations %d: must be at least 1", b.Alternations)
	case b.Size < 512 || b.Size > 200<<10:
		return wrongSetting("--size %d: must be from 512 to 204800", b.Size)
	case len(b.Registrations) == 0:
		return wrongSetting("--registrations: needs a number")
	}
	for _, n := range b.Registrations {
		if n < 1 || n > 100_000 {
			return wrongSetting("--registrations %d: must be from 1 to 100000", n)
		}
	}
	return nil
}

// yardstick is the least share of the generator's straight rate that the relay must reach for a bench to count.
const yardstick = 0.45

// Run measures, prints, and fails when an event was lost or the run is void.
func (b benchCommand) Run(s streams, log *slog.Logger) error {
	runtime.LockOSThread() // the parts are tied to this thread
	defer runtime.UnlockOSThread()
	ctx, release := untilSignal()
	defer release()
	room, err := openBench(ctx, b, s, log)
	if err != nil {
		return err
	}
	defer room.close()
	var rows []benchRow
	for _, registrations := range b.Registrations {
		row, err := room.measure(ctx, registrations)
		if err != nil {
			return err
		}
		rows = append(rows, row)
	}
	if err := printBench(s.out, b, rows); err != nil {
		return err
	}
	return judgeBench(rows)
}

// benchRoom is what the runs of a bench share.
type benchRoom struct {
	benchCommand
	streams streams
	data    string
	token   string
	redis   *managed
	client  redis.UniversalClient
}

// openBench makes a data directory and starts the redis-server of the bench.
func openBench(ctx context.Context, b benchCommand, s streams, log *slog.Logger) (*benchRoom, error) {
	server, err := exec.LookPath("redis-server")
	if err != nil {
		return nil, fmt.Errorf("bench needs a redis-server on the PATH: install redis-server 6.2 or newer")
	}
	data, err := os.MkdirTemp("", "pulsegate-bench-")
	if err != nil {
		return nil, fmt.Errorf("make data directory: %w", err)
	}
	if _, file := s.err.(*os.File); !file {
		s.err = &sharedWriter{to: s.err}
	}
	room := &benchRoom{benchCommand: b, streams: s, data: data}
	if room.token, err = benchToken(data); err == nil {
		room.redis, err = openManaged(ctx, managedConfig{server: server, data: data, log: log})
	}
	if err != nil {
		_ = os.RemoveAll(data)
		return nil, err
	}
	options := baseOptions()
	options.Addrs = []string{"redis-server.child:0"}
	options.Dialer = func(ctx context.Context, network, address string) (net.Conn, error) {
		return room.redis.dial(ctx, network, address) // wherever it is by then
	}
	room.client = redis.NewUniversalClient(options)
	return room, nil
}

// close stops the redis-server and removes its files.
func (r *benchRoom) close() {
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	_ = r.client.Close()
	_ = r.redis.stop(ctx)
	_ = os.RemoveAll(r.data)
}

// say prints one line of progress.
func (r *benchRoom) say(format string, args ...any) {
	_, _ = fmt.Fprintf(r.streams.err, format+"\n", args...)
}

// measure takes the straight generator, the relay and the gateway in turn, so that a drift of the machine meets all of them.
func (r *benchRoom) measure(ctx context.Context, registrations int64) (benchRow, error) {
	row := benchRow{Registrations: registrations}
	for turn := range r.Alternations {
		for _, kind := range []string{partGenerator, partRelay, partGateway} {
			result, err := r.take(ctx, kind, registrations)
			if err != nil {
				return row, fmt.Errorf("measure %s: %w", kind, err)
			}
			r.say("%d registrations, turn %d of %d: %-9s %8.0f events/s, lost %d, doubled %d", registrations, turn+1, r.Alternations,
				kind, result.Rate, result.Lost, result.Doubled)
			row.add(kind, result)
		}
	}
	return row, nil
}

// take is one run: bots, what is measured (or nothing), generator; it waits until every accepted event has come to the bots.
func (r *benchRoom) take(ctx context.Context, kind string, registrations int64) (result benchResult, err error) {
	var parts []*part
	defer func() { _, _ = endAll(parts) }()
	bots, err := launch(partBots, r.streams.err, "bench-bots", "--events", strconv.FormatInt(r.Events, 10))
	if err != nil {
		return result, err
	}
	parts = append(parts, bots)
	target, err := bots.address()
	if err != nil {
		return result, err
	}
	var middle *part
	switch kind {
	case partRelay:
		middle, target, err = r.startRelay(target)
	case partGateway:
		middle, target, err = r.startGateway(ctx, target, registrations)
	}
	if middle != nil {
		parts = append(parts, middle)
	}
	if err != nil {
		return result, err
	}
	before := r.redisCPU(ctx)
	generator, err := launch(partGenerator, r.streams.err, r.loadArguments(kind, target, registrations)...)
	if err != nil {
		return result, err
	}
	parts = append(parts, generator)
	load, err := generator.follow(ctx, func(l loadReport) {
		r.say("  %s: %d of %d events sent, %d accepted", kind, l.Sent, r.Events, l.Accepted)
	})
	if err != nil {
		return result, err
	}
	arrived, err := r.await(ctx, bots, load.Accepted)
	if err != nil {
		return result, err
	}
	result = resultOf(load, arrived)
	redisUsed := r.redisCPU(ctx) - before
	used, err := endAll(parts)
	parts = nil
	used[partRedis] = redisUsed
	result.cpu(used, load.Accepted)
	return result, err
}

// loadArguments are those of the generator.
func (r *benchRoom) loadArguments(kind, target string, registrations int64) []string {
	args := []string{
		"bench-load", "--target", target, "--events", strconv.FormatInt(r.Events, 10),
		"--connections", strconv.Itoa(r.Connections), "--registrations", strconv.FormatInt(registrations, 10),
		"--size", strconv.Itoa(r.Size),
	}
	if r.OwnIDs {
		args = append(args, "--own-ids")
	}
	if kind == partGateway {
		args = append(args, "--queued", "--token", r.token)
	}
	return args
}

// startRelay starts the bare relay in front of the bots.
func (r *benchRoom) startRelay(bots string) (*part, string, error) {
	relay, err := launch(partRelay, r.streams.err, "bench-relay", "--bot", "http://"+bots+"/", "--workers", strconv.Itoa(r.Connections))
	if err != nil {
		return nil, "", err
	}
	address, err := relay.address()
	return relay, address, err
}

// await asks the bots until everything accepted has come, or nothing more comes.
func (r *benchRoom) await(ctx context.Context, bots *part, accepted int64) (botsReport, error) {
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
		if report.Distinct >= accepted || time.Since(moved) > benchPatience {
			return report, nil
		}
		if !pause(ctx, 100*time.Millisecond) {
			return report, ctx.Err()
		}
	}
}

// redisCPU is the CPU time that redis-server has used so far; 0 when it does not say.
func (r *benchRoom) redisCPU(ctx context.Context) time.Duration {
	text, err := r.client.Info(ctx, "cpu").Result()
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
