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
}

// Run relays until stdin ends.
func (c benchRelayCommand) Run(s streams) error {
	listener, err := listenLoopback()
	if err != nil {
		return err
	}
	bodies := make(chan []byte, c.Buffer)
	var workers sync.WaitGroup
	transport := &http.Transport{MaxIdleConns: c.Workers, MaxIdleConnsPerHost: c.Workers, DisableCompression: true}
	for range c.Workers {
		workers.Go(func() {
			for body := range bodies {
				relayOne(transport, c.Bot, body)
			}
		})
	}
	server := &http.Server{ReadHeaderTimeout: 5 * time.Second, Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body := make([]byte, min(max(r.ContentLength, 0), 1<<20))
		if _, err := io.ReadFull(r.Body, body); err != nil {
			w.WriteHeader(http.StatusBadRequest)
			return
		}
		bodies <- body
		w.WriteHeader(http.StatusAccepted)
	})}
	err = serveBench(server, listener, s.out, nil)
	close(bodies)
	workers.Wait()
	return err
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
