package main

import (
	"context"
	"hash/fnv"
	"io"
	"net"
	"net/http"
	"sync/atomic"
	"time"
)

// demoBot is one bot of the demo.
type demoBot struct {
	name         string
	listener     net.Listener
	server       *http.Server
	served       chan error
	off          atomic.Bool
	acknowledged atomic.Int64
}

// openDemoBot starts a bot on a free port.
func openDemoBot(name string) (*demoBot, error) {
	listener, err := listenLoopback()
	if err != nil {
		return nil, err
	}
	b := &demoBot{name: name, listener: listener, served: make(chan error, 1)}
	b.server = &http.Server{Handler: b, ReadHeaderTimeout: 5 * time.Second}
	go func() { b.served <- b.server.Serve(listener) }()
	return b, nil
}

// ServeHTTP answers 202, or 503 when the bot is switched off or, being flaky, does not like the event: one in eight, on both tries.
func (b *demoBot) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	_, _ = io.Copy(io.Discard, io.LimitReader(r.Body, 1<<20))
	digest := fnv.New32a()
	_, _ = io.WriteString(digest, r.Header.Get("webhook-id"))
	if b.off.Load() || b.name == "flaky" && digest.Sum32()%8 == 0 {
		w.WriteHeader(http.StatusServiceUnavailable)
		return
	}
	b.acknowledged.Add(1)
	w.WriteHeader(http.StatusAccepted)
}

func (b *demoBot) url() string { return "http://" + b.listener.Addr().String() + "/" }

func (b *demoBot) switchOff() { b.off.Store(true) }

func (b *demoBot) switchOn() { b.off.Store(false) }

// close ends the bot.
func (b *demoBot) close(ctx context.Context) error {
	err := b.server.Shutdown(ctx)
	<-b.served
	return err
}
