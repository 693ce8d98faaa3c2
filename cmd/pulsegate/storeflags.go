package main

import (
	"context"
	"io"
	"log/slog"
	"os/exec"
	"time"

	"github.com/pulsegate/pulsegate/gateway"
)

// storeFlags say which store a command works on that gateways work on as well.
type storeFlags struct {
	Redis string `help:"Redis of the gateways, as for serve. Default: the redis-server of --data." placeholder:"URL"`
}

// use lets do work on what the store knows of access.
func (f storeFlags) use(data string, banner io.Writer, log *slog.Logger, do func(context.Context, *gateway.AccessStore) error) error {
	return f.open(data, banner, log, func(ctx context.Context, s *store) error { return do(ctx, gateway.NewAccessStore(s.client)) })
}

// open opens the store, lets do work on it, and closes it. A redis-server child that runs is joined; if none does, one runs for the time being.
func (f storeFlags) open(data string, banner io.Writer, log *slog.Logger, do func(context.Context, *store) error) error {
	if f.Redis == "" {
		if _, err := exec.LookPath("redis-server"); err != nil {
			return wrongSetting("--redis: no redis-server is on the PATH; name the Redis of the gateways")
		}
	}
	ctx, release := untilSignal()
	defer release()
	store, err := openStore(ctx, storeConfig{url: f.Redis, data: data, banner: banner, log: log})
	if err != nil {
		return err
	}
	defer func() {
		stopping, cancel := context.WithTimeout(context.WithoutCancel(ctx), 15*time.Second)
		defer cancel()
		if err := store.stop(stopping); err != nil {
			log.Warn("the store did not stop", "error", err)
		}
	}()
	return do(ctx, store)
}

// check refuses a Redis that cannot be read.
func (f storeFlags) check() error {
	if f.Redis == "" {
		return nil
	}
	_, err := redisOptions(f.Redis)
	return err
}
