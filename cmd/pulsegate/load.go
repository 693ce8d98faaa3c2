package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"
)

// benchLoadCommand is the generator of a bench: it posts numbered events, each connection the next one as soon as the last was
// answered.
type benchLoadCommand struct {
	Target        string `help:"HOST:PORT to post to." required:""`
	Path          string `help:"Path to post to." default:"/bots/v3/events"`
	Token         string `help:"Bearer token; empty: none."`
	Events        int64  `help:"How many events." required:""`
	Connections   int    `help:"Connections." required:""`
	Registrations int64  `help:"Entities that the events are for, in turn." required:""`
	Size          int    `help:"Bytes of one event." default:"1024"`
	OwnIDs        bool   `help:"Give every event an id of its own." name:"own-ids"`
	First         int64  `help:"Number of the first event."`
	Batch         int64  `help:"Events of one request." default:"1"`
	Queued        bool   `help:"Count an answer as accepted only when it says that the event is queued."`
}

// Run posts all events, reports twice a second and once at the end.
func (c benchLoadCommand) Run(s streams) error {
	g := &generator{benchLoadCommand: c, run: strconv.FormatInt(time.Now().UnixNano(), 36)}
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	var posting sync.WaitGroup
	took := make([][]time.Duration, c.Connections)
	failed := make([]error, c.Connections)
	over := &http.Transport{MaxIdleConns: c.Connections, MaxIdleConnsPerHost: c.Connections, DisableCompression: true}
	defer over.CloseIdleConnections()
	began := time.Now()
	for i := range c.Connections {
		posting.Go(func() { took[i], failed[i] = g.post(over) })
	}
	done := make(chan struct{})
	go func() { posting.Wait(); close(done) }()
	g.progress(ctx, s.out, done)
	if err := errors.Join(failed...); err != nil {
		return err
	}
	report := g.report()
	report.Done, report.Began, report.Ended = true, began.UnixNano(), time.Now().UnixNano()
	all := slices.Concat(took...)
	slices.Sort(all)
	report.P50, report.P99 = millis(quantile(all, 0.5)), millis(quantile(all, 0.99))
	return writeLine(s.out, report)
}

// progress reports until done is closed.
func (g *generator) progress(ctx context.Context, out io.Writer, done <-chan struct{}) {
	tick := time.NewTicker(500 * time.Millisecond)
	defer tick.Stop()
	for {
		select {
		case <-done:
			return
		case <-ctx.Done():
			return
		case <-tick.C:
			_ = writeLine(out, g.report())
		}
	}
}

// generator is what the connections share.
type generator struct {
	benchLoadCommand
	run string // makes ids of this run unlike those of another

	next, sent, accepted, retried, refused atomic.Int64

	sample atomic.Pointer[string] // the first refusal
}

func (g *generator) report() loadReport {
	r := loadReport{Sent: g.sent.Load(), Accepted: g.accepted.Load(), Retried: g.retried.Load(), Refused: g.refused.Load()}
	if text := g.sample.Load(); text != nil {
		r.Sample = *text
	}
	return r
}

// post takes numbers until there are none left, and returns how long each answer took.
func (g *generator) post(over *http.Transport) ([]time.Duration, error) {
	took := make([]time.Duration, 0, g.Events/int64(g.Connections)+1024)
	var event []byte
	for {
		number := g.next.Add(g.Batch) - g.Batch
		if number >= g.Events {
			return took, nil
		}
		n := min(g.Batch, g.Events-number)
		event = g.appendRequest(event[:0], g.First+number, n)
		for again := true; again; {
			start := time.Now()
			var err error
			if again, err = g.exchange(over, event, n); err != nil {
				return nil, fmt.Errorf("post event %d: %w", number, err)
			}
			took = append(took, time.Since(start))
		}
	}
}

// exchange posts one request of so many events and counts the answer; again says that the same is to be sent once more.
func (g *generator) exchange(over *http.Transport, request []byte, events int64) (again bool, err error) {
	status, answer, err := g.send(over, request)
	if err != nil {
		return false, err
	}
	if status == http.StatusServiceUnavailable {
		g.retried.Add(1)
		time.Sleep(50 * time.Millisecond)
		return true, nil
	}
	g.sent.Add(events)
	accepted := int64(0)
	if status == http.StatusOK || status == http.StatusAccepted {
		accepted = events
		if g.Queued {
			accepted = int64(bytes.Count(answer, []byte(`"queued"`)))
		}
	}
	g.accepted.Add(accepted)
	if accepted == events {
		return false, nil
	}
	g.refused.Add(events - accepted)
	text := fmt.Sprintf("%d %.200s", status, answer)
	g.sample.CompareAndSwap(nil, &text)
	return false, nil
}

// send posts one event and reads the answer.
func (g *generator) send(over *http.Transport, event []byte) (status int, answer []byte, err error) {
	request, err := http.NewRequest(http.MethodPost, "http://"+g.Target+g.Path, bytes.NewReader(event))
	if err != nil {
		return 0, nil, err
	}
	request.Header.Set("Content-Type", "application/json; charset=utf-8")
	if g.Token != "" {
		request.Header.Set("Authorization", "Bearer "+g.Token)
	}
	response, err := over.RoundTrip(request)
	if err != nil {
		return 0, nil, err
	}
	defer func() { _ = response.Body.Close() }()
	answer, err = io.ReadAll(io.LimitReader(response.Body, 64<<10))
	return response.StatusCode, answer, err
}

// appendRequest writes a request of n events from a number on: one alone, or an array.
func (g *generator) appendRequest(to []byte, number, n int64) []byte {
	if n == 1 {
		return g.appendEvent(to, number)
	}
	separator := byte('[')
	for i := range n {
		to = append(to, separator)
		to = g.appendEvent(to, number+i)
		separator = ','
	}
	return append(to, ']')
}

// authorsPerEntity is how many people talk at once on each entity of a bench: each one's events go in order, one at a time.
const authorsPerEntity = 997

// appendEvent writes the event with a number, of about g.Size bytes.
func (g *generator) appendEvent(to []byte, number int64) []byte {
	start := len(to)
	entity := number % g.Registrations
	author := strconv.FormatInt(number/g.Registrations%authorsPerEntity, 10)
	to = append(to, `{"type":"message",`...)
	to = append(to, sequenceMark...)
	to = strconv.AppendInt(to, number, 10)
	if g.OwnIDs {
		to = append(to, `,"id":"`+g.run+"-"...)
		to = strconv.AppendInt(to, number, 10)
		to = append(to, '"')
	}
	to = append(to, `,"coordinate":{"companyKey":"`+benchCompany+`","networkKey":"bench","externalId":"e`...)
	to = strconv.AppendInt(to, entity, 10)
	to = append(to, `","normalizedAuthorId":"a`+author+`","messageId":"m`...)
	to = strconv.AppendInt(to, number, 10)
	to = append(to, `","scope":"PRIVATE"},"author":{"id":"a`+author+`","fullName":"Ann Other","properties":{}},"publishedTS":1700000000123,"receivedTS":1700000000456,"text":"`...)
	if fill := g.Size - (len(to) - start) - 2; fill > 0 {
		to = append(to, strings.Repeat("x", fill)...)
	}
	return append(to, `"}`...)
}

// quantile returns the value at q of sorted values; 0 when there are none.
func quantile(sorted []time.Duration, q float64) time.Duration {
	if len(sorted) == 0 {
		return 0
	}
	return sorted[min(len(sorted)-1, int(q*float64(len(sorted))))]
}

// millis is a duration in milliseconds.
func millis(d time.Duration) float64 { return float64(d) / float64(time.Millisecond) }
