package main

import (
	"bytes"
	"io"
	"net/http"
	"sync"
	"sync/atomic"
	"time"
)

// benchBotsCommand is all the bots of a bench: it acknowledges everything and keeps account of the events by their number.
type benchBotsCommand struct {
	Events int64 `help:"Events that are expected, numbered from 0." required:""`
}

// Run takes events until stdin ends, and reports on every line on it.
func (c benchBotsCommand) Run(s streams) error {
	listener, err := listenLoopback()
	if err != nil {
		return err
	}
	account := &benchAccount{seen: make([]atomic.Bool, c.Events)}
	server := &http.Server{ReadHeaderTimeout: 5 * time.Second, Handler: account}
	return serveBench(server, listener, s.out, func() any { return account.report() })
}

// sickPath is where the bots acknowledge nothing.
const sickPath = "/sick"

// benchAccount notes which events came, and how often.
type benchAccount struct {
	seen    []atomic.Bool
	buffers sync.Pool // of *bytes.Buffer

	distinct, doubled, strange, last atomic.Int64
}

// ServeHTTP acknowledges one event.
func (a *benchAccount) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	if r.URL.Path == sickPath {
		w.WriteHeader(http.StatusServiceUnavailable)
		return
	}
	buffer, ok := a.buffers.Get().(*bytes.Buffer)
	if !ok {
		buffer = new(bytes.Buffer)
	}
	buffer.Reset()
	defer a.buffers.Put(buffer)
	if _, err := io.Copy(buffer, r.Body); err != nil {
		return
	}
	number, ok := sequenceOf(buffer.Bytes())
	switch {
	case !ok || number >= int64(len(a.seen)):
		a.strange.Add(1)
	case a.seen[number].Swap(true):
		a.doubled.Add(1)
	default:
		a.distinct.Add(1)
		a.last.Store(time.Now().UnixNano())
	}
	w.WriteHeader(http.StatusAccepted)
}

// report is the account so far.
func (a *benchAccount) report() botsReport {
	return botsReport{Distinct: a.distinct.Load(), Doubled: a.doubled.Load(), Strange: a.strange.Load(), Last: a.last.Load()}
}

// sequenceOf reads the number of an event from its body.
func sequenceOf(body []byte) (int64, bool) {
	_, after, ok := bytes.Cut(body, []byte(sequenceMark))
	if !ok {
		return 0, false
	}
	var number int64
	digits := 0
	for _, c := range after {
		if c < '0' || c > '9' || digits > 15 {
			break
		}
		number = number*10 + int64(c-'0')
		digits++
	}
	return number, digits > 0
}
