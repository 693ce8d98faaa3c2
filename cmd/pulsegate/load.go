package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"strconv"
	"sync"
	"sync/atomic"
	"time"
)

// benchLoadCommand is the generator of a bench: it posts numbered events. In a closed loop each connection posts the next one as soon as
// the last was answered; with a rate the loop is open: events are due at random times, whatever became of those before.
type benchLoadCommand struct {
	Target        string        `help:"HOST:PORT to post to." required:""`
	Path          string        `help:"Path to post to." default:"/bots/v3/events"`
	Token         string        `help:"Bearer token; empty: none."`
	Events        int64         `help:"How many events." required:""`
	Warm          int64         `help:"Events before these, in a closed loop; then a report, and a line on stdin is waited for."`
	Most          time.Duration `help:"How long a closed loop goes on at most; 0: until all events are sent."`
	Rate          float64       `help:"Events a second, at random times; 0: a closed loop."`
	Connections   int           `help:"Connections." required:""`
	Entity        int64         `help:"Entity that the first event is for."`
	Registrations int64         `help:"Entities that the events are for, in turn." required:""`
	Authors       int64         `help:"People who talk on each entity, in turn: each one's events go in order, one at a time." default:"997"`
	Size          int           `help:"Bytes of one event." default:"1024"`
	OwnIDs        bool          `help:"Give every event an id of its own." name:"own-ids"`
	First         int64         `help:"Number of the first event."`
	Batch         int64         `help:"Events of one request." default:"1"`
	NDJSON        bool          `help:"Post batches as lines, not as arrays." name:"ndjson"`
	Queued        bool          `help:"Count an answer as accepted only when it says that the event is queued."`
}

// Run posts all events, reports twice a second and once at the end.
func (c benchLoadCommand) Run(s streams) error {
	g := &generator{benchLoadCommand: c, run: strconv.FormatInt(time.Now().UnixNano(), 36)}
	g.over = &http.Transport{MaxIdleConns: c.Connections, MaxIdleConnsPerHost: c.Connections, DisableCompression: true}
	defer g.over.CloseIdleConnections()
	if c.Warm > 0 {
		if err := g.load(s.out, benchPhase{first: c.First, events: c.Warm}); err != nil {
			return err
		}
		if _, err := os.Stdin.Read(make([]byte, 1)); err != nil {
			return nil // nobody wants the rest
		}
	}
	if err := g.load(s.out, benchPhase{first: c.First + c.Warm, events: c.Events, rate: c.Rate, most: c.Most}); err != nil {
		return err
	}
	_, _ = io.Copy(io.Discard, os.Stdin) // what it used is looked at before it goes
	return nil
}

// generator is what the loads share.
type generator struct {
	benchLoadCommand
	run  string // makes ids of this run unlike those of another
	over *http.Transport
}

// benchPhase is what is posted until a report.
type benchPhase struct {
	first, events int64
	rate          float64       // 0: a closed loop
	most          time.Duration // of a closed loop; 0: no limit
}

// load posts the events of a phase, and reports.
func (g *generator) load(out io.Writer, phase benchPhase) error {
	l := &load{generator: g, benchPhase: phase, took: newLatencies(), late: newLatencies()}
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	var posting sync.WaitGroup
	failed := make([]error, g.Connections)
	l.began = time.Now()
	take := l.next
	if l.rate > 0 {
		take = l.schedule(ctx)
	}
	for i := range g.Connections {
		posting.Go(func() { failed[i] = l.post(take) })
	}
	done := make(chan struct{})
	go func() { posting.Wait(); close(done) }()
	l.progress(out, done)
	if err := errors.Join(failed...); err != nil {
		return err
	}
	report := l.report()
	report.Done, report.Began, report.Ended = true, l.began.UnixNano(), time.Now().UnixNano()
	report.Answer, report.Late = l.took.summary(), l.late.summary()
	report.P50, report.P99 = report.Answer.P50, report.Answer.P99
	return writeLine(out, report)
}

// load is what the connections share.
type load struct {
	*generator
	benchPhase
	began time.Time
	took  *latencies // from when a request was due to its answer
	late  *latencies // from when it was due to its first byte

	taken, sent, accepted, retried, refused atomic.Int64

	sample atomic.Pointer[string] // the first refusal
}

// progress reports until done is closed.
func (l *load) progress(out io.Writer, done <-chan struct{}) {
	tick := time.NewTicker(500 * time.Millisecond)
	defer tick.Stop()
	for {
		select {
		case <-done:
			return
		case <-tick.C:
			_ = writeLine(out, l.report())
		}
	}
}

func (l *load) report() loadReport {
	r := loadReport{Sent: l.sent.Load(), Accepted: l.accepted.Load(), Retried: l.retried.Load(), Refused: l.refused.Load()}
	if text := l.sample.Load(); text != nil {
		r.Sample = *text
	}
	return r
}

// shot is one request that is due.
type shot struct {
	number, events int64
	due            time.Time // zero: now
}

// next is the next request of a closed loop; false when there is none.
func (l *load) next() (shot, bool) {
	if l.most > 0 && time.Since(l.began) > l.most {
		return shot{}, false
	}
	n := l.taken.Add(l.Batch) - l.Batch
	return shot{number: l.first + n, events: min(l.Batch, l.events-n)}, n < l.events
}

// post takes requests until there are none left.
func (l *load) post(take func() (shot, bool)) error {
	var body []byte
	for {
		s, ok := take()
		if !ok {
			return nil
		}
		body = l.appendRequest(body[:0], s)
		due := s.due
		if due.IsZero() {
			due = time.Now()
		}
		l.late.note(time.Since(due))
		for again := true; again; {
			var err error
			if again, err = l.exchange(body, s.events); err != nil {
				return fmt.Errorf("post event %d: %w", s.number, err)
			}
		}
		l.took.note(time.Since(due))
	}
}

// exchange posts one request of so many events and counts the answer; again says that the same is to be sent once more.
func (l *load) exchange(request []byte, events int64) (again bool, err error) {
	status, answer, err := l.send(request)
	if err != nil {
		return false, err
	}
	accepted := int64(0)
	if status == http.StatusOK || status == http.StatusAccepted {
		accepted = events
		if l.Queued {
			accepted = int64(bytes.Count(answer, []byte(`"queued"`)))
		}
	}
	if status == http.StatusServiceUnavailable || accepted < events && bytes.Contains(answer, []byte(`"retryable":true`)) {
		l.retried.Add(1)
		time.Sleep(50 * time.Millisecond)
		return true, nil
	}
	l.sent.Add(events)
	l.accepted.Add(accepted)
	if accepted == events {
		return false, nil
	}
	l.refused.Add(events - accepted)
	text := fmt.Sprintf("%d %.200s", status, answer)
	l.sample.CompareAndSwap(nil, &text)
	return false, nil
}

// send posts one request and reads the answer.
func (g *generator) send(body []byte) (status int, answer []byte, err error) {
	request, err := http.NewRequest(http.MethodPost, "http://"+g.Target+g.Path, bytes.NewReader(body))
	if err != nil {
		return 0, nil, err
	}
	request.Header.Set("Content-Type", g.contentType())
	if g.Token != "" {
		request.Header.Set("Authorization", "Bearer "+g.Token)
	}
	response, err := g.over.RoundTrip(request)
	if err != nil {
		return 0, nil, err
	}
	defer func() { _ = response.Body.Close() }()
	answer, err = io.ReadAll(io.LimitReader(response.Body, 1<<20))
	return response.StatusCode, answer, err
}

// contentType is how the events of a request are put together.
func (g *generator) contentType() string {
	if g.NDJSON {
		return "application/x-ndjson"
	}
	return "application/json; charset=utf-8"
}
