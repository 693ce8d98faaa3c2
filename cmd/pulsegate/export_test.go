package main

import (
	"context"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/netip"
	"os"
	"strings"
	"time"

	"github.com/redis/go-redis/v9"
)

// What the tests of this package, which stand outside it, reach of its inside.

// Run is the whole program but for its exit.
var Run = run

// Printable escapes a text for a terminal.
var Printable = printable

// BotHandler is a sample bot with these arguments.
func BotHandler(args ...string) (http.Handler, error) {
	line, err := parse(append([]string{"bot"}, args...), io.Discard, io.Discard)
	if err != nil {
		return nil, err
	}
	return newSampleBot(line.context.Selected().Target.Interface().(botCommand), io.Discard), nil
}

// ServeBot runs the sample bot with these arguments until the context ends.
func ServeBot(ctx context.Context, out io.Writer, args ...string) error {
	line, err := parse(append([]string{"bot"}, args...), io.Discard, io.Discard)
	if err != nil {
		return err
	}
	command := line.context.Selected().Target.Interface().(botCommand)
	return command.serve(ctx, out)
}

// Keys returns the two current keys of a key file.
func Keys(path string) (tokens, secrets []byte, exposed bool, err error) {
	k, err := openKeys(path)
	if err != nil {
		return nil, nil, false, err
	}
	return k.tokens[0], k.secrets[0], k.exposed, nil
}

// KeyRing returns the two rings of a key file.
func KeyRing(path string) (tokens, secrets [][]byte, err error) {
	k, err := openKeys(path)
	return k.tokens, k.secrets, err
}

// Store is a store that was chosen.
type Store struct {
	Client redis.UniversalClient
	Tier   string
	Name   string
	Stop   func(context.Context) error
	Peers  func() []netip.AddrPort
}

// OpenStore chooses a store.
func OpenStore(ctx context.Context, url, data string, durable bool, banner io.Writer) (Store, error) {
	log := slog.New(slog.DiscardHandler)
	s, err := openStore(ctx, storeConfig{url: url, data: data, requireDurable: durable, banner: banner, log: log})
	if err != nil {
		return Store{}, err
	}
	return Store{Client: s.client, Tier: string(s.tier), Name: s.name, Stop: s.stop, Peers: s.peers.list}, nil
}

// RedisOptions reads a --redis URL.
var RedisOptions = redisOptions

// Lifecycle is a list of things to stop.
type Lifecycle = lifecycle

// OnStop adds a thing to stop.
var OnStop = (*lifecycle).onStop

// StopAll stops everything.
var StopAll = (*lifecycle).stop

// NewLifecycle returns an empty list.
func NewLifecycle() *Lifecycle { return &lifecycle{log: slog.New(slog.DiscardHandler)} }

// HoldStore opens a store in data, says so on standard output, and does nothing more: it is the gateway that gets killed.
func HoldStore(data string) {
	s, err := OpenStore(context.Background(), "", data, false, os.Stderr)
	if err != nil {
		_, _ = os.Stdout.WriteString("failed: " + err.Error() + "\n")
		return
	}
	pid, _ := s.Client.Info(context.Background(), "server").Result()
	_, _ = os.Stdout.WriteString("open " + field(pid, "process_id") + "\n")
	select {}
}

// field reads one value of an INFO text.
func field(info, name string) string {
	for line := range strings.Lines(info) {
		if value, ok := strings.CutPrefix(line, name+":"); ok {
			return strings.TrimSpace(value)
		}
	}
	return ""
}

// Field reads one value of an INFO text.
var Field = field

// Mute is a logger that says nothing.
type Mute = mute

// RemoveSocketDir removes the directory of a child's socket.
var RemoveSocketDir = removeSocketDir

// OpenDurable opens the store at url if it gives a durability tier.
func OpenDurable(ctx context.Context, url, durability string) (Store, error) {
	s, err := openStore(ctx, storeConfig{url: url, durability: tier(durability), banner: io.Discard, log: slog.New(slog.DiscardHandler)})
	if err != nil {
		return Store{}, err
	}
	return Store{Client: s.client, Tier: string(s.tier), Name: s.name, Stop: s.stop}, nil
}

// NewRoomyPipe makes a connection whose writes never wait for the other side to read.
func NewRoomyPipe(c net.Conn) net.Conn { return newRoomyPipe(c) }

// What a bench found, and parts of it.
type (
	BenchReport = benchReport
	BenchRow    = benchRow
	BenchOpen   = benchOpen
	BenchSlow   = benchSlow
	BenchResult = benchResult
	BenchLedger = benchLedger
	BenchLadder = benchLadder
	BenchBar    = benchBar
	Latencies   = latencySummary
	LoadReport  = loadReport
)

// JudgeBench is nil when a bench counts and every event is accounted for.
func JudgeBench(r *BenchReport) error { return r.judge() }

// BenchBars are what a bench is held to.
func BenchBars(r *BenchReport) []BenchBar { return r.bars() }

// PlotBench draws a ladder.
func PlotBench(l BenchLadder) []byte { return l.plot() }

// Arrivals are the times of an open loop.
var Arrivals = arrivals

// ServeSettings are the settings of serve that are texts.
type ServeSettings struct{ Redis, SMTP, Listen, Allow, Public string }

// CheckServe looks at settings, all others being the defaults.
func CheckServe(s ServeSettings) error {
	return serveCommand{
		Redis: s.Redis, SMTP: s.SMTP, Listen: s.Listen, AllowCallback: []string{s.Allow}, PublicURL: s.Public, PlatformURL: s.Public,
		MailFrom: "gate@example.net", OpsListen: "127.0.0.1:9090", HealthWindow: 2 * time.Minute, HealthMinAttempts: 10, Pause: 2 * time.Minute,
		DeliveryTimeout: 5 * time.Second, InFlight: 16384, QueueEvents: 1, QueueBytes: 256 << 10, IngestBytes: 8 << 20, HoldTime: time.Hour,
		keepFlags: keepFlags{DedupeTime: time.Hour, OngoingTime: time.Hour, KeepFailures: 1, KeepSuccesses: 1},
	}.Validate()
}

// ParseKeyFile reads the text of a key file.
func ParseKeyFile(text string) (tokens, secrets [][]byte, err error) {
	k, err := parseKeys(text, "pulsegate.key")
	return k.tokens, k.secrets, err
}

// OpenLineage takes the first free name of a data directory, and returns what gives it up.
func OpenLineage(data string) (name string, leave func()) {
	l := openLineage(data, slog.New(slog.DiscardHandler))
	return l.text(), l.close
}
