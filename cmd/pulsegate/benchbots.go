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
	Events int64         `help:"Events that are expected, numbered from 0." required:""`
	Delay  time.Duration `help:"Time before each answer."`
}

// Run takes events until stdin ends, and reports on every line on it.
func (c benchBotsCommand) Run(s streams) error {
	listener, err := listenLoopback()
	if err != nil {
		return err
	}
	account := &benchAccount{seen: make([]atomic.Bool, c.Events), delay: c.Delay, after: newLatencies()}
	server := &http.Server{ReadHeaderTimeout: 5 * time.Second, Handler: account}
	return serveBench(server, listener, s.out, func() any { return account.report() })
}

// sickPath is where the bots acknowledge nothing.
const sickPath = "/sick"

// benchAccount notes which events came, and how often.
type benchAccount struct {
	seen    []atomic.Bool
	delay   time.Duration
	buffers sync.Pool // of *bytes.Buffer
	after   *latencies

	distinct, doubled, strange, answered, under, most, last atomic.Int64
}

// ServeHTTP acknowledges one event.
func (a *benchAccount) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	if r.URL.Path == sickPath {
		w.WriteHeader(http.StatusServiceUnavailable)
		return
	}
	under := a.under.Add(1)
	defer a.under.Add(-1)
	for most := a.most.Load(); under > most && !a.most.CompareAndSwap(most, under); most = a.most.Load() {
	}
	if !a.take(r.Body) {
		return
	}
	if a.delay > 0 {
		time.Sleep(a.delay)
	}
	a.answered.Add(1)
	w.WriteHeader(http.StatusAccepted)
}

// take reads one event and notes it; false when it did not come whole.
func (a *benchAccount) take(body io.Reader) bool {
	buffer, ok := a.buffers.Get().(*bytes.Buffer)
	if !ok {
		buffer = new(bytes.Buffer)
	}
	buffer.Reset()
	defer a.buffers.Put(buffer)
	if _, err := io.Copy(buffer, body); err != nil {
		return false
	}
	number, ok := numberAfter(buffer.Bytes(), sequenceMark)
	switch {
	case !ok || number >= int64(len(a.seen)):
		a.strange.Add(1)
	case a.seen[number].Swap(true):
		a.doubled.Add(1)
	default:
		now := time.Now().UnixNano()
		a.last.Store(now)
		if due, ok := numberAfter(buffer.Bytes(), dueMark); ok {
			a.after.note(time.Duration(now - due))
		}
		a.distinct.Add(1)
	}
	return true
}

// report is the account so far.
func (a *benchAccount) report() botsReport {
	return botsReport{
		At: time.Now().UnixNano(), Distinct: a.distinct.Load(), Doubled: a.doubled.Load(), Strange: a.strange.Load(),
		Answered: a.answered.Load(), Most: a.most.Load(), Last: a.last.Load(), After: a.after.summary(),
	}
}

// numberAfter reads the number that stands after a mark.
func numberAfter(body []byte, mark string) (int64, bool) {
	_, after, ok := bytes.Cut(body, []byte(mark))
	if !ok {
		return 0, false
	}
	var number int64
	digits := 0
	for _, c := range after {
		if c < '0' || c > '9' || digits > 18 {
			break
		}
		number = number*10 + int64(c-'0')
		digits++
	}
	return number, digits > 0
}
