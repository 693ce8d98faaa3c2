package main

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"os/exec"
	"time"

	"github.com/redis/go-redis/v9"
)

// storeConfig says which store is wanted.
type storeConfig struct {
	url            string // of a Redis; empty: choose by what the machine has
	data           string // directory of the child's files
	requireDurable bool   // refuse a store that may forget what it confirmed
	durability     tier   // refuse a store that gives less; empty: take what it gives
	banner         io.Writer
	log            *slog.Logger
}

// store is the Redis that a gateway works on, however it came about.
type store struct {
	client    redis.UniversalClient
	name      string        // for people
	tier      tier          // when it was opened
	inside    bool          // it lives in this process
	addresses []string      // host:port that no callback may reach
	peers     peers         // nor these
	patience  time.Duration // how long it may be away while it is opened; 0: not at all
	stop      func(context.Context) error
}

// openStore chooses a store, makes sure that it answers and that it is durable enough, and returns it. The context bounds the
// opening only. The caller stops the store when nothing uses it any more.
func openStore(ctx context.Context, cfg storeConfig) (*store, error) {
	s, err := chooseStore(ctx, cfg)
	if err != nil {
		return nil, err
	}
	if err := s.assess(ctx, cfg); err != nil {
		_ = s.stop(context.WithoutCancel(ctx))
		return nil, err
	}
	return s, nil
}

// chooseStore takes the Redis that was named, else a child, else the store in process.
func chooseStore(ctx context.Context, cfg storeConfig) (*store, error) {
	if cfg.url != "" {
		return connectStore(cfg.url)
	}
	server, err := exec.LookPath("redis-server")
	if err != nil {
		return embeddedStore(cfg.banner), nil
	}
	return managedStore(ctx, server, cfg)
}

// connectStore returns a client of the Redis at url.
func connectStore(url string) (*store, error) {
	options, err := redisOptions(url)
	if err != nil {
		return nil, err
	}
	s := &store{name: "Redis at " + redisName(options), addresses: options.Addrs}
	s.peers.through(options)
	s.client = redis.NewUniversalClient(options)
	s.stop = func(context.Context) error { return s.client.Close() }
	return s, nil
}

// managedStore runs or joins the redis-server of cfg.data.
func managedStore(ctx context.Context, server string, cfg storeConfig) (*store, error) {
	if cfg.durability == tierReplicated {
		return nil, wrongSetting("--durability replicated: a redis-server child has no replica; name a Redis that has with --redis")
	}
	m, err := openManaged(ctx, managedConfig{server: server, data: cfg.data, always: cfg.durability == tierDisk, log: cfg.log})
	if err != nil {
		return nil, err
	}
	options := baseOptions()
	options.Addrs = []string{"redis-server.child:0"} // a name for messages; the dialer knows the way
	options.Dialer = m.dial
	client := redis.NewUniversalClient(options)
	return &store{
		client:   client,
		name:     m.describe(),
		patience: 10 * time.Second, // the one that was joined may have been on its way out
		stop: func(ctx context.Context) error {
			_ = client.Close()
			return m.stop(ctx)
		},
	}, nil
}

// assess finds the durability tier, warns of what endangers it, and refuses what cfg does not allow.
func (s *store) assess(ctx context.Context, cfg storeConfig) error {
	if s.inside {
		return cfg.refuseMemory()
	}
	found, err := s.inspect(ctx)
	if err != nil {
		return fmt.Errorf("reach the store (%s): %w", s.name, err)
	}
	s.tier = found.gives(cfg.durability)
	if fix := found.lacks(cfg.durability); fix != "" {
		return wrongSetting("--durability %s: %s", cfg.durability, fix)
	}
	if cfg.requireDurable {
		if fix := found.lacks(tierProcess); fix != "" {
			return wrongSetting("--require-durable: %s", fix)
		}
	}
	for _, warning := range found.warnings() {
		cfg.log.Warn("the store is not as it should be", "fix", warning)
	}
	return nil
}

// refuseMemory refuses the store in process when more is wanted.
func (cfg storeConfig) refuseMemory() error {
	flag := ""
	switch {
	case cfg.durability != "":
		flag = "--durability " + string(cfg.durability)
	case cfg.requireDurable:
		flag = "--require-durable"
	default:
		return nil
	}
	return wrongSetting("%s: no redis-server is on the PATH and the store in process forgets everything; install redis-server 6.2 or newer, or name one with --redis", flag)
}

// inspect asks the store how it keeps its data. It waits for one that is loading, and as long as its patience lasts for one that
// is away.
func (s *store) inspect(ctx context.Context) (durability, error) {
	for away := time.Now().Add(s.patience); ; {
		err := awaitAnswer(ctx, s.client)
		if err == nil {
			asking, cancel := context.WithTimeout(ctx, 5*time.Second)
			found, failure := inspectStore(asking, s.client)
			cancel()
			if failure == nil {
				return found, nil
			}
			err = failure
		}
		if time.Now().After(away) || !pause(ctx, 50*time.Millisecond) {
			return durability{}, err
		}
	}
}
