package main

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"
)

// benchLoadCommand is the generator of a bench: it posts numbered events, each connection the next one as soon as the last was
// answered, over hand-made HTTP/1.1, so that it costs little beside what it measures.
type benchLoadCommand struct {
	Target        string `help:"HOST:PORT to post to." required:""`
	Path          string `help:"Path to post to." default:"/bots/v3/events"`
	Token         string `help:"Bearer token; empty: none."`
	Events        int64  `help:"How many events." required:""`
	Connections   int    `help:"Connections." required:""`
	Registrations int64  `help:"Entities that the events are for, in turn." required:""`
	Size          int    `help:"Bytes of one event." default:"1024"`
	OwnIDs        bool   `help:"Give every event an id of its own." name:"own-ids"`
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
	began := time.Now()
	for i := range c.Connections {
		posting.Go(func() { took[i], failed[i] = g.post() })
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
func (g *generator) post() ([]time.Duration, error) {
	conn, err := net.Dial("tcp", g.Target)
	if err != nil {
		return nil, fmt.Errorf("dial %s: %w", g.Target, err)
	}
	defer func() { _ = conn.Close() }()
	reader := bufio.NewReaderSize(conn, 8<<10)
	took := make([]time.Duration, 0, g.Events/int64(g.Connections)+1024)
	var request, body []byte
	for {
		number := g.next.Add(1) - 1
		if number >= g.Events {
			return took, nil
		}
		body = g.appendEvent(body[:0], number)
		request = append(g.appendHeader(request[:0], len(body)), body...)
		for again := true; again; {
			start := time.Now()
			if again, err = g.exchange(conn, reader, request); err != nil {
				return nil, fmt.Errorf("post event %d: %w", number, err)
			}
			took = append(took, time.Since(start))
		}
	}
}

// exchange posts one request and counts the answer; again says that the same is to be sent once more.
func (g *generator) exchange(conn net.Conn, reader *bufio.Reader, request []byte) (again bool, err error) {
	if _, err := conn.Write(request); err != nil {
		return false, err
	}
	status, answer, err := readAnswer(reader)
	if err != nil {
		return false, err
	}
	if status == http.StatusServiceUnavailable {
		g.retried.Add(1)
		time.Sleep(50 * time.Millisecond)
		return true, nil
	}
	g.sent.Add(1)
	ok := status == http.StatusOK || status == http.StatusAccepted
	if ok && g.Queued {
		ok = bytes.Contains(answer, []byte(`"queued"`))
	}
	if ok {
		g.accepted.Add(1)
		return false, nil
	}
	g.refused.Add(1)
	text := fmt.Sprintf("%d %.200s", status, answer)
	g.sample.CompareAndSwap(nil, &text)
	return false, nil
}

// appendHeader writes the head of a request.
func (g *generator) appendHeader(to []byte, length int) []byte {
	to = append(to, "POST "+g.Path+" HTTP/1.1\r\nHost: "+g.Target+"\r\nContent-Type: application/json; charset=utf-8\r\n"...)
	if g.Token != "" {
		to = append(to, "Authorization: Bearer "+g.Token+"\r\n"...)
	}
	to = append(to, "Content-Length: "...)
	to = strconv.AppendInt(to, int64(length), 10)
	return append(to, "\r\n\r\n"...)
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

// readAnswer reads one HTTP/1.1 answer with a Content-Length.
func readAnswer(r *bufio.Reader) (status int, body []byte, err error) {
	line, err := r.ReadSlice('\n')
	if err != nil {
		return 0, nil, err
	}
	if len(line) < 12 || !bytes.HasPrefix(line, []byte("HTTP/1.1 ")) {
		return 0, nil, fmt.Errorf("answer begins with %.40q", line)
	}
	if status, err = strconv.Atoi(string(line[9:12])); err != nil {
		return 0, nil, fmt.Errorf("read status: %w", err)
	}
	length := -1
	for {
		if line, err = r.ReadSlice('\n'); err != nil {
			return 0, nil, err
		}
		if line = bytes.TrimSpace(line); len(line) == 0 {
			break
		}
		if name, value, ok := bytes.Cut(line, []byte(":")); ok && bytes.EqualFold(name, []byte("Content-Length")) {
			if length, err = strconv.Atoi(string(bytes.TrimSpace(value))); err != nil {
				return 0, nil, fmt.Errorf("read length of answer: %w", err)
			}
		}
	}
	if length < 0 || length > 1<<20 {
		return 0, nil, fmt.Errorf("answer %d has no length that can be read", status)
	}
	body = make([]byte, length)
	_, err = io.ReadFull(r, body)
	return status, body, err
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
