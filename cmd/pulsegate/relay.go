package main

import (
	"bytes"
	"context"
	"io"
	"net"
	"net/http"
	"os"
	"sync"
	"time"
)

// benchRelayCommand is the bare relay that the gateway is measured beside: it reads a body, puts it into a buffered channel and
// answers 202; workers post on one keep-alive transport. It keeps nothing and promises nothing.
type benchRelayCommand struct {
	Bot     string `help:"URL that bodies are posted to." required:""`
	Workers int    `help:"Posts at once." default:"64"`
	Buffer  int    `help:"Bodies between the two sides." default:"4096"`
	Floor   string `help:"Socket of a redis-server that bodies are kept in meanwhile, as the least that a gateway must do." placeholder:"FILE"`
}

// Run relays until stdin ends.
func (c benchRelayCommand) Run(s streams) error {
	listener, err := listenLoopback()
	if err != nil {
		return err
	}
	var store *floor
	if c.Floor != "" {
		store = openFloor(c.Floor, s.err)
	}
	bodies := make(chan relayed, c.Buffer)
	var workers sync.WaitGroup
	transport := &http.Transport{MaxIdleConns: c.Workers, MaxIdleConnsPerHost: c.Workers, DisableCompression: true}
	for range c.Workers {
		workers.Go(func() {
			for r := range bodies {
				relayOne(transport, c.Bot, r.body)
				if r.kept != nil {
					store.tried <- r.kept
				}
			}
		})
	}
	server := &http.Server{ReadHeaderTimeout: 5 * time.Second, Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		next := relayed{body: make([]byte, min(max(r.ContentLength, 0), 1<<20))}
		_, err := io.ReadFull(r.Body, next.body)
		if err == nil && store != nil {
			next.kept, err = store.keep(next.body)
		}
		if err != nil {
			http.Error(w, err.Error(), http.StatusBadRequest)
			return
		}
		bodies <- next
		w.WriteHeader(http.StatusAccepted)
	})}
	err = serveBench(server, listener, s.out, nil)
	close(bodies)
	workers.Wait()
	if store != nil {
		store.close()
	}
	return err
}

// relayed is a body between the two sides, and what it is kept as, if it is.
type relayed struct {
	body []byte
	kept *floorEvent
}

// relayOne posts one body and forgets what came of it.
func relayOne(transport *http.Transport, url string, body []byte) {
	request, err := http.NewRequest(http.MethodPost, url, bytes.NewReader(body))
	if err != nil {
		return
	}
	request.Header.Set("Content-Type", "application/json")
	answer, err := transport.RoundTrip(request)
	if err != nil {
		return
	}
	_, _ = io.Copy(io.Discard, answer.Body)
	_ = answer.Body.Close()
}

// serveBench serves and says where, answers every line on stdin with report (nil: with nothing), and stops when stdin ends.
func serveBench(server *http.Server, listener net.Listener, out io.Writer, report func() any) error {
	served := make(chan error, 1)
	go func() { served <- server.Serve(listener) }()
	if err := writeLine(out, benchReady{Address: listener.Addr().String()}); err != nil {
		return err
	}
	for line := make([]byte, 1); ; {
		n, err := os.Stdin.Read(line)
		if err != nil {
			break
		}
		if n == 1 && line[0] == '\n' && report != nil {
			if err := writeLine(out, report()); err != nil {
				return err
			}
		}
	}
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
	defer cancel()
	err := server.Shutdown(ctx)
	<-served
	return err
}
